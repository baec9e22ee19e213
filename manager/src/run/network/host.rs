//! The host's own network, as far as it concerns containers': its addresses, the networks that it is in, what it passes on.

use super::look::Interface;
use super::tool::{self, Tool};
use super::{NetworkError, PREFIX};
use crate::definition::Address;
use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

/// Where settings that the host lacks are put.
const SYSCTLS: &str = "/etc/sysctl.d/60-ctm.conf";

/// An address of the host's on one of its interfaces, with the network around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lan {
    pub(crate) device: String,
    pub(crate) ip: IpAddr,
    /// How long the network's prefix is.
    pub(crate) prefix: u8,
}

impl Lan {
    /// Whether an address is one of this network.
    pub(crate) fn covers(&self, ip: IpAddr) -> bool {
        let (own, other, length) = match (self.ip, ip) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (
                u128::from(own.to_bits()) << 96,
                u128::from(other.to_bits()) << 96,
                32,
            ),
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits(), other.to_bits(), 128),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
        };
        let differ = own ^ other;
        self.prefix < length && u32::from(self.prefix) <= differ.leading_zeros()
    }
}

/// Which settings of the host's are off that containers' networks need.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Reach {
    off: BTreeSet<String>,
}

/// The host's network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Host {
    /// All its addresses, but for those of links to containers.
    pub(crate) addresses: Vec<Lan>,
    /// Those of them whose interfaces have neighbours that ask for addresses.
    pub(crate) lans: Vec<Lan>,
    pub(crate) reach: Reach,
}

impl Host {
    /// This one's.
    pub(crate) fn read() -> Result<Self, NetworkError> {
        let interfaces: Vec<Interface> = tool::asked(Tool::Ip, None, &["address", "show"])?;
        Ok(Self::of(&interfaces, |name| {
            fs::read_to_string(format!("/proc/sys/{name}")).is_ok_and(|text| text.trim() == "0")
        }))
    }

    /// That of a host with these interfaces; `is_off` says of a setting (`net/ipv4/ip_forward`) whether it is there and 0.
    pub(super) fn of(interfaces: &[Interface], is_off: impl Fn(&str) -> bool) -> Self {
        let mut host = Self::default();
        for interface in interfaces.iter().filter(|one| !one.name.starts_with(PREFIX)) {
            for (ip, prefix) in interface.addresses() {
                let lan = Lan {
                    device: interface.name.clone(),
                    ip,
                    prefix,
                };
                if interface.has_neighbours() {
                    host.lans.push(lan.clone());
                }
                host.addresses.push(lan);
            }
        }
        let forwarding = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"].map(str::to_owned);
        let answering = host.lans.iter().map(|lan| answering(&lan.device));
        let names = forwarding.into_iter().chain(answering);
        host.reach.off = names.filter(|name| is_off(name)).collect();
        host
    }

    /// A host with one address, where these settings are off.
    #[cfg(test)]
    pub(crate) fn described(device: &str, ip: &str, off: &[&str]) -> Self {
        let lan = Lan {
            device: device.into(),
            ip: ip.parse().unwrap(),
            prefix: 24,
        };
        Self {
            addresses: vec![lan.clone()],
            lans: vec![lan],
            reach: Reach {
                off: off.iter().map(ToString::to_string).collect(),
            },
        }
    }

    /// On which of its own interfaces the host has an address.
    pub(crate) fn device_of(&self, ip: IpAddr) -> Option<&str> {
        let mut own = self.addresses.iter();
        own.find(|lan| lan.ip == ip).map(|lan| lan.device.as_str())
    }

    /// Why these addresses are not reached from elsewhere, and what to do about it; nothing where they are.
    pub(crate) fn not_passed_on(&self, addresses: &[Address]) -> Option<String> {
        let mut needed = BTreeSet::new();
        for address in addresses {
            if address.is_ipv4() {
                needed.insert("net/ipv4/ip_forward".to_owned());
            } else {
                needed.insert("net/ipv6/conf/all/forwarding".to_owned());
                let near = self.lans.iter().filter(|lan| lan.covers(address.ip()));
                needed.extend(near.map(|lan| answering(&lan.device)));
            }
        }
        let lines: Vec<_> = needed
            .intersection(&self.reach.off)
            .map(|name| format!("{} = 1", dotted(name)))
            .collect();
        if lines.is_empty() {
            return None;
        }
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        Some(format!(
            "this host does not pass on what is for {}; put `{}` into {SYSCTLS} and run `sysctl --system`",
            addresses.join(", "),
            lines.join("`, `")
        ))
    }
}

