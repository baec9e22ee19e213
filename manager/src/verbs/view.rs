//! A container as `ctm list` and `ctm status` show it, and the columns there are.

use super::Condition;
use crate::definition::{Address, Definition, Start};
use crate::ids::Ids;
use crate::layout::Layout;
use crate::plan::Step;
use crate::run::cgroup::Cgroup;
use crate::run::failure::Failure;
use crate::run::privilege;
use crate::run::state::{Last, State};
use crate::run::usage::{Usage, bytes, span};
use crate::table::Cell;
use anyhow::Result;
use devbroker::model::{ContainerName, InstanceId};
use serde::Serialize;
use std::path::PathBuf;
use std::str::FromStr;

/// A container as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct View {
    pub(super) name: ContainerName,
    /// stopped, starting, running, paused, stopping, restarting, or abandoned: its supervisor was killed.
    pub(super) state: String,
    /// The first process, in the host's numbers.
    pub(super) pid: Option<i32>,
    /// When it was up: seconds since 1970.
    pub(super) since: Option<u64>,
    /// The host's ids of the container's user namespace.
    pub(super) userns: Option<[u32; 2]>,
    /// By which capabilities its root is the host's, and how; empty for one that is held.
    pub(super) unconfined: Vec<String>,
    pub(super) rootfs: Option<PathBuf>,
    pub(super) hostname: Option<String>,
    pub(super) description: Option<String>,
    /// Its addresses.
    pub(super) ip: Vec<Address>,
    /// What starts it.
    pub(super) start: Option<String>,
    pub(super) instance: Option<InstanceId>,
    pub(super) cgroup: Option<PathBuf>,
    /// Where the device filter is pinned.
    pub(super) filter: Option<PathBuf>,
    /// What is wrong with the definition.
    pub(super) fault: Option<String>,
    /// Why the last start or run failed.
    pub(super) failure: Option<String>,
    /// How its last run ended.
    pub(super) last: Option<Last>,
}

impl View {
    /// What is known of a container; what its last run came to is read only if `past`.
    pub(super) fn of(
        layout: &Layout,
        name: &ContainerName,
        definition: Result<Definition, String>,
        past: bool,
    ) -> Result<Self> {
        let condition = Condition::of(layout, name)?;
        let (state, run) = match &condition {
            Condition::Stopped => ("stopped", None),
            Condition::Supervised(run) => (super::phase(run), Some(run)),
            Condition::Abandoned(run) => ("abandoned", Some(run)),
        };
        let (definition, fault) = match definition {
            Ok(definition) => (Some(definition), None),
            Err(fault) => (None, Some(fault)),
        };
        let pid = condition.init().map(|init| init.pid);
        Ok(Self {
            name: name.clone(),
            state: state.into(),
            pid,
            since: run.filter(|_| pid.is_some()).and_then(|run| run.since),
            userns: definition.as_ref().and_then(|definition| match definition.ids {
                Ids::Host => None,
                Ids::Block(block) => Some([block.first, block.count]),
            }),
            unconfined: definition.as_ref().map_or_else(Vec::new, |definition| {
                privilege::unconfined(definition.ids, &definition.capabilities)
            }),
            hostname: definition.as_ref().map(|definition| definition.hostname.clone()),
            description: definition
                .as_ref()
                .map(|definition| definition.description.clone())
                .filter(|text| !text.is_empty()),
            ip: definition
                .as_ref()
                .map_or_else(Vec::new, |definition| definition.addresses.clone()),
            start: definition
                .as_ref()
                .map(|definition| &definition.start)
                .map(Start::to_string),
            rootfs: definition.map(|definition| definition.rootfs),
            instance: run.map(|run| run.instance.clone()),
            cgroup: run
                .and_then(State::container_cgroup)
                .map(|cgroup| cgroup.path().into()),
            filter: run.and_then(filter),
            fault,
            failure: past
                .then(|| Failure::read(layout, name))
                .flatten()
                .map(|failure| failure.reason),
            last: past.then(|| Last::read(layout, name)).flatten(),
        })
    }

    pub(super) fn userns(&self) -> String {
        match (self.userns, &self.fault) {
            (Some([first, count]), _) => format!("{first}+{count}"),
            (None, None) => "no".into(),
            (None, Some(_)) => "?".into(),
        }
    }

