//! Inside, root puts everything it can in the way. Nothing outside its container changes, other containers get their
//! devices, the broker answers.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::vm::{Broker, Container, Job, Lab, Stick, Users, Vm};

const SOON: Duration = Duration::from_secs(60);

const CONFIGURATION: &str = r#"
[alias.stick]
match = { serial = "A1B2" }

[[grant]]
alias = "stick"
container = "ctm:*"
path = "serial/stick"
"#;

pub(super) fn run(lab: &Lab) -> Result<()> {
    for users in Users::BOTH {
        ours(&lab.restore()?, users)?;
    }
    foreign(&lab.restore()?)
}

/// Everything that must stay as it is outside: names, kinds, owners, modes, contents.
const OUTSIDE: &str = "cd / && find /srv/canary /etc/passwd /etc/shadow /dev/null /dev/kmsg /run/ctm/good /run/ctm/bad \
    -xdev ! -path '*/devfs/*' -printf '%p %y %U:%G %m %l\\n' | sort; cat /srv/canary/file /etc/passwd | sha256sum";

/// What a container of ctm's can do without any right to mount.
const TRAPS: [(&str, &str); 5] = [
    (
        "node and alias's folder are links into the host",
        "rm -rf ttyUSB0 serial; ln -s /srv/canary/file ttyUSB0; ln -s /srv/canary serial",
    ),
    (
        "the node is a relative link, the alias a FIFO",
        "rm -f ttyUSB0 serial/stick; ln -s ../stage/n0 ttyUSB0; mkfifo serial/stick",
    ),
    (
        "the node is a FIFO, the alias a link into the host",
        "rm -f ttyUSB0; mkfifo ttyUSB0; ln -sf /srv/canary/file serial/stick",
    ),
    (
        "the node is a folder that is not empty",
        "rm -f ttyUSB0; mkdir ttyUSB0; touch ttyUSB0/x",
    ),
    (
        "the node was moved, the alias's folder is a file",
        "mkdir -p a/b; mv ttyUSB0 a/b/c; mkfifo ttyUSB0; rm -rf serial; touch serial",
    ),
];

fn ours(vm: &Vm, users: Users) -> Result<()> {
    vm.ok("mkdir -p /srv/canary; echo precious >/srv/canary/file; chmod 600 /srv/canary/file")?;
    let stick = Stick::new(vm, "stick", Some("A1B2"))?;
    let broker = Broker::start(vm, CONFIGURATION)?;
    let bad = Container::create(vm, "bad", users)?;
    let good = Container::create(vm, "good", Users::Own)?;
    bad.start()?;
    good.start()?;
    let outside = vm.ok(OUTSIDE)?;
    for (what, trap) in TRAPS {
        round(vm, &stick, &bad, &good, trap).with_context(|| what.to_owned())?;
        ensure!(vm.ok(OUTSIDE)? == outside, "{what}: something outside changed");
        ensure!(broker.job().running(), "{what}: the broker ended");
    }
    full(vm, &stick, &bad, &good)?;
    ensure!(vm.ok(OUTSIDE)? == outside, "something outside changed");

    // It ends in the middle of a plug.
    let pid = bad.pid()?;
    let killer = vm.start_job(&format!("probe wait-path /dev/ttyUSB0; kill -9 {pid}"))?;
    let (_, _line) = stick.plug("1")?;
    killer.wait(SOON)?;
    good.ok("probe wait-path /dev/ttyUSB0")?;
    ensure!(good.open("/dev/serial/stick")?.starts_with("ok char 188:0"));
    bad.destroy()?;
    good.destroy()?;
    ensure!(broker.job().running(), "the broker ended");
    Ok(())
}

