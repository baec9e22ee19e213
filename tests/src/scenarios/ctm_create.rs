//! Making containers: from an archive that becomes a base system which others share, with and without user ids of their own,
//! as a clone, by a recipe; interrupted and repeated; on a disk that is full, and on one that cannot share.

use anyhow::{Result, ensure};

use crate::vm::{Lab, Vm};

/// Does nothing until it is told to stop.
const IDLE: &str = "--init /bin/sh -c \"trap 'exit 0' TERM; while :; do sleep 1000 & wait; done\"";

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    shared(&vm)?;
    cloned(&vm)?;
    cooked(&vm)?;
    interrupted(&vm)?;
    gone(&vm)?;
    full(&vm)?;
    unshared(&vm)
}

/// Two containers on one base: one copy on the disk; each has the base's files as its own, and its own changes.
fn shared(vm: &Vm) -> Result<()> {
    vm.ok(&format!("ctm create a --tar /srv/rootfs.tar {IDLE}"))?;
    let before = room(vm)?;
    let said = vm.ok(&format!(
        "gzip -k /srv/rootfs.tar; ctm create b --no-userns --tar /srv/rootfs.tar {IDLE} 2>&1"
    ))?;
    ensure!(!said.contains("unpacking"), "{said}");
    let more = room(vm)? - before;
    ensure!(more < 1024, "a second container on a base takes {more} KiB");
    ensure!(vm.ok("ls -A /var/lib/ctm/.bases | wc -l; stat -c %a:%u /var/lib/ctm/.bases")? == "1\n700:0");
    let bases = vm.ok("grep -h ^base /etc/ctm/containers/*.toml | uniq | wc -l")?;
    ensure!(bases == "1", "{bases}");

    // Its files belong to its own ids, in a user namespace or not.
    vm.ok("ctm start a; ctm start b")?;
    for name in ["a", "b"] {
        let seen = vm.ok(&format!(
            "ctm exec {name} -- sh -c 'stat -c %u:%g / /etc/passwd /bin/busybox; chown saned /etc/group; stat -c %U /etc/group; touch /mine; rm /etc/hostname'"
        ))?;
        ensure!(seen == "0:0\n0:0\n0:0\nsaned", "{name}: {seen}");
    }
    let upper = vm.ok("cd /var/lib/ctm; stat -c %u:%g a/upper/mine b/upper/mine; stat -c %u b/upper/etc/group; grep -c hostname .bases/*/base.json || ls .bases/*/rootfs/etc/hostname | wc -l")?;
    let first = vm.ok("ctm status a --json | grep -A1 userns | tr -dc 0-9")?;
    ensure!(upper == format!("{first}:{first}\n0:0\n114\n0\n1"), "{upper}");
    vm.ok("ctm exec a -- sh -c '! test -e /etc/hostname'; ctm stop a; ctm stop b")?;
    ensure!(vm.ok("grep -c /var/lib/ctm /proc/self/mountinfo || true")? == "0");
    // What it changed is there again after a stop.
    vm.ok("ctm start a; ctm exec a -- test -e /mine; ctm stop a")
        .map(drop)
}

/// KiB that the store takes.
fn room(vm: &Vm) -> Result<i64> {
    Ok(vm.ok("du -sk /var/lib/ctm | cut -f1")?.parse()?)
}

/// A clone of a container on a base has its changes under ids of its own, and shares the base.
fn cloned(vm: &Vm) -> Result<()> {
    vm.ok("ctm start a; ctm exec a -- sh -c 'cp /bin/busybox /su; chown 7:8 /mine; chmod 4755 /su; echo $(hostname) >/name'")?;
    ensure!(vm.run("ctm create c --clone a")?.status == 32);
    vm.ok("ctm stop a; ctm create c --clone a; ctm create d --clone a --copy --no-userns; ctm start c; ctm start d")?;
    for name in ["c", "d"] {
        let seen = vm.ok(&format!(
            "ctm exec {name} -- sh -c 'hostname; cat /name; stat -c %u:%g:%a /mine /su /etc/group; test ! -e /etc/hostname; echo $?'"
        ))?;
        ensure!(
            seen == format!("{name}\na\n7:8:644\n0:0:4755\n114:0:644\n0"),
            "{seen}"
        );
    }
    let ids = vm.ok("grep -h ^userns /etc/ctm/containers/[acd].toml | sort -u | wc -l; grep -c ^base /etc/ctm/containers/d.toml || true")?;
    ensure!(ids == "3\n0", "{ids}");
    vm.ok("ctm stop c; ctm stop d; ctm destroy d --yes").map(drop)
}

