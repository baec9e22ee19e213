//! Which device an alias last stood for, kept across absences and reboots: one small file for each alias.

use crate::model::AliasName;
use crate::policy::AliasRecord;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A record that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} the alias record {}: {source}", path.display())]
pub struct RecordError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The folder of records, usually `/var/lib/devbroker/aliases`.
#[derive(Debug, Clone)]
pub struct AliasRecords {
    folder: PathBuf,
}

impl AliasRecords {
    /// The records in `folder`.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// All records. A file that is not one is left out and named in the second list: it decides nothing.
    pub fn load(&self) -> Result<(BTreeMap<AliasName, AliasRecord>, Vec<PathBuf>), RecordError> {
        let failed = |source| RecordError {
            what: "list",
            path: self.folder.clone(),
            source,
        };
        let (mut records, mut bad) = (BTreeMap::new(), Vec::new());
        let entries = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((records, bad)),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            let alias = path
                .file_stem()
                .and_then(|stem| stem.to_str())
                .and_then(|stem| stem.parse().ok());
            let record = std::fs::read(&path)
                .ok()
                .and_then(|bytes| serde_json::from_slice::<AliasRecord>(&bytes).ok());
            match (alias, record) {
                (Some(alias), Some(record)) if path.extension().is_some_and(|ext| ext == "json") => {
                    records.insert(alias, record);
                }
                _ => bad.push(path),
            }
        }
        Ok((records, bad))
    }

    /// Keeps `record` for `alias`, so that it is there after a power cut.
    pub fn store(&self, alias: &AliasName, record: &AliasRecord) -> Result<(), RecordError> {
        let path = self.folder.join(format!("{alias}.json"));
        let failed = |source| RecordError {
            what: "write",
            path: path.clone(),
            source,
        };
        std::fs::create_dir_all(&self.folder).map_err(failed)?;
        let fresh = self.folder.join(format!("{alias}.new"));
        let bytes = serde_json::to_vec(record).map_err(|error| failed(error.into()))?;
        let written = File::create(&fresh).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&fresh, &path)
        });
        if let Err(error) = written {
            // Half of it takes up room.
            std::fs::remove_file(&fresh).ok();
            return Err(failed(error));
        }
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PortName;
    use crate::policy::DeviceRecord;

    #[test]
    fn records_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let records = AliasRecords::new(&folder.path().join("aliases"));
        assert_eq!(records.load().unwrap(), (BTreeMap::new(), vec![]));
        let record = AliasRecord {
            holder: DeviceRecord {
                port: Some(PortName("0000:00:14.0/2.1".into())),
                ..DeviceRecord::default()
            },
            passed: vec![],
            keys: "vendor=\"04b8\"".into(),
        };
        let alias: AliasName = "tv.left".parse().unwrap();
        records.store(&alias, &AliasRecord::default()).unwrap();
        records.store(&alias, &record).unwrap();
        let stray = folder.path().join("aliases/x.json");
        std::fs::write(&stray, "{\"serial\":").unwrap();
        assert_eq!(records.load().unwrap(), ([(alias, record)].into(), vec![stray]));
    }
}
