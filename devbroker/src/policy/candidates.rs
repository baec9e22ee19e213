//! Which aliases one node speaks for, and by which anchor.

use super::anchor::{Anchor, device_of, is_usb_device, pci_of, usb_of};
use crate::config::{Config, Key, Match};
use crate::model::{AliasName, HostNode, NodePath, SysDevice};
use std::collections::BTreeSet;

/// An alias that a node's device may have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// The alias.
    pub alias: AliasName,
    /// What it would stand for.
    pub anchor: Anchor,
}

/// What the configuration asks of a node besides what is always read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// sysfs attributes of the node itself.
    pub attributes: BTreeSet<String>,
    /// udev's properties: what an event established by them holds while the device stays.
    pub properties: BTreeSet<String>,
    /// udev's links, and kernel names.
    pub links: BTreeSet<NodePath>,
}

/// What all aliases of the configuration ask for.
pub fn wanted(config: &Config) -> Wanted {
    let mut wanted = Wanted::default();
    let matches = config.aliases.values().flat_map(|alias| &alias.matches);
    for key in matches.flat_map(|one| &one.keys) {
        match key {
            Key::Attribute(name, _) => {
                wanted.attributes.insert(name.clone());
            }
            Key::Property(name, _) => {
                wanted.properties.insert(name.clone());
            }
            Key::Link(path) => {
                wanted.links.insert(path.clone());
            }
            Key::Vendor(_)
            | Key::Product(_)
            | Key::Serial(_)
            | Key::Port(_)
            | Key::Subsystem(_)
            | Key::Driver(_) => {}
        }
    }
    wanted
}

/// The aliases that this node speaks for: those whose match it or its device meets, and those that a udev rule gave it.
/// Looks at this node alone. Without doubles, by alias; one alias may come with several anchors (a hub within a hub).
pub fn candidates(config: &Config, node: &HostNode) -> Vec<Candidate> {
    let mut all: Vec<Candidate> = Vec::new();
    let mut push = |alias: &AliasName, anchor: Anchor| {
        let candidate = Candidate {
            alias: alias.clone(),
            anchor,
        };
        if !all.contains(&candidate) {
            all.push(candidate);
        }
    };
    for alias in config.aliases.values() {
        for anchor in alias.matches.iter().flat_map(|one| anchors(one, node)) {
            push(&alias.name, anchor);
        }
    }
    for name in &node.rule_aliases {
        push(name, Anchor::tree(device_of(node)));
    }
    all.sort_by(|a, b| a.alias.cmp(&b.alias).then_with(|| a.anchor.order(&b.anchor)));
    all
}

/// What a match stands for, seen from one node.
pub(super) fn anchors(one: &Match, node: &HostNode) -> Vec<Anchor> {
    let mut node_keys = one.keys.iter().filter(|key| !key.is_of_device());
    if !node_keys.all(|key| matches_node(key, node)) {
        return Vec::new();
    }
    let is_it = |device: &SysDevice| {
        one.keys
            .iter()
            .filter(|key| key.is_of_device())
            .all(|key| matches_device(key, device))
    };
    match (one.names_device(), one.names_node()) {
        (true, false) => devices(one, node)
            .filter(|device| is_it(device))
            .map(Anchor::tree)
            .collect(),
        (true, true) => nearest(node)
            .filter(|device| is_it(device))
            .map(|device| {
                if one.whole {
                    Anchor::tree(device)
                } else {
                    Anchor::node(node)
                }
            })
            .into_iter()
            .collect(),
        (false, true) if one.whole => vec![Anchor::tree(device_of(node))],
        (false, true) => vec![Anchor::node(node)],
        // A match without keys is refused by the parser.
        (false, false) => Vec::new(),
    }
}

/// The device that keys like `vendor` speak of when keys of the node stand beside them.
pub(super) fn nearest(node: &HostNode) -> Option<&SysDevice> {
    usb_of(node).or_else(|| pci_of(node))
}

