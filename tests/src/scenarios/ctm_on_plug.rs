//! A device starts a container and any other unit, and takes them with it when it goes.

use anyhow::{Result, ensure};

use crate::vm::{Broker, Container, Controller, Gadget, Lab, Users, Vm};

const CONFIGURATION: &str = r#"
[alias.epson-1670]
match = { vendor = "04b8", product = "011f" }

[[grant]]
alias = "epson-1670"
container = "ctm:scan"
path = "scanner"
"#;

/// Its first deed is to look; what it saw at each of its starts is a line of /seen.
const WITNESS: &str = "probe open /dev/scanner >>/seen 2>&1; \
    trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";

/// Somebody else's, wanted by the device and bound to it.
const OTHER: &str = "[Unit]
BindsTo=devbroker-alias@epson-1670.target
After=devbroker-alias@epson-1670.target
[Service]
ExecStart=sleep infinity
[Install]
WantedBy=devbroker-alias@epson-1670.target
";

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    vm.install()?;
    Broker::configure(&vm, CONFIGURATION)?;
    let container = Container::running(&vm, "scan", Users::Own, WITNESS)?;
    vm.put("/etc/systemd/system/other.service", OTHER)?;
    vm.ok("systemctl daemon-reload; systemctl enable -q other
        systemctl start devbroker; ctm enable scan --on epson-1670")?;
    ensure!(
        vm.ok("ctm config scan | grep ^start")?
            .starts_with("start = \"device:epson-1670\"")
    );
    ensure!(!is_up(&vm, "ctm@scan")?, "started without a device");

    let scanner = Gadget::scanner(&vm, "epson")?;
    for round in 1..=2 {
        let _plugged = scanner.plug(if round == 1 {
            Controller::First
        } else {
            Controller::Second
        })?;
        vm.until("systemctl is-active -q ctm@scan && systemctl is-active -q other")?;
        ensure!(container.open("/dev/scanner")?.starts_with("ok char 189:"));
        let seen = vm.get(&format!("{}/seen", container.root()))?;
        ensure!(
            seen.lines().count() == round && seen.lines().all(|line| line.starts_with("ok char 189:")),
            "its init did not find the device:\n{seen}"
        );
        if round == 1 {
            // A broker that goes and comes changes nothing, and what went meanwhile is told afterwards.
            let first = vm.ok("systemctl show -P MainPID ctm@scan")?;
            vm.ok(
                "systemctl restart devbroker; systemctl kill -s KILL devbroker; sleep 0.2
                until systemctl is-active -q devbroker; do sleep 0.1; done",
            )?;
            ensure!(
                vm.ok("systemctl show -P MainPID ctm@scan")? == first,
                "it was started again"
            );
            vm.ok("systemctl stop devbroker devbroker.socket")?;
            scanner.unplug()?;
            ensure!(is_up(&vm, "ctm@scan")?);
            vm.ok("systemctl start devbroker")?;
        } else {
            scanner.unplug()?;
        }
        vm.until("! systemctl is-active -q ctm@scan && ! systemctl is-active -q other")?;
        ensure!(vm.ok("ctm status scan | head -1; true")? == "scan: stopped");
    }

    // Disabled, it stays where it is.
    vm.ok("ctm disable scan")?;
    let _plugged = scanner.plug(Controller::First)?;
    vm.until("systemctl is-active -q other")?;
    ensure!(!is_up(&vm, "ctm@scan")?, "a disabled container was started");

    // An alias that the configuration no longer has takes its target along.
    Broker::configure(&vm, "")?;
    vm.ok("systemctl reload devbroker")?;
    vm.until("! systemctl is-active -q devbroker-alias@epson-1670.target && ! systemctl is-active -q other")
}

fn is_up(vm: &Vm, unit: &str) -> Result<bool> {
    Ok(vm.ok(&format!("systemctl is-active -q {unit} && echo up; true"))? == "up")
}
