//! Each container has its share of the disk and no more, on ext4, xfs and btrfs: who fills it, with data or with files, meets its
//! own limit while a neighbour writes on, and nothing inside gets past it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::vm::{Container, Lab, Users, Vm};

const SOON: Duration = Duration::from_secs(60);
/// Writes until that fails.
const FILL: &str = "dd if=/dev/zero of=/filling bs=256k 2>&1 || true";
/// Makes files until that fails; how many there were.
const LITTER: &str =
    "mkdir -p /litter; i=0; while true 2>/dev/null >/litter/$i; do i=$((i+1)); done; echo $i";

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    refused(&vm)?;
    ext4(&vm)?;
    xfs(&vm)?;
    btrfs(&vm)
}

/// A file system of this kind in a file, mounted for containers.
fn mounted(vm: &Vm, make: &str, megabytes: u32, options: &str) -> Result<()> {
    vm.ok(&format!(
        "mkdir -p /var/lib/ctm; rm -f /srv/disk; truncate -s {megabytes}M /srv/disk; mkfs.{make} /srv/disk >/dev/null
         mount -o loop{options} /srv/disk /var/lib/ctm"
    ))
    .map(drop)
}

fn unmounted(vm: &Vm) -> Result<()> {
    vm.ok("umount /var/lib/ctm").map(drop)
}

fn says(vm: &Vm, command: &str, words: &[&str]) -> Result<()> {
    let said = vm.run(command)?;
    ensure!(
        said.status != 0 && words.iter().all(|word| said.stderr.contains(word)),
        "{command}: {said:?}, without {words:?}"
    );
    Ok(())
}

/// What the file system cannot keep is refused with what has to be done, which then works; what was there before counts.
fn refused(vm: &Vm) -> Result<()> {
    let made = "ctm create old --no-userns --copy --tar /srv/rootfs.tar --init /bin/sleep infinity";
    vm.ok("mkdir -p /var/lib/ctm; mount -t tmpfs none /var/lib/ctm")?;
    vm.ok(made)?;
    says(
        vm,
        "ctm set old disk_space=9M",
        &["have it on ext4, xfs or btrfs"],
    )?;
    vm.ok("ctm destroy old --yes")?;
    unmounted(vm)?;

    mounted(vm, "ext4 -q", 64, "")?;
    vm.ok(made)?;
    let text = vm.ok("cat /etc/ctm/containers/old.toml")?;
    let remedy = "tune2fs -O project,quota -Q prjquota";
    says(
        vm,
        "ctm set old disk_space=9M",
        &["keeps no project quotas", remedy],
    )?;
    vm.ok("echo 'disk_space = \"9M\"' >>/etc/ctm/containers/old.toml")?;
    says(vm, "ctm start old", &[remedy])?;
    vm.put("/etc/ctm/containers/old.toml", format!("{text}\n").as_bytes())?;
    vm.ok("ctm start old; ctm stop old")?;
    unmounted(vm)?;
    vm.ok(&format!(
        "{remedy} /srv/disk && mount -o loop /srv/disk /var/lib/ctm"
    ))?;

    says(
        vm,
        "ctm set old disk_space=9M disk_space_soft=10M",
        &["is above `disk_space`"],
    )?;
    says(vm, "ctm set old disk_space=0", &["is nothing"])?;
    // A link, a pipe and a node that were there before: counted and renamed as everything else.
    vm.ok("cd /var/lib/ctm/old/rootfs/home; ln -s to link; mkfifo pipe; chown -h 7:8 link pipe; mknod node c 0 0; mkdir -p a/b; ln /var/lib/ctm/old/rootfs/etc/passwd a/b/hard")?;
    let before = vm.ok("cd /var/lib/ctm/old; stat -c '%n %F %u %g %a %Y' rootfs/home/*; find . | wc -l")?;
    vm.ok("ctm start old")?;
    vm.ok("ctm set old disk_space=25%")?;
    vm.ok("ctm restart old")?;
    let after = vm.ok("cd /var/lib/ctm/old; stat -c '%n %F %u %g %a %Y' rootfs/home/*; find . | wc -l")?;
    ensure!(before == after, "{before}\nbecame\n{after}");
    let files: u64 = after.lines().last().unwrap_or_default().parse()?;
    // The hard link is one more name.
    ensure!(
        counted(vm, "old")?.1 == Some(files - 1),
        "{files} files: {:?}",
        counted(vm, "old")?
    );
    vm.ok("ctm exec old -- sh -ec 'cd /home; for f in link pipe node; do mv $f a/b; done; mv a/b b'")?;
    let share = counted(vm, "old")?.2;
    ensure!(
        share.is_some_and(|limit| (13 << 20..16 << 20).contains(&limit)),
        "{share:?}"
    );
    vm.ok("ctm stop old; ctm destroy old --yes")?;
    unmounted(vm)
}

