//! What systemd is asked and told of a container's unit: its device rules, and when they may have come back.
//!
//! systemd (257) tells nobody on the bus of a property that is written; but it keeps it in a drop-in below `/run` or `/etc`, so
//! those folders are watched as well.
//!
//! An engine that writes properties puts its own program on the cgroup afterwards, which nobody tells: so each such event comes
//! again a little later ([`ECHOES`]).
//!
//! One thread with its own connection to the system bus serves all. Calls block the caller, for at most [`LIMIT`] each, so
//! they belong on a worker's thread and never on the daemon's own.

use inotify::{Inotify, WatchDescriptor, WatchMask};
use serde::{Deserialize, Serialize};
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};
use zbus::export::ordered_stream::OrderedStreamExt;
use zbus::message::Type;
use zbus::zvariant::{OwnedObjectPath, OwnedValue, Value};
use zbus::{Connection, MatchRule, Message, MessageStream};

/// How long systemd may take to answer: it answers nobody while it reads its units anew.
pub const LIMIT: Duration = Duration::from_secs(30);

/// How long after a unit's change it is told again.
pub const ECHOES: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(3)];

/// Where systemd keeps what was set at run time, `UNIT.d` in each (`unit_drop_in_dir`): transient units in the first.
const DROP_INS: [&str; 3] = [
    "/run/systemd/transient",
    "/run/systemd/system.control",
    "/etc/systemd/system.control",
];

const SERVICE: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// No connection.
    #[error("cannot reach systemd on the system bus: {0}; is dbus running?")]
    Connect(#[source] Box<zbus::Error>),
    /// No thread for it.
    #[error("cannot start the thread that talks to systemd: {0}")]
    Thread(#[source] io::Error),
    /// systemd refused.
    #[error("systemd refused to {what} {unit}: {source}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// Of which unit.
        unit: String,
        /// Its answer.
        source: Box<zbus::Error>,
    },
    /// systemd did not answer.
    #[error("systemd did not answer within {} seconds when asked to {what} {unit}", LIMIT.as_secs())]
    Silent {
        /// What was asked.
        what: &'static str,
        /// Of which unit.
        unit: String,
    },
    /// The bus is gone.
    #[error("the connection to the system bus is gone; it is made again at the next use")]
    Gone,
}

/// A unit's device rules (systemd.resource-control(5)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceRules {
    /// `DevicePolicy=`: auto, closed or strict.
    pub policy: String,
    /// `DeviceAllow=`: node or group, and accesses.
    pub allow: Vec<(String, String)>,
}

impl DeviceRules {
    /// No rules: systemd then has no device program on the unit's cgroup.
    pub fn none() -> Self {
        Self {
            policy: "auto".into(),
            allow: Vec::new(),
        }
    }
}

/// Something after which systemd's device programs may be back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// systemd has read its units anew.
    Reloaded,
    /// A watched unit's properties were written, or changed otherwise.
    Unit(String),
    /// The bus is gone; events may be missed until the next connection.
    Disconnected,
}

enum Request {
    Get(String),
    Set(String, DeviceRules),
    Watch(String, bool),
}

type Answer = Result<Option<DeviceRules>, SystemdError>;

/// A connection to systemd.
pub struct Systemd {
    requests: UnboundedSender<(Request, mpsc::SyncSender<Answer>)>,
}

impl fmt::Debug for Systemd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Systemd")
            .field("alive", &!self.requests.is_closed())
            .finish_non_exhaustive()
    }
}

impl Systemd {
    /// Connects, and gives what happens to `on_event`, on the connection's thread.
    pub fn connect(on_event: impl Fn(Event) + Send + 'static) -> Result<Self, SystemdError> {
        let (requests, inbox) = unbounded_channel();
        let (ready, is_ready) = mpsc::sync_channel(1);
        thread::Builder::new()
            .name("systemd".into())
            .spawn(move || serve(inbox, &ready, &on_event))
            .map_err(SystemdError::Thread)?;
        is_ready.recv().map_err(|_| SystemdError::Gone)??;
        Ok(Self { requests })
    }

