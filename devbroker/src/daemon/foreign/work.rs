//! Keeps what is inside foreign containers in step: gives workers what there is to do, goes on with what they have done, has
//! filters asserted again, and lets go of containers that ended or have nothing any more.

use super::{Files, ForeignDone, Stage, thread};
use crate::api::{EventKind, EventView};
use crate::daemon::served::Served;
use crate::daemon::state::State;
use crate::host::namespace::{Job, Outcome, Report, Task, Workers};
use crate::host::unit_rules::Event;
use crate::model::{ContainerRef, InstanceId, NodePath};
use std::collections::BTreeSet;
use std::time::Instant;

/// The names that are to have a link in the container's own `/dev`.
fn wanted(served: &Served) -> BTreeSet<NodePath> {
    let placed = served.ledger.placed();
    placed.nodes.keys().chain(placed.links.keys()).cloned().collect()
}

impl State {
    /// Whether everything inside a foreign container is done, or cannot be.
    pub(in crate::daemon) fn is_linked(&self, container: &ContainerRef) -> bool {
        self.containers.get(container).is_none_or(|served| {
            served.stuck
                || served.foreign.as_ref().is_none_or(|foreign| {
                    foreign.is_idle(&wanted(served)) || (!foreign.busy && foreign.problem.is_some())
                })
        })
    }

    /// Gives workers what there is to do inside foreign containers.
    pub(in crate::daemon) fn send_work(&mut self, workers: &Workers) {
        let now = Instant::now();
        for (container, served) in &mut self.containers {
            if served.foreign.is_none() {
                continue;
            }
            let wanted = wanted(served);
            let leaves = self.granted.of(container).is_empty() && wanted.is_empty();
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
    pub(in crate::daemon) fn worked(&mut self, outcome: Outcome) {
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
    pub(in crate::daemon) fn clean_run(
        &self,
        container: &ContainerRef,
        instance: &InstanceId,
        workers: &Workers,
    ) {
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
    pub(in crate::daemon) fn tidy_foreign(&self) {
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
    pub(in crate::daemon) fn reassert_later(&self, container: &ContainerRef) {
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
    pub(in crate::daemon) fn systemd_event(&mut self, event: &Event) {
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
