//! A container's `/dev`: a tmpfs that the host owns, of which the container sees one folder.
//!
//! ```text
//! <at>/          tmpfs, 0700 root, mounted private below a root-only folder
//!      stage/    0700 root: nodes are made and finished here, and one name of each stays here
//!      dev/      owned by the container's root, bound inside
//! ```
//! A node is made in `stage/`, given owner, ACL and mode there, then linked into `dev/`: it appears in one step, finished.
//! The name in `stage/` stays as the broker's hold on the inode. Whatever the container does with its own names for the
//! node (moves it, hides it in a folder, links it, keeps a descriptor), withdrawing works on the inode itself. After a
//! crash `stage/` tells what is ours.
//!
//! The container is hostile and owns every folder of `dev/`. All paths are resolved below held descriptors, with
//! `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV`. Owner, mode and ACL are only ever set on names in `stage/`,
//! which the container cannot reach. Nothing here blocks: it is a tmpfs without foreign mounts in the host's view.
//!
//! Owns the tmpfs and what is in it. Does not decide what is placed, and does not write the ledger: what is about to
//! appear is told to the caller first.

mod acl;
mod place;
mod stage;
mod standard;
mod view;
mod withdraw;

pub use place::{Made, Record};
pub use view::{Kind, Seen};
pub use withdraw::Withdrawn;

use crate::model::IdMap;
use crate::permissions::{NoRoot, root_of};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstat, fstatat, mkdirat};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::{Gid, Uid, fchownat};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Why something could not be done to a container's `/dev`.
#[derive(Debug, thiserror::Error)]
pub enum DevfsError {
    /// The tmpfs is not at its path any more.
    #[error(
        "the container's /dev is no longer mounted at {}: nothing is placed there; start the container again",
        at.display()
    )]
    NotMounted {
        /// Where it was.
        at: PathBuf,
    },
    /// Something that the broker did not place is at the path.
    #[error(
        "{path} exists in the container and is not the broker's; remove it inside and the device appears there"
    )]
    Exists {
        /// Below `/dev`.
        path: String,
    },
    /// A folder on the way is a symbolic link, a file or a mount.
    #[error(
        "a folder on the way to {path} is no folder in the container's /dev; remove what is in its place inside"
    )]
    Blocked {
        /// Below `/dev`.
        path: String,
    },
    /// The container has used up its `/dev`.
    #[error(
        "the container's /dev is full, {path} cannot be placed; remove files below /dev inside, it is tried again"
    )]
    Full {
        /// Below `/dev`.
        path: String,
    },
    /// The caller could not write down what was about to appear, so it did not.
    #[error("{path} is not placed, because that could not be written to the ledger first: {source}")]
    Unrecorded {
        /// Below `/dev`.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The container's root has no id on the host.
    #[error(transparent)]
    NoRoot(#[from] NoRoot),
    /// Any other failure of a system call.
    #[error("cannot {operation} {path}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl DevfsError {
    /// Sorts an error by what it means for `path`.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the kernel's errors are not ours to list"
    )]
    fn of(operation: &'static str, path: &str, errno: Errno) -> Self {
        let path = path.to_owned();
        match errno {
            Errno::EEXIST => Self::Exists { path },
            Errno::ELOOP | Errno::ENOTDIR | Errno::EXDEV => Self::Blocked { path },
            Errno::ENOSPC | Errno::EDQUOT | Errno::ENOMEM => Self::Full { path },
            _ => Self::Io {
                operation,
                path,
                source: errno.into(),
            },
        }
    }

    /// Whether the container itself can bring this about, so that it is its own loss and is tried again later.
    pub fn is_the_containers(&self) -> bool {
        match self {
            Self::Exists { .. } | Self::Blocked { .. } | Self::Full { .. } => true,
            // A folder that goes away between two system calls.
            Self::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::NotMounted { .. } | Self::Unrecorded { .. } | Self::NoRoot(_) => false,
        }
    }
}

/// How much a container can put into its `/dev`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of ordinary files.
    pub bytes: u64,
    /// Files, folders and links. Each placed node takes two.
    pub inodes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 256 << 10,
            inodes: 4096,
        }
    }
}

/// A container's `/dev`, held open.
#[derive(Debug)]
pub struct Devfs {
    at: PathBuf,
    st_dev: u64,
    stage: OwnedFd,
    dev: OwnedFd,
    root: (Uid, Gid),
    /// The inodes that have a name in `stage/`, and its number there.
    kept: BTreeMap<u64, u64>,
    next: Cell<u64>,
}

/// The way from a held descriptor to a name that the container may have prepared.
const BENEATH: ResolveFlag = ResolveFlag::RESOLVE_BENEATH
    .union(ResolveFlag::RESOLVE_NO_SYMLINKS)
    .union(ResolveFlag::RESOLVE_NO_XDEV);

/// Opens a folder only as a place to work below, without any right to it.
fn open_folder(below: &OwnedFd, path: &str) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat2(below, path, OpenHow::new().flags(flags).resolve(BENEATH))
}

