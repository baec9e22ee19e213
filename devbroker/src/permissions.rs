//! What a node's owner, group, mode and ACL are to be, and how they look on either side of a user namespace.
//!
//! Pure: owns the order of precedence (the grant, what was last seen, the host's mode) and the ACL's binary form. Does
//! not read files.

use crate::model::{Acl, AclEntry, AclTag, IdMap, Permissions};
use std::fmt;

/// Owner, group, mode and ACL in the *host's* ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPerms {
    /// Owner on the host.
    pub uid: u32,
    /// Group on the host.
    pub gid: u32,
    /// `mode & 0777`.
    pub mode: u16,
    /// Access ACL with the host's ids, empty if there is none.
    pub acl: Acl,
}

/// Something about permissions that the administrator should know; shown by `why`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The container has no user of this name.
    UnknownUser(String),
    /// The container has no group of this name.
    UnknownGroup(String),
    /// The container's user ids do not include this one.
    UnmappedUser(u32),
    /// The container's group ids do not include this one.
    UnmappedGroup(u32),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownUser(name) => write!(
                f,
                "the container has no user `{name}`, so root owns the node; add the user inside and restart the container, or write a number"
            ),
            Self::UnknownGroup(name) => write!(
                f,
                "the container has no group `{name}`, so the node has group root; add the group inside and restart the container, or write a number"
            ),
            Self::UnmappedUser(id) => write!(
                f,
                "user {id} is outside the container's user ids, so root has it instead; widen the container's uid map or choose another user"
            ),
            Self::UnmappedGroup(id) => write!(
                f,
                "group {id} is outside the container's group ids, so root has it instead; widen the container's gid map or choose another group"
            ),
        }
    }
}

/// The container maps no id to its root, so nothing can be owned by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the container's user namespace has no root (id 0 is not mapped), so it can own no node; map id 0 in it"
)]
pub struct NoRoot;

/// The host's ids of the container's root.
pub fn root_of(uid_map: &IdMap, gid_map: &IdMap) -> Result<(u32, u32), NoRoot> {
    uid_map.to_host(0).zip(gid_map.to_host(0)).ok_or(NoRoot)
}

/// The container's permissions in the host's ids. An owner or group that the container cannot have becomes its root, an
/// ACL entry for one is left out.
pub fn to_host(
    inside: &Permissions,
    uid_map: &IdMap,
    gid_map: &IdMap,
) -> Result<(HostPerms, Vec<Note>), NoRoot> {
    let (root_uid, root_gid) = root_of(uid_map, gid_map)?;
    let mut notes = Vec::new();
    let uid = uid_map.to_host(inside.uid).unwrap_or_else(|| {
        notes.push(Note::UnmappedUser(inside.uid));
        root_uid
    });
    let gid = gid_map.to_host(inside.gid).unwrap_or_else(|| {
        notes.push(Note::UnmappedGroup(inside.gid));
        root_gid
    });
    let mut entries = Vec::new();
    for entry in &inside.acl.0 {
        let tag = match entry.tag {
            AclTag::User(id) => uid_map
                .to_host(id)
                .map(AclTag::User)
                .ok_or(Note::UnmappedUser(id)),
            AclTag::Group(id) => gid_map
                .to_host(id)
                .map(AclTag::Group)
                .ok_or(Note::UnmappedGroup(id)),
            tag @ (AclTag::UserObj | AclTag::GroupObj | AclTag::Mask | AclTag::Other) => Ok(tag),
        };
        match tag {
            Ok(tag) => entries.push(AclEntry {
                tag,
                perm: entry.perm,
            }),
            Err(note) => notes.push(note),
        }
    }
    let acl = well_formed(entries);
    Ok((
        HostPerms {
            uid,
            gid,
            mode: inside.mode & 0o777,
            acl,
        },
        notes,
    ))
}

