//! The last that a container said: two files of bounded size, of which the older goes when the newer is full. They outlive
//! the run, up to the next boot; under systemd the journal has all of it.

use crate::atomic;
use crate::layout::Layout;
use devbroker::model::ContainerName;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How large one of the files becomes.
const KEPT: u64 = 64 << 10;
const NEW: &str = ".output";
const OLD: &str = ".output-before";

/// What is written to.
#[derive(Debug)]
pub(crate) struct Kept {
    new: PathBuf,
    old: PathBuf,
    file: File,
    length: u64,
}

impl Kept {
    /// Goes on where the last run ended.
    pub(crate) fn open(layout: &Layout, name: &ContainerName) -> io::Result<Self> {
        let (new, old) = (layout.beside(NEW, name), layout.beside(OLD, name));
        for folder in [&new, &old].into_iter().filter_map(|path| path.parent()) {
            atomic::folder(folder, 0o700)?;
        }
        let file = append(&new)?;
        let length = file.metadata()?.len();
        Ok(Self {
            new,
            old,
            file,
            length,
        })
    }

    pub(crate) fn write(&mut self, output: &[u8]) -> io::Result<()> {
        let more = u64::try_from(output.len()).unwrap_or(KEPT);
        if self.length > 0 && self.length + more > KEPT {
            fs::rename(&self.new, &self.old)?;
            self.file = append(&self.new)?;
            self.length = 0;
        }
        self.length += more;
        self.file.write_all(output)
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// Forgets what a container said.
pub(crate) fn forget(layout: &Layout, name: &ContainerName) {
    for folder in [NEW, OLD] {
        // The next boot empties /run.
        fs::remove_file(layout.beside(folder, name)).ok();
    }
}

/// What is read from.
#[derive(Debug)]
pub(crate) struct Reader {
    path: PathBuf,
    file: Option<File>,
    watch: OwnedFd,
}

impl Reader {
    /// All that is kept, and what to read more from.
    pub(crate) fn open(layout: &Layout, name: &ContainerName) -> io::Result<(Vec<u8>, Self)> {
        let path = layout.beside(NEW, name);
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        if let Some(folder) = path.parent() {
            atomic::folder(folder, 0o700)?;
            let interest = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
            inotify::add_watch(&watch, folder, interest)?;
        }
        let mut text = match fs::read(layout.beside(OLD, name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            result => result?,
        };
        let mut reader = Self {
            path,
            file: None,
            watch,
        };
        text.extend(reader.more()?);
        Ok((text, reader))
    }

    /// What was written since the last look.
    pub(crate) fn more(&mut self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        loop {
            if let Some(file) = &mut self.file {
                file.read_to_end(&mut text)?;
            }
            // It may have become the old one meanwhile; then there is another to go on with.
            let next = match File::open(&self.path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(text),
                result => result?,
            };
            if let Some(file) = &self.file {
                let (now, before) = (next.metadata()?, file.metadata()?);
                if (now.dev(), now.ino()) == (before.dev(), before.ino()) {
                    return Ok(text);
                }
            }
            self.file = Some(next);
        }
    }

    /// Waits until there may be more, or `end` becomes readable; whether it did.
    pub(crate) fn wait(&self, end: &OwnedFd) -> io::Result<bool> {
        let mut fds = [
            PollFd::new(&self.watch, PollFlags::IN),
            PollFd::new(end, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let [_, ended] = fds.map(|fd| !fd.revents().is_empty());
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.watch, &mut buffer);
        // Only that there was something counts.
        while events.next().is_ok() {}
        Ok(ended)
    }
}

/// The last lines of a text.
pub(crate) fn last_lines(text: &[u8], lines: usize) -> &[u8] {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let ends = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    let from = match lines.checked_sub(1) {
        None => text.len(),
        Some(skipped) => ends.map(|(at, _)| at + 1).nth(skipped).unwrap_or(0),
    };
    text.get(from..).unwrap_or_default()
}

/// Without what could make a terminal do something: control characters are shown as `^X` or `<HEX>`.
pub(crate) fn harmless(text: &[u8]) -> String {
    let mut shown = String::new();
    for c in String::from_utf8_lossy(text).replace("\r\n", "\n").chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            '\0'..='\x1f' => {
                shown.push('^');
                shown.push(char::from((u8::try_from(c).unwrap_or(0)) + b'@'));
            }
            c if c.is_control() => shown.extend(format!("<{:02X}>", u32::from(c)).chars()),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_is_kept_and_followed() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout {
            run: dir.path().into(),
            ..Layout::default()
        };
        let name = "a".parse().unwrap();
        let (before, mut reader) = Reader::open(&layout, &name).unwrap();
        assert!(before.is_empty());
        let mut kept = Kept::open(&layout, &name).unwrap();
        let mut seen = Vec::new();
        for round in 0..100_u8 {
            kept.write(&[b'a' + round % 26; 4096]).unwrap();
            seen.extend(reader.more().unwrap());
        }
        drop(kept);
        Kept::open(&layout, &name).unwrap().write(b"last words").unwrap();
        seen.extend(reader.more().unwrap());
        assert_eq!(seen.len(), 100 * 4096 + 10);
        let (all, _) = Reader::open(&layout, &name).unwrap();
        assert!(seen.ends_with(&all) && all.ends_with(b"last words"));
        assert!((KEPT..=2 * KEPT).contains(&u64::try_from(all.len()).unwrap()));
        forget(&layout, &name);
        assert!(Reader::open(&layout, &name).unwrap().0.is_empty());
    }

    #[test]
    fn lines_from_the_end() {
        for (text, lines, last) in [
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 2, "b\nc"),
            ("a\n", 5, "a\n"),
            ("a\nb\n", 0, ""),
            ("", 3, ""),
        ] {
            assert_eq!(last_lines(text.as_bytes(), lines), last.as_bytes(), "{text}");
        }
    }

    #[test]
    fn nothing_for_a_terminal_to_do() {
        assert_eq!(
            harmless(b"a\tb\r\n\x1b[2J\x7f\xc2\x9b1m\xff\r"),
            "a\tb\n^[[2J<7F><9B>1m\u{fffd}^M"
        );
    }
}
