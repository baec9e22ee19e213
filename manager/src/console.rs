//! What the container's first process writes to its standard output and error.
//!
//! It gets a pipe of its own, which is drained for as long as the container runs. The last part is kept in a file of
//! bounded size; under systemd everything goes on to the journal, which has its own limits.

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// How much is kept.
const KEPT: u64 = 64 << 10;

/// Our end of the pipe.
#[derive(Debug)]
pub(crate) struct Console {
    pipe: Option<File>,
    kept: File,
    length: u64,
    journal: bool,
}

impl Console {
    /// Makes the pipe; answers also with the container's end.
    pub(crate) fn open(kept: &Path) -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        fcntl_setfl(&ours, fcntl_getfl(&ours)? | OFlags::NONBLOCK)?;
        let console = Self {
            pipe: Some(ours.into()),
            kept: File::create(kept)?,
            length: 0,
            journal: std::env::var_os("JOURNAL_STREAM").is_some(),
        };
        Ok((console, theirs))
    }

    /// What to wait on for output; none once nobody can write any more.
    pub(crate) fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Takes what is in the pipe, at most as much as a pipe holds: a container that writes without end cannot keep us here.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        for _ in 0..16 {
            let Some(pipe) = &mut self.pipe else {
                return Ok(());
            };
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(length) => self.keep(buffer.get(..length).unwrap_or_default())?,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn keep(&mut self, output: &[u8]) -> io::Result<()> {
        if self.journal {
            io::stdout().write_all(output)?;
            io::stdout().flush()?;
        }
        let more = u64::try_from(output.len()).unwrap_or(KEPT);
        if self.length + more > KEPT {
            self.kept.set_len(0)?;
            self.kept.rewind()?;
            self.length = 0;
        }
        self.length += more;
        self.kept.write_all(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        let (mut console, theirs) = Console::open(&path).unwrap();
        let mut theirs = File::from(theirs);
        for round in 0..100 {
            theirs.write_all(&[b'a' + round % 26; 4096]).unwrap();
            console.drain().unwrap();
        }
        theirs.write_all(b"last words").unwrap();
        drop(theirs);
        console.drain().unwrap();
        assert!(console.readable().is_none());
        let kept = std::fs::read(&path).unwrap();
        assert!(kept.ends_with(b"last words"));
        assert!(u64::try_from(kept.len()).unwrap() <= KEPT);
    }
}
