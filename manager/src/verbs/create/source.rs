//! What a container is made from, found and looked at before anything is made.

use super::definition;
use crate::base::{self, Base, BaseId};
use crate::cli;
use crate::definition::Definition;
use crate::definitions;
use crate::ids::Ids;
use crate::layout::Layout;
use crate::lock::{self, Lock, Sharing};
use crate::plan::Origin;
use crate::progress::{Progress, Share, Unit};
use crate::verbs::{Condition, Refused};
use anyhow::{Context, Result, bail};
use devbroker::model::ContainerName;
use std::fs;
use std::path::{Path, PathBuf};

/// What there is to make a container from.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) source: Source,
    /// The container that is cloned.
    pub(super) model: Option<Model>,
    /// Where the root file system will be, if not in the store.
    pub(super) rootfs: Option<PathBuf>,
}

/// Where the files come from.
#[derive(Debug)]
pub(super) enum Source {
    /// A base system that others may share.
    Base(NewBase),
    /// Files of the container's own.
    Files(Origin),
}

/// A base system, and what to do if it is not there yet.
#[derive(Debug)]
pub(super) struct NewBase {
    pub(super) base: Base,
    /// What it has to be made from; none if it is there.
    pub(super) archive: Option<PathBuf>,
    /// Held alone for as long as it is made, and shared until the container is.
    pub(super) lock: Lock,
}

/// A container that is cloned.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) definition: Definition,
    text: String,
}

impl Found {
    fn files(origin: Origin) -> Self {
        Self {
            source: Source::Files(origin),
            model: None,
            rootfs: None,
        }
    }

    /// Whether the container gets host ids of its own: as is said, otherwise as its model, otherwise yes.
    pub(super) fn own_ids(&self, arguments: &cli::Create) -> bool {
        match &self.model {
            Some(model) if !arguments.userns => !arguments.no_userns && model.definition.ids != Ids::Host,
            Some(_) | None => !arguments.no_userns,
        }
    }

    /// The text of the new definition.
    pub(super) fn text(&self, layout: &Layout, definition: &Definition) -> Result<String> {
        match &self.model {
            Some(model) => definition::cloned_text(&model.text, &model.definition, definition),
            None => Ok(definition.text(layout)),
        }
    }
}

/// Finds what the arguments name.
pub(super) fn find(layout: &Layout, arguments: &cli::Create) -> Result<Found> {
    let source = &arguments.source;
    if let Some(other) = &source.clone {
        return clone(layout, other, arguments.copy);
    }
    if let Some(archive) = &source.tar {
        let archive = present(archive)?;
        if archive.is_dir() {
            bail!("{} is a folder; give it with --rootfs", archive.display());
        }
        if arguments.copy {
            return Ok(Found::files(Origin::Archive(archive)));
        }
        return Ok(Found {
            source: Source::Base(of_archive(layout, archive)?),
            model: None,
            rootfs: None,
        });
    }
    let Some(folder) = &source.rootfs else {
        bail!("one of --rootfs, --tar and --clone is needed");
    };
    let folder = present(folder)?;
    if !folder.is_dir() {
        bail!("{} is no folder; give an archive with --tar", folder.display());
    }
    if folder == Path::new("/") {
        bail!("the host's own root file system cannot be a container's");
    }
    Ok(if arguments.in_place {
        Found {
            rootfs: Some(folder.clone()),
            ..Found::files(Origin::InPlace(folder))
        }
    } else {
        Found::files(Origin::Copied {
            from: folder,
            ids: Ids::Host,
        })
    })
}

fn present(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).map_err(|source| {
        let path = path.into();
        Refused::NoSource { path, source }.into()
    })
}

/// A stopped container. What it has changed in its base is copied; without a base, or where none is wanted, all of it.
fn clone(layout: &Layout, other: &ContainerName, copy: bool) -> Result<Found> {
    let text = String::from_utf8(definitions::bytes_of(layout, other)?)
        .with_context(|| format!("{} is not UTF-8", layout.definition(other).display()))?;
    let definition = definitions::load(layout, other)?;
    match Condition::of(layout, other)? {
        Condition::Stopped => {}
        Condition::Supervised(state) => {
            return Err(Refused::CloneOfRunning {
                name: other.clone(),
                phase: crate::verbs::phase(&state).into(),
            }
            .into());
        }
        Condition::Abandoned(_) => {
            return Err(Refused::CloneOfRunning {
                name: other.clone(),
                phase: "abandoned".into(),
            }
            .into());
        }
    }
    let folder = layout.stored(other);
    let ids = definition.ids;
    let origin = match &definition.base {
        None => Origin::Copied {
            from: definition.rootfs.clone(),
            ids,
        },
        Some(base) if copy => Origin::Flattened {
            base: layout.base_rootfs(base),
            folder,
            ids,
        },
        Some(_) => Origin::Changes {
            from: folder.join("upper"),
            ids,
        },
    };
    Ok(Found {
        model: Some(Model { definition, text }),
        ..Found::files(origin)
    })
}

/// The base system that an archive makes, by what is in the archive.
fn of_archive(layout: &Layout, archive: PathBuf) -> Result<NewBase> {
    let mut progress = Progress::new();
    let total = fs::metadata(&archive).map_or(0, |found| found.len());
    if progress.is_shown() {
        progress.begin(format!("reading {}", archive.display()));
    }
    let of_file = BaseId::of_file(&archive, |done| {
        progress.at(Share {
            done,
            total,
            unit: Unit::Bytes,
        });
    })
    .with_context(|| format!("cannot read {}", archive.display()))?;
    drop(progress);
    let id = BaseId::of([&b"tar"[..], of_file.as_str().as_bytes()]);
    let what = archive
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let base = Base {
        id: id.clone(),
        what,
        made_from: id,
        created: crate::verbs::images::now(),
        bytes: 0,
        beyond: None,
    };
    let (lock, there) = settled(layout, &base.id)?;
    Ok(match there {
        Some(base) => NewBase {
            base,
            archive: None,
            lock,
        },
        None => NewBase {
            base,
            archive: Some(archive),
            lock,
        },
    })
}

/// Waits until a base is there, to be shared, or for us alone to make.
fn settled(layout: &Layout, id: &BaseId) -> Result<(Lock, Option<Base>)> {
    loop {
        let shared = base::held(layout, id)?;
        if let Some(base) = base::load(layout, id)? {
            return Ok((shared, Some(base)));
        }
        drop(shared);
        let alone = lock::base(layout, id, Sharing::Alone)?;
        if base::load(layout, id)?.is_none() {
            return Ok((alone, None));
        }
    }
}
