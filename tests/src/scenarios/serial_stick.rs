//! A serial stick comes back as ttyUSB1, because another stick took ttyUSB0: the alias follows it, the other is not visible.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::vm::{Broker, Container, Lab, Stick, Users, Vm};

const CONFIGURATION: &str = r#"
[alias.console]
match = { vendor = "0403", serial = "A1" }

[[grant]]
alias = "console"
container = "ctm:lab"
path = "board/console"
group = "dialout"
mode = "0660"
"#;

pub(super) fn run(lab: &Lab) -> Result<()> {
    Users::BOTH
        .into_iter()
        .try_for_each(|users| follow(&lab.restore()?, users))
}

fn follow(vm: &Vm, users: Users) -> Result<()> {
    let broker = Broker::start(vm, CONFIGURATION)?;
    let container = Container::create(vm, "lab", users)?;
    container.start()?;
    let ours = Stick::new(vm, "ours", Some("A1"))?;
    let other = Stick::new(vm, "other", Some("B2"))?;

    let (plugged, _line) = ours.plug("1")?;
    broker.settle()?;
    ensure!(plugged.node("/dev/ttyUSB")? == "/dev/ttyUSB0");
    let opened = container.open("/dev/ttyUSB0")?;
    ensure!(opened.starts_with("ok char 188:0 660 0:20"), "{opened}");
    ensure!(container.ok("readlink -f /dev/board/console")? == "/dev/ttyUSB0");

    ours.unplug()?;
    vm.wait_gone("/dev/ttyUSB0")?;
    let (_, _other_line) = other.plug("2")?;
    let (plugged, _line) = ours.plug("1")?;
    broker.settle()?;
    ensure!(plugged.node("/dev/ttyUSB")? == "/dev/ttyUSB1");
    let opened = container.open("/dev/board/console")?;
    ensure!(opened.starts_with("ok char 188:1 660 0:20"), "{opened}");
    ensure!(container.ok("readlink -f /dev/devbroker/console")? == "/dev/ttyUSB1");
    ensure!(container.open("/dev/ttyUSB0")? == "ENOENT");
    ensure!(container.ok("find /dev -name 'ttyUSB*'")? == "/dev/ttyUSB1");
    vm.ok(&format!("mknod -m 666 {}/theirs c 188 0", container.dev()))?;
    let refused = container.open("/dev/theirs")?;
    ensure!(refused.starts_with("EPERM"), "{refused}");

    // Taken away while it is plugged in and in use: who still holds it is told.
    let holder = vm.start_job(
        "exec ctm exec lab -- /bin/sh -c 'exec 3</dev/board/console; echo open; exec sleep 999'",
    )?;
    holder.wait_for("open", Duration::from_secs(60))?;
    let told = vm.ok("devbroker detach console lab")?;
    ensure!(told.contains("still held open: c188:1 by process"), "{told}");
    ensure!(container.open("/dev/board/console")? == "ENOENT");
    holder.kill().map(drop)
}
