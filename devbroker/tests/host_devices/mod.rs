//! Real devices and a real udevd for tests on the host: loop devices come and go by ioctl, and a udevd is started where none
//! runs and stopped again.
#![expect(unsafe_code, reason = "loop-control knows nothing but ioctls")]

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};

// `linux/loop.h`.
nix::ioctl_write_int_bad!(loop_ctl_add, 0x4C80);
nix::ioctl_write_int_bad!(loop_ctl_remove, 0x4C81);

/// A loop device of this test alone; removed at the end.
#[derive(Debug)]
pub(crate) struct Loop {
    control: File,
    pub(crate) number: u32,
}

impl Loop {
    /// Takes a number that no other test has; the device does not exist yet. `which` tells the tests of one process apart.
    pub(crate) fn reserve(which: u32) -> Self {
        let control = File::open("/dev/loop-control").expect("loop devices (modprobe loop) and root");
        Self {
            control,
            number: 10_000 + (std::process::id() % 30_000) * 32 + which,
        }
    }

    pub(crate) fn add(&self) {
        let number = i32::try_from(self.number).unwrap();
        // SAFETY: the ioctl takes an integer and touches no memory of ours.
        unsafe { loop_ctl_add(self.control.as_raw_fd(), number) }.expect("LOOP_CTL_ADD");
    }

    pub(crate) fn remove(&self) {
        let number = i32::try_from(self.number).unwrap();
        // udev (or anyone) may have it open for a moment; that ends, and nothing tells when.
        let done = (0..100_000).any(|_| {
            // SAFETY: as above.
            unsafe { loop_ctl_remove(self.control.as_raw_fd(), number) }.is_ok() || {
                std::thread::yield_now();
                false
            }
        });
        assert!(done, "LOOP_CTL_REMOVE {number}");
    }

    pub(crate) fn name(&self) -> String {
        format!("loop{}", self.number)
    }

    pub(crate) fn devpath(&self) -> String {
        format!("/devices/virtual/block/{}", self.name())
    }

    pub(crate) fn sysfs(&self) -> PathBuf {
        Path::new("/sys").join(self.devpath().trim_start_matches('/'))
    }

    /// Has the kernel tell of a change.
    pub(crate) fn change(&self) {
        fs::write(self.sysfs().join("uevent"), "change").unwrap();
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if self.sysfs().exists() {
            self.remove();
        }
    }
}

/// The host's udevd, or one of ours that ends with the last test that has it.
#[derive(Debug)]
pub(crate) struct Udevd {
    child: Option<Child>,
    made_folder: bool,
    /// Held while a udevd of ours runs: other test programs wait for its end.
    _lock: File,
}

static RUNNING: Mutex<Weak<Udevd>> = Mutex::new(Weak::new());

impl Udevd {
    pub(crate) fn get() -> Arc<Self> {
        let mut running = RUNNING.lock().unwrap();
        if let Some(udevd) = running.upgrade() {
            return udevd;
        }
        let udevd = Arc::new(Self::start());
        *running = Arc::downgrade(&udevd);
        udevd
    }

    fn start() -> Self {
        let lock = File::create("/run/devbroker-test-udevd.lock").unwrap();
        lock_exclusively(&lock);
        if answers() {
            return Self {
                child: None,
                made_folder: false,
                _lock: lock,
            };
        }
        let made_folder = !Path::new("/run/udev").exists();
        let program = ["/usr/lib/systemd/systemd-udevd", "/lib/systemd/systemd-udevd"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .expect("systemd-udevd (apt-get install udev)");
        let child = Command::new(program)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let udevd = Self {
            child: Some(child),
            made_folder,
            _lock: lock,
        };
        // It answers a ping when it has read its rules.
        let ping = (0..5000).any(|_| udevadm(&["control", "--ping", "--timeout=10"]));
        assert!(ping, "udevd does not answer");
        udevd
    }
}

impl Drop for Udevd {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
            kill(pid, Signal::SIGTERM).unwrap();
            child.wait().unwrap();
            if self.made_folder {
                fs::remove_dir_all("/run/udev").unwrap();
            }
        }
    }
}

/// Runs udevadm; whether it succeeded.
pub(crate) fn udevadm(arguments: &[&str]) -> bool {
    Command::new("udevadm")
        .args(arguments)
        .stderr(Stdio::null())
        .status()
        .expect("udevadm (apt-get install udev)")
        .success()
}

/// Has udevd read its rules again. It takes one request at a time and refuses the next meanwhile.
pub(crate) fn reload_rules() {
    let done = (0..5000).any(|_| udevadm(&["control", "--reload"]));
    assert!(done, "udevd does not reload its rules");
}

/// Whether a udevd listens on its control socket.
fn answers() -> bool {
    let socket = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    let address = UnixAddr::new("/run/udev/control").unwrap();
    connect(socket.as_raw_fd(), &address).is_ok()
}

fn lock_exclusively(file: &File) {
    // SAFETY: flock on an open descriptor touches no memory.
    let result = unsafe { nix::libc::flock(file.as_raw_fd(), nix::libc::LOCK_EX) };
    assert_eq!(result, 0, "flock");
}

/// Waits until one of the descriptors has something to read; fails after half a minute.
pub(crate) fn wait_readable(fds: &[&dyn AsFd]) {
    let mut fds: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN))
        .collect();
    let ready = poll(&mut fds, PollTimeout::from(30_000_u16)).unwrap();
    assert!(ready > 0, "nothing came for half a minute");
}
