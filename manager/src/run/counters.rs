//! What a container holds, held at most, may hold, and was refused: the rows of `user_beancounters` as the kernel has them
//! today. All is read from the files of one cgroup (`Documentation/admin-guide/cgroup-v2.rst`), from what [`tally`](super::tally) counted
//! and from the file system's account, nothing is remembered. Pure but for the reading, which is the caller's.

use super::tally::Tally;
use super::usage::field;
use crate::quota::{Account, Kind, Pair};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// How well a row says what the beancounter said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fidelity {
    /// The kernel counts and limits the same thing.
    Exact,
    /// It is limited by something else that comes near.
    Approximate,
    /// It is counted, inside the account of `memory`, and has no limit of its own.
    WatchOnly,
}

/// What a row counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Unit {
    Bytes,
    Count,
    Microseconds,
}

/// A value that something is measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Bound {
    /// There is no such thing in this row.
    #[default]
    Absent,
    /// No limit is set.
    Unlimited,
    /// So much.
    At(u64),
}

impl Bound {
    /// The value of a file that says a number or `max`.
    fn read(text: &str) -> Self {
        match text.trim() {
            "max" => Self::Unlimited,
            number => number.parse().map_or(Self::Absent, Self::At),
        }
    }

    /// The number, if it is one.
    pub(crate) fn at(self) -> Option<u64> {
        match self {
            Self::At(value) => Some(value),
            Self::Absent | Self::Unlimited => None,
        }
    }
}

/// A row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counter {
    /// What is counted.
    pub(crate) resource: String,
    /// The beancounters that it stands for.
    pub(crate) beancounter: &'static str,
    pub(crate) fidelity: Fidelity,
    pub(crate) unit: Unit,
    /// Now.
    pub(crate) held: Option<u64>,
    /// The most since the container started.
    pub(crate) max_held: Option<u64>,
    /// What is kept for it.
    pub(crate) guarantee: Bound,
    /// Where it is slowed down.
    pub(crate) barrier: Bound,
    /// What it cannot exceed.
    pub(crate) limit: Bound,
    /// How often it was refused something, or a guarantee was not kept, since it started.
    pub(crate) failures: Option<u64>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// Not at all.
    None,
    /// Near its barrier or limit.
    Near,
    /// It was refused something, or is above its barrier.
    Over,
}

/// Held from this percentage of the barrier or limit on is near, as vzubc has it.
const HELD_NEAR: u64 = 50;
/// Held at most from this percentage on is near.
const MAX_HELD_NEAR: u64 = 80;

impl Counter {
    fn new(resource: &str, beancounter: &'static str, fidelity: Fidelity, unit: Unit) -> Self {
        Self {
            resource: resource.into(),
            beancounter,
            fidelity,
            unit,
            held: None,
            max_held: None,
            guarantee: Bound::Absent,
            barrier: Bound::Absent,
            limit: Bound::Absent,
            failures: None,
        }
    }

    /// What is reached first of barrier and limit.
    pub(crate) fn bound(&self) -> Option<u64> {
        self.barrier.at().into_iter().chain(self.limit.at()).min()
    }

    /// Held in percent of that; more than 100 above a barrier.
    pub(crate) fn percent(&self) -> Option<u64> {
        percent(self.held?, self.bound()?)
    }

    /// How bad it is, with so many failures that count.
    pub(crate) fn trouble(&self, failures: Option<u64>) -> Trouble {
        let of = |value: Option<u64>| percent(value?, self.bound()?);
        let (held, max_held) = (of(self.held), of(self.max_held));
        if failures.is_some_and(|failures| failures > 0) || held.is_some_and(|held| held > 100) {
            Trouble::Over
        } else if held.is_some_and(|held| held >= HELD_NEAR)
            || max_held.is_some_and(|held| held >= MAX_HELD_NEAR)
        {
            Trouble::Near
        } else {
            Trouble::None
        }
    }
}

/// Rounded up: what is over is never shown as 100. Of nothing everything is too much.
fn percent(value: u64, whole: u64) -> Option<u64> {
    match (value, whole) {
        (0, _) => Some(0),
        (_, 0) => Some(u64::MAX),
        _ => u64::try_from((u128::from(value) * 100).div_ceil(u128::from(whole))).ok(),
    }
}

impl Serialize for Counter {
    /// Without the fields that the row has not; no limit is null.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("resource", &self.resource)?;
        map.serialize_entry("beancounter", self.beancounter)?;
        map.serialize_entry("fidelity", &self.fidelity)?;
        map.serialize_entry("unit", &self.unit)?;
        for (name, value) in [
            ("held", self.held),
            ("max_held", self.max_held),
            ("failures", self.failures),
        ] {
            if let Some(value) = value {
                map.serialize_entry(name, &value)?;
            }
        }
        for (name, bound) in [
            ("guarantee", self.guarantee),
            ("barrier", self.barrier),
            ("limit", self.limit),
        ] {
            if bound != Bound::Absent {
                map.serialize_entry(name, &bound.at())?;
            }
        }
        map.end()
    }
}

