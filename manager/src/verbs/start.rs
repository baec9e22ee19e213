//! `ctm start`: through systemd where it runs the machine and has our unit, otherwise a supervisor of our own.

use super::{Code, Condition, Refused, change};
use crate::layout::Layout;
use crate::process::{ProcessId, Wait};
use crate::run::cgroup;
use crate::run::failure::{self, Failure};
use crate::run::limit::{self, Facts};
use crate::{cli, definitions, lock, plan, process, service};
use anyhow::{Context, Result, bail};
use devbroker::model::{ContainerName, InstanceId};
use rustix::event::{PollFd, PollFlags, poll};
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

pub(super) fn run(layout: &Layout, arguments: &cli::Start) -> Result<Code> {
    let name = &arguments.name;
    let _lock = lock::verb(layout, name)?;
    let definition = definitions::load(layout, name)?;
    if arguments.dry_run {
        let run = cgroup::Cgroup::of_run(name, &cgroup::own()?);
        let mut out = io::stdout().lock();
        let facts = Facts::read(layout, &definition)?;
        for step in plan::start(&definition, layout, &run, &InstanceId::from_bits(0), facts)? {
            writeln!(out, "{step}")?;
        }
        return Ok(Code::Done);
    }
    up(layout, name)?;
    Ok(Code::Done)
}

/// Starts a container that does not run. The caller holds the lock.
pub(super) fn up(layout: &Layout, name: &ContainerName) -> Result<()> {
    if let Condition::Supervised(state) = Condition::of(layout, name)? {
        return Err(Refused::Running {
            name: name.clone(),
            phase: super::phase(&state).into(),
        }
        .into());
    }
    cgroup::require_unified()?;
    // One with faults is refused by who starts it, in its own words.
    if let Ok(definition) = definitions::load(layout, name) {
        change::say_what_is_not_passed_on(&definition)?;
        limit::warn(&definition);
    }
    failure::forget(layout, name)
        .with_context(|| format!("cannot forget why {name} could not be started last time"))?;
    let started = if service::is_available() {
        service::systemctl("start", name).map_err(Into::into)
    } else {
        by_itself(layout, name)
    };
    started.map_err(|error| match Failure::read(layout, name) {
        Some(failure) => Refused::Failed {
            name: name.clone(),
            failure,
        }
        .into(),
        None => error.context(format!("cannot start container {name}")),
    })
}

/// Starts a supervisor that outlives us, and waits until it says that the container runs or ends.
fn by_itself(layout: &Layout, name: &ContainerName) -> Result<()> {
    let socket = Socket::bind(layout.run.join(format!(".notify.{}", std::process::id())))?;
    let log_path = layout.beside(".log", name);
    let log = log(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("ctm")
        .args(["run", "--detached", name.as_str()])
        .env("NOTIFY_SOCKET", &socket.path)
        .env_remove("JOURNAL_STREAM")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("cannot run the supervisor")?;
    wait_until_ready(&socket.listener, &mut child)
}

/// The supervisor's messages, of its last run only.
fn log(path: &std::path::Path) -> io::Result<fs::File> {
    if let Some(folder) = path.parent() {
        crate::atomic::folder(folder, 0o700)?;
    }
    fs::File::create(path)
}

fn wait_until_ready(listener: &UnixDatagram, child: &mut Child) -> Result<()> {
    let pid = i32::try_from(child.id()).context("a process id out of range")?;
    let process = ProcessId::now(pid).context("cannot look at the supervisor")?;
    let pidfd = process.open().context("cannot look at the supervisor")?;
    let mut message = [0; 4096];
    loop {
        let mut fds = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::new(&pidfd, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context("cannot wait for the supervisor"),
        }
        // Its last message may have come just before its end.
        if process::wait(listener.as_fd(), Instant::now())? == Wait::Ready {
            let length = listener.recv(&mut message)?;
            if service::is_ready(message.get(..length).unwrap_or_default()) {
                return Ok(());
            }
        } else if process::ended(&pidfd, Instant::now())? {
            let status = child.wait()?;
            bail!("the supervisor ended ({status})");
        }
    }
}

/// A socket for readiness messages, removed when it is no longer needed.
struct Socket {
    listener: UnixDatagram,
    path: PathBuf,
}

impl Socket {
    fn bind(path: PathBuf) -> Result<Self> {
        // Of an earlier process with our number.
        if let Err(e) = fs::remove_file(&path) {
            if e.kind() != ErrorKind::NotFound {
                return Err(e).with_context(|| format!("cannot remove {}", path.display()));
            }
        }
        let listener =
            UnixDatagram::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
        Ok(Self { listener, path })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The next one of the same number replaces it.
        fs::remove_file(&self.path).ok();
    }
}
