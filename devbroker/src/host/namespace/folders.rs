//! The folders that we made in a container's own `/dev`: one file, written before a folder gets its name.
//!
//! A folder is made under [`FRESH`], noted with its inode, and moved to where it belongs. Killed at any moment, the broker
//! leaves at most an empty [`FRESH`], which the next job in the container removes; what else is there of ours is in the
//! file, and what is not in it is the container's.

use super::NamespaceError;
use crate::model::NodePath;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// What a folder of ours is called before it is noted; like `.devbroker` the name is ours.
pub(super) const FRESH: &str = ".devbroker.new";

/// The folders of one container, by path, with their inodes.
#[derive(Debug)]
pub(super) struct Folders {
    file: PathBuf,
    known: BTreeMap<NodePath, u64>,
}

impl Folders {
    /// What is noted in `file`; without one nothing is.
    pub(super) fn open(file: &Path) -> Result<Self, NamespaceError> {
        let known = match std::fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        };
        known
            .map(|known| Self {
                file: file.into(),
                known,
            })
            .map_err(|source| NamespaceError::Io {
                operation: "read which folders were made",
                path: file.display().to_string(),
                source,
            })
    }

    /// Notes a folder that is about to get its name.
    pub(super) fn insert(&mut self, path: NodePath, ino: u64) -> io::Result<()> {
        let before = self.known.insert(path.clone(), ino);
        self.write().inspect_err(|_| {
            match before {
                Some(before) => self.known.insert(path, before),
                None => self.known.remove(&path),
            };
        })
    }

    /// Forgets folders that are gone or not ours any more. Where that cannot be written they are looked at again.
    pub(super) fn remove(&mut self, gone: &[NodePath]) -> io::Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        for path in gone {
            self.known.remove(path);
        }
        self.write()
    }

    /// All of them, the lower ones after those they are in.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (&NodePath, u64)> {
        self.known.iter().map(|(path, ino)| (path, *ino))
    }

    /// The old file or the new one, never half of one. It lies on a tmpfs, so nothing needs to be synced.
    fn write(&self) -> io::Result<()> {
        let fresh = self.file.with_extension("new");
        std::fs::write(&fresh, serde_json::to_vec(&self.known)?)
            .and_then(|()| std::fs::rename(&fresh, &self.file))
            .inspect_err(|_| {
                // Half of it takes up room.
                std::fs::remove_file(&fresh).ok();
            })
    }
}
