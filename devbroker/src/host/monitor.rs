//! The host's event streams: udev's, for what comes and changes, and the kernel's, for what goes.
//!
//! Owns the two sockets. Both are non-blocking and give their descriptor for polling; `next_event` returns `None` only when
//! nothing is left to read, so that an edge-triggered poller loses no event. Open them *before* a scan, or what comes in
//! between is lost. Read the kernel's first: a removal seen there makes older events of udev void (see [`Order`]).

use super::event::{self, HostEvent, MAX_MESSAGE, MessageError, Source};
use crate::model::SysPath;
use crate::sys::socket::attach_filter;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt, socket, sockopt,
};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The receive buffer where the configuration names none. As much as udevd itself has: it is a limit, not an allocation.
pub const RECEIVE_BUFFER: usize = 128 * 1024 * 1024;

/// The kernel's own multicast group (`enum` in systemd's `device-monitor.c`; udev's is 2).
const GROUP_KERNEL: u32 = 1;

/// A monitor that cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// Opening it failed.
    #[error(
        "cannot listen to the {group} device events ({step}): {source}; the daemon needs root and AF_NETLINK"
    )]
    Open {
        /// `udev` or `kernel`.
        group: &'static str,
        /// What was tried.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Reading it failed.
    #[error("cannot read the {group} device events: {source}")]
    Read {
        /// `udev` or `kernel`.
        group: &'static str,
        /// Why.
        source: io::Error,
    },
    /// One message was not understood and is gone; the next can be read.
    #[error(transparent)]
    Message(#[from] MessageError),
}

/// udev's events. At an add or change the rules have run and the record is written.
pub struct UdevMonitor {
    socket: udev::MonitorSocket,
    /// What was told last: given back with the next look, when nobody waits for what this told.
    last: Option<udev::Event>,
}

impl fmt::Debug for UdevMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdevMonitor").finish_non_exhaustive()
    }
}

impl UdevMonitor {
    /// Listens from now on, with a receive buffer of that many bytes.
    pub fn open(receive_buffer: usize) -> Result<Self, MonitorError> {
        let failed = |step| {
            move |source| MonitorError::Open {
                group: "udev",
                step,
                source,
            }
        };
        let builder = udev::MonitorBuilder::new().map_err(failed("udev_monitor_new"))?;
        let socket = builder.listen().map_err(failed("bind"))?;
        set_receive_buffer(&socket, receive_buffer).map_err(failed("receive buffer"))?;
        Ok(Self { socket, last: None })
    }

    /// The next event, `None` when there is none left.
    pub fn next_event(&mut self) -> Result<Option<HostEvent>, MonitorError> {
        self.last = None;
        loop {
            let Some(event) = self.socket.iter().next() else {
                // libudev says only here, and only until the next call, why it returned nothing.
                let error = Errno::last();
                if error == Errno::ENOBUFS {
                    return Ok(Some(HostEvent::Lost));
                }
                if !matches!(error, Errno::EAGAIN | Errno::EINTR) {
                    return Err(read_failed("udev")(error));
                }
                // It says so as well for a message that it refused (a forged sender, a bad form) with more behind it.
                if readable(self.as_fd()).map_err(read_failed("udev"))? {
                    continue;
                }
                return Ok(None);
            };
            // Most events are of devices without a node; they are not worth the copy.
            if event.devnum().is_none() {
                continue;
            }
            let properties = event
                .properties()
                .filter_map(|entry| Some((entry.name().to_str()?.into(), entry.value().to_str()?.into())))
                .collect();
            self.last = Some(event);
            if let Some(event) = event::from_properties(properties, Source::Udev)? {
                return Ok(Some(event));
            }
        }
    }
}

impl AsFd for UdevMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for UdevMonitor {
    fn as_raw_fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }
}

/// The kernel's removals, ahead of udev's: numbers are free for the next device as soon as they are sent.
#[derive(Debug)]
pub struct KernelMonitor {
    socket: OwnedFd,
    buffer: Box<[u8]>,
}

impl KernelMonitor {
    /// Listens from now on, with a receive buffer of that many bytes.
    pub fn open(receive_buffer: usize) -> Result<Self, MonitorError> {
        let failed = |step| {
            move |source: Errno| MonitorError::Open {
                group: "kernel",
                step,
                source: source.into(),
            }
        };
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkKObjectUEvent,
        )
        .map_err(failed("socket"))?;
        // All but removals stay out of the queue, and do not wake the daemon.
        attach_filter(socket.as_fd(), &removals_only()).map_err(|source| MonitorError::Open {
            group: "kernel",
            step: "filter",
            source,
        })?;
        set_receive_buffer(&socket, receive_buffer).map_err(|source| MonitorError::Open {
            group: "kernel",
            step: "receive buffer",
            source,
        })?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUP_KERNEL)).map_err(failed("bind"))?;
        Ok(Self {
            socket,
            buffer: vec![0; MAX_MESSAGE].into_boxed_slice(),
        })
    }

    /// The next removal of a device with a node, `None` when there is none left.
    pub fn next_event(&mut self) -> Result<Option<HostEvent>, MonitorError> {
        loop {
            let received = recvfrom::<NetlinkAddr>(self.socket.as_raw_fd(), &mut self.buffer);
            let (len, sender) = match received {
                Ok(received) => received,
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => continue,
                Err(Errno::ENOBUFS) => return Ok(Some(HostEvent::Lost)),
                Err(error) => return Err(read_failed("kernel")(error)),
            };
            // Only the kernel has port 0: anything else was sent by a process.
            if sender.is_none_or(|sender| sender.pid() != 0) {
                continue;
            }
            let message = self.buffer.get(..len).unwrap_or_default();
            if len == MAX_MESSAGE {
                return Ok(Some(HostEvent::Lost));
            }
            let properties = event::kernel_message(message)?;
            match event::from_properties(properties, Source::Kernel)? {
                Some(HostEvent::Removed(removed)) => return Ok(Some(HostEvent::Removed(removed))),
                Some(HostEvent::Changed(_) | HostEvent::Lost) | None => {}
            }
        }
    }
}

