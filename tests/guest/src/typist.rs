//! A person at a terminal: runs a command on a terminal of its own, waits for what it shows, types, resizes the window.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{read, write};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};
use std::io;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long something may take to be shown.
const PATIENCE: Duration = Duration::from_secs(60);

/// One thing a person does.
#[derive(Debug)]
enum Step<'a> {
    /// `?TEXT`: waits until this is shown.
    See(&'a str),
    /// `!TEXT`: types it.
    Type(&'a str),
    /// `=ROWS,COLUMNS`: makes the window larger or smaller.
    Resize(Winsize),
    /// `-NUMBER`: sends the command a signal.
    Signal(Signal),
    /// `.`: closes the window.
    Close,
}

fn size(rows: &str, columns: &str) -> Option<Winsize> {
    Some(Winsize {
        ws_row: rows.parse().ok()?,
        ws_col: columns.parse().ok()?,
        ws_xpixel: 0,
        ws_ypixel: 0,
    })
}

fn step(word: &str) -> Option<Step<'_>> {
    let rest = word.get(1..)?;
    match word.as_bytes().first()? {
        b'?' => Some(Step::See(rest)),
        b'!' => Some(Step::Type(rest)),
        b'=' => {
            let (rows, columns) = rest.split_once(',')?;
            size(rows, columns).map(Step::Resize)
        }
        b'-' => Signal::from_named_raw(rest.parse().ok()?).map(Step::Signal),
        b'.' => Some(Step::Close),
        _ => None,
    }
}

/// A session as its words say it: `ROWS COLUMNS STEP... -- COMMAND...`.
#[derive(Debug)]
pub struct Session<'a> {
    window: Winsize,
    steps: Vec<Step<'a>>,
    command: Vec<&'a str>,
}

impl<'a> Session<'a> {
    /// None if the words say no session.
    pub fn parse(words: &[&'a str]) -> Option<Self> {
        let cut = words.iter().position(|word| *word == "--")?;
        let (before, command) = (words.get(..cut)?, words.get(cut + 1..)?);
        let [rows, columns, steps @ ..] = before else {
            return None;
        };
        command.first()?;
        Some(Self {
            window: size(rows, columns)?,
            steps: steps.iter().map(|word| step(word)).collect::<Option<_>>()?,
            command: command.to_vec(),
        })
    }

    /// Runs it. Answers with what was shown and, in a last line, how the command ended and whether the terminal's settings are
    /// as before.
    pub fn run(self) -> io::Result<String> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        unlockpt(&master)?;
        let ours = ioctl_tiocgptpeer(&master, flags)?;
        tcsetwinsize(&master, self.window)?;
        let before = format!("{:?}", tcgetattr(&ours)?);
        // It becomes the command, in a session whose terminal this is.
        let mut child = Command::new("setsid")
            .arg("--ctty")
            .args(&self.command)
            .stdin(ours.try_clone()?)
            .stdout(ours.try_clone()?)
            .stderr(ours.try_clone()?)
            .spawn()?;
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other("an odd process id"))?;
        let mut screen = Screen {
            master: Some(master),
            shown: Vec::new(),
            seen: 0,
        };
        for step in &self.steps {
            match step {
                Step::See(text) => {
                    if !screen.see(text.as_bytes())? {
                        child.kill()?;
                        screen
                            .shown
                            .extend(format!("\nwaited in vain for {text:?}\n").bytes());
                        break;
                    }
                }
                Step::Type(text) => {
                    if let Some(master) = &screen.master {
                        write(master, text.as_bytes())?;
                    }
                }
                Step::Resize(size) => {
                    if let Some(master) = &screen.master {
                        tcsetwinsize(master, *size)?;
                    }
                }
                Step::Signal(signal) => kill_process(pid, *signal)?,
                Step::Close => screen.master = None,
            }
        }
        while child.try_wait()?.is_none() {
            // What it shows is taken, so that it can end.
            screen.look(Duration::from_millis(20))?;
        }
        let status = child.wait()?;
        while screen.look(Duration::ZERO)? {}
        let settings = if screen.master.is_none() {
            "closed"
        } else if format!("{:?}", tcgetattr(&ours)?) == before {
            "as before"
        } else {
            "changed"
        };
        let shown = String::from_utf8_lossy(&screen.shown).into_owned();
        let code = status.code().map_or("signal".into(), |code| code.to_string());
        Ok(format!("{shown}\nended {code}, terminal {settings}"))
    }
}

struct Screen {
    master: Option<OwnedFd>,
    shown: Vec<u8>,
    /// How much of it the steps have seen.
    seen: usize,
}

impl Screen {
    /// Takes what is shown within a time. Whether there was anything.
    fn look(&mut self, within: Duration) -> io::Result<bool> {
        let limit = Timespec::try_from(within).map_err(io::Error::other)?;
        let Some(master) = &self.master else {
            poll(&mut [], Some(&limit))?;
            return Ok(false);
        };
        if poll(&mut [PollFd::new(master, PollFlags::IN)], Some(&limit))? == 0 {
            return Ok(false);
        }
        let mut buffer = [0; 4096];
        let length = read(master, &mut buffer).unwrap_or(0);
        self.shown.extend(buffer.get(..length).unwrap_or_default());
        Ok(length > 0)
    }

    fn see(&mut self, text: &[u8]) -> io::Result<bool> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let new = self.shown.get(self.seen..).unwrap_or_default();
            let found = new.windows(text.len().max(1)).position(|window| window == text);
            if let Some(at) = found {
                self.seen += at + text.len();
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.look(left)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session() {
        let words = ["24", "80", "?two", "=30,90", "!end\n", "--", "sh", "-c"];
        let script = "echo one two; read x; stty size; exit 3";
        let words: Vec<_> = words.into_iter().chain([script]).collect();
        let shown = Session::parse(&words).unwrap().run().unwrap();
        assert_eq!(shown, "one two\r\nend\r\n30 90\r\n\nended 3, terminal as before");
        for bad in [
            &["24", "80", "x", "--", "sh"][..],
            &["24", "80", "--"],
            &["24", "80", "!x"],
        ] {
            assert!(Session::parse(bad).is_none(), "{bad:?}");
        }
    }
}
