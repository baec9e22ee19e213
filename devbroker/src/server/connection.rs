//! One connection: read a call, have it answered, write the reply; or stream events.

use super::frames::{Frames, ReadError};
use super::{Call, Peer, ReplyTo, Shared};
use crate::api::{
    ApiError, CallFrame, DESCRIPTION, Envelope, INTERFACE, Monitor, MonitorReply, Reply, ReplyFrame, Request,
    SERVICE_DESCRIPTION, Subscription,
};
use serde_json::{Value, json};
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, error::Elapsed, sleep_until, timeout};

const SERVICE: &str = "org.varlink.service";

/// Why a connection ended before its time. The client was told where that was still possible.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("writing failed: {0}")]
    Write(io::Error),
    #[error("the client did not read its replies in time")]
    Slow,
    #[error("the client began a message and did not end it in time")]
    Unfinished,
    #[error("a reply could not be written as json: {0}")]
    Json(#[from] serde_json::Error),
    #[error("a message was no call: {0}")]
    Garbage(String),
}

impl From<Elapsed> for ConnectionError {
    fn from(_: Elapsed) -> Self {
        Self::Slow
    }
}

/// What a call comes to.
enum Outcome {
    Once(ReplyFrame),
    Stream(Subscription),
}

/// Serves until the client hangs up, is silent for too long or does what it may not.
pub(super) async fn serve(stream: UnixStream, peer: Peer, shared: &Shared) -> Result<(), ConnectionError> {
    let (reader, mut writer) = stream.into_split();
    let mut frames = Frames::new(reader);
    while let Some(bytes) = next_call(&mut frames, &mut writer, shared).await? {
        let call = match CallFrame::parse(&bytes) {
            Ok(call) => call,
            Err(error) => {
                let reply = error.to_api().to_frame();
                write(&mut writer, &reply, shared.limits.write).await?;
                return Err(ConnectionError::Garbage(error.to_string()));
            }
        };
        let oneway = call.oneway;
        let outcome = match answer(call, peer, &mut frames, shared).await {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Once(error.to_frame()),
        };
        match outcome {
            Outcome::Once(_) if oneway => {}
            Outcome::Once(reply) => write(&mut writer, &reply, shared.limits.write).await?,
            Outcome::Stream(events) => return stream_events(events, &mut frames, &mut writer, shared).await,
        }
    }
    Ok(())
}

/// The next message, none at the end or after too long a silence.
async fn next_call(
    frames: &mut Frames<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    shared: &Shared,
) -> Result<Option<Vec<u8>>, ConnectionError> {
    let limits = &shared.limits;
    let error = match frames.ready() {
        Ok(Some(frame)) => return Ok(Some(frame)),
        Ok(None) => {
            if !frames.has_begun() {
                match timeout(limits.idle, frames.fill()).await {
                    Ok(more) => {
                        if !more.map_err(ReadError::Io)? {
                            return Ok(None);
                        }
                    }
                    Err(Elapsed { .. }) => return Ok(None),
                }
            }
            match timeout(limits.frame, frames.next()).await {
                Ok(Ok(frame)) => return Ok(frame),
                Ok(Err(ReadError::Frame(error))) => error,
                Ok(Err(error)) => return Err(error.into()),
                Err(Elapsed { .. }) => return Err(ConnectionError::Unfinished),
            }
        }
        Err(error) => error,
    };
    write(writer, &error.to_api().to_frame(), limits.write).await?;
    Err(ReadError::Frame(error).into())
}

async fn write(
    writer: &mut OwnedWriteHalf,
    reply: &ReplyFrame,
    limit: Duration,
) -> Result<(), ConnectionError> {
    let bytes = reply.to_bytes()?;
    timeout(limit, writer.write_all(&bytes))
        .await?
        .map_err(ConnectionError::Write)
}

