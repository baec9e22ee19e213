//! Packages that apt on this host has already, for an installation: read from there, never written to. Whoever uses one compares its
//! hash with what the mirror says.

use super::bootstrap::Tool;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where apt keeps packages.
pub(super) const ARCHIVES: &str = "/var/cache/apt/archives";

/// Lays the host's packages under a folder of the installation's own, in its mount namespace, and goes on with the program. `partial` would
/// keep debootstrap from seeing them. Without overlayfs the folder is empty, which is as good as no packages.
const LAID_UNDER: &str = "mount -t overlay -o \"lowerdir=/var/cache/apt/archives,upperdir=$1/upper,workdir=$1/work\" archives \"$1/all\" && \
    rm -rf \"$1/all/partial\"; shift; exec \"$@\"";

/// What mmdebstrap, which knows of no such folder, runs before it begins and when it is done.
const HOOKS: [&str; 2] = [
    "--setup-hook=mkdir -p \"$1/var/cache/apt/archives\" && mount --bind \"$CTM_ARCHIVES\" \"$1/var/cache/apt/archives\"",
    "--customize-hook=umount \"$1/var/cache/apt/archives\"",
];

/// The host's packages as one installation sees them.
#[derive(Debug)]
pub(super) struct Archives(PathBuf);

impl Archives {
    /// Those of the host, if it has any, for what is installed into `to`.
    pub(super) fn beside(to: &Path) -> io::Result<Option<Self>> {
        let is_package = |entry: fs::DirEntry| entry.path().extension().is_some_and(|kind| kind == "deb");
        let mut entries = fs::read_dir(ARCHIVES).into_iter().flatten().flatten();
        if !entries.any(is_package) {
            return Ok(None);
        }
        let folder = to.with_file_name("archives");
        for part in ["upper", "work", "all"] {
            fs::create_dir_all(folder.join(part))?;
        }
        Ok(Some(Self(folder)))
    }

    /// Has a command run the program with them; its arguments follow.
    pub(super) fn given(&self, command: &mut Command, tool: Tool) {
        let all = self.0.join("all");
        command.args(["/bin/sh", "-c", LAID_UNDER, "sh"]).arg(&self.0);
        command.arg(tool.name());
        match tool {
            Tool::Mmdebstrap => command.args(HOOKS).env("CTM_ARCHIVES", all),
            Tool::Debootstrap => command.arg(format!("--cache-dir={}", all.display())),
        };
    }

    /// Removes what was fetched besides.
    pub(super) fn forget(self) -> io::Result<()> {
        fs::remove_dir_all(self.0)
    }
}
