//! `ctm create`.

use super::{Code, Refused};
use crate::cli;
use crate::definition::Definition;
use crate::definitions::{self, LoadError};
use crate::ids::{self, IdBlock, Ids};
use crate::layout::Layout;
use crate::plan::{self, Origin};
use crate::runner::Runner;
use crate::signal::StopSignal;
use crate::{hooks, lock, store};
use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2, readlinkat};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub(super) fn run(layout: &Layout, arguments: &cli::Create) -> Result<Code> {
    let name = &arguments.name;
    let _lock = lock::verb(layout, name)?;
    // Host ids are chosen by looking at all definitions, so no other may be written in between.
    let _ids = lock::ids(layout)?;
    match definitions::load(layout, name) {
        Err(LoadError::Unknown(_)) => {}
        Ok(_) | Err(_) => {
            return Err(Refused::Exists {
                name: name.clone(),
                definition: layout.definition(name),
            }
            .into());
        }
    }
    let ids = if arguments.no_userns {
        Ids::Host
    } else {
        Ids::Block(free_ids(layout)?)
    };
    let (origin, rootfs) = origin(layout, arguments)?;
    let mut definition = Definition::new(name.clone(), ids, layout);
    definition.rootfs = rootfs;
    if !arguments.init.is_empty() {
        definition.init.clone_from(&arguments.init);
    }
    if let Origin::Copied(from) | Origin::InPlace(from) = &origin {
        definition.stop_signal = stop_signal(from, &definition.init);
    }
    if arguments.dry_run {
        let mut out = io::stdout().lock();
        for step in plan::create(&definition, &origin, layout) {
            writeln!(out, "{step}")?;
        }
        return Ok(Code::Done);
    }
    // What an interrupted creation left: nothing refers to it.
    store::remove(&layout.stored(name))?;
    hooks::forget(layout, name)?;

    // Which signal stops it shows only in the root file system, so an archive is unpacked before the definition is made.
    let steps = plan::create(&definition, &origin, layout);
    let (last, before) = steps.split_last().context("a creation without steps")?;
    let mut runner = Runner::new(layout, name, None);
    let made = before
        .iter()
        .try_for_each(|step| runner.take(step))
        .and_then(|()| {
            definition.stop_signal = stop_signal(&definition.rootfs, &definition.init);
            let last = plan::create(&definition, &origin, layout)
                .pop()
                .unwrap_or_else(|| last.clone());
            runner.take(&last)
        });
    if let Err(error) = made {
        // The last step is not undone: it either wrote the whole definition or found another one there.
        for failure in runner.undo_all(before) {
            tracing::error!(error = %failure, "cleaning up after a failure failed");
        }
        return Err(error).with_context(|| format!("cannot create container {name}"));
    }
    let mut out = io::stdout().lock();
    writeln!(out, "created {name}: {}", layout.definition(name).display())?;
    Ok(Code::Done)
}

/// Where the root file system comes from and where it will be.
fn origin(layout: &Layout, arguments: &cli::Create) -> Result<(Origin, PathBuf)> {
    let stored = layout.rootfs(&arguments.name);
    let found =
        |path: &Path| fs::canonicalize(path).with_context(|| format!("cannot find {}", path.display()));
    match (&arguments.source.tar, &arguments.source.rootfs) {
        (Some(archive), _) => Ok((Origin::Archive(found(archive)?), stored)),
        (None, Some(folder)) => {
            let folder = found(folder)?;
            if !folder.is_dir() {
                bail!("{} is no folder; give an archive with --tar", folder.display());
            }
            if folder == Path::new("/") {
                bail!("the host's own root file system cannot be a container's");
            }
            if arguments.in_place {
                Ok((Origin::InPlace(folder.clone()), folder))
            } else {
                Ok((Origin::Copied(folder), stored))
            }
        }
        (None, None) => bail!("either --rootfs or --tar is needed"),
    }
}

/// Host ids that no container and nobody else has.
fn free_ids(layout: &Layout) -> Result<IdBlock> {
    let mut used = Vec::new();
    for name in definitions::names(layout)? {
        let definition = definitions::load(layout, &name)
            .context("cannot tell which host ids are free; mend this definition first")?;
        if let Ids::Block(block) = definition.ids {
            used.push(block);
        }
    }
    Ok(ids::allocate(
        &text("/etc/subuid")?,
        &text("/etc/subgid")?,
        &used,
    )?)
}

fn text(path: &str) -> Result<String> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(e).with_context(|| format!("cannot read {path}")),
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
