//! Which device an alias stands for.

use super::{Usb, bare, config, dir, host_node};
use crate::model::{DevNum, PortName};
use crate::policy::keys_text;
use crate::policy::{AliasRecord, Anchor, BoundBy, Cover, bind, candidates, wanted};

fn aliases(text: &str, node: &crate::model::HostNode) -> Vec<(String, String, Cover)> {
    candidates(&config(text), node)
        .into_iter()
        .map(|one| {
            let place = one.anchor.syspath.name().to_owned();
            (one.alias.to_string(), place, one.anchor.cover)
        })
        .collect()
}

#[test]
fn each_key() {
    let stick = Usb::at("1-2", 7, "2", "0403:6001:A5 02");
    let mut node = stick.class("00", "ttyUSB0/tty/ttyUSB0", "tty", "ftdi_sio");
    node.links = vec!["serial/by-id/usb-FTDI-if00".parse().unwrap()];
    node.properties.insert("ID_MODEL".into(), "FT232R".into());
    node.chain[0].attributes.insert("custom/x".into(), "1".into());
    let whole = || vec![("x".to_owned(), "1-2".to_owned(), Cover::Tree)];
    let one = || vec![("x".to_owned(), "ttyUSB0".to_owned(), Cover::Node)];
    for (keys, result) in [
        ("vendor = '0403'", whole()),
        ("vendor = '0404'", vec![]),
        ("vendor = '0403', product = '6001'", whole()),
        ("vendor = '0403', product = '6002'", vec![]),
        ("serial = 'A5 02'", whole()),
        ("serial = 'A5_02'", whole()),
        ("serial = 'A5'", vec![]),
        ("port = '0000:00:14.0/2'", whole()),
        ("port = '0000:00:14.0/20'", vec![]),
        ("subsystem = 'tty'", one()),
        ("subsystem = 'tty', whole = true", whole()),
        ("subsystem = 'usb'", vec![]),
        ("driver = 'ftdi_sio'", one()),
        ("driver = 'usb'", vec![]),
        ("link = '/dev/serial/by-id/usb-FTDI-if00'", one()),
        ("link = 'ttyUSB0', whole = true", whole()),
        ("link = 'ttyUSB'", vec![]),
        ("property.ID_MODEL = 'FT232R'", one()),
        ("property.ID_MODEL = 'FT232'", vec![]),
        ("property.OTHER = 'x'", vec![]),
        ("attr.'custom/x' = '1'", one()),
        ("attr.'custom/x' = '2'", vec![]),
        ("vendor = '0403', subsystem = 'tty'", one()),
        ("vendor = '0403', subsystem = 'tty', whole = true", whole()),
        ("vendor = '0404', subsystem = 'tty'", vec![]),
        ("vendor = '0403', subsystem = 'usb'", vec![]),
    ] {
        assert_eq!(
            aliases(&format!("[alias.x]\nmatch = {{ {keys} }}"), &node),
            result,
            "{keys}"
        );
    }
    let two =
        "[alias.x]\nmatch = [{ vendor = '1a6e', product = '089a' }, { vendor = '0403', product = '6001' }]";
    assert_eq!(aliases(two, &node), whole());
}

#[test]
fn what_is_asked_of_a_node() {
    let config = config(
        "[alias.a]\nmatch = [{ property.ID_X = '1', attr.name = 'n' }, { attr.index = '0', link = '/dev/serial/by-id/x' }]\n[alias.b]\nmatch = { property.ID_Y = '2', serial = 's' }",
    );
    let wanted = wanted(&config);
    assert_eq!(wanted.properties, ["ID_X", "ID_Y"].map(str::to_owned).into());
    assert_eq!(wanted.attributes, ["index", "name"].map(str::to_owned).into());
    assert_eq!(wanted.links, ["serial/by-id/x".parse().unwrap()].into());
}

#[test]
fn the_raw_node_has_the_driver_usb() {
    let node = Usb::at("1-2", 7, "2", "0403:6001").node(5);
    let text = "[alias.x]\nmatch.driver = 'usb'\n[alias.y]\nmatch.vendor = '0403'";
    assert_eq!(
        aliases(text, &node),
        [
            ("x".into(), "1-2".into(), Cover::Node),
            ("y".into(), "1-2".into(), Cover::Tree)
        ]
    );
}

