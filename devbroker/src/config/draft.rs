//! One file's content before it is merged with the others.

use super::{Alias, Detach, Grant, Origin};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which of the folders a file lies in. Files are merged in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// `/etc/devbroker/conf.d`: the administrator's; masks files of the same name in `Vendor`.
    Admin,
    /// `/usr/lib/devbroker/conf.d`: what packages bring.
    Vendor,
    /// `/run/devbroker/conf.d`: what was attached and detached at run time.
    Runtime,
}

impl Place {
    /// Its name in the folder of last good copies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vendor => "vendor",
            Self::Admin => "admin",
            Self::Runtime => "runtime",
        }
    }
}

/// What one file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileConfig {
    /// The file.
    pub path: PathBuf,
    /// Its folder.
    pub place: Place,
    /// Its text, for faults that show only when files are merged.
    pub text: String,
    /// What it sets in `[daemon]`.
    pub settings: SettingsDraft,
    /// Its aliases.
    pub aliases: Vec<Alias>,
    /// Its grants.
    pub grants: Vec<Grant>,
    /// What it suspends.
    pub detached: Vec<Detach>,
}

/// The keys of `[daemon]` that a file sets, and where.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SettingsDraft {
    /// `monitor`
    pub monitor: Option<(bool, Origin)>,
    /// `receive_buffer`
    pub receive_buffer: Option<(u32, Origin)>,
    /// `reassert`
    pub reassert: Option<(bool, Origin)>,
    /// `snapshot_seconds`
    pub snapshot_seconds: Option<(u32, Origin)>,
}
