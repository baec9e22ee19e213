//! Containers that ctm did not make: crun's with systemd's cgroups, and podman's. Their filters deny the device until the
//! broker, hardened as its unit has it, takes them over; they get them back.

use anyhow::{Result, ensure};

use crate::vm::{Lab, Stick, Vm};

const CONFIGURATION: &str = r#"
[alias.modem]
match = { serial = "A1B2" }
"#;

/// A container of another engine.
struct Foreign<'a> {
    vm: &'a Vm,
    /// What the broker calls it.
    name: &'static str,
    /// Runs a command inside.
    exec: &'static str,
    pid: String,
    /// Its scope, below the cgroup mount.
    scope: String,
}

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    vm.install()?;
    vm.put("/etc/devbroker/conf.d/modem.toml", CONFIGURATION)?;
    vm.ok("systemctl daemon-reload && systemctl start devbroker.socket devbroker.service")?;
    let stick = Stick::new(&vm, "modem", Some("A1B2"))?;
    let other = Stick::new(&vm, "other", Some("C3"))?;
    let containers = [crun(&vm)?, podman(&vm)?];
    let (_plugged, _line) = stick.plug("1")?;
    let before = containers
        .iter()
        .map(Foreign::filters)
        .collect::<Result<Vec<_>>>()?;
    for container in &containers {
        container.is_denied()?;
        container.is_attached()?;
        container.keeps_it_when_systemd_writes_filters()?;
    }

    // Away, and back under another number.
    stick.unplug()?;
    vm.wait_gone("/dev/ttyUSB0")?;
    for container in &containers {
        vm.until(&format!("! {} test -e /dev/ttyUSB0", container.exec))?;
    }
    let (_plugged, _line) = other.plug("2")?;
    let (_plugged, _line) = stick.plug("1")?;
    for container in &containers {
        let inside = container.exec;
        vm.until(&format!(
            "{inside} probe open /dev/ttyUSB1 --rw | grep -q '^ok char 188:1 '"
        ))?;
        ensure!(vm.ok(&format!("{inside} readlink -f /dev/modem"))? == "/dev/.devbroker/ttyUSB1");
        // The other stick has the number that was theirs; a node from the host opens nothing.
        ensure!(container.opens_node_of_the_host("188 0")? == "EPERM");
    }

    // A broker that was killed takes up where it was.
    vm.ok("systemctl kill -s KILL devbroker.service")?;
    vm.until("devbroker status | grep -q settled")?;
    for container in &containers {
        vm.until(&format!(
            "{} probe open /dev/ttyUSB1 --rw | grep -q '^ok'",
            container.exec
        ))?;
    }
    for (container, before) in containers.iter().zip(&before) {
        container.is_detached()?;
        ensure!(
            container.filters()? == *before,
            "{}: {:?}",
            container.name,
            container.filters()?
        );
    }
    refusals(&vm)
}

/// crun itself, with a scope made by systemd.
fn crun(vm: &Vm) -> Result<Foreign<'_>> {
    vm.ok(
        r#"mkdir -p /srv/oci && cp -a /srv/rootfs /srv/oci/rootfs && cp /shared/probe /srv/oci/rootfs/bin/
cd /srv/oci && crun spec
sed -i 's/"terminal": true/"terminal": false/; s,"sh","/bin/sleep"\, "1000000",' config.json
crun --systemd-cgroup run -d oci </dev/null >/dev/null 2>&1"#,
    )?;
    let pid = vm.ok("crun list | awk '$1 == \"oci\" {print $2}'")?;
    Foreign::new(vm, "oci", "crun exec oci", pid)
}

/// podman, as it comes.
fn podman(vm: &Vm) -> Result<Foreign<'_>> {
    vm.ok("cp -a /srv/oci/rootfs /srv/pod && podman run -d --name pod --rootfs --network none /srv/pod /bin/sleep 1000000")?;
    let pid = vm.ok("podman inspect --format '{{.State.Pid}}' pod")?;
    Foreign::new(vm, "pod", "podman exec pod", pid)
}

impl<'a> Foreign<'a> {
    fn new(vm: &'a Vm, name: &'static str, exec: &'static str, pid: String) -> Result<Self> {
        let scope = vm.ok(&format!("cut -d: -f3 /proc/{pid}/cgroup | sed 's#/container$##'"))?;
        ensure!(scope.contains(".scope"), "{name} is in {scope}");
        Ok(Self {
            vm,
            name,
            exec,
            pid,
            scope,
        })
    }

