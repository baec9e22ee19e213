//! Everything that runs the built programs from outside: the virtual machine
//! with real hot-plug ([`vm`]), the scenarios in it ([`scenarios`]), what
//! starts and counts them ([`runner`], [`check`]), which of all tests shows what
//! ([`traps`]), the benchmark on the host ([`bench`]).
//!
//! Knows the product only by its programs' command lines and output; the
//! benchmark makes containers with devbroker's library, as ctm does. `README.md`
//! beside this crate is the manual for those who write scenarios.

pub mod bench;
pub mod check;
pub mod demo;
pub mod runner;
pub mod scenarios;
mod sys;
pub mod traps;
pub mod vm;
