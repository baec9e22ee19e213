//! Where something is written in the configuration.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// A place in a configuration file, printed as `/etc/devbroker/conf.d/lab.toml:12`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}
