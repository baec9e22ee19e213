//! Taking a foreign container's device filter over, keeping it, and giving it back.
//!
//! What was there is written down before anything is changed: programs are pinned in the filter's folder (`old-UP-N`), the
//! rest is in a record file, so that it can be put back by another process after a kill at any moment. Ours is always on a
//! cgroup before another goes, so the container is never without a filter.

mod look;
mod record;

use self::look::{above, look, look_at};
use self::record::{Old, Record};
use super::access::{DeviceFilter, FilterError};
use super::cgroup::{CgroupError, Hierarchy};
use super::oci;
use super::unit_rules::{DeviceRules, Systemd, SystemdError};
use crate::access::oci::OciError;
use crate::access::takeover::{Owner, Plan, Refusal, SYSTEMD_NAME, Situation, Unit, decide};
use crate::access::{Numbers, SeedRule};
use crate::model::{Access, DevKind};
use crate::sys::bpf;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// It is not ours to decide; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// systemd filters the unit and cannot be told.
    #[error("systemd's device rules of {unit} deny new devices, and systemd cannot be told: {source}")]
    CannotTell {
        /// The unit.
        unit: String,
        /// Why.
        source: SystemdError,
    },
    /// The record says that systemd was told, and there is no systemd now.
    #[error("the device rules of {0} cannot be put back without systemd; connect to the system bus first")]
    NeedsSystemd(String),
    /// The runtime's rules cannot be carried over.
    #[error("the container {id} of {runtime} cannot be taken over: {source}")]
    Rules {
        /// The container.
        id: String,
        /// Its runtime.
        runtime: crate::access::oci::Runtime,
        /// Why.
        source: OciError,
    },
    /// The cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A file or a system call.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// What was to be done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TakeOverError {
    move |source| TakeOverError::Io {
        what,
        path: path.into(),
        source,
    }
}

/// What [`TakeOver::begin`] has just done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The folder in bpffs is made.
    Folder,
    /// The record is written.
    Recorded,
    /// Our program has a name.
    ProgramPinned,
    /// A program that is to go has a name.
    OldPinned,
    /// Ours is on the cgroup so many levels up, in place of the first that had to go.
    Placed(usize),
    /// One more had to go there.
    Displaced(usize),
    /// Ours is on the container's cgroup by a link as well.
    Linked,
    /// systemd has dropped its rules, if it had any.
    Told,
    /// The map has a name: done.
    MapPinned,
}

/// What [`TakeOver::reassert`] had to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reasserted {
    /// Our program was missing somewhere and is back.
    pub put_back: bool,
    /// Ids of programs that had come (back) and were displaced.
    pub displaced: Vec<u32>,
}

/// A foreign container whose filter is ours.
#[derive(Debug)]
pub struct TakeOver {
    record: Record,
    file: PathBuf,
    hierarchy: Hierarchy,
}

/// What a take-over is made of.
#[derive(Debug)]
pub struct Target<'a> {
    /// The container's first process.
    pub pid: i32,
    /// When it began (see [`oci::start_of`]).
    pub start: u64,
    /// New folder in bpffs for the filter.
    pub dir: &'a Path,
    /// New file for the record, below `/run`.
    pub record: &'a Path,
    /// Where runtimes keep their state ([`oci::ROOTS`]).
    pub runtimes: &'a [PathBuf],
}

impl TakeOver {
    /// Takes over the filter of the container of `target.pid`. With `systemd` its unit's rules are dropped there; without, a
    /// container that systemd filters works until systemd next looks at its units. Refuses before anything is changed;
    /// fails with everything as it was.
    pub fn begin(
        target: &Target<'_>,
        hierarchy: Hierarchy,
        systemd: Option<&Systemd>,
    ) -> Result<(Self, DeviceFilter), TakeOverError> {
        Self::begin_observed(target, hierarchy, systemd, &mut |_| ())
    }

