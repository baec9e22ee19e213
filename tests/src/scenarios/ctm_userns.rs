//! Whose ids a container has: a range of its own that nobody else has, files that are its own inside and its range's outside,
//! copied or seen through an idmapped base; or the host's. What a user may do inside, and what an `AppArmor` profile takes away.

use anyhow::{Context, Result, ensure};

use crate::vm::{Lab, Vm};

const IDLE: &str = "--init /bin/sh -c \"trap 'exit 0' TERM; while :; do sleep 1000 & wait; done\"";
/// Copied, copied, on a base, on the same base, without a range.
const NAMES: [&str; 5] = ["one", "two", "three", "four", "plain"];

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    // The range is chosen while others choose theirs.
    vm.ok(&format!(
        "create() {{ ctm create \"$@\" --tar /srv/rootfs.tar {IDLE} >/dev/null 2>&1; }}
        for name in one two; do create $name --copy & pids=\"$pids $!\"; done
        for name in three four; do create $name & pids=\"$pids $!\"; done
        create plain --privileged-root & for pid in $pids $!; do wait $pid || exit 1; done
        echo {} | xargs -n 1 -P 2 ctm start",
        NAMES.join(" ")
    ))?;
    ranges(&vm)?;
    owners(&vm)?;
    programs(&vm)?;
    scarce(&vm)?;
    watchers(&vm)?;
    without_idmapped_mounts(&vm)?;
    confined(&vm)
}

/// The first id on the host and how many, as the kernel has them.
fn range(vm: &Vm, name: &str) -> Result<(u32, u32)> {
    let of = |file: &str| -> Result<(u32, u32)> {
        let map = vm.ok(&format!(
            "cat /proc/$(ctm list -H -o name,pid | awk '$1 == \"{name}\" {{ print $2 }}')/{file}"
        ))?;
        let numbers = map
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<Vec<u32>, _>>()?;
        let [0, first, count] = numbers.as_slice() else {
            anyhow::bail!("{name}: {map}");
        };
        Ok((*first, *count))
    };
    let users = of("uid_map")?;
    ensure!(
        users == of("gid_map")?,
        "{name}: its groups are others than its users"
    );
    Ok(users)
}