/// The setting by which the host answers for others' IPv6 addresses on an interface, for those alone that it is told of.
fn answering(device: &str) -> String {
    format!("net/ipv6/conf/{device}/proxy_ndp")
}

/// A setting's name as people write it; with a dot in the interface's name only slashes can tell them apart.
fn dotted(name: &str) -> String {
    if name.contains('.') {
        name.into()
    } else {
        name.replace('/', ".")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = r#"[
        {"ifname":"lo","flags":["LOOPBACK","UP","LOWER_UP"],"addr_info":[
            {"family":"inet","local":"127.0.0.1","prefixlen":8,"scope":"host"}]},
        {"ifname":"eth0","flags":["BROADCAST","MULTICAST","UP","LOWER_UP"],"addr_info":[{},
            {"family":"inet","local":"192.0.2.1","prefixlen":24,"scope":"global"},
            {"family":"inet6","local":"2001:db8::1","prefixlen":64,"scope":"global"},
            {"family":"inet6","local":"fe80::1234","prefixlen":64,"scope":"link"}]},
        {"ifname":"eth1","flags":["BROADCAST","MULTICAST"],"addr_info":[
            {"family":"inet","local":"198.51.100.1","prefixlen":24,"scope":"global"}]},
        {"ifname":"tun0","flags":["POINTOPOINT","NOARP","UP"],"addr_info":[
            {"family":"inet","local":"10.8.0.1","prefixlen":24,"scope":"global"}]},
        {"ifname":"ctm-web","flags":["BROADCAST","UP"],"addr_info":[
            {"family":"inet","local":"169.254.0.1","prefixlen":32,"scope":"host"}]}
    ]"#;

    fn host(off: &[&str]) -> Host {
        Host::of(&serde_json::from_str::<Vec<Interface>>(HOST).unwrap(), |name| {
            off.contains(&name)
        })
    }

    fn addresses(all: &[&str]) -> Vec<Address> {
        all.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn whose_an_address_is_and_where_it_is_asked_for() {
        let host = host(&[]);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(host.device_of(ip("192.0.2.1")), Some("eth0"));
        assert_eq!(host.device_of(ip("198.51.100.1")), Some("eth1"));
        assert_eq!(host.device_of(ip("10.8.0.1")), Some("tun0"));
        assert_eq!(host.device_of(ip("192.0.2.2")), None);
        for (text, device) in [
            ("192.0.2.10", Some("eth0")),
            ("192.0.3.10", None),
            ("198.51.100.7", None),
            ("10.8.0.7", None),
            ("2001:db8::10", Some("eth0")),
            ("2001:db8:0:1::10", None),
        ] {
            let near = host.lans.iter().find(|lan| lan.covers(ip(text)));
            assert_eq!(near.map(|lan| lan.device.as_str()), device, "{text}");
        }
        // A prefix of all bits is no network; one of none is all of them.
        let lan = |prefix| Lan {
            device: "x".into(),
            ip: ip("192.0.2.1"),
            prefix,
        };
        assert!(!lan(32).covers(ip("192.0.2.1")) && lan(0).covers(ip("8.8.8.8")));
    }

    #[test]
    fn what_the_host_lacks() {
        let all = [
            "net/ipv4/ip_forward",
            "net/ipv6/conf/all/forwarding",
            "net/ipv6/conf/eth0/proxy_ndp",
        ];
        let both = addresses(&["192.0.2.10", "2001:db8::10"]);
        assert_eq!(host(&[]).not_passed_on(&both), None);
        assert_eq!(host(&all[1..]).not_passed_on(&both[..1]), None);
        assert_eq!(
            host(&all).not_passed_on(&both).unwrap(),
            "this host does not pass on what is for 192.0.2.10, 2001:db8::10; put `net.ipv4.ip_forward = 1`, \
             `net.ipv6.conf.all.forwarding = 1`, `net.ipv6.conf.eth0.proxy_ndp = 1` into /etc/sysctl.d/60-ctm.conf and run \
             `sysctl --system`"
        );
        // Nobody asks for what is in none of the host's networks.
        let far = addresses(&["2001:db9::10"]);
        assert_eq!(host(&all[2..]).not_passed_on(&far), None);
        assert_eq!(host(&all).not_passed_on(&[]), None);
        assert_eq!(
            dotted("net/ipv6/conf/eth0.7/proxy_ndp"),
            "net/ipv6/conf/eth0.7/proxy_ndp"
        );
    }
}
