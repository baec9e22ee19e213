//! A container's device filter in the kernel: making it, granting and revoking, finding it again.
//!
//! In a folder of bpffs, one for each container, lie three pins: `map` (the authority: what is granted is what it holds),
//! `program`, and `link`. The program is on the container's cgroup twice, by that link and by `PROG_ATTACH`: an engine that
//! removes attached programs leaves the link, and who removes the pins or unmounts bpffs leaves the attached program, so
//! that losing either opens nothing. Without the map's pin nothing more can be granted.

mod pins;

pub(crate) use pins::make_folder;

use crate::access::{Key, SeedRule, Value, program};
use crate::model::{Access, DevNum};
use crate::sys::bpf;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// How many keys a filter holds, seed included.
pub const CAPACITY: u32 = 1024;
/// The name by which our programs and maps are known in the kernel.
pub const OBJECT_NAME: &str = "devbroker";

const MAP: &str = "map";
const PROGRAM: &str = "program";
const LINK: &str = "link";

/// What can go wrong with a filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// There is no bpffs to pin in.
    #[error("{} is not on a bpf file system; mount it with `mount -t bpf bpf /sys/fs/bpf`", .0.display())]
    NoBpffs(PathBuf),
    /// The folder already holds a filter.
    #[error("{} already holds a device filter; a container's run has its own folder", .0.display())]
    Exists(PathBuf),
    /// The folder holds no filter.
    #[error("{} holds no device filter; nothing can be granted, start the container again", .0.display())]
    Absent(PathBuf),
    /// What is pinned there is not ours.
    #[error("{} is no map of devbroker's; remove it and start the container again", .0.display())]
    NotOurs(PathBuf),
    /// The kernel's verifier refused the program.
    #[error("the kernel refused the device program: {source}: {log}")]
    Rejected {
        /// The verifier's reasons.
        log: String,
        /// The call's error.
        source: io::Error,
    },
    /// Attaching said that it worked and the kernel shows nothing.
    #[error("the device program of {} is not on its cgroup although the kernel accepted it", .0.display())]
    NotAttached(PathBuf),
    /// The map is full.
    #[error("cannot allow {device}: {} already holds {CAPACITY} entries; detach devices or narrow the grant", .dir.display())]
    Full {
        /// The filter.
        dir: PathBuf,
        /// What was to be allowed.
        device: DevNum,
    },
    /// A system call failed.
    #[error("cannot {what} for the device filter {}: {source}", .dir.display())]
    Call {
        /// What was to be done.
        what: &'static str,
        /// The filter.
        dir: PathBuf,
        /// The call's error.
        source: io::Error,
    },
}

/// How far [`DeviceFilter::create`] has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The folder is made.
    Folder,
    /// The map holds the seed.
    Seeded,
    /// The program is loaded.
    Loaded,
    /// It is on the cgroup to stay.
    Attached,
    /// It is on the cgroup by a link as well, which ends with this process.
    Linked,
    /// The link has a name.
    LinkPinned,
    /// The program has a name.
    ProgramPinned,
    /// The map has a name: done.
    MapPinned,
}

/// What [`DeviceFilter::verify`] found on the cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attachment {
    /// The program is attached.
    pub program: bool,
    /// The link holds.
    pub link: bool,
}

impl Attachment {
    /// Whether the container is confined by this filter.
    pub const fn confines(self) -> bool {
        self.program || self.link
    }

    /// Whether nothing is missing.
    pub const fn is_whole(self) -> bool {
        self.program && self.link
    }
}

/// A container's device filter.
#[derive(Debug)]
pub struct DeviceFilter {
    dir: PathBuf,
    map: bpf::Map,
    program: OwnedFd,
    program_id: u32,
    /// What the seed holds for single numbers, sorted: so that allowing and denying is one call each.
    seeded: Vec<(Key, Access)>,
}

impl DeviceFilter {
    /// Makes a filter with this seed and puts it on `cgroup`, whose container must not run yet. `dir` is a new folder on a
    /// bpffs. After an error nothing is left; after a kill at any moment the cgroup is as it was or has the seed alone.
    pub fn create(cgroup: BorrowedFd<'_>, dir: &Path, seed: &[SeedRule]) -> Result<Self, FilterError> {
        Self::create_observed(cgroup, dir, seed, &mut |_| ())
    }

    /// [`create`](Self::create), telling each step when it is done: the place for fail points.
    pub fn create_observed(
        cgroup: BorrowedFd<'_>,
        dir: &Path,
        seed: &[SeedRule],
        done: &mut dyn FnMut(Step),
    ) -> Result<Self, FilterError> {
        make_folder(dir)?;
        done(Step::Folder);
        let undo_folder = |error| {
            // The error that led here is the one to tell.
            Self::collect(dir).err();
            error
        };
        let filter = Self::load(dir, seed, done).map_err(undo_folder)?;
        filter
            .attach_and_pin(cgroup, done)
            .inspect_err(|_| {
                bpf::detach(cgroup, filter.program.as_fd()).err();
                Self::unlink(dir).err();
            })
            .map_err(undo_folder)?;
        Ok(filter)
    }

