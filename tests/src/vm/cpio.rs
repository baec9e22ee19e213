//! Writes the initial RAM disk: a cpio archive in the kernel's "newc" format.

use std::io::{self, Write};

/// Writes entries one after the other; [`Archive::finish`] ends the archive.
#[derive(Debug)]
pub(crate) struct Archive<W> {
    to: W,
    inode: usize,
}

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

impl<W: Write> Archive<W> {
    pub(crate) fn new(to: W) -> Self {
        Self { to, inode: 0 }
    }

    /// A folder, root's, mode 0755. Parents go first.
    pub(crate) fn folder(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, DIRECTORY | 0o755, &[])
    }

    /// A file of root's, mode 0755.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.entry(path, REGULAR | 0o755, content)
    }

    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.to.flush()
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.inode += 1;
        // Fields: inode mode uid gid nlink mtime size, device and special device
        // numbers, length of the name with its NUL, checksum.
        write!(
            self.to,
            "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}",
            self.inode, 0, 0, 1, 0
        )?;
        write!(
            self.to,
            "{:08x}{:08x}{:08x}{:08x}{:08x}",
            content.len(),
            0,
            0,
            0,
            0
        )?;
        write!(self.to, "{:08x}{:08x}{path}\0", path.len() + 1, 0)?;
        self.pad(110 + path.len() + 1)?;
        self.to.write_all(content)?;
        self.pad(content.len())
    }

    /// Name and content each end at a multiple of four.
    fn pad(&mut self, length: usize) -> io::Result<()> {
        let padding = length.next_multiple_of(4) - length;
        self.to.write_all(&vec![0; padding])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_ended() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.folder("bin").unwrap();
        archive.file("bin/a", b"hello").unwrap();
        archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.matches("070701").count(), 3);
        assert!(text.starts_with("07070100000001000041ed"));
        assert!(text.contains("bin/a\0hello\0\0\x00070701"));
        assert!(text.ends_with("TRAILER!!!\0\0\0\0"));
    }
}
