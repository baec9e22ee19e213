//! `ctm validate`: what is wrong with definitions and profiles, and what would put it right.

use super::Code;
use crate::definitions::LoadError;
use crate::layout::Layout;
use crate::plan::validate::{self, Files, Machine};
use crate::{cli, definitions, diff, host, profiles};
use anyhow::Result;
use devbroker::config::Diagnostic;
use serde::Serialize;
use std::io::{self, Write};
use std::path::Path;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct View<'f> {
    errors: usize,
    warnings: usize,
    findings: Vec<&'f Diagnostic>,
}

pub(super) fn run(layout: &Layout, arguments: &cli::Validate) -> Result<Code> {
    let files = files(layout)?;
    for name in &arguments.names {
        if !files.definitions.contains_key(name) {
            return Err(LoadError::Unknown(name.clone()).into());
        }
    }
    let machine = match arguments.host {
        Some(description) => description.machine(),
        None => this(layout, &files)?,
    };
    let chosen = (!arguments.names.is_empty()).then_some(arguments.names.as_slice());
    let findings = validate::check(&files, &machine, layout, chosen);
    let findings: Vec<_> = findings.iter().map(|finding| &finding.diagnostic).collect();
    let errors = findings.iter().filter(|fault| fault.is_error()).count();
    let warnings = findings.len() - errors;
    let mut out = io::stdout().lock();
    if arguments.output.json {
        let view = View {
            errors,
            warnings,
            findings,
        };
        writeln!(out, "{}", serde_json::to_string_pretty(&view)?)?;
    } else {
        // What a repair prints is for `patch` alone.
        let mut told: Box<dyn Write> = if arguments.repair {
            Box::new(io::stderr().lock())
        } else {
            Box::new(&mut out)
        };
        for fault in &findings {
            writeln!(told, "{fault}")?;
        }
        let looked_at = match chosen {
            Some(chosen) => count(chosen.len(), "definition"),
            None => format!(
                "{} and {}",
                count(files.definitions.len(), "definition"),
                count(files.profiles.len(), "profile")
            ),
        };
        let found = match findings.len() {
            0 => "nothing is wrong".into(),
            _ => format!("{}, {}", count(errors, "error"), count(warnings, "warning")),
        };
        writeln!(told, "{looked_at}: {found}")?;
    }
    if arguments.repair {
        for (path, old, new) in validate::repaired(&files, &machine, layout, chosen) {
            let path = match &arguments.root.root {
                Some(root) => path.strip_prefix(root).unwrap_or(&path),
                None => path.strip_prefix("/").unwrap_or(&path),
            };
            write!(out, "{}", diff::unified(&path.to_string_lossy(), &old, &new))?;
        }
    }
    Ok(if errors == 0 { Code::Done } else { Code::Failed })
}

fn count(count: usize, of: &str) -> String {
    format!("{count} {of}{}", if count == 1 { "" } else { "s" })
}

/// All definitions and profiles that there are.
fn files(layout: &Layout) -> Result<Files> {
    let read = |path: &Path| definitions::bytes(path);
    let mut files = Files::default();
    for name in definitions::names(layout)? {
        let path = layout.definition(&name);
        // It may have been removed since.
        if let Some(bytes) = read(&path)? {
            files.definitions.insert(name, (path, bytes));
        }
    }
    for name in profiles::names(layout)? {
        let path = layout.profile(&name);
        if let Some(bytes) = read(&path)? {
            files.profiles.insert(name, (path, bytes));
        }
    }
    Ok(files)
}

/// This machine, with what the definitions ask of it.
fn this(layout: &Layout, files: &Files) -> Result<Machine> {
    let definitions: Vec<_> = files
        .definitions
        .iter()
        .filter_map(|(name, (_, bytes))| Some(definitions::parsed(layout, name, bytes).ok()?.definition))
        .collect();
    let limits = definitions.iter().flat_map(|definition| &definition.limits.io);
    Ok(host::machine(
        &layout.store,
        limits.map(|limit| &limit.device),
        definitions.iter().map(|definition| &definition.rootfs),
    )?)
}