/// Bytes, files and the limit of bytes, as `ctm du` has them.
fn counted(vm: &Vm, name: &str) -> Result<(u64, Option<u64>, Option<u64>)> {
    let said = vm.ok(&format!("ctm du {name} --json"))?;
    let said: serde_json::Value = serde_json::from_str(&said)?;
    let number = |key: &str| said.get(0)?.get(key)?.as_u64();
    Ok((
        number("counted_bytes").context("not counted")?,
        number("counted_files"),
        number("limit_bytes"),
    ))
}

/// A container with its own copy of a root, and one on a base, with and without a user namespace.
fn pair(vm: &Vm) -> Result<[Container; 2]> {
    let plain = Container::create(vm, "plain", Users::Host)?;
    vm.ok("ctm create owned --userns --tar /srv/rootfs.tar --init /bin/sleep infinity")?;
    let owned = Container::existing(vm, "owned");
    for container in [&plain, &owned] {
        container.start()?;
        vm.ok(&format!("cp /shared/attack {}/bin/", container.root()))?;
    }
    Ok([plain, owned])
}

fn ext4(vm: &Vm) -> Result<()> {
    mounted(vm, "ext4 -q -O project,quota -N 8000", 256, "")?;
    let containers = pair(vm)?;
    let neighbour = Container::create(vm, "neighbour", Users::Own)?;
    neighbour.start()?;
    for (container, other) in containers.iter().zip(["owned", "plain"]) {
        filled(vm, container, &neighbour).with_context(|| container.name().to_owned())?;
        soft(vm, container).with_context(|| container.name().to_owned())?;
        past(vm, container, &["disk-subvolume"]).with_context(|| container.name().to_owned())?;
        ensure!(
            counted(vm, other)?.0 < 8 << 20,
            "{other} is charged for {}",
            container.name()
        );
    }
    grace(vm)?;
    freed(vm)
}

/// Who fills its share, with data and with files, meets its limit, which `df` shows; the neighbour writes on.
fn filled(vm: &Vm, container: &Container, neighbour: &Container) -> Result<()> {
    let name = container.name();
    vm.ok(&format!("ctm set {name} disk_space=24M disk_inodes=500"))?;
    let shown = container.ok("for unit in k i; do df -$unit / | tail -n 1 | awk '{ print $2 }'; done")?;
    ensure!(shown == "24576\n500", "{shown}");
    let writer = vm.start_job(&format!(
        "exec ctm exec {} -- sh -c 'rm -f /stop; i=0; while dd if=/dev/zero of=/tmp/x bs=64k count=16 conv=fsync 2>/dev/null; \
         do i=$((i+1)); echo wrote $i.; ! test -e /stop || exit 0; done; echo failed'",
        neighbour.name()
    ))?;
    writer.wait_for("wrote 1.", SOON)?;
    let said = container.ok(FILL)?;
    let next = writer.stdout().lines().count() + 2;
    writer.wait_for(&format!("wrote {next}."), SOON)?;
    ensure!(said.contains("Disk quota exceeded"), "{said}");
    let (bytes, _, limit) = counted(vm, name)?;
    ensure!(
        limit == Some(24 << 20) && bytes <= 24 << 20 && bytes > 23 << 20,
        "{bytes} of {limit:?}"
    );
    // More is to be had at once, and less as well.
    vm.ok(&format!("ctm set {name} disk_space=25M"))?;
    container.ok("dd if=/dev/zero of=/more bs=512k count=1")?;
    let said = vm.run(&format!("ctm set {name} disk_space=20M"))?;
    ensure!(
        said.success() && said.stderr.contains("it can write when it has removed some"),
        "{said:?}"
    );
    let row = vm.ok(&format!("ctm counters {name} | grep -w disk_space"))?;
    ensure!(row.contains(" 20M "), "{row}");
    let said = container.run("dd if=/dev/zero of=/more2 bs=64k count=1")?;
    ensure!(said.stderr.contains("quota exceeded"), "{said:?}");
    container.ok("rm /filling /more /more2; dd if=/dev/zero of=/more bs=512k count=1; rm /more")?;

    let files: u64 = container.ok(LITTER)?.parse()?;
    ensure!(
        files < 500 && counted(vm, name)?.1 == Some(500),
        "{files}: {:?}",
        counted(vm, name)?
    );
    let said = container.run("mkdir /one-more")?;
    ensure!(said.stderr.contains("quota exceeded"), "{said:?}");
    container.ok("rm -r /litter; mkdir /one-more")?;
    neighbour.ok("touch /stop")?;
    writer.wait(SOON)?;
    ensure!(
        !writer.stdout().contains("failed"),
        "the neighbour could not write"
    );
    Ok(())
}

