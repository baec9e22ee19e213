//! Looks at device nodes from inside: in the machine and, because it needs
//! nothing but the kernel, in any container. One line a result on standard
//! output; exit status 0 when the thing asked for happened.
//!
//! ```text
//! probe open PATH [--rw]                 ok char 188:0 660 0:20  |  EPERM char ...  |  ENOENT
//! probe stat PATH                        char 188:0 660 0:20     |  ENOENT
//! probe watch-open PATH --until FILE [--every-us 200] [--rw]
//!                                        FIRST_US COUNT OUTCOME, a line for each change
//! probe mknod PATH c|b MAJOR MINOR [MODE]
//! probe hold PATH [--rw]                 opens, prints "ok ...", holds it until its input ends
//! probe hold-opath PATH                  the same with O_PATH; then reopens it through /proc/self/fd
//!                                        for each line of its input and prints the outcome
//! probe wait-path [--gone] PATH [SECONDS]
//! probe inotify|fanotify MOST            makes instances or groups of it: prints `MOST made`, or how many there were and EMFILE
//! probe ping IPV4                        as an ordinary user may: prints `answered`, or EACCES
//! probe hear ADDRESS:PORT                prints `hearing`, then who sends which datagram, until it is killed
//! probe send ADDRESS:0 ADDRESS:PORT TEXT a datagram
//! probe frame DEVICE HEX COUNT           sends a frame as it is, so many times
//! probe await-usb port:3.2|gadget:0:04b8:011f NODES
//!                                        waits for the device and so many nodes; prints its folder and them
//! probe hog MIB                          asks for memory MiB by MiB; prints `MIB SWAPPED` after each, how many it has and how many bytes
//!                                        of its cgroup are swapped out, then `held`, and holds it until its input ends
//! probe unread                           sends over the loopback what nobody reads, until no more is taken; prints how many bytes are
//!                                        with the sender and with the receiver, and leaves it so until its input ends
//! probe beat COUNT FILE                  starts a process, writes 4 KiB to FILE and syncs it, COUNT times; prints the median and the
//!                                        longest time of one, in microseconds
//! probe type ROWS COLUMNS STEP... -- COMMAND...
//!                                        a person at a terminal, outside of containers: ?TEXT waits for it, !TEXT types it,
//!                                        =ROWS,COLUMNS resizes, -NUMBER signals, . closes the window; prints all it showed,
//!                                        then `ended CODE, terminal as before|changed|closed`
//! ```

use std::env;
use std::fs::OpenOptions;
use std::io::{self, BufRead, Write};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use devbroker_guest::demand;
use devbroker_guest::look::{Face, Outcome, open};
use devbroker_guest::plugged::{Place, nodes};
use devbroker_guest::raw;
use devbroker_guest::typist::Session;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use rustix::net;

const USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    // Its words are the session's own.
    if let Some(("type", words)) = arguments
        .split_first()
        .map(|(first, rest)| (first.as_str(), rest))
    {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let Some(session) = Session::parse(&words) else {
            return usage();
        };
        return match session.run().and_then(say) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failure(&error),
        };
    }
    let (flags, words): (Vec<&str>, Vec<&str>) = arguments
        .iter()
        .map(String::as_str)
        .partition(|word| matches!(*word, "--rw" | "--gone"));
    let rw = flags.contains(&"--rw");
    let result = match words.as_slice() {
        ["open", path] => try_open(Path::new(path), rw),
        ["stat", path] => stat(Path::new(path)),
        ["watch-open", path, rest @ ..] => match watch_options(rest) {
            Some((until, every)) => watch_open(Path::new(path), rw, &until, every),
            None => return usage(),
        },
        ["mknod", path, kind @ ("c" | "b"), major, minor, rest @ ..] => {
            let mode = rest
                .first()
                .map_or(Ok(0o666), |mode| u32::from_str_radix(mode, 8));
            match (major.parse(), minor.parse(), mode) {
                (Ok(major), Ok(minor), Ok(mode)) => make(Path::new(path), kind, major, minor, mode),
                _ => return usage(),
            }
        }
        ["ping", address] => match address.parse() {
            Ok(address) => ping(address),
            Err(_) => return usage(),
        },
        [kind @ ("inotify" | "fanotify"), most] => match most.parse() {
            Ok(most) => watch_files(kind, most),
            Err(_) => return usage(),
        },
        ["hear", address] => hear(address),
        ["send", from, to, text] => send(from, to, text),
        ["frame", device, hex, count] => match (unhexed(hex), count.parse()) {
            (Some(frame), Ok(count)) => send_frame(device, &frame, count),
            _ => return usage(),
        },
        ["hold", path] => hold(Path::new(path), rw),
        ["hold-opath", path] => hold_opath(Path::new(path)),
        ["wait-path", path, rest @ ..] => {
            let seconds = rest.first().map_or(Ok(100), |seconds| seconds.parse());
            match seconds {
                Ok(seconds) => wait_path(
                    Path::new(path),
                    flags.contains(&"--gone"),
                    Duration::from_secs(seconds),
                ),
                Err(_) => return usage(),
            }
        }
        ["beat", count, file] => match count.parse() {
            Ok(count) => beat(count, Path::new(file)),
            Err(_) => return usage(),
        },
        ["hog", mib] => match mib.parse() {
            Ok(mib) => demand::hog(mib, &mut io::stdout()).map(|()| true),
            Err(_) => return usage(),
        },
        ["unread"] => demand::unread(&mut io::stdout()).map(|()| true),
        ["await-usb", place, number] => match (Place::parse(place), number.parse()) {
            (Some(place), Ok(number)) => await_usb(&place, number),
            _ => return usage(),
        },
        _ => return usage(),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => failure(&error),
    }
}

