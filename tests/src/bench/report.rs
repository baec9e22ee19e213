//! The figures: what is computed of the samples, the table, the file.

use super::daemon::Memory;
use super::manager::Figures;
use super::parts::Part;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// At most so many times the floor.
const AIM_FLOOR: f64 = 3.0;
/// At least so many times faster than the script.
const AIM_SCRIPT: f64 = 20.0;

/// Whose series it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The bare system calls.
    Floor,
    /// The daemon with so many containers.
    Broker(usize),
    /// `RUN+=` and a shell.
    Script,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Floor => f.write_str("floor"),
            Self::Broker(1) => f.write_str("broker, 1 container"),
            Self::Broker(many) => write!(f, "broker, {many} containers"),
            Self::Script => f.write_str("script"),
        }
    }
}

/// One replug, in nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    /// The kernel sent its event.
    pub(super) kernel: u64,
    /// The contender was told.
    pub(super) told: u64,
    /// It had the message, and the node was there; only the floor knows.
    pub(super) work: Option<(u64, u64)>,
    /// The prober noticed the node that it could then open.
    pub(super) seen: u64,
    /// It was open.
    pub(super) opened: u64,
}

/// All replugs of one contender.
#[derive(Debug)]
pub(super) struct Series {
    kind: Kind,
    own_users: bool,
    /// In the order of time.
    pub(super) samples: Vec<Sample>,
}

impl Series {
    pub(super) const fn new(kind: Kind, own_users: bool) -> Self {
        Self {
            kind,
            own_users,
            samples: Vec::new(),
        }
    }

    fn spread(&self, of: impl Fn(&Sample) -> Option<u64>) -> Spread {
        Spread::of(self.samples.iter().filter_map(of).collect())
    }

    fn latency(&self) -> Spread {
        // A script's record may have been noticed late; that is in its favour.
        self.spread(|sample| Some(sample.opened.saturating_sub(sample.told)))
    }

    fn since_kernel(&self) -> Spread {
        self.spread(|sample| sample.opened.checked_sub(sample.kernel))
    }
}

/// Of many durations, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    /// How many.
    pub(super) count: usize,
    /// Half are below.
    pub(super) median: f64,
    /// 90 of 100 are below.
    pub(super) p90: f64,
    /// 99 of 100 are below.
    pub(super) p99: f64,
}

impl Spread {
    /// Of nanoseconds, in any order.
    pub(super) fn of(mut nanoseconds: Vec<u64>) -> Self {
        nanoseconds.sort_unstable();
        let count = nanoseconds.len();
        let at = |percent: usize| {
            let rank = (count * percent).div_ceil(100).saturating_sub(1);
            microseconds(nanoseconds.get(rank).copied().unwrap_or(0))
        };
        Self {
            count,
            median: at(50),
            p90: at(90),
            p99: at(99),
        }
    }

    /// In microseconds.
    pub(super) fn json(&self) -> Value {
        json!({ "count": self.count, "median": self.median, "p90": self.p90, "p99": self.p99 })
    }
}

fn microseconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64() * 1e6
}

/// What events that concern nobody cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Nobody {
    /// With so many containers.
    pub(super) containers: usize,
    events: u32,
    /// The daemon's processor time for each, in microseconds.
    used: f64,
    /// From writing the event to its broadcast by udev, and on to the next, in microseconds.
    wall: f64,
}

impl Nobody {
    pub(super) fn new(containers: usize, events: u32, used: u64, wall: Duration) -> Self {
        let each = f64::from(events.max(1));
        Self {
            containers,
            events,
            used: microseconds(used) / each,
            wall: wall.as_secs_f64() * 1e6 / each,
        }
    }
}

