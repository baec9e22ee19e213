//! Cleaning up after a supervisor that was killed: the steps it had written down are undone.
//!
//! The caller holds the supervisor's lock, so that nobody supervises the container any more.

use crate::layout::Layout;
use crate::run::state::{State, StateError};
use crate::runner::Runner;
use devbroker::model::ContainerName;
use std::fs;
use std::io;
use std::path::PathBuf;

/// What stays behind.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CleanError {
    #[error(transparent)]
    State(#[from] StateError),
    /// Steps that could not be undone.
    #[error("{0}")]
    Steps(String),
    #[error("cannot remove {}: {source}", .path.display())]
    Folder { path: PathBuf, source: io::Error },
}

/// Undoes what is left of a run. Whether there was anything.
pub(crate) fn after_crash(layout: &Layout, name: &ContainerName) -> Result<bool, CleanError> {
    let folder = layout.run_of(name);
    if !folder.path().exists() {
        return Ok(false);
    }
    if let Some(state) = State::read(&folder)? {
        let failures = Runner::new(layout, name, None).undo_all(&state.steps);
        if !failures.is_empty() {
            let failures: Vec<_> = failures.iter().map(ToString::to_string).collect();
            return Err(CleanError::Steps(failures.join("; ")));
        }
    }
    fs::remove_dir_all(folder.path()).map_err(|source| CleanError::Folder {
        path: folder.path().into(),
        source,
    })?;
    Ok(true)
}
