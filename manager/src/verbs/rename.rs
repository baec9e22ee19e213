//! `ctm rename`.
//!
//! The new definition is written before the files move, and the old one goes last: whenever the power goes, the files belong
//! to a definition, and the same command again goes on where it was.

use super::create::cloned_text;
use super::{Code, Condition, Refused, stop};
use crate::cli;
use crate::definition::{Definition, Edit, Start};
use crate::definitions::{self, LoadError};
use crate::layout::Layout;
use crate::run::hooks;
use crate::{atomic, broker, fail_point, lock, service};
use anyhow::{Context, Result, bail};
use devbroker::daemon::Paths;
use devbroker::host::remember;
use devbroker::model::{ContainerKey, ContainerName};
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

pub(super) fn run(layout: &Layout, arguments: &cli::Rename) -> Result<Code> {
    let (old, new) = (&arguments.name, &arguments.new_name);
    if old == new {
        return Ok(Code::Done);
    }
    // Always in the same order, so that two of us never wait for each other.
    let (first, second) = if old < new { (old, new) } else { (new, old) };
    let _first = lock::verb(layout, first)?;
    let _second = lock::verb(layout, second)?;
    let before = definitions::load(layout, old)?;
    if let Condition::Supervised(state) | Condition::Abandoned(state) = Condition::of(layout, old)? {
        return Err(Refused::NotDown {
            name: old.clone(),
            phase: super::phase(&state).into(),
            deed: "renamed",
        }
        .into());
    }
    if !stop::is_down(layout, old)? {
        return Err(Refused::NotDown {
            name: old.clone(),
            phase: "starting again".into(),
            deed: "renamed",
        }
        .into());
    }
    let after = renamed(layout, &before, new);
    let text = cloned_text(&text_of(layout, old)?, &before, &after)?;
    definitions::parsed(layout, new, text.as_bytes())?;
    if !is_begun(layout, new, &text)? {
        atomic::write_new(&layout.definition(new), text.as_bytes(), 0o644)
            .with_context(|| format!("cannot write {}", layout.definition(new).display()))?;
    }
    fail_point::reached("rename", "defined");
    moved(&layout.stored(old), &layout.stored(new))?;
    fail_point::reached("rename", "moved");
    moved(&layout.booted(old), &layout.booted(new))?;
    for turn in hooks::TURNS {
        let ([_, from], [_, to]) = (
            layout.hooks_of(old, &turn.to_string()),
            layout.hooks_of(new, &turn.to_string()),
        );
        moved(&from, &to)?;
    }
    let key = |name: &ContainerName| ContainerKey {
        container: broker::reference(name),
        owner: 0,
    };
    remember::rename_in(&layout.permissions, &key(old), &key(new))?;
    fail_point::reached("rename", "known");
    let path = layout.definition(old);
    atomic::remove(&path).with_context(|| format!("cannot remove {}", path.display()))?;

    let followed = follow(layout, old, new)?;
    if service::is_available() {
        service::forget_failure(old)?;
        if followed || before.start != Start::Manual {
            service::reload()?;
        }
    }
    tell_of_grants(old, new)?;
    Ok(Code::Done)
}

/// What it is under its new name: what it was, except for what its name made it.
fn renamed(layout: &Layout, before: &Definition, name: &ContainerName) -> Definition {
    let usual = |name: &ContainerName| Definition::new(name.clone(), before.ids, layout);
    let mut after = Definition {
        name: name.clone(),
        ..before.clone()
    };
    if before.hostname == usual(&before.name).hostname {
        after.hostname = usual(name).hostname;
    }
    if before.rootfs == layout.rootfs(&before.name) {
        after.rootfs = layout.rootfs(name);
    }
    after
}

fn text_of(layout: &Layout, name: &ContainerName) -> Result<String> {
    String::from_utf8(definitions::bytes_of(layout, name)?)
        .with_context(|| format!("{} is not UTF-8", layout.definition(name).display()))
}

/// Whether the new definition is there because the same renaming was interrupted.
fn is_begun(layout: &Layout, new: &ContainerName, text: &str) -> Result<bool> {
    match definitions::bytes_of(layout, new) {
        Err(LoadError::Unknown(_)) if layout.stored(new).exists() => bail!(
            "{} is in the way; `ctm destroy {new}` removes it",
            layout.stored(new).display()
        ),
        Err(LoadError::Unknown(_)) => Ok(false),
        Ok(bytes) if bytes == text.as_bytes() => Ok(true),
        Ok(_) => Err(Refused::Exists {
            name: new.clone(),
            definition: layout.definition(new),
        }
        .into()),
        Err(error) => Err(error.into()),
    }
}

/// Renames a file or folder, unless that was done; never over another.
fn moved(from: &Path, to: &Path) -> Result<()> {
    match rustix::fs::renameat_with(
        rustix::fs::CWD,
        from,
        rustix::fs::CWD,
        to,
        rustix::fs::RenameFlags::NOREPLACE,
    ) {
        Ok(()) => {
            if let Some(folder) = to.parent() {
                fs::File::open(folder)
                    .and_then(|folder| folder.sync_all())
                    .with_context(|| format!("cannot write {}", folder.display()))?;
            }
            Ok(())
        }
        Err(e) if io::Error::from(e).kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(io::Error::from(e))
            .with_context(|| format!("cannot rename {} to {}", from.display(), to.display())),
    }
}

/// Containers that start after it go on doing so. Whether there was one.
fn follow(layout: &Layout, old: &ContainerName, new: &ContainerName) -> Result<bool> {
    let mut any = false;
    for name in definitions::names(layout)? {
        let names_old = |definition: &Definition| definition.after.contains(old);
        if !definitions::load(layout, &name).is_ok_and(|definition| names_old(&definition)) {
            continue;
        }
        let _lock = lock::verb(layout, &name)?;
        let definition = definitions::load(layout, &name)?;
        let after: toml_edit::Array = definition
            .after
            .iter()
            .map(|other| {
                if other == old {
                    new.as_str()
                } else {
                    other.as_str()
                }
            })
            .collect();
        let text = Edit::new("after", Some(after.into()))?.apply(&text_of(layout, &name)?)?;
        definitions::replace(layout, &name, &text)?;
        any = true;
    }
    Ok(any)
}

/// A grant is the administrator's to change: a name in it is not a container but who may have a device.
fn tell_of_grants(old: &ContainerName, new: &ContainerName) -> Result<()> {
    let (old, new) = (broker::reference(old), broker::reference(new));
    for grant in Paths::default().loader().look().config.grants {
        if grant.container.matches(&old) && !grant.container.matches(&new) {
            writeln!(
                io::stderr(),
                "{}:{} grants {} to {old} and not to {new}; change it there",
                grant.origin.file.display(),
                grant.origin.line,
                grant.alias
            )?;
        }
    }
    Ok(())
}
