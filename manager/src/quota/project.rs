//! Project quotas of ext4 and xfs.
//!
//! A container's project is written on its folder, which is moved and removed with the container; nothing else has to agree
//! with it. An id is free when the file system counts nothing for it, so none is used again while a file has it. That all that
//! was there before has the id as well is written down in an attribute of the folder when it is so.

use super::wanted::Wanted;
use super::{Account, Activity, Folder, Kind, Pair, QuotaError, Result, failed, walk};
use crate::layout::Layout;
use crate::lock;
use crate::sys::{self, ProjectQuotas, Quota};
use rustix::fs::{XattrFlags, fgetxattr, fsetxattr, fstat};
use rustix::io::Errno;
use std::fs;
use std::ops::Range;
use std::path::Path;

/// Ids of projects that are containers: away from those that people, Docker, Kubernetes and systemd use.
const OURS: Range<u32> = 0x4000_0000..0x5000_0000;
/// The attribute with the project that everything in a folder has. The container can neither see nor set such attributes.
const DONE: &str = "trusted.ctm.project";
/// The unit of limits, `QIF_DQBLKSIZE` of `linux/quota.h`.
const BLOCK: u64 = 1024;

/// The folder's project, if it is a container's.
fn project(folder: &Folder<'_>) -> Result<Option<u32>> {
    let attributes = match sys::attributes(folder.fd()) {
        Ok(attributes) => attributes,
        Err(error) if is_unsupported(&error) => return Ok(None),
        Err(error) => return Err(failed("look at", folder.path)(error)),
    };
    let inherited = attributes.flags & sys::INHERITED != 0;
    if !inherited || !OURS.contains(&attributes.project) {
        return Ok(None);
    }
    // A folder in a container's folder has its project; the folder of a container has its own.
    let above = folder.path.parent().map(Folder::open).transpose()?;
    let of_above = above.and_then(|above| sys::attributes(above.fd()).ok());
    Ok(Some(attributes.project).filter(|own| of_above.is_none_or(|above| above.project != *own)))
}

fn is_unsupported(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOTTY | libc::EOPNOTSUPP | libc::ENOSYS)
    )
}

fn quotas(folder: &Folder<'_>) -> Result<ProjectQuotas> {
    sys::project_quotas(folder.fd()).map_err(failed("look at the quotas of", folder.path))
}

/// Whether the file system counts projects.
pub(super) fn is_on(folder: &Folder<'_>) -> Result<bool> {
    Ok(match quotas(folder)? {
        ProjectQuotas::Off => false,
        ProjectQuotas::Counted | ProjectQuotas::Enforced => true,
    })
}

/// Gives a new folder a project of its own, if the file system counts projects. The caller holds the lock of projects.
pub(super) fn begin(folder: &Folder<'_>) -> Result<()> {
    match quotas(folder)? {
        ProjectQuotas::Off => Ok(()),
        ProjectQuotas::Counted | ProjectQuotas::Enforced => {
            let id = given(folder)?;
            let mut entries = fs::read_dir(folder.path).map_err(failed("list", folder.path))?;
            if entries.next().is_none() {
                write_done(folder, id)?;
            }
            Ok(())
        }
    }
}

/// The folder's project, a new one if it has none. The caller holds the lock of projects.
fn given(folder: &Folder<'_>) -> Result<u32> {
    if let Some(id) = project(folder)? {
        return Ok(id);
    }
    for id in OURS {
        let quota = sys::quota(folder.fd(), id).map_err(failed("look at the quotas of", folder.path))?;
        if quota.is_unused() {
            mark(folder, id)?;
            return Ok(id);
        }
    }
    Err(QuotaError::NoProject(folder.path.into()))
}

fn mark(folder: &Folder<'_>, id: u32) -> Result<()> {
    let before = sys::attributes(folder.fd()).map_err(failed("look at", folder.path))?;
    let after = before.of_project(id, sys::INHERITED);
    sys::set_attributes(folder.fd(), after).map_err(failed("set the project of", folder.path))
}

