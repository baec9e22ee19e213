//! A scanner that is granted to one container of ctm's, for scenarios in which something else happens to that container.

use anyhow::Result;

use crate::vm::{Broker, Controller, Gadget, Vm};

/// The link that stays the same inside, wherever the scanner is.
pub(super) const INSIDE: &str = "/dev/devbroker/scanner";

/// The broker's configuration.
pub(super) fn configuration(container: &str) -> String {
    format!(
        r#"
[alias.scanner]
match = {{ vendor = "04b8", product = "011f" }}

[[grant]]
alias = "scanner"
container = "ctm:{container}"
"#
    )
}

/// The installed programs with a broker, and the scanner plugged in.
pub(super) fn host(vm: &Vm, container: &str) -> Result<Broker> {
    vm.install()?;
    Gadget::scanner(vm, "epson")?.plug(Controller::First)?;
    let broker = Broker::start(vm, &configuration(container))?;
    broker.settle()?;
    Ok(broker)
}

/// Whether the scanner was there at each look, of which there was at least one.
pub(super) fn was_always_there(seen: &[String]) -> bool {
    !seen.is_empty() && seen.iter().all(|outcome| outcome.starts_with("ok char 189:"))
}
