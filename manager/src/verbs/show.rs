//! `ctm list` and `ctm status`.

use super::view::{ColumnName, USUAL, View};
use super::{Code, Condition};
use crate::layout::Layout;
use crate::run::state::{Last, now};
use crate::run::usage::span;
use crate::{cli, definitions, table};
use anyhow::Result;
use devbroker::model::ContainerName;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

pub(super) fn list(layout: &Layout, arguments: &cli::List) -> Result<Code> {
    // With many containers every file counts.
    let past = arguments.json
        || arguments
            .columns
            .iter()
            .chain(&arguments.sort)
            .any(|column| column.column().name == "failure");
    let mut views = Vec::new();
    for name in definitions::names(layout)? {
        let definition = definitions::load(layout, &name).map_err(|error| error.to_string());
        let view = View::of(layout, &name, definition, past)?;
        let wanted = match (arguments.running, arguments.stopped) {
            (true, _) => view.pid.is_some(),
            (false, true) => view.pid.is_none(),
            (false, false) => true,
        };
        if wanted {
            views.push(view);
        }
    }
    if let Some(key) = arguments.sort {
        views.sort_by_cached_key(|view| (key.column().of)(view));
    }
    let mut out = BufWriter::new(io::stdout().lock());
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&views)?)?;
        out.flush()?;
        return Ok(Code::Done);
    }
    let columns = if arguments.columns.is_empty() {
        USUAL
            .iter()
            .map(|name| name.parse())
            .collect::<Result<Vec<ColumnName>, _>>()?
    } else {
        arguments.columns.clone()
    };
    let heads: Vec<_> = columns
        .iter()
        .map(|column| column.column().name.to_uppercase())
        .collect();
    let rows: Vec<Vec<_>> = views
        .iter()
        .map(|view| columns.iter().map(|column| (column.column().of)(view)).collect())
        .collect();
    let heads = (!arguments.no_header).then_some(heads.as_slice());
    for line in table::lines(heads, &rows) {
        writeln!(out, "{line}")?;
    }
    out.flush()?;
    Ok(Code::Done)
}

pub(super) fn status(layout: &Layout, arguments: &cli::Status) -> Result<Code> {
    let name = &arguments.name;
    if arguments.vzctl {
        writeln!(io::stdout(), "{}", vzctl(layout, name)?)?;
        return Ok(Code::Done);
    }
    let definition = match definitions::load(layout, name) {
        Err(unknown @ definitions::LoadError::Unknown(_)) => return Err(unknown.into()),
        other => other.map_err(|error| error.to_string()),
    };
    let view = View::of(layout, name, definition, true)?;
    let mut out = io::stdout().lock();
    if arguments.output.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&view)?)?;
    } else {
        writeln!(out, "{}: {}", view.name, view.state)?;
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        for (what, value) in [
            ("what", view.description.clone()),
            ("pid", view.pid.map(|pid| pid.to_string())),
            ("up for", view.uptime().map(span)),
            ("ip", view.ip()),
            ("userns", Some(view.userns())),
            ("not confined", view.not_confined()),
            ("rootfs", path(&view.rootfs)),
            ("instance", view.instance.as_ref().map(ToString::to_string)),
            ("cgroup", path(&view.cgroup)),
            ("filter", path(&view.filter)),
            ("definition", view.fault.clone()),
            ("last run", view.last.as_ref().map(last)),
            ("last failure", view.failure.clone()),
        ] {
            if let Some(value) = value {
                writeln!(out, "{what:>13}: {value}")?;
            }
        }
    }
    Ok(if view.pid.is_some() {
        Code::Done
    } else {
        Code::NotRunning
    })
}

fn last(last: &Last) -> String {
    let asked = if last.asked { ", as it was asked to" } else { "" };
    let ago = span(now().saturating_sub(last.at));
    format!("its first process {}{asked}, {ago} ago", last.ending)
}

/// The line of `vzctl status`, which is the same whether there is such a container or not.
fn vzctl(layout: &Layout, name: &ContainerName) -> Result<String> {
    let known = layout.definition(name).exists();
    let condition = Condition::of(layout, name)?;
    let up = condition.init().is_some();
    let mut words = vec![
        "CTID",
        name.as_str(),
        if known { "exist" } else { "deleted" },
        if matches!(condition, Condition::Stopped) {
            "unmounted"
        } else {
            "mounted"
        },
        if up { "running" } else { "down" },
    ];
    if let Condition::Supervised(state) = &condition {
        if up && super::is_paused(state) {
            words.push("suspended");
        }
    }
    Ok(words.join(" "))
}
