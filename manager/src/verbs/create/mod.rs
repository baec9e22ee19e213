//! `ctm create`.

mod definition;
mod source;

pub(super) use definition::cloned_text;

use super::{Code, Refused};
use crate::cli;
use crate::definition::Definition;
use crate::definitions::{self, LoadError};
use crate::ids::{self, IdBlock, Ids};
use crate::layout::Layout;
use crate::lock;
use crate::lock::Sharing;
use crate::make::base::{self, Base};
use crate::make::ownership::OwnershipError;
use crate::make::progress::Progress;
use crate::make::store;
use crate::make::work::{Interrupts, Watcher};
use crate::plan::{self, Origin, Step};
use crate::run::clean;
use crate::run::hooks;
use crate::run::network;
use crate::run::overlay;
use crate::runner::Runner;
use anyhow::{Context, Result, bail};
use source::{Found, NewBase, Source};
use std::fs;
use std::io::{self, Write};

pub(super) fn run(layout: &Layout, arguments: &cli::Create) -> Result<Code> {
    let name = &arguments.name;
    // In the order of their names, so that two that clone each other do not wait for each other.
    let mut names = vec![name];
    names.extend(&arguments.source.clone);
    names.sort();
    names.dedup();
    let _locks = names
        .into_iter()
        .map(|name| lock::verb(layout, name))
        .collect::<Result<Vec<_>, _>>()?;
    match definitions::load(layout, name) {
        Err(LoadError::Unknown(_)) => {}
        Ok(_) | Err(_) => {
            return Err(Refused::Exists {
                name: name.clone(),
                definition: layout.definition(name),
            }
            .into());
        }
    }
    let found = source::find(layout, arguments)?;
    // All that can be refused is, before the long work begins.
    let ids = if found.own_ids(arguments) {
        Ids::Block(free_ids(layout)?)
    } else {
        Ids::Host
    };
    let mut definition = definition::of(layout, arguments, ids, &found)?;
    check_addresses(layout, &definition)?;
    if arguments.dry_run {
        return shown(layout, &definition, &found);
    }
    // What an interrupted creation left: nothing refers to it.
    let Some(_run) = lock::run(layout, name)? else {
        bail!("something still runs in a container {name} that is not there; `ctm stop {name}` ends it");
    };
    clean::after_crash(layout, name)?;
    store::clear(&layout.stored(name))?;
    hooks::forget(layout, name)?;
    base::sweep(layout)?;

    let watcher = Watcher {
        progress: Progress::new(),
        interrupts: Some(Interrupts::heeded().context("cannot wait for signals")?),
    };
    let mut runner = Runner::watched(layout, name, watcher);
    let made = make(layout, &mut runner, &found, &mut definition);
    drop(runner);
    made.with_context(|| format!("cannot create container {name}"))?;
    let mut out = io::stdout().lock();
    writeln!(out, "created {name}: {}", layout.definition(name).display())?;
    Ok(Code::Done)
}

/// The steps, none of them taken.
fn shown(layout: &Layout, definition: &Definition, found: &Found) -> Result<Code> {
    let mut definition = definition.clone();
    let origin = match &found.source {
        Source::Base(new) => {
            definition.base = Some(new.base.id.clone());
            Origin::Base
        }
        Source::Files(origin) => origin.clone(),
    };
    let mut out = io::stdout().lock();
    if let Source::Base(new) = &found.source {
        let steps = new
            .material
            .iter()
            .flat_map(|material| plan::base(&new.base, material, layout));
        for step in steps {
            writeln!(out, "{step}")?;
        }
    }
    for step in plan::create(&definition, &origin, &found.finish, String::new(), layout)? {
        writeln!(out, "{step}")?;
    }
    Ok(Code::Done)
}

fn make(layout: &Layout, runner: &mut Runner<'_>, found: &Found, definition: &mut Definition) -> Result<()> {
    let origin = match &found.source {
        Source::Files(origin) => origin.clone(),
        Source::Base(new) => {
            let base = ready(layout, runner, new)?;
            on_base(layout, definition, &base)?
        }
    };
    // Host ids are chosen by looking at all definitions, and so is whose an address is, so no other may be written in between.
    let _ids = lock::ids(layout)?;
    if definition.ids != Ids::Host {
        definition.ids = Ids::Block(free_ids(layout)?);
    }
    check_addresses(layout, definition)?;
    carry_out(layout, runner, found, definition, &origin)
}

