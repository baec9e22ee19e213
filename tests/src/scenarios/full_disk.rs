//! The disk that keeps what is remembered is full, then read-only; then `/run` is full. Access is taken away all the same,
//! `status` says what cannot be written, and what was missed is made up for as soon as there is room.

use anyhow::{Result, ensure};

use crate::vm::{Broker, Container, Lab, Stick, Users, Vm};

const CONFIGURATION: &str = r#"
[alias.stick]
match = { vendor = "0403", product = "6001" }

[[grant]]
alias = "stick"
container = "ctm:c"
"#;

const NODE: &str = "/dev/ttyUSB0";

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    vm.ok("for d in /var/lib/devbroker /run/devbroker; do mkdir -p $d; mount -t tmpfs -o size=256k none $d; done")?;
    let container = Container::create(&vm, "c", Users::Own)?;
    let stick = Stick::new(&vm, "stick", Some("A1"))?;
    let broker = full(&vm, &container, &stick)?;
    let broker = read_only(&vm, &container, &stick, &broker)?;
    run_is_full(&vm, &container, &stick, &broker)
}

fn fill(vm: &Vm, folder: &str) -> Result<()> {
    // Until nothing goes in any more.
    vm.ok(&format!(
        "dd if=/dev/zero of={folder}/filling bs=4k 2>/dev/null; df --output=avail {folder} | tail -1 | grep -qw 0"
    ))
    .map(drop)
}

fn settled(vm: &Vm, broker: &Broker) -> Result<String> {
    broker.settle()?;
    vm.ok("devbroker status")
}

fn is_well(vm: &Vm) -> Result<()> {
    vm.until("! devbroker status | grep -q trouble")
}

fn opened(container: &Container, expected: &str) -> Result<()> {
    let seen = container.open(NODE)?;
    ensure!(seen == expected, "{seen}, not {expected}");
    Ok(())
}

/// The number does not open, wherever a node of it comes from.
fn denied(vm: &Vm, container: &Container) -> Result<()> {
    let planted = format!("{}/planted", container.dev());
    vm.ok(&format!("mknod -m 666 {planted} c 188 0"))?;
    let seen = container.open("/dev/planted")?;
    vm.ok(&format!("rm {planted}"))?;
    ensure!(seen.starts_with("EPERM"), "{seen}");
    Ok(())
}

/// Full from before the start on, so that there is not even a file to go on with.
fn full(vm: &Vm, container: &Container, stick: &Stick) -> Result<Broker> {
    fill(vm, "/var/lib/devbroker")?;
    let broker = Broker::start(vm, CONFIGURATION)?;
    container.start()?;
    let (_, line) = stick.plug("1")?;
    broker.settle()?;
    container.ok(&format!("chmod 604 {NODE} && chown 7:7 {NODE}"))?;
    stick.unplug()?;
    vm.wait_gone(NODE)?;
    drop(line);
    let said = settled(vm, &broker)?;
    denied(vm, container)?;
    for part in [
        "permissions set inside ctm:c",
        "aliases/stick.json",
        "last good copy",
        "No space left on device",
    ] {
        ensure!(said.contains(part), "{part}: {said}");
    }
    // What cannot be written counts all the same.
    let (_, line) = stick.plug("1")?;
    broker.settle()?;
    opened(container, "ok char 188:0 604 7:7")?;
    vm.ok("rm /var/lib/devbroker/filling")?;
    is_well(vm)?;
    vm.until("! devbroker status | grep -q 'last good copy'")?;
    broker.kill()?;
    stick.unplug()?;
    vm.wait_gone(NODE)?;
    drop(line);
    let broker = Broker::again(vm, "")?;
    let (_, _line) = stick.plug("1")?;
    broker.settle()?;
    opened(container, "ok char 188:0 604 7:7")?;
    let kept = vm.ok("cd /var/lib/devbroker; find . -type f -size +0 | sort | tr '\\n' ' '")?;
    ensure!(
        kept.starts_with("./aliases/stick.json ./last-good/")
            && kept.ends_with("/scenario.toml ./permissions/0:ctm:c.jsonl"),
        "{kept}"
    );
    stick.unplug()?;
    vm.wait_gone(NODE)?;
    broker.settle()?;
    Ok(broker)
}

/// Read-only from the start on: what it has is read.
fn read_only(vm: &Vm, container: &Container, stick: &Stick, broker: &Broker) -> Result<Broker> {
    broker.kill()?;
    vm.ok("mount -o remount,ro /var/lib/devbroker")?;
    let broker = Broker::again(vm, "")?;
    let (_, line) = stick.plug("1")?;
    broker.settle()?;
    opened(container, "ok char 188:0 604 7:7")?;
    container.ok(&format!("chmod 640 {NODE}"))?;
    stick.unplug()?;
    vm.wait_gone(NODE)?;
    drop(line);
    let said = settled(vm, &broker)?;
    denied(vm, container)?;
    ensure!(
        said.contains("permissions set inside ctm:c") && said.to_lowercase().contains("read-only"),
        "{said}"
    );
    vm.ok("mount -o remount,rw /var/lib/devbroker")?;
    is_well(vm)?;
    broker.kill()?;
    Broker::again(vm, "")
}

/// Nothing new can be placed without its line in the ledger; taking away needs none.
fn run_is_full(vm: &Vm, container: &Container, stick: &Stick, broker: &Broker) -> Result<()> {
    let (_, line) = stick.plug("1")?;
    broker.settle()?;
    opened(container, "ok char 188:0 640 7:7")?;
    fill(vm, "/run/devbroker")?;
    // The ledger's last page may have room for some lines yet.
    let mut said = String::new();
    let mut line = Some(line);
    for _ in 0..100 {
        stick.unplug()?;
        vm.wait_gone(NODE)?;
        drop(line.take());
        broker.settle()?;
        denied(vm, container)?;
        opened(container, "ENOENT")?;
        line = Some(stick.plug("1")?.1);
        said = settled(vm, broker)?;
        if said.contains("trouble") {
            break;
        }
    }
    ensure!(
        said.contains("ctm:c: make") && said.contains("No space left on device"),
        "{said}"
    );
    ensure!(vm.ok(&format!("devbroker why {NODE}"))?.contains("No space left"));
    // Without room it is still known what is there, also by the next broker, which writes the ledger anew: what that frees
    // may do for one more line.
    broker.kill()?;
    let broker = Broker::again(vm, "")?;
    let said = settled(vm, &broker)?;
    let seen = container.open(NODE)?;
    ensure!(
        seen.starts_with("ok") != said.contains("trouble"),
        "{seen}: {said}"
    );
    vm.ok("rm /run/devbroker/filling")?;
    is_well(vm)?;
    broker.settle()?;
    opened(container, "ok char 188:0 640 7:7")?;
    stick.unplug()?;
    vm.wait_gone(NODE)?;
    broker.settle()?;
    denied(vm, container)?;
    opened(container, "ENOENT")
}
