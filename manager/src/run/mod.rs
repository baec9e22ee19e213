//! A container's run: what it is given, who stays with it, what is written down of it, and what it uses.

pub(crate) mod asked;
pub(crate) mod attach;
pub(crate) mod bundle;
pub(crate) mod cgroup;
pub(crate) mod clean;
pub(crate) mod console;
pub(crate) mod counters;
pub(crate) mod crun;
pub(crate) mod failure;
pub(crate) mod hold;
pub(crate) mod hooks;
pub(crate) mod limit;
pub(crate) mod live_mount;
pub(crate) mod namespace;
pub(crate) mod needs;
pub(crate) mod network;
pub(crate) mod output;
pub(crate) mod overlay;
pub(crate) mod privilege;
pub(crate) mod seccomp;
pub(crate) mod state;
pub(crate) mod supervisor;
pub(crate) mod tally;
pub(crate) mod usage;
pub(crate) mod volume;
pub(crate) mod watch;
