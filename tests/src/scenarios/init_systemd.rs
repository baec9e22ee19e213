//! A container that is a whole Debian with systemd as its init, plain and with own users: everything in it starts, a
//! granted device is there before its first unit and follows replugs, it is stopped in order and can power itself off.

use anyhow::{Result, ensure};

use crate::vm::{Broker, Container, Controller, Lab, Printer, Users, Vm};

const CONFIGURATION: &str = r#"
[alias.laser]
match = { vendor = "03f0", product = "4117" }

[[grant]]
alias = "laser"
container = "ctm:*"
path = "printer"
"#;

/// The first unit inside: notes what it sees, and at an orderly shutdown that it was told.
const WITNESS: &str = "[Unit]
DefaultDependencies=no
Before=sysinit.target shutdown.target
Conflicts=shutdown.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'probe open /dev/printer >/seen'
ExecStop=/bin/sh -c 'echo stopped >>/seen'
[Install]
WantedBy=sysinit.target
";

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    vm.install()?;
    Broker::configure(&vm, CONFIGURATION)?;
    vm.ok("systemctl start devbroker")?;
    let printer = Printer::new(&vm, "laser", "A1", 0)?;
    printer.plug(Controller::First)?;
    let plain = debian(&vm, "plain", Users::Host)?;
    let own = debian(&vm, "own", Users::Own)?;
    // They boot at the same time.
    for container in [&plain, &own] {
        container.start()?;
    }
    for container in [&plain, &own] {
        is_up(&vm, container)?;
        let seen = container.ok("cat /seen")?;
        ensure!(seen.starts_with("ok char 180:0 "), "at its start: {seen}");
        delegated(container)?;
    }
    let ids = "cat /etc/machine-id";
    let (one, other) = (plain.ok(ids)?, own.ok(ids)?);
    ensure!(
        one.len() == 32 && other.len() == 32 && one != other,
        "{one} {other}"
    );

    printer.unplug()?;
    for container in [&plain, &own] {
        vm.wait_gone(&format!("{}/printer", container.dev()))?;
        ensure!(container.open("/dev/printer")? == "ENOENT");
    }
    printer.plug(Controller::Second)?;
    settled(&vm)?;
    for container in [&plain, &own] {
        ensure!(container.open("/dev/printer")?.starts_with("ok char 180:"));
        container.stop()?;
        ended(&vm, container)?;
    }

    // Once more from its own disk; it switches itself off.
    own.start()?;
    is_up(&vm, &own)?;
    ensure!(own.ok(ids)? == other, "another machine id after a restart");
    own.run("systemctl poweroff")?;
    vm.until("! systemctl is-active -q ctm@own")?;
    ended(&vm, &own)
}

fn debian(vm: &Vm, name: &str, users: Users) -> Result<Container> {
    let container = Container::debian(vm, name, users)?;
    let root = container.root();
    if users == Users::Own {
        let strange = vm.ok(&format!("find {root}/usr/bin -uid 0 ! -name probe"))?;
        ensure!(strange.is_empty(), "not given to the container: {strange}");
    }
    vm.put(&format!("{root}/etc/systemd/system/witness.service"), WITNESS)?;
    vm.ok(&format!("systemctl -q --root={root} enable witness"))?;
    Ok(container)
}

/// All its units have started, and none failed.
fn is_up(vm: &Vm, container: &Container) -> Result<()> {
    let name = container.name();
    vm.until(&format!(
        "ctm exec {name} -- systemctl is-system-running --wait | grep -E 'running|degraded'"
    ))?;
    let failed = container.ok("systemctl --failed --plain --no-legend; systemctl is-system-running")?;
    ensure!(failed == "running", "{name}: {failed}");
    Ok(())
}

/// Its systemd can limit what it runs.
fn delegated(container: &Container) -> Result<()> {
    let limit = container.ok("systemd-run -q --wait -p MemoryMax=50M -p TasksMax=20 -P \
        sh -c 'cd /sys/fs/cgroup$(sed s/^0::// /proc/self/cgroup) && cat memory.max pids.max'")?;
    ensure!(limit == "52428800\n20", "{}: {limit}", container.name());
    Ok(())
}

fn settled(vm: &Vm) -> Result<()> {
    vm.settle()?;
    vm.ok("env -i PATH=$PATH /usr/lib/devbroker/hook --wait")
        .map(drop)
}

/// It went down in order: its units were stopped, nothing was killed, nothing failed.
fn ended(vm: &Vm, container: &Container) -> Result<()> {
    let name = container.name();
    let seen = vm.ok(&format!("tail -n 1 {}/seen", container.root()))?;
    ensure!(seen == "stopped", "{name}: {seen}");
    let state = vm.ok(&format!("systemctl show -P Result -P ActiveState ctm@{name}"))?;
    ensure!(state == "success\ninactive", "{name}: {state}");
    let told = vm.ok(&format!("journalctl -u ctm@{name} -o cat --no-pager"))?;
    ensure!(!told.contains("killed"), "{name}: {told}");
    Ok(())
}
