//! Which of a device's nodes one is: by identity, never by order of arrival.

use super::anchor::{Anchor, Cover, is_hub, is_usb_device, usb_of};
use crate::model::{HostNode, Role, SysDevice};

/// The role of a node below an anchor: [`local`], and behind a hub the chain of ports from the hub in front of it.
pub fn role(anchor: &Anchor, node: &HostNode) -> Role {
    let local = local(node);
    match prefix(anchor, node) {
        Some(prefix) => make(&format!("{prefix}/{local}")),
        None => local,
    }
}

/// The ports between the anchor and the node's USB device.
fn prefix(anchor: &Anchor, node: &HostNode) -> Option<String> {
    let usb = usb_of(node)?;
    if anchor.cover == Cover::Node || usb.syspath == anchor.syspath {
        return None;
    }
    let by_port = usb
        .port
        .as_ref()
        .zip(anchor.port.as_ref())
        .and_then(|(port, from)| {
            let rest = port.0.strip_prefix(&from.0)?;
            (rest.is_empty() || rest.starts_with(['.', '/'])).then(|| rest.trim_start_matches(['.', '/']))
        });
    // Without ports the kernel's names tell the same: 1-2 is the hub, 1-2.4 is behind it.
    let rest = by_port.unwrap_or_else(|| {
        let name = usb.syspath.name();
        name.strip_prefix(anchor.syspath.name())
            .and_then(|rest| rest.strip_prefix('.'))
            .unwrap_or(name)
    });
    (!rest.is_empty()).then(|| rest.to_owned())
}

/// The role within the node's own device: its subsystem, and after `@` what tells it from others of that subsystem.
pub(super) fn local(node: &HostNode) -> Role {
    let own = node.own();
    if is_usb_device(own) {
        // The two halves of a USB 3 hub are one device with two such nodes.
        let fast = own
            .attributes
            .get("speed")
            .and_then(|speed| speed.parse::<f64>().ok());
        let upper_half = is_hub(own) && fast.is_some_and(|speed| speed >= 5000.0);
        return make(if upper_half { "usb_device@ss" } else { "usb_device" });
    }
    let interface = interface(node);
    let beyond_first = interface.filter(|number| *number != "00");
    let name = own.syspath.name();
    let (interface, detail) = match node.subsystem() {
        "block" => (beyond_first, block(node)),
        "scsi_generic" | "bsg" => (beyond_first, unit(node)),
        "dvb" => (None, Some(name.rsplit('.').next().unwrap_or(name).to_owned())),
        "sound" => (beyond_first, Some(sound(name))),
        "video4linux" => {
            let index = own.attributes.get("index").map_or("0", String::as_str);
            // `vbi`, `radio` and `subdev` nodes count on their own.
            let kind = stem(name);
            let detail = if kind == "video" {
                index.into()
            } else {
                format!("{kind}{index}")
            };
            (interface, Some(detail))
        }
        "tty" => (interface, serial_port(node)),
        "input" | "drm" | "mtd" => (interface, Some(stem(name).to_owned())),
        _ => (interface, None),
    };
    let subsystem = match node.subsystem() {
        "" => "node",
        subsystem => subsystem,
    };
    let interface = interface.map(|number| format!("if{number}"));
    let parts: Vec<String> = interface.into_iter().chain(detail).collect();
    if parts.is_empty() {
        make(subsystem)
    } else {
        make(&format!("{subsystem}@{}", parts.join(".")))
    }
}

/// The number of the USB interface that a node belongs to: two hexadecimal digits.
fn interface(node: &HostNode) -> Option<&str> {
    node.chain
        .iter()
        .take_while(|device| !is_usb_device(device))
        .find_map(|device| device.attributes.get("bInterfaceNumber"))
        .map(String::as_str)
}

/// `part2`, `lun1`, `lun1.part2`; nothing for the only disk.
fn block(node: &HostNode) -> Option<String> {
    let partition = (node.own().devtype.as_deref() == Some("partition")).then(|| {
        let disk = node.chain.get(1).map_or("", |disk| disk.syspath.name());
        let name = node.own().syspath.name();
        let rest = name.strip_prefix(disk).unwrap_or(name);
        format!("part{}", rest.trim_start_matches(|c: char| !c.is_ascii_digit()))
    });
    let parts: Vec<String> = unit(node).into_iter().chain(partition).collect();
    (!parts.is_empty()).then(|| parts.join("."))
}

/// Which disk of a device with several: `lun1` of a card reader, `ns2` of an `NVMe` drive; nothing for the first.
fn unit(node: &HostNode) -> Option<String> {
    let scsi = node
        .chain
        .iter()
        .find(|device| device.devtype.as_deref() == Some("scsi_device"));
    if let Some(scsi) = scsi {
        // Host, channel, target, unit: the host's number is by order of arrival.
        let mut numbers = scsi.syspath.name().split(':').skip(1);
        return match (numbers.next()?, numbers.next()?, numbers.next()?) {
            ("0", "0", "0") => None,
            ("0", "0", unit) => Some(format!("lun{unit}")),
            (channel, target, unit) => Some(format!("{channel}:{target}:{unit}")),
        };
    }
    let disk = node
        .chain
        .iter()
        .find(|device| device.devtype.as_deref() == Some("disk"))?;
    let (_, number) = disk.syspath.name().strip_prefix("nvme")?.split_once('n')?;
    (number != "1").then(|| format!("ns{number}"))
}

/// `control`, `pcmD0p`, `midiD0`: the name without the card's number.
fn sound(name: &str) -> String {
    let Some(at) = name.find(|c: char| c.is_ascii_digit()) else {
        return name.into();
    };
    let (kind, rest) = name.split_at(at);
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    format!("{}{rest}", kind.strip_suffix('C').unwrap_or(kind))
}

/// The port of a serial adapter that has several on one interface; nothing for its first.
fn serial_port(node: &HostNode) -> Option<String> {
    let number = node
        .chain
        .iter()
        .take_while(|device| !is_usb_device(device))
        .find_map(|device: &SysDevice| device.attributes.get("port_number"))?;
    (number != "0").then(|| number.clone())
}

/// A name without the number at its end.
fn stem(name: &str) -> &str {
    name.trim_end_matches(|c: char| c.is_ascii_digit())
}

/// The text as a role, with everything that a role cannot hold as `_`.
pub(super) fn make(text: &str) -> Role {
    let mut clean: String = text
        .chars()
        .take(120)
        .map(|c| {
            if c.is_ascii_alphanumeric() || "-_.:@+/".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    while clean.contains("..") || clean.contains("//") {
        clean = clean.replace("..", "._").replace("//", "/_");
    }
    let clean = clean.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let clean = clean.trim_end_matches('/');
    clean.parse().unwrap_or_else(|_| fallback())
}

#[expect(clippy::expect_used, reason = "`node` is a role")]
fn fallback() -> Role {
    "node".parse().expect("`node` keeps the rule for roles")
}
