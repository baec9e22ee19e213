//! The udev hook's datagram, from both ends: the program that udev runs sends one, the daemon receives it.
//!
//! Form: `devbroker-hook 1`, then `container=NAME` if one was named, then udev's properties as `KEY=value`; each ended by
//! NUL. The sender never waits: what finds no room is noted by a file beside the socket, and the daemon scans.

use super::event::{self, HostEvent, MAX_MESSAGE, MessageError, Properties, Source};
use crate::model::{ContainerRef, NameError};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials, bind,
    connect, recvmsg, sendto, setsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, fchmod};
use std::fs;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where the daemon listens.
pub const SOCKET: &str = "/run/devbroker/hook";

/// The first entry of each datagram.
const HEADER: &[u8] = b"devbroker-hook 1\0";
const CONTAINER: &[u8] = b"container=";

/// The daemon cannot listen for the hook.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// The socket could not be made.
    #[error("cannot listen for the udev hook at {} ({step}): {source}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A daemon has it.
    #[error("a daemon listens for the udev hook at {} already; stop it first (`systemctl stop devbroker.socket devbroker.service`)", .0.display())]
    Taken(PathBuf),
    /// The socket could not be read.
    #[error("cannot read the udev hook's messages: {0}")]
    Receive(io::Error),
    /// One message was not understood and is gone; the next can be read.
    #[error("udev hook: {0}")]
    Message(#[from] MessageError),
}

/// What one run of the hook says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookMessage {
    /// The event, as udev's properties tell it.
    pub event: HostEvent,
    /// The container that the rule names: look at that one alone. It grants nothing.
    pub container: Option<Result<ContainerRef, NameError>>,
}

/// Reads a datagram; `None` if the device has no node.
pub fn parse(datagram: &[u8]) -> Result<Option<HookMessage>, MessageError> {
    let rest = datagram.strip_prefix(HEADER).ok_or(MessageError::Form)?;
    let (container, block) = match rest.strip_prefix(CONTAINER) {
        Some(rest) => {
            let end = rest
                .iter()
                .position(|byte| *byte == 0)
                .ok_or(MessageError::Form)?;
            let (name, block) = rest.split_at(end);
            let name = String::from_utf8_lossy(name).parse::<ContainerRef>();
            (Some(name), block)
        }
        None => (None, rest),
    };
    let mut properties: Properties = event::properties(block);
    // udev gives a program the device's properties and nothing else, but a shell in between adds its own.
    for key in ["PATH", "PWD", "OLDPWD", "SHLVL", "_", "LANG", "HOME"] {
        properties.remove(key);
    }
    let event = event::from_properties(properties, Source::Hook)?;
    Ok(event.map(|event| HookMessage { event, container }))
}

/// Makes a datagram; `None` if it would be longer than the daemon reads.
pub fn encode<'a>(
    container: Option<&[u8]>,
    properties: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> Option<Vec<u8>> {
    let mut datagram = Vec::with_capacity(4096);
    datagram.extend_from_slice(HEADER);
    if let Some(container) = container {
        datagram.extend_from_slice(CONTAINER);
        datagram.extend_from_slice(container);
        datagram.push(0);
    }
    for (key, value) in properties {
        datagram.extend_from_slice(key);
        datagram.push(b'=');
        datagram.extend_from_slice(value);
        datagram.push(0);
        if datagram.len() >= MAX_MESSAGE {
            return None;
        }
    }
    Some(datagram)
}

