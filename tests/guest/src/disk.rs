//! Ways past a limit of disk space, for a root in a container.

use std::fs::{self, File};
use std::os::fd::AsRawFd;

use nix::libc;

use crate::raw::call;

/// What succeeded, or why it was refused.
pub type Outcome = Result<String, String>;

fn refused(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

/// `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR` of `linux/fs.h`: the fourth word of the structure is the project.
const GET_ATTRIBUTES: usize = 0x801c_581f;
const SET_ATTRIBUTES: usize = 0x401c_5820;
/// `FS_IOC_GETFLAGS`, `FS_IOC_SETFLAGS`, `FS_PROJINHERIT_FL`.
const GET_FLAGS: usize = 0x8008_6601;
const SET_FLAGS: usize = 0x4008_6602;
const INHERITED: u32 = 0x2000_0000;
/// The kernel looks at 32 bits of an ioctl's command; a filter may look at more.
const BEYOND: usize = 1 << 32;

fn ioctl<T>(file: &File, command: usize, value: &mut T) -> Result<(), String> {
    let descriptor = usize::try_from(file.as_raw_fd()).unwrap_or(usize::MAX);
    let value = (&raw mut *value).addr();
    call(libc::SYS_ioctl, [descriptor, command, value, 0, 0, 0])
        .map(drop)
        .map_err(refused)
}

fn attributes(file: &File) -> Result<[u32; 7], String> {
    let mut words = [0_u32; 7];
    ioctl(file, GET_ATTRIBUTES, &mut words)?;
    Ok(words)
}

/// A file of one's own that is counted for someone else.
pub fn project_of_a_file() -> Outcome {
    let file = File::create("/tmp/project").map_err(|e| e.to_string())?;
    let mut wanted = attributes(&file)?;
    wanted[3] ^= 1;
    ioctl(&file, SET_ATTRIBUTES, &mut wanted)
        .or_else(|_| ioctl(&file, SET_ATTRIBUTES | BEYOND, &mut wanted))?;
    let is = attributes(&file)?[3];
    if is == wanted[3] {
        Ok(format!("project {is}"))
    } else {
        Err(format!("project {is}"))
    }
}

/// A folder whose files are counted for nobody.
pub fn project_not_inherited() -> Outcome {
    fs::create_dir_all("/tmp/unproject").map_err(|e| e.to_string())?;
    let folder = File::open("/tmp/unproject").map_err(|e| e.to_string())?;
    let mut flags = [0_u32; 2];
    ioctl(&folder, GET_FLAGS, &mut flags)?;
    flags[0] ^= INHERITED;
    let wanted = flags[0];
    ioctl(&folder, SET_FLAGS, &mut flags).or_else(|_| ioctl(&folder, SET_FLAGS | BEYOND, &mut flags))?;
    ioctl(&folder, GET_FLAGS, &mut flags)?;
    if flags[0] == wanted {
        Ok(format!("flags {wanted:x}"))
    } else {
        Err(format!("flags {:x}", flags[0]))
    }
}

/// The first again by `file_setattr(2)`, Linux 6.17.
pub fn project_by_call() -> Outcome {
    const FILE_GETATTR: libc::c_long = 468;
    const FILE_SETATTR: libc::c_long = 469;
    let file = File::create("/tmp/project").map_err(|e| e.to_string())?;
    let before = attributes(&file)?[3];
    // `struct file_attr` of `linux/fs.h`: flags of 64 bits, then words of which the third is the project.
    let mut attributes_of_call = [0_u32; 6];
    let path = c"/tmp/project".as_ptr().addr();
    let mut arguments = [
        usize::MAX,
        path,
        attributes_of_call.as_mut_ptr().addr(),
        size_of_val(&attributes_of_call),
        0,
        0,
    ];
    call(FILE_GETATTR, arguments).map_err(refused)?;
    attributes_of_call[4] = before ^ 1;
    arguments[2] = attributes_of_call.as_mut_ptr().addr();
    call(FILE_SETATTR, arguments).map_err(refused)?;
    let is = attributes(&file)?[3];
    if is == before {
        Err(format!("project {is}"))
    } else {
        Ok(format!("project {is}"))
    }
}

/// A subvolume of btrfs, which is counted by itself: `BTRFS_IOC_SUBVOL_CREATE`.
pub fn subvolume() -> Outcome {
    let folder = File::open("/tmp").map_err(|e| e.to_string())?;
    let mut volume = [0_u8; 4096];
    volume[8..12].copy_from_slice(b"vol\0");
    ioctl(&folder, 0x5000_940e, &mut volume)
        .or_else(|_| ioctl(&folder, 0x5000_940e | BEYOND, &mut volume))?;
    fs::remove_dir("/tmp/vol").map_err(|e| e.to_string())?;
    Ok("made".into())
}
