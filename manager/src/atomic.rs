//! Files that are either old or new, also after a crash or a power cut.
//!
//! Whoever writes a file holds the lock on what it is about: there is one temporary name for it, so that what an interrupted
//! writer left is overwritten by the next.

use crate::fail_point;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Replaces `path` by a file with these bytes and this mode, durably.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (folder, temporary) = beside(path)?;
    let done = write_temporary(&temporary, bytes, mode).and_then(|()| {
        point("written", path);
        fs::rename(&temporary, path)
    });
    if done.is_err() {
        // The first error says more than one of this removal would.
        fs::remove_file(&temporary).ok();
    }
    done?;
    point("replaced", path);
    File::open(folder)?.sync_all()
}

/// Removes a file, durably, and what an interrupted writer left beside it; whether there was one.
pub(crate) fn remove(path: &Path) -> io::Result<bool> {
    let (folder, temporary) = beside(path)?;
    let mut any = false;
    for path in [path, &temporary] {
        match fs::remove_file(path) {
            Ok(()) => any = true,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    if any {
        File::open(folder)?.sync_all()?;
    }
    Ok(any)
}

/// A place to die for tests, by the file's name.
fn point(when: &str, path: &Path) {
    let name = path.file_name().map(|name| name.to_string_lossy());
    fail_point::reached(when, name.as_deref().unwrap_or_default());
}

/// As [`write`], but fails with `AlreadyExists` where there is a file.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (folder, temporary) = beside(path)?;
    let done = write_temporary(&temporary, bytes, mode).and_then(|()| {
        point("written", path);
        Ok(linkat(CWD, &temporary, CWD, path, AtFlags::empty())?)
    });
    if done.is_ok() {
        point("replaced", path);
    }
    let removed = fs::remove_file(&temporary);
    done?;
    removed?;
    File::open(folder)?.sync_all()
}

/// The folder of a path and the temporary name in it. A loader that looks for `*.toml` does not see it.
fn beside(path: &Path) -> io::Result<(&Path, PathBuf)> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(".new");
    Ok((folder, folder.join(temporary)))
}

fn write_temporary(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a folder with this mode, and those above it as is usual; one that exists gets the mode.
pub(crate) fn folder(path: &Path, mode: u32) -> io::Result<()> {
    if let Some(above) = path.parent() {
        fs::create_dir_all(above)?;
    }
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        result => result?,
    }
    // Through a descriptor that is known to be a folder: a link in its place would lead the chmod elsewhere.
    let folder = openat(
        CWD,
        path,
        OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_or_new_and_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write(&path, b"one", 0o600).unwrap();
        write(&path, b"two", 0o640).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        let error = write_new(&path, b"three", 0o600).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        write_new(&dir.path().join("b"), b"three", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        assert!(write(&dir.path().join("none/x"), b"", 0o600).is_err());
        // What an interrupted writer leaves is in nobody's way, and goes with the file.
        fs::write(dir.path().join(".a.new"), "half").unwrap();
        write(&path, b"four", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"four");
        fs::write(dir.path().join(".a.new"), "half").unwrap();
        assert!(remove(&path).unwrap());
        assert!(!remove(&path).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn folders_get_their_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        folder(&path, 0o711).unwrap();
        folder(&path, 0o700).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        std::os::unix::fs::symlink("/", dir.path().join("link")).unwrap();
        assert!(folder(&dir.path().join("link"), 0o700).is_err());
    }
}
