//! Contradictions within one definition, with its profile, and with the machine that it is for.

use super::machine::THIS_HOST;
use super::{DiskKept, FileSystem, Finding, Machine, Read};
use crate::definition::{IoLimit, Numbers, Weight};
use crate::quantity::{Limit, Percent, Size};
use crate::run::usage::bytes;
use devbroker::config::Diagnostic;
use devbroker::model::Origin;

/// A key, another that it must not exceed, and what comes of it if it does.
const ORDERED: [(&str, &str, &str); 7] = [
    (
        "memory_guarantee",
        "memory_limit",
        "what it may not have cannot be guaranteed",
    ),
    (
        "memory_soft_guarantee",
        "memory_limit",
        "what it may not have cannot be guaranteed",
    ),
    (
        "memory_guarantee",
        "memory_barrier",
        "it is slowed down before it has what is guaranteed",
    ),
    (
        "memory_soft_guarantee",
        "memory_barrier",
        "it is slowed down before it has what is guaranteed",
    ),
    ("memory_barrier", "memory_limit", "the barrier is never reached"),
    ("disk_space_soft", "disk_space", "the soft limit is never reached"),
    (
        "disk_inodes_soft",
        "disk_inodes",
        "the soft limit is never reached",
    ),
];

/// Less than this and not even a first process starts.
const LEAST_MEMORY: u64 = 1 << 20;

/// Why a weight of disks has no effect.
pub(crate) const NO_WEIGHTS: &str = "no disk of this host is shared by weight: it is without effect";
/// What can be done about it.
pub(crate) const WEIGHTS_REMEDY: &str = "have BFQ schedule a disk (write bfq to /sys/block/DISK/queue/scheduler), or turn io.cost on for \
     it (/sys/fs/cgroup/io.cost.qos)";

/// All that is found.
pub(super) fn check(read: &Read<'_>, machine: &Machine) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |finding: Option<Finding>| findings.extend(finding);
    for (lower, upper, why) in ORDERED {
        found(ordered(read, machine, lower, upper, why));
    }
    found(without_effect(read, machine));
    for finding in addresses(read, machine) {
        found(Some(finding));
    }
    found(shm(read, machine));
    for name in ["memory_limit", "memory_barrier"] {
        found(too_little(read, machine, name));
        found(never_holds(
            read,
            machine,
            name,
            Some(machine.memory),
            "memory",
            true,
        ));
    }
    found(never_holds(
        read,
        machine,
        "swap_limit",
        Some(machine.swap),
        "swap",
        true,
    ));
    found(never_holds(
        read,
        machine,
        "processes",
        machine.processes,
        "processes",
        false,
    ));
    let disk_of = machine.disk_of(read.definition());
    found(never_holds(
        read,
        machine,
        "disk_space",
        disk_of.size,
        "disk",
        true,
    ));
    found(weightless(read, machine));
    let limits = &read.definition().limits;
    found(lacking(
        read,
        "cpus",
        "processors",
        &limits.cpus,
        machine.cpus.as_ref(),
    ));
    found(lacking(
        read,
        "numa_nodes",
        "NUMA nodes",
        &limits.numa_nodes,
        machine.numa_nodes.as_ref(),
    ));
    found(cpu_limit(read, machine));
    found(open_files(read, machine));
    found(unkillable(read, machine));
    findings.extend(disk(read, machine, disk_of));
    findings.extend(huge_pages(read, machine));
    findings.extend(devices(read, machine));
    findings
}

/// A fault where a key is said.
fn at(read: &Read<'_>, name: &str, message: String) -> Option<Diagnostic> {
    Some(Diagnostic::at(read.origin(name)?.clone(), message))
}

/// A value without its quotes.
fn plain(read: &Read<'_>, name: &str) -> Option<String> {
    let value = read.value(name)?;
    Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

/// Addresses that the host has itself, and those that it does not pass anything on to.
fn addresses(read: &Read<'_>, machine: &Machine) -> Vec<Finding> {
    let definition = read.definition();
    let Some(origin) = read.origin("ip") else {
        return Vec::new();
    };
    let own = definition.addresses.iter().filter_map(|address| {
        let device = machine.network.device_of(address.ip())?;
        let fault = Diagnostic::at(
            origin.clone(),
            format!("{address} is the host's own, on {device}"),
        );
        Some(Finding::from(
            fault.help("give the container another, which the host routes to it"),
        ))
    });
    let own: Vec<_> = own.collect();
    if !own.is_empty() {
        return own;
    }
    let text = machine.network.not_passed_on(&definition.addresses);
    let warning = text.map(|text| Diagnostic::at(origin.clone(), text).warning());
    warning.map(Finding::from).into_iter().collect()
}

fn ordered(read: &Read<'_>, machine: &Machine, lower: &str, upper: &str, why: &str) -> Option<Finding> {
    let amount = read.amount(lower, machine)?;
    // To say that there is no barrier is no barrier above the limit.
    let is_none = amount == Limit::Unlimited && !lower.ends_with("guarantee");
    if is_none || amount <= read.amount(upper, machine)? {
        return None;
    }
    let (low, high) = (plain(read, lower)?, plain(read, upper)?);
    let (from, bound) = (read.origin(lower)?, read.origin(upper)?);
    let mut fault = at(
        read,
        lower,
        format!("`{lower}` is {low} and `{upper}` is {high}: {why}"),
    )?
    .help(format!("lower it to {high}, or raise `{upper}` ({bound})"));
    fault.other = Some(bound.clone());
    Some(Finding::from(fault).repaired(place(read, from, bound), lower, read.value(upper)?))
}

/// Where two values are put right: in the file that says both, and otherwise in the container's own, as others may have the
/// same profile.
fn place<'r>(read: &'r Read<'_>, one: &'r Origin, other: &Origin) -> &'r std::path::Path {
    if one.file == other.file {
        &one.file
    } else {
        read.path
    }
}