    /// [`begin`](Self::begin), telling each change when it is done: the place for fail points.
    pub fn begin_observed(
        target: &Target<'_>,
        hierarchy: Hierarchy,
        systemd: Option<&Systemd>,
        done: &mut dyn FnMut(Change),
    ) -> Result<(Self, DeviceFilter), TakeOverError> {
        let container = oci::find(target.runtimes, target.pid, target.start);
        let process = Hierarchy::of_process(target.pid)?;
        let cgroup = oci::cgroup(container.as_ref(), &process);
        let situation = Situation {
            levels: look(&hierarchy, &cgroup, None)?,
            runtime: container.as_ref().map(|container| container.runtime),
        };
        let plan = decide(&situation)?;
        let unit = match (plan.unit.clone(), systemd) {
            (Some(unit), Some(systemd)) => {
                let rules = systemd.device_rules(&unit.name).map_err(cannot_tell(&unit))?;
                Some((unit, rules))
            }
            (Some(_) | None, _) => None,
        };
        let listed = unit.as_ref().map(|(_, rules)| rules.allow.as_slice());
        let seed = match container {
            _ if !plan.confined => everything(),
            Some(container) => {
                let path = container.bundle.join("config.json");
                let config = container.config().map_err(failed("read", &path))?;
                crate::access::oci::seed(&config, container.runtime, listed).map_err(|source| {
                    TakeOverError::Rules {
                        id: container.id,
                        runtime: container.runtime,
                        source,
                    }
                })?
            }
            // A confined container without a runtime has been refused.
            None => Vec::new(),
        };
        let take_over = Self {
            record: Record {
                cgroup,
                dir: target.dir.into(),
                ours: plan.ours.clone(),
                old: plan
                    .displace
                    .iter()
                    .filter(|displace| unit.is_none() || displace.owner == Owner::Runtime)
                    .map(Old::from)
                    .collect(),
                unit,
                tell: systemd.is_some(),
                confined: plan.confined,
            },
            file: target.record.into(),
            hierarchy,
        };
        match take_over.place(&plan, &seed, systemd, done) {
            Ok(filter) => Ok((take_over, filter)),
            Err(error) => {
                // The error that led here is the one to tell; what cannot be undone now is in the record for later.
                take_over.restore(systemd).err();
                Err(error)
            }
        }
    }

    fn place(
        &self,
        plan: &Plan,
        seed: &[SeedRule],
        systemd: Option<&Systemd>,
        done: &mut dyn FnMut(Change),
    ) -> Result<DeviceFilter, TakeOverError> {
        super::access::make_folder(&self.record.dir)?;
        done(Change::Folder);
        self.record.write(&self.file)?;
        done(Change::Recorded);
        let filter = DeviceFilter::load(&self.record.dir, seed, &mut |_| ())?;
        filter.pin_program()?;
        done(Change::ProgramPinned);
        for old in &self.record.old {
            let program =
                bpf::program_by_id(old.program).map_err(failed("find a program of", &self.record.dir))?;
            self.pin_old(old, &program)?;
            done(Change::OldPinned);
        }
        for up in &plan.ours {
            self.displace(&filter, *up, done)?;
        }
        let cgroup = self.open(0)?;
        filter.link(cgroup.as_fd())?;
        done(Change::Linked);
        self.tell(systemd)?;
        done(Change::Told);
        if !filter.verify(cgroup.as_fd())?.is_whole() {
            return Err(FilterError::NotAttached(self.record.dir.clone()).into());
        }
        filter.pin_map()?;
        done(Change::MapPinned);
        Ok(filter)
    }

    /// Puts ours at a level and takes off the old ones there that are pinned.
    fn displace(
        &self,
        filter: &DeviceFilter,
        up: usize,
        done: &mut dyn FnMut(Change),
    ) -> Result<(), TakeOverError> {
        let path = self.path(up);
        let cgroup = self.open(up)?;
        let there = bpf::query(cgroup.as_fd()).map_err(failed("list the device programs of", &path))?;
        let mut old = Vec::new();
        for entry in self.record.old.iter().filter(|old| old.up == up) {
            if there.contains(&entry.program) {
                old.push(self.old(entry)?);
            }
        }
        let mut old = old.iter();
        // In one step where something goes, so that there is no moment with neither.
        if !there.contains(&filter.program_id()) {
            let replace = old.next();
            bpf::attach(cgroup.as_fd(), filter.program(), replace.map(AsFd::as_fd))
                .map_err(failed("put the device program on", &path))?;
            done(Change::Placed(up));
        }
        for program in old {
            bpf::detach(cgroup.as_fd(), program.as_fd())
                .map_err(failed("take a device program off", &path))?;
            done(Change::Displaced(up));
        }
        Ok(())
    }

