//! Reads devices from sysfs: nodes, the chain of devices above them, and what identifies each.
//!
//! Owns the reading and the memory of devices read (a device is read once for each of its stays). Identity comes from sysfs
//! alone; udev's record adds links and properties, and says whether udev is done. Decides nothing about aliases.
//!
//! How a consistent picture comes about without locks: a directory's inode number is its incarnation, and a directory goes
//! when the one above it goes. If the node's directory has the same inode before and after all the reading, everything above
//! it was the same all the while.

mod files;
mod patient;
mod properties;
mod udev;

pub use files::SysfsError;

use super::event::{Changed, Properties};
use super::usb_port;
use crate::model::{DevKind, DevNum, HostNode, Incarnation, NodePath, SysDevice, SysPath};
use files::{attribute, device_path, failed, incarnation_at, link_name, link_target, number, uevent_at};
use patient::Patient;
use properties::{links, of_device, with_sysfs};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// How many devices are remembered; more than a big host has, and none is lost by forgetting.
const MAX_CACHE: usize = 16_384;

/// What of a USB device identifies it.
const USB_DEVICE: &[&str] = &[
    "idVendor",
    "idProduct",
    "bDeviceClass",
    "busnum",
    "devnum",
    "devpath",
    "speed",
];

/// What it tells about itself in words.
const USB_STRINGS: &[&str] = &["serial", "manufacturer", "product"];

/// Where the trees are that are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// sysfs.
    pub sys: PathBuf,
    /// udev's run-time folder with `data/` and `queue`.
    pub udev: PathBuf,
    /// The host's device nodes.
    pub dev: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            sys: "/sys".into(),
            udev: "/run/udev".into(),
            dev: "/dev".into(),
        }
    }
}

/// All that a look at the whole host found.
#[derive(Debug, Default)]
pub struct Scan {
    /// The nodes with which udev is done, by path.
    pub nodes: Vec<HostNode>,
    /// Nodes with which udev is not done, or of which it cannot be told yet whether its record is theirs, read from sysfs
    /// alone: without links and properties of udev's. Until their event, or a scan after the queue has drained, they justify
    /// what is there already and nothing new.
    pub pending: Vec<HostNode>,
    /// Devices that are there and could not be read, or not within a moment: leave them as they are.
    pub unread: Vec<SysPath>,
    /// Why not: scan again after a while.
    pub failed: Vec<SysfsError>,
    /// udev was busy and something is pending: scan again when its queue has drained.
    pub again: bool,
}

/// Reads devices, and remembers those that nodes have in common.
#[derive(Debug)]
pub struct Reader {
    roots: Roots,
    /// Attributes of the node itself that the configuration asks for, besides those always read.
    wanted: BTreeSet<String>,
    cache: HashMap<SysPath, SysDevice>,
    /// Directories above devices that are none themselves.
    folders: HashMap<SysPath, Incarnation>,
    patient: Patient,
    /// The kernel's events up to this number came about before the last scan: nobody can say which removals among them were
    /// missed.
    suspect_until: u64,
}

impl Reader {
    /// A reader of the host's own trees.
    pub fn new(wanted_attributes: BTreeSet<String>) -> Self {
        Self::with_roots(Roots::default(), wanted_attributes)
    }

    /// A reader of other trees, for tests.
    pub fn with_roots(roots: Roots, wanted_attributes: BTreeSet<String>) -> Self {
        Self {
            roots,
            wanted: wanted_attributes,
            cache: HashMap::new(),
            folders: HashMap::new(),
            patient: Patient::default(),
            suspect_until: 0,
        }
    }

    /// Asks for other attributes from now on.
    pub fn set_wanted(&mut self, wanted_attributes: BTreeSet<String>) {
        self.wanted = wanted_attributes;
    }

    /// Forgets a device that went and all below it. Only saves memory: what is remembered is checked before it is used.
    pub fn forget(&mut self, syspath: &SysPath) {
        self.cache.retain(|path, _| !path.is_within(syspath));
        self.folders.retain(|path, _| !path.is_within(syspath));
    }

