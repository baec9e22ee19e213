//! `ctm mount add` and `ctm mount remove`.

use super::{Code, Condition};
use crate::cli;
use crate::definition::{MountDefinition, MountSource, with_mount, without_mount};
use crate::definitions::{self, LoadError};
use crate::layout::Layout;
use crate::lock;
use crate::run::live_mount::{self, Made};
use anyhow::{Context, Result, bail};
use devbroker::model::ContainerName;
use std::io::{self, Write};
use std::path::Path;

/// `ctm mount add`: in the definition, and at once where the container runs.
pub(super) fn add(layout: &Layout, arguments: &cli::MountAdd) -> Result<Code> {
    let name = &arguments.name;
    let _lock = lock::verb(layout, name)?;
    let definition = definitions::load(layout, name)?;
    let mount = asked_for(arguments);
    if definition.mounts.iter().any(|other| other.target == mount.target) {
        bail!(
            "something is mounted on {} already; `ctm mount remove {name} {0}` takes it away",
            mount.target.display()
        );
    }
    let old = text_of(layout, name)?;
    let new = with_mount(&old, &definition.mounts, &mount).map_err(LoadError::Edit)?;
    // A definition with faults is refused before anything is done.
    definitions::parsed(layout, name, new.as_bytes())?;
    if let Some(init) = Condition::of(layout, name)?.init() {
        let ids = definition.ids;
        Made::of(&layout.run_of(name), &mount, ids, init)
            .and_then(|made| made.attach(init, ids, &mount.target))
            .with_context(|| format!("cannot mount in container {name}"))?;
    } else if arguments.runtime {
        return Err(super::Refused::NotRunning(name.clone()).into());
    }
    if !arguments.runtime {
        definitions::replace(layout, name, &new)?;
    }
    if let MountSource::Bind(source) = &mount.source {
        if !source.exists() {
            writeln!(
                io::stderr(),
                "note: {} is not there yet; {name} cannot start before it is",
                source.display()
            )?;
        }
    }
    Ok(Code::Done)
}

/// `ctm mount remove`.
pub(super) fn remove(layout: &Layout, arguments: &cli::MountRemove) -> Result<Code> {
    let name = &arguments.name;
    let _lock = lock::verb(layout, name)?;
    let definition = definitions::load(layout, name)?;
    let target = &arguments.target;
    let is_defined = definition.mounts.iter().any(|mount| mount.target == *target);
    if is_ours(target) {
        bail!("{} is mounted by ctm and stays", target.display());
    }
    let init = Condition::of(layout, name)?.init();
    if !is_defined && init.is_none() {
        bail!("nothing is mounted on {} in container {name}", target.display());
    }
    if is_defined && !arguments.runtime {
        let old = text_of(layout, name)?;
        let new = without_mount(&old, &definition.mounts, target).map_err(LoadError::Edit)?;
        definitions::replace(layout, name, &new)?;
    }
    if let Some(init) = init {
        live_mount::remove(init, target).with_context(|| format!("cannot unmount in container {name}"))?;
    }
    Ok(Code::Done)
}

fn asked_for(arguments: &cli::MountAdd) -> MountDefinition {
    let source = match (
        &arguments.source.bind,
        &arguments.source.tmpfs,
        &arguments.source.uuid,
    ) {
        (Some(path), _, _) => MountSource::Bind(path.clone()),
        (None, Some(size), _) => MountSource::Tmpfs(size.clone()),
        (None, None, uuid) => MountSource::Uuid(uuid.clone().unwrap_or_default()),
    };
    MountDefinition {
        source,
        target: arguments.target.clone(),
        read_only: arguments.read_only,
        follow: arguments.follow,
        own_ids: arguments.ids == cli::MountIds::Container,
    }
}

/// What a start mounts, definition or not.
fn is_ours(target: &Path) -> bool {
    ["/dev", "/proc", "/sys", "/run/udev"]
        .iter()
        .any(|ours| target.starts_with(ours))
        || target == Path::new("/run")
        || target == Path::new("/")
}

fn text_of(layout: &Layout, name: &ContainerName) -> Result<String> {
    String::from_utf8(definitions::bytes_of(layout, name)?)
        .with_context(|| format!("{} is not UTF-8", layout.definition(name).display()))
}
