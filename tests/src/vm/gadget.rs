//! USB devices that the machine plugs into itself: gadgets on the two
//! `dummy_hcd` controllers. They are real to the kernel and to udev: a printer,
//! a scanner, a device of several serial functions.

use std::fmt::{self, Write as _};

use anyhow::Result;

use super::agent::Job;
use super::machine::Vm;
use super::usb::Plugged;

/// One of the two emulated host controllers; each has one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    /// `dummy_udc.0`.
    First,
    /// `dummy_udc.1`.
    Second,
}

impl Controller {
    fn number(self) -> u8 {
        match self {
            Self::First => 0,
            Self::Second => 1,
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "dummy_udc.{}", self.number())
    }
}

/// What a gadget is.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// Vendor and product.
    pub ids: (u16, u16),
    /// Its serial number; none if empty.
    pub serial: &'a str,
    /// The name of the product.
    pub product: &'a str,
    /// Its functions in the order of their interfaces, as configfs names them
    /// (`printer.0`, `Loopback.0`, `acm.a`, ...), `FUNCTION:ATTRIBUTE=VALUE` to set one.
    pub functions: &'a [&'a str],
    /// How many nodes it gets, that of the USB device included.
    pub nodes: usize,
}

/// The scanner of the scenarios.
pub const SCANNER: Model<'_> = Model {
    ids: (0x04b8, 0x011f),
    serial: "",
    product: "EPSON Perfection 1670",
    functions: &["Loopback.0"],
    nodes: 1,
};

/// A gadget, plugged or not.
#[derive(Clone, Debug)]
pub struct Gadget {
    vm: Vm,
    name: String,
    ids: (u16, u16),
    nodes: usize,
}

