//! A container's own users and groups: `etc/passwd` and `etc/group` of its root file system.
//!
//! The parser is pure. The loader treats the files as the container's: it stays below the root, opens only regular files
//! and reads a bounded part.

use crate::model::UserRef;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::fstat;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Longer files are refused.
const MAX_FILE: u64 = 1 << 20;

/// Names and ids, the container's own. `root` is always 0.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accounts {
    users: BTreeMap<String, u32>,
    groups: BTreeMap<String, u32>,
}

/// Accounts that could not be read; the container then has only root.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    /// A system call failed.
    #[error("cannot read /{file} of the container: {source}; owners and groups by name become root there")]
    Io {
        /// Which file.
        file: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It is a folder, FIFO, device or socket.
    #[error("/{file} of the container is no ordinary file; owners and groups by name become root there")]
    NotAFile {
        /// Which file.
        file: &'static str,
    },
    /// It is too long.
    #[error("/{file} of the container has more than 1 MiB; owners and groups by name become root there")]
    TooLong {
        /// Which file.
        file: &'static str,
    },
}

impl Accounts {
    /// Reads the text of `passwd(5)` and `group(5)`. Lines that are not of the format are skipped, the first of a name
    /// counts, as in the C library.
    pub fn parse(passwd: &[u8], group: &[u8]) -> Self {
        Self {
            users: names(passwd),
            groups: names(group),
        }
    }

    /// Reads the files below a container's root file system. A file that is missing has nobody in it.
    pub fn load(root: impl AsFd) -> Result<Self, AccountsError> {
        Ok(Self::parse(
            &bytes(&root, "etc/passwd")?,
            &bytes(&root, "etc/group")?,
        ))
    }

    /// Reads the files below the folder `root`.
    pub fn load_path(root: &Path) -> Result<Self, AccountsError> {
        let folder = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(root)
            .map_err(|source| AccountsError::Io { file: "", source })?;
        Self::load(folder)
    }

    /// The user's id, if the container has that user.
    pub fn user(&self, user: &UserRef) -> Option<u32> {
        find(&self.users, user)
    }

    /// The group's id, if the container has that group.
    pub fn group(&self, group: &UserRef) -> Option<u32> {
        find(&self.groups, group)
    }
}

fn find(known: &BTreeMap<String, u32>, wanted: &UserRef) -> Option<u32> {
    match wanted {
        UserRef::Id(id) => Some(*id),
        UserRef::Name(name) => known.get(name).copied().or_else(|| (name == "root").then_some(0)),
    }
}

/// First and third field of each line.
fn names(text: &[u8]) -> BTreeMap<String, u32> {
    let mut known = BTreeMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().and_then(|name| std::str::from_utf8(name).ok());
        let id = fields
            .nth(1)
            .and_then(|id| std::str::from_utf8(id).ok())
            .and_then(|id| {
                id.bytes()
                    .all(|digit| digit.is_ascii_digit())
                    .then(|| id.parse::<u32>().ok())
                    .flatten()
            });
        if let (Some(name), Some(id)) = (name, id) {
            // The highest id means "no change" to chown.
            if !name.is_empty() && !name.starts_with(['+', '-', '#']) && id != u32::MAX {
                known.entry(name.to_owned()).or_insert(id);
            }
        }
    }
    known
}

/// The bytes of a file below a container's root, as it is resolved inside: links do not lead out, only a regular file is
/// opened, one of more than 1 MiB is refused. A file that is missing is empty.
pub fn bytes(root: &impl AsFd, file: &'static str) -> Result<Vec<u8>, AccountsError> {
    let fail = |source| AccountsError::Io { file, source };
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    // Without any right to it first: merely opening a device can do something.
    let place = match openat2(root, file, OpenHow::new().flags(flags).resolve(resolve)) {
        Err(Errno::ENOENT) => return Ok(Vec::new()),
        other => other.map_err(|errno| fail(errno.into()))?,
    };
    let mode = fstat(&place).map_err(|errno| fail(errno.into()))?.st_mode;
    if mode & libc::S_IFMT != libc::S_IFREG {
        return Err(AccountsError::NotAFile { file });
    }
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", place.as_raw_fd()));
    bounded(&opened.map_err(fail)?)
        .map_err(fail)?
        .ok_or(AccountsError::TooLong { file })
}

fn bounded(file: &File) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= MAX_FILE).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn names_are_found() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nsaned:x:113:120::/:/bin/false\n# c:x:1:1\nbad\nsaned:x:7:7\n\
            +nis:x:5:5\nneg:x:-1:1\nall:x:4294967295:1\nplus:x:+3:1\nempty:x::1\n:x:9:9\n\xff:x:8:8\nlast:x:4:4";
        let accounts = Accounts::parse(passwd, b"scanner:x:120:saned\n");
        let user = |name: &str| accounts.user(&UserRef::Name(name.into()));
        for (name, id) in [
            ("root", Some(0)),
            ("saned", Some(113)),
            ("last", Some(4)),
            ("nis", None),
            ("+nis", None),
            ("neg", None),
            ("all", None),
            ("plus", None),
            ("empty", None),
            ("", None),
            ("bad", None),
            ("scanner", None),
        ] {
            assert_eq!(user(name), id, "{name}");
        }
        assert_eq!(accounts.group(&UserRef::Name("scanner".into())), Some(120));
        assert_eq!(accounts.group(&UserRef::Id(77)), Some(77));
        assert_eq!(Accounts::default().user(&UserRef::Name("root".into())), Some(0));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(passwd: Vec<u8>, group: Vec<u8>) {
            Accounts::parse(&passwd, &group);
        }
    }

    #[test]
    fn hostile_files_stay_below_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(&outside, "outside:x:5:5\n").unwrap();
        assert_eq!(Accounts::load_path(&root).unwrap(), Accounts::default());
        // Links count from the container's root, as they do inside.
        std::fs::write(root.join("users"), "inside:x:6:6\n").unwrap();
        let users = |accounts: &Accounts| accounts.users.keys().cloned().collect::<Vec<_>>();
        for (target, seen) in [
            ("/users", vec!["inside".to_owned()]),
            ("../../../users", vec!["inside".to_owned()]),
            (outside.to_str().unwrap(), vec![]),
            ("../../../outside", vec![]),
        ] {
            let passwd = root.join("etc/passwd");
            std::fs::remove_file(&passwd).ok();
            symlink(target, &passwd).unwrap();
            assert_eq!(users(&Accounts::load_path(&root).unwrap()), seen, "{target}");
        }
        // A FIFO would block, a device could do anything, a long file would fill memory.
        let passwd = root.join("etc/passwd");
        std::fs::remove_file(&passwd).unwrap();
        nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = Accounts::load_path(&root).unwrap_err();
        assert!(
            matches!(error, AccountsError::NotAFile { file: "etc/passwd" }),
            "{error}"
        );
        std::fs::remove_file(&passwd).unwrap();
        File::create(&passwd).unwrap().set_len(MAX_FILE + 1).unwrap();
        let error = Accounts::load_path(&root).unwrap_err();
        assert!(
            matches!(error, AccountsError::TooLong { file: "etc/passwd" }),
            "{error}"
        );
    }
}
