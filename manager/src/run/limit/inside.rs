//! Limits that are not the cgroup's, in a running container: of its network namespace, its mounts, its processes.

use super::LimitError;
use crate::definition::{MOST_INSTANCES, OomScore, Rlimit, SoftHard};
use crate::ids::Ids;
use crate::layout::RunFolder;
use crate::process::ProcessId;
use crate::quantity::Limit;
use crate::run::bundle::TTY_GROUP;
use crate::run::cgroup::Cgroup;
use crate::run::hold;
use crate::run::live_mount::{FileSystem, Inside, LiveMountError};
use crate::run::namespace::{Network, Users};
use crate::sys;
use rustix::process::{Pid, Resource, prlimit};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// Where the sizes of buffers are: least, usual, largest.
const BUFFERS: [(&str, &str); 2] = [
    ("tcp_receive_buffer", "/proc/sys/net/ipv4/tcp_rmem"),
    ("tcp_send_buffer", "/proc/sys/net/ipv4/tcp_wmem"),
];

/// Limits the buffers of a container's TCP connections, or gives it the host's sizes again.
pub(super) fn tcp_buffers(init: ProcessId, wanted: [Option<u64>; 2]) -> Result<(), LimitError> {
    for ((key, path), most) in BUFFERS.into_iter().zip(wanted) {
        let failed = |source| LimitError::Live {
            key,
            source,
            remedy: "a buffer has 1 to 2147483647 bytes",
        };
        let host = fs::read_to_string(path).map_err(failed)?;
        let text = buffers(&host, most).ok_or_else(|| failed(io::Error::other("no such size")))?;
        Network::of(init)
            .and_then(|network| network.within(|| fs::write(path, &text)))
            .map_err(failed)?;
    }
    Ok(())
}

/// The three sizes, none of them above `most`; nothing where that is none.
fn buffers(host: &str, most: Option<u64>) -> Option<String> {
    let mut sizes = host
        .split_ascii_whitespace()
        .map(|size| size.parse::<u64>().ok())
        .collect::<Option<Vec<_>>>()?;
    if let Some(most) = most {
        if !(1..=2_147_483_647).contains(&most) {
            return None;
        }
        for size in &mut sizes {
            *size = most.min(*size);
        }
        *sizes.last_mut()? = most;
    }
    let sizes: Vec<_> = sizes.iter().map(ToString::to_string).collect();
    Some(sizes.join(" "))
}

/// How many files and folders a container may watch for each instance that it may have.
const WATCHES_EACH: u64 = 256;

/// Limits what it may have of inotify and fanotify. What is made in a user namespace counts for whoever made that as well, which is the host's
/// root: without a limit of its own a container could take all that the host may have (`user_namespaces(7)`, `/proc/sys/user`).
pub(super) fn inotify(init: ProcessId, instances: u64) -> Result<(), LimitError> {
    let failed = |source| LimitError::Live {
        key: "inotify_instances",
        source,
        remedy: "/proc/sys/user of the host has to be there and writable",
    };
    let Some(users) = Users::of(init).map_err(failed)? else {
        return Ok(());
    };
    let watches = instances.saturating_mul(WATCHES_EACH).min(MOST_INSTANCES);
    users
        .run(&format!(
            "set -e; cd /proc/sys/user; echo {instances} >max_inotify_instances; echo {watches} >max_inotify_watches
             [ ! -e max_fanotify_groups ] || {{ echo {instances} >max_fanotify_groups; echo {watches} >max_fanotify_marks; }}"
        ))
        .map_err(failed)
}

fn mounted(key: &'static str) -> impl FnOnce(LiveMountError) -> LimitError {
    move |source| LimitError::Inside { key, source }
}

/// As many terminals as the kernel has at most (`NR_UNIX98_PTY_MAX`).
const ALL_PTYS: u64 = 1 << 20;

/// How the container's devpts is mounted, apart from what it is on. All of it counts at each change.
pub(crate) fn devpts_options(group: u32, ptys: Limit) -> [(&'static str, String); 4] {
    [
        ("ptmxmode", "0666".into()),
        ("mode", "0620".into()),
        ("gid", group.to_string()),
        ("max", ptys.at().unwrap_or(ALL_PTYS).to_string()),
    ]
}

/// Limits the terminals that can be open.
pub(super) fn ptys(init: ProcessId, ids: Ids, ptys: Limit) -> Result<(), LimitError> {
    let group = match ids {
        Ids::Host => TTY_GROUP,
        Ids::Block(block) => block.first.saturating_add(TTY_GROUP),
    };
    let inside = Inside::open(init).map_err(mounted("ptys"))?;
    inside
        .reconfigure(
            Path::new("/dev/pts"),
            FileSystem::Devpts,
            &devpts_options(group, ptys),
        )
        .map_err(mounted("ptys"))
}

/// Gives /dev/shm another size.
pub(super) fn shm(init: ProcessId, bytes: u64) -> Result<(), LimitError> {
    let inside = Inside::open(init).map_err(mounted("shm"))?;
    inside
        .reconfigure(
            Path::new("/dev/shm"),
            FileSystem::Shm,
            &[("size", bytes.to_string())],
        )
        .map_err(mounted("shm"))
}

/// How long processes have until all of them pause.
const PAUSE: Duration = Duration::from_secs(5);

/// The processes of a running container: where is written down that they are held still, and their cgroup.
#[derive(Debug, Clone, Copy)]
pub(super) struct Processes<'a> {
    pub(super) folder: &'a RunFolder,
    pub(super) cgroup: &'a Cgroup,
}

