//! The udev hook: one datagram to the daemon.

fn main() {}
