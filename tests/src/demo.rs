//! `make demo`: the whole story, told as it happens, on an emulated USB printer in the virtual machine.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::vm::{Broker, Container, Controller, Lab, Printer, Users, Vm};

const CONFIGURATION: &str = r#"
[alias.laser]
match = { vendor = "03f0", product = "4117", serial = "LJ1018" }

[[grant]]
alias = "laser"
container = "ctm:office"
path = "printer"
"#;

const SOON: Duration = Duration::from_secs(120);

/// Tells the story to `out`; the last line is `demo: ok`.
pub fn run(lab: &Lab, out: &mut dyn Write) -> Result<()> {
    writeln!(
        out,
        "A Debian machine under emulation, with real udev. Nothing here touches your host.\n"
    )?;
    let vm = lab.restore()?;
    writeln!(
        out,
        "1. The broker starts with this configuration:\n{CONFIGURATION}"
    )?;
    let broker = Broker::start(&vm, CONFIGURATION)?;
    writeln!(out, "2. `ctm` starts a container, with its own user namespace.")?;
    let office = Container::create(&vm, "office", Users::Own)?;
    office.start()?;
    ensure!(
        office.open("/dev/printer")? == "ENOENT",
        "there is a printer already"
    );
    writeln!(out, "   Inside, there is no /dev/printer.\n")?;

    let printer = Printer::new(&vm, "laserjet", "LJ1018", 0)?;
    let other = Printer::new(&vm, "other", "OTHER", 1)?;
    let first = plug(&vm, &broker, &office, &printer, out)?;
    writeln!(out, "3. Root inside makes it his own: chmod 640, chown 1000:7.")?;
    office.ok(&format!("chmod 640 {first} && chown 1000:7 {first}"))?;
    let before = office.open("/dev/printer")?;
    writeln!(out, "   open(\"/dev/printer\") inside: {before}\n")?;

    writeln!(out, "4. The printer is unplugged, and another takes its number.")?;
    let seen = last_event(&broker)?;
    printer.unplug()?;
    vm.wait_gone(&first)?;
    other.plug(Controller::Second)?;
    broker.settle()?;
    tell(&broker, seen, out)?;
    ensure!(office.open("/dev/printer")? == "ENOENT", "the node stayed");
    vm.ok(&format!("mknod -m 666 {}/old c 180 0", office.dev()))?;
    let refused = office.open("/dev/old")?;
    let outside = vm.run(&format!("probe open {first}"))?.stdout;
    writeln!(
        out,
        "   The host puts a node with the old number into the container. open() inside: {refused}"
    )?;
    writeln!(out, "   The same number on the host: {}", outside.trim())?;
    ensure!(
        refused.starts_with("EPERM") && outside.starts_with("ok"),
        "the old number is not refused"
    );

    writeln!(out, "\n5. It comes back, under another number.")?;
    let second = plug(&vm, &broker, &office, &printer, out)?;
    ensure!(second != first, "it has the same number as before");
    let after = office.open("/dev/printer")?;
    writeln!(out, "   open(\"/dev/printer\") inside: {after}")?;
    let permissions = |text: &str| {
        text.split_whitespace()
            .skip(3)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    ensure!(
        after.starts_with("ok") && permissions(&after) == permissions(&before),
        "{before} became {after}"
    );
    writeln!(out, "   The same mode and owner as root inside had set.\n")?;

    writeln!(out, "6. The container prints; the emulated printer received:")?;
    let paper = printer.paper()?;
    office.ok("echo 'Hello from inside the container.' >/dev/printer")?;
    let printed = paper.wait_for("container.", SOON)?;
    paper.kill()?;
    writeln!(out, "   {}\n\ndemo: ok", printed.trim_end())?;
    Ok(())
}

fn plug(
    vm: &Vm,
    broker: &Broker,
    office: &Container,
    printer: &Printer,
    out: &mut dyn Write,
) -> Result<String> {
    let seen = last_event(broker)?;
    let plugged = printer.plug(Controller::First)?;
    broker.settle()?;
    let lp = plugged.node("/dev/usb/lp")?.to_owned();
    writeln!(
        out,
        "   Plugged in: {} and {lp}. What the broker did, and how long after udev's event:",
        plugged.usb()
    )?;
    tell(broker, seen, out)?;
    let inside = office.ok("ls -l /dev/printer /dev/devbroker/laser")?;
    for line in inside.lines() {
        writeln!(out, "   inside: {line}")?;
    }
    writeln!(out)?;
    vm.ok("true")?;
    Ok(lp)
}

/// All events so far, oldest first.
fn events(broker: &Broker) -> Result<Vec<Value>> {
    let reply = broker.json("events")?;
    let list = reply.get("events").unwrap_or(&reply);
    list.as_array()
        .cloned()
        .with_context(|| format!("no list of events: {reply}"))
}

fn last_event(broker: &Broker) -> Result<u64> {
    Ok(events(broker)?
        .iter()
        .filter_map(|event| event.get("seq")?.as_u64())
        .max()
        .unwrap_or(0))
}

/// What happened since the event `seen`, a line each.
fn tell(broker: &Broker, seen: u64, out: &mut dyn Write) -> Result<()> {
    for event in events(broker)? {
        let number = |key| event.get(key).and_then(Value::as_u64);
        let kind = event.get("kind").and_then(Value::as_str).unwrap_or_default();
        let told = [
            "access_allowed",
            "access_revoked",
            "node_placed",
            "node_withdrawn",
        ]
        .contains(&kind);
        if told && number("seq").is_some_and(|seq| seq > seen) {
            let message = event.get("message").and_then(Value::as_str).unwrap_or_default();
            let after = number("after").map_or_else(String::new, |us| format!(" ({us} us)"));
            writeln!(out, "     {message}{after}")?;
        }
    }
    Ok(())
}
