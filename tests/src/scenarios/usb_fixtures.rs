//! The fixtures themselves: what every other scenario takes for granted, and an
//! example of how to write one.

use std::io::{Read, Write};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::vm::{Controller, Disk, Gadget, Hub, Lab, Printer, Stick, Vm};

const SOON: Duration = Duration::from_secs(20);

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    printer(&vm)?;
    scanner(&vm)?;
    serial_ports(&vm)?;
    sticks(&vm)?;
    hub(&vm)?;
    disk(&vm)
}

/// Prints, returns under another number.
fn printer(vm: &Vm) -> Result<()> {
    let printer = Printer::new(vm, "laserjet", "LJ1018", 0)?;
    let other = Printer::new(vm, "another", "OTHER", 1)?;
    let plugged = printer.plug(Controller::First)?;
    ensure!(plugged.functions() == ["/dev/usb/lp0"], "{plugged:?}");
    let paper = printer.paper()?;
    vm.ok("echo hello >/dev/usb/lp0")?;
    paper.wait_for("hello", SOON)?;
    paper.kill()?;

    // The way to another number: somebody else takes lp0 meanwhile.
    printer.unplug()?;
    vm.wait_gone("/dev/usb/lp0")?;
    let taken = other.plug(Controller::Second)?;
    ensure!(taken.node("/dev/usb/lp")? == "/dev/usb/lp0", "{taken:?}");
    let again = printer.plug(Controller::First)?;
    ensure!(again.node("/dev/usb/lp")? == "/dev/usb/lp1", "{again:?}");
    ensure!(again.usb() != plugged.usb(), "the same address twice: {again:?}");
    let record = vm.ok("udevadm info --query=property --property=DEVNAME,MAJOR,MINOR /dev/usb/lp1")?;
    ensure!(record == "DEVNAME=/dev/usb/lp1\nMAJOR=180\nMINOR=1", "{record}");
    other.unplug()?;
    printer.unplug()?;
    vm.wait_gone("/dev/usb/lp1")
}

/// Rises in address at each replug and changes the bus.
fn scanner(vm: &Vm) -> Result<()> {
    let scanner = Gadget::scanner(vm, "epson")?;
    let first = scanner.plug(Controller::First)?;
    ensure!(vm.ok("lsusb -d 04b8:011f | wc -l")? == "1");
    let known = vm.ok(&format!(
        "udevadm info --query=property --property=libsane_matched --value {}",
        first.usb()
    ))?;
    ensure!(known == "yes", "{known}");
    scanner.unplug()?;
    vm.wait_gone(first.usb())?;
    let second = scanner.plug(Controller::First)?;
    ensure!(second.usb() > first.usb(), "{first:?} {second:?}");
    scanner.unplug()?;
    vm.wait_gone(second.usb())?;
    let moved = scanner.plug(Controller::Second)?;
    ensure!(
        moved.usb().split('/').nth(4) != first.usb().split('/').nth(4),
        "{first:?} {moved:?}"
    );
    ensure!(
        vm.ok(&format!("probe open {}", moved.usb()))?
            .starts_with("ok char 189:")
    );
    scanner.unplug()?;
    vm.wait_gone(moved.usb())
}

/// Arrive in the order that is asked for.
fn serial_ports(vm: &Vm) -> Result<()> {
    let ports = Gadget::serial(vm, "quad", "Q1", 4)?;
    let plain = ports.plug(Controller::First)?;
    ensure!(
        plain.functions() == ["/dev/ttyUSB0", "/dev/ttyUSB1", "/dev/ttyUSB2", "/dev/ttyUSB3"],
        "{plain:?}"
    );
    ports.unplug()?;
    vm.wait_gone("/dev/ttyUSB3")?;
    let shuffled = ports.plug_in_order(Controller::First, &[2, 0, 3, 1])?;
    // In the order of interfaces 0, 1, 2, 3.
    ensure!(
        shuffled.functions() == ["/dev/ttyUSB1", "/dev/ttyUSB3", "/dev/ttyUSB0", "/dev/ttyUSB2"],
        "{shuffled:?}"
    );
    ports.unplug()?;
    vm.wait_gone("/dev/ttyUSB2")?;
    vm.wait_gone("/dev/ttyUSB0")
}

/// Talk through their line; two alike have no serial number.
fn sticks(vm: &Vm) -> Result<()> {
    let known = Stick::new(vm, "known", Some("A1B2"))?;
    let (plugged, mut line) = known.plug("1")?;
    ensure!(plugged.functions() == ["/dev/ttyUSB0"], "{plugged:?}");
    ensure!(
        vm.ok("udevadm info --query=property --property=ID_SERIAL_SHORT --value /dev/ttyUSB0")? == "A1B2"
    );
    let reader = vm.start_job("exec 3<>/dev/ttyUSB0; stty raw -echo <&3; echo ready; head -c 5 <&3")?;
    reader.wait_for("ready", SOON)?;
    line.write_all(b"12345")?;
    reader.wait_for("12345", SOON)?;
    vm.ok("printf 67890 >/dev/ttyUSB0")?;
    let mut answer = [0; 5];
    line.read_exact(&mut answer)?;
    ensure!(&answer == b"67890");
    known.unplug()?;
    vm.wait_gone("/dev/ttyUSB0")?;

    let twins = [Stick::new(vm, "twin1", None)?, Stick::new(vm, "twin2", None)?];
    for (twin, port) in twins.iter().zip(["2", "3"]) {
        let (plugged, _line) = twin.plug(port)?;
        vm.fails(&format!("test -e {}/serial", plugged.syspath))?;
    }
    for twin in &twins {
        twin.unplug()?;
    }
    vm.wait_gone("/dev/ttyUSB1")
}

/// Has things behind it, two levels down; takes them along.
fn hub(vm: &Vm) -> Result<()> {
    let (outer, inner) = (Hub::new(vm, "outer"), Hub::new(vm, "inner"));
    let root = outer.plug("3")?;
    inner.plug("3.2")?;
    let stick = Stick::new(vm, "deep", Some("DEEP"))?;
    let (deep, _line) = stick.plug("3.2.1")?;
    ensure!(
        deep.syspath.starts_with(&format!("{}/", root.syspath)),
        "{root:?} {deep:?}"
    );
    outer.unplug()?;
    vm.wait_gone("/dev/ttyUSB0")?;
    vm.wait_gone(root.usb())
}

/// Has partitions, which may change while it is plugged.
fn disk(vm: &Vm) -> Result<()> {
    let disk = Disk::new(vm, "stick", "DISK1", &[8, 8])?;
    let plugged = disk.plug("4", 2)?;
    let name = plugged.node("/dev/sd")?.to_owned();
    let [whole, first, second] = [name.clone(), format!("{name}1"), format!("{name}2")];
    for node in [&whole, &first, &second] {
        ensure!(plugged.nodes.contains(node), "no {node} in {plugged:?}");
    }
    vm.ok(&format!(
        "printf 'start=1MiB,size=4MiB\\n' | sfdisk -q {whole} && udevadm settle"
    ))?;
    vm.wait_gone(&second)?;
    vm.wait_path(&first)?;
    disk.unplug()?;
    vm.wait_gone(&whole)
}
