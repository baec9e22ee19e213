//! What may be done with a device: read, write, mknod.

use std::fmt;
use std::str::FromStr;

/// A set of device accesses. The bits are those of the cgroup device program's context (`BPF_DEVCG_ACC_MKNOD` = 1,
/// `BPF_DEVCG_ACC_READ` = 2, `BPF_DEVCG_ACC_WRITE` = 4 in `linux/bpf.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Access(u8);

impl Access {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Make a node with this number.
    pub const MKNOD: Self = Self(1);
    /// Open for reading.
    pub const READ: Self = Self(2);
    /// Open for writing.
    pub const WRITE: Self = Self(4);
    /// Open for reading and writing: what a grant gives unless it says otherwise.
    pub const READ_WRITE: Self = Self(6);
    /// All three.
    pub const ALL: Self = Self(7);

    /// The bits as the kernel has them.
    pub const fn bits(self) -> u32 {
        self.0 as u32
    }

    /// The set with these bits; bits that the kernel does not know are dropped.
    pub const fn from_bits(bits: u32) -> Self {
        Self((bits & 7) as u8)
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether nothing is allowed.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [(Self::READ, "r"), (Self::WRITE, "w"), (Self::MKNOD, "m")] {
            if self.contains(bit) {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// A text that is no set of accesses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no access; write r (read), w (write) or rw, with m where the container may also mknod it")]
pub struct AccessError(String);

impl FromStr for Access {
    type Err = AccessError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut all = Self::NONE;
        for letter in text.chars() {
            let bit = match letter {
                'r' => Self::READ,
                'w' => Self::WRITE,
                'm' => Self::MKNOD,
                _ => return Err(AccessError(text.chars().take(40).collect())),
            };
            if all.contains(bit) {
                return Err(AccessError(text.chars().take(40).collect()));
            }
            all = all.union(bit);
        }
        if all.is_empty() {
            Err(AccessError(String::new()))
        } else {
            Ok(all)
        }
    }
}

super::name::serde_as_str!(Access);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in ["r", "w", "m", "rw", "rm", "wm", "rwm"] {
            assert_eq!(text.parse::<Access>().unwrap().to_string(), text);
        }
        assert_eq!("mrw".parse(), Ok(Access::ALL));
        for text in ["", "rr", "x", "rwx", "RW"] {
            assert!(text.parse::<Access>().is_err(), "{text}");
        }
    }
}
