//! Signals by name, as a definition's `stop_signal` has them, and those that ask ctm itself to stop.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::str::FromStr;

/// From now on signals that ask this process to stop do not end it: the stream becomes readable, by a byte for each.
pub(crate) fn heeded() -> io::Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
    }
    Ok(read)
}

/// The first real-time signal that programs may use (glibc keeps 32 and 33 for itself).
const RTMIN: i32 = 34;
/// The last one.
const RTMAX: i32 = 64;

/// The names of `signal(7)` on the machines that Debian's kernels run on, but alpha, mips and sparc.
const NAMES: [(&str, i32); 31] = [
    ("SIGHUP", 1),
    ("SIGINT", 2),
    ("SIGQUIT", 3),
    ("SIGILL", 4),
    ("SIGTRAP", 5),
    ("SIGABRT", 6),
    ("SIGBUS", 7),
    ("SIGFPE", 8),
    ("SIGKILL", 9),
    ("SIGUSR1", 10),
    ("SIGSEGV", 11),
    ("SIGUSR2", 12),
    ("SIGPIPE", 13),
    ("SIGALRM", 14),
    ("SIGTERM", 15),
    ("SIGSTKFLT", 16),
    ("SIGCHLD", 17),
    ("SIGCONT", 18),
    ("SIGSTOP", 19),
    ("SIGTSTP", 20),
    ("SIGTTIN", 21),
    ("SIGTTOU", 22),
    ("SIGURG", 23),
    ("SIGXCPU", 24),
    ("SIGXFSZ", 25),
    ("SIGVTALRM", 26),
    ("SIGPROF", 27),
    ("SIGWINCH", 28),
    ("SIGIO", 29),
    ("SIGPWR", 30),
    ("SIGSYS", 31),
];

/// Those that can ask an init to shut down.
const STOPPING: [i32; 8] = [1, 2, 3, 9, 10, 12, 15, 30];

/// The number of a signal's full name.
fn number(text: &str) -> Option<i32> {
    let number = match text.strip_prefix("SIGRTMIN") {
        Some("") => RTMIN,
        Some(offset) => RTMIN + i32::from(offset.strip_prefix('+')?.parse::<u8>().ok()?),
        None => NAMES.iter().find(|(name, _)| *name == text)?.1,
    };
    (number <= RTMAX).then_some(number)
}

/// Any signal, as `ctm kill` takes it: a number, or a name in any case, with or without `SIG`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AnySignal(i32);

impl AnySignal {
    /// The kernel's number.
    pub(crate) const fn number(self) -> i32 {
        self.0
    }
}

impl FromStr for AnySignal {
    type Err = SignalError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.to_ascii_uppercase();
        let name = name.strip_prefix("SIG").unwrap_or(&name);
        let typed = text.parse().ok().filter(|number| (1..=RTMAX).contains(number));
        typed
            .or_else(|| number(&format!("SIG{name}")))
            .map(Self)
            .ok_or_else(|| SignalError(text.chars().take(40).collect()))
    }
}

/// The signal that asks an init to shut its system down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct StopSignal(i32);

impl StopSignal {
    /// What most programs end at.
    pub(crate) const TERM: Self = Self(15);
    /// What sysvinit does at Ctrl-Alt-Del (`init(8)`): with Debian's inittab it shuts down.
    pub(crate) const SYSVINIT: Self = Self(2);
    /// What busybox's init powers off at (SIGUSR2).
    pub(crate) const BUSYBOX: Self = Self(12);
    /// What systemd shuts down at (`systemd(1)`, SIGRTMIN+3: halt).
    pub(crate) const SYSTEMD: Self = Self(RTMIN + 3);

    /// The kernel's number.
    pub(crate) const fn number(self) -> i32 {
        self.0
    }

    /// Whether a process with this `/proc/PID/status` does anything at the signal. The first process of a pid namespace
    /// is not ended by a signal that it neither handles nor waits for (`pid_namespaces(7)`), SIGKILL excepted. While it waits
    /// for signals as `sigwaitinfo(2)` does they do not count as blocked; that shows by where it waits in the kernel,
    /// `/proc/PID/wchan`.
    pub(crate) fn is_heard_by(self, status: &str, waits_in: &str) -> bool {
        let bit = 1_u64 << (self.0 - 1);
        self.0 == 9
            || waits_in.contains("sigtimedwait")
            || ["SigCgt:", "SigBlk:"].iter().any(|field| {
                status
                    .lines()
                    .find_map(|line| line.strip_prefix(field))
                    .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
                    .is_some_and(|mask| mask & bit != 0)
            })
    }
}

/// A text that names no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no signal; write SIGTERM, SIGINT, SIGPWR, SIGRTMIN+3 and the like")]
pub(crate) struct SignalError(String);

impl FromStr for StopSignal {
    type Err = SignalError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        number(text)
            .filter(|number| *number >= RTMIN || STOPPING.contains(number))
            .map(Self)
            .ok_or_else(|| SignalError(text.chars().take(40).collect()))
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.write_str(name),
            None => match self.0 - RTMIN {
                0 => f.write_str("SIGRTMIN"),
                offset => write!(f, "SIGRTMIN+{offset}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("SIGRTMIN+30", 64),
            ("SIGPWR", 30),
        ] {
            let signal: StopSignal = text.parse().unwrap();
            assert_eq!((signal.number(), signal.to_string().as_str()), (number, text));
        }
        for bad in [
            "",
            "TERM",
            "15",
            "SIGRTMIN3",
            "SIGRTMIN+31",
            "SIGRTMIN+-1",
            "SIGSTOP",
        ] {
            assert!(bad.parse::<StopSignal>().is_err(), "{bad}");
        }
    }

    #[test]
    fn any_signal() {
        for (text, number) in [
            ("9", 9),
            ("kill", 9),
            ("SIGSTOP", 19),
            ("rtmin+3", 37),
            ("Hup", 1),
            ("64", 64),
        ] {
            assert_eq!(text.parse::<AnySignal>().unwrap().number(), number);
        }
        for bad in ["", "0", "65", "-9", "SIG", "none", "SIG9"] {
            assert!(bad.parse::<AnySignal>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_first_process_hears_what_it_handles_or_waits_for() {
        let status =
            "Name:\tinit\nSigBlk:\t0000001000000000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000004000\n";
        assert!(StopSignal::TERM.is_heard_by(status, "0"));
        assert!(StopSignal::SYSTEMD.is_heard_by(status, "0"));
        assert!(!"SIGINT".parse::<StopSignal>().unwrap().is_heard_by(status, "0"));
        assert!("SIGKILL".parse::<StopSignal>().unwrap().is_heard_by(status, "0"));
        assert!(!StopSignal::TERM.is_heard_by("", "0"));
        assert!(StopSignal::TERM.is_heard_by("", "do_sigtimedwait.isra.0"));
    }
}
