//! Each verb of a container's life and each exit code, first by ctm alone, then with systemd; and a device that was granted
//! stays so through all of them.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::vm::{Broker, Container, Lab, Stick, Users, Vm};

const CONFIGURATION: &str = r#"
[alias.stick]
match = { vendor = "0403", serial = "A1" }

[[grant]]
alias = "stick"
container = "ctm:box"

[[grant]]
alias = "stick"
container = "ctm:crate"
"#;

/// Ends well when it is asked to, with 9 at SIGUSR1.
const INIT: &str = "trap 'exit 0' TERM; trap 'exit 9' USR1; echo up; while :; do sleep 1000 & wait; done";

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    let broker = Broker::start(&vm, CONFIGURATION)?;
    let stick = Stick::new(&vm, "ours", Some("A1"))?;
    for (users, systemd) in [(Users::Own, false), (Users::Host, true)] {
        if systemd {
            vm.install()?;
        }
        let container = Container::running(&vm, "box", users, INIT)?;
        let (_plugged, _line) = stick.plug("1")?;
        broker.settle()?;
        refused(&vm)?;
        container.start()?;
        life(&vm, &container)?;
        undisturbed(&vm, &container, systemd)?;
        if !systemd {
            renamed(&vm, &container)?;
        }
        paused(&vm, &container, &stick, &broker)?;
        looked_at(&vm, systemd)?;
        locked(&vm)?;
        container.destroy()?;
        stick.unplug()?;
        vm.wait_gone("/dev/ttyUSB0")?;
    }
    Ok(())
}

/// The exit code of a command, and a part of what it says.
fn says(vm: &Vm, command: &str, code: i32, part: &str) -> Result<()> {
    let output = vm.run(command)?;
    let said = format!("{}{}", output.stdout, output.stderr);
    ensure!(
        output.status == code && said.contains(part),
        "{command}: {} and not {code}: {said}, which should have {part:?}",
        output.status
    );
    Ok(())
}

/// What cannot be, with vzctl's numbers where it had one.
fn refused(vm: &Vm) -> Result<()> {
    for verb in [
        "stop", "kill", "pause", "resume", "enter", "console", "stats", "ps", "status",
    ] {
        says(vm, &format!("ctm {verb} box"), 31, "")?;
    }
    for verb in [
        "start", "stop", "restart", "kill", "wait", "log", "status", "config", "du", "enter",
    ] {
        says(vm, &format!("ctm {verb} none"), 14, "there is no container none")?;
    }
    says(vm, "ctm exec none true", 14, "there is no container none")?;
    says(vm, "ctm exec box true", 31, "`ctm start box` starts it")?;
    says(vm, "ctm wait box", 31, "does not run")?;
    says(vm, "ctm start ../box", 2, "")?;
    says(vm, "ctm create box --tar /srv/rootfs.tar", 44, "exists already")?;
    says(
        vm,
        "ctm set box profile=none && ctm start box",
        109,
        "there is no",
    )?;
    vm.ok("ctm set box profile=")?;
    says(vm, "ctm status --vzctl box", 0, "CTID box exist unmounted down")?;
    says(
        vm,
        "ctm status --vzctl none",
        0,
        "CTID none deleted unmounted down",
    )
}

/// The device opens.
fn granted(container: &Container) -> Result<()> {
    let opened = container.open("/dev/ttyUSB0")?;
    ensure!(opened.starts_with("ok char 188:0"), "{opened}");
    Ok(())
}

