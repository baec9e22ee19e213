//! Device events with the moment at which they were sent, as the kernel saw it.
//!
//! What is measured begins at that moment, and finding it out must not disturb: no process of the benchmark waits on these
//! sockets, they are read when a replug is over.

use super::sys::Stamps;
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt,
};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Whose events: multicast groups of `NETLINK_KOBJECT_UEVENT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    /// The kernel's, before udev.
    Kernel = 1,
    /// udev's, after its rules.
    Udev = 2,
}

/// A socket of such events that is not bound yet.
pub(super) fn open(flags: SockFlag) -> nix::Result<OwnedFd> {
    let protocol = SockProtocol::NetlinkKObjectUEvent;
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        flags | SockFlag::SOCK_CLOEXEC,
        protocol,
    )?;
    setsockopt(&fd, sockopt::RcvBufForce, &(16 << 20))?;
    Ok(fd)
}

/// Begins to listen.
pub(super) fn listen(fd: &OwnedFd, group: Group) -> nix::Result<()> {
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, group as u32))
}

/// What of an event matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Event<'a> {
    /// `add`, `remove`, `change`.
    pub(super) action: &'a str,
    /// The kernel's name of the device.
    pub(super) name: &'a str,
    /// Its number, as the event has it.
    pub(super) major: u32,
    /// The same.
    pub(super) minor: u32,
}

impl<'a> Event<'a> {
    /// Reads a message of either group; `None` where it has no node.
    pub(super) fn parse(message: &'a [u8]) -> Option<Self> {
        let properties = match message.strip_prefix(b"libudev\0") {
            // `struct monitor_netlink_header`: magic, header's size, offset of the properties.
            Some(header) => {
                let offset = header.get(8..12)?.try_into().ok()?;
                message.get(usize::try_from(u32::from_ne_bytes(offset)).ok()?..)?
            }
            None => message,
        };
        let (mut action, mut name, mut major, mut minor) = (None, None, None, None);
        for line in properties.split(|byte| *byte == 0) {
            let Ok(line) = std::str::from_utf8(line) else {
                continue;
            };
            match line.split_once('=') {
                Some(("ACTION", value)) => action = Some(value),
                Some(("DEVPATH", value)) => name = value.rsplit('/').next(),
                Some(("MAJOR", value)) => major = value.parse().ok(),
                Some(("MINOR", value)) => minor = value.parse().ok(),
                Some(_) | None => {}
            }
        }
        Some(Self {
            action: action?,
            name: name?,
            major: major?,
            minor: minor?,
        })
    }
}

/// A listener that is read afterwards.
#[derive(Debug)]
pub(super) struct Stamped {
    socket: OwnedFd,
    stamps: Stamps,
    read: u32,
    buffer: Vec<u8>,
}

impl Stamped {
    /// Listens from now on.
    pub(super) fn listen(group: Group) -> Result<Self> {
        let socket = open(SockFlag::SOCK_NONBLOCK).context("open a netlink socket (root is needed)")?;
        let stamps =
            Stamps::attach(socket.as_fd()).context("note when events arrive, by a BPF socket filter")?;
        listen(&socket, group).context("listen to device events")?;
        Ok(Self {
            socket,
            stamps,
            read: 0,
            buffer: vec![0; 64 << 10],
        })
    }

    /// When this event was sent, in nanoseconds of `CLOCK_MONOTONIC`. Waits for it if it was not yet.
    pub(super) fn time_of(&mut self, action: &str, name: &str, limit: Duration) -> Result<u64> {
        let end = Instant::now() + limit;
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => {
                    let number = self.read;
                    self.read = self.read.wrapping_add(1);
                    let event = Event::parse(self.buffer.get(..length).unwrap_or_default());
                    if event.is_some_and(|event| event.action == action && event.name == name) {
                        return self.stamps.of(number).context("read when an event was sent");
                    }
                }
                Err(Errno::EAGAIN) => {
                    let left = end.saturating_duration_since(Instant::now());
                    anyhow::ensure!(!left.is_zero(), "no event `{action}` of {name} came");
                    let mut polled = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
                    let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
                    match poll(&mut polled, left) {
                        Ok(_) | Err(Errno::EINTR) => {}
                        Err(error) => return Err(error).context("wait for a device event"),
                    }
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("read device events"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_both_groups_are_read() {
        let properties = "ACTION=add\0DEVPATH=/devices/virtual/block/loop7\0MAJOR=7\0MINOR=9\0SEQNUM=5\0";
        let kernel = format!("add@/devices/virtual/block/loop7\0{properties}");
        let event = Event {
            action: "add",
            name: "loop7",
            major: 7,
            minor: 9,
        };
        assert_eq!(Event::parse(kernel.as_bytes()), Some(event));
        let mut udev = b"libudev\0\xfe\xed\xca\xfe".to_vec();
        for word in [40_u32, 40, 0, 0, 0, 0, 0x0101_0101] {
            udev.extend(word.to_ne_bytes());
        }
        udev.extend(properties.as_bytes());
        assert_eq!(Event::parse(&udev), Some(event));
        assert_eq!(Event::parse(b"add@/x\0ACTION=add\0DEVPATH=/x\0"), None);
        assert_eq!(Event::parse(b"libudev\0"), None);
    }
}
