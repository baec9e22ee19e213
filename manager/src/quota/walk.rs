//! Files that were there before a folder had a project: each is marked once.
//!
//! The tree may be hostile and in use: every file is taken hold of without following a link, looked at through that hold, and
//! mounts are not entered. A folder is marked before it is listed, so that what appears in it meanwhile inherits.
//!
//! The kernel sets the project of regular files and folders alone (`FS_IOC_FSSETXATTR` needs an open file). Links, pipes,
//! sockets and nodes are made anew in their folder and so inherit; not while the container runs, as somebody may have them
//! open. Until then they are not counted, and cannot be renamed (`EXDEV`, which programs answer with a copy).

use super::{Activity, Folder, QuotaError, Result, failed};
use crate::sys;
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, RenameFlags, Stat, StatxFlags, Timespec, Timestamps, Uid,
    chmodat, chownat, fstat, mknodat, openat, readlinkat, renameat_with, statx, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::Errno;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Folders within folders; more could exhaust our descriptors.
const DEPTH: usize = 500;
/// The name under which a file is made anew.
const NEW: &CStr = c".ctm-new";

/// Marks all below a folder; how many files could not be, because somebody may use them.
pub(super) fn mark(folder: &Folder<'_>, project: u32, activity: Activity) -> Result<u64> {
    let mount = mount_of(folder.fd()).map_err(failed("look at", folder.path))?;
    let mut walk = Walk {
        project,
        activity,
        mount,
        left: 0,
    };
    let mut open = vec![Listed::of(folder.fd(), folder.path)?];
    while let Some(listed) = open.last_mut() {
        let Some(name) = listed.names.next() else {
            open.pop();
            continue;
        };
        let at = listed.path.join(OsStr::from_bytes(name.to_bytes()));
        if let Some(inner) = walk.entry(listed.held.as_fd(), &name, &at)? {
            if open.len() >= DEPTH {
                return Err(QuotaError::Deep(at));
            }
            open.push(inner);
        }
    }
    Ok(walk.left)
}

/// A folder, and the names that were in it: what is made anew on the way must not turn up again.
struct Listed {
    held: OwnedFd,
    path: PathBuf,
    names: std::vec::IntoIter<CString>,
}

impl Listed {
    fn of(folder: BorrowedFd<'_>, path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let list = || {
            let held = openat(folder, c".", flags, Mode::empty())?;
            let mut names = Vec::new();
            for entry in Dir::read_from(&held)? {
                let entry = entry?;
                let name = entry.file_name();
                if !matches!(name.to_bytes(), b"." | b"..") {
                    names.push(name.to_owned());
                }
            }
            Ok::<_, Errno>((held, names))
        };
        let (held, names) = list().map_err(failed("list", path))?;
        Ok(Self {
            held,
            path: path.into(),
            names: names.into_iter(),
        })
    }
}

fn mount_of(file: BorrowedFd<'_>) -> rustix::io::Result<u64> {
    Ok(statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}

struct Walk {
    project: u32,
    activity: Activity,
    mount: u64,
    left: u64,
}

impl Walk {
    /// Marks one file; answers with what is in it if it is a folder.
    fn entry(&mut self, folder: BorrowedFd<'_>, name: &CStr, at: &Path) -> Result<Option<Listed>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let held = match openat(folder, name, flags, Mode::empty()) {
            // Removed meanwhile.
            Err(Errno::NOENT) => return Ok(None),
            held => held.map_err(failed("open", at))?,
        };
        if mount_of(held.as_fd()).map_err(failed("look at", at))? != self.mount {
            return Ok(None);
        }
        let stat = fstat(&held).map_err(failed("look at", at))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let file = opened(&held, OFlags::DIRECTORY).map_err(failed("open", at))?;
                self.mark(&file, sys::INHERITED, at)?;
                Listed::of(file.as_fd(), at).map(Some)
            }
            FileType::RegularFile => {
                let file = opened(&held, OFlags::NONBLOCK).map_err(failed("open", at))?;
                self.mark(&file, 0, at)?;
                Ok(None)
            }
            kind @ (FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice) => {
                match self.activity {
                    Activity::Running => self.left += 1,
                    Activity::Stopped => {
                        renewed(folder, name, kind, &stat).map_err(failed("make anew", at))?;
                    }
                }
                Ok(None)
            }
            FileType::Unknown => Ok(None),
        }
    }

    fn mark(&self, file: &OwnedFd, flags: u32, at: &Path) -> Result<()> {
        let before = sys::attributes(file.as_fd()).map_err(failed("look at", at))?;
        let after = before.of_project(self.project, flags);
        if before == after {
            return Ok(());
        }
        sys::set_attributes(file.as_fd(), after).map_err(failed("set the project of", at))
    }
}

/// The file that is held, open for reading. The kernel's own link to it cannot be made to lead elsewhere.
fn opened(held: &OwnedFd, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let link = PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()));
    openat(
        rustix::fs::CWD,
        &link,
        OFlags::RDONLY | OFlags::CLOEXEC | flags,
        Mode::empty(),
    )
}

/// Puts a new file of the same kind, owner, mode and time in the place of one that has no content.
fn renewed(folder: BorrowedFd<'_>, name: &CStr, kind: FileType, stat: &Stat) -> io::Result<()> {
    // Of a walk that was interrupted.
    match unlinkat(folder, NEW, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    if kind == FileType::Symlink {
        let target = readlinkat(folder, name, Vec::new())?;
        symlinkat(target.as_c_str(), folder, NEW)?;
    } else {
        mknodat(folder, NEW, kind, Mode::from_raw_mode(0o600), stat.st_rdev)?;
    }
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let done = chownat(folder, NEW, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .and_then(|()| {
            if kind == FileType::Symlink {
                return Ok(());
            }
            chmodat(folder, NEW, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())
        })
        .and_then(|()| utimensat(folder, NEW, &times(stat), AtFlags::SYMLINK_NOFOLLOW))
        .and_then(|()| renameat_with(folder, NEW, folder, name, RenameFlags::empty()));
    if done.is_err() {
        // The first error says more than one of this removal would.
        unlinkat(folder, NEW, AtFlags::empty()).ok();
    }
    Ok(done?)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}
