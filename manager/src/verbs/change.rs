//! `ctm set` and `ctm edit`: a definition changed by single values, or by hand.

use super::{Code, Condition, init};
use crate::cli;
use crate::definition::{Definition, Edit, Effect, KEYS, Key, Start};
use crate::definitions::{self, LoadError};
use crate::layout::Layout;
use crate::quota::{self, Activity};
use crate::run::state::State;
use crate::run::{limit, needs, network};
use crate::{atomic, lock, service};
use anyhow::{Context, Result, bail};
use devbroker::model::ContainerName;
use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// `ctm set`: all changes or none.
pub(super) fn set(layout: &Layout, arguments: &cli::Set) -> Result<Code> {
    if apply(layout, &arguments.name, &arguments.changes)? {
        tell_systemd()?;
    }
    Ok(Code::Done)
}

/// `ctm enable`.
pub(super) fn enable(layout: &Layout, arguments: &cli::Enable) -> Result<Code> {
    started_by(
        layout,
        &arguments.names,
        &arguments.on.clone().map_or(Start::Boot, Start::Device),
    )
}

/// `ctm disable`.
pub(super) fn disable(layout: &Layout, names: &[ContainerName]) -> Result<Code> {
    started_by(layout, names, &Start::Manual)
}

/// systemd takes its time to read its units anew, so it does so once for all of them, also where one cannot be changed.
fn started_by(layout: &Layout, names: &[ContainerName], start: &Start) -> Result<Code> {
    let edit = Edit::new("start", Some(start.to_string().into()))?;
    let mut any = false;
    let done = names.iter().try_for_each(|name| {
        any |= apply(layout, name, std::slice::from_ref(&edit))?;
        Ok(())
    });
    if any {
        tell_systemd()?;
    }
    done.map(|()| Code::Done)
}

/// Has systemd read anew what starts which container.
pub(super) fn tell_systemd() -> Result<()> {
    if service::is_available() {
        service::reload()?;
    }
    Ok(())
}

/// Changes a definition; whether systemd has to be told.
pub(super) fn apply(layout: &Layout, name: &ContainerName, changes: &[Edit]) -> Result<bool> {
    let _lock = lock::verb(layout, name)?;
    let before = definitions::load(layout, name)?;
    let old = text_of(layout, name)?;
    let with = |text: String, edits: &[Edit]| {
        let mut edits = edits.iter();
        edits
            .try_fold(text, |text, edit| edit.apply(&text))
            .map_err(LoadError::Edit)
    };
    let mut text = with(old.clone(), changes)?;
    let mut following = init::following(layout, &before, &text)
        .with_context(|| format!("the definition of {name} was not changed"))?;
    following.retain(|edit| changes.iter().all(|change| change.key.name != edit.key.name));
    text = with(text, &following)?;
    if text == old {
        return Ok(false);
    }
    let after = replace(layout, name, Some(&before), &text)?;
    for edit in following {
        let value = (edit.key.show)(&after);
        writeln!(
            io::stderr(),
            "{name}: {} is {} with this init",
            edit.key.name,
            value.to_string().trim()
        )?;
    }
    say_what_waits(layout, Some(&before), &after)?;
    if before.addresses != after.addresses && !layout.offline {
        say_what_is_not_passed_on(&after)?;
    }
    Ok(is_systemds(Some(&before), &after))
}

/// Writes a definition in which what counts at once does so. The file system and the kernel are told first: what they cannot keep
/// is not in the definition then.
fn replace(
    layout: &Layout,
    name: &ContainerName,
    before: Option<&Definition>,
    text: &str,
) -> Result<Definition> {
    let unchanged = || format!("the definition of {name} was not changed");
    let after = definitions::parsed(layout, name, text.as_bytes())
        .with_context(unchanged)?
        .definition;
    let condition = Condition::of(layout, name)?;
    let other_addresses = before.is_none_or(|before| before.addresses != after.addresses);
    // Whose an address is follows from all definitions, so no other may be written in between.
    let _addresses = other_addresses.then(|| lock::ids(layout)).transpose()?;
    if other_addresses && !layout.offline {
        network::check_taken(layout, name, &after.addresses).with_context(unchanged)?;
    }
    follow(layout, &condition, before, &after).with_context(unchanged)?;
    if let Err(error) = definitions::replace(layout, name, text) {
        if let Some(before) = before {
            follow(layout, &condition, Some(&after), before)?;
        }
        return Err(error).with_context(unchanged);
    }
    Ok(after)
}

