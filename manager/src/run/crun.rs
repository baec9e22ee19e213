//! The `crun` program: which arguments, what it says. Owns no decision.

use crate::enter::entry::Exchange;
use crate::layout::{Layout, RunFolder};
use devbroker::model::ContainerName;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// What can go wrong with crun.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CrunError {
    /// It could not be run.
    #[error("cannot run crun: {0}; install the package crun")]
    Run(#[source] io::Error),
    /// It said no.
    #[error("crun {verb} failed ({status}): {message}")]
    Failed {
        verb: &'static str,
        status: ExitStatus,
        message: String,
    },
    /// What it should have written is not there.
    #[error("crun wrote no process id to {}: {source}", .path.display())]
    NoPid { path: PathBuf, source: io::Error },
}

/// What the container's first process writes to.
#[derive(Debug)]
pub(crate) enum Output {
    /// A pipe, whose one end this is.
    Pipe(OwnedFd),
    /// A terminal, which crun makes and sends to the run's socket.
    Terminal,
}

/// crun for one container.
#[derive(Debug)]
pub(crate) struct Crun<'a> {
    layout: &'a Layout,
    name: &'a ContainerName,
    run: RunFolder,
}

impl<'a> Crun<'a> {
    pub(crate) fn new(layout: &'a Layout, name: &'a ContainerName) -> Self {
        Self {
            layout,
            name,
            run: layout.run_of(name),
        }
    }

    /// Neither our environment nor our streams are the container's: the notify socket would be bound into it, and an inherited
    /// pipe would keep our caller waiting.
    fn command(&self, verb: &'static str, log: Option<PathBuf>) -> Command {
        let mut command = Command::new("crun");
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .arg("--root")
            .arg(self.layout.crun())
            .arg("--cgroup-manager=cgroupfs");
        if let Some(log) = log {
            command.arg("--log").arg(log);
        }
        command.arg(verb);
        command
    }

    fn check(&self, verb: &'static str, status: ExitStatus) -> Result<(), CrunError> {
        if status.success() {
            return Ok(());
        }
        Err(failure(verb, status, &self.run.crun_log()))
    }

    /// Prepares the container and leaves its first process waiting; answers with that process' id.
    pub(crate) fn create(&self, output: &Output) -> Result<i32, CrunError> {
        let mut crun = self.command("create", Some(self.run.crun_log()));
        match output {
            Output::Pipe(end) => {
                let stream = || end.try_clone().map(Stdio::from).map_err(CrunError::Run);
                crun.stdout(stream()?).stderr(stream()?);
            }
            Output::Terminal => {
                crun.arg("--console-socket").arg(self.run.terminal());
            }
        }
        let status = crun
            .arg("--bundle")
            .arg(self.run.bundle())
            .arg("--pid-file")
            .arg(self.run.pid_file())
            .arg(self.name.as_str())
            .status()
            .map_err(CrunError::Run)?;
        self.check("create", status)?;
        pid(self.run.pid_file())
    }

    /// Lets the first process go on.
    pub(crate) fn start(&self) -> Result<(), CrunError> {
        let status = self
            .command("start", Some(self.run.crun_log()))
            .arg(self.name.as_str())
            .status()
            .map_err(CrunError::Run)?;
        self.check("start", status)
    }

    /// Kills what is left of the container and forgets it; nothing to do if crun does not know it.
    pub(crate) fn delete(&self) -> Result<(), CrunError> {
        if !self.layout.crun().join(self.name.as_str()).exists() {
            return Ok(());
        }
        let status = self
            .command("delete", Some(self.run.crun_log()))
            .arg("--force")
            .arg(self.name.as_str())
            .status()
            .map_err(CrunError::Run)?;
        self.check("delete", status)
    }

    /// Starts a command in the container, in `cgroup` below the container's, detached: it becomes the child of the nearest process that adopts orphans, which has
    /// to be us. `streams` are its standard input, output and error; without them it has a terminal, which is sent to the
    /// exchange's socket. Answers with its process id.
    pub(crate) fn exec(
        &self,
        cgroup: &str,
        exchange: &Exchange,
        streams: Option<[OwnedFd; 3]>,
    ) -> Result<i32, CrunError> {
        let mut crun = self.command("exec", Some(exchange.log()));
        crun.arg("--detach")
            .arg(format!("--cgroup={cgroup}"))
            .arg("--process")
            .arg(exchange.process())
            .arg("--pid-file")
            .arg(exchange.pid_file());
        match streams {
            Some([input, output, errors]) => {
                crun.stdin(input).stdout(output).stderr(errors);
            }
            None => {
                crun.arg("--console-socket").arg(exchange.console());
            }
        }
        let status = crun.arg(self.name.as_str()).status().map_err(CrunError::Run)?;
        if !status.success() {
            return Err(failure("exec", status, &exchange.log()));
        }
        pid(exchange.pid_file())
    }
}

fn failure(verb: &'static str, status: ExitStatus, log: &Path) -> CrunError {
    CrunError::Failed {
        verb,
        status,
        message: last_message(&std::fs::read_to_string(log).unwrap_or_default()),
    }
}

/// The process id that crun has written.
fn pid(path: PathBuf) -> Result<i32, CrunError> {
    std::fs::read_to_string(&path)
        .and_then(|text| text.trim().parse().map_err(io::Error::other))
        .map_err(|source| CrunError::NoPid { path, source })
}

/// The last thing crun logged, without its time stamp: `time="…" level=error msg="…"` or `2026-…: message`.
fn last_message(log: &str) -> String {
    let line = log
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("it gave no reason");
    match line.split_once("Z: ") {
        Some((stamp, message)) if stamp.starts_with(|c: char| c.is_ascii_digit()) => message.into(),
        Some(_) | None => line.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_crun_said() {
        assert_eq!(
            last_message(
                "2026-01-01T00:00:00.123456Z: first\n2026-01-01T00:00:01.000000Z: open `x`: No such file\n\n"
            ),
            "open `x`: No such file"
        );
        assert_eq!(last_message("plain"), "plain");
        assert_eq!(last_message(""), "it gave no reason");
    }
}
