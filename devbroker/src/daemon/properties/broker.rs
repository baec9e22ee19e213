//! The broker between its inputs and its effects: what `run` and `state` do with the same pure parts, around containers in
//! memory.

use super::setting::{CONTAINERS, Setting};
use super::world::World;
use crate::config::Config;
use crate::daemon::granted::Granted;
use crate::daemon::host_state::{self, HostState, Turnover};
use crate::host::event::HostEvent;
use crate::model::{AliasName, ContainerRef, HostNode, Incarnation, NodePath, Permissions, SysPath};
use crate::plan::fake::Fake;
use crate::plan::{self, Action, Desired, GrantPermissions};
use crate::policy::{self, AliasRecord};
use std::collections::{BTreeMap, BTreeSet};

/// What outlives the broker.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) config: Config,
    pub(super) records: BTreeMap<AliasName, AliasRecord>,
    /// Links that the configuration asks for, by stay, as `host::rule_aliases` keeps them.
    kept: BTreeMap<(SysPath, Incarnation), Vec<NodePath>>,
    /// The containers that run.
    pub(super) containers: BTreeMap<ContainerRef, Fake>,
}

impl Disk {
    fn note(&mut self, node: &HostNode) {
        let wanted = policy::wanted(&self.config).links;
        let links = node
            .links
            .iter()
            .filter(|link| wanted.contains(link))
            .cloned()
            .collect();
        self.kept
            .insert((node.syspath().clone(), node.incarnation()), links);
    }

    fn recall(&self, node: &mut HostNode) {
        let kept = self.kept.get(&(node.syspath().clone(), node.incarnation()));
        node.links.extend(kept.into_iter().flatten().cloned());
    }
}

/// What happens between two actions of a settling.
#[derive(Debug, Clone, Copy)]
pub(super) enum Between {
    /// The broker dies; with `torn`, in the middle of the next action.
    Crash { torn: bool },
    /// Something is unplugged, and something else may take its number.
    Replug {
        out: super::world::Socket,
        into: super::world::Socket,
        stick: u8,
    },
}

/// The broker is dead.
#[derive(Debug)]
pub(super) struct Died;

/// What it has in memory.
#[derive(Debug, Default)]
pub(super) struct Broker {
    host: HostState,
    granted: Granted,
    dirty: BTreeSet<ContainerRef>,
    /// Containers in which something failed.
    retry: BTreeSet<ContainerRef>,
    scan_wanted: bool,
    scan_again: bool,
    scanned: u64,
}

impl Broker {
    /// Comes up: listens, looks at everything, takes up every container.
    pub(super) fn start(world: &mut World, disk: &mut Disk) -> Self {
        let mut broker = Self::default();
        broker.host.reconfigure(&disk.config);
        broker.rescan(world, disk);
        let containers: Vec<ContainerRef> = disk.containers.keys().cloned().collect();
        for container in containers {
            broker.adopt(&container, disk);
        }
        if broker.settle(&mut None, world, disk).is_err() {
            unreachable!("nothing kills it");
        }
        broker
    }

    pub(super) fn adopt(&mut self, container: &ContainerRef, disk: &Disk) {
        let grants = policy::grants(&disk.config, container, 0);
        self.granted
            .insert(container.clone(), grants.into_iter().cloned().collect());
        self.dirty.insert(container.clone());
    }

    pub(super) fn release(&mut self, container: &ContainerRef) {
        self.granted.remove(container);
        self.dirty.remove(container);
        self.retry.remove(container);
    }

    pub(super) fn configure(&mut self, config: Config, disk: &mut Disk) {
        self.scan_wanted |= policy::wanted(&config) != policy::wanted(&disk.config);
        disk.config = config;
        self.host.reconfigure(&disk.config);
        for container in disk.containers.keys() {
            self.adopt(container, disk);
        }
    }

    /// Reads every removal that the kernel has told.
    pub(super) fn removals(&mut self, world: &mut World, disk: &mut Disk) {
        while let Some(event) = world.kernel.pop_front() {
            let HostEvent::Removed(removed) = event else {
                unreachable!("the kernel's monitor lets nothing else through");
            };
            let turnover = self.host.removed(removed, |syspath| world.stay(syspath));
            self.turn_over(&turnover, disk);
        }
        self.scan_wanted |= std::mem::take(&mut world.kernel_overflowed);
    }

