//! `why`: what is known about a device, an alias or a container, what was done for it, and what would come next.

use super::served::Served;
use super::state::State;
use super::views;
use crate::api::{
    ApiError, DoneView, FailedView, KeyView, MatchView, NextView, NotFoundKind, PresenceState, SubjectKind,
    WhyGrant, WhyReply,
};
use crate::model::{AliasName, ContainerRef, HostNode, NodePath};
use crate::policy::{self, DeviceExplanation};
use std::collections::BTreeSet;
use std::time::Instant;

/// Answers for a subject that a person names: an alias, a container, or a device.
pub(super) fn why(state: &mut State, about: &str) -> Result<WhyReply, ApiError> {
    if let Ok(alias) = about.parse::<AliasName>() {
        if state.alias_names().contains(&alias) {
            return Ok(why_alias(state, &alias));
        }
    }
    if let Some(node) = state.find_node(about).cloned() {
        return Ok(why_device(state, &node));
    }
    if let Ok(container) = about.parse::<ContainerRef>() {
        let known = state.containers.contains_key(&container) || state.unserved.contains_key(&container);
        let granted = state
            .config
            .grants
            .iter()
            .any(|grant| grant.container.matches(&container));
        if known || (granted && about.contains(':')) {
            return Ok(why_container(state, &container));
        }
    }
    Err(ApiError::not_found(
        NotFoundKind::Subject,
        about,
        format!(
            "`{about}` is no alias, no container and no device that is there; see `devbroker aliases`, `devbroker containers` and `devbroker devices`"
        ),
    ))
}

fn empty(subject: SubjectKind, name: String) -> WhyReply {
    WhyReply {
        subject,
        name,
        summary: String::new(),
        device: None,
        alias: None,
        container: None,
        matches: Vec::new(),
        grants: Vec::new(),
        done: Vec::new(),
        failed: Vec::new(),
        next: Vec::new(),
        notes: Vec::new(),
    }
}

fn why_device(state: &State, node: &HostNode) -> WhyReply {
    let mut reply = empty(SubjectKind::Device, node.devname.to_string());
    reply.device = state
        .devices()
        .into_iter()
        .find(|device| device.nodes.iter().any(|one| one.syspath == *node.syspath()));
    let explained = policy::explain_device(&state.config, node);
    reply.matches = explained
        .iter()
        .flat_map(|one| match_views(state, one, node))
        .collect();
    let aliases: BTreeSet<AliasName> = state
        .host
        .aliases()
        .filter(|(_, bound)| {
            bound
                .members
                .iter()
                .any(|(syspath, _, _)| syspath == node.syspath())
        })
        .map(|(alias, _)| alias.clone())
        .collect();
    let is_it = |path: &NodePath, served: &Served| {
        served
            .desired
            .nodes
            .get(path)
            .is_some_and(|planned| planned.syspath == *node.syspath())
    };
    concern(state, &mut reply, &aliases, None, &is_it);
    for alias in explained.iter().filter(|one| one.matched).map(|one| &one.alias) {
        if !aliases.contains(alias) {
            reply.notes.push(format!(
                "it matches `{alias}`, but another device has that alias; see `devbroker why {alias}`"
            ));
        }
    }
    if !state.host.is_done(node.syspath()) {
        reply.notes.push(
            "udev is not done with it; where it is not placed already, that waits (see `udevadm settle`)"
                .into(),
        );
    }
    reply.summary = match (aliases.first(), reply.done.len()) {
        (None, _) => format!(
            "{} belongs to no alias; `devbroker alias add NAME /dev/{0}` names it",
            node.devname
        ),
        (Some(alias), 0) if reply.grants.is_empty() => {
            format!(
                "{} is `{alias}`, which is granted to nobody; `devbroker attach {alias} CONTAINER` grants it",
                node.devname
            )
        }
        (Some(alias), 0) => format!("{} is `{alias}`, and is in no container now", node.devname),
        (Some(alias), count) => format!("{} is `{alias}`, and is in {count} container(s)", node.devname),
    };
    reply
}

