//! Changes of the configuration through the API: `attach`, `detach`, `alias add`. Each is a change of a file; what follows
//! from it is what follows from any change of the configuration.

use super::state::State;
use super::views::{keys_text, matches_text};
use crate::api::{AddAlias, AddAliasReply, ApiError, Attach, Detach, NotFoundKind};
use crate::config::{self, Alias, Match, edit};
use crate::model::{Access, AliasName, ContainerPattern, HostNode, Origin, UserRef};
use crate::policy;
use std::path::{Path, PathBuf};

/// The file for what is attached and detached at run time.
const RUN_TIME: &str = "attached.toml";

/// Writes a grant: to run time's folder, or with `save` to the administrator's.
pub(super) fn attach(state: &mut State, attach: &Attach) -> Result<(PathBuf, Vec<String>), ApiError> {
    let known = state.alias_names().contains(&attach.alias);
    if !known {
        return Err(unknown_alias(&attach.alias));
    }
    let mut notes = Vec::new();
    let runtime = state.loader.runtime.join(RUN_TIME);
    let brought_back =
        edit::remove_detach(&runtime, &attach.alias, &attach.container).map_err(|error| refused(&error))?;
    let owner = state
        .containers
        .get(&attach.container)
        .map_or(0, |served| served.registration.owner);
    let existing = state.config.grants.iter().find(|grant| {
        grant.alias == attach.alias
            && grant.container.is_exact()
            && grant.container.matches(&attach.container)
    });
    let file = match existing {
        Some(grant) if brought_back => {
            notes.push("it was granted already and detached; the detach is taken back".into());
            grant.origin.file.clone()
        }
        Some(grant) => {
            return Err(ApiError::refused(format!(
                "`{}` is granted to {} already, at {}; change it there, or `devbroker detach` it first",
                attach.alias, attach.container, grant.origin
            )));
        }
        None => {
            let file = if attach.save {
                state
                    .loader
                    .admin
                    .join(format!("{}.toml", attach.container.to_string().replace(':', "-")))
            } else {
                runtime
            };
            let grant = edit::NewGrant {
                alias: attach.alias.clone(),
                container: attach.container.clone(),
                user: owner,
                path: attach.path.clone(),
                access: attach.access.unwrap_or(Access::READ_WRITE),
                owner: attach.owner.as_deref().map(user),
                group: attach.group.as_deref().map(user),
                mode: attach.mode.clone(),
            };
            edit::append(&file, &edit::grant_text(&grant)).map_err(|error| refused(&error))?;
            file
        }
    };
    reload(state);
    if !state.containers.contains_key(&attach.container) {
        notes.push(format!(
            "{} is not running; it has the device when it starts",
            attach.container
        ));
    }
    if state
        .host
        .alias(&attach.alias)
        .is_none_or(|bound| bound.binding.bound.is_none())
    {
        notes.push(format!(
            "the device of `{}` is not there; it appears when it is plugged in",
            attach.alias
        ));
    }
    Ok((file, notes))
}

/// A number, or a name that the container knows.
fn user(text: &str) -> UserRef {
    text.parse()
        .map_or_else(|_| UserRef::Name(text.into()), UserRef::Id)
}

/// Takes a grant of run time out, or suspends one of the administrator's; with `save` takes that out of its file.
pub(super) fn detach(state: &mut State, detach: &Detach) -> Result<(Option<PathBuf>, Vec<String>), ApiError> {
    let mut notes = Vec::new();
    let granted = state
        .config
        .grants
        .iter()
        .filter(|grant| grant.alias == detach.alias && grant.container.matches(&detach.container));
    let files: Vec<(PathBuf, ContainerPattern)> = granted
        .map(|grant| (grant.origin.file.clone(), grant.container.clone()))
        .collect();
    if files.is_empty() {
        return Err(ApiError::not_found(
            NotFoundKind::Grant,
            detach.alias.to_string(),
            format!(
                "`{}` is not granted to {}; see `devbroker grants`",
                detach.alias, detach.container
            ),
        ));
    }
    let runtime = state.loader.runtime.join(RUN_TIME);
    let mut changed = None;
    let mut standing = false;
    for (file, pattern) in files {
        let removable = pattern.is_exact() && (file.starts_with(&state.loader.runtime) || detach.save);
        if removable && edit::remove_grant(&file, &detach.alias, &pattern).map_err(|error| refused(&error))? {
            changed = Some(file);
        } else {
            standing = true;
            notes.push(format!(
                "the grant in {} stays; the device is detached until the next boot",
                file.display()
            ));
        }
    }
    let suspended = state
        .config
        .detached
        .iter()
        .any(|one| one.alias == detach.alias && one.container == detach.container);
    if standing && !suspended {
        edit::append(&runtime, &edit::detach_text(&detach.alias, &detach.container))
            .map_err(|error| refused(&error))?;
        changed = Some(runtime);
    }
    reload(state);
    Ok((changed, notes))
}

