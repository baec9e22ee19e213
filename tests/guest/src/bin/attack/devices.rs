//! Devices by their numbers.

use std::collections::BTreeSet;
use std::fs::{self, File};

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::mounts::mount;
use crate::outcome::{Outcome, each, refused};

/// The numbers of all devices of a kind that the host has now, and well-known ones.
fn numbers(folder: &str, more: &[(u64, u64)]) -> BTreeSet<(u64, u64)> {
    let mut all: BTreeSet<_> = more.iter().copied().collect();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some((major, minor)) = name.split_once(':') {
            if let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) {
                all.insert((major, minor));
            }
        }
    }
    all
}

/// null, zero, full, random, urandom, tty, ptmx: every container's. 136 and above: its own terminals.
const USUAL: [(u64, u64); 7] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)];

pub(crate) fn open_chars() -> Outcome {
    let known = [
        (1, 1),
        (1, 2),
        (1, 4),
        (1, 11),
        (4, 0),
        (4, 64),
        (5, 1),
        (10, 130),
        (10, 200),
        (10, 223),
        (10, 229),
        (10, 232),
        (10, 237),
        (13, 64),
        (189, 0),
        (226, 0),
        (243, 0),
        (250, 0),
    ];
    let all = numbers("/sys/dev/char", &known);
    each(
        all.into_iter()
            .filter(|number| !USUAL.contains(number) && number.0 != 136)
            .map(|(major, minor)| open_number(SFlag::S_IFCHR, major, minor)),
    )
}

pub(crate) fn open_blocks() -> Outcome {
    let all = numbers(
        "/sys/dev/block",
        &[(7, 0), (8, 0), (8, 1), (253, 0), (254, 0), (259, 0)],
    );
    each(
        all.into_iter()
            .map(|(major, minor)| open_number(SFlag::S_IFBLK, major, minor)),
    )
}

/// EPERM alone is the filter's answer; ENXIO is that of a driver.
fn open_number(kind: SFlag, major: u64, minor: u64) -> Outcome {
    let folders = ["/tmp", "/dev", "/dev/shm", "/run"];
    each(folders.iter().map(|folder| {
        let path = format!("{folder}/node");
        fs::remove_file(&path).ok();
        let what = format!("{kind:?} {major}:{minor} in {folder}");
        match mknod(
            path.as_str(),
            kind,
            Mode::from_bits_truncate(0o600),
            makedev(major, minor),
        ) {
            Ok(()) => {}
            Err(e) => return Err(refused(e)),
        }
        let opened = File::open(&path);
        fs::remove_file(&path).ok();
        match opened {
            Ok(_) => Ok(what),
            Err(e) => match e.raw_os_error().map(Errno::from_raw) {
                Some(e @ (Errno::EPERM | Errno::EACCES)) => Err(refused(e)),
                other => Ok(format!("{what}: got as far as {other:?}")),
            },
        }
    }))
}

pub(crate) fn mount_blocks() -> Outcome {
    let all = numbers("/sys/dev/block", &[]);
    each(all.into_iter().map(|(major, minor)| {
        let path = "/tmp/disk";
        fs::remove_file(path).ok();
        mknod(
            path,
            SFlag::S_IFBLK,
            Mode::from_bits_truncate(0o600),
            makedev(major, minor),
        )
        .map_err(refused)?;
        mount("ext4", path, "/tmp/m")
    }))
}
