//! The reader against trees with the layout of real ones; `tests/root_events.rs` has it on the kernel's.

use super::{Reader, Roots, Scan};
use crate::host::event::{Action, Changed, Properties, Source};
use crate::model::{DevNum, HostNode, Incarnation, NodePath, SysPath};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;
use tempfile::TempDir;

const XHCI: &str = "/devices/pci0000:00/0000:00:14.0";

struct Host {
    dir: TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for folder in ["sys/dev/char", "sys/dev/block", "udev/data", "dev"] {
            fs::create_dir_all(host.dir.path().join(folder)).unwrap();
        }
        host
    }

    fn reader(&self) -> Reader {
        let at = |name| self.dir.path().join(name);
        let roots = Roots {
            sys: at("sys"),
            udev: at("udev"),
            dev: at("dev"),
        };
        Reader::with_roots(roots, BTreeSet::new())
    }

    fn path(&self, syspath: &str) -> PathBuf {
        self.dir.path().join("sys").join(syspath.trim_start_matches('/'))
    }

    /// A device's folder with `uevent`, links to subsystem and driver, and attributes.
    fn device(
        &self,
        syspath: &str,
        subsystem: &str,
        driver: &str,
        uevent: &str,
        attributes: &[(&str, &str)],
    ) {
        let path = self.path(syspath);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("uevent"), uevent).unwrap();
        if !subsystem.is_empty() {
            symlink(format!("/nowhere/class/{subsystem}"), path.join("subsystem")).unwrap();
        }
        if !driver.is_empty() {
            symlink(format!("/nowhere/drivers/{driver}"), path.join("driver")).unwrap();
        }
        for (name, value) in attributes {
            fs::write(path.join(name), format!("{value}\n")).unwrap();
        }
    }

    /// A device with a node.
    fn node(&self, syspath: &str, subsystem: &str, number: &str, devname: &str, attributes: &[(&str, &str)]) {
        let (major, minor) = number.split_once(':').unwrap();
        let uevent = format!("MAJOR={major}\nMINOR={minor}\nDEVNAME={devname}\n");
        self.device(syspath, subsystem, "", &uevent, attributes);
        fs::write(self.path(syspath).join("dev"), format!("{number}\n")).unwrap();
        let kind = if subsystem == "block" { "block" } else { "char" };
        let link = self.dir.path().join("sys/dev").join(kind).join(number);
        symlink(format!("../..{syspath}"), link).unwrap();
    }

    fn usb_device(
        &self,
        syspath: &str,
        devpath: &str,
        ids: (&str, &str),
        number: &str,
        more: &[(&str, &str)],
    ) {
        let mut attributes = vec![("idVendor", ids.0), ("idProduct", ids.1), ("devpath", devpath)];
        attributes.extend_from_slice(more);
        let devname = format!("bus/usb/001/{:03}", number.rsplit(':').next().unwrap());
        self.node(syspath, "usb", number, &devname, &attributes);
        let uevent = self.path(syspath).join("uevent");
        let text = fs::read_to_string(&uevent).unwrap() + "DEVTYPE=usb_device\nDRIVER=usb\n";
        fs::write(uevent, text).unwrap();
        symlink("/nowhere/drivers/usb", self.path(syspath).join("driver")).unwrap();
    }

    fn record(&self, number: &str, text: &str) {
        fs::write(self.dir.path().join("udev/data").join(number), text).unwrap();
    }

    /// A USB 3 controller with a serial stick behind a hub, on the slow half, and one on the fast half of the same hub's other
    /// port.
    fn usb(&self) {
        self.device("/devices/pci0000:00", "", "", "", &[]);
        self.device(
            XHCI,
            "pci",
            "xhci_hcd",
            "DRIVER=xhci_hcd\nPCI_CLASS=C0330\n",
            &[("vendor", "0x8086"), ("device", "0x1e31")],
        );
        self.usb_device(&format!("{XHCI}/usb1"), "0", ("1d6b", "0002"), "189:0", &[]);
        self.usb_device(&format!("{XHCI}/usb2"), "0", ("1d6b", "0003"), "189:128", &[]);
        self.usb_device(&format!("{XHCI}/usb1/1-2"), "2", ("05e3", "0610"), "189:1", &[]);
        self.usb_device(&format!("{XHCI}/usb2/2-5"), "5", ("05e3", "0620"), "189:129", &[]);
        self.port("usb2/2-5", "2-0:1.0/usb2-port5", "usb1/1-0:1.0/usb1-port2");
        let stick = format!("{XHCI}/usb1/1-2/1-2.1");
        self.usb_device(&stick, "2.1", ("1a86", "7523"), "189:2", &[("serial", " A5 \t")]);
        let interface = format!("{stick}/1-2.1:1.0");
        self.device(
            &interface,
            "usb",
            "ch341",
            "DEVTYPE=usb_interface\nDRIVER=ch341\n",
            &[("bInterfaceNumber", "00")],
        );
        let port = format!("{interface}/ttyUSB0");
        self.device(
            &port,
            "usb-serial",
            "ch341-uart",
            "DRIVER=ch341-uart\n",
            &[("port_number", "0")],
        );
        self.node(&format!("{port}/tty/ttyUSB0"), "tty", "188:0", "ttyUSB0", &[]);
        self.usb_device(
            &format!("{XHCI}/usb2/2-5/2-5.3"),
            "5.3",
            ("0781", "5581"),
            "189:130",
            &[],
        );
        self.port(
            "usb2/2-5/2-5.3",
            "2-5:1.0/2-5-port3",
            "usb1/1-2/1-2:1.0/1-2-port3",
        );
        // A socket that has wires for USB 3 only.
        self.usb_device(&format!("{XHCI}/usb2/2-6"), "6", ("0781", "5581"), "189:131", &[]);
    }

    /// The port that a device is plugged into, and its other half.
    fn port(&self, device: &str, port: &str, peer: &str) {
        let device = self.path(&format!("{XHCI}/{device}"));
        let port = device.parent().unwrap().join(port);
        let peer = self.path(&format!("{XHCI}/{peer}"));
        fs::create_dir_all(&port).unwrap();
        fs::create_dir_all(&peer).unwrap();
        symlink(&peer, port.join("peer")).unwrap();
        symlink(&port, device.join("port")).unwrap();
    }
}

