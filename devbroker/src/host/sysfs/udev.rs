//! What udev knows of a node: its record, whether that is certain to be the present device's, and the host's own node.

use super::Reader;
use super::files::{SysfsError, failed, open};
use crate::host::event::{Changed, Properties};
use crate::host::udev_record::{self, MAX_RECORD};
use crate::model::{DevNum, NodePath};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

/// The mode of a node that the host does not have in `/dev`: what the kernel gives without further word.
const DEFAULT_MODE: u16 = 0o600;

impl Reader {
    /// Mode of the host's node and when it was made, if it is there and has this number.
    pub(super) fn host_node(&self, devname: &NodePath, devnum: DevNum) -> (u16, Option<SystemTime>) {
        match self.roots.dev.join(devname.as_path()).symlink_metadata() {
            Ok(meta) if DevNum::from_stat(meta.mode(), meta.rdev()) == Some(devnum) => (
                u16::try_from(meta.mode() & 0o777).unwrap_or(DEFAULT_MODE),
                meta.created().ok(),
            ),
            Ok(_) | Err(_) => (DEFAULT_MODE, None),
        }
    }

    /// Whether an event speaks of the device whose node was made at `born`, or of one that had its place before. Later events
    /// are told apart by the removals between them.
    pub(super) fn speaks_of(&self, event: &Changed, born: Option<SystemTime>) -> bool {
        if event.seqnum > self.suspect_until {
            return true;
        }
        let initialized = event.properties.get("USEC_INITIALIZED");
        match (initialized.and_then(|usec| usec.parse().ok()), born) {
            (Some(usec), Some(born)) => began_after(usec, born),
            // Nothing to tell by: the scan saw what was there, and this is the word of udev.
            (None, _) | (_, None) => true,
        }
    }

    /// udev's record for a number, if udev is done with the device that has it now.
    pub(super) fn record(
        &self,
        devnum: DevNum,
        born: Option<SystemTime>,
        busy: bool,
    ) -> Result<Option<Properties>, SysfsError> {
        let path = self.roots.udev.join("data").join(devnum.to_string());
        let Some(mut file) = open(&path)? else {
            return Ok(None);
        };
        if busy {
            let written = file.metadata().and_then(|meta| meta.modified());
            if !matches!((born, written), (Some(born), Ok(written)) if written > born) {
                return Ok(None);
            }
        }
        let mut bytes = Vec::new();
        Read::by_ref(&mut file)
            .take(MAX_RECORD as u64)
            .read_to_end(&mut bytes)
            .map_err(failed("read", &path))?;
        let record = udev_record::parse(&bytes);
        let is_done = match record.initialized {
            // An event of the number's former device may have rewritten its record since; what stays then is when udev
            // first was done with that one.
            Some(initialized) => !busy || born.is_some_and(|born| began_after(initialized, born)),
            // Of a device that no rule has anything to say about (a printer's lp0) the record is there and empty. It
            // goes with the device's removal, so whose it is can be told only when udev has nothing left to do.
            None => !busy && bytes.is_empty(),
        };
        Ok(is_done.then_some(record.properties))
    }
}

/// Whether a moment of the monotonic clock, in microseconds, lies after `born`.
fn began_after(monotonic: u64, born: SystemTime) -> bool {
    let Ok(now) = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC) else {
        return false;
    };
    let age = Duration::from(now).saturating_sub(Duration::from_micros(monotonic));
    SystemTime::now()
        .checked_sub(age)
        .is_some_and(|began| began > born)
}
