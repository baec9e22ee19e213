//! A hostile root in a container: each way to reach the host that is known to have worked somewhere, by its name.
//!
//! ```text
//! attack all              WAY<tab>refused: WHY  or  WAY<tab>SUCCEEDED: WHAT, a line for each
//! attack WAY              only this one
//! attack listen NAME      on the host: listens on the abstract socket NAME until its input ends
//! attack overwrite FILE   until FILE is there: opens for writing each program that runs here and is not the container's
//! ```
//!
//! Whatever succeeds does as little harm as it can: values are written as they were read.

use std::collections::BTreeSet;
use std::env;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use devbroker_guest::disk;
use devbroker_guest::raw::{call, clone_with, clone3_with};
use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

/// What came of it: what succeeded, or why it was refused.
type Outcome = Result<String, String>;

/// A name, and what tries it.
type Way = (&'static str, fn() -> Outcome);

const WAYS: &[Way] = &[
    ("open-char-by-number", open_chars),
    ("open-block-by-number", open_blocks),
    ("mount-block-device", mount_blocks),
    ("mount-proc", || mount("proc", "proc", "/tmp/m")),
    ("mount-sysfs", || mount("sysfs", "sysfs", "/tmp/m")),
    ("mount-cgroup", || mount("cgroup", "cgroup", "/tmp/m")),
    ("mount-cgroup2", || mount("cgroup2", "cgroup2", "/tmp/m")),
    ("mount-devtmpfs", || mount("devtmpfs", "devtmpfs", "/tmp/m")),
    ("mount-debugfs", || mount("debugfs", "debugfs", "/tmp/m")),
    ("mount-tracefs", || mount("tracefs", "tracefs", "/tmp/m")),
    ("mount-securityfs", || mount("securityfs", "securityfs", "/tmp/m")),
    ("mount-bpf", || mount("bpf", "bpf", "/tmp/m")),
    ("mount-configfs", || mount("configfs", "configfs", "/tmp/m")),
    ("mount-binfmt-misc", || {
        mount("binfmt_misc", "binfmt_misc", "/tmp/m")
    }),
    ("mount-tmpfs-over-dev", || mount("tmpfs", "tmpfs", "/dev")),
    ("mount-by-new-api", new_mount_api),
    ("remount-proc-sys", || remount("/proc/sys")),
    ("remount-sys", || remount("/sys")),
    ("remount-run-udev", || remount("/run/udev")),
    ("unmount-masks", unmount),
    ("pivot-root", || {
        raw(
            libc::SYS_pivot_root,
            [c"/".as_ptr().addr(), c"/tmp".as_ptr().addr(), 0, 0, 0, 0],
        )
    }),
    ("write-proc", || write_below("/proc", 8)),
    ("write-sys", write_sys),
    ("write-run-udev", || create("/run/udev/x")),
    ("sysrq", || write_to("/proc/sysrq-trigger", b"h")),
    ("binfmt-register", || {
        write_to("/proc/sys/fs/binfmt_misc/register", b":x:E::x::/bin/sh:C")
    }),
    ("cgroup-limits", cgroup_limits),
    ("cgroup-parent", || create("/sys/fs/cgroup/../x")),
    ("cgroup-release-agent", || {
        write_to("/sys/fs/cgroup/release_agent", b"/bin/sh")
    }),
    ("cgroup-namespace", || unshare(libc::CLONE_NEWCGROUP)),
    ("mount-namespace", || unshare(libc::CLONE_NEWNS)),
    ("user-namespace-by-unshare", || unshare(libc::CLONE_NEWUSER)),
    ("user-namespace-by-clone", || {
        done(clone_with(usize::try_from(libc::CLONE_NEWUSER).unwrap_or(0)))
    }),
    ("user-namespace-by-clone3", || {
        done(clone3_with(u64::try_from(libc::CLONE_NEWUSER).unwrap_or(0)))
    }),
    ("processes-of-others", processes),
    ("proc-root-walk", || same_root("/proc/1/root/../../..")),
    ("chroot-walk", chroot_walk),
    ("descriptors-of-the-host", descriptors),
    ("module-load", || raw(libc::SYS_init_module, [0; 6])),
    ("module-load-by-file", || {
        raw(libc::SYS_finit_module, [99, 0, 0, 0, 0, 0])
    }),
    ("module-unload", || {
        raw(libc::SYS_delete_module, [c"none".as_ptr().addr(), 0, 0, 0, 0, 0])
    }),
    ("kexec", || raw(libc::SYS_kexec_load, [0; 6])),
    ("kexec-by-file", || {
        raw(libc::SYS_kexec_file_load, [99, 99, 0, 0, 0, 0])
    }),
    // Takes Ctrl-Alt-Del away from the host, which does no harm here.
    ("reboot", || {
        raw(libc::SYS_reboot, [0xfee1_dead, 672_274_793, 0, 0, 0, 0])
    }),
    ("clock-set", clock_set),
    ("clock-adjust", clock_adjust),
    ("bpf", || raw(libc::SYS_bpf, [0, 0, 0, 0, 0, 0])),
    ("perf-event", perf_event),
    ("open-by-handle", || raw(libc::SYS_open_by_handle_at, [0; 6])),
    ("userfaultfd", || raw(libc::SYS_userfaultfd, [1, 0, 0, 0, 0, 0])),
    ("io-uring", || raw(libc::SYS_io_uring_setup, [1, 0, 0, 0, 0, 0])),
    ("keyring-of-the-user", || {
        // KEYCTL_GET_KEYRING_ID of KEY_SPEC_USER_KEYRING: every root without a user namespace has the same one.
        raw(libc::SYS_keyctl, [0, usize::MAX - 3, 1, 0, 0, 0])
    }),
    ("key-add", || {
        raw(
            libc::SYS_add_key,
            [
                c"user".as_ptr().addr(),
                c"x".as_ptr().addr(),
                c"x".as_ptr().addr(),
                1,
                usize::MAX - 3,
                0,
            ],
        )
    }),
    ("kernel-log", || raw(libc::SYS_syslog, [10, 0, 0, 0, 0, 0])),
    ("kernel-memory", || read_from("/proc/kcore")),
    ("io-ports", || raw(libc::SYS_iopl, [3, 0, 0, 0, 0, 0])),
    ("accounting", || raw(libc::SYS_acct, [0; 6])),
    ("swap-off", || {
        raw(libc::SYS_swapoff, [c"/none".as_ptr().addr(), 0, 0, 0, 0, 0])
    }),
    ("vsock", || raw(libc::SYS_socket, [40, 1, 0, 0, 0, 0])),
    ("abstract-socket-of-the-host", abstract_socket),
    ("interfaces-of-the-host", interfaces),
    ("uevent-forged", forged_uevent),
    ("priority", || {
        raw(libc::SYS_setpriority, [0, 0, usize::MAX - 9, 0, 0, 0])
    }),
    ("out-of-memory-immunity", || {
        write_to("/proc/self/oom_score_adj", b"-1000")
    }),
    ("limits", raise_limit),
    ("disk-project-of-a-file", disk::project_of_a_file),
    ("disk-project-not-inherited", disk::project_not_inherited),
    ("disk-project-by-call", disk::project_by_call),
    ("disk-subvolume", disk::subvolume),
];

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["all"] => all(),
        ["listen", name] => listen(name),
        ["overwrite", until] => overwrite(Path::new(until)),
        [way] => one(way),
        _ => Err(io::Error::other(
            "usage: attack all|WAY|listen NAME|overwrite FILE",
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nowhere else to say it.
            writeln!(io::stderr(), "attack: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

fn say(line: impl std::fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Each in a process of its own, so that none changes what the next one finds.
fn all() -> io::Result<()> {
    fs::create_dir_all("/tmp/m")?;
    for (way, _) in WAYS {
        let status = Command::new("/proc/self/exe").arg(way).status()?;
        if !status.success() {
            say(format!("{way}\tended: {status}"))?;
        }
    }
    say("end")
}

fn one(wanted: &str) -> io::Result<()> {
    let (way, run) = WAYS
        .iter()
        .find(|(way, _)| *way == wanted)
        .ok_or_else(|| io::Error::other("no such way"))?;
    match run() {
        Ok(what) => say(format!("{way}\tSUCCEEDED: {what}")),
        Err(why) => say(format!("{way}\trefused: {why}")),
    }
}

fn done(result: Result<(), Errno>) -> Outcome {
    result.map(|()| "done".into()).map_err(|e| format!("{e:?}"))
}

fn refused(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

/// Only what says that it was not allowed counts; an argument at fault means that the call got through.
fn raw(number: libc::c_long, arguments: [usize; 6]) -> Outcome {
    match call(number, arguments) {
        Ok(value) => Ok(format!("returned {value}")),
        Err(e @ (Errno::EPERM | Errno::EACCES | Errno::ENOSYS | Errno::EAFNOSUPPORT)) => Err(refused(e)),
        // reboot(2) in a pid namespace knows nothing but ways to end it; an allowed one does that and no more.
        Err(Errno::EINVAL) if number == libc::SYS_reboot => Err("EINVAL".into()),
        Err(e) => Ok(format!("got as far as {e:?}")),
    }
}

fn unshare(flag: i32) -> Outcome {
    raw(
        libc::SYS_unshare,
        [usize::try_from(flag).unwrap_or(0), 0, 0, 0, 0, 0],
    )
}

/// All outcomes in one: the first success, or how many were refused.
fn each(outcomes: impl Iterator<Item = Outcome>) -> Outcome {
    let (mut got, mut refused) = (Vec::new(), 0);
    for outcome in outcomes {
        match outcome {
            Ok(what) => got.push(what),
            Err(_) => refused += 1,
        }
    }
    if got.is_empty() {
        Err(format!("{refused} times"))
    } else {
        got.truncate(20);
        Ok(got.join("; "))
    }
}

/// The numbers of all devices of a kind that the host has now, and well-known ones.
fn numbers(folder: &str, more: &[(u64, u64)]) -> BTreeSet<(u64, u64)> {
    let mut all: BTreeSet<_> = more.iter().copied().collect();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some((major, minor)) = name.split_once(':') {
            if let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) {
                all.insert((major, minor));
            }
        }
    }
    all
}

/// null, zero, full, random, urandom, tty, ptmx: every container's. 136 and above: its own terminals.
const USUAL: [(u64, u64); 7] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)];

fn open_chars() -> Outcome {
    let known = [
        (1, 1),
        (1, 2),
        (1, 4),
        (1, 11),
        (4, 0),
        (4, 64),
        (5, 1),
        (10, 130),
        (10, 200),
        (10, 223),
        (10, 229),
        (10, 232),
        (10, 237),
        (13, 64),
        (189, 0),
        (226, 0),
        (243, 0),
        (250, 0),
    ];
    let all = numbers("/sys/dev/char", &known);
    each(
        all.into_iter()
            .filter(|number| !USUAL.contains(number) && number.0 != 136)
            .map(|(major, minor)| open_number(SFlag::S_IFCHR, major, minor)),
    )
}

fn open_blocks() -> Outcome {
    let all = numbers(
        "/sys/dev/block",
        &[(7, 0), (8, 0), (8, 1), (253, 0), (254, 0), (259, 0)],
    );
    each(
        all.into_iter()
            .map(|(major, minor)| open_number(SFlag::S_IFBLK, major, minor)),
    )
}

/// EPERM alone is the filter's answer; ENXIO is that of a driver.
fn open_number(kind: SFlag, major: u64, minor: u64) -> Outcome {
    let folders = ["/tmp", "/dev", "/dev/shm", "/run"];
    each(folders.iter().map(|folder| {
        let path = format!("{folder}/node");
        fs::remove_file(&path).ok();
        let what = format!("{kind:?} {major}:{minor} in {folder}");
        match mknod(
            path.as_str(),
            kind,
            Mode::from_bits_truncate(0o600),
            makedev(major, minor),
        ) {
            Ok(()) => {}
            Err(e) => return Err(refused(e)),
        }
        let opened = File::open(&path);
        fs::remove_file(&path).ok();
        match opened {
            Ok(_) => Ok(what),
            Err(e) => match e.raw_os_error().map(Errno::from_raw) {
                Some(e @ (Errno::EPERM | Errno::EACCES)) => Err(refused(e)),
                other => Ok(format!("{what}: got as far as {other:?}")),
            },
        }
    }))
}

fn mount_blocks() -> Outcome {
    let all = numbers("/sys/dev/block", &[]);
    each(all.into_iter().map(|(major, minor)| {
        let path = "/tmp/disk";
        fs::remove_file(path).ok();
        mknod(
            path,
            SFlag::S_IFBLK,
            Mode::from_bits_truncate(0o600),
            makedev(major, minor),
        )
        .map_err(refused)?;
        mount("ext4", path, "/tmp/m")
    }))
}

fn mount(typ: &str, source: &str, at: &str) -> Outcome {
    mount_with(typ, source, at, 0)
}

fn remount(at: &str) -> Outcome {
    let flags = libc::MS_REMOUNT | libc::MS_BIND;
    mount_with("none", "none", at, usize::try_from(flags).unwrap_or(0))
}

fn mount_with(typ: &str, source: &str, at: &str, flags: usize) -> Outcome {
    let text = |text: &str| CString::new(text).map_err(refused);
    let (typ, source, at) = (text(typ)?, text(source)?, text(at)?);
    let arguments = [
        source.as_ptr().addr(),
        at.as_ptr().addr(),
        typ.as_ptr().addr(),
        flags,
        0,
        0,
    ];
    raw(libc::SYS_mount, arguments)
}

fn new_mount_api() -> Outcome {
    let tree = [usize::MAX - 99, c"/".as_ptr().addr(), 1, 0, 0, 0];
    each(
        [
            raw(libc::SYS_fsopen, [c"tmpfs".as_ptr().addr(), 0, 0, 0, 0, 0]),
            raw(libc::SYS_open_tree, tree),
            raw(
                libc::SYS_fspick,
                [usize::MAX - 99, c"/sys".as_ptr().addr(), 0, 0, 0, 0],
            ),
        ]
        .into_iter(),
    )
}

/// Whatever hides something.
fn unmount() -> Outcome {
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(refused)?;
    let points: Vec<_> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4).and_then(|at| CString::new(at).ok()))
        .collect();
    each(
        points
            .iter()
            .rev()
            .map(|at| raw(libc::SYS_umount2, [at.as_ptr().addr(), 2, 0, 0, 0, 0])),
    )
}

