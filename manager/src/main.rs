//! ctm: system containers. Owns the arguments and the exit code; the verbs are in `verbs`.

mod atomic;
mod broker;
mod bundle;
mod cgroup;
mod clean;
mod cli;
mod console;
mod crun;
mod definition;
mod definitions;
mod fail_point;
mod ids;
mod layout;
mod lock;
mod ownership;
mod plan;
mod process;
mod runner;
mod service;
mod signal;
mod state;
mod store;
mod supervisor;
mod sys;
mod verbs;

use clap::Parser;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let filter = EnvFilter::try_from_env("CTM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .without_time()
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .init();
    match verbs::run(cli, &layout::Layout::default()) {
        Ok(code) => code.into(),
        Err(error) => {
            // Nobody is left to tell if standard error is closed.
            writeln!(io::stderr(), "ctm: {}", verbs::reason(&error)).ok();
            verbs::Code::of(&error).into()
        }
    }
}
