//! Learns that files of configuration, or others of one extension, have changed.
//!
//! Owns an inotify descriptor on the folders, or where one is not there yet on the nearest folder above it. Says only
//! *that* something changed; what it was the loader finds out.

use inotify::{Inotify, WatchDescriptor, WatchMask};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A folder cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {} for changes: {source}; changes take effect at the next reload (SIGHUP)", path.display())]
pub struct WatchError {
    path: PathBuf,
    source: io::Error,
}

/// What a watch of ours looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Watched {
    /// A folder of configuration.
    Folder(PathBuf),
    /// A folder above one that is not there, and the name that is waited for.
    Above(PathBuf, PathBuf),
}

/// Watches folders of configuration.
#[derive(Debug)]
pub struct ConfigWatch {
    inotify: Inotify,
    folders: Vec<PathBuf>,
    extension: &'static str,
    watched: BTreeMap<i32, Watched>,
}

/// A file's content is complete, or a file is gone; or the folder itself is.
fn changes() -> WatchMask {
    WatchMask::CLOSE_WRITE
        | WatchMask::MOVED_TO
        | WatchMask::MOVED_FROM
        | WatchMask::DELETE
        | WatchMask::CREATE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR
}

impl ConfigWatch {
    /// Watches these folders for `*.toml`, whether they are there or not. Make it, then load: in this order nothing is missed.
    pub fn new(folders: &[&Path]) -> Result<Self, WatchError> {
        Self::of(folders, "toml")
    }

    /// The same for files of another extension.
    pub fn of(folders: &[&Path], extension: &'static str) -> Result<Self, WatchError> {
        let inotify = Inotify::init().map_err(|source| WatchError {
            path: folders.first().map_or_else(PathBuf::new, |path| (*path).into()),
            source,
        })?;
        let mut watch = Self {
            inotify,
            folders: folders.iter().map(|path| (*path).into()).collect(),
            extension,
            watched: BTreeMap::new(),
        };
        watch.arm()?;
        Ok(watch)
    }

    /// Watches each folder that is not watched. Whether one has come that was not there before.
    fn arm(&mut self) -> Result<bool, WatchError> {
        let mut come = false;
        for folder in self.folders.clone() {
            let mut missing: Option<PathBuf> = None;
            // From the folder upwards; the root is always there.
            for path in folder.ancestors() {
                let mask = if missing.is_none() {
                    changes()
                } else {
                    WatchMask::CREATE
                        | WatchMask::MOVED_TO
                        | WatchMask::DELETE_SELF
                        | WatchMask::MOVE_SELF
                        | WatchMask::ONLYDIR
                        | WatchMask::MASK_ADD
                };
                match self.inotify.watches().add(path, mask) {
                    Ok(descriptor) => {
                        let what = match missing {
                            None => Watched::Folder(folder.clone()),
                            Some(name) => Watched::Above(path.into(), name),
                        };
                        let number = descriptor.get_watch_descriptor_id();
                        if self.watched.get(&number) != Some(&what) {
                            come |= matches!(what, Watched::Folder(_));
                            // One folder may be above two that are not there: the first has the entry, and `arm` runs
                            // for all of them at any of its events.
                            if matches!(what, Watched::Folder(_)) || !self.watched.contains_key(&number) {
                                self.watched.insert(number, what);
                            }
                        }
                        break;
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                        missing = Some(path.into());
                    }
                    Err(source) => {
                        return Err(WatchError {
                            path: path.into(),
                            source,
                        });
                    }
                }
            }
        }
        Ok(come)
    }

    /// Takes up what has happened since the last call: whether the configuration is to be loaded again. Lost events count
    /// as a change.
    pub fn changed(&mut self) -> Result<bool, WatchError> {
        let mut buffer = [0; 4096];
        let mut changed = false;
        let mut moved = false;
        loop {
            let events = match self.inotify.read_events(&mut buffer) {
                Ok(events) => events,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(WatchError {
                        path: self.folders.first().cloned().unwrap_or_default(),
                        source,
                    });
                }
            };
            let mut none = true;
            for event in events {
                none = false;
                let number = event.wd.get_watch_descriptor_id();
                if event.mask.contains(inotify::EventMask::Q_OVERFLOW) {
                    (changed, moved) = (true, true);
                } else if event.mask.contains(inotify::EventMask::IGNORED) {
                    moved |= self.watched.remove(&number).is_some();
                } else {
                    match self.watched.get(&number) {
                        Some(Watched::Folder(folder)) => {
                            let gone = inotify::EventMask::DELETE_SELF | inotify::EventMask::MOVE_SELF;
                            if event.mask.intersects(gone) {
                                (changed, moved) = (true, true);
                                self.watched.remove(&number);
                                forget(&self.inotify, event.wd);
                            } else {
                                let fresh = event.mask.contains(inotify::EventMask::CREATE);
                                changed |= event
                                    .name
                                    .is_some_and(|name| matters(folder, name, self.extension, fresh));
                            }
                        }
                        Some(Watched::Above(..)) => moved = true,
                        None => {}
                    }
                }
            }
            if none {
                break;
            }
        }
        if moved {
            self.watched.retain(|_, what| matches!(what, Watched::Folder(_)));
            changed |= self.arm()?;
        }
        Ok(changed)
    }
}