fn write_to(path: &str, bytes: &[u8]) -> Outcome {
    let mut file = OpenOptions::new().write(true).open(path).map_err(refused)?;
    file.write_all(bytes).map_err(refused)?;
    Ok(format!("wrote to {path}"))
}

fn create(path: &str) -> Outcome {
    File::create(path).map_err(refused)?;
    Ok(format!("made {path}"))
}

fn read_from(path: &str) -> Outcome {
    let mut buffer = [0; 16];
    let length = File::open(path)
        .and_then(|mut file| file.read(&mut buffer))
        .map_err(refused)?;
    if length == 0 {
        return Err("it is empty".into());
    }
    Ok(format!("read {path}"))
}

/// Files that are there to be written to and can be opened so, processes' own apart. Others root may open as well, to no
/// effect.
fn write_below(folder: &str, depth: usize) -> Outcome {
    let mut found = Vec::new();
    let mut seen = 0_usize;
    walk(Path::new(folder), depth, &mut |path| {
        seen += 1;
        let is_writable = fs::metadata(path).is_ok_and(|found| found.mode() & 0o222 != 0);
        if is_writable && OpenOptions::new().write(true).open(path).is_ok() {
            found.push(path.display().to_string());
        }
    });
    // What is masked is /dev/null.
    found.retain(|path| fs::metadata(path).is_ok_and(|found| found.rdev() != makedev(1, 3)));
    if found.is_empty() {
        Err(format!("{seen} files"))
    } else {
        found.truncate(20);
        Ok(found.join(" "))
    }
}

