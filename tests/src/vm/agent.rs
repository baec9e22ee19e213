//! The host's end of the agent: commands in the machine, several at a time.

use std::collections::HashMap;
use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use devbroker_guest::frame::{Frame, Kind, LIMIT};

use super::log::Log;

/// How a command in the machine ended and what it had written by then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The exit status, or minus the number of the signal that ended it.
    pub status: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Output {
    /// Whether the command exited with 0.
    pub fn success(&self) -> bool {
        self.status == 0
    }
}

/// A command that was started in the machine. Dropped, it goes on running.
#[derive(Clone, Debug)]
pub struct Job {
    id: u64,
    script: String,
    state: Arc<State>,
    link: Arc<Link>,
}

#[derive(Debug, Default)]
struct State {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    end: Option<End>,
}

#[derive(Clone, Debug)]
enum End {
    Exit(i32),
    Failed(String),
    Lost,
}

#[derive(Debug)]
struct Link {
    to: Mutex<UnixStream>,
    jobs: Mutex<Jobs>,
    log: Log,
}

#[derive(Debug, Default)]
struct Jobs {
    known: HashMap<u64, Arc<State>>,
    lost: bool,
}

/// A connection to the agent of one machine.
#[derive(Debug)]
pub(crate) struct Agent {
    link: Arc<Link>,
    next: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Agent {
    /// Takes over a connection. The agent may come up later: [`Agent::hello`] waits for it.
    pub(crate) fn new(stream: UnixStream, log: Log) -> Result<Self> {
        let reader = stream.try_clone()?;
        let link = Arc::new(Link {
            to: Mutex::new(stream),
            jobs: Mutex::default(),
            log,
        });
        let sink = Arc::clone(&link);
        thread::spawn(move || sink.receive(reader));
        Ok(Self {
            link,
            next: AtomicU64::new(1),
        })
    }

    /// Waits until the agent answers.
    pub(crate) fn hello(&self, timeout: Duration) -> Result<()> {
        let job = self.send(Kind::Hello, "hello")?;
        job.wait(timeout).map(drop)
    }

    /// Starts a script.
    pub(crate) fn start(&self, script: &str) -> Result<Job> {
        self.link.log.add("$", script);
        self.send(Kind::Run, script)
    }

    fn send(&self, kind: Kind, script: &str) -> Result<Job> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let state = Arc::new(State::default());
        let mut jobs = lock(&self.link.jobs);
        if jobs.lost {
            bail!("the machine has ended");
        }
        jobs.known.insert(id, Arc::clone(&state));
        drop(jobs);
        let job = Job {
            id,
            script: script.to_owned(),
            state,
            link: Arc::clone(&self.link),
        };
        job.link.send(kind, id, script.as_bytes())?;
        Ok(job)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Ends the receiving thread, which holds the link.
        lock(&self.link.to).shutdown(std::net::Shutdown::Both).ok();
    }
}

impl Link {
    fn send(&self, kind: Kind, id: u64, data: &[u8]) -> Result<()> {
        Frame::new(kind, id, data)
            .write(&mut *lock(&self.to))
            .context("cannot reach the machine's agent")
    }

    fn receive(&self, stream: UnixStream) {
        let mut from = BufReader::new(stream);
        while let Ok(Some(Frame { kind, id, data })) = Frame::read(&mut from) {
            let text = || String::from_utf8_lossy(&data).into_owned();
            let Some(state) = lock(&self.jobs).known.get(&id).cloned() else {
                continue;
            };
            let mut progress = lock(&state.progress);
            match kind {
                Kind::Hello => progress.end = Some(End::Exit(0)),
                Kind::Out => {
                    self.log.add("|", &text());
                    progress.stdout.extend_from_slice(&data);
                }
                Kind::Err => {
                    self.log.add("!", &text());
                    progress.stderr.extend_from_slice(&data);
                }
                Kind::Exit => {
                    let status = text().parse().unwrap_or(i32::MIN);
                    if status != 0 {
                        self.log.add("=", &format!("status {status}"));
                    }
                    progress.end = Some(End::Exit(status));
                }
                Kind::Failed => progress.end = Some(End::Failed(text())),
                Kind::Run | Kind::Stdin | Kind::Eof | Kind::Kill => {}
            }
            drop(progress);
            state.changed.notify_all();
        }
        let mut jobs = lock(&self.jobs);
        jobs.lost = true;
        for state in jobs.known.values() {
            lock(&state.progress).end.get_or_insert(End::Lost);
            state.changed.notify_all();
        }
    }
}

impl Job {
    /// Waits for the end of the command.
    pub fn wait(&self, timeout: Duration) -> Result<Output> {
        self.until("its end", timeout, |progress| progress.end.is_some())?;
        let progress = lock(&self.state.progress);
        match &progress.end {
            Some(End::Exit(status)) => Ok(Output {
                status: *status,
                stdout: String::from_utf8_lossy(&progress.stdout).into_owned(),
                stderr: String::from_utf8_lossy(&progress.stderr).into_owned(),
            }),
            Some(End::Failed(why)) => bail!("cannot start in the machine: {why}: {}", self.script),
            Some(End::Lost) | None => bail!("the machine ended during: {}", self.script),
        }
    }

    /// Waits until standard output contains `text`; returns all of it so far.
    pub fn wait_for(&self, text: &str, timeout: Duration) -> Result<String> {
        self.until(&format!("{text:?} in its output"), timeout, |progress| {
            progress.end.is_some() || contains(&progress.stdout, text.as_bytes())
        })?;
        let stdout = self.stdout();
        if !stdout.contains(text) {
            bail!(
                "ended without {text:?} in its output: {}\n{stdout}{}",
                self.script,
                self.stderr()
            );
        }
        Ok(stdout)
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&lock(&self.state.progress).stdout).into_owned()
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&lock(&self.state.progress).stderr).into_owned()
    }

    /// Whether it still runs.
    pub fn running(&self) -> bool {
        lock(&self.state.progress).end.is_none()
    }

    /// Writes to its standard input.
    pub fn write(&self, data: &[u8]) -> Result<()> {
        data.chunks(LIMIT / 16)
            .try_for_each(|part| self.link.send(Kind::Stdin, self.id, part))
    }

    /// Closes its standard input.
    pub fn close_input(&self) -> Result<()> {
        self.link.send(Kind::Eof, self.id, &[])
    }

    /// Kills it with everything in its process group, and waits for its end.
    pub fn kill(&self) -> Result<Output> {
        self.link.send(Kind::Kill, self.id, &[])?;
        self.wait(Duration::from_secs(30))
    }

    fn until(&self, what: &str, timeout: Duration, done: impl Fn(&Progress) -> bool) -> Result<()> {
        let deadline = Instant::now() + timeout;
        let mut progress = lock(&self.state.progress);
        while !done(&progress) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let (stdout, stderr) = (
                    String::from_utf8_lossy(&progress.stdout),
                    String::from_utf8_lossy(&progress.stderr),
                );
                bail!(
                    "waited {} s in vain for {what}: {}\n{stdout}{stderr}",
                    timeout.as_secs_f32(),
                    self.script
                );
            }
            progress = self
                .state
                .changed
                .wait_timeout(progress, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Ok(())
    }
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    part.is_empty() || all.windows(part.len()).any(|window| window == part)
}
