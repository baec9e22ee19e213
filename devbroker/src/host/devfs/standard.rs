//! What every container's `/dev` holds from the start.

use super::{Devfs, DevfsError};
use crate::model::DevNum;
use nix::fcntl::AtFlags;
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};
use nix::unistd::{fchownat, linkat, symlinkat, unlinkat};

/// The nodes that any program may count on.
const NODES: [(&str, DevNum); 6] = [
    ("null", DevNum::char(1, 3)),
    ("zero", DevNum::char(1, 5)),
    ("full", DevNum::char(1, 7)),
    ("random", DevNum::char(1, 8)),
    ("urandom", DevNum::char(1, 9)),
    ("tty", DevNum::char(5, 0)),
];

/// Links into `/proc` and to the container's own `devpts`.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Folders for the runtime to mount on.
const FOLDERS: [(&str, u16); 3] = [("pts", 0o755), ("shm", 0o755), ("mqueue", 0o755)];

impl Devfs {
    /// Fills a fresh `/dev` with the standard nodes, links and folders, all the container's root's. They are the
    /// container's: the broker keeps no hold on them and never takes them away.
    pub fn standard_nodes(&self) -> Result<(), DevfsError> {
        for (name, devnum) in NODES {
            self.standard_node(name, devnum)
                .map_err(|errno| DevfsError::of("make the node", name, errno))?;
        }
        for (name, target) in LINKS {
            let (uid, gid) = self.root;
            symlinkat(target, &self.dev, name)
                .and_then(|()| {
                    fchownat(
                        &self.dev,
                        name,
                        Some(uid),
                        Some(gid),
                        AtFlags::AT_SYMLINK_NOFOLLOW,
                    )
                })
                .map_err(|errno| DevfsError::of("make the link", name, errno))?;
        }
        for (name, mode) in FOLDERS {
            self.standard_folder(name, mode)
                .map_err(|errno| DevfsError::of("make the folder", name, errno))?;
        }
        Ok(())
    }

    fn standard_node(&self, name: &str, devnum: DevNum) -> nix::Result<()> {
        let staged = self.transient();
        mknodat(
            &self.stage,
            staged.as_str(),
            SFlag::S_IFCHR,
            Mode::empty(),
            devnum.dev(),
        )?;
        self.own(&staged)?;
        self.chmod(&staged, 0o666)?;
        linkat(&self.stage, staged.as_str(), &self.dev, name, AtFlags::empty())?;
        unlinkat(
            &self.stage,
            staged.as_str(),
            nix::unistd::UnlinkatFlags::NoRemoveDir,
        )
    }

    fn standard_folder(&self, name: &str, mode: u16) -> nix::Result<()> {
        let staged = self.transient();
        mkdirat(&self.stage, staged.as_str(), Mode::S_IRWXU)?;
        self.own(&staged)?;
        self.chmod(&staged, mode)?;
        nix::fcntl::renameat(&self.stage, staged.as_str(), &self.dev, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_twice() {
        let names = NODES
            .map(|(name, _)| name)
            .into_iter()
            .chain(LINKS.map(|(name, _)| name));
        let mut names: Vec<_> = names.chain(FOLDERS.map(|(name, _)| name)).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), NODES.len() + LINKS.len() + FOLDERS.len());
    }
}