fn walk(folder: &Path, depth: usize, look: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_process = folder == Path::new("/proc") && name.bytes().all(|byte| byte.is_ascii_digit());
        let Ok(kind) = entry.file_type() else { continue };
        if is_process || kind.is_symlink() || entry.path() == Path::new("/sys/fs/cgroup") {
            continue;
        }
        if !kind.is_dir() {
            look(&entry.path());
        } else if depth > 1 {
            walk(&entry.path(), depth - 1, look);
        }
    }
}

fn write_sys() -> Outcome {
    each(
        [
            ("kernel", 2),
            ("power", 1),
            ("module", 3),
            ("bus", 4),
            ("fs", 3),
            ("firmware", 2),
            ("devices/system", 3),
        ]
        .iter()
        .map(|(folder, depth)| write_below(&format!("/sys/{folder}"), *depth)),
    )
}

/// What the host limits the container by, at the top of what it sees.
fn cgroup_limits() -> Outcome {
    each(
        [
            "memory.max",
            "memory.high",
            "pids.max",
            "cpu.max",
            "cpu.weight",
            "io.max",
            "cgroup.max.depth",
        ]
        .iter()
        .map(|name| {
            let path = format!("/sys/fs/cgroup/{name}");
            let value = fs::read_to_string(&path).map_err(refused)?;
            write_to(&path, value.lines().next().unwrap_or("max").as_bytes())
        }),
    )
}

