//! The turns of a container's life, and commands in it.

use crate::enter::account::Wanted;
use crate::signal::AnySignal;
use clap::Args;
use devbroker::model::ContainerName;
use std::ffi::OsString;

#[derive(Debug, Args)]
pub(crate) struct Start {
    /// The container.
    pub(crate) name: ContainerName,
    /// Show what would be done and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// The container.
    pub(crate) name: ContainerName,
    /// How long it may take to shut down; then it is killed. Otherwise as its definition says.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(..=3600))]
    pub(crate) timeout: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// The container.
    pub(crate) name: ContainerName,
    /// Only this signal, to its first process alone: a name or a number.
    #[arg(short, long)]
    pub(crate) signal: Option<AnySignal>,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The container.
    pub(crate) name: ContainerName,
    /// In a session of its own; what `ctm start` does where systemd does not run the machine.
    #[arg(long, hide = true)]
    pub(crate) detached: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// The container.
    pub(crate) name: ContainerName,
    /// Pass standard input on, which is done anyway.
    #[arg(short = 'i', long)]
    pub(crate) interactive: bool,
    /// Run it on a terminal even if standard input is none; if it is one, this is done anyway.
    #[arg(short = 't', long)]
    pub(crate) tty: bool,
    /// As whom: a user of the container's or a number, with a group if wished, USER:GROUP. Otherwise root.
    #[arg(short, long)]
    pub(crate) user: Option<Wanted>,
    /// In which folder of the container; otherwise /.
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Log {
    /// The container.
    pub(crate) name: ContainerName,
    /// Go on until the container ends.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// So many lines from the end; otherwise all that is kept.
    #[arg(short = 'n', long)]
    pub(crate) lines: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct Enter {
    /// The container.
    pub(crate) name: ContainerName,
    /// As whom: a user of the container's or a number. Otherwise root.
    #[arg(short, long)]
    pub(crate) user: Option<Wanted>,
}
