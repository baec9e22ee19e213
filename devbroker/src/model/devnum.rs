//! Device numbers: kind, major and minor.

use std::fmt;
use std::str::FromStr;

/// Block or character device. The discriminants are those of the cgroup device program's context
/// (`BPF_DEVCG_DEV_BLOCK` = 1, `BPF_DEVCG_DEV_CHAR` = 2 in `linux/bpf.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DevKind {
    /// A block device.
    Block = 1,
    /// A character device.
    Char = 2,
}

impl DevKind {
    /// `b` or `c`, as in `mknod(1)` and cgroup device rules.
    pub const fn letter(self) -> char {
        match self {
            Self::Block => 'b',
            Self::Char => 'c',
        }
    }
}

/// One device number, printed as `c188:0` (the form of the files in `/run/udev/data`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevNum {
    /// Block or character.
    pub kind: DevKind,
    /// Major number, 12 bits in the kernel's encoding.
    pub major: u32,
    /// Minor number, 20 bits in the kernel's encoding. Zero is a valid minor.
    pub minor: u32,
}

impl DevNum {
    /// A character device number.
    pub const fn char(major: u32, minor: u32) -> Self {
        Self {
            kind: DevKind::Char,
            major,
            minor,
        }
    }

    /// A block device number.
    pub const fn block(major: u32, minor: u32) -> Self {
        Self {
            kind: DevKind::Block,
            major,
            minor,
        }
    }

    /// The number as the C library's `dev_t` has it.
    pub const fn dev(self) -> libc::dev_t {
        libc::makedev(self.major, self.minor)
    }

    /// The number in a `dev_t` of the C library.
    pub const fn from_dev(kind: DevKind, dev: libc::dev_t) -> Self {
        Self {
            kind,
            major: libc::major(dev),
            minor: libc::minor(dev),
        }
    }

    /// The device that a `stat` result describes, if it describes one.
    pub const fn from_stat(mode: libc::mode_t, rdev: libc::dev_t) -> Option<Self> {
        match mode & libc::S_IFMT {
            libc::S_IFCHR => Some(Self::from_dev(DevKind::Char, rdev)),
            libc::S_IFBLK => Some(Self::from_dev(DevKind::Block, rdev)),
            _ => None,
        }
    }
}

impl fmt::Display for DevNum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}:{}", self.kind.letter(), self.major, self.minor)
    }
}

/// A text that is no device number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no device number; write it as c188:0 (character) or b8:1 (block)")]
pub struct DevNumError(String);

impl FromStr for DevNum {
    type Err = DevNumError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (kind, rest) = match text.split_at_checked(1)? {
                ("b", rest) => (DevKind::Block, rest),
                ("c", rest) => (DevKind::Char, rest),
                _ => return None,
            };
            let (major, minor) = rest.split_once(':')?;
            let (major, minor) = (number(major)?, number(minor)?);
            (major < 1 << 12 && minor < 1 << 20).then_some(Self { kind, major, minor })
        };
        parse().ok_or_else(|| DevNumError(text.chars().take(40).collect()))
    }
}

/// Decimal digits only: `u32::from_str` would take a sign.
fn number(text: &str) -> Option<u32> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

super::name::serde_as_str!(DevNum);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for (text, num) in [
            ("c188:0", Some(DevNum::char(188, 0))),
            ("b8:17", Some(DevNum::block(8, 17))),
            ("c4095:1048575", Some(DevNum::char(4095, 1_048_575))),
            ("c4096:0", None),
            ("c1:1048576", None),
            ("c188", None),
            ("188:0", None),
            ("c+1:2", None),
            ("c1:", None),
            ("", None),
            ("é1:2", None),
        ] {
            assert_eq!(text.parse().ok(), num, "{text}");
            if let Some(num) = num {
                assert_eq!(num.to_string(), text);
                assert_eq!(DevNum::from_dev(num.kind, num.dev()), num);
            }
        }
    }
}
