//! The arguments, as typed. One definition makes parser, help and completions.

mod change;
mod create;
mod life;
mod look;
mod share;

pub(crate) use change::{Destroy, Enable, Mount, MountAdd, MountIds, MountRemove, Rename, Set};
pub(crate) use create::{Create, Images, ImagesVerb};
pub(crate) use life::{Enter, Exec, Kill, Log, Run, Start, Stop};
pub(crate) use look::{Config, Counters, List, Ps, Status, Who};
pub(crate) use share::{
    Profile, ProfileApply, ProfileCreate, ProfileList, ProfileScale, ProfileShow, Root, Split, Validate,
};

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use devbroker::model::ContainerName;

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
pub(crate) struct Output {
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// One container or all.
#[derive(Debug, Args)]
pub(crate) struct Chosen {
    /// The container; otherwise all.
    pub(crate) name: Option<ContainerName>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Names {
    /// The containers.
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<ContainerName>,
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
