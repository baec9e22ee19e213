//! What a container's files may take on the disk, and what they take: limits that the file system keeps.
//!
//! Everything of a container lies in one folder: the root file system of its own, or its layer above a base. On ext4 and xfs
//! the files of that folder are of one *project*, which new files inherit; on btrfs the folder is a subvolume, with a quota
//! group. The folder is made so from the beginning wherever the file system can ([`make`]), limits come and go ([`apply`]).
//! What is to be set is decided in [`wanted`], which is pure.

mod group;
mod project;
mod walk;
mod wanted;

pub(crate) use wanted::{Impossible, Kind, Pair};

use crate::atomic;
use crate::definition::{Definition, DiskLimits, Grace};
use crate::definitions;
use crate::layout::Layout;
use crate::lock::{self, LockError};
use devbroker::model::ContainerName;
use rustix::fs::{CWD, Mode, OFlags, fstat, fstatfs, openat, statfs};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use wanted::Whole;

/// `linux/magic.h`.
const EXT4: u64 = 0xEF53;
const XFS: u64 = 0x5846_5342;
const BTRFS: u64 = 0x9123_683E;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QuotaError {
    /// A file operation failed.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Impossible(#[from] Impossible),
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Neither ext4 nor xfs nor btrfs.
    #[error(
        "the file system of {} keeps no limits of disk space for folders; have it on ext4, xfs or btrfs, or leave the disk_* keys out",
        .0.display()
    )]
    Unknown(PathBuf),
    /// ext4 or xfs without project quotas.
    #[error("the file system of {} keeps no project quotas; {remedy}", .path.display())]
    Off { path: PathBuf, remedy: String },
    /// They are counted only.
    #[error("the file system of {} counts projects and cannot be had to hold them to limits: {source}; {remedy}", .path.display())]
    NotEnforced {
        path: PathBuf,
        source: io::Error,
        remedy: String,
    },
    /// btrfs without quotas.
    #[error("the btrfs of {0} keeps no quotas; `btrfs quota enable {0}` turns them on", .path.display())]
    NoGroups { path: PathBuf },
    /// A folder that is no subvolume.
    #[error(
        "{} is no btrfs subvolume of its own, which only a new container gets; `ctm create NEW --clone NAME` makes one",
        .0.display()
    )]
    NoSubvolume(PathBuf),
    /// All project ids are taken.
    #[error("no project id is left on the file system of {}", .0.display())]
    NoProject(PathBuf),
    /// Folders within folders within folders.
    #[error("{} is too deep below the container's folder; move it up, then try again", .0.display())]
    Deep(PathBuf),
}

type Result<T> = std::result::Result<T, QuotaError>;

fn failed<'a, E: Into<io::Error>>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(E) -> QuotaError + use<'a, E> {
    move |source| QuotaError::Io {
        what,
        path: path.into(),
        source: source.into(),
    }
}

/// What a container has on the disk by the file system's own count, and what it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) kind: Kind,
    pub(crate) bytes: u64,
    /// Where files are counted.
    pub(crate) inodes: Option<u64>,
    /// In bytes.
    pub(crate) space: Pair,
    pub(crate) files: Pair,
}

/// Whether a container runs while its files are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activity {
    Stopped,
    Running,
}

/// A folder of a container's, held, with what its file system can do.
struct Folder<'a> {
    held: OwnedFd,
    path: &'a Path,
}

impl<'a> Folder<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let held = openat(CWD, path, flags, Mode::empty()).map_err(failed("open", path))?;
        Ok(Self { held, path })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.held.as_fd()
    }

    /// By what its file system counts, if it does.
    fn kind(&self) -> Result<Option<Kind>> {
        let stat = fstatfs(&self.held).map_err(failed("look at the file system of", self.path))?;
        Ok(match u64::try_from(stat.f_type).unwrap_or(0) & 0xffff_ffff {
            EXT4 | XFS => Some(Kind::Project),
            BTRFS => Some(Kind::Group),
            _ => None,
        })
    }

    /// The whole file system: the folder itself would show its own limit.
    fn whole(&self) -> Result<Whole> {
        let above = self.path.parent().unwrap_or(self.path);
        let stat = statfs(above).map_err(failed("look at the file system of", above))?;
        let block = u64::try_from(stat.f_frsize).unwrap_or(0);
        Ok(Whole {
            bytes: stat.f_blocks.saturating_mul(block),
        })
    }
}

/// The folder with all that is a container's alone.
pub(crate) fn folder_of(layout: &Layout, definition: &Definition) -> PathBuf {
    let stored = layout.stored(&definition.name);
    if definition.rootfs.starts_with(&stored) {
        stored
    } else {
        definition.rootfs.clone()
    }
}

/// Makes a container's new folder, only for root, counted by itself from the beginning where the file system can do so.
pub(crate) fn make(layout: &Layout, path: &Path) -> Result<()> {
    if group::make(path)? {
        return atomic::folder(path, 0o700).map_err(failed("change the mode of", path));
    }
    atomic::folder(path, 0o700).map_err(failed("make", path))?;
    let folder = Folder::open(path)?;
    if folder.kind()? == Some(Kind::Project) {
        let _lock = lock::projects(layout)?;
        project::begin(&folder)?;
    }
    Ok(())
}

