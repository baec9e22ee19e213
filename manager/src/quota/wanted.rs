//! From what a definition says to what the file system is told, or why it cannot be. Pure.

use crate::definition::{DiskLimits, Grace};
use crate::quantity::Limit;

/// What file systems count disk space by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Project quotas of ext4 or xfs.
    Project,
    /// Quota groups of btrfs.
    Group,
}

/// What a file system has in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Whole {
    pub(super) bytes: u64,
}

/// A soft and a hard limit; none: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Pair {
    pub(crate) soft: Option<u64>,
    pub(crate) hard: Option<u64>,
}

impl Pair {
    fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// What the file system is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Wanted {
    /// In bytes.
    pub(super) space: Pair,
    pub(super) inodes: Pair,
    pub(super) grace: Option<Grace>,
}

impl Wanted {
    pub(super) fn is_none(self) -> bool {
        self.space.is_none() && self.inodes.is_none()
    }
}

/// Limits that no file system of that kind can keep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Impossible {
    #[error("`{0}` is nothing; a container writes files when it starts, write `unlimited` for no limit")]
    Nothing(&'static str),
    #[error("`{soft}` ({at}) is above `{hard}` ({limit}); the soft limit is the lower one")]
    Order {
        soft: &'static str,
        at: u64,
        hard: &'static str,
        limit: u64,
    },
    #[error(
        "btrfs counts bytes and has no soft limits, so `{0}` cannot be kept; leave it out, or have the container on ext4 or xfs"
    )]
    NotOnBtrfs(&'static str),
}

/// What is wanted of a file system of this kind and size.
pub(super) fn wanted(limits: &DiskLimits, whole: Whole, kind: Kind) -> Result<Wanted, Impossible> {
    let at = |name, limit: Limit| match limit {
        Limit::At(0) => Err(Impossible::Nothing(name)),
        Limit::At(amount) => Ok(Some(amount)),
        Limit::Unlimited => Ok(None),
    };
    let pair = |soft: (&'static str, Limit), hard: (&'static str, Limit)| {
        let pair = Pair {
            soft: at(soft.0, soft.1)?,
            hard: at(hard.0, hard.1)?,
        };
        match pair {
            Pair {
                soft: Some(low),
                hard: Some(high),
            } if low > high => Err(Impossible::Order {
                soft: soft.0,
                at: low,
                hard: hard.0,
                limit: high,
            }),
            pair => Ok(pair),
        }
    };
    let wanted = Wanted {
        space: pair(
            ("disk_space_soft", limits.space_soft.of(whole.bytes)),
            ("disk_space", limits.space.of(whole.bytes)),
        )?,
        inodes: pair(
            ("disk_inodes_soft", limits.inodes_soft),
            ("disk_inodes", limits.inodes),
        )?,
        grace: limits.grace,
    };
    if kind == Kind::Group {
        for (name, is_wanted) in [
            ("disk_space_soft", wanted.space.soft.is_some()),
            ("disk_inodes", wanted.inodes.hard.is_some()),
            ("disk_inodes_soft", wanted.inodes.soft.is_some()),
        ] {
            if is_wanted {
                return Err(Impossible::NotOnBtrfs(name));
            }
        }
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Whole = Whole { bytes: 1000 << 20 };

    /// Space, its soft limit, files and theirs; `-` for none.
    fn limits(text: &str) -> DiskLimits {
        let words: Vec<_> = text
            .split(' ')
            .map(|word| word.replace('-', "unlimited"))
            .collect();
        let [space, space_soft, inodes, inodes_soft] = words.as_slice() else {
            panic!("{text}");
        };
        DiskLimits {
            space: space.parse().unwrap(),
            space_soft: space_soft.parse().unwrap(),
            inodes: inodes.parse().unwrap(),
            inodes_soft: inodes_soft.parse().unwrap(),
            grace: Some("1d".parse().unwrap()),
        }
    }

    #[test]
    fn what_is_set() {
        let wanted = |limits| wanted(&limits, WHOLE, Kind::Project).unwrap();
        let pair = |soft, hard| Pair { soft, hard };
        let none = wanted(limits("- - - -"));
        assert!(none.is_none());
        let all = wanted(limits("10% 50M 200 100"));
        assert_eq!(
            (all.space, all.inodes),
            (pair(Some(50 << 20), Some(100 << 20)), pair(Some(100), Some(200)))
        );
        let same = wanted(limits("1M 1M - 7"));
        assert_eq!(
            (same.space, same.inodes),
            (pair(Some(1 << 20), Some(1 << 20)), pair(Some(7), None))
        );
        assert!(!same.is_none());
    }

    #[test]
    fn what_is_refused() {
        let (project, group) = (Kind::Project, Kind::Group);
        for (text, kind, part) in [
            ("0 - 1 1", project, "`disk_space` is nothing"),
            ("1M 2M 1 1", project, "`disk_space_soft` (2097152) is above"),
            ("10% - 1 2", group, "`disk_inodes_soft` (2) is above"),
            ("10% 5% - -", group, "`disk_space_soft` cannot be kept"),
            ("10% - 5 -", group, "`disk_inodes` cannot be kept"),
            ("10% - - 5", group, "`disk_inodes_soft` cannot be kept"),
        ] {
            let error = wanted(&limits(text), WHOLE, kind).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(wanted(&limits("10% - - -"), WHOLE, group).is_ok());
    }
}
