//! What a running container has that no file of its cgroup counts: open files, terminals, sockets.
//!
//! What is read is the kernel's, by way of held descriptors: of each process its folder in /proc, which is nobody else's once it is
//! open, and of the terminals the devpts that the supervisor has held since before the container ran. No path inside is walked: a
//! container could have mounted anything there, also what never answers.

use super::cgroup::Cgroup;
use super::counters::Bound;
use super::live_mount::{FileSystem, Inside, LiveMountError};
use super::state::State;
use crate::process::ProcessId;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, fstatfs, openat, statat};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

/// Files are counted one by one up to so many where the kernel does not tell their number (before Linux 6.2).
const MOST_FILES: u64 = 1 << 20;
/// Of a list of the kernel's so many bytes are read.
const MOST_TEXT: u64 = 16 << 20;

/// What was counted; what could not be is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    /// Open files of all its processes; one that two processes share counts twice.
    pub(crate) open_files: Option<u64>,
    /// Open terminals, and how many there can be.
    pub(crate) terminals: Option<(u64, Bound)>,
    /// Of its network namespace.
    pub(crate) sockets: Option<Sockets>,
}

/// Sockets of a network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sockets {
    /// Of TCP, that are bound or connected.
    pub(crate) tcp: u64,
    /// All others.
    pub(crate) other: u64,
    /// Bytes that wait to be sent or acknowledged, on all those of TCP.
    pub(crate) to_send: u64,
    /// Bytes that wait to be read.
    pub(crate) to_read: u64,
}

/// The container's terminals, for a [`State`] to tell of: to be opened before any program of the container's runs, and held while it does.
pub(crate) fn terminals(init: ProcessId) -> Result<OwnedFd, LiveMountError> {
    Inside::open(init)?.folder(Path::new("/dev/pts"), FileSystem::Devpts)
}

impl Tally {
    /// Of the container in this cgroup, with this run.
    pub(crate) fn of(cgroup: &Cgroup, state: &State) -> Self {
        let init = state.init.and_then(|init| Process::open(init.pid, cgroup));
        Self {
            open_files: Some(open_files(cgroup)),
            terminals: init
                .as_ref()
                .and_then(|init| Some(open_terminals(init, state.supervisor, state.terminals?))?.ok()),
            sockets: init.as_ref().and_then(Process::sockets),
        }
    }
}

/// A process of the container's, held: a number that is another process' by then is noticed.
struct Process(OwnedFd);

impl Process {
    fn open(pid: i32, cgroup: &Cgroup) -> Option<Self> {
        let process = Self(folder(&format!("/proc/{pid}")).ok()?);
        let own = Cgroup::parse(&process.text("cgroup").ok()?)?;
        own.path().starts_with(cgroup.path()).then_some(process)
    }

