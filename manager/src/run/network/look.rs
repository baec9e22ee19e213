//! What is there of a container's network, on the host and in the container: reads what `ip` and `tc` say in JSON.

use super::host::Host;
use super::plan::{Link, Seen, settings};
use super::tool::{self, Tool};
use super::{Family, INSIDE, NetworkError, Rule, Wanted, gateway};
use crate::definition::Address;
use crate::run::namespace::Network;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::Path;

/// The mark of neighbour entries that are ctm's, a routing protocol's number that nobody has (`rtnetlink(7)`).
pub(super) const PROTOCOL: &str = "67";

/// An interface with its addresses, as `ip -details address show` has it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Interface {
    #[serde(rename = "ifname")]
    pub(super) name: String,
    ifindex: Option<u32>,
    /// The number of its other end, where that is.
    link_index: Option<u32>,
    flags: Vec<String>,
    /// What it is called besides.
    ifalias: Option<String>,
    addr_info: Vec<AddressInfo>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AddressInfo {
    local: Option<IpAddr>,
    prefixlen: u8,
}

impl Interface {
    pub(super) fn addresses(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        self.addr_info
            .iter()
            .filter_map(|info| Some((info.local?, info.prefixlen)))
    }

    fn is(&self, flag: &str) -> bool {
        self.flags.iter().any(|is| is == flag)
    }

    /// Whether somebody on it asks for addresses.
    pub(super) fn has_neighbours(&self) -> bool {
        self.is("UP")
            && !["LOOPBACK", "POINTOPOINT", "NOARP"]
                .iter()
                .any(|flag| self.is(flag))
    }
}

/// A route, as `ip route show` has it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Route {
    dst: String,
    /// Where it is in another than the usual one.
    table: Option<String>,
    gateway: Option<IpAddr>,
    prefsrc: Option<IpAddr>,
}

/// A neighbour that the host answers for, as `ip neighbour show proxy` has it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Proxy {
    dst: Option<IpAddr>,
    dev: String,
    protocol: Option<String>,
}

/// A queueing discipline, as `tc qdisc show` has it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Qdisc {
    kind: String,
}

