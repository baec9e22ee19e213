//! A machine that runs: commands in it, files into and out of it, waiting for
//! what happens in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::agent::{Job, Output};
use super::lab::Lab;
use super::log::Log;
use super::qemu::{Qemu, Setup};
use super::state;

/// A command that takes longer has hung, also under emulation on a busy host.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Mounts the programs and makes this restored machine differ from its siblings
/// in what must differ: the time and the entropy.
const WAKE: &str = "
set -e
[ -d /sys/module/9pnet_virtio ] || modprobe 9pnet_virtio
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose share /shared
[ /usr/lib/ctm/init -nt /shared/ctm-init ] || install -D /shared/ctm-init /usr/lib/ctm/init
";

/// A virtual machine. Clones are the same machine; it ends with its lab.
#[derive(Clone, Debug)]
pub struct Vm(Arc<Machine>);

#[derive(Debug)]
struct Machine {
    qemu: RwLock<Qemu>,
    log: Log,
    folder: TempDir,
    console: PathBuf,
    paths: Paths,
    /// The disk that survives a reboot.
    kept: bool,
}

/// What it was started from, to start it again.
#[derive(Debug)]
struct Paths {
    kernel: PathBuf,
    initrd: PathBuf,
    disk: PathBuf,
    debian: PathBuf,
    share: PathBuf,
    options: &'static [&'static str],
}

impl Vm {
    pub(crate) fn restore(lab: &Lab) -> Result<Self> {
        let start = Instant::now();
        let saved = lab.saved();
        let vm = Self::start(lab, new_folder()?, saved.disk(), Some(&saved.state()), &[])?;
        vm.log()
            .add("#", &format!("restored in {} ms", start.elapsed().as_millis()));
        Ok(vm)
    }