fn why_alias(state: &State, alias: &AliasName) -> WhyReply {
    let mut reply = empty(SubjectKind::Alias, alias.to_string());
    let view = state.alias_view(alias);
    let device = view.device.as_ref().map(|device| device.syspath.clone());
    reply.device = device.as_ref().and_then(|syspath| {
        let mut devices = state.devices().into_iter();
        devices.find(|one| one.syspath == *syspath || one.nodes.iter().any(|node| node.syspath == *syspath))
    });
    for node in state.host.nodes() {
        let explained = policy::explain_device(&state.config, node);
        let near = explained.iter().filter(|one| {
            one.alias == *alias
                && (one.matched || one.matches.iter().any(|m| m.keys.iter().any(|key| key.matched)))
        });
        reply
            .matches
            .extend(near.flat_map(|one| match_views(state, one, node)));
    }
    reply.matches.sort_by_key(|one| !one.matched);
    concern(
        state,
        &mut reply,
        &[alias.clone()].into(),
        None,
        &|path, served| {
            served
                .desired
                .nodes
                .get(path)
                .is_some_and(|planned| planned.alias == *alias)
        },
    );
    reply.summary = match (&view.state, view.device.as_ref()) {
        (PresenceState::Present, Some(device)) => {
            format!(
                "`{alias}` is {}, with {} node(s), in {} place(s)",
                device.syspath,
                view.nodes.len(),
                reply.done.len()
            )
        }
        (PresenceState::Present | PresenceState::Absent, _) => {
            let away = state
                .host
                .alias(alias)
                .is_some_and(|bound| bound.binding.by == policy::BoundBy::HolderAway);
            if away {
                format!(
                    "the device of `{alias}` is away; others match as well, but were there beside it, so they do not take its place"
                )
            } else {
                format!("no device that is there matches `{alias}`")
            }
        }
    };
    if view.device.is_none() {
        reply.next.push(NextView {
            container: None,
            action: format!("`{alias}` is bound, and its nodes are placed"),
            when: "when the device is plugged".into(),
        });
    }
    reply.notes.extend(view.advice.clone());
    reply.alias = Some(view);
    reply
}

fn why_container(state: &State, container: &ContainerRef) -> WhyReply {
    let mut reply = empty(SubjectKind::Container, container.to_string());
    let aliases: BTreeSet<AliasName> = state
        .config
        .grants
        .iter()
        .filter(|grant| grant.container.matches(container))
        .map(|grant| grant.alias.clone())
        .collect();
    concern(state, &mut reply, &aliases, Some(container), &|_, _| true);
    let served = state.containers.get(container);
    reply.container = served.map(views::container_view);
    reply.summary = match (served, state.unserved.get(container)) {
        (Some(_), _) => format!("{container} is running with {} node(s) placed", reply.done.len()),
        (None, Some(error)) => {
            reply.notes.push(error.clone());
            format!("{container} is registered but cannot be served")
        }
        (None, None) => {
            reply.next.push(NextView {
                container: Some(container.clone()),
                action: "what is granted is placed before its init runs".into(),
                when: "when the container starts".into(),
            });
            format!("{container} is not running")
        }
    };
    reply
}

