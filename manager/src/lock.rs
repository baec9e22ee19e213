//! Locks on containers, which end with the process that holds them.
//!
//! `verb` is held by a command that changes a container, `run` by its supervisor for as long as it lives: whoever gets
//! `run` knows that nobody supervises the container.

use crate::atomic;
use crate::layout::Layout;
use devbroker::model::ContainerName;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::path::PathBuf;

/// A lock that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot lock {}: {source}; ctm has to run as root", .path.display())]
pub(crate) struct LockError {
    path: PathBuf,
    source: io::Error,
}

/// A held lock.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held for its drop")] File);

fn open(layout: &Layout, folder: &str, file: &str) -> Result<(File, PathBuf), LockError> {
    let folder = layout.run.join(folder);
    let path = folder.join(file);
    let made = atomic::folder(&layout.run, 0o700)
        .and_then(|()| atomic::folder(&folder, 0o700))
        .and_then(|()| {
            File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
        });
    match made {
        Ok(file) => Ok((file, path)),
        Err(source) => Err(LockError { path, source }),
    }
}

fn wait(layout: &Layout, folder: &str, file: &str) -> Result<Lock, LockError> {
    let (file, path) = open(layout, folder, file)?;
    loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(Lock(file)),
            Err(Errno::INTR) => {}
            Err(e) => {
                return Err(LockError {
                    path,
                    source: e.into(),
                });
            }
        }
    }
}

/// Waits for the lock of commands that change a container.
pub(crate) fn verb(layout: &Layout, name: &ContainerName) -> Result<Lock, LockError> {
    wait(layout, ".verb", name.as_str())
}

/// Waits for the lock under which host ids are chosen.
pub(crate) fn ids(layout: &Layout) -> Result<Lock, LockError> {
    wait(layout, ".ids", "ids")
}

/// The supervisor's lock, unless someone has it.
pub(crate) fn run(layout: &Layout, name: &ContainerName) -> Result<Option<Lock>, LockError> {
    let (file, path) = open(layout, ".supervisor", name.as_str())?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(Lock(file))),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(LockError {
            path,
            source: e.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_supervisor_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout {
            run: dir.path().join("run"),
            ..Layout::default()
        };
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let held = run(&layout, &a).unwrap().unwrap();
        assert!(run(&layout, &a).unwrap().is_none());
        assert!(run(&layout, &b).unwrap().is_some());
        drop(held);
        assert!(run(&layout, &a).unwrap().is_some());
        drop(verb(&layout, &a).unwrap());
    }
}
