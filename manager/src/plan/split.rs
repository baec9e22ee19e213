//! Divides a host among so many containers: what is kept for the host, what each container is given, how many fit. Pure.
//!
//! The idea is vzsplit's: equal shares of what the host does not need itself, limits above the shares by how roomy it is, and
//! a refusal where a share is too small to live in. Its arithmetic of 2008 set 40 % of the low memory aside for kernel objects
//! and split it into twenty counters; what the kernel keeps for a container is charged to the container's own memory today,
//! so that there is one share. ctm(8) has the arithmetic for people, and changes with this file.

use crate::quantity::{Factor, Percent, Size};
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
    fn of(share: u64) -> Self {
        match share / MIB {
            256.. => Self::Roomy,
            32..256 => Self::Usual,
            0..32 => Self::Tight,
        }
    }

    const fn overcommit(self) -> Factor {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wish(containers: u32) -> Wish {
        Wish {
            containers,
            reserve: None,
            overcommit: None,
        }
    }

    /// The host of the article of 2008, for which vzsplit gave 13309 pages (52 MiB) to each of fifty, 240 processes.
    fn article() -> Host {
        Host::described(3 * GIB, 0, Some(2), Some(200 * GIB))
    }

    #[test]
    fn fifty_on_three_gibibytes() {
        let split = split(&article(), &wish(50)).unwrap();
        assert_eq!(split.level, Level::Usual);
        assert_eq!(split.host.reserve, (192 + 100) * MIB);
        assert_eq!(
            split.container,
            Share {
                memory: Memory {
                    guarantee: 50 * MIB,
                    soft_guarantee: 55 * MIB,
                    barrier: 100 * MIB,
                    limit: 111 * MIB,
                },
                swap: 0,
                processes: 442,
                cpu: Cpu {
                    weight: 100,
                    share: Some(Percent::whole(4)),
                },
                disk: Some(Disk {
                    space: 3891 * MIB,
                    space_soft: Some(3537 * MIB),
                    inodes: Some(235_929),
                    inodes_soft: Some(214_480),
                }),
            }
        );
        assert_eq!(split.left.memory, 3 * GIB - 50 * 55 * MIB);
        let keys: Vec<_> = split
            .keys()
            .into_iter()
            .map(|(key, value)| format!("{key} = {value}"))
            .collect();
        assert_eq!(
            keys,
            [
                "memory_guarantee = \"50M\"",
                "memory_soft_guarantee = \"55M\"",
                "memory_barrier = \"100M\"",
                "memory_limit = \"111M\"",
                "swap_limit = \"0\"",
                "processes = 442",
                "cpu_weight = 100",
                "disk_space = \"3891M\"",
                "disk_space_soft = \"3537M\"",
                "disk_inodes = 235929",
                "disk_inodes_soft = 214480",
            ]
        );
    }

    #[test]
    fn one_has_all_that_is_not_the_host_s() {
        let split = split(&article(), &wish(1)).unwrap();
        let all = (3072 - 192 - 2) * MIB;
        assert_eq!((split.level, split.container.memory.limit), (Level::Roomy, all));
        assert_eq!(split.container.memory.soft_guarantee, all);
    }

    #[test]
    fn what_does_not_fit() {
        let said = |host: &Host, wish: &Wish| split(host, wish).unwrap_err().to_string();
        assert_eq!(
            said(&article(), &wish(200)),
            "200 containers do not fit: each would have 11M of guaranteed memory, and cannot live with less than 16M; \
             at most 145 fit"
        );
        assert_eq!(
            said(&Host::described(GIB, 0, None, Some(4 * GIB)), &wish(100)),
            "100 containers do not fit: each would have 6.0M of guaranteed memory, and cannot live with less than 16M; \
             at most 45 fit"
        );
        assert_eq!(
            said(&Host::described(64 * GIB, 0, None, Some(4 * GIB)), &wish(100)),
            "100 containers do not fit: each would have 36M of disk, and cannot live with less than 64M; at most 57 fit"
        );
        assert_eq!(
            said(&Host::described(64 * MIB, 0, None, None), &wish(1)),
            "not even one container fits: each would have 0 of guaranteed memory, and cannot live with less than 16M; \
             a larger host is needed, or a smaller --reserve"
        );
        let of_pids = Host {
            processes: 4096,
            ..Host::described(64 * GIB, 0, None, None)
        };
        assert_eq!(
            said(&of_pids, &wish(200)),
            "200 containers do not fit: each would have 17 of the host's processes, and cannot live with less than 32; \
             at most 112 fit"
        );
        assert!(matches!(
            split(
                &article(),
                &Wish {
                    overcommit: "0.5".parse().ok(),
                    ..wish(1)
                }
            ),
            Err(SplitError::Overcommit(_))
        ));
    }

    fn hosts() -> impl Strategy<Value = Host> {
        let size = |bits: u32| (0..bits, any::<u64>()).prop_map(|(bits, n)| n % (2 << bits));
        let disk = proptest::option::of((size(50), size(32)));
        (
            size(46),
            size(46),
            proptest::option::of(1..4096_u32),
            size(23),
            disk,
        )
            .prop_map(|(memory, swap, cpus, processes, disk)| Host {
                memory,
                swap,
                cpus,
                processes,
                disk: disk.map(|(bytes, _)| bytes),
                soft_disk: processes % 2 == 0,
                inodes: disk.map(|(_, inodes)| inodes).filter(|inodes| inodes % 3 > 0),
            })
    }

    fn wishes() -> impl Strategy<Value = Wish> {
        let reserve = proptest::option::of(any::<u64>().prop_map(|n| n % (4 * GIB)));
        let overcommit = proptest::option::of((100..1000_u32).prop_map(Factor::hundredths));
        let containers = prop_oneof![1..8_u32, 1..300_u32, 1..=MOST];
        (containers, reserve, overcommit).prop_map(|(containers, reserve, overcommit)| Wish {
            containers,
            reserve,
            overcommit,
        })
    }

    proptest! {
        #[test]
        fn nothing_is_given_twice(host in hosts(), wish in wishes()) {
            let Ok(split) = split(&host, &wish) else { return Ok(()) };
            let n = u64::from(wish.containers);
            let Share { memory, swap, processes, disk, cpu } = &split.container;
            let ordered = [LEAST_GUARANTEE, memory.guarantee, memory.soft_guarantee, memory.barrier, memory.limit];
            prop_assert!(ordered.is_sorted(), "{ordered:?}");
            prop_assert!(memory.soft_guarantee * n + split.host.reserve <= host.memory);
            prop_assert!(memory.limit + split.host.reserve <= host.memory);
            prop_assert_eq!(split.left.memory + memory.soft_guarantee * n, host.memory);
            prop_assert!(split.left.memory >= split.host.reserve);
            prop_assert!(swap * n <= host.swap);
            prop_assert!(processes * n + split.host.processes_reserve <= host.processes);
            prop_assert!(*processes >= LEAST_PROCESSES);
            if let Some(disk) = disk {
                prop_assert!(disk.space_soft <= Some(disk.space) && disk.space >= LEAST_DISK);
                prop_assert!(disk.space * n + split.host.disk_reserve.unwrap() <= host.disk.unwrap());
                prop_assert!(disk.inodes_soft <= disk.inodes);
                prop_assert!(disk.inodes.unwrap_or(0) * n <= host.inodes.unwrap_or(0));
            }
            prop_assert_eq!(disk.is_some(), host.disk.is_some());
            if let Some(cpus) = host.cpus {
                prop_assert!(cpu.share.unwrap().millionths() * n <= u64::from(cpus) * 1_000_000);
            }
        }

        #[test]
        fn more_containers_have_no_more_each(host in hosts(), wish in wishes(), more in 1..64_u32) {
            let fewer = split(&host, &wish);
            let more = split(&host, &Wish { containers: wish.containers + more, ..wish });
            let (Ok(fewer), Ok(more)) = (&fewer, &more) else {
                // Where fewer do not fit, more do not.
                prop_assert!(fewer.is_ok() || more.is_err());
                return Ok(());
            };
            let amounts = |split: &Split| {
                let Share { memory, swap, processes, disk, cpu } = split.container.clone();
                let disk = disk.map(|disk| [disk.space, disk.space_soft.unwrap_or(0), disk.inodes.unwrap_or(0)]);
                (
                    [memory.guarantee, memory.soft_guarantee, memory.barrier, memory.limit, swap, processes],
                    disk.unwrap_or_default(),
                    cpu.share.map_or(0, Percent::millionths),
                )
            };
            let (fewer, more) = (amounts(fewer), amounts(more));
            prop_assert!(fewer.0.iter().zip(more.0).all(|(fewer, more)| *fewer >= more));
            prop_assert!(fewer.1.iter().zip(more.1).all(|(fewer, more)| *fewer >= more) && fewer.2 >= more.2);
        }

        #[test]
        fn the_largest_number_is_the_largest(host in hosts(), wish in wishes()) {
            let largest = match split(&host, &wish) {
                Ok(split) => split.largest,
                Err(SplitError::TooMany { largest, .. }) => largest,
                Err(SplitError::NotOne(_)) => 0,
                Err(SplitError::Overcommit(_)) => unreachable!("it is 1 or more"),
            };
            let of = |containers| split(&host, &Wish { containers, ..wish });
            if largest > 0 {
                prop_assert_eq!(of(largest).map(|split| split.largest), Ok(largest));
            }
            if largest < MOST {
                prop_assert!(of(largest + 1).is_err());
            }
        }
    }
}
