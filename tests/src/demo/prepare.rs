//! Whether the demo can be shown on this host. Looks and touches nothing; what it saw is judged by [`obstacles`], which is pure.

use std::env;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// What the broker, ctm and the demo itself need of capabilities(7): number and name.
const CAPABILITIES: [(u8, &str); 6] = [
    (0, "CAP_CHOWN"),
    (7, "CAP_SETUID"),
    (12, "CAP_NET_ADMIN"),
    (21, "CAP_SYS_ADMIN"),
    (27, "CAP_MKNOD"),
    (39, "CAP_BPF"),
];

/// Programs that are run, and their packages.
const PROGRAMS: [(&str, &str); 7] = [
    ("bash", "bash"),
    ("crun", "crun"),
    ("ldd", "libc-bin"),
    ("losetup", "mount"),
    ("setpriv", "util-linux"),
    ("tar", "tar"),
    ("udevadm", "udev"),
];

/// What was seen of the host.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) root: bool,
    /// The effective capabilities, a bit each.
    pub(super) capabilities: u64,
    /// Whether this is the user namespace that owns the devices.
    pub(super) own_users: bool,
    /// Whether a user namespace can be made: not in a chroot, nor where a sysctl forbids it.
    pub(super) new_users: bool,
    /// What kind of container this is, as systemd has noted it.
    pub(super) container: Option<String>,
    /// Where a cgroup v2 hierarchy is mounted.
    pub(super) cgroup: Option<PathBuf>,
    pub(super) bpf: bool,
    pub(super) loops: Loops,
    pub(super) udevd: Udevd,
    /// Packages of programs that are not there.
    pub(super) missing: Vec<&'static str>,
}

/// Whether there can be loop devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loops {
    There,
    /// The kernel has them as a module that is not loaded.
    Module,
    None,
}

/// Whether udev's daemon works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Udevd {
    Runs,
    /// It does not, and is this program.
    Startable(PathBuf),
    None,
}

/// Looks at the host.
pub(super) fn facts() -> Result<Facts> {
    let text = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    let capabilities = text("/proc/self/status")?
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .unwrap_or(0);
    let loops = if Path::new("/dev/loop-control").exists() {
        Loops::There
    } else if quietly("modprobe", &["--dry-run", "loop"]) {
        Loops::Module
    } else {
        Loops::None
    };
    Ok(Facts {
        root: nix::unistd::geteuid().is_root(),
        capabilities,
        own_users: text("/proc/self/uid_map")?
            .split_whitespace()
            .eq(["0", "0", "4294967295"]),
        new_users: quietly("unshare", &["--user", "true"]),
        container: fs::read_to_string("/run/systemd/container")
            .ok()
            .map(|kind| kind.trim().to_owned()),
        cgroup: cgroup(&text("/proc/self/mounts")?),
        bpf: text("/proc/filesystems")?
            .lines()
            .any(|line| line.ends_with("\tbpf"))
            && Path::new("/sys/fs/bpf").is_dir(),
        loops,
        udevd: udevd()?,
        missing: PROGRAMS
            .into_iter()
            .filter(|(program, _)| !installed(program))
            .map(|(_, package)| package)
            .collect(),
    })
}

/// Where cgroup v2 is mounted: its usual place, if it is there, else any. `mounts` is the text of `/proc/self/mounts`.
fn cgroup(mounts: &str) -> Option<PathBuf> {
    let mut found = None;
    for line in mounts.lines() {
        let mut words = line.split_whitespace().skip(1);
        if let (Some(at), Some("cgroup2")) = (words.next(), words.next()) {
            if at == "/sys/fs/cgroup" {
                return Some(at.into());
            }
            found = Some(at.into());
        }
    }
    found
}

fn udevd() -> Result<Udevd> {
    let socket = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    if connect(socket.as_raw_fd(), &UnixAddr::new("/run/udev/control")?).is_ok() {
        return Ok(Udevd::Runs);
    }
    Ok(["/usr/lib/systemd/systemd-udevd", "/lib/systemd/systemd-udevd"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .map_or(Udevd::None, Udevd::Startable))
}

fn installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).exists())
}

