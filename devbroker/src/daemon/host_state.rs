//! The host's devices as the daemon knows them, and which of them each alias stands for.
//!
//! Level-triggered: whatever changes marks aliases dirty; [`HostState::rebind`] decides those anew. Does no I/O: what has
//! to follow at once from an event or a scan is returned as a [`Turnover`].

use crate::config::{Config, Grant};
use crate::host::alias_targets::Presence;
use crate::host::event::{HostEvent, Removed, Source};
use crate::host::monitor::Order;
use crate::model::{AliasName, HostNode, Incarnation, Role, SysPath};
use crate::plan::{Placed, Want};
use crate::policy::{self, AliasRecord, Anchor, Binding, Candidate, Member};
use std::collections::{BTreeMap, BTreeSet};
use std::ops;

/// A node and the aliases it speaks for.
#[derive(Debug)]
struct Known {
    node: HostNode,
    candidates: Vec<Candidate>,
    /// Whether udev is done with it.
    done: bool,
}

/// What an alias stands for, with the nodes that makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bound {
    /// The decision.
    pub(super) binding: Binding,
    /// Its nodes: place in sysfs, role, whether primary.
    pub(super) members: Vec<(SysPath, Role, bool)>,
    /// Counts up with every change of a member's record, so that a changed node is noticed although its name is the same.
    stamp: u64,
}

/// What an event or a scan changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Turnover {
    /// Nodes that are gone: access to their numbers is taken away before anything else.
    pub(super) gone: Vec<HostNode>,
    /// Nodes that came or changed, in order.
    pub(super) came: Vec<Came>,
    /// What was told contradicts sysfs: everything is to be looked at again.
    pub(super) in_doubt: bool,
}

/// A node that came or changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Came {
    /// Where it is.
    pub(super) syspath: SysPath,
    /// Whether this stay is new (or udev is done with it only now), not only something about it.
    pub(super) is_new: bool,
}

/// All known nodes and aliases.
#[derive(Debug, Default)]
pub(super) struct HostState {
    order: Order,
    nodes: BTreeMap<SysPath, Known>,
    /// The nodes that speak for each alias: a hot-plug looks at no others.
    speakers: BTreeMap<AliasName, BTreeSet<SysPath>>,
    bound: BTreeMap<AliasName, Bound>,
    /// What [`policy::keys_text`] says of each alias of the configuration in force.
    keys: BTreeMap<AliasName, String>,
    dirty: BTreeSet<AliasName>,
    stamp: u64,
}

