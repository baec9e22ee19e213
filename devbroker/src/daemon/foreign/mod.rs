//! Containers that ctm did not start: taken in by a process of theirs, given a devfs, linked to inside, and let go.
//!
//! Their nodes are placed like everyone's, on a tmpfs that the host owns. What differs is here: the filter is the runtime's
//! and has to be taken over and asserted again, and the container's own `/dev` needs a bind and links, which only workers
//! make. Everything that must outlive the daemon is in `/run/devbroker/foreign/<instance>`.

mod thread;

pub(super) use thread::Bus;

use super::answers::{PATIENCE, Waiting, What, refuse};
use super::paths::Paths;
use super::registration::Held;
use super::runtime;
use super::served::Served;
use super::state::State;
use crate::api::{ApiError, Attach, AttachPid, EventKind, EventView};
use crate::host::namespace::{Job, Outcome, Report, Target, Task, Workers};
use crate::host::process;
use crate::host::unit_rules::Event;
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

/// The names that are to have a link in the container's own `/dev`.
fn wanted(served: &Served) -> BTreeSet<NodePath> {
    let placed = served.ledger.placed();
    placed.nodes.keys().chain(placed.links.keys()).cloned().collect()
}

impl State {
    /// Whether everything inside a foreign container is done, or cannot be.
    pub(super) fn is_linked(&self, container: &ContainerRef) -> bool {
        self.containers.get(container).is_none_or(|served| {
            served.stuck
                || served.foreign.as_ref().is_none_or(|foreign| {
                    foreign.is_idle(&wanted(served)) || (!foreign.busy && foreign.problem.is_some())
                })
        })
    }

    /// Gives workers what there is to do inside foreign containers.
    pub(super) fn send_work(&mut self, workers: &Workers) {
        let now = Instant::now();
        for (container, served) in &mut self.containers {
            let wanted = wanted(served);
            let leaves = self.granted.get(container).is_none_or(Vec::is_empty) && wanted.is_empty();
            let Some(foreign) = &mut served.foreign else {
                continue;
            };
            let waits = foreign.problem.is_some() && served.retry.due().is_some_and(|due| due > now);
            if foreign.busy || served.stuck || waits {
                continue;
            }
            if foreign.stage == Stage::Ready && leaves && foreign.linked.is_empty() {
                foreign.stage = Stage::Leaving;
            }
            let task = match foreign.stage {
                Stage::Bind => match served.devfs.dev().try_clone() {
                    Ok(dev) => Task::Bind { dev },
                    Err(error) => {
                        foreign.problem = Some(error.to_string());
                        continue;
                    }
                },
                Stage::Accounts => Task::Accounts,
                Stage::Ready if foreign.linked == wanted => continue,
                Stage::Ready => {
                    let all = foreign.linked.union(&wanted).cloned().collect();
                    if let Err(error) = foreign.note_links(&all) {
                        foreign.problem = Some(format!("cannot note the links: {error}"));
                        served.retry.attempted(now, true);
                        continue;
                    }
                    let known = std::mem::replace(&mut foreign.linked, all);
                    Task::Links { wanted, known }
                }
                Stage::Leaving => Task::Unbind {
                    known: foreign.linked.clone(),
                    st_dev: served.devfs.st_dev(),
                },
            };
            let job = Job {
                target: foreign.target.clone(),
                task,
            };
            match workers.submit(job) {
                Ok(()) => foreign.busy = true,
                Err(error) => {
                    foreign.problem = Some(error.to_string());
                    served.retry.attempted(now, true);
                }
            }
        }
    }

    /// A worker has done something, or does not answer.
    pub(super) fn worked(&mut self, outcome: Outcome) {
        let (Outcome::Done { instance, .. } | Outcome::Stuck { instance }) = &outcome;
        let found = self
            .containers
            .iter()
            .find(|(_, served)| served.registration.instance == *instance);
        let Some(container) = found.map(|(container, _)| container.clone()) else {
            return;
        };
        match outcome {
            Outcome::Stuck { .. } => {
                if let Some(served) = self.containers.get_mut(&container) {
                    served.stuck = true;
                }
                tracing::warn!(%container, "it does not answer; revoking its access works all the same");
                let mut event =
                    EventView::new(EventKind::ContainerStuck, format!("{container} does not answer"));
                event.container = Some(container);
                self.publish(event);
            }
            Outcome::Done { result, .. } => {
                self.job_done(&container, result.map_err(|error| error.to_string()));
            }
        }
    }

