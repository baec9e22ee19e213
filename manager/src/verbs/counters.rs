//! `ctm counters`: what containers hold of what they may hold, and what they were refused, for people, scripts and monitors.

use super::look::cgroups;
use super::{Code, Condition};
use crate::layout::Layout;
use crate::run::cgroup::Cgroup;
use crate::run::counters::{
    Bound, Counter, Fidelity, PRESSURES, Pressure, Trouble, Unit, counters, disk, living,
};
use crate::run::tally::Tally;
use crate::run::usage::bytes;
use crate::table::{self, Cell};
use crate::{atomic, cli, definitions, quota};
use anyhow::{Context, Result};
use devbroker::model::{ContainerName, InstanceId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, IsTerminal, Write};

/// The folder of what was seen last, one file for each container.
const SEEN: &str = ".counters-seen";
const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const PLAIN: &str = "\x1b[0m";

/// One container's rows.
#[derive(Debug, Serialize)]
struct Counted {
    name: ContainerName,
    counters: Vec<Row>,
    pressure: BTreeMap<&'static str, Pressure>,
}

#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    counter: Counter,
    /// Since whoever looked last.
    #[serde(skip_serializing_if = "Option::is_none")]
    new_failures: Option<u64>,
}

impl Row {
    /// The failures that count.
    fn failures(&self) -> Option<u64> {
        self.new_failures.or(self.counter.failures)
    }

    fn trouble(&self) -> Trouble {
        self.counter.trouble(self.failures())
    }
}

/// The failures that somebody has seen, of one run of a container.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    instance: Option<InstanceId>,
    failures: BTreeMap<String, u64>,
}

pub(super) fn run(layout: &Layout, arguments: &cli::Counters) -> Result<Code> {
    let Some(seconds) = arguments.watch else {
        let (text, trouble) = look(layout, arguments)?;
        io::stdout().lock().write_all(text.as_bytes())?;
        return Ok(if arguments.quiet && trouble {
            Code::Trouble
        } else {
            Code::Done
        });
    };
    loop {
        let (text, _) = look(layout, arguments)?;
        let mut out = io::stdout().lock();
        if out.is_terminal() {
            // Home, and what stood there before is gone.
            out.write_all(b"\x1b[H\x1b[2J")?;
        }
        out.write_all(text.as_bytes())?;
        out.flush()?;
        // An error is all that is asked for: whoever read us has gone.
        let mut reader = [PollFd::new(&out, PollFlags::empty())];
        let pause = Timespec {
            tv_sec: seconds.into(),
            tv_nsec: 0,
        };
        match poll(&mut reader, Some(&pause)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(Code::Done),
            Err(e) => return Err(io::Error::from(e)).context("cannot wait"),
        }
    }
}

/// What there is to say, and whether something is in trouble.
fn look(layout: &Layout, arguments: &cli::Counters) -> Result<(String, bool)> {
    let mut all = Vec::new();
    for (name, cgroup) in cgroups(layout, arguments.name.as_ref())? {
        let mut counted = count(layout, &name, &cgroup);
        if arguments.failures_since_last {
            since_last(layout, &mut counted)?;
        }
        all.push(counted);
    }
    let in_trouble = |row: &Row| row.trouble() > Trouble::None;
    let trouble = all.iter().any(|counted| counted.counters.iter().any(in_trouble));
    if arguments.quiet {
        for counted in &mut all {
            counted.counters.retain(in_trouble);
        }
        all.retain(|counted| !counted.counters.is_empty());
    }
    let text = if arguments.output.json {
        serde_json::to_string_pretty(&all)? + "\n"
    } else if arguments.prometheus {
        prometheus(&all)
    } else if arguments.quiet && !trouble {
        String::new()
    } else {
        let colours =
            io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
        people(&all, colours)
    };
    Ok((text, trouble))
}

