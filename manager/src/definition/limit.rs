//! What a container may use: the limits of a definition or profile. Pure.
//!
//! Each key that is not said has the value of [`Limits::default`], which limits nothing: taking a key out and writing its
//! usual value are the same.

use crate::quantity::{Limit, Percent, Size};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The size of /dev/shm where nothing is said, in bytes.
pub(crate) const SHM: u64 = 64 << 20;

/// The limits of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Memory that is never taken back from it (`memory.min`).
    pub(crate) memory_guarantee: Size,
    /// Memory that is taken back from it only where nobody else has any (`memory.low`).
    pub(crate) memory_soft_guarantee: Size,
    /// Memory above which it is slowed down (`memory.high`).
    pub(crate) memory_barrier: Size,
    /// Memory that it cannot exceed (`memory.max`).
    pub(crate) memory_limit: Size,
    /// Swap besides (`memory.swap.max`).
    pub(crate) swap_limit: Size,
    /// Processes and threads (`pids.max`).
    pub(crate) processes: Limit,
    /// Its share of busy processors (`cpu.weight`).
    pub(crate) cpu_weight: Weight,
    /// Time on processors, in percent of one (`cpu.max`); none: no limit.
    pub(crate) cpu_limit: Option<Percent>,
    /// The processors it may be on (`cpuset.cpus`).
    pub(crate) cpus: Numbers,
    /// The NUMA nodes whose memory it may have (`cpuset.mems`).
    pub(crate) numa_nodes: Numbers,
    /// Its share of busy disks (`io.weight`).
    pub(crate) io_weight: Weight,
    /// What it may do to a disk in a second (`io.max`).
    pub(crate) io: Vec<IoLimit>,
    /// Terminals (`max=` of its devpts).
    pub(crate) ptys: Limit,
    /// Limits of each of its processes (`getrlimit(2)`).
    pub(crate) rlimits: BTreeMap<Rlimit, SoftHard>,
    /// The size of /dev/shm.
    pub(crate) shm: Size,
    /// Huge pages, in bytes, by their size (`hugetlb.SIZE.max`).
    pub(crate) hugepages: BTreeMap<PageSize, Size>,
    /// The largest receive buffer of a TCP connection (`net.ipv4.tcp_rmem`); none: the host's.
    pub(crate) tcp_receive_buffer: Option<Size>,
    /// The largest send buffer (`net.ipv4.tcp_wmem`); none: the host's.
    pub(crate) tcp_send_buffer: Option<Size>,
    /// How many instances of inotify(7) its processes may have together.
    pub(crate) inotify_instances: Limit,
    /// How soon its processes are ended where the host has no memory left.
    pub(crate) oom_score_adj: OomScore,
}

/// The kernel counts them with an `int`.
pub(crate) const MOST_INSTANCES: u64 = 2_147_483_647;

/// What the kernel lets each of its users have where nobody says anything else.
const INOTIFY_INSTANCES: Limit = Limit::At(128);

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_guarantee: Size::Bytes(0),
            memory_soft_guarantee: Size::Bytes(0),
            memory_barrier: Size::Unlimited,
            memory_limit: Size::Unlimited,
            swap_limit: Size::Unlimited,
            processes: Limit::Unlimited,
            cpu_weight: Weight::USUAL,
            cpu_limit: None,
            cpus: Numbers::default(),
            numa_nodes: Numbers::default(),
            io_weight: Weight::USUAL,
            io: Vec::new(),
            ptys: Limit::Unlimited,
            rlimits: BTreeMap::new(),
            shm: Size::Bytes(SHM),
            hugepages: BTreeMap::new(),
            tcp_receive_buffer: None,
            tcp_send_buffer: None,
            inotify_instances: INOTIFY_INSTANCES,
            oom_score_adj: OomScore::default(),
        }
    }
}

/// A share: 1 to 10000, usually 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Weight(u16);

impl Weight {
    /// What everybody has who says nothing.
    pub(crate) const USUAL: Self = Self(100);
    /// The largest.
    pub(crate) const MAX: u16 = 10_000;

    /// One from 1 to 10000.
    pub(crate) const fn new(weight: u16) -> Option<Self> {
        match weight {
            1..=Self::MAX => Some(Self(weight)),
            _ => None,
        }
    }

    /// The number.
    pub(crate) const fn get(self) -> u16 {
        self.0
    }
}

/// Processors or NUMA nodes by their numbers: ranges in ascending order that do not touch; empty for all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Numbers(Vec<(u16, u16)>);

impl Numbers {
    /// From 0, so many.
    pub(crate) fn first(count: u16) -> Self {
        Self(count.checked_sub(1).map(|last| (0, last)).into_iter().collect())
    }

    /// Whether there are none, which as a value stands for all.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many.
    pub(crate) fn count(&self) -> usize {
        self.each().count()
    }

    /// Those that are not among the others.
    pub(crate) fn without(&self, others: &Self) -> Self {
        let mut left: Vec<(u16, u16)> = Vec::new();
        for number in self.each() {
            let is_other = others
                .0
                .iter()
                .any(|(first, last)| (first..=last).contains(&&number));
            match left.last_mut() {
                _ if is_other => {}
                Some((_, last)) if *last + 1 == number => *last = number,
                Some(_) | None => left.push((number, number)),
            }
        }
        Self(left)
    }

