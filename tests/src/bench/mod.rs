//! `make bench`: how long after udev's event a device can be opened in its container, beside what it could be at best and
//! what a script takes.
//!
//! Runs on the host itself, as root: emulation says nothing about time. All contenders are measured in one run, in turn, so
//! that whatever disturbs the machine disturbs all alike, with the same prober, on the same kind of device:
//!
//! - the *floor*: a process that waits for udev's event and makes nothing but the system calls ([`place`]);
//! - the *broker*: the release build, one daemon with one container and one with 200, of which one is granted the device;
//! - the *script*: a udev rule whose `RUN+=` makes the node by a shell script, as it was done in 2008.
//!
//! In each turn a loop device with another number comes (and goes again), while the prober, blocked in inotify on the
//! container's `/dev`, opens the node as the user that it is for, and the clock stops when that succeeds on a node with its
//! final owner and mode. The clock starts when the contender is told. For floor and broker
//! that is udev's message: a BPF filter on a socket of our own notes the moment at which it was queued, without a process
//! that would have to be woken. For the script it is udev's record, which udevd writes right before it starts programs. Who
//! is not having a turn is stopped (the daemons) or does not listen (the floor).

mod container;
mod daemon;
mod inside;
mod lines;
mod manager;
mod parts;
mod place;
mod plug;
mod report;
mod stamp;
mod sys;

use anyhow::{Context, Result, bail, ensure};
use container::{Container, Ground, Open};
use daemon::Daemon;
use lines::{Interrupt, LIMIT, Talker};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use plug::{Loops, Udev};
use report::{Kind, Nobody, Report, Sample, Series};
use stamp::{Group, Stamped};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How many containers a full host has.
const MANY: usize = 200;

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// Replugs of each contender.
    pub replugs: u32,
    /// Events that concern nobody.
    pub events: u32,
    /// The daemon's program.
    pub devbroker: PathBuf,
    /// The manager's program.
    pub ctm: PathBuf,
    /// Starts of a container of ctm's.
    pub starts: u32,
    /// Where the figures go.
    pub json: PathBuf,
}

/// Runs this program as one of the benchmark's own processes, if `words` say so.
pub fn inside(words: &[&str]) -> Option<Result<()>> {
    match words {
        ["prober", dev, users] => Some(inside::prober(Path::new(dev), *users == "own-users")),
        ["floor", devfs, filter, owner] => Some(
            owner
                .parse()
                .context("the owner")
                .and_then(|owner| inside::floor(Path::new(devfs), Path::new(filter), owner)),
        ),
        ["leashed", command @ ..] => {
            let command: Vec<String> = command.iter().map(ToString::to_string).collect();
            Some(inside::leashed(&command))
        }
        _ => None,
    }
}

/// Measures, prints the table, writes the figures. After Ctrl-C with what there is.
pub fn run(options: &Options, out: &mut impl Write) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "`make bench` needs root");
    for program in [&options.devbroker, &options.ctm] {
        ensure!(
            program.exists(),
            "{} is not there: `cargo build --release -p devbroker -p ctm`",
            program.display()
        );
    }
    let interrupt = Interrupt::install()?;
    let mut bench = Bench::prepare(options)?;
    writeln!(
        out,
        "{} replugs for each of {} series, {}; Ctrl-C ends it early",
        options.replugs,
        bench.series.len(),
        if bench.udev.is_ours() {
            "with a udevd of its own"
        } else {
            "with the host's udevd"
        }
    )?;
    let mut report = bench.measure(options.replugs, &interrupt, out)?;
    if !interrupt.is_set() {
        report.nobody = bench.events_for_nobody(options.events, &interrupt)?;
    }
    report.memory = bench.memory()?;
    report.parts = bench.parts()?;
    drop(bench);
    if !interrupt.is_set() && options.starts > 0 {
        report.manager = Some(manager::measure(&options.ctm, options.starts).context("ctm's figures")?);
    }
    report.print(out)?;
    report.write(&options.json)?;
    writeln!(out, "figures: {}", options.json.display())?;
    Ok(())
}

