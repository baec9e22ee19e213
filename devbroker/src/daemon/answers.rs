//! Answers to API calls: what a call changes at once, and what is answered once everything is in step.

use super::foreign::{self, ForeignDone};
use super::registration::{AdoptError, Held};
use super::runtime;
use super::state::State;
use super::views;
use super::why;
use crate::api::{
    ApiError, Attach, AttachPidReply, AttachReply, Detach, DetachReply, ListAliasesReply,
    ListContainersReply, ListDevicesReply, ListEventsReply, ListGrantsReply, NotFoundKind, PlanReply,
    RegisterReply, ReloadReply, Request, Sync, SyncReply, UnregisterReply,
};
use crate::model::ContainerRef;
use crate::server::{Call, ReplyTo};
use std::path::PathBuf;
use std::time::Instant;
use tokio::sync::mpsc::UnboundedSender;

/// A call that is answered after the next settling, or when something has come to pass.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) what: What,
    pub(super) reply: ReplyTo,
    /// When to answer at the latest.
    pub(super) until: Instant,
}

/// What is to be answered.
#[derive(Debug)]
pub(super) enum What {
    /// A container, as it is now.
    Registered(ContainerRef),
    /// What was attached.
    Attached {
        attach: Attach,
        file: PathBuf,
        notes: Vec<String>,
    },
    /// The same for a container that was attached by a process of it.
    AttachedPid {
        attach: Attach,
        file: PathBuf,
        notes: Vec<String>,
    },
    /// What was detached.
    Detached(ContainerRef, DetachReply),
    /// udev's event of this number was handled.
    Synced(Sync),
}

/// How long a call waits at the most.
pub(super) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(25);

/// Does what a call asks for, and answers it or says what its answer waits for.
pub(super) fn begin(
    state: &mut State,
    call: Call,
    foreign_done: &UnboundedSender<ForeignDone>,
) -> (Option<Held>, Option<Waiting>) {
    let Call { request, reply, .. } = call;
    let (held, what) = match request {
        Request::Register(register) => match state.adopt(&register.container) {
            Ok(held) => (held, What::Registered(register.container)),
            Err(error) => {
                refuse(reply, refusal(&register.container, &error));
                return (None, None);
            }
        },
        Request::Attach(attach) => match runtime::attach(state, &attach) {
            Ok((file, notes)) => (None, What::Attached { attach, file, notes }),
            Err(error) => {
                refuse(reply, error);
                return (None, None);
            }
        },
        Request::Detach(detach) => match begin_detach(state, &detach) {
            Ok(answer) => (None, What::Detached(detach.container, answer)),
            Err(error) => {
                refuse(reply, error);
                return (None, None);
            }
        },
        Request::AttachPid(attach) => return (None, foreign::begin(state, attach, reply, foreign_done)),
        Request::Sync(sync) => (None, What::Synced(sync)),
        other @ (Request::GetStatus(_)
        | Request::ListDevices(_)
        | Request::ListAliases(_)
        | Request::ListGrants(_)
        | Request::ListContainers(_)
        | Request::ListEvents(_)
        | Request::Why(_)
        | Request::Plan(_)
        | Request::AddAlias(_)
        | Request::Unregister(_)
        | Request::Reload(_)
        | Request::Monitor(_)) => {
            answer(state, other, reply);
            return (None, None);
        }
    };
    (
        held,
        Some(Waiting {
            what,
            reply,
            until: Instant::now() + PATIENCE,
        }),
    )
}

fn begin_detach(state: &mut State, detach: &Detach) -> Result<DetachReply, ApiError> {
    let served = state.containers.get(&detach.container);
    let nodes = served
        .map(|served| views::placed_views(served, Some(&detach.alias)))
        .unwrap_or_default();
    let (file, notes) = runtime::detach(state, detach)?;
    Ok(DetachReply {
        nodes,
        holders: Vec::new(),
        file,
        notes,
    })
}

