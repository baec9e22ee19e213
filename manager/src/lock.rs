//! Locks on containers, which end with the process that holds them.
//!
//! `verb` is held by a command that changes a container, `run` by its supervisor for as long as it lives: whoever gets
//! `run` knows that nobody supervises the container.

use crate::atomic;
use crate::layout::Layout;
use crate::make::base::BaseId;
use crate::run::hold::{self, HoldError};
use devbroker::model::ContainerName;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// A lock that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// The file cannot be used.
    #[error("cannot lock {}: {source}; ctm has to run as root", .path.display())]
    Io { path: PathBuf, source: io::Error },
    /// Another command has it, and waiting was not wanted.
    #[error("{holder} is at work on container {name}; it was not waited for")]
    Held { name: ContainerName, holder: String },
    /// What a command that was killed had begun cannot be taken back.
    #[error(
        "a command on container {name} was killed while it held it still, and it cannot be let go: {source}; write 0 to the cgroup.freeze of \
         its cgroup and remove {}", .held.display()
    )]
    Mend {
        name: ContainerName,
        held: PathBuf,
        source: Box<HoldError>,
    },
}

/// How long a command waits for another before it says so.
const MOMENT: Duration = Duration::from_millis(500);

/// Whether commands that find another at work on a container fail instead of waiting: what `--no-wait` says.
static IMPATIENT: AtomicBool = AtomicBool::new(false);

/// From now on a lock that another command has is an error.
pub(crate) fn do_not_wait() {
    IMPATIENT.store(true, Ordering::Relaxed);
}

/// A held lock.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
}

/// Whether others may hold a lock as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    Shared,
    Alone,
}

impl Sharing {
    const fn operation(self) -> FlockOperation {
        match self {
            Self::Shared => FlockOperation::LockShared,
            Self::Alone => FlockOperation::LockExclusive,
        }
    }
}

impl Lock {
    /// Holds it together with others, or alone, from now on; waits until that can be.
    pub(crate) fn share(&self, sharing: Sharing) -> Result<(), LockError> {
        loop {
            match flock(&self.file, sharing.operation()) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => {
                    return Err(LockError::Io {
                        path: self.path.clone(),
                        source: e.into(),
                    });
                }
            }
        }
    }
}

fn open(layout: &Layout, folder: &str, file: &str) -> Result<(File, PathBuf), LockError> {
    let folder = layout.run.join(folder);
    let path = folder.join(file);
    let made = atomic::folder(&layout.run, 0o700)
        .and_then(|()| atomic::folder(&folder, 0o700))
        .and_then(|()| {
            File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
        });
    match made {
        Ok(file) => Ok((file, path)),
        Err(source) => Err(LockError::Io { path, source }),
    }
}

/// Takes the lock of who adds up what all containers are guaranteed.
pub(crate) fn guarantees(layout: &Layout) -> Result<Lock, LockError> {
    wait(layout, ".guarantees", "sum", Sharing::Alone)
}

fn wait(layout: &Layout, folder: &str, file: &str, sharing: Sharing) -> Result<Lock, LockError> {
    let (file, path) = open(layout, folder, file)?;
    let lock = Lock { file, path };
    lock.share(sharing)?;
    Ok(lock)
}

/// Takes the lock of commands that change a container. If another has it, says after a moment which, and waits for it.
pub(crate) fn verb(layout: &Layout, name: &ContainerName) -> Result<Lock, LockError> {
    let (file, path) = open(layout, ".verb", name.as_str())?;
    let failed = |source: io::Error| LockError::Io {
        path: path.clone(),
        source,
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) if IMPATIENT.load(Ordering::Relaxed) => {
            return Err(LockError::Held {
                name: name.clone(),
                holder: holder(&file),
            });
        }
        Err(Errno::WOULDBLOCK) => wait_aloud(&file, name).map_err(failed)?,
        Err(e) => return Err(failed(e.into())),
    }
    // For those that wait; that it cannot be said is no reason not to go on.
    file.set_len(0)
        .and_then(|()| write!(&file, "{}", std::process::id()))
        .ok();
    mended(layout, name, Lock { file, path })
}

