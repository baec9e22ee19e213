//! Names that come from outside: aliases and roles.

use std::fmt;
use std::str::FromStr;

/// Serialises a type through its `Display` and `FromStr`.
macro_rules! serde_as_str {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(super) use serde_as_str;

/// A text that cannot be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what}: {rule}")]
pub struct NameError {
    /// What the text was to be.
    pub what: &'static str,
    /// The text, shortened.
    pub text: String,
    /// What is allowed.
    pub rule: &'static str,
}

/// Checks a name of 1 to `max` bytes: a letter or digit first, then letters, digits and the bytes in `more`.
pub(super) fn check(
    what: &'static str,
    text: &str,
    max: usize,
    more: &[u8],
    rule: &'static str,
) -> Result<(), NameError> {
    let bytes = text.as_bytes();
    let fits = bytes.len() <= max
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || more.contains(b));
    if fits {
        Ok(())
    } else {
        Err(NameError {
            what,
            text: text.chars().take(80).collect(),
            rule,
        })
    }
}

/// A stable name for a device, as the configuration or a udev rule gives it. It becomes a file name below
/// `/dev/devbroker`, so it can hold no slash, does not begin with a dot and does not end in `.d`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AliasName(String);

impl AliasName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AliasName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "use 1 to 64 letters, digits, `-`, `_` and `.`, beginning with a letter or digit and not ending in `.d`";
        check("alias", text, 64, b"-_.", RULE)?;
        if text.as_bytes().ends_with(b".d") {
            return Err(NameError {
                what: "alias",
                text: text.into(),
                rule: RULE,
            });
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for AliasName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_str!(AliasName);

/// Which of a device's nodes, by identity and never by order of arrival: `usb_device`, `tty@if02`, `block@part2`,
/// `dvb@frontend0`; behind a hub with the port chain from the hub in front, as `1.2/tty@if00`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Role(String);

impl Role {
    /// The role.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Role {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "use 1 to 128 letters, digits and `-_.:@+/`, beginning with a letter or digit, without `//` or `..`";
        check("role", text, 128, b"-_.:@+/", RULE)?;
        if text.contains("//") || text.contains("..") || text.ends_with('/') {
            return Err(NameError {
                what: "role",
                text: text.into(),
                rule: RULE,
            });
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_str!(Role);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases() {
        for good in ["scanner", "epson-1670", "a", "0x", "tv.left_2"] {
            assert_eq!(good.parse::<AliasName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".hidden",
            "-x",
            "a/b",
            "a b",
            "é",
            "x.d",
            "..",
            &"a".repeat(65),
        ] {
            assert!(bad.parse::<AliasName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn roles() {
        for good in ["usb_device", "tty@if02", "1.2/tty@if00", "block@part2"] {
            assert_eq!(good.parse::<Role>().unwrap().as_str(), good);
        }
        for bad in ["", "@x", "a//b", "a/../b", "a/", "/a", "a b"] {
            assert!(bad.parse::<Role>().is_err(), "{bad}");
        }
    }
}