/// The trap is laid while the device is there; it goes and comes; the trap is cleared.
fn round(vm: &Vm, stick: &Stick, bad: &Container, good: &Container, trap: &str) -> Result<()> {
    let (_, line) = stick.plug("1")?;
    for container in [bad, good] {
        container.ok("probe wait-path /dev/ttyUSB0 && probe wait-path /dev/serial/stick")?;
    }
    bad.ok(&format!("cd /dev; {trap}"))?;
    drop(line);
    stick.unplug()?;
    vm.wait_gone("/dev/ttyUSB0")?;
    good.ok("probe wait-path --gone /dev/ttyUSB0")?;
    let (_, line) = stick.plug("1")?;
    good.ok("probe wait-path /dev/serial/stick")?;
    ensure!(good.open("/dev/serial/stick")?.starts_with("ok char 188:0"));
    // What is in the way is named; cleared, the device appears there.
    bad.ok(
        "cd /dev; rm -rf ttyUSB0 serial a; probe wait-path /dev/serial/stick; probe wait-path /dev/ttyUSB0",
    )?;
    let outcome = bad.open("/dev/serial/stick")?;
    ensure!(outcome.starts_with("ok char 188:0"), "{outcome}");
    drop(line);
    stick.unplug()?;
    for container in [bad, good] {
        container.ok("probe wait-path --gone /dev/ttyUSB0")?;
    }
    Ok(())
}

fn full(vm: &Vm, stick: &Stick, bad: &Container, good: &Container) -> Result<()> {
    bad.run("cd /dev; i=0; while : >f$i; do i=$((i+1)); done 2>/dev/null")?;
    let (_, line) = stick.plug("1")?;
    good.ok("probe wait-path /dev/serial/stick")?;
    ensure!(good.open("/dev/serial/stick")?.starts_with("ok char 188:0"));
    ensure!(bad.open("/dev/ttyUSB0")? == "ENOENT");
    vm.until("devbroker why ctm:bad | grep -qi full")?;
    bad.ok("rm -f /dev/f*; probe wait-path /dev/ttyUSB0")?;
    drop(line);
    stick.unplug()?;
    for container in [bad, good] {
        container.ok("probe wait-path --gone /dev/ttyUSB0")?;
    }
    Ok(())
}

/// A container that ctm did not make mounts a FUSE that never answers over its `/dev`.
fn foreign(vm: &Vm) -> Result<()> {
    let stick = Stick::new(vm, "stick", Some("A1B2"))?;
    let stranger = Stick::new(vm, "stranger", Some("C3D4"))?;
    let broker = Broker::start(vm, CONFIGURATION)?;
    let good = Container::create(vm, "good", Users::Own)?;
    good.start()?;
    let pid = start_foreign(vm)?;
    vm.ok(&format!("devbroker attach stick --pid {pid} --name bad"))?;
    let (_, line) = stick.plug("1")?;
    inside(vm, "probe wait-path /dev/ttyUSB0")?;
    let outcome = inside(vm, "probe open /dev/ttyUSB0")?;
    ensure!(outcome.starts_with("ok char 188:0"), "{outcome}");

    // Beside it a node of the same number where no FUSE will be, opened all the time.
    vm.ok("mknod -m 666 /srv/bad/rootfs/tmp/node c 188 0")?;
    let watch = vm.watch_open(
        "crun exec bad probe",
        "/tmp/node",
        "/srv/bad/rootfs/tmp/stop",
        "/tmp/stop",
    )?;
    // The prober alone keeps a processor busy.
    let peace = answer(vm)?;
    let fuse = vm.start_job(
        "exec crun exec bad /bin/sh -c 'exec 9<>/dev/fuse && \
            mount -t fuse -o fd=9,rootmode=40000,user_id=0,group_id=0 none /dev && \
            echo mounted && exec sleep 1000000'",
    )?;
    fuse.wait_for("mounted", SOON)?;
    let idler = idle_subscriber(vm)?;
    // The link is to go with the device; whoever sees to that hangs.
    drop(line);
    stick.unplug()?;
    good.ok("probe wait-path --gone /dev/ttyUSB0")?;
    vm.until("devbroker containers --json | grep -q '\"stuck\"'")?;
    answers(vm, peace)?;

    // Everyone else goes on, and what was revoked stays so for the next device of that number.
    let (taken, stranger_line) = stranger.plug("2")?;
    ensure!(taken.node("/dev/ttyUSB")? == "/dev/ttyUSB0", "{taken:?}");
    let (plugged, _line) = stick.plug("1")?;
    ensure!(plugged.node("/dev/ttyUSB")? == "/dev/ttyUSB1", "{plugged:?}");
    good.ok("probe wait-path /dev/ttyUSB1")?;
    ensure!(good.open("/dev/serial/stick")?.starts_with("ok char 188:1"));
    ensure!(good.open("/dev/ttyUSB0")? == "ENOENT");
    answers(vm, peace)?;
    ensure!(broker.job().running(), "the broker ended");
    let seen = watch.stop()?;
    let last = seen.last().context("nothing was seen")?;
    ensure!(last.outcome.starts_with("EPERM char 188:0"), "{seen:#?}");
    let after_refusal = seen
        .iter()
        .skip_while(|sighting| !sighting.outcome.starts_with("ok"))
        .skip_while(|sighting| !sighting.outcome.starts_with("EPERM"));
    for sighting in after_refusal {
        ensure!(
            sighting.outcome.starts_with("EPERM"),
            "opened after it was revoked: {seen:#?}"
        );
    }
    drop(stranger_line);

    // With the container the FUSE ends, and the broker lets go of it.
    vm.ok("crun delete --force bad")?;
    vm.until("! devbroker containers --json | grep -q '\"pid:bad\"'")?;
    ensure!(
        vm.ok("ls /run/devbroker/foreign")?.is_empty(),
        "something is left over"
    );
    idler.kill()?;
    good.destroy()
}

