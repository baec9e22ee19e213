//! The broker is killed before and after each of its effects in turn, and started again: the end is the same each time, and
//! nothing is left over. Under emulation this goes through the first and the last of each kind of effect, in containers that open
//! what they are given; every single one, with replugs and changes of the configuration, is gone through on the host, where a
//! history takes a third of a second (`devbroker/tests/root_killed.rs`).

use anyhow::{Result, ensure};

use crate::vm::{Broker, Container, Controller, Lab, Printer, Users, Vm};

const CONFIGURATION: &str = r#"
[alias.laser]
match = { vendor = "03f0", product = "4117" }

[[grant]]
alias = "laser"
container = "ctm:*"
path = "printer"
group = "lp"
mode = "0640"
"#;

/// The effects of a plug: each of two nodes is allowed and placed, and has links.
const PLUG: &[(&str, u32)] = &[("allow", 2), ("place", 2), ("link", 4)];

/// Those of an unplug. The revocation at the kernel's event comes before any plan, so it is no action of one.
const UNPLUG: &[(&str, u32)] = &[("unlink", 4), ("withdraw", 2)];

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    Broker::configure(&vm, CONFIGURATION)?;
    let broker = Broker::again(&vm, "")?;
    let printer = Printer::new(&vm, "laserjet", "LJ1018", 0)?;
    // Which container makes no difference to the broker's order of effects; they take turns.
    let plain = Container::create(&vm, "plain", Users::Host)?;
    let own = Container::create(&vm, "own", Users::Own)?;
    broker.kill()?;
    let mut turn = 0;
    for (effects, plug) in [(PLUG, true), (UNPLUG, false)] {
        for (effect, times) in effects {
            for (when, nth) in [("before", 1), ("after", *times)] {
                {
                    let container = if turn % 2 == 0 { &plain } else { &own };
                    turn += 1;
                    let point = format!("{when}:{effect}:{nth}");
                    die_at(&vm, container, &printer, &point, plug)
                        .map_err(|error| error.context(format!("killed {point}, plug={plug}")))?;
                }
            }
        }
    }
    Ok(())
}

fn die_at(vm: &Vm, container: &Container, printer: &Printer, point: &str, plug: bool) -> Result<()> {
    container.start()?;
    let lp;
    if plug {
        let dying = Broker::again(vm, &format!("DEVBROKER_FAIL_POINT={point}"))?;
        lp = printer.plug(Controller::First)?.node("/dev/usb/lp")?.to_owned();
        dying.job().wait(std::time::Duration::from_secs(60))?;
        let broker = Broker::again(vm, "")?;
        broker.settle()?;
        is_served(container, &lp)?;
        printer.unplug()?;
        vm.wait_gone(&lp)?;
        broker.settle()?;
        nothing_left(vm, container, &lp)?;
        broker.kill()?;
    } else {
        let broker = Broker::again(vm, "")?;
        lp = printer.plug(Controller::First)?.node("/dev/usb/lp")?.to_owned();
        broker.settle()?;
        is_served(container, &lp)?;
        broker.kill()?;
        let dying = Broker::again(vm, &format!("DEVBROKER_FAIL_POINT={point}"))?;
        printer.unplug()?;
        dying.job().wait(std::time::Duration::from_secs(60))?;
        vm.wait_gone(&lp)?;
        let broker = Broker::again(vm, "")?;
        broker.settle()?;
        nothing_left(vm, container, &lp)?;
        broker.kill()?;
    }
    container.stop()
}

fn is_served(container: &Container, lp: &str) -> Result<()> {
    ensure!(container.ok("readlink -f /dev/printer")? == lp);
    let opened = container.open("/dev/printer")?;
    ensure!(
        opened.starts_with("ok char 180:") && opened.ends_with("640 0:7"),
        "{opened}"
    );
    let nodes = container.ok("find /dev/usb /dev/bus -type c | wc -l")?;
    ensure!(nodes == "2", "{nodes} nodes");
    Ok(())
}

fn nothing_left(vm: &Vm, container: &Container, lp: &str) -> Result<()> {
    let left = container
        .ok("find /dev -path '/dev/usb*' -o -path '/dev/bus*' -o -path '/dev/devbroker*' -o -name printer")?;
    ensure!(left.is_empty(), "left over: {left}");
    ensure!(container.open(lp)? == "ENOENT");
    let stage = vm.ok(&format!("ls {}/../stage | wc -l", container.dev()))?;
    ensure!(stage == "0", "{stage} left in stage/");
    let denied = vm.ok(&format!(
        "mknod -m 666 {0}/old c 180 0 && ctm exec {1} -- probe open /dev/old; rm {0}/old",
        container.dev(),
        container.name()
    ));
    let text = denied.unwrap_or_else(|error| error.to_string());
    ensure!(text.contains("EPERM"), "the old number opens: {text}");
    Ok(())
}
