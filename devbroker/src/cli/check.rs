//! `check`: the configuration's faults, all of them, without root and without the daemon.

use super::{Failure, exit, print, print_json};
use crate::report::{clean, count};
use devbroker::api::{DiagnosticView, FileState, FileView, Severity};
use devbroker::config::{self, Diagnostic, FileConfig, MAX_FILE};
use devbroker::daemon::Paths;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    files: Vec<FileView>,
    problems: Vec<DiagnosticView>,
}

/// Checks these files (of a folder all), or all that are installed.
pub(crate) fn run(files: &[PathBuf], json: bool) -> Result<(), Failure> {
    let paths = if files.is_empty() {
        installed(&Paths::default().config)?
    } else {
        given(files)?
    };
    let report = check(&paths);
    let errors = report
        .problems
        .iter()
        .filter(|one| one.severity == Severity::Error)
        .count() as u64;
    if json {
        print_json(&report)?;
    } else {
        print(&text(&report))?;
    }
    if errors == 0 {
        return Ok(());
    }
    let message = format!("{} in the configuration", count(errors, "error"));
    Err(Failure::new(exit::FAILED, message))
}

fn check(paths: &[PathBuf]) -> Report {
    let mut faults = Vec::new();
    let mut files = Vec::new();
    let mut parsed = Vec::new();
    for path in paths {
        let (config, found) = read(path);
        let broken = found.iter().any(Diagnostic::is_error);
        files.push(FileView {
            path: path.clone(),
            state: if broken { FileState::Broken } else { FileState::Ok },
        });
        faults.extend(found);
        parsed.extend(config);
    }
    // Faults between files as well, also of what could be understood of broken ones.
    let (_, between) = config::merge(parsed);
    faults.extend(between);
    Report {
        files,
        problems: faults.iter().map(view).collect(),
    }
}

fn read(path: &Path) -> (Option<FileConfig>, Vec<Diagnostic>) {
    let length = path.metadata().map_or(0, |about| about.len());
    if length > MAX_FILE as u64 {
        let message = format!("the file has {length} bytes, more than {MAX_FILE}");
        let help = "split it into several files of the same folder";
        return (None, vec![Diagnostic::of_file(path, message).help(help)]);
    }
    match config::read_file(path) {
        Ok(bytes) => {
            let (file, faults) = config::parse_file(path, &bytes);
            (Some(file), faults)
        }
        Err(fault) => (None, vec![*fault]),
    }
}

fn view(fault: &Diagnostic) -> DiagnosticView {
    DiagnosticView {
        severity: if fault.is_error() {
            Severity::Error
        } else {
            Severity::Warning
        },
        file: PathBuf::from(&*fault.origin.file),
        line: (fault.origin.line > 0).then_some(u64::from(fault.origin.line)),
        column: (fault.column > 0).then_some(u64::from(fault.column)),
        message: fault.message.clone(),
        text: fault.to_string(),
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for problem in &report.problems {
        for line in problem.text.lines() {
            text += &clean(line);
            text.push('\n');
        }
        text.push('\n');
    }
    if report.files.is_empty() {
        text += "there are no configuration files\n";
    } else if report.problems.is_empty() {
        text += &count(report.files.len() as u64, "file");
        text += " without a fault\n";
    }
    text
}

/// These files, and the files in these folders.
fn given(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut all = Vec::new();
    for path in paths {
        if path.is_dir() {
            all.extend(folder(path)?.into_values());
        } else {
            all.push(path.clone());
        }
    }
    Ok(all)
}

/// The files of all folders; one of the same name in a later folder masks an earlier one, save those of run time, which
/// come on top.
fn installed([packaged, administrator, run_time]: &[PathBuf; 3]) -> Result<Vec<PathBuf>, Failure> {
    let mut names = folder(packaged)?;
    names.extend(folder(administrator)?);
    let mut all: Vec<PathBuf> = names.into_values().collect();
    all.extend(folder(run_time)?.into_values());
    Ok(all)
}

/// A folder's `*.toml` by name; none where there is no folder.
fn folder(path: &Path) -> Result<BTreeMap<OsString, PathBuf>, Failure> {
    let failed = |error: io::Error| {
        Failure::new(
            exit::FAILED,
            format!("cannot look into {}: {error}", path.display()),
        )
    };
    let entries = match path.read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let file = entry.path();
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden && file.extension().is_some_and(|extension| extension == "toml") {
            files.insert(entry.file_name(), file);
        }
    }
    Ok(files)
}