/// All rows that the kernel has for a cgroup. `read` gives the text of one of its files, if there is one; `huge` are the
/// sizes of huge pages, as in `2MB`.
pub(crate) fn counters(read: impl Fn(&str) -> Option<String>, huge: &[String]) -> Vec<Counter> {
    use Fidelity::{Approximate, Exact, WatchOnly};
    use Unit::{Bytes, Count, Microseconds};
    let number = |file: &str| read(file)?.trim().parse().ok();
    let bound = |file: &str| read(file).map_or(Bound::Absent, |text| Bound::read(&text));
    let keyed = |file: &str, key: &str| field(&read(file)?, key);

    let mut rows = vec![
        Counter {
            held: number("memory.current"),
            max_held: number("memory.peak"),
            guarantee: bound("memory.min"),
            barrier: bound("memory.high"),
            limit: bound("memory.max"),
            failures: keyed("memory.events", "oom"),
            ..Counter::new("memory", "physpages", Exact, Bytes)
        },
        Counter {
            held: number("memory.current"),
            guarantee: bound("memory.low"),
            failures: keyed("memory.events", "low"),
            ..Counter::new("memory_soft", "vmguarpages, oomguarpages", Approximate, Bytes)
        },
        Counter {
            failures: keyed("memory.events", "oom_kill"),
            ..Counter::new("oom_kills", "oomguarpages", Exact, Count)
        },
        Counter {
            held: number("memory.swap.current"),
            max_held: number("memory.swap.peak"),
            limit: bound("memory.swap.max"),
            failures: keyed("memory.swap.events", "fail"),
            ..Counter::new("swap", "swappages", Approximate, Bytes)
        },
        Counter {
            held: number("pids.current"),
            max_held: number("pids.peak"),
            limit: bound("pids.max"),
            failures: keyed("pids.events", "max"),
            ..Counter::new("processes", "numproc", Exact, Count)
        },
        Counter {
            held: keyed("cpu.stat", "usage_usec"),
            ..Counter::new("cpu", "cpulimit", Exact, Microseconds)
        },
        Counter {
            held: keyed("memory.stat", "kernel"),
            ..Counter::new("kernel", "kmemsize", WatchOnly, Bytes)
        },
        Counter {
            held: keyed("memory.stat", "slab_reclaimable"),
            ..Counter::new("dentries", "dcachesize", WatchOnly, Bytes)
        },
        Counter {
            held: keyed("memory.stat", "sock"),
            ..Counter::new(
                "sockets",
                "tcpsndbuf, tcprcvbuf, othersockbuf, dgramrcvbuf",
                WatchOnly,
                Bytes,
            )
        },
        Counter {
            held: keyed("memory.stat", "shmem"),
            ..Counter::new("shared", "shmpages", WatchOnly, Bytes)
        },
    ];
    rows.extend(huge.iter().map(|size| Counter {
        held: number(&format!("hugetlb.{size}.current")),
        limit: bound(&format!("hugetlb.{size}.max")),
        failures: keyed(&format!("hugetlb.{size}.events"), "max"),
        ..Counter::new(&format!("hugepages_{size}"), "", Exact, Bytes)
    }));
    // What the kernel was built or booted without, and a memory controller that has not been switched on.
    rows.retain(|row| row.held.is_some() || row.failures.is_some());
    rows
}

/// The rows of what is counted by looking at the container's processes and network namespace.
pub(crate) fn living(tally: &Tally) -> Vec<Counter> {
    use Fidelity::{Approximate, Exact, WatchOnly};
    use Unit::{Bytes, Count};
    let row = |held, counter| Counter {
        held: Some(held),
        ..counter
    };
    let mut rows = Vec::new();
    rows.extend(
        tally
            .open_files
            .map(|held| row(held, Counter::new("open_files", "numfile", Approximate, Count))),
    );
    rows.extend(tally.terminals.map(|(held, limit)| Counter {
        limit,
        ..row(held, Counter::new("terminals", "numpty", Exact, Count))
    }));
    if let Some(sockets) = tally.sockets {
        rows.extend([
            row(
                sockets.tcp,
                Counter::new("tcp_sockets", "numtcpsock", Approximate, Count),
            ),
            row(
                sockets.other,
                Counter::new("other_sockets", "numothersock", Approximate, Count),
            ),
            row(
                sockets.to_send,
                Counter::new("tcp_to_send", "tcpsndbuf", WatchOnly, Bytes),
            ),
            row(
                sockets.to_read,
                Counter::new("tcp_to_read", "tcprcvbuf", WatchOnly, Bytes),
            ),
        ]);
    }
    rows
}