fn sys(text: &str) -> SysPath {
    text.parse().unwrap()
}

fn event(syspath: &str, devnum: DevNum, properties: &[(&str, &str)]) -> Changed {
    let mut all: Properties = properties
        .iter()
        .map(|(k, v)| ((*k).into(), (*v).into()))
        .collect();
    all.insert("ACTION".into(), "add".into());
    all.insert("SEQNUM".into(), "5".into());
    Changed {
        syspath: sys(syspath),
        seqnum: 5,
        action: Action::Add,
        devnum,
        properties: all,
        from: Source::Udev,
    }
}

fn paths(nodes: &[HostNode]) -> Vec<SysPath> {
    nodes.iter().map(|node| node.syspath().clone()).collect()
}

fn chain(node: &HostNode) -> Vec<String> {
    node.chain
        .iter()
        .map(|device| {
            format!(
                "{} {} {} {} {}",
                device.syspath.name(),
                device.subsystem.as_deref().unwrap_or("-"),
                device.devtype.as_deref().unwrap_or("-"),
                device.driver.as_deref().unwrap_or("-"),
                device.port.as_ref().map_or("-", |port| port.0.as_str()),
            )
        })
        .collect()
}

#[test]
fn a_serial_stick_with_all_that_is_above_it() {
    let host = Host::new();
    host.usb();
    let path = format!("{XHCI}/usb1/1-2/1-2.1/1-2.1:1.0/ttyUSB0/tty/ttyUSB0");
    let event = event(
        &path,
        DevNum::char(188, 0),
        &[
            ("SUBSYSTEM", "tty"),
            ("DEVNAME", "/dev/ttyUSB0"),
            (
                "DEVLINKS",
                "/dev/serial/by-path/x /dev/serial/by-id/y /dev/../etc",
            ),
            ("ID_MODEL", "m"),
        ],
    );
    let mut reader = host.reader();
    let node = reader
        .read(&sys(&path), Some(&mut event.clone()))
        .unwrap()
        .unwrap();
    let expected = [
        "ttyUSB0 tty - - -",
        "ttyUSB0 usb-serial - ch341-uart -",
        "1-2.1:1.0 usb usb_interface ch341 -",
        "1-2.1 usb usb_device usb 0000:00:14.0/2.1",
        "1-2 usb usb_device usb 0000:00:14.0/2",
        "usb1 usb usb_device usb -",
        "0000:00:14.0 pci - xhci_hcd -",
    ];
    assert_eq!(chain(&node), expected);
    assert_eq!(node.devnum, DevNum::char(188, 0));
    assert_eq!(node.devname.as_str(), "ttyUSB0");
    assert_eq!(node.mode, 0o600);
    let links: Vec<_> = node.links.iter().map(NodePath::as_str).collect();
    assert_eq!(links, ["serial/by-id/y", "serial/by-path/x"]);
    assert!(!node.properties.contains_key("SEQNUM"));
    assert_eq!(node.properties.get("ID_MODEL").map(String::as_str), Some("m"));
    let attributes: Vec<_> = node
        .chain
        .iter()
        .flat_map(|device| &device.attributes)
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    assert_eq!(
        attributes,
        [
            "port_number=0",
            "bInterfaceNumber=00",
            "devpath=2.1",
            "idProduct=7523",
            "idVendor=1a86",
            "serial=A5",
            "devpath=2",
            "idProduct=0610",
            "idVendor=05e3",
            "devpath=0",
            "idProduct=0002",
            "idVendor=1d6b",
            "device=0x1e31",
            "vendor=0x8086"
        ]
    );
    // From memory it is the same.
    assert_eq!(
        reader.read(&sys(&path), Some(&mut event.clone())).unwrap(),
        Some(node)
    );
}

