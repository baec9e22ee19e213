//! System calls by number, with whatever arguments: what an attacker makes.
#![expect(unsafe_code, reason = "calls that no crate wraps, made to be refused")]

use nix::errno::Errno;
use nix::libc;

/// Calls `number`. Pointers are passed as numbers; the kernel refuses those that lead nowhere.
///
/// Nothing of this process may be where a call writes to: callers pass memory of their own or none.
pub fn call(number: libc::c_long, arguments: [usize; 6]) -> Result<i64, Errno> {
    let [first, second, third, fourth, fifth, sixth] = arguments;
    // SAFETY: the kernel checks all it is given; the caller's memory is handed over for as long as the call lasts.
    let result = unsafe { libc::syscall(number, first, second, third, fourth, fifth, sixth) };
    Errno::result(result)
}

/// A child that does nothing but end, made by fork(2)'s raw call with these flags beside SIGCHLD.
pub fn clone_with(flags: usize) -> Result<(), Errno> {
    let signal = usize::try_from(libc::SIGCHLD).unwrap_or(17);
    if call(libc::SYS_clone, [flags | signal, 0, 0, 0, 0, 0])? == 0 {
        leave();
    }
    Ok(())
}

/// The same by clone3(2).
pub fn clone3_with(flags: u64) -> Result<(), Errno> {
    let signal = u64::try_from(libc::SIGCHLD).unwrap_or(17);
    // `struct clone_args` of `linux/sched.h`, its first version: flags, pidfd, child_tid, parent_tid, exit_signal, ...
    let arguments = [flags, 0, 0, 0, signal, 0, 0, 0];
    let size = size_of_val(&arguments);
    if call(libc::SYS_clone3, [arguments.as_ptr().addr(), size, 0, 0, 0, 0])? == 0 {
        leave();
    }
    Ok(())
}

fn leave() -> ! {
    // SAFETY: ends the process without running anything of the parent's.
    unsafe { libc::_exit(0) }
}