fn life(vm: &Vm, container: &Container) -> Result<()> {
    granted(container)?;
    says(vm, "ctm start box", 32, "running already")?;
    says(vm, "ctm destroy --yes box", 32, "`ctm stop box` stops it")?;
    says(vm, "ctm exec box /bin/none", 8, "not found")?;
    says(vm, "ctm exec -u none box true", 8, "no user `none`")?;
    says(vm, "ctm exec box -- sh -c 'exit 200'", 200, "")?;
    let user = vm.ok("ctm exec -u lp --cwd /tmp box -- sh -c 'id -un; pwd'")?;
    ensure!(user == "lp\n/tmp", "{user}");
    says(
        vm,
        "echo 'echo $USER in $PWD' | ctm enter box",
        0,
        "root in /root",
    )?;

    let first = container.pid()?;
    vm.ok("ctm restart box")?;
    ensure!(container.pid()? != first, "restarted without another process");
    granted(container)?;

    // Ended at once and on purpose: no failure, and nobody starts it again.
    let waiting = vm.start_job("exec ctm wait box")?;
    vm.ok("ctm kill box")?;
    let waited = waiting.wait(Duration::from_secs(60))?;
    ensure!(
        (waited.status, waited.stdout.as_str()) == (137, "137\n"),
        "{waited:?}"
    );
    says(
        vm,
        "ctm status box",
        31,
        "was ended by signal 9, as it was asked to",
    )?;
    // systemd cleans up after it when ctm has said that it is down.
    let settled = "while [ \"$(systemctl is-failed ctm@box.service)\" = deactivating ]; do sleep 0.05; done; systemctl is-failed ctm@box.service";
    says(vm, settled, 1, "inactive").or_else(|error| {
        // Without the unit it is not systemd's.
        let missing = vm.run("systemctl cat ctm@box.service")?;
        if missing.success() { Err(error) } else { Ok(()) }
    })?;
    container.start()?;
    granted(container)?;

    // By a signal of one's own; how it ended is told.
    let waiting = vm.start_job("exec ctm wait box")?;
    let following = vm.start_job("exec ctm log -f -n 1 box")?;
    following.wait_for("up", Duration::from_secs(60))?;
    vm.ok("ctm kill -s usr1 box")?;
    ensure!(waiting.wait(Duration::from_secs(60))?.status == 9);
    let followed = following.wait(Duration::from_secs(60))?.stdout;
    ensure!(followed.contains("exited with code 9"), "{followed}");
    // systemd starts a failed one again.
    vm.run("ctm stop box; systemctl reset-failed ctm@box.service")?;
    container.start()?;
    vm.ok("ctm stop --timeout 0 box")?;
    says(vm, "ctm wait box", 137, "137")?;
    container.start()?;
    granted(container)
}

/// A process inside opens the device again and again; no verb that leaves it running makes it fail once.
fn undisturbed(vm: &Vm, container: &Container, systemd: bool) -> Result<()> {
    let watch = container.watch_open("/dev/ttyUSB0")?;
    // Without systemd the controllers are nobody's to hand down.
    let limits = if systemd {
        "cpu_weight=200 processes=500"
    } else {
        "oom_score_adj=100"
    };
    vm.ok(&format!(
        "set -e; verbs() {{ sed 's/#.*//; /^ *$/d' | while read -r line; do eval \"ctm $line\" </dev/null >/dev/null || exit; done; }}
        export EDITOR='sed -i s/watched/edited/'
        verbs <<'END'
        set box description=watched stop_timeout=30 {limits}
        pause box
        resume box
        mount add box /scratch --tmpfs 64k
        mount add box /etc/late --bind /etc --read-only
        exec box true
        exec -u user box -- test -d /scratch
        mount remove box /scratch
        mount remove box /etc/late
        enable box
        disable box
        edit box
        config box
        status box
        list
        ps box
        stats box
        du box
        log box
        kill -s CONT box
END
        grep -q edited /etc/ctm/containers/box.toml; ctm set box description="
    ))?;
    let seen = watch.stop()?;
    let whole = seen
        .iter()
        .all(|sighting| sighting.outcome.starts_with("ok char 188:0"));
    let count: u64 = seen.iter().map(|sighting| sighting.count).sum();
    ensure!(whole && count > 100, "{seen:?}");
    Ok(())
}

