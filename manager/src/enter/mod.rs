//! Commands in a running container, and the terminals they are on.

pub(crate) mod account;
pub(crate) mod entry;
pub(crate) mod relay;
pub(crate) mod terminal;