impl AsFd for KernelMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for KernelMonitor {
    fn as_raw_fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }
}

/// Keeps messages that begin with `remove@`: compares the words at offsets 0 (`remo`) and 3 (`ove@`).
fn removals_only() -> [libc::sock_filter; 6] {
    // `linux/bpf_common.h`: LD|W|ABS, JMP|JEQ|K, RET|K.
    const LOAD_WORD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    [
        op(LOAD_WORD, 0, 0, 0),
        op(JUMP_EQUAL, 0, 3, u32::from_be_bytes(*b"remo")),
        op(LOAD_WORD, 0, 0, 3),
        op(JUMP_EQUAL, 0, 1, u32::from_be_bytes(*b"ove@")),
        op(RETURN, 0, 0, u32::MAX),
        op(RETURN, 0, 0, 0),
    ]
}

/// Beyond the system's limit where allowed, else up to it.
fn set_receive_buffer(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
    match setsockopt(socket, sockopt::RcvBufForce, &bytes) {
        Err(Errno::EPERM) => Ok(setsockopt(socket, sockopt::RcvBuf, &bytes)?),
        other => Ok(other?),
    }
}

fn readable(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    Ok(poll(&mut fds, PollTimeout::ZERO)? > 0)
}

fn read_failed(group: &'static str) -> impl Fn(Errno) -> MonitorError {
    move |error| MonitorError::Read {
        group,
        source: error.into(),
    }
}

/// Tells events that are still true from those that a removal has overtaken.
///
/// The kernel numbers all events of the machine. What udev says of a device with a number below that of a removal of the
/// same device speaks of one that is gone; the next at the same place has a higher number.
#[derive(Debug, Default)]
pub struct Order {
    /// The number of the last removal, by device.
    removed: HashMap<SysPath, u64>,
}

impl Order {
    /// How many removals are kept in mind; udev's queue is never that long without [`HostEvent::Lost`].
    const MAX: usize = 65_536;

    /// Whether the event is to be acted on; remembers removals.
    pub fn admit(&mut self, event: &HostEvent) -> bool {
        match event {
            HostEvent::Changed(changed) => self
                .removed
                .get(&changed.syspath)
                .is_none_or(|removal| changed.seqnum > *removal),
            HostEvent::Removed(removed) => {
                let last = self.removed.get(&removed.syspath).copied();
                if last.is_some_and(|last| removed.seqnum <= last) {
                    return false;
                }
                if self.removed.len() >= Self::MAX {
                    self.forget_oldest();
                }
                self.removed.insert(removed.syspath.clone(), removed.seqnum);
                true
            }
            HostEvent::Lost => true,
        }
    }

    /// Drops the older half.
    fn forget_oldest(&mut self) {
        let mut all: Vec<u64> = self.removed.values().copied().collect();
        all.sort_unstable();
        let middle = all.get(all.len() / 2).copied().unwrap_or_default();
        self.removed.retain(|_, seqnum| *seqnum >= middle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::event::{Action, Changed, Removed};
    use crate::model::DevNum;

    fn changed(path: &str, seqnum: u64) -> HostEvent {
        HostEvent::Changed(Changed {
            syspath: path.parse().unwrap(),
            seqnum,
            action: Action::Add,
            devnum: DevNum::char(1, 1),
            properties: event::Properties::new(),
            from: Source::Udev,
        })
    }

    fn removed(path: &str, seqnum: u64, from: Source) -> HostEvent {
        HostEvent::Removed(Removed {
            syspath: path.parse().unwrap(),
            seqnum,
            devnum: DevNum::char(1, 1),
            from,
        })
    }

    #[test]
    fn what_a_removal_has_overtaken_is_void() {
        let mut order = Order::default();
        for (event, acted_on) in [
            (changed("/devices/a", 10), true),
            (removed("/devices/a", 12, Source::Kernel), true),
            // udev works its queue off: the old device's change, its removal, and at last the new device.
            (changed("/devices/a", 11), false),
            (removed("/devices/a", 12, Source::Udev), false),
            (changed("/devices/b", 11), true),
            (changed("/devices/a", 13), true),
            (HostEvent::Lost, true),
            (removed("/devices/a", 14, Source::Udev), true),
            (removed("/devices/a", 14, Source::Kernel), false),
        ] {
            assert_eq!(order.admit(&event), acted_on, "{event:?}");
        }
    }

    #[test]
    fn memory_is_bounded_and_the_newest_stay() {
        let mut order = Order::default();
        let count = Order::MAX as u64 * 2;
        for seqnum in 1..=count {
            assert!(order.admit(&removed(&format!("/devices/{seqnum}"), seqnum, Source::Kernel)));
        }
        assert!(order.removed.len() <= Order::MAX);
        assert!(!order.admit(&changed(&format!("/devices/{count}"), count - 1)));
    }
}
