//! What the administrator of a container did to its nodes, kept across unplugging, restarts and reboots.
//!
//! One file for each container under `/var/lib/devbroker/permissions`, appended to with JSON lines; the last line of an
//! alias and role counts. A line is written before the call returns, so that killing the broker loses nothing; that the
//! disk has it is seen to by a thread of its own, so that a slow disk holds up nobody. A line cut off by a crash is
//! dropped. Nobody but the broker writes there; who destroys a container removes its file ([`forget_in`]), broker or not,
//! and since the broker holds in memory only what it serves, that is all there is to it.
//!
//! Where the disk is full or read-only, what is in memory counts, [`Remember::trouble`] says so, and [`Remember::mend`]
//! writes it as soon as that can be done.

use crate::model::{AliasName, ContainerKey, Permissions, Role};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// Longer files are not read: a container with that many roles is not one we made.
const MAX_FILE: u64 = 16 << 20;

/// How many lines a file may have for each thing that it still says, before it is written anew.
const COMPACT: usize = 64;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    alias: AliasName,
    role: Role,
    permissions: Permissions,
}

/// A file of remembered permissions that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {source}; permissions set inside may be forgotten", path.display())]
pub struct RememberError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

#[derive(Debug)]
struct Memory {
    /// Nothing where it could only be read.
    file: Option<File>,
    length: u64,
    lines: usize,
    known: BTreeMap<(AliasName, Role), Permissions>,
    /// Why the file does not say what is known.
    unsaved: Option<String>,
}

/// The permissions of all containers, read as they are asked for.
#[derive(Debug)]
pub struct Remember {
    folder: PathBuf,
    containers: BTreeMap<ContainerKey, Memory>,
    /// Files whose contents the disk is to have; closed to end the thread.
    to_sync: Option<Sender<(ContainerKey, File)>>,
    syncer: Option<JoinHandle<()>>,
}

impl Remember {
    /// Keeps permissions in `folder`, which is made if missing, as soon as it can be.
    pub fn open(folder: &Path) -> Result<Self, RememberError> {
        let listing = folder.to_owned();
        let (to_sync, files) = channel::<(ContainerKey, File)>();
        let syncer = std::thread::Builder::new()
            .name("remember".into())
            .stack_size(128 << 10)
            .spawn(move || {
                while let Ok(first) = files.recv() {
                    // What came together is synced together, a container's file once.
                    let waiting: BTreeMap<_, _> = std::iter::once(first).chain(files.try_iter()).collect();
                    for file in waiting.values() {
                        // A disk that fails says so on the next write as well; what is in memory still counts.
                        file.sync_data().ok();
                    }
                    File::open(&listing).and_then(|folder| folder.sync_all()).ok();
                }
            })
            .map_err(|source| RememberError {
                what: "start the thread for",
                path: folder.into(),
                source,
            })?;
        let remember = Self {
            folder: folder.into(),
            containers: BTreeMap::new(),
            to_sync: Some(to_sync),
            syncer: Some(syncer),
        };
        // Where it fails, each file that is written says why.
        remember.make_folder().ok();
        Ok(remember)
    }

