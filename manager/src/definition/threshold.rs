//! How long a container may wait for processors, memory and disks before somebody is told. Pure.

use super::value::{Fault, Value, number, table};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use toml_edit::InlineTable;

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Resource {
    Cpu,
    Memory,
    Io,
}

impl Resource {
    /// All.
    pub(crate) const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Io];

    /// As the kernel names its file: `NAME.pressure`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Io => "io",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// In percent of any two seconds, 1 to 100.
pub(crate) type Thresholds = BTreeMap<Resource, u8>;

const HELP: &str =
    "as in `{ memory = 10, io = 50 }`: percent of two seconds in which some of its processes wait";

pub(super) fn read(value: &Value<'_>) -> Result<Thresholds, Fault> {
    let table = table(value, &Resource::ALL.map(Resource::name), HELP)?;
    let mut thresholds = Thresholds::new();
    for resource in Resource::ALL {
        let Some(value) = table.get(resource.name()) else {
            continue;
        };
        let percent = u8::try_from(number(value)?)
            .ok()
            .filter(|percent| (1..=100).contains(percent))
            .ok_or_else(|| Fault::of(value, "a threshold is 1 to 100").help(HELP))?;
        thresholds.insert(resource, percent);
    }
    Ok(thresholds)
}

pub(super) fn show(thresholds: &Thresholds) -> toml_edit::Value {
    let mut table = InlineTable::new();
    for (resource, percent) in thresholds {
        table.insert(resource.name(), i64::from(*percent).into());
    }
    table.into()
}
