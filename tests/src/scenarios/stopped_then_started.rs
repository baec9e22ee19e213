//! Devices that come and go while a container is stopped, and containers that start while their device is away.

use anyhow::{Result, ensure};

use crate::vm::{Broker, Container, Controller, Gadget, Lab, Users, Vm};

const CONFIGURATION: &str = r#"
[alias.epson]
match = { vendor = "04b8", product = "011f" }

[[grant]]
alias = "epson"
container = "ctm:office"
path = "scanner"
"#;

/// Its first deed is to look; what it saw is in /first.
const WITNESS: &str = "probe open /dev/scanner >/first.new 2>&1; mv /first.new /first; \
    trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";

/// The device comes while the container is stopped, goes while it is stopped, and the broker comes after the container.
pub(super) fn stopped_then_started(lab: &Lab) -> Result<()> {
    Users::BOTH
        .into_iter()
        .try_for_each(|users| stopped(&lab.restore()?, users))
}

/// The container starts while the device is away.
pub(super) fn absent_then_plugged(lab: &Lab) -> Result<()> {
    Users::BOTH
        .into_iter()
        .try_for_each(|users| absent(&lab.restore()?, users))
}

/// Starts the container; answers with what its first process saw of the device.
fn first_look(vm: &Vm, office: &Container) -> Result<String> {
    let file = format!("{}/first", office.root());
    vm.ok(&format!("rm -f {file}"))?;
    office.start()?;
    vm.wait_path(&file)?;
    Ok(vm.get(&file)?.trim_end().to_owned())
}

fn stopped(vm: &Vm, users: Users) -> Result<()> {
    let broker = Broker::start(vm, CONFIGURATION)?;
    let office = Container::running(vm, "office", users, WITNESS)?;
    let scanner = Gadget::scanner(vm, "epson")?;

    // It comes before the container is ever started.
    let plugged = scanner.plug(Controller::First)?;
    broker.settle()?;
    let seen = first_look(vm, &office)?;
    ensure!(seen.starts_with("ok char 189:"), "{users:?}: {seen}");
    ensure!(office.ok("readlink -f /dev/scanner")? == plugged.usb());
    office.ok("chmod 640 /dev/scanner && chown 114:120 /dev/scanner")?;
    office.stop()?;
    ensure!(
        vm.run("ls /run/ctm/office")?.status != 0,
        "something is left of the run"
    );

    // It goes meanwhile.
    scanner.unplug()?;
    vm.wait_gone(plugged.usb())?;
    broker.settle()?;
    let seen = first_look(vm, &office)?;
    ensure!(seen == "ENOENT", "{users:?}: {seen}");
    ensure!(office.ok("find /dev -name bus -o -name 'scanner*'")?.is_empty());
    office.stop()?;

    // It comes back elsewhere.
    let again = scanner.plug(Controller::Second)?;
    ensure!(again.usb() != plugged.usb());
    broker.settle()?;
    let seen = first_look(vm, &office)?;
    ensure!(
        seen.starts_with("ok char 189:") && seen.ends_with(" 640 114:120"),
        "{users:?}: {seen}"
    );
    ensure!(office.ok("readlink -f /dev/scanner")? == again.usb());
    office.stop()?;

    // The broker is down when the container starts: it starts closed, and is opened when the broker comes.
    broker.kill()?;
    let seen = first_look(vm, &office)?;
    ensure!(seen == "ENOENT", "{users:?}: {seen}");
    let node = vm.ok(&format!("stat -c '%Hr %Lr' {}", again.usb()))?;
    vm.ok(&format!("mknod -m 666 {}/closed c {node}", office.dev()))?;
    let refused = office.open("/dev/closed")?;
    ensure!(refused.starts_with("EPERM char 189:"), "{users:?}: {refused}");
    vm.ok(&format!("rm {}/closed", office.dev()))?;
    let broker = Broker::again(vm, "")?;
    broker.settle()?;
    let seen = office.open("/dev/scanner")?;
    ensure!(
        seen.starts_with("ok char 189:") && seen.ends_with(" 640 114:120"),
        "{users:?}: {seen}"
    );
    office.destroy()?;
    broker.settle()?;
    let left = vm.ok(
        "ls /run/devbroker/containers /run/devbroker/ledger /sys/fs/bpf/devbroker | grep -v '^/' || true",
    )?;
    ensure!(left.is_empty(), "{users:?}: left over: {left}");
    Ok(())
}

fn absent(vm: &Vm, users: Users) -> Result<()> {
    let broker = Broker::start(vm, CONFIGURATION)?;
    let office = Container::running(vm, "office", users, WITNESS)?;
    let scanner = Gadget::scanner(vm, "epson")?;
    let seen = first_look(vm, &office)?;
    ensure!(seen == "ENOENT", "{users:?}: {seen}");

    let plugged = scanner.plug(Controller::First)?;
    broker.settle()?;
    let seen = office.open("/dev/scanner")?;
    ensure!(seen.starts_with("ok char 189:"), "{users:?}: {seen}");
    ensure!(office.ok("readlink -f /dev/scanner")? == plugged.usb());
    // The container was not touched: its first process is still the same.
    ensure!(office.ok("cat /first")? == "ENOENT");

    scanner.unplug()?;
    vm.wait_gone(plugged.usb())?;
    broker.settle()?;
    ensure!(office.open("/dev/scanner")? == "ENOENT");
    ensure!(office.open(plugged.usb())? == "ENOENT");
    Ok(())
}
