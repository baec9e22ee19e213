//! Keys and values of the filter's map, as the program reads them.

use super::{Numbers, SeedRule};
use crate::model::{Access, DevKind, DevNum};

/// A key: kind (1 block, 2 character), major, minor, each in the machine's byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key([u32; 3]);

impl Key {
    /// Stands for any major or minor. No device has it: majors have 12 bits, minors 20.
    pub const ANY: u32 = u32::MAX;

    /// The key of one device number.
    pub const fn device(device: DevNum) -> Self {
        Self([device.kind as u32, device.major, device.minor])
    }

    /// The key of a rule.
    pub const fn rule(rule: &SeedRule) -> Self {
        let (major, minor) = match rule.numbers {
            Numbers::All => (Self::ANY, Self::ANY),
            Numbers::Major(major) => (major, Self::ANY),
            Numbers::One(major, minor) => (major, minor),
        };
        Self([rule.kind as u32, major, minor])
    }

    /// The key with these words.
    pub const fn from_words(words: [u32; 3]) -> Self {
        Self(words)
    }

    /// The words.
    pub const fn words(&self) -> &[u32; 3] {
        &self.0
    }

    /// The device number, if the key is one's and not a wildcard.
    pub const fn as_device(self) -> Option<DevNum> {
        let [kind, major, minor] = self.0;
        if major == Self::ANY || minor == Self::ANY {
            return None;
        }
        match kind {
            1 => Some(DevNum {
                kind: DevKind::Block,
                major,
                minor,
            }),
            2 => Some(DevNum {
                kind: DevKind::Char,
                major,
                minor,
            }),
            _ => None,
        }
    }
}

/// A value: seed in the lowest byte, granted in the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Value {
    /// What the container has by itself.
    pub seed: Access,
    /// What the broker added.
    pub granted: Access,
}

impl Value {
    /// The word in the map.
    pub const fn word(self) -> u32 {
        self.seed.bits() | self.granted.bits() << 8
    }

    /// The value in the word.
    pub const fn from_word(word: u32) -> Self {
        Self {
            seed: Access::from_bits(word),
            granted: Access::from_bits(word >> 8),
        }
    }

    /// The map's first content. Rules with the same key are joined; order does not matter.
    pub fn seed(rules: &[SeedRule]) -> std::collections::BTreeMap<Key, Self> {
        let mut map = std::collections::BTreeMap::<Key, Self>::new();
        for rule in rules {
            let value = map.entry(Key::rule(rule)).or_default();
            value.seed = value.seed.union(rule.access);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::super::DEFAULT_SEED;
    use super::*;

    #[test]
    fn words_and_back() {
        for (seed, granted, word) in [
            (Access::NONE, Access::NONE, 0),
            (Access::MKNOD, Access::NONE, 1),
            (Access::ALL, Access::READ_WRITE, 0x607),
            (Access::NONE, Access::ALL, 0x700),
        ] {
            let value = Value { seed, granted };
            assert_eq!(value.word(), word);
            assert_eq!(Value::from_word(word), value);
        }
        assert_eq!(
            Value::from_word(0xffff_ffff),
            Value {
                seed: Access::ALL,
                granted: Access::ALL
            }
        );
    }

    #[test]
    fn only_exact_keys_are_devices() {
        assert_eq!(
            Key::device(DevNum::char(188, 0)).as_device(),
            Some(DevNum::char(188, 0))
        );
        assert_eq!(Key::device(DevNum::block(8, 1)).words(), &[1, 8, 1]);
        let wild: Vec<_> = DEFAULT_SEED
            .iter()
            .filter(|rule| Key::rule(rule).as_device().is_none())
            .map(ToString::to_string)
            .collect();
        assert_eq!(wild, ["c 136:* rwm", "c *:* m", "b *:* m"]);
        assert_eq!(Key::from_words([3, 1, 1]).as_device(), None);
    }
}
