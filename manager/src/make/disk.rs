//! How much disk a root file system takes.
//!
//! The tree may be hostile and in use: every folder is opened from a descriptor of the one above, no link is followed, mounts
//! are not entered.

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, StatxFlags, openat, statx};
use rustix::io::Errno;
use serde::Serialize;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

/// `st_blocks` counts these (`stat(2)`).
const BLOCK: u64 = 512;
/// Folders within folders; more could exhaust our descriptors.
const DEPTH: usize = 500;

/// A folder that cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[error("cannot look through {}: {source}", .path.display())]
pub(crate) struct DiskError {
    path: PathBuf,
    source: io::Error,
}

/// What a tree takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Taken {
    /// Bytes on disk, those of hard links once.
    pub(crate) bytes: u64,
    /// Files of all kinds, folders among them.
    pub(crate) files: u64,
}

/// Counts everything below a folder and the folder itself.
pub(crate) fn taken(root: &Path) -> Result<Taken, DiskError> {
    count(root).map_err(|source| DiskError {
        path: root.into(),
        source: source.into(),
    })
}

fn count(root: &Path) -> rustix::io::Result<Taken> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let folder = openat(CWD, root, flags, Mode::empty())?;
    let first = statx(&folder, c"", AtFlags::EMPTY_PATH, wanted)?;
    let mut taken = Taken {
        bytes: first.stx_blocks * BLOCK,
        files: 1,
    };
    let mut seen = HashSet::new();
    let mut open = vec![Dir::new(folder)?];
    while let Some(dir) = open.last_mut() {
        let Some(entry) = dir.read() else {
            open.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let at = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = match statx(dir.fd()?, name, at, wanted) {
            // Removed meanwhile.
            Err(Errno::NOENT) => continue,
            result => result?,
        };
        if stat.stx_mnt_id != first.stx_mnt_id {
            continue;
        }
        taken.files += 1;
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        let is_folder = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
        if is_folder || stat.stx_nlink < 2 || seen.insert((device, stat.stx_ino)) {
            taken.bytes += stat.stx_blocks * BLOCK;
        }
        if is_folder && open.len() < DEPTH {
            let Some(dir) = open.last() else { break };
            match openat(dir.fd()?, name, flags, Mode::empty()) {
                // Replaced meanwhile.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                result => open.push(Dir::new(result?)?),
            }
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_count_once_and_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        let empty = taken(&root).unwrap();
        assert_eq!(empty.files, 3);
        std::fs::write(root.join("a/file"), vec![1; 100_000]).unwrap();
        std::fs::write(dir.path().join("outside"), vec![1; 100_000]).unwrap();
        let one = taken(&root).unwrap();
        assert!(one.bytes >= empty.bytes + 100_000, "{one:?}");
        std::fs::hard_link(root.join("a/file"), root.join("again")).unwrap();
        std::os::unix::fs::symlink("../outside", root.join("link")).unwrap();
        std::os::unix::fs::symlink("..", root.join("up")).unwrap();
        let linked = taken(&root).unwrap();
        assert_eq!(linked.files, one.files + 3);
        assert!(linked.bytes < one.bytes + 50_000, "{linked:?}");
        assert!(taken(&root.join("none")).is_err());
    }
}
