//! The API's server on real sockets: garbage, half messages, too many and too slow clients.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test's own helpers may fail"
)]

mod served;

use devbroker::api::{
    ApiError, Envelope, EventKind, EventLog, EventView, GetStatus, ListEvents, ListEventsReply, MAX_FRAME,
    Plan, Request, StatusView, Why,
};
use devbroker::client::{Client, ClientError};
use devbroker::server::{Call, Limits, ListenError, bind};
use serde_json::{Value, json};
use served::Served;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// A time limit that only a fault reaches.
const NEVER: Duration = Duration::from_secs(60);

/// A daemon that answers status, has events, and never answers `Plan`.
struct Daemon {
    served: Served,
    publish: mpsc::UnboundedSender<u64>,
}

impl Daemon {
    fn start(limits: Limits) -> Self {
        let (publish, published) = mpsc::unbounded_channel();
        let served = Served::start(limits, |calls| own(calls, published));
        Self { served, publish }
    }

    fn path(&self) -> PathBuf {
        self.served.path()
    }

    fn client(&self) -> Client {
        Client::connect(&self.path(), NEVER).unwrap()
    }

    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(NEVER)).unwrap();
        stream.set_write_timeout(Some(NEVER)).unwrap();
        stream
    }

    /// The daemon answers, with so many clients.
    fn is_well(&self) -> u64 {
        self.client().call(&GetStatus {}).unwrap().clients
    }

    /// Waits until no clients are left but the one that asks.
    fn drained(&self) {
        let start = Instant::now();
        while self.is_well() > 1 {
            assert!(start.elapsed() < NEVER, "clients stay");
        }
    }
}

async fn own(mut calls: mpsc::Receiver<Call>, mut published: mpsc::UnboundedReceiver<u64>) {
    let mut log = EventLog::default();
    let mut kept = Vec::new();
    loop {
        tokio::select! {
            Some(count) = published.recv() => for number in 0..count {
                log.publish(EventView::new(EventKind::NodePlaced, format!("event {number} {}", "x".repeat(200))));
            },
            Some(call) = calls.recv() => match call.request {
                Request::GetStatus(_) => call.reply.send(Ok(StatusView::default())),
                Request::ListEvents(ListEvents { limit }) => {
                    let events = log.recent(limit.unwrap_or(10)).iter().map(|e| (**e).clone()).collect();
                    call.reply.send(Ok(ListEventsReply { events }));
                }
                Request::Monitor(monitor) => call.reply.send(Ok(log.subscribe(monitor.recent.unwrap_or(0)))),
                Request::Plan(_) => kept.push(call.reply),
                Request::Why(_) => drop(call.reply),
                _ => call.reply.send(Err::<StatusView, _>(ApiError::refused("not in this test"))),
            },
            else => return,
        }
    }
}

/// One reply of a raw connection; none at its end.
fn reply(stream: &mut UnixStream) -> Option<Value> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return None,
            Ok(_) if byte == [0] => return Some(serde_json::from_slice(&bytes).unwrap()),
            Ok(_) => bytes.extend(byte),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("{error} after {} bytes", bytes.len()),
        }
    }
}

fn send(stream: &mut UnixStream, call: &Value) {
    stream.write_all(call.to_string().as_bytes()).unwrap();
    stream.write_all(&[0]).unwrap();
}

fn error_of(reply: &Value) -> &str {
    reply["error"]
        .as_str()
        .unwrap_or_else(|| panic!("no error: {reply}"))
}

#[test]
fn garbage_gets_an_error_and_the_daemon_goes_on() {
    let daemon = Daemon::start(Limits::default());
    for garbage in [
        &b"\0"[..],
        b"hello\0",
        b"\xff\xfe\xfd\0",
        b"{\"method\":\0",
        b"[1,2,3]\0",
        b"GET / HTTP/1.0\r\n\r\n\0",
        &[b"[".repeat(60_000), vec![0]].concat(),
    ] {
        let mut stream = daemon.raw();
        stream.write_all(garbage).unwrap();
        assert_eq!(
            error_of(&reply(&mut stream).unwrap()),
            "io.devbroker.InvalidRequest"
        );
        assert_eq!(reply(&mut stream), None);
    }
    // An endless message is cut off at the limit, before it is parsed.
    let mut stream = daemon.raw();
    let chunk = vec![b'x'; MAX_FRAME];
    while stream.write_all(&chunk).is_ok() {}
    let last = reply(&mut stream);
    assert!(last.is_none_or(|last| error_of(&last) == "io.devbroker.FrameTooLong"));
    let mut stream = daemon.raw();
    stream.write_all(&vec![b'x'; MAX_FRAME + 1]).unwrap();
    let last = reply(&mut stream).unwrap();
    assert_eq!(error_of(&last), "io.devbroker.FrameTooLong");
    assert_eq!(last["parameters"]["limit"], MAX_FRAME);
    // Half a message, then nothing.
    let mut stream = daemon.raw();
    stream.write_all(b"{\"method\":\"io.devb").unwrap();
    drop(stream);
    daemon.drained();
}