    /// Takes one event of udev's or of the hook's. With `overtaken`, that socket is emptied after the device was read.
    pub(super) fn take(
        &mut self,
        event: HostEvent,
        overtaken: Option<super::world::Socket>,
        world: &mut World,
        disk: &mut Disk,
    ) {
        match event {
            HostEvent::Removed(removed) => {
                let turnover = self.host.removed(removed, |syspath| world.stay(syspath));
                self.turn_over(&turnover, disk);
            }
            HostEvent::Changed(changed) => {
                let node = world.read(&changed, self.scanned);
                if let Some(socket) = overtaken {
                    world.unplug(socket);
                }
                self.removals(world, disk);
                if !self.host.admit(&HostEvent::Changed(changed)) {
                    return;
                }
                if let Some(node) = node {
                    disk.note(&node);
                    let turnover = self.host.changed(&disk.config, node);
                    self.turn_over(&turnover, disk);
                }
            }
            HostEvent::Lost => self.scan_wanted = true,
        }
    }

    fn turn_over(&mut self, turnover: &Turnover, disk: &mut Disk) {
        for node in &turnover.gone {
            for (container, fake) in &mut disk.containers {
                if fake.access.remove(&node.devnum).is_some() {
                    self.dirty.insert(container.clone());
                }
            }
        }
        self.scan_wanted |= turnover.in_doubt;
    }

    fn rescan(&mut self, world: &World, disk: &mut Disk) {
        self.scan_wanted = false;
        let (nodes, mut pending, scanned) = world.scan();
        self.scanned = scanned;
        self.scan_again = !pending.is_empty();
        for node in &nodes {
            disk.note(node);
        }
        for node in &mut pending {
            disk.recall(node);
        }
        let turnover = self.host.scanned(&disk.config, nodes, pending, []);
        self.turn_over(&turnover, disk);
    }

    /// Whether nothing waits to be done.
    pub(super) fn is_settled(&self) -> bool {
        self.dirty.is_empty() && self.retry.is_empty() && !self.scan_again && !self.scan_wanted
    }

    pub(super) fn retry(&mut self) {
        self.dirty.append(&mut self.retry);
    }

    /// Brings everything that is dirty into step. `cut` happens after that many actions.
    pub(super) fn settle(
        &mut self,
        cut: &mut Option<(usize, Between)>,
        world: &mut World,
        disk: &mut Disk,
    ) -> Result<(), Died> {
        if self.scan_wanted || self.scan_again && world.udev.is_empty() {
            self.rescan(world, disk);
        }
        let changed = self.host.rebind(&disk.config, &disk.records);
        for alias in changed.keys() {
            let record = self
                .host
                .alias(alias)
                .and_then(|bound| bound.binding.record.clone());
            if let Some(record) = record {
                disk.records.insert(alias.clone(), record);
            }
        }
        self.dirty.extend(self.granted.concerned(changed.keys()).cloned());
        for container in std::mem::take(&mut self.dirty) {
            self.settle_container(&container, cut, world, disk)?;
        }
        Ok(())
    }

    fn desired(&self, container: &ContainerRef, fake: &Fake) -> Desired {
        let grants = self.granted.of(container);
        let wants = host_state::wants(grants, &self.host, &fake.ledger);
        let permissions = Permissions {
            uid: 0,
            gid: 0,
            mode: 0o600,
            acl: crate::model::Acl::default(),
        };
        plan::desire(&wants, |_| (permissions.clone(), GrantPermissions::default())).0
    }

