//! Gives the files of a root file system to a container's ids.
//!
//! The tree comes from outside and may be hostile: every file is taken hold of by a descriptor that follows no link, looked
//! at and changed through that descriptor; mounts are not entered.

use crate::ids::{COUNT, Ids};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, StatxFlags, Uid, XattrFlags, chmod, chownat, fstat,
    getxattr, openat, setxattr, statx, unlinkat,
};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// File capabilities (`capabilities(7)`): `struct vfs_cap_data` of `linux/capability.h`, little-endian.
const CAPABILITY: &str = "security.capability";
/// Version 2 has no owner; version 3 ends with the host's id of the root it counts for.
const CAPABILITY_V2: (u32, usize) = (0x0200_0000, 20);
const CAPABILITY_V3: u32 = 0x0300_0000;
/// POSIX ACLs: `posix_acl_xattr_entry` of `linux/posix_acl_xattr.h`, little-endian.
const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];
const ACL_USER: u16 = 2;
const ACL_GROUP: u16 = 8;
/// The largest attribute that the kernel keeps (`XATTR_SIZE_MAX`).
const MAX_ATTRIBUTE: usize = 64 << 10;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnershipError {
    /// A file operation failed.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// A file belongs to nobody that the container can have.
    #[error("{} belongs to id {id}, and a container has ids 0 to 65535; change its owner, or use --no-userns", .path.display())]
    Owner { path: PathBuf, id: u32 },
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Changed {
    /// Files that have another owner now.
    pub(crate) owned: u64,
    /// Device nodes that were removed.
    pub(crate) nodes: u64,
    /// Bytes on the disk.
    pub(crate) bytes: u64,
    /// A file that belongs to an id that no container with ids of its own has.
    pub(crate) beyond: Option<(PathBuf, u32)>,
}

/// From which ids to which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shift {
    from: Ids,
    to: Ids,
}

impl Shift {
    /// Where an id is on the host; an id that is there already stays, so that a second pass changes nothing.
    fn id(self, id: u32) -> Option<u32> {
        let inside = match self.from {
            Ids::Host => (id < COUNT).then_some(id),
            Ids::Block(block) => block.contains(id).then(|| id - block.first),
        };
        match (inside, self.to) {
            (Some(inside), Ids::Block(block)) if inside < block.count => Some(block.first + inside),
            (Some(inside), Ids::Host) => Some(inside),
            // The host's own, in another's files: what overlayfs marks as removed, what the host's root put there.
            (None, _) if self.from != Ids::Host => Some(id),
            (_, Ids::Block(block)) => block.contains(id).then_some(id),
            (None, Ids::Host) => Some(id),
        }
    }
}

/// Gives all files below `rootfs`, itself included, from the container ids `from` to `to`. With `drop_nodes`, device nodes are
/// removed: a container has only those in its /dev.
pub(crate) fn give(rootfs: &Path, from: Ids, to: Ids, drop_nodes: bool) -> Result<Changed, OwnershipError> {
    let root = openat(
        CWD,
        rootfs,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(failed("open", rootfs))?;
    let mount = mount_of(&root).map_err(failed("look at", rootfs))?;
    let mut walk = Walk {
        shift: Shift { from, to },
        drop_nodes,
        mount,
        changed: Changed::default(),
    };
    walk.own(&root, rootfs)?;
    walk.below(root, rootfs)?;
    Ok(walk.changed)
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(Errno) -> OwnershipError + use<'a> {
    move |source| OwnershipError::Io {
        what,
        path: path.into(),
        source: source.into(),
    }
}

/// Which mount a file is reached through. The device number does not tell: the files of one overlay have those of its layers.
fn mount_of(file: &OwnedFd) -> rustix::io::Result<u64> {
    let found = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    // Linux 5.8
    if StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID) {
        Ok(found.stx_mnt_id)
    } else {
        Err(Errno::NOSYS)
    }
}

struct Walk {
    shift: Shift,
    drop_nodes: bool,
    mount: u64,
    changed: Changed,
}