#[test]
fn wrong_calls_get_varlinks_errors_and_the_connection_lives() {
    let daemon = Daemon::start(Limits::default());
    let mut stream = daemon.raw();
    for (call, error, parameters) in [
        (
            json!({"method": "io.devbroker.Explode"}),
            "org.varlink.service.MethodNotFound",
            json!({"method": "Explode"}),
        ),
        (
            json!({"method": "io.systemd.Machine.List"}),
            "org.varlink.service.InterfaceNotFound",
            json!({"interface": "io.systemd.Machine"}),
        ),
        (
            json!({"method": "io.devbroker.Why", "parameters": {"about": 5}}),
            "org.varlink.service.InvalidParameter",
            json!({"parameter": "about"}),
        ),
        (
            json!({"method": "io.devbroker.GetStatus", "upgrade": true}),
            "org.varlink.service.InvalidParameter",
            json!({"parameter": "upgrade"}),
        ),
        (
            json!({"method": "io.devbroker.Monitor"}),
            "org.varlink.service.ExpectedMore",
            json!({}),
        ),
        (
            json!({"method": "org.varlink.service.GetInterfaceDescription", "parameters": {"interface": "a.b"}}),
            "org.varlink.service.InterfaceNotFound",
            json!({"interface": "a.b"}),
        ),
    ] {
        send(&mut stream, &call);
        let reply = reply(&mut stream).unwrap();
        assert_eq!((error_of(&reply), &reply["parameters"]), (error, &parameters));
    }
    send(&mut stream, &json!({"method": "org.varlink.service.GetInfo"}));
    let info = reply(&mut stream).unwrap();
    assert_eq!(
        info["parameters"]["interfaces"],
        json!(["io.devbroker", "org.varlink.service"])
    );
    for interface in ["io.devbroker", "org.varlink.service"] {
        let parameters = json!({"interface": interface});
        send(
            &mut stream,
            &json!({"method": "org.varlink.service.GetInterfaceDescription", "parameters": parameters}),
        );
        let text = reply(&mut stream).unwrap()["parameters"]["description"].to_string();
        assert!(text.contains(&format!("interface {interface}")), "{text}");
    }
}

