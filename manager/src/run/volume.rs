//! File systems on block devices that a definition names by UUID: the host mounts them, the container gets a bind.
//!
//! The `mount` program knows the type, and waits for no device that is not there. No device and no set-id
//! program of such a file system counts, and nobody but root gets at it on the host.

use crate::atomic;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount as unmount_at};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What can go wrong with a volume.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("no file system has the UUID {0}; `ls /dev/disk/by-uuid` shows those that there are")]
    Missing(String),
    #[error("cannot run mount: {0}; install the package mount")]
    Run(#[source] io::Error),
    #[error("cannot mount the file system {uuid}: {message}")]
    Mount { uuid: String, message: String },
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> VolumeError + use<'a> {
    move |source| VolumeError::Io {
        what,
        path: path.into(),
        source,
    }
}

/// Mounts the file system with this UUID on the new folder `at`.
pub(crate) fn mount(uuid: &str, at: &Path) -> Result<(), VolumeError> {
    let device = Path::new("/dev/disk/by-uuid").join(uuid);
    if !device.exists() {
        return Err(VolumeError::Missing(uuid.into()));
    }
    if let Some(above) = at.parent() {
        atomic::folder(above, 0o700).map_err(failed("make", above))?;
    }
    atomic::folder(at, 0o700).map_err(failed("make", at))?;
    let output = Command::new("mount")
        .args(["--options", "nosuid,nodev", "--"])
        .arg(&device)
        .arg(at)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(VolumeError::Run)?;
    if output.status.success() {
        return Ok(());
    }
    Err(VolumeError::Mount {
        uuid: uuid.into(),
        message: String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "),
    })
}

/// Takes it away again; nothing to do where nothing is mounted.
pub(crate) fn unmount(at: &Path) -> Result<(), VolumeError> {
    match unmount_at(at, UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(e) => return Err(failed("unmount", at)(e.into())),
    }
    match fs::remove_dir(at) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", at)(e)),
        Ok(()) | Err(_) => Ok(()),
    }
}
