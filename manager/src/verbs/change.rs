//! `ctm set`, `ctm edit` and `ctm config`: a definition changed by one value, by hand, or shown.

use super::{Code, Condition};
use crate::cli;
use crate::definition::{Edit, Effect, KEYS, Start};
use crate::definitions::{self, LoadError};
use crate::layout::Layout;
use crate::{atomic, lock, service};
use anyhow::{Context, Result, bail};
use devbroker::model::ContainerName;
use serde::Serialize;
use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// `ctm set`: all changes or none.
pub(super) fn set(layout: &Layout, arguments: &cli::Set) -> Result<Code> {
    apply(layout, &arguments.name, &arguments.changes)
}

/// `ctm enable`.
pub(super) fn enable(layout: &Layout, arguments: &cli::Enable) -> Result<Code> {
    let start = arguments.on.clone().map_or(Start::Boot, Start::Device);
    apply(layout, &arguments.name, &[started_by(&start)?])
}

/// `ctm disable`.
pub(super) fn disable(layout: &Layout, name: &ContainerName) -> Result<Code> {
    apply(layout, name, &[started_by(&Start::Manual)?])
}

fn started_by(start: &Start) -> Result<Edit> {
    Ok(Edit::new("start", Some(start.to_string().into()))?)
}

fn apply(layout: &Layout, name: &ContainerName, changes: &[Edit]) -> Result<Code> {
    let _lock = lock::verb(layout, name)?;
    let before = definitions::load_with_origins(layout, name)?.definition;
    let old = text_of(layout, name)?;
    let text = changes
        .iter()
        .try_fold(old.clone(), |text, edit| edit.apply(&text))
        .map_err(LoadError::Edit)?;
    if text == old {
        return Ok(Code::Done);
    }
    let after = definitions::replace(layout, name, &text)
        .with_context(|| format!("the definition of {name} was not changed"))?
        .definition;
    took_effect(layout, name, |key| {
        (key.show)(&before).to_string() != (key.show)(&after).to_string()
    })
}

/// Brings a change of the file to where it counts, and says where it does not yet.
fn took_effect(
    layout: &Layout,
    name: &ContainerName,
    changed: impl Fn(&crate::definition::Key) -> bool,
) -> Result<Code> {
    let later: Vec<_> = KEYS
        .iter()
        .filter(|key| key.effect == Effect::NextStart && changed(key))
        .map(|key| key.name)
        .collect();
    if !later.is_empty() && Condition::of(layout, name)?.init().is_some() {
        writeln!(
            io::stderr(),
            "{name} runs; counts at its next start: {}",
            later.join(", ")
        )?;
    }
    // What starts it is systemd's to know.
    let starts = KEYS
        .iter()
        .any(|key| matches!(key.name, "start" | "boot_order" | "after") && changed(key));
    if starts && service::is_available() {
        service::reload()?;
    }
    Ok(Code::Done)
}

fn text_of(layout: &Layout, name: &ContainerName) -> Result<String> {
    String::from_utf8(definitions::bytes_of(layout, name)?)
        .with_context(|| format!("{} is not UTF-8", layout.definition(name).display()))
}

/// `ctm edit`: an editor on a copy; the copy takes the definition's place once it has no faults.
pub(super) fn edit(layout: &Layout, name: &ContainerName) -> Result<Code> {
    let old = definitions::bytes_of(layout, name)?;
    let copy = Copy::of(layout, name, &old)?;
    loop {
        edited(&copy.0)?;
        let new = fs::read(&copy.0).with_context(|| format!("cannot read {}", copy.0.display()))?;
        if new == old {
            writeln!(io::stderr(), "{name}: nothing was changed")?;
            return Ok(Code::Done);
        }
        match definitions::parsed(layout, name, &new) {
            Ok(after) => {
                let _lock = lock::verb(layout, name)?;
                if definitions::bytes_of(layout, name)? != old {
                    bail!(
                        "{} was changed by someone else meanwhile and was left as it is; your text is in {}",
                        layout.definition(name).display(),
                        copy.keep().display()
                    );
                }
                let before = definitions::load(layout, name).ok();
                definitions::replace(layout, name, &String::from_utf8_lossy(&new))?;
                return took_effect(layout, name, |key| {
                    before.as_ref().is_none_or(|before| {
                        (key.show)(before).to_string() != (key.show)(&after.definition).to_string()
                    })
                });
            }
            Err(error) => {
                writeln!(io::stderr(), "{error}")?;
                if !io::stdin().is_terminal() || !again()? {
                    bail!(
                        "the definition of {name} was not changed; your text is in {}",
                        copy.keep().display()
                    );
                }
            }
        }
    }
}

/// The copy that is edited; gone afterwards unless it is kept.
struct Copy(PathBuf);

impl Copy {
    fn of(layout: &Layout, name: &ContainerName, bytes: &[u8]) -> Result<Self> {
        let path = layout.beside(".edit", name).with_extension("toml");
        if let Some(folder) = path.parent() {
            atomic::folder(folder, 0o700).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        atomic::write(&path, bytes, 0o600).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(path))
    }

    /// Leaves the copy for a person to find.
    fn keep(&self) -> PathBuf {
        let kept = self.0.with_extension("toml.rejected");
        match fs::rename(&self.0, &kept) {
            Ok(()) => kept,
            Err(_) => self.0.clone(),
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // Kept, or below /run, which the next boot empties.
        fs::remove_file(&self.0).ok();
    }
}

/// Runs the editor that the caller prefers, as a shell would: it may have arguments.
fn edited(path: &Path) -> Result<()> {
    let editor = ["VISUAL", "EDITOR"]
        .into_iter()
        .find_map(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
        .unwrap_or_else(|| OsString::from("editor"));
    let mut script = editor.clone();
    script.push(" \"$1\"");
    let status = Command::new("/bin/sh")
        .arg("-c")
        .arg(script)
        .arg("sh")
        .arg(path)
        .status()
        .context("cannot run /bin/sh")?;
    if !status.success() {
        bail!(
            "the editor `{}` failed ({status}); nothing was changed",
            editor.to_string_lossy()
        );
    }
    Ok(())
}

fn again() -> Result<bool> {
    write!(io::stderr(), "edit again? [Y/n] ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(!matches!(answer.trim(), "n" | "N" | "no"))
}

/// One value of the effective definition.
#[derive(Debug, Serialize)]
struct Effective {
    key: &'static str,
    /// As TOML.
    value: String,
    /// The file that says it; none: it is the usual one.
    file: Option<PathBuf>,
    line: Option<u32>,
}

/// `ctm config`: every value and where it is from.
pub(super) fn config(layout: &Layout, arguments: &cli::Status) -> Result<Code> {
    let parsed = definitions::load_with_origins(layout, &arguments.name)?;
    let values: Vec<_> = KEYS
        .iter()
        .map(|key| {
            let origin = parsed.origins.get(key.name);
            Effective {
                key: key.name,
                value: (key.show)(&parsed.definition).to_string().trim().into(),
                file: origin.map(|origin| origin.file.clone()),
                line: origin.map(|origin| origin.line),
            }
        })
        .collect();
    let mut out = io::stdout().lock();
    if arguments.output.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&values)?)?;
        return Ok(Code::Done);
    }
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
    Ok(Code::Done)
}
