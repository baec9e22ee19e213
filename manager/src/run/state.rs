//! What a run of a container has written down about itself: who supervises it, which steps make it up, how far it is.

use crate::atomic;
use crate::layout::{Layout, RunFolder};
use crate::plan::Step;
use crate::process::{Ending, ProcessId};
use crate::run::cgroup::Cgroup;
use devbroker::model::{ContainerName, InstanceId};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    /// Its steps are being taken.
    Starting,
    /// The first process runs.
    Running,
    /// It is being shut down.
    Stopping,
    /// It has rebooted itself: nothing of it is there, and its supervisor is about to start it again.
    Restarting,
}

impl Phase {
    /// Whether its first process is there.
    pub(crate) const fn is_up(self) -> bool {
        match self {
            Self::Running | Self::Stopping => true,
            Self::Starting | Self::Restarting => false,
        }
    }
}

/// The run of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// Which run.
    pub(crate) instance: InstanceId,
    /// Who supervises it.
    pub(crate) supervisor: ProcessId,
    /// The container's first process, once there is one.
    pub(crate) init: Option<ProcessId>,
    /// Which of the supervisor's descriptors is of the devpts that the container has its terminals from.
    #[serde(default)]
    pub(crate) terminals: Option<RawFd>,
    /// How far it is.
    pub(crate) phase: Phase,
    /// When it was up: seconds since 1970.
    #[serde(default)]
    pub(crate) since: Option<u64>,
    /// All its steps, whether taken or not.
    pub(crate) steps: Vec<Step>,
}

/// How the last run of a container ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Last {
    /// Which run.
    pub(crate) instance: InstanceId,
    /// How its first process ended.
    pub(crate) ending: Ending,
    /// Whether it was asked to.
    pub(crate) asked: bool,
    /// When: seconds since 1970.
    pub(crate) at: u64,
}

/// The folder of such records, one for each container.
const ENDED: &str = ".ended";

impl Last {
    /// How the container's last run ended, if it had one since the machine was booted.
    pub(crate) fn read(layout: &Layout, name: &ContainerName) -> Option<Self> {
        let bytes = fs::read(layout.beside(ENDED, name)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Writes it down.
    pub(crate) fn write(&self, layout: &Layout, name: &ContainerName) -> io::Result<()> {
        let path = layout.beside(ENDED, name);
        if let Some(folder) = path.parent() {
            atomic::folder(folder, 0o700)?;
        }
        atomic::write(&path, &serde_json::to_vec(self)?, 0o600)
    }

    /// Forgets it.
    pub(crate) fn forget(layout: &Layout, name: &ContainerName) {
        // The next boot does.
        fs::remove_file(layout.beside(ENDED, name)).ok();
    }
}

/// The time now, in seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// A state that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// The file cannot be reached.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// It holds something else.
    #[error("{} is damaged: {source}; stop the container's processes and remove its folder", .path.display())]
    Damaged {
        path: PathBuf,
        source: serde_json::Error,
    },
}

impl State {
    /// The container's cgroup.
    pub(crate) fn container_cgroup(&self) -> Option<&Cgroup> {
        self.steps.iter().find_map(|step| {
            if let Step::Create { cgroup } = step {
                Some(cgroup)
            } else {
                None
            }
        })
    }

    /// Begins a run that this process supervises: writes it down.
    pub(crate) fn begun(
        folder: &RunFolder,
        instance: InstanceId,
        steps: Vec<Step>,
    ) -> Result<Self, StateError> {
        let path = folder.path();
        let supervisor = atomic::folder(path, 0o700).and_then(|()| ProcessId::own());
        let state = Self {
            instance,
            supervisor: supervisor.map_err(|source| StateError::Io {
                what: "make",
                path: path.into(),
                source,
            })?,
            init: None,
            terminals: None,
            phase: Phase::Starting,
            since: None,
            steps,
        };
        state.write(folder)?;
        Ok(state)
    }

    /// Writes down that nothing of the run is there any more and that it is begun anew; of its folder stays only that, and what
    /// others wrote there who want the container's end. So it is never taken for one that is stopped.
    pub(crate) fn between_runs(&mut self, folder: &RunFolder) -> Result<(), StateError> {
        self.init = None;
        self.terminals = None;
        self.since = None;
        self.phase = Phase::Restarting;
        self.steps.clear();
        self.write(folder)?;
        clear(folder.path(), &[folder.state(), folder.stop_within()]).map_err(|source| StateError::Io {
            what: "empty",
            path: folder.path().into(),
            source,
        })
    }

    /// Forgets a run that was to be begun anew and is not.
    pub(crate) fn forget_between(folder: &RunFolder) -> Result<(), StateError> {
        if !Self::read(folder)?.is_some_and(|state| state.phase == Phase::Restarting) {
            return Ok(());
        }
        fs::remove_dir_all(folder.path()).map_err(|source| StateError::Io {
            what: "remove",
            path: folder.path().into(),
            source,
        })
    }

    /// Reads the state of a run; none if there is no run.
    pub(crate) fn read(run: &RunFolder) -> Result<Option<Self>, StateError> {
        let path = run.state();
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| StateError::Damaged { path, source }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateError::Io {
                what: "read",
                path,
                source,
            }),
        }
    }

    /// Writes it, so that a reader sees the old or the new one.
    pub(crate) fn write(&self, run: &RunFolder) -> Result<(), StateError> {
        let path = run.state();
        let bytes = serde_json::to_vec(self).map_err(|source| StateError::Damaged {
            path: path.clone(),
            source,
        })?;
        atomic::write(&path, &bytes, 0o600).map_err(|source| StateError::Io {
            what: "write",
            path,
            source,
        })
    }
}

/// Removes all that is in a folder but these.
fn clear(folder: &Path, kept: &[PathBuf]) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if kept.contains(&path) {
            continue;
        }
        let removed = if entry.file_type()?.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        match removed {
            // What another writes takes the place of its temporary name.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(())
}
