//! What has to be done to one container so that it has exactly what it was granted. Pure and total.
//!
//! [`plan`] compares three things: what is [desired](Desired), what is [observed](Observed) and what the ledger says the
//! broker has [placed](Placed). It owns the order of the steps: revoke, then take away, then allow, then make appear. It
//! never names a file that is neither desired nor in the ledger.

mod action;
mod desired;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod properties;
pub mod want;

pub use action::{Action, PlannedNode};
pub use desired::{Conflict, Desired, desire};
pub use want::Want;

use crate::model::{Access, AliasName, DevNum, Incarnation, NodePath, Role, SysPath};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Owner, group and mode as a grant gives them, names already looked up in the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantPermissions {
    /// Owner inside, where the grant names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group inside, where the grant names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Mode, where the grant names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u16>,
}

impl fmt::Display for GrantPermissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = |id: Option<u32>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        write!(f, "{}:{}", id(self.uid), id(self.gid))?;
        match self.mode {
            Some(mode) => write!(f, " {mode:04o}"),
            None => Ok(()),
        }
    }
}

/// A node that the ledger says is ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedNode {
    /// Its inode on the container's tmpfs.
    pub ino: u64,
    /// Its number.
    pub devnum: DevNum,
    /// The device it belongs to.
    pub syspath: SysPath,
    /// Which stay of it.
    pub incarnation: Incarnation,
    /// Through which alias it was granted.
    pub alias: AliasName,
    /// Which of the device's nodes.
    pub role: Role,
    /// What the grant said when its permissions were last set.
    pub grant: GrantPermissions,
}

/// What the ledger says the broker has placed in one container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placed {
    /// Nodes by path.
    pub nodes: BTreeMap<NodePath, PlacedNode>,
    /// Links by path, with their text.
    pub links: BTreeMap<NodePath, String>,
}

impl Placed {
    /// Whether a node of the very stay of the device that is wanted is there, wherever.
    pub fn has(&self, want: &Want) -> bool {
        self.nodes.values().any(|node| {
            node.syspath == want.syspath && node.incarnation == want.incarnation && node.devnum == want.devnum
        })
    }
}

/// What is at a path of the container's `/dev` now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A device node.
    Node {
        /// Its inode.
        ino: u64,
        /// Its number.
        devnum: DevNum,
    },
    /// A symbolic link and its text.
    Link(String),
    /// Something else.
    Other,
}

/// What is there now. A path that is missing from `files` was looked at and is free.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// What the container's filter lets through besides its standard devices.
    pub access: BTreeMap<DevNum, Access>,
    /// What is at the paths that are desired or in the ledger.
    pub files: BTreeMap<NodePath, Found>,
}

/// A desired path that something else occupies. It is left alone and reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// Which path.
    pub path: NodePath,
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is occupied by something that the container made; remove it inside and the device appears there",
            self.path
        )
    }
}

/// The steps for one container, in order, and what stands in their way.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Plan {
    /// To be applied one after the other.
    pub actions: Vec<Action>,
    /// Desired paths that are not free.
    pub blocked: Vec<Blocked>,
}

/// Compares and says what to do. Applying the actions and planning again yields no action.
pub fn plan(desired: &Desired, observed: &Observed, placed: &Placed) -> Plan {
    let mut actions = Vec::new();
    revoke(desired, observed, &mut actions);
    unlink(desired, observed, placed, &mut actions);
    let withdrawn = withdraw(desired, observed, placed, &mut actions);
    let mut blocked = BTreeSet::new();
    allow(desired, observed, &mut actions);
    place(desired, observed, placed, &withdrawn, &mut actions, &mut blocked);
    link(desired, observed, placed, &withdrawn, &mut actions, &mut blocked);
    Plan {
        actions,
        blocked: blocked.into_iter().map(|path| Blocked { path }).collect(),
    }
}

fn revoke(desired: &Desired, observed: &Observed, actions: &mut Vec<Action>) {
    let gone = observed
        .access
        .keys()
        .filter(|devnum| !desired.access.contains_key(devnum));
    actions.extend(gone.map(|devnum| Action::Revoke { devnum: *devnum }));
}