fn failure(error: &io::Error) -> ExitCode {
    // Nowhere else to say it.
    writeln!(io::stderr(), "probe: {error}").ok();
    ExitCode::FAILURE
}

fn usage() -> ExitCode {
    let text = "usage: probe open|stat|watch-open|mknod|ping|hear|send|frame|hold|hold-opath|wait-path|await-usb|beat|hog|unread|type ... (see its source)";
    writeln!(io::stderr(), "{text}").ok();
    ExitCode::from(USAGE)
}

fn say(line: impl std::fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn try_open(path: &Path, rw: bool) -> io::Result<bool> {
    let (outcome, _file) = open(path, rw);
    say(outcome)?;
    Ok(matches!(outcome, Outcome::Opened(_)))
}

/// Makes instances of inotify or groups of fanotify until there are so many or no more can be had; it has as many as are printed when this is refused.
fn watch_files(kind: &str, most: usize) -> io::Result<bool> {
    // Without a capability fanotify wants FAN_REPORT_FID. The end of this process closes them.
    let call = match kind {
        "fanotify" => (libc::SYS_fanotify_init, [0x200, 0, 0, 0, 0, 0]),
        _ => (libc::SYS_inotify_init1, [0; 6]),
    };
    for made in 0..most {
        if let Err(error) = raw::call(call.0, call.1) {
            say(format!("{made} {error:?}"))?;
            return Ok(false);
        }
    }
    say(format!("{most} made"))?;
    Ok(true)
}

/// Without any privilege, by what the kernel has for it (`icmp(7)`).
fn ping(address: Ipv4Addr) -> io::Result<bool> {
    let asked = || {
        let socket = net::socket(
            net::AddressFamily::INET,
            net::SocketType::DGRAM,
            Some(net::ipproto::ICMP),
        )?;
        net::connect(&socket, &SocketAddrV4::new(address, 0))?;
        // The kernel fills in who asks and the sum.
        net::send(&socket, &[8, 0, 0, 0, 0, 0, 0, 1], net::SendFlags::empty())?;
        let mut answer = [0; 64];
        net::recv(&socket, &mut answer, net::RecvFlags::empty())
    };
    match asked() {
        Ok(_) => say("answered")?,
        Err(rustix::io::Errno::ACCESS) => say("EACCES")?,
        Err(error) => return Err(error.into()),
    }
    Ok(true)
}

fn hear(address: &str) -> io::Result<bool> {
    let socket = UdpSocket::bind(address)?;
    say("hearing")?;
    let mut text = [0; 256];
    loop {
        let (length, from) = socket.recv_from(&mut text)?;
        let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default());
        say(format!("{} {text}", from.ip()))?;
    }
}

fn send(from: &str, to: &str, text: &str) -> io::Result<bool> {
    UdpSocket::bind(from)?.send_to(text.as_bytes(), to)?;
    Ok(true)
}

fn unhexed(text: &str) -> Option<Vec<u8>> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

/// As only who has `NET_RAW` may (`packet(7)`).
fn send_frame(device: &str, frame: &[u8], count: usize) -> io::Result<bool> {
    let index = std::fs::read_to_string(format!("/sys/class/net/{device}/ifindex"))?;
    let index: u32 = index.trim().parse().map_err(io::Error::other)?;
    raw::send_frames(index, frame, count)?;
    Ok(true)
}

fn stat(path: &Path) -> io::Result<bool> {
    let face = Face::at(path);
    match face {
        Ok(face) => say(face)?,
        Err(errno) => say(format!("{errno:?}"))?,
    }
    Ok(face.is_ok())
}

fn watch_options(words: &[&str]) -> Option<(PathBuf, Duration)> {
    let mut until = None;
    let mut every = Duration::from_micros(200);
    for pair in words.chunks(2) {
        match pair {
            ["--until", file] => until = Some(PathBuf::from(file)),
            ["--every-us", number] => every = Duration::from_micros(number.parse().ok()?),
            _ => return None,
        }
    }
    Some((until?, every))
}

