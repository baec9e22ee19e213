//! `ctm console` and `ctm log`: what a container says, now and before.

use super::exec::running;
use super::{Code, Condition};
use crate::layout::Layout;
use crate::run::attach::{Left, attach};
use crate::run::output::{Reader, harmless, last_lines};
use crate::{cli, definitions};
use anyhow::{Context, Result, bail};
use devbroker::model::ContainerName;
use std::io::{self, IsTerminal, Write};

/// `ctm console`.
pub(super) fn console(layout: &Layout, name: &ContainerName) -> Result<Code> {
    running(layout, name)?;
    let path = layout.run_of(name).attach();
    if !path.exists() {
        bail!(
            "container {name} has no console; `ctm set {name} console=true` gives it one at its next start"
        );
    }
    let begin = || writeln!(io::stderr(), "console of {name}; Ctrl-] leaves it");
    let left = attach(&path, begin).with_context(|| format!("cannot attach to the console of {name}"))?;
    let (text, code) = match left {
        Left::Detached => ("left", Code::Done),
        Left::Ended => ("ended", Code::Done),
        Left::Signal(number) => ("left", Code::Command(u8::try_from(128 + number).unwrap_or(255))),
    };
    // The line on which the container wrote last is its own.
    writeln!(io::stderr(), "\n{text} the console of {name}").ok();
    Ok(code)
}

/// `ctm log`.
pub(super) fn log(layout: &Layout, arguments: &cli::Log) -> Result<Code> {
    let name = &arguments.name;
    definitions::bytes_of(layout, name)?;
    let supervisor = match Condition::of(layout, name)? {
        Condition::Supervised(state) => state.supervisor.open(),
        Condition::Stopped | Condition::Abandoned(_) => None,
    };
    let (text, mut reader) = Reader::open(layout, name).context("cannot read what it said")?;
    show(
        arguments
            .lines
            .map_or(&text[..], |lines| last_lines(&text, lines)),
    )?;
    let Some(supervisor) = supervisor.filter(|_| arguments.follow) else {
        return Ok(Code::Done);
    };
    loop {
        let ended = reader.wait(&supervisor).context("cannot wait for more")?;
        show(&reader.more().context("cannot read what it said")?)?;
        if ended {
            return Ok(Code::Done);
        }
    }
}

/// On a terminal, nothing that the container wrote may do more than be read.
fn show(text: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if out.is_terminal() {
        out.write_all(harmless(text).as_bytes())?;
    } else {
        out.write_all(text)?;
    }
    out.flush()
}
