//! The broker does not listen to udev: the hook in a rule carries everything.

use anyhow::{Result, ensure};

use crate::vm::{Broker, Container, Lab, Stick, Users, Vm};

const CONFIGURATION: &str = r#"
[daemon]
monitor = false

[alias.stick]
match = { serial = "A1" }

[[grant]]
alias = "stick"
container = "ctm:c"
path = "stick"
mode = "0660"
"#;

/// The packaged example, as it is.
const HOOK_ONLY: &str = include_str!("../../../rules/examples/99-devbroker-hook.rules");

const RULE: &str = "/etc/udev/rules.d/99-devbroker-hook.rules";

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    vm.ok("install -D /shared/devbroker-hook /usr/lib/devbroker/hook")?;
    let container = Container::create(&vm, "c", Users::Own)?;
    let broker = Broker::start(&vm, CONFIGURATION)?;
    container.start()?;
    let stick = Stick::new(&vm, "stick", Some("A1"))?;

    // Without the rule nothing is heard: it is really the hook that does it.
    let (_, _line) = stick.plug("1")?;
    broker.settle()?;
    ensure!(container.open("/dev/stick")? == "ENOENT");
    stick.unplug()?;
    vm.wait_gone("/dev/ttyUSB0")?;

    vm.put(RULE, HOOK_ONLY)?;
    vm.ok("udevadm control --reload")?;
    for _ in 0..3 {
        let (_, _line) = stick.plug("1")?;
        there(&vm, &container)?;
        stick.unplug()?;
        gone(&vm, &container)?;
    }

    // The daemon is down when it comes, and when it goes.
    broker.stop()?;
    let (_, _line) = stick.plug("1")?;
    let broker = Broker::again(&vm, "")?;
    there(&vm, &container)?;
    broker.kill()?;
    stick.unplug()?;
    vm.wait_gone("/dev/ttyUSB0")?;
    let broker = Broker::again(&vm, "")?;
    gone(&vm, &container)?;

    // A rule that names the container, by an argument and by the name of a link; a name is no grant.
    vm.put(
        RULE,
        "SUBSYSTEM==\"tty\", KERNEL==\"ttyUSB*\", RUN+=\"/usr/lib/devbroker/hook c\", RUN+=\"/etc/udev/other.dev\"\n",
    )?;
    vm.ok("ln -s /usr/lib/devbroker/hook /etc/udev/other.dev && udevadm control --reload")?;
    let other = Container::create(&vm, "other", Users::Own)?;
    other.start()?;
    let (_, _line) = stick.plug("1")?;
    there(&vm, &container)?;
    broker.settle()?;
    ensure!(other.open("/dev/ttyUSB0")? == "ENOENT");
    // For scripts: it returns when the broker is through with the device.
    let waited = vm.ok(
        "export DEVPATH=$(udevadm info -q path /dev/ttyUSB0) ACTION=change SEQNUM=$(cat /sys/kernel/uevent_seqnum)
        export SUBSYSTEM=tty MAJOR=188 MINOR=0 DEVNAME=/dev/ttyUSB0
        /usr/lib/devbroker/hook --wait && ctm exec c -- probe open /dev/stick",
    )?;
    ensure!(waited.starts_with("ok char 188:0 660 "), "{waited}");
    broker.stop()?;
    vm.ok("/usr/lib/devbroker/hook c")?;
    let alone = vm.fails("/usr/lib/devbroker/hook --wait")?;
    ensure!(alone.stderr.contains("daemon is not running"), "{}", alone.stderr);
    Ok(())
}

fn there(vm: &Vm, container: &Container) -> Result<()> {
    vm.until("ctm exec c -- probe open /dev/stick")?;
    let seen = container.open("/dev/ttyUSB0")?;
    ensure!(seen.starts_with("ok char 188:0 660 "), "{seen}");
    Ok(())
}

fn gone(vm: &Vm, container: &Container) -> Result<()> {
    vm.wait_gone("/dev/ttyUSB0")?;
    vm.until("! ctm exec c -- probe stat /dev/ttyUSB0 && ! ctm exec c -- probe stat /dev/stick")?;
    let seen = container.ok("find /dev/bus -type c 2>/dev/null | wc -l")?;
    ensure!(seen == "0", "{seen} bus nodes");
    Ok(())
}
