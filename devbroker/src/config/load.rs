//! The configuration's folders, and the last good copy of each file.

use super::diagnostic::Diagnostic;
use super::{Config, FileConfig, MAX_FILE, Place, durable, merge, parse_file_in};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Where the configuration is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loader {
    /// The administrator's files.
    pub admin: PathBuf,
    /// Packages' files.
    pub vendor: PathBuf,
    /// Files of this boot.
    pub runtime: PathBuf,
    /// Copies of what was last in force.
    pub last_good: PathBuf,
}

/// What was found and is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// All that is wrong with the files as they are.
    pub diagnostics: Vec<Diagnostic>,
    /// Each file, in the order of folders and names.
    pub files: Vec<FileStatus>,
    /// Whether a last good copy is missing because it could not be written.
    pub copies_lack: bool,
}

/// A file and whether it is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStatus {
    /// The file.
    pub path: PathBuf,
    /// Its folder.
    pub place: Place,
    /// Whether it is in force.
    pub state: FileState,
}

/// Whether a file is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileState {
    /// As it is.
    InForce,
    /// It is faulty, and its last good copy is.
    LastGood,
    /// It is faulty, and there is no copy.
    Unused,
    /// A file of the same name in `/etc` stands in its place.
    Masked,
}

/// A file on its way to be in force.
#[derive(Debug)]
struct Item {
    path: PathBuf,
    name: String,
    place: Place,
    /// Its content, unless it could not be read.
    bytes: Option<Vec<u8>>,
    /// The content that was last in force.
    copy: Option<Vec<u8>>,
    /// What is used of it.
    state: FileState,
    parsed: Option<FileConfig>,
}

impl Item {
    /// Whether it is not what was last in force.
    fn is_new(&self) -> bool {
        self.state == FileState::InForce && self.bytes != self.copy
    }

    /// Goes back to the last good copy, or if that is what does not fit, to nothing.
    fn give_way(&mut self) {
        let copy = self
            .copy
            .as_ref()
            .filter(|_| self.state == FileState::InForce && self.bytes != self.copy)
            .map(|copy| parse_file_in(&self.path, self.place, copy))
            .filter(|(_, faults)| !faults.iter().any(Diagnostic::is_error));
        self.state = if copy.is_some() {
            FileState::LastGood
        } else {
            FileState::Unused
        };
        self.parsed = copy.map(|(file, _)| file);
    }
}

impl Default for Loader {
    /// The system's folders.
    fn default() -> Self {
        Self {
            admin: "/etc/devbroker/conf.d".into(),
            vendor: "/usr/lib/devbroker/conf.d".into(),
            runtime: "/run/devbroker/conf.d".into(),
            last_good: "/var/lib/devbroker/last-good".into(),
        }
    }
}

impl Loader {
    /// The folders to watch.
    pub fn folders(&self) -> [&Path; 3] {
        [&self.admin, &self.vendor, &self.runtime]
    }

    /// Reads everything, puts last good copies in the place of files that are faulty or contradict what was in force, and
    /// keeps copies of the others. Total: what cannot be read or kept is a diagnostic.
    pub fn load(&self) -> Loaded {
        self.run(true)
    }

    /// The same without writing copies.
    pub fn look(&self) -> Loaded {
        self.run(false)
    }

    fn run(&self, keep: bool) -> Loaded {
        let mut diagnostics = Vec::new();
        let (mut items, complete) = self.read(&mut diagnostics);
        for item in items.iter_mut().filter(|item| item.state != FileState::Masked) {
            let Some(bytes) = &item.bytes else {
                item.give_way();
                continue;
            };
            let (file, faults) = parse_file_in(&item.path, item.place, bytes);
            let broken = faults.iter().any(Diagnostic::is_error);
            diagnostics.extend(faults);
            if broken {
                item.give_way();
            } else {
                item.parsed = Some(file);
            }
        }
        let (mut config, faults) = together(&items);
        let mut contradictions: Vec<Diagnostic> = faults.clone();
        diagnostics.extend(faults);
        // Each round takes one new file back, so that there are no more rounds than files.
        while let Some(at) = loser(&items, &contradictions) {
            if let Some(item) = items.get_mut(at) {
                item.give_way();
            }
            (config, contradictions) = together(&items);
        }
        let copies_lack = keep && !self.keep(&items, &complete, &mut diagnostics);
        diagnostics.sort();
        diagnostics.dedup();
        Loaded {
            config,
            diagnostics,
            copies_lack,
            files: items
                .into_iter()
                .map(|item| FileStatus {
                    path: item.path,
                    place: item.place,
                    state: item.state,
                })
                .collect(),
        }
    }

    fn folder(&self, place: Place) -> &Path {
        match place {
            Place::Admin => &self.admin,
            Place::Vendor => &self.vendor,
            Place::Runtime => &self.runtime,
        }
    }

    fn copy_path(&self, place: Place, name: &str) -> PathBuf {
        self.last_good.join(place.as_str()).join(name)
    }

