//! The life of a container: made, started, entered, closed by default, stopped, destroyed, and nothing left; by ctm alone
//! and by systemd.

use anyhow::{Result, ensure};

use crate::vm::{Container, Lab, Users, Vm};

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    for users in Users::BOTH {
        life(&vm, users, "/ctm/box")?;
    }
    vm.install()?;
    life(&vm, Users::Own, "/ctm.slice/ctm@box.service")?;
    killed(&vm)?;
    ends_by_itself(&vm)
}

fn life(vm: &Vm, users: Users, cgroup: &str) -> Result<()> {
    let container = Container::create(vm, "box", users)?;
    let mode = vm.ok("stat -c %a:%u /var/lib/ctm/box /etc/ctm/containers/box.toml")?;
    let folder = if users == Users::Own { "710" } else { "700" };
    ensure!(mode == format!("{folder}:0\n644:0"), "{mode}");
    ensure!(vm.run("ctm status box")?.status == 31);
    ensure!(vm.run("ctm create box --tar /srv/rootfs.tar")?.status == 44);

    container.start()?;
    ensure!(vm.run("ctm start box")?.status == 32, "started twice");
    let pid = container.pid()?;
    let seen = vm.ok(&format!("sed s/^0::// /proc/{pid}/cgroup"))?;
    ensure!(seen == format!("{cgroup}/container"), "{seen}");

    // Inside: who it is, where it is, what it has.
    ensure!(container.ok("id -u; hostname; cat /proc/1/cgroup; echo $container")? == "0\nbox\n0::/\nctm");
    ensure!(container.run("exit 7")?.status == 7);
    ensure!(container.run("kill -9 $$")?.status == 137);
    let nodes = container.ok("cd /dev && ls")?;
    ensure!(
        nodes.split_whitespace().collect::<Vec<_>>().join(" ")
            == "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero",
        "{nodes}"
    );
    let opened = container.ok("for node in null zero full random urandom; do probe open /dev/$node; done")?;
    ensure!(
        opened
            == [3, 5, 7, 8, 9]
                .map(|minor| format!("ok char 1:{minor} 666 0:0"))
                .join("\n"),
        "{opened}"
    );
    let folders =
        "ls /run/udev; touch /run/udev/x 2>/dev/null || echo closed; echo x >/dev/shm/x && cat /dev/shm/x";
    let folders = container.ok(folders)?;
    ensure!(folders == "closed\nx", "{folders}");

    // A device that was not granted: put there by the host, or made inside, it does not open.
    vm.ok(&format!("mknod -m 666 {}/kmsg c 1 11", container.dev()))?;
    let refused = container.open("/dev/kmsg")?;
    ensure!(refused.starts_with("EPERM char 1:11"), "{refused}");
    let made = container.ok("probe mknod /tmp/kmsg c 1 11 || true; probe open /tmp/kmsg || true")?;
    let expected = match users {
        Users::Host => "ok\nEPERM char 1:11 644 0:0",
        Users::Own => "EPERM\nENOENT",
    };
    ensure!(made == expected, "{made}");

    container.stop()?;
    ensure!(vm.run("ctm exec box -- true")?.status == 31);
    nothing_runs(vm)?;
    // As fresh as the first time.
    container.start()?;
    ensure!(container.open("/dev/kmsg")? == "ENOENT");
    ensure!(
        vm.run("ctm destroy box --yes")?.status != 0,
        "destroyed while it runs"
    );
    container.stop()?;
    container.destroy()?;
    ensure!(vm.run("ctm status box")?.status == 14);
    ensure!(
        vm.ok("ls -A /var/lib/ctm /etc/ctm/containers | grep -v -e : -e '^[.]booted$'")?
            .is_empty()
    );
    nothing_runs(vm)
}

/// Nothing of a run is left.
fn nothing_runs(vm: &Vm) -> Result<()> {
    let left = vm.ok(
        "ls /run/ctm; ls /run/ctm/.crun/box 2>/dev/null; ls /run/devbroker/containers; ls /sys/fs/bpf/devbroker
         ls -d /sys/fs/cgroup/ctm/*/ /sys/fs/cgroup/ctm.slice/ctm@box.service 2>/dev/null
         grep /run/ctm /proc/mounts; pgrep -x ctm; true",
    )?;
    ensure!(left.is_empty(), "left over: {left}");
    // The kernel gives up a cgroup's programs some time after the cgroup.
    vm.until("! bpftool prog | grep -w devbroker")
}

/// A supervisor that is killed takes the container along; systemd starts it again, and of the first run nothing is left.
fn killed(vm: &Vm) -> Result<()> {
    let container = Container::create(vm, "box", Users::Own)?;
    container.start()?;
    let pid = container.pid()?;
    vm.ok("systemctl kill --kill-whom=main -s KILL ctm@box.service")?;
    vm.until("[ \"$(systemctl show -P NRestarts -P ActiveState ctm@box | sort | xargs)\" = '1 active' ]")?;
    vm.ok(&format!("! test -e /proc/{pid}/root/proc"))?;
    ensure!(container.ok("echo again")? == "again");
    container.stop()?;
    nothing_runs(vm)?;
    container.destroy()?;
    nothing_runs(vm)
}

/// A container whose first process ends takes everything down; badly and again at its second try, and its unit has failed.
fn ends_by_itself(vm: &Vm) -> Result<()> {
    vm.put(
        "/run/systemd/system/ctm@box.service.d/twice.conf",
        "[Unit]\nStartLimitBurst=2\nStartLimitIntervalSec=1h\n",
    )?;
    vm.ok("systemctl daemon-reload; systemctl reset-failed ctm@box || true")?;
    let container = Container::running(
        vm,
        "box",
        Users::Host,
        "echo words; while ! [ -e /tmp/end ]; do sleep 0.1; done; exit 3",
    )?;
    container.start()?;
    container.ok("touch /tmp/end")?;
    vm.until("systemctl is-failed ctm@box.service")?;
    let log = vm.ok("journalctl -u ctm@box.service --no-pager -o cat")?;
    ensure!(
        log.contains("words") && log.contains("first process exited with code 3"),
        "{log}"
    );
    let status = vm.run("ctm status box")?;
    ensure!(
        status.status == 31 && status.stdout.contains("exited with code 3"),
        "{status:?}"
    );
    nothing_runs(vm)?;
    container.destroy()?;
    ensure!(vm.run("systemctl is-failed ctm@box.service")?.status != 0);
    Ok(())
}
