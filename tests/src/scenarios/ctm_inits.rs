//! Every kind of first process, plain and with own users: it comes up, orphans are reaped, it is asked to stop in its own
//! way, and `reboot` and `poweroff` inside do what they say.

use anyhow::{Context, Result, ensure};

use super::together::together;
use crate::vm::{Container, Lab, Users, Vm};

/// A kind of first process.
#[derive(Clone, Copy, Debug)]
struct Kind {
    name: &'static str,
    make: fn(&Vm, &str, Users) -> Result<Container>,
    /// What is asked for by its definition to shut it down.
    signal: &'static str,
    reboot: &'static str,
    poweroff: &'static str,
    /// Whether it brings a whole system up, which takes its time.
    is_whole: bool,
    /// With whose users. To give a whole system to its own takes longest of all.
    users: &'static [Users],
}

const KINDS: [Kind; 6] = [
    Kind {
        name: "systemd",
        make: systemd,
        signal: "SIGRTMIN+3",
        reboot: "systemctl reboot",
        poweroff: "systemctl poweroff",
        is_whole: true,
        users: &Users::BOTH,
    },
    Kind {
        name: "sysvinit",
        make: sysvinit,
        signal: "SIGINT",
        reboot: "reboot",
        poweroff: "poweroff",
        is_whole: true,
        users: &Users::BOTH,
    },
    Kind {
        name: "openrc",
        make: openrc,
        signal: "SIGTERM",
        reboot: "openrc-shutdown --reboot now",
        poweroff: "openrc-shutdown --poweroff now",
        is_whole: true,
        users: &[Users::Host],
    },
    Kind {
        name: "alpine",
        make: alpine,
        signal: "SIGUSR2",
        reboot: "reboot",
        poweroff: "poweroff",
        is_whole: true,
        users: &[Users::Own],
    },
    Kind {
        name: "bare",
        make: bare,
        signal: "SIGTERM",
        reboot: "reboot -f",
        poweroff: "poweroff -f",
        is_whole: false,
        users: &Users::BOTH,
    },
    Kind {
        name: "busybox",
        make: busybox,
        signal: "SIGUSR2",
        reboot: "reboot",
        poweroff: "poweroff",
        is_whole: false,
        users: &Users::BOTH,
    },
];

/// Notes that it is up, the first time in `/up.1`, and that it was told to stop.
const PROGRAM: &str = "witness; trap 'echo told >>/told; exit 0' TERM; while :; do sleep 1000 & wait; done";
const WITNESS: &str = "#!/bin/sh\necho up >>/ups\n: >/up.$(wc -l </ups)\n";

fn bare(vm: &Vm, name: &str, users: Users) -> Result<Container> {
    let container = Container::running(vm, name, users, PROGRAM)?;
    equip(vm, &container, &[])?;
    Ok(container)
}

fn busybox(vm: &Vm, name: &str, users: Users) -> Result<Container> {
    let container = Container::with_init(vm, name, users, "/bin/init")?;
    let inittab =
        "::sysinit:/bin/witness\n::respawn:/bin/sleep 1000\n::shutdown:/bin/sh -c 'echo told >>/told'\n";
    equip(vm, &container, &[("etc/inittab", inittab)])?;
    Ok(container)
}

fn sysvinit(vm: &Vm, name: &str, users: Users) -> Result<Container> {
    let container = Container::sysvinit(vm, name, users)?;
    equip(vm, &container, &[])?;
    // Of the entries of a run level init takes one after the other: the first before those that take the system down.
    vm.ok(&format!(
        "cd {}/etc; sed -i '1i wt:06:wait:/bin/sh -c \"echo told >>/told\"' inittab
        echo 'wu:2:wait:/bin/witness' >>inittab",
        container.root()
    ))?;
    Ok(container)
}

const OPENRC: &str = "#!/sbin/openrc-run\nstart() { /bin/witness; }\nstop() { echo told >>/told; }\n";

