//! Addresses of a container: those that it can have, and the list of them in a definition. Pure.

use super::value::{Fault, Value, list, string};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// How a list of addresses is written.
const HELP: &str = "as in `ip = [\"192.0.2.10\", \"2001:db8::10\"]`";

/// An address that can be routed to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "IpAddr", into = "IpAddr")]
pub(crate) struct Address(IpAddr);

/// A text that is no such address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    #[error("`{0}` is no IPv4 or IPv6 address")]
    Text(String),
    #[error(
        "`{0}` has a prefix length, and an address alone is routed to a container; leave `/` and what follows out"
    )]
    Prefix(String),
    #[error("{0} is {1}, which no container can have")]
    Unusable(IpAddr, &'static str),
    #[error("{0} is an IPv4 address in IPv6's clothes; write it as {1}")]
    Mapped(Ipv6Addr, Ipv4Addr),
}

impl Address {
    pub(crate) const fn ip(self) -> IpAddr {
        self.0
    }

    pub(crate) const fn is_ipv4(self) -> bool {
        self.0.is_ipv4()
    }
}

/// What an address is that can be nobody's own.
fn unusable(ip: IpAddr) -> Option<&'static str> {
    let is_v4 = |test: fn(&Ipv4Addr) -> bool| matches!(ip, IpAddr::V4(v4) if test(&v4));
    let is_v6 = |test: fn(&Ipv6Addr) -> bool| matches!(ip, IpAddr::V6(v6) if test(&v6));
    [
        (ip.is_unspecified(), "the unspecified address"),
        (ip.is_loopback(), "a loopback address"),
        (ip.is_multicast(), "a multicast address"),
        (is_v4(Ipv4Addr::is_broadcast), "the broadcast address"),
        (is_v4(Ipv4Addr::is_link_local), "a link-local address"),
        (is_v6(Ipv6Addr::is_unicast_link_local), "a link-local address"),
        // Of "this network" (RFC 1122, 3.2.1.3): the kernel drops what comes from there.
        (is_v4(|v4| v4.octets()[0] == 0), "in 0.0.0.0/8"),
    ]
    .into_iter()
    .find_map(|(is_so, what)| is_so.then_some(what))
}

impl TryFrom<IpAddr> for Address {
    type Error = AddressError;

    fn try_from(ip: IpAddr) -> Result<Self, Self::Error> {
        if let Some(what) = unusable(ip) {
            return Err(AddressError::Unusable(ip, what));
        }
        if let IpAddr::V6(v6) = ip {
            if let Some(v4) = v6.to_ipv4_mapped() {
                return Err(AddressError::Mapped(v6, v4));
            }
        }
        Ok(Self(ip))
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        address.0
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ip: IpAddr = text.parse().map_err(|_| {
            if text.contains('/') {
                AddressError::Prefix(text.into())
            } else {
                AddressError::Text(text.into())
            }
        })?;
        ip.try_into()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A list of addresses, each of them once.
pub(super) fn addresses(value: &Value<'_>) -> Result<Vec<Address>, Fault> {
    let mut seen = Vec::new();
    list(value, HELP, |value| {
        let address: Address = string(value)
            .map_err(|fault| fault.help(HELP))?
            .parse()
            .map_err(|e: AddressError| Fault::of(value, e.to_string()).help(HELP))?;
        if seen.contains(&address) {
            return Err(Fault::of(value, format!("{address} is said twice")));
        }
        seen.push(address);
        Ok(address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::{Definition, KEYS};
    use crate::ids::Ids;
    use crate::layout::Layout;
    use proptest::prelude::*;
    use std::path::Path;

    fn parse(text: &str) -> Result<Definition, String> {
        let name = "a".parse().unwrap();
        let text = format!("userns = false\n{text}\n");
        Definition::parse(&name, Path::new("a.toml"), text.as_bytes(), &Layout::default())
            .map_err(|faults| faults.to_string())
    }

    #[test]
    fn said_and_shown() {
        let definition = parse("ip = [\"192.0.2.10\", \"2001:DB8:0::10\", \"10.0.0.255\"]").unwrap();
        let text = definition.text(&Layout::default());
        assert!(
            text.contains("\nip = [\"192.0.2.10\", \"2001:db8::10\", \"10.0.0.255\"]\n"),
            "{text}"
        );
        assert_eq!(
            parse(text.replace("userns = false", "").trim()).unwrap(),
            definition
        );
        let usual = Definition::new("a".parse().unwrap(), Ids::Host, &Layout::default());
        assert_eq!(parse("ip = []").unwrap(), usual);
        // It is the container's alone, so that no profile says it.
        assert!(KEYS.iter().any(|key| key.name == "ip" && key.identity));
    }

    #[test]
    fn what_no_container_can_have() {
        let faults = parse("ip = [\"192.0.2.10\", \"127.0.0.1\"]").unwrap_err();
        assert_eq!(
            faults,
            "a.toml:2:21: error: 127.0.0.1 is a loopback address, which no container can have\n   |\n \
             2 | ip = [\"192.0.2.10\", \"127.0.0.1\"]\n   |                     ^^^^^^^^^^^\n   \
             = as in `ip = [\"192.0.2.10\", \"2001:db8::10\"]`"
        );
        for (text, part) in [
            ("\"0.0.0.0\"", "0.0.0.0 is the unspecified address"),
            ("\"::\"", ":: is the unspecified address"),
            ("\"0.1.2.3\"", "0.1.2.3 is in 0.0.0.0/8"),
            ("\"127.9.9.9\"", "a loopback address"),
            ("\"::1\"", "a loopback address"),
            ("\"224.0.0.1\"", "a multicast address"),
            ("\"ff02::1\"", "a multicast address"),
            ("\"255.255.255.255\"", "the broadcast address"),
            ("\"169.254.0.7\"", "a link-local address"),
            ("\"fe80::7\"", "a link-local address"),
            ("\"::ffff:192.0.2.1\"", "write it as 192.0.2.1"),
            ("\"192.0.2.10/24\"", "leave `/` and what follows out"),
            ("\"192.0.2.010\"", "no IPv4 or IPv6 address"),
            ("\"fe80::7%eth0\"", "no IPv4 or IPv6 address"),
            ("\"web.example\"", "no IPv4 or IPv6 address"),
            ("\"\"", "no IPv4 or IPv6 address"),
            ("7", "expected a string, found integer"),
            ("\"192.0.2.1\", \"192.0.2.1\"", "192.0.2.1 is said twice"),
            ("\"2001:db8::1\", \"2001:0db8::1\"", "2001:db8::1 is said twice"),
        ] {
            let shown = parse(&format!("ip = [{text}]")).unwrap_err();
            assert!(shown.contains(part), "{text}: {shown}");
        }
        assert!(
            parse("ip = \"192.0.2.1\"")
                .unwrap_err()
                .contains("expected a list")
        );
    }

    proptest! {
        #[test]
        fn shown_reads_the_same(bits: u128, is_ipv4: bool) {
            let ip: IpAddr = if is_ipv4 {
                Ipv4Addr::from_bits(u32::try_from(bits >> 96).unwrap()).into()
            } else {
                Ipv6Addr::from_bits(bits).into()
            };
            if let Ok(address) = Address::try_from(ip) {
                prop_assert_eq!(address.to_string().parse::<Address>(), Ok(address));
                let json = serde_json::to_string(&address).unwrap();
                prop_assert_eq!(serde_json::from_str::<Address>(&json).unwrap(), address);
            }
        }

        #[test]
        fn any_text_is_refused_or_an_address(text: String) {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(unusable(address.ip()), None);
            }
        }
    }
}
