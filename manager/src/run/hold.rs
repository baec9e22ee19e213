//! Holding a container still for a moment, so that whoever is killed meanwhile does not leave it so.
//!
//! Only who has the container's verb lock may hold it still, and writes that down in the run's folder first. Who takes the lock
//! and finds that file there knows by it that the one who wrote it was killed, and lets the container go ([`mend`]) before
//! anything else happens to it: what `ctm pause` stopped is never taken for it. Nobody else has to come for that: the
//! supervisor hears of the file, and takes the lock when the one who wrote it has ended ([`Holds`]).

use crate::layout::{Layout, RunFolder};
use crate::process::ProcessId;
use crate::run::cgroup::{Cgroup, CgroupError};
use crate::{atomic, fail_point, lock};
use devbroker::model::ContainerName;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Instant;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HoldError {
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

fn failed(what: &'static str, folder: &RunFolder) -> impl FnOnce(io::Error) -> HoldError {
    let path = folder.held();
    move |source| HoldError::Io { what, path, source }
}

/// Who holds what still.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Held {
    by: ProcessId,
    cgroup: Cgroup,
}

impl Held {
    fn read(folder: &RunFolder) -> Result<Option<Self>, HoldError> {
        match fs::read(folder.held()) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|e| failed("understand", folder)(e.into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed("read", folder)(e)),
        }
    }
}

/// Does something while all processes of a container stand still, all of them by `deadline`. One that is paused stays so. The
/// caller has the container's verb lock.
pub(crate) fn still<T>(
    folder: &RunFolder,
    cgroup: &Cgroup,
    deadline: Instant,
    act: impl FnOnce() -> T,
) -> Result<T, HoldError> {
    if cgroup.is_frozen() {
        return Ok(act());
    }
    let by = ProcessId::own().map_err(failed("write", folder))?;
    let cgroup = cgroup.clone();
    let held = serde_json::to_vec(&Held {
        by,
        cgroup: cgroup.clone(),
    })
    .map_err(|e| failed("write", folder)(e.into()))?;
    atomic::write(&folder.held(), &held, 0o600).map_err(failed("write", folder))?;
    let done = cgroup.freeze(true, deadline).map(|()| {
        fail_point::reached("held", "still");
        act()
    });
    mend(folder)?;
    Ok(done?)
}

/// Lets a container go that was held still. The caller has its verb lock.
pub(crate) fn mend(folder: &RunFolder) -> Result<(), HoldError> {
    let Some(held) = Held::read(folder)? else {
        return Ok(());
    };
    match held.cgroup.set_frozen(false) {
        // The container has ended.
        Err(error) if error.is_gone() => {}
        result => result?,
    }
    // With it goes what is left of an interrupted writer.
    atomic::remove(&folder.held())
        .map(drop)
        .map_err(failed("remove", folder))
}

/// Who holds a container still, as its supervisor sees it.
#[derive(Debug)]
pub(crate) struct Holds {
    folder: RunFolder,
    /// Tells when a file takes its place in the folder.
    events: OwnedFd,
    by: Option<OwnedFd>,
}

impl Holds {
    /// Of the container with this folder.
    pub(crate) fn of(folder: RunFolder) -> io::Result<Self> {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        inotify::add_watch(&events, folder.path(), WatchFlags::MOVED_TO | WatchFlags::ONLYDIR)?;
        Ok(Self {
            folder,
            events,
            by: None,
        })
    }

    /// What to wait for.
    pub(crate) fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        std::iter::once(&self.events)
            .chain(&self.by)
            .map(|fd| PollFd::new(fd, PollFlags::IN))
    }

    /// Looks again: follows who holds the container, and lets it go where that one has ended.
    pub(crate) fn serve(&mut self, layout: &Layout, name: &ContainerName) {
        if let Err(error) = self.look(layout, name) {
            tracing::warn!(container = %name, %error);
        }
    }

    fn look(&mut self, layout: &Layout, name: &ContainerName) -> Result<(), HoldError> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(&self.events, &mut buffer);
        loop {
            match events.next() {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(e) => return Err(failed("watch", &self.folder)(e.into())),
            }
        }
        let held = Held::read(&self.folder)?;
        self.by = held.as_ref().and_then(|held| held.by.open());
        if held.is_some() && self.by.is_none() {
            // Who takes the lock mends; so has whoever has it now.
            lock::verb_if_free(layout, name)
                .map(drop)
                .map_err(|e| failed("mend", &self.folder)(io::Error::other(e)))?;
        }
        Ok(())
    }
}
