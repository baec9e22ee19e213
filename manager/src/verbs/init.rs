//! Which init a root file system has, seen from outside, and what follows from that. The root file system is hostile: its
//! links are resolved within it.

use super::Condition;
use crate::definition::{Definition, Edit, Parsed};
use crate::definitions;
use crate::layout::Layout;
use crate::lookup;
use crate::run::overlay;
use crate::signal::StopSignal;
use anyhow::Result;
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
    /// That of System V, as Debian and Devuan have it, and with `OpenRC` Gentoo.
    Sysvinit,
    /// Busybox's, as Alpine has it, there with `OpenRC`.
    Busybox,
    /// Another that shuts down at SIGTERM, such as `openrc-init`.
    Other,
    /// Nothing that is there.
    Missing,
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
        // Also `busybox.static`.
        let is_busybox = |name: &str| name.split('.').next() == Some("busybox");
        if (is_init && target_name.is_some_and(is_busybox))
            || (name.is_some_and(is_busybox) && words.get(1).is_some_and(|applet| applet == "init"))
        {
            return Self::Busybox;
        }
        if name == Some("init") && target.is_none() && is_there(rootfs, "etc/inittab") {
            return Self::Sysvinit;
        }
        // Refused at its start, by its name.
        if !is_found(rootfs, program) {
            return Self::Missing;
        }
        if is_init || target_name.is_some_and(|name| INITS.contains(&name)) {
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
            Self::Other | Self::Missing | Self::None => StopSignal::TERM,
        }
    }

    /// Whether one of ours has to be its parent. Where ctm was built and not installed there is none to give it.
    pub(super) fn needs_reaper(self, layout: &Layout) -> bool {
        self == Self::None && layout.reaper.is_file()
    }
}

/// Whether a key's value is said by the profile, and not by the definition itself.
pub(super) fn is_of_profile(layout: &Layout, parsed: &Parsed, key: &str) -> bool {
    let own = layout.definition(&parsed.definition.name);
    parsed.origins.get(key).is_some_and(|origin| origin.file != own)
}

/// What has to be changed in a definition whose first process becomes another: which signal stops it and whether it needs a
/// reaper, where these are as they were found out of the one before. What a person or a profile says stays.
pub(super) fn following(layout: &Layout, before: &Definition, text: &str) -> Result<Vec<Edit>> {
    let after = definitions::parsed(layout, &before.name, text.as_bytes())?;
    if before.init == after.definition.init {
        return Ok(Vec::new());
    }
    let [was, is] = inits(layout, before, [&before.init, &after.definition.init])?;
    let now = &after.definition;
    let mut edits = Vec::new();
    let signal = is.stop_signal();
    if now.stop_signal == was.stop_signal()
        && now.stop_signal != signal
        && !is_of_profile(layout, &after, "stop_signal")
    {
        edits.push(Edit::new("stop_signal", Some(signal.to_string().into()))?);
    }
    let reaper = is.needs_reaper(layout);
    if now.reaper == was.needs_reaper(layout)
        && now.reaper != reaper
        && !is_of_profile(layout, &after, "reaper")
    {
        edits.push(Edit::new("reaper", Some(reaper.into()))?);
    }
    Ok(edits)
}

/// What these first processes are in a container's root file system, which is not there while one on a base does not run.
fn inits(layout: &Layout, definition: &Definition, all: [&Vec<String>; 2]) -> Result<[Init; 2]> {
    let look = || all.map(|words| Init::of(&definition.rootfs, words));
    match (&definition.base, Condition::of(layout, &definition.name)?) {
        (Some(base), Condition::Stopped) => {
            let folder = layout.stored(&definition.name);
            let mounted = overlay::mount(&layout.base_rootfs(base), &folder, definition.ids);
            let found = mounted.map(|()| look());
            overlay::unmount(&folder)?;
            Ok(found?)
        }
        (None, _) | (Some(_), Condition::Supervised(_) | Condition::Abandoned(_)) => Ok(look()),
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
            (&["/sbin/none"], Init::Missing),
            (&["/sbin/tini"], Init::Missing),
            (&["none"], Init::Missing),
            (&[], Init::Other),
        ] {
            assert_eq!(of(words), init, "{words:?}");
        }
        // Alpine: links to busybox, OpenRC run by its inittab; Gentoo and Artix: OpenRC's own init, or that of System V.
        let alpine = tempfile::tempdir().unwrap();
        for folder in ["bin", "sbin", "etc", "usr/bin"] {
            fs::create_dir_all(alpine.path().join(folder)).unwrap();
        }
        symlink("/bin/busybox", alpine.path().join("sbin/init")).unwrap();
        fs::write(alpine.path().join("bin/busybox"), "").unwrap();
        fs::write(alpine.path().join("sbin/openrc"), "").unwrap();
        fs::write(alpine.path().join("etc/inittab"), "").unwrap();
        symlink("/bin/busybox.static", alpine.path().join("usr/bin/init")).unwrap();
        symlink("openrc-init", alpine.path().join("usr/init")).unwrap();
        fs::write(alpine.path().join("usr/openrc-init"), "").unwrap();
        for (words, init) in [
            (&["/sbin/init"][..], Init::Busybox),
            (&["/usr/bin/init"], Init::Busybox),
            (&["/bin/busybox.static", "init"], Init::Busybox),
            (&["/usr/init"], Init::Other),
            (&["/sbin/openrc"], Init::None),
        ] {
            let words: Vec<_> = words.iter().map(ToString::to_string).collect();
            assert_eq!(Init::of(alpine.path(), &words), init, "{words:?}");
        }
        fs::write(root.join("etc/inittab"), "").unwrap();
        assert_eq!(of(&["/own/init"]), Init::Sysvinit);
        assert_eq!(of(&["/bin/init"]), Init::Busybox);
        assert_eq!(of(&["/sbin/init"]), Init::Systemd);
    }
}
