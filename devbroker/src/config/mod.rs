//! The configuration: TOML files as types, with every fault reported where it stands.
//!
//! [`parse_file`] and [`merge`] are pure. [`Loader`] reads the folders and keeps the last good copy of each file; `edit`
//! writes files for the command line. What the configuration *means* for devices is `policy`'s.

mod diagnostic;
mod draft;
mod durable;
pub mod edit;
mod load;
mod merge;
mod parse;
mod table;

pub use diagnostic::{Diagnostic, Excerpt, Severity, Source};
pub use draft::{FileConfig, Place, SettingsDraft};
pub use load::{FileState, FileStatus, Loaded, Loader, is_configuration, read_file};
pub use merge::merge;
pub use parse::{MAX_FILE, parse_file, parse_file_in};

pub use crate::model::{Origin, UserRef};

use crate::model::{Access, AliasName, ContainerPattern, ContainerRef, NodePath, PortName, Role};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// All that is configured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// The daemon's own settings.
    pub settings: Settings,
    /// Aliases by name.
    pub aliases: BTreeMap<AliasName, Alias>,
    /// Grants, in the order of files and lines.
    pub grants: Vec<Grant>,
    /// Grants suspended at run time.
    pub detached: Vec<Detach>,
}

/// The table `[daemon]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Whether to listen to udev's monitor; without it the hook alone carries events.
    pub monitor: bool,
    /// Bytes of the monitor's receive buffer.
    pub receive_buffer: u32,
    /// Whether to put device programs back that systemd replaced.
    pub reassert: bool,
    /// Seconds between looks at the nodes' permissions; 0: only at removal and stop.
    pub snapshot_seconds: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            monitor: true,
            receive_buffer: 128 << 20,
            reassert: true,
            snapshot_seconds: 60,
        }
    }
}

/// A stable name for a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// The name.
    pub name: AliasName,
    /// Any of these makes a device the alias's.
    pub matches: Vec<Match>,
    /// The role that alias and `path` lead to, if declared.
    pub primary: Option<Role>,
    /// Where it is written.
    pub origin: Origin,
}

/// Keys that must all match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// The keys, never empty, in the order of [`Key`].
    pub keys: Vec<Key>,
    /// Whether a match of a node is lifted to the whole device.
    pub whole: bool,
    /// Where it is written.
    pub origin: Origin,
}

impl Match {
    /// Whether a key speaks of the USB or PCI device rather than of one node.
    pub fn names_device(&self) -> bool {
        self.keys.iter().any(Key::is_of_device)
    }

    /// Whether a key speaks of one node.
    pub fn names_node(&self) -> bool {
        self.keys.iter().any(|key| !key.is_of_device())
    }
}

/// One key of a match.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Key {
    /// USB or PCI vendor id.
    Vendor(HexId),
    /// USB or PCI product id.
    Product(HexId),
    /// The USB serial number, as in sysfs or as udev writes it (`ID_SERIAL_SHORT`).
    Serial(String),
    /// The physical socket.
    Port(PortName),
    /// The node's subsystem.
    Subsystem(String),
    /// The driver of the node or of the interface that it belongs to.
    Driver(String),
    /// One of udev's links to the node, or its kernel name.
    Link(NodePath),
    /// A property that udev gave the node.
    Property(String, String),
    /// An attribute of the node in sysfs.
    Attribute(String, String),
}

impl Key {
    /// Whether it speaks of the USB or PCI device rather than of one node.
    pub const fn is_of_device(&self) -> bool {
        match self {
            Self::Vendor(_) | Self::Product(_) | Self::Serial(_) | Self::Port(_) => true,
            Self::Subsystem(_)
            | Self::Driver(_)
            | Self::Link(_)
            | Self::Property(..)
            | Self::Attribute(..) => false,
        }
    }

    /// The key as the configuration writes it: `vendor`, `property.ID_MODEL`.
    pub fn name(&self) -> String {
        match self {
            Self::Vendor(_) => "vendor".into(),
            Self::Product(_) => "product".into(),
            Self::Serial(_) => "serial".into(),
            Self::Port(_) => "port".into(),
            Self::Subsystem(_) => "subsystem".into(),
            Self::Driver(_) => "driver".into(),
            Self::Link(_) => "link".into(),
            Self::Property(name, _) => format!("property.{name}"),
            Self::Attribute(name, _) => format!("attr.{name}"),
        }
    }

    /// The value asked for, as text.
    pub fn expected(&self) -> String {
        match self {
            Self::Vendor(id) | Self::Product(id) => id.to_string(),
            Self::Serial(text)
            | Self::Subsystem(text)
            | Self::Driver(text)
            | Self::Property(_, text)
            | Self::Attribute(_, text) => text.clone(),
            Self::Port(port) => port.to_string(),
            Self::Link(path) => path.to_string(),
        }
    }
}

/// A vendor or product id: four hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HexId(pub u16);

impl fmt::Display for HexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.0)
    }
}

impl FromStr for HexId {
    type Err = ();

    /// Four hexadecimal digits, with or without `0x`: sysfs has `04b8` for USB and `0x8086` for PCI.
    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        if digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            u16::from_str_radix(digits, 16).map(Self).map_err(|_| ())
        } else {
            Err(())
        }
    }
}

/// An alias for a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The alias.
    pub alias: AliasName,
    /// Which containers.
    pub container: ContainerPattern,
    /// The host's uid of the owner whose containers are meant: 0, or whoever started a rootless one.
    pub user: u32,
    /// What the container may do.
    pub access: Access,
    /// What else it says, for all nodes; `path` is the primary node's.
    pub looks: Looks,
    /// What differs for single roles.
    pub nodes: Vec<NodeRule>,
    /// Where it is written.
    pub origin: Origin,
}

/// How a node looks inside, as far as a grant says it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Looks {
    /// One more name.
    pub path: Option<NodePath>,
    /// Whether `path` is the node itself instead of a link to it.
    pub as_node: bool,
    /// Owner.
    pub owner: Option<UserRef>,
    /// Group.
    pub group: Option<UserRef>,
    /// The nine permission bits.
    pub mode: Option<u16>,
}

/// What a grant says of one role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRule {
    /// The role.
    pub role: Role,
    /// Leave this node out.
    pub omit: bool,
    /// Another access than the grant's.
    pub access: Option<Access>,
    /// What differs from the grant.
    pub looks: Looks,
    /// Where it is written.
    pub origin: Origin,
}

/// A grant suspended at run time (`devbroker detach`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detach {
    /// The alias.
    pub alias: AliasName,
    /// The container.
    pub container: ContainerRef,
    /// Where it is written.
    pub origin: Origin,
}
