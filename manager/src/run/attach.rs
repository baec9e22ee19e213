//! The console of a container and those who look at it: a socket in the run's folder, which root alone can reach.
//!
//! What the container writes goes to all who are attached; one that does not keep up misses some of it. What they type goes to
//! the container. The socket keeps messages apart: one is output, or it begins with what kind of input it is.

use crate::enter::relay::Signals;
use crate::enter::terminal::{self, Raw};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read, write};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    listen, recv, send, socket_with,
};
use rustix::stdio::stdin;
use rustix::termios::{Winsize, tcsetwinsize};
use signal_hook::consts::SIGWINCH;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Ctrl and `]`, as in telnet and virsh.
const ESCAPE: u8 = 0x1d;
/// The longest message.
const CHUNK: usize = 4096;
/// How many may look at once.
const MAX_CLIENTS: usize = 16;
/// A message that begins so is what was typed.
const TYPED: u8 = b't';
/// A message that begins so is the size of the window: rows and columns, each in two bytes, the low one first.
const SIZE: u8 = b's';

fn socket() -> rustix::io::Result<OwnedFd> {
    socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
}

/// The container's side.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    clients: Vec<OwnedFd>,
}

impl Listener {
    /// Listens at a path.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        let listening = socket()?;
        bind(&listening, &SocketAddrUnix::new(path)?)?;
        listen(&listening, 4)?;
        rustix::fs::fcntl_setfl(&listening, rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self {
            socket: listening,
            clients: Vec::new(),
        })
    }

    /// What to wait for.
    pub(crate) fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        [&self.socket]
            .into_iter()
            .chain(&self.clients)
            .map(|fd| PollFd::new(fd, PollFlags::IN))
    }

    /// Passes output on.
    pub(crate) fn output(&mut self, bytes: &[u8]) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        self.clients.retain(|client| {
            bytes
                .chunks(CHUNK)
                .all(|part| matches!(send(client, part, flags), Ok(_) | Err(Errno::AGAIN)))
        });
    }

    /// Takes in who comes, and gives the terminal what was typed. Nothing is waited for.
    pub(crate) fn serve(&mut self, terminal: impl AsFd) {
        while let Ok(client) = accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            if self.clients.len() < MAX_CLIENTS {
                self.clients.push(client);
            }
        }
        let mut buffer = [0; CHUNK];
        self.clients.retain(|client| {
            loop {
                match recv(client, &mut buffer, RecvFlags::empty()) {
                    Ok((0, _)) => return false,
                    Ok((length, _)) => apply(buffer.get(..length).unwrap_or_default(), &terminal),
                    Err(Errno::AGAIN) => return true,
                    Err(_) => return false,
                }
            }
        });
    }
}

fn apply(message: &[u8], terminal: &impl AsFd) {
    match message {
        [TYPED, typed @ ..] => {
            // A container that does not read what is typed loses it, as one with a real console does.
            write(terminal, typed).ok();
        }
        [SIZE, sizes @ ..] => {
            if let Ok([a, b, c, d]) = <[u8; 4]>::try_from(sizes) {
                let size = Winsize {
                    ws_row: u16::from_le_bytes([a, b]),
                    ws_col: u16::from_le_bytes([c, d]),
                    ws_xpixel: 0,
                    ws_ypixel: 0,
                };
                // The kernel tells the programs inside.
                tcsetwinsize(terminal, size).ok();
            }
        }
        _ => {}
    }
}

/// Why somebody looks no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// They typed the escape, or what they type ended.
    Detached,
    /// The container ended.
    Ended,
    /// A signal came.
    Signal(i32),
}

/// Shows the console of the container that listens at `path`, until one side leaves. `begin` is called once that is so.
pub(crate) fn attach(path: &Path, begin: impl FnOnce() -> io::Result<()>) -> io::Result<Left> {
    let server = socket()?;
    connect(&server, &SocketAddrUnix::new(path)?)?;
    let mut signals = Signals::take()?;
    begin()?;
    let _raw = Raw::set()?;
    send_size(&server)?;
    let mut buffer = [0; CHUNK];
    loop {
        let mut fds = vec![
            PollFd::new(&server, PollFlags::IN),
            PollFd::from_borrowed_fd(stdin(), PollFlags::IN),
        ];
        fds.extend(signals.poll_fds());
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        let (shown, typed) = (ready(0), ready(1));
        for number in signals.came() {
            if number != SIGWINCH {
                return Ok(Left::Signal(number));
            }
            send_size(&server)?;
        }
        if shown {
            match recv(&server, &mut buffer, RecvFlags::empty()) {
                Ok((0, _)) | Err(Errno::CONNRESET) => return Ok(Left::Ended),
                Ok((length, _)) => {
                    let mut out = io::stdout().lock();
                    out.write_all(buffer.get(..length).unwrap_or_default())?;
                    out.flush()?;
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if typed {
            let mut message = [TYPED; CHUNK];
            let length = match message.get_mut(1..).map(|space| read(stdin(), space)) {
                Some(Ok(length)) if length > 0 => length,
                Some(Err(Errno::INTR)) => continue,
                Some(Ok(_) | Err(_)) | None => return Ok(Left::Detached),
            };
            let message = message.get(..=length).unwrap_or_default();
            let escape = message.iter().position(|byte| *byte == ESCAPE);
            let message = escape.map_or(message, |at| message.get(..at).unwrap_or_default());
            match send(&server, message, SendFlags::NOSIGNAL) {
                Err(Errno::PIPE | Errno::CONNRESET) => return Ok(Left::Ended),
                Err(e) => return Err(e.into()),
                Ok(_) if escape.is_some() => return Ok(Left::Detached),
                Ok(_) => {}
            }
        }
    }
}

fn send_size(server: &OwnedFd) -> io::Result<()> {
    if let Some(size) = terminal::size() {
        let ([a, b], [c, d]) = (size.ws_row.to_le_bytes(), size.ws_col.to_le_bytes());
        send(server, &[SIZE, a, b, c, d], SendFlags::NOSIGNAL)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    #[test]
    fn both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("attach");
        let mut listener = Listener::bind(&path).unwrap();
        let (input, terminal) = rustix::pipe::pipe().unwrap();
        let mut input = File::from(input);
        let clients: Vec<_> = (0..2)
            .map(|_| {
                let client = socket().unwrap();
                connect(&client, &SocketAddrUnix::new(&path).unwrap()).unwrap();
                send(&client, b"tab", SendFlags::empty()).unwrap();
                client
            })
            .collect();
        listener.serve(&terminal);
        let mut typed = [0; 4];
        input.read_exact(&mut typed).unwrap();
        assert_eq!(&typed, b"abab");
        // What is no message does nothing.
        for odd in [&b"x"[..], b"s123", b"s"] {
            send(clients.first().unwrap(), odd, SendFlags::empty()).unwrap();
        }
        listener.serve(&terminal);
        listener.output(b"shown");
        let mut buffer = [0; 16];
        for client in &clients {
            let (length, _) = recv(client, &mut buffer, RecvFlags::empty()).unwrap();
            assert_eq!(&buffer[..length], b"shown");
        }
        drop(clients);
        listener.serve(&terminal);
        assert_eq!(listener.clients.len(), 0);
    }
}