#[test]
fn a_socket_has_one_name_at_both_speeds() {
    let host = Host::new();
    host.usb();
    let mut reader = host.reader();
    for (path, number, port) in [
        ("usb1/1-2", 1, Some("0000:00:14.0/2")),
        ("usb2/2-5", 129, Some("0000:00:14.0/2")),
        ("usb2/2-5/2-5.3", 130, Some("0000:00:14.0/2.3")),
        ("usb2/2-6", 131, Some("0000:00:14.0/ss6")),
        ("usb2", 128, None),
    ] {
        let path = format!("{XHCI}/{path}");
        host.record(&format!("c189:{number}"), "I:1\n");
        let node = reader.read(&sys(&path), None).unwrap().unwrap();
        assert_eq!(
            node.own().port.as_ref().map(|port| port.0.as_str()),
            port,
            "{path}"
        );
    }
}

#[test]
fn a_scan_leaves_what_udev_is_not_done_with() {
    let host = Host::new();
    host.node("/devices/virtual/mem/null", "mem", "1:3", "null", &[]);
    host.node("/devices/virtual/block/loop0", "block", "7:0", "loop0", &[]);
    host.node("/devices/virtual/misc/fuse", "misc", "10:229", "fuse", &[]);
    host.node("/devices/virtual/misc/bad", "misc", "10:230", "../bad", &[]);
    host.record(
        "b7:0",
        "I:7\nE:ID_X=y\nS:disk/by-id/z\nG:systemd\nE:DEVBROKER_ALIAS=a\n",
    );
    host.record("c10:229", "E:written=before the end\n");
    let Scan {
        nodes,
        pending,
        unread,
        failed,
        again,
    } = host.reader().enumerate().unwrap();
    assert_eq!((unread.len(), failed.len(), again), (0, 0, false));
    let pending: Vec<_> = pending
        .iter()
        .map(|node| (node.devname.as_str(), node.links.len(), node.properties.len()))
        .collect();
    // Only what the kernel says of them: name, path, number, subsystem.
    assert_eq!(pending, [("null", 0, 5), ("fuse", 0, 5)]);
    let [loop0] = nodes.as_slice() else {
        panic!("{nodes:?}")
    };
    let properties: Vec<_> = loop0.properties.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(
        properties,
        [
            "DEVBROKER_ALIAS=a",
            "DEVLINKS=/dev/disk/by-id/z",
            "DEVNAME=/dev/loop0",
            "DEVPATH=/devices/virtual/block/loop0",
            "ID_X=y",
            "MAJOR=7",
            "MINOR=0",
            "SUBSYSTEM=block",
            "TAGS=:systemd:",
            "USEC_INITIALIZED=7"
        ]
    );
    assert_eq!(loop0.devnum, DevNum::block(7, 0));
}