/// Fills in grants, what was done, what failed and what comes next, of some aliases and of one container or all.
fn concern(
    state: &State,
    reply: &mut WhyReply,
    aliases: &BTreeSet<AliasName>,
    only: Option<&ContainerRef>,
    is_it: &dyn Fn(&NodePath, &Served) -> bool,
) {
    for grant in &state.config.grants {
        if !aliases.contains(&grant.alias) || only.is_some_and(|only| !grant.container.matches(only)) {
            continue;
        }
        let view = state.grant_view(grant);
        let applies = only.map_or(!view.applies_to.is_empty(), |only| view.applies_to.contains(only));
        let reason = if applies {
            None
        } else if !view.suspended.is_empty() {
            Some("it is detached for now; `devbroker attach` brings it back".to_owned())
        } else if view.applies_to.is_empty() {
            Some("no such container is running".to_owned())
        } else {
            Some("another grant of the same alias is more exact".to_owned())
        };
        reply.grants.push(WhyGrant {
            grant: view,
            applies,
            reason,
        });
    }
    for (container, served) in &state.containers {
        if only.is_some_and(|only| only != container) {
            continue;
        }
        for view in views::placed_views(served, None) {
            if !aliases.contains(&view.alias) || !is_it(&view.path, served) {
                continue;
            }
            let planned = served.desired.nodes.get(&view.path);
            if view.state == crate::api::NodeState::Placed {
                let because = planned.map(because).unwrap_or_default();
                if let Some(drift) = planned.and_then(|planned| drift(planned, &view)) {
                    reply.notes.push(format!("{container}: {drift}"));
                }
                reply.done.push(DoneView {
                    container: container.clone(),
                    node: view,
                    because,
                });
            } else {
                let when = served.retry.due().map_or_else(|| "now".into(), in_words);
                let action = format!("make node {}", view.path);
                reply.next.push(NextView {
                    container: Some(container.clone()),
                    action,
                    when,
                });
            }
        }
        let retry = served.retry.due().map(|due| {
            u64::try_from(due.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(u64::MAX)
        });
        reply
            .failed
            .extend(served.history.failures().iter().map(|failure| FailedView {
                container: Some(container.clone()),
                action: failure.action.clone(),
                error: failure.error.clone(),
                attempts: failure.attempts,
                retry,
            }));
        let notes = served
            .notes
            .iter()
            .filter(|(alias, _, _)| aliases.contains(alias));
        reply
            .notes
            .extend(notes.map(|(alias, role, note)| format!("{container}: {alias} {role}: {note}")));
        reply.notes.extend(
            served
                .conflicts
                .iter()
                .map(|conflict| format!("{container}: {conflict}")),
        );
        if served.stuck {
            reply.notes.push(format!(
                "{container}: its worker does not answer (something in the container blocks, such as a FUSE file system over /dev); revoking works all the same"
            ));
        }
    }
}

fn in_words(due: Instant) -> String {
    format!("in {} s", due.saturating_duration_since(Instant::now()).as_secs())
}

/// Where owner, group and mode come from.
fn because(planned: &crate::plan::PlannedNode) -> String {
    let grant = planned.grant;
    let said = [
        grant.uid.map(|_| "owner"),
        grant.gid.map(|_| "group"),
        grant.mode.map(|_| "mode"),
    ];
    let said: Vec<&str> = said.into_iter().flatten().collect();
    let rest = "what was last seen on this role in this container, or at first the host node's mode with the container's root";
    match said.as_slice() {
        [] => rest.into(),
        [_, _, _] => "the grant".into(),
        some => format!("the grant ({}), and {rest}", some.join(", ")),
    }
}

/// What the container changed of what the grant says. It is left as it is.
fn drift(planned: &crate::plan::PlannedNode, view: &crate::api::PlacedView) -> Option<String> {
    let grant = planned.grant;
    let mut changed = Vec::new();
    if grant.uid.is_some_and(|uid| uid != view.uid) {
        changed.push(format!("owner {}", view.uid));
    }
    if grant.gid.is_some_and(|gid| gid != view.gid) {
        changed.push(format!("group {}", view.gid));
    }
    if grant.mode.is_some_and(|mode| mode != view.mode) {
        changed.push(format!("mode {:04o}", view.mode));
    }
    (!changed.is_empty()).then(|| {
        format!(
            "{} has {} set inside, other than the grant says ({grant}); it is left so until the next replug or reload",
            view.path,
            changed.join(", ")
        )
    })
}

fn match_views(state: &State, one: &DeviceExplanation, node: &HostNode) -> Vec<MatchView> {
    let bound = state.host.alias(&one.alias);
    let role = bound.and_then(|bound| {
        let member = bound
            .members
            .iter()
            .find(|(syspath, _, _)| syspath == node.syspath());
        member.map(|(_, role, _)| role.clone())
    });
    let device = bound
        .and_then(|bound| bound.binding.bound.as_ref())
        .map(views::anchor);
    let by_rule = MatchView {
        alias: one.alias.clone(),
        origin: None,
        devname: node.devname.clone(),
        matched: true,
        role: role.clone(),
        anchor: device.clone(),
        keys: Vec::new(),
    };
    let near = |explained: &&policy::MatchExplanation| {
        explained.matched || explained.keys.iter().any(|key| key.matched)
    };
    let by_key = one.matches.iter().filter(near).map(|explained| MatchView {
        alias: one.alias.clone(),
        origin: Some(views::origin(&explained.origin)),
        devname: node.devname.clone(),
        matched: explained.matched,
        role: role.clone().filter(|_| explained.matched),
        anchor: device.clone().filter(|_| explained.matched),
        keys: explained
            .keys
            .iter()
            .map(|key| KeyView {
                key: key.key.clone(),
                expected: key.expected.clone(),
                found: key.found.clone(),
                at: None,
                matched: key.matched,
            })
            .collect(),
    });
    one.by_rule.then_some(by_rule).into_iter().chain(by_key).collect()
}