    /// The unit's device rules as systemd has them now.
    pub fn device_rules(&self, unit: &str) -> Result<DeviceRules, SystemdError> {
        self.ask(Request::Get(unit.into()))?.ok_or(SystemdError::Gone)
    }

    /// Replaces the unit's device rules until the next boot. When this returns, systemd has worked them in.
    pub fn set_device_rules(&self, unit: &str, rules: DeviceRules) -> Result<(), SystemdError> {
        self.ask(Request::Set(unit.into(), rules)).map(drop)
    }

    /// Tells [`Event::Unit`] of this unit from now on. To be said again after the unit's first properties were written, which
    /// makes its folder.
    pub fn watch(&self, unit: &str) -> Result<(), SystemdError> {
        self.ask(Request::Watch(unit.into(), true)).map(drop)
    }

    /// No longer.
    pub fn unwatch(&self, unit: &str) -> Result<(), SystemdError> {
        self.ask(Request::Watch(unit.into(), false)).map(drop)
    }

    fn ask(&self, request: Request) -> Answer {
        let (answer, answered) = mpsc::sync_channel(1);
        self.requests
            .send((request, answer))
            .map_err(|_| SystemdError::Gone)?;
        answered.recv().map_err(|_| SystemdError::Gone)?
    }
}

fn serve(
    inbox: UnboundedReceiver<(Request, mpsc::SyncSender<Answer>)>,
    ready: &mpsc::SyncSender<Result<(), SystemdError>>,
    on_event: &dyn Fn(Event),
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            ready.send(Err(SystemdError::Thread(error))).ok();
            return;
        }
    };
    runtime.block_on(async {
        let drop_ins = match DropIns::new() {
            Ok(drop_ins) => drop_ins,
            Err(error) => {
                ready.send(Err(SystemdError::Thread(error))).ok();
                return;
            }
        };
        match connect().await {
            Ok((connection, stream)) => {
                if ready.send(Ok(())).is_ok() {
                    work(inbox, &connection, stream, drop_ins, on_event).await;
                }
            }
            Err(error) => {
                ready.send(Err(SystemdError::Connect(error.into()))).ok();
            }
        }
    });
}

async fn connect() -> zbus::Result<(Connection, MessageStream)> {
    let connection = Connection::system().await?;
    let stream = MessageStream::from(&connection);
    // Without a subscriber systemd sends no signals.
    connection
        .call_method(Some(SERVICE), MANAGER_PATH, Some(MANAGER), "Subscribe", &())
        .await?;
    let reloading = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender(SERVICE)?
        .path(MANAGER_PATH)?
        .interface(MANAGER)?
        .member("Reloading")?
        .build();
    match_signals(&connection, &reloading, true).await?;
    Ok((connection, stream))
}

async fn match_signals(connection: &Connection, rule: &MatchRule<'_>, add: bool) -> zbus::Result<()> {
    let method = if add { "AddMatch" } else { "RemoveMatch" };
    let bus = "org.freedesktop.DBus";
    connection
        .call_method(
            Some(bus),
            "/org/freedesktop/DBus",
            Some(bus),
            method,
            &rule.to_string(),
        )
        .await
        .map(drop)
}

async fn work(
    mut inbox: UnboundedReceiver<(Request, mpsc::SyncSender<Answer>)>,
    connection: &Connection,
    mut stream: MessageStream,
    mut drop_ins: DropIns,
    on_event: &dyn Fn(Event),
) {
    let mut echoes = BTreeSet::new();
    loop {
        let next: Option<Instant> = echoes.first().map(|(at, _)| *at);
        tokio::select! {
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                if let Some((_, unit)) = echoes.pop_first() {
                    on_event(Event::Unit(unit));
                }
            }
            request = inbox.recv() => {
                let Some((request, answer)) = request else { return };
                // Who asked may have gone; that is no error.
                answer.send(serve_one(connection, &mut drop_ins, request).await).ok();
            }
            units = drop_ins.changed() => {
                let now = Instant::now();
                // Of those that are due anyway, only the new ones count: a storm of writes makes no storm of echoes.
                echoes.retain(|(_, unit)| !units.contains(unit));
                echoes.extend(units.iter().flat_map(|unit| ECHOES.map(|after| (now + after, unit.clone()))));
                units.into_iter().map(Event::Unit).for_each(on_event);
            }
            message = stream.next() => {
                let Some(Ok(message)) = message else {
                    on_event(Event::Disconnected);
                    return;
                };
                event(&message).into_iter().for_each(on_event);
            }
        }
    }
}

