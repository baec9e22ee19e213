//! One running container: what it is granted, what is in it, and bringing the two together.

use super::foreign::Foreign;
use super::history::History;
use super::retry::Retry;
use crate::accounts::Accounts;
use crate::executor::{self, Outcome, Target};
use crate::fail_point;
use crate::host::access::DeviceFilter;
use crate::host::devfs::{Devfs, DevfsError, Kind, Seen};
use crate::host::ledger::{Entry, Ledger};
use crate::host::remember::Remember;
use crate::model::{
    Access, AliasName, ContainerKey, DevNum, Incarnation, NodePath, Permissions, Registration, Role, SysPath,
};
use crate::permissions::{self, Note};
use crate::plan::{self, Action, Conflict, Desired, Found, GrantPermissions, Observed, Plan, Want};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// A container that the daemon serves.
#[derive(Debug)]
pub(super) struct Served {
    /// What its starter told.
    pub(super) registration: Registration,
    /// Its `/dev`.
    pub(super) devfs: Devfs,
    /// Its device filter.
    pub(super) filter: DeviceFilter,
    /// What was placed in it.
    pub(super) ledger: Ledger,
    /// Its users and groups.
    pub(super) accounts: Accounts,
    /// What the filter lets through besides the seed. It is the broker alone that writes there, so it is read once.
    pub(super) access: BTreeMap<DevNum, Access>,
    /// What it is to have, as of the last settling.
    pub(super) desired: Desired,
    /// Wants that could not be had side by side.
    pub(super) conflicts: Vec<Conflict>,
    /// Remarks about owners and groups.
    pub(super) notes: Vec<(AliasName, Role, Note)>,
    /// What was done and what failed.
    pub(super) history: History,
    /// When to try again.
    pub(super) retry: Retry,
    /// What else there is of a container that ctm did not start.
    pub(super) foreign: Option<Foreign>,
    /// Whether folders of ours may have been left empty.
    pub(super) untidy: bool,
    /// Whether its worker does not answer.
    pub(super) stuck: bool,
    /// Whether its filter is attached and it cannot take it off.
    pub(super) confined: bool,
}

/// What a settling did.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Applied actions, in order.
    pub(super) applied: Vec<Action>,
    /// Actions that failed, and why.
    pub(super) failed: Vec<(Action, String)>,
    /// Permissions that are to be remembered.
    pub(super) seen: Vec<(AliasName, Role, Permissions)>,
    /// Whether links inside may have changed.
    pub(super) links_changed: bool,
}

impl Served {
    /// Brings the container to what `wants` say.
    pub(super) fn settle(
        &mut self,
        wants: &[Want],
        remember: &mut Remember,
        now: Instant,
        still_is: &mut dyn FnMut(&SysPath, Incarnation, DevNum) -> bool,
    ) -> Settled {
        let plan = match self.plan(wants, remember) {
            Ok(plan) => plan,
            Err(error) => {
                self.history
                    .failed(vec![("look at the container's /dev".into(), error.to_string())]);
                self.retry.attempted(now, true);
                return Settled::default();
            }
        };
        // What is about to be withdrawn may come back in this very plan, with what it had until now.
        let plan = if self.remember_leaving(&plan, remember) {
            self.plan(wants, remember).unwrap_or(plan)
        } else {
            plan
        };
        let settled = self.apply(&plan, still_is);
        let mut failures: Vec<(String, String)> = settled
            .failed
            .iter()
            .map(|(action, error)| (action.to_string(), error.clone()))
            .collect();
        failures.extend(
            plan.blocked
                .iter()
                .map(|blocked| (format!("place {}", blocked.path), blocked.to_string())),
        );
        self.retry.attempted(now, !failures.is_empty());
        self.history.failed(failures);
        settled
    }

    /// Notes the permissions of what a plan takes away, before it does: being killed in between then loses nothing. Says
    /// whether anything was new.
    fn remember_leaving(&self, plan: &Plan, remember: &mut Remember) -> bool {
        let key = self.registration.key();
        let maps = (&self.registration.uid_map, &self.registration.gid_map);
        let mut changed = false;
        for action in &plan.actions {
            let Action::Withdraw { ino, alias, role, .. } = action else {
                continue;
            };
            // One that is out of reach has nothing to tell.
            let Some(seen) = self.devfs.permissions(*ino).ok().flatten() else {
                continue;
            };
            fail_point::reached("before", "remember");
            let kept = remember.set(&key, alias, role, permissions::to_inside(&seen, maps.0, maps.1));
            fail_point::reached("after", "remember");
            match kept {
                Ok(new) => changed |= new,
                Err(error) => tracing::error!(%error, "remember"),
            }
        }
        changed
    }

    /// What would be done, without doing it.
    pub(super) fn plan(&mut self, wants: &[Want], remember: &mut Remember) -> Result<Plan, DevfsError> {
        let mut notes = Vec::new();
        let key = self.registration.key();
        let accounts = &self.accounts;
        let (desired, conflicts) =
            plan::desire(wants, |want| decide(want, accounts, remember, &key, &mut notes));
        self.desired = desired;
        self.conflicts = conflicts;
        self.notes = notes;
        let observed = self.observe()?;
        Ok(plan::plan(&self.desired, &observed, self.ledger.placed()))
    }

