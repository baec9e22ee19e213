//! System calls by number, with whatever arguments: what an attacker makes.
#![expect(unsafe_code, reason = "calls that no crate wraps, made to be refused")]

use nix::errno::Errno;
use nix::libc;

/// Calls `number`. Pointers are passed as numbers; the kernel refuses those that lead nowhere.
///
/// Nothing of this process may be where a call writes to: callers pass memory of their own or none.
pub fn call(number: libc::c_long, arguments: [usize; 6]) -> Result<i64, Errno> {
    let [first, second, third, fourth, fifth, sixth] = arguments;
    // SAFETY: the kernel checks all it is given; the caller's memory is handed over for as long as the call lasts.
    let result = unsafe { libc::syscall(number, first, second, third, fourth, fifth, sixth) };
    Errno::result(result)
}

/// A child that does nothing but end, made by fork(2)'s raw call with these flags beside SIGCHLD.
pub fn clone_with(flags: usize) -> Result<(), Errno> {
    let signal = usize::try_from(libc::SIGCHLD).unwrap_or(17);
    if call(libc::SYS_clone, [flags | signal, 0, 0, 0, 0, 0])? == 0 {
        leave();
    }
    Ok(())
}

/// The same by clone3(2).
pub fn clone3_with(flags: u64) -> Result<(), Errno> {
    let signal = u64::try_from(libc::SIGCHLD).unwrap_or(17);
    // `struct clone_args` of `linux/sched.h`, its first version: flags, pidfd, child_tid, parent_tid, exit_signal, ...
    let arguments = [flags, 0, 0, 0, signal, 0, 0, 0];
    let size = size_of_val(&arguments);
    if call(libc::SYS_clone3, [arguments.as_ptr().addr(), size, 0, 0, 0, 0])? == 0 {
        leave();
    }
    Ok(())
}

fn leave() -> ! {
    // SAFETY: ends the process without running anything of the parent's.
    unsafe { libc::_exit(0) }
}

/// Sends a frame so many times on the interface of this number (`packet(7)`).
pub fn send_frames(interface: u32, frame: &[u8], count: usize) -> Result<(), Errno> {
    let number = |number: i32| usize::try_from(number).unwrap_or(0);
    let socket = call(
        libc::SYS_socket,
        [number(libc::AF_PACKET), number(libc::SOCK_RAW), 0, 0, 0, 0],
    )?;
    let socket = usize::try_from(socket).unwrap_or(usize::MAX);
    // `struct sockaddr_ll` of `linux/if_packet.h`: family, protocol, interface, then what a whole frame says itself.
    let family = u16::try_from(libc::AF_PACKET).unwrap_or(17);
    let mut to = [0_u8; 20];
    let fields = family
        .to_ne_bytes()
        .into_iter()
        .chain([0; 2])
        .chain(interface.to_ne_bytes());
    for (byte, value) in to.iter_mut().zip(fields) {
        *byte = value;
    }
    for _ in 0..count {
        let (from, length) = (frame.as_ptr().addr(), frame.len());
        call(
            libc::SYS_sendto,
            [socket, from, length, 0, to.as_ptr().addr(), to.len()],
        )?;
    }
    call(libc::SYS_close, [socket, 0, 0, 0, 0, 0]).map(drop)
}
