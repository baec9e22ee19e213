//! Reads attributes that may keep the reader waiting, at most for a moment.
//!
//! The kernel gives a USB device's strings (`serial`, `product`, `manufacturer`) under the device's lock
//! (`drivers/usb/core/sysfs.c`, `usb_string_attr`), and holds that while drivers take the device or leave it. A driver may
//! leave only when the last program has closed its node, and that program may be a container's: nobody may keep the broker
//! waiting by that. So another thread asks, and a thread that gets no answer is left behind until it does.

use super::files::{SysfsError, attribute, failed};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// How long a device may keep its reader asleep. udev has read the same attributes before it tells of the device, so that
/// they are to be had at once then.
const PATIENCE: Duration = Duration::from_millis(100);

/// How often that is waited for a reader that is not asleep but gets no processor.
const BUSY: usize = 50;

/// How many threads may be left behind.
const MAX_THREADS: usize = 8;

type Answer = Vec<Result<Option<String>, SysfsError>>;

/// Asks for attributes.
#[derive(Debug, Default)]
pub(super) struct Patient {
    worker: Option<Worker>,
    /// Held by each thread.
    alive: Arc<()>,
}

#[derive(Debug)]
struct Worker {
    /// The thread's number, 0 until it runs.
    thread: Arc<AtomicI32>,
    ask: Sender<Vec<PathBuf>>,
    answer: Receiver<Answer>,
}

impl Patient {
    /// These attributes below `dir`, in this order.
    pub(super) fn attributes(
        &mut self,
        dir: &Path,
        names: &[&str],
    ) -> Result<Vec<Option<String>>, SysfsError> {
        let no_answer = || {
            let locked = "its driver has it locked, perhaps until a program closes it";
            failed("read the strings of", dir)(io::Error::new(ErrorKind::TimedOut, locked))
        };
        let worker = match self.worker.take() {
            Some(worker) => worker,
            None if Arc::strong_count(&self.alive) > MAX_THREADS => return Err(no_answer()),
            None => self.start().map_err(failed("start a thread to read", dir))?,
        };
        let paths = names.iter().map(|name| dir.join(name)).collect();
        if worker.ask.send(paths).is_err() {
            return Err(no_answer());
        }
        let answer = (0..BUSY).find_map(|_| match worker.answer.recv_timeout(PATIENCE) {
            Ok(answer) => Some(Some(answer)),
            Err(RecvTimeoutError::Timeout) if !worker.sleeps() => None,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Some(None),
        });
        let Some(answer) = answer.flatten() else {
            // The thread ends when it finds nobody to answer to.
            return Err(no_answer());
        };
        self.worker = Some(worker);
        answer.into_iter().collect()
    }

    fn start(&self) -> io::Result<Worker> {
        let (ask, questions) = mpsc::channel::<Vec<PathBuf>>();
        let (answers, answer) = mpsc::channel();
        let alive = Arc::clone(&self.alive);
        let thread = Arc::new(AtomicI32::new(0));
        let own = Arc::clone(&thread);
        thread::Builder::new()
            .name("sysfs".into())
            .stack_size(128 * 1024)
            .spawn(move || {
                own.store(nix::unistd::gettid().as_raw(), Ordering::Relaxed);
                for paths in questions {
                    let all = paths.iter().map(|path| attribute(path)).collect();
                    if answers.send(all).is_err() {
                        break;
                    }
                }
                drop(alive);
            })?;
        Ok(Worker { thread, ask, answer })
    }
}

impl Worker {
    /// Whether the thread, which has a question, is asleep in the kernel: then somebody else has what it needs.
    fn sleeps(&self) -> bool {
        let thread = self.thread.load(Ordering::Relaxed);
        let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap_or_default();
        // `TID (NAME) STATE ...`, `man 5 proc`.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        matches!(state, Some('S' | 'D'))
    }
}
