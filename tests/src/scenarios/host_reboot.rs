//! The machine is rebooted: permissions that were set inside, and who has an alias, are remembered.

use anyhow::{Result, ensure};

use crate::vm::{Broker, Container, Controller, Lab, Printer, Users};

const CONFIGURATION: &str = r#"
[alias.laser]
match = { vendor = "03f0", product = "4117" }

[[grant]]
alias = "laser"
container = "ctm:office"
"#;

/// A machine that was booted, not restored, has loaded nothing yet.
const GADGETS: &str =
    "set -e; modprobe -a libcomposite usb_f_printer usblp; modprobe dummy_hcd num=2; udevadm settle
    mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
    mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf";

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.boot()?;
    vm.ok(GADGETS)?;
    let broker = Broker::start(&vm, CONFIGURATION)?;
    let office = Container::create(&vm, "office", Users::Own)?;
    office.start()?;
    let printer = Printer::new(&vm, "laserjet", "LJ1018", 0)?;
    let lp = printer.plug(Controller::First)?.node("/dev/usb/lp")?.to_owned();
    broker.settle()?;
    office.ok(&format!("chmod 604 {lp} && chown 1000:20 {lp}"))?;
    let seen = office.open(&lp)?;
    ensure!(seen.ends_with("604 1000:20"), "{seen}");
    broker.stop()?;
    vm.reboot()?;
    vm.ok(GADGETS)?;

    let broker = Broker::again(&vm, "")?;
    office.start()?;
    // Configfs is of the machine's memory: the printer is made anew, as the one it was.
    let printer = Printer::new(&vm, "laserjet", "LJ1018", 0)?;
    let lp = printer.plug(Controller::First)?.node("/dev/usb/lp")?.to_owned();
    broker.settle()?;
    let seen = office.open(&lp)?;
    ensure!(
        seen.starts_with("ok char 180:") && seen.ends_with("604 1000:20"),
        "{seen}"
    );
    // The other node of the device was never touched, and has what the host has.
    let usb = office.ok("readlink -f /dev/devbroker/laser.d/usb_device")?;
    let host = vm.ok(&format!("stat -c %a {usb}"))?;
    ensure!(
        office.open(&usb)?.ends_with(&format!("{host} 0:0")),
        "{}",
        office.open(&usb)?
    );
    Ok(())
}