    fn text(&self, file: &str) -> io::Result<String> {
        let file = openat(&self.0, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut text = String::new();
        File::from(file).take(MOST_TEXT).read_to_string(&mut text)?;
        Ok(text)
    }

    /// How many files it has open; counted one by one, at most `most`, where the kernel does not tell.
    fn open_files(&self, most: u64) -> io::Result<u64> {
        let told = statat(&self.0, "fd", AtFlags::empty())?.st_size;
        if let Ok(told @ 1..) = u64::try_from(told) {
            return Ok(told);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        numbers_in(&openat(&self.0, "fd", flags, Mode::empty())?, most)
    }

    fn sockets(&self) -> Option<Sockets> {
        let text = |file: &str| self.text(file).unwrap_or_default();
        let (tcp, other) = in_use(&text("net/sockstat"), &text("net/sockstat6"))?;
        // To find none the kernel looks through all of the host's.
        let lists = if tcp == 0 {
            &[][..]
        } else {
            &["net/tcp", "net/tcp6"]
        };
        let waiting = lists.iter().map(|list| queues(&text(list)));
        let (to_send, to_read) = waiting.fold((0, 0), |sum, (to_send, to_read)| {
            (sum.0 + to_send, sum.1 + to_read)
        });
        Some(Sockets {
            tcp,
            other,
            to_send,
            to_read,
        })
    }
}

fn folder(path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

fn open_files(cgroup: &Cgroup) -> u64 {
    let mut count = 0_u64;
    for pid in cgroup.processes() {
        let left = MOST_FILES.saturating_sub(count);
        // One that ends meanwhile has none.
        let of = Process::open(pid, cgroup).and_then(|process| process.open_files(left).ok());
        count = count.saturating_add(of.unwrap_or(0));
    }
    count
}

/// The entries of a folder that are numbers, at most `most`.
fn numbers_in(folder: &OwnedFd, most: u64) -> io::Result<u64> {
    let mut count = 0;
    for entry in Dir::read_from(folder)? {
        let is_number = entry?.file_name().to_bytes().iter().all(u8::is_ascii_digit);
        count += u64::from(is_number);
        if count >= most {
            break;
        }
    }
    Ok(count)
}

/// The terminals that are open, by the descriptor that the supervisor has.
fn open_terminals(init: &Process, supervisor: ProcessId, number: RawFd) -> io::Result<(u64, Bound)> {
    let gone = || io::Error::other("the supervisor has ended");
    let held = supervisor.open().ok_or_else(gone)?;
    let process = folder(&format!("/proc/{}", supervisor.pid))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let devpts = openat(&process, format!("fd/{number}"), flags, Mode::empty())?;
    let is_devpts = FileSystem::Devpts.is_of(&fstatfs(&devpts)?);
    if !is_devpts || crate::process::ended(&held, std::time::Instant::now())? {
        return Err(gone());
    }
    let own = format!("/proc/self/fdinfo/{}", devpts.as_fd().as_raw_fd());
    let most = mount_id(&std::fs::read_to_string(own)?).map_or(Bound::Absent, |id| {
        most_terminals(&init.text("mountinfo").unwrap_or_default(), id)
    });
    Ok((numbers_in(&devpts, u64::MAX)?, most))
}

/// Of the text of `/proc/PID/fdinfo/N`.
fn mount_id(fdinfo: &str) -> Option<u64> {
    fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
}

/// The option `max` of a mounted devpts, by the text of `/proc/PID/mountinfo`: it is not shown where there is no limit
/// (`devpts_show_options`). A container that has unmounted it has no such line.
fn most_terminals(mountinfo: &str, id: u64) -> Bound {
    let line = mountinfo
        .lines()
        .find(|line| line.split(' ').next().and_then(|first| first.parse().ok()) == Some(id));
    let Some(options) = line.and_then(|line| line.rsplit(' ').next()) else {
        return Bound::Absent;
    };
    let most = options.split(',').find_map(|option| option.strip_prefix("max="));
    most.map_or(Bound::Unlimited, |most| {
        most.parse().map_or(Bound::Absent, Bound::At)
    })
}

/// Sockets of TCP and others, of the texts of `/proc/PID/net/sockstat` and `sockstat6`. A kernel without IPv6 has no second.
fn in_use(sockstat: &str, sockstat6: &str) -> Option<(u64, u64)> {
    let number = |text: &str, line: &str, word: &str| -> Option<u64> {
        let mut words = text
            .lines()
            .find_map(|found| found.strip_prefix(line))?
            .split_ascii_whitespace();
        words.find(|found| *found == word)?;
        words.next()?.parse().ok()
    };
    let all = number(sockstat, "sockets:", "used")?;
    let tcp = number(sockstat, "TCP:", "inuse")? + number(sockstat6, "TCP6:", "inuse").unwrap_or(0);
    Some((tcp, all.saturating_sub(tcp)))
}

/// Bytes to be sent or acknowledged and to be read, of the text of `/proc/PID/net/tcp` (`proc_pid_net(5)`). For those that listen
/// the same columns count connections.
fn queues(text: &str) -> (u64, u64) {
    const LISTENS: &str = "0A";
    let of = |line: &str| -> Option<(u64, u64)> {
        let mut words = line.split_ascii_whitespace().skip(3);
        let state = words.next()?;
        let (to_send, to_read) = words.next()?.split_once(':')?;
        let number = |hex| u64::from_str_radix(hex, 16).ok();
        (state != LISTENS).then_some((number(to_send)?, number(to_read)?))
    };
    let all = text.lines().skip(1).filter_map(of);
    all.fold((0, 0), |sum, (to_send, to_read)| {
        (sum.0 + to_send, sum.1 + to_read)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn lists_of_the_kernel() {
        let sockstat = "sockets: used 9\nTCP: inuse 3 orphan 0 tw 1 alloc 7 mem 2\nUDP: inuse 1 mem 0\n";
        assert_eq!(in_use(sockstat, "TCP6: inuse 2\nUDP6: inuse 0\n"), Some((5, 4)));
        assert_eq!(in_use(sockstat, ""), Some((3, 6)));
        assert_eq!(in_use("", ""), None);

        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n   \
                   0: 0100007F:1F90 00000000:0000 0A 00000000:00000005 00:00000000\n   \
                   1: 0100007F:1F90 0100007F:C350 01 00000010:00000100 00:00000000\n   \
                   2: 0100007F:C350 0100007F:1F90 01 00000001:00000000 00:00000000\n";
        assert_eq!(queues(tcp), (17, 256));
        assert_eq!(queues(""), (0, 0));

        let mounts = "28 1 0:25 / / rw - ext4 /dev/vda rw\n\
                      90 28 0:40 / /dev/pts rw,nosuid - devpts devpts rw,gid=5,mode=620,ptmxmode=666,max=9\n\
                      91 28 0:41 / /dev/pts rw - devpts devpts rw,mode=600\n";
        assert_eq!(most_terminals(mounts, 90), Bound::At(9));
        assert_eq!(most_terminals(mounts, 91), Bound::Unlimited);
        assert_eq!(most_terminals(mounts, 92), Bound::Absent);
        assert_eq!(
            mount_id("pos:\t0\nflags:\t0200000\nmnt_id:\t90\nino:\t1\n"),
            Some(90)
        );
    }

    #[test]
    fn of_a_process_that_is_known() {
        // Another test's thread may open and close files meanwhile: of a child nobody does.
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        input.write_all(b"x").unwrap();
        // It answers: the loader's files are closed.
        output.read_exact(&mut [0]).unwrap();
        let path = format!("/proc/{}", child.id());
        let process = Process(folder(&path).unwrap());
        // Whoever runs the tests may have left it more than its three.
        let all = std::fs::read_dir(format!("{path}/fd")).unwrap().count() as u64;
        assert!(all >= 3 && process.open_files(MOST_FILES).unwrap() == all);
        let fds = openat(
            &process.0,
            "fd",
            OFlags::RDONLY | OFlags::DIRECTORY,
            Mode::empty(),
        )
        .unwrap();
        assert_eq!(numbers_in(&fds, 999).unwrap(), all);
        assert_eq!(numbers_in(&fds, 2).unwrap(), 2);
        drop(input);
        child.wait().unwrap();
        assert!(process.open_files(9).is_err() && process.text("cgroup").is_err());
        assert!(Process::open(1, &Cgroup::at(Path::new("/none/such"))).is_none());
    }

    #[test]
    fn what_waits_on_sockets() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (receiver, _) = listener.accept().unwrap();
        sender.write_all(&[1; 1000]).unwrap();
        // It has arrived.
        receiver.peek(&mut [0; 1000]).unwrap();
        let sockets = Process(folder("/proc/self").unwrap()).sockets().unwrap();
        assert!(sockets.tcp >= 3 && sockets.to_read >= 1000, "{sockets:?}");
    }
}
