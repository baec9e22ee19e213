//! What the broker has placed in one container: an append-only file of JSON lines, the intent before the effect.
//!
//! Opening it folds the lines into what stands now. A last line without its end is one that a crash cut off: its effect had
//! not begun, so it is dropped. A line that cannot be written is an error, and what it announces is then not done; removals
//! are written after the fact and lose nothing but a second look. Lies on a tmpfs, so nothing needs to be synced.

use crate::fail_point;
use crate::model::{InstanceId, NodePath};
use crate::plan::{GrantPermissions, Placed, PlacedNode};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Longer files are not ours: a container's whole `/dev` fits many times.
const MAX_FILE: u64 = 16 << 20;

/// Lines beyond which opening writes the file anew, if most of them are spent.
const COMPACT: usize = 64;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Entry {
    /// A folder is about to appear.
    Folder {
        /// Where.
        path: NodePath,
        /// Its inode.
        ino: u64,
    },
    /// A folder of ours is gone, or no longer ours.
    FolderGone {
        /// Where it was.
        path: NodePath,
    },
    /// A node is about to appear.
    Node {
        /// Where.
        path: NodePath,
        /// What it is.
        node: PlacedNode,
    },
    /// A node was taken away.
    NodeGone {
        /// Where it was.
        path: NodePath,
    },
    /// A node is about to get what its grant says now.
    Permitted {
        /// Where.
        path: NodePath,
        /// What the grant says.
        grant: GrantPermissions,
    },
    /// A symbolic link is about to appear.
    Link {
        /// Where.
        path: NodePath,
        /// Its text.
        target: String,
    },
    /// A symbolic link was taken away.
    LinkGone {
        /// Where it was.
        path: NodePath,
    },
}

/// A ledger that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A system call failed.
    #[error("cannot {what} the ledger {}: {source}; nothing is made without its line there, and it is tried again", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A line in the middle is none of ours.
    #[error("line {line} of the ledger {} cannot be read; restart the container to begin a new one", path.display())]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
}

/// One container's ledger, open for appending.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: File,
    length: u64,
    placed: Placed,
    folders: BTreeMap<NodePath, u64>,
}

