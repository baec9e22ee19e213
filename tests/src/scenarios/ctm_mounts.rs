//! What a container has mounted: by its definition and while it runs, read-only and not, of the host's folders, files, disks
//! and memory, with the host's ids and with its own; and nowhere but inside, whatever links it has.

use anyhow::{Context, Result, ensure};

use super::together::together;
use crate::vm::{Container, Lab, Users, Vm};

/// Of a partition of the host's.
const UUID: &str = "5d1c0f3a-3f1e-4c83-9a52-0d6f4f0b7e11";

/// What the definitions mount.
const MOUNTS: &[&str] = &[
    r#"bind = "/srv/m/a", target = "/ro", read_only = true"#,
    r#"bind = "/srv/m/b", target = "/rw""#,
    r#"bind = "/srv/m/a/file", target = "/new/file""#,
    r#"tmpfs = "1M", target = "/memory""#,
    r#"uuid = "5d1c0f3a-3f1e-4c83-9a52-0d6f4f0b7e11", target = "/disk", ids = "container""#,
    r#"bind = "/srv/m/f", target = "/follow", follow = true"#,
    r#"bind = "/srv/m/f", target = "/still""#,
    r#"bind = "/srv/m/i", target = "/mine", ids = "container""#,
    r#"bind = "/srv/m/a", target = "/link/through""#,
];

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    vm.ok(&format!(
        "set -e
        mkdir -p /srv/m/{{a,b,f,i}} /srv/outside; cd /srv/m; chmod 777 b
        echo file >a/file; touch b/roots i/roots i/users; chown 1000:1000 i/users
        truncate -s 32M /srv/disk; printf ',8M\\n,\\n' | sfdisk -q /srv/disk
        disk=$(losetup -P -f --show /srv/disk); udevadm settle
        mke2fs -q -t ext4 -U {UUID} ${{disk}}p2"
    ))?;
    vm.wait_path(&format!("/dev/disk/by-uuid/{UUID}"))?;
    together(Users::BOTH.map(|users| {
        let vm = &vm;
        move || life(vm, users).with_context(|| format!("with the ids of {users:?}"))
    }))?;
    // Nothing of it is left on the host.
    let left =
        vm.ok("grep -e /run/ctm -e loop /proc/self/mountinfo || true; ls -A /srv/outside; ls /srv/m/a")?;
    ensure!(left == "file", "{left}");
    Ok(())
}

fn life(vm: &Vm, users: Users) -> Result<()> {
    let name = format!("{users:?}").to_lowercase();
    let container = Container::create(vm, &name, users)?;
    let root = container.root();
    let mounts: Vec<_> = MOUNTS.iter().map(|mount| format!("  {{ {mount} }},")).collect();
    let mounts = mounts.join("\n");
    // A link that leads to the host's folder if it is followed outside, and to the container's own inside.
    vm.ok(&format!(
        "mkdir -p {root}/srv/outside; ln -s /../../../../../srv/outside {root}/link; ln -s /srv/nowhere {root}/dangling
        ln -s /proc/1/root/srv {root}/magic; cat >>/etc/ctm/containers/{name}.toml <<'END'\nmount = [\n{mounts}\n]\nEND"
    ))?;
    container.start()?;
    defined(vm, &container, users)?;
    live(vm, &container)?;
    refused(vm, &container, users)?;
    container.destroy()
}

/// What `id` of the container's is on the host.
fn outside(vm: &Vm, container: &Container, id: u32) -> Result<u32> {
    let map = vm.ok(&format!("cat /proc/{}/uid_map", container.pid()?))?;
    let first: u32 = map.split_whitespace().nth(1).context("an empty map")?.parse()?;
    Ok(first + id)
}

