//! The saved state: a machine that has booted, settled and loaded its modules,
//! written down once and restored for each scenario in a fraction of a second.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::cache::{self, Key};
use super::image::Image;
use super::log::Log;
use super::qemu::{self, Qemu, Setup};

/// Run in the machine before it is saved. Modules come after settling, or their
/// loading delays the boot.
const SETTLE: &str = "
set -e
systemctl is-system-running --wait || systemctl --failed
udevadm settle
modprobe -a 9pnet_virtio 9p overlay fuse loop veth
modprobe -a usbserial ftdi_sio cdc_acm usb_storage uas sd_mod usblp
modprobe -a libcomposite usb_f_printer usb_f_ss_lb usb_f_acm usb_f_serial usb_f_mass_storage usb_f_fs
modprobe dummy_hcd num=2
udevadm settle
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf
# What every scenario starts is read once, so that it is in memory.
cat /usr/bin/crun /usr/bin/getfacl /usr/bin/setfacl /usr/bin/busybox /srv/rootfs/bin/busybox /usr/bin/udevadm /usr/bin/lsusb >/dev/null
ls -lR /srv/rootfs /sys/bus/usb/devices >/dev/null
udevadm info --export-db >/dev/null
sync
echo 3 >/proc/sys/kernel/printk
";

/// A saved machine.
#[derive(Clone, Debug)]
pub struct Saved {
    folder: PathBuf,
    /// The image that it was booted from.
    pub image: Image,
}

impl Saved {
    /// The saved state of an image with this agent, made if it is not there yet.
    pub fn ensure(image: &Image, agent: &Path) -> Result<Self> {
        // The agent counts by its source: each tree and compiler links another program.
        let key = Key::new()
            .add(image.key())
            .add(include_str!("../../guest/src/bin/agent.rs"))
            .add(include_str!("../../guest/src/frame.rs"))
            .add(qemu::fingerprint()?)
            .add(SETTLE)
            .finish();
        let folder = cache::entry(&format!("state-{}", image.suite), &key, |folder| {
            save(image, agent, folder)
        })?;
        Ok(Self {
            folder,
            image: image.clone(),
        })
    }

    /// The disk as it was when the state was saved.
    pub(crate) fn disk(&self) -> PathBuf {
        self.folder.join("disk.qcow2")
    }

    /// The machine's memory and devices.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.join("vm.state")
    }

    /// The initial RAM disk, for cold boots as well.
    pub(crate) fn initrd(&self) -> PathBuf {
        self.folder.join("initrd.cpio")
    }
}

/// Makes an empty disk over another one, which must not change afterwards.
pub(crate) fn overlay(over: &Path, format: &str, to: &Path) -> Result<()> {
    let output = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", format, "-b"])
        .args([over, to])
        .output()
        .context("cannot run qemu-img: run `make prereqs` first")?;
    ensure!(
        output.status.success(),
        "cannot make {}: {}",
        to.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn save(image: &Image, agent: &Path, folder: &Path) -> Result<()> {
    let initrd = folder.join("initrd.cpio");
    let agent = fs::read(agent).with_context(|| format!("cannot read {}", agent.display()))?;
    image.write_initrd(&agent, &initrd)?;
    let disk = folder.join("disk.qcow2");
    overlay(&image.disk(), "raw", &disk)?;
    let log = Log::create(&folder.join("save.log"))?;
    let console = folder.join("console.log");
    let sockets = tempfile::Builder::new().prefix("devbroker-").tempdir()?;
    let share = sockets.path().join("share");
    fs::create_dir(&share)?;
    let mut qemu = Qemu::start(
        &Setup {
            kernel: &image.kernel(),
            initrd: &initrd,
            disk: &disk,
            debian: &image.debian(),
            format: "qcow2",
            forget: false,
            share: &share,
            state: None,
            options: &[],
            folder: sockets.path(),
            console: &console,
        },
        &log,
    )?;
    let settled = qemu
        .agent
        .hello(Duration::from_secs(400))
        .and_then(|()| qemu.agent.start(SETTLE)?.wait(Duration::from_secs(400)))
        .with_context(|| format!("console:\n{}", fs::read_to_string(&console).unwrap_or_default()))?;
    ensure!(settled.success(), "the machine does not settle: {settled:?}");
    let events = json!({ "capabilities": [{ "capability": "events", "state": true }] });
    qemu.qmp.execute("migrate-set-capabilities", &events)?;
    let unlimited = json!({ "max-bandwidth": 1_u64 << 40, "downtime-limit": 60_000 });
    qemu.qmp.execute("migrate-set-parameters", &unlimited)?;
    let state = folder.join("vm.state");
    qemu.qmp.execute(
        "migrate",
        &json!({ "uri": format!("exec:cat >'{}'", state.display()) }),
    )?;
    let ended = qemu.qmp.event("MIGRATION", Duration::from_secs(120), |data| {
        data.get("status")
            .is_some_and(|status| status == "completed" || status == "failed")
    })?;
    ensure!(
        ended.get("status").is_some_and(|status| status == "completed"),
        "saving the state failed: {ended}"
    );
    qemu.quit()
}