fn count(layout: &Layout, name: &ContainerName, cgroup: &Cgroup) -> Counted {
    let folder = cgroup.folder();
    let read = |file: &str| fs::read_to_string(folder.join(file)).ok();
    // What cannot be read, or is not counted, is no row.
    let account = definitions::load(layout, name)
        .ok()
        .and_then(|definition| quota::account(&quota::folder_of(layout, &definition)).ok()?);
    let tally = match Condition::of(layout, name) {
        Ok(Condition::Supervised(state)) => Tally::of(cgroup, &state),
        Ok(Condition::Stopped | Condition::Abandoned(_)) | Err(_) => Tally::default(),
    };
    Counted {
        name: name.clone(),
        counters: counters(read, &huge_pages(cgroup))
            .into_iter()
            .chain(living(&tally))
            .chain(account.iter().flat_map(disk))
            .map(|counter| Row {
                counter,
                new_failures: None,
            })
            .collect(),
        pressure: pressure(cgroup),
    }
}

/// What waiting cost one container, by the resource.
pub(super) fn pressure(cgroup: &Cgroup) -> BTreeMap<&'static str, Pressure> {
    PRESSURES
        .into_iter()
        .filter_map(|resource| {
            let text = fs::read_to_string(cgroup.folder().join(format!("{resource}.pressure"))).ok()?;
            Some((resource, Pressure::read(&text)?))
        })
        .collect()
}

/// The sizes of huge pages that the cgroup counts, in order.
fn huge_pages(cgroup: &Cgroup) -> Vec<String> {
    let mut sizes: Vec<_> = fs::read_dir(cgroup.folder())
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(".current")?;
            // Those that are reserved have a file of their own.
            (!size.contains('.')).then(|| size.to_owned())
        })
        .collect();
    sizes.sort();
    sizes
}

