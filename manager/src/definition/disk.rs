//! What a container may have on the disk, as a definition says it. Pure.

use super::value::{Fault, Value, string};
use crate::quantity::{Limit, Size};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Limits of disk space and of files. No limit unless said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Texts", try_from = "Texts")]
pub(crate) struct DiskLimits {
    /// No more than this, ever.
    pub(crate) space: Size,
    /// No more than this for longer than the grace time.
    pub(crate) space_soft: Size,
    /// No more files of any kind than this, ever.
    pub(crate) inodes: Limit,
    /// No more than this for longer than the grace time.
    pub(crate) inodes_soft: Limit,
    /// That time; none: whatever the file system has.
    pub(crate) grace: Option<Grace>,
}

impl Default for DiskLimits {
    fn default() -> Self {
        Self {
            space: Size::Unlimited,
            space_soft: Size::Unlimited,
            inodes: Limit::Unlimited,
            inodes_soft: Limit::Unlimited,
            grace: None,
        }
    }
}

impl DiskLimits {
    /// Whether nothing is limited. A grace time by itself limits nothing.
    pub(crate) fn is_none(&self) -> bool {
        let Self {
            space,
            space_soft,
            inodes,
            inodes_soft,
            grace: _,
        } = self;
        [space, space_soft]
            .into_iter()
            .all(|size| *size == Size::Unlimited)
            && [inodes, inodes_soft]
                .into_iter()
                .all(|limit| *limit == Limit::Unlimited)
    }
}

impl fmt::Display for DiskLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            space,
            space_soft,
            inodes,
            inodes_soft,
            grace,
        } = self;
        let size = |size: &Size| (*size != Size::Unlimited).then(|| size.to_string());
        let count = |limit: &Limit| limit.at().map(|at| at.to_string());
        let said = [
            ("disk_space", size(space)),
            ("disk_space_soft", size(space_soft)),
            ("disk_inodes", count(inodes)),
            ("disk_inodes_soft", count(inodes_soft)),
            ("disk_grace", grace.map(|grace| grace.to_string())),
        ];
        let words: Vec<_> = said
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name} {}", value?)))
            .collect();
        f.write_str(&words.join(", "))
    }
}

/// How long a soft limit may be exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Grace(Duration);

impl Grace {
    /// In seconds.
    pub(crate) fn seconds(self) -> u64 {
        self.0.as_secs()
    }
}

/// Units of times, the largest first, in seconds.
const UNITS: [(char, u64); 5] = [('w', 604_800), ('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];
/// The kernel counts to 2^32 - 1 on file systems that keep 32 bits of it.
const MAX_GRACE: u64 = 52 * 604_800;

/// A text that is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no grace time; write it as in `7d`, with s, m, h, d or w behind the number, up to a year")]
pub(crate) struct GraceError(String);

impl FromStr for Grace {
    type Err = GraceError;

    /// A whole number of seconds, or of a unit behind it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unit = UNITS.iter().find(|(name, _)| text.ends_with(*name));
        let (number, factor) = match unit {
            Some((name, factor)) => (text.strip_suffix(*name).unwrap_or(text), *factor),
            None => (text, 1),
        };
        let is_number = number.bytes().all(|b| b.is_ascii_digit());
        let seconds = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
        match seconds {
            Some(seconds @ 1..=MAX_GRACE) if is_number => Ok(Self(Duration::from_secs(seconds))),
            _ => Err(GraceError(text.into())),
        }
    }
}

impl fmt::Display for Grace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        // Weeks are read and shown as days.
        match UNITS.iter().skip(1).find(|(_, unit)| seconds % unit == 0) {
            Some((name, unit)) => write!(f, "{}{name}", seconds / unit),
            None => write!(f, "{seconds}s"),
        }
    }
}

/// A number of files: a text, or a whole number.
pub(super) fn inodes(value: &Value<'_>) -> Result<Limit, Fault> {
    amount(value)
}

/// A grace time, empty: none of its own.
pub(super) fn grace(value: &Value<'_>) -> Result<Option<Grace>, Fault> {
    match value.get_ref().as_str() {
        Some("") => Ok(None),
        _ => amount(value).map(Some),
    }
}

fn amount<T: FromStr<Err: fmt::Display>>(value: &Value<'_>) -> Result<T, Fault> {
    let text = match value.get_ref().as_integer() {
        Some(integer) if integer.radix() == 10 => integer.as_str(),
        _ => string(value)?,
    };
    text.parse().map_err(|error| Fault::of(value, format!("{error}")))
}

/// The limits as they are written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Texts {
    space: String,
    space_soft: String,
    inodes: String,
    inodes_soft: String,
    grace: Option<String>,
}

impl From<DiskLimits> for Texts {
    fn from(limits: DiskLimits) -> Self {
        Self {
            space: limits.space.to_string(),
            space_soft: limits.space_soft.to_string(),
            inodes: limits.inodes.to_string(),
            inodes_soft: limits.inodes_soft.to_string(),
            grace: limits.grace.map(|grace| grace.to_string()),
        }
    }
}

impl TryFrom<Texts> for DiskLimits {
    type Error = String;

    fn try_from(texts: Texts) -> Result<Self, String> {
        fn read<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<T, String> {
            text.parse().map_err(|error| format!("{error}"))
        }
        Ok(Self {
            space: read(&texts.space)?,
            space_soft: read(&texts.space_soft)?,
            inodes: read(&texts.inodes)?,
            inodes_soft: read(&texts.inodes_soft)?,
            grace: texts.grace.as_deref().map(read).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grace_times() {
        for (text, seconds, shown) in [
            ("1w", 604_800, "7d"),
            ("36h", 129_600, "36h"),
            ("90", 90, "90s"),
            ("1s", 1, "1s"),
            ("52w", 31_449_600, "364d"),
        ] {
            let grace: Grace = text.parse().unwrap();
            assert_eq!((grace.seconds(), grace.to_string().as_str()), (seconds, shown));
            assert_eq!(grace.to_string().parse(), Ok(grace));
        }
        for bad in [
            "",
            "d",
            "0",
            "0s",
            "7dd",
            "7 d",
            "-1d",
            "+1d",
            "1.5d",
            "53w",
            "99999999999999999999",
            "7D",
        ] {
            assert!(bad.parse::<Grace>().is_err(), "{bad}");
        }
    }

    #[test]
    fn written_down_and_read() {
        let limits = DiskLimits {
            space: "1G".parse().unwrap(),
            space_soft: "12.5%".parse().unwrap(),
            inodes: Limit::At(100),
            inodes_soft: Limit::Unlimited,
            grace: Some("36h".parse().unwrap()),
        };
        let text = serde_json::to_string(&limits).unwrap();
        assert_eq!(serde_json::from_str::<DiskLimits>(&text).unwrap(), limits);
        assert_eq!(
            limits.to_string(),
            "disk_space 1G, disk_space_soft 12.5%, disk_inodes 100, disk_grace 36h"
        );
        assert!(DiskLimits::default().is_none() && !limits.is_none());
        let grace = DiskLimits {
            grace: limits.grace,
            ..DiskLimits::default()
        };
        assert!(grace.is_none());
    }
}
