//! What all containers together ask of the host, and what two of them cannot both have.

use super::machine::THIS_HOST;
use super::{Finding, Machine, Read};
use crate::ids::Ids;
use crate::plan::split;
use crate::quantity::{Limit, Size};
use crate::run::usage::bytes;
use devbroker::config::Diagnostic;
use std::collections::BTreeMap;

const MIB: u64 = 1 << 20;
/// So many of the largest are named.
const NAMED: usize = 3;

/// All that is found.
pub(super) fn check(all: &[Read<'_>], machine: &Machine) -> Vec<Finding> {
    let mut findings = guarantees(all, machine);
    let everybody: Vec<_> = all.iter().collect();
    // A disk is shared by those that are on it.
    let mut by_disk: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for read in all {
        by_disk
            .entry(machine.disk_of(read.definition()))
            .or_default()
            .push(read);
    }
    let disks = by_disk
        .iter()
        .map(|(disk, reads)| (reads, "disk_space", "disk", disk.size, true, disk.owner(machine)));
    let host = THIS_HOST;
    for (reads, name, what, has, is_bytes, owner) in [
        (
            &everybody,
            "memory_limit",
            "memory",
            Some(machine.memory),
            true,
            host,
        ),
        (&everybody, "swap_limit", "swap", Some(machine.swap), true, host),
        (
            &everybody,
            "processes",
            "processes",
            machine.processes,
            false,
            host,
        ),
    ]
    .into_iter()
    .chain(disks)
    {
        let asked = Asked::of(reads.iter().copied(), name, |read| read.amount(name, machine));
        // Of one alone is said elsewhere that its limit never holds.
        let Some(has) = has.filter(|has| *has > 0 && asked.total > *has && asked.from.len() > 1) else {
            continue;
        };
        let shown = |amount: u64| {
            if is_bytes {
                bytes(amount)
            } else {
                amount.to_string()
            }
        };
        let message = format!(
            "`{name}` of {} is {} together, and {owner} has {} of {what}: they cannot all use what they may",
            asked.containers(),
            shown(asked.total),
            shown(has)
        );
        findings.extend(
            asked
                .finding(message, shown)
                .map(Diagnostic::warning)
                .map(Finding::from),
        );
    }
    findings.extend(pairs(all));
    findings.extend(order(all));
    findings
}

/// What containers ask for by one key, the largest first.
struct Asked<'r, 'f> {
    name: &'static str,
    total: u64,
    from: Vec<(u64, &'r Read<'f>)>,
}

impl<'r, 'f> Asked<'r, 'f> {
    fn of(
        all: impl IntoIterator<Item = &'r Read<'f>>,
        name: &'static str,
        amount: impl Fn(&Read<'_>) -> Option<Limit>,
    ) -> Self {
        let mut from: Vec<_> = all
            .into_iter()
            .filter_map(|read| Some((amount(read)?.at().filter(|amount| *amount > 0)?, read)))
            .collect();
        from.sort_by_key(|(amount, _)| std::cmp::Reverse(*amount));
        Self {
            name,
            total: from
                .iter()
                .fold(0, |total: u64, (amount, _)| total.saturating_add(*amount)),
            from,
        }
    }

    fn containers(&self) -> String {
        match self.from.len() {
            1 => "1 container".into(),
            more => format!("{more} containers"),
        }
    }

    /// A fault where the most is asked for.
    fn finding(&self, message: String, shown: impl Fn(u64) -> String) -> Option<Diagnostic> {
        let (_, first) = self.from.first()?;
        let mut named: Vec<_> = self
            .from
            .iter()
            .take(NAMED)
            .map(|(amount, read)| {
                let origin = read.origin(self.name).map(ToString::to_string);
                format!(
                    "{} {} ({})",
                    read.definition().name,
                    shown(*amount),
                    origin.unwrap_or_default()
                )
            })
            .collect();
        if let Some(others) = self.from.len().checked_sub(NAMED).filter(|others| *others > 0) {
            named.push(format!("{others} more"));
        }
        let fault = Diagnostic::at(first.origin(self.name)?.clone(), message);
        Some(fault.help(format!(
            "{}; lower them, or have `ctm split` divide the host",
            named.join(", ")
        )))
    }
}

/// Guarantees have to be kept, all of them at once.
fn guarantees(all: &[Read<'_>], machine: &Machine) -> Vec<Finding> {
    let (hard, soft) = ("memory_guarantee", "memory_soft_guarantee");
    let kept = split::kept(machine.memory, u64::try_from(all.len()).unwrap_or(u64::MAX));
    let most = machine.memory.saturating_sub(kept);
    let host = format!(
        "this host has {}, of which it needs {} itself",
        bytes(machine.memory),
        bytes(kept)
    );
    // Who is guaranteed all there is, is guaranteed this host's.
    let amount = |read: &Read<'_>, name| {
        let amount = read.amount(name, machine)?.at().unwrap_or(machine.memory);
        Some(Limit::At(amount))
    };
    let asked = Asked::of(all, hard, |read| amount(read, hard));
    if asked.total > most {
        let message = format!(
            "`{hard}` of {} is {} together, and {host}",
            asked.containers(),
            bytes(asked.total)
        );
        let fault = asked.finding(message, bytes);
        // Above its memory it cannot be kept; below it is the host that gets into need.
        let fault = fault.map(|fault| {
            if asked.total > machine.memory {
                fault
            } else {
                fault.warning()
            }
        });
        return fault
            .map(|fault| lowered(Finding::from(fault), &asked, most))
            .into_iter()
            .collect();
    }
    // The larger of the two is what is asked to be left to a container.
    let asked = Asked::of(all, soft, |read| amount(read, soft).max(amount(read, hard)));
    if asked.total <= most || !asked.from.iter().any(|(_, read)| read.origin(soft).is_some()) {
        return Vec::new();
    }
    let message = format!(
        "`{soft}` of {} is {} together, and {host}: it will not be left to all of them",
        asked.containers(),
        bytes(asked.total)
    );
    let fault = asked.finding(message, bytes).map(Diagnostic::warning);
    fault.map(Finding::from).into_iter().collect()
}

/// Repaired by lowering all of them alike.
fn lowered(mut finding: Finding, asked: &Asked<'_, '_>, most: u64) -> Finding {
    for (amount, read) in &asked.from {
        let part = u128::from(*amount) * u128::from(most) / u128::from(asked.total.max(1));
        let part = u64::try_from(part).unwrap_or(*amount);
        let part = if part < MIB { part } else { part / MIB * MIB };
        if let Some(origin) = read.origin(asked.name) {
            let is_done = finding.repairs.iter().any(|(file, _)| *file == origin.file);
            if !is_done {
                finding = finding.repaired(&origin.file, asked.name, Size::Bytes(part).to_string().into());
            }
        }
    }
    finding
}

/// What one container alone can have: its root file system, its ids, its addresses.
fn pairs(all: &[Read<'_>]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, read) in all.iter().enumerate() {
        let definition = read.definition();
        for other in all.iter().take(at) {
            let earlier = other.definition();
            if definition.rootfs == earlier.rootfs {
                let message = format!(
                    "{} is the root file system of container {} as well",
                    definition.rootfs.display(),
                    earlier.name
                );
                findings.extend(clash(read, "rootfs", other, message));
            }
            if let (Ids::Block(mine), Ids::Block(its)) = (definition.ids, earlier.ids) {
                if mine.overlaps(its) {
                    let message = format!(
                        "host ids {mine} are in part those of container {} ({its}): each could reach the other's files",
                        earlier.name
                    );
                    findings.extend(clash(read, "userns", other, message));
                }
            }
            let addresses = &definition.addresses;
            if let Some(same) = addresses.iter().find(|one| earlier.addresses.contains(one)) {
                let message = format!(
                    "{same} is container {}'s as well: neither of them can start",
                    earlier.name
                );
                findings.extend(both_have(read, other, message));
            }
        }
    }
    findings
}

fn clash(read: &Read<'_>, name: &str, other: &Read<'_>, message: String) -> Option<Finding> {
    let origin = read.origin(name).or_else(|| read.origin("userns"))?;
    let mut fault = Diagnostic::at(origin.clone(), message)
        .help("make another container with `ctm create --clone`, which has its own");
    fault.other = other.origin(name).cloned();
    Some(fault.into())
}

fn both_have(read: &Read<'_>, other: &Read<'_>, message: String) -> Option<Finding> {
    let mut fault =
        Diagnostic::at(read.origin("ip")?.clone(), message).help("give one of them another with `ctm set`");
    fault.other = other.origin("ip").cloned();
    Some(fault.into())
}

/// Whom a container starts after has to be there.
fn order(all: &[Read<'_>]) -> Vec<Finding> {
    let is_there =
        |name: &devbroker::model::ContainerName| all.iter().any(|read| read.definition().name == *name);
    all.iter()
        .flat_map(|read| {
            let lost = read.definition().after.iter().filter(|name| !is_there(name));
            lost.filter_map(|name| {
                let message = format!("`after` names {name}, and there is no such container");
                let fault = Diagnostic::at(read.origin("after")?.clone(), message).warning();
                Some(Finding::from(fault.help("`ctm list` shows those that there are")))
            })
        })
        .collect()
}
