//! A hostile root in a default container: every way to the host that is known to have worked somewhere is refused, and
//! what it puts into its root file system misleads no verb.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::vm::{Container, Lab, Users, Vm};

const SOON: Duration = Duration::from_secs(60);

/// Ways that are open where a container's root is the host's, and lead no further than said in ctm(8): none.
const OPEN: [&str; 0] = [];

/// What must be as it was: settings of the kernel, mounts, modules, keys, files.
const HOST: &str = "cd /proc/sys; tail -n +1 kernel/core_pattern kernel/modprobe kernel/sysrq kernel/ctrl-alt-del kernel/hostname
    sort /proc/modules | cut -d' ' -f1; grep -v -e /run/ctm -e /srv/rootfs /proc/mounts | sort
    ls /proc/sys/fs/binfmt_misc /sys/fs/bpf /sys/fs/cgroup; cat /sys/fs/cgroup/cgroup.subtree_control
    find /srv/canary /etc/passwd /etc/shadow /dev/null /dev/kmsg /run/udev -maxdepth 1 -printf '%p %y %U:%G %m %l\\n' | sort
    sha256sum /srv/canary/file /etc/passwd /usr/bin/crun /shared/ctm";

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    vm.ok("mkdir -p /srv/canary; echo precious >/srv/canary/file; chmod 600 /srv/canary/file")?;
    let listener = vm.start_job("exec attack listen devbroker-canary")?;
    listener.wait_for("listening", SOON)?;
    for users in Users::BOTH {
        let container = Container::create(&vm, "bad", users)?;
        vm.ok(&format!("cp /shared/attack {}/bin/", container.root()))?;
        container.start()?;
        let before = vm.ok(HOST)?;
        from_inside(&container).with_context(|| format!("{users:?}"))?;
        let after = vm.ok(HOST)?;
        ensure!(after == before, "{users:?}: before\n{before}\nafter\n{after}");
        entered(&vm, &container).with_context(|| format!("{users:?}"))?;
        container.stop()?;
        started(&vm, &container).with_context(|| format!("{users:?}"))?;
        let after = vm.ok(HOST)?;
        ensure!(after == before, "{users:?}: before\n{before}\nafter\n{after}");
    }
    Ok(())
}

/// All ways of the attacker's; the names of those that are open.
fn from_inside(container: &Container) -> Result<()> {
    let said = container.ok("attack all")?;
    ensure!(said.ends_with("\nend"), "the attacker was not done: {said}");
    let mut tried = 0;
    let mut open = Vec::new();
    for line in said.lines().filter(|line| *line != "end") {
        let (way, outcome) = line.split_once('\t').context("a line without a way")?;
        tried += 1;
        if !outcome.starts_with("refused: ") && !OPEN.contains(&way) {
            open.push(format!("{way}: {outcome}"));
        }
    }
    ensure!(
        open.is_empty(),
        "{} of {tried} ways are open:\n{}",
        open.len(),
        open.join("\n")
    );
    ensure!(tried > 60, "only {tried} ways were tried");
    Ok(())
}