/// A recipe's files and commands; one that fails leaves nothing, and its code tells which it was.
fn cooked(vm: &Vm) -> Result<()> {
    vm.put(
        "/root/recipe.toml",
        b"[fit]\nhostname = true\nmachine_id = true\n\
          [[file]]\npath = \"/etc/put\"\ncontent = \"put\\n\"\nuid = 114\nmode = \"0600\"\n\
          [[run]]\ninside = \"hostname >/ran; cat /etc/put >>/ran; ls /sys/class/net >>/ran; probe open /dev/kmsg >>/ran 2>&1 || true\"\n\
          [[run]]\nhost = \"echo $CTM_NAME >>$CTM_ROOTFS/ran\"\n",
    )?;
    vm.ok(&format!(
        "ctm create e --tar /srv/rootfs.tar.gz --recipe /root/recipe.toml {IDLE}"
    ))?;
    left(vm, "e")?;
    vm.ok("ctm start e")?;
    let seen =
        vm.ok("ctm exec e -- sh -c 'cat /ran /etc/hostname; stat -c %U:%a:%s /etc/put /etc/machine-id'")?;
    ensure!(
        seen.contains("e\nput\nlo\n") && seen.ends_with("\ne\ne\nsaned:600:4\nroot:644:0"),
        "{seen}"
    );
    vm.ok("ctm stop e")?;
    for (recipe, code) in [
        ("[[run]]\ninside = \"exit 3\"\n", 8),
        ("[[run]]\nhost = \"exit 3\"\n", 79),
        ("[[run]]\nhots = \"exit 3\"\n", 1),
    ] {
        vm.put("/root/bad.toml", recipe.as_bytes())?;
        let output = vm.run("ctm create f --tar /srv/rootfs.tar --recipe /root/bad.toml")?;
        ensure!(output.status == code, "{output:?}");
        ensure!(vm.run("ctm status f")?.status == 14);
        left(vm, "f")?;
    }
    Ok(())
}

/// Nothing of a creation runs or is mounted.
fn left(vm: &Vm, name: &str) -> Result<()> {
    let left = vm.ok(&format!(
        "ls -d /run/ctm/{name} /run/ctm/.crun/{name} /sys/fs/cgroup/ctm/{name} /var/lib/ctm/{name}/lower/* /etc/ctm/containers/{name}.toml.* 2>/dev/null
         ls /sys/fs/bpf/devbroker; grep /var/lib/ctm /proc/self/mountinfo; true"
    ))?;
    ensure!(left.is_empty(), "left over: {left}");
    Ok(())
}