/// Who acts in a series, and with what.
#[derive(Debug)]
enum Contender {
    Floor(Talker),
    /// The daemon, and how many containers it serves.
    Broker(Daemon, usize),
    Script,
}

/// One series: a contender and the container that its device goes to. Dropped in this order: the daemon goes before its
/// containers.
#[derive(Debug)]
struct Runner {
    contender: Contender,
    /// The first has the prober.
    containers: Vec<Container>,
}

/// All that is running. Dropped in this order, so that nothing is left behind.
#[derive(Debug)]
struct Bench {
    series: Vec<Runner>,
    loops: Loops,
    udev_events: Stamped,
    kernel_events: Stamped,
    records: Inotify,
    ground: Ground,
    udev: Udev,
    /// Ends the idle containers' processes when we end.
    _leash: OwnedFd,
}

/// Series in the order of their turns: kind, whether with a user namespace.
const SERIES: [(Kind, bool); 8] = [
    (Kind::Floor, false),
    (Kind::Floor, true),
    (Kind::Broker(1), false),
    (Kind::Broker(1), true),
    (Kind::Broker(MANY), false),
    (Kind::Broker(MANY), true),
    (Kind::Script, false),
    (Kind::Script, true),
];

fn alias(series: u32) -> String {
    format!("bench{series}")
}

fn script_path(shared: &Path, series: u32) -> PathBuf {
    shared.join(format!("{series}.dev"))
}

/// Rules for udev: the scripts.
fn rules(shared: &Path) -> String {
    let mut rules = String::new();
    for (series, (kind, _)) in (0_u32..).zip(SERIES) {
        if kind == Kind::Script {
            let (pattern, script) = (plug::pattern(series), script_path(shared, series));
            writeln!(
                rules,
                "SUBSYSTEM==\"block\", KERNEL==\"{pattern}\", RUN+=\"/bin/sh {}\"",
                script.display()
            )
            .ok();
        }
    }
    rules
}

/// The script of 2008 at its best: no configuration to read, and access to the device is open already.
fn script(pid: i32, owner: u32) -> String {
    format!(
        "name=${{DEVNAME#/dev/}}\ncd /proc/{pid}/root/dev || exit 1\ncase $ACTION in\nadd)\n  rm -f \"$name\"\n  \
         mknod \"$name\" b \"$MAJOR\" \"$MINOR\"\n  chown {owner}:{owner} \"$name\"\n  chmod 660 \"$name\"\n  ;;\nremove)\n  \
         rm -f \"$name\"\n  ;;\nesac\n"
    )
}