/// The small root with Debian's `OpenRC`, at `/srv/openrc`: what Alpine is, where its place is taken by another libc and another shell (in
/// this busybox' own shell, programs of its own do not become processes, which `OpenRC` counts on).
const WITH_OPENRC: &str = "set -e
mkdir -p /srv/debian; mountpoint -q /srv/debian || mount -o ro,noatime /dev/vdb /srv/debian
from=/srv/debian/sysvinit; root=/srv/openrc; cp -a /srv/rootfs $root; cd $root
mkdir -p lib sbin usr/bin usr/sbin var etc/init.d etc/insserv.conf.d; ln -s ../run var/run
cp -a $from/usr/lib/rc lib/; cp -a $from/usr/sbin/openrc* $from/usr/sbin/rc-* sbin/; cp -a $from/usr/bin/rc-status bin/; cp -a $from/etc/rc.conf etc/; : >etc/insserv.conf
cp -a $from/etc/runlevels etc/; find etc/runlevels ! -type d -delete; mkdir -p etc/runlevels/boot etc/runlevels/shutdown
for library in $(chroot $from ldd /usr/sbin/openrc /usr/sbin/openrc-run /usr/sbin/openrc-init /usr/bin/rc-status /usr/lib/rc/bin/checkpath /usr/bin/dash | grep -o '/[^ :]*lib[^ :]*\\.so[^ :]*' | sort -u)
do mkdir -p .${library%/*}; cp -L $from$library .$library; done
rm -f bin/sh; cp $from/usr/bin/dash bin/sh; chroot . /bin/busybox --install -s; echo uucp:x:14: >>etc/group";

/// As Alpine has it.
const INITTAB: &str = "::sysinit:/sbin/openrc sysinit
::sysinit:/sbin/openrc boot
::wait:/sbin/openrc default

# Set up a couple of getty's
tty1::respawn:/sbin/getty 38400 tty1
tty2::respawn:/sbin/getty 38400 tty2
tty3::respawn:/sbin/getty 38400 tty3
tty4::respawn:/sbin/getty 38400 tty4
tty5::respawn:/sbin/getty 38400 tty5
tty6::respawn:/sbin/getty 38400 tty6

# Put a getty on the serial port
#ttyS0::respawn:/sbin/getty -L 115200 ttyS0 vt100

# Stuff to do for the 3-finger salute
::ctrlaltdel:/sbin/reboot

# Stuff to do before rebooting
::shutdown:/sbin/openrc shutdown
";

/// `OpenRC` as the first process, or run by busybox' by its inittab; made fit, with a service in the runlevel `default`.
fn with_openrc(vm: &Vm, name: &str, users: Users, init: &str) -> Result<Container> {
    let users = match users {
        Users::Own => "--userns",
        Users::Host => "--no-userns",
    };
    vm.put("/srv/openrc.toml", "[fit]\ngettys = true\nhostname = true\n")?;
    vm.ok(&format!(
        "ctm create {name} {users} --rootfs /srv/openrc --recipe /srv/openrc.toml --init {init}"
    ))?;
    let container = Container::existing(vm, name);
    equip(vm, &container, &[("etc/init.d/witness", OPENRC)])?;
    vm.ok(&format!(
        "ln -s /etc/init.d/witness {}/etc/runlevels/default/",
        container.root()
    ))?;
    Ok(container)
}

fn openrc(vm: &Vm, name: &str, users: Users) -> Result<Container> {
    with_openrc(vm, name, users, "/sbin/openrc-init")
}

fn alpine(vm: &Vm, name: &str, users: Users) -> Result<Container> {
    let container = with_openrc(vm, name, users, "/sbin/init")?;
    let inittab = vm.ok(&format!("grep -c ^#tty[1-6] {}/etc/inittab", container.root()))?;
    ensure!(inittab == "6", "{inittab} gettys are off");
    Ok(container)
}

/// Busybox has gone through the runlevels, and nothing of it complained.
fn is_alpine(vm: &Vm, container: &Container) -> Result<()> {
    let name = container.name();
    vm.until(&format!(
        "ctm exec {name} -- rc-status default | grep -q 'witness.*started'"
    ))?;
    let called = container.ok("hostname")?;
    ensure!(called == name, "{called}");
    let said = vm.ok(&format!("ctm log {name}"))?;
    let complains = |line: &&str| {
        let line = line.to_lowercase();
        [
            "error",
            "can't",
            "cannot",
            "fail",
            "warn",
            "not found",
            "no such",
            "denied",
            "!!",
        ]
        .iter()
        .any(|word| line.contains(word))
    };
    let complaints: Vec<_> = said.lines().filter(complains).collect();
    ensure!(
        complaints.is_empty() && said.contains("is starting up Linux"),
        "{said}"
    );
    Ok(())
}

const UNIT: &str = "[Unit]
After=basic.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/witness
ExecStop=/bin/sh -c 'echo told >>/told'
[Install]
WantedBy=multi-user.target
";

fn systemd(vm: &Vm, name: &str, users: Users) -> Result<Container> {
    let container = Container::debian(vm, name, users)?;
    equip(vm, &container, &[("etc/systemd/system/witness.service", UNIT)])?;
    let root = container.root();
    vm.ok(&format!("systemctl -q --root={root} enable witness"))?;
    Ok(container)
}

/// Puts the witness and what starts it into a container.
fn equip(vm: &Vm, container: &Container, files: &[(&str, &str)]) -> Result<()> {
    let root = container.root();
    let put = |(path, text): &(&str, &str)| {
        format!("cat >{root}/{path} <<'END'\n{text}END\nchmod 755 {root}/{path}")
    };
    let script: Vec<_> = [("bin/witness", WITNESS)].iter().chain(files).map(put).collect();
    vm.ok(&script.join("\n")).map(drop)
}

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    let alone = without_systemd(&vm)?;
    // Time enough for the tests.
    vm.put(
        "/run/systemd/system/ctm@alone.service.d/later.conf",
        "[Service]\nRestartSec=1h\n",
    )?;
    vm.install()?;
    vm.ok(WITH_OPENRC)?;
    vm.put("/srv/openrc/etc/inittab", INITTAB)?;
    let lives = KINDS
        .into_iter()
        .flat_map(|kind| kind.users.iter().map(move |users| (kind, *users)));
    let (of_kinds, of_alone) = (
        lives.map(|(kind, users)| {
            let vm = &vm;
            let name = format!("{}-{users:?}", kind.name).to_lowercase();
            Box::new(move || life(vm, kind, users, &name).context(name)) as Life<'_>
        }),
        Box::new(|| {
            stopped_between_two_runs(&vm, &alone)?;
            another_init(&vm, &alone)
        }) as Life<'_>,
    );
    together(of_kinds.chain([of_alone])).map(drop)
}

type Life<'a> = Box<dyn FnOnce() -> Result<()> + Send + 'a>;

/// A whole system that is tried with both is stopped from outside with the host's users, and from inside with its own, after
/// a reboot: each time that it comes up takes long.
fn life(vm: &Vm, kind: Kind, users: Users, name: &str) -> Result<()> {
    let container = (kind.make)(vm, name, users)?;
    let config = vm.ok(&format!(
        "ctm config {name} | grep ^stop_signal; ctm start {name}"
    ))?;
    ensure!(config.contains(kind.signal), "{config}");
    let mut ups = 1;
    is_up(vm, &container, ups)?;
    if kind.name == "bare" {
        let first = container.ok("cat /proc/1/comm; cat /proc/2/comm")?;
        ensure!(first == ".ctm-init\nsh", "{first}");
    }
    if kind.name == "alpine" {
        is_alpine(vm, &container)?;
    }
    orphans_are_reaped(&container)?;
    if !kind.is_whole {
        vm.ok(&format!("ctm stop {name}"))?;
        is_down(vm, &container, Some(1))?;
        vm.ok(&format!("ctm start {name}"))?;
        ups += 1;
        is_up(vm, &container, ups)?;
    }
    let reboots = !kind.is_whole || kind.users.last() == Some(&users);
    if reboots {
        container.run(kind.reboot)?;
        ups += 1;
        is_up(vm, &container, ups)?;
        let restarts = vm.ok(&format!("systemctl show -P NRestarts ctm@{name}"))?;
        ensure!(restarts == "1", "{restarts}");
    }
    if kind.is_whole && kind.users.first() == Some(&users) {
        vm.ok(&format!("ctm stop {name}"))?;
    } else {
        container.run(kind.poweroff)?;
    }
    // `reboot -f` tells nobody.
    is_down(vm, &container, kind.is_whole.then_some(ups))
}

/// It says so itself, and the host agrees.
fn is_up(vm: &Vm, container: &Container, times: usize) -> Result<()> {
    let (name, root) = (container.name(), container.root());
    vm.wait_path(&format!("{root}/up.{times}"))?;
    vm.until(&format!(
        "test $(wc -l <{root}/ups) = {times} && systemctl is-active -q ctm@{name} && ctm status {name}"
    ))
}

/// What loses its parent ends up at the first process, and is gone when it has ended.
fn orphans_are_reaped(container: &Container) -> Result<()> {
    let script =
        "orphan=$(sleep 1000 >/dev/null 2>&1 & echo $!); grep PPid /proc/$orphan/status; kill $orphan
                  while test -e /proc/$orphan; do :; done";
    let parent = container.ok(script)?;
    ensure!(parent == "PPid:\t1", "{parent}");
    Ok(())
}

/// It went down by itself or was stopped, which is no failure, and stays down.
fn is_down(vm: &Vm, container: &Container, told: Option<usize>) -> Result<()> {
    let (name, root) = (container.name(), container.root());
    let seen = vm.ok(&format!(
        "ctm wait {name} >/dev/null 2>&1
        until [ \"$(systemctl show -P ActiveState ctm@{name})\" = inactive ]; do sleep 0.05; done
        systemctl show -P Result ctm@{name}; ctm status {name} >/dev/null; echo $?
        journalctl -u ctm@{name} -o cat --no-pager | grep -E 'killed|WARN|ERROR'; true"
    ))?;
    ensure!(seen == "success\n31", "{seen}");
    if let Some(times) = told {
        let said = vm.get(&format!("{root}/told"))?;
        ensure!(said == "told\n".repeat(times), "{said}");
    }
    Ok(())
}

/// One that reboots itself is down for a moment; who stops it then means it.
fn stopped_between_two_runs(vm: &Vm, container: &Container) -> Result<()> {
    let name = container.name();
    vm.ok(&format!("ctm start {name}"))?;
    is_up(vm, container, 4)?;
    container.run("reboot -f")?;
    vm.until(&format!(
        "[ $(systemctl show -P SubState ctm@{name}) = auto-restart ] && ! ctm status {name}"
    ))?;
    let seen = vm.ok(&format!(
        "ctm rename {name} other 2>&1; echo $?; ctm stop {name}; systemctl show -P ActiveState ctm@{name}
        ctm stop {name} 2>/dev/null; echo $?; wc -l <{}/ups",
        container.root()
    ))?;
    let expected = format!(
        "ctm: container {name} is starting again; `ctm stop {name}` stops it, and then it can be renamed\n32\ninactive\n31\n4"
    );
    ensure!(seen == expected, "{seen}");
    Ok(())
}

/// What stops it and whether it needs a reaper follow from another first process, unless a person says them.
fn another_init(vm: &Vm, container: &Container) -> Result<()> {
    let name = container.name();
    let seen = vm.ok(&format!(
        "ctm set {name} 'init=[\"/bin/init\"]' 2>&1; grep -E '^(stop_signal|reaper)' /etc/ctm/containers/{name}.toml
        ctm set {name} 'init=[\"/bin/sleep\", \"1000\"]' stop_signal=SIGHUP 2>&1
        grep -E '^(stop_signal|reaper)' /etc/ctm/containers/{name}.toml"
    ))?;
    let expected = format!(
        "{name}: stop_signal is \"SIGUSR2\" with this init\n{name}: reaper is false with this init\n\
         reaper = false\nstop_signal = \"SIGUSR2\"\n\
         {name}: reaper is true with this init\nreaper = true\nstop_signal = \"SIGHUP\""
    );
    ensure!(seen == expected, "{seen}");
    Ok(())
}

/// Where systemd does not run containers, the supervisor itself starts one again.
fn without_systemd(vm: &Vm) -> Result<Container> {
    let container = bare(vm, "alone", Users::Own)?;
    container.start()?;
    let ups = format!("{}/ups", container.root());
    let supervisor = vm.ok("pgrep -xf 'ctm run --detached alone'")?;
    for times in 2..4 {
        let pid = container.pid()?;
        container.run("reboot -f")?;
        vm.until(&format!(
            "test $(wc -l <{ups}) = {times} && ctm status alone && ! test -e /proc/{pid}"
        ))?;
    }
    ensure!(vm.ok("pgrep -xf 'ctm run --detached alone'")? == supervisor);
    container.run("poweroff -f")?;
    vm.until("! pgrep -xf 'ctm run --detached alone'")?;
    let status = vm.run("ctm status alone")?;
    ensure!(
        status.status == 31 && status.stdout.contains("powered the container off"),
        "{status:?}"
    );
    Ok(container)
}
