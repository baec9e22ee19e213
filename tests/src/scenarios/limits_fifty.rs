//! Fifty containers of 48 MiB in a machine of 3 GiB, each with an init and one service, as the author of the 2008 article ran them:
//! `ctm split` divides the machine, all answer, and what they take is written into the log.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::vm::{Lab, Vm};

/// How many.
const COUNT: u64 = 50;
/// What one of his took on the disk.
const HIS_DISK: u64 = 270 << 20;
const LONG: Duration = Duration::from_secs(400);

pub(super) fn run(lab: &Lab) -> Result<()> {
    let (vm, memory) = machine(lab)?;
    let guarantee = divided(&vm, memory)?;
    let start = "set -e
         one() {
             ctm create c$1 --userns --profile small --tar /srv/rootfs.tar --init /bin/busybox httpd -f -p 80 -h /etc
             ctm start c$1
         }
         export -f one";
    vm.ok(&format!("{start}; one 1"))?;
    let (first, disk_before) = (free(&vm)?, disk(&vm)?);
    // Two at a time, as there are two processors.
    vm.run_within(
        LONG,
        &format!("{start}; seq 2 {COUNT} | xargs -P 2 -n 1 bash -c 'one $0' >/dev/null"),
    )?
    .success()
    .then_some(())
    .context("not all of them started")?;
    let (last, disk_after) = (free(&vm)?, disk(&vm)?);
    let up = number(&vm, "ctm list --json | grep -c '\"running\"'")?;
    ensure!(up == COUNT, "{up} of {COUNT} run");
    // Each one's service answers, in its own namespaces, beside its init; for whoever connects it has another process for a moment.
    let answers = vm.ok(
        "for cgroup in /sys/fs/cgroup/ctm/c*/container; do
             pid=$(head -n 1 $cgroup/cgroup.procs) number=$(wc -l <$cgroup/cgroup.procs)
             ip=$(nsenter -t $pid -n -- bash -c 'ip link set lo up; exec 3<>/dev/tcp/127.0.0.1/80' 2>&1 && echo up)
             echo $number $ip
         done | sort | uniq -c | xargs",
    );
    ensure!(
        answers.as_deref().is_ok_and(|said| said == "50 2 up"),
        "{answers:?}"
    );
    let held = number(
        &vm,
        "cat /sys/fs/cgroup/ctm/c*/container/memory.current | awk '{ sum += $1 } END { printf \"%.0f\", sum }'",
    )?;
    let supervisors = number(
        &vm,
        "cat /sys/fs/cgroup/ctm/c*/supervisor/memory.current | awk '{ sum += $1 } END { printf \"%.0f\", sum }'",
    )?;
    let guaranteed = number(&vm, "cat /sys/fs/cgroup/ctm/memory.min")?;
    ensure!(
        guaranteed == COUNT * guarantee && guaranteed < memory,
        "{guaranteed} bytes are guaranteed of {memory}"
    );
    let kills = vm.ok("grep -h '^oom_kill [1-9]' /sys/fs/cgroup/ctm/c*/container/memory.events; true")?;
    ensure!(kills.is_empty(), "{kills}");
    // Nothing more is promised than there is.
    let said = vm.ok("ctm validate")?;
    ensure!(!said.contains("`memory_guarantee`"), "{said}");
    let own = (disk_after - disk_before) / (COUNT - 1);
    let base = number(&vm, "du -s --block-size=1 /var/lib/ctm/.bases | cut -f 1")?;
    let each = own + base / COUNT;
    vm.log().add(
        "figures",
        &format!(
            "{COUNT} containers in {} MiB: each holds {} KiB, its supervisor {} KiB, the machine has {} KiB less for each; on the disk each \
             takes {} KiB, with its part of the shared base of {} KiB {} KiB (his: {} KiB); {} MiB are guaranteed, {} MiB available",
            memory >> 20,
            held / COUNT / 1024,
            supervisors / COUNT / 1024,
            first.saturating_sub(last) / (COUNT - 1) / 1024,
            own / 1024,
            base / 1024,
            each / 1024,
            HIS_DISK / 1024,
            guaranteed >> 20,
            last >> 20
        ),
    );
    ensure!(each <= HIS_DISK / 10, "each takes {each} bytes on the disk");
    Ok(())
}

/// Has `ctm split` divide the machine, and write the profile `small` that the containers have. Answers with what it guarantees to each.
fn divided(vm: &Vm, memory: u64) -> Result<u64> {
    let text = vm.ok(&format!(
        "ctm split -n {COUNT} --reserve 224M --profile small --json"
    ))?;
    let split: Value = serde_json::from_str(&text)?;
    let bytes = |pointer: &str| {
        split
            .pointer(pointer)
            .and_then(Value::as_u64)
            .with_context(|| format!("no {pointer} in {text}"))
    };
    let (guarantee, reserve) = (bytes("/container/memory/guarantee")?, bytes("/host/reserve")?);
    ensure!(
        guarantee >= 48 << 20 && COUNT * guarantee + reserve <= memory,
        "of {memory} bytes {guarantee} for each, {reserve} for the host"
    );
    let profile = vm.get("/etc/ctm/profiles/small.toml")?;
    ensure!(
        profile.contains("swap_limit = \"0\""),
        "there is no swap: {profile}"
    );
    vm.log()
        .add("figures", &format!("of {} MiB: {profile}", memory >> 20));
    Ok(guarantee)
}

