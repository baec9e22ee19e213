//! What the host's harness and the programs inside the test machine share: the
//! frames on the virtio-serial port.
//!
//! Owns no policy and no I/O beyond reading and writing one frame. The crate
//! depends on little, because its programs are linked statically to run in any
//! guest and in any container.

pub mod demand;
pub mod disk;
pub mod frame;
pub mod look;
pub mod plugged;
pub mod raw;
pub mod typist;
