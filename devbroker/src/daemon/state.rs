//! All that the daemon knows, and what follows from a change of it.
//!
//! One task owns it. Events only change what is known and mark things dirty; [`State::settle`] brings containers and links
//! into step. The one thing done at once, ahead of every plan, is revoking the access to a device that went.

use super::foreign::{Bus, ForeignDone};
use super::host_state::{self, Bound, Came, HostState, Turnover};
use super::paths::Paths;
use super::retry::Retry;
use super::served::Served;
use super::storage::Storage;
use crate::api::{EventKind, EventLog, EventView};
use crate::config::{Config, Diagnostic, Grant, Loaded, Loader};
use crate::host::alias_links::{AliasFolder, AliasLinks};
use crate::host::event::{Changed, HostEvent, Removed};
use crate::host::remember::Remember;
use crate::host::rule_aliases::RuleAliases;
use crate::host::sysfs::{Reader, Scan};
use crate::model::{
    AliasName, ContainerKey, ContainerRef, DevNum, HostNode, Incarnation, Permissions, Role, SysPath,
};
use crate::plan::{Action, Want};
use crate::policy::{self, AliasRecord};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
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
    pub(super) granted: BTreeMap<ContainerRef, Vec<Grant>>,
    dirty: BTreeSet<ContainerRef>,
    /// Registrations that cannot be served, and why.
    pub(super) unserved: BTreeMap<ContainerRef, String>,
    pub(super) log: EventLog,
    /// The way to systemd.
    pub(super) bus: Bus,
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
        outside: (Bus, UnboundedSender<ForeignDone>),
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
            granted: BTreeMap::new(),
            dirty: BTreeSet::new(),
            unserved: BTreeMap::new(),
            log: EventLog::default(),
            bus: outside.0,
            foreign_done: outside.1,
            started: Instant::now(),
            events: 0,
            losses: 0,
            seen: 0,
            scan_again: false,
            scan_wanted: false,
            scan_retry: Retry::default(),
            stirred: None,
        }
    }

    /// Publishes what happened.
    pub(super) fn publish(&mut self, event: EventView) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let after = self
            .stirred
            .map(|at| u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX));
        self.log.publish(EventView {
            time,
            after: event.after.or(after),
            ..event
        });
    }

    /// Takes the configuration that was read.
    pub(super) fn configure(&mut self, loaded: Loaded) {
        let wanted = policy::wanted(&loaded.config);
        let rescan = wanted != policy::wanted(&self.config);
        self.config = loaded.config;
        self.problems = loaded.diagnostics;
        self.files = loaded.files;
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

    /// Reads the device that udev or the hook spoke of, without acting on it yet.
    pub(super) fn read(&mut self, changed: &Changed) -> Option<HostNode> {
        match self.reader.read(&changed.syspath, Some(changed)) {
            Ok(node) => node,
            Err(error) => {
                tracing::warn!(%error, device = %changed.syspath, "device");
                self.scan_retry.attempted(Instant::now(), true);
                None
            }
        }
    }

    /// A device came or changed. `node` was read *before* the kernel's removals up to now were taken up, so that one that
    /// overtook the event is known here.
    pub(super) fn changed(&mut self, changed: Changed, node: Option<HostNode>) {
        self.events += 1;
        self.seen = self.seen.max(changed.seqnum);
        if !self.host.admit(&HostEvent::Changed(changed)) {
            return;
        }
        if let Some(node) = node {
            let node = self.with_rule_aliases(node);
            let turnover = self.host.changed(&self.config, node);
            self.turn_over(turnover);
        }
    }

    /// Adds the aliases and properties that a udev rule established for this stay of the device.
    fn with_rule_aliases(&mut self, mut node: HostNode) -> HostNode {
        let (bad, kept) = self.rule_aliases.note(&mut node);
        for error in bad {
            tracing::warn!(%error, device = %node.syspath(), "a udev rule sets an alias that cannot be one");
        }
        if let Err(error) = kept {
            tracing::warn!(%error, device = %node.syspath(), "rule alias");
        }
        node
    }

    /// A device went: its access is revoked at once.
    pub(super) fn removed(&mut self, removed: Removed) {
        self.events += 1;
        if removed.from != crate::host::event::Source::Kernel {
            self.seen = self.seen.max(removed.seqnum);
        }
        let turnover = self.host.removed(removed);
        self.turn_over(turnover);
    }

    /// Revokes what is gone, then tells of it and of what came.
    fn turn_over(&mut self, Turnover { gone, came }: Turnover) {
        for node in &gone {
            self.revoke(node.devnum);
        }
        for node in gone {
            let mut event = EventView::new(EventKind::DeviceUnplugged, format!("{} is gone", node.devname));
            event.devnum = Some(node.devnum);
            event.syspath = Some(node.syspath().clone());
            self.publish(event);
            if let Err(error) = self.rule_aliases.forget(node.syspath(), node.incarnation()) {
                tracing::warn!(%error, device = %node.syspath(), "rule alias");
            }
            self.reader.forget(node.syspath());
        }
        for Came { syspath, is_new } in came {
            let Some(node) = self.host.node(&syspath) else {
                continue;
            };
            let mut event = if is_new {
                EventView::new(EventKind::DevicePlugged, format!("{} is there", node.devname))
            } else {
                EventView::new(EventKind::DeviceChanged, format!("{} changed", node.devname))
            };
            event.devnum = Some(node.devnum);
            event.syspath = Some(syspath);
            self.publish(event);
        }
    }

    fn revoke(&mut self, devnum: DevNum) {
        let mut revoked = Vec::new();
        for (container, served) in &mut self.containers {
            match served.revoke(devnum) {
                Ok(true) => {
                    self.dirty.insert(container.clone());
                    revoked.push(container.clone());
                }
                Ok(false) => {}
                Err(error) => {
                    // The plan tries again, and again.
                    self.dirty.insert(container.clone());
                    tracing::error!(%container, %devnum, %error, "revoke");
                }
            }
        }
        for container in revoked {
            let mut event = EventView::new(
                EventKind::AccessRevoked,
                format!("{devnum} revoked in {container}"),
            );
            event.devnum = Some(devnum);
            event.container = Some(container);
            self.publish(event);
        }
    }

    /// Events were lost.
    pub(super) fn lost(&mut self) {
        self.losses += 1;
        tracing::warn!("the kernel dropped events; looking at everything again");
        self.publish(EventView::new(
            EventKind::EventsLost,
            "events were lost; everything is looked at again",
        ));
        // Once, when all that is still to be read has been.
        self.scan_wanted = true;
    }

    /// Looks at every device of the host. A device that udev is not done with stays as it is known; where nothing is known of
    /// it (the broker was started just now) it is taken up as sysfs has it, so that what is placed of it stays.
    pub(super) fn rescan(&mut self) {
        self.scan_wanted = false;
        let scan = match self.reader.enumerate() {
            Ok(scan) => scan,
            Err(error) => {
                tracing::error!(%error, "scan");
                self.scan_retry.attempted(Instant::now(), true);
                return;
            }
        };
        let Scan {
            nodes,
            pending,
            unread,
            failed,
            again,
        } = scan;
        self.scan_retry.attempted(Instant::now(), !failed.is_empty());
        for error in failed {
            tracing::warn!(%error, "scan");
        }
        self.scan_again = again;
        let nodes = nodes
            .into_iter()
            .map(|node| self.with_rule_aliases(node))
            .collect();
        let recalled = |mut node| {
            self.rule_aliases.recall(&mut node);
            node
        };
        let pending = pending.into_iter().map(recalled).collect();
        let reader = &self.reader;
        let unread = unread.into_iter().map(|syspath| {
            let now = reader.incarnation(&syspath).unwrap_or(None);
            (syspath, now)
        });
        let turnover = self.host.scanned(&self.config, nodes, pending, unread);
        self.turn_over(turnover);
        let reader = &self.reader;
        if let Err(error) = self
            .rule_aliases
            .forget_gone(|syspath| reader.incarnation(syspath).unwrap_or(None))
        {
            tracing::warn!(%error, "rule aliases");
        }
    }

    /// Brings everything that is dirty into step.
    pub(super) fn settle(&mut self, now: Instant) {
        if self.scan_wanted || self.scan_retry.due().is_some_and(|due| due <= now) {
            self.rescan();
        }
        let changed = self.host.rebind(&self.config, &self.records);
        for (alias, before) in &changed {
            self.rebound(alias, before.as_ref());
        }
        let due: Vec<ContainerRef> = self
            .containers
            .iter()
            .filter(|(_, served)| served.retry.due().is_some_and(|due| due <= now))
            .map(|(container, _)| container.clone())
            .collect();
        self.dirty.extend(due);
        self.dirty.extend(host_state::concerned(&self.granted, &changed));
        for container in std::mem::take(&mut self.dirty) {
            self.settle_container(&container, now);
        }
        for alias in changed.keys() {
            self.link_on_host(alias);
        }
        self.stirred = None;
    }

    /// When something is to be tried again without an event.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.containers
            .values()
            .filter_map(|served| served.retry.due())
            .chain(self.scan_retry.due())
            .min()
    }

    /// Nothing is waiting to be done.
    pub(super) fn is_settled(&self) -> bool {
        self.dirty.is_empty() && self.next_retry().is_none() && !self.scan_again && !self.scan_wanted
    }

    fn rebound(&mut self, alias: &AliasName, before: Option<&Bound>) {
        let Some(bound) = self.host.alias(alias) else {
            return;
        };
        let binding = bound.binding.clone();
        if let Some(record) = &binding.record {
            if self.records.get(alias) != Some(record) {
                self.records.insert(alias.clone(), record.clone());
                self.storage.alias_record(alias.clone(), record.clone());
            }
        }
        let was = before.and_then(|before| before.binding.bound.as_ref());
        let event = match (&binding.bound, was) {
            (Some(now), was) if was != Some(now) => {
                let mut event = EventView::new(EventKind::AliasBound, format!("{alias} is {}", now.syspath));
                event.syspath = Some(now.syspath.clone());
                Some(event)
            }
            (None, Some(was)) => {
                let mut event = EventView::new(EventKind::AliasReleased, format!("{alias} has no device"));
                event.syspath = Some(was.syspath.clone());
                Some(event)
            }
            (Some(_) | None, _) => None,
        };
        if let Some(mut event) = event {
            event.alias = Some(alias.clone());
            self.publish(event);
        }
        let ambiguous_before = before
            .map(|before| before.binding.ambiguous.as_slice())
            .unwrap_or_default();
        if !binding.ambiguous.is_empty() && ambiguous_before != binding.ambiguous {
            let others: Vec<String> = binding
                .ambiguous
                .iter()
                .map(|anchor| anchor.syspath.to_string())
                .collect();
            let text = format!(
                "{alias} is also matched by {}; see `devbroker why {alias}`",
                others.join(", ")
            );
            tracing::warn!(%alias, "{text}");
            let mut event = EventView::new(EventKind::AliasAmbiguous, text);
            event.alias = Some(alias.clone());
            self.publish(event);
        }
    }

    /// What a container is granted of the devices that are there. Of one that udev is not done with, only what it has already.
    pub(super) fn wants(&self, container: &ContainerRef) -> Vec<Want> {
        let grants = self.granted.get(container).map(Vec::as_slice).unwrap_or_default();
        let served = self.containers.get(container);
        served.map_or_else(Vec::new, |served| {
            host_state::wants(grants, &self.host, served.ledger.placed())
        })
    }

    fn settle_container(&mut self, container: &ContainerRef, now: Instant) {
        let wants = self.wants(container);
        let Some(served) = self.containers.get_mut(container) else {
            return;
        };
        let (reader, host) = (&self.reader, &self.host);
        let mut still_is = |syspath: &SysPath, incarnation: Incarnation, devnum: DevNum| {
            host.node(syspath).is_some_and(|node| {
                node.incarnation() == incarnation
                    && node.devnum == devnum
                    && reader.still_is(node).unwrap_or(false)
            })
        };
        let settled = served.settle(&wants, &mut self.remember, now, &mut still_is);
        let key = served.registration.key();
        self.keep(&key, settled.seen);
        for action in &settled.applied {
            if let Some(event) = event_of(action, container) {
                self.publish(event);
            }
        }
        for (action, error) in settled.failed {
            tracing::warn!(%container, %action, %error, "action");
            let mut event = EventView::new(
                EventKind::ActionFailed,
                format!("{action} in {container}: {error}"),
            );
            event.container = Some(container.clone());
            self.publish(event);
        }
    }

    fn link_on_host(&mut self, alias: &AliasName) {
        let now = self.folder.get(alias);
        let mut links = AliasLinks::default();
        for member in self.host.members(alias) {
            let node = &member.node.devname;
            // What udev is not done with gets no link, and loses none.
            let done = self.host.is_done(member.node.syspath());
            if member.primary && (done || now.primary.as_ref() == Some(node)) {
                links.primary = Some(node.clone());
            }
            if done || now.roles.get(&member.role) == Some(node) {
                links.roles.insert(member.role, node.clone());
            }
        }
        if let Err(error) = self.folder.set(alias, &links) {
            tracing::warn!(%alias, %error, "alias link");
        }
    }

    /// Removes alias links that a stopped daemon left behind.
    pub(super) fn tidy_links(&self) {
        let known = |alias: &AliasName| self.host.alias(alias).is_some();
        if let Err(error) = self.folder.keep_only(&known) {
            tracing::warn!(%error, "alias links");
        }
    }

    /// Notes the permissions of everything that is placed.
    pub(super) fn snapshot(&mut self) {
        let all: Vec<_> = self
            .containers
            .values()
            .map(|served| (served.registration.key(), served.snapshot()))
            .collect();
        for (key, seen) in all {
            self.keep(&key, seen);
        }
    }

    /// Remembers permissions that were seen.
    pub(super) fn keep(&mut self, key: &ContainerKey, seen: Vec<(AliasName, Role, Permissions)>) {
        for (alias, role, permissions) in seen {
            if let Err(error) = self.remember.set(key, &alias, &role, permissions) {
                tracing::error!(%error, "remember");
            }
        }
    }
}