    pub(crate) fn boot(lab: &Lab, options: &'static [&'static str]) -> Result<Self> {
        let folder = new_folder()?;
        let disk = folder.path().join("disk.qcow2");
        state::overlay(&lab.saved().image.disk(), "raw", &disk)?;
        Self::start(lab, folder, disk, None, options)
    }

    /// From a state, or from its disk, which it keeps then.
    fn start(
        lab: &Lab,
        folder: TempDir,
        disk: PathBuf,
        state: Option<&Path>,
        options: &'static [&'static str],
    ) -> Result<Self> {
        let kept = state.is_none();
        let paths = Paths {
            kernel: lab.saved().image.kernel(),
            initrd: lab.saved().initrd(),
            disk,
            debian: lab.saved().image.debian(),
            share: lab.share().to_owned(),
            options,
        };
        let console = lab.next_console();
        let log = lab.log().clone();
        let qemu = launch(&paths, state, kept, folder.path(), &console, &log)?;
        let vm = Self(Arc::new(Machine {
            qemu: RwLock::new(qemu),
            log,
            folder,
            console,
            paths,
            kept,
        }));
        lab.keep(&vm);
        vm.wake()?;
        Ok(vm)
    }

    fn wake(&self) -> Result<()> {
        self.qemu()
            .agent
            .hello(Duration::from_secs(400))
            .with_context(|| format!("the machine does not come up; its console:\n{}", self.console()))?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("the host's clock is before 1970")?;
        self.ok(&format!("date -s @{} >/dev/null\n{WAKE}", now.as_secs_f64()))
            .map(drop)
    }

    /// Runs a script with bash in the machine, as root, and waits for its end.
    pub fn run(&self, script: &str) -> Result<Output> {
        self.run_within(PATIENCE, script)
    }

    /// The same with a time limit of one's own.
    pub fn run_within(&self, timeout: Duration, script: &str) -> Result<Output> {
        let output = self.start_job(script)?.wait(timeout);
        output.with_context(|| format!("console:\n{}", self.console()))
    }

    /// Runs a script that must succeed; returns what it wrote to standard
    /// output, without the line end at its end.
    pub fn ok(&self, script: &str) -> Result<String> {
        let output = self.run(script)?;
        ensure!(
            output.success(),
            "status {} of: {script}\n{}{}",
            output.status,
            output.stdout,
            output.stderr
        );
        Ok(output.stdout.trim_end().to_owned())
    }

    /// Runs a script that must fail; returns what it wrote.
    pub fn fails(&self, script: &str) -> Result<Output> {
        let output = self.run(script)?;
        ensure!(
            !output.success(),
            "succeeded, but must not: {script}\n{}{}",
            output.stdout,
            output.stderr
        );
        Ok(output)
    }

    /// Starts a script and returns at once.
    pub fn start_job(&self, script: &str) -> Result<Job> {
        self.qemu().agent.start(script)
    }

    /// Waits, in the machine, until a script succeeds; a failing one is tried
    /// again every 20 ms. Says in the error what it wrote last.
    pub fn until(&self, script: &str) -> Result<()> {
        let looped =
            format!("while ! ( {script}\n) >/run/until.$$ 2>&1; do sleep 0.02; done; rm -f /run/until.$$");
        let job = self.start_job(&looped)?;
        if job.wait(PATIENCE).is_ok() {
            return Ok(());
        }
        job.kill().ok();
        let last = self.run(script)?;
        bail!(
            "never came true within {} s: {script}\n{}{}",
            PATIENCE.as_secs(),
            last.stdout,
            last.stderr
        )
    }

    /// Waits until a path exists in the machine.
    pub fn wait_path(&self, path: &str) -> Result<()> {
        self.ok(&format!("probe wait-path '{path}'")).map(drop)
    }

    /// Waits until a path no longer exists in the machine.
    pub fn wait_gone(&self, path: &str) -> Result<()> {
        self.ok(&format!("probe wait-path --gone '{path}'")).map(drop)
    }

    /// Waits until udev has nothing left to do.
    pub fn settle(&self) -> Result<()> {
        self.ok("udevadm settle --timeout=100").map(drop)
    }

    /// Installs the programs, units and rules in the machine as `make install`
    /// does. Nothing is started.
    pub fn install(&self) -> Result<()> {
        self.ok("cp -r --preserve=mode /shared/root/. / && systemd-sysusers && systemd-tmpfiles --create devbroker.conf
            systemctl daemon-reload && udevadm control --reload")
            .map(drop)
    }

    /// Writes a file in the machine, folders above it included.
    pub fn put(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let job = self.start_job(&format!("mkdir -p \"$(dirname '{path}')\" && cat >'{path}'"))?;
        job.write(content.as_ref())?;
        job.close_input()?;
        let output = job.wait(PATIENCE)?;
        ensure!(
            output.success(),
            "cannot write {path} in the machine: {}",
            output.stderr
        );
        Ok(())
    }

    /// Reads a text file in the machine.
    pub fn get(&self, path: &str) -> Result<String> {
        let output = self.run(&format!("cat '{path}'"))?;
        ensure!(
            output.success(),
            "cannot read {path} in the machine: {}",
            output.stderr
        );
        Ok(output.stdout)
    }

    /// Executes a command of QEMU's machine protocol.
    pub fn qmp(&self, command: &str, arguments: &Value) -> Result<Value> {
        self.qemu().qmp.execute(command, arguments)
    }

    /// Waits for an event of QEMU's machine protocol and takes it.
    pub fn qmp_event(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.qemu().qmp.event(name, PATIENCE, wanted)
    }

    /// Shuts the machine down with systemd and boots it again from the disk it
    /// has left. Only for machines of [`Lab::boot`].
    pub fn reboot(&self) -> Result<()> {
        self.power_off()?;
        self.power_on()
    }

    /// Shuts the machine down with systemd; [`Vm::power_on`] goes on from there.
    pub fn power_off(&self) -> Result<()> {
        ensure!(self.0.kept, "a restored machine cannot boot again: use Lab::boot");
        self.start_job("systemctl --no-block start poweroff.target")?;
        self.qemu_mut()
            .wait(Duration::from_secs(400))
            .with_context(|| format!("console:\n{}", self.console()))
    }

    /// Takes the machine's power away: nothing in it gets to do anything. What
    /// it had written to its disk counts, as with a disk that keeps its word.
    pub fn power_cut(&self) -> Result<()> {
        ensure!(self.0.kept, "a restored machine cannot boot again: use Lab::boot");
        self.qemu_mut().quit()
    }

    /// Boots the machine again.
    pub fn power_on(&self) -> Result<()> {
        let folder = tempfile::Builder::new().prefix("on").tempdir_in(self.folder())?;
        let machine = &self.0;
        let qemu = launch(
            &machine.paths,
            None,
            true,
            &folder.keep(),
            &machine.console,
            &machine.log,
        )?;
        *self.qemu_mut() = qemu;
        self.wake()
    }

    /// What the machine's kernel and systemd wrote to the console.
    pub fn console(&self) -> String {
        fs::read_to_string(&self.0.console).unwrap_or_default()
    }

    /// A folder on the host that lives as long as the machine.
    pub fn folder(&self) -> &Path {
        self.0.folder.path()
    }

    /// The scenario's log, for notes of its own.
    pub fn log(&self) -> &Log {
        &self.0.log
    }
    fn qemu(&self) -> RwLockReadGuard<'_, Qemu> {
        self.0.qemu.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn qemu_mut(&self) -> RwLockWriteGuard<'_, Qemu> {
        self.0.qemu.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What one wants to know of a machine in which something went wrong.
    pub(crate) fn post_mortem(&self) {
        let script = "journalctl -b --no-pager -n 150 -o short-monotonic; systemctl --failed --no-pager; \
            ls -lR /dev/devbroker /run/devbroker 2>&1 | head -100; ps axf -o pid,stat,wchan:20,args | grep -v ' \\['";
        let told = self
            .start_job(script)
            .and_then(|job| job.wait(Duration::from_secs(20)));
        if let Err(error) = told {
            self.log()
                .add("#", &format!("the machine tells nothing more: {error:#}"));
        }
        self.log().add("console", &self.console());
    }
}

fn new_folder() -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix("devbroker-")
        .tempdir()
        .context("cannot make a temporary folder")
}

fn launch(
    paths: &Paths,
    state: Option<&Path>,
    kept: bool,
    folder: &Path,
    console: &Path,
    log: &Log,
) -> Result<Qemu> {
    let setup = Setup {
        kernel: &paths.kernel,
        initrd: &paths.initrd,
        disk: &paths.disk,
        debian: &paths.debian,
        format: "qcow2",
        forget: !kept,
        share: &paths.share,
        state,
        options: paths.options,
        folder,
        console,
    };
    Qemu::start(&setup, log)
}
