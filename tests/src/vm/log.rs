//! One scenario's log: what was asked of the machine and what came back, each
//! line with the time since the start.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};

/// A log that several threads write to.
#[derive(Clone, Debug)]
pub struct Log {
    file: Arc<Mutex<File>>,
    path: Arc<PathBuf>,
    start: Instant,
}

impl Log {
    /// Starts an empty log at `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self {
            file: Arc::new(Mutex::new(file)),
            path: Arc::new(path.to_owned()),
            start: Instant::now(),
        })
    }

    /// Where the log is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds text, each of its lines marked with the time and `mark`.
    pub fn add(&self, mark: &str, text: &str) {
        let seconds = self.start.elapsed().as_secs_f64();
        let mut lines = String::new();
        for line in text.lines() {
            // Writing to a string cannot fail.
            writeln!(lines, "{seconds:8.3} {mark} {line}").ok();
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // A full disk must not hide how the scenario itself ends.
        file.write_all(lines.as_bytes()).ok();
    }
}