    fn make_folder(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)
    }

    /// Why something that is known is not on the disk, if so.
    pub fn trouble(&self) -> Option<String> {
        self.containers.iter().find_map(|(key, memory)| {
            let why = memory.unsaved.as_deref()?;
            Some(format!(
                "permissions set inside {} are not kept beyond a restart: cannot write {}: {why}",
                key.container,
                self.path(key).display()
            ))
        })
    }

    /// Tries to write what could not be written.
    pub fn mend(&mut self) {
        if self.trouble().is_none() {
            return;
        }
        // As above.
        self.make_folder().ok();
        let folder = &self.folder;
        for (key, memory) in &mut self.containers {
            if memory.unsaved.is_some() {
                // What fails stays the trouble.
                memory.save(&path_in(folder, key)).ok();
            }
        }
    }

    /// What was last seen on this role in this container.
    pub fn get(
        &mut self,
        key: &ContainerKey,
        alias: &AliasName,
        role: &Role,
    ) -> Result<Option<&Permissions>, RememberError> {
        let memory = self.memory(key)?;
        Ok(memory.known.get(&(alias.clone(), role.clone())))
    }

    /// Keeps what was seen. Says whether it is new; what is known already costs no write.
    pub fn set(
        &mut self,
        key: &ContainerKey,
        alias: &AliasName,
        role: &Role,
        permissions: Permissions,
    ) -> Result<bool, RememberError> {
        let path = self.path(key);
        let to_sync = self.to_sync.clone();
        let memory = self.memory(key)?;
        let of = (alias.clone(), role.clone());
        if memory.known.get(&of) == Some(&permissions) {
            return Ok(false);
        }
        let line = Line {
            alias: alias.clone(),
            role: role.clone(),
            permissions,
        };
        let failed = |source| RememberError {
            what: "write",
            path: path.clone(),
            source,
        };
        if memory.unsaved.is_some() {
            // A line of its own would be of no use after one that is missing.
            memory.known.insert(of, line.permissions);
            memory.save(&path).map_err(failed)?;
            return Ok(true);
        }
        let written = memory.append(&line);
        memory.known.insert(of, line.permissions);
        written.map_err(|source| {
            memory.unsaved = Some(source.to_string());
            failed(source)
        })?;
        if memory.lines > COMPACT * memory.known.len() {
            memory.save(&path).map_err(failed)?;
        }
        let file = memory.file.as_ref().and_then(|file| file.try_clone().ok());
        if let (Some(to_sync), Some(file)) = (to_sync, file) {
            // The thread ends only after the sender is gone.
            to_sync.send((key.clone(), file)).ok();
        }
        Ok(true)
    }

    /// Lets go of a container that has ended: the next time it is asked for, its file is read again. What is not in the file
    /// yet is held on to.
    pub fn release(&mut self, key: &ContainerKey) {
        let saved = |memory: &Memory| memory.unsaved.is_none();
        if self.containers.get(key).is_some_and(saved) {
            self.containers.remove(key);
        }
    }

    /// Forgets a container that is destroyed. Says whether anything was known of it.
    pub fn forget(&mut self, key: &ContainerKey) -> Result<bool, RememberError> {
        self.containers.remove(key);
        let known = remove(&self.folder, key)?;
        if let (Some(to_sync), Ok(folder)) = (&self.to_sync, File::open(&self.folder)) {
            // The thread ends only after the sender is gone.
            to_sync.send((key.clone(), folder)).ok();
        }
        Ok(known)
    }

    /// Waits until the disk has everything. For the end of the program.
    pub fn close(mut self) {
        self.finish();
    }

    fn finish(&mut self) {
        self.to_sync = None;
        if let Some(thread) = self.syncer.take() {
            // It holds nothing that a panic could have damaged.
            thread.join().ok();
        }
    }

    fn path(&self, key: &ContainerKey) -> PathBuf {
        path_in(&self.folder, key)
    }

    fn memory(&mut self, key: &ContainerKey) -> Result<&mut Memory, RememberError> {
        use std::collections::btree_map::Entry;
        let path = self.path(key);
        match self.containers.entry(key.clone()) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(free) => {
                let memory = Memory::read(&path).map_err(|source| RememberError {
                    what: "read",
                    path: path.clone(),
                    source,
                })?;
                Ok(free.insert(memory))
            }
        }
    }
}

/// Forgets a container that is destroyed, for who destroys it, so that the disk knows no more when this returns. The broker
/// need not be there; if it is, it is to be told first that the container is gone. Says whether anything was known of it.
pub fn forget_in(folder: &Path, key: &ContainerKey) -> Result<bool, RememberError> {
    let known = remove(folder, key)?;
    if known {
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|source| RememberError {
            what: "write",
            path: folder.into(),
            source,
        })?;
    }
    Ok(known)
}

/// What is known of a container becomes what is known of another, for who gives a container another name while it does not
/// run: the broker then holds nothing of either in memory. Nothing to do where nothing is known.
pub fn rename_in(folder: &Path, from: &ContainerKey, to: &ContainerKey) -> Result<(), RememberError> {
    let (from, to) = (path_in(folder, from), path_in(folder, to));
    let failed = |source| RememberError {
        what: "rename",
        path: from.clone(),
        source,
    };
    match std::fs::rename(&from, &to) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed(e)),
        Ok(()) => File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed),
    }
}

