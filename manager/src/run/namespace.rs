//! The network namespace of a container: held, and entered by threads of their own.

use crate::process::{self, ProcessId};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

/// A container's network namespace. It is there for as long as this is held.
#[derive(Debug)]
pub(crate) struct Network(OwnedFd);

impl Network {
    /// That of a container's first process.
    pub(crate) fn of(init: ProcessId) -> io::Result<Self> {
        let ended = || io::Error::other("it has just ended");
        let held = init.open().ok_or_else(ended)?;
        let path = format!("/proc/{}/ns/net", init.pid);
        let network = openat(
            CWD,
            path.as_str(),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        // Had it ended before, the number could have been another's.
        if process::ended(&held, Instant::now())? {
            return Err(ended());
        }
        Ok(Self(network))
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
