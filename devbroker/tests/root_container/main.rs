//! What the broker does to containers, on the real kernel. Needs root; makes its own namespaces and leaves the host alone.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod devfs;
mod full_disk;
mod inside;
mod namespace;

/// Not a test: what runs in the containers of the tests.
#[test]
fn container_side() {
    inside::obey();
}
