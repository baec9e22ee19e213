//! ctm: system containers. Owns the arguments and the exit code; the verbs are in `verbs`.

mod atomic;
mod boot;
mod broker;
mod cli;
mod definition;
mod definitions;
mod diff;
mod enter;
mod fail_point;
mod host;
mod ids;
mod layout;
mod lock;
mod lookup;
mod make;
mod plan;
mod process;
mod profiles;
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the keys of limits and `ctm split` are on their way")
)]
mod quantity;
mod quota;
mod run;
mod runner;
mod service;
mod signal;
mod sys;
mod table;
mod verbs;

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