/// Opens again and again; prints a line whenever the outcome is another one than
/// before, once it is over: since when (microseconds from the start) and how often.
fn watch_open(path: &Path, rw: bool, until: &Path, every: Duration) -> io::Result<bool> {
    let start = Instant::now();
    let mut next = start;
    let mut seen: Option<(Outcome, Instant, u64)> = None;
    let mut over = false;
    while !over {
        over = until.exists();
        let now = Instant::now();
        let (outcome, file) = open(path, rw);
        drop(file);
        seen = match seen {
            Some((same, first, count)) if same == outcome => Some((same, first, count + 1)),
            before => {
                if before.is_none() {
                    say("watching")?;
                }
                report(start, before)?;
                Some((outcome, now, 1))
            }
        };
        next += every;
        pause(next.saturating_duration_since(Instant::now()));
        next = next.max(Instant::now());
    }
    report(start, seen)?;
    Ok(true)
}

fn report(start: Instant, seen: Option<(Outcome, Instant, u64)>) -> io::Result<()> {
    let Some((outcome, first, count)) = seen else {
        return Ok(());
    };
    say(format!(
        "{} {count} {outcome}",
        first.duration_since(start).as_micros()
    ))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the interval between two looks is the purpose, or there is no event to wait for"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn make(path: &Path, kind: &str, major: u64, minor: u64, mode: u32) -> io::Result<bool> {
    let kind = if kind == "c" {
        SFlag::S_IFCHR
    } else {
        SFlag::S_IFBLK
    };
    match mknod(path, kind, Mode::from_bits_truncate(mode), makedev(major, minor)) {
        Ok(()) => say("ok").map(|()| true),
        Err(errno) => say(format!("{errno:?}")).map(|()| false),
    }
}

fn hold(path: &Path, rw: bool) -> io::Result<bool> {
    let (outcome, file) = open(path, rw);
    say(outcome)?;
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    Ok(file.is_some())
}

fn hold_opath(path: &Path) -> io::Result<bool> {
    let held = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_PATH.bits())
        .open(path);
    let held = match held {
        Ok(held) => held,
        Err(error) => {
            say(format!(
                "{:?}",
                Errno::from_raw(error.raw_os_error().unwrap_or(0))
            ))?;
            return Ok(false);
        }
    };
    say(format!("ok {}", Face::at(path)?))?;
    let again = PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()));
    for line in io::stdin().lock().lines() {
        line?;
        let (outcome, _file) = open(&again, false);
        say(outcome)?;
    }
    Ok(true)
}

fn beat(count: u32, file: &Path) -> io::Result<bool> {
    let mut times = (0..count)
        .map(|_| {
            let begin = Instant::now();
            Command::new("/proc/self/exe")
                .args(["stat", "/"])
                .stdout(Stdio::null())
                .status()?;
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .open(file)?;
            file.write_all(&[b'x'; 4096])?;
            file.sync_data()?;
            Ok(begin.elapsed().as_micros())
        })
        .collect::<io::Result<Vec<_>>>()?;
    times.sort_unstable();
    let at = |index: usize| times.get(index).copied().unwrap_or_default();
    say(format!(
        "{} {}",
        at(times.len() / 2),
        at(times.len().saturating_sub(1))
    ))?;
    Ok(true)
}

/// Looks every 10 ms: sysfs tells nobody what appears in it.
fn await_usb(place: &Place, number: usize) -> io::Result<bool> {
    let deadline = Instant::now() + Duration::from_secs(100);
    loop {
        let device = place.find();
        let found = device
            .as_deref()
            .map(nodes)
            .and_then(Result::ok)
            .unwrap_or_default();
        if let Some(device) = device.filter(|_| found.len() >= number) {
            Command::new("udevadm")
                .args(["settle", "--timeout=100"])
                .status()?;
            say(device.display())?;
            nodes(&device)?.iter().try_for_each(say)?;
            return Ok(true);
        }
        if Instant::now() > deadline {
            say(format!(
                "{place:?} does not come up: {found:?} and not {number} nodes"
            ))?;
            return Ok(false);
        }
        pause(Duration::from_millis(10));
    }
}

/// Waits for the folders on the way as well as for the last component. A mount
/// over one of them makes no event, hence the look every 50 ms.
fn wait_path(path: &Path, gone: bool, limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    let there = || path.symlink_metadata().is_ok() != gone;
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    while !there() {
        let nearest = path
            .ancestors()
            .skip(1)
            .find(|folder| folder.is_dir())
            .unwrap_or(Path::new("/"));
        let interest = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE_SELF;
        // A folder that vanished in between is found out in the next round.
        inotify.add_watch(nearest, interest).ok();
        if there() {
            break;
        }
        if Instant::now() > deadline {
            let what = if gone { "still there" } else { "never came" };
            say(format!("{what}: {}", path.display()))?;
            return Ok(false);
        }
        let mut polled = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        nix::poll::poll(&mut polled, PollTimeout::from(50_u8))?;
        inotify.read_events().ok();
    }
    Ok(true)
}
