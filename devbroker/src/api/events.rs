//! The bounded log of events and its subscribers.
//!
//! One ring holds what happened last; publishing never waits. A subscriber that falls behind more than the ring holds
//! is told how many it missed.

use super::EventView;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::broadcast;

/// How many events are kept, for latecomers and for subscribers that fall behind.
const KEPT: usize = 1024;

/// What happened, newest last.
#[derive(Debug)]
pub struct EventLog {
    ring: VecDeque<Arc<EventView>>,
    kept: usize,
    next: u64,
    sender: broadcast::Sender<Arc<EventView>>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self::new(KEPT)
    }
}

impl EventLog {
    /// A log that keeps `kept` events.
    pub fn new(kept: usize) -> Self {
        Self {
            ring: VecDeque::new(),
            kept: kept.max(1),
            next: 1,
            sender: broadcast::Sender::new(kept.max(1)),
        }
    }

    /// Gives the event its number, keeps it and hands it to every subscriber. Never waits.
    pub fn publish(&mut self, mut event: EventView) {
        event.seq = self.next;
        self.next += 1;
        let event = Arc::new(event);
        if self.ring.len() >= self.kept {
            self.ring.pop_front();
        }
        self.ring.push_back(Arc::clone(&event));
        // Without subscribers there is nobody to tell.
        drop(self.sender.send(event));
    }

    /// The last `count` events, oldest first.
    pub fn recent(&self, count: u64) -> Vec<Arc<EventView>> {
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.ring.len());
        self.ring.iter().skip(self.ring.len() - count).cloned().collect()
    }

    /// The last `count` events and all that follow, without a gap between them.
    pub fn subscribe(&self, count: u64) -> Subscription {
        Subscription {
            recent: self.recent(count),
            events: self.sender.subscribe(),
        }
    }

    /// How many subscribers there are.
    pub fn subscribers(&self) -> u64 {
        self.sender.receiver_count() as u64
    }
}

/// One subscriber's end.
#[derive(Debug)]
pub struct Subscription {
    /// What happened before.
    pub recent: Vec<Arc<EventView>>,
    /// What happens from now on.
    pub events: broadcast::Receiver<Arc<EventView>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::EventKind;
    use tokio::sync::broadcast::error::TryRecvError;

    #[test]
    fn numbers_and_losses() {
        let mut log = EventLog::new(4);
        log.publish(EventView::new(EventKind::DaemonReady, "up"));
        let mut subscription = log.subscribe(10);
        assert_eq!(subscription.recent.iter().map(|e| e.seq).collect::<Vec<_>>(), [1]);
        for _ in 0..6 {
            log.publish(EventView::new(EventKind::NodePlaced, "x"));
        }
        assert!(matches!(
            subscription.events.try_recv(),
            Err(TryRecvError::Lagged(2))
        ));
        assert_eq!(subscription.events.try_recv().unwrap().seq, 4);
        assert_eq!(log.recent(2).iter().map(|e| e.seq).collect::<Vec<_>>(), [6, 7]);
        assert_eq!(log.recent(100).len(), 4);
        assert_eq!(log.subscribers(), 1);
    }
}
