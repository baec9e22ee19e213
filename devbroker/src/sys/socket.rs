//! Socket options.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `setsockopt(SOL_SOCKET, SO_ATTACH_FILTER)`: messages for which the classic BPF program returns 0 are dropped by the
/// kernel before they are queued.
pub(crate) fn attach_filter(socket: BorrowedFd<'_>, program: &[libc::sock_filter]) -> io::Result<()> {
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let option_len =
        libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let fprog = libc::sock_fprog {
        len,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: `fprog` and the program it points to live until the call returns; the kernel copies both and does not write
    // to them. The length is that of `sock_fprog`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const fprog).cast(),
            option_len,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
