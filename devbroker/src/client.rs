//! A small blocking client of the API: for the command line, `ctm` and `hook --wait`.
//!
//! Every step has a time limit, so that a daemon that hangs cannot hang its clients.

use crate::api::{ApiError, CallFrame, Envelope, INTERFACE, Method, Monitor, MonitorReply, ReplyFrame};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The longest reply that is read.
const MAX_REPLY: usize = 64 * 1024 * 1024;

/// How long a call may take unless said: longer than any that the daemon answers from what it knows.
pub const CALL: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "the daemon is not running: nobody answers at {0}; start it with `systemctl start devbroker`, or `devbroker daemon` in the foreground"
    )]
    NotRunning(PathBuf),
    /// The socket is not for us.
    #[error("permission denied for {0}: become root, or join the group devbroker to look")]
    Permission(PathBuf),
    /// It takes too long.
    #[error("the daemon did not answer within {} s; `journalctl -u devbroker` may say why", .0.as_secs())]
    TimedOut(Duration),
    /// The connection ended.
    #[error("the daemon closed the connection without an answer; `journalctl -u devbroker` may say why")]
    Closed,
    /// What came is no answer.
    #[error("the daemon's answer cannot be understood: {0}; are `devbroker` and the daemon of one version?")]
    Garbled(String),
    /// The socket failed.
    #[error("the connection to the daemon failed: {0}")]
    Io(#[source] io::Error),
    /// The daemon answered with an error.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects, within `limit`.
    pub fn connect(path: &Path, limit: Duration) -> Result<Self, ClientError> {
        let failed = |errno: nix::Error| {
            if matches!(errno, nix::Error::ENOENT | nix::Error::ECONNREFUSED) {
                ClientError::NotRunning(path.into())
            } else if matches!(errno, nix::Error::EACCES | nix::Error::EPERM) {
                ClientError::Permission(path.into())
            } else if errno == nix::Error::EAGAIN {
                // The queue of a socket that nobody accepts from is full.
                ClientError::TimedOut(limit)
            } else {
                ClientError::Io(errno.into())
            }
        };
        let address = UnixAddr::new(path).map_err(failed)?;
        let fd = socket::socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .map_err(failed)?;
        // For sockets of this family connect(2) keeps to the limit for sending.
        let microseconds = i64::try_from(limit.as_micros()).unwrap_or(i64::MAX).max(1);
        socket::setsockopt(&fd, sockopt::SendTimeout, &TimeVal::microseconds(microseconds))
            .map_err(failed)?;
        socket::connect(fd.as_raw_fd(), &address).map_err(failed)?;
        Ok(Self {
            stream: UnixStream::from(fd),
            buffer: Vec::new(),
        })
    }

    /// Calls a method and waits at most [`CALL`].
    pub fn call<M: Method>(&mut self, parameters: &M) -> Result<M::Reply, ClientError> {
        self.call_within(parameters, CALL)
    }

    /// Calls a method and waits at most `limit`. After an error the connection is of no further use.
    pub fn call_within<M: Method>(
        &mut self,
        parameters: &M,
        limit: Duration,
    ) -> Result<M::Reply, ClientError> {
        let deadline = Deadline::after(limit);
        self.send::<M>(parameters, false, deadline)?;
        let (reply, _) = self.receive(Some(deadline))?;
        read_reply::<M>(reply)
    }

    /// Subscribes to what happens, beginning with the last `recent` events.
    pub fn monitor(mut self, recent: Option<u64>) -> Result<Events, ClientError> {
        self.send(&Monitor { recent }, true, Deadline::after(CALL))?;
        Ok(Events {
            client: self,
            ended: false,
        })
    }

    fn send<M: Method>(&mut self, parameters: &M, more: bool, deadline: Deadline) -> Result<(), ClientError> {
        let parameters = match serde_json::to_value(parameters) {
            Ok(Value::Object(fields)) => Some(fields),
            Ok(_) => None,
            Err(error) => return Err(ClientError::Garbled(error.to_string())),
        };
        let call = CallFrame {
            method: format!("{INTERFACE}.{}", M::NAME),
            parameters,
            more,
            oneway: false,
            upgrade: false,
        };
        let bytes = call
            .to_bytes()
            .map_err(|error| ClientError::Garbled(error.to_string()))?;
        self.stream
            .set_write_timeout(Some(deadline.left()?))
            .map_err(ClientError::Io)?;
        match self.stream.write_all(&bytes) {
            Ok(()) => Ok(()),
            // Turned away: why may still be there to read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(deadline.explain(error)),
        }
    }

    /// One reply and whether more follow.
    fn receive(&mut self, deadline: Option<Deadline>) -> Result<(ReplyFrame, bool), ClientError> {
        let mut scanned = 0;
        loop {
            let unseen = self.buffer.get(scanned..).unwrap_or_default();
            if let Some(at) = unseen.iter().position(|byte| *byte == 0) {
                let rest = self.buffer.split_off(scanned + at + 1);
                let mut frame = std::mem::replace(&mut self.buffer, rest);
                frame.pop();
                let frame: ReplyFrame = serde_json::from_slice(&frame)
                    .map_err(|error| ClientError::Garbled(error.to_string()))?;
                let continues = frame.continues;
                return Ok((frame, continues));
            }
            scanned = self.buffer.len();
            if scanned > MAX_REPLY {
                return Err(ClientError::Garbled(format!(
                    "it is longer than {MAX_REPLY} bytes"
                )));
            }
            let left = deadline.map(Deadline::left).transpose()?;
            self.stream.set_read_timeout(left).map_err(ClientError::Io)?;
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(count) => self
                    .buffer
                    .extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(ClientError::Closed);
                }
                Err(error) => return Err(deadline.map_or_else(|| ClientError::Closed, |d| d.explain(error))),
            }
        }
    }
}

fn read_reply<M: Method>(reply: ReplyFrame) -> Result<M::Reply, ClientError> {
    match reply.error {
        Some(name) => Err(ApiError::from_frame(&name, reply.parameters).into()),
        None => serde_json::from_value(Value::Object(reply.parameters))
            .map_err(|error| ClientError::Garbled(error.to_string())),
    }
}

/// When it is enough.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    limit: Duration,
    end: Instant,
}

impl Deadline {
    fn after(limit: Duration) -> Self {
        Self {
            limit,
            end: Instant::now() + limit,
        }
    }

    /// What is left, never zero.
    fn left(self) -> Result<Duration, ClientError> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(ClientError::TimedOut(self.limit))
        } else {
            Ok(left)
        }
    }

    fn explain(self, error: io::Error) -> ClientError {
        if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
            ClientError::TimedOut(self.limit)
        } else {
            ClientError::Io(error)
        }
    }
}

/// What happens, as it happens; ends when the daemon does.
#[derive(Debug)]
pub struct Events {
    client: Client,
    ended: bool,
}

impl Iterator for Events {
    type Item = Result<MonitorReply, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.client.receive(None).and_then(|(reply, continues)| {
            self.ended = !continues;
            read_reply::<Monitor>(reply)
        });
        match &item {
            Err(_) => self.ended = true,
            // The last item says only that it is the last.
            Ok(last) if self.ended && last.event.is_none() && last.lost.is_none() => return None,
            Ok(_) => {}
        }
        Some(item)
    }
}
