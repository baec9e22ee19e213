//! What definitions are held against.

use crate::definition::{Definition, Numbers};
use crate::run::network;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// What a machine has, as far as that is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Machine {
    /// Bytes.
    pub(crate) memory: u64,
    /// Bytes.
    pub(crate) swap: u64,
    /// The processors that are there.
    pub(crate) cpus: Option<Numbers>,
    /// The NUMA nodes that are there.
    pub(crate) numa_nodes: Option<Numbers>,
    /// How many processes and threads it can have.
    pub(crate) processes: Option<u64>,
    /// The file system that containers are on.
    pub(crate) disk: FileSystem,
    /// Those of root file systems that lie elsewhere, by their folders.
    pub(crate) elsewhere: BTreeMap<PathBuf, FileSystem>,
    /// Whether any disk is shared by weight.
    pub(crate) weighs_disks: Option<bool>,
    /// How many files a process can be allowed to open.
    pub(crate) open_files: Option<u64>,
    /// The sizes of huge pages that there are.
    pub(crate) huge_pages: Option<Vec<u64>>,
    /// Devices that definitions name and that are not there.
    pub(crate) missing: BTreeSet<PathBuf>,
    /// Its addresses, and what it passes on.
    pub(crate) network: network::Host,
}

impl Machine {
    /// The file system that a container's files are on.
    pub(super) fn disk_of(&self, definition: &Definition) -> &FileSystem {
        self.elsewhere.get(&definition.rootfs).unwrap_or(&self.disk)
    }
}

/// A file system, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct FileSystem {
    /// The number that files on it have (`st_dev`); 0 of one that is described.
    pub(crate) device: u64,
    /// Bytes.
    pub(crate) size: Option<u64>,
    /// Which limits it keeps.
    pub(crate) keeps: Option<DiskKept>,
}

/// Who has what containers share.
pub(super) const THIS_HOST: &str = "this host";

impl FileSystem {
    /// Whose it is said to be: of several the one that containers usually are on is the host's.
    pub(super) fn owner(&self, machine: &Machine) -> &'static str {
        if *self == machine.disk {
            THIS_HOST
        } else {
            "the file system of its root"
        }
    }
}

/// Which limits of disk a file system keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DiskKept {
    /// None.
    Nothing,
    /// How many bytes at most.
    Space,
    /// All.
    All,
}
