//! A container's root file system in layers (overlayfs): a shared base below, the container's own changes above.
//!
//! With a user namespace the base is seen through an idmapped mount, so that its files, which belong to ids from 0, are the
//! container's without a copy (`mount_setattr(2)`; overlayfs takes such layers since Linux 5.19). What the container changes
//! lies in `upper` beside its root file system and belongs to its ids on the host.

use crate::atomic;
use crate::ids::{IdBlock, Ids};
use crate::sys;
use rustix::fs::{AtFlags, CWD, Gid, Uid, chownat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount as unmount_at,
};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What can go wrong with layers.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OverlayError {
    /// A file operation failed.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The kernel or the file system of the base lacks it.
    #[error(
        "cannot show {} under other ids: {source}; this kernel or file system has no idmapped mounts, make the container anew with `ctm create --copy`",
        .path.display()
    )]
    IdMap { path: PathBuf, source: io::Error },
    /// The kernel refused the overlay.
    #[error("cannot lay {} over {}: {source}; make the container anew with `ctm create --copy`", .upper.display(), .base.display())]
    Overlay {
        base: PathBuf,
        upper: PathBuf,
        source: io::Error,
    },
    /// The base is not there.
    #[error(
        "the base system {} is missing; put it back from a backup, or if it came from an archive make another container from that one, which makes it again", .0.display()
    )]
    NoBase(PathBuf),
}

fn failed<'a, E: Into<io::Error>>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(E) -> OverlayError + use<'a, E> {
    move |source| OverlayError::Io {
        what,
        path: path.into(),
        source: source.into(),
    }
}

/// Mounts the root file system `rootfs` in the container's folder: `base` below, the container's own files above.
pub(crate) fn mount(base: &Path, folder: &Path, ids: Ids) -> Result<(), OverlayError> {
    unmount(folder)?;
    let of_base = fs::metadata(base).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            OverlayError::NoBase(base.into())
        } else {
            failed("look at", base)(error)
        }
    })?;
    let (rootfs, upper, work) = (folder.join("rootfs"), folder.join("upper"), folder.join("work"));
    atomic::folder(&rootfs, 0o755).map_err(failed("make", &rootfs))?;
    atomic::folder(&work, 0o700).map_err(failed("make", &work))?;
    if !upper.exists() {
        // Owner and mode of the root folder are those of the uppermost layer.
        let made = folder.join("upper.new");
        atomic::folder(&made, of_base.mode() & 0o7777).map_err(failed("make", &made))?;
        if let Ids::Block(block) = ids {
            let (uid, gid) = (
                Uid::from_raw(block.first + of_base.uid()),
                Gid::from_raw(block.first + of_base.gid()),
            );
            chownat(CWD, &made, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed("change the owner of", &made))?;
        }
        fs::rename(&made, &upper).map_err(failed("make", &upper))?;
    }
    let lower = match ids {
        Ids::Host => base.to_path_buf(),
        Ids::Block(block) => {
            let lower = folder.join("lower");
            atomic::folder(&lower, 0o700).map_err(failed("make", &lower))?;
            let mapped = id_mapped(base, block).map_err(|source| OverlayError::IdMap {
                path: base.into(),
                source,
            })?;
            attach(&mapped, &lower).map_err(failed("mount", &lower))?;
            lower
        }
    };
    let overlay = overlay(&lower, &upper, &work).map_err(|source| OverlayError::Overlay {
        base: base.into(),
        upper,
        source,
    })?;
    attach(&overlay, &rootfs).map_err(failed("mount", &rootfs))?;
    if lower != base {
        // The overlay holds a mount of its own.
        gone(&lower)?;
    }
    Ok(())
}

/// Takes away what [`mount`] mounted, also half of it; the files stay.
pub(crate) fn unmount(folder: &Path) -> Result<(), OverlayError> {
    gone(&folder.join("rootfs"))?;
    gone(&folder.join("lower"))
}

/// Whether a base can be shared by a container with these ids, found out by doing it in the new folder `scratch`.
pub(crate) fn works(base: &Path, scratch: &Path, ids: Ids) -> Result<bool, OverlayError> {
    atomic::folder(scratch, 0o700).map_err(failed("make", scratch))?;
    let tried = mount(base, scratch, ids);
    unmount(scratch)?;
    fs::remove_dir_all(scratch).map_err(failed("remove", scratch))?;
    match tried {
        Ok(()) => Ok(true),
        Err(error @ (OverlayError::IdMap { .. } | OverlayError::Overlay { .. })) => {
            tracing::debug!(%error, "layers do not work here");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Unmounts all that is mounted on `at`.
fn gone(at: &Path) -> Result<(), OverlayError> {
    loop {
        match unmount_at(at, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
            Ok(()) => {}
            // Not a mount point, or not there.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(failed("unmount", at)(error)),
        }
    }
}

/// A detached mount of `base` in which its ids are those of `block`.
pub(crate) fn id_mapped(base: &Path, block: IdBlock) -> io::Result<OwnedFd> {
    let mount = open_tree(
        CWD,
        base,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?;
    let namespace = user_namespace(block)?;
    sys::map_ids(mount.as_fd(), namespace.as_fd())?;
    Ok(mount)
}

/// A user namespace in which the ids from 0 are those of `block`, held by its descriptor alone.
fn user_namespace(block: IdBlock) -> io::Result<File> {
    let mut command = Command::new("cat");
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    sys::in_new_user_namespace(&mut command);
    // This returns once the program runs, thus in its namespace; it ends with its input.
    let mut child = command.spawn()?;
    let of_child = PathBuf::from(format!("/proc/{}", child.id()));
    let map = format!("0 {} {}", block.first, block.count);
    let namespace = fs::write(of_child.join("uid_map"), &map)
        .and_then(|()| fs::write(of_child.join("gid_map"), &map))
        .and_then(|()| File::open(of_child.join("ns/user")));
    drop(child.stdin.take());
    child.wait()?;
    namespace
}

/// A detached overlay.
fn overlay(lower: &Path, upper: &Path, work: &Path) -> io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "ctm")?;
    for (key, path) in [("lowerdir", lower), ("upperdir", upper), ("workdir", work)] {
        fsconfig_set_string(&context, key, path)?;
    }
    fsconfig_create(&context)?;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?)
}

fn attach(mount: &OwnedFd, at: &Path) -> io::Result<()> {
    Ok(move_mount(
        mount,
        c"",
        CWD,
        at,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?)
}
