//! All that the daemon knows, and the configuration in force.
//!
//! One task owns it. Events only change what is known and mark things dirty ([`devices`]); [`State::settle`] brings
//! containers and links into step ([`settle`]). The one thing done at once, ahead of every plan, is revoking the access to a
//! device that went.

mod devices;
mod publish;
mod settle;

use super::foreign::{Bus, ForeignDone};
use super::granted::Granted;
use super::host_state::{Came, HostState};
use super::paths::Paths;
use super::retry::Retry;
use super::served::Served;
use super::storage::Storage;
use crate::api::{EventKind, EventLog, EventView};
use crate::config::{Config, Diagnostic, Loaded, Loader};
use crate::host::alias_links::AliasFolder;
use crate::host::alias_targets::AliasTargets;
use crate::host::remember::Remember;
use crate::host::rule_aliases::RuleAliases;
use crate::host::sysfs::Reader;
use crate::model::{AliasName, ContainerRef};
use crate::policy::{self, AliasRecord};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;
use tokio::sync::mpsc::UnboundedSender;

/// What is known and what is to be done about it.
#[derive(Debug)]
pub(super) struct State {
    pub(super) paths: Paths,
    pub(super) loader: Loader,
    pub(super) config: Config,
    pub(super) problems: Vec<Diagnostic>,
    pub(super) files: Vec<crate::config::FileStatus>,
    pub(super) reader: Reader,
    rule_aliases: RuleAliases,
    pub(super) host: HostState,
    pub(super) records: BTreeMap<AliasName, AliasRecord>,
    pub(super) storage: Storage,
    /// Permissions by container, alias and role.
    pub(super) remember: Remember,
    folder: AliasFolder,
    pub(super) containers: BTreeMap<ContainerRef, Served>,
    /// Grants by container, of the configuration in force.
    pub(super) granted: Granted,
    dirty: BTreeSet<ContainerRef>,
    /// What came since the last settling and is still to be told.
    came: Vec<Came>,
    /// Registrations that cannot be served, and why.
    pub(super) unserved: BTreeMap<ContainerRef, String>,
    pub(super) log: EventLog,
    /// The way to systemd.
    pub(super) bus: Bus,
    /// Tells systemd which aliases have a device.
    targets: AliasTargets,
    /// Where threads for foreign containers say what they have done.
    pub(super) foreign_done: UnboundedSender<ForeignDone>,
    pub(super) started: Instant,
    pub(super) events: u64,
    pub(super) losses: u64,
    /// Highest event number that udev is known to be through with.
    pub(super) seen: u64,
    /// udev was busy at the last scan: scan again when its queue has drained.
    pub(super) scan_again: bool,
    /// Events were lost: scan before the next settling.
    scan_wanted: bool,
    /// Something could not be read.
    scan_retry: Retry,
    /// Something could not be written.
    disk_retry: Retry,
    /// A container could not be served.
    pub(super) adopt_retry: Retry,
    /// A last good copy of a configuration file could not be written.
    copies_lack: bool,
    /// When the event arrived that the next settling follows from.
    pub(super) stirred: Option<Instant>,
}

impl State {
    /// An empty state with the configuration in force.
    pub(super) fn new(
        paths: Paths,
        loader: Loader,
        rule_aliases: RuleAliases,
        storage: Storage,
        remember: Remember,
        outside: (Bus, AliasTargets, UnboundedSender<ForeignDone>),
    ) -> Self {
        let folder = AliasFolder::new(&paths.aliases);
        Self {
            folder,
            paths,
            loader,
            config: Config::default(),
            problems: Vec::new(),
            files: Vec::new(),
            reader: Reader::new(BTreeSet::new()),
            rule_aliases,
            host: HostState::default(),
            records: BTreeMap::new(),
            storage,
            remember,
            containers: BTreeMap::new(),
            granted: Granted::default(),
            dirty: BTreeSet::new(),
            came: Vec::new(),
            unserved: BTreeMap::new(),
            log: EventLog::default(),
            bus: outside.0,
            targets: outside.1,
            foreign_done: outside.2,
            started: Instant::now(),
            events: 0,
            losses: 0,
            seen: 0,
            scan_again: false,
            scan_wanted: false,
            scan_retry: Retry::default(),
            disk_retry: Retry::default(),
            adopt_retry: Retry::default(),
            copies_lack: false,
            stirred: None,
        }
    }

    /// Takes the configuration that was read.
    pub(super) fn configure(&mut self, loaded: Loaded) {
        let wanted = policy::wanted(&loaded.config);
        let rescan = wanted != policy::wanted(&self.config);
        self.config = loaded.config;
        self.problems = loaded.diagnostics;
        self.files = loaded.files;
        self.copies_lack = loaded.copies_lack;
        for problem in &self.problems {
            tracing::warn!(%problem, "configuration");
        }
        let broken = self.problems.iter().any(Diagnostic::is_error);
        let (kind, text) = if broken {
            (
                EventKind::ConfigBroken,
                "the configuration has errors; the last good copies stay in force",
            )
        } else {
            (EventKind::ConfigLoaded, "the configuration is in force")
        };
        self.publish(EventView::new(kind, text));
        self.reader.set_wanted(wanted.attributes);
        self.rule_aliases.set_wanted(wanted.properties, wanted.links);
        self.host.reconfigure(&self.config);
        let containers: Vec<ContainerRef> = self.containers.keys().cloned().collect();
        for container in containers {
            self.grant(&container);
        }
        if rescan {
            self.rescan();
        }
    }

    /// Finds the grants of a container and marks it dirty.
    pub(super) fn grant(&mut self, container: &ContainerRef) {
        let owner = self
            .containers
            .get(container)
            .map_or(0, |served| served.registration.owner);
        let grants = policy::grants(&self.config, container, owner)
            .into_iter()
            .cloned()
            .collect();
        self.granted.insert(container.clone(), grants);
        self.dirty.insert(container.clone());
    }

    /// Marks a container as to be looked at.
    pub(super) fn mark(&mut self, container: &ContainerRef) {
        self.dirty.insert(container.clone());
    }
}