    /// All files in order, and the folders that could be listed.
    fn read(&self, diagnostics: &mut Vec<Diagnostic>) -> (Vec<Item>, BTreeSet<Place>) {
        let mut items: Vec<Item> = Vec::new();
        let mut complete = BTreeSet::new();
        for place in [Place::Admin, Place::Vendor, Place::Runtime] {
            let folder = self.folder(place);
            let names = match list(folder, diagnostics) {
                Ok(names) => {
                    complete.insert(place);
                    names
                }
                Err(error) => {
                    diagnostics.push(
                        Diagnostic::of_file(folder, format!("cannot list the folder: {error}"))
                            .help("the last good copies of its files stay in force"),
                    );
                    let copies = list(&self.last_good.join(place.as_str()), &mut Vec::new());
                    copies.unwrap_or_default()
                }
            };
            for name in names {
                let path = folder.join(&name);
                let masked = place == Place::Vendor
                    && items
                        .iter()
                        .any(|item| item.place == Place::Admin && item.name == name);
                let state = if masked {
                    FileState::Masked
                } else {
                    FileState::InForce
                };
                let bytes = if masked || !complete.contains(&place) {
                    None
                } else {
                    match read_file(&path) {
                        Ok(bytes) => Some(bytes),
                        Err(fault) => {
                            diagnostics.push(*fault);
                            None
                        }
                    }
                };
                items.push(Item {
                    copy: read_file(&self.copy_path(place, &name)).ok(),
                    path,
                    name,
                    place,
                    bytes,
                    state,
                    parsed: None,
                });
            }
        }
        (items, complete)
    }

    /// Keeps what is in force, and forgets files that are gone. Says whether all of it could be done.
    fn keep(&self, items: &[Item], complete: &BTreeSet<Place>, diagnostics: &mut Vec<Diagnostic>) -> bool {
        let mut all = true;
        let kept: BTreeSet<(Place, &str)> = items
            .iter()
            .map(|item| (item.place, item.name.as_str()))
            .collect();
        let mut failed = |path: &Path, error: &io::Error| {
            all = false;
            let message = format!("cannot keep a last good copy: {error}");
            let help =
                "should the file become faulty, nothing can stand in for it; free space or mend the folder";
            diagnostics.push(Diagnostic::of_file(path, message).help(help).warning());
        };
        for item in items.iter().filter(|item| item.is_new()) {
            let path = self.copy_path(item.place, &item.name);
            let written = path
                .parent()
                .map_or(Ok(()), fs::create_dir_all)
                .and_then(|()| durable::replace(&path, item.bytes.as_deref().unwrap_or_default()));
            if let Err(error) = written {
                failed(&path, &error);
            }
        }
        for place in complete {
            let folder = self.last_good.join(place.as_str());
            for name in list(&folder, &mut Vec::new()).unwrap_or_default() {
                if !kept.contains(&(*place, name.as_str())) {
                    let path = folder.join(name);
                    if let Err(error) = fs::remove_file(&path) {
                        failed(&path, &error);
                    }
                }
            }
        }
        all
    }
}

fn together(items: &[Item]) -> (Config, Vec<Diagnostic>) {
    merge(items.iter().filter_map(|item| item.parsed.clone()).collect())
}

/// Which file gives way to a contradiction: the one that is new; of two that are, the later. Where neither is, what was in
/// force stays (the merge keeps the first of each).
fn loser(items: &[Item], faults: &[Diagnostic]) -> Option<usize> {
    let by_path: BTreeMap<&Path, usize> = items
        .iter()
        .enumerate()
        .filter(|(_, item)| item.is_new())
        .map(|(at, item)| (item.path.as_path(), at))
        .collect();
    let mut errors = faults.iter().filter(|fault| fault.is_error());
    errors.find_map(|fault| {
        let other = fault.other.as_ref().map(|other| other.file.as_path());
        let later = by_path.get(fault.origin.file.as_path());
        later.or_else(|| by_path.get(other?)).copied()
    })
}

/// The names of a folder's configuration files, sorted. A folder that is not there has none.
fn list(folder: &Path, diagnostics: &mut Vec<Diagnostic>) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        match entry.file_name().into_string() {
            Ok(name) if is_configuration(&name) => names.push(name),
            Err(name) if is_configuration(&name.to_string_lossy()) => {
                let fault =
                    Diagnostic::of_file(&entry.path(), "the file's name is not UTF-8, it is not read");
                diagnostics.push(fault.help("rename it").warning());
            }
            Ok(_) | Err(_) => {}
        }
    }
    names.sort();
    Ok(names)
}

/// Whether a file of this name is read: `*.toml`, not hidden (editors and [`durable::replace`] write such).
pub fn is_configuration(name: &str) -> bool {
    !name.starts_with('.') && Path::new(name).extension() == Some("toml".as_ref())
}

/// Reads a configuration file: an ordinary one, or `/dev/null`, which is how a file is masked. No more than one byte
/// beyond the limit is read, and a FIFO does not hold anybody up.
pub fn read_file(path: &Path) -> Result<Vec<u8>, Box<Diagnostic>> {
    let fault = |error: io::Error| {
        let fault = Diagnostic::of_file(path, format!("cannot read the file: {error}"));
        Box::new(fault.help("its last good copy stays in force, if there is one"))
    };
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(fault)?;
    let about = file.metadata().map_err(fault)?;
    if about.file_type().is_char_device() && about.rdev() == libc::makedev(1, 3) {
        return Ok(Vec::new());
    }
    if !about.is_file() {
        let fault = Diagnostic::of_file(path, "this is no ordinary file");
        return Err(Box::new(fault.help(
            "expected a file, or a link to /dev/null to mask a package's file",
        )));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(fault)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