/// Runs something in the foreign container.
fn inside(vm: &Vm, script: &str) -> Result<String> {
    vm.ok(&format!("crun exec bad /bin/sh -c '{script}'"))
}

/// A container of crun's with its own `/dev`, the right to mount, and `/dev/fuse`. Returns its process.
fn start_foreign(vm: &Vm) -> Result<u32> {
    let rights = [
        "CAP_SYS_ADMIN",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_MKNOD",
    ];
    let spec = json!({
        "ociVersion": "1.0.0",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"],
            "env": ["PATH=/bin:/sbin"],
            "cwd": "/",
            "capabilities": { "bounding": rights, "effective": rights, "permitted": rights }
        },
        "root": { "path": "rootfs" },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] }
        ],
        "linux": {
            "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }],
            "devices": [{ "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666 }],
            "resources": { "devices": [
                { "allow": false, "access": "rwm" },
                { "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm" }
            ] }
        }
    });
    vm.ok("mkdir -p /srv/bad && cp -a /srv/rootfs /srv/bad/ && cp /shared/probe /srv/bad/rootfs/bin/; modprobe fuse")?;
    vm.put("/srv/bad/config.json", serde_json::to_vec(&spec)?)?;
    vm.ok("crun --cgroup-manager=systemd run --detach --bundle /srv/bad bad >/dev/null 2>&1 </dev/null")?;
    let state: serde_json::Value = serde_json::from_str(&vm.ok("crun state bad")?)?;
    state
        .get("pid")
        .and_then(serde_json::Value::as_u64)
        .and_then(|pid| u32::try_from(pid).ok())
        .context("crun does not say which process")
}

/// A subscriber that never reads.
fn idle_subscriber(vm: &Vm) -> Result<Job> {
    let job = vm.start_job("devbroker events --follow & echo following; kill -STOP $!; wait")?;
    job.wait_for("following", SOON)?;
    Ok(job)
}

/// How long the broker takes to answer, in microseconds: the best of ten. Most of it is starting the program that asks.
fn answer(vm: &Vm) -> Result<u64> {
    let best = vm.ok(
        "for i in 1 2 3 4 5 6 7 8 9 10; do s=${EPOCHREALTIME/./}; devbroker status >/dev/null; e=${EPOCHREALTIME/./}; \
         echo $((e - s)); done | sort -n | head -1",
    )?;
    Ok(best.parse()?)
}

/// The broker answers within 100 ms more than it does in `peace`.
fn answers(vm: &Vm, peace: u64) -> Result<()> {
    let now = answer(vm)?;
    ensure!(
        now < peace + 100_000,
        "the broker answers after {now} us, in peace after {peace} us"
    );
    Ok(())
}
