//! A printer is unplugged and comes back under another number: both its nodes and the alias are inside, with the mode, owner
//! and ACL that the container's root had set, and it prints.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::vm::{Broker, Container, Controller, Lab, Printer, Users, Vm};

const CONFIGURATION: &str = r#"
[alias.laser]
match = { vendor = "03f0", product = "4117", serial = "LJ1018" }

[[grant]]
alias = "laser"
container = "ctm:office"
path = "printer"
"#;

pub(super) fn run(lab: &Lab) -> Result<()> {
    Users::BOTH
        .into_iter()
        .try_for_each(|users| replug(&lab.restore()?, users))
}

fn replug(vm: &Vm, users: Users) -> Result<()> {
    let broker = Broker::start(vm, CONFIGURATION)?;
    let office = Container::create(vm, "office", users)?;
    office.start()?;
    let printer = Printer::new(vm, "laserjet", "LJ1018", 0)?;
    let other = Printer::new(vm, "other", "OTHER", 1)?;

    let plugged = printer.plug(Controller::First)?;
    broker.settle()?;
    let (usb, lp) = (plugged.usb().to_owned(), plugged.node("/dev/usb/lp")?.to_owned());
    ensure!(lp == "/dev/usb/lp0", "{lp}");
    for path in [usb.as_str(), &lp, "/dev/printer", "/dev/devbroker/laser"] {
        let opened = office.open(path)?;
        ensure!(opened.starts_with("ok char"), "{users:?} {path}: {opened}");
    }
    ensure!(office.ok("readlink -f /dev/printer")? == lp);
    ensure!(vm.ok("readlink -f /dev/devbroker/laser")? == lp);
    print(vm, &printer, &office, "first page")?;

    let host = format!("stat -c '%a %u %g' {lp} && getfacl -np {lp}");
    let on_host = vm.ok(&host)?;
    office.ok(&format!(
        "chmod 640 {lp} && chown 1000:7 {lp} && setfacl -m u:114:rw {lp}"
    ))?;
    let before = look(&office, &lp)?;
    ensure!(vm.ok(&host)? == on_host, "the host's own node was changed");
    printer.unplug()?;
    vm.wait_gone(&lp)?;
    other.plug(Controller::Second)?;
    broker.settle()?;
    // Nothing of it is left inside, and nothing of the other is there.
    let left = office.ok("find /dev -type c -o -type l | sort; ls /dev/bus /dev/usb 2>/dev/null || true")?;
    ensure!(!left.contains("usb") && !left.contains("printer"), "{left}");

    let plugged = printer.plug(Controller::First)?;
    broker.settle()?;
    let lp = plugged.node("/dev/usb/lp")?.to_owned();
    ensure!(lp == "/dev/usb/lp1", "{lp}");
    ensure!(
        look(&office, &lp)? == before.replace("lp0", "lp1"),
        "{}\n{before}",
        look(&office, &lp)?
    );
    ensure!(office.open("/dev/usb/lp0")? == "ENOENT");
    ensure!(office.ok("readlink -f /dev/printer")? == lp);
    print(vm, &printer, &office, "second page")?;

    // The old number, put there by the host, is refused inside and works outside.
    vm.ok(&format!("mknod -m 666 {}/old c 180 0", office.dev()))?;
    let refused = office.open("/dev/old")?;
    ensure!(refused.starts_with("EPERM char 180:0"), "{refused}");
    let outside = vm.run("probe open /dev/usb/lp0")?.stdout;
    ensure!(outside.starts_with("ok"), "{outside}");
    Ok(())
}

/// Mode, owners and ACL, as the container sees them.
fn look(office: &Container, path: &str) -> Result<String> {
    office
        .ok(&format!("probe stat {path}; getfacl -np {path}"))
        .map(|text| {
            // The number changes; all else stays.
            text.split_whitespace()
                .filter(|word| !word.contains("180:"))
                .collect::<Vec<_>>()
                .join(" ")
        })
}

fn print(vm: &Vm, printer: &Printer, office: &Container, text: &str) -> Result<()> {
    let paper = printer.paper()?;
    office.ok(&format!("echo {text} >/dev/printer"))?;
    let printed = paper.wait_for(text, Duration::from_secs(30));
    paper.kill()?;
    vm.settle()?;
    printed.map(drop)
}
