//! A container in memory, for properties: applies actions the way the executor does to a real one, crashes included.
//!
//! Used by the planner's properties beside it and by those of the whole chain (`daemon/properties`). That a real container
//! behaves like this is what `tests/root_container` and `tests/root_killed.rs` show.

use super::{Action, Desired, Found, Observed, Placed};
use crate::model::{Access, DevNum, NodePath};
use std::collections::{BTreeMap, BTreeSet};

/// A container as far as the planner sees one, applying actions the way the executor does.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fake {
    /// What is in its `/dev`.
    pub(crate) files: BTreeMap<NodePath, Found>,
    /// Inodes that open nothing any more, under whatever name.
    pub(crate) dead: BTreeSet<u64>,
    /// Inodes that it keeps under names of its own.
    pub(crate) hidden: BTreeSet<u64>,
    /// What its filter lets through.
    pub(crate) access: BTreeMap<DevNum, Access>,
    /// What the broker has written down.
    pub(crate) ledger: Placed,
    next_ino: u64,
}

impl Fake {
    /// What the broker sees of it.
    pub(crate) fn observe(&self, desired: &Desired) -> Observed {
        let ours = self.ledger.nodes.keys().chain(self.ledger.links.keys());
        let files = desired
            .nodes
            .keys()
            .chain(desired.links.keys())
            .chain(ours)
            .filter_map(|path| Some((path.clone(), self.files.get(path)?.clone())))
            .collect();
        Observed {
            access: self.access.clone(),
            files,
        }
    }

    /// Everything in its `/dev` that the broker did not put there.
    pub(crate) fn foreign(&self) -> BTreeMap<NodePath, Found> {
        let ours = |path: &NodePath, found: &Found| match found {
            Found::Node { ino, .. } => self.ledger.nodes.get(path).is_some_and(|node| node.ino == *ino),
            Found::Link(text) => self.ledger.links.get(path) == Some(text),
            Found::Other => false,
        };
        self.files
            .iter()
            .filter(|(path, found)| !ours(path, found))
            .map(|(path, found)| (path.clone(), found.clone()))
            .collect()
    }

    /// Applies one action; `torn` stops between the ledger's line and the effect, whichever the executor does first.
    pub(crate) fn apply(&mut self, action: &Action, torn: bool) {
        match action {
            Action::Revoke { devnum } => {
                if !torn {
                    self.access.remove(devnum);
                }
            }
            Action::Unlink { path, target } => {
                if self.files.get(path) == Some(&Found::Link(target.clone())) {
                    self.files.remove(path);
                }
                if !torn {
                    self.ledger.links.remove(path);
                }
            }
            Action::Withdraw {
                path, ino, devnum, ..
            } => {
                if self.files.get(path)
                    == Some(&Found::Node {
                        ino: *ino,
                        devnum: *devnum,
                    })
                {
                    self.files.remove(path);
                }
                self.hidden.remove(ino);
                self.dead.insert(*ino);
                if !torn {
                    self.ledger.nodes.remove(path);
                }
            }
            Action::Allow { devnum, access, .. } => {
                if !torn {
                    self.access.insert(*devnum, *access);
                }
            }
            Action::Place { node } => {
                self.next_ino += 1;
                let ino = self.next_ino;
                let placed = node.placed(ino);
                assert!(
                    self.ledger.nodes.insert(node.path.clone(), placed).is_none(),
                    "placed twice"
                );
                if !torn {
                    let before = self.files.insert(
                        node.path.clone(),
                        Found::Node {
                            ino,
                            devnum: node.devnum,
                        },
                    );
                    assert_eq!(before, None, "placed over something");
                }
            }
            Action::Permit { path, grant, .. } => {
                if !torn {
                    self.ledger.nodes.get_mut(path).unwrap().grant = *grant;
                }
            }
            Action::Link { path, target } => {
                self.ledger.links.insert(path.clone(), target.clone());
                if !torn {
                    let before = self.files.insert(path.clone(), Found::Link(target.clone()));
                    assert_eq!(before, None, "linked over something");
                }
            }
        }
    }
}
