//! Two sticks of the same ids without a serial number: two aliases by port hold whatever is swapped; with one alias for
//! both, a twin that is plugged in later does not steal it.

use anyhow::{Result, ensure};

use crate::vm::{Broker, Container, Lab, Stick, Users, Vm};

pub(super) fn run(lab: &Lab) -> Result<()> {
    by_port(&lab.restore()?)?;
    one_alias(&lab.restore()?)
}

/// The name of the port that a node hangs on, as the broker has it.
fn port(broker: &Broker, node: &str) -> Result<String> {
    let devices = broker.json("devices")?;
    let name = node.trim_start_matches("/dev/");
    let device = devices
        .pointer("/devices")
        .or(Some(&devices))
        .and_then(serde_json::Value::as_array)
        .into_iter()
        .flatten()
        .find(|device| {
            let nodes = device.get("nodes").and_then(serde_json::Value::as_array);
            nodes
                .into_iter()
                .flatten()
                .any(|one| one.get("devname").is_some_and(|devname| devname == name))
        });
    device
        .and_then(|device| Some(device.get("port")?.as_str()?.to_owned()))
        .ok_or_else(|| anyhow::anyhow!("{node} has no port: {devices}"))
}

fn by_port(vm: &Vm) -> Result<()> {
    let broker = Broker::start(vm, "")?;
    let (one, two) = (Stick::new(vm, "one", None)?, Stick::new(vm, "two", None)?);
    let (first, line_one) = one.plug("1")?;
    let (second, line_two) = two.plug("2")?;
    broker.settle()?;
    let ports = (
        port(&broker, first.node("/dev/ttyUSB")?)?,
        port(&broker, second.node("/dev/ttyUSB")?)?,
    );
    ensure!(ports.0 != ports.1, "{ports:?}");
    Broker::configure(
        vm,
        &format!(
            "[alias.left]\nmatch = {{ vendor = \"0403\", port = \"{}\" }}\n[alias.right]\nmatch = {{ vendor = \"0403\", port = \"{}\" }}\n\
             [[grant]]\nalias = \"left\"\ncontainer = \"ctm:l\"\n[[grant]]\nalias = \"right\"\ncontainer = \"ctm:r\"\n",
            ports.0, ports.1
        ),
    )?;
    vm.ok("devbroker reload")?;
    let left = Container::create(vm, "l", Users::Host)?;
    let right = Container::create(vm, "r", Users::Own)?;
    left.start()?;
    right.start()?;
    let each_has_its_own = |expect_left: &str, expect_right: &str| -> Result<()> {
        broker.settle()?;
        for (container, alias, node) in [(&left, "left", expect_left), (&right, "right", expect_right)] {
            ensure!(container.ok(&format!("readlink -f /dev/devbroker/{alias}"))? == node);
            let all = container.ok("find /dev -name 'ttyUSB*'")?;
            ensure!(all == node, "{alias}: {all}, not {node}");
            let opened = container.open(node)?;
            ensure!(opened.starts_with("ok"), "{alias}: {opened}");
        }
        Ok(())
    };
    each_has_its_own("/dev/ttyUSB0", "/dev/ttyUSB1")?;
    // Pulled out and plugged in the other way round: numbers change sides, ports do not.
    one.unplug()?;
    two.unplug()?;
    vm.until("! ls /dev/ttyUSB* 2>/dev/null")?;
    drop((line_one, line_two));
    let (_, line_two) = two.plug("2")?;
    let (_, line_one) = one.plug("1")?;
    each_has_its_own("/dev/ttyUSB1", "/dev/ttyUSB0")?;
    // The sticks themselves swap places: nobody can tell, and the ports decide.
    one.unplug()?;
    two.unplug()?;
    vm.until("! ls /dev/ttyUSB* 2>/dev/null")?;
    drop((line_one, line_two));
    let (_, line_two) = two.plug("1")?;
    let (_, line_one) = one.plug("2")?;
    each_has_its_own("/dev/ttyUSB0", "/dev/ttyUSB1")?;
    // And the last of the four orders.
    one.unplug()?;
    two.unplug()?;
    vm.until("! ls /dev/ttyUSB* 2>/dev/null")?;
    drop((line_one, line_two));
    let (_, _line_one) = one.plug("2")?;
    let (_, _line_two) = two.plug("1")?;
    each_has_its_own("/dev/ttyUSB1", "/dev/ttyUSB0")
}

fn one_alias(vm: &Vm) -> Result<()> {
    let broker = Broker::start(
        vm,
        "[alias.stick]\nmatch = { vendor = \"0403\", product = \"6001\" }\n[[grant]]\nalias = \"stick\"\ncontainer = \"ctm:l\"\n",
    )?;
    let container = Container::create(vm, "l", Users::Own)?;
    container.start()?;
    let (holder, twin) = (Stick::new(vm, "holder", None)?, Stick::new(vm, "twin", None)?);
    let (plugged, _line) = holder.plug("4")?;
    broker.settle()?;
    let node = plugged.node("/dev/ttyUSB")?.to_owned();
    ensure!(container.ok("readlink -f /dev/devbroker/stick")? == node);
    // A twin at a lower port does not take it away, and is reported.
    let (second, _twin_line) = twin.plug("2")?;
    broker.settle()?;
    ensure!(container.ok("readlink -f /dev/devbroker/stick")? == node);
    ensure!(container.open(second.node("/dev/ttyUSB")?)? == "ENOENT");
    let why = vm.ok("devbroker why stick")?;
    ensure!(
        why.contains("port"),
        "the keys that would tell them apart are not named: {why}"
    );
    // Nor while the holder is away for a moment.
    holder.unplug()?;
    vm.wait_gone(&node)?;
    broker.settle()?;
    ensure!(container.ok("find /dev -name 'ttyUSB*'")?.is_empty());
    let (plugged, _line) = holder.plug("4")?;
    broker.settle()?;
    ensure!(container.ok("readlink -f /dev/devbroker/stick")? == plugged.node("/dev/ttyUSB")?);
    Ok(())
}
