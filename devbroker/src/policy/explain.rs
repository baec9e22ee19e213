//! Why an alias matches a device or does not, key by key.

use super::anchor::{Anchor, usb_of};
use super::candidates::{anchors, device_value, devices, drivers, matches_device, matches_node, nearest};
use crate::config::{Alias, Config, Key, Match, Origin};
use crate::model::{AliasName, HostNode, SysDevice, SysPath};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One key of a match against one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyExplanation {
    /// The key: `vendor`, `property.ID_MODEL`.
    pub key: String,
    /// What the configuration asks for.
    pub expected: String,
    /// What the device has; nothing if it has no such thing.
    pub found: Option<String>,
    /// Where in sysfs that was found, or looked for.
    pub at: Option<SysPath>,
    /// Whether that fits.
    pub matched: bool,
}

/// One match of an alias against one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatchExplanation {
    /// Where the match is written.
    pub origin: Origin,
    /// Whether it covers the node.
    pub matched: bool,
    /// Key by key.
    pub keys: Vec<KeyExplanation>,
    /// What it would stand for, if it matches.
    pub anchors: Vec<Anchor>,
}

/// One alias against one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceExplanation {
    /// The alias.
    pub alias: AliasName,
    /// Where it is written; nothing for one that a udev rule set.
    pub origin: Option<Origin>,
    /// Whether any match covers the node.
    pub matched: bool,
    /// Whether a udev rule set the alias.
    pub by_rule: bool,
    /// Match by match.
    pub matches: Vec<MatchExplanation>,
}

/// One device against an alias.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasExplanation {
    /// The node.
    pub syspath: SysPath,
    /// Its kernel name.
    pub devname: String,
    /// Whether any match covers it.
    pub matched: bool,
    /// Match by match.
    pub matches: Vec<MatchExplanation>,
}

/// Every alias against one node: first those that match, then those of which most keys match.
pub fn explain_device(config: &Config, node: &HostNode) -> Vec<DeviceExplanation> {
    let mut all: Vec<DeviceExplanation> = config
        .aliases
        .values()
        .map(|alias| {
            let matches = against(alias, node);
            let by_rule = node.rule_aliases.contains(&alias.name);
            DeviceExplanation {
                alias: alias.name.clone(),
                origin: Some(alias.origin.clone()),
                matched: by_rule || matches.iter().any(|one| one.matched),
                by_rule,
                matches,
            }
        })
        .collect();
    let from_rules = node
        .rule_aliases
        .iter()
        .filter(|name| !config.aliases.contains_key(*name));
    all.extend(from_rules.map(|name| DeviceExplanation {
        alias: name.clone(),
        origin: None,
        matched: true,
        by_rule: true,
        matches: Vec::new(),
    }));
    all.sort_by_key(|one| {
        (
            !one.matched,
            std::cmp::Reverse(closeness(&one.matches)),
            one.alias.clone(),
        )
    });
    all
}

/// One alias against all nodes: first those that match, then those of which most keys match.
pub fn explain_alias<'n>(
    alias: &Alias,
    nodes: impl IntoIterator<Item = &'n HostNode>,
) -> Vec<AliasExplanation> {
    let mut all: Vec<AliasExplanation> = nodes
        .into_iter()
        .map(|node| {
            let matches = against(alias, node);
            AliasExplanation {
                syspath: node.syspath().clone(),
                devname: node.devname.to_string(),
                matched: node.rule_aliases.contains(&alias.name) || matches.iter().any(|one| one.matched),
                matches,
            }
        })
        .collect();
    all.sort_by_key(|one| {
        (
            !one.matched,
            std::cmp::Reverse(closeness(&one.matches)),
            one.syspath.clone(),
        )
    });
    all
}

/// How many keys fit in the best match.
fn closeness(matches: &[MatchExplanation]) -> usize {
    let fitting = |one: &MatchExplanation| one.keys.iter().filter(|key| key.matched).count();
    matches.iter().map(fitting).max().unwrap_or(0)
}

fn against(alias: &Alias, node: &HostNode) -> Vec<MatchExplanation> {
    alias.matches.iter().map(|one| explain_match(one, node)).collect()
}

fn explain_match(one: &Match, node: &HostNode) -> MatchExplanation {
    let anchors = anchors(one, node);
    // Of the devices that may be meant, the one that fits best is shown: the nearest of equals.
    let fits = |device: &&SysDevice| one.keys.iter().filter(|key| matches_device(key, device)).count();
    let meant = if one.names_node() {
        nearest(node)
    } else {
        devices(one, node).reduce(|best, next| if fits(&next) > fits(&best) { next } else { best })
    };
    MatchExplanation {
        origin: one.origin.clone(),
        matched: !anchors.is_empty(),
        keys: one.keys.iter().map(|key| explain_key(key, node, meant)).collect(),
        anchors,
    }
}

