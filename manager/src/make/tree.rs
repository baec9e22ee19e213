//! Files put into a root file system from outside, while nobody runs in it. The tree may be hostile: every path is resolved
//! within it, the last step follows no link, and no mount is entered.

use crate::ids::Ids;
use crate::lookup;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, fchmod, fchown, fstat, mkdirat,
    openat, renameat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

/// The largest file that is read.
const MAX_READ: u64 = 1 << 20;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {} in the root file system: {source}", .path.display())]
pub(crate) struct TreeError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed<'a, E: Into<io::Error>>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(E) -> TreeError + use<'a, E> {
    move |source| TreeError {
        what,
        path: path.into(),
        source: source.into(),
    }
}

/// Owner and mode of a file, the ids as the container has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Owned {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
}

impl Owned {
    /// The container's root's.
    pub(crate) const fn by_root(mode: u32) -> Self {
        Self { uid: 0, gid: 0, mode }
    }
}

/// A root file system.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    ids: Ids,
}

impl Tree {
    /// Takes hold of the root file system of a container with these ids.
    pub(crate) fn open(rootfs: &Path, ids: Ids) -> Result<Self, TreeError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = openat(CWD, rootfs, flags, Mode::empty()).map_err(failed("open", rootfs))?;
        Ok(Self { root, ids })
    }

    fn host(&self, id: u32) -> u32 {
        match self.ids {
            Ids::Host => id,
            Ids::Block(block) => block.first.saturating_add(id.min(block.count.saturating_sub(1))),
        }
    }

    fn owner(&self, owned: Owned) -> (Option<Uid>, Option<Gid>) {
        (
            Some(Uid::from_raw(self.host(owned.uid))),
            Some(Gid::from_raw(self.host(owned.gid))),
        )
    }

    /// A folder or file below the root; links on the way are followed within it.
    fn resolved(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        lookup::open(
            &self.root,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV,
        )
    }

    /// The folder that a path lies in, made where it is missing, and the path's last part.
    fn place(&self, path: &Path) -> Result<(OwnedFd, OsString), TreeError> {
        let (above, name) = parts(path).ok_or_else(|| failed("name", path)(Errno::INVAL))?;
        let mut so_far = PathBuf::new();
        let folder = |at: &Path| self.resolved(at, OFlags::PATH | OFlags::DIRECTORY);
        let mut held = folder(Path::new("")).map_err(failed("open", path))?;
        for part in &above {
            so_far.push(part);
            held = match folder(&so_far) {
                Err(Errno::NOENT) => {
                    mkdirat(&held, part.as_os_str(), Mode::from_raw_mode(0o755))
                        .map_err(failed("make a folder for", path))?;
                    let (uid, gid) = self.owner(Owned::by_root(0o755));
                    chownat(&held, part.as_os_str(), uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                        .map_err(failed("make a folder for", path))?;
                    folder(&so_far).map_err(failed("open a folder for", path))?
                }
                result => result.map_err(failed("open a folder for", path))?,
            };
        }
        Ok((held, name))
    }

    /// Has the file `path` hold these bytes, in place of whatever is there.
    pub(crate) fn write(&self, path: &Path, bytes: &[u8], owned: Owned) -> Result<(), TreeError> {
        let (folder, name) = self.place(path)?;
        let new = temporary(&name);
        let done = self.fill(&folder, &new, bytes, owned);
        let done = done.and_then(|()| Ok(renameat(&folder, &new, &folder, &name)?));
        if done.is_err() {
            // The first error says more than one of this removal would.
            unlinkat(&folder, &new, AtFlags::empty()).ok();
        }
        done.map_err(failed("write", path))
    }

    fn fill(&self, folder: &OwnedFd, name: &OsStr, bytes: &[u8], owned: Owned) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(folder, name, flags, Mode::from_raw_mode(0o600))?);
        file.write_all(bytes)?;
        let (uid, gid) = self.owner(owned);
        fchown(&file, uid, gid)?;
        fchmod(&file, Mode::from_raw_mode(owned.mode))?;
        Ok(())
    }

    /// Has `path` be a link, in place of whatever is there.
    pub(crate) fn link(&self, path: &Path, target: &Path) -> Result<(), TreeError> {
        let (folder, name) = self.place(path)?;
        let new = temporary(&name);
        symlinkat(target, &folder, &new).map_err(failed("link", path))?;
        let (uid, gid) = self.owner(Owned::by_root(0o777));
        let done = chownat(&folder, &new, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .and_then(|()| renameat(&folder, &new, &folder, &name));
        if done.is_err() {
            unlinkat(&folder, &new, AtFlags::empty()).ok();
        }
        done.map_err(failed("link", path))
    }

    /// Removes a file or link; nothing to do if there is none.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), TreeError> {
        let Some((above, name)) = parts(path) else {
            return Err(failed("name", path)(Errno::INVAL));
        };
        let removed = self
            .resolved(
                &above.iter().collect::<PathBuf>(),
                OFlags::PATH | OFlags::DIRECTORY,
            )
            .and_then(|folder| unlinkat(&folder, &name, AtFlags::empty()));
        match removed {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            result => result.map_err(failed("remove", path)),
        }
    }

    /// Whether there is something by that name, were it a link to nowhere.
    pub(crate) fn has(&self, path: &Path) -> bool {
        parts(path).is_some_and(|(above, name)| {
            self.resolved(
                &above.iter().collect::<PathBuf>(),
                OFlags::PATH | OFlags::DIRECTORY,
            )
            .and_then(|folder| statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW))
            .is_ok()
        })
    }

    /// The text of a file and how it is owned, by the host's ids; none if there is no regular file of a sensible size.
    pub(crate) fn read(&self, path: &Path) -> Option<(String, Owned)> {
        // Not blocking, should it be a pipe.
        let file = self
            .resolved(
                &relative(path)?,
                OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
            )
            .ok()?;
        let stat = fstat(&file).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return None;
        }
        let mut text = String::new();
        File::from(file).take(MAX_READ).read_to_string(&mut text).ok()?;
        let inside = |id: u32| match self.ids {
            Ids::Host => id,
            Ids::Block(block) => id.saturating_sub(block.first),
        };
        let owned = Owned {
            uid: inside(stat.st_uid),
            gid: inside(stat.st_gid),
            mode: stat.st_mode & 0o7777,
        };
        Some((text, owned))
    }

    /// The names in a folder, sorted; none if it is not there.
    pub(crate) fn names(&self, path: &Path) -> Vec<String> {
        let listed = relative(path).and_then(|path| {
            let folder = self.resolved(&path, OFlags::RDONLY | OFlags::DIRECTORY).ok()?;
            rustix::fs::Dir::new(folder).ok()
        });
        let mut names: Vec<_> = listed
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.file_name().to_str().ok()?.to_owned()))
            .filter(|name| name != "." && name != "..")
            .collect();
        names.sort();
        names
    }
}

