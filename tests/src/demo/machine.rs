//! The story in the virtual machine, on an emulated USB printer.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;

use super::story::{self, Hello, Part, Stage};
use crate::vm::{Broker, Container, Controller, Lab, Output, Printer, Users, Vm};

const CONFIGURATION: &str = r#"
[alias.laser]
match = { vendor = "03f0", product = "4117", serial = "LJ1018" }

[[grant]]
alias = "laser"
container = "ctm:office"
path = "printer"
"#;

const SOON: Duration = Duration::from_secs(120);

/// Tells the story to `out`; the last line is `demo: ok`.
pub fn run(lab: &Lab, out: &mut dyn Write) -> Result<()> {
    writeln!(
        out,
        "A Debian machine under emulation, with real udev. Nothing here touches your host.\n"
    )?;
    let vm = lab.restore()?;
    let broker = Broker::start(&vm, CONFIGURATION)?;
    let printer = Printer::new(&vm, "laserjet", "LJ1018", 0)?;
    let other = Printer::new(&vm, "other", "OTHER", 1)?;
    let office = Container::create(&vm, "office", Users::Own)?;
    let machine = Machine {
        vm,
        broker,
        printer,
        other,
        office,
    };
    story::tell(&machine, out)
}

struct Machine {
    vm: Vm,
    broker: Broker,
    printer: Printer,
    other: Printer,
    office: Container,
}

impl Stage for Machine {
    fn part(&self) -> Part {
        Part {
            thing: "printer",
            alias: "laser",
            container: "office".to_owned(),
            configuration: CONFIGURATION.to_owned(),
        }
    }

    fn run(&self, script: &str) -> Result<Output> {
        self.vm.run(script)
    }

    fn start_container(&self) -> Result<()> {
        self.office.start()
    }

    fn settle(&self) -> Result<()> {
        self.broker.settle()
    }

    fn plug(&self) -> Result<Vec<String>> {
        Ok(self.printer.plug(Controller::First)?.nodes)
    }

    fn unplug(&self, node: &str) -> Result<()> {
        self.printer.unplug()?;
        self.vm.wait_gone(node)
    }

    fn plug_other(&self) -> Result<()> {
        self.other.plug(Controller::Second).map(drop)
    }

    fn hello(&self, text: &str) -> Result<Hello> {
        let paper = self.printer.paper()?;
        self.office.ok(&format!("echo '{text}' >/dev/printer"))?;
        let printed = paper.wait_for(text, SOON)?;
        paper.kill()?;
        Ok(Hello {
            how: "The container prints; the emulated printer received:",
            arrived: printed,
        })
    }
}