/// What is soft may be exceeded for a while.
fn soft(vm: &Vm, container: &Container) -> Result<()> {
    let name = container.name();
    vm.ok(&format!(
        "ctm set {name} disk_space=24M disk_space_soft=12M disk_grace=1s disk_inodes="
    ))?;
    // What is written in that second gets in, however much that is here.
    container.run("dd if=/dev/zero of=/over bs=256k count=56")?;
    vm.until(&format!(
        "! ctm exec {name} -- dd if=/dev/zero of=/late bs=64k count=1 2>/dev/null"
    ))?;
    let bytes = counted(vm, name)?.0;
    ensure!(
        bytes > 12 << 20 && bytes < 23 << 20,
        "not above the soft limit, or at the hard one: {bytes}"
    );
    container.ok("rm -f /over /late; dd if=/dev/zero of=/again bs=1M count=4")?;
    vm.ok(&format!("ctm set {name} disk_space_soft= disk_grace="))?;
    container.ok("rm /again").map(drop)
}

/// What a hostile root tries against its limit; `foreign` are ways of other file systems. They are ways: each works on the host.
fn past(vm: &Vm, container: &Container, foreign: &[&str]) -> Result<()> {
    let known = [
        "disk-project-of-a-file",
        "disk-project-not-inherited",
        "disk-subvolume",
    ];
    let ways: Vec<_> = known.into_iter().filter(|way| !foreign.contains(way)).collect();
    let outcomes = |said: &str, outcome: &str| said.lines().filter(|line| line.contains(outcome)).count();
    let said = vm.ok(&format!(
        "mkdir /var/lib/ctm/tmp; unshare -m sh -c 'mount --bind /var/lib/ctm/tmp /tmp; for way in {}; do attack $way; done'
         rm -r /var/lib/ctm/tmp",
        ways.join(" ")
    ))?;
    ensure!(
        outcomes(&said, "SUCCEEDED: ") == ways.len(),
        "no way on the host either: {said}"
    );
    let said = container.ok(&format!(
        "for way in {} disk-project-by-call; do attack $way; done",
        known.join(" ")
    ))?;
    ensure!(
        outcomes(&said, "refused: ") == known.len() + 1 && outcomes(&said, "SUCCEEDED") == 0,
        "{said}"
    );
    Ok(())
}

/// The grace time is the file system's: the shortest of all counts, and that is said.
fn grace(vm: &Vm) -> Result<()> {
    vm.ok("ctm set plain disk_space_soft=20M disk_grace=1h")?;
    let said = vm.run("ctm set owned disk_space_soft=20M disk_grace=7d")?;
    ensure!(
        said.success() && said.stderr.contains("for 1h and not 7d: container plain"),
        "{said:?}"
    );
    vm.ok("ctm set plain disk_grace=; ctm set plain disk_space_soft=")
        .map(drop)
}

/// A container that is renamed keeps its limit and its count; what is destroyed leaves nothing, and another begins with nothing.
fn freed(vm: &Vm) -> Result<()> {
    vm.ok("ctm stop plain; ctm stop owned")?;
    let before = counted(vm, "plain")?;
    vm.ok("ctm rename plain renamed")?;
    ensure!(counted(vm, "renamed")? == before, "{before:?}");
    vm.ok("ctm create clone --clone renamed")?;
    let clone = counted(vm, "clone")?;
    ensure!(clone.0 > 1 << 20 && clone.2.is_none(), "{clone:?}");
    vm.ok("ctm start clone; ctm stop clone")?;
    ensure!(counted(vm, "clone")?.2 == before.2, "{:?}", counted(vm, "clone")?);
    let projects = "lsattr -pd /var/lib/ctm/* | awk '$1 { print $1 }' | sort";
    let ids = vm.ok(projects)?;
    let all: Vec<_> = ids.lines().collect();
    let mut different = all.clone();
    different.dedup();
    ensure!(all.len() == 4 && all == different, "{ids}");
    vm.ok("ctm destroy renamed --yes; ctm destroy clone --yes")?;
    // The lowest id is free again, with no limit.
    vm.ok("ctm create new --userns --tar /srv/rootfs.tar --init /bin/sleep infinity")?;
    let new = counted(vm, "new")?;
    ensure!(new.0 < 1 << 20 && new.2.is_none(), "{new:?}");
    ensure!(
        vm.ok(projects)?.lines().next() == all.first().copied(),
        "no id is used again"
    );
    vm.ok("ctm stop neighbour; for name in new owned neighbour; do ctm destroy $name --yes; done; ctm images prune --all")?;
    unmounted(vm)
}

