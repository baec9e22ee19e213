//! Stands between our standard streams and those of a command in a container, for as long as the command runs.
//!
//! The command has pipes or a terminal of its container's: no file of the host's gets in, so that nothing of it can be
//! reopened inside, and its owner stays. Signals that reach us go on to the command's process group.

use crate::enter::terminal;
use crate::process::{Ending, ending_of};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, read, write};
use rustix::process::{Pid, Signal, getpgid, kill_process_group};
use rustix::termios::tcsetwinsize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

/// What is read at once.
const CHUNK: usize = 16 << 10;
/// What is still passed on after the command's end: more than a pipe or a terminal holds. What goes on writing after that is
/// something it left behind.
const REST: usize = 1 << 20;
/// End of file, as typed at a terminal.
const END_OF_FILE: u8 = 4;

/// A stream from one descriptor to another, with what was read and could not be written yet.
#[derive(Debug)]
struct Channel {
    from: Rc<OwnedFd>,
    to: Rc<OwnedFd>,
    pending: Vec<u8>,
    /// At the end of `from`: what is written first; to a pipe nothing has to be.
    farewell: &'static [u8],
    /// `from` has ended.
    ended: bool,
    /// Nothing more is to be done.
    closed: bool,
    output: bool,
}

impl Channel {
    fn new(from: &Rc<OwnedFd>, to: &Rc<OwnedFd>, output: bool) -> Self {
        Self {
            from: Rc::clone(from),
            to: Rc::clone(to),
            pending: Vec::new(),
            farewell: &[],
            ended: false,
            closed: false,
            output,
        }
    }

    fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        if self.pending.is_empty() {
            (self.from.as_fd(), PollFlags::IN)
        } else {
            (self.to.as_fd(), PollFlags::OUT)
        }
    }

    /// Reads or writes once, whichever is due. Whether anything was moved.
    fn step(&mut self) -> bool {
        let moved = if self.pending.is_empty() {
            let mut buffer = [0; CHUNK];
            match read(&*self.from, &mut buffer) {
                Ok(length) if length > 0 => {
                    self.pending
                        .extend_from_slice(buffer.get(..length).unwrap_or_default());
                    true
                }
                Err(Errno::AGAIN | Errno::INTR) => false,
                // A terminal that nobody has open any more says EIO.
                Ok(_) | Err(_) => {
                    self.ended = true;
                    self.pending.extend_from_slice(self.farewell);
                    false
                }
            }
        } else {
            match write(&*self.to, &self.pending) {
                Ok(length) => {
                    self.pending.drain(..length);
                    true
                }
                Err(Errno::AGAIN | Errno::INTR) => false,
                Err(_) => {
                    self.closed = true;
                    false
                }
            }
        };
        self.closed |= self.ended && self.pending.is_empty();
        moved
    }

    /// Passes on what is there now.
    fn drain(&mut self) {
        let mut rest = REST;
        while rest > 0 && !self.closed {
            let reading = self.pending.is_empty();
            if !self.step() && reading {
                return;
            }
            if reading {
                rest = rest.saturating_sub(self.pending.len());
            }
        }
    }
}

/// What a command has for standard streams: our ends of them.
#[derive(Debug)]
pub(crate) enum Streams {
    /// Pipes to its standard input, from its standard output and error.
    Pipes([OwnedFd; 3]),
    /// A terminal: its master, and the other end, held open so that the master stays one.
    Terminal { master: OwnedFd, held: OwnedFd },
}

/// The signals that we take, each with a stream that becomes readable at it.
#[derive(Debug)]
pub(crate) struct Signals(Vec<(i32, UnixStream)>);

impl Signals {
    /// Takes them from now on.
    pub(crate) fn take() -> io::Result<Self> {
        [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH]
            .into_iter()
            .map(|number| {
                let (read, write) = UnixStream::pair()?;
                read.set_nonblocking(true)?;
                signal_hook::low_level::pipe::register(number, write)?;
                Ok((number, read))
            })
            .collect::<io::Result<_>>()
            .map(Self)
    }

    pub(crate) fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.0
            .iter()
            .map(|(_, stream)| PollFd::new(stream, PollFlags::IN))
    }

    /// Those that came since the last call.
    pub(crate) fn came(&mut self) -> Vec<i32> {
        let mut buffer = [0; 64];
        self.0
            .iter_mut()
            .filter_map(|(number, stream)| stream.read(&mut buffer).is_ok().then_some(*number))
            .collect()
    }
}

/// A running command.
#[derive(Debug)]
pub(crate) struct Relay {
    pidfd: OwnedFd,
    /// Its process group. The number is no other's before we take note of the command's end.
    group: Pid,
    channels: Vec<Channel>,
    terminal: Option<(Rc<OwnedFd>, OwnedFd)>,
    signals: Signals,
}

