//! `check`: the configuration's faults, all of them, without root and without the daemon.

use super::{Failure, exit};
use std::path::PathBuf;

/// Checks these files, or all that are installed.
pub(crate) fn run(_files: &[PathBuf], _json: bool) -> Result<(), Failure> {
    Err(Failure::new(exit::FAILED, "not in this build".into()))
}
