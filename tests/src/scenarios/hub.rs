//! A hub is granted: what is plugged behind it later appears, also two levels down; pulling it takes all of it away.

use anyhow::{Result, ensure};

use crate::vm::{Broker, Container, Hub, Lab, Stick, Users, Vm};

const CONFIGURATION: &str = r#"
[alias.bench]
match = { vendor = "0409", product = "55aa", port = "@PORT@" }

[alias.special]
match = { vendor = "0403", serial = "S3" }

[[grant]]
alias = "bench"
container = "ctm:lab"

[[grant]]
alias = "special"
container = "ctm:other"
"#;

pub(super) fn run(lab: &Lab) -> Result<()> {
    Users::BOTH
        .into_iter()
        .try_for_each(|users| behind(&lab.restore()?, users))
}

fn behind(vm: &Vm, users: Users) -> Result<()> {
    let hub = Hub::new(vm, "hub");
    hub.plug("3")?;
    // As a user would: the port as `devbroker devices` names it.
    let broker = Broker::start(vm, "")?;
    let devices = broker.json("devices")?;
    let port = devices
        .pointer("/devices")
        .or(Some(&devices))
        .and_then(serde_json::Value::as_array)
        .into_iter()
        .flatten()
        .find(|device| device.get("vendor").is_some_and(|vendor| vendor == "0409"))
        .and_then(|device| Some(device.get("port")?.as_str()?.to_owned()));
    let port = port.ok_or_else(|| anyhow::anyhow!("the hub has no port: {devices}"))?;
    Broker::configure(vm, &CONFIGURATION.replace("@PORT@", &port))?;
    vm.ok("devbroker reload")?;
    let container = Container::create(vm, "lab", users)?;
    container.start()?;
    let nodes = || container.ok("find /dev -name 'ttyUSB*' | sort");

    let near = Stick::new(vm, "near", Some("N1"))?;
    let (plugged, _near) = near.plug("3.1")?;
    broker.settle()?;
    ensure!(nodes()? == plugged.node("/dev/ttyUSB")?);
    let opened = container.open(plugged.node("/dev/ttyUSB")?)?;
    ensure!(opened.starts_with("ok char 188:"), "{opened}");

    let inner = Hub::new(vm, "inner");
    inner.plug("3.2")?;
    let far = Stick::new(vm, "far", Some("F2"))?;
    let (plugged, _far) = far.plug("3.2.1")?;
    broker.settle()?;
    let opened = container.open(plugged.node("/dev/ttyUSB")?)?;
    ensure!(opened.starts_with("ok char 188:"), "{opened}");
    let role = container.ok("ls /dev/devbroker/bench.d")?;
    ensure!(
        role.contains("1:tty@if00") && role.contains("2.1:tty@if00"),
        "{role}"
    );

    // One that has an alias of its own is not the hub's.
    let special = Stick::new(vm, "special", Some("S3"))?;
    let (plugged, _special) = special.plug("3.3")?;
    broker.settle()?;
    ensure!(container.open(plugged.node("/dev/ttyUSB")?)? == "ENOENT");

    hub.unplug()?;
    vm.until("! ls /dev/ttyUSB* 2>/dev/null")?;
    broker.settle()?;
    let left = container.ok("find /dev -name 'ttyUSB*' -o -path '/dev/bus/*' -o -path '/dev/devbroker*'")?;
    ensure!(left.is_empty(), "{left}");
    ensure!(container.ok("echo alive")? == "alive");
    Ok(())
}
