//! Base systems: root file systems that containers share, each kept once and never changed.
//!
//! A base lies in `/var/lib/ctm/.bases/ID`, which only root may enter: `rootfs` with ids from 0, and `base.json`. It is
//! made in `.new-ID` beside it and renamed when all of it is on the disk, so that it is whole or not there.

use crate::definitions::{self, LoadError};
use crate::layout::Layout;
use crate::lock::{self, Lock, LockError, Sharing};
use crate::make::store::{self, StoreError};
use crate::run::overlay::{self, OverlayError};
use devbroker::model::ContainerName;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Hexadecimal digits of a base's id.
const DIGITS: usize = 16;
/// How a base that is being made is called.
const NEW: &str = ".new-";
/// How a folder is called in which is tried whether layers work.
const PROBE: &str = ".probe-";

/// What can go wrong with bases.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BaseError {
    /// A file operation failed.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// Its description says nothing.
    #[error("{} is damaged: {source}; remove its folder if no container uses it", .path.display())]
    Damaged {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    #[error("cannot tell which base systems are used; mend this definition first: {0}")]
    Users(#[source] LoadError),
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> BaseError + use<'a> {
    move |source| BaseError::Io {
        what,
        path: path.into(),
        source,
    }
}

/// What a base is called: by what it was made from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct BaseId(String);

impl BaseId {
    /// The id of what is made from these, in this order.
    pub(crate) fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut digest = Sha256::new();
        for part in parts {
            // With their lengths, so that no two lists are the same bytes.
            digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            digest.update(part);
        }
        Self::finished(digest)
    }

    /// The id of what is made from the bytes of a file.
    pub(crate) fn of_file(path: &Path, mut each: impl FnMut(u64)) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut digest = Sha256::new();
        let mut buffer = vec![0; 1 << 18];
        let mut done = 0;
        loop {
            let length = match file.read(&mut buffer) {
                Ok(0) => return Ok(Self::finished(digest)),
                Ok(length) => length,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            digest.update(buffer.get(..length).unwrap_or_default());
            done += u64::try_from(length).unwrap_or(0);
            each(done);
        }
    }

    fn finished(digest: Sha256) -> Self {
        // Two digits to a byte.
        let digits = digest
            .finalize()
            .iter()
            .take(DIGITS / 2)
            .fold(String::new(), |mut text, byte| {
                for half in [byte >> 4, byte & 15] {
                    text.extend(char::from_digit(half.into(), 16));
                }
                text
            });
        Self(digits)
    }

    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no base's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no id of a base system; `ctm images` lists those that there are")]
pub(crate) struct BaseIdError(String);

impl FromStr for BaseId {
    type Err = BaseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = text.len() == DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if fits {
            Ok(Self(text.into()))
        } else {
            Err(BaseIdError(text.chars().take(40).collect()))
        }
    }
}

impl TryFrom<String> for BaseId {
    type Error = BaseIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<BaseId> for String {
    fn from(id: BaseId) -> Self {
        id.0
    }
}

/// A base, as `base.json` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Base {
    pub(crate) id: BaseId,
    /// What it is made from, for people.
    pub(crate) what: String,
    /// What it is made from; more than one base can be made from the same, the newest counts.
    pub(crate) made_from: BaseId,
    /// When, in seconds since 1970.
    pub(crate) created: u64,
    /// How much room its files take.
    pub(crate) bytes: u64,
    /// A file that no container with ids of its own can have, and its id.
    pub(crate) beyond: Option<(PathBuf, u32)>,
}

/// Reads a base; none if there is none.
pub(crate) fn load(layout: &Layout, id: &BaseId) -> Result<Option<Base>, BaseError> {
    let path = layout.base(id).join("base.json");
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| BaseError::Damaged { path, source }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", &path)(e)),
    }
}

/// The names in the folder of bases, sorted.
fn entries(layout: &Layout) -> Result<Vec<String>, BaseError> {
    let path = layout.bases();
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed("read", &path)(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed("read", &path))?.file_name();
        names.extend(name.to_str().map(String::from));
    }
    names.sort();
    Ok(names)
}

/// All bases, sorted by id.
pub(crate) fn list(layout: &Layout) -> Result<Vec<Base>, BaseError> {
    let ids = entries(layout)?;
    let ids = ids.iter().filter_map(|name| name.parse().ok());
    ids.filter_map(|id| load(layout, &id).transpose()).collect()
}

/// The newest base that is made from this.
pub(crate) fn newest(layout: &Layout, made_from: &BaseId) -> Result<Option<Base>, BaseError> {
    let all = list(layout)?;
    Ok(all
        .into_iter()
        .filter(|base| base.made_from == *made_from)
        .max_by_key(|base| base.created))
}

