//! The daemon: one task that owns all state, fed by udev, the kernel, the hook, registrations, configuration and the API.

mod answers;
mod foreign;
mod granted;
mod history;
mod host_state;
mod inputs;
mod paths;
#[cfg(test)]
mod properties;
mod registration;
mod retry;
mod run;
mod runtime;
mod served;
mod state;
mod storage;
mod views;
mod why;

pub use paths::Paths;
pub use run::{Options, run};