fn xfs(vm: &Vm) -> Result<()> {
    mounted(vm, "xfs -q", 320, "")?;
    vm.ok("ctm create c --userns --copy --tar /srv/rootfs.tar --init /bin/sleep infinity")?;
    says(
        vm,
        "ctm set c disk_space=24M",
        &["keeps no project quotas", "`prjquota`"],
    )?;
    unmounted(vm)?;
    vm.ok("mount -o loop,prjquota /srv/disk /var/lib/ctm")?;
    vm.ok("ctm set c disk_space=24M disk_inodes=500 disk_space_soft=20M disk_grace=1h")?;
    let container = Container::existing(vm, "c");
    container.start()?;
    let said = container.ok(FILL)?;
    ensure!(
        said.contains("Disk quota exceeded") || said.contains("No space left"),
        "{said}"
    );
    container.ok("rm /filling")?;
    let files: u64 = container.ok(LITTER)?.parse()?;
    ensure!(
        files < 500 && counted(vm, "c")?.1 == Some(500),
        "{files}: {:?}",
        counted(vm, "c")?
    );
    let blocks = container.ok("df -k / | tail -n 1 | awk '{ print $2 }'")?;
    ensure!(blocks == "20480", "{blocks}");
    vm.ok("ctm stop c; ctm destroy c --yes")?;
    unmounted(vm)
}

fn btrfs(vm: &Vm) -> Result<()> {
    mounted(vm, "btrfs -q", 256, "")?;
    let containers = pair(vm)?;
    let [plain, _] = &containers;
    let neighbour = Container::create(vm, "neighbour", Users::Own)?;
    neighbour.start()?;
    says(
        vm,
        "ctm set plain disk_space=24M",
        &["`btrfs quota enable /var/lib/ctm`"],
    )?;
    vm.ok("btrfs quota enable /var/lib/ctm && btrfs quota rescan -w /var/lib/ctm")?;
    says(
        vm,
        "ctm set plain disk_inodes=100",
        &["`disk_inodes` cannot be kept"],
    )?;
    for container in &containers {
        let name = container.name();
        vm.ok(&format!("ctm set {name} disk_space=24M"))?;
        let said = container.ok(FILL)?;
        ensure!(said.contains("Disk quota exceeded"), "{said}");
        neighbour.ok("dd if=/dev/zero of=/x bs=1M count=8 conv=fsync; rm /x")?;
        let (bytes, _, limit) = counted(vm, name)?;
        ensure!(
            limit == Some(24 << 20) && bytes <= 24 << 20,
            "{bytes} of {limit:?}"
        );
        vm.ok(&format!("ctm set {name} disk_space=32M"))?;
        container.ok("dd if=/dev/zero of=/more bs=1M count=2 conv=fsync; rm /filling /more")?;
    }
    // Outside of an overlay a subvolume could be made.
    vm.ok(&format!("cp /shared/attack {}/bin/", neighbour.root()))?;
    for container in [plain, &neighbour] {
        past(
            vm,
            container,
            &["disk-project-of-a-file", "disk-project-not-inherited"],
        )?;
    }
    vm.ok("for name in plain owned neighbour; do ctm stop $name; ctm destroy $name --yes; done")?;
    // Kernels before 6.11 keep the group of a subvolume that is gone for a while; it limits nothing.
    vm.ok("[ \"$(btrfs subvolume list /var/lib/ctm)\" = '' ]
        for group in /sys/fs/btrfs/*/qgroups/0_*; do ! grep -v 0 $group/limit_flags 2>/dev/null || exit 1; done")?;
    unmounted(vm)
}
