//! `ctm destroy`.

use super::{Code, Condition, Refused, stop};
use crate::layout::Layout;
use crate::make::store;
use crate::run::failure;
use crate::run::hooks;
use crate::run::output;
use crate::run::state::Last;
use crate::{atomic, broker, cli, definitions, fail_point, lock, quota, service};
use anyhow::{Context, Result, bail};
use devbroker::host::remember;
use devbroker::model::ContainerKey;
use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Duration;

/// How long the broker may take to forget a container.
const FORGET_LIMIT: Duration = Duration::from_secs(5);

pub(super) fn run(layout: &Layout, arguments: &cli::Destroy) -> Result<Code> {
    let name = &arguments.name;
    let _lock = lock::verb(layout, name)?;
    let path = layout.definition(name);
    // A definition with faults can be destroyed as well, and what an interrupted creation left.
    if !path.exists() && !layout.stored(name).exists() {
        definitions::load(layout, name)?;
    }
    if let Condition::Supervised(state) = Condition::of(layout, name)? {
        return Err(Refused::NotDown {
            name: name.clone(),
            phase: super::phase(&state).into(),
            deed: "destroyed",
        }
        .into());
    }
    if !arguments.yes && !confirmed(layout, arguments)? {
        bail!("container {name} was kept");
    }
    stop::halt(layout, name, None)?;
    // Files elsewhere stay, and are limited no longer.
    if let Some(elsewhere) = definitions::load(layout, name)
        .ok()
        .map(|definition| quota::folder_of(layout, &definition))
        .filter(|folder| *folder != layout.stored(name))
    {
        quota::release(&elsewhere)?.finish();
    }
    // The definition goes first: whatever is left without one is swept by the next create or destroy of that name.
    atomic::remove(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    fail_point::reached("destroy", "undefined");
    store::clear(&layout.stored(name))?;
    fail_point::reached("destroy", "cleared");
    hooks::forget(layout, name)?;
    if let Err(error) = broker::withdraw(name, true, FORGET_LIMIT) {
        tracing::debug!(container = %name, %error, "the broker was not told that the container is gone");
    }
    // Under the lock on this name, so that no container made anew under it is meant. The broker may have done it already.
    let key = ContainerKey {
        container: broker::reference(name),
        owner: 0,
    };
    remember::forget_in(&layout.permissions, &key).context("forget permissions set inside")?;
    // Remarks of earlier runs; /run is emptied at the next boot anyway.
    failure::forget(layout, name).ok();
    fs::remove_file(layout.beside(".log", name)).ok();
    Last::forget(layout, name);
    output::forget(layout, name);
    if service::is_available() {
        service::forget_failure(name)?;
    }
    Ok(Code::Done)
}

fn confirmed(layout: &Layout, arguments: &cli::Destroy) -> Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("nobody is there to ask; say --yes");
    }
    let name = &arguments.name;
    write!(
        io::stderr(),
        "remove container {name} and {} for good? [y/N] ",
        layout.stored(name).display()
    )?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
