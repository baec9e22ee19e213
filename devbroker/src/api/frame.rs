//! Varlink's envelopes: what is around parameters on the wire. Pure.

use super::ApiError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The longest call that is read, in bytes, without the NUL at its end.
pub const MAX_FRAME: usize = 64 * 1024;

/// A frame that is no call. The connection is closed after it was told so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// More than [`MAX_FRAME`] bytes without an end.
    #[error("the message is longer than {MAX_FRAME} bytes; send smaller ones, each ended by a NUL byte")]
    TooLong,
    /// Not JSON, or not a Varlink call.
    #[error("the message is no Varlink call: {0}; send a JSON object with `method`, ended by a NUL byte")]
    NoCall(String),
}

impl FrameError {
    /// The same as what the client is told.
    pub fn to_api(&self) -> ApiError {
        match self {
            Self::TooLong => ApiError::FrameTooLong {
                limit: MAX_FRAME as u64,
                message: self.to_string(),
            },
            Self::NoCall(_) => ApiError::InvalidRequest {
                message: self.to_string(),
            },
        }
    }
}

/// One call as it is on the wire.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallFrame {
    /// `io.devbroker.ListDevices`.
    pub method: String,
    /// What is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Map<String, Value>>,
    /// The client wants a stream of replies.
    #[serde(default, skip_serializing_if = "is_false")]
    pub more: bool,
    /// The client wants no reply.
    #[serde(default, skip_serializing_if = "is_false")]
    pub oneway: bool,
    /// The client wants another protocol after the reply; no method here has one.
    #[serde(default, skip_serializing_if = "is_false")]
    pub upgrade: bool,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the shape that serde's skip_serializing_if asks for"
)]
fn is_false(value: &bool) -> bool {
    !*value
}

impl CallFrame {
    /// Reads one frame, without its NUL.
    pub fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() > MAX_FRAME {
            return Err(FrameError::TooLong);
        }
        serde_json::from_slice(bytes).map_err(|error| FrameError::NoCall(error.to_string()))
    }
}

/// One reply as it is on the wire.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ReplyFrame {
    /// The error's name, absent on success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The reply's, or the error's, fields.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// Another reply to the same call follows.
    #[serde(default, skip_serializing_if = "is_false")]
    pub continues: bool,
}

impl ReplyFrame {
    /// The reply that carries `parameters`; what is no object on the wire becomes an empty one.
    pub fn of(parameters: &impl Serialize) -> Result<Self, serde_json::Error> {
        let parameters = match serde_json::to_value(parameters)? {
            Value::Object(fields) => fields,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Map::new()
            }
        };
        Ok(Self {
            error: None,
            parameters,
            continues: false,
        })
    }
}

/// Anything that goes over the wire, with the NUL at its end.
pub trait Envelope: Serialize + Sized {
    /// The bytes to send.
    fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec(self)?;
        bytes.push(0);
        Ok(bytes)
    }
}

impl Envelope for CallFrame {}
impl Envelope for ReplyFrame {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls() {
        let call =
            CallFrame::parse(br#"{"method":"io.devbroker.Monitor","parameters":{},"more":true}"#).unwrap();
        assert_eq!(call.method, "io.devbroker.Monitor");
        assert!(call.more && !call.oneway);
        assert_eq!(
            String::from_utf8(call.to_bytes().unwrap()).unwrap(),
            "{\"method\":\"io.devbroker.Monitor\",\"parameters\":{},\"more\":true}\0"
        );
    }

    #[test]
    fn what_is_no_call() {
        for bad in [
            &b""[..],
            b"{}",
            b"[]",
            b"null",
            b"{\"method\":1}",
            b"{\"method\":\"a.B\",\"parameters\":[]}",
            b"{\"method\":\"a.B\",\"sudo\":true}",
            b"\xff\xfe",
            b"{\"method\":\"a.B\"",
            &[b'['; 1000],
        ] {
            assert!(
                matches!(CallFrame::parse(bad), Err(FrameError::NoCall(_))),
                "{bad:?}"
            );
        }
        assert_eq!(
            CallFrame::parse(&vec![b' '; MAX_FRAME + 1]),
            Err(FrameError::TooLong)
        );
    }
}