    /// Has systemd drop its rules for the unit, where ours stands in by now.
    fn tell(&self, systemd: Option<&Systemd>) -> Result<(), TakeOverError> {
        let (Some((unit, _)), Some(systemd)) = (&self.record.unit, systemd) else {
            return Ok(());
        };
        systemd
            .set_device_rules(&unit.name, DeviceRules::none())
            .map_err(cannot_tell(unit))?;
        // Where no other unit of the slice has device rules, systemd (257) forgets the unit's program without taking it off.
        let path = self.path(unit.up);
        for id in self.systemds(unit)? {
            let program = bpf::program_by_id(id).map_err(failed("find a program of", &path))?;
            match bpf::detach(self.open(unit.up)?.as_fd(), program.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result.map_err(failed("take systemd's device program off", &path))?,
            }
        }
        Ok(())
    }

    /// Ids of systemd's programs on the unit.
    fn systemds(&self, unit: &Unit) -> Result<Vec<u32>, TakeOverError> {
        Ok(look_at(&self.hierarchy, &self.cgroup_at(unit.up), None)?
            .programs
            .into_iter()
            .filter(|program| program.name == SYSTEMD_NAME)
            .map(|program| program.id)
            .collect())
    }

    /// Finds a take-over by its record.
    pub fn open_record(file: &Path, hierarchy: Hierarchy) -> Result<Self, TakeOverError> {
        let record = Record::read(file)?;
        Ok(Self {
            record,
            file: file.into(),
            hierarchy,
        })
    }

    /// The container's cgroup, below the mount.
    pub fn cgroup(&self) -> &str {
        &self.record.cgroup
    }

    /// The filter's folder.
    pub fn dir(&self) -> &Path {
        &self.record.dir
    }

    /// The unit to watch ([`Systemd::watch`]) and to reassert after its changes.
    pub fn unit(&self) -> Option<&str> {
        self.record.unit.as_ref().map(|(unit, _)| unit.name.as_str())
    }

    /// Whether anything confined the container before; if not, revoking a device revokes nothing.
    pub const fn confined(&self) -> bool {
        self.record.confined
    }