#[test]
fn pci_devices() {
    let pci = dir(
        "/devices/pci0000:00/0000:00:14.0",
        3,
        "pci",
        "",
        &[("vendor", "0x8086"), ("device", "0xa12f")],
    );
    let own = dir("/devices/pci0000:00/0000:00:14.0/drm/card0", 4, "drm", "", &[]);
    let card = host_node(DevNum::char(226, 0), "dri/card0", vec![own, pci.clone()]);
    let mut stick = Usb::at("1-2", 7, "2", "0403:6001");
    stick.chain.push(pci);
    let stick = stick.node(5);
    let there =
        |node| move |text: &str| !aliases(&format!("[alias.x]\nmatch = {{ {text} }}"), node).is_empty();
    let (card, stick) = (there(&card), there(&stick));
    assert!(card("vendor = '8086'") && card("vendor = '8086', product = 'a12f'"));
    assert!(card("port = '0000:00:14.0'"));
    // The controller above a stick is meant only by who is exact.
    assert!(!stick("vendor = '8086'"));
    assert!(stick("vendor = '8086', product = 'a12f'"));
    assert!(stick("port = '0000:00:14.0'"));
}

#[test]
fn nodes_without_a_device() {
    let kvm = bare("/devices/virtual/misc/kvm", 3, "misc", DevNum::char(10, 232));
    let text = "[alias.kvm]\nmatch.link = 'kvm'\n[alias.all]\nmatch = { subsystem = 'misc', whole = true }";
    assert_eq!(
        aliases(text, &kvm),
        [
            ("all".into(), "kvm".into(), Cover::Tree),
            ("kvm".into(), "kvm".into(), Cover::Node)
        ]
    );
}

#[test]
fn an_alias_of_a_rule_stands_for_the_device() {
    let mut node = Usb::at("1-2", 7, "2", "0403:6001").class("00", "ttyUSB0/tty/ttyUSB0", "tty", "ftdi_sio");
    node.rule_aliases = vec!["mine".parse().unwrap()];
    assert_eq!(aliases("", &node), [("mine".into(), "1-2".into(), Cover::Tree)]);
    let mut kvm = bare("/devices/virtual/misc/kvm", 3, "misc", DevNum::char(10, 232));
    kvm.rule_aliases = vec!["mine".parse().unwrap()];
    assert_eq!(aliases("", &kvm), [("mine".into(), "kvm".into(), Cover::Tree)]);
}

fn anchor(name: &str, stay: u64, port: &str, ids: &str) -> Anchor {
    let node = Usb::at(name, stay, port, ids).node(1);
    let ids: Vec<&str> = ids.split(':').collect();
    let text = format!("[alias.x]\nmatch.vendor = '{}'", ids[0]);
    candidates(&config(&text), &node)[0].anchor.clone()
}

fn record(port: Option<&str>, serial: Option<&str>) -> AliasRecord {
    let mut record = AliasRecord::default();
    record.holder.port = port.map(|port| PortName(format!("0000:00:14.0/{port}")));
    record.holder.serial = serial.map(str::to_owned);
    record
}

#[test]
fn one_device_has_it_wherever_it_is() {
    let (a, moved) = (
        anchor("1-2", 1, "2", "0403:6001"),
        anchor("3-1", 2, "9", "0403:6001"),
    );
    let first = bind(&[a.clone(), a.clone()], None, None, "");
    assert_eq!(
        (first.bound.as_ref(), first.by, first.ambiguous),
        (Some(&a), BoundBy::Only, vec![])
    );
    assert_eq!(first.record, Some(record(Some("2"), None)));
    let second = bind(std::slice::from_ref(&moved), None, first.record.as_ref(), "");
    assert_eq!((second.bound, second.by), (Some(moved), BoundBy::Only));
    assert_eq!(second.record, Some(record(Some("9"), None)));
    let none = bind(&[], None, second.record.as_ref(), "");
    assert_eq!(
        (none.bound, none.by, none.record),
        (None, BoundBy::Absent, second.record)
    );
}

