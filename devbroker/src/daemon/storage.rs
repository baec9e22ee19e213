//! Writes to disk beside the loop: who has which alias. A slow disk holds up nobody; one that takes nothing is tried again.

use crate::host::alias_records::AliasRecords;
use crate::model::AliasName;
use crate::policy::AliasRecord;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// What there is to write; nothing: try again what is left.
type Job = Option<(AliasName, AliasRecord)>;

/// The way to the thread. Dropping it waits until all is written, or cannot be.
#[derive(Debug)]
pub(super) struct Storage {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    trouble: Arc<Mutex<Option<String>>>,
}

impl Storage {
    /// Starts the thread.
    pub(super) fn start(records: AliasRecords) -> std::io::Result<Self> {
        let (jobs, inbox) = channel();
        let trouble = Arc::default();
        let told = Arc::clone(&trouble);
        let thread = std::thread::Builder::new()
            .name("storage".into())
            .spawn(move || work(&inbox, &records, &told))?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
            trouble,
        })
    }

    /// Keeps who has an alias.
    pub(super) fn alias_record(&self, alias: AliasName, record: AliasRecord) {
        self.send(Some((alias, record)));
    }

    /// Tries again what could not be written.
    pub(super) fn mend(&self) {
        if self.trouble().is_some() {
            self.send(None);
        }
    }

    /// Why something is not written, if so.
    pub(super) fn trouble(&self) -> Option<String> {
        // It holds a text, which no panic can have left half done.
        self.trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn send(&self, job: Job) {
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
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

fn work(inbox: &Receiver<Job>, records: &AliasRecords, trouble: &Mutex<Option<String>>) {
    // Of an alias only the newest record counts.
    let mut left = BTreeMap::new();
    for job in inbox {
        left.extend(job.into_iter().chain(inbox.try_iter().flatten()));
        let mut failed = None;
        left.retain(|alias, record| match records.store(alias, record) {
            Ok(()) => false,
            Err(error) => {
                tracing::error!(%error, "remember");
                failed = Some(error.to_string());
                true
            }
        });
        let mut trouble = trouble.lock().unwrap_or_else(PoisonError::into_inner);
        *trouble = failed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_written_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("aliases");
        // In the way of the folder.
        std::fs::write(&at, "").unwrap();
        let records = AliasRecords::new(&at);
        let storage = Storage::start(records.clone()).unwrap();
        let alias: AliasName = "a".parse().unwrap();
        storage.alias_record(alias.clone(), AliasRecord::default());
        while storage.trouble().is_none() {
            std::thread::yield_now();
        }
        std::fs::remove_file(&at).unwrap();
        storage.mend();
        while storage.trouble().is_some() {
            std::thread::yield_now();
        }
        drop(storage);
        assert_eq!(
            records.load().unwrap().0,
            [(alias, AliasRecord::default())].into()
        );
    }
}
