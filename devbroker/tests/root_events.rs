//! The host's events and sysfs as they really are: loop devices, the kernel, and udev. Needs root and loop-control; where no
//! udevd runs, one is started and stopped again.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod host_devices;

use devbroker::host::event::{Action, Changed, HostEvent, Removed, Source};
use devbroker::host::monitor::{KernelMonitor, Order, RECEIVE_BUFFER, UdevMonitor};
use devbroker::host::sysfs::Reader;
use devbroker::host::udev_queue::QueueWatch;
use devbroker::model::{DevKind, DevNum, SysPath};
use host_devices::{Loop, Udevd, reload_rules, udevadm, wait_readable};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

struct Monitors {
    udev: UdevMonitor,
    kernel: KernelMonitor,
    reader: Reader,
    _udevd: std::sync::Arc<Udevd>,
}

impl Monitors {
    fn open() -> Self {
        Self {
            _udevd: Udevd::get(),
            udev: UdevMonitor::open(RECEIVE_BUFFER).unwrap(),
            kernel: KernelMonitor::open(RECEIVE_BUFFER).unwrap(),
            reader: Reader::new(BTreeSet::from(["ro".to_owned()])),
        }
    }

    /// udev's next word about this device.
    fn changed(&mut self, device: &Loop, action: Action) -> Changed {
        loop {
            match self.udev.next_event().unwrap() {
                Some(HostEvent::Changed(changed))
                    if changed.syspath == syspath(device) && changed.action == action =>
                {
                    return changed;
                }
                Some(HostEvent::Lost) => panic!("events were lost"),
                Some(_) => {}
                None => wait_readable(&[&self.udev]),
            }
        }
    }

    fn removed_by_udev(&mut self, device: &Loop) -> Removed {
        loop {
            match self.udev.next_event().unwrap() {
                Some(HostEvent::Removed(removed)) if removed.syspath == syspath(device) => return removed,
                Some(HostEvent::Lost) => panic!("events were lost"),
                Some(_) => {}
                None => wait_readable(&[&self.udev]),
            }
        }
    }

    fn removed_by_kernel(&mut self, device: &Loop) -> Removed {
        loop {
            match self.kernel.next_event().unwrap() {
                Some(HostEvent::Removed(removed)) if removed.syspath == syspath(device) => return removed,
                Some(HostEvent::Removed(_)) => {}
                Some(other) => panic!("{other:?}"),
                None => wait_readable(&[&self.kernel]),
            }
        }
    }
}

fn syspath(device: &Loop) -> SysPath {
    device.devpath().parse().unwrap()
}

#[test]
fn a_device_that_comes_again_is_another() {
    let mut host = Monitors::open();
    let device = Loop::reserve(0);
    let path = syspath(&device);
    device.add();
    let added = host.changed(&device, Action::Add);
    assert_eq!(added.from, Source::Udev);
    let node = host
        .reader
        .read(&path, Some(&mut added.clone()))
        .unwrap()
        .unwrap();
    let meta = fs::metadata(format!("/dev/{}", device.name())).unwrap();
    assert_eq!(node.devnum, DevNum::from_dev(DevKind::Block, meta.rdev()));
    assert_eq!(node.devname.as_str(), device.name());
    assert_eq!(u32::from(node.mode), meta.mode() & 0o777);
    assert_eq!(node.subsystem(), "block");
    assert_eq!(node.own().attributes.get("ro").map(String::as_str), Some("0"));
    assert_eq!(node.chain.len(), 1);

    // The number of this stay is the same for another process, and a scan sees what the event said.
    let stat = Command::new("stat")
        .args(["-c", "%i"])
        .arg(device.sysfs())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(stat.stdout).unwrap().trim(),
        node.incarnation().0.to_string()
    );
    assert!(udevadm(&["settle", "--timeout=30"]));
    let last = last_change(&mut host, &device);
    let scan = host.reader.enumerate().unwrap();
    let scanned = scan
        .nodes
        .into_iter()
        .find(|node| node.syspath() == &path)
        .expect("the scan has it");
    let told = host.reader.read(&path, Some(&mut last.clone())).unwrap().unwrap();
    assert_eq!(scanned, told);
    // libudev reads the record and sysfs the same way.
    let by_libudev = udev_properties(&device);
    // Links and tags are sets, and libudev's order is any.
    let set = |text: &str| text.split([' ', ':']).map(str::to_owned).collect::<BTreeSet<_>>();
    for (key, value) in &scanned.properties {
        assert_eq!(
            by_libudev.get(key).map(|text| set(text)),
            Some(set(value)),
            "{key}"
        );
    }
    assert_eq!(by_libudev.len(), scanned.properties.len());

    assert!(host.reader.still_is(&node).unwrap());
    device.remove();
    let by_kernel = host.removed_by_kernel(&device);
    assert_eq!((by_kernel.from, by_kernel.devnum), (Source::Kernel, node.devnum));
    assert!(!host.reader.still_is(&node).unwrap());
    assert_eq!(host.reader.incarnation(&path).unwrap(), None);
    assert_eq!(host.reader.read(&path, None).unwrap(), None);
    let by_udev = host.removed_by_udev(&device);
    assert_eq!(by_udev.seqnum, by_kernel.seqnum);

    device.add();
    let again = host.changed(&device, Action::Add);
    assert!(again.seqnum > by_kernel.seqnum);
    let next = host
        .reader
        .read(&path, Some(&mut again.clone()))
        .unwrap()
        .unwrap();
    assert_eq!(next.devnum, node.devnum);
    assert_ne!(next.incarnation(), node.incarnation());
    assert!(!host.reader.still_is(&node).unwrap());
}