/// Sends a datagram to the daemon, if there is one, and never waits for it.
///
/// Where there is no room for it, a file beside the socket says so. The order makes it certain that the daemon learns of it:
/// the file first, then once more the datagram; if that again finds the queue full, the daemon has yet to empty it, and looks
/// for the file then.
pub fn send(socket_path: &Path, datagram: Option<&[u8]>) -> io::Result<()> {
    let address = UnixAddr::new(socket_path)?;
    let socket = socket(
        AddressFamily::Unix,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let send = |bytes: &[u8]| sendto(socket.as_raw_fd(), bytes, &address, flags);
    match datagram.map(send) {
        Some(Ok(_)) => return Ok(()),
        Some(Err(Errno::EAGAIN | Errno::EMSGSIZE | Errno::ENOBUFS)) | None => {}
        // Nobody listens: the daemon looks at everything when it starts.
        Some(Err(error)) => return Err(error.into()),
    }
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(overflow(socket_path))?;
    match send(datagram.unwrap_or(HEADER)) {
        Ok(_) | Err(Errno::EAGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The file that says that a datagram found no room.
fn overflow(socket_path: &Path) -> PathBuf {
    socket_path.with_extension("overflow")
}

/// The daemon's end.
#[derive(Debug)]
pub struct HookSocket {
    socket: OwnedFd,
    path: PathBuf,
    buffer: Box<[u8]>,
}

impl HookSocket {
    /// Listens at `path`, in place of a former daemon that is no more. Only root can send.
    pub fn listen(path: &Path) -> Result<Self, HookError> {
        let failed = |step| {
            let path = path.to_owned();
            move |source: Errno| HookError::Listen {
                path,
                step,
                source: source.into(),
            }
        };
        let socket = socket(
            AddressFamily::Unix,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )
        .map_err(failed("socket"))?;
        // Before the bind: the file is never there with another mode (`net/unix/af_unix.c`, unix_bind_bsd).
        fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed("mode"))?;
        let address = UnixAddr::new(path).map_err(failed("address"))?;
        if connect(socket.as_raw_fd(), &address).is_ok() {
            return Err(HookError::Taken(path.into()));
        }
        // Not before: to connect would give it an address of its own then.
        setsockopt(&socket, sockopt::PassCred, &true).map_err(failed("credentials"))?;
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(HookError::Listen {
                    path: path.into(),
                    step: "remove the former one",
                    source,
                });
            }
            Ok(()) | Err(_) => {}
        }
        bind(socket.as_raw_fd(), &address).map_err(failed("bind"))?;
        Ok(Self {
            socket,
            path: path.into(),
            buffer: vec![0; MAX_MESSAGE].into_boxed_slice(),
        })
    }

    /// The next message, `None` when there is none left.
    pub fn next_message(&mut self) -> Result<Option<HookMessage>, HookError> {
        let lost = HookMessage {
            event: HostEvent::Lost,
            container: None,
        };
        loop {
            let mut space = cmsg_space!(UnixCredentials);
            let mut parts = [IoSliceMut::new(&mut self.buffer)];
            let received = recvmsg::<()>(
                self.socket.as_raw_fd(),
                &mut parts,
                Some(&mut space),
                MsgFlags::MSG_CMSG_CLOEXEC,
            );
            let received = match received {
                Ok(received) => received,
                Err(Errno::EINTR) => continue,
                // Only now: see `send`.
                Err(Errno::EAGAIN) => {
                    return match fs::remove_file(overflow(&self.path)) {
                        Ok(()) => Ok(Some(lost)),
                        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                        Err(error) => Err(HookError::Receive(error)),
                    };
                }
                Err(error) => return Err(HookError::Receive(error.into())),
            };
            let by_root = received
                .cmsgs()
                .map_err(|error| HookError::Receive(error.into()))?
                .any(|message| matches!(message, ControlMessageOwned::ScmCredentials(who) if who.uid() == 0));
            let (len, cut) = (received.bytes, received.flags.contains(MsgFlags::MSG_TRUNC));
            if !by_root {
                continue;
            }
            if cut {
                return Ok(Some(lost));
            }
            let datagram = self.buffer.get(..len).unwrap_or_default();
            if datagram == HEADER {
                // It only makes this socket readable.
                continue;
            }
            if let Some(message) = parse(datagram)? {
                return Ok(Some(message));
            }
        }
    }
}

impl AsFd for HookSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for HookSocket {
    fn as_raw_fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::event::{Action, Changed};
    use crate::model::DevNum;
    use proptest::prelude::*;
    use std::os::unix::fs::MetadataExt;

    const ADD: [(&[u8], &[u8]); 8] = [
        (b"PATH", b"/usr/bin"),
        (b"ACTION", b"add"),
        (b"DEVPATH", b"/devices/x/ttyUSB0"),
        (b"SUBSYSTEM", b"tty"),
        (b"MAJOR", b"188"),
        (b"MINOR", b"0"),
        (b"DEVNAME", b"/dev/ttyUSB0"),
        (b"SEQNUM", b"42"),
    ];

    fn added() -> HostEvent {
        let properties = ADD
            .iter()
            .skip(1)
            .map(|(k, v)| {
                (
                    String::from_utf8(k.to_vec()).unwrap(),
                    String::from_utf8(v.to_vec()).unwrap(),
                )
            })
            .collect();
        HostEvent::Changed(Changed {
            syspath: "/devices/x/ttyUSB0".parse().unwrap(),
            seqnum: 42,
            action: Action::Add,
            devnum: DevNum::char(188, 0),
            properties,
            from: Source::Hook,
        })
    }

    #[test]
    fn there_and_back() {
        for (name, container) in [
            (None, None),
            (Some("scan"), Some("ctm:scan".parse())),
            (Some("pid:x"), Some("pid:x".parse())),
            (Some("../x"), Some("../x".parse::<ContainerRef>())),
        ] {
            let datagram = encode(name.map(str::as_bytes), ADD).unwrap();
            let message = parse(&datagram).unwrap().unwrap();
            assert_eq!(
                message,
                HookMessage {
                    event: added(),
                    container
                }
            );
        }
        assert_eq!(parse(&encode(None, ADD.into_iter().take(3)).unwrap()), Ok(None));
        assert_eq!(parse(b"devbroker-hook 2\0"), Err(MessageError::Form));
        let long = vec![b'x'; MAX_MESSAGE];
        assert_eq!(encode(None, [(b"A".as_slice(), long.as_slice())]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            drop(parse(&bytes));
            drop(parse(&[HEADER, CONTAINER, &bytes].concat()));
        }
    }

    #[test]
    fn a_message_arrives_and_only_root_could_send_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hook");
        assert!(
            send(&path, encode(None, ADD).as_deref()).is_err(),
            "nobody listens"
        );
        drop(HookSocket::listen(&path).unwrap());
        let mut socket = HookSocket::listen(&path).unwrap();
        // A second daemon does not take it away from the first.
        assert!(matches!(HookSocket::listen(&path), Err(HookError::Taken(_))));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(socket.next_message().unwrap(), None);
        send(&path, encode(None, ADD).as_deref()).unwrap();
        send(&path, Some(b"nonsense")).unwrap();
        send(&path, encode(None, ADD.into_iter().take(3)).as_deref()).unwrap();
        send(&path, encode(Some(b"scan"), ADD).as_deref()).unwrap();
        let is_root = nix::unistd::geteuid().is_root();
        if is_root {
            assert_eq!(socket.next_message().unwrap().unwrap().event, added());
            assert!(matches!(socket.next_message(), Err(HookError::Message(_))));
            let narrow = socket.next_message().unwrap().unwrap();
            assert_eq!(narrow.container, Some("scan".parse()));
        }
        assert_eq!(socket.next_message().unwrap(), None);
    }

    #[test]
    fn what_finds_no_room_asks_for_a_scan() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hook");
        let mut socket = HookSocket::listen(&path).unwrap();
        let datagram = encode(None, ADD).unwrap();
        let mut sent = 0;
        while !overflow(&path).exists() {
            send(&path, Some(&datagram)).unwrap();
            sent += 1;
            assert!(sent < 100_000, "the queue has no end");
        }
        let mut got = Vec::new();
        while let Some(message) = socket.next_message().unwrap() {
            got.push(message.event);
        }
        assert_eq!(got.last(), Some(&HostEvent::Lost));
        assert!(!overflow(&path).exists());
        // One that is too long does it as well.
        send(&path, None).unwrap();
        assert_eq!(socket.next_message().unwrap().unwrap().event, HostEvent::Lost);
        assert_eq!(socket.next_message().unwrap(), None);
    }
}
