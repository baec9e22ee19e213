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
    let last = match Condition::of(layout, name)? {
        Condition::Supervised(state) => {
            let before = Last::read(layout, name);
            until_the_end(&state)?;
            let Some(last) = ended_since(layout, name, &state, before.as_ref())? else {
                bail!("the supervisor of container {name} was killed; how the container ended is not known")
            };
            last
        }
        Condition::Stopped | Condition::Abandoned(_) => {
            definitions::load(layout, name)?;
            Last::read(layout, name).ok_or_else(|| Refused::NotRunning(name.clone()))?
        }
    };
    let code = last.ending.code();
    writeln!(io::stdout(), "{code}")?;
    Ok(Code::Command(code))
}

/// How the last run of a supervisor ended, which may be a later one than that which was waited for: a container that reboots itself is
/// started again. None if the supervisor was killed and had nothing to say.
fn ended_since(
    layout: &Layout,
    name: &ContainerName,
    waited_for: &State,
    before: Option<&Last>,
) -> Result<Option<Last>> {
    if matches!(Condition::of(layout, name)?, Condition::Abandoned(_)) {
        return Ok(None);
    }
    let is_news = |last: &Last| {
        last.instance == waited_for.instance || before.is_none_or(|before| before.instance != last.instance)
    };
    Ok(Last::read(layout, name).filter(is_news))
}

fn until_the_end(state: &State) -> Result<()> {
    if let Some(supervisor) = state.supervisor.open() {
        while !process::ended(&supervisor, Instant::now() + LONG)? {}
    }
    Ok(())
}
