//! `ctm stop`, `ctm restart` and `ctm kill`.

use super::{Code, Condition, Refused, start};
use crate::layout::Layout;
use crate::process::ProcessId;
use crate::run::clean;
use crate::run::state::State;
use crate::{atomic, cli, definitions, lock, process, service, sys};
use anyhow::{Context, Result, bail};
use devbroker::model::ContainerName;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Beyond the container's own time to stop, for killing and cleaning up. The supervisor bounds each of its steps.
const MARGIN: Duration = Duration::from_secs(60);
/// SIGTERM
const TERM: i32 = 15;

/// `ctm stop`.
pub(super) fn stop(layout: &Layout, arguments: &cli::Stop) -> Result<Code> {
    let name = &arguments.name;
    let _lock = lock::verb(layout, name)?;
    if is_down(layout, name)? {
        definitions::load(layout, name)?;
        return Err(Refused::NotRunning(name.clone()).into());
    }
    halt(layout, name, arguments.timeout)?;
    Ok(Code::Done)
}

/// `ctm restart`: a stop, if it runs, and a start, with nobody in between.
pub(super) fn restart(layout: &Layout, arguments: &cli::Stop) -> Result<Code> {
    let name = &arguments.name;
    let _lock = lock::verb(layout, name)?;
    // One with faults goes on as it is.
    definitions::load(layout, name)?;
    halt(layout, name, arguments.timeout)?;
    start::up(layout, name)?;
    Ok(Code::Done)
}

/// `ctm kill`: everything in it at once, or a signal to its first process.
pub(super) fn kill(layout: &Layout, arguments: &cli::Kill) -> Result<Code> {
    let name = &arguments.name;
    let _lock = lock::verb(layout, name)?;
    let state = match Condition::of(layout, name)? {
        Condition::Supervised(state) if state.phase.is_up() => state,
        Condition::Stopped if is_down(layout, name)? => {
            definitions::load(layout, name)?;
            return Err(Refused::NotRunning(name.clone()).into());
        }
        Condition::Stopped | Condition::Supervised(_) | Condition::Abandoned(_) => {
            halt(layout, name, Some(0))?;
            return Ok(Code::Done);
        }
    };
    if let Some(signal) = arguments.signal {
        let init = state
            .init
            .and_then(ProcessId::open)
            .ok_or_else(|| Refused::NotRunning(name.clone()))?;
        sys::send_signal(init.as_fd(), signal.number()).context("cannot signal the first process")?;
        return Ok(Code::Done);
    }
    // Not a failure, after which systemd would start it again.
    grant(layout, name, 0)?;
    if let Some(cgroup) = state.container_cgroup() {
        cgroup.send_kill()?;
    }
    ended(layout, name, &state, MARGIN)?;
    swept(layout, name)?;
    Ok(Code::Done)
}

/// Stops a container, if need be by force, and waits until nothing of its run is left. It may take its own time, or this many
/// seconds. The caller holds the lock.
pub(super) fn halt(layout: &Layout, name: &ContainerName, within: Option<u32>) -> Result<()> {
    match Condition::of(layout, name)? {
        Condition::Stopped if is_down(layout, name)? => return Ok(()),
        // Between two runs.
        Condition::Stopped => service::systemctl("stop", name)?,
        Condition::Supervised(state) => {
            if let Some(seconds) = within {
                grant(layout, name, seconds)?;
            }
            if state_is_systemds(&state) {
                service::systemctl("stop", name)?;
            } else {
                ask(layout, name, &state, within)?;
            }
        }
        Condition::Abandoned(_) => {}
    }
    swept(layout, name)
}

/// Whether nothing of a container runs, and nobody is about to start it again: one that reboots itself is down for a moment.
pub(super) fn is_down(layout: &Layout, name: &ContainerName) -> Result<bool> {
    Ok(Condition::of(layout, name)? == Condition::Stopped && !service::is_up(name)?)
}

/// Writes down how many seconds the container has for shutting down.
fn grant(layout: &Layout, name: &ContainerName, seconds: u32) -> Result<()> {
    let path = layout.run_of(name).stop_within();
    atomic::write(&path, seconds.to_string().as_bytes(), 0o600)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Who was killed, now or earlier, left something behind; who was not, nothing.
fn swept(layout: &Layout, name: &ContainerName) -> Result<()> {
    let Some(_run) = lock::run(layout, name)? else {
        bail!("container {name} was started again meanwhile");
    };
    clean::after_crash(layout, name)?;
    Ok(())
}

/// Whether systemd runs the supervisor.
fn state_is_systemds(state: &State) -> bool {
    state
        .steps
        .iter()
        .any(|step| matches!(step, crate::plan::Step::Enter { run } if run.systemd))
}

/// Asks the supervisor to stop the container and waits for its end.
fn ask(layout: &Layout, name: &ContainerName, state: &State, within: Option<u32>) -> Result<()> {
    let patience = match within {
        Some(seconds) => Duration::from_secs(seconds.into()),
        None => definitions::load(layout, name).map_or(Duration::from_secs(90), |found| found.stop_timeout),
    };
    if let Some(pidfd) = state.supervisor.open() {
        sys::send_signal(pidfd.as_fd(), TERM).context("cannot signal the supervisor")?;
    }
    ended(layout, name, state, patience + MARGIN)
}

/// Waits for the supervisor's end.
fn ended(layout: &Layout, name: &ContainerName, state: &State, patience: Duration) -> Result<()> {
    let Some(pidfd) = state.supervisor.open() else {
        return Ok(());
    };
    if !process::ended(&pidfd, Instant::now() + patience)? {
        bail!(
            "the supervisor of container {name} (process {}) does not end; see {}",
            state.supervisor.pid,
            layout.beside(".log", name).display()
        );
    }
    Ok(())
}