    fn observe(&self) -> Result<Observed, DevfsError> {
        let placed = self.ledger.placed();
        let paths: BTreeSet<&NodePath> = self
            .desired
            .nodes
            .keys()
            .chain(self.desired.links.keys())
            .chain(placed.nodes.keys())
            .chain(placed.links.keys())
            .collect();
        let mut files = BTreeMap::new();
        for path in paths {
            if let Some(seen) = self.devfs.look(path)? {
                files.insert(path.clone(), found(seen));
            }
        }
        Ok(Observed {
            access: self.access.clone(),
            files,
        })
    }

    fn apply(
        &mut self,
        plan: &Plan,
        still_is: &mut dyn FnMut(&SysPath, Incarnation, DevNum) -> bool,
    ) -> Settled {
        let mut settled = Settled::default();
        let mut denied = BTreeSet::new();
        for action in &plan.actions {
            // A node that cannot be opened yet is not shown.
            if let Action::Place { node } = action {
                if denied.contains(&node.devnum) {
                    continue;
                }
            }
            let mut target = Target {
                devfs: &mut self.devfs,
                filter: &self.filter,
                ledger: &mut self.ledger,
                uid_map: &self.registration.uid_map,
                gid_map: &self.registration.gid_map,
            };
            match executor::apply(action, &mut target, still_is) {
                Ok(outcome) => {
                    self.note(action, outcome, &mut settled);
                    settled.applied.push(action.clone());
                }
                Err(error) => {
                    if let Action::Allow { devnum, .. } = action {
                        denied.insert(*devnum);
                        self.access.remove(devnum);
                    }
                    settled.failed.push((action.clone(), error.to_string()));
                }
            }
        }
        let emptied = |action: &Action| matches!(action, Action::Withdraw { .. } | Action::Unlink { .. });
        // A daemon that died between the two has left empty folders, so the first settling looks as well.
        if std::mem::take(&mut self.untidy) || settled.applied.iter().any(emptied) {
            self.prune();
        }
        settled
    }

    fn note(&mut self, action: &Action, outcome: Outcome, settled: &mut Settled) {
        match action {
            Action::Revoke { devnum } => {
                self.access.remove(devnum);
            }
            Action::Allow { devnum, access, .. } => {
                self.access.insert(*devnum, *access);
            }
            Action::Withdraw { .. } | Action::Place { .. } | Action::Link { .. } | Action::Unlink { .. } => {
                settled.links_changed = true;
            }
            Action::Permit { .. } => {}
        }
        if let Outcome::Withdrawn {
            alias,
            role,
            seen: Some(seen),
        } = outcome
        {
            settled.seen.push((alias, role, seen));
        }
    }

    /// Takes one number away at once, ahead of any plan. Says whether it was there.
    pub(super) fn revoke(&mut self, devnum: DevNum) -> Result<bool, crate::host::access::FilterError> {
        if self.access.contains_key(&devnum) {
            fail_point::reached("before", "revoke-now");
            self.filter.deny(devnum)?;
            fail_point::reached("after", "revoke-now");
            self.access.remove(&devnum);
            return Ok(true);
        }
        Ok(false)
    }

    /// The permissions of every placed node, as the container sees them.
    pub(super) fn snapshot(&self) -> Vec<(AliasName, Role, Permissions)> {
        let maps = (&self.registration.uid_map, &self.registration.gid_map);
        let nodes = self.ledger.placed().nodes.values();
        nodes
            .filter_map(|node| {
                // A node whose inode is out of reach has nothing to tell.
                let seen = self.devfs.permissions(node.ino).ok().flatten()?;
                Some((
                    node.alias.clone(),
                    node.role.clone(),
                    permissions::to_inside(&seen, maps.0, maps.1),
                ))
            })
            .collect()
    }

    fn prune(&mut self) {
        let folders = self.ledger.folders();
        if !folders.is_empty() {
            for path in self.devfs.prune(&folders) {
                // Forgetting less only means looking again next time.
                if self.ledger.append(&Entry::FolderGone { path }).is_err() {
                    break;
                }
            }
        }
    }
}

/// The permissions of one node: the grant, else what was last seen, else the host's mode with the container's root.
fn decide(
    want: &Want,
    accounts: &Accounts,
    remember: &mut Remember,
    key: &ContainerKey,
    notes: &mut Vec<(AliasName, Role, Note)>,
) -> (Permissions, GrantPermissions) {
    let (grant, unknown) =
        permissions::look_up(want.owner.as_ref(), want.group.as_ref(), want.mode, accounts);
    notes.extend(
        unknown
            .into_iter()
            .map(|note| (want.alias.clone(), want.role.clone(), note)),
    );
    let seen = remember
        .get(key, &want.alias, &want.role)
        .unwrap_or_else(|error| {
            // Without a memory the host's permissions are what there is.
            tracing::warn!(%error, "remembered permissions");
            None
        });
    (permissions::decide(&grant, seen, want.host_mode), grant)
}

fn found(seen: Seen) -> Found {
    match seen.kind {
        Kind::Node { devnum } => Found::Node {
            ino: seen.ino,
            devnum,
        },
        Kind::Link(text) => Found::Link(text),
        Kind::Folder | Kind::Other | Kind::Blocked => Found::Other,
    }
}
