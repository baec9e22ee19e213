//! What the lists show: devices, aliases, grants, containers, events, the daemon itself.

use super::{ContainerState, EventKind, FileState, NodeState, PresenceState, Severity};
use crate::model::{
    Access, AliasName, ContainerPattern, ContainerRef, DevNum, HostNode, InstanceId, NodePath, Role,
    SysDevice, SysPath,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Views: a newer daemon may say more.
macro_rules! views {
    ($($(#[$meta:meta])* struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })+) => {
        $($(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        })+
    };
}
pub(super) use views;

/// Permission bits as the text that people write: `0660`.
pub(super) mod octal {
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "the shape that serde's with asks for"
    )]
    pub(crate) fn serialize<S: Serializer>(mode: &u16, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{mode:04o}"))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
        let text = String::deserialize(deserializer)?;
        u16::from_str_radix(&text, 8).map_err(serde::de::Error::custom)
    }
}

views! {
    /// A place in a configuration file.
    #[derive(Eq)]
    struct OriginView {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: u64,
    }

    /// How the daemon is. `clients` is the server's to fill.
    #[derive(Default)]
    struct StatusView {
        /// The daemon's version.
        version: String,
        /// Its process.
        pid: u32,
        /// How long it runs, in seconds.
        uptime: u64,
        /// Nothing is waiting to be done.
        settled: bool,
        /// It hears udev's events (not so with `monitor = false`).
        monitor: bool,
        /// Physical devices.
        devices: u64,
        /// Nodes on the host.
        nodes: u64,
        /// Aliases.
        aliases: u64,
        /// Of these, those whose device is there.
        aliases_present: u64,
        /// Grants.
        grants: u64,
        /// Containers.
        containers: u64,
        /// Nodes placed in containers.
        placed: u64,
        /// Actions that failed and are to be tried again.
        failed: u64,
        /// Events from udev and the kernel since the start.
        events: u64,
        /// How often the kernel dropped events.
        events_lost: u64,
        /// Connected clients.
        clients: u64,
        /// Files of the configuration.
        files: Vec<FileView>,
        /// What is wrong with them.
        problems: Vec<DiagnosticView>,
        /// What cannot be written or done now, and why. All of it is tried again.
        troubles: Vec<String>,
    }

    /// A file of the configuration.
    #[derive(Eq)]
    struct FileView {
        /// Where.
        path: PathBuf,
        /// How.
        state: FileState,
    }

    /// Something wrong in a file.
    #[derive(Eq)]
    struct DiagnosticView {
        /// How bad.
        severity: Severity,
        /// The file.
        file: PathBuf,
        /// The line, from 1; absent where the whole file is meant.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        line: Option<u64>,
        /// The column, from 1.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        column: Option<u64>,
        /// What is wrong and what was expected.
        message: String,
        /// The same with the line of the file and a caret, of several lines.
        text: String,
    }

    /// A physical device, or a node without one.
    #[derive(Eq)]
    struct DeviceView {
        /// Where in sysfs.
        syspath: SysPath,
        /// `usb`, `pci`; for a node without a device its own.
        subsystem: String,
        /// What it calls itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        title: Option<String>,
        /// Vendor id, four hexadecimal digits.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vendor: Option<String>,
        /// Product id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        product: Option<String>,
        /// Serial number.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        serial: Option<String>,
        /// Physical socket.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<String>,
        /// Its nodes.
        nodes: Vec<NodeView>,
    }

    /// One node of the host.
    #[derive(Eq)]
    struct NodeView {
        /// Its number.
        devnum: DevNum,
        /// Its name below /dev.
        devname: NodePath,
        /// Its subsystem.
        subsystem: String,
        /// Where in sysfs.
        syspath: SysPath,
        /// The driver of the node or of the next device above that has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        driver: Option<String>,
        /// udev's links.
        links: Vec<NodePath>,
        /// Aliases that cover it.
        aliases: Vec<AliasRole>,
        /// Containers that have it now.
        containers: Vec<ContainerRef>,
    }

    /// What a node is to an alias.
    #[derive(Eq)]
    struct AliasRole {
        /// The alias.
        alias: AliasName,
        /// Which of the alias's nodes it is.
        role: Role,
    }

    /// One alias.
    #[derive(Eq)]
    struct AliasView {
        /// Its name.
        name: AliasName,
        /// What it goes by, as the configuration has it; for a rule's alias `udev rule`.
        matches: String,
        /// Where it is written; absent for a rule's alias.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        origin: Option<OriginView>,
        /// Whether its device is there.
        state: PresenceState,
        /// The device it is bound to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<AnchorView>,
        /// Other devices that match it as well.
        ambiguous: Vec<AnchorView>,
        /// The keys that would tell them apart, in words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        advice: Option<String>,
        /// Its nodes.
        nodes: Vec<AliasNode>,
        /// Grants of it.
        granted_to: Vec<ContainerPattern>,
    }

    /// What an alias is bound to.
    #[derive(Eq)]
    struct AnchorView {
        /// Where in sysfs.
        syspath: SysPath,
        /// Physical socket.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<String>,
        /// Serial number.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        serial: Option<String>,
    }

    /// One of an alias's nodes.
    #[derive(Eq)]
    struct AliasNode {
        /// Which.
        role: Role,
        /// Its name below /dev.
        devname: NodePath,
        /// Its number.
        devnum: DevNum,
        /// The one that the alias itself links to.
        primary: bool,
    }

    /// One grant.
    #[derive(Eq)]
    struct GrantView {
        /// Of which alias.
        alias: AliasName,
        /// To which containers.
        container: ContainerPattern,
        /// What they may do.
        access: Access,
        /// A further name inside.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<NodePath>,
        /// Owner inside.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
        /// Group inside.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
        /// Mode inside, in octal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<String>,
        /// Given at run time: gone after the next boot.
        run_time: bool,
        /// Containers that it does not apply to for now (`devbroker detach`).
        suspended: Vec<ContainerRef>,
        /// Known containers that it applies to.
        applies_to: Vec<ContainerRef>,
        /// Where it is written.
        origin: OriginView,
    }

    /// One container.
    #[derive(Eq)]
    struct ContainerView {
        /// Engine and name.
        container: ContainerRef,
        /// Who owns it: the host's uid.
        owner: u32,
        /// Which run.
        instance: InstanceId,
        /// Its first process.
        pid: i32,
        /// How it is.
        state: ContainerState,
        /// Its device filter is in place and it has no means to take it off.
        confined: bool,
        /// Its root is not the host's.
        user_namespace: bool,
        /// What was placed and what is to be.
        nodes: Vec<PlacedView>,
        /// What is wrong, and what to do about it.
        problems: Vec<String>,
    }

    /// One node in a container.
    #[derive(Eq)]
    struct PlacedView {
        /// For which alias.
        alias: AliasName,
        /// Which of its nodes.
        role: Role,
        /// Where below the container's /dev.
        path: NodePath,
        /// Its number.
        devnum: DevNum,
        /// What the container may do.
        access: Access,
        /// Links to it, below the container's /dev.
        links: Vec<NodePath>,
        /// Owner, as the container counts.
        uid: u32,
        /// Group, as the container counts.
        gid: u32,
        /// `mode & 0777`, in octal on the wire.
        #[serde(with = "octal")]
        mode: u16,
        /// Whether it is there.
        state: NodeState,
        /// What is wrong, and what comes next.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        problem: Option<String>,
    }

    /// A process that holds a device open.
    #[derive(Eq)]
    struct HolderView {
        /// Its number on the host.
        pid: i32,
        /// Its name.
        command: String,
        /// Which device.
        devnum: DevNum,
    }

    /// What would be done in one container, or on the host itself.
    struct ContainerPlan {
        /// The container; absent for the host's own links.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        container: Option<ContainerRef>,
        /// In order.
        actions: Vec<ActionView>,
    }

    /// One action.
    struct ActionView {
        /// In words.
        text: String,
        /// As data.
        action: serde_json::Value,
    }

    /// What happened. `seq` is given by the log.
    #[derive(Eq)]
    struct EventView {
        /// Counts up from 1 since the daemon started.
        seq: u64,
        /// When: microseconds since 1970.
        time: u64,
        /// What.
        kind: EventKind,
        /// In words.
        message: String,
        /// To which container.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        container: Option<ContainerRef>,
        /// With which alias.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        alias: Option<AliasName>,
        /// Which of its nodes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        role: Option<Role>,
        /// Which name below /dev.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<NodePath>,
        /// Which number.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        devnum: Option<DevNum>,
        /// Which device in sysfs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        syspath: Option<SysPath>,
        /// How long after udev's (for a removal the kernel's) event, in microseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
    }
}

impl EventView {
    /// An event that names nothing yet; `time` is the caller's to set, `seq` the log's.
    pub fn new(kind: EventKind, message: impl Into<String>) -> Self {
        Self {
            seq: 0,
            time: 0,
            kind,
            message: message.into(),
            container: None,
            alias: None,
            role: None,
            path: None,
            devnum: None,
            syspath: None,
            after: None,
        }
    }
}

/// Whether a directory of sysfs is a physical device rather than a part of one.
fn is_physical(device: &SysDevice) -> bool {
    match device.subsystem.as_deref() {
        Some("usb") => device.devtype.as_deref() == Some("usb_device"),
        Some("pci" | "platform" | "virtio" | "mmc" | "i2c" | "acpi" | "pnp") => true,
        Some(_) | None => false,
    }
}

/// The nodes by physical device, in order of sysfs; `about` tells what the broker knows of a node.
pub fn devices<'a>(
    nodes: impl IntoIterator<Item = &'a HostNode>,
    mut about: impl FnMut(&HostNode) -> (Vec<AliasRole>, Vec<ContainerRef>),
) -> Vec<DeviceView> {
    let mut all = BTreeMap::<SysPath, DeviceView>::new();
    for node in nodes {
        let device = node
            .chain
            .iter()
            .find(|device| is_physical(device))
            .unwrap_or(node.own());
        let (aliases, containers) = about(node);
        let view = NodeView {
            devnum: node.devnum,
            devname: node.devname.clone(),
            subsystem: node.subsystem().into(),
            syspath: node.syspath().clone(),
            driver: node.chain.iter().find_map(|device| device.driver.clone()),
            links: node.links.clone(),
            aliases,
            containers,
        };
        all.entry(device.syspath.clone())
            .or_insert_with(|| device_view(device))
            .nodes
            .push(view);
    }
    all.into_values()
        .map(|mut device| {
            device.nodes.sort_by(|a, b| a.devname.cmp(&b.devname));
            device
        })
        .collect()
}

fn device_view(device: &SysDevice) -> DeviceView {
    let attribute = |names: [&str; 2]| {
        names
            .iter()
            .find_map(|name| device.attributes.get(*name))
            .filter(|text| !text.is_empty())
            .cloned()
    };
    // On USB `product` is a text beside the number `idProduct`; on PCI the numbers are `vendor` and `device`.
    let usb = device.subsystem.as_deref() == Some("usb");
    let words: Vec<String> = if usb {
        [attribute(["manufacturer"; 2]), attribute(["product"; 2])]
            .into_iter()
            .flatten()
            .collect()
    } else {
        Vec::new()
    };
    let number = |text: String| text.trim_start_matches("0x").to_owned();
    DeviceView {
        syspath: device.syspath.clone(),
        subsystem: device.subsystem.clone().unwrap_or_default(),
        title: (!words.is_empty()).then(|| words.join(" ")),
        vendor: attribute(if usb { ["idVendor"; 2] } else { ["vendor"; 2] }).map(number),
        product: attribute(if usb { ["idProduct"; 2] } else { ["device"; 2] }).map(number),
        serial: attribute(["serial"; 2]),
        port: device.port.as_ref().map(ToString::to_string),
        nodes: Vec::new(),
    }
}
