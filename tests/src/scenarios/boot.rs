//! systemd starts the broker and two containers at boot, with a device that is plugged in already, and shuts all of it down
//! while it is in use.

use anyhow::{Context, Result, ensure};

use crate::vm::{Broker, Container, Controller, Lab, Users, Vm, plugged_at_boot};

const CONFIGURATION: &str = r#"
[alias.epson]
match = { vendor = "04b8", product = "011f" }

[[grant]]
alias = "epson"
container = "ctm:office-*"
path = "scanner"
"#;

/// Its first deed is to look; what it saw at each of its starts is a line of /seen.
const WITNESS: &str = "probe open /dev/scanner >>/seen 2>&1; \
    trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";

/// Replugs the scanner in the middle of a shutdown: once while the containers are being stopped, once after them.
const LATE: &str = "[Unit]
Description=a scanner that comes while the machine shuts down
After=devbroker.service
Before=ctm@office-plain.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=true
ExecStop=bash -c 'echo \"\" >/sys/kernel/config/usb_gadget/epson/UDC; echo dummy_udc.1 >/sys/kernel/config/usb_gadget/late/UDC; udevadm settle'
[Install]
WantedBy=multi-user.target
";

/// The last that runs before the machine goes off: what is left is told on the console.
const LAST_LOOK: &str = "#!/bin/bash
{ echo LAST LOOK
find /run/ctm /run/devbroker /var/lib/ctm \\( -type c -o -type b \\) -printf 'node %p\\n'
find /run/ctm -mindepth 1 -maxdepth 1 ! -name '.*' -printf 'run %p\\n'
find /run/devbroker/containers -type f -printf 'registration %p\\n'
grep -E ' /run/ctm| /var/lib/ctm' /proc/mounts
pgrep -x 'ctm|probe|devbroker' | sed 's/^/process /'
echo END; } >/dev/hvc0 2>/dev/null
";

struct Office {
    vm: Vm,
    containers: Vec<Container>,
}

impl Office {
    fn new(lab: &Lab) -> Result<Self> {
        let vm = lab.boot()?;
        vm.install()?;
        Broker::configure(&vm, CONFIGURATION)?;
        let containers = [("office-plain", Users::Host), ("office-own", Users::Own)]
            .into_iter()
            .map(|(name, users)| Container::running(&vm, name, users, WITNESS))
            .collect::<Result<Vec<_>>>()?;
        plugged_at_boot(&vm, &[("epson", Some(Controller::First)), ("late", None)])?;
        vm.ok("systemctl enable -q devbroker.service devbroker.socket; ctm enable office-plain office-own; sync")?;
        Ok(Self { vm, containers })
    }

    /// Starts what a boot would.
    fn start(&self) -> Result<()> {
        self.vm.ok("systemctl start $(systemctl list-unit-files --state=enabled 'plug-*' --no-legend | cut -d' ' -f1) devbroker ctm@office-plain ctm@office-own")?;
        self.is_up()
    }

    /// Waits until the boot is through; both containers run.
    fn is_up(&self) -> Result<()> {
        self.vm.until("systemctl is-system-running --wait >/dev/null; for unit in devbroker ctm@office-plain ctm@office-own; do systemctl is-active -q $unit || exit 1; done")
    }

    /// What a container saw at each of its starts.
    fn seen(&self, container: &Container) -> Result<Vec<String>> {
        let file = format!("{}/seen", container.root());
        self.vm.wait_path(&file)?;
        Ok(self.vm.get(&file)?.lines().map(str::to_owned).collect())
    }
}

/// The device is there when their init starts.
pub(super) fn boot(lab: &Lab) -> Result<()> {
    let office = Office::new(lab)?;
    let vm = &office.vm;
    vm.reboot()?;
    office.is_up()?;
    for container in &office.containers {
        let seen = office.seen(container)?;
        let [first] = seen.as_slice() else {
            anyhow::bail!("{}: {seen:?}", container.name());
        };
        ensure!(first.starts_with("ok char 189:"), "{}: {first}", container.name());
        ensure!(container.open("/dev/scanner")?.starts_with("ok char 189:"));
    }
    // Each in the cgroup that systemd gave it, with the device program and no other.
    for name in ["office-plain", "office-own"] {
        let unit = vm.ok(&format!("systemctl show -P ControlGroup ctm@{name}"))?;
        ensure!(unit == format!("/ctm.slice/ctm@{name}.service"), "{unit}");
    }

    Ok(())
}

/// The machine is shut down with containers running and a device that comes in the middle: nothing lands outside the
/// containers' own /dev, nothing stale is there after the next start.
pub(super) fn shutdown(lab: &Lab) -> Result<()> {
    let office = Office::new(lab)?;
    let vm = &office.vm;
    vm.put("/usr/lib/systemd/system-shutdown/last-look", LAST_LOOK)?;
    vm.put("/etc/systemd/system/plug-late.service", LATE)?;
    vm.ok("chmod 755 /usr/lib/systemd/system-shutdown/last-look; systemctl daemon-reload; systemctl enable -q plug-late; sync")?;
    office.start()?;
    for container in &office.containers {
        ensure!(container.open("/dev/scanner")?.starts_with("ok char 189:"));
    }

    // What a shutdown may do in any order: the file system goes while the container still runs.
    let plain = office.containers.first().context("no container")?;
    vm.ok("umount -l /run/ctm/office-plain/devfs; echo '' >/sys/kernel/config/usb_gadget/epson/UDC")?;
    vm.until("! lsusb -d 04b8:011f")?;
    vm.ok(
        "echo dummy_udc.0 >/sys/kernel/config/usb_gadget/epson/UDC; probe await-usb gadget:0:04b8:011f 1
        udevadm settle; env -i PATH=$PATH /usr/lib/devbroker/hook --wait",
    )?;
    ensure!(
        vm.ok("find /run/ctm/office-plain/devfs -mindepth 1")?.is_empty(),
        "a node landed outside"
    );
    let own = office.containers.get(1).context("no container")?;
    ensure!(
        own.open("/dev/scanner")?.starts_with("ok char 189:"),
        "the other one has lost its device"
    );
    vm.ok("systemctl restart ctm@office-plain")?;
    ensure!(plain.open("/dev/scanner")?.starts_with("ok char 189:"));

    let before = vm.console().len();
    vm.power_off()?;
    let console = vm.console();
    let told = console.get(before..).unwrap_or_default().replace('\r', "");
    let left = told
        .split_once("LAST LOOK\n")
        .and_then(|(_, rest)| rest.split_once("END"))
        .map(|(left, _)| left);
    ensure!(left == Some(""), "left at power-off: {left:?}\n{told}");
    vm.power_on()?;
    office.is_up()?;
    for container in &office.containers {
        ensure!(container.open("/dev/scanner")?.starts_with("ok char 189:"));
        ensure!(
            vm.ok(&format!("find {}/dev -mindepth 1", container.root()))?
                .is_empty(),
            "a node is in the root file system"
        );
    }
    let files = vm.ok("ls /run/devbroker/containers")?;
    ensure!(files == "ctm:office-own.json\nctm:office-plain.json", "{files}");
    ensure!(vm.ok("ls /sys/fs/bpf/devbroker | wc -l")? == "2");
    Ok(())
}