/// Only processes of this pid namespace, and the first one has no parent here.
fn processes() -> Outcome {
    let own = fs::read_link("/proc/self/ns/pid").map_err(refused)?;
    let mut count = 0;
    for entry in fs::read_dir("/proc").map_err(refused)?.flatten() {
        if entry
            .file_name()
            .to_string_lossy()
            .bytes()
            .all(|byte| byte.is_ascii_digit())
        {
            count += 1;
            if let Ok(other) = fs::read_link(entry.path().join("ns/pid")) {
                if other != own {
                    return Ok(format!("sees {}", entry.path().display()));
                }
            }
        }
    }
    let status = fs::read_to_string("/proc/1/status").map_err(refused)?;
    if !status.lines().any(|line| line == "PPid:\t0") {
        return Ok("the first process has a parent".into());
    }
    if count > 30 {
        return Ok(format!("sees {count} processes"));
    }
    Err(format!("sees its own {count}"))
}

fn identity(path: impl AsRef<Path>) -> Result<(u64, u64), String> {
    fs::metadata(path)
        .map(|found| (found.dev(), found.ino()))
        .map_err(refused)
}

fn same_root(path: &str) -> Outcome {
    if identity(path)? == identity("/")? {
        Err("it is the container's own root".into())
    } else {
        Ok(format!("{path} is another root"))
    }
}