impl HostState {
    /// Every node.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &HostNode> {
        self.nodes.values().map(|known| &known.node)
    }

    /// One node.
    pub(super) fn node(&self, syspath: &SysPath) -> Option<&HostNode> {
        self.nodes.get(syspath).map(|known| &known.node)
    }

    /// Whether udev is done with a node. One that it is not done with is known by sysfs alone: it counts for who an alias is,
    /// and is placed nowhere where it is not already.
    pub(super) fn is_done(&self, syspath: &SysPath) -> bool {
        self.nodes.get(syspath).is_some_and(|known| known.done)
    }

    /// What every alias that ever had a device stands for now.
    pub(super) fn aliases(&self) -> impl Iterator<Item = (&AliasName, &Bound)> {
        self.bound.iter()
    }

    /// What an alias stands for.
    pub(super) fn alias(&self, alias: &AliasName) -> Option<&Bound> {
        self.bound.get(alias)
    }

    /// Which aliases have a device.
    pub(super) fn presence(&self) -> Presence {
        let mut presence = Presence::default();
        for (alias, bound) in &self.bound {
            if bound.members.is_empty() {
                continue;
            }
            presence.held.insert(alias.clone());
            if bound.members.iter().any(|(syspath, _, _)| self.is_done(syspath)) {
                presence.ready.insert(alias.clone());
            }
        }
        presence
    }

    /// An alias's nodes.
    pub(super) fn members(&self, alias: &AliasName) -> Vec<Member<'_>> {
        let members = self
            .bound
            .get(alias)
            .map(|bound| bound.members.as_slice())
            .unwrap_or_default();
        members
            .iter()
            .filter_map(|(syspath, role, primary)| {
                Some(Member {
                    node: self.node(syspath)?,
                    role: role.clone(),
                    primary: *primary,
                })
            })
            .collect()
    }

    /// Whether what was told is still true: no removal has overtaken it.
    pub(super) fn admit(&mut self, event: &HostEvent) -> bool {
        self.order.admit(event)
    }

    /// A device came or changed and this is what it is, as told by an event that was admitted.
    pub(super) fn changed(&mut self, config: &Config, node: HostNode) -> Turnover {
        let mut turnover = Turnover::default();
        self.take_up(config, node, &mut turnover);
        turnover
    }

    /// A device went, with all below it. `now` asks sysfs which stay is there.
    ///
    /// The kernel tells before sysfs forgets. udev and the hook tell later: if the stay that is known is still there, they
    /// may speak of one before it, of which the kernel's word was lost. It is let go all the same, and looked at again.
    pub(super) fn removed(
        &mut self,
        removed: Removed,
        now: impl FnOnce(&SysPath) -> Option<Incarnation>,
    ) -> Turnover {
        let syspath = removed.syspath.clone();
        let from = removed.from;
        if !self.order.admit(&HostEvent::Removed(removed)) {
            return Turnover::default();
        }
        let known = self.node(&syspath).map(HostNode::incarnation);
        Turnover {
            in_doubt: from != Source::Kernel && known.is_some() && known == now(&syspath),
            gone: self.remove(&syspath),
            came: Vec::new(),
        }
    }

    /// Everything was looked at: `nodes` are there, and `pending`, of which udev will tell more, and `unread`. What is known of
    /// the latter two stays as it is known; a pending one of which nothing is known is taken up as it is.
    pub(super) fn scanned(
        &mut self,
        config: &Config,
        nodes: Vec<HostNode>,
        pending: Vec<HostNode>,
        unread: impl IntoIterator<Item = (SysPath, Option<Incarnation>)>,
    ) -> Turnover {
        let mut turnover = Turnover::default();
        let present: BTreeMap<SysPath, Option<Incarnation>> = nodes
            .iter()
            .chain(&pending)
            .map(|node| (node.syspath().clone(), Some(node.incarnation())))
            .chain(unread)
            .collect();
        let gone: Vec<SysPath> = self
            .nodes()
            .filter(|node| present.get(node.syspath()).copied().flatten() != Some(node.incarnation()))
            .map(|node| node.syspath().clone())
            .collect();
        for syspath in gone {
            turnover.gone.extend(self.remove(&syspath));
        }
        for node in nodes {
            self.take_up(config, node, &mut turnover);
        }
        for node in pending {
            if self.node(node.syspath()).is_none() {
                self.insert(config, node, false);
            }
        }
        turnover
    }

    fn take_up(&mut self, config: &Config, node: HostNode, turnover: &mut Turnover) {
        let syspath = node.syspath().clone();
        let known = self.node(&syspath).map(HostNode::incarnation);
        // A new stay at the same place: what the old one had goes first.
        if known.is_some_and(|known| known != node.incarnation()) {
            turnover.gone.extend(self.remove(&syspath));
        }
        let is_new = !self.is_done(&syspath);
        if self.insert(config, node, true) {
            turnover.came.push(Came { syspath, is_new });
        }
    }

    /// Takes up a node as it is now, and whether udev is done with it. Says whether anything about it is new.
    fn insert(&mut self, config: &Config, node: HostNode, done: bool) -> bool {
        let syspath = node.syspath().clone();
        let known = self.nodes.get(&syspath);
        if known.is_some_and(|known| known.node == node && known.done == done) {
            return false;
        }
        self.mark_around(&syspath);
        let candidates = policy::candidates(config, &node);
        self.dirty
            .extend(candidates.iter().map(|candidate| candidate.alias.clone()));
        self.stamp += 1;
        let known = Known {
            node,
            candidates,
            done,
        };
        self.forget(&syspath);
        self.know(syspath, known);
        true
    }

    fn know(&mut self, syspath: SysPath, known: Known) {
        for candidate in &known.candidates {
            let speakers = self.speakers.entry(candidate.alias.clone()).or_default();
            speakers.insert(syspath.clone());
        }
        self.nodes.insert(syspath, known);
    }

    fn forget(&mut self, syspath: &SysPath) -> Option<Known> {
        let known = self.nodes.remove(syspath)?;
        for candidate in &known.candidates {
            if let Some(speakers) = self.speakers.get_mut(&candidate.alias) {
                speakers.remove(syspath);
            }
        }
        Some(known)
    }

    /// The nodes that speak for an alias.
    fn speakers(&self, alias: &AliasName) -> impl Iterator<Item = &Known> {
        let paths = self.speakers.get(alias).into_iter().flatten();
        paths.filter_map(|path| self.nodes.get(path))
    }

    /// The nodes that an anchor can cover: all that lie below it, and of a hub, which has two halves, any.
    fn within(&self, anchor: &Anchor) -> impl Iterator<Item = &HostNode> {
        let (from, prefix) = if anchor.hub {
            (ops::Bound::Unbounded, "")
        } else {
            (ops::Bound::Included(&anchor.syspath), anchor.syspath.as_str())
        };
        self.nodes
            .range((from, ops::Bound::Unbounded))
            .take_while(move |(path, _)| path.as_str().starts_with(prefix))
            .map(|(_, known)| &known.node)
    }

    /// Lets go of a device and all below it. Returns the nodes that went.
    fn remove(&mut self, syspath: &SysPath) -> Vec<HostNode> {
        let gone: Vec<SysPath> = self
            .nodes
            .range(syspath.clone()..)
            .map(|(path, _)| path)
            .take_while(|path| path.as_str().starts_with(syspath.as_str()))
            .filter(|path| path.is_within(syspath))
            .cloned()
            .collect();
        gone.iter()
            .filter_map(|path| {
                self.mark_around(path);
                self.forget(path).map(|known| known.node)
            })
            .collect()
    }

    /// Marks the aliases that a node speaks for, and those that have it or might cover it.
    fn mark_around(&mut self, syspath: &SysPath) {
        if let Some(known) = self.nodes.get(syspath) {
            self.dirty
                .extend(known.candidates.iter().map(|candidate| candidate.alias.clone()));
        }
        for (alias, bound) in &self.bound {
            if bound.members.iter().any(|(member, _, _)| member == syspath) {
                self.dirty.insert(alias.clone());
            }
        }
    }

    /// Looks at every node and alias again, because the configuration is another.
    pub(super) fn reconfigure(&mut self, config: &Config) {
        self.speakers.clear();
        for (syspath, mut known) in std::mem::take(&mut self.nodes) {
            known.candidates = policy::candidates(config, &known.node);
            self.dirty
                .extend(known.candidates.iter().map(|candidate| candidate.alias.clone()));
            self.know(syspath, known);
        }
        self.keys = config
            .aliases
            .iter()
            .map(|(alias, one)| (alias.clone(), policy::keys_text(Some(one))))
            .collect();
        self.stamp += 1;
        self.dirty.extend(config.aliases.keys().cloned());
        self.dirty.extend(self.bound.keys().cloned());
    }

    /// Decides every dirty alias anew. Returns those whose device or nodes changed, with what they were before.
    pub(super) fn rebind(
        &mut self,
        config: &Config,
        records: &BTreeMap<AliasName, AliasRecord>,
    ) -> BTreeMap<AliasName, Option<Bound>> {
        let mut changed = BTreeMap::new();
        let mut dirty = std::mem::take(&mut self.dirty);
        if dirty.is_empty() {
            return changed;
        }
        let mut bindings = BTreeMap::new();
        for alias in &dirty {
            let anchors: Vec<Anchor> = self
                .speakers(alias)
                .flat_map(|known| &known.candidates)
                .filter(|candidate| candidate.alias == *alias)
                .map(|candidate| candidate.anchor.clone())
                .collect();
            let holder = self
                .bound
                .get(alias)
                .and_then(|bound| bound.binding.bound.as_ref());
            let keys = self.keys.get(alias).map(String::as_str).unwrap_or_default();
            bindings.insert(
                alias.clone(),
                policy::bind(&anchors, holder, records.get(alias), keys),
            );
        }
        // Where an alias is bound anew, what lies behind a hub may pass from or to the hub's alias; and a node that came or
        // went behind a hub concerns the hub's alias although only its own candidates were marked.
        dirty.extend(self.hubs());
        let bound: BTreeMap<AliasName, Anchor> = self
            .bound
            .iter()
            .filter(|(alias, _)| !bindings.contains_key(*alias))
            .map(|(alias, bound)| (alias, &bound.binding))
            .chain(&bindings)
            .filter_map(|(alias, binding)| Some((alias.clone(), binding.bound.clone()?)))
            .collect();
        for alias in dirty {
            let before = self.bound.get(&alias);
            let Some(binding) = bindings
                .remove(&alias)
                .or_else(|| before.map(|bound| bound.binding.clone()))
            else {
                continue;
            };
            let primary = config
                .aliases
                .get(&alias)
                .and_then(|alias| alias.primary.as_ref());
            let members = match &binding.bound {
                Some(anchor) => policy::members(&alias, anchor, primary, &bound, self.within(anchor)),
                None => Vec::new(),
            };
            let members: Vec<_> = members
                .into_iter()
                .map(|member| (member.node.syspath().clone(), member.role, member.primary))
                .collect();
            let now = Bound {
                binding,
                members,
                stamp: self.stamp,
            };
            if before == Some(&now) {
                continue;
            }
            let before = self.bound.insert(alias.clone(), now);
            changed.insert(alias, before);
        }
        changed
    }

    fn hubs(&self) -> Vec<AliasName> {
        let is_hub = |bound: &Bound| bound.binding.bound.as_ref().is_some_and(Anchor::may_hold_others);
        self.bound
            .iter()
            .filter(|(_, bound)| is_hub(bound))
            .map(|(alias, _)| alias.clone())
            .collect()
    }
}

/// What a container is granted of the devices that are there; of those that udev is not done with, only what is `placed` in
/// it already.
pub(super) fn wants(grants: &[Grant], host: &HostState, placed: &Placed) -> Vec<Want> {
    grants
        .iter()
        .flat_map(|grant| policy::wants(grant, &host.members(&grant.alias)))
        .filter(|want| host.is_done(&want.syspath) || placed.has(want))
        .collect()
}
