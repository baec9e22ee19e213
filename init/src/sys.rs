//! System calls for which the standard library has nothing.

#![allow(unsafe_code, reason = "the crate's only module with unsafe code")]

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

/// A child has ended.
pub(crate) const CHILD: i32 = libc::SIGCHLD;

/// All signals, held back until they are asked for.
#[derive(Debug)]
pub(crate) struct Signals {
    all: libc::sigset_t,
    /// Those that were held back before.
    before: libc::sigset_t,
}

impl Signals {
    /// Holds back every signal that can be (`sigprocmask(2)`).
    pub(crate) fn held() -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: the call writes a set to where it points.
        succeeded(unsafe { libc::sigfillset(set.as_mut_ptr()) })?;
        // SAFETY: it was written.
        let set = unsafe { set.assume_init() };
        let mut before = MaybeUninit::uninit();
        // SAFETY: the set outlives the call, which writes another one to where it points.
        succeeded(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, before.as_mut_ptr()) })?;
        // SAFETY: it was written.
        let before = unsafe { before.assume_init() };
        Ok(Self { all: set, before })
    }

    /// Has a program begin without this: a child inherits what is held back.
    pub(crate) fn not_for(&self, command: &mut Command) {
        let before = self.before;
        let give_back = move || {
            // SAFETY: the set outlives the call, and the old one is not asked for.
            succeeded(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut()) })
        };
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe { command.pre_exec(give_back) };
    }

    /// Waits for a signal and takes it (`sigwaitinfo(2)`).
    pub(crate) fn next(&self) -> io::Result<i32> {
        // SAFETY: the set outlives the call, and nothing but the number is asked for.
        let number = unsafe { libc::sigwaitinfo(&raw const self.all, ptr::null_mut()) };
        succeeded(number).map(|()| number)
    }
}

/// Takes note of a process that has ended: its number and how it ended (`waitpid(2)`).
pub(crate) fn reap() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: the status outlives the call.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
}

/// Sends a signal (`kill(2)`).
pub(crate) fn send(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: the call takes no pointers.
    succeeded(unsafe { libc::kill(pid, signal) })
}

fn succeeded(result: i32) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