/// What a message tells.
fn event(message: &Message) -> Option<Event> {
    let header = message.header();
    if header.message_type() != Type::Signal {
        return None;
    }
    let member = header.member()?;
    match (header.interface()?.as_str(), member.as_str()) {
        // The argument: it begins (true) or is done (false).
        (MANAGER, "Reloading") => (!message.body().deserialize::<bool>().ok()?).then_some(Event::Reloaded),
        (PROPERTIES, "PropertiesChanged") => unit_of(header.path()?.as_str()).map(Event::Unit),
        _ => None,
    }
}

/// The unit's name in its object path, where `_2e` stands for a dot (`bus-label.c`).
fn unit_of(path: &str) -> Option<String> {
    let mut rest = path.strip_prefix("/org/freedesktop/systemd1/unit/")?;
    let mut name = Vec::new();
    while let Some((before, after)) = rest.split_once('_') {
        name.extend(before.bytes());
        let (code, after) = after.split_at_checked(2)?;
        name.push(u8::from_str_radix(code, 16).ok()?);
        rest = after;
    }
    name.extend(rest.bytes());
    String::from_utf8(name).ok()
}

/// The folders of watched units' drop-ins.
struct DropIns {
    inotify: Inotify,
    ready: AsyncFd<OwnedFd>,
    watched: HashMap<WatchDescriptor, String>,
    /// What the bus tells changes of.
    objects: HashMap<String, OwnedObjectPath>,
}

impl DropIns {
    fn new() -> io::Result<Self> {
        let inotify = Inotify::init()?;
        Ok(Self {
            ready: crate::sys::wait::readable(inotify.as_fd().try_clone_to_owned()?)?,
            inotify,
            watched: HashMap::new(),
            objects: HashMap::new(),
        })
    }

    /// Those folders that are not there are passed over: telling systemd of a transient unit makes its own.
    fn watch(&mut self, unit: &str) {
        for folder in DROP_INS {
            let mask = WatchMask::MOVED_TO | WatchMask::CLOSE_WRITE | WatchMask::DELETE | WatchMask::ONLYDIR;
            let path = format!("{folder}/{unit}.d");
            if let Ok(descriptor) = self.inotify.watches().add(path, mask) {
                self.watched.insert(descriptor, unit.into());
            }
        }
    }

    fn unwatch(&mut self, unit: &str) {
        let watches = self.inotify.watches();
        self.watched.retain(|descriptor, name| {
            if name == unit {
                // The folder may be gone, and the watch with it.
                watches.clone().remove(descriptor.clone()).ok();
            }
            name != unit
        });
    }

    /// Waits until something is written there; whose it is.
    async fn changed(&mut self) -> BTreeSet<String> {
        let Ok(mut ready) = self.ready.readable().await else {
            // The runtime is ending.
            return std::future::pending().await;
        };
        ready.clear_ready();
        let mut buffer = [0; 4096];
        let mut descriptors = Vec::new();
        // The descriptor does not block; what cannot be read is nothing.
        while let Ok(events) = self.inotify.read_events(&mut buffer) {
            let before = descriptors.len();
            descriptors.extend(events.map(|event| event.wd));
            if descriptors.len() == before {
                break;
            }
        }
        descriptors
            .iter()
            .filter_map(|descriptor| self.watched.get(descriptor).cloned())
            .collect()
    }
}

