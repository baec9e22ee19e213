//! What a node's owner, group, mode and ACL are to be, and how they look on either side of a user namespace.
//!
//! Pure: owns the order of precedence (the grant, what was last seen, the host's mode) and the ACL's binary form. Does
//! not read files.

use crate::accounts::Accounts;
use crate::model::{Acl, AclEntry, AclTag, IdMap, Permissions, UserRef};
use crate::plan::GrantPermissions;
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

/// What a grant says, with its names looked up in the container. One that the container lacks is root.
pub fn look_up(
    owner: Option<&UserRef>,
    group: Option<&UserRef>,
    mode: Option<u16>,
    accounts: &Accounts,
) -> (GrantPermissions, Vec<Note>) {
    let mut notes = Vec::new();
    let uid = owner.map(|owner| {
        accounts.user(owner).unwrap_or_else(|| {
            notes.push(Note::UnknownUser(owner.to_string()));
            0
        })
    });
    let gid = group.map(|group| {
        accounts.group(group).unwrap_or_else(|| {
            notes.push(Note::UnknownGroup(group.to_string()));
            0
        })
    });
    (GrantPermissions { uid, gid, mode }, notes)
}

/// What a node is to have when it is made: what the grant says, else what was last seen in its role, else the host's mode
/// with the container's root as owner. A mode that the grant gives bounds a remembered ACL (it becomes its mask).
pub fn decide(grant: &GrantPermissions, seen: Option<&Permissions>, host_mode: u16) -> Permissions {
    Permissions {
        uid: grant.uid.or(seen.map(|seen| seen.uid)).unwrap_or(0),
        gid: grant.gid.or(seen.map(|seen| seen.gid)).unwrap_or(0),
        mode: grant.mode.or(seen.map(|seen| seen.mode)).unwrap_or(host_mode) & 0o777,
        acl: seen.map(|seen| seen.acl.clone()).unwrap_or_default(),
    }
}

