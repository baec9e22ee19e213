//! The state as the API shows it.

use super::served::Served;
use super::state::State;
use crate::api::{
    ActionView, AliasNode, AliasRole, AliasView, AnchorView, ContainerPlan, ContainerState, ContainerView,
    DeviceView, DiagnosticView, FileState, FileView, GrantView, HolderView, NodeState, OriginView,
    PlacedView, PresenceState, Severity, StatusView, devices,
};
use crate::config::{self, Alias, Diagnostic, Grant, Origin};
use crate::model::{AliasName, ContainerRef, DevNum, HostNode, Permissions, SysPath};
use crate::permissions;
use crate::plan::{Plan, PlannedNode};
use crate::policy::{self, Anchor};
use std::collections::BTreeSet;

/// A place in a file.
pub(super) fn origin(origin: &Origin) -> OriginView {
    OriginView {
        file: origin.file.clone(),
        line: u64::from(origin.line),
    }
}

/// A device that an alias stands for.
pub(super) fn anchor(anchor: &Anchor) -> AnchorView {
    AnchorView {
        syspath: anchor.syspath.clone(),
        port: anchor.port.as_ref().map(ToString::to_string),
        serial: anchor.serial.clone(),
    }
}

/// A fault of the configuration.
pub(super) fn diagnostic(problem: &Diagnostic) -> DiagnosticView {
    DiagnosticView {
        severity: if problem.is_error() {
            Severity::Error
        } else {
            Severity::Warning
        },
        file: problem.origin.file.clone(),
        line: (problem.origin.line > 0).then(|| u64::from(problem.origin.line)),
        column: (problem.column > 0).then(|| u64::from(problem.column)),
        message: problem.message.clone(),
        text: problem.to_string(),
    }
}

/// A match, as the configuration has it.
pub(super) fn keys_text(keys: &[config::Key]) -> String {
    let keys: Vec<String> = keys
        .iter()
        .map(|key| format!("{} = {}", key.name(), toml::Value::from(key.expected())))
        .collect();
    format!("{{ {} }}", keys.join(", "))
}

/// What an alias goes by, as the configuration has it.
pub(super) fn matches_text(alias: &Alias) -> String {
    let all: Vec<String> = alias
        .matches
        .iter()
        .map(|one_match| keys_text(&one_match.keys))
        .collect();
    match all.as_slice() {
        [only] => only.clone(),
        _ => format!("[{}]", all.join(", ")),
    }
}

impl State {
    /// How the daemon is.
    pub(super) fn status(&self) -> StatusView {
        let present = self
            .host
            .aliases()
            .filter(|(_, bound)| bound.binding.bound.is_some())
            .count();
        let files = self.files.iter().map(|file| FileView {
            path: file.path.clone(),
            state: match file.state {
                config::FileState::InForce => FileState::Ok,
                config::FileState::LastGood => FileState::LastGood,
                config::FileState::Unused => FileState::Broken,
                config::FileState::Masked => FileState::Masked,
            },
        });
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        StatusView {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime: self.started.elapsed().as_secs(),
            settled: self.is_settled(),
            monitor: self.config.settings.monitor,
            devices: count(self.devices().len()),
            nodes: count(self.host.nodes().count()),
            aliases: count(self.alias_names().len()),
            aliases_present: count(present),
            grants: count(self.config.grants.len()),
            containers: count(self.containers.len()),
            placed: count(
                self.containers
                    .values()
                    .map(|served| served.ledger.placed().nodes.len())
                    .sum(),
            ),
            failed: count(
                self.containers
                    .values()
                    .map(|served| served.history.failures().len())
                    .sum(),
            ),
            events: self.events,
            events_lost: self.losses,
            clients: 0,
            files: files.collect(),
            problems: self.problems.iter().map(diagnostic).collect(),
            troubles: self.troubles(),
        }
    }

    /// Every device.
    pub(super) fn devices(&self) -> Vec<DeviceView> {
        devices(self.host.nodes(), |node| self.about(node))
    }

