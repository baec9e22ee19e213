//! Root file systems on disk: unpacking, copying, removing.
//!
//! Archives are unpacked by the `tar` program: GNU tar holds back links that lead out of the tree until all else is
//! unpacked, strips leading slashes, refuses `..`, and keeps sparse files, hard links, ACLs and file capabilities, which the
//! `tar` crate does only in part. What it must not bring in, device nodes, is removed afterwards by [`crate::make::ownership`];
//! until then the folder above, which no user of the host may enter, keeps them out of reach.

use crate::atomic;
use crate::ids::Ids;
use crate::layout::Layout;
use crate::lock::{self, LockError};
use crate::make::progress::{Progress, Share, Unit};
use crate::make::work::{self, Observer, Watcher, WorkError};
use crate::quota::{self, QuotaError};
use crate::run::overlay::{self, OverlayError};
use rustix::fs::{AtFlags, CWD, Gid, Uid, chownat, syncfs};
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What can go wrong in the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// A file operation failed.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// There is no room.
    #[error("no room left on the disk for {}; make room, then try again", .0.display())]
    NoSpace(PathBuf),
    /// A program failed on an archive or a folder.
    #[error("cannot {what} {}: {source}", .path.display())]
    Work {
        what: &'static str,
        path: PathBuf,
        source: WorkError,
    },
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// Something is mounted in what is to be removed.
    #[error("{} is mounted; unmount it, then try again", .0.display())]
    Mounted(PathBuf),
}

/// What can go wrong with sweeping.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SweepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Lock(#[from] LockError),
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + use<'a> {
    move |source| {
        let path = path.into();
        if is_full(source.kind()) {
            StoreError::NoSpace(path)
        } else {
            StoreError::Io { what, path, source }
        }
    }
}

/// Whether there is no room left, or none for this user.
pub(crate) fn is_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn work_error<'a>(
    what: &'static str,
    path: &'a Path,
    to: &'a Path,
) -> impl FnOnce(WorkError) -> StoreError + use<'a> {
    move |source| {
        if matches!(source, WorkError::NoSpace { .. }) {
            StoreError::NoSpace(to.into())
        } else {
            let path = path.into();
            StoreError::Work { what, path, source }
        }
    }
}

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

impl Compression {
    /// By the file's first bytes.
    fn of(start: &[u8]) -> Self {
        [
            (&b"\x1f\x8b"[..], Self::Gzip),
            (b"BZh", Self::Bzip2),
            (b"\xfd7zXZ\0", Self::Xz),
            (b"\x28\xb5\x2f\xfd", Self::Zstd),
        ]
        .into_iter()
        .find(|(magic, _)| start.starts_with(magic))
        .map_or(Self::None, |(_, compression)| compression)
    }

    /// The option of `tar`.
    const fn option(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Gzip => Some("--gzip"),
            Self::Bzip2 => Some("--bzip2"),
            Self::Xz => Some("--xz"),
            Self::Zstd => Some("--zstd"),
        }
    }
}

