//! What a container is refused is counted, told to the journal and to the administrator's hook, also where the container dies of it;
//! `ctm counters` shows it, to a monitor as well.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::vm::{Container, Lab, Users, Vm};

const HOOK: &str = r#"#!/bin/sh
echo "$CTM_NAME $CTM_ALERT $CTM_ALERT_TOTAL $CTM_ALERT_TEXT" >>/run/alerts
"#;

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    vm.ok("mkdir -p /etc/ctm/hooks.d")?;
    vm.put("/etc/ctm/hooks.d/alert", HOOK.as_bytes())?;
    vm.ok("chmod 755 /etc/ctm/hooks.d/alert")?;
    let container = Container::create(&vm, "hog", Users::Own)?;
    vm.ok("ctm set hog memory_limit=24M swap_limit=0 processes=30 'pressure={ cpu = 1 }'")?;
    container.start()?;
    ensure!(vm.ok("ctm counters hog --quiet")?.is_empty());
    memory(&vm, &container)?;
    processes(&vm, &container)?;
    monitors(&vm)?;
    waits(&vm, &container)?;
    dies_of_it(&vm)
}

/// One counter of a container, by its resource.
fn counter(vm: &Vm, name: &str, resource: &str) -> Result<Value> {
    let text = vm.ok(&format!("ctm counters {name} --json"))?;
    let all: Value = serde_json::from_str(&text)?;
    let row = all
        .pointer("/0/counters")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find(|row| row.get("resource").is_some_and(|is| is == resource));
    row.cloned()
        .with_context(|| format!("no counter {resource}: {text}"))
}

fn memory(vm: &Vm, container: &Container) -> Result<()> {
    let ended = vm.run("ctm exec hog -- dd if=/dev/zero of=/dev/null bs=64M count=1")?;
    ensure!(ended.status == 137, "{ended:?}");
    vm.until(
        "grep -q '^hog oom-kill 1 container hog had a process ended for want of memory once$' /run/alerts",
    )?;
    let row = counter(vm, "hog", "oom_kills")?;
    ensure!(row.get("failures") == Some(&1.into()), "{row}");
    let row = counter(vm, "hog", "memory")?;
    ensure!(row.get("limit") == Some(&(24 << 20).into()), "{row}");
    vm.until("journalctl -q -o json CTM_ALERT=oom-kill CTM_NAME=hog | grep -q '\"CTM_ALERT_TOTAL\":\"1\"'")?;
    ensure!(container.ok("echo on")? == "on");
    Ok(())
}

fn processes(vm: &Vm, container: &Container) -> Result<()> {
    let said = container.run("i=0; while [ $i -lt 40 ]; do sleep 100 & i=$((i+1)); done")?;
    ensure!(said.stderr.contains("can't fork"), "{said:?}");
    vm.until("grep -q '^hog processes ' /run/alerts")?;
    let full = vm.run("ctm exec hog -- true")?;
    ensure!(
        full.status == 8 && full.stderr.contains("has all the 30 processes that it may have"),
        "{full:?}"
    );
    vm.ok("pkill -f '^sleep 100$'")?;
    vm.until("ctm exec hog -- true")?;
    let row = counter(vm, "hog", "processes")?;
    ensure!(
        row.get("limit") == Some(&30.into()) && row.get("max_held") == Some(&30.into()),
        "{row}"
    );
    Ok(())
}

fn monitors(vm: &Vm) -> Result<()> {
    let quiet = vm.run("ctm counters --quiet --failures-since-last")?;
    ensure!(
        quiet.status == 3 && quiet.stdout.contains("oom_kills"),
        "{quiet:?}"
    );
    let quiet = vm.run("ctm counters --quiet --failures-since-last")?;
    ensure!(!quiet.stdout.contains("oom_kills"), "{quiet:?}");
    let text = vm.ok("ctm counters --prometheus")?;
    for line in [
        "ctm_failures_total{container=\"hog\",resource=\"oom_kills\"} 1",
        "ctm_limit{container=\"hog\",resource=\"processes\"} 30",
    ] {
        ensure!(text.lines().any(|it| it == line), "{line}: {text}");
    }
    // Looks until nobody reads any more.
    vm.ok("ctm counters hog --watch 1 | grep -m 1 oom_kills")
        .map(drop)
}

/// Two that want the same processor wait for each other.
fn waits(vm: &Vm, container: &Container) -> Result<()> {
    let busy =
        vm.start_job("ctm exec hog -- sh -c 'for i in 1 2 3 4; do while :; do :; done & done; wait'")?;
    vm.until("grep -q '^hog cpu-pressure ' /run/alerts")?;
    ensure!(container.ok("echo on")? == "on");
    busy.kill()?;
    vm.ok("ctm kill hog").map(drop)
}

fn dies_of_it(vm: &Vm) -> Result<()> {
    vm.ok(
        "ctm create dies --tar /srv/rootfs.tar --init /bin/sh -c 'sleep 1; exec dd if=/dev/zero of=/dev/null bs=64M count=1' &&
        ctm set dies memory_limit=24M swap_limit=0 && ctm start dies",
    )?;
    vm.until("grep -q '^dies oom-kill 1 ' /run/alerts")?;
    vm.until("ctm status dies | grep -q stopped")
}
