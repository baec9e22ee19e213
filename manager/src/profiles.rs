//! The folder of profiles: reading one, writing one, listing all, and who has them.

use crate::atomic;
use crate::definition::{Edit, KEYS, Parsed, Text, parse_profile, profile_of};
use crate::definitions::{self, LoadError, bytes};
use crate::layout::Layout;
use devbroker::model::ContainerName;
use rustix::fs::{FlockOperation, flock};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::File;
use std::io;

/// The file of a profile, as it is.
fn bytes_of(layout: &Layout, name: &ContainerName) -> Result<Vec<u8>, LoadError> {
    bytes(&layout.profile(name))?.ok_or_else(|| LoadError::NoProfile(name.clone()))
}

/// The text of a profile's file.
pub(crate) fn text_of(layout: &Layout, name: &ContainerName) -> Result<String, LoadError> {
    String::from_utf8(bytes_of(layout, name)?).map_err(|_| LoadError::Io {
        what: "read",
        path: layout.profile(name),
        source: io::ErrorKind::InvalidData.into(),
    })
}

/// Reads a profile, as if it were a definition that says no more.
pub(crate) fn load(layout: &Layout, name: &ContainerName) -> Result<Parsed, LoadError> {
    parsed(layout, name, &bytes_of(layout, name)?)
}

/// What these bytes say as the profile `name`.
pub(crate) fn parsed(layout: &Layout, name: &ContainerName, bytes: &[u8]) -> Result<Parsed, LoadError> {
    let path = layout.profile(name);
    let text = Text { path: &path, bytes };
    Ok(parse_profile(name, text, layout)?)
}

/// The names of all profiles, sorted.
pub(crate) fn names(layout: &Layout) -> Result<Vec<ContainerName>, LoadError> {
    definitions::names_in(&layout.profiles)
}

/// The containers of each profile that is named by any, sorted.
pub(crate) fn users(layout: &Layout) -> Result<BTreeMap<ContainerName, Vec<ContainerName>>, LoadError> {
    let mut users: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for name in definitions::names(layout)? {
        let profile = profile_of(&definitions::bytes_of(layout, &name)?);
        if let Some(profile) = profile {
            users.entry(profile).or_default().push(name);
        }
    }
    Ok(users)
}

/// The text of a profile with these values, in the order of the keys, each with what it means. `about` is its first line.
pub(crate) fn text(about: &str, values: &[Edit]) -> String {
    let mut text = format!("# {about}\n");
    for key in KEYS {
        // The last counts, as on the command line.
        let value = values.iter().rev().find(|edit| edit.key.name == key.name);
        if let Some(value) = value.and_then(Edit::value) {
            // Writing to a String does not fail.
            writeln!(
                text,
                "# {}\n{} = {}",
                key.about,
                key.name,
                value.to_string().trim()
            )
            .ok();
        }
    }
    text
}

/// The profiles, held against others who write them.
#[derive(Debug)]
pub(crate) struct Held<'l> {
    layout: &'l Layout,
    _folder: File,
}

/// Waits for others who write profiles, and makes their folder if it is not there.
pub(crate) fn hold(layout: &Layout) -> Result<Held<'_>, LoadError> {
    let path = &layout.profiles;
    let held = atomic::folder(path, 0o755).and_then(|()| {
        let folder = File::open(path)?;
        flock(&folder, FlockOperation::LockExclusive)?;
        Ok(folder)
    });
    match held {
        Ok(folder) => Ok(Held {
            layout,
            _folder: folder,
        }),
        Err(source) => Err(LoadError::Io {
            what: "write to",
            path: path.clone(),
            source,
        }),
    }
}

impl Held<'_> {
    /// Writes a profile in one step, if it has no faults; an older one is replaced only if that is wanted.
    pub(crate) fn write(&self, name: &ContainerName, text: &str, replace: bool) -> Result<(), LoadError> {
        let path = self.layout.profile(name);
        parsed(self.layout, name, text.as_bytes())?;
        let write = if replace { atomic::write } else { atomic::write_new };
        write(&path, text.as_bytes(), 0o644).map_err(|source| {
            if source.kind() == io::ErrorKind::AlreadyExists {
                LoadError::ProfileExists(path)
            } else {
                LoadError::Io {
                    what: "write",
                    path,
                    source,
                }
            }
        })
    }
}
