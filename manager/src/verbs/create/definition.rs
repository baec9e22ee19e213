//! The definition of a container that is being made.

use super::source::Found;
use crate::cli;
use crate::definition::{Definition, Edit, KEYS};
use crate::definitions;
use crate::ids::Ids;
use crate::layout::Layout;
use crate::signal::StopSignal;
use anyhow::{Context, Result};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2, readlinkat};
use std::path::{Path, PathBuf};

/// What the arguments make it, without faults. Its base is not known yet.
pub(super) fn of(layout: &Layout, arguments: &cli::Create, ids: Ids, found: &Found) -> Result<Definition> {
    let name = &arguments.name;
    let mut definition = match &found.model {
        Some(model) => Definition {
            name: name.clone(),
            ids,
            base: model.definition.base.clone().filter(|_| !arguments.copy),
            ..model.definition.clone()
        },
        None => Definition::new(name.clone(), ids, layout),
    };
    let fresh = Definition::new(name.clone(), ids, layout);
    definition.hostname = arguments.hostname.clone().unwrap_or(fresh.hostname);
    definition.rootfs = found.rootfs.clone().unwrap_or(fresh.rootfs);
    definition.start = fresh.start;
    if let Some(domain) = &arguments.domain {
        definition.domain.clone_from(domain);
    }
    if arguments.profile.is_some() {
        definition.profile.clone_from(&arguments.profile);
    }
    if !arguments.init.is_empty() {
        definition.init.clone_from(&arguments.init);
    }
    definition.capabilities.extend_from_slice(&arguments.cap);
    let text = found.text(layout, &definition)?;
    definitions::parsed(layout, name, text.as_bytes())
        .with_context(|| format!("cannot create container {name}"))?;
    Ok(definition)
}

/// The text of a definition after a model's: the model's own, with what differs changed. For a clone, and for a container
/// that gets another name.
pub(in crate::verbs) fn cloned_text(model: &str, of: &Definition, clone: &Definition) -> Result<String> {
    let heading = |definition: &Definition| format!("# Container {}; see ctm(8).\n", definition.name);
    let mut text = model.replacen(&heading(of), &heading(clone), 1);
    for key in &KEYS {
        let (before, now) = ((key.show)(of), (key.show)(clone));
        if before.to_string() != now.to_string() {
            let usual = now.as_str().is_some_and(str::is_empty);
            text = Edit::new(key.name, (!usual).then_some(now))?.apply(&text)?;
        }
    }
    Ok(text)
}

/// Takes from its files what only they tell: which signal stops it.
pub(super) fn look(definition: &mut Definition, arguments: &cli::Create) {
    // A profile that says the first process is not known here; neither is what it stops at.
    if definition.profile.is_none() || !arguments.init.is_empty() {
        definition.stop_signal = stop_signal(&definition.rootfs, &definition.init);
    }
}

/// systemd halts at a signal of its own; everything else is asked with SIGTERM. The root file system is hostile: its links
/// are resolved within it.
fn stop_signal(rootfs: &Path, init: &[String]) -> StopSignal {
    let is_systemd =
        |program: &str| target(rootfs, program).is_some_and(|target| target.ends_with("systemd"));
    match init.first() {
        Some(program) if program.ends_with("/systemd") || is_systemd(program) => StopSignal::SYSTEMD,
        Some(_) | None => StopSignal::TERM,
    }
}

/// Where the link `program` of a root file system leads, its last step only.
fn target(rootfs: &Path, program: &str) -> Option<PathBuf> {
    let root = openat(
        CWD,
        rootfs,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .ok()?;
    let link = openat2(
        &root,
        program.trim_start_matches('/'),
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
    .ok()?;
    let target = readlinkat(&link, c"", Vec::new()).ok()?;
    Some(PathBuf::from(target.to_string_lossy().into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn systemd_is_known_by_its_link() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("usr/sbin")).unwrap();
        symlink("usr/sbin", root.join("sbin")).unwrap();
        symlink("/lib/systemd/systemd", root.join("usr/sbin/init")).unwrap();
        fs::write(root.join("usr/sbin/other"), "").unwrap();
        for (program, signal) in [
            ("/sbin/init", StopSignal::SYSTEMD),
            ("/usr/lib/systemd/systemd", StopSignal::SYSTEMD),
            ("/sbin/other", StopSignal::TERM),
            ("/sbin/none", StopSignal::TERM),
            ("/../../../sbin/init", StopSignal::SYSTEMD),
        ] {
            assert_eq!(stop_signal(root, &[program.into()]), signal, "{program}");
        }
        assert_eq!(stop_signal(root, &[]), StopSignal::TERM);
    }
}
