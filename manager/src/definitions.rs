//! The folders of definitions and profiles: reading one, replacing one, listing all.

use crate::atomic;
use crate::definition::{Definition, EditError, Faults, MAX_FILE, Parsed, Text, parse, profile_of};
use crate::layout::Layout;
use devbroker::model::ContainerName;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A definition that cannot be had or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// There is none.
    #[error("there is no container {0}; `ctm list` shows those that there are")]
    Unknown(ContainerName),
    /// Its profile is not there.
    #[error("{} names the profile {profile}, and there is no {}", .definition.display(), .path.display())]
    Profile {
        definition: PathBuf,
        profile: ContainerName,
        path: PathBuf,
    },
    /// There is no such profile.
    #[error("there is no profile {0}; `ctm profile list` shows those that there are")]
    NoProfile(ContainerName),
    /// There is one already.
    #[error("{} exists already; --replace replaces it", .0.display())]
    ProfileExists(PathBuf),
    /// It cannot be read or written.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// It is wrong.
    #[error(transparent)]
    Faults(#[from] Faults),
    /// It cannot be changed like this.
    #[error(transparent)]
    Edit(#[from] EditError),
}

/// Reads the definition of a container.
pub(crate) fn load(layout: &Layout, name: &ContainerName) -> Result<Definition, LoadError> {
    load_with_origins(layout, name).map(|parsed| parsed.definition)
}

/// Reads the definition of a container and where each of its values is from.
pub(crate) fn load_with_origins(layout: &Layout, name: &ContainerName) -> Result<Parsed, LoadError> {
    parsed(layout, name, &bytes_of(layout, name)?)
}

/// The file of a container's definition, as it is.
pub(crate) fn bytes_of(layout: &Layout, name: &ContainerName) -> Result<Vec<u8>, LoadError> {
    bytes(&layout.definition(name))?.ok_or_else(|| LoadError::Unknown(name.clone()))
}

/// What these bytes say as the definition of `name`.
pub(crate) fn parsed(layout: &Layout, name: &ContainerName, own: &[u8]) -> Result<Parsed, LoadError> {
    let path = layout.definition(name);
    let profile = match profile_of(own) {
        None => None,
        Some(profile) => {
            let at = layout.profile(&profile);
            match bytes(&at)? {
                Some(bytes) => Some((at, bytes)),
                None => {
                    return Err(LoadError::Profile {
                        definition: path,
                        profile,
                        path: at,
                    });
                }
            }
        }
    };
    let profile = profile.as_ref().map(|(path, bytes)| Text { path, bytes });
    let own = Text {
        path: &path,
        bytes: own,
    };
    Ok(parse(name, profile, own, layout)?)
}

/// Replaces the definition of a container by a text without faults, in one step.
pub(crate) fn replace(layout: &Layout, name: &ContainerName, text: &str) -> Result<Parsed, LoadError> {
    let parsed = parsed(layout, name, text.as_bytes())?;
    let path = layout.definition(name);
    atomic::write(&path, text.as_bytes(), 0o644).map_err(|source| LoadError::Io {
        what: "write",
        path,
        source,
    })?;
    Ok(parsed)
}

/// A file, cut off one byte after the largest that is read; none if there is none.
pub(crate) fn bytes(path: &Path) -> Result<Option<Vec<u8>>, LoadError> {
    // Most definitions are read at once.
    let mut bytes = Vec::with_capacity(4096);
    let limit = u64::try_from(MAX_FILE).unwrap_or(u64::MAX).saturating_add(1);
    match File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LoadError::Io {
            what: "read",
            path: path.into(),
            source,
        }),
    }
}

/// The names of all containers, sorted.
pub(crate) fn names(layout: &Layout) -> Result<Vec<ContainerName>, LoadError> {
    names_in(&layout.definitions)
}

/// Whom the files of a folder are about, sorted. Files whose names cannot be a container's are left aside.
pub(crate) fn names_in(path: &Path) -> Result<Vec<ContainerName>, LoadError> {
    let failed = |source| LoadError::Io {
        what: "read",
        path: path.into(),
        source,
    };
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_str().and_then(|name| name.strip_suffix(".toml"));
        names.extend(name.and_then(|name| name.parse().ok()));
    }
    names.sort();
    Ok(names)
}
