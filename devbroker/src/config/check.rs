//! What `devbroker check` says.

use super::load::{Loader, read_file};
use super::{Diagnostic, merge, parse_file};
use std::path::PathBuf;

/// The outcome of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// How many files were looked at.
    pub files: usize,
    /// All that is wrong.
    pub diagnostics: Vec<Diagnostic>,
}

impl Checked {
    /// Whether every file can be used.
    pub fn is_good(&self) -> bool {
        !self.diagnostics.iter().any(Diagnostic::is_error)
    }
}

/// Checks these files together; without any, all that `loader` would read. Needs no rights but to read them, and writes
/// nothing.
pub fn check(loader: &Loader, paths: &[PathBuf]) -> Checked {
    if paths.is_empty() {
        let loaded = loader.look();
        return Checked {
            files: loaded.files.len(),
            diagnostics: loaded.diagnostics,
        };
    }
    let mut diagnostics = Vec::new();
    let mut good = Vec::new();
    for path in paths {
        match read_file(path) {
            Ok(bytes) => {
                let (file, faults) = parse_file(path, &bytes);
                good.push(file);
                diagnostics.extend(faults);
            }
            Err(fault) => diagnostics.push(*fault),
        }
    }
    // What a faulty file says is still looked at for contradictions, or they would show only at the next attempt.
    diagnostics.extend(merge(good).1);
    Checked {
        files: paths.len(),
        diagnostics,
    }
}

/// The faults as text, in the order of files and lines, and a last line that counts them.
pub fn report(checked: &Checked) -> String {
    let mut sorted: Vec<&Diagnostic> = checked.diagnostics.iter().collect();
    sorted.sort_by_key(|fault| (&fault.origin, fault.column));
    let errors = sorted.iter().filter(|fault| fault.is_error()).count();
    let warnings = sorted.len() - errors;
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let mut parts: Vec<String> = sorted.iter().map(|fault| format!("{fault}\n\n")).collect();
    parts.push(format!(
        "{}: {}, {}\n",
        count(checked.files, "file"),
        count(errors, "error"),
        count(warnings, "warning")
    ));
    parts.concat()
}
