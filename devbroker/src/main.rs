//! The `devbroker` program: daemon and command line.

mod cli;
mod report;

use clap::Parser;
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    if arguments.runs_daemon() {
        log();
    }
    cli::run(arguments)
}

/// The daemon's log goes to the standard error: plain for the journal, which has times of its own, with times elsewhere.
/// `DEVBROKER_LOG` chooses what is said, as in `DEVBROKER_LOG=debug`.
fn log() {
    let filter = EnvFilter::try_from_env("DEVBROKER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        lines.without_time().init();
    } else {
        lines.init();
    }
}
