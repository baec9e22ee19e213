//! One job, on a thread with its own file-system context.

use super::folders::{FRESH, Folders};
use super::mountinfo::dev_type;
use super::{BOUND_AT, Job, NamespaceError, Report, Target, Task};
use crate::accounts::Accounts;
use crate::model::NodePath;
use crate::sys::mount::{attach_mount, clone_mount};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, open, openat2, readlinkat, renameat2};
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchdir, setfsgid, setfsuid, symlinkat, unlinkat};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

/// What a job did to the thread that ran it.
pub(super) struct Ran {
    pub(super) result: Result<Report, NamespaceError>,
    /// Whether the thread is still where it was; if not, it must end.
    pub(super) thread_is_home: bool,
}

/// The way from a descriptor to a name that the container may have prepared.
const BENEATH: ResolveFlag = ResolveFlag::RESOLVE_BENEATH
    .union(ResolveFlag::RESOLVE_NO_SYMLINKS)
    .union(ResolveFlag::RESOLVE_NO_XDEV);

const FOLDER: OFlag = OFlag::O_PATH
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// Runs a job. `careful` looks at the container's mounts first, before anything of its is touched.
pub(super) fn run(job: Job, careful: bool) -> Ran {
    let mut thread_is_home = true;
    let result = work(job, careful, &mut thread_is_home);
    Ran {
        result,
        thread_is_home,
    }
}

