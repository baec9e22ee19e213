//! `ctm exec` and `ctm enter`.

use super::{Code, Condition, Refused};
use crate::enter::account::Wanted;
use crate::enter::entry::{self, Program, Request};
use crate::layout::Layout;
use crate::run::state::State;
use crate::{cli, definitions};
use anyhow::Result;
use devbroker::model::ContainerName;
use std::io::{self, IsTerminal};

/// `ctm exec`: the command's exit code is ours.
pub(super) fn exec(layout: &Layout, arguments: &cli::Exec) -> Result<Code> {
    let request = Request {
        program: Program::Command(arguments.command.clone()),
        user: arguments.user.clone().unwrap_or_else(Wanted::root),
        folder: arguments.cwd.clone(),
        terminal: arguments.tty || io::stdin().is_terminal(),
    };
    run(layout, &arguments.name, &request)
}

/// `ctm enter`: a login shell.
pub(super) fn enter(layout: &Layout, arguments: &cli::Enter) -> Result<Code> {
    let request = Request {
        program: Program::Shell,
        user: arguments.user.clone().unwrap_or_else(Wanted::root),
        folder: None,
        terminal: io::stdin().is_terminal(),
    };
    run(layout, &arguments.name, &request)
}

fn run(layout: &Layout, name: &ContainerName, request: &Request) -> Result<Code> {
    let state = running(layout, name)?;
    if super::is_paused(&state) {
        return Err(Refused::Paused(name.clone()).into());
    }
    Ok(Code::Command(entry::run(layout, name, &state, request)?.code()))
}

/// The run of a container that is up.
pub(super) fn running(layout: &Layout, name: &ContainerName) -> Result<State> {
    match Condition::of(layout, name)? {
        Condition::Supervised(state) if state.phase.is_up() => Ok(state),
        Condition::Stopped | Condition::Supervised(_) | Condition::Abandoned(_) => {
            definitions::load(layout, name)?;
            Err(Refused::NotRunning(name.clone()).into())
        }
    }
}
