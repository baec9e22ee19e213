//! A device with four like nodes, which arrive in another order each time: each keeps its permissions by its role.

use anyhow::{Context, Result, ensure};

use crate::vm::{Broker, Container, Controller, Gadget, Lab, Users, Vm};

const CONFIGURATION: &str = r#"
[alias.quad]
match = { vendor = "0525", product = "a4a6", serial = "Q4" }

[[grant]]
alias = "quad"
container = "ctm:lab"

[[grant.node]]
role = "tty@if03"
mode = "0604"
"#;

pub(super) fn run(lab: &Lab) -> Result<()> {
    Users::BOTH
        .into_iter()
        .try_for_each(|users| shuffle(&lab.restore()?, users))
}

fn shuffle(vm: &Vm, users: Users) -> Result<()> {
    let broker = Broker::start(vm, CONFIGURATION)?;
    let container = Container::create(vm, "lab", users)?;
    container.start()?;
    let quad = Gadget::serial(vm, "quad", "Q4", 4)?;
    quad.plug_in_order(Controller::First, &[0, 1, 2, 3])?;
    broker.settle()?;
    // What the container's root makes of three of them; the grant speaks of the fourth.
    container.ok(
        "cd /dev/devbroker/quad.d; for n in 0 1 2; do t=$(readlink -f tty@if0$n); chmod 60$n $t; chown $((n + 100)) $t; done",
    )?;
    let mut arrived = Vec::new();
    for order in [[2, 0, 3, 1], [3, 2, 1, 0], [1, 3, 0, 2]] {
        quad.unplug()?;
        vm.until("! ls /dev/ttyUSB* 2>/dev/null")?;
        quad.plug_in_order(Controller::First, &order)?;
        broker.settle()?;
        let mut names = Vec::new();
        for (n, expected) in ["600 100:0", "601 101:0", "602 102:0", "604 0:0"]
            .into_iter()
            .enumerate()
        {
            let role = format!("/dev/devbroker/quad.d/tty@if0{n}");
            let opened = container.open(&role)?;
            ensure!(
                opened.starts_with("ok char 188:") && opened.ends_with(expected),
                "{order:?} {role}: {opened}, not {expected}"
            );
            names.push(container.ok(&format!("readlink -f {role}"))?);
        }
        arrived.push(names);
    }
    one_port(vm, &broker)?;
    arrived.sort();
    arrived.dedup();
    ensure!(arrived.len() == 3, "the order did not change: {arrived:?}");
    Ok(())
}

/// `alias add` says that it names all four, and how to have one; that does what it says.
fn one_port(vm: &Vm, broker: &Broker) -> Result<()> {
    let third = vm.ok("readlink -f /dev/devbroker/quad.d/tty@if02")?;
    let said = vm.ok(&format!("devbroker alias add --dry-run one {third}"))?;
    ensure!(said.contains("the whole device with its 5 nodes"), "{said}");
    let narrow = said
        .split('`')
        .find(|text| text.starts_with("match = "))
        .context("no match is shown")?;
    ensure!(narrow.contains("property.ID_USB_INTERFACE_NUM"), "{narrow}");
    Broker::configure(vm, &format!("{CONFIGURATION}\n[alias.one]\n{narrow}\n"))?;
    broker.settle()?;
    vm.until(&format!("test \"$(readlink -f /dev/devbroker/one)\" = {third}"))?;
    ensure!(vm.ok("ls /dev/devbroker/one.d")? == "tty@if02");
    Ok(())
}
