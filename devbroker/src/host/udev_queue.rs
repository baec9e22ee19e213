//! Learns when udev has worked off its queue.
//!
//! Owns an inotify descriptor on `/run/udev`. udevd makes the file `queue` there when it takes up an event and removes it
//! when none is left.

use inotify::{Inotify, WatchMask};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

/// udev's run-time folder cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {folder} for udev's queue: {source}; is systemd-udevd running?")]
pub struct QueueError {
    folder: String,
    source: io::Error,
}

/// Watches for the end of udev's queue. Make it, then ask [`super::sysfs::Reader::queue_is_busy`]: in this order nothing is
/// missed.
#[derive(Debug)]
pub struct QueueWatch {
    inotify: Inotify,
    folder: String,
}

impl QueueWatch {
    /// Watches the host's `/run/udev`.
    pub fn new() -> Result<Self, QueueError> {
        Self::of(Path::new("/run/udev"))
    }

    /// Watches another folder, for tests.
    pub fn of(folder: &Path) -> Result<Self, QueueError> {
        let failed = |source| QueueError {
            folder: folder.display().to_string(),
            source,
        };
        let inotify = Inotify::init().map_err(failed)?;
        inotify
            .watches()
            .add(
                folder,
                WatchMask::DELETE | WatchMask::MOVED_FROM | WatchMask::ONLYDIR,
            )
            .map_err(failed)?;
        Ok(Self {
            inotify,
            folder: folder.display().to_string(),
        })
    }

    /// Takes up what has happened since the last call: whether the queue has been worked off at least once.
    pub fn drained(&mut self) -> Result<bool, QueueError> {
        let mut buffer = [0; 4096];
        let mut drained = false;
        loop {
            match self.inotify.read_events(&mut buffer) {
                Ok(events) => {
                    let mut none = true;
                    for event in events {
                        none = false;
                        // An overflow names no file, and may have swallowed the one waited for.
                        drained |= event.name.is_none_or(|name| name == "queue");
                    }
                    if none {
                        return Ok(drained);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(drained),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(QueueError {
                        folder: self.folder.clone(),
                        source,
                    });
                }
            }
        }
    }
}

impl AsFd for QueueWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl AsRawFd for QueueWatch {
    fn as_raw_fd(&self) -> i32 {
        self.inotify.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_end_of_the_queue_is_seen_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = QueueWatch::of(folder.path()).unwrap();
        assert!(!watch.drained().unwrap());
        fs::write(folder.path().join("control"), "").unwrap();
        fs::remove_file(folder.path().join("control")).unwrap();
        fs::write(folder.path().join("queue"), "").unwrap();
        assert!(!watch.drained().unwrap());
        fs::remove_file(folder.path().join("queue")).unwrap();
        assert!(watch.drained().unwrap());
        assert!(!watch.drained().unwrap());
        let gone = QueueWatch::of(Path::new("/nonexistent/udev")).unwrap_err();
        assert_eq!(
            gone.to_string(),
            "cannot watch /nonexistent/udev for udev's queue: No such file or directory (os error 2); is systemd-udevd running?"
        );
    }
}
