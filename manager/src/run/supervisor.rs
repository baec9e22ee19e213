//! `ctm run`: takes the steps of a start, stays with the container until its first process ends, and undoes them.

use crate::definition::Definition;
use crate::definitions::{self, LoadError};
use crate::enter::entry;
use crate::layout::Layout;
use crate::lock::{self, LockError};
use crate::plan;
use crate::process::{Ending, ProcessId, ending_of};
use crate::run::asked::{self, Asked};
use crate::run::attach::Listener;
use crate::run::cgroup;
use crate::run::clean::{self, CleanError};
use crate::run::console::Console;
use crate::run::crun::Output;
use crate::run::hold::Holds;
use crate::run::hooks::{HookError, Hooks, Turn};
use crate::run::limit::{Facts, LimitError};
use crate::run::needs::{self, NeedError};
use crate::run::network::{self, TakenError};
use crate::run::output::Kept;
use crate::run::state::{self, Last, Phase, State, StateError};
use crate::run::tally;
use crate::run::watch::Watch;
use crate::runner::{Runner, Running, StepError};
use crate::service::{Notifier, ServiceError};
use crate::{fail_point, sys};
use devbroker::model::{ContainerName, InstanceId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{set_child_subreaper, setsid};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Beyond the container's own time to stop: for killing and cleaning up.
const STOP_MARGIN: Duration = Duration::from_secs(30);

/// A container may reboot itself this often within [`REBOOTS_WITHIN`], as the unit has it for systemd.
const REBOOTS: usize = 5;
/// The time in which reboots are counted.
const REBOOTS_WITHIN: Duration = Duration::from_secs(60);

/// What can go wrong with a run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// Someone supervises it.
    #[error("container {0} is running already")]
    Busy(ContainerName),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("cannot clean up what an earlier run of {name} left: {source}")]
    Clean { name: ContainerName, source: CleanError },
    /// The root file system is not there.
    #[error("{} is no folder; the container's root file system is missing", .0.display())]
    NoRootfs(PathBuf),
    /// We are not installed whole.
    #[error("{} is missing; `make install` puts it there, `reaper = false` does without it", .0.display())]
    NoReaper(PathBuf),
    #[error(transparent)]
    Need(#[from] NeedError),
    #[error(transparent)]
    Taken(#[from] TakenError),
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error("cannot write the container's OCI configuration: {0}")]
    Bundle(#[from] oci_spec::OciSpecError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Step(#[from] StepError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(transparent)]
    Cgroup(#[from] cgroup::CgroupError),
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error("cannot {what}: {source}")]
    Io { what: &'static str, source: io::Error },
    /// The first process ended by itself, and not well.
    #[error("the container's first process {0}")]
    Failed(Ending),
    /// It never stays up.
    #[error(
        "the container rebooted itself {REBOOTS} times within {} s and is left stopped",
        REBOOTS_WITHIN.as_secs()
    )]
    Rebooting,
    /// Something stays behind.
    #[error("container {name} has ended, but {failures}")]
    Left { name: ContainerName, failures: String },
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::Io { what, source }
}

/// Runs a container from start to end, again each time it reboots itself; whether it is to be started again by systemd,
/// which runs us, for that reason. `detached`: leave the session of the terminal that started us.
pub(crate) fn run(layout: &Layout, name: &ContainerName, detached: bool) -> Result<Outcome, RunError> {
    if detached {
        setsid().map_err(|e| failed("begin a session")(e.into()))?;
    }
    let mut asked = Asked::heeded().map_err(failed("wait for signals"))?;
    let _lock = lock::run(layout, name)?.ok_or_else(|| RunError::Busy(name.clone()))?;
    clean::after_crash(layout, name).map_err(|source| RunError::Clean {
        name: name.clone(),
        source,
    })?;
    cgroup::require_unified()?;
    // Orphans of crun's become ours, the container's first process among them, so that its exit status can be had.
    set_child_subreaper(Some(rustix::process::getpid())).map_err(|e| failed("adopt orphans")(e.into()))?;

    let run = cgroup::Cgroup::of_run(name, &cgroup::own()?);
    let notifier = Notifier::from_environment()?;
    let ended = again_and_again(layout, name, &run, &mut asked, notifier);
    let forgotten = State::forget_between(&layout.run_of(name));
    ended.and_then(|outcome| Ok(forgotten.map(|()| outcome)?))
}

