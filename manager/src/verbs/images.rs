//! `ctm images`: the base systems that containers share.

use super::Code;
use crate::cli::{self, ImagesVerb};
use crate::layout::Layout;
use crate::make::base::{self, Base, BaseId};
use crate::make::progress::size;
use crate::make::store;
use anyhow::Result;
use devbroker::model::ContainerName;
use serde::Serialize;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

pub(super) fn run(layout: &Layout, arguments: &cli::Images) -> Result<Code> {
    match &arguments.what {
        None => list(layout, arguments.output.json),
        Some(ImagesVerb::Prune(prune)) => self::prune(layout, prune.all),
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// A base as it is shown.
#[derive(Debug, Serialize)]
struct View {
    id: BaseId,
    what: String,
    bytes: u64,
    /// In seconds since 1970.
    created: u64,
    containers: Vec<ContainerName>,
}

fn list(layout: &Layout, json: bool) -> Result<Code> {
    let mut views = Vec::new();
    for base in base::list(layout)? {
        views.push(View {
            containers: base::users(layout, &base.id)?,
            id: base.id,
            what: base.what,
            bytes: base.bytes,
            created: base.created,
        });
    }
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&views)?)?;
        return Ok(Code::Done);
    }
    let width = views
        .iter()
        .map(|view| view.what.chars().count())
        .max()
        .unwrap_or(0)
        .max(4);
    writeln!(
        out,
        "{:16}  {:width$}  {:>10}  {:>6}  CONTAINERS",
        "ID", "WHAT", "SIZE", "AGE"
    )?;
    let now = now();
    for view in &views {
        let users: Vec<_> = view.containers.iter().map(ContainerName::as_str).collect();
        writeln!(
            out,
            "{}  {:width$}  {:>10}  {:>6}  {}",
            view.id,
            view.what,
            size(view.bytes),
            age(now.saturating_sub(view.created)),
            if users.is_empty() {
                "-".into()
            } else {
                users.join(", ")
            }
        )?;
    }
    Ok(Code::Done)
}

fn age(seconds: u64) -> String {
    match seconds {
        0..MINUTE => format!("{seconds} s"),
        MINUTE..HOUR => format!("{} min", seconds / MINUTE),
        HOUR..DAY => format!("{} h", seconds / HOUR),
        _ => format!("{} d", seconds / DAY),
    }
}

fn prune(layout: &Layout, all: bool) -> Result<Code> {
    let mut out = io::stdout().lock();
    for path in base::sweep(layout)? {
        writeln!(out, "removed {}, left by an interrupted creation", path.display())?;
    }
    for path in store::sweep(layout)? {
        writeln!(out, "removed {}, which belongs to no container", path.display())?;
    }
    let (mut room, now) = (0, now());
    let old = |base: &Base| all || now.saturating_sub(base.created) >= DAY;
    let (old, new): (Vec<_>, Vec<_>) = base::list(layout)?.into_iter().partition(old);
    for base in old {
        if base::remove(layout, &base.id)? {
            room += base.bytes;
            writeln!(out, "removed {} ({})", base.id, base.what)?;
        }
    }
    writeln!(out, "{} freed", size(room))?;
    // Those that are in use would have stayed anyway.
    let mut kept = Vec::new();
    for base in new {
        if base::users(layout, &base.id)?.is_empty() {
            kept.push(base.id.as_str().to_owned());
        }
    }
    if !kept.is_empty() {
        writeln!(
            io::stderr(),
            "kept, as made less than a day ago and perhaps wanted again: {}; --all removes these as well",
            kept.join(", ")
        )?;
    }
    Ok(Code::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        let shown = [0, 59, 60, 3599, 3600, 86_399, 86_400, 864_000].map(age);
        assert_eq!(
            shown,
            ["0 s", "59 s", "1 min", "59 min", "1 h", "23 h", "1 d", "10 d"]
        );
    }
}
