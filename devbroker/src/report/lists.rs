//! The lists, and what the commands that change something have to say.

use super::{Table, clean};
use devbroker::api::{
    AddAliasReply, AliasView, AnchorView, ContainerPlan, ContainerView, DetachReply, DeviceView,
    DiagnosticView, FileState, GrantView, NodeState, NodeView, OriginView, PlacedView, PresenceState,
    StatusView,
};
use devbroker::model::ContainerRef;
use std::fmt::{Display, Write};

/// Joined with commas.
pub(super) fn joined(items: impl IntoIterator<Item = impl Display>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(", ")
}

/// `file:line`.
pub(super) fn place(origin: Option<&OriginView>) -> String {
    origin.map_or_else(String::new, |origin| {
        format!("{}:{}", origin.file.display(), origin.line)
    })
}

fn shown(text: Option<&impl ToString>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

/// `1 node`, `2 nodes`.
pub(crate) fn count(number: impl Into<u64>, what: &str) -> String {
    match number.into() {
        1 => format!("1 {what}"),
        other => format!("{other} {what}s"),
    }
}

/// Seconds as people say them.
fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// How the daemon is.
pub(crate) fn status(status: &StatusView) -> String {
    let mut text = format!(
        "devbroker {}, process {}, up {}, {}\n",
        clean(&status.version),
        status.pid,
        duration(status.uptime),
        if status.settled { "settled" } else { "at work" }
    );
    let mut table = Table::bare(2);
    let absent = status.aliases.saturating_sub(status.aliases_present);
    for (name, value) in [
        (
            "devices",
            format!("{} with {}", status.devices, count(status.nodes, "node")),
        ),
        (
            "aliases",
            format!(
                "{}: {} present, {absent} absent",
                status.aliases, status.aliases_present
            ),
        ),
        ("grants", status.grants.to_string()),
        (
            "containers",
            format!("{} with {}", status.containers, count(status.placed, "node")),
        ),
        ("failed", count(status.failed, "action")),
        (
            "events",
            format!(
                "{}, lost {}{}",
                status.events,
                count(status.events_lost, "time"),
                if status.monitor {
                    ""
                } else {
                    "; by the hook alone (monitor = false)"
                }
            ),
        ),
        ("clients", status.clients.to_string()),
    ] {
        table.row([name.into(), value]);
    }
    for file in &status.files {
        let state = match file.state {
            FileState::Ok => "in force",
            FileState::LastGood => "broken; its last good copy is in force",
            FileState::Broken => "broken; nothing of it is in force",
            FileState::Masked => "masked by a file of the same name",
        };
        table.row(["file".into(), format!("{}: {state}", file.path.display())]);
    }
    for trouble in &status.troubles {
        table.row(["trouble".into(), clean(trouble)]);
    }
    text += &table.render();
    text + &problems(&status.problems)
}

fn problems(problems: &[DiagnosticView]) -> String {
    let mut text = String::new();
    for problem in problems {
        // Several lines: a line of the file and a caret. Each is cleaned by itself.
        text.push('\n');
        for line in problem.text.lines() {
            text += &clean(line);
            text.push('\n');
        }
    }
    text
}

/// After a reload.
pub(crate) fn reload(found: &[DiagnosticView]) -> String {
    if found.is_empty() {
        "the configuration is in force\n".into()
    } else {
        problems(found).trim_start().to_owned()
    }
}

fn device_heading(device: &DeviceView) -> String {
    let mut text = device.subsystem.clone();
    if let (Some(vendor), Some(product)) = (&device.vendor, &device.product) {
        write!(text, " {vendor}:{product}").ok();
    }
    if let Some(title) = &device.title {
        write!(text, " {title}").ok();
    }
    if let Some(serial) = &device.serial {
        write!(text, ", serial {serial}").ok();
    }
    if let Some(port) = &device.port {
        write!(text, ", port {port}").ok();
    }
    if text.is_empty() {
        device.syspath.to_string()
    } else {
        clean(&text)
    }
}

fn node_cells(node: &NodeView) -> [String; 6] {
    let aliases = node
        .aliases
        .iter()
        .map(|one| format!("{} {}", one.alias, one.role));
    [
        format!("/dev/{}", node.devname),
        node.devnum.to_string(),
        node.subsystem.clone(),
        shown(node.driver.as_ref()),
        joined(aliases),
        joined(&node.containers),
    ]
}

/// Devices with their nodes; without `all` only those that are a physical device or have an alias.
pub(crate) fn devices(devices: &[DeviceView], all: bool) -> String {
    let is_physical = |device: &DeviceView| device.vendor.is_some() || device.port.is_some();
    let is_named = |device: &DeviceView| device.nodes.iter().any(|node| !node.aliases.is_empty());
    let (chosen, left): (Vec<_>, Vec<_>) = devices
        .iter()
        .partition(|device| all || is_physical(device) || is_named(device));
    let mut table = Table::new([
        "NODE",
        "NUMBER",
        "SUBSYSTEM",
        "DRIVER",
        "ALIAS AND ROLE",
        "CONTAINERS",
    ]);
    // One table, so that the columns of all devices align; the headings go in between afterwards.
    for device in &chosen {
        for node in &device.nodes {
            let [name, rest @ ..] = node_cells(node);
            let [number, subsystem, driver, aliases, containers] = rest;
            table.row([
                format!("  {name}"),
                number,
                subsystem,
                driver,
                aliases,
                containers,
            ]);
        }
    }
    let rendered = table.render();
    let mut lines = rendered.lines();
    let mut text = lines.next().map(|line| format!("{line}\n")).unwrap_or_default();
    for device in &chosen {
        text += &device_heading(device);
        text.push('\n');
        for line in lines.by_ref().take(device.nodes.len()) {
            text += line;
            text.push('\n');
        }
    }
    if !left.is_empty() {
        let nodes: usize = left.iter().map(|device| device.nodes.len()).sum();
        writeln!(
            text,
            "({nodes} nodes without a physical device are not shown; --all shows them)"
        )
        .ok();
    }
    text
}

fn anchor(anchor: &AnchorView) -> String {
    match (&anchor.port, &anchor.serial) {
        (Some(port), Some(serial)) => format!("port {port}, serial {serial}"),
        (Some(port), None) => format!("port {port}"),
        (None, Some(serial)) => format!("serial {serial}"),
        (None, None) => anchor.syspath.to_string(),
    }
}

/// Aliases.
pub(crate) fn aliases(aliases: &[AliasView]) -> String {
    if aliases.is_empty() {
        return "no aliases; `devbroker alias add NAME /dev/NODE` makes one\n".into();
    }
    let mut table = Table::new(["ALIAS", "STATE", "DEVICE", "NODES", "GRANTED TO"]);
    let mut notes = String::new();
    for alias in aliases {
        let nodes = alias.nodes.iter().map(|node| {
            let mark = if node.primary { "*" } else { "" };
            format!("/dev/{}{mark}", node.devname)
        });
        table.row([
            alias.name.to_string(),
            match (alias.state, alias.ambiguous.is_empty()) {
                (PresenceState::Present, true) => "present".into(),
                (PresenceState::Present, false) => "ambiguous".into(),
                (PresenceState::Absent, _) => "absent".into(),
            },
            alias.device.as_ref().map(anchor).unwrap_or_default(),
            joined(nodes),
            joined(&alias.granted_to),
        ]);
        if !alias.ambiguous.is_empty() {
            let others = joined(alias.ambiguous.iter().map(anchor));
            write!(notes, "{}: also matches {}", alias.name, clean(&others)).ok();
            if let Some(advice) = &alias.advice {
                write!(notes, "; {}", clean(advice)).ok();
            }
            notes.push('\n');
        }
    }
    table.render() + &notes
}

/// Grants.
pub(crate) fn grants(grants: &[GrantView]) -> String {
    if grants.is_empty() {
        return "no grants; `devbroker attach ALIAS CONTAINER` gives a container a device\n".into();
    }
    let mut table = Table::new([
        "ALIAS",
        "CONTAINER",
        "ACCESS",
        "PATH",
        "OWNER",
        "GROUP",
        "MODE",
        "WRITTEN IN",
    ]);
    let mut notes = String::new();
    for grant in grants {
        table.row([
            grant.alias.to_string(),
            grant.container.to_string(),
            grant.access.to_string(),
            shown(grant.path.as_ref()),
            shown(grant.owner.as_ref()),
            shown(grant.group.as_ref()),
            shown(grant.mode.as_ref()),
            place(Some(&grant.origin)),
        ]);
        if !grant.suspended.is_empty() {
            let who = joined(&grant.suspended);
            writeln!(
                notes,
                "{} is detached from {who} until it is attached again",
                grant.alias
            )
            .ok();
        }
    }
    table.render() + &notes
}

/// Containers; `detail` shows their nodes.
pub(crate) fn containers(containers: &[ContainerView], detail: bool) -> String {
    if containers.is_empty() {
        return "no containers\n".into();
    }
    let mut table = Table::new(["CONTAINER", "STATE", "PID", "CONFINED", "USER NAMESPACE", "NODES"]);
    let mut below = String::new();
    for one in containers {
        let placed = one
            .nodes
            .iter()
            .filter(|node| node.state == NodeState::Placed)
            .count();
        let nodes = if placed == one.nodes.len() {
            placed.to_string()
        } else {
            format!("{placed} of {}", one.nodes.len())
        };
        let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
        table.row([
            one.container.to_string(),
            one.state.to_string(),
            one.pid.to_string(),
            yes(one.confined),
            yes(one.user_namespace),
            nodes,
        ]);
        for problem in &one.problems {
            writeln!(below, "{}: {}", one.container, clean(problem)).ok();
        }
        if detail && !one.nodes.is_empty() {
            writeln!(below, "\n{}", one.container).ok();
            below += &placed_nodes(&one.nodes, 2);
        }
    }
    table.render() + &below
}

/// Nodes in a container.
pub(super) fn placed_nodes(nodes: &[PlacedView], indent: usize) -> String {
    let mut table = Table::bare(indent);
    for node in nodes {
        let mut state = node.state.to_string();
        if let Some(problem) = &node.problem {
            write!(state, ": {problem}").ok();
        }
        let links = if node.links.is_empty() {
            String::new()
        } else {
            format!(
                "also {}",
                joined(node.links.iter().map(|link| format!("/dev/{link}")))
            )
        };
        table.row([
            format!("/dev/{}", node.path),
            node.devnum.to_string(),
            node.access.to_string(),
            format!("{}:{}", node.uid, node.gid),
            format!("{:04o}", node.mode),
            format!("{} {}", node.alias, node.role),
            state,
            links,
        ]);
    }
    table.render()
}

fn notes(notes: &[String]) -> String {
    notes
        .iter()
        .fold(String::new(), |text, note| text + "note: " + &clean(note) + "\n")
}

/// After `attach`.
pub(crate) fn attach(container: &ContainerRef, nodes: &[PlacedView], said: &[String]) -> String {
    let heading = if nodes.is_empty() {
        format!("granted to {container}; nothing to place now\n")
    } else {
        format!("granted to {container}\n")
    };
    heading + &placed_nodes(nodes, 2) + &notes(said)
}

/// After `detach`.
pub(crate) fn detach(reply: &DetachReply) -> String {
    let mut text = String::new();
    for node in &reply.nodes {
        writeln!(text, "taken away: /dev/{} ({})", node.path, node.devnum).ok();
    }
    if reply.nodes.is_empty() {
        text += "nothing was placed; the grant no longer applies\n";
    }
    for holder in &reply.holders {
        let (pid, command) = (holder.pid, clean(&holder.command));
        writeln!(
            text,
            "still held open: {} by process {pid} ({command})",
            holder.devnum
        )
        .ok();
    }
    text + &notes(&reply.notes)
}

/// After `alias add`, or for `--dry-run` before it.
pub(crate) fn add_alias(reply: &AddAliasReply, dry_run: bool) -> String {
    let verb = if dry_run { "would be added to" } else { "added to" };
    let mut text = format!("{verb} {}:\n", reply.file.display());
    for line in reply.text.trim().lines() {
        writeln!(text, "    {}", clean(line)).ok();
    }
    let nodes = joined(reply.nodes.iter().map(|node| format!("/dev/{node}")));
    writeln!(text, "it names {nodes}").ok();
    text + &notes(&reply.notes)
}

/// What would be done.
pub(crate) fn plan(plans: &[ContainerPlan]) -> String {
    let mut text = String::new();
    for plan in plans.iter().filter(|plan| !plan.actions.is_empty()) {
        match &plan.container {
            Some(container) => writeln!(text, "{container}").ok(),
            None => writeln!(text, "host").ok(),
        };
        for (number, action) in plan.actions.iter().enumerate() {
            writeln!(text, "  {}. {}", number + 1, clean(&action.text)).ok();
        }
    }
    if text.is_empty() {
        text += "nothing to do\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (61, "1 min 1 s"),
            (3600, "1 h 0 min"),
            (90_061, "1 d 1 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
