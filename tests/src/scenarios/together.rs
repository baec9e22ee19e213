//! Several things at the same time in one machine: much of what they take is waiting, and the machine has two processors.

use std::thread;

use anyhow::{Result, anyhow};

/// Does all of them and waits for all, so that the machine tells of each; the first that failed is the error.
pub(super) fn together<T: Send, J: FnOnce() -> Result<T> + Send>(
    jobs: impl IntoIterator<Item = J>,
) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let threads: Vec<_> = jobs.into_iter().map(|job| scope.spawn(job)).collect();
        let ends: Vec<Result<T>> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("panicked"))))
            .collect();
        ends.into_iter().collect()
    })
}