/// All that was measured.
#[derive(Debug)]
pub(super) struct Report {
    /// In the order of their turns.
    pub(super) series: Vec<Series>,
    /// By number of containers.
    pub(super) nobody: Vec<Nobody>,
    /// By number of containers.
    pub(super) memory: Vec<(usize, Memory)>,
    /// Single steps, in a loop.
    pub(super) parts: Vec<Part>,
    /// ctm beside crun.
    pub(super) manager: Option<Figures>,
}

/// One broker series against the aim.
struct Verdict<'a> {
    series: &'a Series,
    floors: f64,
    faster: f64,
}

impl Report {
    pub(super) const fn new(series: Vec<Series>) -> Self {
        Self {
            series,
            nobody: Vec::new(),
            memory: Vec::new(),
            parts: Vec::new(),
            manager: None,
        }
    }

    fn median(&self, kind: Kind, own_users: bool) -> f64 {
        let found = self
            .series
            .iter()
            .find(|series| series.kind == kind && series.own_users == own_users);
        found.map_or(f64::NAN, |series| series.latency().median)
    }

    fn verdicts(&self) -> Vec<Verdict<'_>> {
        let brokers = self
            .series
            .iter()
            .filter(|series| matches!(series.kind, Kind::Broker(_)));
        let verdict = |series: &'_ Series| {
            let median = series.latency().median;
            (
                median / self.median(Kind::Floor, series.own_users),
                self.median(Kind::Script, series.own_users) / median,
            )
        };
        brokers
            .map(|series| {
                let (floors, faster) = verdict(series);
                Verdict {
                    series,
                    floors,
                    faster,
                }
            })
            .collect()
    }

    /// The table and what it says about the aim.
    pub(super) fn print(&self, out: &mut impl Write) -> Result<()> {
        writeln!(
            out,
            "\nfrom udev's event to a successful open in the container, us"
        )?;
        writeln!(
            out,
            "{:38} {:>6} {:>9} {:>9} {:>9} {:>9}   from the kernel's event",
            "", "n", "median", "p90", "p99", "x floor"
        )?;
        for series in &self.series {
            let (spread, kernel) = (series.latency(), series.since_kernel());
            writeln!(
                out,
                "{:38} {:>6} {:>9.1} {:>9.1} {:>9.1} {:>9.2}   {:>9.1} {:>9.1}",
                title(series),
                spread.count,
                spread.median,
                spread.p90,
                spread.p99,
                spread.median / self.median(Kind::Floor, series.own_users),
                kernel.median,
                kernel.p99
            )?;
        }
        self.print_steps(out)?;
        writeln!(out, "\nthe daemon")?;
        for (containers, memory) in &self.memory {
            writeln!(
                out,
                "  memory, {containers} containers: {} KiB resident, {} KiB its share",
                memory.rss, memory.pss
            )?;
        }
        for nobody in &self.nobody {
            writeln!(
                out,
                "  an event that concerns nobody, {} containers: {:.1} us of processor ({} events, one every {:.0} us)",
                nobody.containers, nobody.used, nobody.events, nobody.wall
            )?;
        }
        writeln!(
            out,
            "\naim: at most {AIM_FLOOR} times the floor, at least {AIM_SCRIPT} times faster than the script"
        )?;
        for Verdict {
            series,
            floors,
            faster,
        } in self.verdicts()
        {
            let met = if floors <= AIM_FLOOR && faster >= AIM_SCRIPT {
                "met"
            } else {
                "NOT met"
            };
            writeln!(
                out,
                "  {:38} {floors:>6.2} x the floor, {faster:>6.1} x faster: {met}",
                title(series)
            )?;
        }
        if let Some(manager) = &self.manager {
            writeln!(
                out,
                "\nctm, beside crun alone on the same bundle and systemd-nspawn on the same root"
            )?;
            for line in manager.lines() {
                writeln!(out, "{line}")?;
            }
        }
        Ok(())
    }

    /// Where a median goes.
    fn print_steps(&self, out: &mut impl Write) -> Result<()> {
        writeln!(out, "\nwhere the medians go, us")?;
        for own_users in [false, true] {
            let of = |kind| {
                self.series
                    .iter()
                    .find(|series| series.kind == kind && series.own_users == own_users)
            };
            let (Some(floor), Some(broker)) = (of(Kind::Floor), of(Kind::Broker(1))) else {
                continue;
            };
            let woken = floor.spread(|one| one.work?.0.checked_sub(one.told)).median;
            let work = floor
                .spread(|one| one.work.map(|(received, placed)| placed - received))
                .median;
            let noticed = floor.spread(|one| one.seen.checked_sub(one.work?.1)).median;
            let opening = floor.spread(|one| one.opened.checked_sub(one.seen)).median;
            writeln!(
                out,
                "  floor{}: woken {woken:.1}, its calls {work:.1}, the prober notices {noticed:.1} later, open {opening:.1}",
                users(own_users)
            )?;
            let until_seen = broker.spread(|one| one.seen.checked_sub(one.told)).median;
            let opening = broker.spread(|one| one.opened.checked_sub(one.seen)).median;
            writeln!(
                out,
                "  broker, 1 container{}: {:.1} besides the floor's waking and noticing, open {opening:.1}",
                users(own_users),
                until_seen - woken - noticed
            )?;
        }
        writeln!(out, "  steps in a loop, by themselves")?;
        for part in &self.parts {
            let spread = part.spread;
            writeln!(
                out,
                "    {:52} {:>7.1} p99 {:>7.1}",
                part.name, spread.median, spread.p99
            )?;
        }
        Ok(())
    }

    /// The same as JSON.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let series: Vec<Value> = self
            .series
            .iter()
            .map(|series| {
                json!({
                    "contender": series.kind.to_string(),
                    "user_namespace": series.own_users,
                    "event_to_open_us": series.latency().json(),
                    "kernel_event_to_open_us": series.since_kernel().json(),
                })
            })
            .collect();
        let verdicts: Vec<Value> = self
            .verdicts()
            .iter()
            .map(|verdict| {
                json!({
                    "contender": verdict.series.kind.to_string(),
                    "user_namespace": verdict.series.own_users,
                    "times_floor": verdict.floors,
                    "times_faster_than_script": verdict.faster,
                    "met": verdict.floors <= AIM_FLOOR && verdict.faster >= AIM_SCRIPT,
                })
            })
            .collect();
        let memory: Vec<Value> = self
            .memory
            .iter()
            .map(|(containers, memory)| json!({ "containers": containers, "rss_kib": memory.rss, "pss_kib": memory.pss }))
            .collect();
        let nobody: Vec<Value> = self
            .nobody
            .iter()
            .map(|one| json!({ "containers": one.containers, "events": one.events, "cpu_us": one.used, "wall_us": one.wall }))
            .collect();
        let parts: Vec<Value> = self
            .parts
            .iter()
            .map(|part| json!({ "step": part.name, "us": part.spread.json() }))
            .collect();
        let all = json!({
            "series": series,
            "verdicts": verdicts,
            "memory": memory,
            "event_for_nobody": nobody,
            "steps": parts,
            "ctm": self.manager.as_ref().map(Figures::json),
        });
        let text = serde_json::to_string_pretty(&all).context("the figures as JSON")?;
        std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
    }
}

fn title(series: &Series) -> String {
    format!("{}{}", series.kind, users(series.own_users))
}

const fn users(own: bool) -> &'static str {
    if own { ", user namespace" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks() {
        let spread = Spread::of((1..=1000).rev().map(|n| n * 1000).collect());
        let expected = Spread {
            count: 1000,
            median: 500.0,
            p90: 900.0,
            p99: 990.0,
        };
        assert_eq!(spread, expected);
        let one = Spread {
            count: 1,
            median: 7.0,
            p90: 7.0,
            p99: 7.0,
        };
        assert_eq!(Spread::of(vec![7000]), one);
        assert_eq!(Spread::of(vec![]).count, 0);
    }
}