/// Under another name, which is granted it as well, it is there at the next start, as the container had made it.
fn renamed(vm: &Vm, container: &Container) -> Result<()> {
    container.ok("chmod 600 /dev/ttyUSB0")?;
    for (from, to) in [("box", "crate"), ("crate", "box")] {
        let seen = vm.ok(&format!(
            "ctm stop {from} && ctm rename {from} {to} 2>/dev/null && ctm start {to} && ctm exec {to} -- probe open /dev/ttyUSB0"
        ))?;
        ensure!(seen.starts_with("ok char 188:0 600 0:0"), "{seen}");
    }
    Ok(())
}

/// A paused container does nothing, and loses what is unplugged.
fn paused(vm: &Vm, container: &Container, stick: &Stick, broker: &Broker) -> Result<()> {
    vm.ok("ctm pause box")?;
    says(vm, "ctm status box", 0, "box: paused")?;
    says(
        vm,
        "ctm status --vzctl box",
        0,
        "CTID box exist mounted running suspended",
    )?;
    says(vm, "ctm exec box true", 31, "`ctm resume box` lets it go on")?;
    vm.ok(&format!("ln {0}/ttyUSB0 {0}/kept", container.dev()))?;
    stick.unplug()?;
    vm.wait_gone("/dev/ttyUSB0")?;
    vm.wait_gone(&format!("{}/ttyUSB0", container.dev()))?;
    vm.ok("ctm resume box")?;
    let kept = container.open("/dev/kept")?;
    ensure!(!kept.starts_with("ok"), "{kept}");
    let (_plugged, _line) = stick.plug("1")?;
    broker.settle()?;
    granted(container)?;
    vm.ok("ctm pause box && ctm stop box && ctm start box")?;
    granted(container)
}

fn looked_at(vm: &Vm, systemd: bool) -> Result<()> {
    vm.ok("ctm create other --no-userns --tar /srv/rootfs.tar; ctm set other description='the other'")?;
    let list = vm.ok("ctm list -H -o name,state,description -s state; ctm list -H -o name --stopped; ctm list -o name --json | grep -c nothing || true")?;
    ensure!(
        list.lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .take(3)
            .collect::<Vec<_>>()
            == ["box running -", "other stopped the other", "other"],
        "{list}"
    );
    says(vm, "ctm list -o nothing", 2, "there are name, state")?;
    let pid = vm.ok("ctm list -H -o pid --running | tr -d ' '")?;
    says(vm, &format!("ctm who {pid}"), 0, "box")?;
    says(vm, "ctm who $$", 1, "-")?;
    let processes = vm.ok("ctm ps box -- -eo pid,comm")?;
    ensure!(
        processes.lines().count() == 4 && processes.contains(".ctm-init") && processes.contains("sleep"),
        "{processes}"
    );
    let stats: serde_json::Value = serde_json::from_str(&vm.ok("ctm stats --json box")?)?;
    let number = |key: &str| {
        stats
            .pointer(&format!("/0/{key}"))
            .and_then(serde_json::Value::as_u64)
    };
    ensure!(number("cpu_usec").is_some_and(|time| time > 0), "{stats}");
    ensure!(number("processes").is_some_and(|count| count >= 2), "{stats}");
    if systemd {
        // It hands the controllers down.
        ensure!(number("memory").is_some_and(|bytes| bytes > 4096), "{stats}");
    }
    says(vm, "ctm du other", 0, "USED")?;
    vm.ok("ctm destroy --yes other").map(drop)
}

/// Two commands on one container never interleave.
fn locked(vm: &Vm) -> Result<()> {
    let mut script = String::from("set -e\n");
    for _ in 0..3 {
        script.push_str("ctm restart box & ctm restart box & wait\n");
    }
    vm.ok(&script)?;
    says(vm, "ctm status box", 0, "running")?;
    let held = "(exec 9>/run/ctm/.verb/box; flock 9; exec sleep 1000) & own=$!
        while flock -n /run/ctm/.verb/box true; do :; done
        code=0; ctm --no-wait stop box || code=$?; kill $own; wait $own || true; exit $code";
    says(vm, held, 9, "at work on container box; it was not waited for")
}