/// A machine of 3 GiB, and its memory in bytes.
fn machine(lab: &Lab) -> Result<(Vm, u64)> {
    let vm = lab.boot_with(&["-m", "3G"])?;
    vm.ok("mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf")?;
    let memory = number(
        &vm,
        "awk '/^MemTotal/ { printf \"%.0f\", $2 * 1024 }' /proc/meminfo",
    )?;
    ensure!(memory <= 3 << 30, "the machine has {memory} bytes");
    Ok((vm, memory))
}

/// The service of each of the Debians.
const SERVICE: &str = "[Service]\nExecStart=/usr/local/bin/busybox httpd -f -p 80 -h /etc\n[Install]\nWantedBy=multi-user.target\n";

/// The same with a whole Debian in each, whose systemd comes up within its 48 MiB and runs a service.
pub(super) fn systemd(lab: &Lab) -> Result<()> {
    const HOURS: Duration = Duration::from_secs(3 * 3600);
    let (vm, _) = machine(lab)?;
    // Less than their shares are, so that 48 MiB are shown to be enough.
    vm.put(
        "/etc/ctm/profiles/small.toml",
        "memory_guarantee = \"48M\"\nmemory_limit = \"48M\"\nswap_limit = 0\nprocesses = 64\n",
    )?;
    vm.install()?;
    vm.ok("sysctl -qp /usr/lib/sysctl.d/30-ctm.conf")?;
    vm.put("/srv/added/etc/systemd/system/web.service", SERVICE)?;
    vm.ok(
        "set -e; mkdir -p /srv/debian /srv/added/usr/local/bin; mount -o ro,noatime /dev/vdb /srv/debian
         cp /srv/rootfs/bin/busybox /srv/added/usr/local/bin/
         systemctl -q --root=/srv/added enable web
         tar -C /srv/debian/systemd -cf /srv/debian.tar .; tar -C /srv/added -rf /srv/debian.tar .",
    )?;
    let script = format!(
        "set -e
         one() {{
             ctm create c$1 --userns --profile small --tar /srv/debian.tar
             ctm start c$1
             until ctm exec c$1 -- systemctl is-system-running --wait 2>/dev/null | grep running; do sleep 1; done
             ctm exec c$1 -- /usr/local/bin/busybox wget -qO /dev/null http://127.0.0.1/passwd
         }}
         export -f one
         one 1
         seq 2 {COUNT} | xargs -P 2 -n 1 bash -ec 'one $0'"
    );
    let said = vm.run_within(HOURS, &script)?;
    let running = said.stdout.lines().filter(|line| *line == "running").count();
    ensure!(said.status == 0 && u64::try_from(running)? == COUNT, "{said:?}");
    let up = number(&vm, "ctm list --json | grep -c '\"running\"'")?;
    ensure!(up == COUNT, "{up} of {COUNT} run");
    let held = number(
        &vm,
        "find /sys/fs/cgroup -path '*ctm*/container/memory.current' | xargs cat | awk '{ sum += $1 } END { printf \"%.0f\", sum }'",
    )?;
    ensure!(held > 0, "nothing is held");
    let base = number(&vm, "du -s --block-size=1 /var/lib/ctm/.bases | cut -f 1")?;
    let each = disk(&vm)? / COUNT;
    vm.log().add(
        "figures",
        &format!(
            "{COUNT} Debians with systemd: each holds {} KiB, {} MiB available; on the disk each takes {} KiB with its part of the base \
             of {} KiB (his: {} KiB)",
            held / COUNT / 1024,
            free(&vm)? >> 20,
            each / 1024,
            base / 1024,
            HIS_DISK / 1024
        ),
    );
    ensure!(each <= HIS_DISK / 10, "each takes {each} bytes on the disk");
    Ok(())
}

fn number(vm: &Vm, script: &str) -> Result<u64> {
    let text = vm.ok(script)?;
    text.trim().parse().with_context(|| format!("{script}: {text}"))
}

/// Memory that is there for more.
fn free(vm: &Vm) -> Result<u64> {
    number(
        vm,
        "awk '/^MemAvailable/ { printf \"%.0f\", $2 * 1024 }' /proc/meminfo",
    )
}

/// What ctm has on the disk, of which containers share parts.
fn disk(vm: &Vm) -> Result<u64> {
    number(
        vm,
        "du -xs --block-size=1 /var/lib/ctm /etc/ctm | awk '{ sum += $1 } END { printf \"%.0f\", sum }'",
    )
}
