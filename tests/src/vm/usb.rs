//! Emulated USB hardware on QEMU's xHCI controller: serial sticks, hubs, disks.
//!
//! A port is written as the kernel writes it: `1` is the controller's first
//! socket, `3.2` the second one of the hub in its third.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};

use anyhow::{Context, Result};
use serde_json::json;

use super::machine::Vm;

/// What one finds of a plugged device in the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugged {
    /// Its folder, below `/sys/devices`.
    pub syspath: String,
    /// All its nodes, `/dev/bus/usb/BBB/DDD` first, the others in the order of
    /// their folders' names.
    pub nodes: Vec<String>,
}

impl Plugged {
    /// The node of the USB device itself.
    pub fn usb(&self) -> &str {
        self.nodes.first().map_or("", String::as_str)
    }

    /// The nodes of its functions.
    pub fn functions(&self) -> &[String] {
        self.nodes.get(1..).unwrap_or_default()
    }

    /// The first node whose path begins so (`/dev/ttyUSB`, `/dev/sd`, ...).
    pub fn node(&self, prefix: &str) -> Result<&str> {
        let node = self.nodes.iter().find(|node| node.starts_with(prefix));
        node.map(String::as_str)
            .with_context(|| format!("no node {prefix}* in {self:?}"))
    }
}

impl Vm {
    /// Waits until the USB device at a place (as the probe names it) has at least
    /// `nodes` nodes, its own included, and udev is done with them.
    pub(crate) fn await_usb(&self, place: &str, nodes: usize) -> Result<Plugged> {
        let text = self.ok(&format!("probe await-usb {place} {nodes}"))?;
        let mut lines = text.lines().map(str::to_owned);
        Ok(Plugged {
            syspath: lines.next().unwrap_or_default(),
            nodes: lines.collect(),
        })
    }

    fn add_usb(
        &self,
        id: &str,
        port: &str,
        device: &mut serde_json::Map<String, serde_json::Value>,
    ) -> Result<()> {
        device.insert("id".to_owned(), json!(id));
        device.insert("bus".to_owned(), json!("xhci.0"));
        device.insert("port".to_owned(), json!(port));
        self.qmp("device_add", &json!(device)).map(drop)
    }

    fn remove_usb(&self, id: &str) -> Result<()> {
        self.qmp("device_del", &json!({ "id": id }))?;
        self.qmp_event("DEVICE_DELETED", |data| {
            data.get("device").is_some_and(|device| device == id)
        })
        .map(drop)
    }
}

/// A serial stick (FTDI, 0403:6001). It has a serial number only if one is given.
#[derive(Debug)]
pub struct Stick {
    vm: Vm,
    id: String,
    serial: Option<String>,
    line: UnixListener,
}

impl Stick {
    /// A stick in one's hand. `id` is its name towards QEMU.
    pub fn new(vm: &Vm, id: &str, serial: Option<&str>) -> Result<Self> {
        let path = vm.folder().join(format!("{id}.line"));
        let line =
            UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
        Ok(Self {
            vm: vm.clone(),
            id: id.to_owned(),
            serial: serial.map(str::to_owned),
            line,
        })
    }

    /// Plugs it in and waits until udev is done with its `ttyUSBn`. Returns also
    /// the far end of the serial line.
    pub fn plug(&self, port: &str) -> Result<(Plugged, UnixStream)> {
        let line = self.plug_now(port)?;
        Ok((self.vm.await_usb(&format!("port:{port}"), 2)?, line))
    }

    /// Plugs it in without waiting for the machine to notice.
    pub fn plug_now(&self, port: &str) -> Result<UnixStream> {
        let path = self.vm.folder().join(format!("{}.line", self.id));
        let chardev = format!("{}-line", self.id);
        let backend = json!({ "type": "socket", "data": { "server": false,
            "addr": { "type": "unix", "data": { "path": path } } } });
        self.vm
            .qmp("chardev-add", &json!({ "id": chardev, "backend": backend }))?;
        let (line, _) = self.line.accept()?;
        let mut device = serde_json::Map::new();
        device.insert("driver".to_owned(), json!("usb-serial"));
        device.insert("chardev".to_owned(), json!(chardev));
        device.insert("always-plugged".to_owned(), json!(true));
        // Left out, QEMU would give every stick the serial number "1".
        device.insert(
            "serial".to_owned(),
            json!(self.serial.as_deref().unwrap_or_default()),
        );
        self.vm.add_usb(&self.id, port, &mut device)?;
        Ok(line)
    }

