//! Effects on the host and in containers, one concern a file. Used by the daemon's executor and, for what a container
//! needs before it starts, by ctm.

pub mod access;
pub mod alias_links;
pub mod alias_records;
pub mod alias_targets;
pub mod cgroup;
pub mod devfs;
pub mod event;
pub mod hook;
pub mod ledger;
pub mod monitor;
pub mod namespace;
pub mod oci;
pub mod process;
pub mod remember;
pub mod rule_aliases;
pub mod sysfs;
pub mod systemd;
pub mod takeover;
pub mod udev_queue;
pub mod udev_record;
pub mod unit_rules;
mod usb_port;
pub mod watch;
