//! Raw system calls: the loop devices' ioctls (`linux/loop.h`), which no crate wraps.
#![expect(unsafe_code, reason = "loop-control knows nothing but ioctls")]

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

nix::ioctl_write_int_bad!(ctl_add, 0x4C80);
nix::ioctl_write_int_bad!(ctl_remove, 0x4C81);
nix::ioctl_none_bad!(clear, 0x4C01);

/// Makes the loop device of this number; `EEXIST` if there is one.
pub(crate) fn loop_add(control: &File, number: u16) -> Result<(), Errno> {
    // SAFETY: the ioctl takes an integer and touches no memory of ours.
    unsafe { ctl_add(control.as_raw_fd(), number.into()) }.map(drop)
}

/// Removes the loop device of this number; `EBUSY` while someone has it open or it has a file.
pub(crate) fn loop_remove(control: &File, number: u16) -> Result<(), Errno> {
    // SAFETY: the ioctl takes an integer and touches no memory of ours.
    unsafe { ctl_remove(control.as_raw_fd(), number.into()) }.map(drop)
}

/// Takes the file from a loop device; `ENXIO` if it has none.
pub(crate) fn loop_clear(device: &File) -> Result<(), Errno> {
    // SAFETY: the ioctl takes no argument.
    unsafe { clear(device.as_raw_fd()) }.map(drop)
}
