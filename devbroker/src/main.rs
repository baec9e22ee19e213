//! The `devbroker` program: daemon and command line.

fn main() {}
