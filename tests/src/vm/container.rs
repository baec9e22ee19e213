//! A container of ctm's in a machine, small enough to be made in half a second.

use anyhow::{Context, Result, ensure};

use super::agent::Output;
use super::machine::Vm;
use super::probe::Watch;

/// Whose user ids a container has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// The host's.
    Host,
    /// Its own, in a user namespace.
    Own,
}

impl Users {
    /// Both, for scenarios in which it makes a difference.
    pub const BOTH: [Self; 2] = [Self::Host, Self::Own];

    const fn option(self) -> &'static str {
        match self {
            Self::Host => "--no-userns",
            Self::Own => "--userns",
        }
    }
}

/// Does nothing until it is told to stop.
const IDLE: &str = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";

/// A container; it stays when this value goes.
#[derive(Clone, Debug)]
pub struct Container {
    vm: Vm,
    name: String,
    root: String,
}

impl Container {
    /// Creates one that does nothing, from the small root file system of the machine, with the probe in it.
    pub fn create(vm: &Vm, name: &str, users: Users) -> Result<Self> {
        Self::running(vm, name, users, IDLE)
    }

    /// The same with a shell script, in which there is no `"`, as its first process.
    pub fn running(vm: &Vm, name: &str, users: Users, script: &str) -> Result<Self> {
        let init = format!("/bin/sh -c \"{}\"", script.replace('$', "\\$"));
        Self::with_init(vm, name, users, &init)
    }

    /// The same with these words of the shell as its first process.
    pub fn with_init(vm: &Vm, name: &str, users: Users, init: &str) -> Result<Self> {
        vm.ok(&format!(
            "ctm create {name} {} --copy --tar /srv/rootfs.tar --init {init}",
            users.option()
        ))?;
        Self::made(vm, name, format!("/var/lib/ctm/{name}/rootfs"))
    }

    /// Creates one that is a whole Debian with systemd as its init. Its root is the disk that all such containers share,
    /// with a layer of its own above it, in which changes of owner take no space.
    pub fn debian(vm: &Vm, name: &str, users: Users) -> Result<Self> {
        Self::layered(vm, name, users, "systemd")
    }

    /// The same with sysvinit as its init.
    pub fn sysvinit(vm: &Vm, name: &str, users: Users) -> Result<Self> {
        Self::layered(vm, name, users, "sysvinit")
    }

    fn layered(vm: &Vm, name: &str, users: Users, lower: &str) -> Result<Self> {
        let root = format!("/srv/debians/{name}/root");
        vm.ok(&format!(
            "set -e
            mkdir -p /srv/debian /srv/debians/{name}/{{upper,work,root}}
            flock /srv sh -c 'mountpoint -q /srv/debian || mount -o ro,noatime /dev/vdb /srv/debian'
            mount -t overlay -o metacopy=on,lowerdir=/srv/debian/{lower},upperdir=/srv/debians/{name}/upper,workdir=/srv/debians/{name}/work overlay {root}
            ctm create {name} {} --rootfs {root} --in-place --init /sbin/init",
            users.option()
        ))?;
        Self::made(vm, name, root)
    }

    /// One that there is already.
    pub fn existing(vm: &Vm, name: &str) -> Self {
        Self {
            vm: vm.clone(),
            name: name.to_owned(),
            root: format!("/var/lib/ctm/{name}/rootfs"),
        }
    }

    fn made(vm: &Vm, name: &str, root: String) -> Result<Self> {
        vm.ok(&format!("cp /shared/probe {root}/bin/probe"))?;
        Ok(Self {
            vm: vm.clone(),
            name: name.to_owned(),
            root,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its root file system as the machine sees it.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Its /dev as the machine sees it, while it runs.
    pub fn dev(&self) -> String {
        format!("/run/ctm/{}/devfs/dev", self.name)
    }

    fn verb(&self, verb: &str) -> Result<()> {
        self.vm.ok(&format!("ctm {verb} {}", self.name)).map(drop)
    }

    /// Starts it; granted devices are there when this returns, if the broker runs.
    pub fn start(&self) -> Result<()> {
        self.verb("start")
    }

    /// Stops it.
    pub fn stop(&self) -> Result<()> {
        self.verb("stop")
    }

    /// Stops it if it runs and removes it.
    pub fn destroy(&self) -> Result<()> {
        self.vm.run(&format!("ctm stop {}", self.name))?;
        self.verb("destroy --yes")
    }

    /// The first process, in the machine's numbers.
    pub fn pid(&self) -> Result<u32> {
        let status = self.vm.ok(&format!("ctm status {} --json", self.name))?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        status
            .get("pid")
            .and_then(serde_json::Value::as_u64)
            .and_then(|pid| u32::try_from(pid).ok())
            .with_context(|| format!("{} has no process", self.name))
    }

    /// Runs a script with the container's shell; it may fail.
    pub fn run(&self, script: &str) -> Result<Output> {
        let quoted = script.replace('\'', "'\\''");
        self.vm
            .run(&format!("exec ctm exec {} -- /bin/sh -c '{quoted}'", self.name))
    }

    /// Runs a script that must succeed; returns what it printed, without the line end at its end.
    pub fn ok(&self, script: &str) -> Result<String> {
        let output = self.run(script)?;
        ensure!(
            output.success(),
            "status {} in {} of: {script}\n{}{}",
            output.status,
            self.name,
            output.stdout,
            output.stderr
        );
        Ok(output.stdout.trim_end().to_owned())
    }

    /// What the probe says of opening `path` for reading: `ok char 180:0 660 0:7`, `EPERM ...`, `ENOENT`.
    pub fn open(&self, path: &str) -> Result<String> {
        Ok(self
            .run(&format!("probe open '{path}'"))?
            .stdout
            .trim_end()
            .to_owned())
    }

    /// Starts opening `path` in it every 200 us.
    pub fn watch_open(&self, path: &str) -> Result<Watch> {
        let stop = format!("/tmp/stop-{}", path.replace('/', "-"));
        let outside = format!("{}{stop}", self.root());
        self.vm
            .watch_open(&format!("ctm exec {} -- probe", self.name), path, &outside, &stop)
    }
}
