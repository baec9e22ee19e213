//! What has to be done inside a foreign container's mount namespace: binding our `dev/` once, and the links to it.
//!
//! A container that ctm did not start has a `/dev` of its own. The broker gives it a [devfs](super::devfs) as well, binds
//! its `dev/` at `/dev/.devbroker`, and has a relative link in the container's own `/dev` for each name
//! (`ttyUSB0` leads to `.devbroker/ttyUSB0`). A node itself then appears and goes in one step through the host's
//! descriptor, without entering the container; only links are made inside.
//!
//! Whatever touches a container's own file systems can hang: it may have mounted a FUSE that never answers. So it all runs
//! on [`Workers`], at most one for each container; one that hangs is reported and left aside. All paths are resolved
//! below the container's root without following links, and what is made is made as the container's root.

mod folders;
mod inside;
mod mountinfo;
mod workers;

pub use workers::{Busy, Workers};

use crate::accounts::{Accounts, AccountsError};
use crate::model::{InstanceId, NodePath};
use crate::sys::process::pidfd_open;
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The folder in the container's `/dev` that our `dev/` is bound to.
pub const BOUND_AT: &str = ".devbroker";

/// After this long a worker that has not answered is reported and left aside.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// A foreign container.
#[derive(Debug, Clone)]
pub struct Target {
    /// Which run of it.
    pub instance: InstanceId,
    /// A process of it, in the host's pid namespace.
    pub pid: i32,
    /// A pidfd of that process, so that its number cannot come to mean another one.
    pub process: Arc<OwnedFd>,
    /// The host's user and group id of the container's root.
    pub root: (u32, u32),
    /// The file in which the folders are noted that are made in its own `/dev`. Goes when the container goes.
    pub folders: PathBuf,
}

impl Target {
    /// Holds the process `pid`. Whoever calls makes sure afterwards that it is the process that was meant.
    pub fn hold(instance: InstanceId, pid: i32, root: (u32, u32), folders: PathBuf) -> io::Result<Self> {
        let process = Arc::new(pidfd_open(pid)?);
        Ok(Self {
            instance,
            pid,
            process,
            root,
            folders,
        })
    }
}

/// What is to be done in a container. Each can be done again without harm.
#[derive(Debug)]
pub enum Task {
    /// Bind the `dev/` of its devfs at `/dev/.devbroker`.
    Bind {
        /// That folder.
        dev: OwnedFd,
    },
    /// Make the links in its `/dev` what they should be.
    Links {
        /// The names that lead to the same name below `.devbroker`.
        wanted: BTreeSet<NodePath>,
        /// The names that did so before, as far as known. Those that are not wanted are removed if they still do.
        known: BTreeSet<NodePath>,
    },
    /// Remove the links and the bind.
    Unbind {
        /// As for [`Task::Links`].
        known: BTreeSet<NodePath>,
        /// The `st_dev` of the devfs: only that one is unmounted.
        st_dev: u64,
    },
    /// Read its users and groups.
    Accounts,
}

/// Work for one container.
#[derive(Debug)]
pub struct Job {
    /// Where.
    pub target: Target,
    /// What.
    pub task: Task,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Report {
    /// Links that are new.
    pub linked: Vec<NodePath>,
    /// Links that are gone.
    pub unlinked: Vec<NodePath>,
    /// Names that could not be linked, each with its reason.
    pub failed: Vec<(NodePath, NamespaceError)>,
    /// Users and groups, where they were asked for.
    pub accounts: Option<Accounts>,
}

/// What became of a job.
#[derive(Debug)]
pub enum Outcome {
    /// It is done, or failed as a whole.
    Done {
        /// Whose.
        instance: InstanceId,
        /// What came of it.
        result: Result<Report, NamespaceError>,
    },
    /// It has not answered for [`PATIENCE`]. [`Outcome::Done`] follows if it ever does; until then the container takes no
    /// other job.
    Stuck {
        /// Whose.
        instance: InstanceId,
    },
}

/// Why something could not be done inside a container.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The process that stood for the container has ended.
    #[error("the container's process {pid} has ended; attach a running one")]
    Gone {
        /// Which.
        pid: i32,
    },
    /// Its `/dev` is the host's.
    #[error(
        "the container's /dev is the host's own, so it sees every device there already; give it a /dev of its own"
    )]
    HostsDev,
    /// A FUSE is mounted on its `/dev`.
    #[error(
        "the container has mounted {fs} on its /dev, which need not ever answer; unmount it inside and attach again"
    )]
    Fuse {
        /// The type of file system.
        fs: String,
    },
    /// Something of the container's is at the path.
    #[error(
        "/dev/{path} exists in the container and is not the broker's; remove it inside, it is tried again"
    )]
    Exists {
        /// Below `/dev`.
        path: String,
    },
    /// A folder on the way is a symbolic link, a file or a mount.
    #[error("the way to /dev/{path} in the container is no plain folder; remove what is in its place inside")]
    Blocked {
        /// Below `/dev`.
        path: String,
    },
    /// The container has used up its `/dev`.
    #[error(
        "the container's /dev is full, /dev/{path} cannot be made; remove files there, it is tried again"
    )]
    Full {
        /// Below `/dev`.
        path: String,
    },
    /// A folder on the way could not be noted as ours, so it was not made.
    #[error(
        "cannot note that the folder /dev/{path} is the broker's: {source}; it was not made, and is tried again"
    )]
    Unrecorded {
        /// Below `/dev`.
        path: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The bind was made and is not to be seen.
    #[error(
        "/dev/.devbroker was bound in the container and is not visible there; detach and attach it again"
    )]
    Invisible,
    /// Users and groups could not be read.
    #[error(transparent)]
    Accounts(#[from] AccountsError),
    /// Any other failure of a system call.
    #[error("cannot {operation} {path} in the container: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl NamespaceError {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the kernel's errors are not ours to list"
    )]
    fn of(operation: &'static str, path: &str, errno: Errno) -> Self {
        let path = path.to_owned();
        match errno {
            Errno::EEXIST => Self::Exists { path },
            Errno::ELOOP | Errno::ENOTDIR | Errno::EXDEV => Self::Blocked { path },
            Errno::ENOSPC | Errno::EDQUOT => Self::Full { path },
            errno => Self::Io {
                operation,
                path,
                source: errno.into(),
            },
        }
    }
}