/// The classic: a chroot below the current folder, and up from there.
fn chroot_walk() -> Outcome {
    let root = identity("/")?;
    fs::create_dir_all("/tmp/jail").map_err(refused)?;
    env::set_current_dir("/").map_err(refused)?;
    nix::unistd::chroot("/tmp/jail").map_err(refused)?;
    for _ in 0..20 {
        nix::unistd::chdir("..").map_err(refused)?;
    }
    nix::unistd::chroot(".").map_err(refused)?;
    if identity("/")? == root {
        Err("it ends at the container's own root".into())
    } else {
        Ok("reached another root".into())
    }
}

/// Descriptors that came with this process or belong to the first one: no file or folder from outside.
fn descriptors() -> Outcome {
    each(["/proc/1/fd", "/proc/self/fd"].iter().flat_map(|folder| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let links: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        links.into_iter().map(|link| {
            let found = fs::metadata(&link).map_err(refused)?;
            if !found.is_dir() && !found.is_file() || is_inside(&link)? {
                return Err("inside".into());
            }
            Ok(format!("{} is {:?}", link.display(), fs::read_link(&link)))
        })
    }))
}

/// Whether what a link of /proc leads to is what the container finds under its name.
fn is_inside(link: &Path) -> Result<bool, String> {
    let name = fs::read_link(link).map_err(refused)?;
    Ok(identity(&name).ok() == Some(identity(link)?))
}

fn clock_set() -> Outcome {
    let mut now = [0_i64; 2];
    call(libc::SYS_clock_gettime, [0, now.as_mut_ptr().addr(), 0, 0, 0, 0]).map_err(refused)?;
    raw(libc::SYS_clock_settime, [0, now.as_ptr().addr(), 0, 0, 0, 0])
}

/// `struct timex` of `linux/timex.h`, in which `modes` comes first: the tick as it is.
fn clock_adjust() -> Outcome {
    let mut timex = [0_i64; 32];
    call(libc::SYS_adjtimex, [timex.as_mut_ptr().addr(), 0, 0, 0, 0, 0]).map_err(refused)?;
    timex[0] = 2;
    raw(libc::SYS_adjtimex, [timex.as_mut_ptr().addr(), 0, 0, 0, 0, 0])
}

/// `struct perf_event_attr`: a software clock of this process, which needs the least.
fn perf_event() -> Outcome {
    let mut attributes = [0_u64; 16];
    attributes[0] = 1 | (112 << 32);
    let own_cpu = usize::MAX;
    raw(
        libc::SYS_perf_event_open,
        [attributes.as_ptr().addr(), 0, own_cpu, own_cpu, 0, 0],
    )
}

