//! Which host ids a container's ids are: blocks of ids, and the choice of a free one.
//!
//! Pure: the files' texts come in, a block goes out.

use devbroker::model::{IdMap, IdRange};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How many ids a container has.
pub(crate) const COUNT: u32 = 65_536;
/// Where blocks come from on a host whose /etc/subuid gives ctm nothing: above what useradd hands out
/// (`SUB_UID_MAX` is 600100000 in `login.defs(5)`), within what systemd leaves to containers (`UIDS-GIDS`).
const POOL: IdBlock = IdBlock {
    first: 1_073_741_824,
    count: 536_870_912,
};

/// Consecutive host ids, user and group alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IdBlock {
    /// The host's id for the container's root.
    pub(crate) first: u32,
    /// How many.
    pub(crate) count: u32,
}

impl IdBlock {
    /// One past the last id.
    fn end(self) -> u64 {
        u64::from(self.first) + u64::from(self.count)
    }

    /// Whether an id is shared.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        u64::from(self.first) < other.end() && u64::from(other.first) < self.end()
    }

    /// Whether the block holds `id`.
    pub(crate) fn contains(self, id: u32) -> bool {
        id >= self.first && u64::from(id) < self.end()
    }
}

impl fmt::Display for IdBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.first, self.end())
    }
}

/// A container's ids on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ids {
    /// No user namespace: every id is itself.
    Host,
    /// A user namespace over this block.
    Block(IdBlock),
}

impl Ids {
    /// The map in the model's words.
    pub(crate) fn map(self) -> IdMap {
        match self {
            Self::Host => IdMap::identity(),
            Self::Block(block) => IdMap::new(vec![IdRange {
                inside: 0,
                outside: block.first,
                count: block.count,
            }]),
        }
    }
}

/// No block is free.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no {COUNT} host ids are free for a user namespace; add `ctm:FIRST:COUNT` to /etc/subuid and /etc/subgid, or use --no-userns"
)]
pub(crate) struct NoFreeIds;

/// The entries of `/etc/subuid` or `/etc/subgid` (`subuid(5)`): owner and block. Other lines are left aside, as
/// newuidmap(1) does.
fn entries(text: &str) -> impl Iterator<Item = (&str, IdBlock)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let first = fields.next()?.parse().ok()?;
        let count = fields.next()?.parse().ok()?;
        fields
            .next()
            .is_none()
            .then_some((owner, IdBlock { first, count }))
    })
}

/// Chooses the lowest free block: out of what both files give to `ctm`, or, where they give it nothing, out of a range that
/// nobody on the host has an entry for. An entry of `root` is not for us: LXC and Podman share theirs among containers.
/// `used` are the blocks of other containers.
pub(crate) fn allocate(subuid: &str, subgid: &str, used: &[IdBlock]) -> Result<IdBlock, NoFreeIds> {
    let ours = |(owner, _): &(&str, IdBlock)| *owner == "ctm";
    let given: Vec<_> = entries(subuid)
        .filter(ours)
        .flat_map(|(_, uids)| {
            entries(subgid)
                .filter(ours)
                .filter_map(move |(_, gids)| common(uids, gids))
        })
        .collect();
    let (pools, mut taken) = if given.is_empty() {
        let entries = entries(subuid).chain(entries(subgid));
        (vec![POOL], entries.map(|(_, block)| block).collect())
    } else {
        (given, Vec::new())
    };
    taken.extend_from_slice(used);
    pools
        .into_iter()
        .filter_map(|pool| first_free(pool, &taken))
        .min()
        .ok_or(NoFreeIds)
}

/// The ids in both.
fn common(a: IdBlock, b: IdBlock) -> Option<IdBlock> {
    let first = a.first.max(b.first);
    let count = a.end().min(b.end()).checked_sub(u64::from(first))?;
    let count = u32::try_from(count).ok()?;
    (count > 0).then_some(IdBlock { first, count })
}

/// The lowest free block of [`COUNT`] ids in `pool`. Ids below [`COUNT`] are never handed out: a file's owner then tells
/// whether the file was shifted already.
fn first_free(pool: IdBlock, taken: &[IdBlock]) -> Option<IdBlock> {
    let mut first = pool.first.max(COUNT);
    loop {
        let candidate = IdBlock { first, count: COUNT };
        if candidate.end() > pool.end() {
            return None;
        }
        match taken
            .iter()
            .filter(|block| block.overlaps(candidate))
            .map(|block| block.end())
            .max()
        {
            None => return Some(candidate),
            Some(end) => first = u32::try_from(end).ok()?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(first: u32) -> IdBlock {
        IdBlock { first, count: COUNT }
    }

    #[test]
    fn the_entry_of_ctm_then_the_pool() {
        let ctm = "lena:100000:65536\nctm:200000:131072\nroot:900000:65536\n";
        assert_eq!(allocate(ctm, ctm, &[]), Ok(block(200_000)));
        assert_eq!(allocate(ctm, ctm, &[block(200_000)]), Ok(block(265_536)));
        assert_eq!(
            allocate(ctm, ctm, &[block(200_000), block(265_536)]),
            Err(NoFreeIds),
            "the pool is not for containers where ctm has an entry"
        );
        let root = "lena:100000:65536\nroot:900000:65536\n";
        assert_eq!(allocate(root, root, &[]), Ok(block(POOL.first)));
        assert_eq!(allocate("", "", &[]), Ok(block(POOL.first)));
        assert_eq!(
            allocate(
                "x:1073741824:65536\n",
                "y:1073807360:1\n",
                &[block(POOL.first + COUNT + 1)]
            ),
            Ok(block(POOL.first + 2 * COUNT + 1))
        );
    }

    #[test]
    fn only_what_both_files_give() {
        assert_eq!(
            allocate("ctm:100000:200000\n", "ctm:150000:200000\n", &[]),
            Ok(block(150_000))
        );
        assert_eq!(
            allocate("ctm:100000:65535\n", "ctm:100000:65536\n", &[]),
            Err(NoFreeIds)
        );
        assert_eq!(allocate("ctm:0:65536\n", "ctm:0:65536\n", &[]), Err(NoFreeIds));
    }

    proptest! {
        #[test]
        fn nothing_is_handed_out_twice(
            pools in prop::collection::vec((any::<u32>(), any::<u32>()), 0..4),
            used in prop::collection::vec(any::<u32>(), 0..20),
        ) {
            let lines: Vec<_> = pools.iter().map(|(first, count)| format!("ctm:{first}:{count}")).collect();
            let text = lines.join("\n");
            let used: Vec<_> = used.into_iter().map(block).collect();
            if let Ok(chosen) = allocate(&text, &text, &used) {
                prop_assert!(used.iter().all(|block| !block.overlaps(chosen)));
                prop_assert!(chosen.first >= COUNT);
                prop_assert!(chosen.end() <= u64::from(u32::MAX) + 1);
            }
        }
    }
}
