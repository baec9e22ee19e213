//! The system calls that put a node into a container and take it out again, and nothing else: the floor.

use anyhow::{Context, Result};
use devbroker::host::access::DeviceFilter;
use devbroker::model::{Access, DevNum};
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, unlinkat};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Owner and group inside that every contender gives a node.
pub(super) const OWNER: u32 = 7;
/// And its mode.
pub(super) const MODE: u32 = 0o660;

/// One container's `/dev` and filter.
#[derive(Debug)]
pub(super) struct Bare {
    stage: OwnedFd,
    dev: OwnedFd,
    filter: DeviceFilter,
    owner: u32,
}

impl Bare {
    /// The tmpfs at `devfs`, the filter pinned in `filter`; `owner` is the host's id.
    pub(super) fn open(devfs: &Path, filter: &Path, owner: u32) -> Result<Self> {
        let folder = |name| {
            let path = devfs.join(name);
            open(
                &path,
                OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
                Mode::empty(),
            )
            .with_context(|| format!("open {}", path.display()))
        };
        Ok(Self {
            stage: folder("stage")?,
            dev: folder("dev")?,
            filter: DeviceFilter::open(filter)?,
            owner,
        })
    }

    /// Five calls: access, node, owner, mode, name.
    pub(super) fn place(&self, name: &str, devnum: DevNum) -> Result<()> {
        self.filter.allow(devnum, Access::READ_WRITE)?;
        mknodat(&self.stage, name, SFlag::S_IFBLK, Mode::empty(), devnum.dev()).context("mknod")?;
        let (uid, gid) = (Uid::from_raw(self.owner), Gid::from_raw(self.owner));
        fchownat(
            &self.stage,
            name,
            Some(uid),
            Some(gid),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )
        .context("chown")?;
        let mode = Mode::from_bits_truncate(MODE);
        fchmodat(&self.stage, name, mode, FchmodatFlags::FollowSymlink).context("chmod")?;
        linkat(&self.stage, name, &self.dev, name, AtFlags::empty()).context("link")
    }

    /// Takes it away again.
    pub(super) fn remove(&self, name: &str, devnum: DevNum) -> Result<()> {
        self.filter.deny(devnum)?;
        unlinkat(&self.dev, name, UnlinkatFlags::NoRemoveDir).context("unlink")?;
        unlinkat(&self.stage, name, UnlinkatFlags::NoRemoveDir).context("unlink")
    }
}
