//! Every command of `devbroker`, and `varlinkctl`, against the daemon as systemd runs it.

#![expect(
    clippy::indexing_slicing,
    reason = "a JSON value without such a field is null"
)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::vm::{Controller, Lab, Printer, Stick, Vm};

const SOON: Duration = Duration::from_secs(30);
const SOCKET: &str = "/run/devbroker/io.devbroker";

const CONFIGURATION: &str = r#"
[alias.laser]
match = { vendor = "03f0", product = "4117" }

[[grant]]
alias = "laser"
container = "ctm:office"
path = "printer"
group = "lp"
mode = "0660"
"#;

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    vm.install()?;
    without_a_daemon(&vm)?;
    starts_on_demand(&vm)?;
    vm.ok("ctm create office --tar /srv/rootfs.tar --init /bin/sleep 1000000 && ctm start office")?;
    let printer = Printer::new(&vm, "laserjet", "LJ1018", 0)?;
    let following = vm.start_job("exec devbroker events -f -n 100 --json")?;
    printer.plug(Controller::First)?;
    following.wait_for("\"kind\":\"node_placed\"", SOON)?;
    following.kill()?;
    vm.settle()?;
    lists(&vm)?;
    explains(&vm)?;
    varlinkctl(&vm)?;
    let stick = Stick::new(&vm, "modem", Some("A1B2"))?;
    let (_plugged, _line) = stick.plug("1")?;
    changes(&vm)?;
    who_may_what(&vm)?;
    broken_files(&vm)?;
    comes_back(&vm)
}

/// The output as JSON.
fn json(vm: &Vm, command: &str) -> Result<Value> {
    let text = vm.ok(command)?;
    serde_json::from_str(&text).with_context(|| format!("{command} printed {text}"))
}

/// A command that must end with this code and say this.
fn ends_with(vm: &Vm, command: &str, code: i32, said: &str) -> Result<()> {
    let output = vm.run(command)?;
    let text = format!("{}{}", output.stdout, output.stderr);
    ensure!(
        output.status == code,
        "{command}: status {}, not {code}: {text}",
        output.status
    );
    ensure!(text.contains(said), "{command} does not say `{said}`: {text}");
    Ok(())
}

/// Without a daemon every command says how to start it; `check` needs neither it nor root.
fn without_a_daemon(vm: &Vm) -> Result<()> {
    for command in [
        "status",
        "devices",
        "why laser",
        "events -f",
        "attach laser office",
        "plan --json",
    ] {
        ends_with(
            vm,
            &format!("devbroker {command}"),
            3,
            "systemctl start devbroker",
        )?;
    }
    vm.put("/etc/devbroker/conf.d/lab.toml", CONFIGURATION)?;
    vm.put("/tmp/bad.toml", "[alias.x]\nmatch = { vendr = \"04b8\" }\n")?;
    let nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups";
    vm.ok(&format!("cd / && {nobody} devbroker check"))?;
    ends_with(
        vm,
        &format!("cd / && {nobody} devbroker check /tmp/bad.toml"),
        1,
        "/tmp/bad.toml:2:11: error:",
    )?;
    ends_with(vm, "devbroker attach laser", 2, "CONTAINER")
}

/// The socket starts the service, which says when it is ready; the units are sound.
fn starts_on_demand(vm: &Vm) -> Result<()> {
    let unit = vm.ok("systemd-sysusers && systemd-tmpfiles --create devbroker.conf && systemctl daemon-reload && systemctl start devbroker.socket && systemctl show -p FragmentPath --value devbroker.service")?;
    vm.ok(&format!(
        "systemd-analyze verify --man=no {unit} {}",
        unit.replace(".service", ".socket")
    ))?;
    ensure!(vm.ok(&format!("stat -c '%a %U %G' {SOCKET}"))? == "660 root devbroker");
    ends_with(vm, "systemctl is-active devbroker.service", 3, "inactive")?;
    let status = json(vm, "devbroker status --json")?;
    ensure!(
        status["aliases"] == 1 && status["grants"] == 1 && status["monitor"] == true,
        "{status}"
    );
    let shown = vm.ok("systemctl show -p ActiveState,SubState,WatchdogUSec,Type devbroker.service")?;
    for property in [
        "ActiveState=active",
        "SubState=running",
        "WatchdogUSec=30s",
        "Type=notify",
    ] {
        ensure!(shown.contains(property), "{property} is not in {shown}");
    }
    let main = vm.ok("systemctl show -p MainPID --value devbroker.service")?;
    ensure!(status["pid"].as_u64() == main.parse().ok(), "{status} {main}");
    let text = vm.ok("devbroker status")?;
    ensure!(
        text.contains(&format!("process {main}")) && text.contains("/etc/devbroker/conf.d/lab.toml"),
        "{text}"
    );
    Ok(())
}

