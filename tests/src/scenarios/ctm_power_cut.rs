//! The machine loses its power in the middle of create, start, set and destroy: what is a container and what it says is whole
//! afterwards, nothing else is one, and the same commands mend and go on.
//!
//! Each command dies where a fail point says so; then the power goes for all of them at once. What was not written back is
//! lost with the machine's memory.

use anyhow::{Result, ensure};

use super::together::together;
use crate::vm::{Container, Lab, Users, Vm};

/// Where a creation dies, and whether there is a container then.
const CREATIONS: [(&str, &str, bool); 7] = [
    ("c-store", "after:store", false),
    ("c-unpack", "after:unpack", false),
    ("c-own", "after:own", false),
    ("c-written", "written:c-written.toml", false),
    // Its name is there, perhaps not yet on the disk.
    ("c-replaced", "replaced:c-replaced.toml", true),
    ("c-define", "after:define", true),
    ("c-done", "none", true),
];
/// Where a start dies.
const STARTS: [&str; 5] = [
    "after:devfs",
    "after:create",
    "after:filter",
    "after:register",
    "none",
];
/// Where a change dies, and whether the new value must be there, must not, or may.
const CHANGES: [(&str, &str, Option<bool>); 4] = [
    ("set0", "written:set0.toml", Some(false)),
    ("set1", "replaced:set1.toml", None),
    ("set2", "none", Some(true)),
    ("set3", "none", Some(true)),
];
/// Where a removal dies.
const REMOVALS: [(&str, &str); 3] = [
    ("gone0", "destroy:undefined"),
    ("gone1", "destroy:cleared"),
    ("gone2", "none"),
];

const OLD: &str = "before the cut";
const NEW: &str = "after the change";

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.boot()?;
    prepare(&vm)?;
    interrupted(&vm)?;
    vm.power_cut()?;
    vm.power_on()?;
    nothing_half(&vm)?;
    mended(&vm)?;
    nothing_left(&vm)
}

fn prepare(vm: &Vm) -> Result<()> {
    let starts = (0..STARTS.len()).map(|number| format!("start{number}"));
    let others = CHANGES
        .iter()
        .map(|(name, ..)| *name)
        .chain(REMOVALS.map(|(name, _)| name));
    let names = starts.chain(others.map(String::from));
    together(names.enumerate().map(|(number, name)| {
        move || {
            Container::create(vm, &name, users(number))?;
            vm.ok(&format!("ctm set {name} 'description=\"{OLD}\"'"))
        }
    }))?;
    vm.ok("sync").map(drop)
}

fn users(number: usize) -> Users {
    if number % 2 == 0 { Users::Own } else { Users::Host }
}

/// Runs a command that dies at a fail point, or passes if there is none.
fn dies(vm: &Vm, point: &str, command: &str) -> Result<()> {
    let output = vm.run(&format!("CTM_FAIL_POINT={point} {command}"))?;
    ensure!(
        output.success() == (point == "none"),
        "{point}: {command}: {output:?}"
    );
    Ok(())
}

fn creation(name: &str) -> String {
    format!("ctm create {name} --copy --tar /srv/rootfs.tar --init /bin/sleep 1000")
}

/// On a base system that nobody has yet.
fn on_base(name: &str) -> String {
    format!("ctm create {name} --tar /srv/rootfs.tar --init /bin/sleep 1000")
}

fn interrupted(vm: &Vm) -> Result<()> {
    // The long work first, what is over in an instant last: the kernel writes back by itself after some seconds.
    dies(vm, "after:unpack", &on_base("b-unpack"))?;
    for (number, point) in STARTS.iter().enumerate() {
        dies(vm, point, &format!("ctm start start{number}"))?;
    }
    for (name, point, _) in CREATIONS {
        dies(vm, point, &creation(name))?;
    }
    for (name, point) in REMOVALS {
        dies(vm, point, &format!("ctm destroy --yes {name}"))?;
    }
    for (name, point, _) in CHANGES {
        dies(vm, point, &format!("ctm set {name} 'description=\"{NEW}\"'"))?;
    }
    Ok(())
}

