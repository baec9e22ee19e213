//! Processes and roots of others, and what they hold.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::outcome::{Outcome, each, refused};
use crate::say;

/// Only processes of this pid namespace, and the first one has no parent here.
pub(crate) fn processes() -> Outcome {
    let own = fs::read_link("/proc/self/ns/pid").map_err(refused)?;
    let mut count = 0;
    for entry in fs::read_dir("/proc").map_err(refused)?.flatten() {
        if entry
            .file_name()
            .to_string_lossy()
            .bytes()
            .all(|byte| byte.is_ascii_digit())
        {
            count += 1;
            if let Ok(other) = fs::read_link(entry.path().join("ns/pid")) {
                if other != own {
                    return Ok(format!("sees {}", entry.path().display()));
                }
            }
        }
    }
    let status = fs::read_to_string("/proc/1/status").map_err(refused)?;
    if !status.lines().any(|line| line == "PPid:\t0") {
        return Ok("the first process has a parent".into());
    }
    if count > 30 {
        return Ok(format!("sees {count} processes"));
    }
    Err(format!("sees its own {count}"))
}

fn identity(path: impl AsRef<Path>) -> Result<(u64, u64), String> {
    fs::metadata(path)
        .map(|found| (found.dev(), found.ino()))
        .map_err(refused)
}

pub(crate) fn same_root(path: &str) -> Outcome {
    if identity(path)? == identity("/")? {
        Err("it is the container's own root".into())
    } else {
        Ok(format!("{path} is another root"))
    }
}

/// The classic: a chroot below the current folder, and up from there.
pub(crate) fn chroot_walk() -> Outcome {
    let root = identity("/")?;
    fs::create_dir_all("/tmp/jail").map_err(refused)?;
    env::set_current_dir("/").map_err(refused)?;
    nix::unistd::chroot("/tmp/jail").map_err(refused)?;
    for _ in 0..20 {
        nix::unistd::chdir("..").map_err(refused)?;
    }
    nix::unistd::chroot(".").map_err(refused)?;
    if identity("/")? == root {
        Err("it ends at the container's own root".into())
    } else {
        Ok("reached another root".into())
    }
}

/// Descriptors that came with this process or belong to the first one: no file or folder from outside.
pub(crate) fn descriptors() -> Outcome {
    each(["/proc/1/fd", "/proc/self/fd"].iter().flat_map(|folder| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let links: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        links.into_iter().map(|link| {
            let found = fs::metadata(&link).map_err(refused)?;
            if !found.is_dir() && !found.is_file() || is_inside(&link)? {
                return Err("inside".into());
            }
            Ok(format!("{} is {:?}", link.display(), fs::read_link(&link)))
        })
    }))
}

/// Whether what a link of /proc leads to is what the container finds under its name.
fn is_inside(link: &Path) -> Result<bool, String> {
    let name = fs::read_link(link).map_err(refused)?;
    Ok(identity(&name).ok() == Some(identity(link)?))
}

/// A runtime that enters the container runs a program of the host's for a moment. It is held by its descriptor and opened
/// for writing once it has ended.
pub(crate) fn overwrite(until: &Path) -> io::Result<()> {
    let mut held: Vec<(PathBuf, File)> = Vec::new();
    say("watching")?;
    while !until.exists() {
        for entry in fs::read_dir("/proc")?.flatten() {
            if !entry
                .file_name()
                .to_string_lossy()
                .bytes()
                .all(|byte| byte.is_ascii_digit())
            {
                continue;
            }
            let exe = entry.path().join("exe");
            let Ok(file) = File::open(&exe) else { continue };
            if is_inside(&exe) == Ok(false) && held.len() < 16 {
                let name = fs::read_link(&exe).unwrap_or_default();
                if !held.iter().any(|(other, _)| *other == name) {
                    held.push((name, file));
                }
            }
        }
        for (name, file) in &held {
            let link = format!("/proc/self/fd/{}", file.as_raw_fd());
            if OpenOptions::new().write(true).open(link).is_ok() {
                say(format!("SUCCEEDED: could write to {}", name.display()))?;
            }
        }
    }
    say(format!("saw {} programs of the host", held.len()))
}
