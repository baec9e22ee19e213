//! Containers that ctm did not make, for the scenarios of their device filters: crun's and Podman's, both under systemd.

use anyhow::{Context, Result, ensure};

use crate::vm::Vm;

/// Who runs a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    /// crun with the systemd cgroup manager.
    Crun,
    /// Podman, which has crun do it.
    Podman,
}

/// A running container named `foreign`.
#[derive(Clone, Debug)]
pub(super) struct Foreign {
    vm: Vm,
    engine: Engine,
    /// What crun knows it by; Podman's containers are crun's.
    id: String,
    pid: u32,
    scope: String,
}

const ROOT: &str = "/run/foreign-root";

impl Foreign {
    /// Starts one that sleeps; `slice` is where crun is to put it.
    pub(super) fn start(vm: &Vm, engine: Engine, slice: &str) -> Result<Self> {
        vm.ok(&format!(
            "[ -e {ROOT} ] || {{ cp -a /srv/rootfs {ROOT}; cp /shared/probe {ROOT}/bin/; }}"
        ))?;
        let mut id = "foreign".to_owned();
        let pid = match engine {
            Engine::Crun => {
                // An idle program with the specification's own small list of capabilities and devices.
                vm.ok(&format!(
                    r#"mkdir -p /run/bundle && cd /run/bundle && rm -f config.json && crun spec
                    sed -i 's|"terminal": true|"terminal": false|; s|"rootfs"|"{ROOT}"|; s|"sh"|"sleep", "10000"|
                        s|"readonly": true|"readonly": false|; s|"linux": {{|"linux": {{ "cgroupsPath": "{slice}:crun:foreign",|' config.json
                    crun --systemd-cgroup run -d foreign </dev/null >/dev/null 2>/run/crun.err || {{ cat /run/crun.err >&2; exit 1; }}"#
                ))?;
                vm.ok(r#"crun state foreign | sed -n 's/.*"pid": \([0-9]*\).*/\1/p'"#)?
            }
            Engine::Podman => {
                id = vm.ok(&format!(
                    "podman run -d --name foreign --network none --rootfs {ROOT} sleep 10000"
                ))?;
                vm.ok("podman inspect foreign --format '{{.State.Pid}}'")?
            }
        };
        let pid = pid.parse().with_context(|| format!("{engine:?} says {pid:?}"))?;
        let cgroup = vm.ok(&format!("sed s/^0::// /proc/{pid}/cgroup"))?;
        let scope = cgroup
            .strip_suffix("/container")
            .with_context(|| format!("{engine:?} puts it in {cgroup}"))?
            .to_owned();
        let container = Self {
            vm: vm.clone(),
            engine,
            id,
            pid,
            scope,
        };
        // Debian 12's crun does not tell systemd of its rules, as later ones do.
        if container.programs()? == "/ unnamed" {
            vm.ok(&format!(
                "systemctl set-property --runtime {} DevicePolicy=strict 'DeviceAllow=char-* m' 'DeviceAllow=block-* m' \
                 DeviceAllow='/dev/null rwm' DeviceAllow='/dev/zero rwm' DeviceAllow='/dev/full rwm' DeviceAllow='/dev/tty rwm' \
                 DeviceAllow='/dev/random rwm' DeviceAllow='/dev/urandom rwm' DeviceAllow='/dev/ptmx rwm' DeviceAllow='char-pts rwm'",
                container.unit()
            ))?;
        }
        Ok(container)
    }

    /// Its first process.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Its systemd unit.
    pub(super) fn unit(&self) -> &str {
        self.scope.rsplit('/').next().unwrap_or_default()
    }

    /// What runs a program in it.
    pub(super) fn exec(&self) -> String {
        format!("crun exec {}", self.id)
    }

    /// What the probe says of opening `path`.
    pub(super) fn open(&self, path: &str) -> Result<String> {
        let output = self
            .vm
            .run(&format!("exec {} probe open '{path}'", self.exec()))?;
        Ok(output.stdout.trim_end().to_owned())
    }

    /// Has the host put a node into its /dev.
    pub(super) fn put(&self, name: &str, kind_and_number: &str) -> Result<()> {
        self.vm
            .ok(&format!(
                "mknod -m 666 /proc/{}/root/dev/{name} {kind_and_number}",
                self.pid
            ))
            .map(drop)
    }

    /// Whose device programs are on its scope and on its own cgroup; the runtime's have no name.
    pub(super) fn programs(&self) -> Result<String> {
        let names = "awk 'NR > 1 { printf \"%s \", (NF > 3 ? $4 : \"unnamed\") }'";
        let scope = format!("/sys/fs/cgroup{}", self.scope);
        self.vm.ok(&format!(
            "echo $(bpftool cgroup list {scope} | {names})/ $(bpftool cgroup list {scope}/container | {names})"
        ))
    }

    /// Ends it.
    pub(super) fn end(&self) -> Result<()> {
        let command = match self.engine {
            Engine::Crun => "crun delete -f foreign",
            Engine::Podman => "podman rm -f -t 0 foreign",
        };
        self.vm.ok(command)?;
        let gone = self.vm.run(&format!("test -e /sys/fs/cgroup{}", self.scope))?;
        ensure!(!gone.success(), "{} outlives its container", self.scope);
        Ok(())
    }
}