/// Who is a container is a whole one, and known; nobody else is.
fn nothing_half(vm: &Vm) -> Result<()> {
    let listed = vm.ok("ctm list --json")?;
    let listed: serde_json::Value = serde_json::from_str(&listed)?;
    let names: Vec<_> = listed
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one.get("name")?.as_str())
        .collect();
    for (name, _, there) in CREATIONS {
        // One whose end nobody was told of may be there: then it is whole.
        let is = names.contains(&name);
        ensure!(
            is == there || name == "c-replaced",
            "{name} is there: {is}; {names:?}"
        );
    }
    ensure!(!names.contains(&"b-unpack"), "{names:?}");
    for (name, _) in REMOVALS {
        ensure!(!names.contains(&name), "{name} came back");
    }
    together(names.iter().map(|name| move || whole(vm, name)))?;
    for number in 0..STARTS.len() {
        ensure!(names.contains(&format!("start{number}").as_str()), "{names:?}");
    }
    for (name, _, is_new) in CHANGES {
        let said = vm.ok(&format!("ctm config {name} | grep '^description ='"))?;
        let (old, new) = (said.contains(OLD), said.contains(NEW));
        ensure!(
            old != new && is_new.is_none_or(|is_new| new == is_new),
            "{name}: {said}"
        );
    }
    let shared = vm.ok("grep -h '^userns = {' /etc/ctm/containers/*.toml | sort | uniq -d")?;
    ensure!(shared.is_empty(), "two containers have the same ids: {shared}");
    Ok(())
}

/// It is stopped, its definition is in order and its files are all there.
fn whole(vm: &Vm, name: &str) -> Result<()> {
    let seen = vm.run(&format!(
        "ctm status {name}; echo $?; ctm config {name} >/dev/null || exit
        diff -r --no-dereference -x probe -x proc -x sys -x dev -x run /srv/rootfs /var/lib/ctm/{name}/rootfs"
    ))?;
    ensure!(
        seen.success() && seen.stdout.ends_with("\n31\n"),
        "{name}: {seen:?}"
    );
    Ok(())
}

/// The same commands again.
fn mended(vm: &Vm) -> Result<()> {
    together(CREATIONS.map(|(name, ..)| {
        move || {
            let again = vm.run(&creation(name))?;
            ensure!(
                again.success()
                    || (again.status == 44 && vm.run(&format!("ctm status {name}"))?.status == 31),
                "{name}: {again:?}"
            );
            Ok(())
        }
    }))?;
    vm.ok(&on_base("b-unpack"))?;
    for (name, _) in REMOVALS {
        let seen = vm.ok(&format!(
            "ctm status {name} 2>/dev/null; echo $?; ctm destroy --yes {name} 2>/dev/null; echo $?"
        ))?;
        ensure!(["14\n0", "14\n14"].contains(&seen.as_str()), "{name}: {seen}");
    }
    for (name, ..) in CHANGES {
        vm.ok(&format!(
            "ctm set {name} 'description=\"{NEW}\"' stop_timeout=5 && ctm config {name} | grep '^description =' | grep -q '{NEW}'"
        ))?;
    }
    let mut names: Vec<_> = (0..STARTS.len()).map(|number| format!("start{number}")).collect();
    names.extend(["c-unpack", "c-define", "b-unpack"].map(String::from));
    let names = names.join(" ");
    vm.ok(&format!(
        "set -e; echo {names} | xargs -n 1 -P 2 ctm start
        for name in {names}; do ctm exec $name -- true; done
        echo {names} | xargs -n 1 -P 2 ctm stop"
    ))
    .map(drop)
}

/// All that was left is gone with the containers and what is swept.
fn nothing_left(vm: &Vm) -> Result<()> {
    // Nobody comes back to this one.
    vm.fails("CTM_FAIL_POINT=after:unpack ctm create nobody --copy --tar /srv/rootfs.tar")?;
    vm.ok(
        "set -e; for name in $(cd /etc/ctm/containers; ls | sed s/.toml//); do ctm destroy --yes $name; done
        ctm images prune --all",
    )?;
    let left = vm.ok(
        "cd /etc/ctm/containers && ls -A; find /var/lib/ctm -mindepth 1 ! -path '/var/lib/ctm/.*'
        find /var/lib/ctm -mindepth 2 -path '/var/lib/ctm/.*'; ls -A /run/ctm | grep -v '^\\.'; true",
    )?;
    ensure!(left.is_empty(), "left over: {left}");
    Ok(())
}
