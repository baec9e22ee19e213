//! Brings what is dirty into step: who each alias is, what each container has, the links on the host, what is remembered.

use super::State;
use super::publish::event_of;
use crate::api::{EventKind, EventView};
use crate::daemon::host_state::{self, Bound};
use crate::daemon::served::Settled;
use crate::fail_point;
use crate::host::alias_links::AliasLinks;
use crate::model::{AliasName, ContainerKey, ContainerRef, DevNum, Incarnation, Permissions, Role, SysPath};
use crate::plan::Want;
use std::time::Instant;

/// How many troubles are told at once.
const MAX_TROUBLES: usize = 50;

impl State {
    /// Brings everything that is dirty into step.
    pub(in crate::daemon) fn settle(&mut self, now: Instant) {
        if self.scan_wanted || self.scan_retry.due().is_some_and(|due| due <= now) {
            self.rescan();
        }
        self.mend(now);
        let changed = self.host.rebind(&self.config, &self.records);
        self.dirty.extend(self.granted.concerned(changed.keys()).cloned());
        // First what is new, then what is tried again, and only then it is told.
        let mut settled: Vec<(ContainerRef, Settled)> = Vec::new();
        for container in std::mem::take(&mut self.dirty) {
            settled.extend(self.settle_container(container, now));
        }
        let due: Vec<ContainerRef> = self
            .containers
            .iter()
            .filter(|(_, served)| served.retry.due().is_some_and(|due| due <= now))
            .map(|(container, _)| container.clone())
            .collect();
        for container in due {
            settled.extend(self.settle_container(container, now));
        }
        self.tell_of_arrivals();
        for (alias, before) in &changed {
            self.rebound(alias, before.as_ref());
        }
        for (container, settled) in settled {
            self.tell(&container, settled);
        }
        for alias in changed.keys() {
            self.link_on_host(alias);
        }
        if !changed.is_empty() {
            self.tell_systemd();
        }
        self.stirred = None;
    }

    /// Says which aliases have a device: after each change, and at the start, for one that went meanwhile.
    pub(in crate::daemon) fn tell_systemd(&self) {
        self.targets.set(self.host.presence());
    }

    /// When something is to be tried again without an event.
    pub(in crate::daemon) fn next_retry(&self) -> Option<Instant> {
        let others = self.disk_retry.due().into_iter().chain(self.adopt_retry.due());
        self.retries().chain(others).min()
    }

    fn retries(&self) -> impl Iterator<Item = Instant> {
        self.containers
            .values()
            .filter_map(|served| served.retry.due())
            .chain(self.scan_retry.due())
    }

    /// Nothing is waiting to be done. What cannot be written down is known all the same, and does not count.
    pub(in crate::daemon) fn is_settled(&self) -> bool {
        self.dirty.is_empty() && self.retries().next().is_none() && !self.scan_again && !self.scan_wanted
    }

    /// Writes what could not be written, when it is time to try.
    fn mend(&mut self, now: Instant) {
        match self.disk_retry.due() {
            Some(due) if due <= now => {
                if self.copies_lack {
                    let loaded = self.loader.load();
                    self.configure(loaded);
                }
                self.remember.mend();
                self.rule_aliases.mend();
                self.storage.mend();
            }
            Some(_) => return,
            None => {}
        }
        self.disk_retry
            .attempted(now, self.copies_lack || !self.unwritten().is_empty());
    }

    /// What cannot be written, and why.
    fn unwritten(&self) -> Vec<String> {
        let all = [
            self.remember.trouble(),
            self.rule_aliases.trouble().map(str::to_owned),
            self.storage.trouble(),
        ];
        all.into_iter().flatten().collect()
    }

    /// What cannot be written or done now. All of it is tried again.
    pub(in crate::daemon) fn troubles(&self) -> Vec<String> {
        let mut all = self.unwritten();
        all.extend(
            self.unserved
                .iter()
                .map(|(container, error)| format!("{container} is not served: {error}")),
        );
        for (container, served) in &self.containers {
            let failures = served.history.failures().iter();
            all.extend(failures.map(|failure| format!("{container}: {}: {}", failure.action, failure.error)));
        }
        all.truncate(MAX_TROUBLES);
        all
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
    pub(in crate::daemon) fn wants(&self, container: &ContainerRef) -> Vec<Want> {
        let grants = self.granted.of(container);
        let served = self.containers.get(container);
        served.map_or_else(Vec::new, |served| {
            host_state::wants(grants, &self.host, served.ledger.placed())
        })
    }

    fn settle_container(&mut self, container: ContainerRef, now: Instant) -> Option<(ContainerRef, Settled)> {
        let wants = self.wants(&container);
        let served = self.containers.get_mut(&container)?;
        let (reader, host) = (&self.reader, &self.host);
        let mut still_is = |syspath: &SysPath, incarnation: Incarnation, devnum: DevNum| {
            host.node(syspath).is_some_and(|node| {
                node.incarnation() == incarnation
                    && node.devnum == devnum
                    && reader.still_is(node).unwrap_or(false)
            })
        };
        let mut settled = served.settle(&wants, &mut self.remember, now, &mut still_is);
        if !settled.seen.is_empty() {
            let key = served.registration.key();
            self.keep(&key, std::mem::take(&mut settled.seen));
        }
        Some((container, settled))
    }

    /// Tells what was done to a container.
    fn tell(&mut self, container: &ContainerRef, settled: Settled) {
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
        fail_point::reached("before", "host-link");
        if let Err(error) = self.folder.set(alias, &links) {
            tracing::warn!(%alias, %error, "alias link");
        }
        fail_point::reached("after", "host-link");
    }

    /// Removes alias links that a stopped daemon left behind.
    pub(in crate::daemon) fn tidy_links(&self) {
        let known = |alias: &AliasName| self.host.alias(alias).is_some();
        if let Err(error) = self.folder.keep_only(&known) {
            tracing::warn!(%error, "alias links");
        }
    }

    /// Notes the permissions of everything that is placed.
    pub(in crate::daemon) fn snapshot(&mut self) {
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
    pub(in crate::daemon) fn keep(&mut self, key: &ContainerKey, seen: Vec<(AliasName, Role, Permissions)>) {
        for (alias, role, permissions) in seen {
            if let Err(error) = self.remember.set(key, &alias, &role, permissions) {
                tracing::error!(%error, "remember");
            }
        }
    }
}