/// A change of its own making, so that the event is the last and no other is under way.
fn last_change(host: &mut Monitors, device: &Loop) -> Changed {
    while host.udev.next_event().unwrap().is_some() {}
    device.change();
    let changed = host.changed(device, Action::Change);
    assert!(udevadm(&["settle", "--timeout=30"]));
    changed
}

fn udev_properties(device: &Loop) -> std::collections::BTreeMap<String, String> {
    let device = udev::Device::from_syspath(&device.sysfs()).unwrap();
    device
        .properties()
        .map(|entry| {
            (
                entry.name().to_str().unwrap().to_owned(),
                entry.value().to_str().unwrap().to_owned(),
            )
        })
        .collect()
}

#[test]
fn the_kernel_is_heard_for_removals_alone() {
    let mut host = Monitors::open();
    let device = Loop::reserve(1);
    device.add();
    device.change();
    host.changed(&device, Action::Change);
    // udev has heard add and change from the same source.
    while let Some(event) = host.kernel.next_event().unwrap() {
        assert!(matches!(event, HostEvent::Removed(_)), "{event:?}");
    }
    device.remove();
    host.removed_by_kernel(&device);
}

#[test]
fn events_that_did_not_fit_are_known_to_be_lost() {
    let _udevd = Udevd::get();
    let device = Loop::reserve(2);
    device.add();
    let mut witness = UdevMonitor::open(RECEIVE_BUFFER).unwrap();
    let mut udev = UdevMonitor::open(1).unwrap();
    let mut kernel = KernelMonitor::open(1).unwrap();
    let others: Vec<Loop> = (3..23).map(Loop::reserve).collect();
    for other in &others {
        other.add();
        (0..10).for_each(|_| device.change());
        other.remove();
    }
    // The last of them is through when the one with room enough has it.
    device.remove();
    while !matches!(witness.next_event().unwrap(), Some(HostEvent::Removed(removed)) if removed.syspath == syspath(&device))
    {
        wait_readable(&[&witness]);
    }
    let mut all = Vec::new();
    while let Some(event) = udev.next_event().unwrap() {
        all.push(event);
    }
    assert!(all.contains(&HostEvent::Lost), "{all:?}");
    let mut all = Vec::new();
    while let Some(event) = kernel.next_event().unwrap() {
        all.push(event);
    }
    assert!(all.contains(&HostEvent::Lost), "{all:?}");
    // And both go on afterwards.
    device.add();
    device.remove();
    loop {
        match kernel.next_event().unwrap() {
            Some(HostEvent::Removed(removed)) if removed.syspath == syspath(&device) => break,
            Some(_) => {}
            None => wait_readable(&[&kernel]),
        }
    }
}

/// The number under which a netlink socket is reached.
fn port(socket: &impl std::os::fd::AsFd) -> u32 {
    use std::os::fd::AsRawFd;
    nix::sys::socket::getsockname::<nix::sys::socket::NetlinkAddr>(socket.as_fd().as_raw_fd())
        .unwrap()
        .pid()
}

#[test]
fn a_forged_message_is_not_heard() {
    use nix::sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, socket,
    };
    use std::os::fd::AsRawFd;
    let mut host = Monitors::open();
    let device = Loop::reserve(26);
    let forger = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkKObjectUEvent,
    )
    .unwrap();
    device.add();
    host.changed(&device, Action::Add);
    let path = device.devpath();
    let name = device.name();
    let text = format!(
        "remove@{path}\0ACTION=remove\0DEVPATH={path}\0SUBSYSTEM=block\0MAJOR=7\0MINOR=1\0DEVNAME={name}\0SEQNUM=999999999\0"
    );
    for monitor in [port(&host.kernel), port(&host.udev)] {
        let to = NetlinkAddr::new(monitor, 0);
        sendto(forger.as_raw_fd(), text.as_bytes(), &to, MsgFlags::empty()).unwrap();
    }
    // The true removal comes behind it in either queue, and is the first that is heard.
    device.remove();
    assert!(host.removed_by_kernel(&device).seqnum < 999_999_999);
    assert!(host.removed_by_udev(&device).seqnum < 999_999_999);
}

