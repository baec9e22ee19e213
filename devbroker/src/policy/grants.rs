//! Who gets what.

use super::members::Member;
use crate::config::{Config, Grant, Looks};
use crate::model::{AliasName, ContainerRef, NodePath, Role, UserRef};
use crate::plan::Want;
use std::collections::BTreeMap;

/// The grants that apply to a container of this owner (the host's uid), one for each alias: the exact name wins over a
/// pattern, and what is detached is left out.
pub fn grants<'c>(config: &'c Config, container: &ContainerRef, owner: u32) -> Vec<&'c Grant> {
    let mut chosen: BTreeMap<&AliasName, &Grant> = BTreeMap::new();
    let fitting = config
        .grants
        .iter()
        .filter(|grant| grant.user == owner && grant.container.matches(container));
    for grant in fitting {
        chosen
            .entry(&grant.alias)
            .and_modify(|kept| {
                if grant.container.is_exact() && !kept.container.is_exact() {
                    *kept = grant;
                }
            })
            .or_insert(grant);
    }
    let detached = |alias: &AliasName| {
        config
            .detached
            .iter()
            .any(|one| one.alias == *alias && one.container == *container)
    };
    chosen.retain(|alias, _| !detached(alias));
    chosen.into_values().collect()
}

/// What a grant wants in a container, given the nodes of its alias.
pub fn wants(grant: &Grant, members: &[Member<'_>]) -> Vec<Want> {
    members.iter().filter_map(|member| want(grant, member)).collect()
}

fn want(grant: &Grant, member: &Member<'_>) -> Option<Want> {
    let node = member.node;
    let rule = grant.nodes.iter().find(|rule| rule.role == member.role);
    if rule.is_some_and(|rule| rule.omit) {
        return None;
    }
    // A role's own path, else for the primary node the grant's.
    let looks = rule.map(|rule| &rule.looks);
    let named = looks
        .filter(|looks| looks.path.is_some())
        .or_else(|| member.primary.then_some(&grant.looks));
    let extra = named.and_then(|looks| looks.path.as_ref());
    let as_node = named.is_some_and(|looks| looks.as_node);
    let path = extra.filter(|_| as_node).unwrap_or(&node.devname).clone();
    let mut links: Vec<NodePath> = role_link(&grant.alias, &member.role)
        .into_iter()
        .chain(alias_link(&grant.alias).filter(|_| member.primary))
        .chain(extra.cloned())
        .filter(|link| *link != path)
        .collect();
    links.sort();
    links.dedup();
    let say = |of: fn(&Looks) -> Option<&UserRef>| looks.and_then(of).or_else(|| of(&grant.looks)).cloned();
    Some(Want {
        alias: grant.alias.clone(),
        role: member.role.clone(),
        syspath: node.syspath().clone(),
        incarnation: node.incarnation(),
        devnum: node.devnum,
        host_mode: node.mode,
        access: rule.and_then(|rule| rule.access).unwrap_or(grant.access),
        path,
        links,
        owner: say(|looks| looks.owner.as_ref()),
        group: say(|looks| looks.group.as_ref()),
        mode: looks.and_then(|looks| looks.mode).or(grant.looks.mode),
        origin: grant.origin.clone(),
        primary: member.primary,
    })
}

/// Where the link to an alias's primary node is, on the host as inside: `devbroker/<alias>`.
pub fn alias_link(alias: &AliasName) -> Option<NodePath> {
    format!("devbroker/{alias}").parse().ok()
}

/// Where the link to one role's node is: `devbroker/<alias>.d/<role>`, with `:` for the role's `/`.
pub fn role_link(alias: &AliasName, role: &Role) -> Option<NodePath> {
    format!("devbroker/{alias}.d/{}", role.as_str().replace('/', ":"))
        .parse()
        .ok()
}
