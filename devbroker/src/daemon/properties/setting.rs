//! Configurations, and what each means for the devices that are there, said a second time and in another way than
//! `policy` does.

use super::world::{Present, Socket, World};
use crate::config::Config;
use crate::model::{Access, DevNum, HostNode};
use crate::policy::tests::config;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Aliases that a configuration may have.
pub(super) const ALIASES: [(&str, &str); 7] = [
    ("s0", "{ serial = 'S0' }"),
    ("s1", "{ vendor = '0403', serial = 'S1' }"),
    ("two", "{ port = '0000:00:14.0/2' }"),
    ("behind", "{ port = '0000:00:14.0/3.1' }"),
    ("hub", "{ vendor = '2109', product = '2817' }"),
    ("port2", "{ serial = 'S2', subsystem = 'tty' }"),
    ("linked", "{ link = 'link-of-S1' }"),
];

/// Which of them is the hub's.
const HUB: usize = 4;

/// Containers, and a pattern for both.
pub(super) const CONTAINERS: [&str; 3] = ["ctm:a", "ctm:b", "ctm:*"];

/// Which aliases there are, and who is granted them.
#[derive(Debug, Clone, Default)]
pub(super) struct Setting {
    /// A bit for each of [`ALIASES`].
    pub(super) defined: u8,
    /// By alias and container of [`CONTAINERS`]: whether it may write.
    pub(super) grants: BTreeMap<(usize, usize), bool>,
}

impl Setting {
    fn has(&self, alias: usize) -> bool {
        self.defined >> alias & 1 == 1
    }

    /// As the daemon reads it.
    pub(super) fn config(&self) -> Config {
        let mut text = String::new();
        for (at, (alias, matching)) in ALIASES.iter().enumerate() {
            if self.has(at) {
                writeln!(text, "[alias.{alias}]\nmatch = {matching}").unwrap();
            }
        }
        // The pattern first, which the exact name is to win over.
        for ((alias, container), write) in self.grants.iter().rev() {
            if self.has(*alias) {
                let (alias, container) = (ALIASES[*alias].0, CONTAINERS[*container]);
                let access = if *write { "rw" } else { "r" };
                writeln!(
                    text,
                    "[[grant]]\nalias = '{alias}'\ncontainer = '{container}'\npath = 'my/{alias}'\naccess = '{access}'"
                )
                .unwrap();
            }
        }
        config(&text)
    }

    /// What one container may open, of what is plugged in now.
    pub(super) fn access(&self, container: usize, world: &World) -> BTreeMap<DevNum, Access> {
        let mut all: BTreeMap<DevNum, Access> = BTreeMap::new();
        for alias in (0..ALIASES.len()).filter(|alias| self.has(*alias)) {
            let grant = self.grants.get(&(alias, container));
            let Some(write) = grant.or(self.grants.get(&(alias, 2))) else {
                continue;
            };
            let access = if *write { Access::READ_WRITE } else { Access::READ };
            for devnum in self.covered(alias, world) {
                let entry = all.entry(devnum).or_default();
                *entry = entry.union(access);
            }
        }
        all
    }

    fn covered(&self, alias: usize, world: &World) -> BTreeSet<DevNum> {
        let mut covered = BTreeSet::new();
        for (socket, present) in &world.plugged {
            // What is behind the hub is the hub's, unless another alias names it.
            let others = if alias == HUB && socket.is_behind_hub() {
                (0..ALIASES.len())
                    .filter(|other| *other != HUB && self.has(*other))
                    .collect()
            } else {
                vec![]
            };
            let nodes = present.nodes().filter(|node| {
                names(alias, *socket, present, node)
                    && !others.iter().any(|other| names(*other, *socket, present, node))
            });
            covered.extend(nodes.map(|node| node.devnum));
        }
        covered
    }
}

/// Whether an alias by itself names a node.
fn names(alias: usize, socket: Socket, present: &Present, node: &HostNode) -> bool {
    let is_tty = node.subsystem() == "tty";
    match ALIASES[alias].0 {
        "s0" => present.stick == Some(0),
        "s1" => present.stick == Some(1),
        "two" => socket == Socket::Two,
        "behind" => socket == Socket::BehindOne,
        "hub" => socket == Socket::Hub || socket.is_behind_hub(),
        "port2" => present.stick == Some(2) && is_tty,
        "linked" => present.stick == Some(1) && is_tty && !node.links.is_empty(),
        other => unreachable!("alias {other}"),
    }
}
