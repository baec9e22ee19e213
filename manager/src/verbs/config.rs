//! `ctm config`, and what `ctm profile show` has in common with it: values, and which file says them.

use super::Code;
use crate::cli;
use crate::definition::{Definition, KEYS, Parsed};
use crate::definitions;
use crate::layout::Layout;
use crate::run::privilege;
use anyhow::Result;
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;

/// One value of the effective definition.
#[derive(Debug, Serialize)]
pub(super) struct Effective {
    key: &'static str,
    /// As TOML.
    value: String,
    /// The file that says it; none: it is the usual one.
    file: Option<PathBuf>,
    line: Option<u32>,
}

/// Every value and where it is from; `usual`: also those that nobody says.
pub(super) fn effective(parsed: &Parsed, usual: bool) -> Vec<Effective> {
    KEYS.iter()
        .filter(|key| usual || parsed.origins.contains_key(key.name))
        .map(|key| {
            let origin = parsed.origins.get(key.name);
            Effective {
                key: key.name,
                value: (key.show)(&parsed.definition).to_string().trim().into(),
                file: origin.map(|origin| origin.file.clone()),
                line: origin.map(|origin| origin.line),
            }
        })
        .collect()
}

/// A line for each value.
pub(super) fn show(values: &[Effective], out: &mut impl Write) -> io::Result<()> {
    let lines: Vec<_> = values
        .iter()
        .map(|value| (format!("{} = {}", value.key, value.value), value))
        .collect();
    let width = lines
        .iter()
        .map(|(text, _)| text.chars().count())
        .filter(|width| *width <= 60)
        .max()
        .unwrap_or(0);
    for (text, value) in lines {
        match (&value.file, value.line) {
            (Some(file), Some(line)) => writeln!(out, "{text:width$}  # {}:{line}", file.display())?,
            _ => writeln!(out, "{text:width$}  # usual")?,
        }
    }
    Ok(())
}

/// `ctm config`: every value and where it is from.
pub(super) fn config(layout: &Layout, arguments: &cli::Config) -> Result<Code> {
    let parsed = definitions::load_with_origins(layout, &arguments.name)?;
    let values = effective(&parsed, true);
    let mut out = io::stdout().lock();
    if arguments.output.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&values)?)?;
        return Ok(Code::Done);
    }
    show(&values, &mut out)?;
    let Definition {
        ids, capabilities, ..
    } = &parsed.definition;
    for how in privilege::unconfined(*ids, capabilities) {
        writeln!(out, "# not confined: {how}")?;
    }
    Ok(Code::Done)
}
