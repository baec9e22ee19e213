//! A container as far as these tests need one: a process in its own mount namespace, with or without its own user
//! namespace, that does what it is told. It is this very test program, run again inside.

use devbroker::model::{IdMap, IdRange};
use devbroker::sys::xattr::{lgetxattr, lsetxattr};
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, lstat};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The first of the host's ids that a container with its own user namespace has.
pub(crate) const BASE: u32 = 100_000;

/// Gives the calling thread a mount namespace that nobody else sees, and a folder in it that only root can enter.
pub(crate) fn private_host() -> tempfile::TempDir {
    assert!(nix::unistd::geteuid().is_root(), "these tests need root");
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .unwrap();
    tempfile::tempdir().unwrap()
}

/// The ids of a container with (`true`) or without its own user namespace.
pub(crate) fn ids(own_users: bool) -> IdMap {
    if own_users {
        IdMap::new(vec![IdRange {
            inside: 0,
            outside: BASE,
            count: 65_536,
        }])
    } else {
        IdMap::identity()
    }
}

/// A running container.
pub(crate) struct Container {
    holder: Child,
    agent: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Its first process.
    pub(crate) pid: i32,
    /// Its ids.
    pub(crate) ids: IdMap,
}

impl Container {
    /// Starts one; `prepare` is shell text that sets up its mounts with the host's rights.
    pub(crate) fn start(own_users: bool, prepare: &str) -> Self {
        let own = "exec unshare --user --mount --propagation private cat";
        let last = if own_users { own } else { "exec cat" };
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-ec"])
            .arg(format!("{prepare}\n{last}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        holder.stdin.as_mut().unwrap().write_all(b"ready\n").unwrap();
        BufReader::new(holder.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n", "the container's mounts cannot be set up");
        let pid = i32::try_from(holder.id()).unwrap();
        let mut enter = Command::new("nsenter");
        enter.arg(format!("--target={pid}")).arg("--mount");
        if own_users {
            for map in ["uid_map", "gid_map"] {
                std::fs::write(format!("/proc/{pid}/{map}"), format!("0 {BASE} 65536")).unwrap();
            }
            enter.args(["--user", "--setuid=0", "--setgid=0"]);
        }
        let mut agent = enter
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "container_side", "--nocapture"])
            .env("DEVBROKER_TEST_INSIDE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = agent.stdin.take().unwrap();
        let answers = BufReader::new(agent.stdout.take().unwrap());
        Self {
            holder,
            agent,
            orders,
            answers,
            pid,
            ids: ids(own_users),
        }
    }

    /// Has it do something and returns its answer.
    pub(crate) fn ask(&mut self, order: &str) -> String {
        writeln!(self.orders, "{order}").unwrap();
        loop {
            let mut line = String::new();
            assert!(
                self.answers.read_line(&mut line).unwrap() > 0,
                "the container died at `{order}`"
            );
            if let Some((_, answer)) = line.split_once('@') {
                return answer.trim_end().to_owned();
            }
        }
    }

    /// Runs shell text in it, which must succeed.
    pub(crate) fn sh(&mut self, text: &str) {
        assert_eq!(self.ask(&format!("sh {text}")), "0", "{text}");
    }

    /// Kills all of it at once.
    pub(crate) fn kill(&mut self) {
        for child in [&mut self.agent, &mut self.holder] {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The loop that runs inside. Orders and answers are one line each; answers begin with `@`.
pub(crate) fn obey() {
    if std::env::var_os("DEVBROKER_TEST_INSIDE").is_none() {
        return;
    }
    let mut kept: Vec<OwnedFd> = Vec::new();
    let mut prober: Option<(Arc<Prober>, std::thread::JoinHandle<Vec<String>>)> = None;
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let answer = match verb {
            "open" => try_open(Path::new(rest)),
            "stat" => look(Path::new(rest)),
            "keep" => {
                let fd = open(rest, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
                kept.push(fd);
                "ok".into()
            }
            "reopen" => try_open(&PathBuf::from(format!(
                "/proc/self/fd/{}",
                kept.last().unwrap().as_raw_fd()
            ))),
            "acl" => {
                let (path, hex) = rest.split_once(' ').unwrap();
                let bytes: Vec<u8> = (0..hex.len() / 2)
                    .map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap())
                    .collect();
                let path = CString::new(path).unwrap();
                lsetxattr(&path, c"system.posix_acl_access", &bytes).unwrap();
                "ok".into()
            }
            "getacl" => {
                let mut buffer = [0; 512];
                let path = CString::new(rest).unwrap();
                match lgetxattr(&path, c"system.posix_acl_access", &mut buffer) {
                    Ok(length) => hex(&buffer[..length]),
                    Err(error) => error.to_string(),
                }
            }
            "fuse" => {
                // Whoever mounts it is to answer, and never does.
                let fuse = open("/dev/fuse", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
                let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", fuse.as_raw_fd());
                let flags = MsFlags::empty();
                mount(Some("none"), rest, Some("fuse"), flags, Some(options.as_str())).unwrap();
                kept.push(fuse);
                "ok".into()
            }
            "sh" => Command::new("sh")
                .arg("-ec")
                .arg(rest)
                .status()
                .unwrap()
                .code()
                .unwrap()
                .to_string(),
            "probe" => {
                let (shared, path) = (Arc::new(Prober::default()), PathBuf::from(rest));
                let until = Arc::clone(&shared);
                prober = Some((shared, std::thread::spawn(move || probe(&path, &until))));
                "ok".into()
            }
            "probed" => {
                let (shared, thread) = prober.take().unwrap();
                // What is there now has to be seen as well.
                let enough = shared.rounds.load(Ordering::Acquire) + 2;
                while shared.rounds.load(Ordering::Acquire) < enough {
                    std::thread::yield_now();
                }
                shared.stop.store(true, Ordering::Release);
                thread.join().unwrap().join(", ")
            }
            other => panic!("unknown order {other}"),
        };
        let mut out = std::io::stdout();
        writeln!(out, "@{answer}").unwrap();
        out.flush().unwrap();
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn try_open(path: &Path) -> String {
    match open(
        path,
        OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_NOCTTY,
        Mode::empty(),
    ) {
        Ok(_) => "ok".into(),
        Err(errno) => format!("{errno:?}"),
    }
}

fn look(path: &Path) -> String {
    match lstat(path) {
        Ok(stat) => {
            let kind = match stat.st_mode & libc::S_IFMT {
                libc::S_IFCHR => 'c',
                libc::S_IFBLK => 'b',
                libc::S_IFLNK => 'l',
                libc::S_IFDIR => 'd',
                _ => '?',
            };
            let (major, minor) = (libc::major(stat.st_rdev), libc::minor(stat.st_rdev));
            format!(
                "{kind}{major}:{minor} {}:{} {:o}",
                stat.st_uid,
                stat.st_gid,
                stat.st_mode & 0o7777
            )
        }
        Err(errno) => format!("{errno:?}"),
    }
}

#[derive(Default)]
struct Prober {
    stop: AtomicBool,
    rounds: AtomicU64,
}

/// Everything different that was seen at a path, as often as it can be looked at.
fn probe(path: &Path, shared: &Prober) -> Vec<String> {
    let mut seen = BTreeSet::new();
    while !shared.stop.load(Ordering::Acquire) {
        seen.insert(look(path));
        seen.insert(format!("open: {}", try_open(path)));
        shared.rounds.fetch_add(1, Ordering::AcqRel);
    }
    seen.into_iter().collect()
}
