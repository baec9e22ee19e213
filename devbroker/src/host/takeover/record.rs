//! What is written down of a take-over before anything is changed.

use super::{TakeOverError, failed};
use crate::access::takeover::{Displace, Owner, Unit};
use crate::host::unit_rules::DeviceRules;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A filter that was taken over: all that is needed to keep it and to give it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// The container's cgroup, below the mount.
    pub(super) cgroup: String,
    /// The filter's folder.
    pub(super) dir: PathBuf,
    /// Levels above the cgroup where our program stands, 0 first.
    pub(super) ours: Vec<usize>,
    /// What was there by `PROG_ATTACH`, in order, each pinned as `old-UP-N`.
    pub(super) old: Vec<Old>,
    /// The unit whose device rules systemd was told to drop, and what they were.
    pub(super) unit: Option<(Unit, DeviceRules)>,
    /// Whether systemd is told at all.
    pub(super) tell: bool,
    /// Whether anything confined the container before.
    pub(super) confined: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Old {
    pub(super) up: usize,
    pub(super) program: u32,
    pub(super) owner: Owner,
}

impl From<&Displace> for Old {
    fn from(displace: &Displace) -> Self {
        Self {
            up: displace.up,
            program: displace.program,
            owner: displace.owner,
        }
    }
}

impl Old {
    pub(super) fn pin(&self) -> String {
        format!("old-{}-{}", self.up, self.program)
    }
}

impl Record {
    /// Takes in programs that came later. What an owner puts on a level anew stands for what it had there before: that one is
    /// returned, and is not to be put back.
    pub(super) fn supersede(&mut self, fresh: Vec<Old>) -> Vec<Old> {
        let by_fresh = |old: &Old| {
            let same = |new: &Old| (new.up, new.owner) == (old.up, old.owner);
            fresh.iter().any(same) && !fresh.contains(old)
        };
        let (stale, kept) = std::mem::take(&mut self.old).into_iter().partition(by_fresh);
        self.old = kept;
        for new in fresh {
            if !self.old.contains(&new) {
                self.old.push(new);
            }
        }
        stale
    }

    /// The record in `file`.
    pub(super) fn read(file: &Path) -> Result<Self, TakeOverError> {
        let bytes = fs::read(file).map_err(failed("read", file))?;
        serde_json::from_slice(&bytes).map_err(|error| failed("read", file)(error.into()))
    }

    /// Writes it to `file` in one step. The file is below `/run` and ends with the machine's uptime, as what it tells of does.
    pub(super) fn write(&self, file: &Path) -> Result<(), TakeOverError> {
        let write = || -> io::Result<()> {
            fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
            let temporary = file.with_extension("tmp");
            File::create(&temporary)?.write_all(&serde_json::to_vec_pretty(self)?)?;
            fs::rename(&temporary, file)
        };
        write().map_err(failed("write", file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_word_of_an_owner() {
        let old = |up, program, owner| Old { up, program, owner };
        let mut record = Record {
            cgroup: "/x".into(),
            dir: "/y".into(),
            ours: vec![0, 1],
            old: vec![
                old(0, 1, Owner::Runtime),
                old(0, 2, Owner::Runtime),
                old(0, 3, Owner::Systemd),
                old(1, 4, Owner::Systemd),
            ],
            unit: None,
            tell: false,
            confined: true,
        };
        assert_eq!(
            record.supersede(vec![old(0, 2, Owner::Runtime), old(0, 9, Owner::Runtime)]),
            [old(0, 1, Owner::Runtime)]
        );
        assert_eq!(
            record.old,
            [
                old(0, 2, Owner::Runtime),
                old(0, 3, Owner::Systemd),
                old(1, 4, Owner::Systemd),
                old(0, 9, Owner::Runtime)
            ]
        );
        assert_eq!(record.supersede(vec![]), []);
    }
}