/// Runs it, and again each time it reboots itself, unless its end is wanted or systemd sees to that.
fn again_and_again(
    layout: &Layout,
    name: &ContainerName,
    run: &cgroup::Run,
    asked: &mut Asked,
    mut notifier: Notifier,
) -> Result<Outcome, RunError> {
    let mut reboots = Vec::new();
    loop {
        let outcome = once(layout, name, run, asked, &notifier)?;
        if outcome == Outcome::Ended || run.systemd {
            return Ok(outcome);
        }
        fail_point::reached("between", "runs");
        let signalled = asked.taken().map_err(failed("read signals"))?;
        if signalled || asked::in_writing(&layout.run_of(name)) {
            tracing::info!(container = %name, "stays down, as it was asked to");
            return Ok(Outcome::Ended);
        }
        let now = Instant::now();
        reboots.retain(|at| now.duration_since(*at) < REBOOTS_WITHIN);
        reboots.push(now);
        if reboots.len() >= REBOOTS {
            return Err(RunError::Rebooting);
        }
        tracing::info!(container = %name, "starting again");
        // Whoever waited for us to be ready has gone.
        notifier = Notifier::none();
    }
}

/// How a run came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The container is down.
    Ended,
    /// It asked to be started again.
    Rebooted,
}

/// One run. Nothing of an earlier one is left.
fn once(
    layout: &Layout,
    name: &ContainerName,
    run: &cgroup::Run,
    asked: &mut Asked,
    notifier: &Notifier,
) -> Result<Outcome, RunError> {
    let definition = definitions::load(layout, name)?;
    if !definition.rootfs.is_dir() {
        return Err(RunError::NoRootfs(definition.rootfs));
    }
    if definition.reaper && !layout.reaper.is_file() {
        return Err(RunError::NoReaper(layout.reaper.clone()));
    }
    needs::check(layout, &definition)?;
    network::check_taken(layout, name, &definition.addresses)?;
    if let Some(text) = network::not_passed_on(&definition.addresses) {
        tracing::warn!(container = %name, "{text}");
    }
    let instance = random_instance().map_err(failed("read /dev/urandom"))?;
    let steps = plan::start(
        &definition,
        layout,
        run,
        &instance,
        Facts::read(layout, &definition)?,
    )?;
    let folder = layout.run_of(name);
    let state = State::begun(&folder, instance.clone(), steps)?;
    let kept = Kept::open(layout, name).map_err(failed("keep the container's output"))?;
    let mut console = Console::new(kept);
    console.remark("starting");
    let (output, terminal) = if definition.console {
        let sockets = UnixListener::bind(folder.terminal())
            .and_then(|crun| Ok((crun, Listener::bind(&folder.attach())?)));
        (
            Output::Terminal,
            Some(sockets.map_err(failed("make the console"))?),
        )
    } else {
        let end = console.pipe().map_err(failed("make a pipe"))?;
        (Output::Pipe(end), None)
    };
    let runner = Runner::new(
        layout,
        name,
        Some(Running {
            instance,
            rootfs: definition.rootfs.clone(),
            output,
        }),
    );
    Supervisor {
        layout,
        name,
        definition: &definition,
        runner,
        state,
        console,
        terminal,
        terminals: None,
        asked,
        starts_again: !run.systemd,
        notifier,
    }
    .supervise()
}

/// A run's number.
pub(crate) fn random_instance() -> io::Result<InstanceId> {
    let mut bits = [0; 8];
    fs::File::open("/dev/urandom")?.read_exact(&mut bits)?;
    Ok(InstanceId::from_bits(u64::from_ne_bytes(bits)))
}

struct Supervisor<'a> {
    layout: &'a Layout,
    name: &'a ContainerName,
    definition: &'a Definition,
    runner: Runner<'a>,
    state: State,
    console: Console,
    /// Where crun sends the container's terminal, and where those come who want to see it.
    terminal: Option<(UnixListener, Listener)>,
    /// The container's devpts.
    terminals: Option<OwnedFd>,
    asked: &'a mut Asked,
    /// Whether it is we who start it again when it reboots itself.
    starts_again: bool,
    notifier: &'a Notifier,
}

