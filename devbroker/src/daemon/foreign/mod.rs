//! Containers that ctm did not start: taken in by a process of theirs, given a devfs, linked to inside, and let go.
//!
//! Their nodes are placed like everyone's, on a tmpfs that the host owns. What differs is here: the filter is the runtime's
//! and has to be taken over and asserted again, and the container's own `/dev` needs a bind and links, which only workers
//! make. Everything that must outlive the daemon is in `/run/devbroker/foreign/<instance>`.

mod thread;
mod work;

pub(super) use thread::Bus;

use super::answers::{PATIENCE, Waiting, What, refuse};
use super::paths::Paths;
use super::registration::Held;
use super::runtime;
use super::state::State;
use crate::api::{ApiError, Attach, AttachPid};
use crate::host::namespace::Target;
use crate::host::process;
use crate::model::{ContainerRef, InstanceId, NodePath, Registration};
use crate::permissions::root_of;
use crate::server::ReplyTo;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc::UnboundedSender;

/// Where everything of one foreign container's run is.
#[derive(Debug, Clone)]
pub(super) struct Files {
    instance: InstanceId,
    folder: PathBuf,
    devfs: PathBuf,
    takeover: PathBuf,
    links: PathBuf,
    folders: PathBuf,
    filter: PathBuf,
}

impl Files {
    fn new(paths: &Paths, instance: &InstanceId) -> Self {
        let folder = paths.foreign().join(instance.as_str());
        Self {
            instance: instance.clone(),
            devfs: folder.join("devfs"),
            takeover: folder.join("takeover.json"),
            links: folder.join("links.json"),
            folders: folder.join("folders.json"),
            filter: paths.filters.join(instance.as_str()),
            folder,
        }
    }
}

/// How far a foreign container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Our folder is to be bound inside.
    Bind,
    /// Its users are to be read.
    Accounts,
    /// Links are kept in step.
    Ready,
    /// Nothing is granted any more: the bind goes, then everything is put back.
    Leaving,
}

/// What the daemon holds of a foreign container besides what every container has.
#[derive(Debug)]
pub(super) struct Foreign {
    target: Target,
    files: Files,
    stage: Stage,
    /// Names that have a link in the container's own `/dev`, or may have.
    linked: BTreeSet<NodePath>,
    busy: bool,
    /// Why the last job failed.
    pub(super) problem: Option<String>,
    /// Why its filter could not be asserted again.
    pub(super) filter_problem: Option<String>,
}

impl Foreign {
    /// Takes up a registered foreign container, whoever took it in.
    pub(super) fn adopt(paths: &Paths, registration: &Registration) -> std::io::Result<Self> {
        let files = Files::new(paths, &registration.instance);
        let root = root_of(&registration.uid_map, &registration.gid_map).map_err(std::io::Error::other)?;
        let process =
            process::hold(registration.pid, registration.pid_start).map_err(std::io::Error::other)?;
        let target = Target {
            instance: registration.instance.clone(),
            pid: registration.pid,
            process: Arc::new(process),
            root,
            folders: files.folders.clone(),
        };
        let linked = std::fs::read(&files.links)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Ok(Self {
            target,
            files,
            stage: Stage::Bind,
            linked,
            busy: false,
            problem: None,
            filter_problem: None,
        })
    }

    fn note_links(&self, links: &BTreeSet<NodePath>) -> std::io::Result<()> {
        let fresh = self.files.folder.join("links.new");
        std::fs::write(&fresh, serde_json::to_vec(links)?)?;
        std::fs::rename(&fresh, &self.files.links)
    }

    /// Whether nothing is under way and nothing to be done.
    fn is_idle(&self, wanted: &BTreeSet<NodePath>) -> bool {
        !self.busy && self.stage == Stage::Ready && self.linked == *wanted
    }
}

