//! An alias that a udev rule sets at `add` alone holds while the device stays: udev forgets it at the next event, the broker
//! does not, nor does a broker that was started again. The next device at the same place inherits nothing.

use anyhow::{Result, ensure};

use crate::vm::{Broker, Container, Lab, Stick, Users, Vm};

const CONFIGURATION: &str = r#"
[[grant]]
alias = "meter"
container = "ctm:c"
path = "meter"
"#;

const RULE: &str =
    "ACTION==\"add\", SUBSYSTEM==\"tty\", ATTRS{serial}==\"A1\", ENV{DEVBROKER_ALIAS}=\"meter, ../no\"\n";

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    vm.put("/etc/udev/rules.d/90-meter.rules", RULE)?;
    vm.ok("udevadm control --reload")?;
    let container = Container::create(&vm, "c", Users::Own)?;
    let broker = Broker::start(&vm, CONFIGURATION)?;
    container.start()?;
    let (meter, other) = (
        Stick::new(&vm, "meter", Some("A1"))?,
        Stick::new(&vm, "other", Some("B2"))?,
    );
    let (_, _line) = meter.plug("1")?;
    works(&vm, &container, &broker)?;
    ensure!(
        broker.job().stderr().contains("`../no` is no alias"),
        "{}",
        broker.job().stderr()
    );

    for action in ["bind", "change"] {
        vm.ok(&format!(
            "udevadm trigger --settle --action={action} /dev/ttyUSB0"
        ))?;
        ensure!(!vm.ok("udevadm info /dev/ttyUSB0")?.contains("DEVBROKER_ALIAS"));
        works(&vm, &container, &broker)?;
    }
    broker.kill()?;
    let broker = Broker::again(&vm, "")?;
    works(&vm, &container, &broker)?;
    broker.stop()?;
    let broker = Broker::again(&vm, "")?;
    works(&vm, &container, &broker)?;

    // Another stick at the same place, under the same name and number.
    meter.unplug()?;
    vm.wait_gone("/dev/ttyUSB0")?;
    let (_, other_line) = other.plug("1")?;
    vm.ok("test -e /dev/ttyUSB0")?;
    broker.settle()?;
    absent(&vm, &container)?;
    let broker = restarted(&vm, &broker)?;
    absent(&vm, &container)?;
    other.unplug()?;
    vm.wait_gone("/dev/ttyUSB0")?;
    drop(other_line);

    // It went and came while there was no broker.
    let (_, _line) = meter.plug("1")?;
    works(&vm, &container, &broker)?;
    broker.kill()?;
    meter.unplug()?;
    vm.wait_gone("/dev/ttyUSB0")?;
    let (_, _line) = other.plug("1")?;
    let broker = Broker::again(&vm, "")?;
    broker.settle()?;
    absent(&vm, &container)
}

fn restarted(vm: &Vm, broker: &Broker) -> Result<Broker> {
    broker.kill()?;
    let broker = Broker::again(vm, "")?;
    broker.settle()?;
    Ok(broker)
}

fn works(vm: &Vm, container: &Container, broker: &Broker) -> Result<()> {
    broker.settle()?;
    for path in ["/dev/ttyUSB0", "/dev/meter"] {
        let seen = container.open(path)?;
        ensure!(seen.starts_with("ok char 188:0 "), "{path}: {seen}");
    }
    ensure!(vm.ok("readlink -f /dev/devbroker/meter")? == "/dev/ttyUSB0");
    Ok(())
}

fn absent(vm: &Vm, container: &Container) -> Result<()> {
    for path in ["/dev/ttyUSB0", "/dev/meter"] {
        let seen = container.open(path)?;
        ensure!(seen == "ENOENT", "{path}: {seen}");
    }
    vm.fails("test -L /dev/devbroker/meter").map(drop)
}
