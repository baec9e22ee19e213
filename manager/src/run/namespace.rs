//! Namespaces of a container: held, and entered by threads and programs of our own.

use crate::process::{self, ProcessId};
use crate::sys;
use rustix::fs::{CWD, Mode, OFlags, fstat, openat, stat};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

/// A namespace of a container's first process, by its name below `/proc/PID/ns`.
fn held(init: ProcessId, kind: &str) -> io::Result<OwnedFd> {
    let ended = || io::Error::other("it has just ended");
    let process = init.open().ok_or_else(ended)?;
    let path = format!("/proc/{}/ns/{kind}", init.pid);
    let namespace = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // Had it ended before, the number could have been another's.
    if process::ended(&process, Instant::now())? {
        return Err(ended());
    }
    Ok(namespace)
}

/// A container's user namespace. It is there for as long as this is held.
#[derive(Debug)]
pub(crate) struct Users(OwnedFd);

impl Users {
    /// That of a container's first process; none where it is the host's.
    pub(crate) fn of(init: ProcessId) -> io::Result<Option<Self>> {
        let users = held(init, "user")?;
        let (its, own) = (fstat(&users)?, stat("/proc/self/ns/user")?);
        let is_own = (its.st_dev, its.st_ino) == (own.st_dev, own.st_ino);
        Ok((!is_own).then_some(Self(users)))
    }

    /// Runs a script of the shell's in it, with the host's files.
    pub(crate) fn run(&self, script: &str) -> io::Result<()> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).env_clear().stdin(Stdio::null());
        sys::in_user_namespace(&mut command, self.0.as_fd());
        let output = command.output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(said.trim().to_owned()))
    }
}

/// A container's network namespace. It is there for as long as this is held.
#[derive(Debug)]
pub(crate) struct Network(OwnedFd);

impl Network {
    /// That of a container's first process.
    pub(crate) fn of(init: ProcessId) -> io::Result<Self> {
        held(init, "net").map(Self)
    }

    /// Does something in it, on a thread of its own. Programs that are run by it are in there as well, and see the host's files.
    pub(crate) fn within<T: Send, E: Send + From<io::Error>>(
        &self,
        act: impl FnOnce() -> Result<T, E> + Send,
    ) -> Result<T, E> {
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(io::Error::from)?;
                act()
            });
            there
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread for it panicked").into()))
        })
    }

    /// A path by which a program of ours can open it.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }
}