/// The parts of a path above its last, and that; none if it is no plain path.
fn parts(path: &Path) -> Option<(Vec<OsString>, OsString)> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) => parts.push(part.to_owned()),
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    let last = parts.pop()?;
    Some((parts, last))
}

fn relative(path: &Path) -> Option<PathBuf> {
    let (above, name) = parts(path)?;
    Some(above.into_iter().chain([name]).collect())
}

fn temporary(name: &OsStr) -> OsString {
    let mut temporary = OsString::from(".ctm-new-");
    temporary.push(name);
    temporary
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let (root, out) = (dir.path().join("root"), dir.path().join("out"));
        fs::create_dir_all(root.join("usr/lib")).unwrap();
        fs::create_dir(&out).unwrap();
        fs::write(out.join("file"), "old").unwrap();
        symlink("usr/lib", root.join("lib")).unwrap();
        symlink(&out, root.join("etc")).unwrap();
        symlink("../../../../../..", root.join("up")).unwrap();
        symlink(out.join("file"), root.join("usr/file")).unwrap();
        let tree = Tree::open(&root, Ids::Host).unwrap();
        let own = fs::metadata(&root).unwrap();
        let own = Owned {
            uid: std::os::unix::fs::MetadataExt::uid(&own),
            gid: std::os::unix::fs::MetadataExt::gid(&own),
            mode: 0o640,
        };
        tree.write(Path::new("/lib/a"), b"x", own).unwrap();
        assert_eq!(fs::read(root.join("usr/lib/a")).unwrap(), b"x");
        assert_eq!(tree.read(Path::new("/lib/a")).unwrap(), ("x".into(), own));
        // Links to outside are taken for what they are within, and the last step is replaced.
        assert!(tree.write(Path::new("/etc/file"), b"new", own).is_err());
        tree.write(Path::new("/usr/file"), b"new", own).unwrap();
        tree.write(Path::new("/up/b"), b"new", own).unwrap();
        assert_eq!(fs::read(out.join("file")).unwrap(), b"old");
        assert_eq!(fs::read(root.join("usr/file")).unwrap(), b"new");
        assert!(root.join("b").exists());
        assert!(tree.write(Path::new("/usr/../c"), b"new", own).is_err());
        assert_eq!(tree.read(Path::new("/etc/file")), None);
        tree.remove(Path::new("/etc/file")).unwrap();
        assert!(out.join("file").exists());
        assert!(tree.has(Path::new("/etc")) && !tree.has(Path::new("/etc/file")));
        assert_eq!(tree.names(Path::new("/usr")), ["file", "lib"]);
        assert!(tree.names(Path::new("/etc")).is_empty());
    }
}