    fn about(&self, node: &HostNode) -> (Vec<AliasRole>, Vec<ContainerRef>) {
        let aliases = self.host.aliases().filter_map(|(alias, bound)| {
            let (_, role, _) = bound
                .members
                .iter()
                .find(|(syspath, _, _)| syspath == node.syspath())?;
            Some(AliasRole {
                alias: alias.clone(),
                role: role.clone(),
            })
        });
        let has = |served: &&Served| {
            let mut nodes = served.ledger.placed().nodes.values();
            nodes.any(|placed| placed.syspath == *node.syspath() && placed.incarnation == node.incarnation())
        };
        let containers = self
            .containers
            .values()
            .filter(has)
            .map(|served| served.registration.container.clone());
        (aliases.collect(), containers.collect())
    }

    /// Every alias that is configured or bound.
    pub(super) fn alias_names(&self) -> Vec<AliasName> {
        let bound = self
            .host
            .aliases()
            .filter(|(_, bound)| bound.binding.bound.is_some())
            .map(|(alias, _)| alias);
        let mut names: Vec<AliasName> = self.config.aliases.keys().chain(bound).cloned().collect();
        names.sort();
        names.dedup();
        names
    }

    /// One alias.
    pub(super) fn alias_view(&self, name: &AliasName) -> AliasView {
        let configured = self.config.aliases.get(name);
        let bound = self.host.alias(name);
        let device = bound.and_then(|bound| bound.binding.bound.as_ref());
        let ambiguous = bound
            .map(|bound| bound.binding.ambiguous.as_slice())
            .unwrap_or_default();
        let advice = device.zip(ambiguous.first()).and_then(|(device, other)| {
            let (this, that) = policy::telling_apart(device, other)?;
            Some(format!(
                "`{this}` is the one that has the alias, `{that}` the other; add one of them to the match"
            ))
        });
        let grants = self.config.grants.iter().filter(|grant| grant.alias == *name);
        AliasView {
            name: name.clone(),
            matches: configured.map_or_else(|| "udev rule".into(), matches_text),
            origin: configured.map(|alias| origin(&alias.origin)),
            state: if device.is_some() {
                PresenceState::Present
            } else {
                PresenceState::Absent
            },
            device: device.map(anchor),
            ambiguous: ambiguous.iter().map(anchor).collect(),
            advice,
            nodes: self
                .host
                .members(name)
                .into_iter()
                .map(|member| AliasNode {
                    role: member.role,
                    devname: member.node.devname.clone(),
                    devnum: member.node.devnum,
                    primary: member.primary,
                })
                .collect(),
            granted_to: grants.map(|grant| grant.container.clone()).collect(),
        }
    }

    /// One grant.
    pub(super) fn grant_view(&self, grant: &Grant) -> GrantView {
        let looks = &grant.looks;
        let suspended = self
            .config
            .detached
            .iter()
            .filter(|detach| detach.alias == grant.alias && grant.container.matches(&detach.container));
        GrantView {
            alias: grant.alias.clone(),
            container: grant.container.clone(),
            access: grant.access,
            path: looks.path.clone(),
            owner: looks.owner.as_ref().map(ToString::to_string),
            group: looks.group.as_ref().map(ToString::to_string),
            mode: looks.mode.map(|mode| format!("{mode:04o}")),
            run_time: super::runtime::is_run_time(self, &grant.origin.file),
            suspended: suspended.map(|detach| detach.container.clone()).collect(),
            applies_to: self
                .granted
                .iter()
                .filter(|(_, grants)| grants.contains(grant))
                .map(|(container, _)| container.clone())
                .collect(),
            origin: origin(&grant.origin),
        }
    }

    /// What would be done in each container.
    pub(super) fn plan_views(&mut self, only: Option<&ContainerRef>) -> Result<Vec<ContainerPlan>, String> {
        let names: Vec<ContainerRef> = self
            .containers
            .keys()
            .filter(|name| only.is_none_or(|only| only == *name))
            .cloned()
            .collect();
        let mut plans = Vec::new();
        for container in names {
            let wants = self.wants(&container);
            let Some(served) = self.containers.get_mut(&container) else {
                continue;
            };
            let Plan { actions, .. } = served
                .plan(&wants, &mut self.remember)
                .map_err(|error| error.to_string())?;
            if !actions.is_empty() {
                let actions = actions
                    .iter()
                    .map(|action| ActionView {
                        text: action.to_string(),
                        action: serde_json::to_value(action).unwrap_or_default(),
                    })
                    .collect();
                plans.push(ContainerPlan {
                    container: Some(container),
                    actions,
                });
            }
        }
        Ok(plans)
    }