/// udev has nothing to say about a printer's node, and writes just that.
#[test]
fn an_empty_record_is_one_once_udev_is_idle() {
    let host = Host::new();
    host.node("/devices/virtual/usbmisc/lp0", "usbmisc", "180:0", "usb/lp0", &[]);
    host.record("c180:0", "");
    let mut reader = host.reader();
    let scan = reader.enumerate().unwrap();
    assert_eq!((scan.nodes.len(), scan.pending.len()), (1, 0));
    fs::write(host.dir.path().join("udev/queue"), "").unwrap();
    let scan = reader.enumerate().unwrap();
    assert_eq!(
        (scan.nodes.len(), paths(&scan.pending), scan.again),
        (0, vec![sys("/devices/virtual/usbmisc/lp0")], true)
    );
}

#[test]
fn while_udev_is_busy_a_record_of_unknown_age_counts_for_nothing() {
    let host = Host::new();
    host.node("/devices/virtual/misc/fuse", "misc", "10:229", "fuse", &[]);
    host.record("c10:229", "I:7\n");
    let mut reader = host.reader();
    assert_eq!(reader.enumerate().unwrap().nodes.len(), 1);
    fs::write(host.dir.path().join("udev/queue"), "").unwrap();
    let scan = reader.enumerate().unwrap();
    assert_eq!(
        (scan.nodes.len(), paths(&scan.pending), scan.again),
        (0, vec![sys("/devices/virtual/misc/fuse")], true)
    );
}

#[test]
fn an_event_of_the_former_device_says_nothing_of_the_present_one() {
    let host = Host::new();
    let path = "/devices/virtual/misc/x";
    host.node(path, "misc", "10:50", "x", &[]);
    let mut reader = host.reader();
    let properties = [("SUBSYSTEM", "misc"), ("DEVNAME", "/dev/x")];
    let old = event(path, DevNum::char(10, 49), &properties);
    assert_eq!(reader.read(&sys(path), Some(&mut old.clone())).unwrap(), None);
    let new = event(path, DevNum::char(10, 50), &properties);
    let node = reader.read(&sys(path), Some(&mut new.clone())).unwrap().unwrap();
    assert!(reader.still_is(&node).unwrap());
    assert_eq!(
        reader.incarnation(&sys(path)).unwrap(),
        Some(Incarnation(fs::metadata(host.path(path)).unwrap().ino()))
    );
    // The same number, another stay.
    fs::rename(host.path(path), host.path("/devices/old")).unwrap();
    fs::remove_file(host.dir.path().join("sys/dev/char/10:50")).unwrap();
    assert!(!reader.still_is(&node).unwrap());
    assert_eq!(reader.read(&sys(path), Some(&mut new.clone())).unwrap(), None);
    host.node(path, "misc", "10:50", "x", &[]);
    assert!(!reader.still_is(&node).unwrap());
}

