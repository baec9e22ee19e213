//! `ctm exec`.

use super::{Code, Condition, Refused};
use crate::cli;
use crate::crun::Crun;
use crate::definitions;
use crate::layout::Layout;
use anyhow::Result;
use std::io::{self, IsTerminal};

/// Becomes the command: its exit code is ours, its streams are ours.
pub(super) fn run(layout: &Layout, arguments: &cli::Exec) -> Result<Code> {
    let name = &arguments.name;
    if Condition::of(layout, name)?.init().is_none() {
        definitions::load(layout, name)?;
        return Err(Refused::NotRunning(name.clone()).into());
    }
    let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    Err(Crun::new(layout, name).exec(terminal, &arguments.command).into())
}
