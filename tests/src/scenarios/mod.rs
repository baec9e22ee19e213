//! The scenarios: each a function that is given a lab, makes machines in it and
//! says what must hold there.

mod ctm_basic;
mod machine;
mod usb_fixtures;

use anyhow::Result;

use crate::vm::Lab;

/// One scenario.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name, as in `make scenario NAME=...`.
    pub name: &'static str,
    /// What happens in it, in one line.
    pub about: &'static str,
    /// Runs it; the error says what did not hold.
    pub run: fn(&Lab) -> Result<()>,
}

/// All scenarios, in the order in which they run: long ones first.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "ctm-basic",
        about: "containers, plain and with own users, by ctm and by systemd: closed by default, nothing left",
        run: ctm_basic::run,
    },
    Scenario {
        name: "machine",
        about: "commands, files, the probe, installing, a disk that outlives reboots",
        run: machine::run,
    },
    Scenario {
        name: "usb-fixtures",
        about: "printer, scanner, serial ports, sticks, hub and disk work with real udev",
        run: usb_fixtures::run,
    },
];