fn lists(vm: &Vm) -> Result<()> {
    let devices = json(vm, "devbroker devices --json")?;
    let printer = devices["devices"]
        .as_array()
        .and_then(|all| all.iter().find(|one| one["vendor"] == "03f0"))
        .context("no printer among the devices")?;
    ensure!(
        printer["product"] == "4117" && printer["serial"] == "LJ1018",
        "{printer}"
    );
    let nodes = printer["nodes"].as_array().context("no nodes")?;
    let lp0 = nodes
        .iter()
        .find(|node| node["devname"] == "usb/lp0")
        .context("no lp0")?;
    ensure!(
        lp0["devnum"] == "c180:0" && lp0["containers"][0] == "ctm:office",
        "{lp0}"
    );
    ensure!(lp0["aliases"][0]["alias"] == "laser", "{lp0}");
    let text = vm.ok("devbroker devices")?;
    ensure!(
        text.contains("03f0:4117") && text.contains("/dev/usb/lp0"),
        "{text}"
    );
    // Without a physical device: shown only when asked for.
    let other = without_alias(vm)?;
    let node = format!("  {other} ");
    ensure!(
        !text.contains(&node) && vm.ok("devbroker devices --all")?.contains(&node),
        "{other}"
    );

    let aliases = json(vm, "devbroker aliases --json")?;
    let laser = &aliases["aliases"][0];
    ensure!(
        laser["name"] == "laser" && laser["state"] == "present",
        "{aliases}"
    );
    ensure!(
        laser["device"]["serial"] == "LJ1018" && laser["granted_to"][0] == "ctm:office",
        "{aliases}"
    );
    ensure!(vm.ok("devbroker aliases")?.contains("laser  present"));

    let grants = json(vm, "devbroker grants --json")?;
    let grant = &grants["grants"][0];
    ensure!(
        grant["mode"] == "0660" && grant["group"] == "lp" && grant["access"] == "rw",
        "{grants}"
    );
    ensure!(
        grant["origin"]["file"] == "/etc/devbroker/conf.d/lab.toml" && grant["origin"]["line"] == 5,
        "{grants}"
    );
    ensure!(
        vm.ok("devbroker grants")?
            .contains("/etc/devbroker/conf.d/lab.toml:5")
    );

    let containers = json(vm, "devbroker containers office --json")?;
    let office = &containers["containers"][0];
    ensure!(
        office["state"] == "running" && office["confined"] == true,
        "{containers}"
    );
    let placed = office["nodes"].as_array().context("no nodes")?;
    let lp0 = placed
        .iter()
        .find(|node| node["path"] == "usb/lp0")
        .context("no lp0 in the container")?;
    ensure!(
        lp0["state"] == "placed" && lp0["mode"] == "0660" && lp0["gid"] == 7,
        "{lp0}"
    );
    let text = vm.ok("devbroker containers --nodes")?;
    ensure!(text.contains("/dev/usb/lp0") && text.contains("0660"), "{text}");

    let events = json(vm, "devbroker events -n 1000 --json")?;
    let events = events["events"].as_array().context("no events")?;
    for kind in [
        "daemon_ready",
        "container_started",
        "device_plugged",
        "alias_bound",
        "access_allowed",
        "node_placed",
    ] {
        let event = events.iter().find(|event| event["kind"] == kind);
        let event = event.with_context(|| format!("no {kind} among {events:?}"))?;
        ensure!(event["time"].as_u64() > Some(1_600_000_000_000_000), "{event}");
    }
    let numbers: Vec<_> = events.iter().map(|event| event["seq"].as_u64()).collect();
    ensure!(numbers.is_sorted(), "{numbers:?}");
    ensure!(vm.ok("devbroker events")?.contains("node_placed"));
    ensure!(vm.ok("devbroker plan")? == "nothing to do");
    let plan = json(vm, "devbroker plan office --json")?;
    ensure!(plan["plans"].as_array().is_some_and(Vec::is_empty), "{plan}");
    Ok(())
}

/// A node of the machine that no alias is for and that belongs to no physical device.
fn without_alias(vm: &Vm) -> Result<String> {
    let devices = json(vm, "devbroker devices --json")?;
    let devices = devices["devices"].as_array().context("no devices")?;
    let other = devices
        .iter()
        .find(|one| one["vendor"].is_null() && one["port"].is_null());
    let name = other.and_then(|one| one["nodes"][0]["devname"].as_str());
    Ok(format!("/dev/{}", name.context("no such node")?))
}

