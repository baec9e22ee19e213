//! What the host has: nodes and the physical devices they belong to.

use super::{AliasName, DevNum, NodePath, SysPath};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// One stay of a device, from add to remove: the inode number of its sysfs directory. Kernfs never gives the same
/// number twice while the machine is up (`fs/kernfs/dir.c`, `idr_alloc_cyclic` plus a generation), so the pair of path
/// and inode tells a device from its successor at the same place, and does so across restarts of the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// A physical socket: controller and chain of ports, the same whether a stick came up as USB 2 or USB 3, such as
/// `0000:00:14.0/2.1`. Ports of a USB 3 root hub that have no USB 2 peer carry `ss` in front of the number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PortName(pub String);

impl PortName {
    /// Whether this socket is `hub` or lies behind it (whole components: `2.1` is not behind `2.10`). A controller without
    /// a chain is above all its sockets.
    pub fn is_behind(&self, hub: &Self) -> bool {
        self.0
            .strip_prefix(&hub.0)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '/']))
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One directory of sysfs on the way from a node to its bus, with what identifies it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SysDevice {
    /// Where it is.
    pub syspath: SysPath,
    /// Which stay.
    pub incarnation: Incarnation,
    /// `usb`, `pci`, `tty`, ...
    pub subsystem: Option<String>,
    /// `usb_device`, `usb_interface`, `partition`, ...
    pub devtype: Option<String>,
    /// The driver bound to it.
    pub driver: Option<String>,
    /// Attributes read from sysfs, trimmed. For a USB device `idVendor`, `idProduct`, `serial`, `bDeviceClass`, `busnum`,
    /// `devnum`, `devpath`, `manufacturer`, `product`; for a USB interface `bInterfaceNumber`; for a PCI device `vendor`,
    /// `device`; on the node itself also those that the configuration asks for.
    pub attributes: BTreeMap<String, String>,
    /// The physical socket, for USB devices.
    pub port: Option<PortName>,
}

/// One device node that the host has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostNode {
    /// Its number.
    pub devnum: DevNum,
    /// The kernel's name for it below `/dev`.
    pub devname: NodePath,
    /// `mode & 0777` of the host's node.
    pub mode: u16,
    /// udev's symbolic links to it.
    pub links: Vec<NodePath>,
    /// udev's properties. Identity is never taken from them alone: a record can outlive its device.
    pub properties: BTreeMap<String, String>,
    /// Aliases that a udev rule gave it (`ENV{DEVBROKER_ALIAS}`), kept for its incarnation.
    pub rule_aliases: Vec<AliasName>,
    /// The node's own directory first, then its ancestors up to the bus. Never empty.
    pub chain: Vec<SysDevice>,
}

impl HostNode {
    /// The node's own directory in sysfs.
    #[expect(
        clippy::indexing_slicing,
        reason = "the chain is never empty: the reader begins it with the node"
    )]
    pub fn own(&self) -> &SysDevice {
        &self.chain[0]
    }

    /// Where it is in sysfs.
    pub fn syspath(&self) -> &SysPath {
        &self.own().syspath
    }

    /// Which stay.
    pub fn incarnation(&self) -> Incarnation {
        self.own().incarnation
    }

    /// Its subsystem; empty where the kernel gives none.
    pub fn subsystem(&self) -> &str {
        self.own().subsystem.as_deref().unwrap_or_default()
    }
}