    /// Its addresses, for one that has any.
    pub(super) fn ip(&self) -> Option<String> {
        let ip: Vec<_> = self.ip.iter().map(ToString::to_string).collect();
        (!ip.is_empty()).then(|| ip.join(" "))
    }

    /// How it is the host's root, for one that is.
    pub(super) fn not_confined(&self) -> Option<String> {
        (!self.unconfined.is_empty()).then(|| self.unconfined.join("; "))
    }

    /// How long it has been up.
    pub(super) fn uptime(&self) -> Option<u64> {
        self.since
            .map(|since| crate::run::state::now().saturating_sub(since))
    }

    fn usage(&self) -> Usage {
        let cgroup = self.pid.and(self.cgroup.as_ref());
        cgroup
            .map(|path| Usage::of(&Cgroup::at(path)))
            .unwrap_or_default()
    }
}

fn filter(run: &State) -> Option<PathBuf> {
    run.steps.iter().find_map(|step| {
        if let Step::Filter { dir, .. } = step {
            Some(dir.clone())
        } else {
            None
        }
    })
}

/// One column of `ctm list`.
pub(super) struct Column {
    /// Its name, in capitals its head.
    pub(super) name: &'static str,
    pub(super) of: fn(&View) -> Cell,
}

impl std::fmt::Debug for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

fn path(path: Option<&PathBuf>) -> Cell {
    Cell::text(path.map(|path| path.display().to_string()))
}

/// All columns.
static COLUMNS: [Column; 16] = [
    Column {
        name: "name",
        of: |view| Cell::text(view.name.to_string()),
    },
    Column {
        name: "state",
        of: |view| Cell::text(view.state.clone()),
    },
    Column {
        name: "pid",
        of: |view| Cell::number(view.pid.and_then(|pid| u64::try_from(pid).ok())),
    },
    Column {
        name: "uptime",
        of: |view| Cell::shown(view.uptime(), span),
    },
    Column {
        name: "userns",
        of: |view| Cell::text(view.userns()),
    },
    Column {
        name: "rootfs",
        of: |view| path(view.rootfs.as_ref()),
    },
    Column {
        name: "hostname",
        of: |view| Cell::text(view.hostname.clone()),
    },
    Column {
        name: "description",
        of: |view| Cell::text(view.description.clone()),
    },
    Column {
        name: "ip",
        of: |view| Cell::text(view.ip()),
    },
    Column {
        name: "start",
        of: |view| match &view.fault {
            Some(_) => Cell::text(format!("definition has faults, see `ctm status {}`", view.name)),
            None => Cell::text(view.start.clone()),
        },
    },
    Column {
        name: "instance",
        of: |view| Cell::text(view.instance.as_ref().map(ToString::to_string)),
    },
    Column {
        name: "cgroup",
        of: |view| path(view.cgroup.as_ref()),
    },
    Column {
        name: "memory",
        of: |view| Cell::shown(view.usage().memory, bytes),
    },
    Column {
        name: "cpu",
        of: |view| Cell::shown(view.usage().cpu_usec, |usec| span(usec / 1_000_000)),
    },
    Column {
        name: "processes",
        of: |view| Cell::number(view.usage().processes),
    },
    Column {
        name: "failure",
        of: |view| Cell::text(view.failure.clone()),
    },
];

/// What `ctm list` shows unless it is told.
pub(super) const USUAL: [&str; 7] = ["name", "state", "uptime", "processes", "memory", "ip", "start"];

/// A column by its name, as typed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ColumnName(&'static Column);

/// A text that names no column.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no column `{0}`; there are {known}", known = COLUMNS.iter().map(|column| column.name).collect::<Vec<_>>().join(", "))]
pub(crate) struct ColumnError(String);

impl FromStr for ColumnName {
    type Err = ColumnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        COLUMNS
            .iter()
            .find(|column| column.name == text)
            .map(Self)
            .ok_or_else(|| ColumnError(text.into()))
    }
}

impl ColumnName {
    pub(super) const fn column(self) -> &'static Column {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_has_a_name_of_its_own() {
        for column in &COLUMNS {
            assert_eq!(
                column.name.parse::<ColumnName>().unwrap().column().name,
                column.name
            );
        }
        assert!(USUAL.iter().all(|name| name.parse::<ColumnName>().is_ok()));
        let error = "ipx".parse::<ColumnName>().unwrap_err().to_string();
        assert!(
            error.starts_with("there is no column `ipx`; there are name, state"),
            "{error}"
        );
    }
}
