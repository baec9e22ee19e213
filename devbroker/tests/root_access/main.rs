//! Device access on a real kernel: needs root and a cgroup v2 mount.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod filter;
mod ground;
mod takeover;