#[test]
fn twins() {
    let (low, high) = (
        anchor("1-2", 1, "2", "0403:6001"),
        anchor("1-10", 2, "10", "0403:6001"),
    );
    let both = [high.clone(), low.clone()];
    // Nothing known: the lower port, by number and not by letter.
    let fresh = bind(&both, None, None, "");
    assert_eq!((fresh.bound, fresh.by), (Some(low.clone()), BoundBy::LowerPort));
    assert_eq!(fresh.ambiguous, vec![high.clone()]);
    // The holder keeps it.
    let held = bind(&both, Some(&high), Some(&record(Some("10"), None)), "");
    assert_eq!((held.bound, held.by), (Some(high.clone()), BoundBy::Holder));
    // After an absence the last one has it.
    let back = bind(&both, None, Some(&record(Some("10"), None)), "");
    assert_eq!((back.bound, back.by), (Some(high.clone()), BoundBy::Record));
    // While the holder is away its twin does not get it ...
    let away = bind(std::slice::from_ref(&low), None, held.record.as_ref(), "");
    assert_eq!((away.bound, away.by), (None, BoundBy::HolderAway));
    assert_eq!((away.ambiguous, &away.record), (vec![low.clone()], &held.record));
    // ... and the holder comes back to it.
    let again = anchor("1-10", 9, "10", "0403:6001");
    let back = bind(&[low.clone(), again.clone()], None, away.record.as_ref(), "");
    assert_eq!(back.bound, Some(again));
    // Moved into the holder's socket the twin is what was looked for.
    let moved = anchor("1-10", 11, "10", "0403:6001");
    assert_eq!(
        bind(std::slice::from_ref(&moved), None, away.record.as_ref(), "").bound,
        Some(moved)
    );
}

#[test]
fn a_serial_number_weighs_more_than_a_port() {
    let (a, b) = (
        anchor("1-2", 1, "2", "0403:6001:A"),
        anchor("1-3", 2, "3", "0403:6001:B"),
    );
    let swapped = bind(
        &[a.clone(), b.clone()],
        None,
        Some(&record(Some("2"), Some("B"))),
        "",
    );
    assert_eq!((swapped.bound, swapped.by), (Some(b), BoundBy::Record));
    // Another serial at the same port is another device.
    let other = bind(
        std::slice::from_ref(&a),
        None,
        Some(&record(Some("2"), Some("B"))),
        "",
    );
    assert_eq!((other.bound, other.by), (Some(a), BoundBy::Only));
}

#[test]
fn both_halves_of_a_hub_are_one() {
    let text =
        "[alias.x]\nmatch = [{ vendor = '2109', product = '2817' }, { vendor = '2109', product = '0817' }]";
    let half = |name: &str, stay, ids: &str| {
        let node = Usb::at(name, stay, "2", ids).hub().node(1);
        candidates(&config(text), &node)[0].anchor.clone()
    };
    let (slow, fast) = (half("1-2", 1, "2109:2817"), half("2-2", 2, "2109:0817"));
    let both = bind(&[slow.clone(), fast.clone()], None, None, "");
    assert_eq!((both.bound, both.ambiguous), (Some(slow.clone()), vec![]));
    // The holder's half stays, and the other stands in for one that went.
    let held = bind(&[slow.clone(), fast.clone()], Some(&fast), None, "");
    assert_eq!(held.bound, Some(fast.clone()));
    assert_eq!(
        bind(std::slice::from_ref(&slow), Some(&fast), held.record.as_ref(), "").bound,
        Some(slow)
    );
}