/// What was seen on the host in the container's own ids. Ids that the container does not have are its root's: only the
/// host can have set them.
pub fn to_inside(seen: &HostPerms, uid_map: &IdMap, gid_map: &IdMap) -> Permissions {
    let entries = seen.acl.0.iter().filter_map(|entry| {
        let tag = match entry.tag {
            AclTag::User(id) => AclTag::User(uid_map.to_inside(id)?),
            AclTag::Group(id) => AclTag::Group(gid_map.to_inside(id)?),
            tag @ (AclTag::UserObj | AclTag::GroupObj | AclTag::Mask | AclTag::Other) => tag,
        };
        Some(AclEntry {
            tag,
            perm: entry.perm,
        })
    });
    Permissions {
        uid: uid_map.to_inside(seen.uid).unwrap_or(0),
        gid: gid_map.to_inside(seen.gid).unwrap_or(0),
        mode: seen.mode & 0o777,
        acl: well_formed(entries.collect()),
    }
}

/// The entries as the kernel takes them: sorted, no id twice, one of each of the three fixed entries, a mask where
/// there are named ones. An ACL that says no more than a mode, or that cannot be made well formed, is empty.
fn well_formed(mut entries: Vec<AclEntry>) -> Acl {
    entries.sort_unstable_by_key(|entry| entry.tag);
    entries.dedup_by_key(|entry| entry.tag);
    let has = |tag| entries.iter().any(|entry| entry.tag == tag);
    let named = entries
        .iter()
        .any(|entry| matches!(entry.tag, AclTag::User(_) | AclTag::Group(_)));
    let complete = [AclTag::UserObj, AclTag::GroupObj, AclTag::Mask, AclTag::Other]
        .into_iter()
        .all(has);
    let fits = entries.len() <= Acl::MAX && entries.iter().all(|entry| entry.perm <= 7);
    if named && complete && fits {
        Acl(entries)
    } else {
        Acl::default()
    }
}

/// Version in front of the attribute `system.posix_acl_access` (`POSIX_ACL_XATTR_VERSION`,
/// `linux/posix_acl_xattr.h`). The entries follow: tag and permissions in 16 bits each, id in 32, all little-endian.
const ACL_VERSION: u32 = 2;

/// The id of entries that name nobody (`ACL_UNDEFINED_ID`).
const ACL_NOBODY: u32 = u32::MAX;

/// The longest attribute worth reading: [`Acl::MAX`] entries.
pub const ACL_BYTES: usize = 4 + 8 * Acl::MAX;

/// The ACL in an attribute's bytes; `None` if it is not one, or has more than [`Acl::MAX`] entries.
pub fn acl_from_xattr(bytes: &[u8]) -> Option<Acl> {
    let (version, rest) = bytes.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != ACL_VERSION || rest.len() % 8 != 0 || rest.len() / 8 > Acl::MAX {
        return None;
    }
    let entries = rest.chunks_exact(8).map(|chunk| {
        let (tag, chunk) = chunk.split_first_chunk::<2>()?;
        let (perm, chunk) = chunk.split_first_chunk::<2>()?;
        let id = u32::from_le_bytes(*chunk.first_chunk::<4>()?);
        let tag = match u16::from_le_bytes(*tag) {
            0x01 => AclTag::UserObj,
            0x02 => AclTag::User(id),
            0x04 => AclTag::GroupObj,
            0x08 => AclTag::Group(id),
            0x10 => AclTag::Mask,
            0x20 => AclTag::Other,
            _ => return None,
        };
        let perm = u8::try_from(u16::from_le_bytes(*perm))
            .ok()
            .filter(|perm| *perm <= 7)?;
        Some(AclEntry { tag, perm })
    });
    Some(Acl(entries.collect::<Option<Vec<_>>>()?))
}

/// The attribute's bytes for an ACL, in the order that the kernel asks for.
pub fn acl_to_xattr(acl: &Acl) -> Vec<u8> {
    let mut entries = acl.0.clone();
    entries.sort_unstable_by_key(|entry| entry.tag);
    let mut bytes = ACL_VERSION.to_le_bytes().to_vec();
    for AclEntry { tag, perm } in entries {
        let (tag, id): (u16, u32) = match tag {
            AclTag::UserObj => (0x01, ACL_NOBODY),
            AclTag::User(id) => (0x02, id),
            AclTag::GroupObj => (0x04, ACL_NOBODY),
            AclTag::Group(id) => (0x08, id),
            AclTag::Mask => (0x10, ACL_NOBODY),
            AclTag::Other => (0x20, ACL_NOBODY),
        };
        bytes.extend(tag.to_le_bytes());
        bytes.extend(u16::from(perm).to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}
