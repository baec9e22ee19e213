//! `ctm stop`.

use super::{Code, Condition, Refused};
use crate::layout::Layout;
use crate::state::State;
use crate::{clean, definitions, lock, process, service, sys};
use anyhow::{Context, Result, bail};
use devbroker::model::ContainerName;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Beyond the container's own time to stop, for killing and cleaning up. The supervisor bounds each of its steps.
const MARGIN: Duration = Duration::from_secs(60);
/// SIGTERM
const TERM: i32 = 15;

pub(super) fn run(layout: &Layout, name: &ContainerName) -> Result<Code> {
    let _lock = lock::verb(layout, name)?;
    if matches!(Condition::of(layout, name)?, Condition::Stopped) {
        definitions::load(layout, name)?;
        return Err(Refused::NotRunning(name.clone()).into());
    }
    halt(layout, name)?;
    Ok(Code::Done)
}

/// Stops a container, if need be by force, and waits until nothing of its run is left. The caller holds the lock.
pub(super) fn halt(layout: &Layout, name: &ContainerName) -> Result<()> {
    match Condition::of(layout, name)? {
        Condition::Stopped => return Ok(()),
        Condition::Supervised(state) => {
            if state_is_systemds(&state) {
                service::systemctl("stop", name)?;
            } else {
                ask(layout, name, &state)?;
            }
        }
        Condition::Abandoned(_) => {}
    }
    // Who was killed, now or earlier, left something behind; who was not, nothing.
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
fn ask(layout: &Layout, name: &ContainerName, state: &State) -> Result<()> {
    let Some(pidfd) = state.supervisor.open() else {
        return Ok(());
    };
    let patience =
        definitions::load(layout, name).map_or(Duration::from_secs(90), |found| found.stop_timeout);
    sys::send_signal(pidfd.as_fd(), TERM).context("cannot signal the supervisor")?;
    if !process::ended(&pidfd, Instant::now() + patience + MARGIN)? {
        bail!(
            "the supervisor of container {name} (process {}) does not end; see {}",
            state.supervisor.pid,
            layout.beside(".log", name).display()
        );
    }
    Ok(())
}
