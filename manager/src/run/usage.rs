//! What a container uses: read from the files of its cgroup, nothing else.

use crate::run::cgroup::Cgroup;
use serde::Serialize;
use std::fs;

/// What a container has used since it started, and what it holds now. What the host does not count is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Usage {
    /// Time on processors, in microseconds.
    pub(crate) cpu_usec: Option<u64>,
    /// Memory now, in bytes, with what the kernel caches for it.
    pub(crate) memory: Option<u64>,
    /// The most it had.
    pub(crate) memory_peak: Option<u64>,
    /// Bytes read from block devices.
    pub(crate) read: Option<u64>,
    /// Bytes written to them.
    pub(crate) written: Option<u64>,
    /// Processes and threads now.
    pub(crate) processes: Option<u64>,
}

impl Usage {
    /// Of the container in this cgroup.
    pub(crate) fn of(cgroup: &Cgroup) -> Self {
        let text = |file: &str| fs::read_to_string(cgroup.folder().join(file)).unwrap_or_default();
        let number = |file: &str| text(file).trim().parse().ok();
        let io = text("io.stat");
        Self {
            cpu_usec: field(&text("cpu.stat"), "usage_usec"),
            memory: number("memory.current"),
            memory_peak: number("memory.peak"),
            read: sum(&io, "rbytes="),
            written: sum(&io, "wbytes="),
            processes: number("pids.current").or_else(|| u64::try_from(cgroup.processes().len()).ok()),
        }
    }
}

/// The value of a flat keyed file (`cgroup-v2.rst`, "Format").
pub(crate) fn field(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// One field of a nested keyed file, over all its lines; none if there is no such field.
fn sum(text: &str, field: &str) -> Option<u64> {
    text.split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix(field)?.parse::<u64>().ok())
        .fold(None, |sum, value| {
            Some(sum.unwrap_or(0_u64).saturating_add(value))
        })
}

/// Bytes for people: three digits and a unit.
pub(crate) fn bytes(value: u64) -> String {
    const UNITS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    if value < 1024 {
        return value.to_string();
    }
    let (mut whole, mut rest, mut unit) = (value / 1024, value % 1024, 0);
    while whole >= 1000 && unit + 1 < UNITS.len() {
        rest = whole % 1024;
        whole /= 1024;
        unit += 1;
    }
    let unit = UNITS.get(unit).copied().unwrap_or_default();
    if whole < 10 {
        format!("{whole}.{}{unit}", rest * 10 / 1024)
    } else {
        format!("{whole}{unit}")
    }
}

/// A time for people: the two largest units.
pub(crate) fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_cgroup() {
        let cpu = "usage_usec 1234\nuser_usec 1000\nsystem_usec 234\n";
        assert_eq!(field(cpu, "usage_usec"), Some(1234));
        assert_eq!(field(cpu, "usage"), None);
        let io = "8:0 rbytes=10 wbytes=1 rios=1 wios=1 dbytes=0 dios=0\n253:1 rbytes=5 wbytes=2 rios=1\n";
        assert_eq!((sum(io, "rbytes="), sum(io, "wbytes=")), (Some(15), Some(3)));
        assert_eq!(sum("", "rbytes="), None);
    }

    #[test]
    fn for_people() {
        for (value, shown) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1.0K"),
            (1536, "1.5K"),
            (10 << 10, "10K"),
            (999 << 10, "999K"),
            (1000 << 10, "0.9M"),
            (3 << 30, "3.0G"),
            (u64::MAX, "15E"),
        ] {
            assert_eq!(bytes(value), shown);
        }
        for (seconds, shown) in [(7, "7s"), (67, "1m07s"), (3667, "1h01m"), (90_000, "1d01h")] {
            assert_eq!(span(seconds), shown);
        }
    }
}
