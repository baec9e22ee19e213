//! When a container starts by itself.

use devbroker::model::AliasName;
use std::fmt;
use std::str::FromStr;

/// What starts a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Start {
    /// `ctm start` alone.
    #[default]
    Manual,
    /// The machine's boot.
    Boot,
    /// The device that holds this alias: started when it comes, stopped when it goes.
    Device(AliasName),
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manual => f.write_str("manual"),
            Self::Boot => f.write_str("boot"),
            Self::Device(alias) => write!(f, "device:{alias}"),
        }
    }
}

/// A text that names no start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StartError {
    #[error("`{0}` is nothing that starts a container; write `manual`, `boot` or `device:ALIAS`")]
    Unknown(String),
    #[error("{0}")]
    Alias(String),
}

impl FromStr for Start {
    type Err = StartError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.strip_prefix("device:")) {
            ("manual", _) => Ok(Self::Manual),
            ("boot", _) => Ok(Self::Boot),
            (_, Some(alias)) => alias
                .parse()
                .map(Self::Device)
                .map_err(|e| StartError::Alias(format!("{e}"))),
            (_, None) => Err(StartError::Unknown(text.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in ["manual", "boot", "device:epson-1670"] {
            assert_eq!(text.parse::<Start>().unwrap().to_string(), text);
        }
        for bad in ["", "Boot", "device:", "device:../x", "alias:x"] {
            assert!(bad.parse::<Start>().is_err(), "{bad}");
        }
    }
}
