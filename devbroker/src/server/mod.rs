//! The API's server: a socket, a task for each connection, limits on everything a client can use up.
//!
//! Owns the socket and the framing. Owns no state: each call goes through a bounded channel to whoever owns the state,
//! with a handle for the reply. A client that is slow, silent or hostile costs one of a bounded number of places, for a
//! bounded time, and nobody else anything.

mod connection;
mod frames;
mod listen;

pub use listen::{ListenError, adopt, bind};

use crate::api::{ApiError, Authority, ReplyFrame, Request};
use crate::api::{Envelope, Reply};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

/// How many calls wait for the owner of the state before clients have to wait for a place.
pub const CALLS: usize = 64;

/// What clients may use up.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How many may be connected.
    pub clients: u64,
    /// How many of these places only root can have.
    pub reserved: u64,
    /// How long a connection may be open without a call.
    pub idle: Duration,
    /// How long a message may take from its first byte to its last.
    pub frame: Duration,
    /// How long the state's owner may take; the calls that wait for something end by themselves long before.
    pub call: Duration,
    /// How long a client may take to read a reply.
    pub write: Duration,
    /// How long a subscriber may read nothing at all; before that it only misses events, and is told how many.
    pub stream: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 128,
            reserved: 32,
            idle: Duration::from_secs(120),
            frame: Duration::from_secs(10),
            call: Duration::from_secs(120),
            write: Duration::from_secs(10),
            stream: Duration::from_secs(60),
        }
    }
}

/// Who is at the other end, by `SO_PEERCRED`: who they were when they connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// User.
    pub uid: u32,
    /// Process; 0 where it lives in a pid namespace that we cannot see.
    pub pid: i32,
    /// What they may do.
    pub authority: Authority,
}

/// One call for the owner of the state.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// By whom. The server has checked that they may.
    pub peer: Peer,
    /// Where the answer goes; may be kept and used later.
    pub reply: ReplyTo,
}

/// Where the answer to a call goes. Dropped unused, the client is told that the call failed.
#[derive(Debug)]
pub struct ReplyTo(oneshot::Sender<Result<Reply, ApiError>>);

impl ReplyTo {
    /// Answers. Never waits; if the client is gone, so is the answer.
    pub fn send(self, answer: Result<impl Into<Reply>, ApiError>) {
        drop(self.0.send(answer.map(Into::into)));
    }

    /// Whether nobody waits for the answer any more.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// A handle and where its answer arrives, for whoever answers calls without a server.
    pub fn pair() -> (Self, oneshot::Receiver<Result<Reply, ApiError>>) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), receiver)
    }
}

/// The server: [`run`](Self::run) it beside the owner of the state.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    shared: Arc<Shared>,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    limits: Limits,
    calls: mpsc::Sender<Call>,
    connected: AtomicU64,
    own_uid: u32,
}

/// One place among the connected clients, given back when dropped.
#[derive(Debug)]
struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connected.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Server {
    /// A server on this socket and the other end of its calls.
    pub fn new(listener: UnixListener, limits: Limits) -> (Self, mpsc::Receiver<Call>) {
        let (sender, receiver) = mpsc::channel(CALLS);
        let shared = Shared {
            limits,
            calls: sender,
            connected: AtomicU64::new(0),
            own_uid: nix::unistd::geteuid().as_raw(),
        };
        let server = Self {
            listener,
            shared: Arc::new(shared),
        };
        (server, receiver)
    }

    /// Accepts for ever. Connections live in tasks of their own, which end with the runtime.
    pub async fn run(self) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => self.admit(stream),
                Err(error) => {
                    // Out of descriptors or memory: connections that end make room, so wait rather than spin.
                    tracing::warn!(%error, "cannot accept a client of the api");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    fn admit(&self, stream: UnixStream) {
        let peer = match stream.peer_cred() {
            Ok(credentials) => self.peer(credentials.uid(), credentials.pid().unwrap_or(0)),
            Err(error) => {
                tracing::warn!(%error, "a client of the api without credentials was sent away");
                return;
            }
        };
        let limits = &self.shared.limits;
        let limit = match peer.authority {
            Authority::Change => limits.clients,
            Authority::Look => limits.clients.saturating_sub(limits.reserved),
        };
        if self.shared.connected.load(Ordering::Relaxed) >= limit {
            tracing::debug!(uid = peer.uid, pid = peer.pid, "too many clients of the api");
            turn_away(&stream, limit);
            return;
        }
        self.shared.connected.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(&self.shared));
        tokio::spawn(async move {
            let number = stream.as_raw_fd();
            if let Err(error) = connection::serve(stream, peer, &place.0).await {
                tracing::debug!(uid = peer.uid, pid = peer.pid, number, %error, "client of the api dropped");
            }
            drop(place);
        });
    }

    fn peer(&self, uid: u32, pid: i32) -> Peer {
        // Whoever could connect is root or, by the socket's owner and mode, in group devbroker.
        let authority = if uid == 0 || uid == self.shared.own_uid {
            Authority::Change
        } else {
            Authority::Look
        };
        Peer { uid, pid, authority }
    }
}

/// Says why and hangs up, without waiting: what does not fit into the socket's buffer is not said.
fn turn_away(stream: &UnixStream, limit: u64) {
    let error = ApiError::TooManyClients {
        limit,
        message: format!(
            "{limit} clients are connected, which is as many as may be; try again when one is done"
        ),
    };
    if let Ok(bytes) = ReplyFrame::to_bytes(&error.to_frame()) {
        drop(stream.try_write(&bytes));
    }
}
