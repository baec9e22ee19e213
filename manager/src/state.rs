//! What a run of a container has written down about itself: who supervises it, which steps make it up, how far it is.

use crate::atomic;
use crate::cgroup::Cgroup;
use crate::layout::RunFolder;
use crate::plan::Step;
use crate::process::ProcessId;
use devbroker::model::InstanceId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

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
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
        })
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
    /// How far it is.
    pub(crate) phase: Phase,
    /// All its steps, whether taken or not.
    pub(crate) steps: Vec<Step>,
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
