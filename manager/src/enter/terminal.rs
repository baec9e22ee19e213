//! The terminal that ctm itself runs on: its size, and raw mode, which ends with the value that stands for it.

use rustix::termios::{OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{self, IsTerminal};

/// The size of the terminal on one of the standard streams.
pub(crate) fn size() -> Option<Winsize> {
    tcgetwinsize(io::stdin())
        .or_else(|_| tcgetwinsize(io::stdout()))
        .ok()
        .filter(|size| size.ws_row > 0 && size.ws_col > 0)
}

/// Standard input in raw mode: every key goes on as it is, nothing is echoed here. Dropped, the terminal is as before.
#[derive(Debug)]
pub(crate) struct Raw(Termios);

impl Raw {
    /// Sets it; nothing to do where standard input is no terminal.
    pub(crate) fn set() -> io::Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that has gone has no mode to put back.
        tcsetattr(io::stdin(), OptionalActions::Now, &self.0).ok();
    }
}
