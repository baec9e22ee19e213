//! What a match covers.

use crate::model::{HostNode, Incarnation, PortName, Role, SysDevice, SysPath};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// How far an anchor reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cover {
    /// The node that has this very place in sysfs.
    Node,
    /// All nodes below it; for a USB hub all that is behind it, on either speed.
    Tree,
}

/// The place in sysfs that a match stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Anchor {
    /// Where.
    pub syspath: SysPath,
    /// Which stay.
    pub incarnation: Incarnation,
    /// How far it reaches.
    pub cover: Cover,
    /// The physical device that it is or belongs to; `syspath` itself where there is none.
    pub device: SysPath,
    /// Whether the device is a USB hub.
    pub hub: bool,
    /// The device's socket, or its PCI address.
    pub port: Option<PortName>,
    /// The device's USB serial number.
    pub serial: Option<String>,
    /// Which of the device's nodes it is, where it covers one node.
    pub role: Option<Role>,
}

impl Anchor {
    /// The device `device`, with all below it.
    pub(super) fn tree(device: &SysDevice) -> Self {
        Self {
            syspath: device.syspath.clone(),
            incarnation: device.incarnation,
            cover: Cover::Tree,
            device: device.syspath.clone(),
            hub: is_hub(device),
            port: port_of(device),
            serial: device.attributes.get("serial").cloned(),
            role: None,
        }
    }

    /// One node.
    pub(super) fn node(node: &HostNode) -> Self {
        let device = device_of(node);
        Self {
            syspath: node.syspath().clone(),
            incarnation: node.incarnation(),
            cover: Cover::Node,
            role: Some(super::role::local(node)),
            ..Self::tree(device)
        }
    }

    /// Whether `other` is the same thing: the same stay at the same place, or the other half of the same hub.
    pub fn is_same(&self, other: &Self) -> bool {
        let place = self.syspath == other.syspath && self.incarnation == other.incarnation;
        let halves = self.hub
            && other.hub
            && self.port.is_some()
            && self.port == other.port
            && self.cover == Cover::Tree
            && other.cover == Cover::Tree;
        place || halves
    }

    /// Whether `node` lies within what the anchor covers, on the same stay.
    pub fn covers(&self, node: &HostNode) -> bool {
        match self.cover {
            Cover::Node => *node.syspath() == self.syspath && node.incarnation() == self.incarnation,
            Cover::Tree => node.chain.iter().any(|device| {
                if device.syspath == self.syspath {
                    device.incarnation == self.incarnation
                } else {
                    self.hub && is_usb_device(device) && is_behind(device.port.as_ref(), self.port.as_ref())
                }
            }),
        }
    }

    /// Whether this anchor's device lies behind the other's: it is more specific, and what it covers is its own.
    pub fn is_more_specific(&self, than: &Self) -> bool {
        if than.cover == Cover::Node {
            return false;
        }
        let by_port = than.hub && is_behind(self.port.as_ref(), than.port.as_ref()) && self.port != than.port;
        by_port || (self.device != than.device && self.device.is_within(&than.device))
    }

    /// Whether devices with aliases of their own may lie within what this covers: a hub, a PCI controller.
    pub fn may_hold_others(&self) -> bool {
        let controller = || self.port.as_ref().is_some_and(|port| !port.0.contains('/'));
        self.cover == Cover::Tree && (self.hub || controller())
    }

    /// Lower ports first.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        let (a, b) = (
            self.port.as_ref().map(port_key),
            other.port.as_ref().map(port_key),
        );
        // A place without a port comes last.
        a.is_none()
            .cmp(&b.is_none())
            .then_with(|| a.cmp(&b))
            .then_with(|| self.role.cmp(&other.role))
            .then_with(|| self.syspath.cmp(&other.syspath))
            .then_with(|| self.incarnation.cmp(&other.incarnation))
    }
}

fn is_behind(port: Option<&PortName>, hub: Option<&PortName>) -> bool {
    port.zip(hub).is_some_and(|(port, hub)| port.is_behind(hub))
}

/// A port in its natural order: controller, then the numbers of the chain (2 before 10).
fn port_key(port: &PortName) -> (&str, Vec<(u32, &str)>) {
    let (controller, chain) = port.0.split_once('/').unwrap_or((&port.0, ""));
    let chain = chain.split('.').filter(|part| !part.is_empty()).map(|part| {
        let digits = part.trim_start_matches(|c: char| !c.is_ascii_digit());
        (digits.parse().unwrap_or(u32::MAX), part)
    });
    (controller, chain.collect())
}

/// Whether this is a USB device, as opposed to one of its interfaces.
pub(super) fn is_usb_device(device: &SysDevice) -> bool {
    device.subsystem.as_deref() == Some("usb") && device.devtype.as_deref() == Some("usb_device")
}

fn is_pci(device: &SysDevice) -> bool {
    device.subsystem.as_deref() == Some("pci")
}

/// Class 09 (`linux/usb/ch9.h`, `USB_CLASS_HUB`).
pub(super) fn is_hub(device: &SysDevice) -> bool {
    is_usb_device(device)
        && device
            .attributes
            .get("bDeviceClass")
            .is_some_and(|class| class == "09")
}

fn port_of(device: &SysDevice) -> Option<PortName> {
    if is_pci(device) {
        Some(PortName(device.syspath.name().into()))
    } else {
        device.port.clone()
    }
}

/// The nearest USB device at or above a node.
pub(super) fn usb_of(node: &HostNode) -> Option<&SysDevice> {
    node.chain.iter().find(|device| is_usb_device(device))
}

/// The nearest PCI function at or above a node.
pub(super) fn pci_of(node: &HostNode) -> Option<&SysDevice> {
    node.chain.iter().find(|device| is_pci(device))
}

/// The physical thing that a node belongs to: its USB device; without one, the disk (not the controller, which has
/// others), the virtio device or the PCI function; a partition's disk; else the node itself.
pub(super) fn device_of(node: &HostNode) -> &SysDevice {
    let unit = |device: &&SysDevice| match device.subsystem.as_deref() {
        Some("scsi") => device.devtype.as_deref() == Some("scsi_device"),
        Some("virtio" | "mmc" | "nvme" | "pci") => true,
        Some(_) | None => false,
    };
    let disk = || {
        node.chain
            .iter()
            .take_while(|device| device.subsystem.as_deref() == Some("block"))
            .last()
    };
    usb_of(node)
        .or_else(|| node.chain.iter().find(unit))
        .or_else(disk)
        .unwrap_or_else(|| node.own())
}
