//! What changes a definition, or ends a container.

use crate::definition::Edit;
use clap::{Args, Subcommand, ValueEnum};
use devbroker::model::{AliasName, ContainerName};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct Set {
    /// The container.
    pub(crate) name: ContainerName,
    /// A key and its new value, as TOML or as plain text; without a value it has the usual one again.
    #[arg(required = true, value_name = "KEY=VALUE")]
    pub(crate) changes: Vec<Edit>,
}

#[derive(Debug, Args)]
pub(crate) struct Rename {
    /// The container.
    pub(crate) name: ContainerName,
    /// Its new name.
    pub(crate) new_name: ContainerName,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Mount {
    /// Mount something, in the definition and, if the container runs, at once.
    Add(MountAdd),
    /// Take a mount away, from the definition and, if the container runs, at once.
    Remove(MountRemove),
}

#[derive(Debug, Args)]
pub(crate) struct MountAdd {
    /// The container.
    pub(crate) name: ContainerName,
    /// Where inside; what is missing of the way is made.
    pub(crate) target: PathBuf,
    #[command(flatten)]
    pub(crate) source: MountFrom,
    /// Nothing in it can be changed from inside.
    #[arg(long)]
    pub(crate) read_only: bool,
    /// What the host mounts below the folder later appears inside as well.
    #[arg(long, requires = "bind")]
    pub(crate) follow: bool,
    /// Whose the files are in a container with a user namespace: the host's, or the container's by the same numbers.
    #[arg(long, value_name = "WHOSE", default_value = "host", conflicts_with_all = ["follow", "tmpfs"])]
    pub(crate) ids: MountIds,
    /// For this run only: the definition stays as it is.
    #[arg(long)]
    pub(crate) runtime: bool,
}

/// Whose the files of a mount are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MountIds {
    /// The host's users'; inside they are nobody's.
    Host,
    /// The container's users' of the same numbers.
    Container,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct MountFrom {
    /// A folder or file of the host.
    #[arg(long, value_name = "PATH")]
    pub(crate) bind: Option<PathBuf>,
    /// A new tmpfs of this size.
    #[arg(long, value_name = "SIZE")]
    pub(crate) tmpfs: Option<String>,
    /// The file system with this UUID.
    #[arg(long, value_name = "UUID")]
    pub(crate) uuid: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct MountRemove {
    /// The container.
    pub(crate) name: ContainerName,
    /// Where inside.
    pub(crate) target: PathBuf,
    /// For this run only: the definition stays as it is.
    #[arg(long)]
    pub(crate) runtime: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Enable {
    /// The containers.
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<ContainerName>,
    /// Not at boot but while a device holds this alias.
    #[arg(long, value_name = "ALIAS")]
    pub(crate) on: Option<AliasName>,
}

#[derive(Debug, Args)]
pub(crate) struct Destroy {
    /// The container.
    pub(crate) name: ContainerName,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}
