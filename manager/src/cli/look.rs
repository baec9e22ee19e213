//! What is shown of containers.

use super::{Output, Root};
use crate::verbs::ColumnName;
use clap::Args;
use devbroker::model::ContainerName;
use std::ffi::OsString;

#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of its own on the command line"
)]
pub(crate) struct List {
    /// These columns, separated by commas.
    #[arg(short = 'o', long, value_delimiter = ',', value_name = "COLUMN")]
    pub(crate) columns: Vec<ColumnName>,
    /// Sorted by this column; otherwise by name.
    #[arg(short, long, value_name = "COLUMN")]
    pub(crate) sort: Option<ColumnName>,
    /// Without the first line.
    #[arg(short = 'H', long)]
    pub(crate) no_header: bool,
    /// Only those that run.
    #[arg(long, conflicts_with = "stopped")]
    pub(crate) running: bool,
    /// Only those that do not.
    #[arg(long)]
    pub(crate) stopped: bool,
    /// As JSON.
    #[arg(long, conflicts_with_all = ["columns", "no_header"])]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// The container; otherwise all that run.
    pub(crate) name: Option<ContainerName>,
    /// What ps is told instead of what is usual, such as `-ef`; without -e or the like it shows little.
    #[arg(last = true, value_name = "OPTION")]
    pub(crate) options: Vec<OsString>,
}

/// What containers hold, and of how much.
#[derive(Debug, Args)]
pub(crate) struct Counters {
    /// The container; otherwise all that run.
    pub(crate) name: Option<ContainerName>,
    /// Look again every so many seconds, until interrupted.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) watch: Option<u16>,
    /// Count failures from the last time that this was asked on.
    #[arg(long)]
    pub(crate) failures_since_last: bool,
    /// Show only what is near a limit, over a barrier, or was refused; the exit code is 3 if there is such.
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// As text that Prometheus reads.
    #[arg(long, conflicts_with = "json")]
    pub(crate) prometheus: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Who {
    /// Processes of the host's.
    #[arg(required = true, value_name = "PID")]
    pub(crate) pids: Vec<u32>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Config {
    /// The container.
    pub(crate) name: ContainerName,
    #[command(flatten)]
    pub(crate) root: Root,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The container.
    pub(crate) name: ContainerName,
    /// The line that vzctl printed: CTID NAME exist|deleted mounted|unmounted running|down [suspended].
    #[arg(long, conflicts_with = "json")]
    pub(crate) vzctl: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}
