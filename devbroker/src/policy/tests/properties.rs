//! What holds for every host and every configuration.

use super::{Usb, config};
use crate::config::Config;
use crate::model::{AliasName, HostNode, Role, SysPath};
use crate::policy::{AliasRecord, Anchor, Binding, bind, candidates, explain_device, grants, members, wants};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// A device on a bus: where, what, which ports it shows.
#[derive(Debug, Clone)]
struct Plugged {
    /// Ports from the root: one to three numbers of 1 to 3.
    port: Vec<u8>,
    /// Which pair of ids.
    ids: u8,
    serial: Option<u8>,
    ttys: u8,
    /// On the USB 3 half.
    fast: bool,
}

const IDS: [&str; 3] = ["0403:6001", "0403:6011", "1a86:7523"];

fn plugged() -> impl Strategy<Value = Plugged> {
    (
        prop::collection::vec(1..=3u8, 1..=3),
        0..3u8,
        prop::option::of(0..3u8),
        0..3u8,
        any::<bool>(),
    )
        .prop_map(|(port, ids, serial, ttys, fast)| Plugged {
            port,
            ids,
            serial,
            ttys,
            fast,
        })
}

/// What is there: every device with its nodes. Hubs are made wherever something is plugged behind them, both halves.
fn host(devices: &[Plugged]) -> Vec<HostNode> {
    let mut usbs: BTreeMap<(Vec<u8>, bool), Usb> = BTreeMap::new();
    let name = |port: &[u8], fast: bool| {
        let chain: Vec<String> = port.iter().map(u8::to_string).collect();
        format!("{}-{}", if fast { 2 } else { 1 }, chain.join("."))
    };
    let dotted = |port: &[u8]| port.iter().map(u8::to_string).collect::<Vec<_>>().join(".");
    // A socket with something behind it is a hub's: nothing else is plugged there.
    let hubs: BTreeSet<Vec<u8>> = devices
        .iter()
        .flat_map(|device| (1..device.port.len()).map(|len| device.port[..len].to_vec()))
        .collect();
    let mut stay = 1;
    let mut nodes = Vec::new();
    for hub in &hubs {
        for fast in [false, true] {
            stay += 1;
            let ids = if fast { "2109:0817" } else { "2109:2817" };
            let usb = match usbs.get(&(hub[..hub.len() - 1].to_vec(), fast)) {
                Some(above) => above.behind(&name(hub, fast), stay, &dotted(hub), ids),
                None => Usb::at(&name(hub, fast), stay, &dotted(hub), ids),
            };
            let usb = usb.hub().with("speed", if fast { "5000" } else { "480" });
            nodes.push(usb.node(u32::try_from(stay).unwrap()));
            usbs.insert((hub.clone(), fast), usb);
        }
    }
    let mut taken = hubs;
    for device in devices {
        if !taken.insert(device.port.clone()) {
            continue;
        }
        stay += 1;
        let serial = device
            .serial
            .map(|serial| format!(":S{serial}"))
            .unwrap_or_default();
        let ids = format!("{}{serial}", IDS[usize::from(device.ids)]);
        let above = device.port[..device.port.len() - 1].to_vec();
        let usb = match usbs.get(&(above, device.fast)) {
            Some(above) => above.behind(
                &name(&device.port, device.fast),
                stay,
                &dotted(&device.port),
                &ids,
            ),
            None => Usb::at(
                &name(&device.port, device.fast),
                stay,
                &dotted(&device.port),
                &ids,
            ),
        };
        nodes.push(usb.node(u32::try_from(stay).unwrap()));
        for tty in 0..device.ttys {
            let kernel = format!("ttyUSB{}", nodes.len());
            nodes.push(usb.class(
                &format!("{tty:02x}"),
                &format!("{kernel}/tty/{kernel}"),
                "tty",
                "ftdi_sio",
            ));
        }
    }
    nodes
}

/// One match in the configuration.
fn matching() -> impl Strategy<Value = String> {
    let ids = prop::sample::select(vec![
        "vendor = '0403'",
        "vendor = '0403', product = '6001'",
        "vendor = '1a86', product = '7523'",
        "vendor = '2109'",
        "vendor = '2109', product = '2817'",
        "serial = 'S1'",
        "subsystem = 'tty'",
        "subsystem = 'tty', whole = true",
        "driver = 'ftdi_sio', vendor = '0403'",
    ])
    .prop_map(str::to_owned);
    let port = prop::collection::vec(1..=3u8, 1..=3).prop_map(|port| {
        let chain: Vec<String> = port.iter().map(u8::to_string).collect();
        format!("port = '0000:00:14.0/{}'", chain.join("."))
    });
    prop_oneof![2 => ids, 1 => port]
}

