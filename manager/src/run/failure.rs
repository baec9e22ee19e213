//! Why the last start or run of a container failed: written by its supervisor, read by `ctm start` and `ctm status`.

use crate::atomic;
use crate::layout::Layout;
use devbroker::model::ContainerName;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;

/// Folder of the reasons.
const FOLDER: &str = ".failed";

/// A failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// The exit code that goes with it.
    pub(crate) code: u8,
    /// The reason, as an error message.
    pub(crate) reason: String,
}

impl Failure {
    /// Leaves it for whoever looks.
    pub(crate) fn write(&self, layout: &Layout, name: &ContainerName) -> io::Result<()> {
        let file = layout.beside(FOLDER, name);
        if let Some(folder) = file.parent() {
            atomic::folder(folder, 0o700)?;
        }
        atomic::write(&file, &serde_json::to_vec(self)?, 0o600)
    }

    /// The last one, if there was one since it was forgotten.
    pub(crate) fn read(layout: &Layout, name: &ContainerName) -> Option<Self> {
        serde_json::from_slice(&fs::read(layout.beside(FOLDER, name)).ok()?).ok()
    }
}

/// Forgets it.
pub(crate) fn forget(layout: &Layout, name: &ContainerName) -> io::Result<()> {
    match fs::remove_file(layout.beside(FOLDER, name)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_read_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout {
            run: dir.path().into(),
            ..Layout::default()
        };
        let name = "a".parse().unwrap();
        assert_eq!(Failure::read(&layout, &name), None);
        let failure = Failure {
            code: 79,
            reason: "because\nof this".into(),
        };
        failure.write(&layout, &name).unwrap();
        assert_eq!(Failure::read(&layout, &name), Some(failure));
        forget(&layout, &name).unwrap();
        forget(&layout, &name).unwrap();
        assert_eq!(Failure::read(&layout, &name), None);
    }
}