fn unlink(desired: &Desired, observed: &Observed, placed: &Placed, actions: &mut Vec<Action>) {
    for (path, target) in &placed.links {
        let right = desired.links.get(path) == Some(target)
            && observed
                .files
                .get(path)
                .is_none_or(|found| matches!(found, Found::Link(text) if text == target));
        if !right {
            actions.push(Action::Unlink {
                path: path.clone(),
                target: target.clone(),
            });
        }
    }
}

/// Whether a placed node is the desired one and still lies where it was put.
fn stands(path: &NodePath, node: &PlacedNode, desired: &Desired, observed: &Observed) -> bool {
    let wanted = desired.nodes.get(path).is_some_and(|want| {
        want.devnum == node.devnum
            && want.syspath == node.syspath
            && want.incarnation == node.incarnation
            && want.alias == node.alias
            && want.role == node.role
    });
    wanted
        && observed.files.get(path)
            == Some(&Found::Node {
                ino: node.ino,
                devnum: node.devnum,
            })
}

fn withdraw<'a>(
    desired: &Desired,
    observed: &Observed,
    placed: &'a Placed,
    actions: &mut Vec<Action>,
) -> BTreeSet<&'a NodePath> {
    let mut withdrawn = BTreeSet::new();
    for (path, node) in placed
        .nodes
        .iter()
        .filter(|(path, node)| !stands(path, node, desired, observed))
    {
        withdrawn.insert(path);
        actions.push(Action::Withdraw {
            path: path.clone(),
            ino: node.ino,
            devnum: node.devnum,
            alias: node.alias.clone(),
            role: node.role.clone(),
        });
    }
    withdrawn
}

fn allow(desired: &Desired, observed: &Observed, actions: &mut Vec<Action>) {
    for (devnum, want) in &desired.access {
        if observed.access.get(devnum) != Some(&want.access) {
            actions.push(Action::Allow {
                devnum: *devnum,
                access: want.access,
                syspath: want.syspath.clone(),
                incarnation: want.incarnation,
            });
        }
    }
}

fn place(
    desired: &Desired,
    observed: &Observed,
    placed: &Placed,
    withdrawn: &BTreeSet<&NodePath>,
    actions: &mut Vec<Action>,
    blocked: &mut BTreeSet<NodePath>,
) {
    for (path, want) in &desired.nodes {
        let ours = placed.nodes.get(path);
        match ours {
            Some(node) if !withdrawn.contains(path) => {
                if node.grant != want.grant {
                    actions.push(Action::Permit {
                        path: path.clone(),
                        ino: node.ino,
                        devnum: node.devnum,
                        grant: want.grant,
                    });
                }
            }
            Some(_) | None => {
                if free_after(path, observed, placed) {
                    actions.push(Action::Place { node: want.clone() });
                } else {
                    blocked.insert(path.clone());
                }
            }
        }
    }
}

fn link(
    desired: &Desired,
    observed: &Observed,
    placed: &Placed,
    withdrawn: &BTreeSet<&NodePath>,
    actions: &mut Vec<Action>,
    blocked: &mut BTreeSet<NodePath>,
) {
    for (path, target) in &desired.links {
        let stands = placed.links.get(path) == Some(target)
            && observed.files.get(path) == Some(&Found::Link(target.clone()));
        if stands && !withdrawn.contains(path) {
            continue;
        }
        if free_after(path, observed, placed) {
            actions.push(Action::Link {
                path: path.clone(),
                target: target.clone(),
            });
        } else {
            blocked.insert(path.clone());
        }
    }
}

/// Whether a path is free, or will be once what the ledger says is ours has been taken from it.
fn free_after(path: &NodePath, observed: &Observed, placed: &Placed) -> bool {
    match observed.files.get(path) {
        None => true,
        Some(Found::Node { ino, devnum }) => placed
            .nodes
            .get(path)
            .is_some_and(|node| node.ino == *ino && node.devnum == *devnum),
        Some(Found::Link(text)) => placed.links.get(path) == Some(text),
        Some(Found::Other) => false,
    }
}