fn is_done(folder: &Folder<'_>, id: u32) -> Result<bool> {
    let mut value = [0; 16];
    match fgetxattr(&folder.held, DONE, &mut value) {
        Ok(length) => Ok(value.get(..length) == Some(id.to_string().as_bytes())),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(error) => Err(failed("read an attribute of", folder.path)(error)),
    }
}

fn write_done(folder: &Folder<'_>, id: u32) -> Result<()> {
    let value = id.to_string();
    fsetxattr(&folder.held, DONE, value.as_bytes(), XattrFlags::empty())
        .map_err(failed("write an attribute of", folder.path))
}

/// Has the file system keep these limits for the folder.
pub(super) fn apply(layout: &Layout, folder: &Folder<'_>, wanted: &Wanted, activity: Activity) -> Result<()> {
    let quotas = quotas(folder)?;
    if wanted.is_none() {
        return match (quotas, project(folder)?) {
            (ProjectQuotas::Off, _) | (_, None) => Ok(()),
            (ProjectQuotas::Counted | ProjectQuotas::Enforced, Some(id)) => limit(folder, id, wanted),
        };
    }
    match quotas {
        ProjectQuotas::Off => {
            return Err(QuotaError::Off {
                path: folder.path.into(),
                remedy: Mounted::of(folder).on(),
            });
        }
        ProjectQuotas::Counted => {
            // What `quotaon -P` does. It reaches no file that is in no project, and no project without limits.
            sys::enforce_project_quotas(folder.fd()).map_err(|source| QuotaError::NotEnforced {
                path: folder.path.into(),
                source,
                remedy: Mounted::of(folder).enforced(),
            })?;
            tracing::info!(folder = %folder.path.display(), "its file system holds projects to their limits from now on");
        }
        ProjectQuotas::Enforced => {}
    }
    let id = {
        let _lock = lock::projects(layout)?;
        given(folder)?
    };
    if !is_done(folder, id)? {
        let left = walk::mark(folder, id, activity)?;
        if left == 0 {
            write_done(folder, id)?;
        }
    }
    if let Some(grace) = wanted.grace {
        let before = sys::grace(folder.fd()).map_err(failed("look at the quotas of", folder.path))?;
        let seconds = grace.seconds();
        if (before.space, before.inodes) != (seconds, seconds) {
            let after = sys::Grace {
                space: seconds,
                inodes: seconds,
                flags: 0,
                valid: sys::GRACE_TIMES,
            };
            sys::set_grace(folder.fd(), after).map_err(failed("set the grace time of", folder.path))?;
        }
    }
    limit(folder, id, wanted)
}

/// Sets a project's limits, unless it has them.
fn limit(folder: &Folder<'_>, id: u32, wanted: &Wanted) -> Result<()> {
    // What is less than a unit is rounded up, as zero would be no limit.
    let blocks = |bytes: Option<u64>| bytes.map_or(0, |bytes| bytes.div_ceil(BLOCK));
    let before = sys::quota(folder.fd(), id).map_err(failed("look at the quotas of", folder.path))?;
    let after = Quota {
        space_hard: blocks(wanted.space.hard),
        space_soft: blocks(wanted.space.soft),
        inodes_hard: wanted.inodes.hard.unwrap_or(0),
        inodes_soft: wanted.inodes.soft.unwrap_or(0),
        valid: sys::QUOTA_LIMITS,
        ..Quota::default()
    };
    if before.limits() == after.limits() {
        return Ok(());
    }
    sys::set_quota(folder.fd(), id, after).map_err(failed("limit", folder.path))
}

impl Quota {
    fn limits(&self) -> [u64; 4] {
        [
            self.space_hard,
            self.space_soft,
            self.inodes_hard,
            self.inodes_soft,
        ]
    }

    /// Whether no file has the project, and nobody has a plan with it.
    fn is_unused(&self) -> bool {
        self.limits() == [0; 4] && self.space == 0 && self.inodes == 0
    }
}