impl Gadget {
    /// A gadget in one's hand. `name` is a word, unique in the machine.
    pub fn new(vm: &Vm, name: &str, model: &Model<'_>) -> Result<Self> {
        let (vendor, product) = model.ids;
        let mut script = format!(
            "set -e; mkdir /sys/kernel/config/usb_gadget/{name}; cd /sys/kernel/config/usb_gadget/{name}
            echo {vendor:#06x} >idVendor; echo {product:#06x} >idProduct; echo 0x0200 >bcdUSB
            mkdir strings/0x409 configs/c.1
            echo Tests >strings/0x409/manufacturer; echo '{}' >strings/0x409/product\n",
            model.product
        );
        if !model.serial.is_empty() {
            writeln!(script, "echo '{}' >strings/0x409/serialnumber", model.serial)?;
        }
        for function in model.functions {
            match function.split_once(':') {
                Some((function, setting)) => {
                    let (attribute, value) = setting.split_once('=').unwrap_or((setting, ""));
                    writeln!(script, "printf %s '{value}' >functions/{function}/{attribute}")?;
                }
                None => writeln!(script, "mkdir functions/{function}")?,
            }
        }
        for function in model.functions.iter().filter(|function| !function.contains(':')) {
            writeln!(script, "ln -s functions/{function} configs/c.1/")?;
        }
        vm.ok(&script)?;
        Ok(Self {
            vm: vm.clone(),
            name: name.to_owned(),
            ids: model.ids,
            nodes: model.nodes,
        })
    }

    /// A scanner (04b8:011f): lsusb and udev take it for one.
    pub fn scanner(vm: &Vm, name: &str) -> Result<Self> {
        Self::new(vm, name, &SCANNER)
    }

    /// One device (0525:a4a6) with so many serial ports, each a `ttyUSBn`, on
    /// interfaces 0, 1, 2, ... The controller has endpoints for four.
    pub fn serial(vm: &Vm, name: &str, serial: &str, ports: usize) -> Result<Self> {
        // No driver claims such a device by itself.
        vm.ok("modprobe usbserial; echo 0525 a4a6 >/sys/bus/usb-serial/drivers/generic/new_id 2>/dev/null || true")?;
        let names: Vec<String> = (0..ports).map(|port| format!("gser.{name}{port}")).collect();
        let functions: Vec<&str> = names.iter().map(String::as_str).collect();
        let model = Model {
            ids: (0x0525, 0xa4a6),
            serial,
            product: "Serial ports",
            functions: &functions,
            nodes: 1 + ports,
        };
        Self::new(vm, name, &model)
    }

    /// Plugs it in and waits until udev is done with all its nodes.
    pub fn plug(&self, into: Controller) -> Result<Plugged> {
        self.plug_now(into)?;
        self.plugged(into)
    }

    /// Waits until udev is done with all nodes of the gadget that was plugged in.
    pub fn plugged(&self, into: Controller) -> Result<Plugged> {
        let (vendor, product) = self.ids;
        self.vm.await_usb(
            &format!("gadget:{}:{vendor:04x}:{product:04x}", into.number()),
            self.nodes,
        )
    }

    /// Plugs it in without waiting for the host's side to notice.
    pub fn plug_now(&self, into: Controller) -> Result<()> {
        self.vm
            .ok(&format!(
                "echo {into} >/sys/kernel/config/usb_gadget/{}/UDC",
                self.name
            ))
            .map(drop)
    }

    /// Plugs in a device of serial ports whose `ttyUSBn` arrive in this order of
    /// interfaces: `&[2, 0, 1]` makes interface 2 the lowest number.
    pub fn plug_in_order(&self, into: Controller, interfaces: &[u8]) -> Result<Plugged> {
        let mut bind = String::new();
        for interface in interfaces {
            writeln!(
                bind,
                "echo \"$device:1.{interface}\" >/sys/bus/usb/drivers/usbserial_generic/bind"
            )?;
        }
        self.vm.ok(&format!(
            "set -e
            echo 0 >/sys/bus/usb/drivers_autoprobe
            echo {into} >/sys/kernel/config/usb_gadget/{}/UDC
            bus=$(basename /sys/devices/platform/dummy_hcd.{}/usb*); device=${{bus#usb}}-1
            for try in $(seq 2500); do [ -e /sys/bus/usb/devices/$device/idVendor ] && break; sleep 0.02; done
            echo 1 >/sys/bus/usb/devices/$device/bConfigurationValue 2>/dev/null || true
            [ -e /sys/bus/usb/devices/$device/driver ] || echo $device >/sys/bus/usb/drivers/usb/bind
            for try in $(seq 2500); do [ -e /sys/bus/usb/devices/$device:1.0 ] && break; sleep 0.02; done
            {bind}echo 1 >/sys/bus/usb/drivers_autoprobe",
            self.name,
            into.number()
        ))?;
        self.plugged(into)
    }

    /// Pulls it out; what udev makes of it comes after. A node that a program
    /// holds open goes when it is closed.
    pub fn unplug(&self) -> Result<()> {
        self.vm
            .ok(&format!(
                "echo '' >/sys/kernel/config/usb_gadget/{}/UDC",
                self.name
            ))
            .map(drop)
    }

    /// The shell command that pulls it out, for scripts that do more in one go.
    pub fn unplug_command(&self) -> String {
        format!("echo '' >/sys/kernel/config/usb_gadget/{}/UDC", self.name)
    }

    /// The shell command that plugs it in, for scripts that do more in one go.
    pub fn plug_command(&self, into: Controller) -> String {
        format!("echo {into} >/sys/kernel/config/usb_gadget/{}/UDC", self.name)
    }
}

/// A printer (03f0:4117) with the far end of its cable: what was printed.
#[derive(Clone, Debug)]
pub struct Printer {
    gadget: Gadget,
    number: u8,
}

impl Printer {
    /// A printer in one's hand. `number` is 0 for the first that is made in this
    /// machine, 1 for the second.
    pub fn new(vm: &Vm, name: &str, serial: &str, number: u8) -> Result<Self> {
        let function = format!("printer.{name}");
        let pnp = format!("{function}:pnp_string=MFG:HP;MDL:LaserJet 1018;CLS:PRINTER;");
        let queue = format!("{function}:q_len=10");
        let model = Model {
            ids: (0x03f0, 0x4117),
            serial,
            product: "HP LaserJet 1018",
            functions: &[&function, &pnp, &queue],
            nodes: 2,
        };
        Ok(Self {
            gadget: Gadget::new(vm, name, &model)?,
            number,
        })
    }

    /// The printer as a gadget.
    pub fn gadget(&self) -> &Gadget {
        &self.gadget
    }

    /// Plugs it in and waits until udev is done with `/dev/usb/lpN`.
    pub fn plug(&self, into: Controller) -> Result<Plugged> {
        self.gadget.plug(into)
    }

    /// Pulls it out.
    pub fn unplug(&self) -> Result<()> {
        self.gadget.unplug()
    }

    /// Starts to print onto paper: the job's output is what arrives. Start it
    /// before writing to the printer, or the writer blocks; kill it in the end.
    pub fn paper(&self) -> Result<Job> {
        let job = self.gadget.vm.start_job(&format!(
            "exec 3</dev/g_printer{}; echo ready >&2; exec cat <&3",
            self.number
        ))?;
        Ok(job)
    }
}
