//! Divides a host among so many containers: what is kept for the host, what each container is given, how many fit. Pure.
//!
//! The idea is vzsplit's: equal shares of what the host does not need itself, limits above the shares by how roomy it is, and
//! a refusal where a share is too small to live in. Its arithmetic of 2008 set 40 % of the low memory aside for kernel objects
//! and split it into twenty counters; what the kernel keeps for a container is charged to the container's own memory today,
//! so that there is one share. ctm(8) has the arithmetic for people, and changes with this file.

mod result;

pub(crate) use result::{Cpu, Disk, HostPart, Left, Level, Memory, Share, Split};

use crate::quantity::{Factor, Percent};
use crate::run::usage::bytes;
use serde::Serialize;
use std::fmt;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What the host keeps of its memory: this part within these bounds, and so much for each container: 0.6 MiB of its
/// supervisor, and what the kernel does not charge to it.
const MEMORY_KEPT: u64 = 16;
const MOST_MEMORY_KEPT: u64 = 4 * GIB;
const LEAST_MEMORY_KEPT: u64 = 128 * MIB;
const MEMORY_BESIDE: u64 = 2 * MIB;
/// Memory per thread, by which the kernel finds `threads-max` (`set_max_threads`: eight times a kernel stack of 16 KiB).
const MEMORY_OF_THREAD: u64 = 128 * KIB;
/// What the host keeps of its processes: this part, and at least so many.
const PROCESSES_KEPT: u64 = 10;
const LEAST_PROCESSES_KEPT: u64 = 512;
/// What the host keeps of the disk: this part, and at most so much.
const DISK_KEPT: u64 = 10;
const MOST_DISK_KEPT: u64 = 10 * GIB;
/// Bytes for each inode, as mke2fs reckons.
const BYTES_OF_INODE: u64 = 16 * KIB;

/// The least that a container can live with.
const LEAST_GUARANTEE: u64 = 16 * MIB;
const LEAST_PROCESSES: u64 = 32;
const LEAST_DISK: u64 = 64 * MIB;
const LEAST_INODES: u64 = 1024;
/// The most processes that one is given.
const MOST_PROCESSES: u64 = 16_000;
/// The usual weight (`cpu.weight`).
const CPU_WEIGHT: u64 = 100;
/// As many containers as anybody divides a host among.
pub(crate) const MOST: u32 = 100_000;

/// A host that is divided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Host {
    /// Bytes.
    pub(crate) memory: u64,
    /// Bytes that are divided.
    pub(crate) swap: u64,
    /// Processors.
    pub(crate) cpus: Option<u32>,
    /// How many processes and threads it can have.
    pub(crate) processes: u64,
    /// Bytes that are there to divide; none: not divided.
    pub(crate) disk: Option<u64>,
    /// Whether the file system has soft limits besides.
    pub(crate) soft_disk: bool,
    /// Inodes that are there to divide; none: the file system does not limit them.
    pub(crate) inodes: Option<u64>,
}

impl Host {
    /// A host of which no more is known.
    pub(crate) fn described(memory: u64, swap: u64, cpus: Option<u32>, disk: Option<u64>) -> Self {
        Self {
            memory,
            swap,
            cpus,
            processes: memory / MEMORY_OF_THREAD,
            disk,
            soft_disk: disk.is_some(),
            inodes: disk.map(|disk| disk / BYTES_OF_INODE),
        }
    }
}

/// How it is to be divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Among so many.
    pub(crate) containers: u32,
    /// Memory that the host keeps; otherwise as reckoned.
    pub(crate) reserve: Option<u64>,
    /// Limits above the shares; otherwise by how roomy it is.
    pub(crate) overcommit: Option<Factor>,
}

/// Of what there is too little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Short {
    what: &'static str,
    /// So much would each have.
    each: u64,
    /// So much it needs.
    least: u64,
    is_bytes: bool,
}

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |amount: u64| {
            if self.is_bytes {
                bytes(amount)
            } else {
                amount.to_string()
            }
        };
        write!(
            f,
            "each would have {} of {}, and cannot live with less than {}",
            shown(self.each),
            self.what,
            shown(self.least)
        )
    }
}

/// A division that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SplitError {
    #[error("{containers} containers do not fit: {short}; at most {largest} fit")]
    TooMany {
        containers: u32,
        short: Short,
        largest: u32,
    },
    #[error("not even one container fits: {0}; a larger host is needed, or a smaller --reserve")]
    NotOne(Short),
    #[error("limits of {0} times the shares are less than the shares; --overcommit is 1 or more")]
    Overcommit(Factor),
}