/// What a thread for foreign containers has done.
#[derive(Debug)]
pub(super) enum ForeignDone {
    /// A container was taken in, or not.
    TakenIn {
        container: ContainerRef,
        attach: Box<AttachPid>,
        result: Result<Vec<String>, ApiError>,
        reply: ReplyTo,
    },
    /// A filter was asserted again, or could not be.
    Reasserted {
        container: ContainerRef,
        result: Result<bool, String>,
    },
}

/// Begins to attach a device to a container that is named by a process of it.
pub(super) fn begin(
    state: &mut State,
    attach: AttachPid,
    reply: ReplyTo,
    done: &UnboundedSender<ForeignDone>,
) -> Option<Waiting> {
    let container = match thread::name(&attach) {
        Ok(container) => container,
        Err(error) => {
            refuse(reply, error);
            return None;
        }
    };
    if !state.alias_names().contains(&attach.alias) {
        refuse(reply, runtime::unknown_alias(&attach.alias));
        return None;
    }
    if let Some(served) = state.containers.get(&container) {
        if served
            .foreign
            .as_ref()
            .is_some_and(|foreign| foreign.stage == Stage::Leaving)
        {
            refuse(
                reply,
                ApiError::refused(format!("{container} is just being let go; try again")),
            );
            return None;
        }
        return grant(state, container, &attach, Vec::new(), reply);
    }
    let instance = match thread::new_instance() {
        Ok(instance) => instance,
        Err(error) => {
            refuse(
                reply,
                ApiError::failed(format!("no random number for the container: {error}")),
            );
            return None;
        }
    };
    let files = Files::new(&state.paths, &instance);
    let (registrations, bus, done) = (state.paths.registrations(), state.bus.clone(), done.clone());
    let reassert = state.config.settings.reassert;
    tokio::task::spawn_blocking(move || {
        let result = thread::take_in(&container, attach.pid, reassert, &files, &registrations, &bus)
            .map_err(|error| ApiError::from(&error));
        let attach = Box::new(attach);
        // When the daemon stops, the next one takes the container up.
        drop(done.send(ForeignDone::TakenIn {
            container,
            attach,
            result,
            reply,
        }));
    });
    None
}

/// Goes on with what a thread has done.
pub(super) fn finish(state: &mut State, done: ForeignDone) -> (Option<Held>, Option<Waiting>) {
    match done {
        ForeignDone::TakenIn {
            reply,
            result: Err(error),
            ..
        } => {
            refuse(reply, error);
            (None, None)
        }
        ForeignDone::TakenIn {
            container,
            attach,
            result: Ok(notes),
            reply,
        } => match state.adopt(&container) {
            Ok(held) => {
                state.reassert_later(&container);
                (held, grant(state, container, &attach, notes, reply))
            }
            Err(error) => {
                refuse(
                    reply,
                    ApiError::failed(format!("{container} cannot be served: {error}")),
                );
                (None, None)
            }
        },
        ForeignDone::Reasserted { container, result } => {
            match &result {
                Ok(true) => tracing::info!(%container, "device filter put back"),
                Ok(false) => {}
                Err(error) => tracing::error!(%container, %error, "device filter"),
            }
            let served = state.containers.get_mut(&container);
            if let Some(foreign) = served.and_then(|served| served.foreign.as_mut()) {
                foreign.filter_problem = result.err();
            }
            (None, None)
        }
    }
}

fn grant(
    state: &mut State,
    container: ContainerRef,
    attach: &AttachPid,
    mut notes: Vec<String>,
    reply: ReplyTo,
) -> Option<Waiting> {
    let attach = Attach {
        alias: attach.alias.clone(),
        container,
        access: attach.access,
        path: attach.path.clone(),
        owner: attach.owner.clone(),
        group: attach.group.clone(),
        mode: attach.mode.clone(),
        save: false,
    };
    match runtime::attach(state, &attach) {
        Ok((file, more)) => {
            notes.extend(more);
            let what = What::AttachedPid { attach, file, notes };
            Some(Waiting {
                what,
                reply,
                until: Instant::now() + PATIENCE,
            })
        }
        Err(error) => {
            refuse(reply, error);
            None
        }
    }
}