/// A listener of the host's on an abstract socket `devbroker-canary`.
fn abstract_socket() -> Outcome {
    let address = SocketAddr::from_abstract_name("devbroker-canary").map_err(refused)?;
    UnixStream::connect_addr(&address).map_err(refused)?;
    Ok("connected".into())
}

fn interfaces() -> Outcome {
    let table = fs::read_to_string("/proc/net/dev").map_err(refused)?;
    let names: Vec<_> = table
        .lines()
        .filter_map(|line| line.split_once(':').map(|(name, _)| name.trim()))
        .filter(|name| *name != "lo")
        .collect();
    if names.is_empty() {
        Err("sees lo".into())
    } else {
        Ok(format!("sees {}", names.join(" ")))
    }
}

/// A message as the kernel makes them, for whoever listens; the kernel sends on what it lets through.
fn forged_uevent() -> Outcome {
    let socket = call(libc::SYS_socket, [16, 3, 15, 0, 0, 0]).map_err(refused)?;
    let socket = usize::try_from(socket).map_err(refused)?;
    // `struct sockaddr_nl`: family, padding, port of the kernel, no group.
    let address = [16_u32, 0, 0];
    let message = b"add@/devices/forged\0ACTION=add\0DEVPATH=/devices/forged\0SUBSYSTEM=forged\0";
    // `struct nlmsghdr`: length, type, flags (request, acknowledge), sequence, port.
    let length = u32::try_from(16 + message.len()).map_err(refused)?;
    let mut packet: Vec<u8> = [length, 16 | (5 << 16), 1, 0]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    packet.extend_from_slice(message);
    call(
        libc::SYS_sendto,
        [
            socket,
            packet.as_ptr().addr(),
            packet.len(),
            0,
            address.as_ptr().addr(),
            12,
        ],
    )
    .map_err(refused)?;
    let mut answer = [0_i32; 64];
    let size = size_of_val(&answer);
    let flags = usize::try_from(libc::MSG_DONTWAIT).map_err(refused)?;
    call(
        libc::SYS_recvfrom,
        [socket, answer.as_mut_ptr().addr(), size, flags, 0, 0],
    )
    .map_err(refused)?;
    // `struct nlmsgerr` behind the header.
    match answer[4] {
        0 => Ok("the kernel took it".into()),
        error => Err(refused(Errno::from_raw(-error))),
    }
}

/// More open files than the host lets anybody have here.
fn raise_limit() -> Outcome {
    let mut limit = [0_u64; 2];
    call(libc::SYS_prlimit64, [0, 7, 0, limit.as_mut_ptr().addr(), 0, 0]).map_err(refused)?;
    limit[1] += 1;
    raw(libc::SYS_prlimit64, [0, 7, limit.as_ptr().addr(), 0, 0, 0])
}

fn listen(name: &str) -> io::Result<()> {
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
    say("listening")?;
    io::copy(&mut io::stdin().lock(), &mut io::sink()).map(drop)
}

/// A runtime that enters the container runs a program of the host's for a moment. It is held by its descriptor and opened
/// for writing once it has ended.
fn overwrite(until: &Path) -> io::Result<()> {
    let mut held: Vec<(PathBuf, File)> = Vec::new();
    say("watching")?;
    while !until.exists() {
        for entry in fs::read_dir("/proc")?.flatten() {
            if !entry
                .file_name()
                .to_string_lossy()
                .bytes()
                .all(|byte| byte.is_ascii_digit())
            {
                continue;
            }
            let exe = entry.path().join("exe");
            let Ok(file) = File::open(&exe) else { continue };
            if is_inside(&exe) == Ok(false) && held.len() < 16 {
                let name = fs::read_link(&exe).unwrap_or_default();
                if !held.iter().any(|(other, _)| *other == name) {
                    held.push((name, file));
                }
            }
        }
        for (name, file) in &held {
            let link = format!("/proc/self/fd/{}", file.as_raw_fd());
            if OpenOptions::new().write(true).open(link).is_ok() {
                say(format!("SUCCEEDED: could write to {}", name.display()))?;
            }
        }
    }
    say(format!("saw {} programs of the host", held.len()))
}