/// Whether a disk is full or read-only, or the folder on it could not be made.
fn takes_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::NotFound
    )
}

fn remove(folder: &Path, key: &ContainerKey) -> Result<bool, RememberError> {
    let path = path_in(folder, key);
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(RememberError {
            what: "remove",
            path,
            source,
        }),
    }
}

/// Names of containers and engines hold no slash and no colon.
fn path_in(folder: &Path, key: &ContainerKey) -> PathBuf {
    folder.join(format!("{}:{}.jsonl", key.owner, key.container))
}

impl Drop for Remember {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Memory {
    fn read(path: &Path) -> io::Result<Self> {
        let to_write = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path);
        let mut bytes = Vec::new();
        let file = match (to_write, File::open(path)) {
            (Ok(file), _) => {
                (&file).take(MAX_FILE).read_to_end(&mut bytes)?;
                Some(file)
            }
            // On a disk that takes nothing there is still what it has.
            (Err(_), Ok(file)) => {
                file.take(MAX_FILE).read_to_end(&mut bytes)?;
                None
            }
            (Err(error), Err(_)) if takes_nothing(&error) => None,
            (Err(error), Err(_)) => return Err(error),
        };
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        let length = whole as u64;
        if let Some(file) = &file {
            file.set_len(length)?;
        }
        let mut memory = Self {
            file,
            length,
            lines: 0,
            known: BTreeMap::new(),
            unsaved: None,
        };
        for line in bytes
            .get(..whole)
            .unwrap_or_default()
            .split(|byte| *byte == b'\n')
        {
            // A line that a failing disk garbled is lost, the others are not.
            if let Ok(line) = serde_json::from_slice::<Line>(line) {
                memory.known.insert((line.alias, line.role), line.permissions);
            }
            memory.lines += 1;
        }
        Ok(memory)
    }

