//! devbroker's library: what the daemon, its command line and ctm share.
//!
//! Dependencies point downwards only: `model` knows nobody, the pure parts know `model`, effects know the pure parts.

pub mod access;
pub mod accounts;
pub mod api;
pub mod client;
pub mod config;
pub mod daemon;
mod executor;
mod fail_point;
pub mod host;
pub mod model;
pub mod permissions;
pub mod plan;
pub mod policy;
pub mod server;
pub mod sys;
