//! The broker is started again while udev is busy: what is placed stays, open to a prober without a break; a new stay of the
//! same device under the same number waits for udev, and the old one's access does not pass to it.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::vm::{Broker, Container, Controller, Job, Lab, Printer, Stick, Users, Vm};

const SOON: Duration = Duration::from_secs(60);

/// One device by what sysfs says, one by what only udev knows.
const CONFIGURATION: &str = r#"
[alias.laser]
match = { vendor = "03f0", product = "4117" }

[alias.stick]
match = { link = "/dev/serial/by-id/usb-QEMU_QEMU_USB_SERIAL_A1-if00-port0" }

[[grant]]
alias = "laser"
container = "ctm:c"

[[grant]]
alias = "stick"
container = "ctm:c"
"#;

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    let container = Container::create(&vm, "c", Users::Own)?;
    let broker = Broker::start(&vm, CONFIGURATION)?;
    container.start()?;
    let printer = Printer::new(&vm, "laserjet", "LJ1018", 0)?;
    printer.plug(Controller::First)?;
    let stick = Stick::new(&vm, "stick", Some("A1"))?;
    let (_, _line) = stick.plug("1")?;
    broker.settle()?;
    let broker = placed_stays(&vm, &container, &broker)?;
    another_stay_waits(&vm, &container, &broker, &printer)
}

/// Keeps udev busy with an event of this device, until it is released.
fn hold(vm: &Vm, action: &str, name: &str) -> Result<Job> {
    vm.put(
        "/run/udev/rules.d/99-hold.rules",
        format!("ACTION==\"{action}\", KERNEL==\"{name}\", PROGRAM=\"/bin/cat /run/hold\"\n"),
    )?;
    vm.ok("rm -f /run/hold; mkfifo /run/hold; udevadm control --reload")?;
    vm.start_job("exec 3>/run/hold; echo held; exec sleep 1000")
}

fn release(vm: &Vm, held: &Job) -> Result<()> {
    vm.ok("test -e /run/udev/queue; rm /run/udev/rules.d/99-hold.rules; udevadm control --reload")?;
    held.kill()?;
    vm.settle()
}

fn links(vm: &Vm) -> Result<String> {
    vm.ok("cd /dev/devbroker; find . -type l -printf '%p %l %i\\n' | sort")
}

fn placed_stays(vm: &Vm, container: &Container, broker: &Broker) -> Result<Broker> {
    // Udev says nothing of lp0, and a clock that was set back makes all its records doubtful.
    vm.ok("test -e /run/udev/data/c180:0 && ! test -s /run/udev/data/c180:0")?;
    vm.ok("date -s '1 hour ago' >/dev/null")?;
    let before = links(vm)?;
    let watches = ["/dev/usb/lp0", "/dev/ttyUSB0"]
        .into_iter()
        .map(|path| container.watch_open(path))
        .collect::<Result<Vec<_>>>()?;
    let held = hold(vm, "change", "null")?;
    vm.ok("echo change >/sys/class/mem/null/uevent")?;
    held.wait_for("held", SOON)?;
    broker.kill()?;
    let broker = Broker::again(vm, "")?;
    let why = vm.ok("devbroker why /dev/usb/lp0")?;
    ensure!(why.contains("udev is not done with it"), "{why}");
    vm.ok("test -e /run/udev/queue")?;
    ensure!(links(vm)? == before, "{}", links(vm)?);
    release(vm, &held)?;
    broker.settle()?;
    for watch in watches {
        let seen = watch.stop()?;
        ensure!(
            matches!(seen.as_slice(), [one] if one.outcome.starts_with("ok char ")),
            "{seen:?}"
        );
    }
    let why = vm.ok("devbroker why /dev/usb/lp0")?;
    ensure!(!why.contains("udev is not done with it"), "{why}");
    ensure!(links(vm)? == before, "{}", links(vm)?);
    Ok(broker)
}

fn another_stay_waits(vm: &Vm, container: &Container, broker: &Broker, printer: &Printer) -> Result<()> {
    broker.kill()?;
    printer.unplug()?;
    vm.wait_gone("/dev/usb/lp0")?;
    vm.settle()?;
    let held = hold(vm, "add", "lp0")?;
    vm.ok(&printer.gadget().plug_command(Controller::First))?;
    held.wait_for("held", SOON)?;
    ensure!(vm.ok("cat /sys/class/usbmisc/lp0/dev")? == "180:0");
    let broker = Broker::again(vm, "")?;
    let seen = container.open("/dev/usb/lp0")?;
    ensure!(seen == "ENOENT", "{seen}");
    let planted = format!("{}/planted", container.dev());
    vm.ok(&format!("mknod -m 666 {planted} c 180 0"))?;
    let seen = container.open("/dev/planted")?;
    vm.ok(&format!("rm {planted}"))?;
    ensure!(seen.starts_with("EPERM"), "{seen}");
    release(vm, &held)?;
    broker.settle()?;
    let seen = container.open("/dev/usb/lp0")?;
    ensure!(seen.starts_with("ok char 180:0 "), "{seen}");
    Ok(())
}
