//! System calls for which no safe wrapper takes what we have. Each function is one call; what it is for is decided elsewhere.

#![allow(unsafe_code, reason = "the crate's only module with unsafe code")]

mod quota;

pub(crate) use quota::*;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Sends signal `number` to the process behind a pidfd (`pidfd_send_signal(2)`).
pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    let fd = pidfd.as_raw_fd();
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the call reads no memory of ours, as the pointer to the signal's information is null.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, number, no_info, 0) };
    succeeded(result)
}

/// Gives a detached mount the id map of a user namespace: file ids are looked up in it (`mount_setattr(2)`,
/// `MOUNT_ATTR_IDMAP`).
pub(crate) fn map_ids(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> io::Result<()> {
    let userns_fd = u64::try_from(userns.as_raw_fd()).map_err(io::Error::other)?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd,
    };
    let (fd, size) = (mount.as_raw_fd(), size_of::<libc::mount_attr>());
    let (path, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
    let given = &raw const attributes;
    // SAFETY: the path ends in NUL, and the attributes outlive the call and have the size that is given.
    let result = unsafe { libc::syscall(libc::SYS_mount_setattr, fd, path, flags, given, size) };
    succeeded(result)
}

/// Has a program begin in a new user namespace without any ids (`unshare(2)`).
pub(crate) fn in_new_user_namespace(command: &mut Command) {
    let unshare = || {
        // SAFETY: the call takes no pointers.
        let result = unsafe { libc::unshare(libc::CLONE_NEWUSER) };
        succeeded(result.into())
    };
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(unshare) };
}

/// Has a program begin as the root of a user namespace that is there (`setns(2)`). A thread of ours could not enter one: only a process
/// without others can.
pub(crate) fn in_user_namespace(command: &mut Command, userns: BorrowedFd<'_>) {
    let userns = userns.as_raw_fd();
    let enter = move || {
        // SAFETY: the call takes no pointers.
        succeeded(unsafe { libc::setns(userns, libc::CLONE_NEWUSER) }.into())?;
        // SAFETY: the call takes no pointers.
        succeeded(unsafe { libc::setresgid(0, 0, 0) }.into())?;
        // SAFETY: the call takes no pointers.
        succeeded(unsafe { libc::setresuid(0, 0, 0) }.into())
    };
    // SAFETY: between fork and exec the closure makes three system calls and allocates nothing.
    unsafe { command.pre_exec(enter) };
}

/// Has a program killed when this thread ends, however that comes (`PR_SET_PDEATHSIG`).
pub(crate) fn killed_with_us(command: &mut Command) {
    let ask = || {
        // SAFETY: the call takes no pointers.
        let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        succeeded(result.into())
    };
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(ask) };
}

/// A process' soft and hard limit (`prlimit(2)`).
pub(crate) fn rlimit_of(pid: i32, resource: rustix::process::Resource) -> io::Result<(u64, u64)> {
    let mut now = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let none = std::ptr::null::<libc::rlimit64>();
    let place = &raw mut now;
    // SAFETY: no new limit is given, and the place for the present one outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource as u32, none, place) };
    succeeded(result).map(|()| (now.rlim_cur, now.rlim_max))
}

fn succeeded(result: libc::c_long) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether what is mounted below the origin of a copied mount appears in the copy (`mount_namespaces(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// It does not.
    Private,
    /// It does, and not the other way round.
    Slave,
}

/// Sets attributes (`MOUNT_ATTR_*`) and the propagation of a detached mount and what is mounted in it
/// (`mount_setattr(2)`).
pub(crate) fn restrict_mount(
    mount: BorrowedFd<'_>,
    attributes: u64,
    propagation: Propagation,
) -> io::Result<()> {
    let given = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: match propagation {
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Slave => libc::MS_SLAVE,
        },
        userns_fd: 0,
    };
    let (fd, path, size) = (mount.as_raw_fd(), c"".as_ptr(), size_of_val(&given));
    let (flags, given) = (libc::AT_EMPTY_PATH | libc::AT_RECURSIVE, &raw const given);
    // SAFETY: the path ends in NUL, and the attributes outlive the call and have the size that is given.
    let result = unsafe { libc::syscall(libc::SYS_mount_setattr, fd, path, flags, given, size) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Gives this thread a working folder and a root of its own, without which it cannot enter another mount namespace
/// (`setns(2)`).
pub(crate) fn own_file_system_context() -> io::Result<()> {
    // SAFETY: the table of descriptors stays shared, which alone could do harm.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }.map_err(Into::into)
}
