//! The folders that filters are pinned in: making one, and removing those of containers that are gone.

use super::{DeviceFilter, FilterError, LINK, MAP, call};
use crate::sys::bpf;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

impl DeviceFilter {
    /// Whether the cgroup that the filter pinned in `dir` was made for is gone.
    pub fn is_dead(dir: &Path) -> bool {
        bpf::pinned(&dir.join(LINK))
            .and_then(|link| bpf::link_info(link.as_fd()))
            .is_ok_and(|link| link.cgroup.is_none())
    }

    /// Removes the pins of a container that is gone, whole or half made. A cgroup that still exists keeps its attached
    /// program: it stays confined to what is in the map, and nobody can grant anything more.
    pub fn collect(dir: &Path) -> Result<(), FilterError> {
        let gone = |result: io::Result<()>, what| match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(call(what, dir, error)),
            Ok(()) | Err(_) => Ok(()),
        };
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) => return gone(Err(error), "list the pins"),
        };
        for entry in entries {
            let entry = entry.map_err(|source| call("list the pins", dir, source))?;
            gone(fs::remove_file(entry.path()), "remove a pin")?;
        }
        gone(fs::remove_dir(dir), "remove the folder")
    }

    /// Removes from `root`, the folder of all filters, those of which the kernel says that they serve nobody: the cgroup of
    /// the link is gone, or there is not even a link (the first pin that is made). One that is being made beside this is safe:
    /// its link's cgroup is there, and an empty folder that went is made again by whoever pins into it. Leaves out what
    /// `is_used` says is in use. Returns what went, and what could not go.
    pub fn sweep(root: &Path, is_used: &dyn Fn(&str) -> bool) -> (Vec<PathBuf>, Vec<FilterError>) {
        let (mut swept, mut failed) = (Vec::new(), Vec::new());
        let entries = match fs::read_dir(root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (swept, failed),
            Err(error) => return (swept, vec![call("list", root, error)]),
        };
        for dir in entries.flatten().map(|entry| entry.path()) {
            if dir.file_name().and_then(|name| name.to_str()).is_none_or(is_used) {
                continue;
            }
            let gone = if Self::is_dead(&dir) {
                Self::collect(&dir)
            } else {
                match fs::remove_dir(&dir) {
                    Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => continue,
                    result => result.map_err(|source| call("remove the folder", &dir, source)),
                }
            };
            match gone {
                Ok(()) => swept.push(dir),
                Err(error) => failed.push(error),
            }
        }
        (swept, failed)
    }
}

/// A new folder on a bpffs, for root alone. What a killed `create` left there is cleared.
pub(crate) fn make_folder(dir: &Path) -> Result<(), FilterError> {
    let parent = dir.parent().unwrap_or(dir);
    let existing = parent
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let kind = statfs(existing).map_err(|error| call("look at the file system", dir, error.into()))?;
    if kind.filesystem_type() != BPF_FS_MAGIC {
        return Err(FilterError::NoBpffs(dir.into()));
    }
    if fs::symlink_metadata(dir.join(MAP)).is_ok() {
        return Err(FilterError::Exists(dir.into()));
    }
    DeviceFilter::collect(dir)?;
    folder_for_root(dir)
}

pub(super) fn folder_for_root(dir: &Path) -> Result<(), FilterError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| call("make the folder", dir, source))
}
