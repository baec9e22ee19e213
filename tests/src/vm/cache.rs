//! What is kept between runs, outside the source tree: entries named by what
//! they are made of, made once, by one process at a time, complete or absent.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

/// Entries that nobody used for so long are removed when a new one is made.
const KEEP: Duration = Duration::from_secs(7 * 24 * 3600);

/// `$DEVBROKER_CACHE`, else the user's cache folder.
pub(crate) fn folder() -> Result<PathBuf> {
    let folder = if let Some(folder) = env::var_os("DEVBROKER_CACHE") {
        PathBuf::from(folder)
    } else if let Some(folder) = env::var_os("XDG_CACHE_HOME") {
        PathBuf::from(folder).join("devbroker-tests")
    } else {
        let home =
            env::var_os("HOME").context("neither DEVBROKER_CACHE nor HOME is set: where to keep images?")?;
        PathBuf::from(home).join(".cache/devbroker-tests")
    };
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// The folder of the entry `kind-key`; `make` fills a fresh folder when there is
/// none yet. Callers in other processes wait, then find it made.
pub(crate) fn entry(kind: &str, key: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = folder()?;
    let entry = cache.join(format!("{kind}-{key}"));
    let lock = cache.join(format!("{kind}-{key}.lock"));
    let lock = File::create(&lock).with_context(|| format!("cannot make {}", lock.display()))?;
    let lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .with_context(|| format!("cannot lock {}", entry.display()))?;
    if entry.is_dir() {
        File::open(&entry)?.set_modified(SystemTime::now())?;
        return Ok(entry);
    }
    forget_unused(&cache, kind)?;
    let partial = cache.join(format!("{kind}-{key}.partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
    }
    fs::create_dir(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    make(&partial)?;
    fs::rename(&partial, &entry).with_context(|| format!("cannot finish {}", entry.display()))?;
    drop(lock);
    Ok(entry)
}

/// Removes finished entries of one kind that have not been used for [`KEEP`].
fn forget_unused(cache: &Path, kind: &str) -> Result<()> {
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours =
            name.starts_with(&format!("{kind}-")) && !name.contains('.') && entry.file_type()?.is_dir();
        if ours && entry.metadata()?.modified()?.elapsed().unwrap_or_default() > KEEP {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// A key of contents: FNV-1a over parts, each with its length, so that parts
/// never run into each other.
#[derive(Debug)]
pub(crate) struct Key(u64);

impl Key {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn add(mut self, part: impl AsRef<[u8]>) -> Self {
        let part = part.as_ref();
        for byte in part.len().to_le_bytes().iter().chain(part) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self
    }

    /// Adds all files below a folder by name, mode and content.
    pub(crate) fn add_folder(mut self, folder: &Path) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let mut names: Vec<PathBuf> = fs::read_dir(folder)
            .with_context(|| format!("cannot read {}", folder.display()))?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        names.sort();
        for path in names {
            self = self.add(path.file_name().unwrap_or_default().as_encoded_bytes());
            let metadata = path.symlink_metadata()?;
            if metadata.is_dir() {
                self = self.add_folder(&path)?;
            } else if metadata.is_symlink() {
                self = self.add(fs::read_link(&path)?.as_os_str().as_encoded_bytes());
            } else {
                self = self
                    .add(format!("{:o}", metadata.permissions().mode() & 0o111))
                    .add(fs::read(&path)?);
            }
        }
        Ok(self)
    }

    pub(crate) fn finish(&self) -> String {
        format!("{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_parts_apart() {
        let key = |parts: &[&str]| parts.iter().fold(Key::new(), Key::add).finish();
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["ab"]), key(&["ab", ""]));
    }
}