/// At which of these places something is mounted, sorted, and whether it can be written to.
fn mounted(container: &Container, places: &str) -> Result<String> {
    let lines = container.ok(&format!(
        "grep -E ' /({places}) ' /proc/self/mountinfo | cut -d' ' -f5,6 | sort"
    ))?;
    let lines = lines.lines().map(|line| {
        let (place, options) = line.split_once(' ').unwrap_or((line, ""));
        let options: Vec<_> = options.split(',').collect();
        let safe = ["nosuid", "nodev"].iter().all(|option| options.contains(option));
        let access = options.first().unwrap_or(&"");
        format!(
            "{place} {access}{}",
            if safe {
                ""
            } else {
                " with devices or set-id programs"
            }
        )
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

fn defined(vm: &Vm, container: &Container, users: Users) -> Result<()> {
    let places = "ro|rw|new/file|memory|disk|follow|still|mine|srv/outside/through";
    let seen = mounted(container, places)?;
    let expected = "/disk rw\n/follow rw\n/memory rw\n/mine rw\n/new/file rw\n/ro ro\n/rw rw\n/srv/outside/through rw\n/still rw";
    ensure!(seen == expected, "{seen}");
    let seen = container.ok(
        "cat /ro/file /new/file /link/through/file; touch /ro/x 2>&1 | grep -o Read-only; touch /rw/by-$(hostname) /mine/by-$(hostname)
        df -k /memory | awk 'NR == 2 { print $2 }'; echo x >/memory/x; stat -c %u:%g /memory /rw/roots /mine/roots /mine/users
        echo kept >/disk/$(hostname)",
    )?;
    let theirs = match users {
        Users::Own => "65534:65534",
        Users::Host => "0:0",
    };
    ensure!(
        seen == format!("file\nfile\nfile\nRead-only\n1024\n0:0\n{theirs}\n0:0\n1000:1000"),
        "{seen}"
    );
    let name = container.name();
    let root = outside(vm, container, 0)?;
    let owners = vm.ok(&format!(
        "stat -c %u /srv/m/b/by-{name} /srv/m/i/by-{name} /run/ctm/{name}/volumes/{UUID}/{name}"
    ))?;
    ensure!(owners == format!("{root}\n0\n0"), "{owners}");

    // What the host mounts later appears where that was asked for, and goes.
    vm.ok(&format!(
        "mkdir -p /srv/m/f/{name}; mount -t tmpfs none /srv/m/f/{name}; touch /srv/m/f/{name}/later"
    ))?;
    let seen = container.ok(&format!("cd /; ls follow/{name} still/{name}"))?;
    ensure!(
        seen == format!("follow/{name}:\nlater\n\nstill/{name}:"),
        "{seen}"
    );
    vm.ok(&format!("umount /srv/m/f/{name}"))?;
    ensure!(container.ok(&format!("ls /follow/{name}"))?.is_empty());
    Ok(())
}

fn live(vm: &Vm, container: &Container) -> Result<()> {
    let name = container.name();
    vm.ok(&format!(
        "set -e; add() {{ ctm mount add {name} \"$@\"; }}
        add /live/deep --bind /srv/m/a --read-only
        add /live/one --bind /srv/m/a/file
        add /live/mine --bind /srv/m/i --ids container
        add /live/disk --uuid {UUID} --ids container
        add /live/memory --tmpfs 512k
        add /live/once --tmpfs 256k --runtime
        add /link/late --bind /srv/m/a
        add /live/follow --bind /srv/m/f --follow
        mount -t tmpfs none /srv/m/f/{name}; touch /srv/m/f/{name}/again"
    ))?;
    let places = "live/[a-z]*|srv/outside/late";
    let once = "/live/once rw\n";
    let expected = format!(
        "/live/deep ro\n/live/disk rw\n/live/follow rw\n/live/memory rw\n/live/mine rw\n{once}/live/one rw\n/srv/outside/late rw"
    );
    let seen = mounted(container, places)?;
    ensure!(seen == expected, "{seen}");
    let seen = container.ok(
        "cd /live; touch deep/x 2>&1 | grep -o Read-only; cat one disk/$(hostname); stat -c %u:%g . deep memory mine/roots mine/users
        ls follow/$(hostname); touch mine/late-$(hostname)",
    )?;
    let theirs = if outside(vm, container, 0)? == 0 {
        "0:0"
    } else {
        "65534:65534"
    };
    ensure!(
        seen == format!("Read-only\nfile\nkept\n0:0\n{theirs}\n0:0\n0:0\n1000:1000\nagain"),
        "{seen}"
    );
    vm.ok(&format!(
        "umount /srv/m/f/{name}; [ $(stat -c %u /srv/m/i/late-{name}) = 0 ]; ! test -e /srv/outside/late"
    ))?;

    // In the definition, and so after a restart, unless it was for the run alone.
    vm.ok(&format!("ctm restart {name}"))?;
    let seen = mounted(container, places)?;
    ensure!(seen == expected.replace(once, ""), "{seen}");
    vm.ok(&format!(
        "set -e; ctm mount remove {name} /live/deep; ctm mount remove {name} /live/disk; ctm mount remove --runtime {name} /live/memory
        ctm mount remove {name} /link/late; ! grep -e /live/d -e /link/late /etc/ctm/containers/{name}.toml; grep -q /live/memory /etc/ctm/containers/{name}.toml"
    ))?;
    let seen = mounted(container, places)?;
    ensure!(seen == "/live/follow rw\n/live/mine rw\n/live/one rw", "{seen}");
    Ok(())
}

/// What cannot be mounted: nothing is changed, and what to do is said.
fn refused(vm: &Vm, container: &Container, users: Users) -> Result<()> {
    let name = container.name();
    let before = vm.get(&format!("/etc/ctm/containers/{name}.toml"))?;
    let mut cases = vec![
        (
            "add NAME /rw --tmpfs 1M",
            1,
            "something is mounted on /rw already",
        ),
        ("add NAME /dev/x --tmpfs 1M", 1, "/dev is mounted by ctm"),
        ("add NAME /x --bind /srv/none", 1, "/srv/none"),
        ("add NAME /x --uuid 0000-0000", 1, "no file system has the UUID"),
        (
            "add NAME /etc/passwd --bind /srv/m/a",
            1,
            "is a file in the container",
        ),
        ("add NAME /magic/x --bind /srv/m/a", 1, "/magic"),
        ("add NAME /dangling/x --bind /srv/m/a", 1, "/dangling"),
        ("add NAME /x --tmpfs 1M --ids container", 2, "--ids"),
        ("remove NAME /dev/pts", 1, "is mounted by ctm and stays"),
    ];
    if users == Users::Own {
        // The file system of the programs has none.
        cases.push((
            "add NAME /x --bind /shared --ids container",
            1,
            "without `--ids container`",
        ));
    }
    for (what, code, part) in cases {
        let said = vm.run(&format!("ctm mount {}", what.replace("NAME", name)))?;
        ensure!(
            said.status == code && said.stderr.contains(part),
            "{what}: {said:?}, which should be {code} and have {part:?}"
        );
    }
    ensure!(vm.get(&format!("/etc/ctm/containers/{name}.toml"))? == before);
    container.stop()?;
    let said = vm.run(&format!("ctm mount add {name} /x --tmpfs 1M --runtime"))?;
    ensure!(said.status == 31, "{said:?}");
    let mut starts = vec![(
        "/srv/none",
        "container",
        "make it, or take the mount out with `ctm mount remove`",
    )];
    if users == Users::Own {
        starts.push((
            "/shared",
            "container",
            "has no idmapped mounts, take `ids = \"container\"` out",
        ));
    }
    for (from, ids, part) in starts {
        let said = vm.run(&format!(
            "ctm mount add {name} /x --bind {from} --ids {ids} && ctm start {name}"
        ))?;
        ensure!(said.status != 0 && said.stderr.contains(part), "{from}: {said:?}");
        vm.ok(&format!("ctm mount remove {name} /x"))?;
    }
    Ok(())
}