/// Makes a container's folder. No user of the host may enter it but the container's own root, who must, to get to the
/// root file system below.
pub(crate) fn make(layout: &Layout, path: &Path, ids: Ids) -> Result<(), StoreError> {
    if let Some(above) = path.parent() {
        atomic::folder(above, 0o711).map_err(io_error("make", above))?;
    }
    quota::make(layout, path)?;
    match ids {
        Ids::Host => Ok(()),
        Ids::Block(block) => {
            chownat(
                CWD,
                path,
                Some(Uid::ROOT),
                Some(Gid::from_raw(block.first)),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(|e| io_error("change the group of", path)(e.into()))?;
            atomic::folder(path, 0o710).map_err(io_error("change the mode of", path))
        }
    }
}

/// Makes a folder that only root may enter, in place of what is there.
pub(crate) fn draft(path: &Path) -> Result<(), StoreError> {
    if let Some(above) = path.parent() {
        atomic::folder(above, 0o700).map_err(io_error("make", above))?;
    }
    remove(path)?;
    atomic::folder(path, 0o700).map_err(io_error("make", path))
}

/// Has all that was written to the file system of a folder on its disk.
pub(crate) fn flush(folder: &Path) -> Result<(), StoreError> {
    let held = File::open(folder).map_err(io_error("open", folder))?;
    syncfs(&held).map_err(|e| io_error("write back", folder)(e.into()))
}

/// Puts a finished folder in its place: from here on it is there, also after a power cut.
pub(crate) fn publish(from: &Path, to: &Path) -> Result<(), StoreError> {
    flush(from)?;
    fs::rename(from, to).map_err(io_error("rename", from))?;
    let above = to.parent().unwrap_or(to);
    File::open(above)
        .and_then(|folder| folder.sync_all())
        .map_err(io_error("write back", above))
}

/// Unpacks an archive into the new folder `to`.
pub(crate) fn unpack(archive: &Path, to: &Path, watcher: &mut Watcher) -> Result<(), StoreError> {
    let mut file = File::open(archive).map_err(io_error("open", archive))?;
    let mut start = Vec::new();
    (&file)
        .take(8)
        .read_to_end(&mut start)
        .and_then(|_| file.rewind())
        .map_err(io_error("read", archive))?;
    let total = file.metadata().map_err(io_error("look at", archive))?.len();
    let position = file.try_clone().map_err(io_error("open", archive))?;
    fs::create_dir(to).map_err(io_error("make", to))?;
    watcher.progress.begin(format!("unpacking {}", archive.display()));
    let mut tar = Command::new("tar");
    tar.args([
        "--extract",
        "--file=-",
        "--numeric-owner",
        "--same-owner",
        "--same-permissions",
        "--acls",
        "--xattrs",
        "--xattrs-include=security.capability",
        "--xattrs-include=user.*",
        // The container's /dev is the host's; a system's archive may be full of nodes.
        "--anchored",
        "--exclude=dev/*",
        "--exclude=./dev/*",
    ])
    .args(Compression::of(&start).option())
    .arg("--directory")
    .arg(to)
    .stdin(file);
    work::run(
        "tar",
        tar,
        watcher,
        &mut Position {
            file: position,
            total,
        },
    )
    .map_err(work_error("unpack", archive, to))
}

/// How far a program has read its input: both have one open file, and thus one position in it.
struct Position {
    file: File,
    total: u64,
}

impl Observer for Position {
    fn line(&mut self, _: &mut Progress, _: &str) {}

    fn tick(&mut self, progress: &mut Progress) {
        if let Ok(done) = self.file.stream_position() {
            progress.at(Share {
                done,
                total: self.total,
                unit: Unit::Bytes,
            });
        }
    }
}

/// Copies the folder `from` to the new folder `to`, without what is mounted in it. Blocks are shared where the file system
/// can.
pub(crate) fn copy(from: &Path, to: &Path, watcher: &mut Watcher) -> Result<(), StoreError> {
    watcher.progress.begin(format!("copying {}", from.display()));
    let mut cp = Command::new("cp");
    cp.args([
        "--archive",
        "--one-file-system",
        "--reflink=auto",
        "--no-target-directory",
    ]);
    let mut observer = Copied { done: 0, total: 0 };
    if watcher.progress.is_shown() {
        cp.arg("--verbose");
        observer.total = files(from);
    }
    cp.arg("--").arg(from).arg(to).stdin(Stdio::null());
    work::run("coreutils", cp, watcher, &mut observer).map_err(work_error("copy", from, to))
}

/// Counts the lines of `cp --verbose`, one for each file.
struct Copied {
    done: u64,
    total: u64,
}

impl Observer for Copied {
    fn line(&mut self, progress: &mut Progress, _: &str) {
        self.done += 1;
        let Self { done, total } = *self;
        let unit = Unit::Files;
        progress.at(Share { done, total, unit });
    }

    fn tick(&mut self, _: &mut Progress) {}
}

/// How many files are below a folder, about: what cannot be read is not counted. Links are not followed.
fn files(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 1;
    };
    entries.flatten().fold(1, |sum, entry| {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        sum + if is_folder { files(&entry.path()) } else { 1 }
    })
}