    /// The node of one device, with the properties of the event that spoke of it, or else those of udev's record.
    ///
    /// `None`: there is no such device any more, it has no node, it is another one than the event speaks of, or (without an
    /// event) udev is not done with it. Events from before the last scan are taken only if they certainly speak of this device.
    /// An event's properties are moved into the node, not copied.
    pub fn read(
        &mut self,
        syspath: &SysPath,
        event: Option<&mut Changed>,
    ) -> Result<Option<HostNode>, SysfsError> {
        match self.look(syspath, event, false)? {
            Looked::Node(node) => Ok(Some(*node)),
            Looked::Pending(_) | Looked::Nothing => Ok(None),
        }
    }

    /// Looks at every device node of the host.
    pub fn enumerate(&mut self) -> Result<Scan, SysfsError> {
        let mut scan = Scan::default();
        let busy = self.queue_is_busy();
        let seqnum = attribute(&self.roots.sys.join("kernel/uevent_seqnum"))?;
        self.suspect_until = seqnum.and_then(|number| number.parse().ok()).unwrap_or(0);
        let mut paths = BTreeSet::new();
        for kind in ["char", "block"] {
            let folder = self.roots.sys.join("dev").join(kind);
            let entries = std::fs::read_dir(&folder).map_err(failed("list", &folder))?;
            for entry in entries {
                let entry = entry.map_err(failed("list", &folder))?;
                // Gone in between: nothing to see.
                let Ok(target) = std::fs::read_link(entry.path()) else {
                    continue;
                };
                if let Some(syspath) = device_path(&target) {
                    paths.insert(syspath);
                }
            }
        }
        // udevd may have begun to work while the nodes were listed; that nothing is left is judged the strict way then.
        let busy = busy || self.queue_is_busy();
        for syspath in paths {
            match self.look(&syspath, None, busy) {
                Ok(Looked::Node(node)) => scan.nodes.push(*node),
                Ok(Looked::Pending(node)) => scan.pending.push(*node),
                Ok(Looked::Nothing) => {}
                Err(error) => {
                    scan.failed.push(error);
                    scan.unread.push(syspath);
                }
            }
        }
        scan.again = busy && !(scan.pending.is_empty() && scan.unread.is_empty());
        Ok(scan)
    }

    /// Which stay of a device this is, `None` if it is not there.
    pub fn incarnation(&self, syspath: &SysPath) -> Result<Option<Incarnation>, SysfsError> {
        incarnation_at(&self.path(syspath))
    }

    /// Whether the node is still that of the device it was read from: to be asked after access to its number was allowed. One
    /// system call: a device keeps its number as long as its directory is the same (`dev` is written once, by `device_add`).
    pub fn still_is(&self, node: &HostNode) -> Result<bool, SysfsError> {
        Ok(self.incarnation(node.syspath())? == Some(node.incarnation()))
    }

    /// Whether udev has events that it is not through with.
    pub fn queue_is_busy(&self) -> bool {
        self.roots.udev.join("queue").symlink_metadata().is_ok()
    }

    fn path(&self, syspath: &SysPath) -> PathBuf {
        self.roots.sys.join(syspath.as_str().trim_start_matches('/'))
    }

    /// Reads one node. With `busy`, a record counts only if it is certain to be the present device's.
    fn look(
        &mut self,
        syspath: &SysPath,
        mut event: Option<&mut Changed>,
        busy: bool,
    ) -> Result<Looked, SysfsError> {
        let dir = self.path(syspath);
        let Some(incarnation) = incarnation_at(&dir)? else {
            return Ok(Looked::Nothing);
        };
        let uevent = match event {
            Some(_) => Properties::new(),
            None => uevent_at(&dir)?.unwrap_or_default(),
        };
        let told = event.as_deref();
        let subsystem = match told.and_then(|event| event.properties.get("SUBSYSTEM")) {
            Some(subsystem) => Some(subsystem.clone()),
            None => link_name(&dir.join("subsystem"))?,
        };
        let kind = match subsystem.as_deref() {
            Some("block") => DevKind::Block,
            Some(_) | None => DevKind::Char,
        };
        let raw = told.map_or(&uevent, |event| &event.properties);
        let devnum = match told {
            // The event is of another device that had this place.
            Some(event) if self.holder(event.devnum)?.as_ref() != Some(syspath) => {
                return Ok(Looked::Nothing);
            }
            Some(event) => event.devnum,
            None => match number(raw, kind) {
                Some(devnum) => devnum,
                None => return Ok(Looked::Nothing),
            },
        };
        let Some(devname) = raw.get("DEVNAME").and_then(|name| name.parse::<NodePath>().ok()) else {
            return Ok(Looked::Nothing);
        };
        let devtype = raw.get("DEVTYPE").cloned();
        let (mode, born) = self.host_node(&devname, devnum);
        let (properties, is_done) = match &mut event {
            Some(event) if !self.speaks_of(event, born) => return Ok(Looked::Nothing),
            Some(event) => (std::mem::take(&mut event.properties), true),
            None => {
                let record = self.record(devnum, born, busy)?;
                let is_done = record.is_some();
                let record = record.unwrap_or_default();
                let all = with_sysfs(record, uevent, syspath, subsystem.as_deref(), &devname);
                (all, is_done)
            }
        };
        let own = self.own_device(syspath, incarnation, subsystem, devtype)?;
        let mut chain = vec![own];
        self.ancestors(syspath, &mut chain)?;
        self.name_ports(&mut chain);
        self.remember(&chain);
        if let Some(own) = chain.first_mut() {
            self.own_attributes(&dir, own)?;
        }
        // All of this was one and the same device only if it is still there.
        if incarnation_at(&dir)? != Some(incarnation) {
            return Ok(Looked::Nothing);
        }
        let node = Box::new(HostNode {
            devnum,
            devname,
            mode,
            links: links(&properties),
            properties: of_device(properties),
            rule_aliases: Vec::new(),
            chain,
        });
        Ok(if is_done {
            Looked::Node(node)
        } else {
            Looked::Pending(node)
        })
    }

