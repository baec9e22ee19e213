//! What is wrong with definitions and profiles beyond what each value says of itself: contradictions within one, and what all
//! of them together ask of the host. Also what would put it right. Pure: texts and a machine in, findings and texts out.

mod machine;
mod own;
mod repair;
mod together;

pub(crate) use machine::{DiskKept, FileSystem, Machine};
pub(crate) use own::{NO_WEIGHTS, WEIGHTS_REMEDY};
pub(crate) use repair::repaired;

use crate::definition::{Definition, Edit, Parsed, Text, key, parse, parse_profile, profile_of};
use crate::layout::Layout;
use crate::quantity::{Limit, Size};
use devbroker::config::{Diagnostic, Source};
use devbroker::model::{ContainerName, Origin};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// All definitions and profiles: path and bytes by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Files {
    pub(crate) definitions: BTreeMap<ContainerName, (PathBuf, Vec<u8>)>,
    pub(crate) profiles: BTreeMap<ContainerName, (PathBuf, Vec<u8>)>,
}

/// Something that is wrong, and what would put it right.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub(crate) diagnostic: Diagnostic,
    /// In which file, and what there.
    repairs: Vec<(PathBuf, Edit)>,
}

impl From<Diagnostic> for Finding {
    fn from(diagnostic: Diagnostic) -> Self {
        Self {
            diagnostic,
            repairs: Vec::new(),
        }
    }
}

impl Finding {
    /// With what puts it right, if that can be said.
    fn repaired(mut self, file: &Path, name: &str, value: toml_edit::Value) -> Self {
        // Only keys that there are are repaired.
        self.repairs
            .extend(Edit::new(name, Some(value)).ok().map(|edit| (file.into(), edit)));
        self
    }
}

/// A definition or a profile that could be read.
#[derive(Debug)]
struct Read<'f> {
    /// Its file.
    path: &'f Path,
    parsed: Parsed,
}

impl Read<'_> {
    fn definition(&self) -> &Definition {
        &self.parsed.definition
    }

    /// Where a key is said.
    fn origin(&self, name: &str) -> Option<&Origin> {
        self.parsed.origins.get(name)
    }

    /// A value as it is written, if it is said.
    fn value(&self, name: &str) -> Option<toml_edit::Value> {
        self.origin(name)?;
        let mut value = (key(name)?.show)(self.definition());
        value.decor_mut().clear();
        Some(value)
    }

    /// An amount, if it is said and, where it is a share of something, that is known.
    fn amount(&self, name: &str, machine: &Machine) -> Option<Limit> {
        let value = self.value(name)?;
        if let Some(number) = value.as_integer() {
            return u64::try_from(number).ok().map(Limit::At);
        }
        let size: Size = value.as_str()?.parse().ok()?;
        let whole = match name {
            "swap_limit" => Some(machine.swap),
            name if name.starts_with("disk_") => machine.disk_of(self.definition()).size,
            _ => Some(machine.memory),
        };
        match (size, whole) {
            (Size::Share(_), None) => None,
            (size, whole) => Some(size.of(whole.unwrap_or(0))),
        }
    }
}

/// All that is wrong, by file and line. `chosen`: only what is wrong within these containers' definitions.
pub(crate) fn check(
    files: &Files,
    machine: &Machine,
    layout: &Layout,
    chosen: Option<&[ContainerName]>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if chosen.is_none() {
        for (name, (path, bytes)) in &files.profiles {
            match parse_profile(name, Text { path, bytes }, layout) {
                Ok(parsed) => findings.extend(own::check(&Read { path, parsed }, machine)),
                Err(faults) => findings.extend(faults.0.into_iter().map(Finding::from)),
            }
        }
    }
    let mut all = Vec::new();
    for (name, (path, bytes)) in &files.definitions {
        if chosen.is_some_and(|chosen| !chosen.contains(name)) {
            continue;
        }
        let wanted = profile_of(bytes);
        let profile = wanted.as_ref().and_then(|profile| files.profiles.get(profile));
        let profile = profile.map(|(path, bytes)| Text { path, bytes });
        let is_lost = wanted.is_some() && profile.is_none();
        match parse(name, profile, Text { path, bytes }, layout) {
            Ok(parsed) => {
                let read = Read { path, parsed };
                findings.extend(own::check(&read, machine));
                if is_lost {
                    findings.extend(lost(&read));
                }
                all.push(read);
            }
            Err(faults) => findings.extend(faults.0.into_iter().map(Finding::from)),
        }
    }
    if chosen.is_none() {
        findings.extend(together::check(&all, machine));
    }
    for finding in &mut findings {
        show_line(&mut finding.diagnostic, files);
    }
    // What a profile says wrongly is found with each container that has it.
    findings.sort_by(|a, b| place(&a.diagnostic).cmp(&place(&b.diagnostic)));
    findings.dedup_by(|a, b| place(&a.diagnostic) == place(&b.diagnostic));
    findings
}

fn place(diagnostic: &Diagnostic) -> (&Path, u32, u32, &str) {
    let Diagnostic {
        origin,
        column,
        message,
        ..
    } = diagnostic;
    (&origin.file, origin.line, *column, message)
}

fn lost(read: &Read<'_>) -> Option<Finding> {
    let profile = read.definition().profile.as_ref()?;
    let fault = Diagnostic::at(
        read.origin("profile")?.clone(),
        format!("there is no profile `{profile}`, and the container cannot start"),
    );
    Some(fault.help("`ctm profile list` shows those that there are").into())
}

/// Shows the line that a finding is about, where it is not shown yet.
fn show_line(diagnostic: &mut Diagnostic, files: &Files) {
    let Origin { file, line } = &diagnostic.origin;
    let mut all = files.definitions.values().chain(files.profiles.values());
    let text = all
        .find(|(path, _)| path == file)
        .and_then(|(_, bytes)| std::str::from_utf8(bytes).ok());
    let (Some(text), Some(index), None) = (text, line.checked_sub(1), &diagnostic.excerpt) else {
        return;
    };
    let start: usize = text
        .split_inclusive('\n')
        .take(index as usize)
        .map(str::len)
        .sum();
    let line = text.get(start..).and_then(|rest| rest.lines().next());
    let Some(line) = line else { return };
    let indent = line.len() - line.trim_start().len();
    let span = start + indent..start + line.trim_end().len();
    let shown = Source::new(file, text).error(&span, "");
    (diagnostic.column, diagnostic.excerpt) = (shown.column, shown.excerpt);
}

#[cfg(test)]
mod tests;
