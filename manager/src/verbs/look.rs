//! `ctm ps`, `ctm du`, `ctm stats` and `ctm who`: what is in the containers, seen from outside.

use super::counters::pressure;
use super::exec::running;
use super::{Code, Condition, Refused};
use crate::layout::Layout;
use crate::make::disk;
use crate::quota;
use crate::run::cgroup::{Cgroup, of_process};
use crate::run::counters::{PRESSURES, Pressure};
use crate::run::state::State;
use crate::run::usage::{Usage, bytes};
use crate::table::{self, Cell};
use crate::{cli, definitions};
use anyhow::{Context, Result, bail};
use devbroker::model::ContainerName;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::{Command, Stdio};

/// The containers that are up, or the one that is asked for, which has to be.
pub(super) fn cgroups(layout: &Layout, name: Option<&ContainerName>) -> Result<Vec<(ContainerName, Cgroup)>> {
    let of = |state: &State| state.container_cgroup().cloned();
    if let Some(name) = name {
        let cgroup = of(&running(layout, name)?).ok_or_else(|| Refused::NotRunning(name.clone()))?;
        return Ok(vec![(name.clone(), cgroup)]);
    }
    let mut found = Vec::new();
    for name in definitions::names(layout)? {
        let condition = Condition::of(layout, &name)?;
        if condition.init().is_none() {
            continue;
        }
        if let Condition::Supervised(state) = condition {
            found.extend(of(&state).map(|cgroup| (name, cgroup)));
        }
    }
    Ok(found)
}

/// `ctm ps`: the host's ps, for the processes of containers alone, with the container in front.
pub(super) fn ps(layout: &Layout, arguments: &cli::Ps) -> Result<Code> {
    let mut owners: BTreeMap<String, ContainerName> = BTreeMap::new();
    for (name, cgroup) in cgroups(layout, arguments.name.as_ref())? {
        for pid in cgroup.processes() {
            owners.insert(pid.to_string(), name.clone());
        }
    }
    let options = if arguments.options.is_empty() {
        vec![OsString::from("-eo"), "pid,user,stat,start,time,rss,args".into()]
    } else {
        arguments.options.clone()
    };
    let output = Command::new("ps")
        .args(&options)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run ps; install the package procps")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let Some(at) = head.split_whitespace().position(|word| word == "PID") else {
        bail!("ps says nothing with a column PID for these options; add one, as in `-o pid,args`");
    };
    let width = owners
        .values()
        .map(|name| name.as_str().len())
        .max()
        .unwrap_or(0)
        .max(9);
    let mut out = io::stdout().lock();
    writeln!(out, "{:width$} {head}", "CONTAINER")?;
    for line in lines {
        let owner = line.split_whitespace().nth(at).and_then(|pid| owners.get(pid));
        if let Some(owner) = owner {
            writeln!(out, "{:width$} {line}", owner.as_str())?;
        }
    }
    Ok(Code::Done)
}

/// What one container uses.
#[derive(Debug, Serialize)]
struct Used {
    name: ContainerName,
    #[serde(flatten)]
    usage: Usage,
    pressure: BTreeMap<&'static str, Pressure>,
}

/// `ctm stats`: once.
pub(super) fn stats(layout: &Layout, arguments: &cli::Chosen) -> Result<Code> {
    let used: Vec<_> = cgroups(layout, arguments.name.as_ref())?
        .into_iter()
        .map(|(name, cgroup)| Used {
            name,
            usage: Usage::of(&cgroup),
            pressure: pressure(&cgroup),
        })
        .collect();
    let mut out = io::stdout().lock();
    if arguments.output.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&used)?)?;
        return Ok(Code::Done);
    }
    let heads = [
        "NAME",
        "CPU",
        "MEMORY",
        "PEAK",
        "READ",
        "WRITTEN",
        "PROCESSES",
        "WAITS CPU",
        "MEMORY",
        "IO",
    ]
    .map(String::from);
    let rows: Vec<_> = used
        .into_iter()
        .map(
            |Used {
                 name,
                 usage,
                 pressure,
             }| {
                let seconds = |usec: u64| format!("{}.{:02}s", usec / 1_000_000, usec / 10_000 % 100);
                let mut cells = vec![
                    Cell::text(name.to_string()),
                    Cell::shown(usage.cpu_usec, seconds),
                    Cell::shown(usage.memory, bytes),
                    Cell::shown(usage.memory_peak, bytes),
                    Cell::shown(usage.read, bytes),
                    Cell::shown(usage.written, bytes),
                    Cell::number(usage.processes),
                ];
                cells.extend(PRESSURES.map(|resource| {
                    Cell::text(
                        pressure
                            .get(resource)
                            .map(|pressure| format!("{:.1}%", pressure.some)),
                    )
                }));
                cells
            },
        )
        .collect();
    for line in table::lines(Some(&heads), &rows) {
        writeln!(out, "{line}")?;
    }
    Ok(Code::Done)
}