/// What is told to subscribers about an applied action.
fn event_of(action: &Action, container: &ContainerRef) -> Option<EventView> {
    let mut event = match action {
        Action::Revoke { devnum } => {
            let mut event = EventView::new(
                EventKind::AccessRevoked,
                format!("{devnum} revoked in {container}"),
            );
            event.devnum = Some(*devnum);
            event
        }
        Action::Allow {
            devnum,
            access,
            syspath,
            ..
        } => {
            let text = format!("{access} on {devnum} allowed in {container}");
            let mut event = EventView::new(EventKind::AccessAllowed, text);
            event.devnum = Some(*devnum);
            event.syspath = Some(syspath.clone());
            event
        }
        Action::Place { node } => {
            let mut event = EventView::new(EventKind::NodePlaced, format!("{} in {container}", node.path));
            event.devnum = Some(node.devnum);
            event.syspath = Some(node.syspath.clone());
            event.path = Some(node.path.clone());
            event.alias = Some(node.alias.clone());
            event.role = Some(node.role.clone());
            event
        }
        Action::Withdraw {
            path,
            devnum,
            alias,
            role,
            ..
        } => {
            let mut event = EventView::new(EventKind::NodeWithdrawn, format!("{path} gone from {container}"));
            event.devnum = Some(*devnum);
            event.path = Some(path.clone());
            event.alias = Some(alias.clone());
            event.role = Some(role.clone());
            event
        }
        Action::Unlink { .. } | Action::Link { .. } | Action::Permit { .. } => return None,
    };
    event.container = Some(container.clone());
    Some(event)
}