/// Runs a program without output; whether it succeeded.
pub(super) fn quietly(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Why the demo cannot be shown here, and what would have to be done; nothing if it can.
pub(super) fn obstacles(facts: &Facts) -> Vec<String> {
    if !facts.root {
        return vec!["it needs root: run it with sudo or as root".into()];
    }
    let mut found = Vec::new();
    if let Some(kind) = &facts.container {
        found.push(format!(
            "this is a container ({kind}): devices come and go on its host; run it there"
        ));
    } else if !facts.own_users {
        found.push(
            "this is a user namespace, in which no device can be made: run it as the host's root".into(),
        );
    }
    if !facts.new_users {
        found.push(
            "no user namespace can be made here: leave the chroot, or set user.max_user_namespaces above 0"
                .into(),
        );
    }
    let missing: Vec<_> = CAPABILITIES
        .into_iter()
        .filter(|(bit, _)| facts.capabilities & (1 << bit) == 0)
        .map(|(_, name)| name)
        .collect();
    if !missing.is_empty() {
        found.push(format!(
            "root lacks {} here: run it outside the container or sandbox that took them away",
            missing.join(", ")
        ));
    }
    if facts.cgroup.is_none() {
        found.push("no cgroup v2 hierarchy is mounted: boot with systemd.unified_cgroup_hierarchy=1, or mount -t cgroup2 cgroup2 on a folder".into());
    }
    if !facts.bpf {
        found.push("the kernel has no bpf file system at /sys/fs/bpf: use one with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF, as Debian's".into());
    }
    if facts.loops == Loops::None {
        found.push("the kernel has no loop devices: use one with CONFIG_BLK_DEV_LOOP, as Debian's".into());
    }
    if !facts.missing.is_empty() {
        found.push(format!(
            "programs are missing: apt-get install {}",
            facts.missing.join(" ")
        ));
    } else if facts.udevd == Udevd::None {
        found.push(
            "no udevd runs, and there is none in /usr/lib/systemd: start the one of this system".into(),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            root: true,
            capabilities: u64::MAX,
            own_users: true,
            new_users: true,
            container: None,
            cgroup: Some("/sys/fs/cgroup".into()),
            bpf: true,
            loops: Loops::Module,
            udevd: Udevd::Runs,
            missing: Vec::new(),
        }
    }

    #[test]
    fn each_obstacle_is_named_with_its_remedy() {
        assert_eq!(obstacles(&good()), [""; 0]);
        let cases: [(Facts, &[&str]); 7] = [
            (
                Facts {
                    root: false,
                    bpf: false,
                    ..good()
                },
                &["it needs root: run it with sudo or as root"],
            ),
            (
                Facts {
                    container: Some("lxc".into()),
                    own_users: false,
                    ..good()
                },
                &["this is a container (lxc): devices come and go on its host; run it there"],
            ),
            (
                Facts {
                    new_users: false,
                    ..good()
                },
                &[
                    "no user namespace can be made here: leave the chroot, or set user.max_user_namespaces above 0",
                ],
            ),
            (
                Facts {
                    capabilities: !(1 << 27 | 1 << 39),
                    ..good()
                },
                &[
                    "root lacks CAP_MKNOD, CAP_BPF here: run it outside the container or sandbox that took them away",
                ],
            ),
            (
                Facts {
                    cgroup: None,
                    udevd: Udevd::None,
                    ..good()
                },
                &[
                    "no cgroup v2 hierarchy is mounted: boot with systemd.unified_cgroup_hierarchy=1, or mount -t cgroup2 cgroup2 on a folder",
                    "no udevd runs, and there is none in /usr/lib/systemd: start the one of this system",
                ],
            ),
            (
                Facts {
                    loops: Loops::None,
                    ..good()
                },
                &["the kernel has no loop devices: use one with CONFIG_BLK_DEV_LOOP, as Debian's"],
            ),
            (
                Facts {
                    missing: vec!["crun", "udev"],
                    ..good()
                },
                &["programs are missing: apt-get install crun udev"],
            ),
        ];
        for (facts, expected) in cases {
            assert_eq!(obstacles(&facts), expected, "{facts:?}");
        }
    }

    #[test]
    fn where_cgroup_v2_is() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup(hybrid), Some("/sys/fs/cgroup/unified".into()));
        let both = "cgroup2 /mnt cgroup2 rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert_eq!(cgroup(both), Some("/sys/fs/cgroup".into()));
        assert_eq!(cgroup("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n"), None);
    }
}
