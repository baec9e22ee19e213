//! Makes a new root file system fit and puts a recipe's files into it: finds the facts, and writes what [`crate::make::fit`] says.

use crate::ids::Ids;
use crate::make::fit::{self, Change, Facts, Item};
use crate::make::recipe::{Content, Put};
use crate::make::tree::{Tree, TreeError};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Where the host keeps the name servers that systemd-resolved asks.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// What a container is called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Called<'a> {
    pub(crate) hostname: &'a str,
    pub(crate) domain: &'a str,
}

/// Makes the root file system of a container with these ids fit. `present_only`: files that are not there stay away.
pub(crate) fn fit(
    rootfs: &Path,
    ids: Ids,
    items: &BTreeSet<Item>,
    present_only: bool,
    called: Called<'_>,
) -> Result<(), TreeError> {
    let tree = Tree::open(rootfs, ids)?;
    for change in fit::changes(items, &facts(&tree, called)) {
        match change {
            Change::Write { path, .. } | Change::Link { path, .. } if present_only && !tree.has(&path) => {}
            Change::Write { path, text, owned } => tree.write(&path, text.as_bytes(), owned)?,
            Change::Link { path, target } => tree.link(&path, &target)?,
            Change::Remove { path } => tree.remove(&path)?,
        }
    }
    Ok(())
}

fn facts(tree: &Tree, called: Called<'_>) -> Facts {
    let has = |path: &str| tree.has(Path::new(path));
    let time_zone = time_zone();
    Facts {
        hostname: called.hostname.into(),
        domain: called.domain.into(),
        resolv_conf: fit::resolv_conf(&resolv_conf()),
        apt: has("/etc/apt"),
        systemd: has("/usr/lib/systemd/systemd") || has("/lib/systemd/systemd"),
        dbus_id: has("/var/lib/dbus/machine-id"),
        has_zone: time_zone
            .as_ref()
            .is_some_and(|zone| has(&format!("/usr/share/zoneinfo/{zone}"))),
        time_zone,
        shadow: tree.read(Path::new("/etc/shadow")),
        inittab: tree.read(Path::new("/etc/inittab")),
        boot_scripts: tree.names(Path::new("/etc/rcS.d")),
    }
}

/// The host's.
fn time_zone() -> Option<String> {
    let link = fs::read_link("/etc/localtime").ok();
    let linked = link.as_ref().and_then(|target| {
        let (_, zone) = target.to_str()?.split_once("zoneinfo/")?;
        Some(zone.to_owned())
    });
    linked
        .or_else(|| fs::read_to_string("/etc/timezone").ok())
        .map(|zone| zone.trim().to_owned())
        .filter(|zone| !zone.is_empty() && zone.split('/').all(|part| !matches!(part, "" | "." | "..")))
}

/// The host's; where it asks a resolver of its own, what that asks.
fn resolv_conf() -> String {
    let own = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    if own.contains("127.0.0.53") {
        fs::read_to_string(RESOLVED).unwrap_or(own)
    } else {
        own
    }
}

/// Puts a recipe's files.
pub(crate) fn put(rootfs: &Path, ids: Ids, files: &[Put]) -> Result<(), TreeError> {
    let tree = Tree::open(rootfs, ids)?;
    for put in files {
        let bytes = match &put.content {
            Content::Text(text) => text.as_bytes(),
            Content::Bytes(bytes) => bytes,
            // Read with the recipe.
            Content::From(_) => &[],
        };
        tree.write(&put.path, bytes, put.owned)?;
    }
    Ok(())
}