async fn answer(
    call: CallFrame,
    peer: Peer,
    frames: &mut Frames<OwnedReadHalf>,
    shared: &Shared,
) -> Result<Outcome, ApiError> {
    if call.upgrade {
        return Err(ApiError::InvalidParameter {
            parameter: "upgrade".into(),
        });
    }
    if let Some(method) = call
        .method
        .strip_prefix(SERVICE)
        .and_then(|rest| rest.strip_prefix('.'))
    {
        return about_service(method, &call).map(Outcome::Once);
    }
    let request = Request::parse(call)?;
    if peer.authority < request.authority() {
        return Err(ApiError::PermissionDenied {});
    }
    let name = request.name();
    let (reply, answer) = ReplyTo::pair();
    let gone = || {
        ApiError::failed(format!(
            "the daemon is shutting down and did not answer {name}; try again"
        ))
    };
    let exchange = async {
        let call = Call { request, peer, reply };
        shared.calls.send(call).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    };
    let mut reply = while_connected(exchange, frames, shared)
        .await
        .ok_or_else(|| ApiError::TimedOut {
            message: format!("the daemon did not answer {name} in time; its journal may say why"),
        })??;
    if let Reply::GetStatus(status) = &mut reply {
        status.clients = shared.connected.load(Ordering::Relaxed);
    }
    if let Reply::Monitor(subscription) = reply {
        return Ok(Outcome::Stream(subscription));
    }
    once(&reply)
}

/// What `exchange` comes to; none when it takes too long. A client that has closed its side may have done so because it
/// has nothing more to say, or because it is gone: it is given a little longer. What it says meanwhile is kept.
async fn while_connected<T>(
    exchange: impl Future<Output = T>,
    frames: &mut Frames<OwnedReadHalf>,
    shared: &Shared,
) -> Option<T> {
    let mut exchange = std::pin::pin!(exchange);
    let mut end = Instant::now() + shared.limits.call;
    let mut open = true;
    loop {
        tokio::select! {
            done = &mut exchange => return Some(done),
            () = sleep_until(end) => return None,
            more = frames.fill(), if open && !frames.is_full() => {
                if !more.unwrap_or(false) {
                    open = false;
                    end = end.min(Instant::now() + shared.limits.frame);
                }
            }
        }
    }
}

fn once(reply: &Reply) -> Result<Outcome, ApiError> {
    reply
        .to_frame()
        .map(Outcome::Once)
        .map_err(|error| ApiError::failed(format!("the reply could not be written as json: {error}")))
}

/// Varlink's own interface.
fn about_service(method: &str, call: &CallFrame) -> Result<ReplyFrame, ApiError> {
    let parameters = match method {
        "GetInfo" => json!({
            "vendor": "devbroker",
            "product": "devbroker",
            "version": env!("CARGO_PKG_VERSION"),
            "url": env!("CARGO_PKG_REPOSITORY"),
            "interfaces": [INTERFACE, SERVICE],
        }),
        "GetInterfaceDescription" => {
            let interface = call.parameters.as_ref().and_then(|given| given.get("interface"));
            let description = match interface.and_then(Value::as_str) {
                Some(INTERFACE) => DESCRIPTION,
                Some(SERVICE) => SERVICE_DESCRIPTION,
                Some(other) => {
                    return Err(ApiError::InterfaceNotFound {
                        interface: other.chars().take(80).collect(),
                    });
                }
                None => {
                    return Err(ApiError::InvalidParameter {
                        parameter: "interface".into(),
                    });
                }
            };
            json!({ "description": description })
        }
        other => {
            return Err(ApiError::MethodNotFound {
                method: other.chars().take(80).collect(),
            });
        }
    };
    ReplyFrame::of(&parameters).map_err(|error| ApiError::failed(error.to_string()))
}

/// Sends events until the client hangs up. It may end the stream by closing its side; anything it sends ends it too.
async fn stream_events(
    mut subscription: Subscription,
    frames: &mut Frames<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    shared: &Shared,
) -> Result<(), ConnectionError> {
    let limit = shared.limits.stream;
    for event in subscription.recent.drain(..) {
        let item = MonitorReply {
            event: Some((*event).clone()),
            lost: None,
        };
        write(writer, &item_frame(&item, true)?, limit).await?;
    }
    loop {
        let item = tokio::select! {
            received = subscription.events.recv() => match received {
                Ok(event) => MonitorReply { event: Some((*event).clone()), lost: None },
                Err(RecvError::Lagged(lost)) => MonitorReply { event: None, lost: Some(lost) },
                Err(RecvError::Closed) => {
                    // The daemon goes down: the stream ends in good order.
                    let last = MonitorReply { event: None, lost: None };
                    return write(writer, &item_frame(&last, false)?, limit).await;
                }
            },
            read = frames.fill() => {
                read.map_err(ReadError::Io)?;
                return Ok(());
            }
        };
        write(writer, &item_frame(&item, true)?, limit).await?;
    }
}

fn item_frame(
    item: &<Monitor as crate::api::Method>::Reply,
    continues: bool,
) -> Result<ReplyFrame, serde_json::Error> {
    Ok(ReplyFrame {
        continues,
        ..ReplyFrame::of(item)?
    })
}
