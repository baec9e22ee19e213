//! What a container is made from, found and looked at before anything is made.

use super::definition;
use crate::cli;
use crate::definition::Definition;
use crate::definitions;
use crate::ids::Ids;
use crate::layout::Layout;
use crate::lock::{self, Lock, Sharing};
use crate::make::base::{self, Base, BaseId};
use crate::make::bootstrap::{self, Bootstrap, Distro, Tool};
use crate::make::fit::Item;
use crate::make::progress::{Progress, Share, Unit};
use crate::make::recipe::{self, Recipe};
use crate::plan::{Finish, Material, Origin};
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
    /// What is done then.
    pub(super) finish: Finish,
}

/// Where the files come from.
#[derive(Debug)]
pub(super) enum Source {
    /// A base system that others may share.
    Base(Box<NewBase>),
    /// Files of the container's own.
    Files(Origin),
}

/// A base system, and what to do if it is not there yet.
#[derive(Debug)]
pub(super) struct NewBase {
    pub(super) base: Base,
    /// What it has to be made from; none if it is there.
    pub(super) material: Option<Material>,
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
            finish: Finish::default(),
        }
    }

    fn based(new: NewBase) -> Self {
        Self {
            source: Source::Base(Box::new(new)),
            model: None,
            rootfs: None,
            finish: Finish::default(),
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

/// Finds what the arguments and the recipe name.
pub(super) fn find(layout: &Layout, arguments: &cli::Create) -> Result<Found> {
    let recipe = match &arguments.recipe {
        Some(path) => recipe::load(&present(path)?)?,
        None => Recipe::default(),
    };
    let source = &arguments.source;
    let given = source.tar.is_some() || source.rootfs.is_some() || source.clone.is_some();
    let distro = source
        .distro
        .as_ref()
        .or(recipe.distro.as_ref().filter(|_| !given));
    let mut found = match distro {
        Some(distro) => of_distro(layout, distro, arguments, &recipe)?,
        None => files(layout, arguments, &recipe)?,
    };
    let (mut items, present_only) = if distro.is_some() {
        (Item::all(), false)
    } else if source.clone.is_some() {
        (Item::of_a_clone(), recipe.fit.is_empty())
    } else {
        (std::collections::BTreeSet::new(), false)
    };
    for (item, wanted) in &recipe.fit {
        if *wanted {
            items.insert(*item);
        } else {
            items.remove(item);
        }
    }
    found.finish = Finish {
        items,
        present_only,
        files: recipe.files,
        runs: recipe.runs,
    };
    Ok(found)
}

/// What is made from files that are there.
fn files(layout: &Layout, arguments: &cli::Create, recipe: &Recipe) -> Result<Found> {
    let packaged = !arguments.package.is_empty()
        || !recipe.packages.is_empty()
        || arguments.arch.is_some()
        || arguments.mirror.is_some()
        || arguments.variant.is_some()
        || arguments.fresh;
    if packaged {
        bail!(
            "packages, --arch, --mirror, --variant and --fresh are for a distribution; name it with --distro or in the recipe"
        );
    }
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
        return Ok(Found::based(of_archive(layout, archive)?));
    }
    let Some(folder) = &source.rootfs else {
        bail!(
            "what it is made from must be said: --distro, --tar, --rootfs, --clone, or a recipe with `distro`"
        );
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

/// A distribution's base system. What the command line says counts more than what the recipe says; packages are added up.
fn of_distro(layout: &Layout, distro: &Distro, arguments: &cli::Create, recipe: &Recipe) -> Result<Found> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/bin".into()])
        .collect();
    let said = |own: &Option<String>, other: &Option<String>| own.clone().or_else(|| other.clone());
    let how = Bootstrap {
        tool: Tool::installed(&folders)?,
        distro: distro.clone(),
        arch: said(&arguments.arch, &recipe.arch).unwrap_or_else(bootstrap::arch),
        mirror: said(&arguments.mirror, &recipe.mirror),
        variant: said(&arguments.variant, &recipe.variant),
        packages: [&arguments.package[..], &recipe.packages].concat(),
    }
    .settled()?;
    let (made_from, created) = (how.id(), crate::verbs::images::now());
    let id = if arguments.fresh {
        let salt = [created.to_le_bytes(), u64::from(std::process::id()).to_le_bytes()].concat();
        BaseId::of([made_from.as_str().as_bytes(), &salt])
    } else {
        made_from.clone()
    };
    let base = Base {
        id,
        what: how.what(),
        made_from,
        created,
        bytes: 0,
        beyond: None,
    };
    Ok(Found::based(settled(layout, base, Material::Bootstrap(how))?))
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
            return Err(Refused::NotDown {
                name: other.clone(),
                phase: crate::verbs::phase(&state).into(),
                deed: "copied",
            }
            .into());
        }
        Condition::Abandoned(_) => {
            return Err(Refused::NotDown {
                name: other.clone(),
                phase: "abandoned".into(),
                deed: "copied",
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
    settled(layout, base, Material::Archive(archive))
}

/// Waits until the base is there, to be shared, or for us alone to make.
fn settled(layout: &Layout, base: Base, material: Material) -> Result<NewBase> {
    let wanted_anew = base.id != base.made_from;
    loop {
        let there = if wanted_anew {
            None
        } else {
            base::newest(layout, &base.made_from)?
        };
        if let Some(there) = there {
            let lock = base::held(layout, &there.id)?;
            if base::load(layout, &there.id)?.is_some() {
                return Ok(NewBase {
                    base: there,
                    material: None,
                    lock,
                });
            }
            // Removed in between.
            continue;
        }
        let lock = lock::base(layout, &base.id, Sharing::Alone)?;
        if base::load(layout, &base.id)?.is_none() {
            return Ok(NewBase {
                base,
                material: Some(material),
                lock,
            });
        }
    }
}
