//! The clock, counters, sockets and limits that all share.

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use devbroker_guest::raw::call;
use nix::errno::Errno;
use nix::libc;

use crate::outcome::{Outcome, raw, refused};
use crate::say;

pub(crate) fn clock_set() -> Outcome {
    let mut now = [0_i64; 2];
    call(libc::SYS_clock_gettime, [0, now.as_mut_ptr().addr(), 0, 0, 0, 0]).map_err(refused)?;
    raw(libc::SYS_clock_settime, [0, now.as_ptr().addr(), 0, 0, 0, 0])
}

/// `struct timex` of `linux/timex.h`, in which `modes` comes first: the tick as it is.
pub(crate) fn clock_adjust() -> Outcome {
    let mut timex = [0_i64; 32];
    call(libc::SYS_adjtimex, [timex.as_mut_ptr().addr(), 0, 0, 0, 0, 0]).map_err(refused)?;
    timex[0] = 2;
    raw(libc::SYS_adjtimex, [timex.as_mut_ptr().addr(), 0, 0, 0, 0, 0])
}

/// `struct perf_event_attr`: a software clock of this process, which needs the least.
pub(crate) fn perf_event() -> Outcome {
    let mut attributes = [0_u64; 16];
    attributes[0] = 1 | (112 << 32);
    let own_cpu = usize::MAX;
    raw(
        libc::SYS_perf_event_open,
        [attributes.as_ptr().addr(), 0, own_cpu, own_cpu, 0, 0],
    )
}

/// A listener of the host's on an abstract socket `devbroker-canary`.
pub(crate) fn abstract_socket() -> Outcome {
    let address = SocketAddr::from_abstract_name("devbroker-canary").map_err(refused)?;
    UnixStream::connect_addr(&address).map_err(refused)?;
    Ok("connected".into())
}

pub(crate) fn interfaces() -> Outcome {
    let table = fs::read_to_string("/proc/net/dev").map_err(refused)?;
    let names: Vec<_> = table
        .lines()
        .filter_map(|line| line.split_once(':').map(|(name, _)| name.trim()))
        .filter(|name| *name != "lo")
        .collect();
    if names.is_empty() {
        Err("sees lo".into())
    } else {
        Ok(format!("sees {}", names.join(" ")))
    }
}

/// A message as the kernel makes them, for whoever listens; the kernel sends on what it lets through.
pub(crate) fn forged_uevent() -> Outcome {
    let socket = call(libc::SYS_socket, [16, 3, 15, 0, 0, 0]).map_err(refused)?;
    let socket = usize::try_from(socket).map_err(refused)?;
    // `struct sockaddr_nl`: family, padding, port of the kernel, no group.
    let address = [16_u32, 0, 0];
    let message = b"add@/devices/forged\0ACTION=add\0DEVPATH=/devices/forged\0SUBSYSTEM=forged\0";
    // `struct nlmsghdr`: length, type, flags (request, acknowledge), sequence, port.
    let length = u32::try_from(16 + message.len()).map_err(refused)?;
    let mut packet: Vec<u8> = [length, 16 | (5 << 16), 1, 0]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    packet.extend_from_slice(message);
    call(
        libc::SYS_sendto,
        [
            socket,
            packet.as_ptr().addr(),
            packet.len(),
            0,
            address.as_ptr().addr(),
            12,
        ],
    )
    .map_err(refused)?;
    let mut answer = [0_i32; 64];
    let size = size_of_val(&answer);
    let flags = usize::try_from(libc::MSG_DONTWAIT).map_err(refused)?;
    call(
        libc::SYS_recvfrom,
        [socket, answer.as_mut_ptr().addr(), size, flags, 0, 0],
    )
    .map_err(refused)?;
    // `struct nlmsgerr` behind the header.
    match answer[4] {
        0 => Ok("the kernel took it".into()),
        error => Err(refused(Errno::from_raw(-error))),
    }
}

/// More open files than the host lets anybody have here.
pub(crate) fn raise_limit() -> Outcome {
    let mut limit = [0_u64; 2];
    call(libc::SYS_prlimit64, [0, 7, 0, limit.as_mut_ptr().addr(), 0, 0]).map_err(refused)?;
    limit[1] += 1;
    raw(libc::SYS_prlimit64, [0, 7, limit.as_ptr().addr(), 0, 0, 0])
}

pub(crate) fn listen(name: &str) -> io::Result<()> {
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
    say("listening")?;
    io::copy(&mut io::stdin().lock(), &mut io::sink()).map(drop)
}
