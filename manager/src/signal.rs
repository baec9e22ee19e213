//! Signals by name, as a definition's `stop_signal` has them.

use std::fmt;
use std::str::FromStr;

/// The first real-time signal that programs may use (glibc keeps 32 and 33 for itself).
const RTMIN: i32 = 34;
/// The last one.
const RTMAX: i32 = 64;

const NAMES: [(&str, i32); 8] = [
    ("SIGHUP", 1),
    ("SIGINT", 2),
    ("SIGQUIT", 3),
    ("SIGKILL", 9),
    ("SIGUSR1", 10),
    ("SIGUSR2", 12),
    ("SIGTERM", 15),
    ("SIGPWR", 30),
];

/// The signal that asks an init to shut its system down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct StopSignal(i32);

impl StopSignal {
    /// What most programs end at.
    pub(crate) const TERM: Self = Self(15);
    /// What systemd shuts down at (`systemd(1)`, SIGRTMIN+3: halt).
    pub(crate) const SYSTEMD: Self = Self(RTMIN + 3);

    /// The kernel's number.
    pub(crate) const fn number(self) -> i32 {
        self.0
    }

    /// Whether a process with this `/proc/PID/status` does anything at the signal. The first process of a pid namespace
    /// is not ended by a signal that it neither handles nor waits for (`pid_namespaces(7)`), SIGKILL excepted.
    pub(crate) fn is_heard_by(self, status: &str) -> bool {
        let bit = 1_u64 << (self.0 - 1);
        self.0 == 9
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
        let error = || SignalError(text.chars().take(40).collect());
        let named = |text: &str| {
            NAMES
                .iter()
                .find(|(name, _)| *name == text)
                .map(|(_, number)| *number)
        };
        let number = match text.strip_prefix("SIGRTMIN") {
            Some("") => Some(RTMIN),
            Some(offset) => offset
                .strip_prefix('+')
                .and_then(|offset| offset.parse::<u8>().ok())
                .map(|offset| RTMIN + i32::from(offset)),
            None => named(text),
        };
        number
            .filter(|number| *number <= RTMAX)
            .map(Self)
            .ok_or_else(error)
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
    fn a_first_process_hears_what_it_handles_or_waits_for() {
        let status =
            "Name:\tinit\nSigBlk:\t0000001000000000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000004000\n";
        assert!(StopSignal::TERM.is_heard_by(status));
        assert!(StopSignal::SYSTEMD.is_heard_by(status));
        assert!(!"SIGINT".parse::<StopSignal>().unwrap().is_heard_by(status));
        assert!("SIGKILL".parse::<StopSignal>().unwrap().is_heard_by(status));
        assert!(!StopSignal::TERM.is_heard_by(""));
    }
}
