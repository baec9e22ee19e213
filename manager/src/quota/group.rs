//! Quota groups of btrfs: each subvolume has one. Usage is read from `/sys/fs/btrfs` (Linux 5.9), what is changed goes through
//! `ioctl(2)`.

use super::{Account, Folder, Kind, Pair, QuotaError, Result, failed};
use crate::sys;
use rustix::fs::fstat;
use std::fmt::Write;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Makes a folder as a subvolume, if it is on btrfs and not there yet; whether it is one now.
pub(super) fn make(path: &Path) -> Result<bool> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(false);
    };
    fs::create_dir_all(above).map_err(failed("make", above))?;
    let above = Folder::open(above)?;
    if above.kind()? != Some(Kind::Group) {
        return Ok(false);
    }
    match sys::make_subvolume(above.fd(), name.as_bytes()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(true),
        Err(error) => Err(failed("make the subvolume", path)(error)),
    }
}

fn is_subvolume(folder: &Folder<'_>) -> Result<bool> {
    let stat = fstat(&folder.held).map_err(failed("look at", folder.path))?;
    Ok(stat.st_ino == sys::SUBVOLUME_INODE)
}

/// Has the subvolume hold at most so many bytes, none: no limit.
pub(super) fn apply(folder: &Folder<'_>, bytes: Option<u64>) -> Result<()> {
    if bytes.is_none() {
        let limited = account(folder)?.is_some_and(|account| account.space.hard.is_some());
        if !limited {
            return Ok(());
        }
    } else if !is_subvolume(folder)? {
        return Err(QuotaError::NoSubvolume(folder.path.into()));
    }
    let failed = |error: io::Error| match error.raw_os_error() {
        Some(libc::ENOTCONN) => QuotaError::NoGroups {
            path: folder.path.parent().unwrap_or(folder.path).into(),
        },
        _ => failed("limit", folder.path)(error),
    };
    match sys::limit_subvolume(folder.fd(), bytes) {
        // Made while the file system kept no quotas.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            let number = sys::subvolume(folder.fd()).map_err(failed)?;
            sys::quota_group(folder.fd(), number, true).map_err(failed)?;
            sys::limit_subvolume(folder.fd(), bytes).map_err(failed)
        }
        result => result.map_err(failed),
    }
}

/// What the subvolume refers to; none where quotas are off or this is no subvolume.
pub(super) fn account(folder: &Folder<'_>) -> Result<Option<Account>> {
    if !is_subvolume(folder)? {
        return Ok(None);
    }
    let at = group(folder)?;
    let number = |file: &str| {
        let text = fs::read_to_string(at.join(file)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let Some(bytes) = number("referenced") else {
        return Ok(None);
    };
    // `BTRFS_QGROUP_LIMIT_MAX_RFER`
    let limited = number("limit_flags").is_some_and(|flags| flags & 1 != 0);
    let hard = number("max_referenced").filter(|_| limited);
    Ok(Some(Account {
        kind: Kind::Group,
        bytes,
        inodes: None,
        space: Pair { soft: None, hard },
        files: Pair::default(),
    }))
}

/// Where the kernel shows the quota groups of the file system; not there where quotas were never on.
fn groups(folder: &Folder<'_>) -> Result<PathBuf> {
    let id = sys::btrfs_id(folder.fd()).map_err(failed("look at the file system of", folder.path))?;
    let mut uuid = String::new();
    for (at, byte) in id.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            uuid.push('-');
        }
        // Writing to a String does not fail.
        write!(uuid, "{byte:02x}").ok();
    }
    Ok(Path::new("/sys/fs/btrfs").join(uuid).join("qgroups"))
}

/// Whether the file system keeps quotas.
pub(super) fn is_on(folder: &Folder<'_>) -> Result<bool> {
    let groups = groups(folder)?;
    // The file is of Linux 6.1; before, the folder goes when quotas are turned off.
    let enabled = fs::read_to_string(groups.join("enabled"));
    Ok(groups.is_dir() && enabled.map_or(true, |text| text.trim() != "0"))
}

/// Where the kernel shows the quota group of the subvolume.
fn group(folder: &Folder<'_>) -> Result<PathBuf> {
    let number = sys::subvolume(folder.fd()).map_err(failed("look at", folder.path))?;
    Ok(groups(folder)?.join(format!("0_{number}")))
}

/// A quota group whose subvolume is being removed.
pub(super) struct Left {
    above: OwnedFd,
    number: u64,
}

/// The group that stays when the subvolume goes.
pub(super) fn release(folder: &Folder<'_>) -> Result<Option<Left>> {
    let is_counted = is_subvolume(folder)? && group(folder)?.exists();
    let Some(above) = folder.path.parent().filter(|_| is_counted) else {
        return Ok(None);
    };
    apply(folder, None)?;
    Ok(Some(Left {
        number: sys::subvolume(folder.fd()).map_err(failed("look at", folder.path))?,
        above: Folder::open(above)?.held,
    }))
}

impl Left {
    /// Removes the group. A kernel that still clears the subvolume away refuses; it removes the group itself later (Linux 6.11),
    /// or leaves it, without a limit.
    pub(super) fn remove(self) {
        use std::os::fd::AsFd;
        if let Err(error) = sys::quota_group(self.above.as_fd(), self.number, false) {
            tracing::debug!(%error, subvolume = self.number, "the quota group stays");
        }
    }
}