/// The devices that a match without keys of the node may mean: every USB device on the way up, hubs included, and the
/// PCI function. For a node on USB that function is its controller, with all else that is plugged there, and is meant
/// only if the match is exact about it.
pub(super) fn devices<'n>(one: &Match, node: &'n HostNode) -> impl Iterator<Item = &'n SysDevice> {
    let has = |wanted: fn(&Key) -> bool| one.keys.iter().any(wanted);
    let exact = has(|key| matches!(key, Key::Port(_)))
        || (has(|key| matches!(key, Key::Vendor(_))) && has(|key| matches!(key, Key::Product(_))));
    let pci = pci_of(node).filter(|_| exact || usb_of(node).is_none());
    node.chain
        .iter()
        .filter(|device| is_usb_device(device))
        .chain(pci)
}

/// Whether a key of the device fits.
pub(super) fn matches_device(key: &Key, device: &SysDevice) -> bool {
    let found = device_value(key, device);
    match key {
        Key::Vendor(id) | Key::Product(id) => found.is_some_and(|text| text.parse() == Ok(*id)),
        Key::Serial(serial) => found.is_some_and(|text| text == serial || udev_form(text) == *serial),
        Key::Port(port) => found == Some(&port.0),
        Key::Subsystem(_) | Key::Driver(_) | Key::Link(_) | Key::Property(..) | Key::Attribute(..) => false,
    }
}

/// What a device has where a key of the device asks.
pub(super) fn device_value<'d>(key: &Key, device: &'d SysDevice) -> Option<&'d str> {
    let usb = is_usb_device(device);
    let attribute = |name: &str| device.attributes.get(name).map(String::as_str);
    match key {
        Key::Vendor(_) => attribute(if usb { "idVendor" } else { "vendor" }),
        Key::Product(_) => attribute(if usb { "idProduct" } else { "device" }),
        Key::Serial(_) => attribute("serial").filter(|_| usb),
        Key::Port(_) if usb => device.port.as_ref().map(|port| port.0.as_str()),
        Key::Port(_) => Some(device.syspath.name()),
        Key::Subsystem(_) | Key::Driver(_) | Key::Link(_) | Key::Property(..) | Key::Attribute(..) => None,
    }
}

/// Whether a key of the node fits.
pub(super) fn matches_node(key: &Key, node: &HostNode) -> bool {
    match key {
        Key::Subsystem(text) => node.subsystem() == text,
        Key::Driver(text) => drivers(node).any(|driver| driver == text),
        Key::Link(path) => node.devname == *path || node.links.contains(path),
        Key::Property(name, text) => node.properties.get(name) == Some(text),
        Key::Attribute(name, text) => node.own().attributes.get(name) == Some(text),
        Key::Vendor(_) | Key::Product(_) | Key::Serial(_) | Key::Port(_) => false,
    }
}

/// The drivers that make a node: its own, and those above it up to the interface or function that they are bound to.
pub(super) fn drivers(node: &HostNode) -> impl Iterator<Item = &str> {
    let on_bus = |device: &SysDevice| matches!(device.subsystem.as_deref(), Some("usb" | "pci"));
    let upto = node
        .chain
        .iter()
        .position(on_bus)
        .map_or(node.chain.len(), |at| at + 1);
    node.chain
        .iter()
        .take(upto)
        .filter_map(|device| device.driver.as_deref())
}

/// A serial number as udev writes it into `ID_SERIAL_SHORT`: runs of white space become one `_`, as does each character
/// outside its list (`systemd`, `src/shared/udev-util.c`, `udev_replace_chars` and `udev_replace_whitespace`).
fn udev_form(text: &str) -> String {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    words
        .join("_")
        .chars()
        .map(|c| match c {
            c if c.is_ascii_alphanumeric() || "#+-.:=@_".contains(c) || !c.is_ascii() => c,
            _ => '_',
        })
        .collect()
}
