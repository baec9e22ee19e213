//! The files and links of sysfs: what is not there, or gives no answer now, is `None`.

use crate::host::event::Properties;
use crate::model::{DevKind, DevNum, Incarnation, SysPath};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// sysfs never gives more for one attribute (`PAGE_SIZE`).
const MAX_ATTRIBUTE: usize = 4096;

/// Something that is there could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot {op} {path}: {source}; the device is left as it is until the next event or scan")]
pub struct SysfsError {
    op: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// `/devices/...` in the target of a link below `/sys/dev`.
pub(super) fn device_path(target: &Path) -> Option<SysPath> {
    let text = target.to_str()?;
    let at = text.find("/devices/")?;
    text.get(at..)?.parse().ok()
}

pub(super) fn incarnation_at(dir: &Path) -> Result<Option<Incarnation>, SysfsError> {
    match dir.symlink_metadata() {
        Ok(meta) => Ok(Some(Incarnation(meta.ino()))),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(failed("look at", dir)(error)),
    }
}

/// The number in a device's own properties.
pub(super) fn number(properties: &Properties, kind: DevKind) -> Option<DevNum> {
    let (major, minor) = (properties.get("MAJOR")?, properties.get("MINOR")?);
    format!("{}{major}:{minor}", kind.letter()).parse().ok()
}

/// The lines of the `uevent` file; `None` if this is no device.
pub(super) fn uevent_at(dir: &Path) -> Result<Option<Properties>, SysfsError> {
    let Some(text) = attribute(&dir.join("uevent"))? else {
        return Ok(None);
    };
    Ok(Some(
        text.lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.into(), value.into()))
            .collect(),
    ))
}

/// One attribute, trimmed; `None` if there is none or it gives no answer now.
pub(super) fn attribute(path: &Path) -> Result<Option<String>, SysfsError> {
    let Some(mut file) = open(path)? else {
        return Ok(None);
    };
    let mut buffer = [0; MAX_ATTRIBUTE];
    match file.read(&mut buffer) {
        Ok(len) => {
            let bytes = buffer.get(..len).unwrap_or_default();
            Ok(Some(String::from_utf8_lossy(bytes).trim().to_owned()))
        }
        Err(error) if is_gone(&error) || is_no_answer(&error) => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

pub(super) fn open(path: &Path) -> Result<Option<File>, SysfsError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if is_gone(&error) || is_no_answer(&error) => Ok(None),
        Err(error) => Err(failed("open", path)(error)),
    }
}

/// The last component of a link's target; `None` if there is no such link.
pub(super) fn link_name(path: &Path) -> Result<Option<String>, SysfsError> {
    let target = link_target(path)?;
    let name = target.as_deref().and_then(Path::file_name);
    Ok(name.and_then(|name| name.to_str()).map(str::to_owned))
}

/// Where a link leads; `None` if there is no such link.
pub(super) fn link_target(path: &Path) -> Result<Option<PathBuf>, SysfsError> {
    match std::fs::read_link(path) {
        Ok(target) => Ok(Some(target)),
        Err(error) if is_gone(&error) || error.kind() == ErrorKind::InvalidInput => Ok(None),
        Err(error) => Err(failed("read the link", path)(error)),
    }
}

pub(super) fn failed(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SysfsError {
    let path = path.to_owned();
    move |source| SysfsError { op, path, source }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO | libc::ENOTDIR)
    )
}

/// Drivers refuse to answer for an attribute in many words.
fn is_no_answer(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EACCES
                | libc::EPERM
                | libc::EIO
                | libc::EINVAL
                | libc::EISDIR
                | libc::EOPNOTSUPP
                | libc::EAGAIN
                | libc::EBUSY
                | libc::ENODATA
                | libc::ETIMEDOUT
                | libc::EPIPE
                | libc::EPROTO
        )
    )
}
