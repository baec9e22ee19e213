//! `ctm list` and `ctm status`.

use super::{Code, Condition};
use crate::definition::Definition;
use crate::definitions;
use crate::failure::Failure;
use crate::ids::Ids;
use crate::layout::Layout;
use crate::{cli, plan::Step};
use anyhow::Result;
use devbroker::model::{ContainerName, InstanceId};
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;

/// A container as it is shown.
#[derive(Debug, Serialize)]
struct View {
    name: ContainerName,
    /// stopped, starting, running, stopping, or abandoned: its supervisor was killed.
    state: String,
    /// The first process, in the host's numbers.
    pid: Option<i32>,
    /// The host's ids of the container's user namespace.
    userns: Option<[u32; 2]>,
    rootfs: Option<PathBuf>,
    instance: Option<InstanceId>,
    cgroup: Option<PathBuf>,
    /// Where the device filter is pinned.
    filter: Option<PathBuf>,
    /// What is wrong with the definition.
    fault: Option<String>,
}

impl View {
    fn of(layout: &Layout, name: &ContainerName, definition: Result<Definition, String>) -> Result<Self> {
        let condition = Condition::of(layout, name)?;
        let (state, run) = match &condition {
            Condition::Stopped => ("stopped".into(), None),
            Condition::Supervised(run) => (super::phase(run).into(), Some(run)),
            Condition::Abandoned(run) => ("abandoned".into(), Some(run)),
        };
        let filter = run.and_then(|run| {
            run.steps.iter().find_map(|step| {
                if let Step::Filter { cgroup, dir } = step {
                    Some((cgroup.path().to_path_buf(), dir.clone()))
                } else {
                    None
                }
            })
        });
        let (definition, fault) = match definition {
            Ok(definition) => (Some(definition), None),
            Err(fault) => (None, Some(fault)),
        };
        Ok(Self {
            name: name.clone(),
            state,
            pid: condition.init().map(|init| init.pid),
            userns: definition.as_ref().and_then(|definition| match definition.ids {
                Ids::Host => None,
                Ids::Block(block) => Some([block.first, block.count]),
            }),
            rootfs: definition.map(|definition| definition.rootfs),
            instance: run.map(|run| run.instance.clone()),
            cgroup: filter.as_ref().map(|(cgroup, _)| cgroup.clone()),
            filter: filter.map(|(_, dir)| dir),
            fault,
        })
    }

    fn userns(&self) -> String {
        match (self.userns, &self.fault) {
            (Some([first, count]), _) => format!("{first}+{count}"),
            (None, None) => "no".into(),
            (None, Some(_)) => "?".into(),
        }
    }
}

pub(super) fn list(layout: &Layout, arguments: &cli::Output) -> Result<Code> {
    let mut views = Vec::new();
    for name in definitions::names(layout)? {
        let definition = definitions::load(layout, &name).map_err(|error| error.to_string());
        views.push(View::of(layout, &name, definition)?);
    }
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&views)?)?;
        return Ok(Code::Done);
    }
    let width = views
        .iter()
        .map(|view| view.name.as_str().len())
        .max()
        .unwrap_or(0)
        .max(4);
    writeln!(
        out,
        "{:width$}  {:9}  {:>7}  {:16}  ROOTFS",
        "NAME", "STATE", "PID", "USERNS"
    )?;
    for view in &views {
        let pid = view.pid.map_or("-".into(), |pid| pid.to_string());
        let rootfs = match (&view.rootfs, &view.fault) {
            (Some(rootfs), _) => rootfs.display().to_string(),
            (None, _) => format!("definition has faults, see `ctm status {}`", view.name),
        };
        writeln!(
            out,
            "{:width$}  {:9}  {pid:>7}  {:16}  {rootfs}",
            view.name.as_str(),
            view.state,
            view.userns(),
        )?;
    }
    Ok(Code::Done)
}

pub(super) fn status(layout: &Layout, arguments: &cli::Status) -> Result<Code> {
    let name = &arguments.name;
    let definition = match definitions::load(layout, name) {
        Err(unknown @ definitions::LoadError::Unknown(_)) => return Err(unknown.into()),
        other => other.map_err(|error| error.to_string()),
    };
    let view = View::of(layout, name, definition)?;
    let mut out = io::stdout().lock();
    if arguments.output.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&view)?)?;
    } else {
        writeln!(out, "{}: {}", view.name, view.state)?;
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let failure = Failure::read(layout, name).map(|failure| failure.reason);
        for (what, value) in [
            ("pid", view.pid.map(|pid| pid.to_string())),
            ("userns", Some(view.userns())),
            ("rootfs", path(&view.rootfs)),
            ("instance", view.instance.as_ref().map(ToString::to_string)),
            ("cgroup", path(&view.cgroup)),
            ("filter", path(&view.filter)),
            ("definition", view.fault.clone()),
            ("last failure", failure),
        ] {
            if let Some(value) = value {
                writeln!(out, "{what:>13}: {value}")?;
            }
        }
    }
    Ok(if view.pid.is_some() {
        Code::Done
    } else {
        Code::NotRunning
    })
}
