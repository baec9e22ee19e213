//! How a command ends.

use devbroker::api::ApiError;
use devbroker::client::ClientError;
use std::io::{self, Write};
use std::process::ExitCode;

/// Tried or looked at, and refused, failed or found wrong.
pub(crate) const FAILED: u8 = 1;
/// Called in a way that makes no sense; clap's own code.
pub(crate) const USAGE: u8 = 2;
/// The daemon is not running.
pub(crate) const NOT_RUNNING: u8 = 3;
/// Not allowed.
pub(crate) const PERMISSION: u8 = 4;
/// There is no such alias, container, device, ...
pub(crate) const NOT_FOUND: u8 = 5;
/// It took too long.
pub(crate) const TIMED_OUT: u8 = 6;

/// Why a command did not do what it was to do.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: Option<String>,
}

impl Failure {
    /// With a message.
    pub(crate) fn new(code: u8, message: String) -> Self {
        Self {
            code,
            message: Some(message),
        }
    }

    /// Without one: whoever would read it has gone, or has been told.
    pub(crate) fn silent() -> Self {
        Self {
            code: FAILED,
            message: None,
        }
    }

    /// Says so, and what the process ends with.
    pub(crate) fn report(self) -> ExitCode {
        if let Some(message) = self.message {
            // There is nobody left to tell if that fails.
            writeln!(io::stderr().lock(), "devbroker: {message}").ok();
        }
        ExitCode::from(self.code)
    }
}

impl From<ClientError> for Failure {
    /// What the client or the daemon said.
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::NotRunning(_) => NOT_RUNNING,
            ClientError::Permission(_) | ClientError::Api(ApiError::PermissionDenied {}) => PERMISSION,
            ClientError::TimedOut(_) | ClientError::Api(ApiError::TimedOut { .. }) => TIMED_OUT,
            ClientError::Api(ApiError::NotFound { .. }) => NOT_FOUND,
            ClientError::Closed | ClientError::Garbled(_) | ClientError::Io(_) | ClientError::Api(_) => {
                FAILED
            }
        };
        Self::new(code, error.to_string())
    }
}
