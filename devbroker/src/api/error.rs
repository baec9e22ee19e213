//! The errors of the API, as the client sees them.

use super::{NotFoundKind, ReplyFrame};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An error reply. `message` says what happened, to which thing, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "error", content = "parameters")]
pub enum ApiError {
    /// There is no such thing.
    #[error("{message}")]
    #[serde(rename = "io.devbroker.NotFound")]
    NotFound {
        /// What was looked for.
        kind: NotFoundKind,
        /// Its name as it was given.
        name: String,
        /// In words.
        message: String,
    },
    /// The broker will not do it: nothing was changed.
    #[error("{message}")]
    #[serde(rename = "io.devbroker.Refused")]
    Refused {
        /// In words; where somebody else owns a device filter, names them.
        message: String,
    },
    /// It was tried and failed.
    #[error("{message}")]
    #[serde(rename = "io.devbroker.Failed")]
    Failed {
        /// In words.
        message: String,
    },
    /// It took too long; it may still come to pass.
    #[error("{message}")]
    #[serde(rename = "io.devbroker.TimedOut")]
    TimedOut {
        /// In words.
        message: String,
    },
    /// Not a call.
    #[error("{message}")]
    #[serde(rename = "io.devbroker.InvalidRequest")]
    InvalidRequest {
        /// In words.
        message: String,
    },
    /// The call is too long to be read.
    #[error("{message}")]
    #[serde(rename = "io.devbroker.FrameTooLong")]
    FrameTooLong {
        /// The longest call, in bytes.
        limit: u64,
        /// In words.
        message: String,
    },
    /// As many clients as may be are connected.
    #[error("{message}")]
    #[serde(rename = "io.devbroker.TooManyClients")]
    TooManyClients {
        /// How many may be.
        limit: u64,
        /// In words.
        message: String,
    },
    /// No such interface.
    #[error(
        "the daemon has no interface `{interface}`; `devbroker` and the daemon may be of different versions"
    )]
    #[serde(rename = "org.varlink.service.InterfaceNotFound")]
    InterfaceNotFound {
        /// Its name.
        interface: String,
    },
    /// No such method.
    #[error("the daemon has no method `{method}`; `devbroker` and the daemon may be of different versions")]
    #[serde(rename = "org.varlink.service.MethodNotFound")]
    MethodNotFound {
        /// Its name.
        method: String,
    },
    /// A parameter is missing, unknown or has a value it cannot have.
    #[error("the parameter `{parameter}` is missing, unknown or has a value that it cannot have")]
    #[serde(rename = "org.varlink.service.InvalidParameter")]
    InvalidParameter {
        /// Its name.
        parameter: String,
    },
    /// The peer may not do that.
    #[error("permission denied: changes are root's; group devbroker may only look")]
    #[serde(rename = "org.varlink.service.PermissionDenied")]
    PermissionDenied {},
    /// The method answers with a stream; set `more`.
    #[error("the method answers with a stream; call it with `more`")]
    #[serde(rename = "org.varlink.service.ExpectedMore")]
    ExpectedMore {},
}

impl ApiError {
    /// Something that was not found, in the words of `message`.
    pub fn not_found(kind: NotFoundKind, name: impl Into<String>, message: impl Into<String>) -> Self {
        Self::NotFound {
            kind,
            name: name.into(),
            message: message.into(),
        }
    }

    /// A refusal.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::Refused {
            message: message.into(),
        }
    }

    /// A failure.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed {
            message: message.into(),
        }
    }

    /// The reply on the wire.
    pub fn to_frame(&self) -> ReplyFrame {
        // Serialising a plain enum of strings and numbers into a value cannot fail.
        let mut fields = match serde_json::to_value(self) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) | Err(_) => Map::new(),
        };
        let error = match fields.remove("error") {
            Some(Value::String(name)) => Some(name),
            Some(_) | None => Some("io.devbroker.Failed".into()),
        };
        let parameters = match fields.remove("parameters") {
            Some(Value::Object(parameters)) => parameters,
            Some(_) | None => Map::new(),
        };
        ReplyFrame {
            error,
            parameters,
            continues: false,
        }
    }

    /// The error in a reply with `name`; one that this version does not know is a [`Self::Failed`] that names it.
    pub fn from_frame(name: &str, parameters: Map<String, Value>) -> Self {
        let message = parameters
            .get("message")
            .and_then(Value::as_str)
            .unwrap_or("no details")
            .to_owned();
        let frame = [
            ("error".to_owned(), Value::String(name.into())),
            ("parameters".to_owned(), Value::Object(parameters)),
        ];
        serde_json::from_value(Value::Object(frame.into_iter().collect())).unwrap_or_else(|_| Self::Failed {
            message: format!("the daemon answered {name}: {message}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for error in [
            ApiError::not_found(NotFoundKind::Alias, "scanner", "no alias `scanner`"),
            ApiError::refused("no"),
            ApiError::PermissionDenied {},
            ApiError::ExpectedMore {},
            ApiError::TooManyClients {
                limit: 128,
                message: "full".into(),
            },
        ] {
            let frame = error.to_frame();
            assert_eq!(
                ApiError::from_frame(&frame.error.unwrap(), frame.parameters),
                error
            );
        }
        assert_eq!(
            ApiError::from_frame("io.devbroker.New", Map::new()),
            ApiError::failed("the daemon answered io.devbroker.New: no details")
        );
    }
}