/// Commands from outside, while the container waits for them.
fn entered(vm: &Vm, container: &Container) -> Result<()> {
    // A program of the host's that shows itself inside for a moment.
    let thief = vm.start_job("exec ctm exec bad -- attack overwrite /tmp/stop")?;
    thief.wait_for("watching", SOON)?;
    for _ in 0..5 {
        container.ok("true")?;
    }
    // The container's own program is the one that enters it.
    container.ok("printf '#!/proc/self/exe\\n' >/bin/again; chmod 755 /bin/again")?;
    vm.run("ctm exec bad -- /bin/again")?;
    container.ok("touch /tmp/stop")?;
    thief.wait(SOON)?;
    let seen = thief.stdout();
    ensure!(!seen.contains("SUCCEEDED"), "{seen}");

    // A folder of the host's that the runtime may have left open.
    for descriptor in 3..9 {
        let walked = vm.run(&format!(
            "ctm exec --cwd /proc/self/fd/{descriptor} bad -- cat srv/canary/file ../../../srv/canary/file"
        ))?;
        ensure!(
            walked.status != 0 && !walked.stdout.contains("precious"),
            "{descriptor}: {walked:?}"
        );
    }

    let etc = format!("{}/etc", container.root());
    vm.ok(&format!("cp -a {etc}/passwd /srv/passwd"))?;
    // Who a user is, is read from files that are the container's.
    for (what, trap) in [
        ("a link to the host's", "ln -sf /srv/canary/file passwd"),
        (
            "a link up to the host's",
            "ln -sf ../../../../../../../srv/canary/file passwd",
        ),
        (
            "a link to a descriptor",
            "ln -sf /proc/1/root/srv/canary/file passwd",
        ),
        ("a FIFO", "rm passwd; mkfifo passwd"),
        ("a node", "rm passwd; mknod passwd c 1 5"),
        ("a folder", "rm passwd; mkdir passwd"),
        ("endless", "rmdir passwd; dd if=/dev/zero of=passwd bs=1M count=3"),
    ] {
        vm.ok(&format!("cd {etc} && {trap}"))?;
        let output = vm.run_within(SOON, "exec ctm exec -u lp bad -- id")?;
        ensure!(
            output.status != 0 && !output.stderr.contains("precious"),
            "/etc/passwd is {what}: {output:?}"
        );
        vm.ok("ctm status bad; ctm list")?;
    }
    vm.ok(&format!("cd {etc}; rm -rf passwd; cp -a /srv/passwd passwd"))?;
    ensure!(vm.ok("ctm exec -u lp bad -- id -u")? == "7");
    Ok(())
}

/// Links at all places where something is mounted or made when it starts.
fn started(vm: &Vm, container: &Container) -> Result<()> {
    let outside =
        "cd / && find /srv/canary -printf '%p %y %U:%G %m\\n'; cat /srv/canary/file; grep -c . /proc/mounts";
    let before = vm.ok(outside)?;
    let root = container.root();
    vm.ok("ctm set bad 'mount=[{ tmpfs = \"1M\", target = \"/mnt/a/b\" }, { bind = \"/usr/share\", target = \"/mnt/c\" }]'")?;
    for (what, trap) in [
        (
            "targets lead to the host",
            "rm -rf mnt; mkdir mnt; ln -s /srv/canary mnt/a; ln -s /srv/canary mnt/c",
        ),
        (
            "targets lead up",
            "rm -rf mnt; ln -s ../../../../../../srv/canary mnt",
        ),
        (
            "targets are a loop",
            "rm -rf mnt; mkdir mnt; ln -s a mnt/a; ln -s c mnt/c",
        ),
        (
            "targets are FIFOs",
            "rm -rf mnt; mkdir mnt mnt/a; mkfifo mnt/a/b mnt/c",
        ),
        ("/dev is a link", "rm -rf dev mnt; ln -s /srv/canary dev"),
        (
            "/run is a link",
            "rm -rf dev run; ln -s ../../../../../srv/canary run",
        ),
        ("/proc is a link", "rm -rf run proc; ln -s /srv/canary proc"),
        ("/sys is a link", "rm -rf proc sys; ln -s /srv/canary sys"),
        (
            "the init is the host's",
            "rm -rf sys; rm -f bin/sh; ln -s /srv/canary/file bin/sh",
        ),
    ] {
        vm.ok(&format!("cd {root} && {trap}"))?;
        // Whether it starts is its own affair.
        vm.run_within(SOON, "ctm start bad")?;
        vm.run_within(SOON, "ctm stop --timeout 1 bad")?;
        let after = vm.ok(outside)?;
        ensure!(after == before, "{what}: {before}\nthen\n{after}");
    }
    vm.ok(&format!(
        "cd {root} && ln -s /srv/canary into; ln -s / host; mkdir -p deep && ln -s ../../../../../srv deep/up"
    ))?;
    vm.ok("ctm destroy bad --yes; ! test -e /var/lib/ctm/bad")?;
    let after = vm.ok(outside)?;
    ensure!(after == before, "destroy: {before}\nthen\n{after}");
    Ok(())
}
