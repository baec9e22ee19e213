//! Which init a root file system has, seen from outside. It is hostile: its links are resolved within it.

use crate::lookup;
use crate::signal::StopSignal;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, readlinkat};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Programs that reap orphans, by the last part of their paths.
const INITS: [&str; 12] = [
    "init",
    "linuxrc",
    "openrc-init",
    "runit",
    "runit-init",
    "s6-svscan",
    "s6-init",
    "dinit",
    "finit",
    "tini",
    "dumb-init",
    "catatonit",
];

/// What a container's first process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Init {
    /// systemd.
    Systemd,
    /// That of System V, as Debian and Devuan have it.
    Sysvinit,
    /// Busybox's, as Alpine has it.
    Busybox,
    /// Another that shuts down at SIGTERM, or nothing that is there.
    Other,
    /// A program that is no init.
    None,
}

impl Init {
    /// The first process with these words in this root file system.
    pub(super) fn of(rootfs: &Path, words: &[String]) -> Self {
        let Some(program) = words.first() else {
            return Self::Other;
        };
        let name = last(Path::new(program));
        let target = target(rootfs, program);
        let target_name = target.as_deref().and_then(last);
        if name == Some("systemd") || target_name == Some("systemd") {
            return Self::Systemd;
        }
        let is_init = name.is_some_and(|name| INITS.contains(&name));
        if (is_init && target_name == Some("busybox"))
            || (name == Some("busybox") && words.get(1).is_some_and(|applet| applet == "init"))
        {
            return Self::Busybox;
        }
        if name == Some("init") && target.is_none() && is_there(rootfs, "etc/inittab") {
            return Self::Sysvinit;
        }
        // What is not there is refused at its start, by its name.
        if is_init || target_name.is_some_and(|name| INITS.contains(&name)) || !is_found(rootfs, program) {
            return Self::Other;
        }
        Self::None
    }

    /// The signal at which it shuts its system down.
    pub(super) const fn stop_signal(self) -> StopSignal {
        match self {
            Self::Systemd => StopSignal::SYSTEMD,
            Self::Sysvinit => StopSignal::SYSVINIT,
            Self::Busybox => StopSignal::BUSYBOX,
            Self::Other | Self::None => StopSignal::TERM,
        }
    }
}

fn last(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// The file at a path of a root file system, itself also where it is a link.
fn at(rootfs: &Path, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let root = openat(
        CWD,
        rootfs,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    lookup::open(
        &root,
        path.trim_start_matches('/'),
        OFlags::PATH | OFlags::CLOEXEC | flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

fn is_there(rootfs: &Path, path: &str) -> bool {
    at(rootfs, path, OFlags::empty()).is_ok()
}

/// Whether the container finds this program, a bare name where its PATH leads.
fn is_found(rootfs: &Path, program: &str) -> bool {
    if program.contains('/') {
        return is_there(rootfs, program);
    }
    [
        "usr/local/sbin",
        "usr/local/bin",
        "usr/sbin",
        "usr/bin",
        "sbin",
        "bin",
    ]
    .iter()
    .any(|folder| is_there(rootfs, &format!("{folder}/{program}")))
}

/// Where the link `program` leads, its last step only.
fn target(rootfs: &Path, program: &str) -> Option<PathBuf> {
    let link = at(rootfs, program, OFlags::NOFOLLOW).ok()?;
    let target = readlinkat(&link, c"", Vec::new()).ok()?;
    Some(PathBuf::from(target.to_string_lossy().into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn inits_by_what_lies_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for folder in ["usr/sbin", "bin", "etc"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        symlink("usr/sbin", root.join("sbin")).unwrap();
        symlink("/lib/systemd/systemd", root.join("usr/sbin/init")).unwrap();
        fs::write(root.join("usr/sbin/other"), "").unwrap();
        fs::write(root.join("bin/busybox"), "").unwrap();
        symlink("busybox", root.join("bin/sh")).unwrap();
        symlink("../bin/busybox", root.join("bin/init")).unwrap();
        fs::write(root.join("usr/sbin/openrc-init"), "").unwrap();
        symlink("../usr/sbin/openrc-init", root.join("bin/first")).unwrap();
        fs::create_dir(root.join("own")).unwrap();
        fs::write(root.join("own/init"), "").unwrap();
        let of = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(ToString::to_string).collect();
            Init::of(root, &words)
        };
        for (words, init) in [
            (&["/sbin/init"][..], Init::Systemd),
            (&["/usr/lib/systemd/systemd", "--unit=x"], Init::Systemd),
            (&["/../../../sbin/init"], Init::Systemd),
            (&["/bin/init"], Init::Busybox),
            (&["/bin/busybox", "init"], Init::Busybox),
            (&["/bin/busybox", "sh"], Init::None),
            (&["/bin/sh", "-c", "x"], Init::None),
            (&["sh"], Init::None),
            (&["/sbin/other"], Init::None),
            (&["/sbin/openrc-init"], Init::Other),
            (&["/bin/first"], Init::Other),
            (&["/own/init"], Init::Other),
            (&["/sbin/none"], Init::Other),
            (&["none"], Init::Other),
            (&[], Init::Other),
        ] {
            assert_eq!(of(words), init, "{words:?}");
        }
        fs::write(root.join("etc/inittab"), "").unwrap();
        assert_eq!(of(&["/own/init"]), Init::Sysvinit);
        assert_eq!(of(&["/bin/init"]), Init::Busybox);
        assert_eq!(of(&["/sbin/init"]), Init::Systemd);
    }
}