#[test]
fn calls_in_one_write_and_a_byte_at_a_time() {
    let daemon = Daemon::start(Limits::default());
    let call = json!({"method": "io.devbroker.GetStatus"}).to_string() + "\0";
    let mut stream = daemon.raw();
    stream.write_all(call.repeat(50).as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let answers = std::iter::from_fn(|| reply(&mut stream)).count();
    assert_eq!(answers, 50);
    let mut stream = daemon.raw();
    for byte in call.bytes() {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(reply(&mut stream).unwrap()["parameters"]["clients"], 1);
    // One way: the next reply is already that of the call behind it.
    send(
        &mut stream,
        &json!({"method": "io.devbroker.GetStatus", "oneway": true}),
    );
    send(&mut stream, &json!({"method": "io.devbroker.Nonsense"}));
    assert_eq!(
        error_of(&reply(&mut stream).unwrap()),
        "org.varlink.service.MethodNotFound"
    );
}

#[test]
fn a_thousand_clients() {
    let daemon = Daemon::start(Limits::default());
    let mut clients: Vec<UnixStream> = (0..1000).map(|_| daemon.raw()).collect();
    let (mut served, mut refused) = (0, 0);
    let call = json!({"method": "io.devbroker.GetStatus"}).to_string() + "\0";
    for client in &mut clients {
        // Who was turned away may find the connection closed before it wrote.
        drop(client.write_all(call.as_bytes()));
        let reply = reply(client).unwrap();
        match reply.get("error") {
            None => served += 1,
            Some(error) => {
                assert_eq!(error, "io.devbroker.TooManyClients");
                assert_eq!(reply["parameters"]["limit"], 128);
                refused += 1;
            }
        }
    }
    assert_eq!((served, refused), (128, 872));
    let mut late = daemon.client();
    assert!(matches!(
        late.call(&GetStatus {}),
        Err(ClientError::Api(ApiError::TooManyClients { limit: 128, .. }))
    ));
    drop(clients);
    // Places come back when the server has seen the hang-ups; until then a client may be turned away.
    let start = Instant::now();
    loop {
        match daemon.client().call(&GetStatus {}) {
            Ok(status) if status.clients == 1 => break,
            Ok(_) | Err(ClientError::Api(ApiError::TooManyClients { .. })) => {
                assert!(start.elapsed() < NEVER, "places do not come back");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_slow_client_stalls_nobody() {
    let daemon = Daemon::start(Limits {
        stream: NEVER,
        ..Limits::default()
    });
    daemon.publish.send(1).unwrap();
    while daemon
        .client()
        .call(&ListEvents { limit: None })
        .unwrap()
        .events
        .is_empty()
    {}
    // Each has read one event, so that each is subscribed from here on.
    let mut slow = daemon.raw();
    let from_one = json!({"recent": 1});
    send(
        &mut slow,
        &json!({"method": "io.devbroker.Monitor", "parameters": from_one, "more": true}),
    );
    assert_eq!(reply(&mut slow).unwrap()["continues"], true);
    let mut quick = daemon.client().monitor(Some(1)).unwrap();
    assert_eq!(quick.next().unwrap().unwrap().event.unwrap().seq, 1);
    let mut waiting = daemon.raw();
    send(&mut waiting, &json!({"method": "io.devbroker.Plan"}));
    // Far more than fits into a socket and the ring; the quick one reads along, the slow one does not.
    let mut seen = 1;
    for _ in 0..40 {
        daemon.publish.send(100).unwrap();
        for _ in 0..100 {
            let item = quick.next().unwrap().unwrap();
            assert_eq!(item.lost, None);
            seen += 1;
            assert_eq!(item.event.unwrap().seq, seen);
        }
        let asked = Instant::now();
        assert_eq!(daemon.client().call(&GetStatus {}).unwrap().clients, 4);
        assert!(asked.elapsed() < Duration::from_secs(5));
    }
    // The slow one is told how many it missed, and then goes on without a gap.
    let (mut next, mut lost) = (2, 0);
    while next <= seen {
        let item = reply(&mut slow).unwrap()["parameters"].take();
        if let Some(count) = item["lost"].as_u64() {
            lost += count;
            next += count;
        } else {
            assert_eq!(item["event"]["seq"], next);
            next += 1;
        }
    }
    assert!(lost > 0);
}

#[test]
fn who_never_reads_replies_is_dropped() {
    let daemon = Daemon::start(Limits {
        write: Duration::from_millis(100),
        stream: Duration::from_millis(100),
        ..Limits::default()
    });
    daemon.publish.send(1000).unwrap();
    // Calls whose replies are large, none of them read.
    let mut greedy = daemon.raw();
    let call = json!({"method": "io.devbroker.ListEvents", "parameters": {"limit": 1000}}).to_string() + "\0";
    drop(greedy.write_all(call.repeat(100).as_bytes()));
    let mut deaf = daemon.raw();
    send(
        &mut deaf,
        &json!({"method": "io.devbroker.Monitor", "parameters": {"recent": 1000}, "more": true}),
    );
    daemon.drained();
    assert!(std::iter::from_fn(|| reply(&mut deaf).map(drop)).count() < 1000);
}

#[test]
fn half_messages_and_silence_end() {
    let daemon = Daemon::start(Limits {
        idle: Duration::from_millis(50),
        frame: Duration::from_millis(50),
        ..Limits::default()
    });
    let mut silent = daemon.raw();
    let mut half = daemon.raw();
    half.write_all(b"{\"meth").unwrap();
    assert_eq!(reply(&mut silent), None);
    assert_eq!(reply(&mut half), None);
    assert_eq!(daemon.is_well(), 1);
}

#[test]
fn calls_without_an_answer() {
    let daemon = Daemon::start(Limits {
        call: Duration::from_millis(50),
        ..Limits::default()
    });
    let error = daemon.client().call(&Plan::default()).unwrap_err();
    assert!(
        matches!(error, ClientError::Api(ApiError::TimedOut { .. })),
        "{error}"
    );
    let about = Why { about: "x".into() };
    let error = daemon.client().call(&about).unwrap_err();
    assert!(
        matches!(error, ClientError::Api(ApiError::Failed { .. })),
        "{error}"
    );

    // Who hangs up while waiting does not keep its place.
    let patient = Daemon::start(Limits {
        frame: Duration::from_millis(50),
        ..Limits::default()
    });
    let limit = Duration::from_millis(50);
    let error = patient.client().call_within(&Plan::default(), limit).unwrap_err();
    assert!(matches!(error, ClientError::TimedOut(_)), "{error}");
    patient.drained();
}

#[test]
fn a_stream_ends_with_the_daemon() {
    let daemon = Daemon::start(Limits::default());
    daemon.publish.send(3).unwrap();
    while daemon
        .client()
        .call(&ListEvents { limit: None })
        .unwrap()
        .events
        .len()
        < 3
    {}
    let mut events = daemon.client().monitor(Some(2)).unwrap();
    for seq in [2, 3] {
        assert_eq!(events.next().unwrap().unwrap().event.unwrap().seq, seq);
    }
    drop(daemon);
    // In good order or cut off, but over.
    assert!(matches!(events.next(), None | Some(Err(ClientError::Closed))));
    assert!(events.next().is_none());
}

#[test]
fn no_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = folder.path().join("nobody");
    let error = Client::connect(&nobody, NEVER).unwrap_err();
    assert!(error.to_string().contains("systemctl start devbroker"), "{error}");
    // A socket that a dead daemon left.
    drop(std::os::unix::net::UnixListener::bind(&nobody).unwrap());
    assert!(matches!(
        Client::connect(&nobody, NEVER),
        Err(ClientError::NotRunning(_))
    ));
    // One that accepts and never answers, and whose queue fills up.
    let hung = folder.path().join("hung");
    let listener = std::os::unix::net::UnixListener::bind(&hung).unwrap();
    let limit = Duration::from_millis(50);
    let mut client = Client::connect(&hung, limit).unwrap();
    assert!(matches!(
        client.call_within(&GetStatus {}, limit),
        Err(ClientError::TimedOut(_))
    ));
    let mut waiting = Vec::new();
    let error = loop {
        match Client::connect(&hung, limit) {
            Ok(client) => waiting.push(client),
            Err(error) => break error,
        }
        assert!(waiting.len() < 10_000);
    };
    assert!(matches!(error, ClientError::TimedOut(_)), "{error}");
    drop(listener);
}

#[test]
fn what_is_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let answers = [
        &b"nonsense\0"[..],
        b"{\"parameters\":{\"pid\":\"x\"}}\0",
        b"",
        b"{\"para",
    ];
    let thread = std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(stream.read(&mut [0; 100]).unwrap() > 0);
            stream.write_all(answer).unwrap();
        }
    });
    for garbled in [true, true, false, false] {
        let error = Client::connect(&path, NEVER)
            .unwrap()
            .call(&GetStatus {})
            .unwrap_err();
        assert_eq!(matches!(error, ClientError::Garbled(_)), garbled, "{error}");
        assert_eq!(matches!(error, ClientError::Closed), !garbled, "{error}");
    }
    thread.join().unwrap();
}

#[test]
fn one_daemon_at_a_socket() {
    fn try_bind(path: &Path) -> Result<(), ListenError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { bind(path).map(drop) })
    }
    let daemon = Daemon::start(Limits::default());
    assert!(matches!(try_bind(&daemon.path()), Err(ListenError::Taken(_))));
    assert_eq!(daemon.is_well(), 1);
    let file = daemon.served.folder().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(try_bind(&file), Err(ListenError::NoSocket(_))));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    // What a daemon that was killed leaves behind.
    let stale = daemon.served.folder().join("stale");
    try_bind(&stale).unwrap();
    try_bind(&stale).unwrap();
    let left: Vec<_> = std::fs::read_dir(daemon.served.folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("stale"))
        .collect();
    assert_eq!(left, ["stale"]);
}

#[test]
fn frames_end_in_nul() {
    let bytes = ApiError::refused("no").to_frame().to_bytes().unwrap();
    assert_eq!(
        String::from_utf8(bytes).unwrap(),
        "{\"error\":\"io.devbroker.Refused\",\"parameters\":{\"message\":\"no\"}}\0"
    );
}
