//! Which of several devices an alias stands for.

use super::anchor::Anchor;
use crate::config::{Alias, Match};
use crate::model::{PortName, Role};
use serde::{Deserialize, Serialize};

/// What is kept of an alias across absences and reboots: whose it was, and who was passed over for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AliasRecord {
    /// The holder.
    pub holder: DeviceRecord,
    /// Devices that were there beside the holder. They do not take the alias while the holder is away, or each replug
    /// would hand it to the twin.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed: Vec<DeviceRecord>,
    /// The alias's keys ([`keys_text`]) at that time: another match is another question, and nobody was passed over for it.
    #[serde(default)]
    pub keys: String,
}

/// A device as a record names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// Its socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PortName>,
    /// Its serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Which of its nodes, where the alias stands for one node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}

impl DeviceRecord {
    fn of(anchor: &Anchor) -> Self {
        Self {
            port: anchor.port.clone(),
            serial: anchor.serial.clone(),
            role: anchor.role.clone(),
        }
    }
}

impl AliasRecord {
    /// How many devices that were passed over are kept.
    pub const MAX_PASSED: usize = 16;
}

/// Why an alias stands for what it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BoundBy {
    /// No device matches.
    Absent,
    /// One device matches.
    Only,
    /// It had it already.
    Holder,
    /// It had it last.
    Record,
    /// Nothing else told them apart.
    LowerPort,
    /// Only devices match that were there beside the absent holder: nobody has it.
    HolderAway,
}

/// What an alias stands for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The device, if any.
    pub bound: Option<Anchor>,
    /// Why.
    pub by: BoundBy,
    /// The others that match as well. Report them with `telling_apart`.
    pub ambiguous: Vec<Anchor>,
    /// What to keep: differs from the record given only if the binding changed it. `None` while nothing was ever bound.
    pub record: Option<AliasRecord>,
}

/// All keys of an alias, to tell whether its match was changed; nothing for an alias that a udev rule sets.
pub fn keys_text(alias: Option<&Alias>) -> String {
    let one = |one: &Match| {
        let keys: Vec<String> = one
            .keys
            .iter()
            .map(|key| format!("{}={:?}", key.name(), key.expected()))
            .collect();
        format!("{}{}", keys.join(" "), if one.whole { " whole" } else { "" })
    };
    let matches: Vec<String> = alias
        .into_iter()
        .flat_map(|alias| &alias.matches)
        .map(one)
        .collect();
    matches.join(" | ")
}

/// Decides which of the present `anchors` (all candidates of one alias, in any order, doubles allowed) has the alias:
/// the `holder` if it is among them; else the one that the `record` names; else, of those that the record does not pass
/// over, the only one or the one at the lower port. `keys` is what [`keys_text`] says of the alias.
pub fn bind(
    anchors: &[Anchor],
    holder: Option<&Anchor>,
    record: Option<&AliasRecord>,
    keys: &str,
) -> Binding {
    let mut present: Vec<&Anchor> = anchors.iter().collect();
    present.sort_by(|a, b| a.order(b));
    present.dedup();
    // Both halves of a hub are one; of the two the holder's half is kept, so that nothing moves.
    let mut unique: Vec<&Anchor> = Vec::new();
    for anchor in present {
        match unique.iter_mut().find(|kept| kept.is_same(anchor)) {
            Some(kept) if holder == Some(anchor) => *kept = anchor,
            Some(_) => {}
            None => unique.push(anchor),
        }
    }
    let (bound, by) = choose(&unique, holder, record, keys);
    let ambiguous: Vec<Anchor> = unique
        .into_iter()
        .filter(|anchor| bound.is_none_or(|bound| *anchor != bound && !anchor.is_more_specific(bound)))
        .cloned()
        .collect();
    Binding {
        record: next_record(bound, &ambiguous, record, keys),
        bound: bound.cloned(),
        by,
        ambiguous,
    }
}

fn choose<'a>(
    unique: &[&'a Anchor],
    holder: Option<&Anchor>,
    record: Option<&AliasRecord>,
    keys: &str,
) -> (Option<&'a Anchor>, BoundBy) {
    if unique.is_empty() {
        return (None, BoundBy::Absent);
    }
    let held = holder.and_then(|holder| unique.iter().find(|anchor| anchor.is_same(holder)));
    if let Some(held) = held {
        let by = if unique.len() == 1 {
            BoundBy::Only
        } else {
            BoundBy::Holder
        };
        return (Some(held), by);
    }
    // Twins may carry the same serial number: who was passed over is not taken for the holder.
    let passed = |anchor: &&&Anchor| {
        record.is_some_and(|record| record.keys == keys && record.passed.contains(&DeviceRecord::of(anchor)))
    };
    let free: Vec<&Anchor> = unique.iter().filter(|anchor| !passed(anchor)).copied().collect();
    let known = record.and_then(|record| {
        free.iter()
            .map(|anchor| (likeness(&record.holder, anchor), *anchor))
            .filter(|(likeness, _)| *likeness > 0)
            // The first of the best: they are in the order of their ports.
            .reduce(|best, next| if next.0 > best.0 { next } else { best })
    });
    match (known, free.first().copied()) {
        (Some((_, one)), _) | (None, Some(one)) if unique.len() == 1 => (Some(one), BoundBy::Only),
        (Some((_, known)), _) => (Some(known), BoundBy::Record),
        (None, Some(first)) => (Some(first), BoundBy::LowerPort),
        (None, None) => (None, BoundBy::HolderAway),
    }
}

/// How surely an anchor is the recorded one: serial and port 4, serial 3, port (where a serial does not speak against
/// it) 2, no more than the node's role where neither has a port 1, else 0.
fn likeness(record: &DeviceRecord, anchor: &Anchor) -> u8 {
    let same_port = record.port.is_some() && record.port == anchor.port;
    if record.role != anchor.role {
        return 0;
    }
    match (&record.serial, &anchor.serial) {
        (Some(a), Some(b)) if a == b => 3 + u8::from(same_port),
        (None, _) | (_, None) if same_port => 2,
        (None, None) => u8::from(record.port.is_none() && anchor.port.is_none()),
        (Some(_), _) | (_, Some(_)) => 0,
    }
}

fn next_record(
    bound: Option<&Anchor>,
    ambiguous: &[Anchor],
    before: Option<&AliasRecord>,
    keys: &str,
) -> Option<AliasRecord> {
    let Some(bound) = bound else {
        return before.cloned();
    };
    let holder = DeviceRecord::of(bound);
    let mut passed: Vec<DeviceRecord> = ambiguous.iter().map(DeviceRecord::of).collect();
    // Twins that are unplugged for the moment stay passed over while the holder is the same.
    if let Some(before) = before.filter(|before| before.holder == holder && before.keys == keys) {
        passed.extend(before.passed.iter().cloned());
    }
    passed.retain(|one| *one != holder);
    passed.sort();
    passed.dedup();
    passed.truncate(AliasRecord::MAX_PASSED);
    Some(AliasRecord {
        holder,
        passed,
        keys: keys.into(),
    })
}