/// Takes back what whoever had a container's lock before was killed in the middle of.
fn mended(layout: &Layout, name: &ContainerName, lock: Lock) -> Result<Lock, LockError> {
    let folder = layout.run_of(name);
    hold::mend(&folder).map_err(|source| LockError::Mend {
        name: name.clone(),
        held: folder.held(),
        source: Box::new(source),
    })?;
    Ok(lock)
}

fn wait_aloud(file: &File, name: &ContainerName) -> io::Result<()> {
    let (done, waiting) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // The channel is closed as soon as we have the lock.
            if waiting.recv_timeout(MOMENT) == Err(mpsc::RecvTimeoutError::Timeout) {
                let holder = holder(file);
                writeln!(
                    io::stderr(),
                    "ctm: {holder} is at work on container {name}; waiting for it"
                )
                .ok();
            }
        });
        let locked = loop {
            match flock(file, FlockOperation::LockExclusive) {
                Err(Errno::INTR) => {}
                result => break result,
            }
        };
        drop(done);
        Ok(locked?)
    })
}

/// Who has a lock: the command line of the process that has written its number there.
fn holder(mut file: &File) -> String {
    let mut number = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut number));
    let line = read
        .ok()
        .and_then(|_| number.trim().parse::<u32>().ok())
        .and_then(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).ok());
    match line {
        Some(line) => {
            let words = String::from_utf8_lossy(&line).replace('\0', " ");
            format!("`{}` (process {})", words.trim(), number.trim())
        }
        None => "another command".into(),
    }
}

/// Waits for the lock under which host ids are chosen.
pub(crate) fn ids(layout: &Layout) -> Result<Lock, LockError> {
    wait(layout, ".ids", "ids", Sharing::Alone)
}

/// Waits for the lock under which projects of disk quotas are chosen.
pub(crate) fn projects(layout: &Layout) -> Result<Lock, LockError> {
    wait(layout, ".ids", "projects", Sharing::Alone)
}

/// Waits for the lock of a base system: alone to make or remove it, shared to make a container on it.
pub(crate) fn base(layout: &Layout, id: &BaseId, sharing: Sharing) -> Result<Lock, LockError> {
    wait(layout, ".base", id.as_str(), sharing)
}

/// The lock of a base system, alone, unless someone has it.
pub(crate) fn base_if_free(layout: &Layout, id: &BaseId) -> Result<Option<Lock>, LockError> {
    if_free(layout, ".base", id.as_str())
}

/// The lock of commands that change a container, unless someone has it.
pub(crate) fn verb_if_free(layout: &Layout, name: &ContainerName) -> Result<Option<Lock>, LockError> {
    if_free(layout, ".verb", name.as_str())?
        .map(|lock| mended(layout, name, lock))
        .transpose()
}

/// The supervisor's lock, unless someone has it.
pub(crate) fn run(layout: &Layout, name: &ContainerName) -> Result<Option<Lock>, LockError> {
    if_free(layout, ".supervisor", name.as_str())
}

fn if_free(layout: &Layout, folder: &str, file: &str) -> Result<Option<Lock>, LockError> {
    let (file, path) = open(layout, folder, file)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(Lock { file, path })),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(LockError::Io {
            path,
            source: e.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

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

    /// No command could do anything with the container: what helps is said.
    #[test]
    fn what_cannot_be_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout {
            run: dir.path().join("run"),
            ..Layout::default()
        };
        let name = "a".parse().unwrap();
        let held = layout.run_of(&name).held();
        fs::create_dir_all(layout.run_of(&name).path()).unwrap();
        fs::write(&held, "{").unwrap();
        let said = verb(&layout, &name).unwrap_err().to_string();
        assert!(
            said.contains("cgroup.freeze") && said.ends_with(&format!("remove {}", held.display())),
            "{said}"
        );
        fs::remove_file(&held).unwrap();
        drop(verb(&layout, &name).unwrap());
    }
}
