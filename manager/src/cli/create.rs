//! What containers are made from, and what they share.

use super::Output;
use crate::definition::{Address, CapabilityChange};
use crate::make::bootstrap::Distro;
use crate::make::recipe::is_word;
use clap::{Args, Subcommand};
use devbroker::model::ContainerName;
use std::path::PathBuf;

#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of its own on the command line"
)]
pub(crate) struct Create {
    /// Its name: letters, digits, `-`, `_` and `.`.
    pub(crate) name: ContainerName,
    #[command(flatten)]
    pub(crate) source: Source,
    /// Make no copy of the folder of --rootfs: it becomes the container's, its files are given to the container's ids.
    #[arg(long, requires = "rootfs", conflicts_with_all = ["tar", "clone"])]
    pub(crate) in_place: bool,
    /// Share no base system with other containers: the root file system is the container's own.
    #[arg(long, conflicts_with = "in_place")]
    pub(crate) copy: bool,
    /// A recipe: what to make it from, and what to do to it then.
    #[arg(long, value_name = "FILE")]
    pub(crate) recipe: Option<PathBuf>,
    /// The architecture of --distro; without it the host's.
    #[arg(long, value_parser = word)]
    pub(crate) arch: Option<String>,
    /// Where the packages of --distro come from.
    #[arg(long, value_name = "URL")]
    pub(crate) mirror: Option<String>,
    /// The set of packages that --distro begins with, as mmdebstrap and debootstrap name them.
    #[arg(long, value_parser = word)]
    pub(crate) variant: Option<String>,
    /// A further package of --distro; can be given several times.
    #[arg(long, value_parser = word, value_name = "PACKAGE")]
    pub(crate) package: Vec<String>,
    /// Install --distro anew, with the packages of today, though there is a base system of it.
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Its host name; without it the container's name.
    #[arg(long)]
    pub(crate) hostname: Option<String>,
    /// Its DNS domain.
    #[arg(long)]
    pub(crate) domain: Option<String>,
    /// An address that is routed to it, IPv4 or IPv6; can be given several times.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip: Vec<Address>,
    /// The profile that says what its definition does not.
    #[arg(long)]
    pub(crate) profile: Option<ContainerName>,
    /// Give the container a user namespace with host ids of its own (the default).
    #[arg(long, overrides_with = "no_userns")]
    pub(crate) userns: bool,
    /// Let the container's ids be the host's: its root is the host's root, held by fewer capabilities and the filters.
    #[arg(long, visible_alias = "privileged-root", overrides_with = "userns")]
    pub(crate) no_userns: bool,
    /// Give its root a capability, or take one away: `+SYS_TIME`, `-NET_RAW`. Can be said several times.
    #[arg(long, allow_hyphen_values = true, value_name = "+X|-X")]
    pub(crate) cap: Vec<CapabilityChange>,
    /// Show what would be done and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Its first process, with arguments; must come last. Without it /sbin/init.
    #[arg(long, num_args = 1.., allow_hyphen_values = true, value_name = "CMD")]
    pub(crate) init: Vec<String>,
}

/// What is passed on to another program, which must not take it for an option or a list.
fn word(text: &str) -> Result<String, String> {
    if is_word(text) {
        Ok(text.into())
    } else {
        Err(
            "use letters, digits and `+`, `-`, `.`, `_`, `:`, `~`, `=`, beginning with a letter or digit"
                .into(),
        )
    }
}

#[derive(Debug, Args)]
#[group(required = false, multiple = false)]
pub(crate) struct Source {
    /// A distribution, as in `debian:bookworm`; mmdebstrap or debootstrap installs it.
    #[arg(long, value_name = "DISTRO:SUITE")]
    pub(crate) distro: Option<Distro>,
    /// A folder with a root file system; it is copied.
    #[arg(long, value_name = "DIR")]
    pub(crate) rootfs: Option<PathBuf>,
    /// An archive of a root file system: tar, also compressed with gzip, bzip2, xz or zstd.
    #[arg(long, value_name = "FILE")]
    pub(crate) tar: Option<PathBuf>,
    /// A stopped container: its files, and its definition with a host name and host ids of the new one's own.
    #[arg(long, value_name = "OTHER")]
    pub(crate) clone: Option<ContainerName>,
}

#[derive(Debug, Args)]
pub(crate) struct Images {
    #[command(subcommand)]
    pub(crate) what: Option<ImagesVerb>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImagesVerb {
    /// Remove those that no container uses and that were made more than a day ago.
    Prune(Prune),
}

#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Also those that were made today.
    #[arg(long)]
    pub(crate) all: bool,
}
