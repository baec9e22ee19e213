//! `ctm-generator`: run by systemd at boot and at each reload, before any unit (`systemd.generator(7)`).

use super::Code;
use crate::boot::{self, Entry};
use crate::layout::Layout;
use crate::{definitions, service};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Writes what follows from the definitions into systemd's folder for it.
pub(crate) fn run(layout: &Layout, folder: &Path) -> Result<Code> {
    let mut known = Vec::new();
    for name in definitions::names(layout)? {
        match definitions::load(layout, &name) {
            Ok(definition) => known.push(definition),
            // One with faults cannot be started, so nothing has to be said of it; the others are.
            Err(error) => tracing::warn!(container = %name, %error, "left out"),
        }
    }
    for entry in boot::entries(&known) {
        let path = folder.join(entry.path());
        if let Some(above) = path.parent() {
            fs::create_dir_all(above).with_context(|| format!("cannot make {}", above.display()))?;
        }
        match &entry {
            Entry::Wants { unit, .. } => symlink(service::file_of(unit), &path),
            Entry::DropIn { text, .. } => fs::write(&path, text),
        }
        .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Code::Done)
}
