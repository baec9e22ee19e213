//! The device goes and another one gets its number. Whoever puts a node of that number into the container, host or
//! container, it is refused inside.

use anyhow::{Result, ensure};

use super::taken_number::TakenNumber;
use crate::vm::{Container, Lab, Users, Vm};

const CONFIGURATION: &str = r#"
[alias.printer]
match = { serial = "LJ1018" }

[[grant]]
alias = "printer"
container = "ctm:box"
path = "printer"
"#;

pub(super) fn run(lab: &Lab) -> Result<()> {
    for users in Users::BOTH {
        with(&lab.restore()?, users)?;
    }
    Ok(())
}

fn with(vm: &Vm, users: Users) -> Result<()> {
    let number = TakenNumber::begin(vm, users, CONFIGURATION)?;
    let container = &number.container;
    ensure!(container.open("/dev/printer")?.starts_with("ok char 180:0"));

    number.take()?;
    vm.ok(&format!("mknod -m 666 {}/planted c 180 0", container.dev()))?;
    refused(container, "/dev/planted", 0)?;
    ensure!(
        vm.ok(&format!("probe open {}/planted", container.dev()))?
            .starts_with("ok char 180:0"),
        "outside, the very same node opens"
    );
    let made = container.run("probe mknod /tmp/made c 180 0")?.stdout;
    match users {
        Users::Host => {
            ensure!(made.trim_end() == "ok", "{made}");
            refused(container, "/tmp/made", 0)?;
        }
        Users::Own => ensure!(made.trim_end() == "EPERM", "{made}"),
    }

    // The printer comes back under another number: that one opens, the old one still does not.
    number.return_as_lp1()?;
    ensure!(container.open("/dev/printer")?.starts_with("ok char 180:1"));
    refused(container, "/dev/planted", 0)?;
    // And once it is gone again, its last number is refused as well.
    number.unplug("/dev/usb/lp1")?;
    vm.ok(&format!("mknod -m 666 {}/planted1 c 180 1", container.dev()))?;
    refused(container, "/dev/planted1", 1)?;
    container.destroy()
}

fn refused(container: &Container, path: &str, minor: u32) -> Result<()> {
    let outcome = container.open(path)?;
    ensure!(
        outcome.starts_with(&format!("EPERM char 180:{minor} ")),
        "{path}: {outcome}"
    );
    Ok(())
}
