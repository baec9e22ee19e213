//! The receive buffer overflows while devices come and go: the broker knows that it has lost events, looks at everything
//! again and has it right.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::vm::{Broker, Container, Controller, Gadget, Lab, Stick, Users, Vm};

const CONFIGURATION: &str = r#"
[daemon]
receive_buffer = 2048

[alias.stick]
match = { serial = "A1" }

[alias.scanner]
match = { vendor = "04b8", product = "011f" }

[[grant]]
alias = "stick"
container = "ctm:c"
path = "stick"

[[grant]]
alias = "scanner"
container = "ctm:c"
path = "scanner"
"#;

/// A thousand events of drivers, which udev passes on without much ado.
const STORM: &str = "for i in $(seq 250); do
    for driver in usb/drivers/usblp usb/drivers/ftdi_sio usb/drivers/hub pci/drivers/xhci_hcd; do
        echo change >/sys/bus/$driver/uevent
    done
done";

/// As long as a busy host may take for them.
const STORM_TIME: Duration = Duration::from_secs(300);

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    listens_before_it_looks(&vm)?;
    let container = Container::create(&vm, "c", Users::Own)?;
    let broker = Broker::start(&vm, CONFIGURATION)?;
    container.start()?;
    let stick = Stick::new(&vm, "stick", Some("A1"))?;
    let scanner = Gadget::scanner(&vm, "epson")?;
    let (_, line) = stick.plug("1")?;
    broker.settle()?;
    ensure!(container.open("/dev/stick")?.starts_with("ok char 188:0"));

    // It hears nothing while one device goes and another comes.
    let lost = lost(&vm)?;
    vm.ok("pkill -STOP -x devbroker")?;
    storm(&vm)?;
    stick.unplug()?;
    vm.wait_gone("/dev/ttyUSB0")?;
    drop(line);
    let plugged = scanner.plug(Controller::First)?;
    storm(&vm)?;
    vm.ok("pkill -CONT -x devbroker")?;
    vm.until("devbroker events -n 1000 | grep -q lost")?;
    broker.settle()?;
    let now = self::lost(&vm)?;
    ensure!(now > lost, "{lost} losses before, {now} after");
    right(&container, "ENOENT", plugged.usb())?;

    // And while it hears what it can. The stick is pulled and plugged while udev is far behind.
    let storm = vm.start_job(&format!("{STORM}; {STORM}"))?;
    scanner.unplug()?;
    vm.wait_gone(plugged.usb())?;
    let plugged = scanner.plug(Controller::Second)?;
    let (_, _line) = stick.plug("1")?;
    ensure!(storm.wait(STORM_TIME)?.success());
    vm.run_within(STORM_TIME, "udevadm settle --timeout=280")?;
    vm.until("ctm exec c -- probe open /dev/stick && ctm exec c -- probe open /dev/scanner")?;
    broker.settle()?;
    right(&container, "ok char 188:0", plugged.usb())
}

fn storm(vm: &Vm) -> Result<()> {
    let output = vm.run_within(STORM_TIME, &format!("{STORM}; udevadm settle --timeout=280"))?;
    ensure!(output.success(), "{output:?}");
    Ok(())
}

/// How often the broker has lost events.
fn lost(vm: &Vm) -> Result<u64> {
    let status: Value = serde_json::from_str(&vm.ok("devbroker status --json")?)?;
    let lost = status
        .get("events_lost")
        .or_else(|| status.pointer("/status/events_lost"));
    lost.and_then(Value::as_u64)
        .with_context(|| format!("no events_lost in {status}"))
}

fn right(container: &Container, stick: &str, scanner: &str) -> Result<()> {
    let seen = container.open("/dev/stick")?;
    ensure!(seen.starts_with(stick), "{seen}");
    let seen = container.open(scanner)?;
    ensure!(
        seen.starts_with("ok char 189:") && container.open("/dev/scanner")? == seen,
        "{seen}"
    );
    let found = container.ok("find /dev/bus -type c | wc -l")?;
    let wanted = if stick == "ENOENT" { "1" } else { "2" };
    ensure!(
        found == wanted,
        "{found} bus nodes: {}",
        container.ok("find /dev/bus -type c")?
    );
    Ok(())
}

/// What is plugged while the broker looks at everything for the first time is heard: both its monitors are open by then.
fn listens_before_it_looks(vm: &Vm) -> Result<()> {
    let broker = vm.start_job("exec strace -f -qq -o /run/trace -e trace=bind,openat devbroker daemon")?;
    vm.until("devbroker status >/dev/null 2>&1")?;
    vm.ok("pkill -TERM -x devbroker")?;
    broker.wait(Duration::from_secs(60))?;
    let trace = vm.get("/run/trace")?;
    let first = |what: &str| trace.lines().position(|line| line.contains(what));
    let looked = first("\"/sys/dev/char\"").context("it looked at no devices")?;
    let listened = trace
        .lines()
        .take(looked)
        .filter(|line| line.contains("bind(") && line.contains("AF_NETLINK"))
        .count();
    ensure!(
        listened == 2,
        "it listens to {listened} groups when it looks:\n{trace}"
    );
    Ok(())
}
