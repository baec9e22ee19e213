//! User and group ids of a container and what they are on the host.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One line of `/proc/PID/uid_map` or `gid_map` (`user_namespaces(7)`), read from the initial user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdRange {
    /// First id inside.
    pub inside: u32,
    /// The same id on the host.
    pub outside: u32,
    /// How many ids.
    pub count: u32,
}

/// How the ids of a container map to the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IdMap(Vec<IdRange>);

impl IdMap {
    /// The map of a container without a user namespace: every id is itself.
    pub fn identity() -> Self {
        Self(vec![IdRange {
            inside: 0,
            outside: 0,
            count: u32::MAX,
        }])
    }

    /// A map of these ranges.
    pub fn new(ranges: Vec<IdRange>) -> Self {
        Self(ranges)
    }

    /// Parses the text of `/proc/PID/uid_map`; a line that is not three numbers makes it `None`.
    pub fn parse(text: &str) -> Option<Self> {
        text.lines()
            .map(|line| {
                let mut fields = line.split_ascii_whitespace().map(str::parse);
                let range = IdRange {
                    inside: fields.next()?.ok()?,
                    outside: fields.next()?.ok()?,
                    count: fields.next()?.ok()?,
                };
                fields.next().is_none().then_some(range)
            })
            .collect::<Option<Vec<_>>>()
            .map(Self)
    }

    /// The host's id for an id inside.
    pub fn to_host(&self, inside: u32) -> Option<u32> {
        self.0.iter().find_map(|range| {
            let offset = inside
                .checked_sub(range.inside)
                .filter(|offset| *offset < range.count)?;
            range.outside.checked_add(offset)
        })
    }

    /// The id inside for one of the host's.
    pub fn to_inside(&self, outside: u32) -> Option<u32> {
        self.0.iter().find_map(|range| {
            let offset = outside
                .checked_sub(range.outside)
                .filter(|offset| *offset < range.count)?;
            range.inside.checked_add(offset)
        })
    }

    /// Whether this is the map of the initial user namespace.
    pub fn is_identity(&self) -> bool {
        matches!(
            self.0.as_slice(),
            [IdRange {
                inside: 0,
                outside: 0,
                count: u32::MAX
            }]
        )
    }
}

/// A user or group as a grant names it: by number, or by a name that the *container's* passwd or group knows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum UserRef {
    /// An id, the container's own.
    Id(u32),
    /// A name, looked up inside.
    Name(String),
}

impl fmt::Display for UserRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_both_ways() {
        let map =
            IdMap::parse("         0     100000      1000\n      1000       1000          1\n").unwrap();
        assert_eq!(map.to_host(0), Some(100_000));
        assert_eq!(map.to_host(999), Some(100_999));
        assert_eq!(map.to_host(1000), Some(1000));
        assert_eq!(map.to_host(1001), None);
        assert_eq!(map.to_inside(100_007), Some(7));
        assert_eq!(map.to_inside(0), None);
        assert!(!map.is_identity());
        assert!(IdMap::parse("0 0 4294967295\n").unwrap().is_identity());
        assert_eq!(IdMap::parse("0 0"), None);
        assert_eq!(IdMap::parse("0 0 1 2"), None);
    }
}