impl Walk {
    fn below(&mut self, folder: OwnedFd, path: &Path) -> Result<(), OwnershipError> {
        let mut entries = Dir::new(folder).map_err(failed("list", path))?;
        while let Some(entry) = entries.read() {
            let entry = entry.map_err(failed("list", path))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let at = path.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
            let held = openat(
                entries.fd().map_err(failed("list", path))?,
                name,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(failed("open", &at))?;
            let stat = fstat(&held).map_err(failed("look at", &at))?;
            if mount_of(&held).map_err(failed("look at", &at))? != self.mount {
                continue;
            }
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::BlockDevice | FileType::CharacterDevice if self.drop_nodes => {
                    unlinkat(
                        entries.fd().map_err(failed("list", path))?,
                        name,
                        AtFlags::empty(),
                    )
                    .map_err(failed("remove", &at))?;
                    self.changed.nodes += 1;
                }
                FileType::Directory => {
                    let inner = openat(
                        &held,
                        c".",
                        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                        Mode::empty(),
                    )
                    .map_err(failed("open", &at))?;
                    self.own(&held, &at)?;
                    self.below(inner, &at)?;
                }
                FileType::RegularFile
                | FileType::Symlink
                | FileType::Fifo
                | FileType::Socket
                | FileType::BlockDevice
                | FileType::CharacterDevice
                | FileType::Unknown => self.own(&held, &at)?,
            }
        }
        Ok(())
    }

    /// Changes one file through its descriptor. A change of owner clears set-id bits and file capabilities; both are put
    /// back, the capabilities as the container's root's.
    fn own(&mut self, held: &OwnedFd, at: &Path) -> Result<(), OwnershipError> {
        let shift = self.shift;
        let stat = fstat(held).map_err(failed("look at", at))?;
        // In units of 512 bytes, whatever the file system's blocks are (`stat(3type)`).
        self.changed.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        if let Some(id) = [stat.st_uid, stat.st_gid].into_iter().find(|id| *id >= COUNT) {
            self.changed.beyond.get_or_insert_with(|| (at.into(), id));
        }
        if shift.from == shift.to {
            return Ok(());
        }
        let inside = |id: u32| {
            shift
                .id(id)
                .ok_or_else(|| OwnershipError::Owner { path: at.into(), id })
        };
        let (uid, gid) = (inside(stat.st_uid)?, inside(stat.st_gid)?);
        if (uid, gid) == (stat.st_uid, stat.st_gid) {
            return Ok(());
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        // The kernel's own link to the held file: unlike a path it cannot be made to lead elsewhere.
        let link = format!("/proc/self/fd/{}", held.as_fd().as_raw_fd());
        let capability = if kind == FileType::RegularFile {
            attribute(&link, CAPABILITY).map_err(failed("read the capabilities of", at))?
        } else {
            None
        };
        chownat(
            held,
            c"",
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            AtFlags::EMPTY_PATH,
        )
        .map_err(failed("change the owner of", at))?;
        self.changed.owned += 1;
        if kind == FileType::Symlink {
            return Ok(());
        }
        chmod(&link, Mode::from_raw_mode(stat.st_mode)).map_err(failed("change the mode of", at))?;
        for name in ACLS {
            let acl = attribute(&link, name).map_err(failed("read the ACL of", at))?;
            if let Some(acl) = acl.and_then(|acl| shifted_acl(shift, &acl)) {
                setxattr(&link, name, &acl, XattrFlags::empty()).map_err(failed("change the ACL of", at))?;
            }
        }
        if let Some(capability) = capability.and_then(|capability| owned_capability(shift, &capability)) {
            setxattr(&link, CAPABILITY, &capability, XattrFlags::empty())
                .map_err(failed("put back the capabilities of", at))?;
        }
        Ok(())
    }
}

/// An extended attribute of a file, none where it or its file system has none.
fn attribute(path: &str, name: &str) -> rustix::io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; 256];
    loop {
        match getxattr(path, name, buffer.as_mut_slice()) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(Some(buffer));
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(Errno::RANGE) if buffer.len() < MAX_ATTRIBUTE => buffer.resize(MAX_ATTRIBUTE, 0),
            Err(e) => return Err(e),
        }
    }
}

/// File capabilities as the container's root's: of version 2, which count for the host's root, where it has no ids of its
/// own, else of version 3, which count for the root that is named. Those of another user namespace are left out.
fn owned_capability(shift: Shift, data: &[u8]) -> Option<Vec<u8>> {
    let magic = u32::from_le_bytes(data.get(..4)?.try_into().ok()?);
    let flags = magic & 0x00ff_ffff;
    let root = |ids| match ids {
        Ids::Host => None,
        Ids::Block(block) => Some(block.first),
    };
    let owner = match (magic & 0xff00_0000, data.get(CAPABILITY_V2.1..)?) {
        (revision, []) if revision == CAPABILITY_V2.0 => None,
        (CAPABILITY_V3, owner) => Some(u32::from_le_bytes(owner.try_into().ok()?)),
        _ => return None,
    };
    if owner != root(shift.from) {
        return None;
    }
    let sets = data.get(4..CAPABILITY_V2.1)?;
    Some(match root(shift.to) {
        None => [&(CAPABILITY_V2.0 | flags).to_le_bytes(), sets].concat(),
        Some(first) => [&(CAPABILITY_V3 | flags).to_le_bytes(), sets, &first.to_le_bytes()].concat(),
    })
}

