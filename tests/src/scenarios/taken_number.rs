//! What `kept-node` and `minor-reuse` have in common: a granted printer goes, and another one, which nobody is granted, takes
//! its number.

use anyhow::{Result, ensure};

use crate::vm::{Broker, Container, Controller, Printer, Users, Vm};

/// A container that is granted one of two printers.
pub(super) struct TakenNumber<'vm> {
    vm: &'vm Vm,
    /// The one with serial number `LJ1018`.
    printer: Printer,
    other: Printer,
    /// `ctm:box`.
    pub(super) container: Container,
    _broker: Broker,
}

impl<'vm> TakenNumber<'vm> {
    /// The granted printer is plugged in as lp0, and is in the container.
    pub(super) fn begin(vm: &'vm Vm, users: Users, configuration: &str) -> Result<Self> {
        let printer = Printer::new(vm, "laserjet", "LJ1018", 0)?;
        let other = Printer::new(vm, "another", "OTHER", 1)?;
        let container = Container::create(vm, "box", users)?;
        let broker = Broker::start(vm, configuration)?;
        container.start()?;
        printer.plug(Controller::First)?;
        container.ok("probe wait-path /dev/usb/lp0")?;
        Ok(Self {
            vm,
            printer,
            other,
            container,
            _broker: broker,
        })
    }

    /// The granted printer goes, the other one comes as lp0.
    pub(super) fn take(&self) -> Result<()> {
        self.unplug("/dev/usb/lp0")?;
        let taken = self.other.plug(Controller::Second)?;
        ensure!(taken.node("/dev/usb/lp")? == "/dev/usb/lp0", "{taken:?}");
        ensure!(
            self.vm
                .ok("probe open /dev/usb/lp0")?
                .starts_with("ok char 180:0"),
            "the host may"
        );
        Ok(())
    }

    /// The granted printer comes back, as lp1.
    pub(super) fn return_as_lp1(&self) -> Result<()> {
        let again = self.printer.plug(Controller::First)?;
        ensure!(again.node("/dev/usb/lp")? == "/dev/usb/lp1", "{again:?}");
        self.container.ok("probe wait-path /dev/usb/lp1").map(drop)
    }

    /// The granted printer goes, and its node inside with it.
    pub(super) fn unplug(&self, node: &str) -> Result<()> {
        self.printer.unplug()?;
        self.container
            .ok(&format!("probe wait-path --gone {node}"))
            .map(drop)
    }
}
