//! Devices made up for tests, as the reader of sysfs describes them.

mod alias;
mod belongs;
mod properties;

use crate::config::{Config, merge, parse_file};
use crate::model::{DevKind, DevNum, HostNode, Incarnation, PortName, SysDevice};
use std::path::Path;

/// A configuration without faults.
pub(crate) fn config(text: &str) -> Config {
    let (file, faults) = parse_file(Path::new("test.toml"), text.as_bytes());
    assert_eq!(faults, []);
    let (config, faults) = merge(vec![file]);
    let errors: Vec<_> = faults
        .into_iter()
        .filter(crate::config::Diagnostic::is_error)
        .collect();
    assert_eq!(errors, []);
    config
}

/// A directory of sysfs; `stay` is added to a number made of the path.
pub(super) fn dir(
    path: &str,
    stay: u64,
    subsystem: &str,
    devtype: &str,
    attributes: &[(&str, &str)],
) -> SysDevice {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    SysDevice {
        syspath: path.parse().unwrap(),
        incarnation: Incarnation(stay),
        subsystem: some(subsystem),
        devtype: some(devtype),
        driver: None,
        attributes: attributes
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect(),
        port: None,
    }
}

/// A USB device on its way up: itself, then the hubs above it, by its kernel name and port chain, such as `1-2.4` at
/// `2.4`. `ids` is `vendor:product`, or `vendor:product:serial`.
#[derive(Debug, Clone)]
pub(crate) struct Usb {
    pub(crate) chain: Vec<SysDevice>,
}

impl Usb {
    /// A device at a port of controller `0000:00:14.0`.
    pub(crate) fn at(name: &str, stay: u64, port: &str, ids: &str) -> Self {
        let bus = name.split('-').next().unwrap();
        let root = format!("/devices/pci0000:00/0000:00:14.0/usb{bus}");
        Self {
            chain: vec![Self::device(&format!("{root}/{name}"), stay, Some(port), ids)],
        }
    }

    fn device(path: &str, stay: u64, port: Option<&str>, ids: &str) -> SysDevice {
        let mut parts = ids.split(':');
        let mut attributes = vec![
            ("idVendor", parts.next().unwrap()),
            ("idProduct", parts.next().unwrap()),
        ];
        if let Some(serial) = parts.next() {
            attributes.push(("serial", serial));
        }
        let mut device = dir(path, stay, "usb", "usb_device", &attributes);
        device.port = port.map(|port| PortName(format!("0000:00:14.0/{port}")));
        device.driver = Some("usb".into());
        device
    }

    /// Makes it a hub.
    pub(crate) fn hub(mut self) -> Self {
        self.chain[0]
            .attributes
            .insert("bDeviceClass".into(), "09".into());
        self
    }

    /// With an attribute.
    pub(super) fn with(mut self, name: &str, text: &str) -> Self {
        self.chain[0].attributes.insert(name.into(), text.into());
        self
    }

    /// A device behind it.
    pub(crate) fn behind(&self, name: &str, stay: u64, port: &str, ids: &str) -> Self {
        let path = format!("{}/{name}", self.chain[0].syspath);
        let mut chain = vec![Self::device(&path, stay, Some(port), ids)];
        chain.extend(self.chain.iter().cloned());
        Self { chain }
    }

    /// Its own node.
    pub(crate) fn node(&self, minor: u32) -> HostNode {
        host_node(
            DevNum::char(189, minor),
            &format!("bus/usb/001/{minor:03}"),
            self.chain.clone(),
        )
    }

    /// A node of one of its interfaces: `tail` is the rest of the path below the interface.
    pub(crate) fn class(&self, interface: &str, tail: &str, subsystem: &str, driver: &str) -> HostNode {
        let top = &self.chain[0];
        let base = format!(
            "{}/{}:1.{}",
            top.syspath,
            top.syspath.name(),
            interface.trim_start_matches('0')
        );
        let mut own = dir(
            &format!("{base}/{tail}"),
            top.incarnation.0 * 100 + u64::from(u8::from_str_radix(interface, 16).unwrap()),
            subsystem,
            "",
            &[],
        );
        if subsystem == "video4linux" {
            own.attributes.insert("index".into(), "0".into());
        }
        let mut above = dir(
            &base,
            top.incarnation.0 * 10,
            "usb",
            "usb_interface",
            &[("bInterfaceNumber", interface)],
        );
        above.driver = Some(driver.into());
        let name = own.syspath.name().to_owned();
        let mut chain = vec![own, above];
        chain.extend(self.chain.iter().cloned());
        host_node(DevNum::char(188, 0), &name, chain)
    }
}

/// A node with this chain.
pub(super) fn host_node(devnum: DevNum, devname: &str, chain: Vec<SysDevice>) -> HostNode {
    HostNode {
        devnum,
        devname: devname.parse().unwrap(),
        mode: 0o660,
        links: vec![],
        properties: [].into(),
        rule_aliases: vec![],
        chain,
    }
}

/// A node without a physical device.
pub(super) fn bare(path: &str, stay: u64, subsystem: &str, devnum: DevNum) -> HostNode {
    let devtype = if devnum.kind == DevKind::Block { "disk" } else { "" };
    let own = dir(path, stay, subsystem, devtype, &[]);
    let name = own.syspath.name().to_owned();
    host_node(devnum, &name, vec![own])
}
