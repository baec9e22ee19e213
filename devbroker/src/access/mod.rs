//! Which device numbers a container may use: what the filter holds, and the program that applies it.
//!
//! Pure: makes instructions, keys and values. Loading and attaching them is `host::access`.
//!
//! The filter is a hash map. Its key is a kind with a number, with all minors of a major, or with every number; its value
//! holds two sets of accesses, the seed (what the container has by itself, fixed when the filter is made) and the granted
//! (what the broker adds and takes away), kept apart so that taking a grant back never takes the seed. The program allows
//! an access if the three entries that can match hold all of it together.

#[cfg(test)]
mod interpreter;
mod map;
pub mod oci;
mod program;
pub mod takeover;

pub use map::{Key, Value};
pub use program::{Instruction, program};

use crate::model::{Access, DevKind, DevNum};
use std::fmt;

/// Which numbers of one kind a rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Numbers {
    /// Every number.
    All,
    /// All minors of one major.
    Major(u32),
    /// One major and minor.
    One(u32, u32),
}

/// What a container may do by itself, before anything is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeedRule {
    /// Block or character.
    pub kind: DevKind,
    /// Which numbers.
    pub numbers: Numbers,
    /// What is allowed.
    pub access: Access,
}

impl SeedRule {
    /// Whether the rule speaks of `device`.
    pub fn covers(&self, device: DevNum) -> bool {
        self.kind == device.kind
            && match self.numbers {
                Numbers::All => true,
                Numbers::Major(major) => major == device.major,
                Numbers::One(major, minor) => (major, minor) == (device.major, device.minor),
            }
    }
}

/// As in a cgroup's device rules: `c 136:* rwm`.
impl fmt::Display for SeedRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.letter();
        match self.numbers {
            Numbers::All => write!(f, "{kind} *:* {}", self.access),
            Numbers::Major(major) => write!(f, "{kind} {major}:* {}", self.access),
            Numbers::One(major, minor) => write!(f, "{kind} {major}:{minor} {}", self.access),
        }
    }
}

/// What every container has: null, zero, full, random, urandom, tty, ptmx and the pseudo terminals; and it may make nodes
/// of any number, which then do not open. The same set as the OCI runtimes' default.
pub const DEFAULT_SEED: &[SeedRule] = &[
    char_rule(Numbers::One(1, 3), Access::ALL),
    char_rule(Numbers::One(1, 5), Access::ALL),
    char_rule(Numbers::One(1, 7), Access::ALL),
    char_rule(Numbers::One(1, 8), Access::ALL),
    char_rule(Numbers::One(1, 9), Access::ALL),
    char_rule(Numbers::One(5, 0), Access::ALL),
    char_rule(Numbers::One(5, 2), Access::ALL),
    char_rule(Numbers::Major(136), Access::ALL),
    char_rule(Numbers::All, Access::MKNOD),
    SeedRule {
        kind: DevKind::Block,
        numbers: Numbers::All,
        access: Access::MKNOD,
    },
];

const fn char_rule(numbers: Numbers, access: Access) -> SeedRule {
    SeedRule {
        kind: DevKind::Char,
        numbers,
        access,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_print_as_cgroup_rules() {
        let text: Vec<String> = DEFAULT_SEED.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "c 1:3 rwm",
                "c 1:5 rwm",
                "c 1:7 rwm",
                "c 1:8 rwm",
                "c 1:9 rwm",
                "c 5:0 rwm",
                "c 5:2 rwm",
                "c 136:* rwm",
                "c *:* m",
                "b *:* m"
            ]
        );
    }

    #[test]
    fn rules_cover() {
        for (numbers, device, yes) in [
            (Numbers::All, DevNum::char(1, 3), true),
            (Numbers::All, DevNum::block(1, 3), false),
            (Numbers::Major(1), DevNum::char(1, 9), true),
            (Numbers::Major(1), DevNum::char(2, 9), false),
            (Numbers::One(4, 0), DevNum::char(4, 0), true),
            (Numbers::One(4, 0), DevNum::char(4, 1), false),
        ] {
            assert_eq!(
                char_rule(numbers, Access::ALL).covers(device),
                yes,
                "{numbers:?} {device}"
            );
        }
    }
}
