//! The host's side: reads devices as events and scans speak of them, takes them up, and revokes at once what went.

use super::State;
use crate::api::{EventKind, EventView};
use crate::daemon::host_state::{Came, Turnover};
use crate::host::event::{Changed, HostEvent, Removed};
use crate::host::sysfs::Scan;
use crate::model::{DevNum, HostNode, SysPath};
use std::time::Instant;

impl State {
    /// Reads the device that udev or the hook spoke of, without acting on it yet. Its properties are in the node then.
    pub(in crate::daemon) fn read(&mut self, changed: &mut Changed) -> Option<HostNode> {
        let syspath = changed.syspath.clone();
        match self.reader.read(&syspath, Some(changed)) {
            Ok(node) => node,
            Err(error) => {
                tracing::warn!(%error, device = %syspath, "device");
                self.scan_retry.attempted(Instant::now(), true);
                None
            }
        }
    }

    /// A device came or changed. `node` was read *before* the kernel's removals up to now were taken up, so that one that
    /// overtook the event is known here.
    pub(in crate::daemon) fn changed(&mut self, changed: Changed, node: Option<HostNode>) {
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
    pub(in crate::daemon) fn removed(&mut self, removed: Removed) {
        self.events += 1;
        if removed.from != crate::host::event::Source::Kernel {
            self.seen = self.seen.max(removed.seqnum);
        }
        let reader = &self.reader;
        let now = |syspath: &SysPath| reader.incarnation(syspath).unwrap_or(None);
        let turnover = self.host.removed(removed, now);
        self.turn_over(turnover);
    }

    /// Revokes what is gone, then tells of it and of what came.
    fn turn_over(&mut self, turnover: Turnover) {
        let Turnover { gone, came, in_doubt } = turnover;
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
        self.came.extend(came);
        self.scan_wanted |= in_doubt;
    }

    /// Tells of what came. Whoever waits for a device does not wait for this: it is told once the device is in place.
    pub(super) fn tell_of_arrivals(&mut self) {
        for Came { syspath, is_new } in std::mem::take(&mut self.came) {
            // It may have gone again, and that was told.
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
    pub(in crate::daemon) fn lost(&mut self) {
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
    pub(in crate::daemon) fn rescan(&mut self) {
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
}