/// A creation that is interrupted, orderly or not, in the middle of `tar`: nothing of it is left to the next one.
fn interrupted(vm: &Vm) -> Result<()> {
    vm.ok("mkdir -p /root/bin; cp -r /srv/rootfs /root/other; echo other >/root/other/etc/other; tar -C /root/other -cf /root/other.tar .
           printf '#!/bin/sh\\necho $$ >/root/pid; exec sleep 1000\\n' >/root/bin/tar; chmod 755 /root/bin/tar")?;
    for (signal, code) in [("INT", 130), ("TERM", 130), ("KILL", 137)] {
        let status = vm.ok(&format!(
            "set -m; rm -f /root/pid; PATH=/root/bin:$PATH ctm create f --tar /root/other.tar >/dev/null 2>&1 & ctm=$!
             until [ -s /root/pid ]; do read -t 0.1 <> <(:) || true; done
             kill -{signal} $ctm; wait $ctm; echo $?
             while [ -e /proc/$(cat /root/pid)/cwd ]; do read -t 0.1 <> <(:) || true; done"
        ))?;
        ensure!(status == code.to_string(), "SIG{signal}: {status}");
        ensure!(vm.run("ctm status f")?.status == 14);
    }
    ensure!(vm.ok("ls -A /var/lib/ctm/.bases | grep -c new")? == "1");
    vm.ok("ctm create f --tar /root/other.tar --init /bin/sleep 1000; ctm start f; ctm exec f -- cat /etc/other; ctm stop f")?;
    ensure!(vm.ok("ls -A /var/lib/ctm/.bases | grep -c new || true")? == "0");
    left(vm, "f")
}

/// `ctm images` knows who uses what, and removes what nobody does.
fn gone(vm: &Vm) -> Result<()> {
    let images = vm.ok("ctm images --json")?;
    let images: serde_json::Value = serde_json::from_str(&images)?;
    let mut users: Vec<String> = images
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|image| image.get("containers").map(ToString::to_string))
        .collect();
    users.sort();
    ensure!(users == [r#"["a","b","c"]"#, r#"["e"]"#, r#"["f"]"#], "{users:?}");
    vm.ok("ctm destroy e --yes; ctm images prune")?;
    ensure!(
        vm.ok("ctm images --json | grep -c id")? == "3",
        "one made today went"
    );
    vm.ok("ctm images prune --all")?;
    ensure!(vm.ok("ctm images --json | grep -c '\"id\"'")? == "2");
    vm.ok("for name in a b c f; do ctm destroy $name --yes; done; ctm images prune --all")?;
    ensure!(vm.ok("ls -A /var/lib/ctm/.bases | wc -l")? == "0");
    Ok(())
}

/// A small disk: it says so by its code, leaves nothing, and goes on once there is room.
fn full(vm: &Vm) -> Result<()> {
    vm.ok("truncate -s 3M /root/small; mke2fs -q -t ext4 -O ^has_journal -m 0 /root/small; mount -o loop /root/small /var/lib/ctm")?;
    for how in [
        "--tar /srv/rootfs.tar",
        "--copy --tar /srv/rootfs.tar",
        "--rootfs /srv/rootfs",
    ] {
        let output = vm.run(&format!("ctm create f {how}"))?;
        ensure!(
            output.status == 46 && output.stderr.contains("no room left on the disk"),
            "{how}: {output:?}"
        );
        ensure!(vm.ok("ls /var/lib/ctm | grep -v lost+found; ls -A /var/lib/ctm/.bases 2>/dev/null; ls /etc/ctm/containers; true")?.is_empty());
    }
    vm.ok("umount /var/lib/ctm; truncate -s 40M /root/small; e2fsck -fy /root/small >/dev/null; resize2fs -f /root/small 2>/dev/null >/dev/null
           mount -o loop /root/small /var/lib/ctm; ctm create f --tar /srv/rootfs.tar --init /bin/sleep 1000; ctm start f; ctm stop f; ctm destroy f --yes
           umount /var/lib/ctm")
        .map(drop)
}

/// On a file system that has neither idmapped mounts nor can hold the upper layer, a base is copied, and that is said.
fn unshared(vm: &Vm) -> Result<()> {
    vm.ok("mkdir -p /run/over/up /run/over/work; mount -t overlay -o lowerdir=/var/lib/ctm,upperdir=/run/over/up,workdir=/run/over/work over /var/lib/ctm")?;
    for users in ["--userns", "--no-userns"] {
        let said = vm.ok(&format!(
            "ctm create f {users} --tar /srv/rootfs.tar --init /bin/sleep 1000 2>&1"
        ))?;
        ensure!(said.contains("it is copied"), "{said}");
        vm.ok("ctm start f; ctm exec f -- stat -c %u / /etc/passwd | uniq | grep -x 0; ctm stop f; ! grep ^base /etc/ctm/containers/f.toml; ctm destroy f --yes")?;
    }
    Ok(())
}
