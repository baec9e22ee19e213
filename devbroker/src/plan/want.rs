//! One node that a grant gives a container now: what `policy` hands to the planner.

use crate::model::{Access, AliasName, DevNum, Incarnation, NodePath, Origin, Role, SysPath, UserRef};
use serde::{Deserialize, Serialize};

/// One node that a container is to have, as far as configuration and host decide it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Through which alias.
    pub alias: AliasName,
    /// Which of the device's nodes.
    pub role: Role,
    /// Whether it is the one that the alias itself leads to.
    pub primary: bool,
    /// The node's directory in sysfs.
    pub syspath: SysPath,
    /// Which stay.
    pub incarnation: Incarnation,
    /// Its number.
    pub devnum: DevNum,
    /// `mode & 0777` of the host's node.
    pub host_mode: u16,
    /// What the container may do with it.
    pub access: Access,
    /// Where the node itself goes: the kernel's name, or `path` of a grant with `as = "node"`.
    pub path: NodePath,
    /// Links that lead to it.
    pub links: Vec<NodePath>,
    /// Owner, where the grant names one.
    pub owner: Option<UserRef>,
    /// Group, where the grant names one.
    pub group: Option<UserRef>,
    /// Mode, where the grant names one.
    pub mode: Option<u16>,
    /// Where the grant is written.
    pub origin: Origin,
}

#[cfg(test)]
impl Want {
    /// A want with read and write access and nothing said about permissions.
    pub(crate) fn for_test(
        alias: &str,
        role: &str,
        syspath: &str,
        stay: u64,
        devnum: DevNum,
        path: NodePath,
        links: Vec<NodePath>,
    ) -> Self {
        Self {
            alias: alias.parse().unwrap(),
            role: role.parse().unwrap(),
            primary: true,
            syspath: syspath.parse().unwrap(),
            incarnation: Incarnation(stay),
            devnum,
            host_mode: 0o600,
            access: Access::READ_WRITE,
            path,
            links,
            owner: None,
            group: None,
            mode: None,
            origin: Origin {
                file: "test.toml".into(),
                line: 1,
            },
        }
    }
}
