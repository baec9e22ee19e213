//! Project quotas, file attributes and btrfs' subvolumes: `quotactl_fd(2)` and `ioctl(2)`. Structures as the kernel's headers
//! have them, which are named at each.

use super::succeeded;
use rustix::ioctl::{Getter, Opcode, Setter, Updater, ioctl, opcode};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `PRJQUOTA`, `linux/quota.h`.
const PROJECT: u32 = 2;
/// Commands, `linux/quota.h`.
const Q_QUOTAON: u32 = 0x80_0002;
const Q_GETINFO: u32 = 0x80_0005;
const Q_SETINFO: u32 = 0x80_0006;
const Q_GETQUOTA: u32 = 0x80_0007;
const Q_SETQUOTA: u32 = 0x80_0008;
/// `linux/dqblk_xfs.h`; all file systems with quotas answer it.
const Q_XGETQSTATV: u32 = 0x5808;
/// `FS_QSTATV_VERSION1`, and the flags for project quotas: `FS_QUOTA_PDQ_ACCT`, `FS_QUOTA_PDQ_ENFD`.
const STATE_VERSION: i8 = 1;
const STATE_KEPT: u16 = 1 << 4;
const STATE_ENFORCED: u16 = 1 << 5;

/// What one project has and may have: `struct if_dqblk`, `linux/quota.h`. Limits of space are in KiB, zero is none.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Quota {
    pub(crate) space_hard: u64,
    pub(crate) space_soft: u64,
    /// In bytes.
    pub(crate) space: u64,
    pub(crate) inodes_hard: u64,
    pub(crate) inodes_soft: u64,
    pub(crate) inodes: u64,
    /// When the grace time of the soft limit ends, in seconds since 1970; zero: it is not exceeded.
    pub(crate) space_until: u64,
    pub(crate) inodes_until: u64,
    /// `QIF_*`: which of these are set.
    pub(crate) valid: u32,
}

/// `QIF_LIMITS`: both limits of space and of inodes.
pub(crate) const QUOTA_LIMITS: u32 = 1 | 4;

/// The grace times of a file system: `struct if_dqinfo`, `linux/quota.h`, in seconds.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Grace {
    pub(crate) space: u64,
    pub(crate) inodes: u64,
    pub(crate) flags: u32,
    /// `IIF_*`: which of these are set.
    pub(crate) valid: u32,
}

/// `IIF_BGRACE | IIF_IGRACE`.
pub(crate) const GRACE_TIMES: u32 = 1 | 2;

/// `struct fs_quota_statv`, `linux/dqblk_xfs.h`, of which only the flags are looked at.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Kept {
    version: i8,
    pad: u8,
    flags: u16,
    in_core: u32,
    /// Three `struct fs_qfilestatv`, limits of time and warnings, padding.
    rest: [u64; 19],
}

/// Whether a file system has project quotas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProjectQuotas {
    /// It does not count.
    Off,
    /// It counts, and holds nobody to a limit.
    Counted,
    /// It counts and holds to limits.
    Enforced,
}

fn quotactl<T>(file: BorrowedFd<'_>, command: u32, id: u32, value: &mut T) -> io::Result<()> {
    let (fd, command, value) = (file.as_raw_fd(), (command << 8) | PROJECT, &raw mut *value);
    // SAFETY: each caller gives the structure that its command reads or writes.
    let result = unsafe { libc::syscall(libc::SYS_quotactl_fd, fd, command, id, value) };
    succeeded(result)
}

/// Whether the file system of this folder has project quotas.
pub(crate) fn project_quotas(folder: BorrowedFd<'_>) -> io::Result<ProjectQuotas> {
    let mut kept = Kept {
        version: STATE_VERSION,
        pad: 0,
        flags: 0,
        in_core: 0,
        rest: [0; 19],
    };
    match quotactl(folder, Q_XGETQSTATV, 0, &mut kept) {
        Ok(()) if kept.flags & STATE_ENFORCED != 0 => Ok(ProjectQuotas::Enforced),
        Ok(()) if kept.flags & STATE_KEPT != 0 => Ok(ProjectQuotas::Counted),
        Ok(()) => Ok(ProjectQuotas::Off),
        // No quotas of any kind, or a file system or kernel that knows none.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOSYS | libc::EINVAL | libc::ENOTTY | libc::EOPNOTSUPP | libc::ESRCH)
            ) =>
        {
            Ok(ProjectQuotas::Off)
        }
        Err(error) => Err(error),
    }
}