    fn append(&mut self, line: &Line) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        let Some(file) = &mut self.file else {
            return Err(io::Error::from_raw_os_error(libc::EROFS));
        };
        if let Err(error) = file.write_all(&bytes) {
            // Half a line must not run into the next one.
            file.set_len(self.length)?;
            return Err(error);
        }
        self.length += bytes.len() as u64;
        self.lines += 1;
        Ok(())
    }

    /// Writes all that is known, and notes whether that went well.
    fn save(&mut self, path: &Path) -> io::Result<()> {
        let saved = self.rewrite(path);
        self.unsaved = saved.as_ref().err().map(ToString::to_string);
        if saved.is_err() {
            // Half of it takes up room.
            std::fs::remove_file(path.with_extension("new")).ok();
        }
        saved
    }

    /// Writes only what still counts, beside the old file, and puts it in its place once the disk has it.
    fn rewrite(&mut self, path: &Path) -> io::Result<()> {
        let mut bytes = Vec::new();
        for ((alias, role), permissions) in &self.known {
            let line = Line {
                alias: alias.clone(),
                role: role.clone(),
                permissions: permissions.clone(),
            };
            serde_json::to_writer(&mut bytes, &line)?;
            bytes.push(b'\n');
        }
        let beside = path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        std::fs::rename(&beside, path)?;
        self.file = Some(OpenOptions::new().read(true).append(true).open(path)?);
        self.length = bytes.len() as u64;
        self.lines = self.known.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Acl;

    fn key(name: &str, owner: u32) -> ContainerKey {
        ContainerKey {
            container: name.parse().unwrap(),
            owner,
        }
    }

    fn perms(mode: u16) -> Permissions {
        Permissions {
            uid: 7,
            gid: 8,
            mode,
            acl: Acl::default(),
        }
    }

    struct Fixture {
        folder: tempfile::TempDir,
        alias: AliasName,
        role: Role,
    }

    fn fixture() -> Fixture {
        Fixture {
            folder: tempfile::tempdir().unwrap(),
            alias: "printer".parse().unwrap(),
            role: "usbmisc@if00".parse().unwrap(),
        }
    }

    #[test]
    fn kept_for_each_container_and_role() {
        let Fixture { folder, alias, role } = fixture();
        let (scan, other, foreign) = (key("ctm:scan", 0), key("ctm:other", 0), key("ctm:scan", 1000));
        let mut remember = Remember::open(folder.path()).unwrap();
        assert_eq!(remember.get(&scan, &alias, &role).unwrap(), None);
        assert!(remember.set(&scan, &alias, &role, perms(0o640)).unwrap());
        assert!(!remember.set(&scan, &alias, &role, perms(0o640)).unwrap());
        assert!(remember.set(&scan, &alias, &role, perms(0o600)).unwrap());
        remember.close();
        let mut remember = Remember::open(folder.path()).unwrap();
        assert_eq!(remember.get(&scan, &alias, &role).unwrap(), Some(&perms(0o600)));
        for key in [&other, &foreign] {
            assert_eq!(remember.get(key, &alias, &role).unwrap(), None);
        }
        assert_eq!(
            remember.get(&scan, &alias, &"block".parse().unwrap()).unwrap(),
            None
        );
        assert!(remember.forget(&scan).unwrap());
        assert_eq!(remember.get(&scan, &alias, &role).unwrap(), None);
        // Asking for it began a new, empty file.
        assert!(remember.forget(&scan).unwrap());
        assert!(!remember.forget(&scan).unwrap());
    }

    /// Whoever destroys a container removes the file beside a broker that runs; one of the same name begins anew.
    #[test]
    fn what_is_destroyed_is_not_remembered_by_a_broker_that_knew_it() {
        let Fixture { folder, alias, role } = fixture();
        let (scan, other) = (key("ctm:scan", 0), key("ctm:other", 0));
        let mut remember = Remember::open(folder.path()).unwrap();
        for key in [&scan, &other] {
            remember.set(key, &alias, &role, perms(0o640)).unwrap();
            remember.release(key);
        }
        assert!(forget_in(folder.path(), &scan).unwrap());
        assert!(!forget_in(folder.path(), &scan).unwrap());
        assert_eq!(remember.get(&scan, &alias, &role).unwrap(), None);
        assert_eq!(remember.get(&other, &alias, &role).unwrap(), Some(&perms(0o640)));
        remember.set(&scan, &alias, &role, perms(0o600)).unwrap();
        remember.release(&scan);
        assert_eq!(remember.get(&scan, &alias, &role).unwrap(), Some(&perms(0o600)));
        assert!(!forget_in(&folder.path().join("none"), &scan).unwrap());
    }

    #[test]
    fn a_torn_line_and_garbage_cost_only_themselves() {
        let Fixture { folder, alias, role } = fixture();
        let scan = key("ctm:scan", 0);
        let mut remember = Remember::open(folder.path()).unwrap();
        remember.set(&scan, &alias, &role, perms(0o640)).unwrap();
        remember.close();
        let path = folder.path().join("0:ctm:scan.jsonl");
        let mut bytes = b"garbage\n\xff\n".to_vec();
        bytes.extend(std::fs::read(&path).unwrap());
        bytes.extend(br#"{"alias":"printer","role":"usbmisc@if00","permi"#);
        std::fs::write(&path, bytes).unwrap();
        let mut remember = Remember::open(folder.path()).unwrap();
        assert_eq!(remember.get(&scan, &alias, &role).unwrap(), Some(&perms(0o640)));
        remember.set(&scan, &alias, &role, perms(0o604)).unwrap();
        remember.close();
        let mut remember = Remember::open(folder.path()).unwrap();
        assert_eq!(remember.get(&scan, &alias, &role).unwrap(), Some(&perms(0o604)));
    }

    #[test]
    fn a_file_stays_short() {
        let Fixture { folder, alias, role } = fixture();
        let scan = key("ctm:scan", 0);
        let mut remember = Remember::open(folder.path()).unwrap();
        for round in 0..1000 {
            remember.set(&scan, &alias, &role, perms(round % 0o777)).unwrap();
        }
        let text = std::fs::read_to_string(folder.path().join("0:ctm:scan.jsonl")).unwrap();
        assert!(text.lines().count() <= COMPACT + 1);
        assert_eq!(
            remember.get(&scan, &alias, &role).unwrap(),
            Some(&perms(999 % 0o777))
        );
        remember.close();
        let mut remember = Remember::open(folder.path()).unwrap();
        assert_eq!(
            remember.get(&scan, &alias, &role).unwrap(),
            Some(&perms(999 % 0o777))
        );
    }
}
