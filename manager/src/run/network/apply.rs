//! Makes, changes and takes away a container's network: the only `match` on a [`Change`] that acts.
//!
//! Which addresses a container may have had is written down before anything is done: what it leaves on the host that does not go
//! with its link (entries for which the host answers) is found by that, whoever was killed when.

use super::look::{self, PROTOCOL};
use super::plan::{Change, Setting, plan};
use super::tool::{self, Tool};
use super::{Family, INSIDE, NEIGHBOUR, NetworkError, Rule, Wanted, gateway, taken};
use crate::definition::{Address, Definition};
use crate::layout::Layout;
use crate::process::ProcessId;
use crate::run::namespace::Network;
use crate::run::state::State;
use crate::{atomic, fail_point};
use devbroker::model::ContainerName;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Gives a container whose namespace is there this network.
pub(crate) fn apply(layout: &Layout, wanted: &Wanted, init: ProcessId) -> Result<(), NetworkError> {
    let file = layout.run_of(&wanted.name).network();
    let mut known = read(&file)?;
    if wanted.addresses.is_empty() && known.is_empty() && !look::has_link(wanted) {
        return Ok(());
    }
    known.extend(&wanted.addresses);
    write(&file, &known)?;
    let network = Network::of(init)?;
    bring(wanted, &known, Some(&network))?;
    write(&file, &wanted.addresses.iter().copied().collect())
}

/// Takes from the host what is there for a container that is no more.
pub(crate) fn release(layout: &Layout, name: &ContainerName) -> Result<(), NetworkError> {
    let file = layout.run_of(name).network();
    let wanted = Wanted {
        name: name.clone(),
        addresses: Vec::new(),
    };
    let known = read(&file)?;
    if known.is_empty() && !look::has_link(&wanted) {
        return Ok(());
    }
    let known = taken::without_others(layout, name, known);
    let result = bring(&wanted, &known, None);
    // The kernel takes the link away with the container's network, at a time of its own: then what it went under did not fail.
    if result.is_err() && !look::has_link(&wanted) {
        bring(&wanted, &known, None)?;
    } else {
        result?;
    }
    atomic::remove(&file).map(drop).map_err(io_error("remove", &file))
}

/// Changes the network of a running container from what one definition says to what another does. Where that cannot be, it is as
/// before.
pub(crate) fn change(
    layout: &Layout,
    state: &State,
    before: &Definition,
    after: &Definition,
) -> Result<(), NetworkError> {
    if before.addresses == after.addresses {
        return Ok(());
    }
    let init = state.init.ok_or(NetworkError::NoInit)?;
    let result = apply(layout, &Wanted::of(after), init);
    if result.is_err() {
        if let Err(error) = apply(layout, &Wanted::of(before), init) {
            tracing::warn!(container = %after.name, %error, "its network is not back to what it was");
        }
    }
    result
}

impl Wanted {
    /// What a definition says.
    pub(crate) fn of(definition: &Definition) -> Self {
        Self {
            name: definition.name.clone(),
            addresses: definition.addresses.clone(),
        }
    }
}

fn io_error<'p>(what: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> NetworkError + 'p {
    move |source| NetworkError::Io {
        what,
        path: path.into(),
        source,
    }
}

/// The addresses that a container may have.
fn read(file: &Path) -> Result<BTreeSet<Address>, NetworkError> {
    match fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| NetworkError::Damaged {
            path: file.into(),
            source,
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(source) => Err(io_error("read", file)(source)),
    }
}

fn write(file: &Path, addresses: &BTreeSet<Address>) -> Result<(), NetworkError> {
    let text = serde_json::to_vec(addresses).map_err(|e| io_error("write", file)(e.into()))?;
    atomic::write(file, &text, 0o600).map_err(io_error("write", file))
}

fn bring(wanted: &Wanted, known: &BTreeSet<Address>, network: Option<&Network>) -> Result<(), NetworkError> {
    let seen = look::look(wanted, known, network)?;
    let changes = plan(wanted, &seen);
    let acts = changes
        .iter()
        .flat_map(|change| acts(change, wanted, seen.has_ipv6, network));
    let mut batch: Option<(Tool, Place, Vec<String>)> = None;
    for act in acts {
        match (act, &mut batch) {
            (Act::Tell(tool, place, line), Some((same_tool, same_place, lines)))
                if (tool, place) == (*same_tool, *same_place) =>
            {
                lines.push(line);
            }
            (Act::Tell(tool, place, line), batch) => {
                tell(batch.take(), network)?;
                *batch = Some((tool, place, vec![line]));
            }
            (Act::Write(path, text), batch) => {
                tell(batch.take(), network)?;
                fs::write(&path, text).map_err(io_error("write", &path))?;
            }
        }
    }
    tell(batch, network)
}

