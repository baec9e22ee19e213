//! Whatever becomes of a container's device filter, the container stays closed: its pins are removed, its attached program is
//! taken off, bpffs is unmounted, ctm is killed between attaching and pinning. Without bpffs nothing starts.

use anyhow::{Result, ensure};

use super::granted;
use crate::vm::{Broker, Container, Controller, Gadget, Lab, Users, Vm};

/// A device that is granted to nobody, and that opens on the host.
const THEIRS: &str = "c 10 237";

pub(super) fn run(lab: &Lab) -> Result<()> {
    for users in Users::BOTH {
        let vm = lab.restore()?;
        let broker = Broker::start(&vm, &granted::configuration("box"))?;
        let container = Container::create(&vm, "box", users)?;
        loses(&vm, &broker, &container)?;
        if users == Users::Host {
            killed(&vm, &container)?;
            swept(&vm)?;
        }
        without_bpffs(&vm, &container)?;
    }
    Ok(())
}

/// The kernel's objects are taken away one after the other, below a running container.
fn loses(vm: &Vm, broker: &Broker, container: &Container) -> Result<()> {
    container.start()?;
    let registration = vm.get("/run/devbroker/containers/ctm:box.json")?;
    let registration: serde_json::Value = serde_json::from_str(&registration)?;
    let field = |name: &str| {
        registration
            .get(name)
            .and_then(|value| value.as_str())
            .unwrap_or_default()
    };
    let (pins, cgroup) = (field("filter"), format!("/sys/fs/cgroup{}", field("cgroup")));
    let scanner = Gadget::scanner(vm, "epson")?;
    let plugged = scanner.plug(Controller::First)?;
    broker.settle()?;
    vm.ok(&format!("mknod -m 666 {}/theirs {THEIRS}", container.dev()))?;
    closed(vm, container, "untouched")?;
    ensure!(container.open(plugged.usb())?.starts_with("ok"));

    let programs = format!("bpftool cgroup list {cgroup} | grep -c devbroker");
    ensure!(vm.ok(&programs)? == "2");
    vm.ok(&format!("rm {pins}/link"))?;
    vm.until(&format!("test $({programs}) = 1"))?;
    closed(vm, container, "without its link")?;
    vm.ok(&format!("rm {pins}/*"))?;
    closed(vm, container, "without pins")?;
    vm.ok("umount -l /sys/fs/bpf")?;
    closed(vm, container, "without bpffs")?;

    // The broker still takes away what it gave.
    let number = vm.ok(&format!("stat -c '%Hr %Lr' {}", plugged.usb()))?;
    scanner.unplug()?;
    vm.wait_gone(plugged.usb())?;
    broker.settle()?;
    vm.ok(&format!("mknod -m 666 {}/old c {number}", container.dev()))?;
    let opened = container.open("/dev/old")?;
    ensure!(opened.starts_with("EPERM"), "{opened}");
    // Without pins a new broker has nothing to grant by.
    broker.kill()?;
    let broker = Broker::again(vm, "")?;
    closed(vm, container, "and after the broker was killed")?;
    container.stop()?;
    broker.settle()?;
    vm.ok("mount -t bpf bpf /sys/fs/bpf").map(drop)
}

/// A device of nobody's does not open inside, and does on the host.
fn closed(vm: &Vm, container: &Container, when: &str) -> Result<()> {
    let inside = container.open("/dev/theirs")?;
    ensure!(inside.starts_with("EPERM char 10:237"), "{when}: {inside}");
    let outside = vm.ok(&format!("probe open {}/theirs", container.dev()))?;
    ensure!(outside.starts_with("ok"), "{when}: {outside}");
    ensure!(container.open("/dev/null")?.starts_with("ok"), "{when}");
    Ok(())
}

/// ctm is killed between two steps of making the filter. Even when somebody lets the container go on, it has nothing.
fn killed(vm: &Vm, container: &Container) -> Result<()> {
    let crun = "crun --root /run/ctm/.crun";
    for point in ["Attached", "Linked", "LinkPinned", "ProgramPinned"] {
        ensure!(
            !vm.run(&format!("CTM_FAIL_POINT=filter:{point} ctm start box"))?
                .success(),
            "{point}"
        );
        vm.ok(&format!(
            "mknod -m 666 {}/theirs {THEIRS}; {crun} start box",
            container.dev()
        ))?;
        for (path, expected) in [("/dev/theirs", "EPERM char 10:237"), ("/dev/null", "ok char 1:3")] {
            let opened = vm.run(&format!("{crun} exec box probe open {path}"))?.stdout;
            ensure!(opened.starts_with(expected), "{point}: {opened}");
        }
        container.start()?;
        ensure!(
            container.open("/dev/theirs")? == "ENOENT",
            "{point}: the next start is a fresh one"
        );
        container.stop()?;
    }
    Ok(())
}

/// A filter that a killed ctm left is there while its container's cgroup is, and no longer.
fn swept(vm: &Vm) -> Result<()> {
    ensure!(
        !vm.run("CTM_FAIL_POINT=filter:ProgramPinned ctm start box")?
            .success()
    );
    let restart = || {
        vm.ok("pkill -KILL -x devbroker")?;
        Broker::again(vm, "")
    };
    let filters = "ls /sys/fs/bpf/devbroker | wc -l";
    restart()?;
    ensure!(vm.ok(filters)? == "1");
    vm.ok("mkdir /sys/fs/bpf/devbroker/0000000000000000")?;
    vm.ok("crun --root /run/ctm/.crun delete --force box")?;
    vm.until("bpftool link show pinned /sys/fs/bpf/devbroker/*/link | grep -q 'cgroup_id 0 '")?;
    restart()?;
    ensure!(vm.ok(filters)? == "0", "{}", vm.ok("ls /sys/fs/bpf/devbroker")?);
    Ok(())
}

fn without_bpffs(vm: &Vm, container: &Container) -> Result<()> {
    vm.ok("umount -l /sys/fs/bpf")?;
    let refused = vm.run("ctm start box")?;
    ensure!(
        !refused.success() && refused.stderr.contains("is not on a bpf file system"),
        "{refused:?}"
    );
    vm.ok("mount -t bpf bpf /sys/fs/bpf")?;
    container.start()?;
    container.destroy()
}
