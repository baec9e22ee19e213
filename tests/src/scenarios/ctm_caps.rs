//! One capability more or less changes that and nothing else; one that cannot count is refused; one that gives the host away
//! is shown.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::vm::{Container, Lab, Users, Vm};

/// `capabilities(7)`, `linux/capability.h`.
const NET_RAW: u32 = 13;
const SYS_TIME: u32 = 25;

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    given_and_taken(&vm)?;
    at_creation(&vm)?;
    without_effect(&vm)?;
    not_confined(&vm)
}

/// What a program starts with: the words of `/proc/PID/status` about privilege.
type Privilege = BTreeMap<String, u64>;

fn privilege(container: &Container, process: &str) -> Result<Privilege> {
    let text = container.ok(&format!(
        "grep -E '^(Cap...|NoNewPrivs|Seccomp|Seccomp_filters|Uid|Gid|Groups):' /proc/{process}/status"
    ))?;
    text.lines()
        .filter(|line| !line.starts_with(['U', 'G']))
        .map(|line| {
            let (name, value) = line.split_once(":\t").context("a line of another kind")?;
            Ok((name.to_owned(), u64::from_str_radix(value.trim(), 16)?))
        })
        .collect()
}

/// Both that of the first process and that of a command.
fn privileges(container: &Container) -> Result<[Privilege; 2]> {
    Ok([privilege(container, "1")?, privilege(container, "self")?])
}

/// The same with one capability more or less.
fn changed(of: &[Privilege; 2], bit: u32) -> [Privilege; 2] {
    let mut changed = of.clone();
    for privilege in &mut changed {
        for set in ["CapBnd", "CapEff", "CapPrm"] {
            if let Some(bits) = privilege.get_mut(set) {
                *bits ^= 1 << bit;
            }
        }
    }
    changed
}

/// What an attacker gets through.
fn open_ways(container: &Container) -> Result<Vec<String>> {
    let said = container.ok("attack all")?;
    Ok(said
        .lines()
        .filter(|line| line.contains("SUCCEEDED"))
        .filter_map(|line| line.split('\t').next().map(str::to_owned))
        .collect())
}

fn given_and_taken(vm: &Vm) -> Result<()> {
    let ntp = Container::create(vm, "ntp", Users::Host)?;
    vm.ok(&format!("cp /shared/attack {}/bin/", ntp.root()))?;
    ntp.start()?;
    let usual = privileges(&ntp)?;
    ensure!(
        usual
            .iter()
            .all(|one| one.get("Seccomp") == Some(&2) && one.get("CapAmb") == Some(&0)),
        "{usual:?}"
    );
    ensure!(open_ways(&ntp)?.is_empty());
    let refused = ntp.run("date -s 2030-01-01")?;
    ensure!(refused.stderr.contains("not permitted"), "{refused:?}");
    ntp.ok("ping -c 1 127.0.0.1")?;

    // The clock, and nothing else.
    let said = vm.run("ctm set ntp 'capabilities=[\"+SYS_TIME\"]'")?;
    ensure!(
        said.success() && said.stderr.contains("next start: capabilities"),
        "{said:?}"
    );
    ensure!(privileges(&ntp)? == usual, "a running container changed");
    vm.ok("ctm restart ntp")?;
    let given = privileges(&ntp)?;
    ensure!(given == changed(&usual, SYS_TIME), "{usual:?}\nbecame {given:?}");
    let open = open_ways(&ntp)?;
    ensure!(open == ["clock-set", "clock-adjust"], "{open:?}");
    let before = vm.ok("date +%s")?.parse::<u64>()?;
    ntp.ok(&format!("date -s @{}", before + 86_400))?;
    let after = vm.ok("date +%s")?.parse::<u64>()?;
    ntp.ok(&format!("date -s @{before}"))?;
    ensure!(
        after >= before + 86_400,
        "the clock went from {before} to {after}"
    );

    vm.ok("ctm set ntp 'capabilities=[\"-NET_RAW\"]'; ctm restart ntp")?;
    let taken = privileges(&ntp)?;
    ensure!(taken == changed(&usual, NET_RAW), "{usual:?}\nbecame {taken:?}");
    ensure!(open_ways(&ntp)?.is_empty());
    vm.ok("ctm set ntp capabilities=; ctm restart ntp")?;
    ensure!(privileges(&ntp)? == usual, "it is not as it was");
    ntp.destroy()
}

fn at_creation(vm: &Vm) -> Result<()> {
    vm.ok("ctm create ntp --privileged-root --cap +SYS_TIME --cap -NET_RAW --tar /srv/rootfs.tar --init /bin/sleep 1000")?;
    let said = vm.ok("ctm config ntp")?;
    ensure!(
        said.contains("capabilities = [\"+SYS_TIME\", \"-NET_RAW\"]") && said.contains("userns = false"),
        "{said}"
    );
    ensure!(!said.contains("not confined"), "{said}");
    vm.ok("ctm destroy ntp --yes").map(drop)
}

/// In a user namespace: said at once, by whatever names it, and nothing is made or changed.
fn without_effect(vm: &Vm) -> Result<()> {
    let made = vm.run("ctm create ntp --cap +SYS_TIME --tar /srv/rootfs.tar --init /bin/sleep 1000")?;
    let says = |text: &str| {
        text.contains("SYS_TIME counts for nothing in a user namespace") && text.contains("--privileged-root")
    };
    ensure!(made.status == 1 && says(&made.stderr), "{made:?}");
    vm.ok("! test -e /etc/ctm/containers/ntp.toml; ! test -e /var/lib/ctm/ntp")?;

    let ntp = Container::create(vm, "ntp", Users::Own)?;
    let definition = vm.ok("cat /etc/ctm/containers/ntp.toml")?;
    let set = vm.run("ctm set ntp 'capabilities=[\"+SYS_TIME\"]'")?;
    ensure!(set.status == 1 && says(&set.stderr), "{set:?}");
    ensure!(
        vm.ok("cat /etc/ctm/containers/ntp.toml")? == definition,
        "it was changed"
    );
    vm.ok("echo 'capabilities = [\"+SYS_TIME\"]' >>/etc/ctm/containers/ntp.toml")?;
    let started = vm.run("ctm start ntp")?;
    ensure!(started.status == 1 && says(&started.stderr), "{started:?}");
    vm.ok("sed -i '$s/SYS_TIME/SYS_PTRACE/' /etc/ctm/containers/ntp.toml; ctm start ntp")?;
    ntp.destroy()
}

fn not_confined(vm: &Vm) -> Result<()> {
    let says =
        |what: &str| -> Result<bool> { Ok(vm.run(&format!("ctm {what}"))?.stdout.contains("not confined")) };
    let box_ = Container::create(vm, "box", Users::Host)?;
    ensure!(!says("status box")? && !says("config box")?);
    vm.ok("ctm set box 'capabilities=[\"+SYS_ADMIN\", \"+SYS_TIME\"]'")?;
    ensure!(says("status box")? && says("config box")?);
    box_.start()?;
    // It is true.
    box_.ok("mkdir -p /m && mount -t tmpfs none /m")?;
    box_.destroy()?;
    let own = Container::create(vm, "box", Users::Own)?;
    vm.ok("ctm set box 'capabilities=[\"+SYS_ADMIN\"]'")?;
    ensure!(!says("status box")?);
    own.destroy()
}
