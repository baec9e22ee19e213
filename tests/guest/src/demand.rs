//! Programs that ask for more than they may have, for scenarios about limits.

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout};

const MIB: usize = 1 << 20;

/// Asks for memory MiB by MiB, and uses it. Writes a line after each: how many it has, and how many bytes of its cgroup are swapped
/// out, `-` where that is not counted. Then writes `held` and keeps all until its input ends.
pub fn hog(mib: u32, out: &mut impl Write) -> io::Result<()> {
    let mut held = Vec::new();
    for count in 1..=mib {
        held.push(vec![1_u8; MIB]);
        let swapped = fs::read_to_string("/sys/fs/cgroup/memory.swap.current");
        let swapped = swapped.as_deref().unwrap_or("-");
        writeln!(out, "{count} {}", swapped.trim_end())?;
        out.flush()?;
    }
    writeln!(out, "held")?;
    out.flush()?;
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    // It is used to the end, so that no compiler leaves it out.
    std::hint::black_box(&held);
    Ok(())
}

/// Once nothing more is taken for so long, in milliseconds, nothing more will be: what is on its way over the loopback is there.
const SETTLED: u16 = 300;

/// Sends to a peer that does not read, until no more is taken. Writes how many bytes wait at the sender, and at the receiver, and leaves
/// it so until its input ends.
pub fn unread(out: &mut impl Write) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    let (receiver, _) = listener.accept()?;
    sender.set_nonblocking(true)?;
    let chunk = [b'x'; 16 << 10];
    let mut sent = 0;
    loop {
        match sender.write(&chunk) {
            Ok(count) => sent += count as u64,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut polled = [PollFd::new(sender.as_fd(), PollFlags::POLLOUT)];
                if nix::poll::poll(&mut polled, PollTimeout::from(SETTLED))? == 0 {
                    break;
                }
            }
            Err(error) => return Err(error),
        }
    }
    let arrived = rustix::io::ioctl_fionread(&receiver)?;
    writeln!(out, "{} {arrived}", sent.saturating_sub(arrived))?;
    out.flush()?;
    io::copy(&mut io::stdin().lock(), &mut io::sink()).map(drop)
}
