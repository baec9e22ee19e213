//! Inside, root keeps a hard link and an `O_PATH` descriptor of the node. After unplug neither opens the device that gets
//! the number next, nor the same device when it returns.

use anyhow::{Result, ensure};

use super::taken_number::TakenNumber;
use crate::vm::{Job, Lab, Users, Vm};

const CONFIGURATION: &str = r#"
[alias.printer]
match = { serial = "LJ1018" }

[[grant]]
alias = "printer"
container = "ctm:box"
group = "lp"
mode = "0666"
"#;

pub(super) fn run(lab: &Lab) -> Result<()> {
    for users in Users::BOTH {
        with(&lab.restore()?, users)?;
    }
    Ok(())
}

fn with(vm: &Vm, users: Users) -> Result<()> {
    // The rights of a withdrawn node are gone; where root needs none, the device program refuses.
    let refused = match users {
        Users::Own => "EACCES",
        Users::Host => "EPERM",
    };
    let number = TakenNumber::begin(vm, users, CONFIGURATION)?;
    let container = &number.container;
    ensure!(container.open("/dev/usb/lp0")? == "ok char 180:0 666 0:7");
    container.ok("mkdir -p /dev/deep/down; ln /dev/usb/lp0 /dev/deep/down/kept")?;
    let kept = vm.start_job("exec ctm exec box -- probe hold-opath /dev/usb/lp0 >/run/kept")?;
    ensure!(
        reopen(vm, &kept, 1)?.starts_with("ok"),
        "a descriptor opens while the device is there"
    );

    number.take()?;
    ensure!(container.open("/dev/usb/lp0")? == "ENOENT");
    ensure!(
        container.open("/dev/deep/down/kept")? == "ENOENT",
        "the link is still there"
    );
    let outcome = reopen(vm, &kept, 2)?;
    ensure!(outcome.starts_with(refused), "{outcome}");

    // The printer returns as lp1; what was kept is still worth nothing.
    number.return_as_lp1()?;
    ensure!(container.open("/dev/usb/lp1")? == "ok char 180:1 666 0:7");
    let outcome = reopen(vm, &kept, 3)?;
    ensure!(outcome.starts_with(refused), "{outcome}");
    kept.close_input()?;
    container.destroy()
}

/// What reopening the kept descriptor gives, for the `count`th time.
fn reopen(vm: &Vm, kept: &Job, count: usize) -> Result<String> {
    kept.write(b"\n")?;
    // The first line says that it is held.
    vm.until(&format!("[ $(wc -l </run/kept) -gt {count} ]"))?;
    vm.ok("tail -n 1 /run/kept")
}