    /// Looks whether our program still decides, and sets it right again: after systemd's [`Reloaded`] and [`Unit`] events,
    /// and when the broker starts. Refuses, naming the owner, where a stranger has come.
    ///
    /// [`Reloaded`]: super::unit_rules::Event::Reloaded
    /// [`Unit`]: super::unit_rules::Event::Unit
    pub fn reassert(
        &mut self,
        filter: &DeviceFilter,
        systemd: Option<&Systemd>,
    ) -> Result<Reasserted, TakeOverError> {
        let mut done = Reasserted::default();
        let systemd = systemd.filter(|_| self.record.tell);
        if let (Some((unit, _)), Some(systemd)) = (&self.record.unit, systemd) {
            // Once this is answered, systemd has worked off what it was told before.
            systemd.device_rules(&unit.name).map_err(cannot_tell(unit))?;
        }
        let levels = look(&self.hierarchy, &self.record.cgroup, Some(filter.program_id()))?;
        // Ours is there, so the container has a runtime whose rules are ours by now.
        let runtime = Some(crate::access::oci::Runtime::Crun);
        let plan = decide(&Situation { levels, runtime })?;
        let mut fresh = Vec::new();
        for displace in &plan.displace {
            done.displaced.push(displace.program);
            if !self.record.ours.contains(&displace.up) {
                self.record.ours.push(displace.up);
            }
            if displace.owner == Owner::Systemd && systemd.is_some() {
                if let (None, Some(unit), Some(systemd)) = (&self.record.unit, &plan.unit, systemd) {
                    let rules = systemd.device_rules(&unit.name).map_err(cannot_tell(unit))?;
                    self.record.unit = Some((unit.clone(), rules));
                }
            } else {
                let old = Old::from(displace);
                let program =
                    bpf::program_by_id(old.program).map_err(failed("find a program of", self.dir()))?;
                self.pin_old(&old, &program)?;
                fresh.push(old);
            }
        }
        if !plan.displace.is_empty() {
            let stale = self.record.supersede(fresh);
            self.record.write(&self.file)?;
            for old in stale {
                let path = self.record.dir.join(old.pin());
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        for up in self.record.ours.clone() {
            let cgroup = self.open(up)?;
            let there =
                bpf::query(cgroup.as_fd()).map_err(failed("list the device programs of", &self.path(up)))?;
            done.put_back |= !there.contains(&filter.program_id());
            self.displace(filter, up, &mut |_| ())?;
        }
        done.put_back |= !filter.repair(self.open(0)?.as_fd())?.is_whole();
        if plan
            .displace
            .iter()
            .any(|displace| displace.owner == Owner::Systemd)
        {
            self.tell(systemd)?;
        }
        Ok(done)
    }

    /// Puts back what was there, and ours away; whatever of it is already done is passed over. The container may be gone.
    pub fn restore(&self, systemd: Option<&Systemd>) -> Result<(), TakeOverError> {
        if self.hierarchy.folder(&self.record.cgroup).exists() {
            if let Some((unit, rules)) = &self.record.unit {
                systemd
                    .ok_or_else(|| TakeOverError::NeedsSystemd(unit.name.clone()))?
                    .set_device_rules(&unit.name, rules.clone())
                    .map_err(cannot_tell(unit))?;
            }
            for up in &self.record.ours {
                self.restore_level(*up)?;
            }
            DeviceFilter::unlink(&self.record.dir)?;
        }
        DeviceFilter::collect(&self.record.dir)?;
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &self.file)(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn restore_level(&self, up: usize) -> Result<(), TakeOverError> {
        let path = self.path(up);
        let level = look_at(&self.hierarchy, &self.cgroup_at(up), None)?;
        let cgroup = self.open(up)?;
        for old in self.record.old.iter().filter(|old| old.up == up) {
            if level.programs.iter().any(|program| program.id == old.program) {
                continue;
            }
            match self.old(old) {
                Ok(program) => bpf::attach(cgroup.as_fd(), program.as_fd(), None)
                    .map_err(failed("put the former device program back on", &path))?,
                // Killed before it was pinned: then it was not displaced either.
                Err(TakeOverError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let path = self.record.dir.join("program");
        let result = match bpf::pinned(&path) {
            Ok(program) => bpf::detach(cgroup.as_fd(), program.as_fd()),
            Err(error) => Err(error),
        };
        match result {
            // Killed before it was pinned or placed; or it is there by its link alone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(failed("take the device program off", &path)),
        }
    }

    fn cgroup_at(&self, up: usize) -> String {
        above(&self.record.cgroup).nth(up).unwrap_or("/").into()
    }

    fn path(&self, up: usize) -> PathBuf {
        self.hierarchy.folder(&self.cgroup_at(up))
    }

    fn open(&self, up: usize) -> Result<File, TakeOverError> {
        Ok(self.hierarchy.open(&self.cgroup_at(up))?)
    }

    fn pin_old(&self, old: &Old, program: &OwnedFd) -> Result<(), TakeOverError> {
        let path = self.record.dir.join(old.pin());
        match bpf::pin(program.as_fd(), &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result.map_err(failed("pin the former device program as", &path)),
        }
    }

    fn old(&self, old: &Old) -> Result<OwnedFd, TakeOverError> {
        let path = self.record.dir.join(old.pin());
        bpf::pinned(&path).map_err(failed("find the former device program", &path))
    }
}

fn cannot_tell(unit: &Unit) -> impl FnOnce(SystemdError) -> TakeOverError {
    let unit = unit.name.clone();
    move |source| TakeOverError::CannotTell { unit, source }
}

/// What a container has that nothing confines.
fn everything() -> Vec<SeedRule> {
    [DevKind::Block, DevKind::Char]
        .map(|kind| SeedRule {
            kind,
            numbers: Numbers::All,
            access: Access::ALL,
        })
        .into()
}