    /// Names and kinds of the device programs on its cgroups, and what systemd would allow it, in no order of its own.
    fn filters(&self) -> Result<String> {
        let scope = &self.scope;
        let unit = scope.rsplit('/').next().unwrap_or_default();
        self.vm.ok(&format!(
            "for c in {scope} {scope}/container; do bpftool cgroup list /sys/fs/cgroup$c | awk 'NR > 1 {{print $2, $3, $4}}'; done
             systemctl show -p DeviceAllow,DevicePolicy '{unit}' | sort"
        ))
    }

    /// What comes of opening, inside, a node with this number that the host put there.
    fn opens_node_of_the_host(&self, number: &str) -> Result<String> {
        let (pid, exec) = (&self.pid, self.exec);
        let node = format!("/proc/{pid}/root/dev/planted");
        self.vm
            .ok(&format!("rm -f {node}; mknod -m 666 {node} c {number}"))?;
        let outcome = self.vm.run(&format!("{exec} probe open /dev/planted --rw"))?;
        self.vm.ok(&format!("rm {node}"))?;
        Ok(outcome.stdout.split(' ').next().unwrap_or_default().to_owned())
    }

    fn is_denied(&self) -> Result<()> {
        ensure!(
            self.opens_node_of_the_host("188 0")? == "EPERM",
            "{} is not denied at first",
            self.name
        );
        self.vm
            .fails(&format!("{} test -e /dev/ttyUSB0", self.exec))
            .map(drop)
    }

    fn is_attached(&self) -> Result<()> {
        let Self {
            vm, name, exec, pid, ..
        } = self;
        let said = vm.ok(&format!(
            "devbroker attach modem --pid {pid} --name {name} --path modem --group dialout --mode 0660"
        ))?;
        ensure!(
            said.contains(&format!("granted to pid:{name}")) && said.contains("/dev/ttyUSB0"),
            "{said}"
        );
        let opened = vm.ok(&format!("{exec} probe open /dev/ttyUSB0 --rw"))?;
        ensure!(opened == "ok char 188:0 660 0:20", "{name}: {opened}");
        ensure!(vm.ok(&format!("{exec} readlink -f /dev/modem"))? == "/dev/.devbroker/ttyUSB0");
        // What its runtime lets it have it still has; the rest is denied as before.
        for node in ["null", "zero", "full", "random", "urandom"] {
            let opened = vm.ok(&format!("{exec} probe open /dev/{node}"))?;
            ensure!(opened.starts_with("ok char 1:"), "{name} {node}: {opened}");
        }
        ensure!(self.opens_node_of_the_host("188 1")? == "EPERM");
        let shown = vm.ok(&format!("devbroker containers pid:{name}"))?;
        ensure!(
            shown.contains("running") && shown.contains("/dev/ttyUSB0"),
            "{shown}"
        );
        Ok(())
    }

    fn keeps_it_when_systemd_writes_filters(&self) -> Result<()> {
        let unit = self.scope.rsplit('/').next().unwrap_or_default();
        self.vm.ok("systemctl daemon-reload")?;
        self.vm
            .ok(&format!("systemctl set-property --runtime '{unit}' CPUWeight=50"))?;
        let opened = self
            .vm
            .ok(&format!("{} probe open /dev/ttyUSB0 --rw", self.exec))?;
        ensure!(opened.starts_with("ok char 188:0"), "{}: {opened}", self.name);
        Ok(())
    }

    fn is_detached(&self) -> Result<()> {
        let Self { vm, name, exec, .. } = self;
        let said = vm.ok(&format!("devbroker detach modem pid:{name}"))?;
        ensure!(said.contains("/dev/ttyUSB1"), "{said}");
        vm.fails(&format!("{exec} test -e /dev/ttyUSB1"))?;
        vm.fails(&format!("{exec} test -e /dev/.devbroker"))?;
        vm.fails(&format!("{exec} test -L /dev/modem"))?;
        ensure!(
            self.opens_node_of_the_host("188 1")? == "EPERM",
            "{name} keeps its access"
        );
        Ok(())
    }
}

/// What is no container is refused, and why is said.
fn refusals(vm: &Vm) -> Result<()> {
    for (pid, said) in [
        ("1", "not in a container"),
        ("$$", "not in a container"),
        ("999999", "999999"),
    ] {
        let refused = vm.fails(&format!("devbroker attach modem --pid {pid}"))?;
        ensure!(refused.stderr.contains(said), "{pid}: {}", refused.stderr);
    }
    Ok(())
}