    /// Map and program, without a name and on no cgroup.
    pub(crate) fn load(
        dir: &Path,
        seed: &[SeedRule],
        done: &mut dyn FnMut(Step),
    ) -> Result<Self, FilterError> {
        let failed = |what| move |source| call(what, dir, source);
        let map = bpf::Map::create(OBJECT_NAME, CAPACITY).map_err(failed("make a map"))?;
        let content = Value::seed(seed);
        for (key, value) in &content {
            map.update(key.words(), value.word())
                .map_err(failed("seed the map"))?;
        }
        done(Step::Seeded);
        let program = load_program(&map)?;
        let program_id = bpf::program_info(program.as_fd())
            .map_err(failed("look at the program"))?
            .id;
        done(Step::Loaded);
        Ok(Self {
            dir: dir.into(),
            map,
            program,
            program_id,
            seeded: content
                .into_iter()
                .filter(|(key, _)| key.as_device().is_some())
                .map(|(key, value)| (key, value.seed))
                .collect(),
        })
    }

    fn attach_and_pin(&self, cgroup: BorrowedFd<'_>, done: &mut dyn FnMut(Step)) -> Result<(), FilterError> {
        bpf::attach(cgroup, self.program.as_fd(), None).map_err(self.failed("attach the program"))?;
        done(Step::Attached);
        let link = bpf::link(cgroup, self.program.as_fd()).map_err(self.failed("link the program"))?;
        done(Step::Linked);
        // Calls of this kind have been seen to succeed without effect.
        if self.times(cgroup)? != 2 {
            return Err(FilterError::NotAttached(self.dir.clone()));
        }
        self.pin(link.as_fd(), LINK)?;
        done(Step::LinkPinned);
        self.pin_program()?;
        done(Step::ProgramPinned);
        self.pin_map()?;
        done(Step::MapPinned);
        Ok(())
    }

    /// Puts the program on `cgroup` by a pinned link.
    pub(crate) fn link(&self, cgroup: BorrowedFd<'_>) -> Result<(), FilterError> {
        let link = bpf::link(cgroup, self.program.as_fd()).map_err(self.failed("link the program"))?;
        self.pin(link.as_fd(), LINK)
    }

    /// Ends the link pinned in `dir` now, if there is one.
    pub(crate) fn unlink(dir: &Path) -> Result<(), FilterError> {
        match bpf::pinned(&dir.join(LINK)) {
            // A link whose cgroup is gone has nothing to end.
            Ok(link) if bpf::link_info(link.as_fd()).is_ok_and(|link| link.cgroup.is_some()) => {
                bpf::unlink(link.as_fd()).map_err(|source| call("end the link", dir, source))
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(call("open the link", dir, source)),
        }
    }

    pub(crate) fn pin_program(&self) -> Result<(), FilterError> {
        self.pin(self.program.as_fd(), PROGRAM)
    }

    /// The last step: with the map's pin the filter is complete, and only then can anything be granted.
    pub(crate) fn pin_map(&self) -> Result<(), FilterError> {
        self.pin(self.map.fd(), MAP)
    }

    fn pin(&self, object: BorrowedFd<'_>, name: &str) -> Result<(), FilterError> {
        let path = self.dir.join(name);
        loop {
            match bpf::pin(object, &path) {
                // Whoever sweeps may take an empty folder for a dead one.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !self.dir.exists() => {
                    pins::folder_for_root(&self.dir)?;
                }
                result => return result.map_err(self.failed("pin an object")),
            }
        }
    }

    /// The filter pinned in `dir`.
    pub fn open(dir: &Path) -> Result<Self, FilterError> {
        let path = dir.join(MAP);
        let map = bpf::Map::pinned(&path).map_err(|source| {
            if source.kind() == io::ErrorKind::NotFound {
                FilterError::Absent(dir.into())
            } else if source.kind() == io::ErrorKind::InvalidData {
                FilterError::NotOurs(path)
            } else {
                call("open the map", dir, source)
            }
        })?;
        let program =
            bpf::pinned(&dir.join(PROGRAM)).map_err(|source| call("open the program", dir, source))?;
        let program_id = bpf::program_info(program.as_fd())
            .map_err(|source| call("look at the program", dir, source))?
            .id;
        let mut filter = Self {
            dir: dir.into(),
            map,
            program,
            program_id,
            seeded: Vec::new(),
        };
        let mut seeded: Vec<_> = filter
            .entries()?
            .into_iter()
            .filter(|(key, value)| key.as_device().is_some() && !value.seed.is_empty())
            .map(|(key, value)| (key, value.seed))
            .collect();
        seeded.sort_unstable();
        filter.seeded = seeded;
        Ok(filter)
    }

    /// The folder it is pinned in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its program.
    pub fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    /// The kernel's id of its program.
    pub const fn program_id(&self) -> u32 {
        self.program_id
    }