/// The administrator tells twins apart by editing the match: nobody was passed over for the new one.
#[test]
fn another_match_is_another_question() {
    let (low, high) = (
        anchor("1-2", 1, "2", "0403:6001"),
        anchor("1-3", 2, "3", "0403:6001"),
    );
    let ids = "[alias.x]\nmatch.vendor = '0403'";
    let with_port = "[alias.x]\nmatch = { vendor = '0403', port = '0000:00:14.0/3' }";
    let keys = |text: &str| keys_text(config(text).aliases.values().next());
    assert_eq!(keys(with_port), "vendor=\"0403\" port=\"0000:00:14.0/3\"");
    let first = bind(&[low, high.clone()], None, None, &keys(ids));
    let left = std::slice::from_ref(&high);
    let same = bind(left, None, first.record.as_ref(), &keys(ids));
    assert_eq!((same.bound, same.by), (None, BoundBy::HolderAway));
    let other = bind(left, None, first.record.as_ref(), &keys(with_port));
    assert_eq!((other.bound, other.by), (Some(high), BoundBy::Only));
}

#[test]
fn what_alias_add_proposes() {
    let shown = |node: &crate::model::HostNode, others: &[crate::model::HostNode]| {
        let keys = crate::policy::propose(node, others);
        let texts: Vec<String> = keys
            .iter()
            .map(|key| format!("{}={}", key.name(), key.expected()))
            .collect();
        texts.join(" ")
    };
    let serial = Usb::at("1-2", 1, "2", "0403:6001:A").node(1);
    let same = Usb::at("1-3", 2, "3", "0403:6001:A").node(2);
    let other = Usb::at("1-4", 3, "4", "0403:6001:B").node(3);
    let none = Usb::at("1-5", 4, "5", "0403:6001").node(4);
    let all = [serial.clone(), same, other.clone(), none.clone()];
    assert_eq!(
        shown(&serial, std::slice::from_ref(&serial)),
        "vendor=0403 product=6001 serial=A"
    );
    assert_eq!(shown(&other, &all), "vendor=0403 product=6001 serial=B");
    assert_eq!(
        shown(&serial, &all),
        "vendor=0403 product=6001 port=0000:00:14.0/2"
    );
    assert_eq!(shown(&none, &all), "vendor=0403 product=6001 port=0000:00:14.0/5");
    let mut disk = bare("/devices/virtual/block/loop3", 3, "block", DevNum::block(7, 3));
    assert_eq!(shown(&disk, &[]), "link=loop3");
    disk.links = vec!["disk/a".parse().unwrap(), "disk/by-id/x".parse().unwrap()];
    assert_eq!(shown(&disk, &[]), "link=disk/by-id/x");
}

#[test]
fn one_node_of_a_device_with_several_like_it() {
    let usb = Usb::at("1-2", 1, "2", "0525:a4a6:Q4");
    let port = |interface: &str, number: u32, link: &str| {
        let tail = format!("ttyUSB{number}/tty/ttyUSB{number}");
        let mut node = usb.class(interface, &tail, "tty", "generic");
        node.links = vec![link.parse().unwrap()];
        node
    };
    let shown = |node: &crate::model::HostNode, all: &[&crate::model::HostNode]| {
        let keys = crate::policy::propose(node, all.iter().copied());
        let narrowed = crate::policy::narrow(node, &keys, all)?;
        let texts: Vec<String> = narrowed
            .iter()
            .skip(keys.len())
            .map(|key| format!("{}={}", key.name(), key.expected()))
            .collect();
        Some(texts.join(" "))
    };
    let raw = usb.node(5);
    let mut first = port("00", 0, "serial/by-id/x-if00-port0");
    let second = port("01", 1, "serial/by-id/x-if01-port0");
    assert_eq!(
        shown(&first, &[&raw, &first, &second]).as_deref(),
        Some("link=serial/by-id/x-if00-port0")
    );
    first
        .properties
        .insert("ID_USB_INTERFACE_NUM".into(), "00".into());
    assert_eq!(
        shown(&first, &[&raw, &first, &second]).as_deref(),
        Some("subsystem=tty property.ID_USB_INTERFACE_NUM=00")
    );
    // Two ports on one interface, of which the last to come has the link.
    let mut twin = port("00", 7, "serial/by-path/y-port1");
    twin.properties.clone_from(&first.properties);
    assert_eq!(
        shown(&twin, &[&first, &twin]).as_deref(),
        Some("link=serial/by-path/y-port1")
    );
    twin.links.clear();
    assert_eq!(shown(&twin, &[&first, &twin]), None);
}
