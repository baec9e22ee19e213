//! `ctm pause`, `ctm resume` and `ctm wait`.

use super::{Code, Condition, Refused, exec::running};
use crate::layout::Layout;
use crate::run::state::{Last, State};
use crate::{definitions, lock, process};
use anyhow::{Result, bail};
use devbroker::model::ContainerName;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// How long processes may take to stop where they are.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);
/// A time to look again, where nothing else ends waiting.
const LONG: Duration = Duration::from_secs(3600);

/// `ctm pause`: its processes stop where they are.
pub(super) fn pause(layout: &Layout, name: &ContainerName) -> Result<Code> {
    freeze(layout, name, true)
}

/// `ctm resume`: they go on.
pub(super) fn resume(layout: &Layout, name: &ContainerName) -> Result<Code> {
    freeze(layout, name, false)
}

fn freeze(layout: &Layout, name: &ContainerName, frozen: bool) -> Result<Code> {
    let _lock = lock::verb(layout, name)?;
    let state = running(layout, name)?;
    let cgroup = state
        .container_cgroup()
        .ok_or_else(|| Refused::NotRunning(name.clone()))?;
    if frozen && state.phase == crate::run::state::Phase::Stopping {
        bail!("container {name} is being stopped");
    }
    cgroup.freeze(frozen, Instant::now() + FREEZE_LIMIT)?;
    Ok(Code::Done)
}

/// `ctm wait`: until the container ends; its first process' exit code is ours. One that does not run has ended already.
pub(super) fn wait(layout: &Layout, name: &ContainerName) -> Result<Code> {
    let instance = match Condition::of(layout, name)? {
        Condition::Supervised(state) => {
            until_the_end(&state)?;
            Some(state.instance)
        }
        Condition::Stopped | Condition::Abandoned(_) => {
            definitions::load(layout, name)?;
            None
        }
    };
    match (Last::read(layout, name), instance) {
        (Some(last), Some(instance)) if last.instance != instance => {
            bail!("the supervisor of container {name} was killed; how the container ended is not known")
        }
        (Some(last), _) => {
            let code = last.ending.code();
            writeln!(io::stdout(), "{code}")?;
            Ok(Code::Command(code))
        }
        (None, None) => Err(Refused::NotRunning(name.clone()).into()),
        (None, Some(_)) => bail!("how container {name} ended is not known"),
    }
}

fn until_the_end(state: &State) -> Result<()> {
    if let Some(supervisor) = state.supervisor.open() {
        while !process::ended(&supervisor, Instant::now() + LONG)? {}
    }
    Ok(())
}