/// Removes a container's folder and all in it, its layers unmounted first; nothing to do if it does not exist.
pub(crate) fn clear(path: &Path) -> Result<(), StoreError> {
    overlay::unmount(path)?;
    let released = quota::release(path)?;
    remove(path)?;
    released.finish();
    Ok(())
}

/// Removes the folders of containers that are not defined, left by an interrupted creation or removal; what is at work is left
/// alone.
pub(crate) fn sweep(layout: &Layout) -> Result<Vec<PathBuf>, SweepError> {
    let mut swept = Vec::new();
    let entries = match fs::read_dir(&layout.store) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(swept),
        entries => entries.map_err(io_error("read", &layout.store))?,
    };
    for entry in entries {
        let entry = entry.map_err(io_error("read", &layout.store))?;
        // Our own folders have names that no container can have.
        let Some(name) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Some(_lock) = lock::verb_if_free(layout, &name)? else {
            continue;
        };
        if !layout.definition(&name).exists() {
            clear(&entry.path())?;
            swept.push(entry.path());
        }
    }
    Ok(swept)
}

/// Removes a folder and all in it; nothing to do if it does not exist. Where something is mounted in it nothing is removed.
pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    let table = fs::read_to_string("/proc/self/mountinfo")
        .map_err(io_error("read", Path::new("/proc/self/mountinfo")))?;
    if let Some(mounted) = mounts(&table).find(|at| at.starts_with(path)) {
        return Err(StoreError::Mounted(mounted));
    }
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(io_error("remove", path)),
    }
}

/// The mount points in the text of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`): the fifth field, with space, tab,
/// newline and backslash as `\040` and the like.
fn mounts(table: &str) -> impl Iterator<Item = PathBuf> {
    table.lines().filter_map(|line| {
        let field = line.split(' ').nth(4)?;
        let mut path = field
            .replace("\\040", " ")
            .replace("\\011", "\t")
            .replace("\\012", "\n");
        path = path.replace("\\134", "\\");
        Some(path.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressions_by_content() {
        for (start, option) in [
            (&b"\x1f\x8b\x08\x00"[..], Some("--gzip")),
            (b"BZh9", Some("--bzip2")),
            (b"\xfd7zXZ\0\0", Some("--xz")),
            (b"\x28\xb5\x2f\xfd\x04", Some("--zstd")),
            (b"./\0\0\0", None),
            (b"", None),
        ] {
            assert_eq!(Compression::of(start).option(), option);
        }
    }

    #[test]
    fn mount_points() {
        let table = "22 1 0:20 / /proc rw - proc proc rw\n30 1 0:3 / /var/lib/a\\040b\\134 rw shared:1 - tmpfs x rw\nshort\n";
        assert_eq!(
            mounts(table).collect::<Vec<_>>(),
            [Path::new("/proc"), Path::new("/var/lib/a b\\")]
        );
    }

    #[test]
    fn a_broken_archive_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("x.tar.gz");
        fs::write(&archive, b"\x1f\x8bgarbage").unwrap();
        let error = unpack(&archive, &dir.path().join("to"), &mut Watcher::none())
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("cannot unpack ") && error.contains("tar failed"),
            "{error}"
        );
        let error = unpack(
            &dir.path().join("none"),
            &dir.path().join("to2"),
            &mut Watcher::none(),
        )
        .unwrap_err();
        assert!(error.to_string().starts_with("cannot open "), "{error}");
        assert!(!dir.path().join("to2").exists());
    }

    #[test]
    fn a_copy_has_what_the_original_has() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir(&from).unwrap();
        fs::write(from.join("a"), "x").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", from.join("l")).unwrap();
        let to = dir.path().join("to");
        copy(&from, &to, &mut Watcher::none()).unwrap();
        assert_eq!(fs::read(to.join("a")).unwrap(), b"x");
        assert_eq!(fs::read_link(to.join("l")).unwrap(), Path::new("/etc/passwd"));
        remove(&to).unwrap();
        remove(&to).unwrap();
        assert!(!to.exists());
    }
}
