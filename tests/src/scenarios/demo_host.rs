//! `make demo HOST=1` on a machine that qualifies: it shows the whole story and leaves nothing behind, also when it is
//! interrupted in the middle; where it cannot be shown it says why.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::vm::{Lab, Vm};

const SOON: Duration = Duration::from_secs(120);

/// All that the demo could leave behind.
const TRACES: &str = "cd /; ls -d sys/block/* sys/fs/cgroup/* sys/fs/bpf/* dev/* dev/disk/* tmp/* run/* run/udev/data/* \
    etc/devbroker* etc/ctm* var/lib/ctm* var/lib/devbroker* 2>/dev/null; cat /proc/mounts; \
    cut -d' ' -f1 /proc/modules | sort; pgrep -l 'devbroker$|ctm|crun|losetup|scenario'";

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    let before = traces(&vm)?;
    let told = vm.ok("scenario demo --host /shared")?;
    for line in [
        "   Inside, there is no /dev/disk.",
        "   open(\"/dev/disk\") inside: ok block 7:900 640 1000:7",
        "   The host puts a node with the old number into the container. open() inside: EPERM block 7:900 666 65534:65534",
        "   open(\"/dev/disk\") inside: ok block 7:901 640 1000:7",
        "   Hello from inside the container.",
    ] {
        ensure!(told.contains(&format!("\n{line}\n")), "no {line:?} in:\n{told}");
    }
    ensure!(told.ends_with("\ndemo: ok"), "{told}");
    same(&vm, &before, "after the demo")?;

    for signal in ["INT", "TERM", "HUP"] {
        let demo = vm.start_job("exec scenario demo --host /shared")?;
        let moment = if signal == "INT" {
            "3. Root inside"
        } else {
            "2. `ctm`"
        };
        demo.wait_for(moment, SOON)?;
        vm.ok(&format!("pkill -{signal} -f -o 'scenario demo --host'"))?;
        let output = demo.wait(SOON)?;
        ensure!(
            output.status == 1
                && output
                    .stdout
                    .ends_with("\ndemo: interrupted; what it had made is gone again\n"),
            "{signal}: {output:?}"
        );
        same(&vm, &before, signal)?;
    }

    // It fails in the middle: the broker is gone.
    let demo = vm.start_job("exec scenario demo --host /shared")?;
    demo.wait_for("3. Root inside", SOON)?;
    vm.ok("pkill -KILL -x devbroker")?;
    let output = demo.wait(SOON)?;
    ensure!(
        output.status == 1 && output.stderr.contains("what it had made is gone again"),
        "{output:?}"
    );
    same(&vm, &before, "after a failure")?;

    refused(&vm, "setpriv --reuid 1000 --clear-groups", "it needs root")?;
    refused(&vm, "unshare -Ur", "this is a user namespace")?;
    refused(&vm, "setpriv --bounding-set -mknod", "root lacks CAP_MKNOD here")?;
    refused(
        &vm,
        "unshare -m sh -c 'umount -l /sys/fs/cgroup; exec \"$@\"' -",
        "no cgroup v2 hierarchy",
    )?;
    same(&vm, &before, "after refusals")
}

fn traces(vm: &Vm) -> Result<String> {
    vm.settle()?;
    Ok(vm.run(TRACES)?.stdout)
}

fn same(vm: &Vm, before: &str, when: &str) -> Result<()> {
    let now = traces(vm)?;
    let more: Vec<_> = now
        .lines()
        .filter(|line| !before.lines().any(|old| old == *line))
        .collect();
    let less: Vec<_> = before
        .lines()
        .filter(|line| !now.lines().any(|new| new == *line))
        .collect();
    ensure!(
        more.is_empty() && less.is_empty(),
        "{when}: left {more:?}, missing {less:?}"
    );
    Ok(())
}

fn refused(vm: &Vm, wrapper: &str, why: &str) -> Result<()> {
    let output = vm.fails(&format!("{wrapper} scenario demo --host /shared"))?;
    let expected = format!("demo: this host does not qualify, and nothing of it was touched:\n  - {why}");
    ensure!(
        output.status == 1 && output.stdout.starts_with(&expected),
        "{wrapper}: {output:?}"
    );
    Ok(())
}
