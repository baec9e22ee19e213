//! ctm: system containers. Owns the arguments and the exit code; the verbs are in `verbs`.

mod account;
mod atomic;
mod attach;
mod base;
mod boot;
mod bootstrap;
mod broker;
mod bundle;
mod cgroup;
mod clean;
mod cli;
mod console;
mod crun;
mod definition;
mod definitions;
mod disk;
mod entry;
mod fail_point;
mod failure;
mod fit;
mod furnish;
mod hooks;
mod ids;
mod inside;
mod layout;
mod live_mount;
mod lock;
mod lookup;
mod needs;
mod output;
mod overlay;
mod ownership;
mod plan;
mod privilege;
mod process;
mod progress;
mod recipe;
mod relay;
mod runner;
mod seccomp;
mod service;
mod signal;
mod state;
mod store;
mod supervisor;
mod sys;
mod table;
mod terminal;
mod tree;
mod usage;
mod verbs;
mod volume;
mod work;

use clap::Parser;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let generated_into = generator_folder(std::env::args_os());
    let cli = generated_into.is_none().then(cli::Cli::parse);
    let filter = EnvFilter::try_from_env("CTM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .without_time()
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .init();
    let layout = layout::Layout::default();
    let layout = match std::env::current_exe() {
        Ok(program) => layout.installed(&program),
        Err(_) => layout,
    };
    let done = match (generated_into, cli) {
        (Some(folder), _) => verbs::generate::run(&layout, &folder),
        (None, Some(cli)) => verbs::run(cli, &layout),
        (None, None) => Ok(verbs::Code::Done),
    };
    match done {
        Ok(code) => code.into(),
        // Whoever read our output has seen enough.
        Err(error) if is_broken_pipe(&error) => verbs::Code::Failed.into(),
        Err(error) => {
            // Nobody is left to tell if standard error is closed.
            writeln!(io::stderr(), "ctm: {}", verbs::reason(&error)).ok();
            verbs::Code::of(&error).into()
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Under the name `ctm-generator` systemd runs us, with its three folders; units of ordinary precedence go into the first.
fn generator_folder(mut arguments: impl Iterator<Item = OsString>) -> Option<PathBuf> {
    let name = PathBuf::from(arguments.next()?);
    (name.file_name()? == "ctm-generator")
        .then(|| arguments.next())?
        .map(PathBuf::from)
}