    /// Grants exactly `access` to `device`, in place of what was granted before; one call, without allocation.
    pub fn allow(&self, device: DevNum, access: Access) -> Result<(), FilterError> {
        if access.is_empty() {
            return self.deny(device);
        }
        let key = Key::device(device);
        let value = Value {
            seed: self.seed(key),
            granted: access,
        };
        self.map
            .update(key.words(), value.word())
            .map_err(|source| match source.raw_os_error() {
                Some(libc::E2BIG) => FilterError::Full {
                    dir: self.dir.clone(),
                    device,
                },
                _ => call("allow a device", &self.dir, source),
            })
    }

    /// Takes back what was granted on `device`; what the container has by itself stays. One call, without allocation.
    pub fn deny(&self, device: DevNum) -> Result<(), FilterError> {
        let key = Key::device(device);
        let seed = self.seed(key);
        if seed.is_empty() {
            self.map.delete(key.words()).map(drop)
        } else {
            let value = Value {
                seed,
                granted: Access::NONE,
            };
            self.map.update(key.words(), value.word())
        }
        .map_err(self.failed("deny a device"))
    }

    fn seed(&self, key: Key) -> Access {
        self.seeded
            .binary_search_by_key(&key, |(key, _)| *key)
            .ok()
            .and_then(|at| self.seeded.get(at))
            .map_or(Access::NONE, |(_, access)| *access)
    }

    /// All that is granted now, without the seed.
    pub fn granted(&self) -> Result<BTreeMap<DevNum, Access>, FilterError> {
        Ok(self
            .entries()?
            .into_iter()
            .filter(|(_, value)| !value.granted.is_empty())
            .filter_map(|(key, value)| Some((key.as_device()?, value.granted)))
            .collect())
    }

    fn entries(&self) -> Result<Vec<(Key, Value)>, FilterError> {
        let mut entries = Vec::new();
        let mut at = None;
        // A key deleted under the walk would begin it anew: more steps than the map has entries are no walk.
        for _ in 0..=CAPACITY {
            let next = self
                .map
                .next_key(at.as_ref())
                .map_err(self.failed("list the map"))?;
            let Some(key) = next else { return Ok(entries) };
            let value = self.map.lookup(&key).map_err(self.failed("read the map"))?;
            if let Some(word) = value {
                entries.push((Key::from_words(key), Value::from_word(word)));
            }
            at = Some(key);
        }
        Err(call(
            "list the map",
            &self.dir,
            io::ErrorKind::ResourceBusy.into(),
        ))
    }

    /// Whether the program is still on `cgroup`, and in which ways.
    pub fn verify(&self, cgroup: BorrowedFd<'_>) -> Result<Attachment, FilterError> {
        let times = self.times(cgroup)?;
        // The kernel does not tell which of the two an entry is; the link does. One without a pin is about to end.
        let link = bpf::pinned(&self.dir.join(LINK))
            .and_then(|link| bpf::link_info(link.as_fd()))
            .is_ok_and(|link| link.program == self.program_id && link.cgroup.is_some());
        Ok(Attachment {
            program: times > usize::from(link),
            link: link && times > 0,
        })
    }

    /// How often the program is on `cgroup`.
    fn times(&self, cgroup: BorrowedFd<'_>) -> Result<usize, FilterError> {
        let ids = bpf::query(cgroup).map_err(self.failed("list the cgroup's programs"))?;
        Ok(ids.into_iter().filter(|id| *id == self.program_id).count())
    }

    /// Puts back on `cgroup` what is missing; what it found before. The map, and with it all grants, stays as it is.
    pub fn repair(&self, cgroup: BorrowedFd<'_>) -> Result<Attachment, FilterError> {
        let found = self.verify(cgroup)?;
        if !found.program {
            bpf::attach(cgroup, self.program.as_fd(), None).map_err(self.failed("attach the program"))?;
        }
        if !found.link {
            let link = bpf::link(cgroup, self.program.as_fd()).map_err(self.failed("link the program"))?;
            let path = self.dir.join(LINK);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(call("replace the link", &self.dir, error));
                }
                Ok(()) | Err(_) => self.pin(link.as_fd(), LINK)?,
            }
        }
        Ok(found)
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> FilterError {
        move |source| call(what, &self.dir, source)
    }
}

fn call(what: &'static str, dir: &Path, source: io::Error) -> FilterError {
    FilterError::Call {
        what,
        dir: dir.into(),
        source,
    }
}

/// Loads the program; only a refused one is loaded again for the verifier's reasons.
fn load_program(map: &bpf::Map) -> Result<OwnedFd, FilterError> {
    use std::os::fd::AsRawFd;
    let code: Vec<_> = program(map.fd().as_raw_fd())
        .into_iter()
        .map(crate::access::Instruction::bytes)
        .collect();
    bpf::program_load(OBJECT_NAME, &code, None).or_else(|source| {
        let mut log = vec![0; 64 * 1024];
        bpf::program_load(OBJECT_NAME, &code, Some(&mut log)).map_err(|_| {
            let text = String::from_utf8_lossy(&log);
            let text = text.trim_end_matches('\0');
            let tail = text.char_indices().rev().nth(600).map_or(0, |(at, _)| at);
            FilterError::Rejected {
                log: text.get(tail..).unwrap_or_default().replace('\n', "; "),
                source,
            }
        })
    })
}
