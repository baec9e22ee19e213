//! Lookups of paths that must not lead out of a folder (`openat2(2)`).

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::{Errno, Result};
use rustix::path::Arg;
use std::os::fd::{AsFd, OwnedFd};

/// How often a lookup is tried anew. What moves something that often means no good.
const TRIES: usize = 100;

/// Opens `path` below `folder`, in the way that `resolve` says. The kernel gives up with EAGAIN where something was renamed or
/// mounted anywhere while it went up by `..`, as it cannot tell then whether it is still inside; that is tried again.
pub(crate) fn open(
    folder: impl AsFd,
    path: impl Arg + Copy,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd> {
    for _ in 1..TRIES {
        match openat2(folder.as_fd(), path, flags, mode, resolve) {
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
    openat2(folder, path, flags, mode, resolve)
}