/// Has the limits of a definition count: those on disk, and, where the container runs, all others. Where one of them cannot be, all
/// are as before.
pub(super) fn follow(
    layout: &Layout,
    condition: &Condition,
    before: Option<&Definition>,
    after: &Definition,
) -> Result<()> {
    if layout.offline {
        return Ok(());
    }
    let activity = match condition {
        Condition::Stopped => Activity::Stopped,
        Condition::Supervised(_) | Condition::Abandoned(_) => Activity::Running,
    };
    quota::follow(layout, before, after, activity)?;
    if before.is_none_or(|before| before.limits.io_weight != after.limits.io_weight) {
        limit::warn(after);
    }
    // One that cannot be read says nothing of what there was before.
    let (Some(before), Condition::Supervised(state), Some(_)) = (before, condition, condition.init()) else {
        return Ok(());
    };
    let held = needs::check_limits(after)
        .map_err(anyhow::Error::from)
        .and_then(|()| Ok(limit::change(layout, state, before, after)?));
    let held = held.and_then(|()| {
        let routed = rerouted(layout, state, before, after);
        if routed.is_err() {
            limit::change(layout, state, after, before)?;
        }
        routed
    });
    if held.is_err() {
        quota::follow(layout, Some(after), before, activity)?;
    }
    held
}

/// Has the addresses of a running container be those of another definition.
fn rerouted(layout: &Layout, state: &State, before: &Definition, after: &Definition) -> Result<()> {
    if before.addresses != after.addresses {
        needs::check_network(after)?;
        network::change(layout, state, before, after)?;
    }
    Ok(())
}

/// Says what keeps a container's addresses from being reached from elsewhere: the host's settings are the administrator's.
pub(super) fn say_what_is_not_passed_on(definition: &Definition) -> Result<()> {
    if let Some(text) = network::not_passed_on(&definition.addresses) {
        writeln!(io::stderr(), "warning: {text}")?;
    }
    Ok(())
}

/// Says which changes do not count yet.
pub(super) fn say_what_waits(layout: &Layout, before: Option<&Definition>, after: &Definition) -> Result<()> {
    let later: Vec<_> = KEYS
        .iter()
        .filter(|key| key.effect == Effect::NextStart && differs(key, before, after))
        .map(|key| key.name)
        .collect();
    if !later.is_empty() && Condition::of(layout, &after.name)?.init().is_some() {
        writeln!(
            io::stderr(),
            "{} runs; counts at its next start: {}",
            after.name,
            later.join(", ")
        )?;
    }
    Ok(())
}

/// Whether a key has another value.
pub(super) fn differs(key: &Key, before: Option<&Definition>, after: &Definition) -> bool {
    before.is_none_or(|before| (key.show)(before).to_string() != (key.show)(after).to_string())
}

/// Whether a change concerns what starts the container.
fn is_systemds(before: Option<&Definition>, after: &Definition) -> bool {
    before.is_none_or(|before| {
        before.start != after.start
            || before.addresses.is_empty() != after.addresses.is_empty()
            || before.after != after.after
            || (after.start == Start::Boot && before.boot_order != after.boot_order)
    })
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
            Ok(_) => {
                let _lock = lock::verb(layout, name)?;
                if definitions::bytes_of(layout, name)? != old {
                    bail!(
                        "{} was changed by someone else meanwhile and was left as it is; your text is in {}",
                        layout.definition(name).display(),
                        copy.keep().display()
                    );
                }
                let before = definitions::load(layout, name).ok();
                let after = replace(layout, name, before.as_ref(), &String::from_utf8_lossy(&new))?;
                say_what_waits(layout, before.as_ref(), &after)?;
                if is_systemds(before.as_ref(), &after) {
                    tell_systemd()?;
                }
                return Ok(Code::Done);
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