    /// The device that has a number now: the kernel makes this link with the device, and takes it away with it.
    fn holder(&self, devnum: DevNum) -> Result<Option<SysPath>, SysfsError> {
        let kind = match devnum.kind {
            DevKind::Block => "block",
            DevKind::Char => "char",
        };
        let link = format!("dev/{kind}/{}:{}", devnum.major, devnum.minor);
        Ok(link_target(&self.roots.sys.join(link))?.and_then(|target| device_path(&target)))
    }

    /// The node's own directory as a device, without the attributes that belong to this node alone.
    fn own_device(
        &mut self,
        syspath: &SysPath,
        incarnation: Incarnation,
        subsystem: Option<String>,
        devtype: Option<String>,
    ) -> Result<SysDevice, SysfsError> {
        let dir = self.path(syspath);
        let driver = link_name(&dir.join("driver"))?;
        if let Some(known) = self
            .cache
            .get(syspath)
            .filter(|known| known.incarnation == incarnation)
        {
            return Ok(SysDevice {
                driver,
                ..known.clone()
            });
        }
        let mut device = SysDevice {
            syspath: syspath.clone(),
            incarnation,
            subsystem,
            devtype,
            driver,
            attributes: BTreeMap::new(),
            port: None,
        };
        self.identify(&dir, &mut device)?;
        Ok(device)
    }

    /// The devices above, nearest first, up to the PCI function or the top.
    fn ancestors(&mut self, syspath: &SysPath, chain: &mut Vec<SysDevice>) -> Result<(), SysfsError> {
        let mut above = syspath.parent();
        let mut seen = Seen::default();
        while let Some(at) = above {
            if let Some(device) = self.ancestor(&at, &mut seen)? {
                let is_controller = device.subsystem.as_deref() == Some("pci");
                chain.push(device);
                if is_controller {
                    break;
                }
            }
            above = at.parent();
        }
        Ok(())
    }

    /// The device at `at`, or `None` where that is only a folder.
    fn ancestor(&mut self, at: &SysPath, seen: &mut Seen) -> Result<Option<SysDevice>, SysfsError> {
        let dir = self.path(at);
        if seen.same && self.folders.contains_key(at) {
            return Ok(None);
        }
        let known = self.cache.get(at);
        let incarnation = match known {
            Some(known) if seen.same => known.incarnation,
            Some(_) | None => match incarnation_at(&dir)? {
                Some(incarnation) => incarnation,
                None => return Ok(None),
            },
        };
        if let Some(known) = known.filter(|known| known.incarnation == incarnation) {
            // The driver of the first may have changed: not that of those further up, since a driver takes along what hangs
            // below when it goes; but one may have come.
            let driver = match &known.driver {
                Some(driver) if seen.driver => Some(driver.clone()),
                None if seen.driver && known.subsystem.is_none() => None,
                Some(_) | None => link_name(&dir.join("driver"))?,
            };
            *seen = Seen {
                same: true,
                driver: true,
            };
            return Ok(Some(SysDevice {
                driver,
                ..known.clone()
            }));
        }
        if self.folders.get(at) == Some(&incarnation) {
            seen.same = true;
            return Ok(None);
        }
        let Some(uevent) = uevent_at(&dir)? else {
            self.cache.remove(at);
            self.folders.insert(at.clone(), incarnation);
            return Ok(None);
        };
        let mut device = SysDevice {
            syspath: at.clone(),
            incarnation,
            subsystem: link_name(&dir.join("subsystem"))?,
            devtype: uevent.get("DEVTYPE").cloned(),
            driver: uevent.get("DRIVER").cloned(),
            attributes: BTreeMap::new(),
            port: None,
        };
        self.identify(&dir, &mut device)?;
        Ok(Some(device))
    }