/// Aliases `a0`, `a1`, ... each granted to one container.
fn configuration() -> impl Strategy<Value = Config> {
    prop::collection::vec(prop::collection::vec(matching(), 1..=2), 1..=4).prop_map(|aliases| {
        let text: Vec<String> = aliases
            .iter()
            .enumerate()
            .map(|(number, matches)| {
                let matches: Vec<String> = matches.iter().map(|one| format!("{{ {one} }}")).collect();
                format!(
                    "[alias.a{number}]\nmatch = [{}]\n[[grant]]\nalias = 'a{number}'\ncontainer = 'ctm:c'\n",
                    matches.join(", ")
                )
            })
            .collect();
        config(&text.concat())
    })
}

fn anchors(config: &Config, nodes: &[HostNode]) -> BTreeMap<AliasName, Vec<Anchor>> {
    let mut all: BTreeMap<AliasName, Vec<Anchor>> = BTreeMap::new();
    for one in nodes.iter().flat_map(|node| candidates(config, node)) {
        all.entry(one.alias).or_default().push(one.anchor);
    }
    all
}

fn bound(config: &Config, nodes: &[HostNode]) -> BTreeMap<AliasName, Anchor> {
    anchors(config, nodes)
        .into_iter()
        .filter_map(|(alias, anchors)| Some((alias, bind(&anchors, None, None, "").bound?)))
        .collect()
}

/// The same host after all has been pulled and plugged: other stays, other kernel numbers.
fn replugged(nodes: &[HostNode]) -> Vec<HostNode> {
    let mut nodes = nodes.to_vec();
    for node in &mut nodes {
        for device in &mut node.chain {
            device.incarnation.0 += 1_000_000;
        }
        if node.subsystem() == "tty" {
            let path = node.syspath().as_str().replace("ttyUSB", "ttyUSB9");
            node.chain[0].syspath = path.parse().unwrap();
            node.devname = node.syspath().name().parse().unwrap();
        }
    }
    nodes.reverse();
    nodes
}

