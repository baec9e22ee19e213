//! What a long command is doing, for whoever waits: a line that is overwritten on a terminal, one line for each thing to do
//! elsewhere. On standard error.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often a line is written again.
const PACE: Duration = Duration::from_millis(100);
/// Characters of a bar.
const BAR: usize = 20;
/// Characters of a line: the last column of a terminal is left free.
const WIDTH: usize = 79;

/// Of what there is so much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Files,
}

/// How far something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) done: u64,
    pub(crate) total: u64,
    pub(crate) unit: Unit,
}

/// What is shown.
#[derive(Debug)]
pub(crate) struct Progress {
    terminal: bool,
    quiet: bool,
    what: String,
    written: Option<Instant>,
}

impl Progress {
    /// On standard error.
    pub(crate) fn new() -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            quiet: false,
            what: String::new(),
            written: None,
        }
    }

    /// Shows nothing.
    pub(crate) fn none() -> Self {
        Self {
            terminal: false,
            quiet: true,
            what: String::new(),
            written: None,
        }
    }

    /// Whether anybody sees how far something is.
    pub(crate) fn is_shown(&self) -> bool {
        self.terminal
    }

    /// Something begins.
    pub(crate) fn begin(&mut self, what: impl Into<String>) {
        self.what = what.into();
        if self.terminal {
            self.draw(&line(&self.what, None, ""));
        } else if !self.quiet {
            say(&format!("{}\n", self.what));
        }
    }

    /// How far it is.
    pub(crate) fn at(&mut self, share: Share) {
        if self.due() {
            self.draw(&line(&self.what, Some(share), ""));
        }
    }

    /// What a program says it is doing.
    pub(crate) fn note(&mut self, said: &str) {
        if self.due() {
            self.draw(&line(&self.what, None, said));
        }
    }

    /// Takes the line away.
    pub(crate) fn end(&mut self) {
        if self.terminal && self.written.take().is_some() {
            say("\r\x1b[K");
        }
    }

    fn due(&self) -> bool {
        self.terminal && self.written.is_none_or(|at| at.elapsed() >= PACE)
    }

    fn draw(&mut self, line: &str) {
        say(&format!("\r\x1b[K{line}"));
        self.written = Some(Instant::now());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

fn say(text: &str) {
    // Nobody is left to tell if standard error is closed.
    io::stderr().write_all(text.as_bytes()).ok();
}

/// One line of at most [`WIDTH`] characters, whatever a program said.
fn line(what: &str, share: Option<Share>, said: &str) -> String {
    let tail = match share {
        Some(share) => format!(" {}", bar(share)),
        None if said.is_empty() => " ...".into(),
        None => format!(": {said}"),
    };
    let room = WIDTH.saturating_sub(if share.is_some() { tail.chars().count() } else { 0 });
    let text: String = what.chars().take(room).chain(tail.chars()).collect();
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(WIDTH)
        .collect()
}

fn bar(Share { done, total, unit }: Share) -> String {
    let done = done.min(total);
    let of = |whole: u64| match total {
        0 => whole,
        _ => u64::try_from(u128::from(done) * u128::from(whole) / u128::from(total)).unwrap_or(whole),
    };
    let filled = usize::try_from(of(u64::try_from(BAR).unwrap_or(0))).unwrap_or(0);
    let amount = match unit {
        Unit::Bytes => format!("{} of {}", size(done), size(total)),
        Unit::Files => format!("{done} of {total} files"),
    };
    format!(
        "[{}{}] {:>3}%  {amount}",
        "#".repeat(filled),
        "-".repeat(BAR.saturating_sub(filled)),
        of(100)
    )
}

/// A number of bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    let units = [("GiB", 30_u32), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, shift)| bytes >= 1 << shift) {
        Some((unit, shift)) => {
            let tenths = (bytes >> (shift - 10)).saturating_mul(10) >> 10;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let share = |done, total, unit| Some(Share { done, total, unit });
        for (share, said, expected) in [
            (None, "", "unpacking a.tar ..."),
            (None, "I: x\r\x1b[2J", "unpacking a.tar: I: x  [2J"),
            (
                share(1 << 19, 1 << 20, Unit::Bytes),
                "",
                "unpacking a.tar [##########----------]  50%  512.0 KiB of 1.0 MiB",
            ),
            (
                share(9, 4, Unit::Files),
                "",
                "unpacking a.tar [####################] 100%  4 of 4 files",
            ),
            (
                share(0, 0, Unit::Files),
                "",
                "unpacking a.tar [####################] 100%  0 of 0 files",
            ),
        ] {
            assert_eq!(line("unpacking a.tar", share, said), expected);
        }
        assert_eq!(line(&"x".repeat(200), None, "y").chars().count(), WIDTH);
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536 << 20), "1.5 GiB");
    }
}