/// What one root file system takes.
#[derive(Debug, Serialize)]
struct Taken {
    name: ContainerName,
    #[serde(flatten)]
    of_tree: disk::Taken,
    /// What the file system counts for the container alone and lets it have; what it does not count is not there.
    counted_bytes: Option<u64>,
    counted_files: Option<u64>,
    limit_bytes: Option<u64>,
    soft_limit_bytes: Option<u64>,
    limit_files: Option<u64>,
    soft_limit_files: Option<u64>,
}

impl Taken {
    fn of(layout: &Layout, name: ContainerName) -> Result<Self> {
        let definition = definitions::load(layout, &name)?;
        let of_tree = disk::taken(&definition.rootfs)?;
        let account = quota::account(&quota::folder_of(layout, &definition))?;
        Ok(Self {
            name,
            of_tree,
            counted_bytes: account.map(|account| account.bytes),
            counted_files: account.and_then(|account| account.inodes),
            limit_bytes: account.and_then(|account| account.space.hard),
            soft_limit_bytes: account.and_then(|account| account.space.soft),
            limit_files: account.and_then(|account| account.files.hard),
            soft_limit_files: account.and_then(|account| account.files.soft),
        })
    }
}

/// `ctm du`: the root file system of one container, or of all.
pub(super) fn du(layout: &Layout, arguments: &cli::Chosen) -> Result<Code> {
    let names = match &arguments.name {
        Some(name) => vec![name.clone()],
        None => definitions::names(layout)?,
    };
    let mut all = Vec::new();
    let mut failed = false;
    for name in names {
        match Taken::of(layout, name.clone()) {
            Ok(taken) => all.push(taken),
            Err(error) if arguments.name.is_some() => return Err(error),
            // One of many, which are shown.
            Err(error) => {
                writeln!(io::stderr(), "ctm: {name}: {}", super::reason(&error))?;
                failed = true;
            }
        }
    }
    let mut out = io::stdout().lock();
    if arguments.output.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
    } else {
        let heads = [
            "NAME", "USED", "FILES", "COUNTED", "SOFT", "LIMIT", "INODES", "SOFT", "LIMIT",
        ];
        let heads = heads.map(String::from);
        let rows: Vec<_> = all
            .into_iter()
            .map(|taken| {
                vec![
                    Cell::text(taken.name.to_string()),
                    Cell::shown(Some(taken.of_tree.bytes), bytes),
                    Cell::number(Some(taken.of_tree.files)),
                    Cell::shown(taken.counted_bytes, bytes),
                    Cell::shown(taken.soft_limit_bytes, bytes),
                    Cell::shown(taken.limit_bytes, bytes),
                    Cell::number(taken.counted_files),
                    Cell::number(taken.soft_limit_files),
                    Cell::number(taken.limit_files),
                ]
            })
            .collect();
        for line in table::lines(Some(&heads), &rows) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(if failed { Code::Failed } else { Code::Done })
}

/// Whose a process is.
#[derive(Debug, Serialize)]
struct Owner {
    pid: u32,
    container: Option<ContainerName>,
}

/// `ctm who`: the container of each process, by its cgroup.
pub(super) fn who(layout: &Layout, arguments: &cli::Who) -> Result<Code> {
    let known = cgroups(layout, None)?;
    let mut owners = Vec::new();
    for pid in &arguments.pids {
        let cgroup = of_process(*pid).with_context(|| format!("there is no process {pid}"))?;
        let container = known
            .iter()
            .find(|(_, above)| cgroup.path().starts_with(above.path()))
            .map(|(name, _)| name.clone());
        owners.push(Owner { pid: *pid, container });
    }
    let mut out = io::stdout().lock();
    if arguments.output.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&owners)?)?;
    } else {
        for owner in &owners {
            let name = owner.container.as_ref().map_or("-", ContainerName::as_str);
            if arguments.pids.len() > 1 {
                writeln!(out, "{} {name}", owner.pid)?;
            } else {
                writeln!(out, "{name}")?;
            }
        }
    }
    let all = owners.iter().all(|owner| owner.container.is_some());
    Ok(if all { Code::Done } else { Code::Failed })
}
