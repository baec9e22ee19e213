//! The emulator's process: its command line, its sockets, its end.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use serde_json::json;

use super::agent::Agent;
use super::log::Log;
use super::qmp::Qmp;

const PROGRAM: &str = "qemu-system-x86_64";

/// What the machine is made of, apart from its disk: the same for saving a
/// state and for restoring it, or QEMU refuses the state.
const MACHINE: &str = "-M q35 -accel tcg,thread=multi,tb-size=512 -cpu Nehalem -smp 2 -m 1G \
    -nodefaults -no-user-config -display none -nic none -no-reboot \
    -device virtio-blk-pci,drive=disk -device virtio-serial-pci -device virtconsole,chardev=console \
    -device virtserialport,chardev=agent,name=agent -device virtio-9p-pci,fsdev=share,mount_tag=share \
    -device virtio-rng-pci -device qemu-xhci,id=xhci,p2=8,p3=8 -device virtio-blk-pci,drive=debian";

// Programs at the same addresses each time: the emulator translates a page for the address that it is seen at, and keeps that.
const KERNEL: &str = "console=hvc0 norandmaps quiet loglevel=4 mitigations=off panic=-1 nowatchdog no_timer_check \
    tsc=reliable rcupdate.rcu_expedited=1 selinux=0 systemd.show_status=0 systemd.log_level=notice";

/// What differs from start to start.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    /// The kernel, an ELF file.
    pub(crate) kernel: &'a Path,
    /// The initial RAM disk.
    pub(crate) initrd: &'a Path,
    /// The disk image.
    pub(crate) disk: &'a Path,
    /// The disk with a Debian for containers, which the machine can only read.
    pub(crate) debian: &'a Path,
    /// `raw` or `qcow2`.
    pub(crate) format: &'a str,
    /// Whether what is written to the disk is forgotten at the end.
    pub(crate) forget: bool,
    /// The host's folder that the machine sees.
    pub(crate) share: &'a Path,
    /// A saved state to go on from.
    pub(crate) state: Option<&'a Path>,
    /// Other options than the usual ones, for a machine that is booted.
    pub(crate) options: &'static [&'static str],
    /// An empty folder for sockets.
    pub(crate) folder: &'a Path,
    /// Where the machine's console goes.
    pub(crate) console: &'a Path,
}

/// A running emulator, connected. Ended when dropped.
#[derive(Debug)]
pub(crate) struct Qemu {
    child: Child,
    pub(crate) qmp: Qmp,
    pub(crate) agent: Agent,
}

/// What a saved state depends on besides image and initial RAM disk.
pub(crate) fn fingerprint() -> Result<String> {
    let output = Command::new(PROGRAM)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run {PROGRAM}: run `make prereqs` first"))?;
    Ok(format!(
        "{}{MACHINE}{KERNEL}",
        String::from_utf8_lossy(&output.stdout)
    ))
}

impl Qemu {
    /// Starts the emulator; returns when it runs, not when the guest does.
    pub(crate) fn start(setup: &Setup<'_>, log: &Log) -> Result<Self> {
        let control = listen(&setup.folder.join("qmp"))?;
        let agent = listen(&setup.folder.join("agent"))?;
        let errors = setup.folder.join("errors");
        let text = |path: &Path| path.display().to_string();
        let mut command = Command::new("setpriv");
        // A scenario's thread that dies takes its machine along.
        command.args(["--pdeathsig", "KILL", PROGRAM]);
        command.args(MACHINE.split_whitespace());
        // Of an option that is said twice the last one counts.
        command.args(setup.options);
        command.args(["-kernel", &text(setup.kernel), "-initrd", &text(setup.initrd)]);
        command.args([
            "-append",
            &KERNEL.split_whitespace().collect::<Vec<_>>().join(" "),
        ]);
        let snapshot = if setup.forget { "on" } else { "off" };
        command.args([
            "-drive",
            &format!(
                "file={},if=none,id=disk,format={},snapshot={snapshot},cache=unsafe",
                text(setup.disk),
                setup.format
            ),
        ]);
        command.args([
            "-drive",
            &format!(
                "file={},if=none,id=debian,format=raw,readonly=on",
                text(setup.debian)
            ),
        ]);
        command.args([
            "-chardev",
            &format!("file,id=console,append=on,path={}", text(setup.console)),
        ]);
        command.args([
            "-chardev",
            &format!("socket,id=agent,path={}/agent", text(setup.folder)),
        ]);
        command.args([
            "-fsdev",
            &format!(
                "local,id=share,path={},security_model=none,multidevs=remap,readonly=on",
                text(setup.share)
            ),
        ]);
        command.args(["-qmp", &format!("unix:{}/qmp", text(setup.folder))]);
        if let Some(state) = setup.state {
            command.args(["-incoming", &format!("exec:cat {}", text(state))]);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&errors)?)
            // Temporary overlays of snapshot=on.
            .env("TMPDIR", setup.folder)
            .spawn()
            .context("cannot run setpriv of util-linux")?;
        let connected = (|| {
            let agent = accept(&agent, &mut child, &errors)?;
            let qmp = accept(&control, &mut child, &errors)?;
            Ok((Qmp::new(qmp, log.clone())?, Agent::new(agent, log.clone())?))
        })();
        match connected {
            Ok((qmp, agent)) => Ok(Self { child, qmp, agent }),
            Err(error) => {
                end(&mut child);
                Err(error)
            }
        }
    }

    /// Waits until the emulator has ended by itself, as it does when the guest
    /// powers off or reboots.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Result<()> {
        // The event is QEMU's last word but one; the process then closes its disk.
        self.qmp.event("SHUTDOWN", timeout, |_| true)?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends the emulator orderly, with its disks written back.
    pub(crate) fn quit(&mut self) -> Result<()> {
        self.qmp.execute("quit", &json!({}))?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    // It may have ended already.
    child.kill().ok();
    child.wait().ok();
}

fn listen(path: &Path) -> Result<UnixListener> {
    UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))
}

/// Takes the connection that the emulator makes at its start, unless it ends before.
fn accept(listener: &UnixListener, child: &mut Child, errors: &PathBuf) -> Result<UnixStream> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut polled = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        if nix::poll::poll(&mut polled, PollTimeout::from(100_u8))? > 0 {
            return Ok(listener.accept()?.0);
        }
        if let Some(status) = child.try_wait()? {
            let said = fs::read_to_string(errors).unwrap_or_default();
            bail!("the emulator ended at its start ({status}): {}", said.trim());
        }
        if Instant::now() > deadline {
            bail!("the emulator does not come up");
        }
    }
}
