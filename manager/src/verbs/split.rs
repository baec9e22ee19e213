//! `ctm split`: a host divided among containers, shown and written into a profile.

use super::{Code, profile};
use crate::definition::Edit;
use crate::host;
use crate::layout::Layout;
use crate::plan::split::{Host, HostPart, Split, Wish, split};
use crate::quantity::{Limit, Size};
use crate::run::usage::bytes;
use crate::table::{self, Cell};
use crate::{cli, profiles};
use anyhow::{Result, bail};
use serde::Serialize;
use std::io::{self, Write};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct View<'s> {
    #[serde(flatten)]
    split: &'s Split,
    assumptions: Vec<String>,
}

pub(super) fn run(layout: &Layout, arguments: &cli::Split) -> Result<Code> {
    let host = host(layout, arguments)?;
    let reserve = match arguments.reserve.map(|reserve| reserve.of(host.memory)) {
        Some(Limit::Unlimited) => bail!("a host that keeps all of its memory has none to divide"),
        Some(Limit::At(bytes)) => Some(bytes),
        None => None,
    };
    let wish = Wish {
        containers: arguments.containers,
        reserve,
        overcommit: arguments.overcommit,
    };
    let split = split(&host, &wish)?;
    if let Some(profile) = &arguments.profile {
        let values = split
            .keys()
            .into_iter()
            .map(|(key, value)| Edit::new(key, Some(value)))
            .collect::<Result<Vec<_>, _>>()?;
        let about = format!(
            "Profile {profile}: one of {} containers on a host with {} of memory, by `ctm split`; see ctm(8).",
            split.containers,
            bytes(host.memory)
        );
        let text = profiles::text(&about, &values);
        profile::write(layout, profile, &text, arguments.replace)?;
    }
    let mut out = io::stdout().lock();
    if arguments.output.json {
        let view = View {
            assumptions: assumptions(&split),
            split: &split,
        };
        writeln!(out, "{}", serde_json::to_string_pretty(&view)?)?;
        return Ok(Code::Done);
    }
    show(&split, &mut out)?;
    if let Some(profile) = &arguments.profile {
        writeln!(
            out,
            "\nwritten into {}; `ctm profile apply NAME {profile}` gives a container these values",
            layout.profile(profile).display()
        )?;
    }
    Ok(Code::Done)
}

/// The host that was described, or else this one.
fn host(layout: &Layout, arguments: &cli::Split) -> Result<Host> {
    let described = arguments.host;
    let mut host = match described {
        Some(host) => Host::described(host.memory, host.swap.unwrap_or(0), host.cpus, host.disk),
        None => host::this(&layout.store)?,
    };
    if let Some(swap) = arguments.swap {
        let has = host.swap;
        // Of a described host's swap this is a description as well.
        let is_open = described.is_some_and(|host| host.swap.is_none());
        host.swap = match swap.of(has) {
            Limit::Unlimited => has,
            Limit::At(swap) if swap <= has || is_open => swap,
            Limit::At(swap) => bail!(
                "there is {} of swap, and {} is to be divided; divide less, or add swap",
                bytes(has),
                bytes(swap)
            ),
        };
    }
    Ok(host)
}

fn show(split: &Split, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{} containers on a host with {} of memory: {}, at most {} fit\n",
        split.containers,
        bytes(split.host.host.memory),
        split.level,
        split.largest
    )?;
    let n = u64::from(split.containers);
    let memory = &split.container.memory;
    let size = |name: &str, each: u64| {
        [
            name.to_owned(),
            Size::Bytes(each).to_string(),
            bytes(each.saturating_mul(n)),
        ]
    };
    let count = |name: &str, each: u64| [name.to_owned(), each.to_string(), (each * n).to_string()];
    let mut rows = vec![
        size("memory_guarantee", memory.guarantee),
        size("memory_soft_guarantee", memory.soft_guarantee),
        size("memory_barrier", memory.barrier),
        size("memory_limit", memory.limit),
        size("swap_limit", split.container.swap),
        count("processes", split.container.processes),
    ];
    rows.push([
        "cpu_weight".into(),
        split.container.cpu.weight.to_string(),
        split
            .container
            .cpu
            .share
            .map_or_else(String::new, |share| format!("{share} of a processor each")),
    ]);
    if let Some(disk) = &split.container.disk {
        rows.push(size("disk_space", disk.space));
        rows.extend(disk.space_soft.map(|space| size("disk_space_soft", space)));
        rows.extend(disk.inodes.map(|inodes| count("disk_inodes", inodes)));
        rows.extend(disk.inodes_soft.map(|inodes| count("disk_inodes_soft", inodes)));
    }
    let heads = ["KEY", "EACH", "TOGETHER"].map(String::from);
    let rows: Vec<_> = rows.into_iter().map(|row| row.map(Cell::text).to_vec()).collect();
    for line in table::lines(Some(&heads), &rows) {
        writeln!(out, "{line}")?;
    }
    let left = &split.left;
    write!(out, "\nleft for the host: {} of memory", bytes(left.memory))?;
    if split.host.host.swap > 0 {
        write!(out, ", {} of swap", bytes(left.swap))?;
    }
    write!(out, ", {} processes", left.processes)?;
    if let Some(disk) = left.disk {
        write!(out, ", {} of disk", bytes(disk))?;
    }
    writeln!(out, "\n\nassumed:")?;
    for line in assumptions(split) {
        writeln!(out, "- {line}")?;
    }
    Ok(())
}

/// What was assumed, a line each.
fn assumptions(split: &Split) -> Vec<String> {
    let HostPart {
        host,
        reserve,
        processes_reserve,
        disk_reserve,
        ..
    } = &split.host;
    let mut lines = vec![
        format!(
            "memory is {}; the host keeps {} of it for itself, for supervisors and for what no container is charged",
            bytes(host.memory),
            bytes(*reserve)
        ),
        "what the kernel keeps for a container counts as the container's memory; nothing is set aside for it"
            .into(),
        "a tenth of each share is guaranteed softly, so that the kernel can reclaim it before it has to kill"
            .into(),
        format!(
            "limits are {} times the shares, together more than there is unless that is 1; a barrier is an eleventh below",
            split.overcommit
        ),
        match host.swap {
            0 => "there is no swap to divide".into(),
            swap => format!("swap of {} is divided and guarantees nothing", bytes(swap)),
        },
        format!(
            "{} processes and threads can be; the host keeps {processes_reserve}",
            host.processes
        ),
        match host.cpus {
            Some(cpus) => {
                format!("{cpus} processors are shared by equal weight; what one leaves idle others may use")
            }
            None => "processors are shared by equal weight; what one leaves idle others may use".into(),
        },
    ];
    lines.push(match host.disk.zip(*disk_reserve) {
        Some((disk, kept)) => format!(
            "disk is {}; the host keeps {} of it; base systems, which containers share, are counted to none",
            bytes(disk),
            bytes(kept)
        ),
        None => "disk is not divided: its size was not said, or its file system keeps no limits for folders"
            .into(),
    });
    lines.push("containers that there are already are among those that it is divided among".into());
    lines
}
