//! What a container is to have: all its wants laid side by side.

use super::{GrantPermissions, PlannedNode, Want};
use crate::model::{Access, AliasName, DevNum, Incarnation, NodePath, Permissions, SysPath};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

/// Access to one number, and to which device it belongs now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredAccess {
    /// All that any grant gives.
    pub access: Access,
    /// The device.
    pub syspath: SysPath,
    /// Which stay of it.
    pub incarnation: Incarnation,
}

/// All that one container is to have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Desired {
    /// Nodes by path.
    pub nodes: BTreeMap<NodePath, PlannedNode>,
    /// Symbolic links by path, with their text.
    pub links: BTreeMap<NodePath, String>,
    /// Numbers that its filter is to let through, and no others.
    pub access: BTreeMap<DevNum, DesiredAccess>,
}

/// Two wants that cannot both be had. The first in the order of aliases and roles has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The path or number that both want.
    pub over: String,
    /// Who has it.
    pub holder: AliasName,
    /// Who does not.
    pub loser: AliasName,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is wanted through alias `{}` and alias `{}`; the first has it, give the other another path",
            self.over, self.holder, self.loser
        )
    }
}

/// Lays wants side by side. `decide` settles the permissions of one: what they are to be when the node is made, and what
/// of that the grant itself says. Two wants for the same node at the same place are one, with the access of both.
pub fn desire(
    wants: &[Want],
    mut decide: impl FnMut(&Want) -> (Permissions, GrantPermissions),
) -> (Desired, Vec<Conflict>) {
    let mut desired = Desired::default();
    let mut conflicts = Vec::new();
    let mut sorted: Vec<&Want> = wants.iter().collect();
    sorted.sort_by(|a, b| (&a.alias, &a.role, &a.path).cmp(&(&b.alias, &b.role, &b.path)));
    let mut link_owner: BTreeMap<NodePath, AliasName> = BTreeMap::new();
    for want in &sorted {
        if !add_access(&mut desired, want, &sorted, &mut conflicts) {
            continue;
        }
        match desired.nodes.entry(want.path.clone()) {
            Entry::Vacant(free) => {
                let (permissions, grant) = decide(want);
                free.insert(PlannedNode {
                    path: want.path.clone(),
                    devnum: want.devnum,
                    syspath: want.syspath.clone(),
                    incarnation: want.incarnation,
                    alias: want.alias.clone(),
                    role: want.role.clone(),
                    permissions,
                    grant,
                });
            }
            Entry::Occupied(held) if held.get().devnum == want.devnum => {}
            Entry::Occupied(held) => {
                conflicts.push(conflict(want.path.to_string(), &held.get().alias, &want.alias));
            }
        }
    }
    for want in &sorted {
        let holds_node = desired
            .nodes
            .get(&want.path)
            .is_some_and(|node| node.devnum == want.devnum);
        for path in want.links.iter().filter(|_| holds_node) {
            if let Some(node) = desired.nodes.get(path) {
                if path != &want.path {
                    conflicts.push(conflict(path.to_string(), &node.alias, &want.alias));
                }
                continue;
            }
            let target = path.link_to(&want.path);
            match desired.links.get(path) {
                None => {
                    desired.links.insert(path.clone(), target);
                    link_owner.insert(path.clone(), want.alias.clone());
                }
                Some(held) if *held == target => {}
                Some(_) => {
                    if let Some(holder) = link_owner.get(path) {
                        conflicts.push(conflict(path.to_string(), holder, &want.alias));
                    }
                }
            }
        }
    }
    (desired, conflicts)
}

/// Adds a want's number. A number that two devices claim is in the middle of being reused: the later stay has it, and the
/// earlier one is told.
fn add_access(desired: &mut Desired, want: &Want, all: &[&Want], conflicts: &mut Vec<Conflict>) -> bool {
    let latest = all
        .iter()
        .filter(|other| other.devnum == want.devnum)
        .max_by_key(|other| other.incarnation);
    if let Some(latest) = latest.filter(|latest| latest.syspath != want.syspath) {
        conflicts.push(conflict(want.devnum.to_string(), &latest.alias, &want.alias));
        return false;
    }
    let entry = desired
        .access
        .entry(want.devnum)
        .or_insert_with(|| DesiredAccess {
            access: Access::NONE,
            syspath: want.syspath.clone(),
            incarnation: want.incarnation,
        });
    entry.access = entry.access.union(want.access);
    true
}

fn conflict(over: String, holder: &AliasName, loser: &AliasName) -> Conflict {
    Conflict {
        over,
        holder: holder.clone(),
        loser: loser.clone(),
    }
}