fn explain_key(key: &Key, node: &HostNode, device: Option<&SysDevice>) -> KeyExplanation {
    let joined = |texts: Vec<&str>| (!texts.is_empty()).then(|| texts.join(" "));
    let found = match key {
        Key::Vendor(_) | Key::Product(_) | Key::Serial(_) | Key::Port(_) => device
            .and_then(|device| device_value(key, device))
            .map(str::to_owned),
        Key::Subsystem(_) => node.own().subsystem.clone(),
        Key::Driver(_) => joined(drivers(node).collect()),
        Key::Link(_) => {
            let links = node.links.iter().map(crate::model::NodePath::as_str);
            joined(
                std::iter::once(node.devname.as_str())
                    .chain(links)
                    .take(20)
                    .collect(),
            )
        }
        Key::Property(name, _) => node.properties.get(name).cloned(),
        Key::Attribute(name, _) => node.own().attributes.get(name).cloned(),
    };
    let matched = if key.is_of_device() {
        device.is_some_and(|device| matches_device(key, device))
    } else {
        matches_node(key, node)
    };
    let at = if key.is_of_device() {
        device.map(|device| device.syspath.clone())
    } else {
        Some(node.syspath().clone())
    };
    KeyExplanation {
        at,
        key: key.name(),
        expected: key.expected(),
        found,
        matched,
    }
}

/// The keys that would tell two devices of one alias apart, as the configuration writes them, for `bound` and for
/// `other`: the serial number if it differs, else the port; nothing if neither does (nodes of one device: then the
/// roles differ).
pub fn telling_apart(bound: &Anchor, other: &Anchor) -> Option<(String, String)> {
    let pair = |key: &str, a: &str, b: &str| {
        let line = |value: &str| format!("{key} = {}", toml::Value::from(value));
        (line(a), line(b))
    };
    match (&bound.serial, &other.serial) {
        (Some(a), Some(b)) if a != b => return Some(pair("serial", a, b)),
        (Some(_) | None, Some(_) | None) => {}
    }
    match (&bound.port, &other.port) {
        (Some(a), Some(b)) if a != b => Some(pair("port", &a.0, &b.0)),
        (Some(_) | None, Some(_) | None) => None,
    }
}

/// The match that `alias add` proposes for a node, given all that are there: ids with the serial number if it has one that
/// no other device of these ids has, else with the port; for a node without a USB device one of udev's stable links, or
/// its kernel name.
pub fn propose<'n>(node: &HostNode, nodes: impl IntoIterator<Item = &'n HostNode>) -> Vec<Key> {
    let Some(usb) = usb_of(node) else {
        let stable = |folder: &str| node.links.iter().find(|link| link.as_str().contains(folder));
        let link = stable("/by-id/")
            .or_else(|| stable("/by-path/"))
            .or(node.links.first());
        return vec![Key::Link(link.unwrap_or(&node.devname).clone())];
    };
    let id = |name: &str| usb.attributes.get(name).and_then(|text| text.parse().ok());
    let same = |other: &SysDevice| {
        ["idVendor", "idProduct", "serial"]
            .iter()
            .all(|name| other.attributes.get(*name) == usb.attributes.get(*name))
    };
    let twin = || {
        let mut others = nodes.into_iter().filter_map(usb_of);
        others.any(|other| other.syspath != usb.syspath && same(other))
    };
    let serial = usb.attributes.get("serial").filter(|serial| !serial.is_empty());
    let (serial, port) = match serial {
        Some(serial) if !twin() => (Some(serial.clone()), None),
        Some(_) | None => (None, usb.port.clone()),
    };
    id("idVendor")
        .map(Key::Vendor)
        .into_iter()
        .chain(id("idProduct").map(Key::Product))
        .chain(serial.map(Key::Serial))
        .chain(port.map(Key::Port))
        .collect()
}

/// What narrows `keys`, which mean a whole device, to this one of its nodes, given all that are there: the interface's number,
/// or else one of udev's stable links. `None` if neither does.
pub fn narrow(node: &HostNode, keys: &[Key], nodes: &[&HostNode]) -> Option<Vec<Key>> {
    const INTERFACE: &str = "ID_USB_INTERFACE_NUM";
    let by_interface = node.properties.get(INTERFACE).map(|number| {
        vec![
            Key::Subsystem(node.subsystem().into()),
            Key::Property(INTERFACE.into(), number.clone()),
        ]
    });
    let by_link = ["/by-id/", "/by-path/"].into_iter().filter_map(|folder| {
        let link = node.links.iter().find(|link| link.as_str().contains(folder))?;
        Some(vec![Key::Link(link.clone())])
    });
    by_interface.into_iter().chain(by_link).find_map(|more| {
        let one = Match {
            keys: keys.iter().cloned().chain(more).collect(),
            whole: false,
            origin: Origin {
                file: PathBuf::new(),
                line: 0,
            },
        };
        let meant = |other: &&&HostNode| !anchors(&one, other).is_empty();
        let mut meant = nodes.iter().filter(meant);
        (meant
            .next()
            .is_some_and(|first| first.syspath() == node.syspath())
            && meant.next().is_none())
        .then_some(one.keys)
    })
}
