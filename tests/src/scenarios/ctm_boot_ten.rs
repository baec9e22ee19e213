//! Ten containers at boot with two devices: in parallel, in the order that their definitions say, each device in place before
//! the init that wants it, and an address.

use anyhow::{Context, Result, bail, ensure};

use std::collections::BTreeMap;

use super::together::together;
use crate::vm::{Broker, Container, Controller, Lab, Users, plugged_at_boot};

const CONFIGURATION: &str = r#"
[alias.first]
match = { serial = "first" }

[alias.second]
match = { serial = "second" }

[[grant]]
alias = "first"
container = "ctm:left*"
path = "mine"

[[grant]]
alias = "second"
container = "ctm:right*"
path = "mine"
"#;

/// What it finds, and when: /proc/uptime is the machine's.
const WITNESS: &str = "read up rest </proc/uptime; echo $up >>/up; probe open /dev/mine >>/seen 2>&1; \
    trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";

/// One that fails at once, whatever is tried.
const FAILING: &str = "echo no luck; exit 7";

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.boot()?;
    vm.install()?;
    Broker::configure(&vm, CONFIGURATION)?;
    let names: Vec<String> = ["left", "right"]
        .iter()
        .flat_map(|side| (0..5).map(move |number| format!("{side}{number}")))
        .collect();
    let ten = names.iter().zip(Users::BOTH.into_iter().cycle());
    let ten = ten.map(|(name, users)| (name.as_str(), users, WITNESS));
    let boxes = together(
        ten.chain([("poor", Users::Own, FAILING)])
            .map(|(name, users, script)| {
                let vm = &vm;
                move || Container::running(vm, name, users, script)
            }),
    )?;
    let boxes = boxes.split_last().map_or(&[][..], |(_poor, boxes)| boxes);
    plugged_at_boot(
        &vm,
        &[
            ("first", Some(Controller::First)),
            ("second", Some(Controller::Second)),
        ],
    )?;
    let all = names.join(" ");
    vm.ok(&format!(
        "systemctl enable -q devbroker.service devbroker.socket
        ctm set right4 boot_order=900; ctm set left0 'after=[\"left1\"]'; ctm set right0 'ip=[\"192.0.2.10\"]' 2>/dev/null
        ctm enable {all} poor; sync"
    ))?;
    vm.reboot()?;
    vm.until(&format!(
        "systemctl is-system-running --wait >/dev/null; systemctl is-active -q ctm.target
        for name in {all}; do systemctl is-active -q ctm@$name || exit 1; done"
    ))?;

    let mut up = BTreeMap::new();
    let mut numbers = BTreeMap::new();
    for container in boxes {
        let name = container.name();
        // At its start, once, when that was, and now.
        let seen = container.ok("cat /seen /up; probe open /dev/mine")?;
        let lines: Vec<_> = seen.lines().collect();
        let [first, at, now] = lines.as_slice() else {
            bail!("{name}: {seen}");
        };
        ensure!(first.starts_with("ok char 189:"), "{name}: {seen}");
        let at: f64 = at.parse().with_context(|| format!("{name}: {at}"))?;
        up.insert(name, at);
        numbers.insert(name, now.split(' ').nth(2).map(str::to_owned));
    }
    // Each half has the one device, and not the other.
    for (name, number) in &numbers {
        let first = if name.starts_with("left") {
            "left0"
        } else {
            "right0"
        };
        ensure!(numbers.get(first) == Some(number), "{name}: {numbers:?}");
    }
    ensure!(numbers.get("left0") != numbers.get("right0"), "{numbers:?}");
    let right4 = up.get("right4").context("right4")?;
    ensure!(
        up.values().all(|at| at >= right4),
        "right4 was not the first: {up:?}"
    );
    ensure!(
        up.get("left0") > up.get("left1"),
        "left0 did not wait for left1: {up:?}"
    );

    // Its address was there before its init, too.
    let routed = vm.ok("ip route show 192.0.2.10; ctm exec right0 -- ip address show dev venet0 | grep -o 'inet .*/32'; journalctl -b -u ctm@right0 | grep -o 'put `net.ipv4.ip_forward = 1`'")?;
    ensure!(
        routed == "192.0.2.10 dev ctm-right0 scope link \ninet 192.0.2.10/32\nput `net.ipv4.ip_forward = 1`",
        "{routed:?}"
    );

    // The one that fails is started again, in vain and not for ever, and says why; it harms none of the others.
    vm.until("systemctl is-failed -q ctm@poor && [ $(systemctl show -P NRestarts ctm@poor) -ge 3 ]")?;
    let status = vm.ok("ctm status poor; true")?;
    ensure!(status.contains("exited with code 7"), "{status}");
    Ok(())
}
