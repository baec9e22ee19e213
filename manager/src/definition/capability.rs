//! Capabilities that a definition adds to the usual ones or takes from them.

use oci_spec::runtime::Capability;
use std::fmt;
use std::str::FromStr;

/// A change to the usual set (`capabilities(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CapabilityChange {
    /// Given, or else taken away.
    pub(crate) given: bool,
    /// Which one.
    pub(crate) capability: Capability,
}

impl fmt::Display for CapabilityChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.capability.to_string();
        let name = name.strip_prefix("CAP_").unwrap_or(&name);
        write!(f, "{}{name}", if self.given { '+' } else { '-' })
    }
}

/// A text that is no change of a capability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CapabilityError {
    #[error("`{0}` says neither + nor -; write `+SYS_TIME` to give, `-NET_RAW` to take away")]
    Sign(String),
    #[error("`{0}` is no capability; capabilities(7) lists them, as in `+SYS_TIME`")]
    Unknown(String),
}

impl FromStr for CapabilityChange {
    type Err = CapabilityError;

    /// A sign and a name, in any case, with or without `CAP_`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (given, name) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(name), _) => (true, name),
            (None, Some(name)) => (false, name),
            (None, None) => return Err(CapabilityError::Sign(text.into())),
        };
        let name = name.to_ascii_uppercase();
        let name = name.strip_prefix("CAP_").unwrap_or(&name);
        serde_json::from_value(serde_json::Value::String(format!("CAP_{name}")))
            .map(|capability| Self { given, capability })
            .map_err(|_| CapabilityError::Unknown(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for (text, shown) in [
            ("+SYS_TIME", "+SYS_TIME"),
            ("-cap_net_raw", "-NET_RAW"),
            ("+CAP_BPF", "+BPF"),
        ] {
            assert_eq!(text.parse::<CapabilityChange>().unwrap().to_string(), shown);
        }
        for bad in ["", "SYS_TIME", "+", "+ALL", "+SYS TIME", "-CAP_"] {
            assert!(bad.parse::<CapabilityChange>().is_err(), "{bad}");
        }
    }
}
