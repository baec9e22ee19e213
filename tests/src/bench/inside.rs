//! What runs in the benchmark's own processes: the prober in a container, and the floor.

use super::place::{Bare, MODE, OWNER};
use super::stamp::{self, Event, Group};
use anyhow::{Context, Result, ensure};
use devbroker::model::DevNum;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, SockFlag, recv};
use nix::sys::stat::{Mode, fstat};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Gid, Uid, setresgid, setresuid};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{BufRead, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;

/// `CLOCK_MONOTONIC` in nanoseconds.
pub(super) fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
    })
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("answer")
}

/// The next line that we are told; an error when there are no more, which ends this process.
fn told() -> Result<String> {
    let mut line = String::new();
    let length = std::io::stdin().lock().read_line(&mut line).context("listen")?;
    ensure!(length > 0, "the benchmark ended");
    Ok(line.trim_end().to_owned())
}

/// The first process of a container with the folder `dev` as its `/dev`: waits for a node, opens it as soon as it can.
/// It is the user that the node is for, and content only when the node has its final owner and mode. Says
/// `opened NAME SEEN OPEN` (nanoseconds) and, when the name goes, `gone NAME`.
pub(super) fn prober(dev: &Path, own_users: bool) -> Result<()> {
    // Until our cgroup and its filter are there.
    told()?;
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make mounts private")?;
    mount(Some(dev), "/dev", none, MsFlags::MS_BIND, none).context("bind /dev")?;
    if own_users {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).context("make a user namespace")?;
        say("map")?;
        told()?;
    }
    let (uid, gid) = (Uid::from_raw(OWNER), Gid::from_raw(OWNER));
    setresgid(gid, gid, gid).context("become the service's user")?;
    setresuid(uid, uid, uid).context("become the service's user")?;
    // Changing ids forgets this.
    end_with_parent()?;
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).context("inotify")?;
    let gone = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM;
    let come = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ATTRIB;
    inotify.add_watch("/dev", gone | come).context("watch /dev")?;
    say("ready")?;
    let mut opened = BTreeSet::new();
    loop {
        let events = inotify.read_events().context("read inotify")?;
        let seen = now();
        for event in events {
            let Some(name) = event.name.as_deref().and_then(OsStr::to_str) else {
                continue;
            };
            if !name.starts_with("loop") {
                continue;
            }
            if event.mask.intersects(gone) {
                if opened.remove(name) {
                    say(&format!("gone {name}"))?;
                }
            } else if !opened.contains(name) {
                // If it is not for us yet, its next change is told as well.
                let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
                let Ok(node) = open(&Path::new("/dev").join(name), flags, Mode::empty()) else {
                    continue;
                };
                let open = now();
                let found = fstat(&node).context("look at the node")?;
                // The device cannot go while it is open.
                drop(node);
                if (found.st_uid, found.st_gid, found.st_mode & 0o777) == (OWNER, OWNER, MODE) {
                    opened.insert(name.to_owned());
                    say(&format!("opened {name} {seen} {open}"))?;
                }
            }
        }
    }
}

/// The floor: waits for udev's event as the broker does and makes only the system calls that put a node into a container.
/// Each turn begins when it is told and ends with the device: `done RECEIVED PLACED` (nanoseconds).
pub(super) fn floor(devfs: &Path, filter: &Path, owner: u32) -> Result<()> {
    end_with_parent()?;
    let bare = Bare::open(devfs, filter, owner)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        told()?;
        let socket = stamp::open(SockFlag::empty()).context("open a netlink socket")?;
        stamp::listen(&socket, Group::Udev).context("listen to udev")?;
        say("on")?;
        let mut times = None;
        loop {
            let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).context("read events")?;
            let received = now();
            let Some(event) = Event::parse(buffer.get(..length).unwrap_or_default()) else {
                continue;
            };
            if !event.name.starts_with("loop") {
                continue;
            }
            let devnum = DevNum::block(event.major, event.minor);
            match (event.action, times) {
                ("add", None) => {
                    bare.place(event.name, devnum)?;
                    times = Some((received, now()));
                }
                ("remove", Some((received, placed))) => {
                    bare.remove(event.name, devnum)?;
                    say(&format!("done {received} {placed}"))?;
                    break;
                }
                _ => {}
            }
        }
    }
}

/// Replaces this process by another program, which is killed when the benchmark ends, however it ends.
pub(super) fn leashed(words: &[String]) -> Result<()> {
    end_with_parent()?;
    let (program, arguments) = words.split_first().context("which program?")?;
    let error = std::process::Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("run {program}"))
}

fn end_with_parent() -> Result<()> {
    set_pdeathsig(Signal::SIGKILL).context("end with the benchmark")
}
