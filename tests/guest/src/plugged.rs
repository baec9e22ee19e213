//! Finding a USB device that was plugged in, and its nodes, in sysfs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where a device is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At this port (`3`, `3.2`) of an xHCI controller.
    Port(String),
    /// At the `dummy_hcd` of this number, with these ids (`04b8:011f`): a device
    /// that is just going away may have the same name.
    Gadget(String, String),
}

impl Place {
    /// Parses `port:3.2` and `gadget:0:04b8:011f`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':')? {
            ("port", port) => Some(Self::Port(port.to_owned())),
            ("gadget", rest) => {
                let (number, ids) = rest.split_once(':')?;
                Some(Self::Gadget(number.to_owned(), ids.to_owned()))
            }
            _ => None,
        }
    }

    /// The device's folder, if there is one.
    pub fn find(&self) -> Option<PathBuf> {
        match self {
            Self::Port(port) => {
                let controllers = folders(Path::new("/sys/bus/pci/drivers/xhci_hcd"));
                let buses = controllers.iter().flat_map(|controller| folders(controller));
                let named =
                    buses.filter_map(|bus| Some(bus.file_name()?.to_str()?.strip_prefix("usb")?.to_owned()));
                let mut devices = named.map(|bus| format!("/sys/bus/usb/devices/{bus}-{port}"));
                devices.find_map(|device| fs::canonicalize(device).ok())
            }
            Self::Gadget(number, ids) => {
                let buses = folders(&Path::new("/sys/devices/platform").join(format!("dummy_hcd.{number}")));
                let devices = buses.iter().flat_map(|bus| folders(bus));
                devices.into_iter().find(|device| {
                    let attribute = |name| fs::read_to_string(device.join(name)).unwrap_or_default();
                    let is_device = device
                        .file_name()
                        .is_some_and(|name| name.to_string_lossy().ends_with("-1"));
                    let found = format!(
                        "{}:{}",
                        attribute("idVendor").trim(),
                        attribute("idProduct").trim()
                    );
                    is_device && found == *ids
                })
            }
        }
    }
}

/// The entries of a folder that are folders or links to one.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

/// The nodes of a device and of all below it, in the order of their folders' names.
pub fn nodes(device: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let uevent = fs::read_to_string(device.join("uevent")).unwrap_or_default();
    found.extend(
        uevent
            .lines()
            .filter_map(|line| line.strip_prefix("DEVNAME="))
            .map(|name| format!("/dev/{name}")),
    );
    let mut below: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(device)? {
        let entry = entry?;
        // Links lead elsewhere; these have none of their own.
        if entry.file_type()?.is_dir() && entry.file_name() != "power" && entry.file_name() != "ep_00" {
            below.push(entry.path());
        }
    }
    below.sort();
    for folder in below {
        // A part that has just gone is no part.
        found.extend(nodes(&folder).unwrap_or_default());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_parsed() {
        assert_eq!(Place::parse("port:3.2"), Some(Place::Port("3.2".to_owned())));
        let gadget = Place::Gadget("0".to_owned(), "04b8:011f".to_owned());
        assert_eq!(Place::parse("gadget:0:04b8:011f"), Some(gadget));
        assert_eq!(Place::parse("gadget:0"), None);
        assert_eq!(Place::parse("shelf:1"), None);
    }
}