    fn job_done(&mut self, container: &ContainerRef, result: Result<Report, String>) {
        let Some(served) = self.containers.get_mut(container) else {
            return;
        };
        served.stuck = false;
        let wanted = wanted(served);
        let Some(foreign) = &mut served.foreign else {
            return;
        };
        foreign.busy = false;
        let report = match result {
            Ok(report) => report,
            Err(error) => {
                tracing::warn!(%container, %error, "inside");
                foreign.problem = Some(error);
                served.retry.attempted(Instant::now(), true);
                if foreign.stage == Stage::Leaving {
                    self.let_go_of(container);
                }
                return;
            }
        };
        foreign.problem = report
            .failed
            .first()
            .map(|(path, error)| format!("{path}: {error}"));
        served.retry.attempted(Instant::now(), !report.failed.is_empty());
        match foreign.stage {
            Stage::Bind => foreign.stage = Stage::Accounts,
            Stage::Accounts => {
                foreign.stage = Stage::Ready;
                if let Some(accounts) = report.accounts {
                    served.accounts = accounts;
                    self.mark(container);
                }
            }
            Stage::Ready => {
                let failed: BTreeSet<NodePath> = report.failed.into_iter().map(|(path, _)| path).collect();
                foreign
                    .linked
                    .retain(|path| wanted.contains(path) && !failed.contains(path));
                let linked = foreign.linked.clone();
                if let Err(error) = foreign.note_links(&linked) {
                    tracing::warn!(%container, %error, "note the links");
                }
            }
            Stage::Leaving => self.let_go_of(container),
        }
    }

    /// Puts back what was there before the container was taken in.
    fn let_go_of(&mut self, container: &ContainerRef) {
        let files = self
            .containers
            .get(container)
            .and_then(|served| served.foreign.as_ref())
            .map(|f| f.files.clone());
        self.release(container);
        if let Some(files) = files {
            self.clean_foreign(container, files);
        }
    }

    /// A container has ended or is let go: removes what was made for its run, if it was foreign.
    pub(super) fn clean_run(&self, container: &ContainerRef, instance: &InstanceId, workers: &Workers) {
        workers.forget(instance);
        let files = Files::new(&self.paths, instance);
        if files.folder.exists() {
            self.clean_foreign(container, files);
        }
    }

    fn clean_foreign(&self, container: &ContainerRef, files: Files) {
        let registration = self.paths.registrations().join(format!("{container}.json"));
        if let Err(error) = std::fs::remove_file(&registration) {
            tracing::debug!(%container, %error, "registration");
        }
        let bus = self.bus.clone();
        tokio::task::spawn_blocking(move || thread::clean(&files, &bus));
    }

    /// Removes what is left of foreign containers that ended while no daemon ran.
    pub(super) fn tidy_foreign(&self) {
        let Ok(entries) = std::fs::read_dir(self.paths.foreign()) else {
            return;
        };
        for entry in entries.flatten() {
            let instance = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<InstanceId>().ok());
            let Some(instance) = instance else { continue };
            if !self
                .containers
                .values()
                .any(|served| served.registration.instance == instance)
            {
                let (files, bus) = (Files::new(&self.paths, &instance), self.bus.clone());
                tokio::task::spawn_blocking(move || thread::clean(&files, &bus));
            }
        }
    }

    /// Has a container's filter looked at beside the loop.
    pub(super) fn reassert_later(&self, container: &ContainerRef) {
        let foreign = self
            .containers
            .get(container)
            .and_then(|served| served.foreign.as_ref());
        let Some(files) = foreign.map(|foreign| foreign.files.clone()) else {
            return;
        };
        if !self.config.settings.reassert {
            return;
        }
        let (bus, done, container) = (self.bus.clone(), self.foreign_done.clone(), container.clone());
        tokio::task::spawn_blocking(move || {
            let result = thread::reassert(&files, &bus).map_err(|error| error.to_string());
            drop(done.send(ForeignDone::Reasserted { container, result }));
        });
    }

    /// systemd may have put its own programs back.
    pub(super) fn systemd_event(&mut self, event: &Event) {
        if matches!(event, Event::Disconnected) {
            self.bus.disconnected();
        }
        let foreign: Vec<ContainerRef> = self
            .containers
            .iter()
            .filter(|(_, served)| served.foreign.is_some())
            .map(|(container, _)| container.clone())
            .collect();
        for container in foreign {
            self.reassert_later(&container);
        }
    }
}