/// What one has of inotify counts for the host's root as well, who still gets some when a container has taken all that it can.
fn watchers(vm: &Vm) -> Result<()> {
    let takes = |kind: &str, most: u32| vm.run(&format!("ctm exec one -- /bin/probe {kind} {most}"));
    vm.ok("cp /shared/probe /var/lib/ctm/one/rootfs/bin/
        sysctl -qw fs.inotify.max_user_instances=1000 fs.fanotify.max_user_groups=1000")?;
    for (change, most) in [
        ("", 128),
        ("ctm set one inotify_instances=60", 60),
        ("ctm set one inotify_instances=", 128),
    ] {
        vm.ok(change)?;
        for kind in ["inotify", "fanotify"] {
            let refused = takes(kind, 1000)?;
            ensure!(
                refused.stdout.trim() == format!("{most} EMFILE"),
                "{change}, {kind}: {refused:?}"
            );
            ensure!(takes(kind, most)?.status == 0);
        }
    }
    let raised = vm.fails("ctm exec one -- sh -c 'echo 900 >/proc/sys/user/max_inotify_instances'")?;
    ensure!(raised.stderr.contains("Read-only"), "{raised:?}");
    Ok(())
}

fn ranges(vm: &Vm) -> Result<()> {
    let mut ranges = Vec::new();
    for name in &NAMES[..4] {
        let (first, count) = range(vm, name)?;
        ensure!(first >= 65_536 && count == 65_536, "{name}: {first}+{count}");
        ranges.push(first);
    }
    ranges.sort_unstable();
    ensure!(
        ranges
            .iter()
            .zip(ranges.iter().skip(1))
            .all(|(one, next)| one + 65_536 <= *next),
        "{ranges:?} overlap"
    );
    ensure!(range(vm, "plain")? == (0, u32::MAX));
    Ok(())
}

/// Inside a file is root's or the user's who made it, outside it is that user's of the range; what is nobody's of the range
/// is nobody's inside, and no root inside can change that.
fn owners(vm: &Vm) -> Result<()> {
    let base = vm.ok("echo /var/lib/ctm/.bases/*/rootfs")?;
    for name in NAMES {
        let (first, _) = range(vm, name)?;
        let root = format!("/var/lib/ctm/{name}/rootfs");
        let inside = vm.ok(&format!(
            "touch {root}/etc/theirs
            ctm exec -u user {name} -- touch /tmp/users; ctm exec {name} -- sh -c '
            touch /roots; chown saned /etc/group; stat -c %u:%g / /bin/busybox /roots /etc/group /tmp/users /etc/theirs
            chown 0 /etc/theirs 2>/dev/null && echo mine; true'"
        ))?;
        let theirs = if first == 0 { "0:0\nmine" } else { "65534:65534" };
        ensure!(
            inside == format!("0:0\n0:0\n0:0\n114:0\n1000:1000\n{theirs}"),
            "{name}: {inside}"
        );
        let outside = vm.ok(&format!(
            "cd {root}; stat -c %u:%g . bin/busybox roots etc/group tmp/users"
        ))?;
        let at = |uid: u32, gid: u32| format!("{}:{}", first + uid, first + gid);
        let expected = [at(0, 0), at(0, 0), at(0, 0), at(114, 0), at(1000, 1000)].join("\n");
        ensure!(outside == expected, "{name}: {outside}");
    }
    // What three, four and plain lie upon belongs to none of them, and is still as it was.
    let untouched = vm.ok(&format!(
        "stat -c %u:%g {base} {base}/bin/busybox {base}/etc/group"
    ))?;
    ensure!(untouched == "0:0\n0:0\n0:0", "{untouched}");
    Ok(())
}

/// A user becomes root by a set-user-id program where root is nobody outside, and not where it is the host's; and pings.
fn programs(vm: &Vm) -> Result<()> {
    for name in ["one", "three", "plain"] {
        let seen = vm.run(&format!(
            "cp /shared/probe /var/lib/ctm/{name}/rootfs/bin/; ctm exec {name} -- sh -c 'rm /bin/su; cp /bin/busybox /bin/su; chmod 4755 /bin/su; sed -i s/^root:x:/root::/ /etc/passwd'
            ctm exec -u user {name} -- probe ping 127.0.0.1; ctm exec -u user {name} -- su -c 'id -u'"
        ))?;
        let expected = if name == "plain" {
            "answered\n"
        } else {
            "answered\n0\n"
        };
        ensure!(seen.stdout == expected, "{name}: {seen:?}");
    }
    Ok(())
}

/// What the administrator gives to ctm is used and nothing else; when it is used up, that is said before anything is made.
fn scarce(vm: &Vm) -> Result<()> {
    let seen = vm.ok(&format!(
        "echo ctm:300000:131072 | tee -a /etc/subuid >>/etc/subgid
        for name in a b c; do ctm create $name --tar /srv/rootfs.tar {IDLE} 2>&1; echo $?; done | grep -v -e created -e unpacking
        grep -h ^userns /etc/ctm/containers/[abc].toml; ls -d /var/lib/ctm/c 2>/dev/null
        ctm destroy --yes a; ctm create c --tar /srv/rootfs.tar {IDLE} >/dev/null 2>&1; grep -h ^userns /etc/ctm/containers/c.toml
        sed -i /^ctm:/d /etc/subuid /etc/subgid"
    ))?;
    let expected = "0\n0\nctm: no 65536 host ids are free for a user namespace; add `ctm:FIRST:COUNT` to /etc/subuid and /etc/subgid, or use --no-userns\n6\n\
        userns = { first = 300000, count = 65536 }\nuserns = { first = 365536, count = 65536 }\nuserns = { first = 300000, count = 65536 }";
    ensure!(seen == expected, "{seen}");
    Ok(())
}

/// On a file system that has none, files are given to the range once, when the container is made.
fn without_idmapped_mounts(vm: &Vm) -> Result<()> {
    let said = vm.ok(&format!(
        "mkdir -p /srv/over/{{upper,work}}; mount -t overlay -o lowerdir=/var/lib/ctm,upperdir=/srv/over/upper,workdir=/srv/over/work none /var/lib/ctm
        ctm create shifted --tar /srv/rootfs.tar {IDLE} 2>&1"
    ))?;
    ensure!(said.contains("it is copied"), "{said}");
    vm.ok("ctm start shifted")?;
    let (first, _) = range(vm, "shifted")?;
    let seen = || {
        vm.ok("stat -c %u:%g /var/lib/ctm/shifted/rootfs/etc/passwd; ctm exec shifted -- stat -c %u:%g /etc/passwd")
    };
    let expected = format!("{first}:{first}\n0:0");
    ensure!(seen()? == expected, "{}", seen()?);
    vm.ok("ctm restart shifted")?;
    ensure!(seen()? == expected, "{}", seen()?);
    vm.ok("ctm stop shifted; ctm destroy --yes shifted; umount /var/lib/ctm")
        .map(drop)
}

const PROFILE: &str = "profile ctm-test flags=(attach_disconnected,mediate_deleted) {
  file, capability, network, mount, umount, pivot_root, ptrace, signal, unix,
  deny /etc/secret rwklx,
}
";

/// A profile that is not loaded keeps a container from starting; one that is holds its first process and its commands.
fn confined(vm: &Vm) -> Result<()> {
    vm.put("/srv/ctm-test", PROFILE)?;
    for name in ["two", "plain"] {
        let refused = vm.run(&format!(
            "ctm exec {name} -- sh -c 'echo secret >/etc/secret'; ctm stop {name}; ctm set {name} apparmor=ctm-test; ctm start {name}"
        ))?;
        ensure!(
            refused.status == 53
                && refused
                    .stderr
                    .contains("no AppArmor profile ctm-test is loaded; load it with `apparmor_parser`"),
            "{refused:?}"
        );
    }
    vm.ok("/usr/libexec/test/apparmor_parser --skip-cache --add /srv/ctm-test")?;
    for name in ["two", "plain"] {
        let seen = vm.run(&format!(
            "ctm start {name}; ctm exec {name} -- sh -c 'cat /proc/1/attr/current /proc/self/attr/current; cat /etc/secret'"
        ))?;
        ensure!(
            seen.stdout == "ctm-test (enforce)\nctm-test (enforce)\n"
                && seen.stderr.contains("Permission denied"),
            "{name}: {seen:?}"
        );
        vm.ok(&format!(
            "ctm set {name} apparmor=; ctm restart {name}; ctm exec {name} -- cat /etc/secret"
        ))
        .context("without it")?;
    }
    Ok(())
}
