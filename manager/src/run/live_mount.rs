//! Mounts made and taken away in a running container.
//!
//! What is mounted is made on the host, detached and with its restrictions, and then moved to its place inside in one step:
//! nobody sees it without them. The place is found below the container's root without leaving it, whatever links the
//! container has there, and held by a descriptor while the mount namespace is entered.

use super::volume::{self, VolumeError};
use crate::definition::{MountDefinition, MountSource};
use crate::ids::Ids;
use crate::layout::RunFolder;
use crate::lookup;
use crate::process::ProcessId;
use crate::sys;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, StatFs, Uid, chownat, fstat, fstatfs, major,
    minor, mkdirat, openat,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_reconfigure, fsconfig_set_string, fsmount, fsopen, fspick, move_mount,
    open_tree, unmount,
};
use rustix::process::fchdir;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LiveMountError {
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The container ended.
    #[error("the container has just ended")]
    Ended,
    /// Something that no start has mounted.
    #[error("on {} the container has mounted something else; it counts at the next start", .0.display())]
    Other(PathBuf),
    /// Not every file system can.
    #[error(
        "its file system cannot show its files under the container's ids: {0}; mount it with the host's, without `--ids container`"
    )]
    NoIdMap(#[source] io::Error),
    /// A folder cannot be mounted on a file, nor a file on a folder.
    #[error("{} is {inside} in the container, and what is to be mounted is {outside}", .path.display())]
    Kind {
        path: PathBuf,
        inside: &'static str,
        outside: &'static str,
    },
}

type Result<T> = std::result::Result<T, LiveMountError>;

fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(Errno) -> LiveMountError + use<'a> {
    move |source| LiveMountError::Io {
        what,
        path: path.into(),
        source: source.into(),
    }
}

/// Set-id programs and devices in what is mounted are without effect.
const ATTRIBUTES: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// What is to be mounted, made and restricted, nowhere yet.
#[derive(Debug)]
pub(crate) struct Made(OwnedFd);

impl Made {
    /// What a definition says, for the container whose first process is `init`. A file system by UUID that the run has not is
    /// mounted on the host for as long as it takes: what is mounted inside holds it from then on.
    pub(crate) fn of(run: &RunFolder, mount: &MountDefinition, ids: Ids, init: ProcessId) -> Result<Self> {
        let made = match &mount.source {
            MountSource::Bind(path) => Self::bind(path, mount)?,
            MountSource::Tmpfs(size) => Self::tmpfs(size, ids, mount)?,
            MountSource::Uuid(uuid) if run.volume(uuid).is_dir() => Self::bind(&run.volume(uuid), mount)?,
            MountSource::Uuid(uuid) => {
                let at = run.volume(&format!(".{uuid}"));
                volume::mount(uuid, &at)?;
                let made = Self::bind(&at, mount);
                volume::unmount(&at)?;
                made?
            }
        };
        if mount.own_ids {
            made.with_ids_of(init, ids)
        } else {
            Ok(made)
        }
    }

    /// Of a folder or file of the host's.
    fn bind(path: &Path, mount: &MountDefinition) -> Result<Self> {
        bound(path, mount).map(Self)
    }

    /// A tmpfs of this size.
    fn tmpfs(size: &str, ids: Ids, mount: &MountDefinition) -> Result<Self> {
        tmpfs(size, ids, mount.read_only)
            .map(Self)
            .map_err(failed("make a tmpfs for", &mount.target))
    }

    /// Has its files belong to the users of the container by the same numbers, where the container has a user namespace.
    fn with_ids_of(self, init: ProcessId, ids: Ids) -> Result<Self> {
        if ids != Ids::Host {
            let inside = Inside::open(init)?;
            sys::map_ids(self.0.as_fd(), inside.users.as_fd()).map_err(LiveMountError::NoIdMap)?;
        }
        Ok(self)
    }

    /// Mounts it at `target` in the container whose first process is `init`.
    pub(crate) fn attach(self, init: ProcessId, ids: Ids, target: &Path) -> Result<()> {
        let is_folder = is_folder(&self.0).map_err(failed("look at", target))?;
        let inside = Inside::open(init)?;
        let place = inside.place(target, ids, is_folder)?;
        let here = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        inside.within(|| move_mount(&self.0, c"", &place, c"", here).map_err(failed("mount on", target)))
    }
}

