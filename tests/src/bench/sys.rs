//! The benchmark's raw system calls: loop-control's ioctls, and a socket filter that notes when each message arrives.
#![expect(unsafe_code, reason = "ioctl and bpf(2)")]

use nix::libc;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

// `linux/loop.h`.
nix::ioctl_write_int_bad!(loop_ctl_add, 0x4C80);
nix::ioctl_write_int_bad!(loop_ctl_remove, 0x4C81);

/// Makes loop device `number`.
pub(super) fn add_loop(control: &File, number: i32) -> nix::Result<()> {
    // SAFETY: the ioctl takes an integer and touches no memory of ours.
    unsafe { loop_ctl_add(control.as_raw_fd(), number) }.map(drop)
}

/// Removes it.
pub(super) fn remove_loop(control: &File, number: i32) -> nix::Result<()> {
    // SAFETY: as above.
    unsafe { loop_ctl_remove(control.as_raw_fd(), number) }.map(drop)
}

/// Takes the lock on `file`, or waits for it.
pub(super) fn lock(file: &File) -> nix::Result<()> {
    // SAFETY: flock on an open descriptor touches no memory.
    nix::errno::Errno::result(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) }).map(drop)
}

/// How many messages may lie unread before a stamp is overwritten.
const SLOTS: u32 = 1024;

const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP: libc::c_long = 1;
const PROG_LOAD: libc::c_long = 5;
const MAP_TYPE_ARRAY: u32 = 2;
const PROG_TYPE_SOCKET_FILTER: u32 = 1;

/// `union bpf_attr`: as many words as these commands look at.
#[repr(C, align(8))]
struct Attr([u32; 32]);

impl Attr {
    fn of(words: &[(usize, u32)], addresses: &[(usize, u64)]) -> Self {
        let mut attr = [0; 32];
        let halves = addresses.iter().flat_map(|&(at, address)| {
            let low = u32::try_from(address & u64::from(u32::MAX)).unwrap_or(0);
            let high = u32::try_from(address >> 32).unwrap_or(0);
            // Debian's machines that this runs on are little-endian; a big-endian kernel would refuse the address.
            [(at, low), (at + 1, high)]
        });
        for (at, word) in words.iter().copied().chain(halves) {
            if let Some(slot) = attr.get_mut(at) {
                *slot = word;
            }
        }
        Self(attr)
    }
}

/// # Safety
/// The addresses in `attr` must be valid for what the command does with them.
unsafe fn bpf(command: libc::c_long, attr: &mut Attr) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is zeroed in full but for what the caller answers for, and its length is true.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<Attr>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(result).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: bpf(2) returned this descriptor just now; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn address<T: ?Sized>(value: &T) -> u64 {
    std::ptr::from_ref(value).cast::<()>().expose_provenance() as u64
}

fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> [u8; 8] {
    let [o0, o1] = offset.to_le_bytes();
    let [i0, i1, i2, i3] = immediate.to_le_bytes();
    [code, to | (from << 4), o0, o1, i0, i1, i2, i3]
}

/// A socket filter that keeps every message and notes `CLOCK_MONOTONIC` for each, as it is put into the socket's queue, on
/// the sender's time: nobody is woken for it.
#[derive(Debug)]
pub(super) struct Stamps {
    /// Slot 0 counts the messages; the others hold their times in nanoseconds, by that count.
    map: OwnedFd,
}

impl Stamps {
    /// Puts the filter on a socket that is not bound yet.
    pub(super) fn attach(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let mut attr = Attr::of(&[(0, MAP_TYPE_ARRAY), (1, 4), (2, 8), (3, SLOTS + 1)], &[]);
        // SAFETY: no address.
        let map = owned(unsafe { bpf(MAP_CREATE, &mut attr) }?)?;
        let program = Self::load(map.as_raw_fd())?;
        let fd = program.as_raw_fd();
        // SAFETY: the option is a descriptor, of the length given.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_BPF,
                (&raw const fd).cast(),
                4,
            )
        };
        if result == 0 {
            Ok(Self { map })
        } else {
            Err(io::Error::last_os_error())
        }
    }

    fn load(map: RawFd) -> io::Result<OwnedFd> {
        let slots = i32::try_from(SLOTS).map_err(|_| io::ErrorKind::InvalidInput)?;
        // `linux/bpf.h`; r10 is the frame, r0 what a call returns.
        let code = [
            instruction(0x85, 0, 0, 0, 5),         // r0 = ktime_get_ns()
            instruction(0xbf, 7, 0, 0, 0),         // r7 = r0
            instruction(0x62, 10, 0, -4, 0),       // key = 0
            instruction(0xbf, 2, 10, 0, 0),        // r2 = &key
            instruction(0x07, 2, 0, 0, -4),        //
            instruction(0x18, 1, 1, 0, map),       // r1 = map
            instruction(0, 0, 0, 0, 0),            //
            instruction(0x85, 0, 0, 0, 1),         // r0 = map_lookup_elem(r1, r2)
            instruction(0x15, 0, 0, 12, 0),        // none: keep
            instruction(0xb7, 8, 0, 0, 1),         // r8 = 1
            instruction(0xdb, 0, 8, 0, 1),         // r8 = fetch_and_add(r0, r8)
            instruction(0x57, 8, 0, 0, slots - 1), // r8 %= SLOTS
            instruction(0x07, 8, 0, 0, 1),         // r8 += 1
            instruction(0x63, 10, 8, -4, 0),       // key = r8
            instruction(0xbf, 2, 10, 0, 0),        // r2 = &key
            instruction(0x07, 2, 0, 0, -4),        //
            instruction(0x18, 1, 1, 0, map),       // r1 = map
            instruction(0, 0, 0, 0, 0),            //
            instruction(0x85, 0, 0, 0, 1),         // r0 = map_lookup_elem(r1, r2)
            instruction(0x15, 0, 0, 1, 0),         // none: keep
            instruction(0x7b, 0, 7, 0, 0),         // *r0 = r7
            instruction(0xb7, 0, 0, 0, -1),        // keep all of the message
            instruction(0x95, 0, 0, 0, 0),
        ];
        let count = u32::try_from(code.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let licence = c"Dual MIT/GPL";
        let mut attr = Attr::of(
            &[(0, PROG_TYPE_SOCKET_FILTER), (1, count)],
            &[(2, address(&code)), (4, address(licence))],
        );
        // SAFETY: instructions and licence live through the call; the count is theirs.
        owned(unsafe { bpf(PROG_LOAD, &mut attr) }?)
    }

    /// When message `number` (from 0) of the socket was put into its queue, in nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) fn of(&self, number: u32) -> io::Result<u64> {
        let key = number % SLOTS + 1;
        let mut value = 0_u64;
        let map = self.map.as_raw_fd().unsigned_abs();
        let into = std::ptr::from_mut(&mut value).expose_provenance() as u64;
        let mut attr = Attr::of(&[(0, map)], &[(2, address(&key)), (4, into)]);
        // SAFETY: key and value live through the call and have the map's sizes.
        unsafe { bpf(MAP_LOOKUP, &mut attr) }?;
        Ok(value)
    }
}