fn tell(batch: Option<(Tool, Place, Vec<String>)>, network: Option<&Network>) -> Result<(), NetworkError> {
    let Some((tool, place, lines)) = batch else {
        return Ok(());
    };
    tracing::debug!(%tool, ?place, ?lines);
    let network = match place {
        Place::Host => None,
        Place::Inside => network,
    };
    tool::told(tool, network, &lines)?;
    fail_point::reached(
        "network",
        lines
            .last()
            .map_or("", |line| line.split(' ').next().unwrap_or("")),
    );
    Ok(())
}

/// Where something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Host,
    Inside,
}

/// Something that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Act {
    Tell(Tool, Place, String),
    Write(PathBuf, &'static str),
}

/// The file of a setting.
pub(super) fn file_of(setting: Setting, device: &str) -> PathBuf {
    let Setting { family, name } = setting;
    format!("/proc/sys/net/{family}/conf/{device}/{name}").into()
}

/// An address with nothing but itself in its network.
fn alone(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(_) => format!("{ip}/32"),
        // Whether somebody else on the link has it is known.
        IpAddr::V6(_) if ip == NEIGHBOUR || ip == gateway(Family::V6) => format!("{ip}/64 nodad"),
        IpAddr::V6(_) => format!("{ip}/128 nodad"),
    }
}

/// What has to be done for a change, in the words of the programs.
fn acts(change: &Change, wanted: &Wanted, has_ipv6: bool, network: Option<&Network>) -> Vec<Act> {
    let device = wanted.device();
    let host = |line: String| Act::Tell(Tool::Ip, Place::Host, line);
    let inside = |line: String| Act::Tell(Tool::Ip, Place::Inside, line);
    let filter = |line: String| Act::Tell(Tool::Tc, Place::Host, line);
    match change {
        Change::Unlink => vec![host(format!("link delete dev {device}"))],
        Change::Link => {
            let (own, its) = (wanted.mac("host"), wanted.mac("inside"));
            let at = network.map(Network::path).unwrap_or_default();
            let mut acts = vec![
                host(format!(
                    "link add name {device} address {own} type veth peer name {INSIDE} address {its} netns {}",
                    at.display()
                )),
                host(format!("link set dev {device} alias {}", wanted.name)),
            ];
            if has_ipv6 {
                acts.push(host(format!("link set dev {device} addrgenmode none")));
            }
            acts
        }
        Change::Guard => vec![filter(format!("qdisc add dev {device} clsact"))],
        Change::Unrule(place) => vec![filter(format!("filter delete dev {device} ingress pref {place}"))],
        Change::Rule(place, rule) => vec![filter(format!(
            "filter add dev {device} ingress pref {place} {}",
            words(*rule)
        ))],
        Change::Set(setting, text) => vec![Act::Write(file_of(*setting, &device), text)],
        Change::HostAddress(ip) => {
            // Of a scope in which it is no source of what the host sends elsewhere.
            let scope = if ip.is_ipv4() { " scope host" } else { "" };
            vec![host(format!("address add {}{scope} dev {device}", alone(*ip)))]
        }
        Change::HostUp => vec![host(format!("link set dev {device} up"))],
        Change::InsideUp => {
            let mut acts = Vec::new();
            if has_ipv6 {
                acts.push(inside(format!("link set dev {INSIDE} addrgenmode none")));
            }
            acts.push(inside(format!("link set dev {INSIDE} up")));
            acts
        }
        Change::InsideAddress(ip) => vec![inside(format!("address add {} dev {INSIDE}", alone(*ip)))],
        Change::Default(family, source) => {
            let gateway = gateway(*family);
            vec![inside(format!(
                "route replace default via {gateway} dev {INSIDE} onlink src {source}"
            ))]
        }
        Change::Route(ip) => vec![host(format!("route add {ip} dev {device}"))],
        Change::Proxy(ip, at) => vec![host(format!(
            "neighbour add proxy {ip} dev {at} protocol {PROTOCOL}"
        ))],
        Change::Unproxy(ip, at) => vec![host(format!("neighbour delete proxy {ip} dev {at}"))],
        Change::Unroute(ip) => vec![host(format!("route delete {ip} dev {device}"))],
        Change::InsideAddressGone(ip, prefix) => {
            vec![inside(format!("address delete {ip}/{prefix} dev {INSIDE}"))]
        }
        Change::HostAddressGone(ip, prefix) => {
            vec![host(format!("address delete {ip}/{prefix} dev {device}"))]
        }
    }
}