impl Bench {
    fn prepare(options: &Options) -> Result<Self> {
        // Before the mount namespace is ours: udevd and its programs are to see the host.
        let shared = PathBuf::from(format!("/run/devbroker-bench-{}", std::process::id()));
        let udev = Udev::start(&rules(&shared))?;
        let ground = Ground::new()?;
        let records = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).context("inotify")?;
        let written = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_CLOSE_WRITE;
        fs::create_dir_all("/run/udev/data").context("make /run/udev/data")?;
        records
            .add_watch("/run/udev/data", written)
            .context("watch udev's records")?;
        let (leash_end, leash) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context("make a pipe")?;
        let mut series = Vec::new();
        for (number, (kind, own_users)) in (0_u32..).zip(SERIES) {
            let name = format!("s{number}");
            let seed = if kind == Kind::Script {
                Open::AllBlock
            } else {
                Open::Standard
            };
            let mut containers = vec![Container::with_prober(&ground, &name, own_users, seed)?];
            let contender = match kind {
                Kind::Floor => {
                    let place = containers.first().context("a container")?;
                    let (devfs, filter) = (&place.registration().devfs, &place.registration().filter);
                    Contender::Floor(Talker::start(&[
                        "floor",
                        &devfs.to_string_lossy(),
                        &filter.to_string_lossy(),
                        &place.owner().to_string(),
                    ])?)
                }
                Kind::Broker(many) => {
                    let names: Vec<String> = (0..plug::NUMBERS)
                        .map(|turn| format!("loop{}", plug::number(number, turn)))
                        .collect();
                    for other in 1..many {
                        let input = Stdio::from(leash_end.try_clone().context("share a pipe")?);
                        containers.push(Container::idle(
                            &ground,
                            &format!("{name}-{other}"),
                            own_users,
                            input,
                        )?);
                    }
                    let daemon =
                        Daemon::start(&options.devbroker, &ground, &alias(number), &names, &containers)?;
                    Contender::Broker(daemon, many)
                }
                Kind::Script => {
                    let place = containers.first().context("a container")?;
                    let text = script(place.registration().pid, place.owner());
                    let path = script_path(ground.shared(), number);
                    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
                    Contender::Script
                }
            };
            series.push(Runner {
                contender,
                containers,
            });
        }
        Ok(Self {
            series,
            loops: Loops::open()?,
            udev_events: Stamped::listen(Group::Udev)?,
            kernel_events: Stamped::listen(Group::Kernel)?,
            records,
            ground,
            udev,
            _leash: leash,
        })
    }

    fn measure(&mut self, replugs: u32, interrupt: &Interrupt, out: &mut impl Write) -> Result<Report> {
        let mut report = Report::new(
            SERIES
                .map(|(kind, own_users)| Series::new(kind, own_users))
                .into(),
        );
        for runner in &self.series {
            if let Contender::Broker(daemon, _) = &runner.contender {
                daemon.pause()?;
            }
        }
        for turn in 0..replugs {
            for number in 0..self.series.len() {
                if interrupt.is_set() {
                    writeln!(out, "interrupted after {turn} replugs")?;
                    return Ok(report);
                }
                let (kind, own_users) = SERIES.get(number).copied().context("a series")?;
                let sample = self.turn(u32::try_from(number)?, turn).with_context(|| {
                    format!(
                        "replug {turn} of {kind}{}",
                        if own_users { " with its own users" } else { "" }
                    )
                })?;
                if let Some(series) = report.series.get_mut(number) {
                    series.samples.push(sample);
                }
            }
        }
        Ok(report)
    }

    /// One replug.
    fn turn(&mut self, series: u32, turn: u32) -> Result<Sample> {
        let number = plug::number(series, turn);
        let name = format!("loop{number}");
        let runner = self
            .series
            .get_mut(usize::try_from(series)?)
            .context("a series")?;
        let prober = runner.containers.first_mut().context("a container")?.prober()?;
        match &mut runner.contender {
            Contender::Floor(floor) => ensure!(floor.ask("go")? == "on", "the floor is confused"),
            Contender::Broker(daemon, _) => daemon.resume()?,
            Contender::Script => while self.records.read_events().is_ok() {},
        }
        self.loops.add(number)?;
        let record = match &runner.contender {
            Contender::Script => Some(written(&self.records, number)?),
            Contender::Floor(_) | Contender::Broker(..) => None,
        };
        let line = prober.hear().context("it was never opened")?;
        let [seen, opened] = numbers(&line, &format!("opened {name}"))?;
        let kernel = self.kernel_events.time_of("add", &name, LIMIT)?;
        let told = self.udev_events.time_of("add", &name, LIMIT)?;
        self.loops.remove(number)?;
        let line = prober.hear().context("it never went")?;
        ensure!(line == format!("gone {name}"), "the prober said `{line}`");
        self.udev_events.time_of("remove", &name, LIMIT)?;
        let mut work = None;
        match &mut runner.contender {
            Contender::Floor(floor) => work = Some(numbers(&floor.hear()?, "done")?),
            Contender::Broker(daemon, _) => {
                daemon.sync()?;
                daemon.pause()?;
            }
            Contender::Script => {}
        }
        Ok(Sample {
            kernel,
            told: record.unwrap_or(told),
            work: work.map(|[received, placed]| (received, placed)),
            seen,
            opened,
        })
    }

    /// What a daemon does for each event of a device that no alias names.
    fn events_for_nobody(&mut self, events: u32, interrupt: &Interrupt) -> Result<Vec<Nobody>> {
        let number = plug::number(u32::try_from(self.series.len())?, 0);
        let name = format!("loop{number}");
        self.loops.add(number)?;
        self.udev_events.time_of("add", &name, LIMIT)?;
        let uevent = format!("/sys/devices/virtual/block/{name}/uevent");
        let mut all = Vec::new();
        for runner in &self.series {
            let Contender::Broker(daemon, containers) = &runner.contender else {
                continue;
            };
            if all.iter().any(|nobody: &Nobody| nobody.containers == *containers) {
                continue;
            }
            daemon.resume()?;
            let (begin, before) = (Instant::now(), daemon.used()?);
            let mut done = 0_u32;
            while done < events && !interrupt.is_set() {
                fs::write(&uevent, "change").with_context(|| format!("write {uevent}"))?;
                self.udev_events.time_of("change", &name, LIMIT)?;
                done += 1;
            }
            daemon.sync()?;
            let (wall, after) = (begin.elapsed(), daemon.used()?);
            daemon.pause()?;
            all.push(Nobody::new(*containers, done, after.0 - before.0, wall));
        }
        self.loops.remove(number)?;
        self.udev_events.time_of("remove", &name, LIMIT)?;
        Ok(all)
    }

    fn memory(&self) -> Result<Vec<(usize, daemon::Memory)>> {
        let mut all: Vec<(usize, daemon::Memory)> = Vec::new();
        for runner in &self.series {
            if let Contender::Broker(daemon, containers) = &runner.contender {
                if !all.iter().any(|(known, _)| known == containers) {
                    all.push((*containers, daemon.memory()?));
                }
            }
        }
        Ok(all)
    }

    fn parts(&mut self) -> Result<Vec<parts::Part>> {
        let number = plug::number(u32::try_from(self.series.len())?, 1);
        self.loops.add(number)?;
        self.udev_events.time_of("add", &format!("loop{number}"), LIMIT)?;
        let mut all = Vec::new();
        for (runner, (kind, own_users)) in self.series.iter().zip(SERIES) {
            let container = runner.containers.first().context("a container")?;
            if kind == Kind::Floor {
                all.push(parts::bare(&container.bare()?, own_users, number)?);
            }
            if kind == Kind::Broker(1) && !own_users {
                all.extend(parts::daemon(
                    container.registration(),
                    &self.ground.private("parts"),
                    number,
                )?);
            }
        }
        self.loops.remove(number)?;
        Ok(all)
    }
}

/// Waits until udev has written the record of a loop device, and says when that was seen.
fn written(records: &Inotify, number: u32) -> Result<u64> {
    let file = format!("b7:{number}");
    let end = Instant::now() + LIMIT;
    loop {
        let mut polled = [PollFd::new(records.as_fd(), PollFlags::POLLIN)];
        let left = end.saturating_duration_since(Instant::now());
        ensure!(left > Duration::ZERO, "udev wrote no record {file}");
        poll(
            &mut polled,
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
        )
        .ok();
        let now = inside::now();
        let events = records.read_events().unwrap_or_default();
        let is_it = |name: Option<&OsStr>| name.is_some_and(|name| name == file.as_str());
        if events.iter().any(|event| is_it(event.name.as_deref())) {
            return Ok(now);
        }
    }
}

/// The two numbers at the end of a line that begins with `word`.
fn numbers(line: &str, word: &str) -> Result<[u64; 2]> {
    let rest = line
        .strip_prefix(word)
        .with_context(|| format!("a process said `{line}`"))?;
    let all: Vec<u64> = rest
        .split_ascii_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect();
    match all.as_slice() {
        [one, two] => Ok([*one, *two]),
        _ => bail!("a process said `{line}`"),
    }
}