impl Processes<'_> {
    /// Does something to each. They pause meanwhile: none is started that would be missed, and none ends whose number another
    /// process of the host's could have by then.
    fn each(
        self,
        failed: impl FnOnce(io::Error) -> LimitError,
        mut act: impl FnMut(Pid) -> io::Result<()>,
    ) -> Result<(), LimitError> {
        hold::still(self.folder, self.cgroup, Instant::now() + PAUSE, || {
            self.cgroup
                .processes()
                .into_iter()
                // One of another number space is listed as 0.
                .filter_map(Pid::from_raw)
                .try_for_each(|pid| match act(pid) {
                    // Even what is paused can be killed, from outside.
                    Err(e) if e.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(()),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                    result => result,
                })
        })?
        .map_err(failed)
    }
}

/// Gives every process the limits that changed; one that is not said any more is what it would have been at the start.
pub(super) fn rlimits(
    processes: Processes<'_>,
    supervisor: ProcessId,
    old: &BTreeMap<Rlimit, SoftHard>,
    new: &BTreeMap<Rlimit, SoftHard>,
) -> Result<(), LimitError> {
    const KEY: &str = "rlimits";
    let failed = |source| LimitError::Live {
        key: KEY,
        source,
        remedy: "some values are more than the kernel gives: nofile ends at /proc/sys/fs/nr_open",
    };
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let mut changed = Vec::new();
    for limit in keys.into_iter().filter(|limit| old.get(limit) != new.get(limit)) {
        let value = if let Some(value) = new.get(limit) {
            *value
        } else {
            let (soft, hard) = sys::rlimit_of(supervisor.pid, resource(*limit)).map_err(failed)?;
            let said = |value: u64| (value != u64::MAX).then_some(value);
            SoftHard {
                soft: said(soft),
                hard: said(hard),
            }
        };
        changed.push((resource(*limit), value));
    }
    processes.each(failed, |pid| {
        for (resource, SoftHard { soft, hard }) in &changed {
            let (current, maximum) = (*soft, *hard);
            prlimit(Some(pid), *resource, rustix::process::Rlimit { current, maximum })?;
        }
        Ok(())
    })
}

const fn resource(limit: Rlimit) -> Resource {
    match limit {
        Rlimit::As => Resource::As,
        Rlimit::Core => Resource::Core,
        Rlimit::Cpu => Resource::Cpu,
        Rlimit::Data => Resource::Data,
        Rlimit::Fsize => Resource::Fsize,
        Rlimit::Locks => Resource::Locks,
        Rlimit::Memlock => Resource::Memlock,
        Rlimit::Msgqueue => Resource::Msgqueue,
        Rlimit::Nice => Resource::Nice,
        Rlimit::Nofile => Resource::Nofile,
        Rlimit::Nproc => Resource::Nproc,
        Rlimit::Rss => Resource::Rss,
        Rlimit::Rtprio => Resource::Rtprio,
        Rlimit::Rttime => Resource::Rttime,
        Rlimit::Sigpending => Resource::Sigpending,
        Rlimit::Stack => Resource::Stack,
    }
}

fn no_score(source: io::Error) -> LimitError {
    LimitError::Live {
        key: "oom_score_adj",
        source,
        remedy: "only the host's root may change it",
    }
}

fn write_score(pid: Pid, score: OomScore) -> io::Result<()> {
    fs::write(
        format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero()),
        score.get().to_string(),
    )
}

/// Gives every process this score.
pub(super) fn oom_score(processes: Processes<'_>, score: OomScore) -> Result<(), LimitError> {
    processes.each(no_score, |pid| write_score(pid, score))
}

/// Gives it to the first process, which is still waiting, and so to all that come of it.
pub(super) fn oom_score_of_first(init: ProcessId, score: OomScore) -> Result<(), LimitError> {
    Pid::from_raw(init.pid).map_or(Ok(()), |pid| write_score(pid, score).map_err(no_score))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_buffer_is_above_the_largest() {
        for (most, sizes) in [
            (None, Some("4096 131072 6291456")),
            (Some(262_144), Some("4096 131072 262144")),
            (Some(65_536), Some("4096 65536 65536")),
            (Some(1000), Some("1000 1000 1000")),
            (Some(8 << 20), Some("4096 131072 8388608")),
            (Some(0), None),
            (Some(1 << 31), None),
        ] {
            assert_eq!(buffers("4096\t131072\t6291456\n", most).as_deref(), sizes);
        }
    }
}
