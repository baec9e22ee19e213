//! A virtual machine with real udev and real USB hot-plug, under QEMU's own
//! emulation, so that it is the same on every host.
//!
//! [`image`] makes the disk, [`state`] boots it once and saves the running
//! machine, [`lab`] hands restored or freshly booted machines to scenarios, and
//! [`machine`] is such a machine. [`gadget`] and [`usb`] are what can be plugged in, [`early`] what is before ours runs.

mod agent;
mod cache;
mod cpio;
mod qemu;
mod qmp;

pub mod broker;
pub mod container;
pub mod early;
pub mod gadget;
pub mod image;
pub mod lab;
pub mod log;
pub mod machine;
pub mod probe;
pub mod state;
pub mod usb;

pub use agent::{Job, Output};
pub use broker::Broker;
pub use container::{Container, Users};
pub use early::plugged_at_boot;
pub use gadget::{Controller, Gadget, Printer};
pub use lab::Lab;
pub use machine::Vm;
pub use probe::{Sighting, Watch};
pub use usb::{Disk, Hub, Plugged, Stick};
