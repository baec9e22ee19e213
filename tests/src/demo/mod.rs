//! `make demo`: the whole story, told as it happens, on an emulated printer in the virtual machine; with `HOST=1` on the host
//! itself, with a disk in a file.
//!
//! [`story`] tells it, once for both; [`machine`] and [`host`] are the places where it happens.

mod host;
mod machine;
mod prepare;
mod story;

pub use host::{host_qualifies, inside, on_host};
pub use machine::run;