impl Relay {
    /// `pid` is a child of ours, not waited for yet, which `pidfd` holds.
    pub(crate) fn new(pid: Pid, pidfd: OwnedFd, streams: Streams, signals: Signals) -> io::Result<Self> {
        let ours = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(Rc::new);
        let (input, output, errors) = (
            ours(io::stdin().as_fd())?,
            ours(io::stdout().as_fd())?,
            ours(io::stderr().as_fd())?,
        );
        let (channels, terminal) = match streams {
            Streams::Pipes(pipes) => {
                for pipe in &pipes {
                    fcntl_setfl(pipe, fcntl_getfl(pipe)? | OFlags::NONBLOCK)?;
                }
                let [to_input, from_output, from_errors] = pipes.map(Rc::new);
                let channels = vec![
                    Channel::new(&input, &to_input, false),
                    Channel::new(&from_output, &output, true),
                    Channel::new(&from_errors, &errors, true),
                ];
                (channels, None)
            }
            Streams::Terminal { master, held } => {
                fcntl_setfl(&master, fcntl_getfl(&master)? | OFlags::NONBLOCK)?;
                let master = Rc::new(master);
                let mut typed = Channel::new(&input, &master, false);
                typed.farewell = &[END_OF_FILE];
                let channels = vec![typed, Channel::new(&master, &output, true)];
                (channels, Some((master, held)))
            }
        };
        Ok(Self {
            pidfd,
            group: getpgid(Some(pid))?,
            channels,
            terminal,
            signals,
        })
    }

    /// Stays until the command has ended; answers with how.
    pub(crate) fn run(mut self) -> io::Result<Ending> {
        loop {
            // A pipe that nobody writes to any more is closed, so that the other side sees its end.
            self.channels.retain(|channel| !channel.closed);
            let mut fds = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
            fds.extend(self.channels.iter().map(|channel| {
                let (fd, flags) = channel.interest();
                PollFd::from_borrowed_fd(fd, flags)
            }));
            fds.extend(self.signals.poll_fds());
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            for number in self.signals.came() {
                if let Some(ending) = self.signalled(number) {
                    return Ok(ending);
                }
            }
            if ready.first().is_some_and(|ended| *ended) {
                // Nobody holds it open but what the command left behind.
                if let Some((_, held)) = self.terminal.take() {
                    drop(held);
                }
                for channel in self.channels.iter_mut().filter(|channel| channel.output) {
                    channel.drain();
                }
                return Ok(ending_of(&self.pidfd));
            }
            for (channel, _) in self
                .channels
                .iter_mut()
                .zip(ready.iter().skip(1))
                .filter(|(_, ready)| **ready)
            {
                channel.step();
            }
        }
    }

    /// Passes a signal on; answers with the end if it is ours too.
    fn signalled(&self, number: i32) -> Option<Ending> {
        match (&self.terminal, number) {
            (Some((master, _)), SIGWINCH) => {
                if let Some(size) = terminal::size() {
                    // The kernel tells the programs inside.
                    tcsetwinsize(&**master, size).ok();
                }
                None
            }
            (None, SIGWINCH) => None,
            // The line is cut, as when a real one is: closing the master ends the session inside.
            (Some(_), SIGHUP | SIGTERM) => {
                self.send(SIGHUP);
                Some(Ending::Signal(number))
            }
            (_, number) => {
                self.send(number);
                None
            }
        }
    }

    fn send(&self, number: i32) {
        if let Some(signal) = Signal::from_named_raw(number) {
            // That it has just ended is no fault.
            kill_process_group(self.group, signal).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn pair() -> (UnixStream, Rc<OwnedFd>) {
        let (a, b) = UnixStream::pair().unwrap();
        b.set_nonblocking(true).unwrap();
        (a, Rc::new(b.into()))
    }

    #[test]
    fn all_of_it_in_order_and_then_the_end() {
        let ((mut source, from), (mut sink, to)) = (pair(), pair());
        let mut channel = Channel::new(&from, &to, false);
        channel.farewell = b".";
        source.write_all(b"one ").unwrap();
        channel.drain();
        source.write_all(b"two").unwrap();
        drop(source);
        channel.drain();
        channel.drain();
        assert!(channel.closed);
        drop((channel, to));
        let mut text = String::new();
        sink.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one two.");
    }

    #[test]
    fn a_reader_that_has_gone_closes_the_channel() {
        let ((mut source, from), (sink, to)) = (pair(), pair());
        let mut channel = Channel::new(&from, &to, true);
        drop(sink);
        source.write_all(b"x").unwrap();
        channel.drain();
        assert!(channel.closed);
    }
}