/// An ACL with its named users and groups shifted; none if nothing changes or it cannot be understood.
fn shifted_acl(shift: Shift, data: &[u8]) -> Option<Vec<u8>> {
    let (header, entries) = data.split_at_checked(4)?;
    if entries.len() % 8 != 0 {
        return None;
    }
    let mut made = header.to_vec();
    for entry in entries.chunks_exact(8) {
        let (kind, id) = entry.split_at_checked(4)?;
        let tag = u16::from_le_bytes(kind.get(..2)?.try_into().ok()?);
        let id = u32::from_le_bytes(id.try_into().ok()?);
        let id = match tag {
            ACL_USER | ACL_GROUP => shift.id(id)?,
            _ => id,
        };
        made.extend_from_slice(kind);
        made.extend_from_slice(&id.to_le_bytes());
    }
    (made != data).then_some(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::IdBlock;

    const fn block(first: u32) -> Ids {
        Ids::Block(IdBlock { first, count: 65_536 })
    }

    const GIVEN: Shift = Shift {
        from: Ids::Host,
        to: block(1_000_000),
    };
    const PASSED_ON: Shift = Shift {
        from: block(1_000_000),
        to: block(2_000_000),
    };
    const BACK: Shift = Shift {
        from: block(1_000_000),
        to: Ids::Host,
    };

    #[test]
    fn ids_are_shifted_once() {
        for (id, there) in [
            (0, Some(1_000_000)),
            (65_535, Some(1_065_535)),
            (65_536, None),
            (1_000_000, Some(1_000_000)),
            (1_065_535, Some(1_065_535)),
            (1_065_536, None),
            (u32::MAX, None),
        ] {
            assert_eq!(GIVEN.id(id), there, "{id}");
        }
        for (id, passed_on, back) in [
            (1_000_005, Some(2_000_005), Some(5)),
            (2_000_005, Some(2_000_005), Some(2_000_005)),
            (0, Some(0), Some(0)),
            (1_065_536, Some(1_065_536), Some(1_065_536)),
        ] {
            assert_eq!(PASSED_ON.id(id), passed_on, "{id}");
            assert_eq!(BACK.id(id), back, "{id}");
        }
    }

    #[test]
    fn capabilities_get_an_owner() {
        let v2 = [&[1, 0, 0, 2][..], &[9; 16]].concat();
        let v3 = [&[1, 0, 0, 3][..], &[9; 16], &1_000_000_u32.to_le_bytes()].concat();
        let other = [&[1, 0, 0, 3][..], &[9; 16], &2_000_000_u32.to_le_bytes()].concat();
        assert_eq!(owned_capability(GIVEN, &v2), Some(v3.clone()));
        assert_eq!(owned_capability(GIVEN, &v3), None);
        assert_eq!(owned_capability(GIVEN, &[]), None);
        assert_eq!(owned_capability(PASSED_ON, &v3), Some(other.clone()));
        assert_eq!(owned_capability(PASSED_ON, &v2), None);
        assert_eq!(owned_capability(BACK, &v3), Some(v2));
        assert_eq!(owned_capability(BACK, &other), None);
    }

    #[test]
    fn acls_are_shifted() {
        let entry = |tag: u16, id: u32| [&tag.to_le_bytes()[..], &[6, 0], &id.to_le_bytes()].concat();
        let acl = |user: u32, group: u32| {
            [
                vec![2, 0, 0, 0],
                entry(1, u32::MAX),
                entry(2, user),
                entry(4, u32::MAX),
                entry(8, group),
                entry(16, u32::MAX),
                entry(32, u32::MAX),
            ]
            .concat()
        };
        assert_eq!(shifted_acl(GIVEN, &acl(5, 7)), Some(acl(1_000_005, 1_000_007)));
        assert_eq!(shifted_acl(GIVEN, &acl(1_000_005, 1_000_007)), None);
        assert_eq!(shifted_acl(GIVEN, &[2, 0, 0]), None);
        assert_eq!(shifted_acl(GIVEN, &[2, 0, 0, 0, 1]), None);
    }
}
