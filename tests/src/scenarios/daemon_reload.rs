//! systemd reads its units anew, and properties are set, while a process in a container keeps opening its device: in a container
//! of ctm's, and in one whose filter is systemd's. A control run without re-assertion does fail.

use anyhow::{Result, ensure};

use super::foreign::{Engine, Foreign};
use super::granted::{self, INSIDE};
use crate::vm::{Broker, Container, Lab, Users, Vm};

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    let broker = granted::host(&vm, "scan")?;
    own(&vm)?;
    for engine in [Engine::Crun, Engine::Podman] {
        let container = attached(&vm, engine, &format!("{engine:?}"))?;
        let seen = storm(&vm, &container, engine == Engine::Crun)?;
        ensure!(granted::was_always_there(&seen), "{engine:?}: {seen:?}");
        container.end()?;
    }
    broker.stop()?;

    let configuration = granted::configuration("scan");
    let broker = Broker::start(&vm, &format!("[daemon]\nreassert = false\n{configuration}"))?;
    broker.settle()?;
    let container = attached(&vm, Engine::Crun, "control")?;
    let seen = storm(&vm, &container, false)?;
    ensure!(
        seen.first()
            .is_some_and(|outcome| outcome.starts_with("ok char 189:")),
        "{seen:?}"
    );
    ensure!(
        seen.iter().any(|outcome| outcome.starts_with("EPERM")),
        "nothing was denied without re-assertion, so this scenario shows nothing: {seen:?}"
    );
    container.end()
}

/// A container of ctm's, in its unit.
fn own(vm: &Vm) -> Result<()> {
    let container = Container::create(vm, "scan", Users::Own)?;
    container.start()?;
    let watch = container.watch_open(INSIDE)?;
    for command in commands("ctm@scan.service", true) {
        vm.ok(&command)?;
    }
    let seen: Vec<_> = watch.stop()?.into_iter().map(|seen| seen.outcome).collect();
    ensure!(granted::was_always_there(&seen), "ctm: {seen:?}");
    container.stop()?;
    container.destroy()
}

fn attached(vm: &Vm, engine: Engine, name: &str) -> Result<Foreign> {
    let container = Foreign::start(vm, engine, "system.slice")?;
    ensure!(container.programs()? == "sd_devices / unnamed");
    vm.ok(&format!(
        "devbroker attach scanner --pid {} --name {name}",
        container.pid()
    ))?;
    Ok(container)
}

/// Everything that was seen, in order, while systemd was given reasons to put its program back.
fn storm(vm: &Vm, container: &Foreign, long: bool) -> Result<Vec<String>> {
    let stop = format!("/proc/{}/root/tmp/stop", container.pid());
    vm.ok(&format!("rm -f {stop}"))?;
    let watch = vm.watch_open(&format!("{} probe", container.exec()), INSIDE, &stop, "/tmp/stop")?;
    for command in commands(container.unit(), long) {
        vm.ok(&command)?;
    }
    let seen = watch.stop()?;
    ensure!(!seen.is_empty(), "nothing was seen");
    Ok(seen.into_iter().map(|seen| seen.outcome).collect())
}

/// Reasons for systemd to put its programs back; under a load of opens it takes its time for each.
fn commands(unit: &str, long: bool) -> Vec<String> {
    let set = |property: &str| format!("systemctl set-property --runtime {unit} {property}");
    let mut commands = vec!["systemctl daemon-reload".into(), set("CPUWeight=50")];
    if long {
        // Not `daemon-reexec`: systemd then patches its LSM hook into the kernel's `file_open` while others run through it, which
        // QEMU's emulation of two processors does not always survive.
        commands.extend([
            set("MemoryHigh=500M"),
            "systemctl daemon-reload".into(),
            set("AllowedCPUs=0"),
        ]);
    }
    // Whatever systemd has put off is done when it answers.
    commands.push(format!("systemctl show {unit} -p DevicePolicy"));
    commands
}