    /// Pulls it out. The machine notices soon; [`Vm::wait_gone`] waits for that.
    pub fn unplug(&self) -> Result<()> {
        self.vm.remove_usb(&self.id)?;
        self.vm
            .qmp("chardev-remove", &json!({ "id": format!("{}-line", self.id) }))
            .map(drop)
    }
}

/// A hub with eight ports (0409:55aa).
#[derive(Debug)]
pub struct Hub {
    vm: Vm,
    id: String,
}

impl Hub {
    /// A hub in one's hand.
    pub fn new(vm: &Vm, id: &str) -> Self {
        Self {
            vm: vm.clone(),
            id: id.to_owned(),
        }
    }

    /// Plugs it in and waits until udev is done with it.
    pub fn plug(&self, port: &str) -> Result<Plugged> {
        // QEMU's hub now and then tells nobody of what is plugged into it while the kernel suspends it.
        self.vm
            .ok("echo -1 >/sys/module/usbcore/parameters/autosuspend")?;
        let mut device = serde_json::Map::new();
        device.insert("driver".to_owned(), json!("usb-hub"));
        self.vm.add_usb(&self.id, port, &mut device)?;
        self.vm.await_usb(&format!("port:{port}"), 1)
    }

    /// Pulls it out with everything behind it: those devices' own `unplug` must
    /// not be called any more.
    pub fn unplug(&self) -> Result<()> {
        self.vm.remove_usb(&self.id)
    }
}

/// A USB disk (46f4:0001) over a file on the host.
#[derive(Debug)]
pub struct Disk {
    vm: Vm,
    id: String,
    serial: String,
}

const MIB: u64 = 1 << 20;

impl Disk {
    /// A disk in one's hand, with primary partitions of these sizes in MiB.
    pub fn new(vm: &Vm, id: &str, serial: &str, partitions: &[u32]) -> Result<Self> {
        let path = vm.folder().join(format!("{id}.img"));
        let mut file = fs::File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let total: u32 = partitions.iter().sum();
        file.set_len((u64::from(total) + 16) * MIB)?;
        file.write_all_at(&partition_table(partitions), 0)?;
        file.flush()?;
        Ok(Self {
            vm: vm.clone(),
            id: id.to_owned(),
            serial: serial.to_owned(),
        })
    }

    /// Plugs it in and waits until udev is done with its node and those of its
    /// partitions, of which there are `partitions`.
    pub fn plug(&self, port: &str, partitions: usize) -> Result<Plugged> {
        let path = self.vm.folder().join(format!("{}.img", self.id));
        let node = format!("{}-disk", self.id);
        let file = json!({ "driver": "file", "filename": path });
        self.vm.qmp(
            "blockdev-add",
            &json!({ "node-name": node, "driver": "raw", "file": file }),
        )?;
        let mut device = serde_json::Map::new();
        device.insert("driver".to_owned(), json!("usb-storage"));
        device.insert("drive".to_owned(), json!(node));
        device.insert("serial".to_owned(), json!(self.serial));
        self.vm.add_usb(&self.id, port, &mut device)?;
        // Its own, the disk's, the partitions'.
        self.vm.await_usb(&format!("port:{port}"), 2 + partitions)
    }

    /// Pulls it out.
    pub fn unplug(&self) -> Result<()> {
        self.vm.remove_usb(&self.id)?;
        self.vm
            .qmp(
                "blockdev-del",
                &json!({ "node-name": format!("{}-disk", self.id) }),
            )
            .map(drop)
    }
}

/// A master boot record with primary partitions of these sizes in MiB, one after
/// the other from 1 MiB on.
fn partition_table(partitions: &[u32]) -> Vec<u8> {
    let mut record = vec![0; 446];
    let mut start: u32 = 2048;
    for size in partitions.iter().take(4) {
        let sectors = size * 2048;
        // Not bootable; no cylinders; type 0x83; first sector and their number.
        record.extend_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0]);
        record.extend_from_slice(&start.to_le_bytes());
        record.extend_from_slice(&sectors.to_le_bytes());
        start += sectors;
    }
    record.resize(510, 0);
    record.extend_from_slice(&[0x55, 0xaa]);
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_follow_each_other() {
        let record = partition_table(&[8, 4]);
        assert_eq!(record.len(), 512);
        assert_eq!(
            record[446..462],
            [0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0x40, 0, 0]
        );
        assert_eq!(
            record[462..478],
            [0, 0, 0, 0, 0x83, 0, 0, 0, 0, 0x48, 0, 0, 0, 0x20, 0, 0]
        );
        assert_eq!(record[478..], [vec![0; 32], vec![0x55, 0xaa]].concat());
    }
}
