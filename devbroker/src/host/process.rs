//! Processes on the host: a hold on one that cannot turn into another, and what `/proc` says of it.

use super::cgroup::Hierarchy;
use crate::model::DevNum;
use crate::sys::process::pidfd_open;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A process that is not there, or not the one that was meant.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It has ended.
    #[error("process {pid} has ended")]
    Gone {
        /// Which.
        pid: i32,
    },
    /// Its number belongs to another process by now.
    #[error("process {pid} has ended, and another has its number")]
    Another {
        /// Which.
        pid: i32,
    },
    /// A file of `/proc` could not be read or has no sense.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Field 22 of a text of `/proc/PID/stat` (`proc_pid_stat(5)`): when it began, in clock ticks since boot. The second field,
/// the command, may hold anything, so fields are counted from its closing parenthesis.
pub fn start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?
        .1
        .split_ascii_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

/// When the process `pid` began.
pub fn started(pid: i32) -> Result<u64, ProcessError> {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let bytes = match std::fs::read(&path) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {
            return Err(ProcessError::Gone { pid });
        }
        bytes => bytes.map_err(|source| ProcessError::Io {
            path: path.clone(),
            source,
        })?,
    };
    start_time(&String::from_utf8_lossy(&bytes)).ok_or_else(|| ProcessError::Io {
        path,
        source: io::ErrorKind::InvalidData.into(),
    })
}

/// Holds the process `pid` that began at `start`: a descriptor that becomes readable when it ends.
pub fn hold(pid: i32, start: u64) -> Result<OwnedFd, ProcessError> {
    let fd = pidfd_open(pid).map_err(|source| match source.raw_os_error() {
        Some(libc::ESRCH) => ProcessError::Gone { pid },
        _ => ProcessError::Io {
            path: format!("/proc/{pid}").into(),
            source,
        },
    })?;
    // Looked at after it is held: the number cannot have gone to another since.
    if started(pid)? == start {
        Ok(fd)
    } else {
        Err(ProcessError::Another { pid })
    }
}

/// Whether a process may leave its device filter: `CAP_SYS_ADMIN` (21) or `CAP_BPF` (39) is in the bounding set of a text of
/// `/proc/PID/status` (`capabilities(7)`).
pub fn may_change_filters(status: &str) -> bool {
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bits = bounding.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.is_none_or(|bits| bits & (1 << 21 | 1 << 39) != 0)
}

/// Processes of a cgroup (as it lies below the cgroup v2 mount) and all below it that hold a device open: pid, command,
/// number. What goes away while it is looked at is left out.
pub fn holders(cgroup: &Path, is_it: &dyn Fn(DevNum) -> bool) -> Vec<(i32, String, DevNum)> {
    let Ok(root) = Hierarchy::find() else {
        return Vec::new();
    };
    let mut open = vec![root.folder(&cgroup.to_string_lossy())];
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        let processes = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        for pid in processes.lines().filter_map(|line| line.parse::<i32>().ok()) {
            let mut devices: Vec<DevNum> = open_devices(pid).into_iter().filter(|num| is_it(*num)).collect();
            devices.sort_unstable();
            devices.dedup();
            let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            found.extend(
                devices
                    .into_iter()
                    .map(|num| (pid, command.trim_end().to_owned(), num)),
            );
        }
        let below = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        open.extend(
            below
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    found
}

/// The devices that a process holds open.
fn open_devices(pid: i32) -> Vec<DevNum> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| {
            // Through the link to what is open, without opening it.
            let open = std::fs::metadata(entry.path()).ok()?;
            DevNum::from_stat(open.mode(), open.rdev())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_times() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 1";
        assert_eq!(start_time(stat), Some(12345));
        assert_eq!(start_time("42 (a"), None);
        let own = i32::try_from(std::process::id()).unwrap();
        let start = started(own).unwrap();
        hold(own, start).unwrap();
        assert!(matches!(hold(own, start + 1), Err(ProcessError::Another { .. })));
        assert!(matches!(hold(i32::MAX, 1), Err(ProcessError::Gone { .. })));
    }

    #[test]
    fn capabilities() {
        assert!(may_change_filters("Name:\tx\nCapBnd:\t000001ffffffffff\n"));
        assert!(may_change_filters("CapBnd:\t0000000000200000\n"));
        assert!(!may_change_filters("CapBnd:\t00000000a80425fb\n"));
        assert!(
            may_change_filters(""),
            "what cannot be read is not taken as harmless"
        );
    }
}
