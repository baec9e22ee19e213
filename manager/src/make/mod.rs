//! Making a container: base systems, root file systems, what they need to boot in a container. Nothing of it runs one.

mod archives;
pub(crate) mod base;
pub(crate) mod bootstrap;
pub(crate) mod disk;
pub(crate) mod fit;
pub(crate) mod furnish;
pub(crate) mod inside;
pub(crate) mod mirror;
pub(crate) mod ownership;
pub(crate) mod progress;
pub(crate) mod recipe;
pub(crate) mod store;
pub(crate) mod tree;
pub(crate) mod work;