/// The rows of what a container has on the disk, by its file system's own count. Refusals are not counted there.
pub(crate) fn disk(account: &Account) -> Vec<Counter> {
    let bounds = |pair: Pair| {
        let bound = |limit: Option<u64>| limit.map_or(Bound::Unlimited, Bound::At);
        match account.kind {
            Kind::Project => (bound(pair.soft), bound(pair.hard)),
            Kind::Group => (Bound::Absent, bound(pair.hard)),
        }
    };
    let row = |(barrier, limit), held, counter| Counter {
        held: Some(held),
        barrier,
        limit,
        ..counter
    };
    let space = Counter::new("disk_space", "diskspace", Fidelity::Exact, Unit::Bytes);
    let inodes = Counter::new("disk_inodes", "diskinodes", Fidelity::Exact, Unit::Count);
    let mut rows = vec![row(bounds(account.space), account.bytes, space)];
    rows.extend(
        account
            .inodes
            .map(|held| row(bounds(account.files), held, inodes)),
    );
    rows
}

/// What waiting for one resource cost (`Documentation/accounting/psi.rst`): in percent of the last ten seconds, and in all.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub(crate) struct Pressure {
    /// Some of its processes waited, in percent of the last ten seconds.
    pub(crate) some: f64,
    /// The same of the last minute.
    pub(crate) some_minute: f64,
    /// None of its processes could go on.
    pub(crate) full: f64,
    /// Some waited, since it started, in microseconds.
    pub(crate) some_usec: u64,
    /// None could go on, in microseconds.
    pub(crate) full_usec: u64,
}

impl Pressure {
    /// The text of a `*.pressure` file; nothing where the kernel does not tell.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let line = |kind: &str| text.lines().find_map(|line| line.strip_prefix(kind));
        let value = |line: Option<&str>, name: &str| -> Option<f64> {
            line?
                .split_ascii_whitespace()
                .find_map(|word| word.strip_prefix(name)?.parse().ok())
        };
        let total = |line: Option<&str>| -> Option<u64> {
            line?
                .split_ascii_whitespace()
                .find_map(|word| word.strip_prefix("total=")?.parse().ok())
        };
        let (some, full) = (line("some "), line("full "));
        Some(Self {
            some: value(some, "avg10=")?,
            some_minute: value(some, "avg60=")?,
            full: value(full, "avg10=").unwrap_or_default(),
            some_usec: total(some)?,
            full_usec: total(full).unwrap_or_default(),
        })
    }
}

/// The resources that have a pressure file.
pub(crate) const PRESSURES: [&str; 3] = ["cpu", "memory", "io"];

#[cfg(test)]
mod tests {
    use super::super::tally::Sockets;
    use super::*;

    fn file(name: &str) -> Option<String> {
        Some(
            match name {
                "memory.current" => "52428800\n",
                "memory.min" => "0\n",
                "memory.low" => "1048576\n",
                "memory.peak" | "memory.max" => "104857600\n",
                "memory.events" => "low 2\nhigh 0\nmax 17\noom 3\noom_kill 1\noom_group_kill 0\n",
                "memory.stat" => "anon 1\nkernel 4096\nsock 512\nshmem 7\nslab_reclaimable 9\n",
                "pids.current" => "4\n",
                "memory.high" | "pids.max" => "max\n",
                "pids.events" => "max 0\n",
                "cpu.stat" => "usage_usec 12\n",
                _ => return None,
            }
            .into(),
        )
    }