async fn serve_one(connection: &Connection, drop_ins: &mut DropIns, request: Request) -> Answer {
    let (what, unit) = match &request {
        Request::Get(unit) => ("tell the device rules of", unit.clone()),
        Request::Set(unit, _) => ("set the device rules of", unit.clone()),
        Request::Watch(unit, _) => ("tell changes of", unit.clone()),
    };
    let work = async {
        match request {
            Request::Get(unit) => get(connection, &unit).await.map(Some),
            Request::Set(unit, rules) => set(connection, &unit, &rules).await.map(|()| None),
            Request::Watch(unit, on) => {
                if on {
                    drop_ins.watch(&unit);
                    if let Entry::Vacant(entry) = drop_ins.objects.entry(unit) {
                        let object = object(connection, entry.key()).await?;
                        match_changes(connection, &object, true).await?;
                        entry.insert(object);
                    }
                } else {
                    drop_ins.unwatch(&unit);
                    if let Some(object) = drop_ins.objects.remove(&unit) {
                        match_changes(connection, &object, false).await?;
                    }
                }
                Ok(None)
            }
        }
    };
    match tokio::time::timeout(LIMIT, work).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(SystemdError::Refused {
            what,
            unit,
            source: source.into(),
        }),
        Err(_) => Err(SystemdError::Silent { what, unit }),
    }
}

async fn object(connection: &Connection, unit: &str) -> zbus::Result<OwnedObjectPath> {
    connection
        .call_method(Some(SERVICE), MANAGER_PATH, Some(MANAGER), "GetUnit", &unit)
        .await?
        .body()
        .deserialize()
}

async fn get(connection: &Connection, unit: &str) -> zbus::Result<DeviceRules> {
    let object = object(connection, unit).await?;
    let interface = if unit.strip_suffix(".scope").is_some() {
        "org.freedesktop.systemd1.Scope"
    } else {
        "org.freedesktop.systemd1.Service"
    };
    let property = async |name: &str| -> zbus::Result<OwnedValue> {
        connection
            .call_method(
                Some(SERVICE),
                &object,
                Some(PROPERTIES),
                "Get",
                &(interface, name),
            )
            .await?
            .body()
            .deserialize()
    };
    Ok(DeviceRules {
        policy: property("DevicePolicy").await?.try_into()?,
        allow: property("DeviceAllow").await?.try_into()?,
    })
}

async fn set(connection: &Connection, unit: &str, rules: &DeviceRules) -> zbus::Result<()> {
    let empty: Vec<(String, String)> = Vec::new();
    // An empty list resets, another one adds to what is there.
    let mut properties = vec![
        ("DevicePolicy", Value::from(rules.policy.as_str())),
        ("DeviceAllow", Value::from(empty)),
    ];
    if !rules.allow.is_empty() {
        properties.push(("DeviceAllow", Value::from(rules.allow.clone())));
    }
    let until_boot = true;
    connection
        .call_method(
            Some(SERVICE),
            MANAGER_PATH,
            Some(MANAGER),
            "SetUnitProperties",
            &(unit, until_boot, properties),
        )
        .await?;
    // systemd works cgroups off before it takes the next message: once this is answered, its program is gone or there.
    object(connection, unit).await.map(drop)
}

async fn match_changes(connection: &Connection, object: &OwnedObjectPath, on: bool) -> zbus::Result<()> {
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender(SERVICE)?
        .path(object)?
        .interface(PROPERTIES)?
        .member("PropertiesChanged")?
        .build();
    match_signals(connection, &rule, on).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_paths() {
        for (path, unit) in [
            (
                "/org/freedesktop/systemd1/unit/libpod_2dab_2escope",
                Some("libpod-ab.scope"),
            ),
            ("/org/freedesktop/systemd1/unit/a_2eservice", Some("a.service")),
            ("/org/freedesktop/systemd1/unit/a_2", None),
            ("/org/freedesktop/systemd1", None),
        ] {
            assert_eq!(unit_of(path), unit.map(String::from), "{path}");
        }
    }
}
