//! Cgroups: which one a container's run lives in, making, entering, killing and removing them.

use crate::process::{Wait, wait_for};
use devbroker::model::ContainerName;
use rustix::event::PollFlags;
use rustix::fs::{CWD, Mode, OFlags, openat};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Where a cgroup v2 host has its hierarchy.
pub(crate) const MOUNT: &str = "/sys/fs/cgroup";

/// What can go wrong with a cgroup.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    /// The host is not on cgroup v2 alone.
    #[error(
        "{MOUNT} is no cgroup v2 hierarchy; ctm needs one, boot the host with systemd.unified_cgroup_hierarchy=1"
    )]
    NotUnified,
    /// A file operation failed.
    #[error("cannot {what} cgroup {}: {source}", .cgroup.display())]
    Io {
        what: &'static str,
        cgroup: PathBuf,
        source: io::Error,
    },
    /// Processes did not go away.
    #[error("processes in cgroup {} survive SIGKILL; see {MOUNT}{}/cgroup.procs, they wait for a device or a file system", .0.display(), .0.display())]
    Undead(PathBuf),
    /// Processes did not stop where they are.
    #[error("some processes in cgroup {} do not pause, they wait for a device or a file system; it was left as it was", .0.display())]
    Restless(PathBuf),
}

impl CgroupError {
    /// Whether it says that the cgroup is not there any more.
    pub(crate) fn is_gone(&self) -> bool {
        match self {
            Self::Io { source, .. } => is_gone(source),
            Self::NotUnified | Self::Undead(_) | Self::Restless(_) => false,
        }
    }
}

/// What there can be below a container's cgroup. With the memory controller turned on the kernel has numbers for 65535 of them on the
/// whole host (`MEM_CGROUP_ID_MAX`), and to what is nested deeper than a path is long no path leads.
const MOST_BELOW: [(&str, &str); 2] = [("cgroup.max.depth", "32"), ("cgroup.max.descendants", "1024")];