/// A rule in the words of `tc filter add`.
fn words(rule: Rule) -> String {
    match rule {
        Rule::Drop => "protocol all matchall action drop".into(),
        Rule::Source(ip) => {
            let protocol = if ip.is_ipv4() { "ip" } else { "ipv6" };
            format!("protocol {protocol} flower src_ip {ip} action pass")
        }
        Rule::Sender(ip) => format!("protocol arp flower arp_sip {ip} action pass"),
        Rule::Solicitation => neighbour(135),
        Rule::Advertisement => neighbour(136),
    }
}

fn neighbour(kind: u8) -> String {
    format!("protocol ipv6 flower src_ip {NEIGHBOUR} ip_proto icmpv6 type {kind} action pass")
}

#[cfg(test)]
mod tests {
    use super::super::look::{Filter, rules};
    use super::*;

    /// What `tc -json filter show` of iproute2 6.15 makes of five rules.
    const SHOWN: &str = r#"[
        {"protocol":"ip","pref":1,"kind":"flower","chain":0},
        {"protocol":"ip","pref":1,"kind":"flower","chain":0,"options":{"handle":1,"keys":{"eth_type":"ipv4","src_ip":"192.0.2.1"},
            "not_in_hw":true,"actions":[{"order":1,"kind":"gact","control_action":{"type":"pass"},
            "prob":{"random_type":"none","control_action":{"type":"pass"},"val":0},"index":2,"ref":1,"bind":1}]}},
        {"protocol":"arp","pref":2,"kind":"flower","chain":0},
        {"protocol":"arp","pref":2,"kind":"flower","chain":0,"options":{"handle":1,"keys":{"eth_type":"arp","arp_sip":"192.0.2.1"},
            "not_in_hw":true,"actions":[{"order":1,"kind":"gact","control_action":{"type":"pass"},"index":3,"ref":1,"bind":1}]}},
        {"protocol":"ipv6","pref":3,"kind":"flower","chain":0},
        {"protocol":"ipv6","pref":3,"kind":"flower","chain":0,"options":{"handle":1,"keys":{"eth_type":"ipv6","src_ip":"2001:db8::1"},
            "not_in_hw":true,"actions":[{"order":1,"kind":"gact","control_action":{"type":"pass"},"index":4,"ref":1,"bind":1}]}},
        {"protocol":"ipv6","pref":4,"kind":"flower","chain":0},
        {"protocol":"ipv6","pref":4,"kind":"flower","chain":0,"options":{"handle":1,
            "keys":{"eth_type":"ipv6","ip_proto":"icmpv6","src_ip":"fe80::2","icmp_type":"136"},
            "not_in_hw":true,"actions":[{"order":1,"kind":"gact","control_action":{"type":"pass"},"index":5,"ref":1,"bind":1}]}},
        {"protocol":"all","pref":60000,"kind":"matchall","chain":0},
        {"protocol":"all","pref":60000,"kind":"matchall","chain":0,"options":{"handle":1,"not_in_hw":true,
            "actions":[{"order":1,"kind":"gact","control_action":{"type":"drop"},"index":1,"ref":1,"bind":1}]}}
    ]"#;

    #[test]
    fn told_in_order() {
        let wanted = Wanted {
            name: "web".parse().unwrap(),
            addresses: Vec::new(),
        };
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let said: Vec<_> = [
            Change::Unlink,
            Change::Guard,
            Change::Rule(60_000, Rule::Drop),
            Change::Rule(1, Rule::Source(ip("192.0.2.1"))),
            Change::Rule(2, Rule::Sender("192.0.2.1".parse().unwrap())),
            Change::Rule(3, Rule::Source(ip("2001:db8::1"))),
            Change::Rule(4, Rule::Advertisement),
            Change::Unrule(3),
            Change::HostAddress(gateway(Family::V4)),
            Change::HostAddress(gateway(Family::V6)),
            Change::InsideUp,
            Change::InsideAddress(ip("2001:db8::1")),
            Change::Default(Family::V6, ip("2001:db8::1")),
            Change::Route(ip("192.0.2.1")),
            Change::Proxy(ip("192.0.2.1"), "eth0".into()),
            Change::InsideAddressGone(ip("192.0.2.1"), 24),
        ]
        .iter()
        .flat_map(|change| acts(change, &wanted, true, None))
        .map(|act| match act {
            Act::Tell(tool, Place::Host, line) => format!("{tool} {line}"),
            Act::Tell(tool, Place::Inside, line) => format!("inside {tool} {line}"),
            Act::Write(path, text) => format!("{} {text}", path.display()),
        })
        .collect();
        assert_eq!(
            said,
            [
                "ip link delete dev ctm-web",
                "tc qdisc add dev ctm-web clsact",
                "tc filter add dev ctm-web ingress pref 60000 protocol all matchall action drop",
                "tc filter add dev ctm-web ingress pref 1 protocol ip flower src_ip 192.0.2.1 action pass",
                "tc filter add dev ctm-web ingress pref 2 protocol arp flower arp_sip 192.0.2.1 action pass",
                "tc filter add dev ctm-web ingress pref 3 protocol ipv6 flower src_ip 2001:db8::1 action pass",
                "tc filter add dev ctm-web ingress pref 4 protocol ipv6 flower src_ip fe80::2 ip_proto icmpv6 type 136 action pass",
                "tc filter delete dev ctm-web ingress pref 3",
                "ip address add 169.254.0.1/32 scope host dev ctm-web",
                "ip address add fe80::1/64 nodad dev ctm-web",
                "inside ip link set dev venet0 addrgenmode none",
                "inside ip link set dev venet0 up",
                "inside ip address add 2001:db8::1/128 nodad dev venet0",
                "inside ip route replace default via fe80::1 dev venet0 onlink src 2001:db8::1",
                "ip route add 192.0.2.1 dev ctm-web",
                "ip neighbour add proxy 192.0.2.1 dev eth0 protocol 67",
                "inside ip address delete 192.0.2.1/24 dev venet0",
            ]
        );
    }

    #[test]
    fn what_is_shown_is_what_was_told() {
        let of = |text: &str| rules(&serde_json::from_str::<Vec<Filter>>(text).unwrap());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let all = [
            (1, Some(Rule::Source(ip("192.0.2.1")))),
            (2, Some(Rule::Sender("192.0.2.1".parse().unwrap()))),
            (3, Some(Rule::Source(ip("2001:db8::1")))),
            (4, Some(Rule::Advertisement)),
            (60_000, Some(Rule::Drop)),
        ];
        assert_eq!(of(SHOWN), all.into());
        // What says more or less than ours, or something else, is none of ours.
        for (from, to, place) in [
            ("192.0.2.1\"}", "192.0.2.0/24\"}", 1),
            ("\"src_ip\":\"192.0.2.1\"", "\"dst_ip\":\"192.0.2.1\"", 1),
            (
                "\"src_ip\":\"192.0.2.1\"",
                "\"src_ip\":\"192.0.2.1\",\"ip_proto\":\"tcp\"",
                1,
            ),
            ("\"136\"", "\"134\"", 4),
            ("\"type\":\"drop\"", "\"type\":\"pass\"", 60_000),
            (
                "\"protocol\":\"all\",\"pref\":60000",
                "\"protocol\":\"ip\",\"pref\":60000",
                60_000,
            ),
        ] {
            let changed = SHOWN.replace(from, to);
            assert_ne!(changed, SHOWN, "{from}");
            assert_eq!(of(&changed).get(&place), Some(&None), "{to}");
        }
        // Two rules at one place are none of ours, either.
        let twice = SHOWN.replace("\"pref\":2,", "\"pref\":1,");
        assert_eq!(of(&twice).get(&1), Some(&None));
        assert_eq!(
            of("[{\"protocol\":\"all\",\"pref\":7,\"kind\":\"bpf\"}]"),
            [(7, None)].into()
        );
        assert_eq!(of("[]"), [].into());
    }
}
