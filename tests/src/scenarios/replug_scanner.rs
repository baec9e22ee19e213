//! A scanner is replugged twenty times, into either controller: libusb's true path and the alias are always right inside.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::vm::{Broker, Container, Controller, Gadget, Lab, Users};

const CONFIGURATION: &str = r#"
[alias.epson-1670]
match = { vendor = "04b8", product = "011f" }

[[grant]]
alias = "epson-1670"
container = "ctm:scan-*"
path = "scanner"
group = "scanner"
mode = "0660"
"#;

/// How often, each time into the other controller.
const REPLUGS: usize = 20;

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    let broker = Broker::start(&vm, CONFIGURATION)?;
    let containers = [("scan-plain", Users::Host), ("scan-own", Users::Own)];
    let containers: Vec<Container> = containers
        .into_iter()
        .map(|(name, users)| Container::create(&vm, name, users))
        .collect::<Result<_>>()?;
    containers.iter().try_for_each(Container::start)?;
    let scanner = Gadget::scanner(&vm, "epson")?;
    let mut controller = Controller::First;
    let mut former: BTreeMap<String, String> = BTreeMap::new();
    for _ in 0..=REPLUGS {
        let plugged = scanner.plug(controller)?;
        broker.settle()?;
        let usb = plugged.usb();
        let (bus, address) = usb.rsplit_once('/').context("a path of a USB device")?;
        let before = former.insert(bus.into(), address.into());
        ensure!(
            before.is_none_or(|before| *address > *before),
            "the address did not rise: {usb}"
        );
        containers.iter().try_for_each(|scan| is_there(scan, usb))?;
        scanner.unplug()?;
        vm.wait_gone(usb)?;
        broker.settle()?;
        containers.iter().try_for_each(|scan| is_gone(scan, usb))?;
        controller = controller.other();
    }
    Ok(())
}

/// The true path opens, for whom the grant says, the alias leads to it, and nothing stale is left. One command: it is many times.
fn is_there(scan: &Container, usb: &str) -> Result<()> {
    let seen = scan.ok(&format!(
        "probe open {usb}; readlink -f /dev/scanner; readlink -f /dev/devbroker/epson-1670; find /dev/bus -type c"
    ))?;
    let lines: Vec<&str> = seen.lines().collect();
    // Group scanner of the container's own file.
    let opened = lines
        .first()
        .is_some_and(|line| line.starts_with("ok char 189:") && line.ends_with("660 0:120"));
    ensure!(
        opened && lines.get(1..) == Some(&[usb, usb, usb]),
        "{usb}:\n{seen}"
    );
    Ok(())
}

fn is_gone(scan: &Container, usb: &str) -> Result<()> {
    let seen = scan
        .run(&format!(
            "probe open {usb}; ls /dev/bus /dev/scanner /dev/devbroker 2>/dev/null"
        ))?
        .stdout;
    ensure!(seen.trim_end() == "ENOENT", "{usb}:\n{seen}");
    Ok(())
}
