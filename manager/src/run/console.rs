//! What the container's first process writes, to a pipe or to a terminal of its own.
//!
//! It is drained for as long as the container runs. The last part is kept; under systemd everything goes on to the journal,
//! which has its own limits; on a terminal it goes to all who are attached.

use crate::run::attach::Listener;
use crate::run::output::Kept;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Our end.
#[derive(Debug)]
pub(crate) struct Console {
    source: Option<File>,
    /// The other end of the terminal, held open: an init that closes it would make ours one without another.
    held: Option<OwnedFd>,
    listener: Option<Listener>,
    kept: Kept,
    journal: bool,
}

impl Console {
    /// Nothing to read from yet.
    pub(crate) fn new(kept: Kept) -> Self {
        Self {
            source: None,
            held: None,
            listener: None,
            kept,
            journal: std::env::var_os("JOURNAL_STREAM").is_some(),
        }
    }

    /// Makes a pipe; answers with the container's end.
    pub(crate) fn pipe(&mut self) -> io::Result<OwnedFd> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        self.source = Some(nonblocking(ours)?);
        Ok(theirs)
    }

    /// Takes over a terminal's master, for those who attach at `listener`.
    pub(crate) fn terminal(&mut self, master: OwnedFd, listener: Listener) -> io::Result<()> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        self.held = Some(ioctl_tiocgptpeer(&master, flags)?);
        self.source = Some(nonblocking(master)?);
        self.listener = Some(listener);
        Ok(())
    }

    /// What to wait on for output; none once nobody can write any more.
    pub(crate) fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.source.as_ref().map(AsFd::as_fd)
    }

    /// All there is to wait for.
    pub(crate) fn poll_fds(&self) -> Vec<PollFd<'_>> {
        let output = self
            .readable()
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let attached = self.listener.iter().flat_map(Listener::poll_fds);
        output.into_iter().chain(attached).collect()
    }

    /// Passes on what is there, both ways.
    pub(crate) fn serve(&mut self) -> io::Result<()> {
        if let (Some(listener), Some(terminal)) = (&mut self.listener, &self.source) {
            listener.serve(terminal);
        }
        self.drain()
    }

    /// Takes what is in the pipe, at most as much as a pipe holds: a container that writes without end cannot keep us here.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        for _ in 0..16 {
            let Some(source) = &mut self.source else {
                return Ok(());
            };
            match source.read(&mut buffer) {
                Ok(0) => self.source = None,
                Ok(length) => self.pass(buffer.get(..length).unwrap_or_default())?,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn pass(&mut self, output: &[u8]) -> io::Result<()> {
        if self.journal {
            io::stdout().write_all(output)?;
            io::stdout().flush()?;
        }
        if let Some(listener) = &mut self.listener {
            listener.output(output);
        }
        self.kept.write(output)
    }

    /// Keeps a remark of ours; the journal has it in our own words.
    pub(crate) fn remark(&mut self, text: &str) {
        // A full /run is no reason to end.
        self.kept.write(format!("[ctm] {text}\n").as_bytes()).ok();
    }
}

fn nonblocking(fd: OwnedFd) -> io::Result<File> {
    fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
    Ok(fd.into())
}
