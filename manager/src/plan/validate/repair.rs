//! What would put right what is found.

use super::{Files, Machine, check};
use crate::definition::Edit;
use crate::layout::Layout;
use devbroker::model::ContainerName;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// As often is looked again at what a repair makes of the texts: one may need another.
const ROUNDS: usize = 8;

/// The files as they would be with all repairs, those that would be others: path, text, new text. A repair lowers what
/// promises too much and never gives a container more of the host.
pub(crate) fn repaired(
    files: &Files,
    machine: &Machine,
    layout: &Layout,
    chosen: Option<&[ContainerName]>,
) -> Vec<(PathBuf, String, String)> {
    let mut now = files.clone();
    for _ in 0..ROUNDS {
        let mut any = false;
        for finding in check(&now, machine, layout, chosen) {
            for (path, edit) in finding.repairs {
                any |= apply(&mut now, &path, &edit);
            }
        }
        if !any {
            break;
        }
    }
    let texts = |files: &Files| {
        files
            .definitions
            .values()
            .chain(files.profiles.values())
            .map(|(path, bytes)| (path.clone(), String::from_utf8_lossy(bytes).into_owned()))
            .collect::<BTreeMap<_, _>>()
    };
    let (before, after) = (texts(files), texts(&now));
    before
        .into_iter()
        .zip(after.into_values())
        .filter(|((_, before), after)| before != after)
        .map(|((path, before), after)| (path, before, after))
        .collect()
}

/// Applies one repair; whether it changed anything.
fn apply(files: &mut Files, path: &Path, edit: &Edit) -> bool {
    let mut all = files.definitions.values_mut().chain(files.profiles.values_mut());
    let Some((_, bytes)) = all.find(|(at, _)| at == path) else {
        return false;
    };
    let new = std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| edit.apply(text).ok());
    match new {
        Some(new) if new.as_bytes() != bytes.as_slice() => {
            *bytes = new.into_bytes();
            true
        }
        Some(_) | None => false,
    }
}
