//! A process of the benchmark that is told things and answers, one line each, within a limit.

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take before the benchmark gives up.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// Set by SIGINT and SIGTERM.
#[derive(Debug, Clone, Default)]
pub(super) struct Interrupt(std::sync::Arc<AtomicBool>);

impl Interrupt {
    /// From now on those signals only set it.
    pub(super) fn install() -> Result<Self> {
        let this = Self::default();
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, this.0.clone()).context("wait for signals")?;
        }
        Ok(this)
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The process. It ends with its input, so that it does not outlive us however we end.
#[derive(Debug)]
pub(super) struct Talker {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    unread: Vec<u8>,
}

impl Talker {
    /// This very program in another part. Ctrl-C is for us, not for it.
    pub(super) fn start(words: &[&str]) -> Result<Self> {
        let program = std::env::current_exe().context("find this program")?;
        let mut child = Command::new(program)
            .args(words)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start `bench {}`", words.join(" ")))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a process without input and output");
        };
        Ok(Self {
            child,
            input,
            output,
            unread: Vec::new(),
        })
    }

    pub(super) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(0)
    }

    pub(super) fn tell(&mut self, line: &str) -> Result<()> {
        self.input
            .write_all(format!("{line}\n").as_bytes())
            .with_context(|| format!("tell a process `{line}`"))
    }

    /// Its next line; waits at most [`LIMIT`].
    pub(super) fn hear(&mut self) -> Result<String> {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(line) = self.heard() {
                return Ok(line);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!(
                    "a process of the benchmark said nothing for {} s",
                    LIMIT.as_secs()
                );
            }
            let mut polled = [PollFd::new(self.output.as_fd(), PollFlags::POLLIN)];
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut polled, left) {
                Ok(1..) => self.read()?,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("wait for a process"),
            }
        }
    }

    /// Asks and hears the answer.
    pub(super) fn ask(&mut self, line: &str) -> Result<String> {
        self.tell(line)?;
        self.hear()
    }

    /// A line that it has said already, if there is one.
    fn heard(&mut self) -> Option<String> {
        let end = self.unread.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.unread.drain(..=end).collect();
        Some(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    fn read(&mut self) -> Result<()> {
        let mut chunk = [0; 512];
        match self.output.read(&mut chunk).context("hear a process")? {
            0 => bail!("a process of the benchmark ended; see above"),
            length => self.unread.extend(chunk.iter().take(length)),
        }
        Ok(())
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
