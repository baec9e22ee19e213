//! System calls that no crate wraps: the only `unsafe` code of this crate. Each function is one call with its arguments
//! checked by types; what the calls are for is decided elsewhere.
#![expect(unsafe_code, reason = "raw system calls; every block says why it is sound")]

pub mod bpf;
pub(crate) mod inherited;
pub(crate) mod mount;
pub(crate) mod process;
pub(crate) mod socket;
pub(crate) mod wait;
pub mod xattr;
