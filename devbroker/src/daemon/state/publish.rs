//! What subscribers are told: stamps events with the time, and words those of applied actions.

use super::State;
use crate::api::{EventKind, EventView};
use crate::model::ContainerRef;
use crate::plan::Action;
use std::time::{SystemTime, UNIX_EPOCH};

impl State {
    /// Publishes what happened.
    pub(in crate::daemon) fn publish(&mut self, event: EventView) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let after = self
            .stirred
            .map(|at| u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX));
        self.log.publish(EventView {
            time,
            after: event.after.or(after),
            ..event
        });
    }
}

/// What is told to subscribers about an applied action.
pub(super) fn event_of(action: &Action, container: &ContainerRef) -> Option<EventView> {
    let mut event = match action {
        Action::Revoke { devnum } => {
            let mut event = EventView::new(
                EventKind::AccessRevoked,
                format!("{devnum} revoked in {container}"),
            );
            event.devnum = Some(*devnum);
            event
        }
        Action::Allow {
            devnum,
            access,
            syspath,
            ..
        } => {
            let text = format!("{access} on {devnum} allowed in {container}");
            let mut event = EventView::new(EventKind::AccessAllowed, text);
            event.devnum = Some(*devnum);
            event.syspath = Some(syspath.clone());
            event
        }
        Action::Place { node } => {
            let mut event = EventView::new(EventKind::NodePlaced, format!("{} in {container}", node.path));
            event.devnum = Some(node.devnum);
            event.syspath = Some(node.syspath.clone());
            event.path = Some(node.path.clone());
            event.alias = Some(node.alias.clone());
            event.role = Some(node.role.clone());
            event
        }
        Action::Withdraw {
            path,
            devnum,
            alias,
            role,
            ..
        } => {
            let mut event = EventView::new(EventKind::NodeWithdrawn, format!("{path} gone from {container}"));
            event.devnum = Some(*devnum);
            event.path = Some(path.clone());
            event.alias = Some(alias.clone());
            event.role = Some(role.clone());
            event
        }
        Action::Unlink { .. } | Action::Link { .. } | Action::Permit { .. } => return None,
    };
    event.container = Some(container.clone());
    Some(event)
}