/// The base, made if it was not there yet.
fn ready(layout: &Layout, runner: &mut Runner<'_>, new: &NewBase) -> Result<Base> {
    if let Some(material) = &new.material {
        let steps = plan::base(&new.base, material, layout);
        if let Err(error) = steps.iter().try_for_each(|step| runner.take(step)) {
            undo(runner, &steps);
            return Err(error).context("cannot make its base system");
        }
        new.lock.share(Sharing::Shared)?;
    }
    base::load(layout, &new.base.id)?
        .with_context(|| format!("the base system {} was removed meanwhile; try again", new.base.id))
}

/// Has the container share the base where that can be, and have a copy of it elsewhere.
fn on_base(layout: &Layout, definition: &mut Definition, base: &Base) -> Result<Origin> {
    if let (Ids::Block(_), Some((path, id))) = (definition.ids, &base.beyond) {
        return Err(OwnershipError::Owner {
            path: path.clone(),
            id: *id,
        }
        .into());
    }
    let rootfs = layout.base_rootfs(&base.id);
    if overlay::works(&rootfs, &base::probe(layout, &definition.name), definition.ids)? {
        definition.base = Some(base.id.clone());
        return Ok(Origin::Base);
    }
    tracing::info!("this kernel or file system cannot show a base system under other ids; it is copied");
    Ok(Origin::Copied {
        from: rootfs,
        ids: Ids::Host,
    })
}

fn carry_out(
    layout: &Layout,
    runner: &mut Runner<'_>,
    found: &Found,
    definition: &mut Definition,
    origin: &Origin,
) -> Result<()> {
    let steps = plan::create(
        definition,
        origin,
        &found.finish,
        found.text(layout, definition)?,
        layout,
    )?;
    let mut defined = false;
    for step in &steps {
        let taken = if let Step::Define { path, .. } = step {
            // Which signal stops it shows only in its files.
            let text = if found.model.is_none() {
                definition::look(layout, definition)
            } else {
                Ok(())
            }
            .and_then(|()| found.text(layout, definition));
            let path = path.clone();
            match text {
                Ok(text) => runner.take(&Step::Define { path, text }).map_err(Into::into),
                Err(error) => Err(error),
            }
        } else {
            runner.take(step).map_err(anyhow::Error::from)
        };
        if let Err(error) = taken {
            // A definition that was there is another's; one that was written stands for a whole container.
            if !defined {
                let others: Vec<_> = steps
                    .iter()
                    .filter(|step| !matches!(step, Step::Define { .. }))
                    .cloned()
                    .collect();
                undo(runner, &others);
            }
            return Err(error);
        }
        defined |= matches!(step, Step::Define { .. });
    }
    Ok(())
}

fn undo(runner: &Runner<'_>, steps: &[Step]) {
    for failure in runner.undo_all(steps) {
        tracing::error!(error = %failure, "cleaning up after a failure failed");
    }
}

/// Refuses addresses that are somebody's.
fn check_addresses(layout: &Layout, definition: &Definition) -> Result<()> {
    network::check_taken(layout, &definition.name, &definition.addresses)
        .with_context(|| format!("container {} was not created", definition.name))
}

/// Host ids that no container and nobody else has.
fn free_ids(layout: &Layout) -> Result<IdBlock> {
    let mut used = Vec::new();
    for name in definitions::names(layout)? {
        let definition = definitions::load(layout, &name)
            .context("cannot tell which host ids are free; mend this definition first")?;
        if let Ids::Block(block) = definition.ids {
            used.push(block);
        }
    }
    Ok(ids::allocate(
        &text("/etc/subuid")?,
        &text("/etc/subgid")?,
        &used,
    )?)
}

fn text(path: &str) -> Result<String> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(e).with_context(|| format!("cannot read {path}")),
    }
}
