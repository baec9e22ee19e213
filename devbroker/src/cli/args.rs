//! What may be said on the command line. One definition makes parser, help and completions.

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use devbroker::daemon::{Options, Paths};
use devbroker::model::{Access, AliasName, ContainerName, ContainerRef, NodePath};
use std::path::PathBuf;

/// Hot-plugged devices in running containers.
#[derive(Debug, Parser)]
#[command(
    name = "devbroker",
    version,
    max_term_width = 100,
    after_help = "Exit codes:\n  0  done\n  1  failed or refused\n  2  wrong usage\n  3  the daemon is not running\n  4  permission denied\n  5  no such device, alias or container\n  6  timed out"
)]
pub(crate) struct Arguments {
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The daemon's socket [default: /run/devbroker/io.devbroker]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    /// Whether this process is to be the daemon.
    pub(crate) fn runs_daemon(&self) -> bool {
        matches!(self.command, Command::Daemon(_))
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon in the foreground
    Daemon(DaemonArguments),
    /// Check configuration files, without root and without the daemon
    Check {
        /// Files, or folders of files [default: those of the system]
        files: Vec<PathBuf>,
    },
    /// Show how the daemon is
    Status,
    /// List devices and their nodes
    Devices(DevicesArguments),
    /// List aliases and their devices
    Aliases,
    /// List which container may have what
    Grants,
    /// List containers and what they have
    Containers(ContainersArguments),
    /// Show what happened
    Events(EventsArguments),
    /// Explain why a device, alias or container is as it is
    Why {
        /// An alias, a container (ctm:scan), a node (/dev/ttyUSB0), a number (c188:0) or a path in sysfs
        #[arg(value_name = "DEVICE|ALIAS|CONTAINER")]
        about: String,
    },
    /// Show what would be done, and do nothing
    Plan {
        /// For this container alone
        container: Option<ContainerRef>,
    },
    /// Read the configuration again
    Reload,
    /// Work with aliases
    Alias {
        #[command(subcommand)]
        command: AliasCommand,
    },
    /// Give a container a device
    Attach(AttachArguments),
    /// Take a device from a container
    Detach {
        /// Which device
        alias: AliasName,
        /// From which container: ctm:scan, or scan
        container: ContainerRef,
        /// Also take the grant out of the file in /etc
        #[arg(long)]
        save: bool,
    },
    /// Print a completion script
    Completions {
        /// For which shell
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AliasCommand {
    /// Name a device: by its serial number if it has one, else by its port
    Add {
        /// What to call it
        name: AliasName,
        /// A node (/dev/ttyUSB0), a number (c188:0) or a path in sysfs
        device: String,
        /// Show what would be written, and write nothing
        #[arg(long, short = 'n')]
        dry_run: bool,
    },
}

/// Where the daemon keeps things; the defaults are right for a system.
#[derive(Debug, Args)]
pub(crate) struct DaemonArguments {
    /// Configuration folder, instead of those in /usr/lib and /etc
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
    /// Folder for what outlives a restart [default: /run/devbroker]
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Folder for what outlives a reboot [default: /var/lib/devbroker]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Folder for links to devices with an alias [default: /dev/devbroker]
    #[arg(long, value_name = "DIR")]
    aliases: Option<PathBuf>,
    /// Folder in bpffs for device filters [default: /sys/fs/bpf/devbroker]
    #[arg(long, value_name = "DIR")]
    filters: Option<PathBuf>,
}

impl DaemonArguments {
    /// The same as what the daemon takes.
    pub(crate) fn into_options(self, socket: Option<PathBuf>) -> Options {
        let defaults = Paths::default();
        let [packaged, administrator, _] = defaults.config;
        let run = self.run.unwrap_or(defaults.run);
        let (packaged, administrator) = match self.config {
            // A folder that is not there holds no files: nothing of the system's own configuration is read.
            Some(folder) => (folder.join("none"), folder),
            None => (packaged, administrator),
        };
        Options {
            paths: Paths {
                config: [packaged, administrator, run.join("conf.d")],
                run,
                state: self.state.unwrap_or(defaults.state),
                aliases: self.aliases.unwrap_or(defaults.aliases),
                filters: self.filters.unwrap_or(defaults.filters),
            },
            socket,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct DevicesArguments {
    /// Also nodes without a physical device
    #[arg(long, short)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ContainersArguments {
    /// Only this one, with its nodes: ctm:scan, or scan
    pub(crate) container: Option<ContainerRef>,
    /// Show the nodes of each
    #[arg(long, short)]
    pub(crate) nodes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArguments {
    /// Go on with what happens from now on
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// So many of those that were
    #[arg(long, short = 'n', default_value_t = 20)]
    pub(crate) lines: u64,
}

#[derive(Debug, Args)]
pub(crate) struct AttachArguments {
    /// Which device
    pub(crate) alias: AliasName,
    /// To which container: ctm:scan, or scan
    #[arg(required_unless_present = "pid", conflicts_with = "pid")]
    pub(crate) container: Option<ContainerRef>,
    /// To the container of this process
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) pid: Option<i32>,
    /// What to call that container: pid:NAME [default: its number]
    #[arg(long, requires = "pid")]
    pub(crate) name: Option<ContainerName>,
    /// Write the grant to /etc, so that it outlives this boot
    #[arg(long, conflicts_with = "pid")]
    pub(crate) save: bool,
    /// What it may do: r, w, rw, with m where it may also mknod [default: rw]
    #[arg(long)]
    pub(crate) access: Option<Access>,
    /// A further stable name below its /dev
    #[arg(long)]
    pub(crate) path: Option<NodePath>,
    /// Owner, by its own passwd
    #[arg(long)]
    pub(crate) owner: Option<String>,
    /// Group, by its own group file
    #[arg(long)]
    pub(crate) group: Option<String>,
    /// Mode, in octal
    #[arg(long)]
    pub(crate) mode: Option<String>,
}

/// The completion script for a shell.
pub(crate) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "devbroker", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_manual_page_tells_every_command_and_option() {
        let page = include_str!("../../../docs/man/devbroker.8")
            .replace("\\-", "-")
            .replace("\\fP", "");
        for command in Arguments::command().get_subcommands() {
            let name = command.get_name();
            assert!(page.contains(name), "{name} is not in devbroker.8");
            for option in command.get_opts() {
                let long = format!("--{}", option.get_long().unwrap());
                assert!(page.contains(&long), "{name} {long} is not in devbroker.8");
            }
        }
    }
}