/// Ends a watch whose folder has been moved away. It may be gone already.
fn forget(inotify: &Inotify, descriptor: WatchDescriptor) {
    inotify.watches().remove(descriptor).ok();
}

/// Whether an event of this name is one of configuration. A file that has just been made is not complete, unless it is
/// a link, symbolic or hard, which nobody closes.
fn matters(folder: &Path, name: &OsStr, extension: &str, fresh: bool) -> bool {
    let hidden = name.as_encoded_bytes().starts_with(b".");
    let name_fits = !hidden && Path::new(name).extension() == Some(extension.as_ref());
    let complete = || match folder.join(name).symlink_metadata() {
        Ok(about) => !about.is_file() || about.nlink() > 1,
        Err(_) => true,
    };
    name_fits && (!fresh || complete())
}

impl AsFd for ConfigWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl AsRawFd for ConfigWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;

    #[test]
    fn complete_changes_of_configuration_files() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("conf.d");
        fs::create_dir(&folder).unwrap();
        let file = folder.join("a.toml");
        let mut watch = ConfigWatch::new(&[&folder]).unwrap();
        assert!(!watch.changed().unwrap());
        let mut open = fs::File::create(&file).unwrap();
        open.write_all(b"[").unwrap();
        assert!(!watch.changed().unwrap(), "not complete yet");
        drop(open);
        assert!(watch.changed().unwrap());
        assert!(!watch.changed().unwrap());
        fs::write(folder.join(".a.toml.swp"), "").unwrap();
        fs::write(folder.join(".a.toml"), "").unwrap();
        fs::write(folder.join("notes"), "").unwrap();
        assert!(!watch.changed().unwrap(), "not configuration");
        fs::rename(&file, folder.join("b.toml")).unwrap();
        assert!(watch.changed().unwrap());
        fs::rename(folder.join("notes"), folder.join("c.toml")).unwrap();
        assert!(watch.changed().unwrap());
        std::os::unix::fs::symlink("/dev/null", folder.join("d.toml")).unwrap();
        assert!(watch.changed().unwrap());
        fs::hard_link(folder.join("c.toml"), folder.join("e.toml")).unwrap();
        assert!(watch.changed().unwrap());
        fs::remove_file(folder.join("b.toml")).unwrap();
        assert!(watch.changed().unwrap());
        assert!(!watch.changed().unwrap());
    }

    #[test]
    fn files_of_another_extension() {
        let root = tempfile::tempdir().unwrap();
        let mut watch = ConfigWatch::of(&[root.path()], "json").unwrap();
        fs::write(root.path().join("a.toml"), "").unwrap();
        assert!(!watch.changed().unwrap());
        fs::write(root.path().join(".ctm:a.json"), "").unwrap();
        assert!(!watch.changed().unwrap());
        fs::rename(root.path().join(".ctm:a.json"), root.path().join("ctm:a.json")).unwrap();
        assert!(watch.changed().unwrap());
    }

    #[test]
    fn folders_that_come_and_go() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) = (root.path().join("x/one/conf.d"), root.path().join("x/two/conf.d"));
        let mut watch = ConfigWatch::new(&[&one, &two]).unwrap();
        assert!(!watch.changed().unwrap());
        fs::create_dir_all(&one).unwrap();
        assert!(watch.changed().unwrap());
        fs::create_dir_all(two.parent().unwrap()).unwrap();
        assert!(!watch.changed().unwrap());
        fs::create_dir_all(&two).unwrap();
        assert!(watch.changed().unwrap());
        for folder in [&one, &two] {
            fs::write(folder.join("a.toml"), "").unwrap();
            assert!(watch.changed().unwrap(), "{}", folder.display());
        }
        // Moved away, and another one in its place.
        fs::rename(&one, root.path().join("old")).unwrap();
        assert!(watch.changed().unwrap());
        fs::write(root.path().join("old/b.toml"), "").unwrap();
        assert!(!watch.changed().unwrap());
        fs::create_dir(&one).unwrap();
        assert!(watch.changed().unwrap());
        fs::write(one.join("a.toml"), "").unwrap();
        assert!(watch.changed().unwrap());
        fs::remove_dir_all(&two).unwrap();
        assert!(watch.changed().unwrap());
        fs::create_dir(&two).unwrap();
        assert!(watch.changed().unwrap());
    }
}