/// Has a file system that counts projects hold them to their limits, until it is unmounted.
pub(crate) fn enforce_project_quotas(folder: BorrowedFd<'_>) -> io::Result<()> {
    // Where the counts are no visible file, as on ext4 and xfs, the command takes no argument.
    quotactl(folder, Q_QUOTAON, 0, &mut 0_u32)
}

/// What a project has; nothing where nobody heard of it.
pub(crate) fn quota(folder: BorrowedFd<'_>, id: u32) -> io::Result<Quota> {
    let mut quota = Quota::default();
    match quotactl(folder, Q_GETQUOTA, id, &mut quota) {
        Ok(()) => Ok(quota),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Quota::default()),
        Err(error) => Err(error),
    }
}

/// Sets what is `valid` of a project's quota.
pub(crate) fn set_quota(folder: BorrowedFd<'_>, id: u32, mut quota: Quota) -> io::Result<()> {
    quotactl(folder, Q_SETQUOTA, id, &mut quota)
}

/// The grace times of projects on this file system.
pub(crate) fn grace(folder: BorrowedFd<'_>) -> io::Result<Grace> {
    let mut grace = Grace::default();
    quotactl(folder, Q_GETINFO, 0, &mut grace)?;
    Ok(grace)
}

/// Sets what is `valid` of them.
pub(crate) fn set_grace(folder: BorrowedFd<'_>, mut grace: Grace) -> io::Result<()> {
    quotactl(folder, Q_SETINFO, 0, &mut grace)
}

/// `struct fsxattr`, `linux/fs.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Attributes {
    /// `FS_XFLAG_*`.
    pub(crate) flags: u32,
    extent_size: u32,
    extents: u32,
    /// The project that a file is counted for.
    pub(crate) project: u32,
    copied_extent_size: u32,
    pad: [u8; 8],
}

impl Attributes {
    /// The same for a file of this project, with these flags besides.
    pub(crate) fn of_project(self, project: u32, flags: u32) -> Self {
        Self {
            flags: self.flags | flags,
            project,
            ..self
        }
    }
}

/// `FS_XFLAG_PROJINHERIT`: what is made in a folder is of its project.
pub(crate) const INHERITED: u32 = 0x200;

const FS_IOC_FSGETXATTR: Opcode = opcode::read::<Attributes>(b'X', 31);
const FS_IOC_FSSETXATTR: Opcode = opcode::write::<Attributes>(b'X', 32);

/// The attributes of an open file.
pub(crate) fn attributes(file: BorrowedFd<'_>) -> io::Result<Attributes> {
    // SAFETY: the command writes such a structure.
    let get = unsafe { Getter::<FS_IOC_FSGETXATTR, Attributes>::new() };
    // SAFETY: the same.
    Ok(unsafe { ioctl(file, get) }?)
}

/// Sets them all.
pub(crate) fn set_attributes(file: BorrowedFd<'_>, attributes: Attributes) -> io::Result<()> {
    // SAFETY: the command reads such a structure.
    let set = unsafe { Setter::<FS_IOC_FSSETXATTR, Attributes>::new(attributes) };
    // SAFETY: the same.
    Ok(unsafe { ioctl(file, set) }?)
}

