//! Files that are there, whole, after a power cut.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Replaces `path` by `bytes` in one step: a new file beside it (hidden, so that no reader takes it for configuration),
/// synced, renamed, the folder synced. Mode and owner of an old file are kept where the caller may set them.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".new");
    let fresh = folder.join(hidden);
    let written = write(&fresh, path, bytes).and_then(|()| fs::rename(&fresh, path));
    if let Err(error) = written {
        // The first error is the one to tell; the leftover is hidden and replaced next time.
        fs::remove_file(&fresh).ok();
        return Err(error);
    }
    File::open(folder)?.sync_all()
}

fn write(fresh: &Path, old: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(fresh)?;
    file.write_all(bytes)?;
    if let Ok(old) = fs::metadata(old) {
        std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid())).ok();
        file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o777))?;
    }
    file.sync_all()
}
