//! Where a process's cgroup is in the unified hierarchy.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The place where cgroup v2 is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    mount: PathBuf,
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup v2.
    #[error("no cgroup v2 hierarchy is mounted; device access cannot be granted on this host")]
    NotMounted,
    /// A file cannot be read, or says nothing of use.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

impl Hierarchy {
    /// Finds the mount whose root is the hierarchy's root.
    pub fn find() -> Result<Self, CgroupError> {
        let path = Path::new("/proc/self/mountinfo");
        let text = read(path)?;
        mount_point(&text)
            .map(|mount| Self { mount })
            .ok_or(CgroupError::NotMounted)
    }

    /// The hierarchy mounted at `mount`.
    pub fn at(mount: &Path) -> Self {
        Self { mount: mount.into() }
    }

    /// The folder of `cgroup`, a path below the mount that begins with `/`.
    pub fn folder(&self, cgroup: &str) -> PathBuf {
        self.mount.join(cgroup.trim_start_matches('/'))
    }

    /// A descriptor of `cgroup`.
    pub fn open(&self, cgroup: &str) -> Result<File, CgroupError> {
        let path = self.folder(cgroup);
        File::open(&path).map_err(|source| CgroupError::Read { path, source })
    }

    /// The cgroup of a process, which may lie below its container's.
    pub fn of_process(pid: i32) -> Result<String, CgroupError> {
        let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
        let text = read(&path)?;
        unified(&text).map(Into::into).ok_or(CgroupError::Read {
            path,
            source: io::ErrorKind::InvalidData.into(),
        })
    }
}

fn read(path: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(path).map_err(|source| CgroupError::Read {
        path: path.into(),
        source,
    })
}

/// The mount point in `mountinfo` (proc(5): id parent major:minor root point options... - type source options).
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, fs) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (fs.starts_with("cgroup2 ") && root == "/" && !point.contains('\\')).then(|| point.into())
    })
}

/// The unified hierarchy's line in `/proc/PID/cgroup` (cgroups(7)).
fn unified(text: &str) -> Option<&str> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    // A cgroup that was removed under its last process has this behind it.
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    // Beyond our own cgroup namespace it begins with `/..`.
    (path.starts_with('/') && !path.split('/').any(|part| part == "..")).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo() {
        for (text, expected) in [
            (
                "25 1 0:22 / /sys rw - sysfs sysfs rw\n31 25 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n",
                Some("/sys/fs/cgroup"),
            ),
            (
                "31 25 0:26 /x /a rw - cgroup2 c rw\n32 25 0:26 / /sys/fs/cgroup/unified rw - cgroup2 c rw\n",
                Some("/sys/fs/cgroup/unified"),
            ),
            ("31 25 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw\n", None),
            ("garbage\n - cgroup2\n", None),
        ] {
            assert_eq!(mount_point(text), expected.map(PathBuf::from), "{text}");
        }
    }

    #[test]
    fn process_cgroups() {
        for (text, expected) in [
            ("0::/system.slice/x.service\n", Some("/system.slice/x.service")),
            ("9:name=systemd:/\n0::/\n", Some("/")),
            ("0::/a (deleted)\n", Some("/a")),
            ("0::/../b\n", None),
            ("1:cpu:/\n", None),
        ] {
            assert_eq!(unified(text), expected);
        }
    }
}
