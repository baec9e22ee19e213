//! Who has an alias, written by a thread of its own: a disk may be slow, and a hot-plug does not wait for it.

use crate::host::alias_records::AliasRecords;
use crate::model::AliasName;
use crate::policy::AliasRecord;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// The way to the thread. Dropping it waits until all is written.
#[derive(Debug)]
pub(super) struct Storage {
    jobs: Option<Sender<(AliasName, AliasRecord)>>,
    thread: Option<JoinHandle<()>>,
}

impl Storage {
    /// Starts the thread.
    pub(super) fn start(records: AliasRecords) -> std::io::Result<Self> {
        let (jobs, inbox) = channel();
        let thread = std::thread::Builder::new()
            .name("storage".into())
            .spawn(move || work(&inbox, &records))?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Keeps who has an alias.
    pub(super) fn alias_record(&self, alias: AliasName, record: AliasRecord) {
        let sent = self
            .jobs
            .as_ref()
            .is_some_and(|jobs| jobs.send((alias, record)).is_ok());
        if !sent {
            tracing::error!("the thread that writes to disk is gone; who has which alias is not remembered");
        }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was reported when it happened.
            thread.join().ok();
        }
    }
}

fn work(inbox: &Receiver<(AliasName, AliasRecord)>, records: &AliasRecords) {
    for (alias, record) in inbox {
        if let Err(error) = records.store(&alias, &record) {
            tracing::error!(%error, "remember");
        }
    }
}
