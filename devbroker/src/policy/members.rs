//! Which nodes belong to an alias.

use super::anchor::{Anchor, Cover};
use super::role::{make, role};
use crate::model::{AliasName, HostNode, Role};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// A node of an alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member<'n> {
    /// The node.
    pub node: &'n HostNode,
    /// Which of the alias's nodes; no two members have the same.
    pub role: Role,
    /// Whether alias and `path` lead to it. Exactly one member is primary, unless a primary role is declared and away.
    pub primary: bool,
}

/// The nodes among `nodes` that belong to `alias`, bound to `anchor`, in the order of their roles. A node behind a hub
/// that has an alias of its own (one of `bound`) belongs to that one. `primary` is the role that the alias declares.
pub fn members<'n>(
    alias: &AliasName,
    anchor: &Anchor,
    primary: Option<&Role>,
    bound: &BTreeMap<AliasName, Anchor>,
    nodes: impl IntoIterator<Item = &'n HostNode>,
) -> Vec<Member<'n>> {
    let closer: Vec<&Anchor> = bound
        .iter()
        .filter(|(name, other)| *name != alias && other.is_more_specific(anchor))
        .map(|(_, other)| other)
        .collect();
    let mut members: Vec<Member<'n>> = nodes
        .into_iter()
        .filter(|node| anchor.covers(node) && !closer.iter().any(|other| other.covers(node)))
        .map(|node| Member {
            node,
            role: role(anchor, node),
            primary: false,
        })
        .collect();
    members.sort_by(|a, b| a.role.cmp(&b.role).then_with(|| by_name(a.node, b.node)));
    members.dedup_by(|a, b| a.node.syspath() == b.node.syspath());
    tell_apart(&mut members);
    let chosen = match primary {
        Some(primary) => members.iter().position(|member| member.role == *primary),
        None => (0..members.len()).min_by_key(|at| members.get(*at).map(|member| rank(anchor, member))),
    };
    if let Some(member) = chosen.and_then(|at| members.get_mut(at)) {
        member.primary = true;
    }
    members
}

/// Nodes that no identity tells apart are numbered by the kernel's names: `input@if00.event`, `input@if00.event+1`.
fn tell_apart(members: &mut [Member<'_>]) {
    let mut taken: BTreeSet<Role> = members.iter().map(|member| member.role.clone()).collect();
    let mut last: Option<(Role, u32)> = None;
    for member in members {
        match &mut last {
            Some((role, count)) if *role == member.role => loop {
                *count += 1;
                let numbered = make(&format!("{role}+{count}"));
                if taken.insert(numbered.clone()) {
                    member.role = numbered;
                    break;
                }
            },
            Some(_) | None => last = Some((member.role.clone(), 0)),
        }
    }
}

/// The kernel's names in natural order: `event2` before `event10`.
fn by_name(a: &HostNode, b: &HostNode) -> Ordering {
    let (a, b) = (a.syspath(), b.syspath());
    (a.name().len(), a.as_str().len(), a).cmp(&(b.name().len(), b.as_str().len(), b))
}

/// The lower the likelier to be what a user means: nodes of the device itself before those behind it, class nodes
/// before the raw bus node (of a hub it is the only one), whole disks before partitions and raw access.
fn rank<'m>(anchor: &Anchor, member: &'m Member<'_>) -> (bool, u8, &'m Role) {
    let behind = member.role.as_str().contains('/');
    let subsystem = member.node.subsystem();
    let raw = match subsystem {
        "usb" if anchor.hub && anchor.cover == Cover::Tree => 0,
        "usb" => 9,
        "scsi_generic" | "bsg" | "hidraw" => 8,
        "media" | "i2c-dev" | "leds" => 7,
        "input" | "rc" | "lirc" | "cec" => 6,
        "block" if member.node.own().devtype.as_deref() == Some("partition") => 5,
        "dvb" if !member.role.as_str().contains("frontend") => 4,
        "sound" if !member.role.as_str().contains("control") => 3,
        _ => 1,
    };
    (behind, raw, &member.role)
}