/// Takes a mount away, whoever uses it. That there is none is no fault.
pub(crate) fn remove(init: ProcessId, target: &Path) -> Result<()> {
    let inside = Inside::open(init)?;
    let (Some(above), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(failed("unmount", target)(Errno::INVAL));
    };
    let folder = match inside.resolve(above, OFlags::PATH | OFlags::DIRECTORY) {
        Err(Errno::NOENT) => return Ok(()),
        folder => folder.map_err(failed("find", above))?,
    };
    inside.within(|| {
        fchdir(&folder).map_err(failed("enter", above))?;
        match unmount(name, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
            Err(e) => Err(failed("unmount", target)(e)),
        }
    })
}

/// A copy of the host's mount of a folder or file, nowhere yet.
fn bound(path: &Path, mount: &MountDefinition) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if mount.follow {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let copy = open_tree(CWD, path, flags).map_err(failed("bind", path))?;
    let mut attributes = ATTRIBUTES;
    if mount.read_only {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    let propagation = if mount.follow {
        sys::Propagation::Slave
    } else {
        sys::Propagation::Private
    };
    sys::restrict_mount(copy.as_fd(), u64::from(attributes.bits()), propagation).map_err(|source| {
        LiveMountError::Io {
            what: "restrict the mount of",
            path: path.into(),
            source,
        }
    })?;
    Ok(copy)
}

/// A new tmpfs that belongs to the container's root, nowhere yet.
fn tmpfs(size: &str, ids: Ids, read_only: bool) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let root = root_id(ids).to_string();
    for (key, value) in [("size", size), ("mode", "755"), ("uid", &root), ("gid", &root)] {
        fsconfig_set_string(context.as_fd(), key, value)?;
    }
    fsconfig_create(context.as_fd())?;
    let mut attributes = ATTRIBUTES;
    if read_only {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

const fn root_id(ids: Ids) -> u32 {
    match ids {
        Ids::Host => 0,
        Ids::Block(block) => block.first,
    }
}

fn is_folder(held: &OwnedFd) -> rustix::io::Result<bool> {
    Ok(FileType::from_raw_mode(fstat(held)?.st_mode) == FileType::Directory)
}

/// What a start mounts and a change of limits mounts anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileSystem {
    /// Terminals.
    Devpts,
    /// Shared memory.
    Shm,
}

impl FileSystem {
    /// The kernel's number for it (`statfs(2)`), and its source as a start has it.
    const fn is(self) -> (u32, &'static str) {
        match self {
            Self::Devpts => (0x1cd1, "devpts"),
            Self::Shm => (0x0102_1994, "shm"),
        }
    }

    /// Whether that is what was looked at.
    pub(crate) fn is_of(self, found: &StatFs) -> bool {
        u32::try_from(found.f_type) == Ok(self.is().0)
    }
}

/// A running container, held.
#[derive(Debug)]
pub(crate) struct Inside {
    init: ProcessId,
    root: OwnedFd,
    mounts: OwnedFd,
    users: OwnedFd,
}

impl Inside {
    pub(crate) fn open(init: ProcessId) -> Result<Self> {
        let held = init.open().ok_or(LiveMountError::Ended)?;
        let open = |what: &str, flags: OFlags| {
            let path = format!("/proc/{}/{what}", init.pid);
            openat(CWD, path.as_str(), flags | OFlags::CLOEXEC, Mode::empty())
                .map_err(failed("open", Path::new(&path)))
        };
        let inside = Self {
            init,
            root: open("root", OFlags::PATH | OFlags::DIRECTORY)?,
            mounts: open("ns/mnt", OFlags::RDONLY)?,
            users: open("ns/user", OFlags::RDONLY)?,
        };
        // Had it ended before, the number could have been another's.
        match crate::process::ended(&held, std::time::Instant::now()) {
            Ok(false) => Ok(inside),
            Ok(true) | Err(_) => Err(LiveMountError::Ended),
        }
    }

    /// What is at a path inside; links lead nowhere but inside.
    fn resolve(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        lookup::open(
            &self.root,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    }

    /// Gives a file system that a start has mounted other options. What the container has mounted there itself is left alone: it
    /// could be anybody's.
    pub(crate) fn reconfigure(&self, at: &Path, kind: FileSystem, options: &[(&str, String)]) -> Result<()> {
        let place = self.resolve(at, OFlags::PATH).map_err(failed("find", at))?;
        let found = fstatfs(&place).map_err(failed("look at", at))?;
        if !kind.is_of(&found) || !self.is_mounted(&place, at, kind.is().1)? {
            return Err(LiveMountError::Other(at.into()));
        }
        let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
        let context = fspick(&place, c"", flags).map_err(failed("change the mount on", at))?;
        for (key, value) in options {
            fsconfig_set_string(context.as_fd(), *key, value.as_str())
                .map_err(failed("change the mount on", at))?;
        }
        fsconfig_reconfigure(context.as_fd()).map_err(failed("change the mount on", at))
    }

    /// The folder on which such a file system is mounted, held. To be asked for before the container runs, as it can mount what it likes.
    pub(crate) fn folder(&self, at: &Path, kind: FileSystem) -> Result<OwnedFd> {
        let held = self
            .resolve(at, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(failed("find", at))?;
        let found = fstatfs(&held).map_err(failed("look at", at))?;
        if kind.is_of(&found) {
            Ok(held)
        } else {
            Err(LiveMountError::Other(at.into()))
        }
    }

    /// Whether what is mounted at a place has this source (`proc_pid_mountinfo(5)`).
    fn is_mounted(&self, place: &OwnedFd, at: &Path, source: &str) -> Result<bool> {
        let device = fstat(place).map_err(failed("look at", at))?.st_dev;
        let device = format!("{}:{}", major(device), minor(device));
        let path = format!("/proc/{}/mountinfo", self.init.pid);
        let text = std::fs::read_to_string(&path).map_err(|source| LiveMountError::Io {
            what: "read",
            path: path.into(),
            source,
        })?;
        Ok(text.lines().any(|line| {
            let fields: Vec<_> = line.split(' ').collect();
            let rest = fields.iter().position(|field| *field == "-");
            let from = rest.and_then(|dash| fields.get(dash + 2));
            fields.get(2..5) == Some(&[device.as_str(), "/", at.to_str().unwrap_or_default()])
                && from == Some(&source)
        }))
    }

    /// The place to mount on. What is missing is made, as the container's root's.
    fn place(&self, target: &Path, ids: Ids, folder: bool) -> Result<OwnedFd> {
        let kind = |is_folder| if is_folder { "a folder" } else { "a file" };
        match self.resolve(target, OFlags::PATH) {
            Ok(place) => {
                let inside = is_folder(&place).map_err(failed("look at", target))?;
                if inside != folder {
                    return Err(LiveMountError::Kind {
                        path: target.into(),
                        inside: kind(inside),
                        outside: kind(folder),
                    });
                }
                return Ok(place);
            }
            Err(Errno::NOENT) => {}
            Err(e) => return Err(failed("find", target)(e)),
        }
        let mut at = self
            .resolve(Path::new("/"), OFlags::PATH | OFlags::DIRECTORY)
            .map_err(failed("open", target))?;
        let mut way = PathBuf::from("/");
        let names: Vec<&OsStr> = target
            .components()
            .filter_map(|part| {
                if let Component::Normal(name) = part {
                    Some(name)
                } else {
                    None
                }
            })
            .collect();
        for (number, name) in names.iter().enumerate() {
            way.push(name);
            let is_last = number + 1 == names.len();
            match self.resolve(&way, OFlags::PATH) {
                Ok(next) => {
                    at = next;
                    continue;
                }
                Err(Errno::NOENT) => {}
                Err(e) => return Err(failed("find", &way)(e)),
            }
            // Neither follows a link at the name itself, and neither takes what is there already.
            if is_last && !folder {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                openat(&at, *name, flags, Mode::from_raw_mode(0o644)).map_err(failed("make", &way))?;
            } else {
                mkdirat(&at, *name, Mode::from_raw_mode(0o755)).map_err(failed("make", &way))?;
            }
            let root = root_id(ids);
            chownat(
                &at,
                *name,
                Some(Uid::from_raw(root)),
                Some(Gid::from_raw(root)),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(failed("change the owner of", &way))?;
            at = openat(
                &at,
                *name,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(failed("open", &way))?;
        }
        Ok(at)
    }

    /// Does something in the container's mount namespace, on a thread of its own: all else goes on where it is.
    fn within(&self, act: impl FnOnce() -> Result<()> + Send) -> Result<()> {
        let fail = |source| LiveMountError::Io {
            what: "enter the mounts of",
            path: "the container".into(),
            source,
        };
        let enter = || {
            sys::own_file_system_context()?;
            Ok(move_into_link_name_space(
                self.mounts.as_fd(),
                Some(LinkNameSpaceType::Mount),
            )?)
        };
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                enter().map_err(fail)?;
                act()
            });
            there
                .join()
                .unwrap_or_else(|_| Err(fail(io::Error::other("the thread for it panicked"))))
        })
    }
}