fn explains(vm: &Vm) -> Result<()> {
    for (about, subject) in [
        ("/dev/usb/lp0", "device"),
        ("/dev/devbroker/laser", "device"),
        ("c180:0", "device"),
        ("laser", "alias"),
        ("ctm:office", "container"),
        ("office", "container"),
    ] {
        let why = json(vm, &format!("devbroker why {about} --json"))?;
        ensure!(why["subject"] == subject, "{about}: {why}");
        let done = why["done"]
            .as_array()
            .with_context(|| format!("{about}: {why}"))?;
        ensure!(
            done.iter().any(|one| one["node"]["path"] == "usb/lp0"),
            "{about}: {why}"
        );
        ensure!(why["grants"][0]["applies"] == true, "{about}: {why}");
        if subject != "container" {
            let keys = &why["matches"][0]["keys"];
            ensure!(
                keys[0]["key"] == "vendor" && keys[0]["found"] == "03f0",
                "{about}: {why}"
            );
        }
        let text = vm.ok(&format!("devbroker why {about}"))?;
        ensure!(
            text.contains("vendor = 03f0") || subject == "container",
            "{about}: {text}"
        );
    }
    // A device that nothing matches says so.
    let why = json(vm, &format!("devbroker why {} --json", without_alias(vm)?))?;
    ensure!(why["grants"].as_array().is_some_and(Vec::is_empty), "{why}");
    for unknown in ["/dev/ttyUSB99", "nonsense", "ctm:nobody", "c4095:7"] {
        ends_with(vm, &format!("devbroker why {unknown}"), 5, unknown)?;
    }
    Ok(())
}

