//! `ctm exec`.

use super::{Code, Condition, Refused};
use crate::cli;
use crate::crun::Crun;
use crate::definitions;
use crate::layout::Layout;
use anyhow::Result;
use std::io::{self, IsTerminal};

/// The cgroup of such commands, below the container's. In the container's own they would keep its init from handing
/// controllers down: a cgroup has either processes or controlled children.
const EXEC: &str = "exec";

/// Becomes the command: its exit code is ours, its streams are ours.
pub(super) fn run(layout: &Layout, arguments: &cli::Exec) -> Result<Code> {
    let name = &arguments.name;
    let condition = Condition::of(layout, name)?;
    let Some(cgroup) = condition.cgroup() else {
        definitions::load(layout, name)?;
        return Err(Refused::NotRunning(name.clone()).into());
    };
    cgroup.below(EXEC).create()?;
    let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    Err(Crun::new(layout, name)
        .exec(EXEC, terminal, &arguments.command)
        .into())
}
