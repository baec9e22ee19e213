//! Threads for work inside containers: a bounded number, at most one for each container, and none that waits for a
//! hanging one.

use super::inside;
use super::{Job, Outcome, PATIENCE};
use crate::model::InstanceId;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// How many threads may hang before no more work is taken: each is one hostile container.
const MAX_STUCK: usize = 256;

/// Why a job was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// The container's last job is not done yet.
    #[error("the container's last job is still being done; it is tried again then")]
    AtWork,
    /// The container's last job hangs.
    #[error("the container does not answer; look for a hanging file system mounted in it and unmount that")]
    Stuck,
    /// Too many containers hang, or no thread can be had.
    #[error("too many containers do not answer; stop those that are reported stuck")]
    Exhausted,
}

/// Threads for work inside containers.
#[derive(Debug)]
pub struct Workers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// There is work, or no more to come.
    work: Condvar,
    /// Something was begun, or no more is to come.
    begun: Condvar,
    outcomes: UnboundedSender<Outcome>,
    limit: usize,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Job>,
    /// Containers with a job in the queue.
    queued: BTreeSet<InstanceId>,
    running: BTreeMap<InstanceId, Running>,
    /// Containers to look at with care: they have hung before.
    suspects: BTreeSet<InstanceId>,
    /// Threads that wait for work.
    idle: usize,
    /// Threads that do not hang.
    able: usize,
    closing: bool,
}

#[derive(Debug)]
struct Running {
    since: Instant,
    stuck: bool,
}

impl Workers {
    /// Workers of which at most `limit` work at the same time (those that hang are not counted). Threads are started as
    /// they are needed, in the mount namespace of whoever gives them work.
    pub fn new(limit: usize) -> io::Result<(Self, UnboundedReceiver<Outcome>)> {
        let (outcomes, receiver) = unbounded_channel();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            begun: Condvar::new(),
            outcomes,
            limit: limit.max(1),
        });
        let watched = Arc::clone(&shared);
        thread::Builder::new()
            .name("ns-watch".into())
            .stack_size(128 << 10)
            .spawn(move || watched.watch())?;
        Ok((Self { shared }, receiver))
    }

    /// Takes a job, unless the container's last one is not done. The outcome comes through the channel.
    pub fn submit(&self, job: Job) -> Result<(), Busy> {
        let mut state = self.shared.lock();
        let instance = &job.target.instance;
        if let Some(running) = state.running.get(instance) {
            return Err(if running.stuck { Busy::Stuck } else { Busy::AtWork });
        }
        if state.queued.contains(instance) {
            return Err(Busy::AtWork);
        }
        if state.running.values().filter(|running| running.stuck).count() >= MAX_STUCK {
            return Err(Busy::Exhausted);
        }
        state.queued.insert(instance.clone());
        state.queue.push_back(job);
        let started = self.shared.staff(&mut state);
        if started.is_err() && state.able == 0 {
            if let Some(job) = state.queue.pop_back() {
                state.queued.remove(&job.target.instance);
            }
            return Err(Busy::Exhausted);
        }
        drop(state);
        self.shared.work.notify_one();
        Ok(())
    }

    /// Forgets what is kept of a container that is gone.
    pub fn forget(&self, instance: &InstanceId) {
        let mut state = self.shared.lock();
        state.suspects.remove(instance);
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_all();
        self.shared.begun.notify_all();
    }
}

impl Shared {
    /// Nothing is left half done under the lock, so that a panic of another thread spoils nothing.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that somebody does the work that waits.
    fn staff(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        if state.queue.len() > state.idle && state.able < self.limit {
            let shared = Arc::clone(self);
            thread::Builder::new()
                .name("ns-worker".into())
                .stack_size(256 << 10)
                .spawn(move || shared.serve())?;
            state.able += 1;
        }
        Ok(())
    }

    fn serve(self: Arc<Self>) {
        // Its own root, working folder and umask: `setns` asks for that, and the other threads keep theirs.
        let own = unshare(CloneFlags::CLONE_FS);
        umask(Mode::S_IWGRP | Mode::S_IWOTH);
        while let Some((job, careful)) = self.take() {
            let instance = job.target.instance.clone();
            let ran = match own {
                Ok(()) => inside::run(job, careful),
                Err(errno) => inside::Ran {
                    result: Err(super::NamespaceError::of("prepare a thread for work", "", errno)),
                    thread_is_home: true,
                },
            };
            let mut state = self.lock();
            let was_stuck = state
                .running
                .remove(&instance)
                .is_some_and(|running| running.stuck);
            if was_stuck {
                state.able += 1;
            }
            let leave = !ran.thread_is_home || state.able > self.limit;
            if leave {
                state.able -= 1;
            }
            let outcome = Outcome::Done {
                instance,
                result: ran.result,
            };
            // Whoever asked may be gone.
            let wanted = self.outcomes.send(outcome).is_ok();
            if leave || !wanted {
                return;
            }
        }
    }

    /// Waits for a job; `None` when no more is to come.
    fn take(&self) -> Option<(Job, bool)> {
        let mut state = self.lock();
        loop {
            if state.closing {
                return None;
            }
            if let Some(job) = state.queue.pop_front() {
                let instance = job.target.instance.clone();
                state.queued.remove(&instance);
                let careful = state.suspects.remove(&instance);
                state.running.insert(
                    instance,
                    Running {
                        since: Instant::now(),
                        stuck: false,
                    },
                );
                self.begun.notify_one();
                return Some((job, careful));
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// Reports what hangs and has somebody else do the other work.
    fn watch(self: Arc<Self>) {
        let mut state = self.lock();
        while !state.closing {
            let now = Instant::now();
            let mut next = None;
            let mut hanging = Vec::new();
            for (instance, running) in state.running.iter_mut().filter(|(_, running)| !running.stuck) {
                let due = running.since + PATIENCE;
                if due <= now {
                    running.stuck = true;
                    hanging.push(instance.clone());
                } else {
                    next = Some(next.map_or(due, |next: Instant| next.min(due)));
                }
            }
            for instance in hanging {
                state.able = state.able.saturating_sub(1);
                state.suspects.insert(instance.clone());
                if self.outcomes.send(Outcome::Stuck { instance }).is_err() {
                    return;
                }
                // Without a thread the work waits for the next that becomes free.
                self.staff(&mut state).ok();
            }
            state = match next {
                None => self.begun.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(due) => {
                    self.begun
                        .wait_timeout(state, due.saturating_duration_since(now))
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }
}