proptest! {
    /// Who has an alias does not depend on the order in which devices were found, is among those that match, and does
    /// not change when asked again, by the holder or by the record.
    #[test]
    fn a_binding_is_stable(config in configuration(), devices in prop::collection::vec(plugged(), 0..8), seed in any::<u64>()) {
        let nodes = host(&devices);
        for anchors in anchors(&config, &nodes).values() {
            let first = bind(anchors, None, None, "");
            let mut shuffled = anchors.clone();
            let len = shuffled.len();
            for at in 0..len {
                let other = usize::try_from(seed.rotate_left(u32::try_from(at).unwrap()) % u64::try_from(len).unwrap()).unwrap();
                shuffled.swap(at, other);
            }
            prop_assert_eq!(&bind(&shuffled, None, None, ""), &first);
            let anchor = first.bound.clone().unwrap();
            prop_assert!(anchors.contains(&anchor));
            for (holder, record) in [(Some(&anchor), None), (None, first.record.as_ref()), (Some(&anchor), first.record.as_ref())] {
                let again = bind(&shuffled, holder, record, "");
                prop_assert_eq!(again.bound.as_ref(), Some(&anchor));
                prop_assert_eq!(&again.record, &first.record);
                prop_assert_eq!(&again.ambiguous, &first.ambiguous);
            }
        }
    }

    /// While the holder is away for a moment, none that was there beside it takes its alias; when it is back in its socket,
    /// it has it again.
    #[test]
    fn a_replug_hands_nothing_over(config in configuration(), devices in prop::collection::vec(plugged(), 0..8)) {
        let nodes = host(&devices);
        for anchors in anchors(&config, &nodes).values() {
            let first = bind(anchors, None, None, "");
            let holder = first.bound.unwrap();
            let gone = |anchor: &Anchor| anchor.syspath.is_within(&holder.device) || anchor.is_same(&holder);
            let left: Vec<Anchor> = anchors.iter().filter(|anchor| !gone(anchor)).cloned().collect();
            let away = bind(&left, Some(&holder), first.record.as_ref(), "");
            if let Some(taker) = &away.bound {
                // Only what the holder covered itself, a device behind a hub of its own kind, is as good as the holder.
                prop_assert!(!first.ambiguous.contains(taker));
                continue;
            }
            prop_assert_eq!(&away.record, &first.record);
            let mut back = holder.clone();
            back.incarnation.0 += 1_000_000;
            let mut all = left;
            all.push(back.clone());
            let again = bind(&all, None, away.record.as_ref(), "");
            prop_assert_eq!(again.bound, Some(back));
        }
    }

    /// Members are covered, have one role each, and one of them is primary; a device that another alias names behind a
    /// hub is not the hub's as well.
    #[test]
    fn members_are_told_apart(config in configuration(), devices in prop::collection::vec(plugged(), 0..8)) {
        let nodes = host(&devices);
        let bound = bound(&config, &nodes);
        let mut of: BTreeMap<&SysPath, Vec<&Anchor>> = BTreeMap::new();
        for (alias, anchor) in &bound {
            let members = members(alias, anchor, None, &bound, &nodes);
            let roles: BTreeSet<&Role> = members.iter().map(|member| &member.role).collect();
            prop_assert_eq!(roles.len(), members.len());
            prop_assert_eq!(members.iter().filter(|member| member.primary).count(), usize::from(!members.is_empty()));
            for member in &members {
                prop_assert!(anchor.covers(member.node));
                of.entry(member.node.syspath()).or_default().push(anchor);
            }
        }
        for anchors in of.values() {
            for (a, b) in anchors.iter().flat_map(|a| anchors.iter().map(move |b| (a, b))) {
                prop_assert!(!a.is_more_specific(b), "{a:?} {b:?}");
            }
        }
    }

    /// Roles, and with them the permissions that are remembered, survive a replug with other numbers in another order.
    #[test]
    fn roles_survive_a_replug(config in configuration(), devices in prop::collection::vec(plugged(), 0..8)) {
        let roles = |nodes: &[HostNode]| {
            let bound = bound(&config, nodes);
            let mut all = BTreeSet::new();
            for (alias, anchor) in &bound {
                for member in members(alias, anchor, None, &bound, nodes) {
                    let interface = member.node.chain.get(1).map(|device| device.syspath.clone());
                    all.insert((alias.clone(), member.role, member.primary, interface));
                }
            }
            all
        };
        let nodes = host(&devices);
        prop_assert_eq!(roles(&nodes), roles(&replugged(&nodes)));
    }

    /// What is wanted is what was granted: devices that are there, links beside the node, the same from the same.
    #[test]
    fn wants_are_of_present_devices(config in configuration(), devices in prop::collection::vec(plugged(), 0..8)) {
        let nodes = host(&devices);
        let bound = bound(&config, &nodes);
        let container = "ctm:c".parse().unwrap();
        let granted = grants(&config, &container, 0);
        prop_assert_eq!(granted.len(), config.aliases.len());
        prop_assert!(grants(&config, &"ctm:other".parse().unwrap(), 0).is_empty());
        for grant in granted {
            let Some(anchor) = bound.get(&grant.alias) else { continue };
            let members = members(&grant.alias, anchor, None, &bound, &nodes);
            let wants = wants(grant, &members);
            prop_assert_eq!(wants.len(), members.len());
            for want in &wants {
                let node = nodes.iter().find(|node| node.syspath() == &want.syspath).unwrap();
                prop_assert_eq!((node.devnum, node.incarnation()), (want.devnum, want.incarnation));
                prop_assert!(want.links.is_sorted() && !want.links.contains(&want.path));
            }
            let links: Vec<_> = wants.iter().flat_map(|want| &want.links).collect();
            prop_assert_eq!(links.iter().collect::<BTreeSet<_>>().len(), links.len());
        }
    }

    /// `why` never disagrees with what is done.
    #[test]
    fn explanations_agree(config in configuration(), devices in prop::collection::vec(plugged(), 0..8)) {
        for node in host(&devices) {
            let found: BTreeSet<AliasName> = candidates(&config, &node).into_iter().map(|one| one.alias).collect();
            for one in explain_device(&config, &node) {
                prop_assert_eq!(one.matched, found.contains(&one.alias));
                for matching in &one.matches {
                    prop_assert_eq!(matching.matched, !matching.anchors.is_empty());
                    prop_assert!(!matching.matched || matching.keys.iter().all(|key| key.matched), "{matching:?}");
                }
            }
        }
    }
}

/// A record is bounded whatever is plugged.
#[test]
fn records_are_bounded() {
    let devices: Vec<Plugged> = (1..=3u8)
        .flat_map(|a| (1..=3u8).flat_map(move |b| (1..=3u8).map(move |c| vec![a, b, c])))
        .map(|port| Plugged {
            port,
            ids: 0,
            serial: None,
            ttys: 0,
            fast: false,
        })
        .collect();
    let config = config("[alias.a]\nmatch.vendor = '0403'");
    let anchors = anchors(&config, &host(&devices)).into_values().next().unwrap();
    let Binding {
        record, ambiguous, ..
    } = bind(&anchors, None, None, "");
    assert_eq!((anchors.len(), ambiguous.len()), (27, 26));
    assert_eq!(record.unwrap().passed.len(), AliasRecord::MAX_PASSED);
}