    fn each(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }
}

/// A text that is no list of numbers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no list of numbers; write them as in \"0-3,5\"")]
pub(crate) struct NumbersError(String);

impl FromStr for Numbers {
    type Err = NumbersError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fault = || NumbersError(text.into());
        // Enough for any machine, and what the kernel's own lists end at.
        let number = |text: &str| match text.trim().parse::<u16>() {
            Ok(number @ 0..=8191) => Ok(number),
            _ => Err(fault()),
        };
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let mut ranges = text
            .split(',')
            .map(|part| {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                let range = (number(first)?, number(last)?);
                if range.0 <= range.1 {
                    Ok(range)
                } else {
                    Err(fault())
                }
            })
            .collect::<Result<Vec<_>, _>>()?;
        ranges.sort_unstable();
        let mut joined: Vec<(u16, u16)> = Vec::new();
        for (first, last) in ranges {
            match joined.last_mut() {
                Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        Ok(Self(joined))
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

/// What may be done to one disk in a second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IoLimit {
    /// Its device node on the host, or a link to it; of a partition the whole disk is meant.
    pub(crate) device: PathBuf,
    /// Bytes read.
    pub(crate) read_bytes: Size,
    /// Bytes written.
    pub(crate) write_bytes: Size,
    /// Reads.
    pub(crate) read_ops: Limit,
    /// Writes.
    pub(crate) write_ops: Limit,
}

/// A limit of a process that it may raise itself, and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SoftHard {
    /// What holds it; none: nothing does.
    pub(crate) soft: Option<u64>,
    /// What it may raise that to; none: to anything.
    pub(crate) hard: Option<u64>,
}

/// What a process can be limited in (`getrlimit(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rlimit {
    /// Address space, in bytes.
    As,
    /// The size of a core dump.
    Core,
    /// Seconds on processors.
    Cpu,
    /// Data segments, in bytes.
    Data,
    /// The size of a file that it writes.
    Fsize,
    /// File locks.
    Locks,
    /// Memory that it locks.
    Memlock,
    /// Bytes in POSIX message queues, of the user.
    Msgqueue,
    /// How nice it may make itself: 20 less the value.
    Nice,
    /// Open files.
    Nofile,
    /// Processes of its user.
    Nproc,
    /// Resident memory; without effect.
    Rss,
    /// Real-time priority.
    Rtprio,
    /// Microseconds of real-time work without a pause.
    Rttime,
    /// Signals that are queued, of the user.
    Sigpending,
    /// The stack.
    Stack,
}

impl Rlimit {
    /// All, by their names.
    pub(crate) const ALL: [(Self, &str); 16] = [
        (Self::As, "as"),
        (Self::Core, "core"),
        (Self::Cpu, "cpu"),
        (Self::Data, "data"),
        (Self::Fsize, "fsize"),
        (Self::Locks, "locks"),
        (Self::Memlock, "memlock"),
        (Self::Msgqueue, "msgqueue"),
        (Self::Nice, "nice"),
        (Self::Nofile, "nofile"),
        (Self::Nproc, "nproc"),
        (Self::Rss, "rss"),
        (Self::Rtprio, "rtprio"),
        (Self::Rttime, "rttime"),
        (Self::Sigpending, "sigpending"),
        (Self::Stack, "stack"),
    ];

    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find_map(|(limit, name)| (*limit == self).then_some(*name))
            .unwrap_or_default()
    }
}

/// The size of a huge page: a power of two of at least 16 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct PageSize(u64);

impl PageSize {
    /// One of so many bytes.
    pub(crate) const fn new(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= 16 << 10 {
            Some(Self(bytes))
        } else {
            None
        }
    }

    /// In bytes.
    pub(crate) const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for PageSize {
    /// With the largest unit that leaves it whole, as in `2M`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shift, unit) = match self.0.trailing_zeros() {
            30.. => (30, 'G'),
            20..=29 => (20, 'M'),
            _ => (10, 'K'),
        };
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

/// How soon a process is ended where memory is short: -1000 (never) to 1000 (first).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct OomScore(pub(super) i16);

impl OomScore {
    /// The number.
    pub(crate) const fn get(self) -> i16 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_without_others() {
        let of = |text: &str| text.parse::<Numbers>().unwrap();
        for (mine, others, left) in [
            ("0-3,5", "1", "0,2-3,5"),
            ("0-3", "0-7", ""),
            ("2-4", "", "2-4"),
            ("", "0", ""),
            ("0-9", "0-2,4-5,9", "3,6-8"),
        ] {
            let left_over = of(mine).without(&of(others));
            assert_eq!(left_over, of(left), "{mine} without {others}");
            assert_eq!(left_over.is_empty(), left.is_empty());
        }
        assert_eq!(of("0-3,5").count(), 5);
        assert_eq!((Numbers::first(0), Numbers::first(3)), (of(""), of("0-2")));
    }
}