impl Devfs {
    /// Mounts a fresh tmpfs on the folder `at` (made if missing; the folders above are the caller's, 0700) and makes
    /// `stage/` and `dev/` in it. On failure nothing stays mounted.
    pub fn create(at: &Path, limits: Limits, uid_map: &IdMap, gid_map: &IdMap) -> Result<Self, DevfsError> {
        let (uid, gid) = root_of(uid_map, gid_map)?;
        let fail =
            |operation| move |errno: Errno| DevfsError::of(operation, &at.display().to_string(), errno);
        match mkdirat(AT_FDCWD, at, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(fail("make the folder")(errno)),
        }
        let options = format!("size={},nr_inodes={},mode=0700", limits.bytes, limits.inodes);
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        mount(
            Some("devbroker"),
            at,
            Some("tmpfs"),
            flags,
            Some(options.as_str()),
        )
        .map_err(fail("mount a tmpfs on"))?;
        let filled = Self::fill(at, uid, gid)
            .map_err(fail("prepare"))
            .and_then(|st_dev| Self::open(at, st_dev, uid_map, gid_map));
        filled.inspect_err(|_| {
            // The error that is already on its way says more than one of the unmount would.
            umount2(at, MntFlags::MNT_DETACH).ok();
        })
    }

    fn fill(at: &Path, uid: u32, gid: u32) -> nix::Result<u64> {
        // Mounts of the container must not show here: they could block us or lead elsewhere.
        mount(None::<&str>, at, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)?;
        let root = open(
            at,
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        for (name, mode, uid, gid) in [("stage", 0o700, 0, 0), ("dev", 0o755, uid, gid)] {
            mkdirat(&root, name, Mode::S_IRWXU)?;
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            fchownat(&root, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
            fchmodat(
                &root,
                name,
                Mode::from_bits_truncate(mode),
                FchmodatFlags::FollowSymlink,
            )?;
        }
        Ok(fstat(&root)?.st_dev)
    }

    /// Opens the tmpfs at `at` if it still is the one with this `st_dev`. Finds again what has a name in `stage/`.
    pub fn open(
        at: &Path,
        expected_st_dev: u64,
        uid_map: &IdMap,
        gid_map: &IdMap,
    ) -> Result<Self, DevfsError> {
        let (uid, gid) = root_of(uid_map, gid_map)?;
        let fail =
            |operation| move |errno: Errno| DevfsError::of(operation, &at.display().to_string(), errno);
        let not_mounted = || DevfsError::NotMounted { at: at.into() };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let top = match open(at, flags, Mode::empty()) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Err(not_mounted()),
            other => other.map_err(fail("open"))?,
        };
        let is_ours = fstat(&top).is_ok_and(|stat| stat.st_dev == expected_st_dev)
            && fstatfs(&top).is_ok_and(|fs| fs.filesystem_type() == TMPFS_MAGIC);
        if !is_ours {
            return Err(not_mounted());
        }
        let mut devfs = Self {
            at: at.into(),
            st_dev: expected_st_dev,
            stage: open_folder(&top, "stage").map_err(fail("open stage/ of"))?,
            dev: open_folder(&top, "dev").map_err(fail("open dev/ of"))?,
            root: (Uid::from_raw(uid), Gid::from_raw(gid)),
            kept: BTreeMap::new(),
            next: Cell::new(0),
        };
        devfs.read_stage().map_err(fail("read stage/ of"))?;
        Ok(devfs)
    }

    /// Where it is mounted.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// What tells this tmpfs from whatever may come to lie at its path.
    pub fn st_dev(&self) -> u64 {
        self.st_dev
    }

    /// The folder that the container sees, to be bound inside.
    pub fn dev(&self) -> &OwnedFd {
        &self.dev
    }

    /// Whether the tmpfs is still at its path. Placing into one that is not is harmless (it goes away with the last
    /// descriptor) but of no use.
    pub fn is_mounted(&self) -> bool {
        fstatat(AT_FDCWD, &self.at, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|stat| stat.st_dev == self.st_dev)
    }

    /// Makes every node of the tmpfs at `at` useless and unmounts it. Says whether one was there. Descriptors that are
    /// held keep the memory, not the mount.
    pub fn destroy(at: &Path) -> Result<bool, DevfsError> {
        let fail =
            |operation| move |errno: Errno| DevfsError::of(operation, &at.display().to_string(), errno);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let top = match open(at, flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(false),
            other => other.map_err(fail("open"))?,
        };
        let mounted = fstatfs(&top).map_err(fail("look at"))?.filesystem_type() == TMPFS_MAGIC
            && open_folder(&top, "stage").is_ok();
        if mounted {
            let st_dev = fstat(&top).map_err(fail("look at"))?.st_dev;
            let mut devfs = Self::open(at, st_dev, &IdMap::identity(), &IdMap::identity())?;
            devfs.sweep(&[].into())?;
            umount2(at, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).map_err(fail("unmount"))?;
        }
        match std::fs::remove_dir(at) {
            Ok(()) => Ok(mounted),
            Err(source) => Err(DevfsError::Io {
                operation: "remove the folder",
                path: at.display().to_string(),
                source,
            }),
        }
    }
}
