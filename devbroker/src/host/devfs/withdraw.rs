//! Taking away what was placed, and nothing else.

use super::{BENEATH, Devfs, DevfsError, acl};
use crate::model::{DevNum, NodePath};
use crate::permissions::HostPerms;
use nix::NixPath;
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, RenameFlags, openat2, readlinkat, renameat2};
use nix::sys::stat::{FileStat, SFlag, fstatat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// What was found when a node was taken away.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Withdrawn {
    /// Its last owner, group, mode and ACL in the host's ids; `None` if the inode was not found at all.
    pub seen: Option<HostPerms>,
    /// Whether it still lay where it was placed.
    pub in_place: bool,
    /// Other names that the container had given it; they are removed as well.
    pub elsewhere: u32,
    /// Names that were not found in the container's `/dev`. They open nothing any more.
    pub lingering: u64,
}

/// How many names are looked at in search of one that the container moved. The tmpfs' own limit is below that.
const SEARCH_LIMIT: usize = 65_536;

impl Devfs {
    /// Takes the node away that was placed at `path` with inode `ino`: first its name, then owner, ACL and mode, so that
    /// neither another name nor a held descriptor opens anything. Something else at `path` is left alone.
    pub fn withdraw(&mut self, path: &NodePath, ino: u64, devnum: DevNum) -> Result<Withdrawn, DevfsError> {
        let is_it = |stat: &FileStat| {
            stat.st_ino == ino && DevNum::from_stat(stat.st_mode, stat.st_rdev) == Some(devnum)
        };
        let taken = match self.folder(path) {
            Ok(folder) => take_out(self, &folder, path.split().1, &is_it),
            Err(errno) => Err(errno),
        };
        let in_place = match taken {
            Ok(taken) => taken,
            // The container removed or replaced what was there.
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR | Errno::EXDEV) => false,
            Err(errno) => return Err(DevfsError::of("take away", path.as_str(), errno)),
        };
        let mut result = Withdrawn {
            in_place,
            ..Withdrawn::default()
        };
        let Some(name) = self.kept_name(ino) else {
            return Ok(result);
        };
        let fail = |source| DevfsError::Io {
            operation: "make useless",
            path: path.to_string(),
            source,
        };
        let name = self.condemn(ino, &name).map_err(|errno| fail(errno.into()))?;
        let (seen, names) = self.neuter(&name).map_err(fail)?;
        result.seen = Some(seen);
        if names > 1 {
            result.elsewhere = self.remove_names(&is_it);
        }
        result.lingering = (names - 1).saturating_sub(u64::from(result.elsewhere));
        unlinkat(&self.stage, name.as_str(), UnlinkatFlags::NoRemoveDir)
            .map_err(|errno| DevfsError::of("take away", path.as_str(), errno))?;
        Ok(result)
    }

    /// Makes a node of ours useless that has no path we know of, and lets go of it.
    pub(super) fn discard(&mut self, ino: u64) -> Result<(), DevfsError> {
        let Some(name) = self.kept_name(ino) else {
            return Ok(());
        };
        let fail = |source| DevfsError::Io {
            operation: "make useless",
            path: name.clone(),
            source,
        };
        let name = self.condemn(ino, &name).map_err(|errno| fail(errno.into()))?;
        let (_, names) = self.neuter(&name).map_err(fail)?;
        if names > 1 {
            self.remove_names(&|stat| stat.st_ino == ino);
        }
        unlinkat(&self.stage, name.as_str(), UnlinkatFlags::NoRemoveDir)
            .map_err(|errno| fail(errno.into()))?;
        Ok(())
    }

    /// Gives up the hold on a node. Whoever finds its new name in `stage/` after a crash knows that its permissions may be
    /// gone already and are not what the container set.
    fn condemn(&mut self, ino: u64, name: &str) -> nix::Result<String> {
        let condemned = self.transient();
        renameat2(
            &self.stage,
            name,
            &self.stage,
            condemned.as_str(),
            RenameFlags::RENAME_NOREPLACE,
        )?;
        self.kept.remove(&ino);
        Ok(condemned)
    }

    /// Takes all rights from the inode behind a name in `stage/`. Returns what it had and how many names it has. The
    /// container's root cannot give them back once the owner is one that it has no id for.
    pub(super) fn neuter(&self, name: &str) -> io::Result<(HostPerms, u64)> {
        let stat = fstatat(&self.stage, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let nobody = (Some(Uid::from_raw(0)), Some(Gid::from_raw(0)));
        fchownat(
            &self.stage,
            name,
            nobody.0,
            nobody.1,
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )?;
        let seen = acl::take(&self.stage, name)?;
        self.chmod(name, 0)?;
        let mode = u16::try_from(stat.st_mode & 0o777).unwrap_or(0);
        Ok((
            HostPerms {
                uid: stat.st_uid,
                gid: stat.st_gid,
                mode,
                acl: seen,
            },
            stat.st_nlink,
        ))
    }

    /// Removes the link at `path` if its text still is `target`. Says whether it did.
    pub fn unlink(&self, path: &NodePath, target: &str) -> Result<bool, DevfsError> {
        let taken = self.folder(path).and_then(|folder| {
            let leaf = path.split().1;
            let text = readlinkat(&folder, leaf)?;
            if text.as_os_str() != target {
                return Ok(false);
            }
            let ino = fstatat(&folder, leaf, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_ino;
            take_out(self, &folder, leaf, &|stat| {
                stat.st_ino == ino && stat.st_mode & libc::S_IFMT == SFlag::S_IFLNK.bits()
            })
        });
        match taken {
            Ok(taken) => Ok(taken),
            // Gone, no link any more, or out of reach behind something of the container's.
            Err(Errno::ENOENT | Errno::EINVAL | Errno::ELOOP | Errno::ENOTDIR | Errno::EXDEV) => Ok(false),
            Err(errno) => Err(DevfsError::of("take away the link", path.as_str(), errno)),
        }
    }

    /// Removes those of these folders (path and inode, as recorded) that are empty and still the ones we made. Returns the
    /// paths of all that are no longer there or no longer ours: they need no more care.
    pub fn prune(&self, folders: &[(NodePath, u64)]) -> Vec<NodePath> {
        let mut sorted: Vec<_> = folders.iter().collect();
        // What lies deeper goes first.
        sorted.sort_unstable_by(|a, b| b.0.cmp(&a.0));
        let mut gone = Vec::new();
        for (path, ino) in sorted {
            let removed = self.folder(path).and_then(|folder| {
                let leaf = path.split().1;
                let stat = fstatat(&folder, leaf, AtFlags::AT_SYMLINK_NOFOLLOW)?;
                if stat.st_ino == *ino {
                    unlinkat(&folder, leaf, UnlinkatFlags::RemoveDir)?;
                }
                Ok(())
            });
            match removed {
                Ok(()) | Err(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR | Errno::EXDEV) => {
                    gone.push(path.clone());
                }
                // Not empty: something is in it.
                Err(_) => {}
            }
        }
        gone
    }

    /// Removes every name in `dev/` that leads to what `is_it` describes, as deep as a path can go.
    pub(super) fn remove_names(&self, is_it: &dyn Fn(&FileStat) -> bool) -> u32 {
        let mut folders = vec![PathBuf::from(".")];
        let (mut looked_at, mut removed) = (0, 0);
        while let Some(path) = folders.pop() {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let how = OpenHow::new().flags(flags).resolve(BENEATH);
            let Ok(mut dir) = openat2(&self.dev, &path, how).and_then(Dir::from_fd) else {
                continue;
            };
            let mut devices = Vec::new();
            for entry in dir.iter().flatten() {
                looked_at += 1;
                if looked_at > SEARCH_LIMIT {
                    return removed;
                }
                let name = entry.file_name();
                match entry.file_type() {
                    Some(Type::Directory) if !matches!(name.to_bytes(), b"." | b"..") => {
                        folders.push(path.join(std::ffi::OsStr::from_bytes(name.to_bytes())));
                    }
                    Some(Type::CharacterDevice | Type::BlockDevice) => devices.push(name.to_owned()),
                    _ => {}
                }
            }
            for name in devices {
                if take_out(self, &dir, name.as_c_str(), is_it) == Ok(true) {
                    removed += 1;
                }
            }
        }
        removed
    }
}

/// Removes the name `leaf` in `folder` if it is what `is_it` describes, by way of `stage/`, where it can be looked at
/// without the container changing it. Something that the container put there in between goes back.
fn take_out<P: NixPath + ?Sized>(
    devfs: &Devfs,
    folder: &impl AsFd,
    leaf: &P,
    is_it: &dyn Fn(&FileStat) -> bool,
) -> nix::Result<bool> {
    if !is_it(&fstatat(folder, leaf, AtFlags::AT_SYMLINK_NOFOLLOW)?) {
        return Ok(false);
    }
    let name = devfs.transient();
    renameat2(
        folder,
        leaf,
        &devfs.stage,
        name.as_str(),
        RenameFlags::RENAME_NOREPLACE,
    )?;
    if is_it(&fstatat(
        &devfs.stage,
        name.as_str(),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )?) {
        unlinkat(&devfs.stage, name.as_str(), UnlinkatFlags::NoRemoveDir)?;
        return Ok(true);
    }
    // If the container has put yet another thing there, this one stays out of sight until `/dev` is taken down: two of
    // the container's own got in each other's way.
    match renameat2(
        &devfs.stage,
        name.as_str(),
        folder,
        leaf,
        RenameFlags::RENAME_NOREPLACE,
    ) {
        Ok(()) | Err(Errno::EEXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}
