//! What is plugged: loop devices with another number each time, and the udevd that tells of them.

use super::lines::LIMIT;
use super::sys;
use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// The first of our numbers; the kernel's own and those of other tests lie below.
const FIRST: u32 = 1_000_000;
/// How many numbers a series goes through.
pub(super) const NUMBERS: u32 = 10;

/// Loop devices of ours.
#[derive(Debug)]
pub(super) struct Loops {
    control: File,
    there: Vec<u32>,
}

/// The number for replug `turn` of series `series`.
pub(super) fn number(series: u32, turn: u32) -> u32 {
    FIRST + series * NUMBERS + turn % NUMBERS
}

/// The names of a series' devices, as a udev rule matches them.
pub(super) fn pattern(series: u32) -> String {
    format!("loop{}?", number(series, 0) / NUMBERS)
}

impl Loops {
    pub(super) fn open() -> Result<Self> {
        let control =
            File::open("/dev/loop-control").context("loop devices are needed: `modprobe loop`, as root")?;
        Ok(Self {
            control,
            there: Vec::new(),
        })
    }

    pub(super) fn add(&mut self, number: u32) -> Result<()> {
        self.there.push(number);
        sys::add_loop(&self.control, i32::try_from(number)?).with_context(|| format!("add loop{number}"))
    }

    pub(super) fn remove(&mut self, number: u32) -> Result<()> {
        let end = Instant::now() + LIMIT;
        loop {
            match sys::remove_loop(&self.control, i32::try_from(number)?) {
                Ok(()) => {
                    self.there.retain(|one| *one != number);
                    return Ok(());
                }
                // udev (or anyone) has it open for a moment, and nothing tells when that ends.
                Err(Errno::EBUSY) if Instant::now() < end => std::thread::yield_now(),
                Err(error) => return Err(error).with_context(|| format!("remove loop{number}")),
            }
        }
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for number in std::mem::take(&mut self.there) {
            // One that was never made is none to remove.
            self.remove(number).ok();
        }
    }
}

/// The host's udevd, or one of ours that ends with the benchmark; with rules of ours.
#[derive(Debug)]
pub(super) struct Udev {
    child: Option<Child>,
    made: Option<PathBuf>,
    rules: PathBuf,
    /// Held while a udevd of ours runs; the tests that start one hold it as well.
    _lock: File,
}

impl Udev {
    /// Starts a udevd if none runs, and has it read `rules` besides its own.
    pub(super) fn start(rules: &str) -> Result<Self> {
        let lock = File::create("/run/devbroker-test-udevd.lock").context("lock udevd")?;
        sys::lock(&lock).context("lock udevd")?;
        let run = Path::new("/run/udev");
        let made = (!run.exists()).then(|| run.to_owned());
        let folder = run.join("rules.d");
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let path = folder.join(format!("99-devbroker-bench-{}.rules", std::process::id()));
        let mut this = Self {
            child: None,
            made,
            rules: path,
            _lock: lock,
        };
        fs::write(&this.rules, rules).with_context(|| format!("write {}", this.rules.display()))?;
        if answers()? {
            ensure!(control(&["--reload"])?, "udevd does not read its rules again");
        } else {
            let program = ["/usr/lib/systemd/systemd-udevd", "/lib/systemd/systemd-udevd"]
                .into_iter()
                .find(|path| Path::new(path).exists())
                .context("no systemd-udevd: apt-get install udev")?;
            let child = Command::new(program)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .context("start udevd")?;
            this.child = Some(child);
        }
        let end = Instant::now() + LIMIT;
        while !control(&["--ping", "--timeout=10"])? {
            ensure!(Instant::now() < end, "udevd does not answer");
        }
        Ok(this)
    }

    /// Whether it is one of ours.
    pub(super) const fn is_ours(&self) -> bool {
        self.child.is_some()
    }
}

impl Drop for Udev {
    fn drop(&mut self) {
        // Nothing that fails here can be mended, and the rest has to be tried all the same.
        fs::remove_file(&self.rules).ok();
        match &mut self.child {
            Some(child) => {
                let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
                kill(pid, Signal::SIGTERM).ok();
                child.wait().ok();
            }
            None => drop(control(&["--reload"])),
        }
        if let Some(run) = &self.made {
            fs::remove_dir_all(run).ok();
        }
    }
}

fn control(arguments: &[&str]) -> Result<bool> {
    let status = Command::new("udevadm")
        .arg("control")
        .args(arguments)
        .stderr(Stdio::null())
        .status();
    match status {
        Ok(status) => Ok(status.success()),
        Err(error) => bail!("cannot run udevadm: {error}; apt-get install udev"),
    }
}

/// Whether a udevd listens on its control socket.
fn answers() -> Result<bool> {
    let socket = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .context("socket")?;
    let address = UnixAddr::new("/run/udev/control").context("address of udevd")?;
    Ok(connect(socket.as_raw_fd(), &address).is_ok())
}