/// What the folder's project has; none if it has no project.
pub(super) fn account(folder: &Folder<'_>) -> Result<Option<Account>> {
    let id = match (quotas(folder)?, project(folder)?) {
        (ProjectQuotas::Off, _) | (_, None) => return Ok(None),
        (ProjectQuotas::Counted | ProjectQuotas::Enforced, Some(id)) => id,
    };
    let quota = sys::quota(folder.fd(), id).map_err(failed("look at the quotas of", folder.path))?;
    let limit = |value: u64, unit: u64| Some(value.saturating_mul(unit)).filter(|limit| *limit != 0);
    Ok(Some(Account {
        kind: Kind::Project,
        bytes: quota.space,
        inodes: Some(quota.inodes),
        space: Pair {
            soft: limit(quota.space_soft, BLOCK),
            hard: limit(quota.space_hard, BLOCK),
        },
        files: Pair {
            soft: limit(quota.inodes_soft, 1),
            hard: limit(quota.inodes_hard, 1),
        },
    }))
}

/// Takes the limits away; the id is free when the last of its files is.
pub(super) fn release(folder: &Folder<'_>) -> Result<()> {
    match (quotas(folder)?, project(folder)?) {
        (ProjectQuotas::Off, _) | (_, None) => Ok(()),
        (ProjectQuotas::Counted | ProjectQuotas::Enforced, Some(id)) => limit(folder, id, &Wanted::default()),
    }
}

/// How the folder's file system is mounted, for messages.
struct Mounted {
    device: String,
    at: String,
    is_xfs: bool,
}

impl Mounted {
    fn of(folder: &Folder<'_>) -> Self {
        let device = fstat(&folder.held).map_or(0, |stat| stat.st_dev);
        let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self::in_table(&table, &number).unwrap_or(Self {
            device: "DEVICE".into(),
            at: "MOUNTPOINT".into(),
            is_xfs: false,
        })
    }

    /// By the text of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`): of several mounts that with the shortest place.
    fn in_table(table: &str, number: &str) -> Option<Self> {
        let found = table.lines().filter_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            let fields: Vec<_> = mount.split(' ').collect();
            let mut file_system = file_system.split(' ');
            let (kind, device) = (file_system.next()?, file_system.next()?);
            (fields.get(2) == Some(&number)).then(|| Self {
                device: device.into(),
                at: (*fields.get(4).unwrap_or(&"MOUNTPOINT")).into(),
                is_xfs: kind == "xfs",
            })
        });
        found.min_by_key(|mounted| mounted.at.len())
    }

    /// How it counts projects.
    fn on(&self) -> String {
        let Self { device, .. } = self;
        let mount = self.enforced();
        if self.is_xfs {
            mount
        } else {
            format!("unmount it, run `tune2fs -O project,quota -Q prjquota {device}`, and mount it again")
        }
    }

    /// How it holds projects to their limits.
    fn enforced(&self) -> String {
        let at = &self.at;
        if Path::new(at) == Path::new("/") {
            "boot with `rootflags=prjquota` on the kernel's command line".into()
        } else {
            format!("put the option `prjquota` for {at} into /etc/fstab, unmount it and mount it again")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_name_the_device() {
        let table = "22 1 0:20 / /proc rw - proc proc rw\n\
                     30 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
                     31 30 8:2 / /var/lib/ctm/a/b rw - xfs /dev/sda2 rw\n\
                     32 30 8:2 / /var/lib rw - xfs /dev/sda2 rw\n";
        let root = Mounted::in_table(table, "8:1").unwrap();
        assert_eq!(
            [root.on(), root.enforced()],
            [
                "unmount it, run `tune2fs -O project,quota -Q prjquota /dev/sda1`, and mount it again",
                "boot with `rootflags=prjquota` on the kernel's command line",
            ]
        );
        let xfs = Mounted::in_table(table, "8:2").unwrap();
        assert_eq!(
            xfs.on(),
            "put the option `prjquota` for /var/lib into /etc/fstab, unmount it and mount it again"
        );
        assert!(Mounted::in_table(table, "8:3").is_none());
    }
}
