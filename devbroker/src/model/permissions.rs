//! Owner, group, mode and ACL of a node, as the container sees them.

use serde::{Deserialize, Serialize};

/// Who an ACL entry speaks of. Ids are the container's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AclTag {
    /// The owner.
    UserObj,
    /// One user.
    User(u32),
    /// The owning group.
    GroupObj,
    /// One group.
    Group(u32),
    /// The upper bound for all but owner and others.
    Mask,
    /// Everyone else.
    Other,
}

/// One entry of a POSIX access ACL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AclEntry {
    /// Who.
    pub tag: AclTag,
    /// What: read 4, write 2, execute 1.
    pub perm: u8,
}

/// A POSIX access ACL of at most [`Acl::MAX`] entries; empty where the node has only its mode.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Acl(pub Vec<AclEntry>);

impl Acl {
    /// How many entries are kept; a container that sets more keeps its mode only.
    pub const MAX: usize = 32;
}

/// What is kept of a node. `uid`, `gid` and the ACL's ids are the container's own; mode has the nine permission bits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permissions {
    /// Owner, inside.
    pub uid: u32,
    /// Group, inside.
    pub gid: u32,
    /// `mode & 0777`.
    pub mode: u16,
    /// Access ACL, empty if there is none.
    #[serde(default, skip_serializing_if = "acl_is_empty")]
    pub acl: Acl,
}

fn acl_is_empty(acl: &Acl) -> bool {
    acl.0.is_empty()
}