impl Supervisor<'_> {
    fn supervise(mut self) -> Result<Outcome, RunError> {
        let ended = self.start().and_then(|init| self.stay(&init));
        let failures = self.runner.undo_all(&self.state.steps);
        let folder = self.layout.run_of(self.name);
        let mut failures: Vec<_> = failures.iter().map(ToString::to_string).collect();
        // With steps left to undo the folder stays: it holds the list of them.
        if failures.is_empty() {
            let rebooted = matches!(ended, Ok(Ended::Itself(Ending::REBOOT)));
            if rebooted && self.starts_again {
                self.state.between_runs(&folder)?;
            } else if let Err(error) = fs::remove_dir_all(folder.path()) {
                failures.push(format!("cannot remove {}: {error}", folder.path().display()));
            }
        }
        let stopped = ended?;
        if !failures.is_empty() {
            return Err(RunError::Left {
                name: self.name.clone(),
                failures: failures.join("; "),
            });
        }
        match stopped {
            Ended::Asked | Ended::Itself(Ending::Exit(0) | Ending::POWER_OFF | Ending::Unknown) => {
                Ok(Outcome::Ended)
            }
            Ended::Itself(Ending::REBOOT) => Ok(Outcome::Rebooted),
            Ended::Itself(ending) => Err(RunError::Failed(ending)),
        }
    }

    /// Takes the steps; answers with a descriptor of the first process.
    fn start(&mut self) -> Result<OwnedFd, RunError> {
        let folder = self.layout.run_of(self.name);
        let mut held = None;
        for step in self.state.steps.clone() {
            self.runner.take(&step)?;
            if self.state.init != self.runner.init() {
                self.state.init = self.runner.init();
                self.hold_terminals();
                self.state.write(&folder)?;
                held = self.state.init.and_then(ProcessId::open);
                if let Some((crun, attached)) = self.terminal.take() {
                    entry::received(&crun)
                        .and_then(|master| self.console.terminal(master, attached))
                        .map_err(failed("take over the container's terminal"))?;
                }
            }
        }
        let (Some(init), Some(held)) = (self.state.init, held) else {
            return Err(StepError::Gone(folder.crun_log()).into());
        };
        self.state.since = Some(state::now());
        self.console
            .remark(&format!("running, first process {}", init.pid));
        self.enter_phase(Phase::Running)?;
        let hooks = Hooks::new(self.layout, self.name);
        hooks.first_boot(&mut self.console)?;
        hooks.run(Turn::PostStart, Some(init.pid), Some(&mut self.console))?;
        self.notifier.ready(init.pid)?;
        tracing::info!(container = %self.name, pid = init.pid, "running");
        Ok(held)
    }

    /// Holds what the container has its terminals from, so that they can be counted without looking for it inside.
    fn hold_terminals(&mut self) {
        self.terminals = self.state.init.and_then(|init| match tally::terminals(init) {
            Ok(held) => Some(held),
            Err(error) => {
                tracing::warn!(container = %self.name, %error, "its terminals will not be counted");
                None
            }
        });
        self.state.terminals = self.terminals.as_ref().map(AsRawFd::as_raw_fd);
    }

    fn enter_phase(&mut self, phase: Phase) -> Result<(), RunError> {
        self.state.phase = phase;
        Ok(self.state.write(&self.layout.run_of(self.name))?)
    }

    /// Waits for the first process' end, and brings it about when asked to.
    fn stay(&mut self, init: &OwnedFd) -> Result<Ended, RunError> {
        let mut deadline: Option<Instant> = None;
        let mut asked = false;
        let folder = self.layout.run_of(self.name);
        let mut holds = Holds::of(folder.clone()).map_err(failed("watch the run's folder"))?;
        // Before that somebody may have come already.
        holds.serve(self.layout, self.name);
        let mut watch = self
            .state
            .container_cgroup()
            .map(|cgroup| Watch::over(cgroup, &self.definition.pressure));
        let pid = self.state.init.map(|init| init.pid);
        loop {
            let next = watch.as_ref().and_then(Watch::deadline);
            let left = deadline
                .into_iter()
                .chain(next)
                .min()
                .map(|at| at.saturating_duration_since(Instant::now()));
            let timeout = match left {
                None => None,
                Some(left) => Some(
                    Timespec::try_from(left)
                        .map_err(io::Error::other)
                        .map_err(failed("wait"))?,
                ),
            };
            let mut fds = vec![PollFd::new(init, PollFlags::IN), self.asked.poll_fd()];
            let of_console = self.console.poll_fds();
            let watched = fds.len() + of_console.len();
            fds.extend(of_console);
            fds.extend(watch.iter().flat_map(Watch::poll_fds));
            let held = fds.len();
            fds.extend(holds.poll_fds());
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(failed("wait for the container")(e.into())),
            }
            let ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
            let (ended, signalled) = (ready(0), ready(1));
            let has_output = fds
                .iter()
                .take(watched)
                .skip(2)
                .any(|fd| !fd.revents().is_empty());
            let alerts: Vec<bool> = fds
                .iter()
                .take(held)
                .skip(watched)
                .map(|fd| !fd.revents().is_empty())
                .collect();
            let is_held = fds.iter().skip(held).any(|fd| !fd.revents().is_empty());
            if is_held {
                holds.serve(self.layout, self.name);
            }
            if has_output {
                self.console
                    .serve()
                    .map_err(failed("read the container's output"))?;
            }
            if let Some(watch) = &mut watch {
                watch.serve(&alerts, self.layout, self.name, pid);
            }
            if ended {
                // What it wrote last is still in the pipe.
                self.console
                    .drain()
                    .map_err(failed("read the container's output"))?;
                let ending = ending_of(init);
                tracing::info!(container = %self.name, "the first process {ending}");
                self.console.remark(&format!("the first process {ending}"));
                if let Some(watch) = &mut watch {
                    watch.end(self.layout, self.name, &mut self.console);
                }
                let asked = asked || asked::in_writing(&folder);
                let last = Last {
                    instance: self.state.instance.clone(),
                    ending,
                    asked,
                    at: state::now(),
                };
                if let Err(error) = last.write(self.layout, self.name) {
                    tracing::warn!(container = %self.name, %error, "cannot write down how it ended");
                }
                return Ok(if asked {
                    Ended::Asked
                } else {
                    Ended::Itself(ending)
                });
            }
            if signalled && self.asked.taken().map_err(failed("read signals"))? && !asked {
                asked = true;
                deadline = Some(self.ask_to_stop(init)?);
            }
            if deadline.is_some_and(|at| at <= Instant::now()) {
                tracing::warn!(container = %self.name, "did not stop in time and is killed");
                self.console.remark("did not stop in time and is killed");
                send(init, 9)?;
                deadline = None;
            }
        }
    }

    /// Sends the container's init its signal; answers with when to lose patience. One that does not hear it is not waited
    /// for.
    fn ask_to_stop(&mut self, init: &OwnedFd) -> Result<Instant, RunError> {
        let signal = self.definition.stop_signal;
        self.console.remark("is asked to stop");
        let timeout = asked::within(&self.layout.run_of(self.name)).unwrap_or(self.definition.stop_timeout);
        // One that is paused hears nothing.
        if let Some(cgroup) = self.state.container_cgroup() {
            cgroup.set_frozen(false)?;
        }
        // Nobody may be listening any more, and /run may be full; neither keeps the container from being stopped.
        if let Err(error) = self.enter_phase(Phase::Stopping) {
            tracing::warn!(container = %self.name, %error);
        }
        if let Err(error) = self.notifier.stopping(timeout + STOP_MARGIN) {
            tracing::debug!(container = %self.name, %error);
        }
        // What it is for may be late now, but a container that cannot be stopped helps nobody.
        let pid = self.state.init.map(|init| init.pid);
        if let Err(error) =
            Hooks::new(self.layout, self.name).run(Turn::PreStop, pid, Some(&mut self.console))
        {
            tracing::warn!(container = %self.name, %error);
        }
        let status = self
            .state
            .init
            .and_then(|init| fs::read_to_string(format!("/proc/{}/status", init.pid)).ok())
            .unwrap_or_default();
        if timeout.is_zero() {
            return Ok(Instant::now());
        }
        let waits_in = pid
            .and_then(|pid| fs::read_to_string(format!("/proc/{pid}/wchan")).ok())
            .unwrap_or_default();
        if !signal.is_heard_by(&status, &waits_in) {
            tracing::info!(container = %self.name, %signal, "the first process ignores its stop signal");
            return Ok(Instant::now());
        }
        send(init, signal.number())?;
        Ok(Instant::now() + timeout)
    }
}

/// Signals the first process; that it has just ended is no fault.
fn send(init: &OwnedFd, number: i32) -> Result<(), RunError> {
    match sys::send_signal(init.as_fd(), number) {
        Err(e) if e.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(()),
        result => result.map_err(failed("signal the container's first process")),
    }
}

/// Why a container is no longer.
enum Ended {
    /// It was asked to stop.
    Asked,
    /// Its first process ended by itself.
    Itself(Ending),
}
