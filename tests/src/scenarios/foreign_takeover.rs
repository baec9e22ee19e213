//! A container that ctm did not make, whose filters (the runtime's and systemd's) deny the device: the broker takes them over,
//! keeps what they allowed, and gives them back. Where somebody else filters, it refuses and changes nothing.

use anyhow::{Result, ensure};

use super::foreign::{Engine, Foreign};
use crate::vm::{Broker, Controller, Gadget, Lab, Vm};

const CONFIGURATION: &str = r#"
[alias.scanner]
match = { vendor = "04b8", product = "011f" }
"#;

/// The link that stays the same wherever the scanner is.
const INSIDE: &str = "/dev/devbroker/scanner";

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    let broker = Broker::start(&vm, CONFIGURATION)?;
    for engine in [Engine::Crun, Engine::Podman] {
        taken_over(&vm, &broker, engine)?;
    }
    refused(&vm)
}

fn taken_over(vm: &Vm, broker: &Broker, engine: Engine) -> Result<()> {
    let scanner = Gadget::scanner(vm, &format!("{engine:?}").to_lowercase())?;
    let plugged = scanner.plug(Controller::First)?;
    broker.settle()?;
    let container = Foreign::start(vm, engine, "system.slice")?;
    let before = container.programs()?;
    ensure!(before == "sd_devices / unnamed", "{before}");
    let number = vm.ok(&format!("stat -c '%Hr %Lr' {}", plugged.usb()))?;
    container.put("theirs", &format!("c {number}"))?;
    let denied = container.open("/dev/theirs")?;
    ensure!(denied.starts_with("EPERM"), "{denied}");

    let pid = container.pid();
    vm.ok(&format!("devbroker attach scanner --pid {pid} --name foreign"))?;
    ensure!(container.programs()? == "devbroker / devbroker devbroker");
    for path in [plugged.usb(), INSIDE, "/dev/theirs", "/dev/null", "/dev/urandom"] {
        let opened = container.open(path)?;
        ensure!(opened.starts_with("ok char"), "{engine:?} {path}: {opened}");
    }
    // What the runtime denies is denied still.
    container.put("kmsg", "c 10 237")?;
    let denied = container.open("/dev/kmsg")?;
    ensure!(denied.starts_with("EPERM"), "{denied}");

    // Away and back, elsewhere.
    scanner.unplug()?;
    vm.wait_gone(plugged.usb())?;
    broker.settle()?;
    ensure!(container.open(INSIDE)? == "ENOENT");
    ensure!(container.open("/dev/theirs")?.starts_with("EPERM"));
    let again = scanner.plug(Controller::Second)?;
    broker.settle()?;
    vm.until(&format!("{} probe open {INSIDE}", container.exec()))?;
    ensure!(again.usb() != plugged.usb());
    ensure!(container.open(again.usb())?.starts_with("ok char 189:"));
    ensure!(
        container.open("/dev/theirs")?.starts_with("EPERM"),
        "the old number"
    );

    // The engine puts its own back, and systemd's: the runtime's rules as they are now.
    if engine == Engine::Podman {
        vm.ok("podman update --memory 200m foreign")?;
        vm.until(&format!("{} probe open {INSIDE}", container.exec()))?;
        vm.until(&format!(
            "test \"$(bpftool cgroup list /sys/fs/cgroup$(sed s/^0::// /proc/{pid}/cgroup) | grep -c devbroker)\" = 2"
        ))?;
    }

    // A broker that was killed finds it again.
    broker.kill()?;
    let broker = Broker::again(vm, "")?;
    ensure!(container.open(INSIDE)?.starts_with("ok char 189:"));

    vm.ok("devbroker detach scanner pid:foreign")?;
    vm.until(
        "! test -e /run/devbroker/containers/pid:foreign.json && test -z \"$(ls /run/devbroker/foreign)\"",
    )?;
    let after = container.programs()?;
    ensure!(after == before, "{after}");
    container.put(
        "now",
        &format!("c {}", vm.ok(&format!("stat -c '%Hr %Lr' {}", again.usb()))?),
    )?;
    ensure!(container.open("/dev/now")?.starts_with("EPERM"));
    ensure!(container.open("/dev/null")?.starts_with("ok"));
    let left = vm.ok("ls /sys/fs/bpf/devbroker; grep devbroker/foreign /proc/mounts; true")?;
    ensure!(left.is_empty(), "{left}");
    container.end()?;
    scanner.unplug()?;
    vm.wait_gone(again.usb())?;
    broker.settle()
}

/// A slice's rules are for all in it, and not for the broker to loosen.
fn refused(vm: &Vm) -> Result<()> {
    let container = Foreign::start(vm, Engine::Crun, "strict.slice")?;
    vm.ok("systemctl set-property --runtime strict.slice DevicePolicy=strict DeviceAllow='/dev/null rw' DeviceAllow='char-pts rw'")?;
    let before = container.programs()?;
    let refused = vm.fails(&format!("devbroker attach scanner --pid {}", container.pid()))?;
    ensure!(
        refused
            .stderr
            .contains("systemd's device rules of strict.slice, above the container's cgroup"),
        "{}",
        refused.stderr
    );
    ensure!(container.programs()? == before);
    let left = vm.ok("ls /run/devbroker/foreign /sys/fs/bpf/devbroker")?;
    let left = left
        .lines()
        .filter(|line| !line.is_empty() && !line.ends_with(':'))
        .count();
    ensure!(left == 0, "{left} things are left");
    container.end()
}
