//! Descriptors that a process was started with.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes over an inherited descriptor and keeps it from programs that we start; none where it is not open.
///
/// To be called once for each number, before anything else could own it: at the start of `main`.
pub(crate) fn take(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: setting a flag of a number that may or may not be a descriptor touches no memory.
    let known = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    if known < 0 {
        return None;
    }
    // SAFETY: the number is an open descriptor, and by this function's contract nothing else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}