/// A cgroup's path below the mount, beginning with `/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// The path below the mount.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// One by its path, as [`Cgroup::path`] has it.
    pub(crate) fn at(path: &Path) -> Self {
        Self(path.into())
    }

    /// All processes in it and below, in the host's numbers. What comes and goes meanwhile may be missed.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder()];
        while let Some(folder) = folders.pop() {
            // A threaded cgroup names its processes in the one above.
            let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
            let below = fs::read_dir(&folder).into_iter().flatten().flatten();
            folders.extend(
                below
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            );
        }
        found.sort_unstable();
        found
    }

    /// How many processes it may have, if it has as many.
    pub(crate) fn full_of_processes(&self) -> Option<u64> {
        let number = |file: &str| -> Option<u64> {
            fs::read_to_string(self.folder().join(file))
                .ok()?
                .trim()
                .parse()
                .ok()
        };
        let most = number("pids.max")?;
        (number("pids.current")? >= most).then_some(most)
    }

    /// One directly below this.
    pub(crate) fn below(&self, name: &str) -> Self {
        Self(self.0.join(name))
    }

    /// The folder in the file system.
    pub(crate) fn folder(&self) -> PathBuf {
        let mut folder = PathBuf::from(MOUNT);
        folder.extend(self.0.components().skip(1));
        folder
    }

    /// The cgroup2 line (`0::PATH`, `cgroups(7)`) of the text of `/proc/PID/cgroup`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        text.lines()
            .find_map(|line| line.strip_prefix("0::"))
            .filter(|path| path.starts_with('/'))
            .map(|path| Self(path.into()))
    }

    /// The cgroup that holds one run of `name`: systemd's where the process in `own` is in that unit's (or the sub-cgroup
    /// that a supervisor makes below it), else one of our own.
    pub(crate) fn of_run(name: &ContainerName, own: &Self) -> Run {
        let unit = crate::service::unit(name);
        let is_unit = |cgroup: &&Path| cgroup.file_name().is_some_and(|last| last == unit.as_str());
        match own.0.ancestors().take(2).find(is_unit) {
            Some(unit) => Run {
                cgroup: Self(unit.into()),
                systemd: true,
            },
            None => Self::beside_systemd(name),
        }
    }

    /// Where a run of `name` lives that is not systemd's.
    pub(crate) fn beside_systemd(name: &ContainerName) -> Run {
        Run {
            cgroup: Self(Path::new("/ctm").join(name.as_str())),
            systemd: false,
        }
    }

    fn io(&self, what: &'static str) -> impl FnOnce(io::Error) -> CgroupError {
        let cgroup = self.0.clone();
        move |source| CgroupError::Io { what, cgroup, source }
    }

    /// Makes the cgroup and those above it; one that exists is kept.
    pub(crate) fn create(&self) -> Result<(), CgroupError> {
        fs::create_dir_all(self.folder()).map_err(self.io("create"))
    }

    /// Sets how many cgroups whoever has it may make below it, and how deep.
    pub(crate) fn bound(&self) -> Result<(), CgroupError> {
        for (file, most) in MOST_BELOW {
            fs::write(self.folder().join(file), most).map_err(self.io("bound"))?;
        }
        Ok(())
    }

    /// Moves this process into the cgroup.
    pub(crate) fn enter(&self) -> Result<(), CgroupError> {
        fs::write(self.folder().join("cgroup.procs"), "0").map_err(self.io("enter"))
    }

    /// A descriptor of its folder.
    pub(crate) fn open(&self) -> Result<OwnedFd, CgroupError> {
        openat(
            CWD,
            self.folder(),
            OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY,
            Mode::empty(),
        )
        .map_err(|e| self.io("open")(e.into()))
    }

    /// Kills every process in it and below and waits until they are gone; nothing to do if it does not exist.
    pub(crate) fn kill(&self, deadline: Instant) -> Result<(), CgroupError> {
        self.send_kill()?;
        match self.wait_for("populated 0", deadline)? {
            Wait::Ready => Ok(()),
            Wait::TimedOut => Err(CgroupError::Undead(self.0.clone())),
        }
    }

    /// The same without waiting, for who does not remove it: of a cgroup that another one removes no end is seen.
    pub(crate) fn send_kill(&self) -> Result<(), CgroupError> {
        match fs::write(self.folder().join("cgroup.kill"), "1") {
            Err(e) if is_gone(&e) => return Ok(()),
            result => result.map_err(self.io("kill"))?,
        }
        // What is paused dies as well; this lets nothing stay in between. It may be gone already.
        self.set_frozen(false).ok();
        Ok(())
    }

    /// Stops every process in it and below where it is, or lets them go on; waits until that is so.
    pub(crate) fn freeze(&self, frozen: bool, deadline: Instant) -> Result<(), CgroupError> {
        self.set_frozen(frozen)?;
        match self.wait_for(if frozen { "frozen 1" } else { "frozen 0" }, deadline)? {
            Wait::Ready => Ok(()),
            Wait::TimedOut => {
                self.set_frozen(!frozen)?;
                Err(CgroupError::Restless(self.0.clone()))
            }
        }
    }

    /// The same without waiting.
    pub(crate) fn set_frozen(&self, frozen: bool) -> Result<(), CgroupError> {
        let value = if frozen { "1" } else { "0" };
        fs::write(self.folder().join("cgroup.freeze"), value).map_err(self.io("freeze"))
    }

    /// Whether it was frozen, here and not from within it.
    pub(crate) fn is_frozen(&self) -> bool {
        fs::read_to_string(self.folder().join("cgroup.freeze")).is_ok_and(|text| text.trim() == "1")
    }

    /// Waits until `cgroup.events` has a line; a cgroup that is removed meanwhile has every line.
    fn wait_for(&self, line: &str, deadline: Instant) -> Result<Wait, CgroupError> {
        // The kernel raises POLLPRI on this file when a value changes (cgroups(7)); each read takes note of the present
        // value, so that no change between read and poll is lost.
        let events = match fs::File::open(self.folder().join("cgroup.events")) {
            Err(e) if is_gone(&e) => return Ok(Wait::Ready),
            result => result.map_err(self.io("watch"))?,
        };
        loop {
            let mut text = String::new();
            let mut from_start = &events;
            let read = io::Seek::rewind(&mut from_start)
                .and_then(|()| io::Read::read_to_string(&mut from_start, &mut text));
            match read {
                // Someone else removed the cgroup, which had to be empty for that.
                Err(e) if is_gone(&e) => return Ok(Wait::Ready),
                result => result.map_err(self.io("watch"))?,
            };
            if text.lines().any(|found| found == line) {
                return Ok(Wait::Ready);
            }
            if wait_for(events.as_fd(), PollFlags::PRI, deadline).map_err(self.io("watch"))? == Wait::TimedOut
            {
                return Ok(Wait::TimedOut);
            }
        }
    }

    /// Removes it and those below it, which must hold no process; nothing to do if it does not exist.
    pub(crate) fn remove(&self) -> Result<(), CgroupError> {
        remove_tree(&self.folder()).map_err(self.io("remove"))
    }
}

