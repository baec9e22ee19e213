//! When to try again what failed: at once with any new event, else after 1, 2, 4 ... 60 seconds.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// The back-off of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Retry {
    failures: u32,
    due: Option<Instant>,
}

impl Retry {
    /// Notes how an attempt at `now` went.
    pub(super) fn attempted(&mut self, now: Instant, failed: bool) {
        if failed {
            let wait = FIRST.saturating_mul(1 << self.failures.min(6)).min(LONGEST);
            self.failures = self.failures.saturating_add(1);
            self.due = Some(now + wait);
        } else {
            *self = Self::default();
        }
    }

    /// When to try again by itself.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backs_off_and_recovers() {
        let now = Instant::now();
        let mut retry = Retry::default();
        assert_eq!(retry.due(), None);
        let mut waits = Vec::new();
        for _ in 0..9 {
            retry.attempted(now, true);
            waits.push((retry.due().unwrap() - now).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        retry.attempted(now, false);
        assert_eq!(retry, Retry::default());
    }
}