    fn row<'a>(rows: &'a [Counter], name: &str) -> &'a Counter {
        rows.iter().find(|row| row.resource == name).unwrap()
    }

    #[test]
    fn rows_of_the_disk() {
        let account = Account {
            kind: Kind::Project,
            bytes: 5,
            inodes: Some(2),
            space: Pair {
                soft: Some(8),
                hard: None,
            },
            files: Pair {
                soft: None,
                hard: Some(2),
            },
        };
        let shown = |account| {
            disk(&account)
                .into_iter()
                .map(|row| (row.resource, row.held, row.barrier, row.limit))
                .collect::<Vec<_>>()
        };
        let (at, no) = (Bound::At, Bound::Unlimited);
        assert_eq!(
            shown(account),
            [
                ("disk_space".into(), Some(5), at(8), no),
                ("disk_inodes".into(), Some(2), no, at(2)),
            ]
        );
        let group = Account {
            kind: Kind::Group,
            inodes: None,
            ..account
        };
        assert_eq!(shown(group), [("disk_space".into(), Some(5), Bound::Absent, no)]);
    }

    #[test]
    fn rows_of_processes_and_sockets() {
        let tally = Tally {
            open_files: Some(12),
            terminals: Some((2, Bound::At(4))),
            sockets: Some(Sockets {
                tcp: 3,
                other: 5,
                to_send: 1000,
                to_read: 70,
            }),
        };
        let shown = |tally| serde_json::to_string(&living(tally)).unwrap();
        assert_eq!(
            shown(&tally),
            concat!(
                r#"[{"resource":"open_files","beancounter":"numfile","fidelity":"approximate","unit":"count","held":12},"#,
                r#"{"resource":"terminals","beancounter":"numpty","fidelity":"exact","unit":"count","held":2,"limit":4},"#,
                r#"{"resource":"tcp_sockets","beancounter":"numtcpsock","fidelity":"approximate","unit":"count","held":3},"#,
                r#"{"resource":"other_sockets","beancounter":"numothersock","fidelity":"approximate","unit":"count","held":5},"#,
                r#"{"resource":"tcp_to_send","beancounter":"tcpsndbuf","fidelity":"watch-only","unit":"bytes","held":1000},"#,
                r#"{"resource":"tcp_to_read","beancounter":"tcprcvbuf","fidelity":"watch-only","unit":"bytes","held":70}]"#,
            )
        );
        assert_eq!(living(&tally).get(1).unwrap().trouble(None), Trouble::Near);
        assert_eq!(shown(&Tally::default()), "[]");
    }

    #[test]
    fn rows_of_a_cgroup() {
        let rows = counters(file, &["2MB".into()]);
        let names: Vec<_> = rows.iter().map(|row| row.resource.as_str()).collect();
        assert_eq!(
            names,
            [
                "memory",
                "memory_soft",
                "oom_kills",
                "processes",
                "cpu",
                "kernel",
                "dentries",
                "sockets",
                "shared"
            ],
            "no swap, no huge pages here"
        );
        let memory = row(&rows, "memory");
        assert_eq!((memory.percent(), memory.failures), (Some(50), Some(3)));
        assert_eq!(
            serde_json::to_string(memory).unwrap(),
            r#"{"resource":"memory","beancounter":"physpages","fidelity":"exact","unit":"bytes","held":52428800,"max_held":104857600,"failures":3,"guarantee":0,"barrier":null,"limit":104857600}"#
        );
        let processes = row(&rows, "processes");
        assert_eq!((processes.percent(), processes.max_held), (None, None));
        assert_eq!(row(&rows, "oom_kills").failures, Some(1));
        assert_eq!(row(&rows, "memory_soft").failures, Some(2));
        assert!(counters(|_| None, &[]).is_empty());
    }

    #[test]
    fn trouble() {
        let of = |held, max_held, failures, barrier, limit| {
            Counter {
                held: Some(held),
                max_held: Some(max_held),
                barrier,
                limit,
                ..Counter::new("x", "", Fidelity::Exact, Unit::Count)
            }
            .trouble(failures)
        };
        let at = Bound::At;
        for (held, max_held, failures, barrier, limit, expected) in [
            (49, 79, Some(0), Bound::Absent, at(100), Trouble::None),
            (50, 50, Some(0), Bound::Absent, at(100), Trouble::Near),
            (1, 80, Some(0), Bound::Absent, at(100), Trouble::Near),
            (100, 100, Some(0), at(100), at(200), Trouble::Near),
            (101, 101, Some(0), at(100), at(200), Trouble::Over),
            (1, 1, Some(1), Bound::Absent, Bound::Unlimited, Trouble::Over),
            (
                u64::MAX,
                u64::MAX,
                None,
                Bound::Unlimited,
                Bound::Unlimited,
                Trouble::None,
            ),
            (1, 1, None, Bound::Absent, at(0), Trouble::Over),
            (0, 0, None, Bound::Absent, at(0), Trouble::None),
        ] {
            assert_eq!(
                of(held, max_held, failures, barrier, limit),
                expected,
                "{held} {max_held} {failures:?} {barrier:?} {limit:?}"
            );
        }
    }

    #[test]
    fn pressure_of_a_resource() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\nfull avg10=0.10 avg60=0.00 avg300=0.00 total=99\n";
        let pressure = Pressure::read(text).unwrap();
        assert!((pressure.some - 1.5).abs() < 1e-9 && (pressure.full - 0.1).abs() < 1e-9);
        assert_eq!((pressure.some_usec, pressure.full_usec), (1234, 99));
        // Older kernels have no `full` for processors.
        let some = Pressure::read("some avg10=0.00 avg60=0.00 avg300=0.00 total=7\n").unwrap();
        assert_eq!((some.some_usec, some.full_usec), (7, 0));
        assert_eq!(Pressure::read(""), None);
    }
}