impl Ledger {
    /// Opens or begins the ledger of a container's run in `folder`.
    pub fn open(folder: &Path, instance: &InstanceId) -> Result<Self, LedgerError> {
        let path = folder.join(instance.as_str());
        let io = |what| {
            let path = path.clone();
            move |source| LedgerError::Io { what, path, source }
        };
        std::fs::create_dir_all(folder).map_err(io("make the folder of"))?;
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io("open"))?;
        let mut bytes = Vec::new();
        (&file)
            .take(MAX_FILE)
            .read_to_end(&mut bytes)
            .map_err(io("read"))?;
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        let length = u64::try_from(whole).unwrap_or(MAX_FILE);
        file.set_len(length).map_err(io("mend"))?;
        let mut ledger = Self {
            path: path.clone(),
            file,
            length,
            placed: Placed::default(),
            folders: BTreeMap::new(),
        };
        let mut lines = 0;
        for line in bytes
            .get(..whole)
            .unwrap_or_default()
            .split(|byte| *byte == b'\n')
        {
            if line.is_empty() {
                continue;
            }
            lines += 1;
            let entry = serde_json::from_slice(line).map_err(|_| LedgerError::Corrupt {
                path: path.clone(),
                line: lines,
            })?;
            ledger.fold(entry);
        }
        if lines > COMPACT && lines > 4 * ledger.standing().len() {
            let fresh = folder.join(format!("{instance}.new"));
            // Where there is no room for it the long one does as well.
            if let Ok((file, length)) = ledger.write_anew(&fresh) {
                (ledger.file, ledger.length) = (file, length);
            } else {
                std::fs::remove_file(&fresh).ok();
            }
        }
        Ok(ledger)
    }

    /// Writes what stands to `fresh`, and puts that in the place of the file.
    fn write_anew(&self, fresh: &Path) -> io::Result<(File, u64)> {
        match std::fs::remove_file(fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(fresh)?;
        let mut bytes = Vec::new();
        for entry in self.standing() {
            serde_json::to_writer(&mut bytes, &entry)?;
            bytes.push(b'\n');
        }
        file.write_all(&bytes)?;
        std::fs::rename(fresh, &self.path)?;
        Ok((file, u64::try_from(bytes.len()).unwrap_or(MAX_FILE)))
    }

    /// Writes a line. On an error the file is as it was.
    pub fn append(&mut self, entry: &Entry) -> Result<(), LedgerError> {
        self.write(entry)?;
        fail_point::reached("after", "ledger");
        self.fold(entry.clone());
        Ok(())
    }

    /// Nodes and links that stand.
    pub fn placed(&self) -> &Placed {
        &self.placed
    }

    /// Folders that stand, with their inodes.
    pub fn folders(&self) -> Vec<(NodePath, u64)> {
        self.folders
            .iter()
            .map(|(path, ino)| (path.clone(), *ino))
            .collect()
    }

    /// Removes the ledger of a run that is over.
    pub fn remove(folder: &Path, instance: &InstanceId) -> Result<(), LedgerError> {
        let path = folder.join(instance.as_str());
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(LedgerError::Io {
                what: "remove",
                path,
                source,
            }),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn write(&mut self, entry: &Entry) -> Result<(), LedgerError> {
        let failed = |source| LedgerError::Io {
            what: "write",
            path: self.path.clone(),
            source,
        };
        let mut line = serde_json::to_vec(entry).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        match self.file.write(&line) {
            Ok(written) if written == line.len() => {
                self.length += u64::try_from(written).unwrap_or(0);
                Ok(())
            }
            outcome => {
                // Whatever part of the line got in must not lead the next one astray.
                self.file.set_len(self.length).map_err(failed)?;
                Err(failed(
                    outcome
                        .err()
                        .unwrap_or_else(|| io::Error::from_raw_os_error(libc::ENOSPC)),
                ))
            }
        }
    }

    fn fold(&mut self, entry: Entry) {
        match entry {
            Entry::Folder { path, ino } => {
                self.folders.insert(path, ino);
            }
            Entry::FolderGone { path } => {
                self.folders.remove(&path);
            }
            Entry::Node { path, node } => {
                self.placed.nodes.insert(path, node);
            }
            Entry::NodeGone { path } => {
                self.placed.nodes.remove(&path);
            }
            Entry::Permitted { path, grant } => {
                if let Some(node) = self.placed.nodes.get_mut(&path) {
                    node.grant = grant;
                }
            }
            Entry::Link { path, target } => {
                self.placed.links.insert(path, target);
            }
            Entry::LinkGone { path } => {
                self.placed.links.remove(&path);
            }
        }
    }

    /// The fewest lines that say what stands.
    fn standing(&self) -> Vec<Entry> {
        let folders = self.folders.iter().map(|(path, ino)| Entry::Folder {
            path: path.clone(),
            ino: *ino,
        });
        let nodes = self.placed.nodes.iter();
        let nodes = nodes.map(|(path, node)| Entry::Node {
            path: path.clone(),
            node: node.clone(),
        });
        let links = self.placed.links.iter();
        let links = links.map(|(path, target)| Entry::Link {
            path: path.clone(),
            target: target.clone(),
        });
        folders.chain(nodes).chain(links).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DevNum, Incarnation};

    fn path(text: &str) -> NodePath {
        text.parse().unwrap()
    }

    fn node(ino: u64) -> PlacedNode {
        PlacedNode {
            ino,
            devnum: DevNum::char(188, 0),
            syspath: "/devices/usb1/1-1/ttyUSB0".parse().unwrap(),
            incarnation: Incarnation(7),
            alias: "stick".parse().unwrap(),
            role: "tty@if00".parse().unwrap(),
            grant: GrantPermissions {
                mode: Some(0o660),
                ..GrantPermissions::default()
            },
        }
    }

    #[test]
    fn folds_what_stands() {
        let folder = tempfile::tempdir().unwrap();
        let id = InstanceId::from_bits(1);
        let mut ledger = Ledger::open(folder.path(), &id).unwrap();
        for entry in [
            Entry::Folder {
                path: path("bus"),
                ino: 2,
            },
            Entry::Folder {
                path: path("gone"),
                ino: 3,
            },
            Entry::FolderGone { path: path("gone") },
            Entry::Node {
                path: path("ttyUSB0"),
                node: node(4),
            },
            Entry::Node {
                path: path("ttyUSB1"),
                node: node(5),
            },
            Entry::NodeGone {
                path: path("ttyUSB1"),
            },
            Entry::Permitted {
                path: path("ttyUSB0"),
                grant: GrantPermissions::default(),
            },
            Entry::Link {
                path: path("stick"),
                target: "ttyUSB0".into(),
            },
            Entry::Link {
                path: path("x"),
                target: "y".into(),
            },
            Entry::LinkGone { path: path("x") },
        ] {
            ledger.append(&entry).unwrap();
        }
        let again = Ledger::open(folder.path(), &id).unwrap();
        assert_eq!(again.placed(), ledger.placed());
        assert_eq!(again.folders(), [(path("bus"), 2)]);
        let placed = PlacedNode {
            grant: GrantPermissions::default(),
            ..node(4)
        };
        let links = [(path("stick"), "ttyUSB0".to_owned())].into();
        assert_eq!(
            again.placed(),
            &Placed {
                nodes: [(path("ttyUSB0"), placed)].into(),
                links
            }
        );
    }

    #[test]
    fn a_line_cut_off_is_dropped_and_the_next_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let id = InstanceId::from_bits(2);
        let mut ledger = Ledger::open(folder.path(), &id).unwrap();
        ledger
            .append(&Entry::Link {
                path: path("a"),
                target: "b".into(),
            })
            .unwrap();
        let file = folder.path().join(id.as_str());
        let mut bytes = std::fs::read(&file).unwrap();
        bytes.extend(b"{\"entry\":\"link\",\"pa");
        std::fs::write(&file, bytes).unwrap();
        let mut ledger = Ledger::open(folder.path(), &id).unwrap();
        ledger.append(&Entry::LinkGone { path: path("a") }).unwrap();
        assert_eq!(
            Ledger::open(folder.path(), &id).unwrap().placed(),
            &Placed::default()
        );
    }

    #[test]
    fn a_strange_line_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let id = InstanceId::from_bits(3);
        std::fs::write(folder.path().join(id.as_str()), b"{\"entry\":\"link\"}\n\xff\n").unwrap();
        let error = Ledger::open(folder.path(), &id).unwrap_err();
        assert!(matches!(error, LedgerError::Corrupt { line: 1, .. }), "{error}");
    }

    #[test]
    fn a_full_disk_forbids_and_leaves_no_half_line() {
        let mut ledger = Ledger {
            path: "/dev/full".into(),
            file: OpenOptions::new().append(true).open("/dev/full").unwrap(),
            length: 0,
            placed: Placed::default(),
            folders: BTreeMap::new(),
        };
        let entry = Entry::Link {
            path: path("a"),
            target: "b".into(),
        };
        assert!(matches!(
            ledger.append(&entry),
            Err(LedgerError::Io { what: "write", .. })
        ));
        assert_eq!(ledger.placed(), &Placed::default());
    }

    #[test]
    fn spent_lines_are_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let id = InstanceId::from_bits(4);
        let mut ledger = Ledger::open(folder.path(), &id).unwrap();
        for _ in 0..100 {
            ledger
                .append(&Entry::Node {
                    path: path("a"),
                    node: node(4),
                })
                .unwrap();
            ledger.append(&Entry::NodeGone { path: path("a") }).unwrap();
        }
        ledger
            .append(&Entry::Node {
                path: path("b"),
                node: node(5),
            })
            .unwrap();
        let file = folder.path().join(id.as_str());
        let before = std::fs::read(&file).unwrap().len();
        let mut again = Ledger::open(folder.path(), &id).unwrap();
        assert_eq!(again.placed(), ledger.placed());
        assert!(std::fs::read(&file).unwrap().len() < before / 100);
        again.append(&Entry::NodeGone { path: path("b") }).unwrap();
        assert_eq!(
            Ledger::open(folder.path(), &id).unwrap().placed(),
            &Placed::default()
        );
        Ledger::remove(folder.path(), &id).unwrap();
        Ledger::remove(folder.path(), &id).unwrap();
    }
}
