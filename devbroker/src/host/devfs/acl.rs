//! The ACL of a node in `stage/`, as bytes of an extended attribute.

use crate::model::Acl;
use crate::permissions::{ACL_BYTES, acl_from_xattr, acl_to_xattr};
use crate::sys::xattr::{lgetxattr, lremovexattr, lsetxattr};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const ACCESS: &CStr = c"system.posix_acl_access";

/// No call sets an extended attribute below a directory descriptor on the kernels of Debian 12 and 13, so the way there
/// is through `/proc/self/fd`. Only names in `stage/` are asked for, where no one else makes links.
fn path(stage: &OwnedFd, name: &str) -> io::Result<CString> {
    Ok(CString::new(format!(
        "/proc/self/fd/{}/{name}",
        stage.as_raw_fd()
    ))?)
}

/// The node's ACL; `None` where it has only its mode, empty where it has more entries than are kept.
fn read(path: &CStr) -> io::Result<Option<Acl>> {
    let mut buffer = [0; ACL_BYTES];
    match lgetxattr(path, ACCESS, &mut buffer) {
        Ok(length) => Ok(Some(
            buffer.get(..length).and_then(acl_from_xattr).unwrap_or_default(),
        )),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENODATA | libc::EOPNOTSUPP) => Ok(None),
            Some(libc::ERANGE) => Ok(Some(Acl::default())),
            _ => Err(error),
        },
    }
}

/// The node's ACL, empty if it has only its mode or more entries than are kept.
pub(super) fn get(stage: &OwnedFd, name: &str) -> io::Result<Acl> {
    Ok(read(&path(stage, name)?)?.unwrap_or_default())
}

/// Gives the node this ACL. A mode set afterwards goes into its mask.
pub(super) fn set(stage: &OwnedFd, name: &str, acl: &Acl) -> io::Result<()> {
    lsetxattr(&path(stage, name)?, ACCESS, &acl_to_xattr(acl))
}

/// Takes the node's ACL away and says what it was.
pub(super) fn take(stage: &OwnedFd, name: &str) -> io::Result<Acl> {
    let path = path(stage, name)?;
    match read(&path)? {
        None => Ok(Acl::default()),
        Some(acl) => lremovexattr(&path, ACCESS).map(|()| acl),
    }
}
