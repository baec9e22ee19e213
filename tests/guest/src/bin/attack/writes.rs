//! Files of the kernel that change the host.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::stat::makedev;

use crate::outcome::{Outcome, each, refused};

pub(crate) fn write_to(path: &str, bytes: &[u8]) -> Outcome {
    let mut file = OpenOptions::new().write(true).open(path).map_err(refused)?;
    file.write_all(bytes).map_err(refused)?;
    Ok(format!("wrote to {path}"))
}

pub(crate) fn create(path: &str) -> Outcome {
    File::create(path).map_err(refused)?;
    Ok(format!("made {path}"))
}

pub(crate) fn read_from(path: &str) -> Outcome {
    let mut buffer = [0; 16];
    let length = File::open(path)
        .and_then(|mut file| file.read(&mut buffer))
        .map_err(refused)?;
    if length == 0 {
        return Err("it is empty".into());
    }
    Ok(format!("read {path}"))
}

/// Files that are there to be written to and can be opened so, processes' own apart. Others root may open as well, to no
/// effect.
pub(crate) fn write_below(folder: &str, depth: usize) -> Outcome {
    let mut found = Vec::new();
    let mut seen = 0_usize;
    walk(Path::new(folder), depth, &mut |path| {
        seen += 1;
        let is_writable = fs::metadata(path).is_ok_and(|found| found.mode() & 0o222 != 0);
        if is_writable && OpenOptions::new().write(true).open(path).is_ok() {
            found.push(path.display().to_string());
        }
    });
    // What is masked is /dev/null.
    found.retain(|path| fs::metadata(path).is_ok_and(|found| found.rdev() != makedev(1, 3)));
    if found.is_empty() {
        Err(format!("{seen} files"))
    } else {
        found.truncate(20);
        Ok(found.join(" "))
    }
}

fn walk(folder: &Path, depth: usize, look: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_process = folder == Path::new("/proc") && name.bytes().all(|byte| byte.is_ascii_digit());
        let Ok(kind) = entry.file_type() else { continue };
        if is_process || kind.is_symlink() || entry.path() == Path::new("/sys/fs/cgroup") {
            continue;
        }
        if !kind.is_dir() {
            look(&entry.path());
        } else if depth > 1 {
            walk(&entry.path(), depth - 1, look);
        }
    }
}

pub(crate) fn write_sys() -> Outcome {
    each(
        [
            ("kernel", 2),
            ("power", 1),
            ("module", 3),
            ("bus", 4),
            ("fs", 3),
            ("firmware", 2),
            ("devices/system", 3),
        ]
        .iter()
        .map(|(folder, depth)| write_below(&format!("/sys/{folder}"), *depth)),
    )
}

/// What the host limits the container by, at the top of what it sees.
pub(crate) fn cgroup_limits() -> Outcome {
    each(
        [
            "memory.max",
            "memory.high",
            "pids.max",
            "cpu.max",
            "cpu.weight",
            "io.max",
            "cgroup.max.depth",
            "cgroup.max.descendants",
        ]
        .iter()
        .map(|name| {
            let path = format!("/sys/fs/cgroup/{name}");
            let value = fs::read_to_string(&path).map_err(refused)?;
            write_to(&path, value.lines().next().unwrap_or("max").as_bytes())
        }),
    )
}

/// Cgroups below its own, each in the one before, deeper than any path is long.
pub(crate) fn cgroups_nested() -> Outcome {
    const DEPTH: usize = 3000;
    env::set_current_dir("/sys/fs/cgroup").map_err(refused)?;
    let mut made = Ok("done".into());
    let mut depth = 0;
    while depth < DEPTH {
        let next = fs::create_dir("nested").and_then(|()| env::set_current_dir("nested"));
        if let Err(error) = next {
            made = Err(refused(error));
            break;
        }
        depth += 1;
    }
    for _ in 0..depth {
        env::set_current_dir("..")
            .and_then(|()| fs::remove_dir("nested"))
            .map_err(refused)?;
    }
    made
}

/// Cgroups below its own, side by side.
pub(crate) fn cgroups_without_end() -> Outcome {
    const COUNT: usize = 3000;
    let path = |number: usize| format!("/sys/fs/cgroup/one{number}");
    let made = (0..COUNT).map(|number| fs::create_dir(path(number)).map_err(refused));
    let made: Result<Vec<()>, _> = made.collect();
    for number in 0..COUNT {
        if fs::remove_dir(path(number)).is_err() {
            break;
        }
    }
    made.map(|_| "done".into())
}