/// The client that Debian 13 has; Debian 12 has none.
fn varlinkctl(vm: &Vm) -> Result<()> {
    if vm.ok(". /etc/os-release && echo $VERSION_ID")? == "12" {
        return Ok(());
    }
    let info = vm.ok(&format!("varlinkctl info {SOCKET}"))?;
    ensure!(
        info.contains("devbroker") && info.contains("io.devbroker"),
        "{info}"
    );
    let idl = vm.ok(&format!("varlinkctl introspect {SOCKET} io.devbroker"))?;
    ensure!(
        idl.contains("method ListAliases") && idl.contains("error NotFound"),
        "{idl}"
    );
    vm.put("/tmp/io.devbroker.varlink", &idl)?;
    vm.ok("varlinkctl validate-idl /tmp/io.devbroker.varlink")?;
    let methods = vm.ok(&format!("varlinkctl list-methods {SOCKET} io.devbroker"))?;
    ensure!(methods.lines().count() == 17, "{methods}");
    let call = |more: &str, method: &str, parameters: &str| {
        format!("varlinkctl call {more} -j {SOCKET} io.devbroker.{method} '{parameters}'")
    };
    let aliases = json(vm, &call("", "ListAliases", "{}"))?;
    ensure!(aliases["aliases"][0]["name"] == "laser", "{aliases}");
    let why = json(vm, &call("", "Why", r#"{"about":"laser"}"#))?;
    ensure!(why["subject"] == "alias", "{why}");
    ends_with(
        vm,
        &call("", "Why", r#"{"about":"nonsense"}"#),
        1,
        "io.devbroker.NotFound",
    )?;
    ends_with(
        vm,
        &call("", "Why", "{}"),
        1,
        "org.varlink.service.InvalidParameter",
    )?;
    ends_with(
        vm,
        &call("", "Destroy", "{}"),
        1,
        "org.varlink.service.MethodNotFound",
    )?;
    ends_with(
        vm,
        &call("", "Monitor", "{}"),
        1,
        "org.varlink.service.ExpectedMore",
    )?;
    let stream = vm.start_job(&call("--more", "Monitor", r#"{"recent":1000}"#))?;
    stream.wait_for("daemon_ready", SOON)?;
    stream.wait_for("node_placed", SOON)?;
    stream.kill().map(drop)
}

fn changes(vm: &Vm) -> Result<()> {
    // Only proposed.
    let proposed = vm.ok("devbroker alias add --dry-run modem /dev/ttyUSB0")?;
    ensure!(
        proposed.contains("serial") && proposed.contains("A1B2"),
        "{proposed}"
    );
    vm.fails("grep -rq modem /etc/devbroker")?;
    let added = json(vm, "devbroker alias add modem /dev/ttyUSB0 --json")?;
    let file = added["file"].as_str().context("no file")?;
    ensure!(vm.get(file)?.contains("[alias.modem]"), "{added}");
    vm.ok("devbroker check")?;
    ends_with(vm, "devbroker alias add modem /dev/ttyUSB0", 1, "modem")?;
    ends_with(vm, "devbroker alias add other /dev/ttyUSB99", 5, "ttyUSB99")?;
    vm.until("devbroker aliases | grep -q '^modem  present'")?;

    // At run time: there at once, in no file of /etc, gone again.
    ends_with(vm, "devbroker attach nonsense office", 5, "nonsense")?;
    let attached = json(vm, "devbroker attach modem office --path tty-modem --json")?;
    ensure!(
        attached["nodes"].as_array().is_some_and(|all| !all.is_empty()),
        "{attached}"
    );
    ensure!(vm.ok("ctm exec office -- stat -c %F /dev/ttyUSB0")? == "character special file");
    ensure!(vm.ok("ctm exec office -- readlink /dev/tty-modem")? == "ttyUSB0");
    vm.fails("grep -rq 'modem.*office\\|office.*modem' /etc/devbroker")?;
    let grants = vm.ok("devbroker grants")?;
    ensure!(grants.contains("/run/devbroker/conf.d/"), "{grants}");
    let detached = vm.ok("devbroker detach modem office")?;
    ensure!(detached.contains("/dev/ttyUSB0"), "{detached}");
    vm.fails("ctm exec office -- test -e /dev/ttyUSB0")?;
    ends_with(vm, "devbroker detach modem office", 5, "modem")?;

    // For good.
    vm.ok("devbroker attach modem office --save")?;
    vm.ok("ctm exec office -- test -c /dev/ttyUSB0 && grep -rq 'alias = \"modem\"' /etc/devbroker/conf.d && devbroker check")?;
    vm.ok("devbroker detach modem office --save")?;
    vm.fails("grep -rq 'alias = \"modem\"' /etc/devbroker/conf.d")?;
    vm.fails("ctm exec office -- test -e /dev/ttyUSB0")?;

    // A grant in a file is suspended, then taken up again.
    vm.ok("devbroker detach laser office")?;
    vm.fails("ctm exec office -- test -e /dev/usb/lp0")?;
    vm.ok("devbroker attach laser office")?;
    vm.ok("ctm exec office -- test -c /dev/usb/lp0")?;
    Ok(())
}

/// Members of the group look; others do not even connect.
fn who_may_what(vm: &Vm) -> Result<()> {
    let member = "setpriv --reuid 1000 --regid 1000 --groups $(getent group devbroker | cut -d: -f3)";
    let stranger = "setpriv --reuid 1000 --regid 1000 --clear-groups";
    ends_with(
        vm,
        &format!("{stranger} devbroker status"),
        4,
        "permission denied",
    )?;
    vm.ok(&format!(
        "for c in status devices aliases grants containers events 'why laser' plan; do {member} devbroker $c || exit; done"
    ))?;
    for command in [
        "attach laser office",
        "detach laser office",
        "alias add x /dev/ttyUSB0",
        "reload",
    ] {
        ends_with(
            vm,
            &format!("{member} devbroker {command}"),
            4,
            "permission denied",
        )?;
    }
    Ok(())
}

/// A broken file is told of; what was good stays.
fn broken_files(vm: &Vm) -> Result<()> {
    vm.put(
        "/etc/devbroker/conf.d/lab.toml",
        "[alias.laser]\nmatch = { vendr = \"03f0\" }\n",
    )?;
    ends_with(vm, "devbroker reload", 1, "lab.toml:2:11: error:")?;
    let status = json(vm, "devbroker status --json")?;
    ensure!(
        status["problems"][0]["line"] == 2 && status["grants"] == 1,
        "{status}"
    );
    ensure!(vm.ok("devbroker status")?.contains("last good copy"));
    vm.ok("ctm exec office -- test -c /dev/usb/lp0")?;
    vm.put("/etc/devbroker/conf.d/lab.toml", CONFIGURATION)?;
    ensure!(vm.ok("devbroker reload")? == "the configuration is in force");
    vm.ok("systemctl reload devbroker.service && devbroker status | grep -q 'in force'")
        .map(drop)
}

/// systemd brings the daemon back when it is killed and when it hangs.
fn comes_back(vm: &Vm) -> Result<()> {
    let restarts = |number: u32| {
        format!(
            "[ $(systemctl show -p NRestarts --value devbroker.service) = {number} ] && devbroker status | grep -q settled"
        )
    };
    vm.ok("systemctl kill -s KILL devbroker.service")?;
    vm.until(&restarts(1))?;
    vm.ok("ctm exec office -- test -c /dev/usb/lp0")?;
    vm.put(
        "/run/systemd/system/devbroker.service.d/soon.conf",
        "[Service]\nWatchdogSec=1\n",
    )?;
    vm.ok("systemctl daemon-reload && systemctl restart devbroker.service && devbroker status >/dev/null")?;
    // A command waits for a daemon that hangs, but not for ever; the socket is served by the next one.
    vm.ok("systemctl kill -s STOP devbroker.service")?;
    vm.until("journalctl -q -u devbroker.service | grep -q 'Watchdog timeout'")?;
    vm.until("devbroker status | grep -q settled")?;
    vm.ok("ctm exec office -- test -c /dev/usb/lp0").map(drop)
}
