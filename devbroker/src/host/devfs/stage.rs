//! `stage/`: names that only the host can reach. `n7` is the broker's hold on a node, `t7` something on its way in or out.

use super::{Devfs, DevfsError, acl};
use crate::model::{DevKind, DevNum};
use crate::permissions::HostPerms;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstatat, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};
use std::collections::BTreeSet;

/// The name of a node in `stage/`.
pub(super) fn node_name(number: u64) -> String {
    format!("n{number}")
}

impl Devfs {
    /// Learns which inodes have a name in `stage/`.
    pub(super) fn read_stage(&mut self) -> nix::Result<()> {
        for (name, ino) in self.stage_entries()? {
            let Some((_, number)) = name.split_at_checked(1) else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            self.next.set(self.next.get().max(number.saturating_add(1)));
            if name.starts_with('n') {
                self.kept.insert(ino, number);
            }
        }
        Ok(())
    }

    fn stage_entries(&self) -> nix::Result<Vec<(String, u64)>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut dir = Dir::from_fd(openat(&self.stage, ".", flags, Mode::empty())?)?;
        let entries = dir.iter().collect::<nix::Result<Vec<_>>>()?;
        Ok(entries
            .iter()
            .filter_map(|entry| Some((entry.file_name().to_str().ok()?.to_owned(), entry.ino())))
            .filter(|(name, _)| name != "." && name != "..")
            .collect())
    }

    /// A number that no name in `stage/` has, as far as this process knows.
    pub(super) fn number(&self) -> u64 {
        let number = self.next.get();
        self.next.set(number + 1);
        number
    }

    /// Makes a node in `stage/` and finishes it. Returns its inode and its number there; on failure nothing is left.
    pub(super) fn prepare(
        &self,
        path: &str,
        devnum: DevNum,
        perms: &HostPerms,
    ) -> Result<(u64, u64), DevfsError> {
        let kind = match devnum.kind {
            DevKind::Block => SFlag::S_IFBLK,
            DevKind::Char => SFlag::S_IFCHR,
        };
        let (number, name) = loop {
            let number = self.number();
            let name = node_name(number);
            match mknodat(&self.stage, name.as_str(), kind, Mode::empty(), devnum.dev()) {
                Ok(()) => break (number, name),
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(DevfsError::of("make the node", path, errno)),
            }
        };
        let finished = self.finish(path, &name, perms);
        match finished {
            Ok(stat) => Ok((stat.st_ino, number)),
            Err(error) => {
                // It was never seen by anyone; a name that stays is swept at the next start.
                unlinkat(&self.stage, name.as_str(), UnlinkatFlags::NoRemoveDir).ok();
                Err(error)
            }
        }
    }

    fn finish(&self, path: &str, name: &str, perms: &HostPerms) -> Result<FileStat, DevfsError> {
        // mknod made it root's, and what root has stays root's in a container without a user namespace.
        if (perms.uid, perms.gid) != (0, 0) {
            let (uid, gid) = (Uid::from_raw(perms.uid), Gid::from_raw(perms.gid));
            fchownat(
                &self.stage,
                name,
                Some(uid),
                Some(gid),
                AtFlags::AT_SYMLINK_NOFOLLOW,
            )
            .map_err(|errno| DevfsError::of("set the owner of", path, errno))?;
        }
        if !perms.acl.0.is_empty() {
            acl::set(&self.stage, name, &perms.acl).map_err(|source| DevfsError::Io {
                operation: "set the ACL of",
                path: path.into(),
                source,
            })?;
        }
        self.chmod(name, perms.mode)
            .map_err(|errno| DevfsError::of("set the mode of", path, errno))?;
        fstatat(&self.stage, name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|errno| DevfsError::of("look at", path, errno))
    }

    /// Sets the mode of a name in `stage/` (never a link there: only nodes and folders are asked for).
    pub(super) fn chmod(&self, name: &str, mode: u16) -> nix::Result<()> {
        let mode = Mode::from_bits_truncate(libc::mode_t::from(mode & 0o777));
        fchmodat(&self.stage, name, mode, FchmodatFlags::FollowSymlink)
    }

    /// The name in `stage/` of the inode `ino`.
    pub(super) fn kept_name(&self, ino: u64) -> Option<String> {
        self.kept.get(&ino).copied().map(node_name)
    }

    /// Whether the inode `ino` is a node that the broker placed here.
    pub fn is_ours(&self, ino: u64) -> bool {
        self.kept.contains_key(&ino)
    }

    /// Makes every node useless that is ours but not in `known`, and removes what a crash left in `stage/`. Returns the
    /// inodes of the nodes.
    pub fn sweep(&mut self, known: &BTreeSet<u64>) -> Result<Vec<u64>, DevfsError> {
        let unknown: Vec<u64> = self
            .kept
            .keys()
            .copied()
            .filter(|ino| !known.contains(ino))
            .collect();
        for ino in &unknown {
            self.discard(*ino)?;
        }
        let fail = |errno| DevfsError::of("read stage/ of", &self.at.display().to_string(), errno);
        for (name, ino) in self.stage_entries().map_err(fail)? {
            if !name.starts_with('t') {
                continue;
            }
            let is_node = fstatat(&self.stage, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| DevNum::from_stat(stat.st_mode, stat.st_rdev).is_some());
            // One name of a node that is still held goes alone; without a hold, it was being withdrawn.
            if is_node && !self.is_ours(ino) {
                let (_, names) = self.neuter(&name).map_err(|source| DevfsError::Io {
                    operation: "make useless",
                    path: name.clone(),
                    source,
                })?;
                if names > 1 {
                    self.remove_names(&|stat| stat.st_ino == ino);
                }
            }
            // A folder that is not empty was the container's and stays where nobody sees it.
            if unlinkat(&self.stage, name.as_str(), UnlinkatFlags::NoRemoveDir) == Err(Errno::EISDIR) {
                unlinkat(&self.stage, name.as_str(), UnlinkatFlags::RemoveDir).ok();
            }
        }
        Ok(unknown)
    }
}