/// Divides a host.
pub(crate) fn split(host: &Host, wish: &Wish) -> Result<Split, SplitError> {
    if let Some(factor) = wish.overcommit.filter(|factor| *factor < Factor::hundredths(100)) {
        return Err(SplitError::Overcommit(factor));
    }
    let largest = largest(host, wish);
    let (shares, reserves) = shares(host, wish, wish.containers);
    if let Some(short) = shares.short() {
        return Err(match largest {
            0 => SplitError::NotOne(short),
            _ => SplitError::TooMany {
                containers: wish.containers,
                short,
                largest,
            },
        });
    }
    let n = u64::from(wish.containers);
    let level = Level::of(shares.memory);
    let overcommit = wish.overcommit.unwrap_or(level.overcommit());
    // Nobody can have more than all containers together, whatever is promised.
    let most = host.memory.saturating_sub(reserves.memory);
    let limit = overcommit.of(shares.memory).unwrap_or(most).min(most);
    let (soft_guarantee, limit) = (whole(shares.memory), whole(limit));
    Ok(Split {
        containers: wish.containers,
        largest,
        level,
        overcommit,
        container: Share {
            memory: Memory {
                guarantee: shares.guarantee(),
                soft_guarantee,
                barrier: whole(below(limit)).max(soft_guarantee),
                limit,
            },
            swap: whole(host.swap / n),
            processes: shares.processes,
            cpu: Cpu {
                weight: CPU_WEIGHT,
                share: host
                    .cpus
                    .map(|cpus| Percent::whole(100).part(cpus, wish.containers)),
            },
            disk: shares.disk.map(|space| Disk {
                space: whole(space),
                space_soft: host.soft_disk.then(|| whole(below(space))),
                inodes: shares.inodes,
                inodes_soft: shares.inodes.filter(|_| host.soft_disk).map(below),
            }),
        },
        left: Left {
            memory: host.memory.saturating_sub(soft_guarantee * n),
            swap: host.swap.saturating_sub(whole(host.swap / n) * n),
            processes: host.processes.saturating_sub(shares.processes * n),
            disk: host
                .disk
                .map(|disk| disk.saturating_sub(shares.disk.map_or(0, whole) * n)),
        },
        host: HostPart {
            host: host.clone(),
            reserve: reserves.memory,
            processes_reserve: reserves.processes,
            disk_reserve: reserves.disk,
            inodes_reserve: reserves.inodes,
        },
    })
}

/// The most containers that fit. Shares only shrink with their number.
fn largest(host: &Host, wish: &Wish) -> u32 {
    let (mut fits, mut fails) = (0, MOST + 1);
    while fits + 1 < fails {
        let middle = fits + (fails - fits) / 2;
        if shares(host, wish, middle).0.short().is_none() {
            fits = middle;
        } else {
            fails = middle;
        }
    }
    fits
}

/// What a host needs of its memory itself, with so many containers.
pub(crate) fn kept(memory: u64, containers: u64) -> u64 {
    let own = (memory / MEMORY_KEPT).clamp(LEAST_MEMORY_KEPT, MOST_MEMORY_KEPT);
    own.saturating_add(MEMORY_BESIDE.saturating_mul(containers))
}

/// What the host keeps.
struct Reserves {
    memory: u64,
    processes: u64,
    disk: Option<u64>,
    inodes: Option<u64>,
}

/// Equal parts of the rest.
struct Shares {
    memory: u64,
    processes: u64,
    disk: Option<u64>,
    inodes: Option<u64>,
}

fn shares(host: &Host, wish: &Wish, containers: u32) -> (Shares, Reserves) {
    let n = u64::from(containers.max(1));
    let part = |all: u64, kept: u64| all.saturating_sub(kept) / n;
    let reserves = Reserves {
        memory: wish.reserve.unwrap_or_else(|| kept(host.memory, n)),
        processes: (host.processes / PROCESSES_KEPT).max(LEAST_PROCESSES_KEPT),
        disk: host.disk.map(|disk| (disk / DISK_KEPT).min(MOST_DISK_KEPT)),
        inodes: host.inodes.map(|inodes| inodes / DISK_KEPT),
    };
    let shares = Shares {
        memory: part(host.memory, reserves.memory),
        processes: part(host.processes, reserves.processes).min(MOST_PROCESSES),
        disk: host.disk.zip(reserves.disk).map(|(all, kept)| part(all, kept)),
        inodes: host
            .inodes
            .zip(reserves.inodes)
            .map(|(all, kept)| part(all, kept)),
    };
    (shares, reserves)
}

impl Shares {
    /// What is guaranteed whatever happens: not all of a share, so that the kernel always finds something to reclaim before
    /// it has to kill.
    fn guarantee(&self) -> u64 {
        whole(self.memory - self.memory.div_ceil(10))
    }

    /// Of what this is too little to live with.
    fn short(&self) -> Option<Short> {
        let of = |what, is_bytes, each, least| Short {
            what,
            each,
            least,
            is_bytes,
        };
        [
            Some(of("guaranteed memory", true, self.guarantee(), LEAST_GUARANTEE)),
            Some(of("the host's processes", false, self.processes, LEAST_PROCESSES)),
            self.disk.map(|disk| of("disk", true, whole(disk), LEAST_DISK)),
            self.inodes
                .map(|inodes| of("the disk's inodes", false, inodes, LEAST_INODES)),
        ]
        .into_iter()
        .flatten()
        .find(|short| short.each < short.least)
    }
}

/// Whole mebibytes, as a person would have written them.
fn whole(bytes: u64) -> u64 {
    bytes / MIB * MIB
}

/// Where it begins to be tight below a limit: an eleventh under it, as vzsplit had it.
fn below(limit: u64) -> u64 {
    limit - limit.div_ceil(11)
}

#[cfg(test)]
mod tests;
