//! Places where tests make the daemon die, so that every half-done state is met. In debug builds alone.
//!
//! `DEVBROKER_FAIL_POINT=before:place:2` kills the process before the second placing. Effects are the planner's actions by
//! their names, and `revoke-now` (ahead of any plan), `ledger` (a line of it), `remember` and `host-link`.

/// Dies if this is the place.
#[cfg(debug_assertions)]
pub(crate) fn reached(when: &str, effect: &str) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static MET: AtomicU32 = AtomicU32::new(0);
    let Ok(point) = std::env::var("DEVBROKER_FAIL_POINT") else {
        return;
    };
    let mut fields = point.split(':');
    if fields.next() != Some(when) || fields.next() != Some(effect) {
        return;
    }
    let nth = fields.next().and_then(|nth| nth.parse().ok()).unwrap_or(1);
    if MET.fetch_add(1, Ordering::Relaxed) + 1 == nth {
        // SIGKILL cannot be refused, so this does not return.
        nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::SIGKILL).ok();
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub(crate) const fn reached(_when: &str, _effect: &str) {}
