//! How a container stands beside others, which is not its own cgroup's alone to say.
//!
//! A weight counts among neighbours, and the container's only one is its supervisor: it is for the unit's cgroup. The kernel protects
//! no more memory of a cgroup than of the one above it (`cgroup-v2.rst`, "memory.min"): so the unit's keeps what its container
//! keeps, and the one that holds all containers the sum. Those are systemd's, which is told as well: it writes its own values
//! whenever it reads its units anew.

use super::LimitError;
use crate::definition::Weight;
use crate::layout::Layout;
use crate::lock;
use crate::quantity::Limit;
use crate::run::cgroup::{Cgroup, Run};
use crate::service;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::Path;

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[Option<u64>; 2]", into = "[Option<u64>; 2]")]
pub(crate) struct Guarantee {
    /// In any case (`memory.min`).
    pub(super) min: Limit,
    /// Where others have something to give (`memory.low`).
    pub(super) low: Limit,
}

impl Default for Guarantee {
    fn default() -> Self {
        Self {
            min: Limit::At(0),
            low: Limit::At(0),
        }
    }
}

impl From<[Option<u64>; 2]> for Guarantee {
    fn from([min, low]: [Option<u64>; 2]) -> Self {
        let limit = |at: Option<u64>| at.map_or(Limit::Unlimited, Limit::At);
        Self {
            min: limit(min),
            low: limit(low),
        }
    }
}

impl From<Guarantee> for [Option<u64>; 2] {
    fn from(guarantee: Guarantee) -> Self {
        [guarantee.min.at(), guarantee.low.at()]
    }
}

/// The cgroups that are for ctm's containers alone.
const OURS: [&str; 2] = ["/ctm.slice", "/ctm"];

impl Guarantee {
    /// What a cgroup has; one that is gone, or without the controller, has none.
    fn of(cgroup: &Cgroup) -> Self {
        let read = |file: &str| match content(cgroup, file).trim() {
            "max" => Limit::Unlimited,
            number => Limit::At(number.parse().unwrap_or_default()),
        };
        Self {
            min: read("memory.min"),
            low: read("memory.low"),
        }
    }

    fn plus(self, other: Self) -> Self {
        let sum = |a: Limit, b: Limit| match (a, b) {
            (Limit::At(a), Limit::At(b)) => a.checked_add(b).map_or(Limit::Unlimited, Limit::At),
            (Limit::Unlimited, _) | (_, Limit::Unlimited) => Limit::Unlimited,
        };
        Self {
            min: sum(self.min, other.min),
            low: sum(self.low, other.low),
        }
    }

    /// The files of a cgroup, and systemd's words for them.
    fn said(self) -> [Said; 2] {
        let said = |key, file, property, limit: Limit| {
            let text = |unlimited: &str| limit.at().map_or_else(|| unlimited.into(), |at| at.to_string());
            Said {
                key,
                file,
                text: text("max"),
                property: (property, text("infinity")),
            }
        };
        [
            said("memory_guarantee", "memory.min", "MemoryMin", self.min),
            said("memory_soft_guarantee", "memory.low", "MemoryLow", self.low),
        ]
    }
}

/// How a container stands beside others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Standing {
    /// Memory that it keeps.
    pub(super) guarantee: Guarantee,
    /// Its share of processors.
    pub(super) cpu: Weight,
    /// Its share of disks.
    pub(super) io: Weight,
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            guarantee: Guarantee::default(),
            cpu: Weight::USUAL,
            io: Weight::USUAL,
        }
    }
}

impl Standing {
    /// Has the cgroups above the container's say the same.
    pub(super) fn settle(self, layout: &Layout, run: &Run) -> Result<(), LimitError> {
        if Self::of(&run.cgroup) == self {
            return Ok(());
        }
        // What an administrator's own file says of the unit counts where the definition says nothing.
        if self == Self::default() && run.systemd && !is_said(&run.cgroup) {
            return Ok(());
        }
        // The sum is read and written by one at a time.
        let _lock = lock::guarantees(layout)?;
        let [min, low] = self.guarantee.said();
        let weights = [
            ("cpu_weight", "cpu.weight", "CPUWeight", self.cpu),
            ("io_weight", "io.weight", "IOWeight", self.io),
        ];
        let [cpu, io] = weights.map(|(key, file, property, weight)| {
            let weight = weight.get().to_string();
            Said {
                key,
                file,
                text: weight.clone(),
                property: (property, weight),
            }
        });
        say(run, &run.cgroup, [min, low, cpu, io])?;
        let above = run.cgroup.path().parent().map(Cgroup::at);
        match above {
            Some(above) if OURS.iter().any(|ours| above.path() == Path::new(ours)) => {
                let below = fs::read_dir(above.folder()).into_iter().flatten().flatten();
                let sum = below
                    .filter_map(|entry| entry.file_name().into_string().ok())
                    .map(|name| Guarantee::of(&above.below(&name)))
                    .fold(Guarantee::default(), Guarantee::plus);
                if sum == Guarantee::of(&above) {
                    return Ok(());
                }
                say(run, &above, sum.said())
            }
            // An administrator's own slice: what it keeps is the administrator's to say.
            Some(_) | None => Ok(()),
        }
    }

    /// How a cgroup stands.
    fn of(cgroup: &Cgroup) -> Self {
        let weight = |file: &str| {
            let text = content(cgroup, file);
            let first = text.lines().next().unwrap_or_default();
            let number = first.strip_prefix("default ").unwrap_or(first);
            number
                .trim()
                .parse()
                .ok()
                .and_then(Weight::new)
                .unwrap_or(Weight::USUAL)
        };
        Self {
            guarantee: Guarantee::of(cgroup),
            cpu: weight("cpu.weight"),
            io: weight("io.weight"),
        }
    }
}

/// Whether systemd was told by us.
fn is_said(unit: &Cgroup) -> bool {
    unit.path().file_name().is_some_and(|name| {
        let mut folder = Path::new(service::CONTROL).join(name).into_os_string();
        folder.push(".d");
        Path::new(&folder).is_dir()
    })
}

fn content(cgroup: &Cgroup, file: &str) -> String {
    fs::read_to_string(cgroup.folder().join(file)).unwrap_or_default()
}

/// One value, for the kernel and for systemd.
struct Said {
    key: &'static str,
    file: &'static str,
    text: String,
    property: (&'static str, String),
}

fn say(run: &Run, cgroup: &Cgroup, all: impl IntoIterator<Item = Said>) -> Result<(), LimitError> {
    let mut properties = Vec::new();
    for said in all {
        let file = cgroup.folder().join(said.file);
        match fs::write(&file, &said.text) {
            // It is gone already, or the host has no such controller, which the container's own cgroup has told.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            result => result.map_err(|source| LimitError::Refused {
                key: said.key.into(),
                text: said.text,
                file,
                source,
                remedy: "nothing else may be in charge of this cgroup",
            })?,
        }
        properties.push(said.property);
    }
    match cgroup.path().file_name().and_then(|name| name.to_str()) {
        Some(unit) if run.systemd => Ok(service::set_until_reboot(unit, &properties)?),
        Some(_) | None => Ok(()),
    }
}
