//! The verbs of the command line: each takes its arguments, locks what it changes, and says what it did.

mod change;
mod code;
mod config;
mod console;
mod counters;
mod create;
mod destroy;
mod exec;
pub(crate) mod generate;
mod images;
mod init;
mod look;
mod mount;
mod pause;
mod profile;
mod rename;
mod show;
mod split;
mod start;
mod stop;
mod validate;
mod view;

pub(crate) use code::Code;
use code::Refused;
pub(crate) use view::ColumnName;

use crate::cli::{self, Cli, Verb};
use crate::definitions::LoadError;
use crate::layout::Layout;
use crate::lock;
use crate::process::ProcessId;
use crate::run::cgroup::Cgroup;
use crate::run::clean;
use crate::run::failure::Failure;
use crate::run::state::{Phase, State};
use crate::run::supervisor::{self, Outcome};
use anyhow::{Context, Result};
use devbroker::model::ContainerName;
use std::io::{self, Write};

/// An error with its causes. Our own errors name their cause in their text already; such a cause is left out.
pub(crate) fn reason(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut text, cause| {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
        text
    })
}

/// Whether its processes were stopped where they are.
fn is_paused(state: &State) -> bool {
    state.container_cgroup().is_some_and(Cgroup::is_frozen)
}

/// How far a run is, for people.
fn phase(state: &State) -> &'static str {
    match state.phase {
        Phase::Starting => "starting",
        Phase::Running if is_paused(state) => "paused",
        Phase::Running => "running",
        Phase::Stopping => "stopping",
        Phase::Restarting => "restarting",
    }
}

/// What a container is doing.
#[derive(Debug, Clone, PartialEq)]
enum Condition {
    /// Nothing.
    Stopped,
    /// Its supervisor is at work.
    Supervised(State),
    /// Its supervisor was killed: what is left has to be cleaned up.
    Abandoned(State),
}

impl Condition {
    fn of(layout: &Layout, name: &ContainerName) -> Result<Self> {
        let Some(state) = State::read(&layout.run_of(name))? else {
            return Ok(Self::Stopped);
        };
        Ok(match state.supervisor.open() {
            Some(_) => Self::Supervised(state),
            None => Self::Abandoned(state),
        })
    }

    /// The first process, if the container is up.
    fn init(&self) -> Option<ProcessId> {
        match self {
            Self::Supervised(state) if state.phase.is_up() => state.init,
            Self::Stopped | Self::Supervised(_) | Self::Abandoned(_) => None,
        }
    }
}

/// Does what was asked for.
pub(crate) fn run(cli: Cli, layout: &Layout) -> Result<Code> {
    if let Verb::Completions(arguments) = &cli.verb {
        io::stdout().write_all(&cli::completions(arguments.shell))?;
        return Ok(Code::Done);
    }
    // Whoever may read and write the files may do this; the rest is root's.
    let is_of_files = matches!(
        cli.verb,
        Verb::Split(_) | Verb::Profile(_) | Verb::Validate(_) | Verb::Config(_)
    );
    if !is_of_files && !rustix::process::geteuid().is_root() {
        anyhow::bail!("ctm has to run as root");
    }
    if cli.no_wait {
        lock::do_not_wait();
    }
    match cli.verb {
        Verb::Create(arguments) => create::run(layout, &arguments),
        Verb::Images(arguments) => images::run(layout, &arguments),
        Verb::Start(arguments) => start::run(layout, &arguments),
        Verb::Stop(arguments) => stop::stop(layout, &arguments),
        Verb::Restart(arguments) => stop::restart(layout, &arguments),
        Verb::Kill(arguments) => stop::kill(layout, &arguments),
        Verb::Pause(arguments) => pause::pause(layout, &arguments.name),
        Verb::Resume(arguments) => pause::resume(layout, &arguments.name),
        Verb::Wait(arguments) => pause::wait(layout, &arguments.name),
        Verb::Exec(arguments) => exec::exec(layout, &arguments),
        Verb::Enter(arguments) => exec::enter(layout, &arguments),
        Verb::Console(arguments) => console::console(layout, &arguments.name),
        Verb::Log(arguments) => console::log(layout, &arguments),
        Verb::List(arguments) => show::list(layout, &arguments),
        Verb::Ps(arguments) => look::ps(layout, &arguments),
        Verb::Du(arguments) => look::du(layout, &arguments),
        Verb::Stats(arguments) => look::stats(layout, &arguments),
        Verb::Counters(arguments) => counters::run(layout, &arguments),
        Verb::Who(arguments) => look::who(layout, &arguments),
        Verb::Status(arguments) => show::status(layout, &arguments),
        Verb::Destroy(arguments) => destroy::run(layout, &arguments),
        Verb::Set(arguments) => change::set(layout, &arguments),
        Verb::Edit(arguments) => change::edit(layout, &arguments.name),
        Verb::Mount(cli::Mount::Add(arguments)) => mount::add(layout, &arguments),
        Verb::Mount(cli::Mount::Remove(arguments)) => mount::remove(layout, &arguments),
        Verb::Rename(arguments) => rename::run(layout, &arguments),
        Verb::Enable(arguments) => change::enable(layout, &arguments),
        Verb::Disable(arguments) => change::disable(layout, &arguments.names),
        Verb::Config(arguments) => config::config(&of(layout, &arguments.root), &arguments),
        Verb::Split(arguments) => split::run(&of(layout, &arguments.root), &arguments),
        Verb::Validate(arguments) => validate::run(&of(layout, &arguments.root), &arguments),
        Verb::Profile(what) => profile::run(layout, &what),
        Verb::Run(arguments) => supervise(layout, &arguments.name, arguments.detached),
        Verb::Clean(arguments) => clean_up(layout, &arguments.name),
        // Needs no root and was answered above.
        Verb::Completions(_) => Ok(Code::Done),
    }
}

/// The system that is meant.
fn of(layout: &Layout, root: &cli::Root) -> Layout {
    root.root
        .as_ref()
        .map_or_else(|| layout.clone(), |root| layout.below(root))
}

/// Runs the container and leaves the reason of a failure where `ctm start` finds it.
fn supervise(layout: &Layout, name: &ContainerName, detached: bool) -> Result<Code> {
    match supervisor::run(layout, name, detached) {
        Ok(Outcome::Ended) => Ok(Code::Done),
        Ok(Outcome::Rebooted) => Ok(Code::Rebooted),
        Err(error) => {
            let error = anyhow::Error::from(error);
            let failure = Failure {
                code: Code::of(&error).number(),
                reason: reason(&error),
            };
            failure
                .write(layout, name)
                .with_context(|| format!("cannot note why container {name} failed"))?;
            Err(error)
        }
    }
}

fn clean_up(layout: &Layout, name: &ContainerName) -> Result<Code> {
    if lock::run(layout, name)?.is_some() {
        clean::after_crash(layout, name)?;
    }
    Ok(Code::Done)
}