fn without_effect(read: &Read<'_>, machine: &Machine) -> Option<Finding> {
    let (hard, soft) = ("memory_guarantee", "memory_soft_guarantee");
    let amount = read.amount(soft, machine)?;
    if amount == Limit::At(0) || amount >= read.amount(hard, machine)? {
        return None;
    }
    let (low, high) = (plain(read, soft)?, plain(read, hard)?);
    let (from, bound) = (read.origin(soft)?, read.origin(hard)?);
    let fault = at(
        read,
        soft,
        format!("`{soft}` is {low} and `{hard}` is {high}: it is without effect"),
    )?;
    let fault = fault
        .warning()
        .help(format!("raise it to more than {high}, or take it out"));
    Some(Finding::from(fault).repaired(place(read, from, bound), soft, read.value(hard)?))
}

fn shm(read: &Read<'_>, machine: &Machine) -> Option<Finding> {
    if read.amount("shm", machine)? <= read.amount("memory_limit", machine)? {
        return None;
    }
    let (shm, limit) = (plain(read, "shm")?, plain(read, "memory_limit")?);
    let (from, bound) = (read.origin("shm")?, read.origin("memory_limit")?);
    let message =
        format!("`shm` is {shm} and `memory_limit` is {limit}: what is in /dev/shm counts as its memory");
    let fault = at(read, "shm", message)?
        .warning()
        .help(format!("lower it to less than {limit}"));
    Some(Finding::from(fault).repaired(place(read, from, bound), "shm", read.value("memory_limit")?))
}

fn too_little(read: &Read<'_>, machine: &Machine, name: &str) -> Option<Finding> {
    let amount = read.amount(name, machine)?;
    if amount >= Limit::At(LEAST_MEMORY) {
        return None;
    }
    let value = plain(read, name)?;
    let fault = at(
        read,
        name,
        format!("`{name}` is {value}: nothing can start in it"),
    )?;
    Some(
        fault
            .help("a small program needs a few mebibytes, systemd thirty or more")
            .into(),
    )
}

fn never_holds(
    read: &Read<'_>,
    machine: &Machine,
    name: &str,
    has: Option<u64>,
    of: &str,
    is_bytes: bool,
) -> Option<Finding> {
    let owner = match name {
        "disk_space" => machine.disk_of(read.definition()).owner(machine),
        _ => THIS_HOST,
    };
    let (amount, has) = (read.amount(name, machine)?.at()?, has?);
    if amount <= has {
        return None;
    }
    let has = if is_bytes { bytes(has) } else { has.to_string() };
    let value = plain(read, name)?;
    let message =
        format!("`{name}` is {value}, and {owner} has no more than {has} of {of}: the limit never holds");
    Some(
        at(read, name, message)?
            .warning()
            .help("lower it, or take it out")
            .into(),
    )
}

fn lacking(
    read: &Read<'_>,
    name: &str,
    what: &str,
    wanted: &Numbers,
    there: Option<&Numbers>,
) -> Option<Finding> {
    let there = there?;
    let lacking = wanted.without(there);
    if lacking.is_empty() {
        return None;
    }
    let fault = at(
        read,
        name,
        format!("`{name}` is {wanted}, and this host has no {what} {lacking}"),
    )?
    .help(format!("it has {there}"));
    let left = wanted.without(&lacking);
    let finding = Finding::from(fault);
    if left.is_empty() {
        return Some(finding);
    }
    Some(finding.repaired(&read.origin(name)?.file, name, left.to_string().into()))
}

fn cpu_limit(read: &Read<'_>, machine: &Machine) -> Option<Finding> {
    let limits = &read.definition().limits;
    let (limit, there) = (limits.cpu_limit?, machine.cpus.as_ref()?);
    let (count, whose) = if limits.cpus.is_empty() {
        (there.count(), "this host has")
    } else {
        (limits.cpus.count(), "it may be on")
    };
    let most = Percent::whole(100 * u32::try_from(count).ok()?);
    if limit <= most {
        return None;
    }
    let message =
        format!("`cpu_limit` is {limit}, and {whose} {count} processors ({most}): the limit never holds");
    let fault = at(read, "cpu_limit", message)?
        .warning()
        .help("lower it, or take it out");
    Some(fault.into())
}