    /// The device of a name that a person gives: a node, a number, a path in sysfs.
    pub(super) fn find_node(&self, name: &str) -> Option<&HostNode> {
        if let Ok(devnum) = name.parse::<DevNum>() {
            return self.host.nodes().find(|node| node.devnum == devnum);
        }
        if let Ok(syspath) = name.parse::<SysPath>() {
            let own = self.host.node(&syspath);
            return own.or_else(|| self.host.nodes().find(|node| node.syspath().is_within(&syspath)));
        }
        let path = name.strip_prefix("/dev/").unwrap_or(name);
        let by_name = |node: &&HostNode| {
            node.devname.as_str() == path || node.links.iter().any(|link| link.as_str() == path)
        };
        self.host.nodes().find(by_name)
    }
}

/// One container.
pub(super) fn container_view(served: &Served) -> ContainerView {
    let registration = &served.registration;
    let mut problems: Vec<String> = served
        .history
        .failures()
        .iter()
        .map(|failure| format!("{}: {}", failure.action, failure.error))
        .collect();
    problems.extend(served.conflicts.iter().map(ToString::to_string));
    problems.extend(
        served
            .notes
            .iter()
            .map(|(alias, role, note)| format!("{alias} {role}: {note}")),
    );
    if !served.confined {
        problems.push(
            "not confined: the container can leave its device filter (SYS_ADMIN or BPF without a user namespace), or the filter is not attached"
                .into(),
        );
    }
    ContainerView {
        container: registration.container.clone(),
        owner: registration.owner,
        instance: registration.instance.clone(),
        pid: registration.pid,
        state: if served.stuck {
            ContainerState::Stuck
        } else {
            ContainerState::Running
        },
        confined: served.confined,
        user_namespace: !registration.uid_map.is_identity(),
        nodes: placed_views(served, None),
        problems,
    }
}

/// What is placed in a container and what is to be, of one alias or all.
pub(super) fn placed_views(served: &Served, alias: Option<&AliasName>) -> Vec<PlacedView> {
    served
        .desired
        .nodes
        .values()
        .filter(|node| alias.is_none_or(|alias| node.alias == *alias))
        .map(|node| placed_view(served, node))
        .collect()
}

fn placed_view(served: &Served, node: &PlannedNode) -> PlacedView {
    let ledger = served.ledger.placed();
    let placed = ledger
        .nodes
        .get(&node.path)
        .filter(|placed| placed.incarnation == node.incarnation);
    let maps = (&served.registration.uid_map, &served.registration.gid_map);
    let now = placed
        .and_then(|placed| served.devfs.permissions(placed.ino).ok().flatten())
        .map(|seen| permissions::to_inside(&seen, maps.0, maps.1));
    let Permissions { uid, gid, mode, .. } = now.unwrap_or_else(|| node.permissions.clone());
    let problem = served
        .history
        .failures()
        .iter()
        .find(|failure| {
            failure.action.contains(node.path.as_str()) || failure.action.contains(&node.devnum.to_string())
        })
        .map(|failure| failure.error.clone());
    let state = match (placed, &problem) {
        (Some(_), _) => NodeState::Placed,
        (None, Some(_)) => NodeState::Failed,
        (None, None) => NodeState::Pending,
    };
    let links = ledger
        .links
        .iter()
        .filter(|(path, target)| **target == path.link_to(&node.path));
    PlacedView {
        alias: node.alias.clone(),
        role: node.role.clone(),
        path: node.path.clone(),
        devnum: node.devnum,
        access: served.access.get(&node.devnum).copied().unwrap_or_default(),
        links: links.map(|(path, _)| path.clone()).collect(),
        uid,
        gid,
        mode,
        state,
        problem,
    }
}

/// Processes below a container's cgroup that hold one of these devices open.
pub(super) fn holders(served: &Served, devnums: &BTreeSet<DevNum>) -> Vec<HolderView> {
    crate::host::process::holders(&served.registration.cgroup, &|devnum| devnums.contains(&devnum))
        .into_iter()
        .map(|(pid, command, devnum)| HolderView { pid, command, devnum })
        .collect()
}