/// A filter, as `tc filter show` has it; its head, which says no more than its place, and each of its rules.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Filter {
    protocol: String,
    pref: u16,
    kind: String,
    options: Option<Options>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Options {
    keys: BTreeMap<String, Value>,
    actions: Vec<Action>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Action {
    kind: String,
    control_action: Control,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Control {
    #[serde(rename = "type")]
    kind: String,
}

/// Whether there is something by the host's end's name.
pub(super) fn has_link(wanted: &Wanted) -> bool {
    Path::new("/sys/class/net").join(wanted.device()).exists()
}

/// Looks at the host and, if it runs, at the container. `known` are addresses that it may have had.
pub(super) fn look(
    wanted: &Wanted,
    known: &BTreeSet<Address>,
    network: Option<&Network>,
) -> Result<Seen, NetworkError> {
    let device = wanted.device();
    let interfaces: Vec<Interface> = tool::asked(Tool::Ip, None, &["-details", "address", "show"])?;
    let proxies: Vec<Proxy> = tool::asked(Tool::Ip, None, &["neighbour", "show", "proxy"])?;
    let mut seen = Seen {
        has_ipv6: has_ipv6(),
        lans: Host::of(&interfaces, |_| false).lans,
        proxies: proxies
            .into_iter()
            .filter_map(|proxy| {
                let is_known = |ip| known.iter().any(|address| address.ip() == ip);
                let is_ours = proxy.protocol.as_deref() == Some(PROTOCOL) && is_known(proxy.dst?);
                Some(((proxy.dst?, proxy.dev), is_ours))
            })
            .collect(),
        ..Seen::default()
    };
    let Some(end) = interfaces.iter().find(|one| one.name == device) else {
        return Ok(seen);
    };
    let other = end.ifalias.as_deref();
    if let Some(other) = other.filter(|other| *other != wanted.name.as_str()) {
        // Who wants nothing of its own has nothing to do with it.
        return if wanted.addresses.is_empty() {
            Ok(seen)
        } else {
            let other = other.into();
            Err(NetworkError::Foreign { device, other })
        };
    }
    // Whose link is to go is not asked what is on it: what its root has put there is no reason that it stays.
    let asked = network.filter(|_| !wanted.addresses.is_empty());
    let inside = asked.map(|network| inside(network, end)).transpose()?.flatten();
    seen.link = Some(Link {
        is_up: end.is("UP"),
        is_paired: inside.is_some(),
    });
    let Some(inside) = inside else {
        return Ok(seen);
    };
    seen.host = end.addresses().collect();
    for setting in settings() {
        let text = fs::read_to_string(super::apply::file_of(setting, &device));
        seen.settings
            .extend(text.ok().map(|text| (setting, text.trim().to_owned())));
    }
    let qdiscs: Vec<Qdisc> = tool::asked(Tool::Tc, None, &["qdisc", "show", "dev", &device])?;
    seen.is_guarded = qdiscs.iter().any(|qdisc| qdisc.kind == "clsact");
    if seen.is_guarded {
        let filters: Vec<Filter> =
            tool::asked(Tool::Tc, None, &["filter", "show", "dev", &device, "ingress"])?;
        seen.rules = rules(&filters);
    }
    let routes: Vec<Route> = tool::asked(Tool::Ip, None, &["route", "show", "table", "all", "dev", &device])?;
    seen.routes = routes
        .iter()
        .filter(|route| route.table.is_none())
        .filter_map(|route| route.dst.parse().ok())
        .collect();
    seen.inside_is_up = inside.end.is("UP");
    seen.inside = inside.end.addresses().collect();
    seen.defaults = inside.defaults;
    Ok(seen)
}

/// Whether the kernel has IPv6.
pub(super) fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// The container's side.
struct Inside {
    end: Interface,
    defaults: BTreeMap<Family, Option<IpAddr>>,
}

/// Looks inside; nothing where the host's end does not lead there.
fn inside(network: &Network, host: &Interface) -> Result<Option<Inside>, NetworkError> {
    let interfaces: Vec<Interface> = tool::asked(Tool::Ip, Some(network), &["address", "show"])?;
    let is_other = |one: &Interface| {
        one.ifindex.is_some() && one.ifindex == host.link_index && one.link_index == host.ifindex
    };
    let Some(end) = interfaces
        .into_iter()
        .find(|one| one.name == INSIDE && is_other(one))
    else {
        return Ok(None);
    };
    let mut defaults = BTreeMap::new();
    for family in [Family::V4, Family::V6] {
        let words: &[&str] = match family {
            Family::V4 => &["-4", "route", "show", "default", "dev", INSIDE],
            Family::V6 => &["-6", "route", "show", "default", "dev", INSIDE],
        };
        let routes: Vec<Route> = match family {
            Family::V6 if !has_ipv6() => Vec::new(),
            Family::V4 | Family::V6 => tool::asked(Tool::Ip, Some(network), words)?,
        };
        let ours = routes.iter().find(|route| route.gateway == Some(gateway(family)));
        defaults.extend(ours.map(|route| (family, route.prefsrc)));
    }
    Ok(Some(Inside { end, defaults }))
}

/// The rules by their places.
pub(super) fn rules(filters: &[Filter]) -> BTreeMap<u16, Option<Rule>> {
    let mut rules = BTreeMap::new();
    for filter in filters {
        let Some(options) = &filter.options else {
            // One without rules is of no use, and one of several rules is none of ours.
            rules.entry(filter.pref).or_insert(None);
            continue;
        };
        let rule = rule(filter, options);
        rules
            .entry(filter.pref)
            .and_modify(|known: &mut Option<Option<Rule>>| *known = Some(known.map_or(rule, |_| None)))
            .or_insert(Some(rule));
    }
    rules
        .into_iter()
        .map(|(place, rule)| (place, rule.flatten()))
        .collect()
}

/// What a rule is, if it is one of ours, whole and with nothing besides.
fn rule(filter: &Filter, options: &Options) -> Option<Rule> {
    let [action] = options.actions.as_slice() else {
        return None;
    };
    let keys: BTreeMap<_, _> = options
        .keys
        .iter()
        .filter(|(key, _)| *key != "eth_type")
        .map(|(key, value)| {
            (
                key.as_str(),
                value.as_str().map_or_else(|| value.to_string(), str::to_owned),
            )
        })
        .collect();
    let keys: Vec<_> = keys.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let known = (
        filter.kind.as_str(),
        filter.protocol.as_str(),
        action.kind.as_str(),
        action.control_action.kind.as_str(),
    );
    let of_type = |kind: &str, source: &str| {
        let neighbour = source.parse() == Ok(super::NEIGHBOUR);
        match kind {
            "135" if neighbour => Some(Rule::Solicitation),
            "136" if neighbour => Some(Rule::Advertisement),
            _ => None,
        }
    };
    match (known, keys.as_slice()) {
        (("matchall", "all", "gact", "drop"), []) => Some(Rule::Drop),
        (("flower", "ip" | "ipv6", "gact", "pass"), [("src_ip", ip)]) => {
            let ip: IpAddr = ip.parse().ok()?;
            (ip.is_ipv4() == (filter.protocol == "ip")).then_some(Rule::Source(ip))
        }
        (("flower", "arp", "gact", "pass"), [("arp_sip", ip)]) => Some(Rule::Sender(ip.parse().ok()?)),
        (
            ("flower", "ipv6", "gact", "pass"),
            [("icmp_type", kind), ("ip_proto", "icmpv6"), ("src_ip", source)],
        ) => of_type(kind, source),
        _ => None,
    }
}