fn open_files(read: &Read<'_>, machine: &Machine) -> Option<Finding> {
    let most = machine.open_files?;
    let limit = read
        .definition()
        .limits
        .rlimits
        .iter()
        .find_map(|(rlimit, limit)| (rlimit.name() == "nofile").then_some(limit))?;
    if limit.hard.is_some_and(|hard| hard <= most) {
        return None;
    }
    let hard = limit
        .hard
        .map_or_else(|| "unlimited".to_owned(), |hard| hard.to_string());
    let message = format!("`rlimits` lets a process open {hard} files, and this host's fs.nr_open is {most}");
    let fault = at(read, "rlimits", message)?.help(format!(
        "lower nofile to {most}, or raise fs.nr_open: the kernel refuses more, and the container does not start"
    ));
    Some(fault.into())
}

fn unkillable(read: &Read<'_>, machine: &Machine) -> Option<Finding> {
    let is_held = read.amount("memory_limit", machine)?.at().is_some();
    if read.definition().limits.oom_score_adj.get() > -1000 || !is_held {
        return None;
    }
    let message = "`oom_score_adj` is -1000 and there is a `memory_limit`: at the limit nothing can be ended, and it hangs";
    let fault = at(read, "oom_score_adj", message.into())?
        .warning()
        .help("use -999, or take the limit out");
    Some(fault.into())
}

fn weightless(read: &Read<'_>, machine: &Machine) -> Option<Finding> {
    let weight = read.definition().limits.io_weight;
    if machine.weighs_disks != Some(false) || weight == Weight::USUAL {
        return None;
    }
    let fault = at(
        read,
        "io_weight",
        format!("`io_weight` is {}, and {NO_WEIGHTS}", weight.get()),
    )?;
    Some(fault.warning().help(WEIGHTS_REMEDY).into())
}

fn disk(read: &Read<'_>, machine: &Machine, disk: &FileSystem) -> Vec<Finding> {
    let (keeps, help) = match disk.keeps {
        None | Some(DiskKept::All) => return Vec::new(),
        Some(DiskKept::Space) => ("only limits of space, and none that are soft", "take it out"),
        Some(DiskKept::Nothing) => (
            "no limits for folders",
            "ctm(8) says under LIMITS how a file system is made to; otherwise take it out",
        ),
    };
    let is_kept = |name: &str| disk.keeps == Some(DiskKept::Space) && name == "disk_space";
    ["disk_space", "disk_space_soft", "disk_inodes", "disk_inodes_soft"]
        .into_iter()
        .filter(|name| !is_kept(name))
        .filter_map(|name| {
            read.amount(name, machine)?.at()?;
            let message =
                format!("`{name}` is said, and the file system that its files are on keeps {keeps}");
            Some(at(read, name, message)?.help(help).into())
        })
        .collect()
}

fn huge_pages(read: &Read<'_>, machine: &Machine) -> Vec<Finding> {
    let Some(there) = &machine.huge_pages else {
        return Vec::new();
    };
    let lacking = |page: &String| !there.iter().any(|size| Size::Bytes(*size).to_string() == *page);
    let pages = read.definition().limits.hugepages.keys();
    pages
        .map(ToString::to_string)
        .filter(lacking)
        .filter_map(|page| {
            let fault = at(
                read,
                "hugepages",
                format!("`hugepages` names pages of {page}, which this host does not have"),
            )?;
            let has: Vec<_> = there.iter().map(|size| Size::Bytes(*size).to_string()).collect();
            let has = if has.is_empty() {
                "none".into()
            } else {
                has.join(", ")
            };
            Some(fault.help(format!("it has {has}")).into())
        })
        .collect()
}

fn devices(read: &Read<'_>, machine: &Machine) -> Vec<Finding> {
    let of = |limit: &IoLimit| {
        let device = limit.device.display();
        if machine.missing.contains(&limit.device) {
            let fault = at(
                read,
                "io_limits",
                format!("`io_limits` names {device}, which this host does not have"),
            )?;
            return Some(fault.help("`lsblk` lists its disks").into());
        }
        let is_open = limit.read_bytes == Size::Unlimited
            && limit.write_bytes == Size::Unlimited
            && limit.read_ops == Limit::Unlimited
            && limit.write_ops == Limit::Unlimited;
        let fault = at(
            read,
            "io_limits",
            format!("`io_limits` names {device} and limits nothing of it"),
        )?;
        let fault = fault
            .warning()
            .help("say read_bytes, write_bytes, read_ops or write_ops");
        is_open.then(|| fault.into())
    };
    read.definition().limits.io.iter().filter_map(of).collect()
}