#[test]
fn a_new_stay_is_read_anew_and_a_changed_driver_is_seen() {
    let host = Host::new();
    host.usb();
    let stick = format!("{XHCI}/usb1/1-2/1-2.1");
    let path = format!("{stick}/1-2.1:1.0/ttyUSB0/tty/ttyUSB0");
    host.record("c188:0", "I:1\n");
    let mut reader = host.reader();
    let node = reader.read(&sys(&path), None).unwrap().unwrap();
    let driver = host.path(&format!("{stick}/1-2.1:1.0/ttyUSB0/driver"));
    fs::remove_file(&driver).unwrap();
    symlink("/nowhere/other", &driver).unwrap();
    let other = reader.read(&sys(&path), None).unwrap().unwrap();
    assert_eq!(other.chain[1].driver.as_deref(), Some("other"));
    assert_eq!(other.incarnation(), node.incarnation());
    // Another stick in the same socket.
    fs::rename(host.path(&stick), host.path("/devices/away")).unwrap();
    for number in ["189:2", "188:0"] {
        fs::remove_file(host.dir.path().join("sys/dev/char").join(number)).unwrap();
    }
    host.usb_device(&stick, "2.1", ("0403", "6001"), "189:2", &[]);
    host.node(&path, "tty", "188:0", "ttyUSB0", &[]);
    let next = reader.read(&sys(&path), None).unwrap().unwrap();
    assert_eq!(
        chain(&next),
        [
            "ttyUSB0 tty - - -",
            "1-2.1 usb usb_device usb 0000:00:14.0/2.1",
            "1-2 usb usb_device usb 0000:00:14.0/2",
            "usb1 usb usb_device usb -",
            "0000:00:14.0 pci - xhci_hcd -"
        ]
    );
    assert_eq!(next.chain[1].attributes["idVendor"], "0403");
}

#[test]
fn wanted_attributes_are_the_nodes_own_and_stay_below_it() {
    let host = Host::new();
    host.node(
        "/devices/x/video4linux/video0",
        "video4linux",
        "81:0",
        "video0",
        &[("name", "cam"), ("index", "1")],
    );
    fs::create_dir(host.path("/devices/x/video4linux/video0/power")).unwrap();
    fs::write(host.path("/devices/x/video4linux/video0/power/control"), "auto\n").unwrap();
    host.record("c81:0", "I:1\n");
    let mut reader = host.reader();
    let wanted = [
        "name",
        "power/control",
        "../../../secret",
        "/etc/passwd",
        "none",
        "power",
    ];
    reader.set_wanted(wanted.into_iter().map(str::to_owned).collect());
    fs::write(host.path("/devices/secret"), "x").unwrap();
    let node = reader
        .read(&sys("/devices/x/video4linux/video0"), None)
        .unwrap()
        .unwrap();
    let attributes: Vec<_> = node
        .own()
        .attributes
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    assert_eq!(attributes, ["index=1", "name=cam", "power/control=auto"]);
}

#[test]
fn a_device_that_is_locked_keeps_nobody_waiting() {
    let host = Host::new();
    host.usb();
    let stick = format!("{XHCI}/usb1/1-2/1-2.1");
    let serial = host.path(&stick).join("serial");
    fs::remove_file(&serial).unwrap();
    nix::unistd::mkfifo(&serial, nix::sys::stat::Mode::S_IRWXU).unwrap();
    host.record("c189:2", "I:1\n");
    host.record("c189:1", "I:1\n");
    let mut reader = host.reader();
    for _ in 0..12 {
        let scan = reader.enumerate().unwrap();
        let [hub] = scan.nodes.as_slice() else {
            panic!("{:?}", scan.nodes)
        };
        assert_eq!(hub.syspath().name(), "1-2");
        let errors: Vec<_> = scan.failed.iter().map(ToString::to_string).collect();
        let expected = format!(
            "cannot read the strings of {}: its driver has it locked, perhaps until a program closes it; the device is left as it is until the next event or scan",
            host.path(&stick).display()
        );
        // Its own node, and the serial port's behind it.
        assert_eq!(errors, [expected.clone(), expected]);
        assert!(scan.unread.contains(&sys(&stick)));
        // What is known of others needs no thread.
        assert!(
            reader
                .read(&sys(&format!("{XHCI}/usb1/1-2")), None)
                .unwrap()
                .is_some()
        );
    }
    // They get their answer, find nobody to tell, and make room.
    drop(fs::OpenOptions::new().write(true).open(&serial).unwrap());
    fs::remove_file(&serial).unwrap();
    fs::write(&serial, "A6\n").unwrap();
    let node = (0..1_000_000).find_map(|_| {
        std::thread::yield_now();
        reader.read(&sys(&stick), None).ok().flatten()
    });
    assert_eq!(node.unwrap().own().attributes["serial"], "A6");
}
