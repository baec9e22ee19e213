//! Places where tests make ctm die or wait, so that every half-done state is met. In debug builds alone.
//!
//! `CTM_FAIL_POINT=after:filter` kills the process after that step, `CTM_FAIL_POINT=filter:Attached` in the middle of making
//! the filter, `CTM_FAIL_POINT=written:box.toml` when that file's new text is on disk beside the old one and
//! `replaced:box.toml` when it has taken its place. `CTM_HOLD_POINT=between:runs=FIFO` waits at that place until somebody has
//! opened the FIFO for writing, which tells them that it was reached, and closed it again.

/// Dies if this is the place, or waits.
#[cfg(debug_assertions)]
pub(crate) fn reached(when: &str, what: &str) {
    let place = format!("{when}:{what}");
    if std::env::var("CTM_FAIL_POINT").is_ok_and(|point| point == place) {
        // SIGKILL cannot be refused, so this does not return.
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).ok();
    }
    let held = std::env::var("CTM_HOLD_POINT").ok();
    if let Some((_, fifo)) = held
        .as_ref()
        .and_then(|held| held.split_once('='))
        .filter(|(point, _)| *point == place)
    {
        // A test whose FIFO is not there sees that it never got to hold anything.
        std::fs::read(fifo).ok();
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub(crate) const fn reached(_when: &str, _what: &str) {}
