//! What failed in a container and is still to be done.

/// One action that failed and has not been applied since.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// What.
    pub(super) action: String,
    /// Why.
    pub(super) error: String,
    /// Tries in a row.
    pub(super) attempts: u32,
}

/// The open failures of one container.
#[derive(Debug, Default)]
pub(super) struct History {
    failures: Vec<Failure>,
}

impl History {
    /// Replaces the open failures by those of the newest attempt, counting on where one is the same as before.
    pub(super) fn failed(&mut self, failures: Vec<(String, String)>) {
        let before = std::mem::take(&mut self.failures);
        self.failures = failures
            .into_iter()
            .map(|(action, error)| {
                let attempts = before
                    .iter()
                    .find(|old| old.action == action)
                    .map_or(0, |old| old.attempts);
                Failure {
                    action,
                    error,
                    attempts: attempts + 1,
                }
            })
            .collect();
    }

    /// What failed.
    pub(super) fn failures(&self) -> &[Failure] {
        &self.failures
    }
}
