//! Taking up containers that are registered, and letting go of those that are gone.

use super::foreign::Foreign;
use super::served::Served;
use super::state::State;
use crate::accounts::Accounts;
use crate::api::{EventKind, EventView};
use crate::host::access::{DeviceFilter, FilterError};
use crate::host::cgroup::Hierarchy;
use crate::host::devfs::{Devfs, DevfsError};
use crate::host::ledger::{Ledger, LedgerError};
use crate::host::process::{self, ProcessError};
use crate::model::{ContainerRef, InstanceId, Registration};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

const MAX_FILE: u64 = 64 << 10;

/// Why a registered container is not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdoptError {
    #[error(
        "no container `{0}` is registered; start it with `ctm start`, or attach a running one with `devbroker attach ALIAS --pid PID`"
    )]
    Unknown(ContainerRef),
    #[error("cannot read the registration {}: {source}; start the container again", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the registration {} speaks of {found}; start the container again", path.display())]
    Misnamed { path: PathBuf, found: ContainerRef },
    #[error("cannot hold the container's process: {0}")]
    Hold(#[source] io::Error),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Devfs(#[from] DevfsError),
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// A container that was just taken up, to be waited for.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) container: ContainerRef,
    pub(super) instance: InstanceId,
    pub(super) process: OwnedFd,
}

impl State {
    fn registration_path(&self, container: &ContainerRef) -> PathBuf {
        self.paths.registrations().join(format!("{container}.json"))
    }

