//! What is at a path now, and what a placed node's permissions are now.

use super::{Devfs, DevfsError, acl};
use crate::model::{DevNum, NodePath};
use crate::permissions::HostPerms;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, readlinkat};
use nix::sys::stat::fstatat;
use nix::unistd::{Gid, Uid, fchownat};

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A device node.
    Node {
        /// Its number.
        devnum: DevNum,
    },
    /// A symbolic link and its text.
    Link(String),
    /// A folder.
    Folder,
    /// A file, FIFO or socket.
    Other,
    /// A folder on the way is something else: a link, a file, a mount.
    Blocked,
}

/// What was seen at a path of the container's `/dev`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What.
    pub kind: Kind,
    /// Its inode; 0 where it is out of reach.
    pub ino: u64,
    /// Whether the broker placed this inode.
    pub ours: bool,
    /// How many names it has; a placed node has one more than the container sees, in `stage/`.
    pub nlink: u64,
    /// Owner on the host.
    pub uid: u32,
    /// Group on the host.
    pub gid: u32,
    /// `mode & 07777`.
    pub mode: u16,
}

impl Devfs {
    /// Looks at a path; `None` if nothing is there.
    pub fn look(&self, path: &NodePath) -> Result<Option<Seen>, DevfsError> {
        let leaf = path.split().1;
        let seen = self.folder(path).and_then(|folder| {
            let stat = fstatat(&folder, leaf, AtFlags::AT_SYMLINK_NOFOLLOW)?;
            let kind = match (
                DevNum::from_stat(stat.st_mode, stat.st_rdev),
                stat.st_mode & libc::S_IFMT,
            ) {
                (Some(devnum), _) => Kind::Node { devnum },
                (None, libc::S_IFLNK) => match readlinkat(&folder, leaf)?.into_string() {
                    Ok(text) => Kind::Link(text),
                    Err(_) => Kind::Other,
                },
                (None, libc::S_IFDIR) => Kind::Folder,
                (None, _) => Kind::Other,
            };
            Ok(Seen {
                kind,
                ino: stat.st_ino,
                ours: self.is_ours(stat.st_ino),
                nlink: stat.st_nlink,
                uid: stat.st_uid,
                gid: stat.st_gid,
                mode: u16::try_from(stat.st_mode & 0o7777).unwrap_or(0),
            })
        });
        match seen {
            Ok(seen) => Ok(Some(seen)),
            Err(Errno::ENOENT) => Ok(None),
            Err(Errno::ELOOP | Errno::ENOTDIR | Errno::EXDEV) => Ok(Some(Seen {
                kind: Kind::Blocked,
                ino: 0,
                ours: false,
                nlink: 0,
                uid: 0,
                gid: 0,
                mode: 0,
            })),
            Err(errno) => Err(DevfsError::of("look at", path.as_str(), errno)),
        }
    }

    /// The permissions that a placed node has now, wherever the container may have moved it; `None` if it is not ours.
    pub fn permissions(&self, ino: u64) -> Result<Option<HostPerms>, DevfsError> {
        let Some(name) = self.kept_name(ino) else {
            return Ok(None);
        };
        let fail = |source| DevfsError::Io {
            operation: "look at",
            path: name.clone(),
            source,
        };
        let stat = fstatat(&self.stage, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|errno| fail(errno.into()))?;
        let acl = acl::get(&self.stage, &name).map_err(fail)?;
        let mode = u16::try_from(stat.st_mode & 0o777).unwrap_or(0);
        Ok(Some(HostPerms {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode,
            acl,
        }))
    }

    /// Sets what is given on a placed node; the rest stays as the container has it. Says whether the node is ours.
    pub fn permit(
        &self,
        ino: u64,
        uid: Option<u32>,
        gid: Option<u32>,
        mode: Option<u16>,
    ) -> Result<bool, DevfsError> {
        let Some(name) = self.kept_name(ino) else {
            return Ok(false);
        };
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        if uid.is_some() || gid.is_some() {
            fchownat(&self.stage, name.as_str(), uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
                .map_err(|errno| DevfsError::of("set the owner of", &name, errno))?;
        }
        if let Some(mode) = mode {
            self.chmod(&name, mode)
                .map_err(|errno| DevfsError::of("set the mode of", &name, errno))?;
        }
        Ok(true)
    }
}
