//! The one system call for which no safe wrapper takes what we have: a signal of any number to a pidfd.

#![allow(unsafe_code, reason = "the crate's only module with unsafe code")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sends signal `number` to the process behind a pidfd (`pidfd_send_signal(2)`).
pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    let fd = pidfd.as_raw_fd();
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the call reads no memory of ours, as the pointer to the signal's information is null.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, number, no_info, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
