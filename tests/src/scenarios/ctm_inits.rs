//! Every kind of first process, plain and with own users: it comes up, orphans are reaped, it is asked to stop in its own
//! way, and `reboot` and `poweroff` inside do what they say.

use anyhow::{Result, ensure};

use crate::vm::{Container, Lab, Users, Vm};

/// A kind of first process.
#[derive(Clone, Copy, Debug)]
struct Kind {
    name: &'static str,
    make: fn(&Vm, &str, Users) -> Result<Container>,
    /// What is asked for by its definition to shut it down.
    signal: &'static str,
    reboot: &'static str,
    poweroff: &'static str,
}

const KINDS: [Kind; 4] = [
    Kind {
        name: "bare",
        make: bare,
        signal: "SIGTERM",
        reboot: "reboot -f",
        poweroff: "poweroff -f",
    },
    Kind {
        name: "busybox",
        make: busybox,
        signal: "SIGUSR2",
        reboot: "reboot",
        poweroff: "poweroff",
    },
    Kind {
        name: "sysvinit",
        make: sysvinit,
        signal: "SIGINT",
        reboot: "reboot",
        poweroff: "poweroff",
    },
    Kind {
        name: "systemd",
        make: systemd,
        signal: "SIGRTMIN+3",
        reboot: "systemctl reboot",
        poweroff: "systemctl poweroff",
    },
];

/// Notes that it is up, and that it was told to stop.
const PROGRAM: &str =
    "echo up >>/ups; trap 'echo told >>/told; exit 0' TERM; while :; do sleep 1000 & wait; done";

fn bare(vm: &Vm, name: &str, users: Users) -> Result<Container> {
    Container::running(vm, name, users, PROGRAM)
}

fn busybox(vm: &Vm, name: &str, users: Users) -> Result<Container> {
    let container = Container::with_init(vm, name, users, "/bin/init")?;
    let inittab = "::sysinit:/bin/sh -c 'echo up >>/ups'\n::respawn:/bin/sleep 1000\n\
                   ::shutdown:/bin/sh -c 'echo told >>/told'\n";
    vm.put(&format!("{}/etc/inittab", container.root()), inittab)?;
    Ok(container)
}

fn sysvinit(vm: &Vm, name: &str, users: Users) -> Result<Container> {
    let container = Container::sysvinit(vm, name, users)?;
    // Of the entries of a run level init takes one after the other: the first before those that take the system down.
    vm.ok(&format!(
        "cd {}/etc; sed -i '1i wt:06:wait:/bin/sh -c \"echo told >>/told\"' inittab
        echo 'wu:2:wait:/bin/sh -c \"echo up >>/ups\"' >>inittab",
        container.root()
    ))?;
    Ok(container)
}

const WITNESS: &str = "[Unit]
After=basic.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'echo up >>/ups'
ExecStop=/bin/sh -c 'echo told >>/told'
[Install]
WantedBy=multi-user.target
";

