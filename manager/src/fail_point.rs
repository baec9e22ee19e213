//! Places where tests make ctm die, so that every half-done state is met. In debug builds alone.
//!
//! `CTM_FAIL_POINT=after:filter` kills the process after that step, `CTM_FAIL_POINT=filter:Attached` in the middle of making
//! the filter, `CTM_FAIL_POINT=written:box.toml` when that file's new text is on disk beside the old one and
//! `replaced:box.toml` when it has taken its place.

/// Dies if this is the place.
#[cfg(debug_assertions)]
pub(crate) fn reached(when: &str, what: &str) {
    let asked = std::env::var("CTM_FAIL_POINT").is_ok_and(|point| point == format!("{when}:{what}"));
    if asked {
        // SIGKILL cannot be refused, so this does not return.
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).ok();
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub(crate) const fn reached(_when: &str, _what: &str) {}