/// Has the file system keep these limits for a container's folder, and no others. Idempotent.
pub(crate) fn apply(
    layout: &Layout,
    name: &ContainerName,
    path: &Path,
    limits: &DiskLimits,
    activity: Activity,
) -> Result<()> {
    let folder = match Folder::open(path) {
        // Nothing is there to be limited; whoever starts it says so.
        Err(QuotaError::Io { source, .. })
            if limits.is_none() && source.kind() == io::ErrorKind::NotFound =>
        {
            return Ok(());
        }
        folder => folder?,
    };
    let Some(kind) = folder.kind()? else {
        return if limits.is_none() {
            Ok(())
        } else {
            Err(QuotaError::Unknown(path.into()))
        };
    };
    let mut wanted = wanted::wanted(limits, folder.whole()?, kind)?;
    match kind {
        Kind::Group => group::apply(&folder, wanted.space.hard),
        Kind::Project => {
            if !wanted.is_none() && wanted.grace.is_some() {
                wanted.grace = shortest(layout, name, &folder, wanted.grace)?;
            }
            project::apply(layout, &folder, &wanted, activity)
        }
    }
}

/// Has the limits that changed in a definition counted at once, before it is written: what the file system cannot keep is not
/// in it then.
pub(crate) fn follow(
    layout: &Layout,
    before: Option<&Definition>,
    after: &Definition,
    activity: Activity,
) -> Result<()> {
    if before.is_some_and(|before| before.disk == after.disk) {
        return Ok(());
    }
    let folder = folder_of(layout, after);
    apply(layout, &after.name, &folder, &after.disk, activity)?;
    if let Some(Account { bytes, space, .. }) = account(&folder)? {
        if let Some(most) = space.hard.filter(|most| bytes > *most) {
            tracing::warn!(
                container = %after.name,
                "it has {bytes} bytes on the disk and may have {most}: it can write when it has removed some"
            );
        }
    }
    Ok(())
}

/// The grace time of a file system is one for all containers on it: the shortest that one of them asks for.
fn shortest(
    layout: &Layout,
    name: &ContainerName,
    folder: &Folder<'_>,
    own: Option<Grace>,
) -> Result<Option<Grace>> {
    let device = fstat(&folder.held)
        .map_err(failed("look at", folder.path))?
        .st_dev;
    let others = definitions::names(layout).unwrap_or_default();
    let others = others
        .into_iter()
        .filter(|other| other != name)
        .filter_map(|other| definitions::load(layout, &other).ok())
        .filter(|other| !other.disk.is_none())
        .filter(|other| {
            let at = folder_of(layout, other);
            fs::symlink_metadata(at).is_ok_and(|seen| std::os::unix::fs::MetadataExt::dev(&seen) == device)
        })
        .filter_map(|other| Some((other.disk.grace?, other.name)));
    let least = others.min();
    Ok(match (own, least) {
        (Some(own), Some((other, whose))) if other < own => {
            tracing::warn!(
                container = %name,
                "soft limits may be exceeded for {other} and not {own}: container {whose} on the same file system says so"
            );
            Some(other)
        }
        (own, _) => own,
    })
}

/// By what the file system counts that new containers will be on; none where it keeps no limits.
pub(crate) fn kept(store: &Path) -> Result<Option<Kind>> {
    let there = store.ancestors().find(|path| path.exists()).unwrap_or(store);
    let there = there.canonicalize().map_err(failed("look at", there))?;
    let folder = Folder::open(&there)?;
    match folder.kind()? {
        Some(Kind::Project) if !project::is_on(&folder)? => Ok(None),
        Some(Kind::Group) if !group::is_on(&folder)? => Ok(None),
        kind => Ok(kind),
    }
}

/// What a container takes and may take, where its file system counts that.
pub(crate) fn account(path: &Path) -> Result<Option<Account>> {
    let folder = Folder::open(path)?;
    match folder.kind()? {
        Some(Kind::Project) => project::account(&folder),
        Some(Kind::Group) => group::account(&folder),
        None => Ok(None),
    }
}

/// Takes all limits of a folder away, before it is removed or left to somebody; what has to be done once it is gone.
pub(crate) fn release(path: &Path) -> Result<Released> {
    let folder = match Folder::open(path) {
        Err(QuotaError::Io { source, .. })
            if matches!(
                source.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Released(None));
        }
        folder => folder?,
    };
    match folder.kind()? {
        Some(Kind::Project) => project::release(&folder).map(|()| Released(None)),
        Some(Kind::Group) => group::release(&folder).map(Released),
        None => Ok(Released(None)),
    }
}

/// What is left to do once a folder is gone.
#[must_use]
pub(crate) struct Released(Option<group::Left>);

impl Released {
    /// Does it. Failing does no harm: the numbers of subvolumes are not used again.
    pub(crate) fn finish(self) {
        if let Some(left) = self.0 {
            left.remove();
        }
    }
}