fn systemd(vm: &Vm, name: &str, users: Users) -> Result<Container> {
    let container = Container::debian(vm, name, users)?;
    let root = container.root();
    vm.put(&format!("{root}/etc/systemd/system/witness.service"), WITNESS)?;
    vm.ok(&format!("systemctl -q --root={root} enable witness"))?;
    Ok(container)
}

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    without_systemd(&vm)?;
    vm.install()?;
    let mut all = Vec::new();
    for kind in KINDS {
        for users in Users::BOTH {
            let name = format!("{}-{users:?}", kind.name).to_lowercase();
            let container = (kind.make)(&vm, &name, users)?;
            let config = vm.ok(&format!("ctm config {name} | grep ^stop_signal"))?;
            ensure!(config.contains(kind.signal), "{name}: {config}");
            all.push((kind, container));
        }
    }
    // They boot at the same time, and go down so.
    let names: Vec<_> = all.iter().map(|(_, container)| container.name()).collect();
    let names = names.join(" ");
    vm.ok(&format!("echo {names} | xargs -n 1 -P 4 ctm start"))?;
    for (kind, container) in &all {
        is_up(&vm, container, 1)?;
        if kind.name == "bare" {
            let first = container.ok("cat /proc/1/comm; cat /proc/2/comm")?;
            ensure!(first == ".ctm-init\nsh", "{first}");
        }
        orphans_are_reaped(&vm, container)?;
    }
    vm.ok(&format!("echo {names} | xargs -n 1 -P 4 ctm stop"))?;
    for (_, container) in &all {
        is_down(&vm, container)?;
        let told = vm.get(&format!("{}/told", container.root()))?;
        ensure!(told == "told\n", "{}: {told}", container.name());
    }

    vm.ok(&format!("echo {names} | xargs -n 1 -P 4 ctm start"))?;
    for (kind, container) in &all {
        is_up(&vm, container, 2)?;
        container.run(kind.reboot)?;
    }
    for (kind, container) in &all {
        is_up(&vm, container, 3)?;
        let restarts = vm.ok(&format!("systemctl show -P NRestarts ctm@{}", container.name()))?;
        ensure!(restarts == "1", "{}: {restarts}", container.name());
        container.run(kind.poweroff)?;
    }
    for (_, container) in &all {
        is_down(&vm, container)?;
    }
    Ok(())
}

/// It says so itself, and the host agrees.
fn is_up(vm: &Vm, container: &Container, times: usize) -> Result<()> {
    let (name, root) = (container.name(), container.root());
    vm.until(&format!(
        "test $(wc -l <{root}/ups) = {times} && systemctl is-active -q ctm@{name} && ctm status {name}"
    ))
}

/// What loses its parent ends up at the first process, and is gone when it has ended.
fn orphans_are_reaped(vm: &Vm, container: &Container) -> Result<()> {
    let orphan = container.ok("(sleep 0.3 & echo $!)")?;
    let name = container.name();
    let parent = container.ok(&format!("grep PPid /proc/{orphan}/status || true"))?;
    ensure!(parent.is_empty() || parent.ends_with("\t1"), "{name}: {parent}");
    vm.until(&format!("! ctm exec {name} -- test -e /proc/{orphan}"))
}

/// It went down by itself, which is no failure, and stays down.
fn is_down(vm: &Vm, container: &Container) -> Result<()> {
    let name = container.name();
    vm.until(&format!("! systemctl is-active -q ctm@{name}"))?;
    let state = vm.ok(&format!("systemctl show -P Result -P ActiveState ctm@{name}"))?;
    ensure!(state == "success\ninactive", "{name}: {state}");
    ensure!(vm.run(&format!("ctm status {name}"))?.status == 31, "{name} runs");
    let told = vm.ok(&format!("journalctl -u ctm@{name} -o cat --no-pager"))?;
    for word in ["killed", "WARN", "ERROR"] {
        ensure!(!told.contains(word), "{name}: {told}");
    }
    Ok(())
}

/// Where systemd does not run containers, the supervisor itself starts one again.
fn without_systemd(vm: &Vm) -> Result<()> {
    let container = bare(vm, "alone", Users::Own)?;
    container.start()?;
    let ups = format!("{}/ups", container.root());
    let supervisor = vm.ok("pgrep -xf 'ctm run --detached alone'")?;
    for times in 2..4 {
        let pid = container.pid()?;
        container.run("reboot -f")?;
        vm.until(&format!(
            "test $(wc -l <{ups}) = {times} && ctm status alone && ! test -e /proc/{pid}"
        ))?;
    }
    ensure!(vm.ok("pgrep -xf 'ctm run --detached alone'")? == supervisor);
    container.run("poweroff -f")?;
    vm.until("! pgrep -xf 'ctm run --detached alone'")?;
    let status = vm.run("ctm status alone")?;
    ensure!(
        status.status == 31 && status.stdout.contains("powered the container off"),
        "{status:?}"
    );
    container.destroy()
}