/// The containers that use a base.
pub(crate) fn users(layout: &Layout, id: &BaseId) -> Result<Vec<ContainerName>, BaseError> {
    let mut users = Vec::new();
    for name in definitions::names(layout).map_err(BaseError::Users)? {
        match definitions::load(layout, &name) {
            Ok(definition) if definition.base.as_ref() == Some(id) => users.push(name),
            // Gone meanwhile.
            Ok(_) | Err(LoadError::Unknown(_)) => {}
            Err(error) => return Err(BaseError::Users(error)),
        }
    }
    Ok(users)
}

/// Takes away what creations that were interrupted left among the bases; what is being made is left alone.
pub(crate) fn sweep(layout: &Layout) -> Result<Vec<PathBuf>, BaseError> {
    let mut swept = Vec::new();
    for name in entries(layout)? {
        let path = layout.bases().join(&name);
        let _lock = if let Some(id) = name.strip_prefix(NEW).and_then(|id| id.parse().ok()) {
            match lock::base_if_free(layout, &id)? {
                Some(lock) => lock,
                None => continue,
            }
        } else if let Some(container) = name.strip_prefix(PROBE).and_then(|name| name.parse().ok()) {
            match lock::verb_if_free(layout, &container)? {
                Some(lock) => lock,
                None => continue,
            }
        } else {
            continue;
        };
        overlay::unmount(&path)?;
        store::remove(&path)?;
        swept.push(path);
    }
    Ok(swept)
}

/// Removes a base unless a container uses it or is being made on it; whether it did.
pub(crate) fn remove(layout: &Layout, id: &BaseId) -> Result<bool, BaseError> {
    let Some(_lock) = lock::base_if_free(layout, id)? else {
        return Ok(false);
    };
    // Only now: who makes a container holds the lock until its definition is written.
    if !users(layout, id)?.is_empty() {
        return Ok(false);
    }
    // Renamed first, so that half of it is never taken for a base.
    let (path, away) = (layout.base(id), layout.new_base(id));
    store::remove(&away)?;
    fs::rename(&path, &away).map_err(failed("remove", &path))?;
    store::remove(&away)?;
    Ok(true)
}

/// Has the base stay for as long as the lock is held.
pub(crate) fn held(layout: &Layout, id: &BaseId) -> Result<Lock, BaseError> {
    Ok(lock::base(layout, id, Sharing::Shared)?)
}

/// Where is tried whether layers work for this container.
pub(crate) fn probe(layout: &Layout, name: &ContainerName) -> PathBuf {
    layout.bases().join(format!("{PROBE}{name}"))
}

/// How the folder of a base that is being made is called.
pub(crate) fn new_name(id: &BaseId) -> String {
    format!("{NEW}{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(dir: &Path) -> Layout {
        Layout {
            definitions: dir.join("etc"),
            store: dir.join("lib"),
            run: dir.join("run"),
            ..Layout::default()
        }
    }

    fn put(layout: &Layout, from: &str, created: u64) -> BaseId {
        let id = BaseId::of([from.as_bytes(), &created.to_le_bytes()]);
        let base = Base {
            id: id.clone(),
            what: from.into(),
            made_from: BaseId::of([from.as_bytes()]),
            created,
            bytes: 0,
            beyond: None,
        };
        fs::create_dir_all(layout.base(&id).join("rootfs")).unwrap();
        fs::write(
            layout.base(&id).join("base.json"),
            serde_json::to_vec(&base).unwrap(),
        )
        .unwrap();
        id
    }

    #[test]
    fn ids() {
        let id = BaseId::of([&b"ab"[..], b"c"]);
        assert_ne!(id, BaseId::of([&b"a"[..], b"bc"]));
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in [
            "",
            "0123456789abcde",
            "0123456789abcdeF",
            "../3456789abcdef",
            "0123456789abcdef0",
        ] {
            assert!(bad.parse::<BaseId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn one_that_is_used_stays() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(dir.path());
        assert_eq!(list(&layout).unwrap(), []);
        let (old, new, other) = (put(&layout, "a", 1), put(&layout, "a", 2), put(&layout, "b", 3));
        fs::create_dir_all(&layout.definitions).unwrap();
        fs::write(
            layout.definitions.join("x.toml"),
            format!("userns = false\nbase = \"{old}\"\n"),
        )
        .unwrap();
        let from = BaseId::of([&b"a"[..]]);
        assert_eq!(newest(&layout, &from).unwrap().unwrap().id, new);
        assert_eq!(users(&layout, &old).unwrap(), ["x".parse().unwrap()]);
        assert!(!remove(&layout, &old).unwrap());
        let held = held(&layout, &other).unwrap();
        assert!(!remove(&layout, &other).unwrap());
        drop(held);
        assert!(remove(&layout, &other).unwrap());
        assert_eq!(list(&layout).unwrap().len(), 2);
        fs::write(layout.definitions.join("y.toml"), "userns = 7\n").unwrap();
        assert!(matches!(remove(&layout, &new), Err(BaseError::Users(_))));
    }
}