/// Tells what is new since the last look, and writes down that it was seen.
fn since_last(layout: &Layout, counted: &mut Counted) -> Result<()> {
    let path = layout.beside(SEEN, &counted.name);
    // Whatever else is in the file, nothing has been seen.
    let seen: Seen = fs::read(&path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let instance = match Condition::of(layout, &counted.name)? {
        Condition::Supervised(state) | Condition::Abandoned(state) => Some(state.instance),
        Condition::Stopped => None,
    };
    // Another run counts from nothing.
    let before = if seen.instance == instance {
        seen.failures
    } else {
        BTreeMap::new()
    };
    let mut now = BTreeMap::new();
    for row in &mut counted.counters {
        let Some(failures) = row.counter.failures else {
            continue;
        };
        let known = before.get(&row.counter.resource).copied().unwrap_or(0);
        row.new_failures = Some(failures.saturating_sub(known));
        now.insert(row.counter.resource.clone(), failures);
    }
    let seen = Seen {
        instance,
        failures: now,
    };
    if let Some(folder) = path.parent() {
        atomic::folder(folder, 0o700).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    atomic::write(&path, &serde_json::to_vec(&seen)?, 0o600)
        .with_context(|| format!("cannot write down in {} what was seen", path.display()))
}

/// A table, worst rows in red and yellow.
fn people(all: &[Counted], colours: bool) -> String {
    let heads = [
        "NAME",
        "RESOURCE",
        "HELD",
        "MAXHELD",
        "GUARANTEE",
        "BARRIER",
        "LIMIT",
        "USED",
        "FAILED",
        "",
    ]
    .map(String::from);
    let rows: Vec<&Row> = all.iter().flat_map(|counted| &counted.counters).collect();
    let names = all
        .iter()
        .flat_map(|counted| counted.counters.iter().map(|_| &counted.name));
    let cells: Vec<_> = names
        .zip(&rows)
        .map(|(name, row)| {
            let counter = &row.counter;
            let show = |value: u64| shown(counter.unit, value);
            let bound = |bound: Bound| match bound {
                Bound::Absent => Cell::Nothing,
                Bound::Unlimited => Cell::Number(u64::MAX, "no".into()),
                Bound::At(value) => Cell::Number(value, show(value)),
            };
            vec![
                Cell::text(name.to_string()),
                Cell::text(counter.resource.clone()),
                Cell::shown(counter.held, show),
                Cell::shown(counter.max_held, show),
                bound(counter.guarantee),
                bound(counter.barrier),
                bound(counter.limit),
                Cell::shown(counter.percent(), |percent| match percent {
                    0..=999 => format!("{percent}%"),
                    _ => ">999%".into(),
                }),
                Cell::number(row.failures()),
                Cell::Text(
                    match counter.fidelity {
                        Fidelity::Exact => "",
                        Fidelity::Approximate => "approximate",
                        Fidelity::WatchOnly => "in memory",
                    }
                    .into(),
                ),
            ]
        })
        .collect();
    let mut text = String::new();
    let mut lines = table::lines(Some(&heads), &cells).into_iter();
    text.extend(lines.next());
    text.push('\n');
    for (line, row) in lines.zip(&rows) {
        let colour = match row.trouble() {
            _ if !colours => None,
            Trouble::None => None,
            Trouble::Near => Some(YELLOW),
            Trouble::Over => Some(RED),
        };
        match colour {
            Some(colour) => text.extend([colour, &line, PLAIN, "\n"]),
            None => text.extend([&line, "\n"]),
        }
    }
    let waits: Vec<_> = all
        .iter()
        .flat_map(|counted| {
            counted.pressure.iter().map(|(resource, pressure)| {
                vec![
                    Cell::text(counted.name.to_string()),
                    Cell::text((*resource).to_owned()),
                    Cell::text(format!("{:.2}%", pressure.some)),
                    Cell::text(format!("{:.2}%", pressure.some_minute)),
                    Cell::text(format!("{:.2}%", pressure.full)),
                ]
            })
        })
        .collect();
    if !waits.is_empty() {
        let heads = ["NAME", "WAITING FOR", "10 S", "60 S", "ALL, 10 S"].map(String::from);
        text.push('\n');
        for line in table::lines(Some(&heads), &waits) {
            text.extend([&line, "\n"]);
        }
    }
    text
}

fn shown(unit: Unit, value: u64) -> String {
    match unit {
        Unit::Bytes => bytes(value),
        Unit::Count => value.to_string(),
        Unit::Microseconds => format!("{}.{:02}s", value / 1_000_000, value / 10_000 % 100),
    }
}

/// The text that Prometheus' node exporter reads from a file. Container names need no quoting there.
fn prometheus(all: &[Counted]) -> String {
    type Value = fn(&Row) -> Option<String>;
    fn bound(bound: Bound) -> Option<String> {
        match bound {
            Bound::Absent => None,
            Bound::Unlimited => Some("+Inf".into()),
            Bound::At(value) => Some(value.to_string()),
        }
    }
    let metrics: [(&str, &str, &str, Value); 6] = [
        (
            "ctm_held",
            "gauge",
            "What a container holds, in bytes, things or microseconds.",
            |row| row.counter.held.map(|value| value.to_string()),
        ),
        (
            "ctm_held_max",
            "gauge",
            "The most it held since it started.",
            |row| row.counter.max_held.map(|value| value.to_string()),
        ),
        ("ctm_guarantee", "gauge", "What is kept for it.", |row| {
            bound(row.counter.guarantee)
        }),
        ("ctm_barrier", "gauge", "Where it is slowed down.", |row| {
            bound(row.counter.barrier)
        }),
        ("ctm_limit", "gauge", "What it cannot exceed.", |row| {
            bound(row.counter.limit)
        }),
        (
            "ctm_failures_total",
            "counter",
            "How often it was refused something.",
            |row| row.counter.failures.map(|value| value.to_string()),
        ),
    ];
    let mut text = String::new();
    let mut line = |part: std::fmt::Arguments<'_>| {
        // A string takes everything.
        text.write_fmt(part).ok();
    };
    for (metric, kind, help, value) in metrics {
        line(format_args!("# HELP {metric} {help}\n# TYPE {metric} {kind}\n"));
        for counted in all {
            for row in &counted.counters {
                if let Some(value) = value(row) {
                    line(format_args!(
                        "{metric}{{container=\"{}\",resource=\"{}\"}} {value}\n",
                        counted.name, row.counter.resource
                    ));
                }
            }
        }
    }
    let metric = "ctm_pressure_seconds_total";
    line(format_args!(
        "# HELP {metric} How long processes waited for a resource.\n# TYPE {metric} counter\n"
    ));
    for counted in all {
        for (resource, pressure) in &counted.pressure {
            for (kind, usec) in [("some", pressure.some_usec), ("full", pressure.full_usec)] {
                line(format_args!(
                    "{metric}{{container=\"{}\",resource=\"{resource}\",kind=\"{kind}\"}} {}.{:06}\n",
                    counted.name,
                    usec / 1_000_000,
                    usec % 1_000_000
                ));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(layout: Option<&Layout>) -> Counted {
        let file = |name: &str| {
            Some(
                match name {
                    "memory.current" => "1048576\n",
                    "memory.max" => "2097152\n",
                    "memory.min" => "0\n",
                    "memory.events" => "oom 3\noom_kill 0\n",
                    "pids.current" => "4\n",
                    "pids.max" => "max\n",
                    _ => return None,
                }
                .into(),
            )
        };
        let pressure = Pressure::read("some avg10=1.50 avg60=0.00 avg300=0.00 total=1500000\n").unwrap();
        let mut counted = Counted {
            name: "a".parse().unwrap(),
            counters: counters(file, &[])
                .into_iter()
                .map(|counter| Row {
                    counter,
                    new_failures: None,
                })
                .collect(),
            pressure: BTreeMap::from([("cpu", pressure)]),
        };
        if let Some(layout) = layout {
            since_last(layout, &mut counted).unwrap();
        }
        counted
    }

    #[test]
    fn for_people_and_for_monitors() {
        let all = [counted(None)];
        let text = people(&all, false);
        let lines: Vec<_> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "NAME RESOURCE HELD MAXHELD GUARANTEE BARRIER LIMIT USED FAILED",
                "a memory 1.0M - 0 - 2.0M 50% 3",
                "a memory_soft 1.0M - - - - - - approximate",
                "a oom_kills - - - - - - 0",
                "a processes 4 - - - no - -",
                "",
                "NAME WAITING FOR 10 S 60 S ALL, 10 S",
                "a cpu 1.50% 0.00% 0.00%",
            ]
        );
        let coloured = people(&all, true);
        assert_eq!(coloured.matches(RED).count(), 1);
        assert!(coloured.lines().nth(1).unwrap().starts_with(RED));
        let text = prometheus(&all);
        for line in [
            "ctm_held{container=\"a\",resource=\"memory\"} 1048576",
            "ctm_limit{container=\"a\",resource=\"processes\"} +Inf",
            "ctm_failures_total{container=\"a\",resource=\"memory\"} 3",
            "ctm_pressure_seconds_total{container=\"a\",resource=\"cpu\",kind=\"some\"} 1.500000",
            "# TYPE ctm_failures_total counter",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}: {text}");
        }
    }

    #[test]
    fn what_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout {
            run: dir.path().into(),
            ..Layout::default()
        };
        let failures = |counted: &Counted| counted.counters.iter().find_map(Row::failures);
        assert_eq!(failures(&counted(Some(&layout))), Some(3));
        let again = counted(Some(&layout));
        assert_eq!(failures(&again), Some(0));
        assert_eq!(
            again.counters.first().unwrap().trouble(),
            Trouble::Near,
            "it holds half"
        );
        let seen = layout.beside(SEEN, &again.name);
        fs::write(&seen, b"garbage").unwrap();
        assert_eq!(failures(&counted(Some(&layout))), Some(3));
    }
}
