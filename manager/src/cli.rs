//! The arguments, as typed. One definition makes parser, help and completions.

mod share;

pub(crate) use share::{
    Profile, ProfileApply, ProfileCreate, ProfileList, ProfileScale, ProfileShow, Root, Split, Validate,
};

use crate::definition::{CapabilityChange, Edit};
use crate::enter::account::Wanted;
use crate::make::bootstrap::Distro;
use crate::make::recipe::is_word;
use crate::signal::AnySignal;
use crate::verbs::ColumnName;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use devbroker::model::{AliasName, ContainerName};
use std::ffi::OsString;
use std::path::PathBuf;

/// System containers: create, start, enter, limit.
#[derive(Debug, Parser)]
#[command(name = "ctm", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// If another command is at work on the container, fail instead of waiting for it.
    #[arg(long, global = true)]
    pub(crate) no_wait: bool,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a container from a distribution, an archive, a folder or another container.
    Create(Box<Create>),
    /// List the base systems that containers share, or remove those that none uses.
    Images(Images),
    /// Start a container and wait until its first process runs.
    Start(Start),
    /// Shut a container down and wait until it is gone.
    Stop(Stop),
    /// Shut a container down, if it runs, and start it.
    Restart(Stop),
    /// End everything in a container at once, or send its first process a signal.
    Kill(Kill),
    /// Stop all processes of a container where they are.
    Pause(Name),
    /// Let the processes of a paused container go on.
    Resume(Name),
    /// Wait until a container ends; the exit code of its first process becomes ours.
    Wait(Name),
    /// Run a command in a running container; its exit code becomes ours.
    Exec(Exec),
    /// A login shell in a running container.
    Enter(Enter),
    /// Show the console of a running container and type on it; Ctrl-] leaves it.
    Console(Name),
    /// Show the last that a container's first process wrote.
    Log(Log),
    /// List all containers.
    List(List),
    /// Show the processes of a container, or of all.
    Ps(Ps),
    /// Show how much disk root file systems take.
    Du(Chosen),
    /// Show once what containers use: processor, memory, disk, processes.
    Stats(Chosen),
    /// Show what containers hold of what they may hold, and what they were refused.
    Counters(Counters),
    /// Tell which container a process belongs to.
    Who(Who),
    /// Show one container.
    Status(Status),
    /// Change a definition: all of the changes, or none if one of them cannot be.
    Set(Set),
    /// Give a stopped container another name.
    Rename(Rename),
    /// Mount and unmount in a container, also while it runs.
    #[command(subcommand)]
    Mount(Mount),
    /// Have a container started at boot, or when a device comes.
    Enable(Enable),
    /// Have a container started by `ctm start` alone.
    Disable(Names),
    /// Change a definition in an editor; it is only saved without faults.
    Edit(Name),
    /// Show a definition with all that it does not say, and where each value is from.
    Config(Config),
    /// Divide a host among so many containers, and write what each has into a profile.
    Split(Split),
    /// Look for contradictions in definitions and in what they ask of the host.
    Validate(Validate),
    /// What containers have in common.
    #[command(subcommand)]
    Profile(Profile),
    /// Remove a container, its definition and its root file system below /var/lib/ctm.
    Destroy(Destroy),
    /// Start a container and stay with it until it ends; what ctm@.service runs.
    Run(Run),
    /// Clean up after a supervisor that was killed; ctm@.service does it, and so do start and stop.
    #[command(hide = true)]
    Clean(Name),
    /// Print a completion script.
    Completions(Completions),
}

#[derive(Debug, Args)]
pub(crate) struct Name {
    /// The container.
    pub(crate) name: ContainerName,
}

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

#[derive(Debug, Args)]
pub(crate) struct Output {
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

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

/// One container or all.
#[derive(Debug, Args)]
pub(crate) struct Chosen {
    /// The container; otherwise all.
    pub(crate) name: Option<ContainerName>,
    #[command(flatten)]
    pub(crate) output: Output,
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
pub(crate) struct Names {
    /// The containers.
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<ContainerName>,
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

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The container.
    pub(crate) name: ContainerName,
    /// In a session of its own; what `ctm start` does where systemd does not run the machine.
    #[arg(long, hide = true)]
    pub(crate) detached: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// For which shell.
    pub(crate) shell: Shell,
}

/// The completion script for a shell.
pub(crate) fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ctm", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_come_after_dashes() {
        let cli = Cli::try_parse_from(["ctm", "exec", "scan", "--", "ls", "-l"]).unwrap();
        assert!(matches!(cli.verb, Verb::Exec(exec) if exec.command == ["ls", "-l"]));
        assert!(Cli::try_parse_from(["ctm", "exec", "scan"]).is_err());
        let cli = Cli::try_parse_from(["ctm", "exec", "-t", "scan", "-u", "lp:lp", "ls", "-u", "--", "-t"])
            .unwrap();
        let Verb::Exec(exec) = cli.verb else {
            panic!("not exec");
        };
        assert_eq!(exec.command, ["ls", "-u", "--", "-t"]);
        assert!(exec.tty && exec.user.is_some());
        let cli = Cli::try_parse_from([
            "ctm",
            "create",
            "a",
            "--no-userns",
            "--tar",
            "x",
            "--init",
            "/bin/sh",
            "-c",
            "true",
        ])
        .unwrap();
        let Verb::Create(create) = cli.verb else {
            panic!("not create");
        };
        assert_eq!(create.init, ["/bin/sh", "-c", "true"]);
        assert!(create.no_userns && !create.userns);
        let cli = Cli::try_parse_from([
            "ctm",
            "create",
            "a",
            "--tar",
            "x",
            "--cap",
            "+SYS_TIME",
            "--cap",
            "-NET_RAW",
            "--privileged-root",
        ])
        .unwrap();
        let Verb::Create(create) = cli.verb else {
            panic!("not create");
        };
        let caps: Vec<_> = create.cap.iter().map(ToString::to_string).collect();
        assert_eq!(caps, ["+SYS_TIME", "-NET_RAW"]);
        assert!(create.no_userns);
        for bad in [
            &["ctm", "create", "a", "--distro", "debian"][..],
            &["ctm", "create", "a", "--distro", "debian:x", "--package", "-x"],
            &["ctm", "create", "a", "--tar", "x", "--rootfs", "y"],
            &["ctm", "create", "a", "--tar", "x", "--in-place"],
            &["ctm", "create", "a", "--clone", "b", "--in-place"],
            &["ctm", "create", "a", "--rootfs", "x", "--in-place", "--copy"],
            &["ctm", "create", "a", "--clone", "b", "--tar", "x"],
            &["ctm", "create", "../a", "--tar", "x"],
            &["ctm", "start", ".crun"],
        ] {
            assert!(Cli::try_parse_from(bad).is_err(), "{bad:?}");
        }
    }
}
