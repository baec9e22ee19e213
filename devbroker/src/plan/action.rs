//! What the executor can do to one container, as plain data.

use crate::model::{Access, AliasName, DevNum, Incarnation, NodePath, Permissions, Role, SysPath};
use crate::plan::{GrantPermissions, PlacedNode};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One step. Each names all it needs, so that it can be printed, written down and applied; the executor rechecks its
/// precondition as it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Action {
    /// Take a device's number out of the container's filter.
    Revoke {
        /// Which number.
        devnum: DevNum,
    },
    /// Take a symbolic link of ours away.
    Unlink {
        /// Where it is.
        path: NodePath,
        /// What it says; one that says something else is no longer ours.
        target: String,
    },
    /// Take a node away and make it useless: noted, ACL stripped, 0:0, mode 0, unlinked.
    Withdraw {
        /// Where it was put.
        path: NodePath,
        /// Its inode on the container's tmpfs, by which it is found if the container moved it.
        ino: u64,
        /// Its number.
        devnum: DevNum,
        /// Whose permissions to remember.
        alias: AliasName,
        /// Of which of its nodes.
        role: Role,
    },
    /// Put a device's number into the container's filter, with exactly this access.
    Allow {
        /// Which number.
        devnum: DevNum,
        /// What may be done.
        access: Access,
        /// Which device it must still be.
        syspath: SysPath,
        /// Which stay of it.
        incarnation: Incarnation,
    },
    /// Make a node appear, finished, in one step.
    Place {
        /// The node.
        node: PlannedNode,
    },
    /// Set what the grant says on a node that is there.
    Permit {
        /// Where it is.
        path: NodePath,
        /// Its inode.
        ino: u64,
        /// Its number.
        devnum: DevNum,
        /// What the grant says now.
        grant: GrantPermissions,
    },
    /// Make a symbolic link.
    Link {
        /// Where.
        path: NodePath,
        /// What it says.
        target: String,
    },
}

/// A node as it is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedNode {
    /// Where.
    pub path: NodePath,
    /// Number.
    pub devnum: DevNum,
    /// The device it belongs to.
    pub syspath: SysPath,
    /// Which stay of it.
    pub incarnation: Incarnation,
    /// Through which alias it was granted.
    pub alias: AliasName,
    /// Which of the device's nodes.
    pub role: Role,
    /// Owner, group, mode and ACL, as the container sees them.
    pub permissions: Permissions,
    /// What of them the grant itself says.
    pub grant: GrantPermissions,
}

impl PlannedNode {
    /// What is written down of it once it has this inode.
    pub fn placed(&self, ino: u64) -> PlacedNode {
        PlacedNode {
            ino,
            devnum: self.devnum,
            syspath: self.syspath.clone(),
            incarnation: self.incarnation,
            alias: self.alias.clone(),
            role: self.role.clone(),
            grant: self.grant,
        }
    }
}

impl Action {
    /// The step's name, as fail points and events have it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Revoke { .. } => "revoke",
            Self::Unlink { .. } => "unlink",
            Self::Withdraw { .. } => "withdraw",
            Self::Allow { .. } => "allow",
            Self::Place { .. } => "place",
            Self::Permit { .. } => "permit",
            Self::Link { .. } => "link",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revoke { devnum } => write!(f, "revoke {devnum}"),
            Self::Unlink { path, target } => write!(f, "remove link {path} -> {target}"),
            Self::Withdraw { path, devnum, .. } => write!(f, "remove node {path} ({devnum})"),
            Self::Allow { devnum, access, .. } => write!(f, "allow {access} on {devnum}"),
            Self::Place { node } => {
                let Permissions { uid, gid, mode, .. } = node.permissions;
                write!(
                    f,
                    "make node {} ({}) {uid}:{gid} {mode:04o}",
                    node.path, node.devnum
                )
            }
            Self::Permit { path, grant, .. } => write!(f, "set {grant} on {path}"),
            Self::Link { path, target } => write!(f, "make link {path} -> {target}"),
        }
    }
}
