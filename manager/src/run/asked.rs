//! How a supervisor hears that its container's end is wanted: by a signal, or by a file in the run's folder.

use crate::layout::RunFolder;
use crate::signal;
use rustix::event::{PollFd, PollFlags};
use std::fs;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Becomes readable at a signal that asks for the container's end.
#[derive(Debug)]
pub(crate) struct Asked(UnixStream);

impl Asked {
    /// From now on.
    pub(crate) fn heeded() -> io::Result<Self> {
        signal::heeded().map(Self)
    }

    /// What to wait for.
    pub(crate) fn poll_fd(&self) -> PollFd<'_> {
        PollFd::new(&self.0, PollFlags::IN)
    }

    /// Takes note of the signals so far; whether there was one.
    pub(crate) fn taken(&mut self) -> io::Result<bool> {
        let mut any = false;
        let mut buffer = [0; 64];
        loop {
            match self.0.read(&mut buffer) {
                Ok(0) => return Ok(any),
                Ok(_) => any = true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(any),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// Whether somebody has written down that the container's end is wanted.
pub(crate) fn in_writing(folder: &RunFolder) -> bool {
    folder.stop_within().exists()
}

/// How long the container has for shutting down, where that was said.
pub(crate) fn within(folder: &RunFolder) -> Option<Duration> {
    let text = fs::read_to_string(folder.stop_within()).ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}
