//! Scanners that are plugged in before anything of ours runs, as devices are that are there when a machine is switched on.

use std::fmt::Write as _;

use anyhow::Result;

use super::gadget::Controller;
use super::machine::Vm;

const UNIT: &str = "[Unit]
Description=scanners that are plugged in at power-on
Before=devbroker.service ctm.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/plug-early
[Install]
WantedBy=multi-user.target
";

/// From the next boot on each of these scanners (04b8:011f) is a gadget of its serial number; those with a controller are in it.
pub fn plugged_at_boot(vm: &Vm, scanners: &[(&str, Option<Controller>)]) -> Result<()> {
    let mut script = String::from(
        "#!/bin/bash
set -e
modprobe -a libcomposite usb_f_ss_lb
modprobe dummy_hcd num=2
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
",
    );
    for (serial, controller) in scanners {
        write!(
            script,
            "mkdir /sys/kernel/config/usb_gadget/{serial}
cd /sys/kernel/config/usb_gadget/{serial}
echo 0x04b8 >idVendor; echo 0x011f >idProduct; echo 0x0200 >bcdUSB
mkdir strings/0x409 configs/c.1 functions/Loopback.0
echo {serial} >strings/0x409/serialnumber
ln -s functions/Loopback.0 configs/c.1/
"
        )?;
        if let Some(controller) = controller {
            writeln!(script, "echo {controller} >UDC")?;
        }
    }
    let plugged = scanners
        .iter()
        .filter(|(_, controller)| controller.is_some())
        .count();
    writeln!(
        script,
        "until [ $(lsusb -d 04b8:011f | wc -l) = {plugged} ]; do udevadm settle; done\nudevadm settle"
    )?;
    vm.put("/etc/systemd/system/plug-early.service", UNIT)?;
    vm.put("/usr/local/sbin/plug-early", script)?;
    vm.ok("chmod 755 /usr/local/sbin/plug-early; systemctl daemon-reload; systemctl enable -q plug-early")
        .map(drop)
}