/// `BTRFS_IOCTL_MAGIC`, `linux/btrfs.h`, as all below.
const BTRFS: u8 = 0x94;
/// The inode of a subvolume's root folder: `BTRFS_FIRST_FREE_OBJECTID`.
pub(crate) const SUBVOLUME_INODE: u64 = 256;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct Volume {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct Lookup {
    subvolume: u64,
    inode: u64,
    name: [u8; 4080],
}

/// `struct btrfs_ioctl_fs_info_args`.
#[repr(C)]
struct FileSystem {
    max_id: u64,
    devices: u64,
    id: [u8; 16],
    rest: [u64; 124],
}

/// `struct btrfs_ioctl_qgroup_limit_args`.
#[repr(C)]
struct GroupLimit {
    group: u64,
    flags: u64,
    referenced: u64,
    exclusive: u64,
    reserved: [u64; 2],
}

/// `struct btrfs_ioctl_qgroup_create_args`.
#[repr(C)]
struct GroupCreate {
    create: u64,
    group: u64,
}

/// `BTRFS_QGROUP_LIMIT_MAX_RFER`.
const LIMIT_REFERENCED: u64 = 1;

const SUBVOL_CREATE: Opcode = opcode::write::<Volume>(BTRFS, 14);
const INO_LOOKUP: Opcode = opcode::read_write::<Lookup>(BTRFS, 18);
const FS_INFO: Opcode = opcode::read::<FileSystem>(BTRFS, 31);
const QGROUP_CREATE: Opcode = opcode::write::<GroupCreate>(BTRFS, 42);
/// Declared as reading by the kernel, and read by it.
const QGROUP_LIMIT: Opcode = opcode::read::<GroupLimit>(BTRFS, 43);

/// Makes a subvolume in a folder; its name has at most 255 bytes.
pub(crate) fn make_subvolume(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let mut volume = Volume {
        fd: 0,
        name: [0; 4088],
    };
    match volume.name.get_mut(..name.len()) {
        Some(place) if name.len() < 256 => place.copy_from_slice(name),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    }
    // SAFETY: the command reads such a structure, whose name ends in NUL.
    let set = unsafe { Setter::<SUBVOL_CREATE, Volume>::new(volume) };
    // SAFETY: the same.
    Ok(unsafe { ioctl(folder, set) }?)
}

/// The number of the subvolume that an open file is in.
pub(crate) fn subvolume(file: BorrowedFd<'_>) -> io::Result<u64> {
    let mut lookup = Lookup {
        subvolume: 0,
        inode: SUBVOLUME_INODE,
        name: [0; 4080],
    };
    // SAFETY: the command reads and writes such a structure.
    let update = unsafe { Updater::<INO_LOOKUP, Lookup>::new(&mut lookup) };
    // SAFETY: the same.
    unsafe { ioctl(file, update) }?;
    Ok(lookup.subvolume)
}

/// The id of the file system that an open file is on.
pub(crate) fn btrfs_id(file: BorrowedFd<'_>) -> io::Result<[u8; 16]> {
    // SAFETY: the command writes such a structure.
    let get = unsafe { Getter::<FS_INFO, FileSystem>::new() };
    // SAFETY: the same.
    let file_system = unsafe { ioctl(file, get) }?;
    Ok(file_system.id)
}

/// Limits what is referenced in the subvolume of an open file, none: no limit.
pub(crate) fn limit_subvolume(file: BorrowedFd<'_>, bytes: Option<u64>) -> io::Result<()> {
    let mut limit = GroupLimit {
        // The subvolume's own.
        group: 0,
        flags: LIMIT_REFERENCED,
        // `CLEAR_VALUE` of the kernel's qgroup.c takes the limit away.
        referenced: bytes.unwrap_or(u64::MAX),
        exclusive: 0,
        reserved: [0; 2],
    };
    // SAFETY: the command reads such a structure; an update may also write it.
    let update = unsafe { Updater::<QGROUP_LIMIT, GroupLimit>::new(&mut limit) };
    // SAFETY: the same.
    Ok(unsafe { ioctl(file, update) }?)
}

/// Adds or removes the quota group of a subvolume.
pub(crate) fn quota_group(file: BorrowedFd<'_>, subvolume: u64, create: bool) -> io::Result<()> {
    let group = GroupCreate {
        create: create.into(),
        group: subvolume,
    };
    // SAFETY: the command reads such a structure.
    let set = unsafe { Setter::<QGROUP_CREATE, GroupCreate>::new(group) };
    // SAFETY: the same.
    Ok(unsafe { ioctl(file, set) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes that the kernel's headers give, without which a call would reach beyond a structure.
    #[test]
    fn sizes_are_the_kernels() {
        assert_eq!(size_of::<Quota>(), 72);
        assert_eq!(size_of::<Grace>(), 24);
        assert_eq!(size_of::<Kept>(), 160);
        assert_eq!(size_of::<Attributes>(), 28);
        assert_eq!(size_of::<Volume>(), 4096);
        assert_eq!(size_of::<Lookup>(), 4096);
        assert_eq!(size_of::<FileSystem>(), 1024);
        assert_eq!(size_of::<GroupLimit>(), 48);
        assert_eq!(size_of::<GroupCreate>(), 16);
        assert_eq!(u64::from(FS_IOC_FSGETXATTR), 0x801c_581f);
        assert_eq!(u64::from(FS_IOC_FSSETXATTR), 0x401c_5820);
    }
}