/// Names a device that is there.
pub(super) fn add_alias(state: &mut State, add: &AddAlias) -> Result<AddAliasReply, ApiError> {
    if let Some(alias) = state.config.aliases.get(&add.name) {
        return Err(ApiError::refused(format!(
            "there is an alias `{}` already, at {}; choose another name, or change it there",
            add.name, alias.origin
        )));
    }
    let node = state.find_node(&add.device).ok_or_else(|| {
        ApiError::not_found(
            NotFoundKind::Device,
            add.device.clone(),
            format!("no device `{}` is there; see `devbroker devices`", add.device),
        )
    })?;
    let keys = policy::propose(node, state.host.nodes());
    let file = state.loader.admin.join(format!("{}.toml", add.name));
    let text = edit::alias_text(&add.name, &keys);
    let origin = Origin {
        file: file.clone(),
        line: 1,
    };
    let one = Match {
        keys,
        whole: false,
        origin: origin.clone(),
    };
    let alias = Alias {
        name: add.name.clone(),
        matches: vec![one],
        primary: None,
        origin,
    };
    let mut notes = Vec::new();
    if !alias
        .matches
        .iter()
        .flat_map(|one| &one.keys)
        .any(|key| matches!(key, config::Key::Serial(_)))
    {
        notes.push(
            "the device has no serial number of its own, so it is known by its port: plug it into the same socket"
                .into(),
        );
    }
    let mut trial = config::Config::default();
    trial.aliases.insert(add.name.clone(), alias.clone());
    let named: Vec<&HostNode> = state
        .host
        .nodes()
        .filter(|node| {
            policy::candidates(&trial, node)
                .iter()
                .any(|candidate| candidate.alias == add.name)
        })
        .collect();
    notes.extend(whole_device(node, &alias, &named));
    let nodes = named.iter().map(|node| node.devname.clone()).collect();
    if !add.dry_run {
        edit::append(&file, &text).map_err(|error| refused(&error))?;
        reload(state);
    }
    Ok(AddAliasReply {
        matches: matches_text(&alias),
        file,
        text,
        nodes,
        notes,
    })
}

/// That the alias means the other nodes of the kind as well, and how to have the one that was named.
fn whole_device(node: &HostNode, alias: &Alias, named: &[&HostNode]) -> Option<String> {
    let like = |other: &&&HostNode| other.subsystem() == node.subsystem();
    if named.iter().filter(like).count() < 2 {
        return None;
    }
    let keys = alias.matches.first().map_or(&[][..], |one| &one.keys);
    let means = format!(
        "the alias means the whole device with its {} nodes, not {} alone",
        named.len(),
        node.devname
    );
    let narrowed = policy::narrow(node, keys, named);
    Some(match narrowed {
        Some(keys) => format!("{means}; to have that, write `match = {}`", keys_text(&keys)),
        None => format!(
            "{means}; a grant leaves out the others by `[[grant.node]]` with `role` and `omit = true`, see devbroker.toml(5)"
        ),
    })
}

/// Reads the configuration again; the watch would, a little later.
fn reload(state: &mut State) {
    let loaded = state.loader.load();
    state.configure(loaded);
}

fn refused(error: &edit::EditError) -> ApiError {
    match error {
        edit::EditError::Io { .. } => ApiError::failed(error.to_string()),
        edit::EditError::Faulty { .. } | edit::EditError::Refused { .. } | edit::EditError::ByHand { .. } => {
            ApiError::refused(error.to_string())
        }
    }
}

pub(super) fn unknown_alias(alias: &AliasName) -> ApiError {
    ApiError::not_found(
        NotFoundKind::Alias,
        alias.to_string(),
        format!("there is no alias `{alias}`; `devbroker alias add {alias} /dev/NODE` makes one"),
    )
}

/// Whether a file lies in run time's folder.
pub(super) fn is_run_time(state: &State, file: &Path) -> bool {
    file.starts_with(&state.loader.runtime)
}
