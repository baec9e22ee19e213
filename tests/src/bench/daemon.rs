//! The broker itself: the release build, with folders of its own.

use super::container::{Container, Ground};
use super::lines::LIMIT;
use super::place::{MODE, OWNER};
use anyhow::{Context, Result, ensure};
use devbroker::api::GetStatus;
use devbroker::client::Client;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    socket: PathBuf,
}

/// Memory of a process, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// All that it has in memory.
    pub(super) rss: u64,
    /// The same with shared pages divided among those who share them.
    pub(super) pss: u64,
    /// What nobody shares with it.
    pub(super) own: u64,
}

/// Time that a process has used, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Used(pub(super) u64);

impl Daemon {
    /// Starts one that serves `containers`, of which the first is granted the device that has one of these names; returns when
    /// it says that it is ready.
    pub(super) fn start(
        program: &Path,
        ground: &Ground,
        alias: &str,
        names: &[String],
        containers: &[Container],
    ) -> Result<Self> {
        let home = ground.private(&format!("broker-{alias}"));
        let (config, run) = (home.join("conf.d"), home.join("run"));
        let registrations = run.join("containers");
        for folder in [&config, &registrations] {
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        let served = containers.first().context("a daemon needs a container")?;
        // Not by a link or property of udev's: what it says once is kept in a file, and few aliases need that.
        let matches: Vec<String> = names
            .iter()
            .map(|name| format!("{{ link = \"{name}\" }}"))
            .collect();
        let text = format!(
            "[alias.{alias}]\nmatch = [{}]\n\n[[grant]]\nalias = \"{alias}\"\ncontainer = \"{}\"\n\
             owner = {OWNER}\ngroup = {OWNER}\nmode = \"{MODE:04o}\"\n",
            matches.join(", "),
            served.registration().container
        );
        fs::write(config.join("bench.toml"), text).context("write the configuration")?;
        for container in containers {
            container.register(&registrations)?;
        }
        let notify = home.join("notify");
        let ready = UnixDatagram::bind(&notify).context("bind the socket for readiness")?;
        let log = File::create(home.join("log")).context("make a log")?;
        let folder = |name: &str, path: &Path| [format!("--{name}"), path.to_string_lossy().into_owned()];
        let child = Command::new(std::env::current_exe().context("find this program")?)
            .arg("leashed")
            .arg(program)
            .arg("daemon")
            .args(folder("config", &config))
            .args(folder("run", &run))
            .args(folder("state", &home.join("state")))
            .args(folder("aliases", &home.join("aliases")))
            .args(folder("filters", &ground.private("bpf").join(alias)))
            .env("NOTIFY_SOCKET", &notify)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start the daemon")?;
        let this = Self {
            child,
            socket: run.join("io.devbroker"),
        };
        let mut polled = [PollFd::new(ready.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(LIMIT).unwrap_or(PollTimeout::MAX);
        let came = poll(&mut polled, limit).context("wait for the daemon")?;
        let log = || fs::read_to_string(home.join("log")).unwrap_or_default();
        ensure!(came == 1, "the daemon is not ready:\n{}", log());
        let status = this.status()?;
        ensure!(
            status.1 == containers.len() as u64,
            "the daemon serves {} containers:\n{}",
            status.1,
            log()
        );
        Ok(this)
    }

    /// Processed events and served containers. When it has answered, it is through with all events up to the call.
    fn status(&self) -> Result<(u64, u64)> {
        let status = Client::connect(&self.socket, LIMIT)?.call_within(&GetStatus {}, LIMIT)?;
        Ok((status.events, status.containers))
    }

    /// Waits until it has nothing to do.
    pub(super) fn sync(&self) -> Result<()> {
        self.status().map(drop)
    }

    /// Stops it, so that it does not disturb the others' turns.
    pub(super) fn pause(&self) -> Result<()> {
        kill(self.pid(), Signal::SIGSTOP).context("stop the daemon")
    }

    /// Has it go on, and take up what it missed.
    pub(super) fn resume(&self) -> Result<()> {
        kill(self.pid(), Signal::SIGCONT).context("continue the daemon")?;
        self.sync()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(0))
    }

    pub(super) fn memory(&self) -> Result<Memory> {
        memory_of(&self.pid().to_string())
    }

    /// Processor time of all its threads so far (`/proc/PID/task/TID/schedstat`, first field).
    pub(super) fn used(&self) -> Result<Used> {
        let folder = format!("/proc/{}/task", self.pid());
        let mut sum = 0;
        for entry in fs::read_dir(&folder).with_context(|| format!("list {folder}"))? {
            let path = entry.context("list threads")?.path().join("schedstat");
            let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            let first = text.split(' ').next().and_then(|time| time.parse::<u64>().ok());
            sum += first.context("schedstat has no number")?;
        }
        Ok(Used(sum))
    }
}

/// The memory of any process.
pub(super) fn memory_of(pid: &str) -> Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let field = |name| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    Ok(Memory {
        rss: field("Rss:").context("no Rss")?,
        pss: field("Pss:").context("no Pss")?,
        own: field("Private_Clean:").context("no Private_Clean")?
            + field("Private_Dirty:").context("no Private_Dirty")?,
    })
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
