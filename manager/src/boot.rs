//! Which units systemd is told of at boot and at each reload, from the definitions. Pure.
//!
//! The definitions are the only place where it is written what starts a container; `ctm-generator` makes links and
//! drop-ins of them (`systemd.generator(7)`), which nobody has to keep in step.

use crate::definition::{Definition, Start};
use crate::service::unit;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

/// What a generator puts into its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// The unit starts another: a link in its `.wants` to this unit file.
    Wants { wanting: String, unit: String },
    /// More settings for a unit.
    DropIn { unit: String, text: String },
}

impl Entry {
    /// Where it is, below the generator's folder.
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Self::Wants { wanting, unit } => PathBuf::from(format!("{wanting}.wants")).join(unit),
            Self::DropIn { unit, .. } => PathBuf::from(format!("{unit}.d")).join("50-ctm.conf"),
        }
    }
}

/// The target that is up while a device holds the alias.
fn alias_target(alias: &devbroker::model::AliasName) -> String {
    format!("devbroker-alias@{alias}.target")
}

/// All entries. Of containers with a `boot_order`, those of the next higher one are waited for, which waited for theirs.
pub(crate) fn entries(definitions: &[Definition]) -> Vec<Entry> {
    let mut orders: BTreeMap<u16, Vec<&Definition>> = BTreeMap::new();
    for definition in definitions
        .iter()
        .filter(|definition| definition.start == Start::Boot)
    {
        orders.entry(definition.boot_order).or_default().push(definition);
    }
    let mut entries = Vec::new();
    if definitions
        .iter()
        .any(|definition| definition.start != Start::Manual)
    {
        entries.push(Entry::Wants {
            wanting: "multi-user.target".into(),
            unit: "ctm.target".into(),
        });
    }
    for definition in definitions {
        let own = unit(&definition.name);
        let mut after: Vec<_> = definition.after.iter().map(unit).collect();
        let mut text = String::new();
        match &definition.start {
            Start::Manual => {}
            Start::Boot => {
                entries.push(Entry::Wants {
                    wanting: "ctm.target".into(),
                    unit: own.clone(),
                });
                let earlier = orders.range(definition.boot_order.saturating_add(1)..).next();
                after.extend(
                    earlier
                        .into_iter()
                        .flat_map(|(_, group)| group)
                        .map(|other| unit(&other.name)),
                );
            }
            Start::Device(alias) => {
                let target = alias_target(alias);
                entries.push(Entry::Wants {
                    wanting: target.clone(),
                    unit: own.clone(),
                });
                // Writing to a String does not fail.
                writeln!(text, "BindsTo={target}").ok();
                after.push(target);
            }
        }
        // The unit comes after it, if anybody wants it.
        if !definition.addresses.is_empty() && definition.start != Start::Manual {
            writeln!(text, "Wants=network-online.target").ok();
        }
        after.sort();
        after.dedup();
        for other in after.iter().filter(|other| **other != own) {
            writeln!(text, "After={other}").ok();
        }
        if !text.is_empty() {
            entries.push(Entry::DropIn {
                unit: own,
                text: format!("[Unit]\n{text}"),
            });
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Ids;
    use crate::layout::Layout;

    fn definition(name: &str, start: &str, order: u16, after: &[&str]) -> Definition {
        let mut made = Definition::new(name.parse().unwrap(), Ids::Host, &Layout::default());
        made.start = start.parse().unwrap();
        made.boot_order = order;
        made.after = after.iter().map(|name| name.parse().unwrap()).collect();
        made
    }

    fn shown(definitions: &[Definition]) -> Vec<String> {
        entries(definitions)
            .iter()
            .map(|entry| match entry {
                Entry::Wants { .. } => entry.path().display().to_string(),
                Entry::DropIn { text, .. } => {
                    format!("{}: {}", entry.path().display(), text.replace('\n', " "))
                }
            })
            .collect()
    }

    #[test]
    fn nothing_starts_by_itself() {
        assert_eq!(shown(&[]), [""; 0]);
        assert_eq!(shown(&[definition("a", "manual", 900, &[])]), [""; 0]);
    }

    #[test]
    fn at_boot_and_with_a_device() {
        let mut late = definition("late", "boot", 10, &[]);
        late.addresses = vec!["192.0.2.10".parse().unwrap()];
        let definitions = [
            definition("db", "boot", 900, &[]),
            definition("log", "boot", 900, &["db", "log"]),
            definition("web", "boot", 500, &["db"]),
            late,
            definition("scan", "device:epson", 500, &["web"]),
            definition("tool", "manual", 500, &["db"]),
        ];
        assert_eq!(
            shown(&definitions),
            [
                "multi-user.target.wants/ctm.target",
                "ctm.target.wants/ctm@db.service",
                "ctm.target.wants/ctm@log.service",
                "ctm@log.service.d/50-ctm.conf: [Unit] After=ctm@db.service ",
                "ctm.target.wants/ctm@web.service",
                "ctm@web.service.d/50-ctm.conf: [Unit] After=ctm@db.service After=ctm@log.service ",
                "ctm.target.wants/ctm@late.service",
                "ctm@late.service.d/50-ctm.conf: [Unit] Wants=network-online.target After=ctm@web.service ",
                "devbroker-alias@epson.target.wants/ctm@scan.service",
                "ctm@scan.service.d/50-ctm.conf: [Unit] BindsTo=devbroker-alias@epson.target \
                 After=ctm@web.service After=devbroker-alias@epson.target ",
                "ctm@tool.service.d/50-ctm.conf: [Unit] After=ctm@db.service ",
            ]
        );
    }
}
