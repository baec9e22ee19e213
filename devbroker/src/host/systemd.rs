//! What systemd and a service say to each other: `sd_notify(3)`, `sd_listen_fds(3)` and the watchdog.
//!
//! Without systemd (no `NOTIFY_SOCKET`, no `LISTEN_FDS`) every call does nothing.

use crate::sys::inherited;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The first descriptor that systemd hands over (`SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;

/// What the environment says, read once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `NOTIFY_SOCKET`.
    pub notify_socket: Option<OsString>,
    /// `LISTEN_PID`, `LISTEN_FDS`.
    pub listen: Option<(u32, i32)>,
    /// `WATCHDOG_USEC`, `WATCHDOG_PID` (absent: us).
    pub watchdog: Option<(u64, Option<u32>)>,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        Self::read(|name| std::env::var_os(name))
    }

    fn read(get: impl Fn(&str) -> Option<OsString>) -> Self {
        fn number<T: std::str::FromStr>(text: Option<OsString>) -> Option<T> {
            text?.to_str()?.parse().ok()
        }
        Self {
            notify_socket: get("NOTIFY_SOCKET").filter(|path| !path.is_empty()),
            listen: number(get("LISTEN_PID")).zip(number(get("LISTEN_FDS"))),
            watchdog: number(get("WATCHDOG_USEC")).map(|usec| (usec, number(get("WATCHDOG_PID")))),
        }
    }

    /// How many descriptors were handed to the process `pid`.
    fn inherited(&self, pid: u32) -> i32 {
        match self.listen {
            Some((to, count)) if to == pid && (1..=64).contains(&count) => count,
            Some(_) | None => 0,
        }
    }

    /// How often to tell the watchdog of process `pid` that all is well: half of what it waits.
    fn interval(&self, pid: u32) -> Option<Duration> {
        match self.watchdog {
            Some((usec, to)) if usec > 0 && to.is_none_or(|to| to == pid) => {
                Some(Duration::from_micros(usec / 2).max(Duration::from_millis(1)))
            }
            Some(_) | None => None,
        }
    }
}

/// The sockets that systemd made for us, in the unit's order. To be called once, at the start of `main`.
pub fn listen_fds() -> Vec<OwnedFd> {
    let count = Environment::of_process().inherited(std::process::id());
    (FIRST..FIRST + count).filter_map(inherited::take).collect()
}

/// The way to tell systemd how we are.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    interval: Option<Duration>,
}

impl Notifier {
    /// The one of the environment; without systemd one that does nothing.
    pub fn of_process() -> io::Result<Self> {
        Self::new(&Environment::of_process(), std::process::id())
    }

    fn new(environment: &Environment, pid: u32) -> io::Result<Self> {
        let socket = match &environment.notify_socket {
            Some(path) => {
                let socket = UnixDatagram::unbound()?;
                // A manager that does not read must not stop us.
                socket.set_nonblocking(true)?;
                Some((socket, address(path)?))
            }
            None => None,
        };
        Ok(Self {
            socket,
            interval: environment.interval(pid),
        })
    }

    /// How often [`watchdog`](Self::watchdog) has to be called, if at all.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.interval
    }

    /// All is up.
    pub fn ready(&self, status: &str) -> io::Result<()> {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)))
    }

    /// A line for `systemctl status`.
    pub fn status(&self, status: &str) -> io::Result<()> {
        self.send(&format!("STATUS={}", one_line(status)))
    }

    /// The loop goes round.
    pub fn watchdog(&self) -> io::Result<()> {
        self.send("WATCHDOG=1")
    }

    /// The configuration is being read; [`ready`](Self::ready) follows. `monotonic` is `CLOCK_MONOTONIC` (`Type=notify-reload`).
    pub fn reloading(&self, monotonic: Duration) -> io::Result<()> {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic.as_micros()))
    }

    /// We go down.
    pub fn stopping(&self) -> io::Result<()> {
        self.send("STOPPING=1")
    }

    fn send(&self, message: &str) -> io::Result<()> {
        match &self.socket {
            Some((socket, address)) => socket.send_to_addr(message.as_bytes(), address).map(drop),
            None => Ok(()),
        }
    }
}

fn address(path: &OsStr) -> io::Result<SocketAddr> {
    match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(path),
    }
}

/// A status is one line, or it would be read as further variables.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        Environment::read(|name| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn only_what_is_meant_for_us() {
        for (pairs, inherited, interval) in [
            (&[][..], 0, None),
            (&[("LISTEN_PID", "7"), ("LISTEN_FDS", "1")], 1, None),
            (&[("LISTEN_PID", "8"), ("LISTEN_FDS", "1")], 0, None),
            (&[("LISTEN_PID", "7"), ("LISTEN_FDS", "-1")], 0, None),
            (&[("LISTEN_PID", "7"), ("LISTEN_FDS", "1000000")], 0, None),
            (&[("LISTEN_PID", "7")], 0, None),
            (&[("WATCHDOG_USEC", "30000000")], 0, Some(15)),
            (
                &[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "7")],
                0,
                Some(15),
            ),
            (&[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "8")], 0, None),
            (&[("WATCHDOG_USEC", "0")], 0, None),
        ] {
            let environment = environment(pairs);
            assert_eq!(environment.inherited(7), inherited, "{pairs:?}");
            assert_eq!(
                environment.interval(7),
                interval.map(Duration::from_secs),
                "{pairs:?}"
            );
        }
    }

    #[test]
    fn messages() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(&environment(&[("NOTIFY_SOCKET", path.to_str().unwrap())]), 7).unwrap();
        notifier.ready("up\nMAINPID=1").unwrap();
        notifier.watchdog().unwrap();
        notifier.reloading(Duration::from_micros(12)).unwrap();
        notifier.stopping().unwrap();
        let mut seen = Vec::new();
        for _ in 0..4 {
            let mut buffer = [0; 200];
            let count = manager.recv(&mut buffer).unwrap();
            seen.push(String::from_utf8(buffer[..count].to_vec()).unwrap());
        }
        assert_eq!(
            seen,
            [
                "READY=1\nSTATUS=up MAINPID=1",
                "WATCHDOG=1",
                "RELOADING=1\nMONOTONIC_USEC=12",
                "STOPPING=1"
            ]
        );
        Notifier::new(&environment(&[]), 7)
            .unwrap()
            .ready("nobody hears")
            .unwrap();
    }

    #[test]
    fn abstract_addresses() {
        let name = format!("@devbroker-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&address(OsStr::new(&name)).unwrap()).unwrap();
        let notifier = Notifier::new(&environment(&[("NOTIFY_SOCKET", &name)]), 7).unwrap();
        notifier.status("fine").unwrap();
        let mut buffer = [0; 20];
        assert_eq!(manager.recv(&mut buffer).unwrap(), 11);
    }
}
