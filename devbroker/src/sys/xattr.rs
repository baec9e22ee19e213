//! Extended attributes by path, never following a symbolic link in the last component.

use std::ffi::CStr;
use std::io;

/// Reads attribute `name` of `path` into `buffer` and says how many bytes it has. `ERANGE` if the buffer is too small,
/// `ENODATA` if there is no such attribute.
pub fn lgetxattr(path: &CStr, name: &CStr, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: both strings end in NUL and outlive the call; the kernel writes at most `buffer.len()` bytes to it.
    let length = unsafe {
        libc::lgetxattr(
            path.as_ptr(),
            name.as_ptr(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
        )
    };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

/// Sets attribute `name` of `path`.
pub fn lsetxattr(path: &CStr, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: both strings end in NUL and outlive the call; the kernel reads `value.len()` bytes of `value`.
    let done = unsafe {
        libc::lsetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Removes attribute `name` of `path`.
pub fn lremovexattr(path: &CStr, name: &CStr) -> io::Result<()> {
    // SAFETY: both strings end in NUL and outlive the call.
    let done = unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
