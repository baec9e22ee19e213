//! Processes by pid and start time, which name one process for as long as the machine runs, and by pidfd.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProcessId {
    /// Its number.
    pub(crate) pid: i32,
    /// When it began: field 22 of `/proc/PID/stat` (`proc_pid_stat(5)`).
    pub(crate) start: u64,
}

/// Field 22 of the text of `/proc/PID/stat`. The second field is the program's name in parentheses and may hold anything,
/// so fields are counted from the last parenthesis.
fn start_time(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

impl ProcessId {
    /// The process that has this number now.
    pub(crate) fn now(pid: i32) -> io::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        start_time(&stat)
            .map(|start| Self { pid, start })
            .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat cannot be understood")))
    }

    /// This process.
    pub(crate) fn own() -> io::Result<Self> {
        Self::now(i32::try_from(std::process::id()).map_err(io::Error::other)?)
    }

    /// A descriptor of the process if it still runs. The start time is read after the descriptor is open: from then on
    /// the number is not given to another one without the descriptor telling so.
    pub(crate) fn open(self) -> Option<OwnedFd> {
        let pid = if self.pid > 0 {
            Pid::from_raw(self.pid)?
        } else {
            return None;
        };
        let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // One that has ended keeps its number until its parent takes note.
        (Self::now(self.pid).ok()? == self && !ended(&fd, Instant::now()).ok()?).then_some(fd)
    }
}

/// What came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The descriptor became readable: a process ended, a message came.
    Ready,
    /// The time was up.
    TimedOut,
}

/// Waits until `fd` becomes readable, at most until `deadline`.
pub(crate) fn wait(fd: BorrowedFd<'_>, deadline: Instant) -> io::Result<Wait> {
    wait_for(fd, PollFlags::IN, deadline)
}

/// Waits for `flags` on `fd`, at most until `deadline`.
pub(crate) fn wait_for(fd: BorrowedFd<'_>, flags: PollFlags, deadline: Instant) -> io::Result<Wait> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
        match poll(&mut fds, Some(&timespec(left))) {
            Ok(0) if left.is_zero() => return Ok(Wait::TimedOut),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(Wait::Ready),
            Err(e) => return Err(e.into()),
        }
    }
}

/// The kernel's form of a time; what is longer than it can hold becomes a minute, after which callers look again.
fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).unwrap_or(Timespec {
        tv_sec: 60,
        tv_nsec: 0,
    })
}

/// Waits for the end of the process behind a pidfd, at most until `deadline`.
pub(crate) fn ended(pidfd: &OwnedFd, deadline: Instant) -> io::Result<bool> {
    Ok(wait(pidfd.as_fd(), deadline)? == Wait::Ready)
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ending {
    /// By itself.
    Exit(i32),
    /// By a signal.
    Signal(i32),
    /// Nobody told us.
    Unknown,
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            &Self::POWER_OFF => f.write_str("powered the container off"),
            &Self::REBOOT => f.write_str("rebooted the container"),
            Self::Exit(code) => write!(f, "exited with code {code}"),
            Self::Signal(number) => write!(f, "was ended by signal {number}"),
            Self::Unknown => f.write_str("ended"),
        }
    }
}

impl Ending {
    /// SIGINT: a container was powered off from within. A pid namespace's reboot(2) ends its first process so, and no other
    /// way of sending this signal does.
    pub(crate) const POWER_OFF: Self = Self::Signal(2);
    /// SIGHUP: a container was rebooted from within, by the same call.
    pub(crate) const REBOOT: Self = Self::Signal(1);

    /// As a shell has it: the code, or 128 and the signal's number.
    pub(crate) fn code(self) -> u8 {
        let code = match self {
            Self::Exit(code) => code,
            Self::Signal(number) => 128 + number,
            Self::Unknown => 255,
        };
        u8::try_from(code).unwrap_or(255)
    }
}

/// How a child of ours ended that has ended, behind a pidfd.
pub(crate) fn ending_of(init: &OwnedFd) -> Ending {
    match waitid(WaitId::PidFd(init.as_fd()), WaitIdOptions::EXITED) {
        Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ending::Exit(code),
            (None, Some(signal)) => Ending::Signal(signal),
            (None, None) => Ending::Unknown,
        },
        // Not our child: crun was killed in between and something else adopted it.
        Ok(None) | Err(_) => Ending::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_program_does_not_shift_the_fields() {
        let rest = (3..=52).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(start_time(&format!("7 (sh) {rest}")), Some(22));
        assert_eq!(start_time(&format!("7 (a) b ) 1 2) {rest}")), Some(22));
        assert_eq!(start_time("7 (sh) S 1"), None);
        assert_eq!(start_time(""), None);
    }

    #[test]
    fn another_process_of_the_same_number_is_not_the_same() {
        let own = ProcessId::own().unwrap();
        assert!(own.open().is_some());
        let later = ProcessId {
            start: own.start + 1,
            ..own
        };
        assert!(later.open().is_none());
        assert!(ProcessId { pid: -1, start: 0 }.open().is_none());
    }

    #[test]
    fn the_end_is_waited_for() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let fd = ProcessId::now(i32::try_from(child.id()).unwrap())
            .unwrap()
            .open()
            .unwrap();
        assert!(!ended(&fd, Instant::now()).unwrap());
        drop(child.stdin.take());
        assert!(ended(&fd, Instant::now() + Duration::from_secs(30)).unwrap());
        child.wait().unwrap();
    }
}