    fn settle_container(
        &mut self,
        container: &ContainerRef,
        cut: &mut Option<(usize, Between)>,
        world: &mut World,
        disk: &mut Disk,
    ) -> Result<(), Died> {
        let Some(fake) = disk.containers.get_mut(container) else {
            return Ok(());
        };
        let desired = self.desired(container, fake);
        let plan = plan::plan(&desired, &fake.observe(&desired), &fake.ledger);
        let mut denied = BTreeSet::new();
        let foreign = fake.foreign();
        for action in &plan.actions {
            match cut {
                Some((0, Between::Crash { torn })) => {
                    if *torn {
                        fake.apply(action, true);
                    }
                    *cut = None;
                    return Err(Died);
                }
                Some((0, Between::Replug { out, into, stick })) => {
                    world.unplug(*out);
                    world.plug(*into, *stick);
                    *cut = None;
                }
                Some((left, _)) => *left -= 1,
                None => {}
            }
            if matches!(action, Action::Place { node } if denied.contains(&node.devnum)) {
                continue;
            }
            fake.apply(action, false);
            if let Action::Allow {
                devnum,
                syspath,
                incarnation,
                ..
            } = action
            {
                let known = self
                    .host
                    .node(syspath)
                    .is_some_and(|node| node.incarnation() == *incarnation && node.devnum == *devnum);
                if !known || world.stay(syspath) != Some(*incarnation) {
                    fake.apply(&Action::Revoke { devnum: *devnum }, false);
                    denied.insert(*devnum);
                    self.retry.insert(container.clone());
                }
            }
            for (path, found) in &foreign {
                assert_eq!(
                    fake.files.get(path),
                    Some(found),
                    "{path} was not ours: {action:?}"
                );
            }
        }
        if !plan.blocked.is_empty() {
            self.retry.insert(container.clone());
        }
        Ok(())
    }

    /// At rest: access is what the setting says of the present devices, nodes are theirs, and there is nothing left to do.
    pub(super) fn check(&self, setting: &Setting, world: &World, disk: &Disk) {
        for (container, fake) in &disk.containers {
            let at = CONTAINERS
                .iter()
                .position(|name| *name == container.to_string())
                .unwrap();
            let expected = setting.access(at, world);
            assert_eq!(
                fake.access, expected,
                "{container}: access is not what was granted"
            );
            let desired = self.desired(container, fake);
            let plan = plan::plan(&desired, &fake.observe(&desired), &fake.ledger);
            assert_eq!(
                plan.actions,
                [],
                "{container}: planning after applying yields work"
            );
            let blocked: BTreeSet<_> = plan.blocked.iter().map(|blocked| &blocked.path).collect();
            let mut seen = BTreeSet::new();
            for (path, node) in &fake.ledger.nodes {
                let owner = world.nodes().find(|owner| owner.devnum == node.devnum);
                let owner = owner.map(|owner| (owner.syspath(), owner.incarnation()));
                assert_eq!(
                    owner,
                    Some((&node.syspath, node.incarnation)),
                    "{container}: {path} is stale"
                );
                assert!(
                    !fake.dead.contains(&node.ino),
                    "{container}: {path} opens nothing"
                );
                seen.insert(node.devnum);
            }
            for node in world.nodes().filter(|node| expected.contains_key(&node.devnum)) {
                assert!(
                    seen.contains(&node.devnum) || blocked.contains(&node.devname),
                    "{container}: {} is missing",
                    node.devname
                );
            }
            assert!(
                seen.iter().all(|devnum| expected.contains_key(devnum)),
                "{container}: too much"
            );
            for (path, text) in &fake.ledger.links {
                assert_eq!(
                    fake.files.get(path),
                    Some(&plan::Found::Link(text.clone())),
                    "{container}: {path}"
                );
            }
        }
    }

    /// Settled, and while the kernel has nothing more to tell: a container may open the numbers of devices that are there and
    /// that it is granted, and no others.
    pub(super) fn check_no_stranger(&self, world: &World, disk: &Disk) {
        let settled = self.dirty.is_empty() && !self.scan_wanted;
        if !settled || !world.kernel.is_empty() || world.kernel_overflowed {
            return;
        }
        for (container, fake) in &disk.containers {
            let desired = self.desired(container, fake);
            for devnum in fake.access.keys() {
                let want = desired.access.get(devnum);
                assert_eq!(
                    want.and_then(|want| world.stay(&want.syspath)),
                    want.map(|want| want.incarnation),
                    "{container}: {devnum} is allowed for a device that is gone"
                );
                assert!(want.is_some(), "{container}: {devnum} is still allowed");
            }
        }
    }
}
