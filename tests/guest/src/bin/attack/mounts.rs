//! Mounting, and taking away what hides something.

use std::ffi::CString;
use std::fs;

use nix::libc;

use crate::outcome::{Outcome, each, raw, refused};

pub(crate) fn mount(typ: &str, source: &str, at: &str) -> Outcome {
    mount_with(typ, source, at, 0)
}

pub(crate) fn remount(at: &str) -> Outcome {
    let flags = libc::MS_REMOUNT | libc::MS_BIND;
    mount_with("none", "none", at, usize::try_from(flags).unwrap_or(0))
}

fn mount_with(typ: &str, source: &str, at: &str, flags: usize) -> Outcome {
    let text = |text: &str| CString::new(text).map_err(refused);
    let (typ, source, at) = (text(typ)?, text(source)?, text(at)?);
    let arguments = [
        source.as_ptr().addr(),
        at.as_ptr().addr(),
        typ.as_ptr().addr(),
        flags,
        0,
        0,
    ];
    raw(libc::SYS_mount, arguments)
}

pub(crate) fn new_mount_api() -> Outcome {
    let tree = [usize::MAX - 99, c"/".as_ptr().addr(), 1, 0, 0, 0];
    each(
        [
            raw(libc::SYS_fsopen, [c"tmpfs".as_ptr().addr(), 0, 0, 0, 0, 0]),
            raw(libc::SYS_open_tree, tree),
            raw(
                libc::SYS_fspick,
                [usize::MAX - 99, c"/sys".as_ptr().addr(), 0, 0, 0, 0],
            ),
        ]
        .into_iter(),
    )
}

/// Whatever hides something.
pub(crate) fn unmount() -> Outcome {
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(refused)?;
    let points: Vec<_> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4).and_then(|at| CString::new(at).ok()))
        .collect();
    each(
        points
            .iter()
            .rev()
            .map(|at| raw(libc::SYS_umount2, [at.as_ptr().addr(), 2, 0, 0, 0, 0])),
    )
}