    /// Reads what identifies a device of its kind.
    fn identify(&mut self, dir: &Path, device: &mut SysDevice) -> Result<(), SysfsError> {
        let (names, strings): (&[&str], &[&str]) =
            match (device.subsystem.as_deref(), device.devtype.as_deref()) {
                (Some("usb"), Some("usb_device")) => (USB_DEVICE, USB_STRINGS),
                (Some("usb"), Some("usb_interface")) => (&["bInterfaceNumber"], &[]),
                (Some("usb-serial"), _) => (&["port_number"], &[]),
                (Some("pci"), _) => (&["vendor", "device"], &[]),
                _ => (&[], &[]),
            };
        for name in names {
            add_attribute(dir, name, device)?;
        }
        if !strings.is_empty() {
            let values = self.patient.attributes(dir, strings)?;
            for (name, value) in strings.iter().zip(values) {
                if let Some(value) = value {
                    device.attributes.insert((*name).into(), value);
                }
            }
        }
        Ok(())
    }

    /// Gives the USB devices of a chain the names of their sockets, from the root hub down.
    fn name_ports(&self, chain: &mut [SysDevice]) {
        let mut bus = None;
        let mut hub = None;
        for device in chain
            .iter_mut()
            .rev()
            .filter(|device| usb_port::is_usb_device(device))
        {
            if let Some(found) = usb_port::bus_of_root_hub(device) {
                bus = Some(found);
                continue;
            }
            let Some(bus) = &bus else { return };
            if device.port.is_none() {
                let peer = || {
                    link_name(&self.path(&device.syspath).join("port/peer"))
                        .ok()
                        .flatten()
                };
                device.port = usb_port::port_name(device, bus, hub.as_ref(), peer);
            }
            hub.clone_from(&device.port);
        }
    }

    fn remember(&mut self, chain: &[SysDevice]) {
        if self.cache.len() + self.folders.len() + chain.len() > MAX_CACHE {
            self.cache.clear();
            self.folders.clear();
        }
        for device in chain {
            if let Some(known) = self.cache.get_mut(&device.syspath) {
                known.clone_from(device);
            } else {
                self.folders.remove(&device.syspath);
                self.cache.insert(device.syspath.clone(), device.clone());
            }
        }
    }

    /// The attributes that only the node itself is asked for: those of its role, and those of the configuration.
    fn own_attributes(&self, dir: &Path, own: &mut SysDevice) -> Result<(), SysfsError> {
        let of_role = match own.subsystem.as_deref() {
            Some("video4linux") => Some("index"),
            Some("block") if own.devtype.as_deref() != Some("disk") => Some("partition"),
            Some(_) | None => None,
        };
        for name in of_role.into_iter().chain(self.wanted.iter().map(String::as_str)) {
            add_attribute(dir, name, own)?;
        }
        Ok(())
    }
}

/// What was seen on the way up from a node.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// A directory is still the one that was read; it has only such above it.
    same: bool,
    /// A device of those was asked for its driver.
    driver: bool,
}

/// What a look at a directory of sysfs found.
enum Looked {
    /// A node with which udev is done.
    Node(Box<HostNode>),
    /// A node with which udev is not done, as sysfs has it.
    Pending(Box<HostNode>),
    /// No node.
    Nothing,
}

fn add_attribute(dir: &Path, name: &str, device: &mut SysDevice) -> Result<(), SysfsError> {
    // A name leads downwards or along the device's own links, never up or to a place of its own.
    if name.starts_with('/') || name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Ok(());
    }
    if device.attributes.contains_key(name) {
        return Ok(());
    }
    if let Some(value) = attribute(&dir.join(name))? {
        device.attributes.insert(name.into(), value);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
