//! The arguments of what divides a host: `split`, `profile`, `validate`.

use super::Output;
use crate::definition::Edit;
use crate::host::Description;
use crate::plan::split::MOST;
use crate::quantity::{Factor, Size};
use clap::{Args, Subcommand};
use devbroker::model::ContainerName;
use std::path::PathBuf;

/// Whose files are read and written.
#[derive(Debug, Args)]
pub(crate) struct Root {
    /// Not this system's definitions and profiles but those below this folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Split {
    /// Among so many containers.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST)))]
    pub(crate) containers: u32,
    /// What the host keeps of its memory: a size, or a percentage of it.
    #[arg(long, value_name = "MEM")]
    pub(crate) reserve: Option<Size>,
    /// How much of its swap is divided; otherwise all of it.
    #[arg(long, value_name = "S")]
    pub(crate) swap: Option<Size>,
    /// How many times its share of memory a container may have while others leave it; 1 promises nothing twice.
    #[arg(long, value_name = "F")]
    pub(crate) overcommit: Option<Factor>,
    /// Not this machine but one like `memory=3G,swap=1G,cpus=2,disk=200G`.
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<Description>,
    /// Write what each has into this profile.
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<ContainerName>,
    /// Also if there is such a profile already.
    #[arg(long, requires = "profile")]
    pub(crate) replace: bool,
    #[command(flatten)]
    pub(crate) root: Root,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Validate {
    /// Only what is wrong within the definitions of these containers; otherwise all, and what they ask of the host together.
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<ContainerName>,
    /// Change nothing, but print the changes that would put right what can be, for `patch -p1 -d /`.
    #[arg(long, conflicts_with = "json")]
    pub(crate) repair: bool,
    /// Not this machine but one like `memory=3G,swap=1G,cpus=2,disk=200G`.
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<Description>,
    #[command(flatten)]
    pub(crate) root: Root,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Profile {
    /// List the profiles, and which containers have them.
    List(ProfileList),
    /// Show what a profile says.
    Show(ProfileShow),
    /// Make a profile from what a container has, from keys and values, or both.
    Create(ProfileCreate),
    /// Multiply the amounts of a profile.
    Scale(ProfileScale),
    /// Give a container the values of a profile; what is the container's alone stays.
    Apply(ProfileApply),
}

#[derive(Debug, Args)]
pub(crate) struct ProfileList {
    #[command(flatten)]
    pub(crate) root: Root,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ProfileShow {
    /// The profile.
    pub(crate) profile: ContainerName,
    #[command(flatten)]
    pub(crate) root: Root,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ProfileCreate {
    /// The profile.
    pub(crate) profile: ContainerName,
    /// What this container has, as far as a profile can say it.
    #[arg(long, value_name = "CONTAINER")]
    pub(crate) from: Option<ContainerName>,
    /// A key and its value, as TOML or as plain text.
    #[arg(value_name = "KEY=VALUE", required_unless_present = "from")]
    pub(crate) values: Vec<Edit>,
    /// Also if there is such a profile already.
    #[arg(long)]
    pub(crate) replace: bool,
    #[command(flatten)]
    pub(crate) root: Root,
}

#[derive(Debug, Args)]
pub(crate) struct ProfileScale {
    /// The profile.
    pub(crate) profile: ContainerName,
    /// How many times as much: `1.5`, `150%`.
    #[arg(value_name = "K")]
    pub(crate) factor: Factor,
    /// Leave the profile as it is and write the larger or smaller one under this name.
    #[arg(long, value_name = "OTHER")]
    pub(crate) to: Option<ContainerName>,
    /// Also if there is such a profile already.
    #[arg(long, requires = "to")]
    pub(crate) replace: bool,
    /// Show what would be changed and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) root: Root,
}

#[derive(Debug, Args)]
pub(crate) struct ProfileApply {
    /// The container.
    pub(crate) name: ContainerName,
    /// The profile.
    pub(crate) profile: ContainerName,
    #[command(flatten)]
    pub(crate) root: Root,
}
