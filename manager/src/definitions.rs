//! The folder of definitions: reading one, listing all.

use crate::definition::{Definition, Faults, MAX_FILE};
use crate::layout::Layout;
use devbroker::model::ContainerName;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;

/// A definition that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// There is none.
    #[error("there is no container {0}; `ctm list` shows those that there are")]
    Unknown(ContainerName),
    /// It cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    /// It is wrong.
    #[error(transparent)]
    Faults(#[from] Faults),
}

/// Reads the definition of a container.
pub(crate) fn load(layout: &Layout, name: &ContainerName) -> Result<Definition, LoadError> {
    let path = layout.definition(name);
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_FILE).unwrap_or(u64::MAX).saturating_add(1);
    match File::open(&path).and_then(|file| file.take(limit).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Definition::parse(name, &path, &bytes, layout)?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(LoadError::Unknown(name.clone())),
        Err(source) => Err(LoadError::Io { path, source }),
    }
}

/// The names of all containers, sorted. Files whose names are no container's are left aside.
pub(crate) fn names(layout: &Layout) -> Result<Vec<ContainerName>, LoadError> {
    let path = &layout.definitions;
    let failed = |source| LoadError::Io {
        path: path.clone(),
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
