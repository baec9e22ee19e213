//! Every limit is set in a running container, and taken out, while a process in it keeps opening a granted device: without one
//! failure, also where systemd writes its units' properties anew.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::granted;
use crate::vm::{Container, Lab, Users, Vm};

/// Keys of a definition that limit nothing.
const OTHERS: [&str; 20] = [
    "description",
    "rootfs",
    "base",
    "userns",
    "init",
    "console",
    "reaper",
    "hostname",
    "domain",
    "stop_signal",
    "stop_timeout",
    "no_new_privs",
    "apparmor",
    "capabilities",
    "start",
    "boot_order",
    "after",
    "ip",
    "mount",
    "profile",
];

/// Each limit, and the file below the container's cgroup that then says so.
const LIMITS: [(&str, &str, &str, &str); 20] = [
    ("memory_guarantee", "8M", "memory.min", "8388608"),
    ("memory_soft_guarantee", "9M", "memory.low", "9437184"),
    ("memory_barrier", "200M", "memory.high", "209715200"),
    ("memory_limit", "300M", "memory.max", "314572800"),
    ("swap_limit", "1M", "memory.swap.max", "1048576"),
    ("processes", "77", "pids.max", "77"),
    ("cpu_weight", "50", "cpu.weight", "50"),
    ("cpu_limit", "150%", "cpu.max", "150000 100000"),
    ("cpus", "0", "cpuset.cpus", "0"),
    ("numa_nodes", "0", "cpuset.mems", "0"),
    ("io_weight", "50", "io.weight", "default 50"),
    (
        "io_limits",
        "[{device=\"/dev/vda\",read_ops=9999}]",
        "io.max",
        "254:0 rbps=max wbps=max riops=9999 wiops=max",
    ),
    ("hugepages", "{\"2M\"=\"4M\"}", "hugetlb.2MB.max", "4194304"),
    ("ptys", "9", "", ""),
    ("rlimits", "{nofile=\"300:400\"}", "", ""),
    ("shm", "3M", "", ""),
    ("tcp_receive_buffer", "65536", "", ""),
    ("tcp_send_buffer", "65536", "", ""),
    ("inotify_instances", "77", "", ""),
    ("oom_score_adj", "5", "", ""),
];

const CGROUP: &str = "/sys/fs/cgroup/ctm.slice/ctm@box.service/container";

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    let broker = granted::host(&vm, "box")?;
    let container = Container::create(&vm, "box", Users::Own)?;
    container.start()?;
    every_key_is_tried(&vm)?;
    let usual = files(&vm)?;

    let watch = container.watch_open(granted::INSIDE)?;
    let set: Vec<_> = LIMITS
        .iter()
        .map(|(key, value, ..)| format!("ctm set box '{key}={value}'"))
        .collect();
    vm.ok(&format!("set -e\n{}", set.join("\n")))?;
    vm.ok("systemctl daemon-reload; systemctl set-property --runtime ctm.slice CPUWeight=99; systemctl set-property --runtime ctm@box.service TasksMax=999")?;
    for ((key, _, file, wanted), found) in LIMITS
        .iter()
        .filter(|limit| !limit.2.is_empty())
        .zip(files(&vm)?.lines())
    {
        ensure!(found == *wanted, "{key}: {file} has `{found}` and not `{wanted}`");
    }
    let above = "cat {.,..,../..}/memory.{min,low} {.,..}/cpu.weight {.,..}/io.weight | xargs";
    let above = vm.ok(&format!("cd {CGROUP}; {above}"))?;
    ensure!(
        above == "8388608 9437184 8388608 9437184 8388608 9437184 50 50 default 50 default 50",
        "{above}"
    );
    let inside = "cat /proc/sys/net/ipv4/tcp_rmem /proc/sys/net/ipv4/tcp_wmem | cut -f 3; cat /proc/1/oom_score_adj; \
                  grep -h 'open files' /proc/1/limits | xargs; grep -h ' /dev/shm ' /proc/mounts | grep -o size=[0-9]*k; \
                  grep -h ' /dev/pts ' /proc/mounts | grep -o 'gid.*max=[0-9]*'; true";
    let said = container.ok(inside)?;
    ensure!(
        said == "65536\n65536\n5\nMax open files 300 400 files\nsize=3072k\ngid=1073741829,mode=620,ptmxmode=666,max=9",
        "{said}"
    );
    all_or_nothing(&vm)?;
    let out: Vec<_> = LIMITS.iter().map(|(key, ..)| format!("{key}=")).collect();
    vm.ok(&format!("ctm set box {}", out.join(" ")))?;
    let seen: Vec<_> = watch.stop()?.into_iter().map(|seen| seen.outcome).collect();
    ensure!(
        granted::was_always_there(&seen),
        "the device was not there for a moment: {seen:?}"
    );
    // What was taken out is as if it had never been said, but for processors and nodes: all of them are named then.
    let named = usual.replace("\n\n\n", "\n0-1\n0\n");
    let now = files(&vm)?;
    ensure!(now == usual || now == named, "before: {usual}\nafter: {now}");
    let said = container.ok(inside)?;
    ensure!(
        said.contains("\n0\nMax open files") && said.contains("size=65536k") && !said.contains("65536\n5\n"),
        "{said}"
    );
    container.destroy()?;
    broker.stop()
}

/// The kernel's files, one value a line.
fn files(vm: &Vm) -> Result<String> {
    let names: Vec<_> = LIMITS
        .iter()
        .map(|limit| limit.2)
        .filter(|file| !file.is_empty())
        .collect();
    vm.ok(&format!(
        "cd {CGROUP}; for file in {}; do echo \"$(cat $file)\"; done",
        names.join(" ")
    ))
}

/// A key that is added later has to be tried here as well.
fn every_key_is_tried(vm: &Vm) -> Result<()> {
    let text = vm.ok("ctm config box --json")?;
    let values: Value = serde_json::from_str(&text)?;
    let keys: BTreeSet<_> = values
        .as_array()
        .context("no list")?
        .iter()
        .filter_map(|value| value.get("key")?.as_str())
        // Those of disks are for the file system, which has no part in it; `pressure` is what is told, no limit.
        .filter(|key| !OTHERS.contains(key) && !key.starts_with("disk_") && *key != "pressure")
        .collect();
    let tried: BTreeSet<_> = LIMITS.iter().map(|limit| limit.0).collect();
    ensure!(keys == tried, "keys {keys:?}, tried {tried:?}");
    Ok(())
}

/// Of several changes none counts where one of them cannot be.
fn all_or_nothing(vm: &Vm) -> Result<()> {
    let before = (files(vm)?, vm.get("/etc/ctm/containers/box.toml")?);
    for (change, part) in [
        ("processes=5 cpus=99", "cpus: cannot write `99`"),
        (
            "memory_limit=400M 'rlimits={nofile=99999999999}'",
            "rlimits: cannot change it in the running container",
        ),
        (
            "processes=5 'hugepages={\"1G\"=\"1G\"}'",
            "hugepages 1GB: this host has no",
        ),
        (
            "oom_score_adj=9 tcp_send_buffer=3G",
            "tcp_send_buffer: cannot change it",
        ),
    ] {
        let said = vm.fails(&format!("ctm set box {change}"))?;
        ensure!(
            said.stderr.contains(part) && said.stderr.contains("was not changed"),
            "{change}: {said:?}"
        );
    }
    ensure!(
        before == (files(vm)?, vm.get("/etc/ctm/containers/box.toml")?),
        "{before:?}"
    );
    Ok(())
}
