//! Where the root tests of device access stand: a cgroup of their own with only their own probes in it, and a mount namespace
//! of their own with a bpffs; nothing of the host's is touched.

use devbroker::access::DEFAULT_SEED;
use devbroker::host::access::DeviceFilter;
use devbroker::host::cgroup::Hierarchy;
use devbroker::model::{Access, DevNum};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::poll;
use nix::sched::{CloneFlags, unshare};
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Numbers of drivers' ranges for experiments (`Documentation/admin-guide/devices.txt`: 240 to 254), where nothing lives:
/// an allowed open says ENXIO, a denied one EPERM.
pub(crate) const STICK: DevNum = DevNum::char(240, 0);
pub(crate) const OTHER: DevNum = DevNum::char(240, 1);
pub(crate) const DISK: DevNum = DevNum::block(240, 0);
pub(crate) const NULL: DevNum = DevNum::char(1, 3);

/// A cgroup, and a tmpfs that only this thread and its children see, with a bpffs in it.
pub(crate) struct Ground {
    pub(crate) cgroup: PathBuf,
    pub(crate) cgroup_fd: File,
    pub(crate) dir: tempfile::TempDir,
}

impl Ground {
    pub(crate) fn new(name: &str) -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("root is needed");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let dir = tempfile::tempdir().unwrap();
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), none).unwrap();
        fs::create_dir(dir.path().join("bpf")).unwrap();
        mount(
            Some("bpf"),
            &dir.path().join("bpf"),
            Some("bpf"),
            MsFlags::empty(),
            none,
        )
        .unwrap();
        let own = format!("/devbroker-test-{name}-{}", std::process::id());
        let cgroup = Hierarchy::find()
            .expect("a cgroup v2 mount is needed")
            .folder(&own);
        fs::create_dir(&cgroup).unwrap();
        let cgroup_fd = File::open(&cgroup).unwrap();
        Self {
            cgroup,
            cgroup_fd,
            dir,
        }
    }

    pub(crate) fn cgroup(&self) -> BorrowedFd<'_> {
        self.cgroup_fd.as_fd()
    }

    pub(crate) fn pins(&self) -> PathBuf {
        self.dir.path().join("bpf/devbroker/0123456789abcdef")
    }

    pub(crate) fn filter(&self) -> DeviceFilter {
        DeviceFilter::create(self.cgroup(), &self.pins(), DEFAULT_SEED).unwrap()
    }

    /// Runs a shell command in the cgroup with `$1` as its argument; what it wrote to stderr, empty if it succeeded.
    fn inside(&self, command: &str, argument: &Path) -> String {
        let output = Command::new("sh")
            .args([
                "-c",
                "echo $$ > \"$0/cgroup.procs\" && exec sh -c \"$1\" sh \"$2\"",
            ])
            .arg(&self.cgroup)
            .arg(command)
            .arg(argument)
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.success(), text.is_empty(), "{text}");
        text
    }

    /// A node that the host makes.
    fn node(&self, device: DevNum) -> PathBuf {
        let path = self.dir.path().join(device.to_string());
        if !path.exists() {
            self.mknod(&path, device, "/");
        }
        path
    }

    fn mknod(&self, path: &Path, device: DevNum, cgroup: &str) -> bool {
        let command = format!(
            "mknod \"$1\" {} {} {}",
            device.kind.letter(),
            device.major,
            device.minor
        );
        if cgroup == "/" {
            let status = Command::new("sh")
                .args(["-c", &command, "sh"])
                .arg(path)
                .status()
                .unwrap();
            assert!(status.success());
            true
        } else {
            !self.inside(&command, path).contains("Operation not permitted")
        }
    }

    fn allowed(&self, command: &str, device: DevNum) -> bool {
        let said = self.inside(command, &self.node(device));
        assert!(
            said.is_empty()
                || ["Operation not permitted", "No such device", "Input/output error"]
                    .iter()
                    .any(|error| said.contains(error)),
            "{said}"
        );
        !said.contains("Operation not permitted")
    }

    /// What a process in the cgroup may do with a device.
    pub(crate) fn access(&self, device: DevNum) -> Access {
        let fresh = self.dir.path().join(format!("fresh-{device}"));
        let mut access = Access::NONE;
        for (yes, bit) in [
            (self.allowed(": < \"$1\"", device), Access::READ),
            (self.allowed(": >> \"$1\"", device), Access::WRITE),
            (self.mknod(&fresh, device, "own"), Access::MKNOD),
        ] {
            if yes {
                access = access.union(bit);
            }
        }
        if access.contains(Access::MKNOD) {
            fs::remove_file(fresh).unwrap();
        }
        access
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // Its processes have been waited for.
        fs::remove_dir(&self.cgroup).ok();
        umount2(self.dir.path(), MntFlags::MNT_DETACH).ok();
    }
}

/// The kernel lets go of an unpinned link and of a removed cgroup a little later, and tells nobody when.
pub(crate) fn wait_until(condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "it does not come about"
        );
        poll(&mut [], 5_u8).unwrap();
    }
}