/// What a grant says in the host's ids, for a node that is already there.
pub fn grant_to_host(
    grant: &GrantPermissions,
    uid_map: &IdMap,
    gid_map: &IdMap,
) -> Result<(GrantPermissions, Vec<Note>), NoRoot> {
    let inside = decide(grant, None, 0);
    let (host, notes) = to_host(&inside, uid_map, gid_map)?;
    let host = GrantPermissions {
        uid: grant.uid.map(|_| host.uid),
        gid: grant.gid.map(|_| host.gid),
        mode: grant.mode.map(|mode| mode & 0o777),
    };
    Ok((host, notes))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::IdRange;
    use proptest::prelude::*;

    fn map() -> IdMap {
        IdMap::new(vec![IdRange {
            inside: 0,
            outside: 100_000,
            count: 1000,
        }])
    }

    fn seen() -> Permissions {
        Permissions {
            uid: 7,
            gid: 8,
            mode: 0o640,
            acl: acl(&[(AclTag::User(33), 6), (AclTag::Group(5), 4)]),
        }
    }

    fn acl(named: &[(AclTag, u8)]) -> Acl {
        let fixed = [
            (AclTag::UserObj, 6),
            (AclTag::GroupObj, 4),
            (AclTag::Mask, 6),
            (AclTag::Other, 0),
        ];
        let mut entries: Vec<_> = fixed
            .iter()
            .chain(named)
            .map(|(tag, perm)| AclEntry {
                tag: *tag,
                perm: *perm,
            })
            .collect();
        entries.sort_unstable_by_key(|entry| entry.tag);
        Acl(entries)
    }

    #[test]
    fn the_grant_counts_then_what_was_seen_then_the_host() {
        let none = GrantPermissions::default();
        let full = GrantPermissions {
            uid: Some(1),
            gid: Some(2),
            mode: Some(0o600),
        };
        let of_host = Permissions {
            uid: 0,
            gid: 0,
            mode: 0o664,
            acl: Acl::default(),
        };
        assert_eq!(decide(&none, None, 0o104_664), of_host);
        assert_eq!(decide(&none, Some(&seen()), 0o664), seen());
        assert_eq!(
            decide(&full, Some(&seen()), 0o664),
            Permissions {
                uid: 1,
                gid: 2,
                mode: 0o600,
                acl: seen().acl
            }
        );
        let group = GrantPermissions { gid: Some(2), ..none };
        assert_eq!(
            decide(&group, Some(&seen()), 0o664),
            Permissions { gid: 2, ..seen() }
        );
        assert_eq!(decide(&group, None, 0o664), Permissions { gid: 2, ..of_host });
    }

    #[test]
    fn names_the_container_lacks_are_roots() {
        let accounts = Accounts::parse(b"saned:x:113:120::/:/bin/false\n", b"");
        let name = |name: &str| UserRef::Name(name.into());
        assert_eq!(
            look_up(Some(&name("saned")), Some(&name("scanner")), None, &accounts),
            (
                GrantPermissions {
                    uid: Some(113),
                    gid: Some(0),
                    mode: None
                },
                vec![Note::UnknownGroup("scanner".into())]
            )
        );
        assert_eq!(
            look_up(Some(&name("x")), Some(&UserRef::Id(5)), Some(0o600), &accounts),
            (
                GrantPermissions {
                    uid: Some(0),
                    gid: Some(5),
                    mode: Some(0o600)
                },
                vec![Note::UnknownUser("x".into())]
            )
        );
    }

    #[test]
    fn ids_map_and_those_that_cannot_are_roots() {
        let (host, notes) = to_host(&seen(), &map(), &map()).unwrap();
        assert_eq!(
            (host.uid, host.gid, host.mode, notes),
            (100_007, 100_008, 0o640, vec![])
        );
        assert_eq!(
            host.acl,
            acl(&[(AclTag::User(100_033), 6), (AclTag::Group(100_005), 4)])
        );
        assert_eq!(to_inside(&host, &map(), &map()), seen());
        let beyond = Permissions {
            uid: 5000,
            gid: 6000,
            mode: 0o7777,
            acl: acl(&[(AclTag::User(5001), 6), (AclTag::Group(5), 4)]),
        };
        let (host, notes) = to_host(&beyond, &map(), &map()).unwrap();
        assert_eq!(
            host,
            HostPerms {
                uid: 100_000,
                gid: 100_000,
                mode: 0o777,
                acl: acl(&[(AclTag::Group(100_005), 4)])
            }
        );
        assert_eq!(
            notes,
            [
                Note::UnmappedUser(5000),
                Note::UnmappedGroup(6000),
                Note::UnmappedUser(5001)
            ]
        );
        // The host's own root in a container with its own users can only be the host's doing.
        let own = HostPerms {
            uid: 0,
            gid: 0,
            mode: 0o600,
            acl: acl(&[(AclTag::User(0), 6)]),
        };
        assert_eq!(
            to_inside(&own, &map(), &map()),
            Permissions {
                uid: 0,
                gid: 0,
                mode: 0o600,
                acl: Acl::default()
            }
        );
        assert_eq!(to_host(&seen(), &IdMap::new(vec![]), &map()), Err(NoRoot));
    }

    #[test]
    fn a_grants_ids_for_a_node_that_is_there() {
        let grant = GrantPermissions {
            uid: Some(3),
            gid: None,
            mode: Some(0o600),
        };
        let host = GrantPermissions {
            uid: Some(100_003),
            gid: None,
            mode: Some(0o600),
        };
        assert_eq!(grant_to_host(&grant, &map(), &map()), Ok((host, vec![])));
    }

    #[test]
    fn only_whole_acls_are_taken() {
        assert_eq!(acl_from_xattr(&[]), None);
        assert_eq!(acl_from_xattr(&[1, 0, 0, 0]), None);
        assert_eq!(acl_from_xattr(&[2, 0, 0, 0]), Some(Acl::default()));
        let bytes = acl_to_xattr(&seen().acl);
        assert_eq!(acl_from_xattr(bytes.get(..bytes.len() - 1).unwrap()), None);
        let many: Vec<_> = (0..33)
            .map(|id| AclEntry {
                tag: AclTag::User(id),
                perm: 6,
            })
            .collect();
        assert_eq!(acl_from_xattr(&acl_to_xattr(&Acl(many.clone()))), None);
        assert_eq!(well_formed(many), Acl::default());
        // Without a mask, or with nobody named: no more than a mode.
        let mut no_mask = seen().acl.0;
        no_mask.retain(|entry| entry.tag != AclTag::Mask);
        assert_eq!(well_formed(no_mask), Acl::default());
        assert_eq!(well_formed(acl(&[]).0), Acl::default());
    }

    proptest! {
        #[test]
        fn an_acl_survives_its_binary_form(ids in proptest::collection::btree_set(0u32..1000, 0..20)) {
            let named: Vec<_> = ids.iter().map(|id| (AclTag::User(*id), 6)).collect();
            let all = acl(&named);
            prop_assert_eq!(acl_from_xattr(&acl_to_xattr(&all)), Some(all));
        }

        #[test]
        fn any_bytes_are_taken(bytes: Vec<u8>) {
            if let Some(acl) = acl_from_xattr(&bytes) {
                prop_assert!(acl.0.len() <= Acl::MAX);
            }
        }

        /// Whatever is remembered, the host's ids are the container's own.
        #[test]
        fn nothing_outside_the_map_is_named(uid: u32, gid: u32, user: u32, group: u32) {
            let inside = Permissions {
                uid,
                gid,
                mode: 0o660,
                acl: acl(&[(AclTag::User(user), 6), (AclTag::Group(group), 6)]),
            };
            let (host, _) = to_host(&inside, &map(), &map()).unwrap();
            let mine = |id: u32| (100_000..101_000).contains(&id);
            prop_assert!(mine(host.uid) && mine(host.gid));
            for entry in host.acl.0 {
                match entry.tag {
                    AclTag::User(id) | AclTag::Group(id) => prop_assert!(mine(id)),
                    AclTag::UserObj | AclTag::GroupObj | AclTag::Mask | AclTag::Other => {}
                }
            }
        }
    }
}