/// A rule that keeps udev at one kind of event of one device until it is let go, each time anew.
struct SlowRule {
    rule: PathBuf,
    fifo: PathBuf,
}

impl SlowRule {
    fn at(action: &str, device: &Loop) -> Self {
        let fifo = Path::new("/run").join(format!("devbroker-test-{}.fifo", device.name()));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let rule = Path::new("/run/udev/rules.d").join(format!("99-devbroker-test-{}.rules", device.name()));
        fs::create_dir_all("/run/udev/rules.d").unwrap();
        let text = format!(
            "ACTION==\"{action}\", KERNEL==\"{}\", PROGRAM=\"/bin/cat {}\"\n",
            device.name(),
            fifo.display(),
        );
        fs::write(&rule, text).unwrap();
        reload_rules();
        Self { rule, fifo }
    }

    /// Returns when udev is held; it goes on when the file is dropped.
    fn hold(&self) -> File {
        OpenOptions::new().write(true).open(&self.fifo).unwrap()
    }
}

impl Drop for SlowRule {
    fn drop(&mut self) {
        for path in [&self.rule, &self.fifo] {
            fs::remove_file(path).unwrap();
        }
        reload_rules();
    }
}

#[test]
fn a_scan_while_udev_is_behind_joins_no_old_record_to_the_new_device() {
    let mut host = Monitors::open();
    let device = Loop::reserve(23);
    let path = syspath(&device);
    let slow = SlowRule::at("change", &device);
    let mut order = Order::default();
    device.add();
    let added = host.changed(&device, Action::Add);
    let first = host
        .reader
        .read(&path, Some(&mut added.clone()))
        .unwrap()
        .unwrap();
    // Two changes are in udev's queue when the device goes and another takes its place and number.
    device.change();
    device.change();
    device.remove();
    let removal = HostEvent::Removed(host.removed_by_kernel(&device));
    assert!(order.admit(&removal));
    device.add();

    let record = PathBuf::from(format!("/run/udev/data/{}", first.devnum));
    let written = || fs::metadata(&record).unwrap().modified().unwrap();
    let not_joined = |host: &mut Monitors| {
        assert!(host.reader.queue_is_busy());
        let scan = host.reader.enumerate().unwrap();
        let pending = scan.pending.iter().find(|node| node.syspath() == &path);
        // sysfs alone speaks of it, nothing of the record is joined to it.
        let pending = pending.unwrap_or_else(|| panic!("{:?}", scan.pending));
        assert_ne!(pending.incarnation(), first.incarnation());
        assert!(pending.links.is_empty() && !pending.properties.contains_key("USEC_INITIALIZED"));
        assert!(scan.nodes.iter().all(|node| node.syspath() != &path));
    };
    // The record is the former device's, older than the node.
    let held = slow.hold();
    let before = written();
    not_joined(&mut host);
    drop(held);
    let old = host.changed(&device, Action::Change);
    // Also for one who had not seen the removal, as it was before his scan.
    assert_eq!(host.reader.read(&path, Some(&mut old.clone())).unwrap(), None);
    assert!(!order.admit(&HostEvent::Changed(old)), "of the former device");
    // udev has written it anew for the former device's first change, after the node was made.
    let held = slow.hold();
    assert!(written() > before);
    not_joined(&mut host);
    let mut watch = QueueWatch::new().unwrap();
    drop(held);

    let late = HostEvent::Removed(host.removed_by_udev(&device));
    assert!(!order.admit(&late), "the same removal again");
    let added = host.changed(&device, Action::Add);
    let second = host
        .reader
        .read(&path, Some(&mut added.clone()))
        .unwrap()
        .unwrap();
    assert!(order.admit(&HostEvent::Changed(added)));
    assert_ne!(second.incarnation(), first.incarnation());
    assert_eq!(second.devnum, first.devnum);

    while host.reader.queue_is_busy() || !watch.drained().unwrap() {
        wait_readable(&[&watch]);
    }
    let scan = host.reader.enumerate().unwrap();
    assert!(scan.nodes.iter().any(|node| node.syspath() == &path));
    assert!(scan.pending.iter().all(|node| node.syspath() != &path));
}

#[test]
fn a_scan_while_udev_is_busy_with_another_device_sees_the_rest() {
    let mut host = Monitors::open();
    let (busy, settled) = (Loop::reserve(24), Loop::reserve(25));
    let slow = SlowRule::at("remove", &busy);
    busy.add();
    host.changed(&busy, Action::Add);
    settled.add();
    host.changed(&settled, Action::Add);
    busy.remove();
    let held = slow.hold();
    assert!(host.reader.queue_is_busy());
    let scan = host.reader.enumerate().unwrap();
    assert!(
        scan.nodes.iter().any(|node| node.syspath() == &syspath(&settled)),
        "udev was done with it before: {:?}",
        scan.pending
    );
    drop(held);
    host.removed_by_udev(&busy);
}
