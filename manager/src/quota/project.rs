//! Project quotas of ext4 and xfs.
//!
//! A container's project is written on its folder, which is moved and removed with the container; nothing else has to agree
//! with it. An id is free when the file system counts nothing for it, so none is used again while a file has it. An attribute
//! of the folder says that we gave it that id, and whether all that was there before has it as well.

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
/// The attribute with the project that we gave to a folder. A container can neither see nor set such attributes.
const RECORD: &str = "trusted.ctm.project";
/// The unit of limits, `QIF_DQBLKSIZE` of `linux/quota.h`.
const BLOCK: u64 = 1024;

/// A folder's project, as it is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Project {
    id: u32,
    /// Everything in the folder has it.
    is_done: bool,
}

impl Project {
    /// Behind the id while files are being marked.
    const BEGUN: &str = " begun";

    fn read(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let (number, is_done) = match text.strip_suffix(Self::BEGUN) {
            Some(number) => (number, false),
            None => (text, true),
        };
        let id = number.parse().ok().filter(|id| OURS.contains(id))?;
        Some(Self { id, is_done })
    }

    fn text(self) -> String {
        format!("{}{}", self.id, if self.is_done { "" } else { Self::BEGUN })
    }
}

/// The folder's project, if we gave it one. What is written down counts for nothing unless the file system says the same: it
/// comes along when somebody copies the folder.
fn project(folder: &Folder<'_>) -> Result<Option<Project>> {
    let mut value = [0; 32];
    let written = match fgetxattr(&folder.held, RECORD, &mut value) {
        Ok(length) => value.get(..length).and_then(Project::read),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => None,
        Err(error) => return Err(failed("read an attribute of", folder.path)(error)),
    };
    let Some(written) = written else {
        return Ok(None);
    };
    match sys::attributes(folder.fd()) {
        Ok(is) if is.project == written.id && is.flags & sys::INHERITED != 0 => Ok(Some(written)),
        Ok(_) => Ok(None),
        Err(error) if is_unsupported(&error) => Ok(None),
        Err(error) => Err(failed("look at", folder.path)(error)),
    }
}

fn record(folder: &Folder<'_>, project: Project) -> Result<()> {
    fsetxattr(
        &folder.held,
        RECORD,
        project.text().as_bytes(),
        XattrFlags::empty(),
    )
    .map_err(failed("write an attribute of", folder.path))
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
            let project = given(folder)?;
            let mut entries = fs::read_dir(folder.path).map_err(failed("list", folder.path))?;
            if entries.next().is_none() {
                record(
                    folder,
                    Project {
                        is_done: true,
                        ..project
                    },
                )?;
            }
            Ok(())
        }
    }
}

/// The folder's project, a new one if it has none. The caller holds the lock of projects.
fn given(folder: &Folder<'_>) -> Result<Project> {
    if let Some(project) = project(folder)? {
        return Ok(project);
    }
    for id in OURS {
        let quota = sys::quota(folder.fd(), id).map_err(failed("look at the quotas of", folder.path))?;
        if quota.is_unused() {
            let project = Project { id, is_done: false };
            let before = sys::attributes(folder.fd()).map_err(failed("look at", folder.path))?;
            sys::set_attributes(folder.fd(), before.of_project(id, sys::INHERITED))
                .map_err(failed("set the project of", folder.path))?;
            record(folder, project)?;
            return Ok(project);
        }
    }
    Err(QuotaError::NoProject(folder.path.into()))
}

/// Has the file system keep these limits for the folder.
pub(super) fn apply(layout: &Layout, folder: &Folder<'_>, wanted: &Wanted, activity: Activity) -> Result<()> {
    let quotas = quotas(folder)?;
    if wanted.is_none() {
        return match (quotas, project(folder)?) {
            (ProjectQuotas::Off, _) | (_, None) => Ok(()),
            (ProjectQuotas::Counted | ProjectQuotas::Enforced, Some(project)) => {
                limit(folder, project.id, wanted)
            }
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
    let project = {
        let _lock = lock::projects(layout)?;
        given(folder)?
    };
    if !project.is_done && walk::mark(folder, project.id, activity)? == 0 {
        record(
            folder,
            Project {
                is_done: true,
                ..project
            },
        )?;
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
    limit(folder, project.id, wanted)
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
        (ProjectQuotas::Counted | ProjectQuotas::Enforced, Some(project)) => project.id,
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
        (ProjectQuotas::Counted | ProjectQuotas::Enforced, Some(project)) => {
            limit(folder, project.id, &Wanted::default())
        }
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
    fn records() {
        for is_done in [true, false] {
            let project = Project {
                id: OURS.start + 7,
                is_done,
            };
            assert_eq!(Project::read(project.text().as_bytes()), Some(project));
        }
        for bad in [
            "",
            "7",
            "1073741824 ",
            "1073741824 begu",
            "begun",
            " begun",
            "4294967296",
        ] {
            assert_eq!(Project::read(bad.as_bytes()), None, "{bad}");
        }
    }

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
