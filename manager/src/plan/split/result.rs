//! A host divided: what the host keeps, what each container has, and the keys of a profile that say so.

use super::{Host, MIB};
use crate::quantity::{Factor, Percent, Size};
use serde::Serialize;
use std::fmt;

/// A host divided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Split {
    /// Among so many.
    pub(crate) containers: u32,
    /// So many would fit.
    pub(crate) largest: u32,
    /// How roomy it is.
    pub(crate) level: Level,
    /// Limits above the shares.
    #[serde(serialize_with = "shown")]
    pub(crate) overcommit: Factor,
    /// The host, and what is kept for it.
    pub(crate) host: HostPart,
    /// What each has.
    pub(crate) container: Share,
    /// What is left when each uses all that is guaranteed to it: the reserves, and what rounding left.
    pub(crate) left: Left,
}

/// A host, and what is kept for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct HostPart {
    #[serde(flatten)]
    pub(crate) host: Host,
    /// Of its memory.
    pub(crate) reserve: u64,
    /// Of its processes.
    pub(crate) processes_reserve: u64,
    /// Of its disk.
    pub(crate) disk_reserve: Option<u64>,
    /// Of its inodes.
    pub(crate) inodes_reserve: Option<u64>,
}

/// What one container has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Share {
    pub(crate) memory: Memory,
    /// Bytes.
    pub(crate) swap: u64,
    pub(crate) processes: u64,
    pub(crate) cpu: Cpu,
    pub(crate) disk: Option<Disk>,
}

/// Memory of one container, in bytes, each no more than the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    pub(crate) guarantee: u64,
    pub(crate) soft_guarantee: u64,
    pub(crate) barrier: u64,
    pub(crate) limit: u64,
}

/// Processor time of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Cpu {
    pub(crate) weight: u64,
    /// What the weight comes to when all want all: percent of one processor.
    #[serde(serialize_with = "shown_if_any")]
    pub(crate) share: Option<Percent>,
}

/// Disk of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Disk {
    /// Bytes.
    pub(crate) space: u64,
    pub(crate) space_soft: Option<u64>,
    pub(crate) inodes: Option<u64>,
    pub(crate) inodes_soft: Option<u64>,
}

/// What is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Left {
    pub(crate) memory: u64,
    pub(crate) swap: u64,
    pub(crate) processes: u64,
    pub(crate) disk: Option<u64>,
}

/// How roomy it is for each: what is soundly promised above the shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Roomy,
    Usual,
    Tight,
}

impl Level {
    pub(super) fn of(share: u64) -> Self {
        match share / MIB {
            256.. => Self::Roomy,
            32..256 => Self::Usual,
            0..32 => Self::Tight,
        }
    }

    pub(super) const fn overcommit(self) -> Factor {
        Factor::hundredths(match self {
            Self::Roomy => 300,
            Self::Usual => 200,
            Self::Tight => 150,
        })
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Roomy => "roomy",
            Self::Usual => "usual",
            Self::Tight => "tight",
        })
    }
}

impl Split {
    /// The keys of a profile with these shares.
    pub(crate) fn keys(&self) -> Vec<(&'static str, toml_edit::Value)> {
        let size = |bytes: u64| Size::Bytes(bytes).to_string().into();
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX).into();
        let Share {
            memory,
            swap,
            processes,
            cpu,
            disk,
        } = &self.container;
        let mut keys = vec![
            ("memory_guarantee", size(memory.guarantee)),
            ("memory_soft_guarantee", size(memory.soft_guarantee)),
            ("memory_barrier", size(memory.barrier)),
            ("memory_limit", size(memory.limit)),
            ("swap_limit", size(*swap)),
            ("processes", count(*processes)),
            ("cpu_weight", count(cpu.weight)),
        ];
        if let Some(disk) = disk {
            keys.push(("disk_space", size(disk.space)));
            keys.extend(disk.space_soft.map(|space| ("disk_space_soft", size(space))));
            keys.extend(disk.inodes.map(|inodes| ("disk_inodes", count(inodes))));
            keys.extend(disk.inodes_soft.map(|inodes| ("disk_inodes_soft", count(inodes))));
        }
        keys
    }
}

fn shown<S: serde::Serializer>(value: &impl fmt::Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
fn shown_if_any<S: serde::Serializer>(value: &Option<Percent>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => to.collect_str(value),
        None => to.serialize_none(),
    }
}