/// Answers what needs no waiting.
fn answer(state: &mut State, request: Request, reply: ReplyTo) {
    match request {
        Request::GetStatus(_) => reply.send(Ok(state.status())),
        Request::ListDevices(_) => reply.send(Ok(ListDevicesReply {
            devices: state.devices(),
        })),
        Request::ListAliases(_) => {
            let aliases = state
                .alias_names()
                .iter()
                .map(|name| state.alias_view(name))
                .collect();
            reply.send(Ok(ListAliasesReply { aliases }));
        }
        Request::ListGrants(_) => {
            let mut grants: Vec<_> = state
                .config
                .grants
                .iter()
                .map(|grant| state.grant_view(grant))
                .collect();
            grants.sort_by(|a, b| (&a.alias, &a.container).cmp(&(&b.alias, &b.container)));
            reply.send(Ok(ListGrantsReply { grants }));
        }
        Request::ListContainers(_) => {
            let containers = state.containers.values().map(views::container_view).collect();
            reply.send(Ok(ListContainersReply { containers }));
        }
        Request::ListEvents(list) => {
            let events = state.log.recent(list.limit.unwrap_or(u64::MAX));
            reply.send(Ok(ListEventsReply {
                events: events.iter().map(|event| (**event).clone()).collect(),
            }));
        }
        Request::Why(why) => reply.send(why::why(state, &why.about)),
        Request::Plan(plan) => {
            let plans = state
                .plan_views(plan.container.as_ref())
                .map_err(ApiError::failed);
            reply.send(plans.map(|plans| PlanReply { plans }));
        }
        Request::AddAlias(add) => reply.send(runtime::add_alias(state, &add)),
        Request::Unregister(unregister) => {
            let key = state
                .containers
                .get(&unregister.container)
                .map(|served| served.registration.key());
            state.release(&unregister.container);
            if unregister.forget {
                // One that is not running was ctm's, whose owner is root.
                let key = key.unwrap_or(crate::model::ContainerKey {
                    container: unregister.container,
                    owner: 0,
                });
                if let Err(error) = state.remember.forget(&key) {
                    tracing::error!(%error, "forget");
                }
            }
            reply.send(Ok(UnregisterReply {}));
        }
        Request::Reload(_) => {
            let loaded = state.loader.load();
            state.configure(loaded);
            let problems = state.problems.iter().map(views::diagnostic).collect();
            reply.send(Ok(ReloadReply { problems }));
        }
        Request::Monitor(monitor) => reply.send(Ok(state.log.subscribe(monitor.recent.unwrap_or(0)))),
        Request::Register(_)
        | Request::Attach(_)
        | Request::AttachPid(_)
        | Request::Detach(_)
        | Request::Sync(_) => refuse(reply, ApiError::failed("this call is answered later")),
    }
}

/// Answers every waiting call whose time has come.
pub(super) fn answer_waiting(state: &State, waiting: &mut Vec<Waiting>) {
    let now = Instant::now();
    let (ready, rest): (Vec<Waiting>, Vec<Waiting>) = waiting
        .drain(..)
        .partition(|one| one.until <= now || is_ready(state, &one.what));
    *waiting = rest;
    for Waiting { what, reply, .. } in ready {
        finish(state, what, reply);
    }
}

fn is_ready(state: &State, what: &What) -> bool {
    match what {
        What::Registered(_) | What::Detached(..) => true,
        What::Attached { attach, .. } | What::AttachedPid { attach, .. } => {
            state.is_linked(&attach.container)
        }
        What::Synced(sync) => {
            let handled = sync
                .seqnum
                .is_none_or(|seqnum| !state.config.settings.monitor || state.seen >= seqnum);
            handled && !state.scan_again
        }
    }
}

fn finish(state: &State, what: What, reply: ReplyTo) {
    match what {
        What::Registered(container) => match state.containers.get(&container) {
            Some(served) => reply.send(Ok(RegisterReply {
                container: views::container_view(served),
            })),
            None => refuse(
                reply,
                refusal(&container, &AdoptError::Unknown(container.clone())),
            ),
        },
        What::Attached { attach, file, notes } => {
            let nodes = placed(state, &attach);
            reply.send(Ok(AttachReply {
                container: attach.container,
                nodes,
                file,
                notes,
            }));
        }
        What::AttachedPid {
            attach,
            file,
            mut notes,
        } => {
            let nodes = placed(state, &attach);
            let served = state.containers.get(&attach.container);
            if let Some(foreign) = served.and_then(|served| served.foreign.as_ref()) {
                notes.extend(foreign.problem.iter().chain(&foreign.filter_problem).cloned());
            }
            reply.send(Ok(AttachPidReply {
                container: attach.container,
                nodes,
                file,
                notes,
            }));
        }
        What::Detached(container, mut answer) => {
            // Revoking closes no descriptor: who in this container still has one is told.
            let devnums = answer.nodes.iter().map(|node| node.devnum).collect();
            let served = state.containers.get(&container);
            answer.holders = served.map_or_else(Vec::new, |served| views::holders(served, &devnums));
            reply.send(Ok(answer));
        }
        What::Synced(sync) => {
            if is_ready(state, &What::Synced(sync)) {
                reply.send(Ok(SyncReply {}));
            } else {
                let message =
                    "udev is not through with the device; look at `udevadm settle` and `devbroker status`";
                refuse(
                    reply,
                    ApiError::TimedOut {
                        message: message.into(),
                    },
                );
            }
        }
    }
}

fn placed(state: &State, attach: &Attach) -> Vec<crate::api::PlacedView> {
    let served = state.containers.get(&attach.container);
    served
        .map(|served| views::placed_views(served, Some(&attach.alias)))
        .unwrap_or_default()
}

fn refusal(container: &ContainerRef, error: &AdoptError) -> ApiError {
    match error {
        AdoptError::Unknown(_) => {
            ApiError::not_found(NotFoundKind::Container, container.to_string(), error.to_string())
        }
        AdoptError::Read { .. }
        | AdoptError::Misnamed { .. }
        | AdoptError::Process(_)
        | AdoptError::Hold(_)
        | AdoptError::Devfs(_)
        | AdoptError::Filter(_)
        | AdoptError::Ledger(_) => ApiError::failed(format!("{container} cannot be served: {error}")),
    }
}

/// Answers with an error, whatever was asked.
pub(super) fn refuse(reply: ReplyTo, error: ApiError) {
    reply.send(Err::<SyncReply, _>(error));
}