    fn registration(&self, container: &ContainerRef) -> Result<Registration, AdoptError> {
        let path = self.registration_path(container);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(AdoptError::Unknown(container.clone()));
            }
            file => file.map_err(|source| AdoptError::Read {
                path: path.clone(),
                source,
            })?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE)
            .read_to_end(&mut bytes)
            .map_err(|source| AdoptError::Read {
                path: path.clone(),
                source,
            })?;
        let registration: Registration =
            serde_json::from_slice(&bytes).map_err(|error| AdoptError::Read {
                path: path.clone(),
                source: error.into(),
            })?;
        if registration.container == *container {
            Ok(registration)
        } else {
            Err(AdoptError::Misnamed {
                path,
                found: registration.container,
            })
        }
    }

    /// Takes up every registered container, and lets go of those whose registration is gone.
    pub(super) fn adopt_all(&mut self) -> Vec<Held> {
        let mut names = Vec::new();
        match std::fs::read_dir(self.paths.registrations()) {
            Ok(entries) => {
                for entry in entries.flatten() {
                    let name = entry.file_name();
                    let name = name.to_str().and_then(|name| name.strip_suffix(".json"));
                    names.extend(name.and_then(|name| name.parse::<ContainerRef>().ok()));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::error!(%error, "list the registrations"),
        }
        let gone: Vec<ContainerRef> = self
            .containers
            .keys()
            .filter(|container| !names.contains(container))
            .cloned()
            .collect();
        for container in gone {
            self.release(&container);
        }
        self.unserved.retain(|container, _| names.contains(container));
        let held = names
            .iter()
            .filter_map(|container| self.adopt(container).unwrap_or(None))
            .collect();
        self.adopt_retry
            .attempted(Instant::now(), !self.unserved.is_empty());
        held
    }

    /// Takes up one container, or finds that it is served already. On success its permissions, ledger and filter are open
    /// and it is marked dirty.
    pub(super) fn adopt(&mut self, container: &ContainerRef) -> Result<Option<Held>, AdoptError> {
        let outcome = self.try_adopt(container);
        match &outcome {
            Ok(Some(_)) => {
                tracing::info!(%container, "container");
                self.unserved.remove(container);
                let mut event = EventView::new(EventKind::ContainerStarted, format!("{container} is served"));
                event.container = Some(container.clone());
                self.publish(event);
            }
            // Served already; or it ended before it was seen, and whoever started it cleans up.
            Ok(None) | Err(AdoptError::Process(ProcessError::Gone { .. } | ProcessError::Another { .. })) => {
            }
            Err(error) => {
                let error = error.to_string();
                if self.unserved.get(container) != Some(&error) {
                    tracing::warn!(%container, %error, "container");
                    self.unserved.insert(container.clone(), error);
                }
                if self.adopt_retry.due().is_none() {
                    self.adopt_retry.attempted(Instant::now(), true);
                }
            }
        }
        outcome
    }

    fn try_adopt(&mut self, container: &ContainerRef) -> Result<Option<Held>, AdoptError> {
        let registration = self.registration(container)?;
        if let Some(served) = self.containers.get(container) {
            if served.registration == registration {
                self.mark(container);
                return Ok(None);
            }
            self.release(container);
        }
        let process = process::hold(registration.pid, registration.pid_start)?;
        let (uid_map, gid_map) = (&registration.uid_map, &registration.gid_map);
        let mut devfs = Devfs::open(&registration.devfs, registration.devfs_dev, uid_map, gid_map)?;
        let filter = DeviceFilter::open(&registration.filter)?;
        let ledger = Ledger::open(&self.paths.ledgers(), &registration.instance)?;
        devfs.sweep(&ledger.placed().nodes.values().map(|node| node.ino).collect())?;
        let access = filter.granted()?;
        let accounts = registration
            .rootfs
            .as_deref()
            .map(Accounts::load_path)
            .transpose();
        let accounts = accounts.unwrap_or_else(|error| {
            tracing::warn!(%container, %error, "accounts");
            None
        });
        let held = Held {
            container: container.clone(),
            instance: registration.instance.clone(),
            process,
        };
        let foreign = match &registration.bound_at {
            Some(_) => Some(Foreign::adopt(&self.paths, &registration).map_err(AdoptError::Hold)?),
            None => None,
        };
        let confined = is_confined(&filter, &registration);
        let served = Served {
            registration,
            devfs,
            filter,
            ledger,
            accounts: accounts.unwrap_or_default(),
            access,
            desired: crate::plan::Desired::default(),
            conflicts: Vec::new(),
            notes: Vec::new(),
            history: super::history::History::default(),
            retry: super::retry::Retry::default(),
            foreign,
            untidy: true,
            stuck: false,
            confined,
        };
        self.containers.insert(container.clone(), served);
        self.grant(container);
        Ok(Some(held))
    }

    /// Lets go of a container that ended: its access is revoked, its nodes' permissions are noted, its ledger goes.
    pub(super) fn release(&mut self, container: &ContainerRef) {
        let Some(mut served) = self.containers.remove(container) else {
            return;
        };
        self.granted.remove(container);
        self.keep(&served.registration.key(), served.snapshot());
        for devnum in served.access.clone().into_keys() {
            if let Err(error) = served.revoke(devnum) {
                tracing::warn!(%container, %devnum, %error, "revoke");
            }
        }
        let placed = served.ledger.placed().nodes.clone();
        for (path, node) in placed {
            if let Err(error) = served.devfs.withdraw(&path, node.ino, node.devnum) {
                tracing::debug!(%container, %path, %error, "withdraw");
            }
        }
        self.remember.release(&served.registration.key());
        if let Err(error) = Ledger::remove(&self.paths.ledgers(), &served.registration.instance) {
            tracing::warn!(%container, %error, "ledger");
        }
        let mut event = EventView::new(EventKind::ContainerStopped, format!("{container} has ended"));
        event.container = Some(container.clone());
        self.publish(event);
    }

    /// The first process of a container ended.
    pub(super) fn ended(&mut self, container: &ContainerRef, instance: &InstanceId) {
        let is_it = self
            .containers
            .get(container)
            .is_some_and(|served| served.registration.instance == *instance);
        if is_it {
            self.release(container);
        }
    }

    /// Removes ledgers of containers that ended while no daemon ran.
    pub(super) fn tidy_ledgers(&self) {
        let known: BTreeSet<&str> = self
            .containers
            .values()
            .map(|served| served.registration.instance.as_str())
            .collect();
        let Ok(entries) = std::fs::read_dir(self.paths.ledgers()) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let is_known = name.to_str().is_some_and(|name| known.contains(name));
            if !is_known {
                if let Err(error) = std::fs::remove_file(entry.path()) {
                    tracing::warn!(ledger = %entry.path().display(), %error, "remove");
                }
            }
        }
    }

    /// Removes device filters of containers that are gone and that nobody cleaned up after: a killed ctm, a host that has
    /// forgotten them. Those of foreign containers are given back with all else of theirs.
    pub(super) fn sweep_filters(&self) {
        let foreign = self.paths.foreign();
        // One that cannot be served just now will be.
        let unserved: Vec<InstanceId> = self
            .unserved
            .keys()
            .filter_map(|container| Some(self.registration(container).ok()?.instance))
            .collect();
        let is_used = |instance: &str| {
            instance
                .parse::<InstanceId>()
                .map_or(true, |instance| unserved.contains(&instance))
                || foreign.join(instance).exists()
                || self
                    .containers
                    .values()
                    .any(|served| served.registration.instance.as_str() == instance)
        };
        let (swept, failed) = DeviceFilter::sweep(&self.paths.filters, &is_used);
        for filter in swept {
            tracing::info!(filter = %filter.display(), "removed; its container is gone");
        }
        for error in failed {
            tracing::warn!(%error, "device filters");
        }
    }
}

/// Whether the filter is attached and the container has no means to take it off.
fn is_confined(filter: &DeviceFilter, registration: &Registration) -> bool {
    let attached = Hierarchy::find()
        .and_then(|hierarchy| hierarchy.open(&registration.cgroup.to_string_lossy()))
        .is_ok_and(|cgroup| {
            filter
                .verify(cgroup.as_fd())
                .is_ok_and(|found| found.program && found.link)
        });
    let status = std::fs::read_to_string(format!("/proc/{}/status", registration.pid)).unwrap_or_default();
    let leaves = registration.uid_map.is_identity() && process::may_change_filters(&status);
    attached && !leaves
}