/// Whether an error says that a cgroup was removed, before its file was opened or after.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

/// Where a run lives and who made that place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Run {
    /// The cgroup that holds the supervisor's and the container's.
    pub(crate) cgroup: Cgroup,
    /// Whether it is systemd's.
    pub(crate) systemd: bool,
}

impl Run {
    /// The supervisor's: a cgroup that hands controllers down must not hold processes itself.
    pub(crate) fn supervisor(&self) -> Cgroup {
        self.cgroup.below("supervisor")
    }

    /// The container's.
    pub(crate) fn container(&self) -> Cgroup {
        self.cgroup.below("container")
    }
}

/// Removes folders from the leaves up; the files in them are the kernel's.
fn remove_tree(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Whether the host has what ctm needs.
pub(crate) fn require_unified() -> Result<(), CgroupError> {
    // A cgroup v2 hierarchy has this file in every cgroup, its root included.
    if Path::new(MOUNT).join("cgroup.procs").exists() && Path::new(MOUNT).join("cgroup.controllers").exists()
    {
        Ok(())
    } else {
        Err(CgroupError::NotUnified)
    }
}

/// Moves this process into the hierarchy's root, so that the cgroup it was in can be removed.
pub(crate) fn leave() -> Result<(), CgroupError> {
    Cgroup("/".into()).enter()
}

/// This process' cgroup.
pub(crate) fn own() -> Result<Cgroup, CgroupError> {
    of("self")
}

/// The cgroup of a process of the host's.
pub(crate) fn of_process(pid: u32) -> Result<Cgroup, CgroupError> {
    of(&pid.to_string())
}

fn of(process: &str) -> Result<Cgroup, CgroupError> {
    let path = PathBuf::from(format!("/proc/{process}/cgroup"));
    let text = fs::read_to_string(&path).map_err(|source| CgroupError::Io {
        what: "find the",
        cgroup: path,
        source,
    })?;
    Cgroup::parse(&text).ok_or(CgroupError::NotUnified)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroup(path: &str) -> Cgroup {
        Cgroup(path.into())
    }

    #[test]
    fn the_line_of_v2() {
        assert_eq!(Cgroup::parse("0::/a/b\n"), Some(cgroup("/a/b")));
        assert_eq!(Cgroup::parse("3:cpu:/x\n0::/\n"), Some(cgroup("/")));
        assert_eq!(Cgroup::parse("3:cpu:/x\n"), None);
        assert_eq!(cgroup("/").folder(), Path::new(MOUNT));
        assert_eq!(cgroup("/ctm/a").folder(), Path::new("/sys/fs/cgroup/ctm/a"));
    }

    #[test]
    fn a_run_is_below_its_unit_or_our_own() {
        let name: ContainerName = "scan-1".parse().unwrap();
        for (own, path, systemd) in [
            ("/", "/ctm/scan-1", false),
            ("/user.slice/x.scope", "/ctm/scan-1", false),
            (
                "/ctm.slice/ctm@scan-1.service",
                "/ctm.slice/ctm@scan-1.service",
                true,
            ),
            (
                "/ctm.slice/ctm@scan-1.service/supervisor",
                "/ctm.slice/ctm@scan-1.service",
                true,
            ),
            ("/ctm.slice/ctm@scan.service", "/ctm/scan-1", false),
            ("/ctm.slice/ctm@scan-1.service/container/x", "/ctm/scan-1", false),
        ] {
            assert_eq!(
                Cgroup::of_run(&name, &cgroup(own)),
                Run {
                    cgroup: cgroup(path),
                    systemd
                },
                "{own}"
            );
        }
    }
}
