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
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

/// How long one device may take. udev has read the same attributes before it tells of the device, so that they are to be had
/// at once then.
const PATIENCE: Duration = Duration::from_millis(100);

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
        let answer = worker
            .ask
            .send(paths)
            .ok()
            .and_then(|()| worker.answer.recv_timeout(PATIENCE).ok());
        let Some(answer) = answer else {
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
        thread::Builder::new()
            .name("sysfs".into())
            .stack_size(128 * 1024)
            .spawn(move || {
                for paths in questions {
                    let all = paths.iter().map(|path| attribute(path)).collect();
                    if answers.send(all).is_err() {
                        break;
                    }
                }
                drop(alive);
            })?;
        Ok(Worker { ask, answer })
    }
}
