//! What a look at a path gives: the one line that the probe prints and that
//! scenarios compare.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, SFlag, fstat, fstatat, major, minor};

/// The kind, owner and mode of what a path names, as
/// `char 188:0 660 0:20`, `file 600 0:0` or `link ...`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Face {
    kind: &'static str,
    device: Option<(u64, u64)>,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Face {
    fn of(stat: &FileStat) -> Self {
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        let name = [
            (SFlag::S_IFCHR, "char"),
            (SFlag::S_IFBLK, "block"),
            (SFlag::S_IFREG, "file"),
            (SFlag::S_IFDIR, "folder"),
            (SFlag::S_IFLNK, "link"),
            (SFlag::S_IFIFO, "fifo"),
            (SFlag::S_IFSOCK, "socket"),
        ];
        let is_device = kind == SFlag::S_IFCHR || kind == SFlag::S_IFBLK;
        Self {
            kind: name
                .iter()
                .find(|(known, _)| *known == kind)
                .map_or("unknown", |(_, name)| name),
            device: is_device.then(|| (major(stat.st_rdev), minor(stat.st_rdev))),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
        }
    }

    /// What a path names; the last link is not followed.
    pub fn at(path: &Path) -> Result<Self, Errno> {
        fstatat(nix::fcntl::AT_FDCWD, path, AtFlags::AT_SYMLINK_NOFOLLOW).map(|stat| Self::of(&stat))
    }
}

impl fmt::Display for Face {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.kind)?;
        if let Some((major, minor)) = self.device {
            write!(formatter, " {major}:{minor}")?;
        }
        write!(formatter, " {:o} {}:{}", self.mode, self.uid, self.gid)
    }
}

impl fmt::Debug for Face {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// What an open gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It opened, and this is what was opened.
    Opened(Face),
    /// It did not open, and this is what the path named just after.
    Refused(Errno, Option<Face>),
}

impl fmt::Display for Outcome {
    /// `ok FACE`, `EPERM FACE` or just `ENOENT`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened(face) => write!(formatter, "ok {face}"),
            Self::Refused(errno, Some(face)) => write!(formatter, "{errno:?} {face}"),
            Self::Refused(errno, None) => write!(formatter, "{errno:?}"),
        }
    }
}

/// Opens a path without blocking and without taking a terminal.
pub fn open(path: &Path, write: bool) -> (Outcome, Option<File>) {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let opened = OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(flags.bits())
        .open(path);
    match opened {
        Ok(file) => match fstat(file.as_fd()) {
            Ok(stat) => (Outcome::Opened(Face::of(&stat)), Some(file)),
            Err(errno) => (Outcome::Refused(errno, None), Some(file)),
        },
        Err(error) => {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
            let face = if errno == Errno::ENOENT {
                None
            } else {
                Face::at(path).ok()
            };
            (Outcome::Refused(errno, face), None)
        }
    }
}
