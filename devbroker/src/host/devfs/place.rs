//! Making nodes, folders and links appear, each finished and in one step.

use super::stage::node_name;
use super::{Devfs, DevfsError, open_folder};
use crate::model::{DevNum, NodePath};
use crate::permissions::HostPerms;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, RenameFlags, readlinkat, renameat2};
use nix::sys::stat::{Mode, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Something finished that is about to appear. Whoever is told writes it down first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// A folder on the way to what was asked for.
    Folder {
        /// Below `/dev`.
        path: NodePath,
        /// Its inode.
        ino: u64,
    },
    /// The node.
    Node {
        /// Its inode.
        ino: u64,
    },
}

/// Writes down what is about to appear; an error keeps it from appearing.
pub type Record<'a> = &'a mut dyn FnMut(Made) -> io::Result<()>;

/// The folder that a name lies in.
#[derive(Debug)]
pub(super) enum Folder<'a> {
    Top(&'a OwnedFd),
    Below(OwnedFd),
}

impl AsFd for Folder<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Top(fd) => fd.as_fd(),
            Self::Below(fd) => fd.as_fd(),
        }
    }
}

impl Devfs {
    /// The folder that `path` lies in, if it is there.
    pub(super) fn folder(&self, path: &NodePath) -> nix::Result<Folder<'_>> {
        match path.split().0 {
            "" => Ok(Folder::Top(&self.dev)),
            above => open_folder(&self.dev, above).map(Folder::Below),
        }
    }

    /// Makes a node appear at `path`. Folders on the way are made as the container's root would. `record` is told of
    /// each folder and then of the node, before it appears. Returns the node's inode.
    pub fn place(
        &mut self,
        path: &NodePath,
        devnum: DevNum,
        perms: &HostPerms,
        record: Record<'_>,
    ) -> Result<u64, DevfsError> {
        let folder = self.make_folders(path, record)?;
        let (ino, number) = self.prepare(path.as_str(), devnum, perms)?;
        let name = node_name(number);
        let shown = record(Made::Node { ino })
            .map_err(|source| DevfsError::Unrecorded {
                path: path.to_string(),
                source,
            })
            .and_then(|()| {
                let leaf = path.split().1;
                linkat(&self.stage, name.as_str(), &folder, leaf, AtFlags::empty())
                    .map_err(|errno| DevfsError::of("place", path.as_str(), errno))
            });
        if let Err(error) = shown {
            // Nobody saw it; a name that stays is swept at the next start.
            unlinkat(&self.stage, name.as_str(), UnlinkatFlags::NoRemoveDir).ok();
            return Err(error);
        }
        drop(folder);
        self.kept.insert(ino, number);
        Ok(ino)
    }

    /// Makes a symbolic link at `path` with the text `target`, owned by the container's root. Says whether it is new; one
    /// with the same text stays as it is.
    pub fn link(&self, path: &NodePath, target: &str, record: Record<'_>) -> Result<bool, DevfsError> {
        let folder = self.make_folders(path, record)?;
        let fail = |errno| DevfsError::of("link", path.as_str(), errno);
        let name = self.transient();
        symlinkat(target, &self.stage, name.as_str()).map_err(fail)?;
        let made = self.own(&name).and_then(|()| {
            let leaf = path.split().1;
            match renameat2(
                &self.stage,
                name.as_str(),
                &folder,
                leaf,
                RenameFlags::RENAME_NOREPLACE,
            ) {
                Err(Errno::EEXIST)
                    if readlinkat(&folder, leaf).is_ok_and(|text| text.as_os_str() == target) =>
                {
                    unlinkat(&self.stage, name.as_str(), UnlinkatFlags::NoRemoveDir)?;
                    Ok(false)
                }
                done => done.map(|()| true),
            }
        });
        made.map_err(|errno| {
            // Nobody saw it; a name that stays is swept at the next start.
            unlinkat(&self.stage, name.as_str(), UnlinkatFlags::NoRemoveDir).ok();
            fail(errno)
        })
    }

    /// The folder that `path` lies in; what is missing of the way is made.
    fn make_folders(&self, path: &NodePath, record: Record<'_>) -> Result<Folder<'_>, DevfsError> {
        match self.folder(path) {
            Ok(folder) => return Ok(folder),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(DevfsError::of("open the folder of", path.as_str(), errno)),
        }
        for above in path.parents() {
            let fail = |errno| DevfsError::of("make a folder on the way to", path.as_str(), errno);
            match open_folder(&self.dev, above) {
                Ok(_) => continue,
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(fail(errno)),
            }
            let Ok(above) = above.parse::<NodePath>() else {
                continue;
            };
            let name = self.transient();
            let ino = self.prepare_folder(&name).map_err(fail)?;
            let shown = record(Made::Folder {
                path: above.clone(),
                ino,
            })
            .map_err(|source| DevfsError::Unrecorded {
                path: path.to_string(),
                source,
            })
            .and_then(|()| {
                let folder = self.folder(&above).map_err(fail)?;
                let leaf = above.split().1;
                renameat2(
                    &self.stage,
                    name.as_str(),
                    &folder,
                    leaf,
                    RenameFlags::RENAME_NOREPLACE,
                )
                .map_err(fail)
            });
            if let Err(error) = shown {
                // Empty and unseen; a name that stays is swept at the next start.
                unlinkat(&self.stage, name.as_str(), UnlinkatFlags::RemoveDir).ok();
                return Err(error);
            }
        }
        self.folder(path)
            .map_err(|errno| DevfsError::of("open the folder of", path.as_str(), errno))
    }

    fn prepare_folder(&self, name: &str) -> nix::Result<u64> {
        mkdirat(&self.stage, name, Mode::S_IRWXU)?;
        self.own(name)?;
        self.chmod(name, 0o755)?;
        Ok(fstatat(&self.stage, name, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_ino)
    }

    /// Gives a name in `stage/` to the container's root.
    pub(super) fn own(&self, name: &str) -> nix::Result<()> {
        let (uid, gid) = self.root;
        if uid.is_root() && gid.as_raw() == 0 {
            return Ok(());
        }
        fchownat(
            &self.stage,
            name,
            Some(uid),
            Some(gid),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )
    }

    /// A name in `stage/` for something on its way.
    pub(super) fn transient(&self) -> String {
        format!("t{}", self.number())
    }
}