fn work(job: Job, careful: bool, thread_is_home: &mut bool) -> Result<Report, NamespaceError> {
    let Job { target, task } = job;
    if careful || matches!(task, Task::Bind { .. }) {
        check_dev(&target)?;
    }
    let root = open_proc(&target, "root", OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    let mut report = Report::default();
    match task {
        Task::Accounts => report.accounts = Some(Accounts::load(&root)?),
        Task::Bind { dev } => bind(&target, &open_dev(&root)?, &dev, thread_is_home)?,
        Task::Links { wanted, known } => {
            links(&target, &open_dev(&root)?, &wanted, &known, &mut report)?;
        }
        Task::Unbind { known, st_dev } => {
            let own = open_dev(&root)?;
            links(&target, &own, &BTreeSet::new(), &known, &mut report)?;
            unbind(&target, &own, st_dev, thread_is_home)?;
        }
    }
    Ok(report)
}

/// Opens something of the process below `/proc`, and makes sure afterwards that it was of this process.
fn open_proc(target: &Target, what: &str, flags: OFlag) -> Result<OwnedFd, NamespaceError> {
    let pid = target.pid;
    let path = format!("/proc/{pid}/{what}");
    let opened = open(path.as_str(), flags | OFlag::O_CLOEXEC, Mode::empty());
    if !is_alive(target) {
        return Err(NamespaceError::Gone { pid });
    }
    opened.map_err(|errno| NamespaceError::Io {
        operation: "open",
        path,
        source: errno.into(),
    })
}

/// A pidfd is readable once its process has ended.
fn is_alive(target: &Target) -> bool {
    let mut fds = [PollFd::new(target.process.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO) == Ok(0)
}

/// Refuses what is bound to go wrong, without touching any of the container's file systems.
fn check_dev(target: &Target) -> Result<(), NamespaceError> {
    let pid = target.pid;
    let path = format!("/proc/{pid}/mountinfo");
    let text = std::fs::read(&path);
    if !is_alive(target) {
        return Err(NamespaceError::Gone { pid });
    }
    let text = text.map_err(|source| NamespaceError::Io {
        operation: "read",
        path,
        source,
    })?;
    match dev_type(&String::from_utf8_lossy(&text)) {
        Some("devtmpfs") => Err(NamespaceError::HostsDev),
        Some(fs) if fs.starts_with("fuse") => Err(NamespaceError::Fuse { fs: fs.to_owned() }),
        Some(_) | None => Ok(()),
    }
}

/// The container's `/dev`, whatever is mounted there.
fn open_dev(root: &OwnedFd) -> Result<OwnedFd, NamespaceError> {
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS;
    openat2(root, "dev", OpenHow::new().flags(FOLDER).resolve(resolve))
        .map_err(|errno| NamespaceError::of("open", "", errno))
}

fn open_below(dev: &OwnedFd, path: &str) -> nix::Result<OwnedFd> {
    openat2(dev, path, OpenHow::new().flags(FOLDER).resolve(BENEATH))
}

/// While it lives, files are made as the container's root.
struct AsRoot {
    before: (Uid, Gid),
}

impl AsRoot {
    fn of(target: &Target) -> Self {
        let gid = setfsgid(Gid::from_raw(target.root.1));
        let uid = setfsuid(Uid::from_raw(target.root.0));
        Self { before: (uid, gid) }
    }
}

impl Drop for AsRoot {
    fn drop(&mut self) {
        setfsuid(self.before.0);
        setfsgid(self.before.1);
    }
}

/// Does something in the container's mount namespace and comes back.
fn in_namespace<T>(
    target: &Target,
    thread_is_home: &mut bool,
    act: impl FnOnce() -> Result<T, NamespaceError>,
) -> Result<T, NamespaceError> {
    let fail = |operation| move |errno: Errno| NamespaceError::of(operation, "", errno);
    let home = open(
        "/proc/thread-self/ns/mnt",
        OFlag::O_RDONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(fail("note the way back from"))?;
    let there = open_proc(target, "ns/mnt", OFlag::O_RDONLY)?;
    *thread_is_home = false;
    setns(there, CloneFlags::CLONE_NEWNS).map_err(fail("enter the mounts of"))?;
    let done = act();
    setns(home, CloneFlags::CLONE_NEWNS).map_err(fail("return from"))?;
    *thread_is_home = true;
    done
}

/// Whether `.devbroker` is the bound devfs.
fn is_bound(dev: &OwnedFd, st_dev: u64) -> bool {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    openat2(dev, BOUND_AT, OpenHow::new().flags(FOLDER).resolve(resolve))
        .and_then(fstat)
        .is_ok_and(|stat| stat.st_dev == st_dev)
}

fn bind(
    target: &Target,
    own: &OwnedFd,
    dev: &OwnedFd,
    thread_is_home: &mut bool,
) -> Result<(), NamespaceError> {
    let fail = |operation| move |errno: Errno| NamespaceError::of(operation, BOUND_AT, errno);
    let st_dev = fstat(dev).map_err(fail("look at what is bound to"))?.st_dev;
    if is_bound(own, st_dev) {
        return Ok(());
    }
    let mount = clone_mount(dev.as_fd()).map_err(|source| NamespaceError::Io {
        operation: "copy the mount for",
        path: BOUND_AT.into(),
        source,
    })?;
    {
        let _as_root = AsRoot::of(target);
        match mkdirat(own, BOUND_AT, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(fail("make the folder")(errno)),
        }
    }
    let place = open_below(own, BOUND_AT).map_err(fail("open"))?;
    in_namespace(target, thread_is_home, || {
        attach_mount(mount.as_fd(), place.as_fd()).map_err(|source| NamespaceError::Io {
            operation: "mount",
            path: BOUND_AT.into(),
            source,
        })
    })?;
    if is_bound(own, st_dev) {
        Ok(())
    } else {
        Err(NamespaceError::Invisible)
    }
}

fn unbind(
    target: &Target,
    own: &OwnedFd,
    st_dev: u64,
    thread_is_home: &mut bool,
) -> Result<(), NamespaceError> {
    let fail = |operation| move |errno: Errno| NamespaceError::of(operation, BOUND_AT, errno);
    if is_bound(own, st_dev) {
        in_namespace(target, thread_is_home, || {
            // The thread's working folder is its own, and coming back sets it again.
            fchdir(own).map_err(fail("enter the folder of"))?;
            umount2(BOUND_AT, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).map_err(fail("unmount"))
        })?;
    }
    let _as_root = AsRoot::of(target);
    match unlinkat(own, BOUND_AT, UnlinkatFlags::RemoveDir) {
        // Something of the container's, then.
        Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY | Errno::ENOTDIR | Errno::EBUSY) => Ok(()),
        Err(errno) => Err(fail("remove the folder")(errno)),
    }
}

/// The text of the link at `path` in the container's own `/dev`.
pub(super) fn link_text(path: &NodePath) -> String {
    let up = "../".repeat(path.parents().count());
    format!("{up}{BOUND_AT}/{path}")
}

fn links(
    target: &Target,
    own: &OwnedFd,
    wanted: &BTreeSet<NodePath>,
    known: &BTreeSet<NodePath>,
    report: &mut Report,
) -> Result<(), NamespaceError> {
    let mut folders = Folders::open(&target.folders)?;
    // One that a killed broker did not come to note.
    drop_fresh(target, own);
    for path in known.difference(wanted) {
        match unlink(target, own, path) {
            Ok(true) => report.unlinked.push(path.clone()),
            Ok(false) => {}
            Err(errno) => {
                report
                    .failed
                    .push((path.clone(), NamespaceError::of("remove", path.as_str(), errno)));
            }
        }
    }
    for path in wanted {
        match link(target, own, path, &mut folders) {
            Ok(true) => report.linked.push(path.clone()),
            Ok(false) => {}
            Err(error) => report.failed.push((path.clone(), error)),
        }
    }
    prune(target, own, wanted, &mut folders);
    Ok(())
}

/// The folder that `path` lies in.
fn folder(own: &OwnedFd, path: &NodePath) -> nix::Result<OwnedFd> {
    match path.split().0 {
        "" => open_below(own, "."),
        above => open_below(own, above),
    }
}

/// Removes the link at `path` if it is ours by its text. Says whether it did.
fn unlink(target: &Target, own: &OwnedFd, path: &NodePath) -> nix::Result<bool> {
    let _as_root = AsRoot::of(target);
    let leaf = path.split().1;
    let removed = folder(own, path).and_then(|folder| {
        if readlinkat(&folder, leaf)?.as_os_str() != link_text(path).as_str() {
            return Ok(false);
        }
        unlinkat(&folder, leaf, UnlinkatFlags::NoRemoveDir).map(|()| true)
    });
    match removed {
        // Gone, no link any more, or out of reach behind something of the container's.
        Err(Errno::ENOENT | Errno::EINVAL | Errno::ELOOP | Errno::ENOTDIR | Errno::EXDEV) => Ok(false),
        other => other,
    }
}

/// Makes the link at `path`. Says whether it is new.
fn link(
    target: &Target,
    own: &OwnedFd,
    path: &NodePath,
    folders: &mut Folders,
) -> Result<bool, NamespaceError> {
    let fail = |errno| NamespaceError::of("link", path.as_str(), errno);
    let (leaf, text) = (path.split().1, link_text(path));
    let within = match folder(own, path) {
        Err(Errno::ENOENT) => {
            make_folders(target, own, path, folders)?;
            folder(own, path)
        }
        other => other,
    };
    let within = within.map_err(fail)?;
    let _as_root = AsRoot::of(target);
    match symlinkat(text.as_str(), &within, leaf) {
        Ok(()) => Ok(true),
        Err(Errno::EEXIST)
            if readlinkat(&within, leaf).is_ok_and(|found| found.as_os_str() == text.as_str()) =>
        {
            Ok(false)
        }
        Err(errno) => Err(fail(errno)),
    }
}

/// Makes what is missing of the way to `path`, noting each folder before it gets its name.
fn make_folders(
    target: &Target,
    own: &OwnedFd,
    path: &NodePath,
    folders: &mut Folders,
) -> Result<(), NamespaceError> {
    let fail = |errno| NamespaceError::of("make a folder on the way to", path.as_str(), errno);
    for above in path.parents().filter_map(|above| above.parse::<NodePath>().ok()) {
        match open_below(own, above.as_str()) {
            Ok(_) => continue,
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(fail(errno)),
        }
        let ino = {
            let _as_root = AsRoot::of(target);
            mkdirat(own, FRESH, Mode::from_bits_truncate(0o755))
                .map_err(|errno| NamespaceError::of("make", FRESH, errno))?;
            fstatat(own, FRESH, AtFlags::AT_SYMLINK_NOFOLLOW)
                .map_err(fail)?
                .st_ino
        };
        let named = folders
            .insert(above.clone(), ino)
            .map_err(|source| NamespaceError::Unrecorded {
                path: above.to_string(),
                source,
            })
            .and_then(|()| {
                let within = folder(own, &above).map_err(fail)?;
                let _as_root = AsRoot::of(target);
                match renameat2(
                    own,
                    FRESH,
                    &within,
                    above.split().1,
                    RenameFlags::RENAME_NOREPLACE,
                ) {
                    // The container made one at this very moment.
                    Err(Errno::EEXIST) => Ok(()),
                    done => done.map_err(fail),
                }
            });
        drop_fresh(target, own);
        named?;
    }
    Ok(())
}

/// Removes a folder of ours that did not get its name; anything else there is the container's and stays.
fn drop_fresh(target: &Target, own: &OwnedFd) {
    let _as_root = AsRoot::of(target);
    unlinkat(own, FRESH, UnlinkatFlags::RemoveDir).ok();
}

/// Removes the folders of ours that are empty now.
fn prune(target: &Target, own: &OwnedFd, wanted: &BTreeSet<NodePath>, folders: &mut Folders) {
    let needed: BTreeSet<&str> = wanted.iter().flat_map(NodePath::parents).collect();
    let mut gone = Vec::new();
    for (path, ino) in folders.iter().rev() {
        if needed.contains(path.as_str()) {
            continue;
        }
        let removed = folder(own, path).and_then(|within| {
            let _as_root = AsRoot::of(target);
            let leaf = path.split().1;
            if fstatat(&within, leaf, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_ino == ino {
                unlinkat(&within, leaf, UnlinkatFlags::RemoveDir)?;
            }
            Ok(())
        });
        if !matches!(removed, Err(Errno::ENOTEMPTY | Errno::EBUSY)) {
            gone.push(path.clone());
        }
    }
    if let Err(error) = folders.remove(&gone) {
        tracing::debug!(instance = %target.instance, %error, "note which folders are gone");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_from_any_depth_to_the_bound_folder() {
        for (path, text) in [
            ("ttyUSB0", ".devbroker/ttyUSB0"),
            ("bus/usb/001/004", "../../../.devbroker/bus/usb/001/004"),
        ] {
            assert_eq!(link_text(&path.parse().unwrap()), text);
        }
    }
}
