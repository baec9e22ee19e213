//! Unplugging and plugging overlap in udev's queue, and a device comes back under another id.

use anyhow::{Context, Result, ensure};

use crate::vm::gadget::Model;
use crate::vm::{Broker, Container, Controller, Gadget, Lab, Plugged, Users, Vm};

const CONFIGURATION: &str = r#"
[alias.scanner]
match = { vendor = "04b8", product = "011f" }

# As it is before it has its firmware, and after.
[alias.coral]
match = [{ vendor = "1a6e", product = "089a" }, { vendor = "18d1", product = "9302" }]

[[grant]]
alias = "scanner"
container = "ctm:*"
path = "scanner"

[[grant]]
alias = "coral"
container = "ctm:*"
path = "coral"
"#;

const ROUNDS: usize = 6;

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    let containers = Users::BOTH
        .into_iter()
        .zip(["plain", "own"])
        .map(|(users, name)| Container::create(&vm, name, users))
        .collect::<Result<Vec<_>>>()?;
    let broker = Broker::start(&vm, CONFIGURATION)?;
    for container in &containers {
        container.start()?;
    }
    overlapping(&vm, &broker, &containers)?;
    another_id(&vm, &broker, &containers)?;
    let kept = vm.ok("ls /run/devbroker/ledger | wc -l")?;
    ensure!(kept == "2", "{kept} ledgers");
    Ok(())
}

/// What is in the container is what is plugged, and it opens.
fn just_this(broker: &Broker, containers: &[Container], plugged: &[(&str, &Plugged)]) -> Result<()> {
    broker.settle()?;
    for container in containers {
        let mut wanted: Vec<&str> = plugged.iter().map(|(_, plugged)| plugged.usb()).collect();
        wanted.sort_unstable();
        let found = container.ok("find /dev/bus -type c 2>/dev/null | sort")?;
        ensure!(
            found.lines().eq(wanted.iter().copied()),
            "{found} instead of {wanted:?}"
        );
        for (alias, plugged) in plugged {
            let direct = container.open(plugged.usb())?;
            let by_alias = container.open(&format!("/dev/{alias}"))?;
            ensure!(
                direct.starts_with("ok char 189:") && by_alias == direct,
                "{direct} {by_alias}"
            );
        }
    }
    Ok(())
}

/// One command pulls and plugs: the kernel is through before udev has begun.
fn overlapping(vm: &Vm, broker: &Broker, containers: &[Container]) -> Result<()> {
    let scanner = Gadget::scanner(vm, "epson")?;
    let mut plugged = scanner.plug(Controller::First)?;
    just_this(broker, containers, &[("scanner", &plugged)])?;
    let mut at = Controller::First;
    for round in 0..ROUNDS {
        // Each third time into the other controller, several times at once.
        let next = if round % 3 == 2 { at.other() } else { at };
        let (pull, plug) = (scanner.unplug_command(), scanner.plug_command(next));
        let flaps = format!("{pull}; {plug}; ").repeat(1 + round % 3);
        vm.ok(&format!("set -e; {flaps}"))?;
        at = next;
        let before = plugged;
        plugged = scanner.plugged(at)?;
        vm.settle()?;
        ensure!(plugged.usb() != before.usb(), "round {round}: {plugged:?}");
        just_this(broker, containers, &[("scanner", &plugged)]).with_context(|| format!("round {round}"))?;
    }
    // Pulled in the end: nothing is left.
    vm.ok(&format!(
        "set -e; {}; {}; {}",
        scanner.unplug_command(),
        scanner.plug_command(at),
        scanner.unplug_command()
    ))?;
    vm.until("! lsusb -d 04b8:011f")?;
    vm.settle()?;
    just_this(broker, containers, &[])
}

/// Comes up under one id, goes, and is at once there under another.
fn another_id(vm: &Vm, broker: &Broker, containers: &[Container]) -> Result<()> {
    let model = |ids| Model {
        ids,
        serial: "",
        product: "Accelerator",
        functions: &["Loopback.0"],
        nodes: 1,
    };
    let bare = Gadget::new(vm, "bare", &model((0x1a6e, 0x089a)))?;
    let loaded = Gadget::new(vm, "loaded", &model((0x18d1, 0x9302)))?;
    let mut plugged = bare.plug(Controller::First)?;
    just_this(broker, containers, &[("coral", &plugged)])?;
    for (gone, come) in [(&bare, &loaded), (&loaded, &bare), (&bare, &loaded)] {
        vm.ok(&format!(
            "set -e; {}; {}",
            gone.unplug_command(),
            come.plug_command(Controller::First)
        ))?;
        let now = come.plugged(Controller::First)?;
        vm.settle()?;
        ensure!(now.usb() != plugged.usb(), "{now:?}");
        plugged = now;
        just_this(broker, containers, &[("coral", &plugged)])?;
        ensure!(vm.ok("readlink -f /dev/devbroker/coral")? == plugged.usb());
    }
    loaded.unplug()?;
    vm.wait_gone(plugged.usb())?;
    vm.settle()?;
    just_this(broker, containers, &[])
}
