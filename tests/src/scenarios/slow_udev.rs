//! udev is held up while one device goes and another takes its number: what decides is the kernel's word and sysfs, never
//! a record that has outlived its device.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::vm::{Broker, Container, Job, Lab, Stick, Users, Vm};

const SOON: Duration = Duration::from_secs(60);

/// By a property, which only udev knows.
const CONFIGURATION: &str = r#"
[alias.mine]
match = { subsystem = "tty", property.ID_SERIAL_SHORT = "A1" }

[[grant]]
alias = "mine"
container = "ctm:c"
mode = "0660"
"#;

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    let container = Container::create(&vm, "c", Users::Own)?;
    let broker = Broker::start(&vm, CONFIGURATION)?;
    container.start()?;
    let (mine, other) = (
        Stick::new(&vm, "mine", Some("A1"))?,
        Stick::new(&vm, "other", Some("B2"))?,
    );
    let broker = revoked_at_the_kernels_word(&vm, &container, &broker, &mine, &other)?;
    no_old_record(&vm, &container, &broker, &mine, &other)
}

/// Holds udev at the next such event of ttyUSB0, until the value goes.
struct Hold<'v> {
    vm: &'v Vm,
    writer: Job,
}

impl<'v> Hold<'v> {
    fn at(vm: &'v Vm, action: &str) -> Result<Self> {
        vm.put(
            "/run/udev/rules.d/99-hold.rules",
            format!("ACTION==\"{action}\", KERNEL==\"ttyUSB0\", PROGRAM=\"/bin/cat /run/hold\"\n"),
        )?;
        vm.ok("rm -f /run/hold; mkfifo /run/hold; udevadm control --reload")?;
        // Opening it for writing waits for the reader.
        let writer = vm.start_job("exec 3>/run/hold; echo held; exec sleep 1000")?;
        Ok(Self { vm, writer })
    }

    fn wait(&self) -> Result<()> {
        self.writer.wait_for("held", SOON).map(drop)
    }

    fn release(self) -> Result<()> {
        self.vm
            .ok("rm /run/udev/rules.d/99-hold.rules; udevadm control --reload")?;
        self.writer.kill()?;
        self.vm.settle()
    }
}

fn nothing_of_it(vm: &Vm, container: &Container) -> Result<()> {
    let seen = container.open("/dev/ttyUSB0")?;
    ensure!(seen == "ENOENT", "{seen}");
    vm.fails("test -e /dev/devbroker/mine")?;
    // The number itself, whoever makes a node of it.
    let planted = format!("{}/planted", container.dev());
    vm.ok(&format!("mknod -m 666 {planted} c 188 0"))?;
    let seen = container.open("/dev/planted")?;
    vm.ok(&format!("rm {planted}"))?;
    ensure!(seen.starts_with("EPERM"), "{seen}");
    Ok(())
}

fn works(container: &Container, broker: &Broker) -> Result<()> {
    broker.settle()?;
    let seen = container.open("/dev/ttyUSB0")?;
    ensure!(seen.starts_with("ok char 188:0 "), "{seen}");
    Ok(())
}

/// A rule keeps udev busy at the removal, meanwhile another stick has the number.
fn revoked_at_the_kernels_word(
    vm: &Vm,
    container: &Container,
    broker: &Broker,
    mine: &Stick,
    other: &Stick,
) -> Result<Broker> {
    let (_, _line) = mine.plug("1")?;
    works(container, broker)?;
    let watch = container.watch_open("/dev/ttyUSB0")?;
    let hold = Hold::at(vm, "remove")?;
    mine.unplug()?;
    hold.wait()?;
    vm.until("devbroker events -n 100 | grep -q revoked")?;
    let _line = other.plug_now("2")?;
    vm.wait_path("/sys/class/tty/ttyUSB0/dev")?;
    ensure!(vm.ok("cat /sys/class/tty/ttyUSB0/dev")? == "188:0");
    ensure!(vm.ok("probe open /dev/ttyUSB0")?.starts_with("ok char 188:0"));
    nothing_of_it(vm, container)?;
    vm.ok("test -e /run/udev/queue")?;
    broker.kill()?;
    let broker = Broker::again(vm, "")?;
    nothing_of_it(vm, container)?;
    hold.release()?;
    broker.settle()?;
    nothing_of_it(vm, container)?;
    let seen: Vec<String> = watch.stop()?.into_iter().map(|one| one.outcome).collect();
    let after: Vec<&String> = seen.iter().skip_while(|one| one.starts_with("ok ")).collect();
    ensure!(
        seen.len() > after.len() && after.iter().all(|one| !one.starts_with("ok ")),
        "{seen:?}"
    );
    other.unplug()?;
    vm.wait_gone("/dev/ttyUSB0")?;
    vm.settle()?;
    Ok(broker)
}

/// udev is held at a change, so that the record of the stick that went is there when another has its number.
fn no_old_record(vm: &Vm, container: &Container, broker: &Broker, mine: &Stick, other: &Stick) -> Result<()> {
    let (_, _line) = mine.plug("1")?;
    works(container, broker)?;
    let hold = Hold::at(vm, "change")?;
    vm.ok("echo change >/sys/class/tty/ttyUSB0/uevent")?;
    hold.wait()?;
    mine.unplug()?;
    vm.wait_gone("/dev/ttyUSB0")?;
    let _line = other.plug_now("2")?;
    vm.wait_path("/dev/ttyUSB0")?;
    vm.ok("grep -q ID_SERIAL_SHORT=A1 /run/udev/data/c188:0")?;
    broker.kill()?;
    let broker = Broker::again(vm, "")?;
    nothing_of_it(vm, container)?;
    hold.release()?;
    broker.settle()?;
    vm.ok("grep -q ID_SERIAL_SHORT=B2 /run/udev/data/c188:0")?;
    nothing_of_it(vm, container)?;
    other.unplug()?;
    vm.wait_gone("/dev/ttyUSB0")?;
    let (_, _line) = mine.plug("1")?;
    works(container, &broker)
}
