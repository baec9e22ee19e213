//! A scanner is replugged twenty times, into either controller: libusb's true path and the alias are always right inside.

use anyhow::{Result, ensure};

use crate::vm::{Broker, Container, Controller, Gadget, Lab, Users, Vm};

const CONFIGURATION: &str = r#"
[alias.epson-1670]
match = { vendor = "04b8", product = "011f" }

[[grant]]
alias = "epson-1670"
container = "ctm:scan"
path = "scanner"
group = "scanner"
mode = "0660"
"#;

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    let broker = Broker::start(&vm, CONFIGURATION)?;
    let containers = [Users::Host, Users::Own];
    let plain = Container::create(&vm, "scan", containers[0])?;
    plain.start()?;
    replug(&vm, &broker, &plain, 10)?;
    plain.stop()?;
    plain.destroy()?;
    let own = Container::create(&vm, "scan", containers[1])?;
    own.start()?;
    replug(&vm, &broker, &own, 10)
}

fn replug(vm: &Vm, broker: &Broker, scan: &Container, times: u32) -> Result<()> {
    let scanner = Gadget::scanner(vm, &format!("epson{}", scan.pid()?))?;
    let mut controller = Controller::First;
    let mut former = String::new();
    for _ in 0..times {
        let plugged = scanner.plug(controller)?;
        broker.settle()?;
        let usb = plugged.usb();
        ensure!(usb != former, "the address did not rise: {usb}");
        let opened = scan.open(usb)?;
        // Group scanner of the container's own file.
        ensure!(
            opened.starts_with("ok char 189:") && opened.ends_with("660 0:120"),
            "{usb}: {opened}"
        );
        ensure!(scan.ok("readlink -f /dev/scanner")? == usb);
        ensure!(scan.ok("readlink -f /dev/devbroker/epson-1670")? == usb);
        let nodes = scan.ok("find /dev/bus -type c")?;
        ensure!(nodes == usb, "something stale is left: {nodes}");
        usb.clone_into(&mut former);
        scanner.unplug()?;
        vm.wait_gone(usb)?;
        broker.settle()?;
        ensure!(scan.open(usb)? == "ENOENT");
        ensure!(
            scan.run("ls /dev/bus /dev/scanner /dev/devbroker 2>/dev/null")?
                .stdout
                .is_empty()
        );
        controller = controller.other();
    }
    Ok(())
}
