//! What is done for a foreign container beside the loop, on a thread of its own: systemd and the runtime's files may take
//! their time. Each of these works on files alone, so that it can be done again after a crash.

use super::Files;
use crate::api::{ApiError, AttachPid, NotFoundKind};
use crate::host::access::DeviceFilter;
use crate::host::cgroup::Hierarchy;
use crate::host::devfs::{Devfs, Limits};
use crate::host::process::{self, ProcessError};
use crate::host::takeover::{TakeOver, TakeOverError, Target};
use crate::host::unit_rules::{Event, Systemd};
use crate::host::{oci, process::hold};
use crate::model::{BoundAt, ContainerName, ContainerRef, Engine, IdMap, InstanceId, Registration};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc::UnboundedSender;

/// The connection to systemd, made when it is first needed.
#[derive(Debug, Clone)]
pub(in crate::daemon) struct Bus {
    connection: Arc<Mutex<Option<Arc<Systemd>>>>,
    /// Held by who changes a filter: what one looks at must not change under it.
    changing: Arc<Mutex<()>>,
    events: UnboundedSender<Event>,
}

impl Bus {
    /// A connection that tells its events to `events`.
    pub(in crate::daemon) fn new(events: UnboundedSender<Event>) -> Self {
        Self {
            connection: Arc::default(),
            changing: Arc::default(),
            events,
        }
    }

    /// The connection; without systemd there is none.
    fn get(&self) -> Option<Arc<Systemd>> {
        let mut connection = self.connection.lock().ok()?;
        if connection.is_none() {
            let events = self.events.clone();
            // When the daemon stops, nobody listens any more.
            match Systemd::connect(move |event| drop(events.send(event))) {
                Ok(systemd) => *connection = Some(Arc::new(systemd)),
                Err(error) => tracing::debug!(%error, "systemd"),
            }
        }
        connection.clone()
    }

    /// Waits for one's turn to change filters.
    fn turn(&self) -> MutexGuard<'_, ()> {
        // Who panicked left the files as a kill would: in order.
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the next use connect anew.
    pub(in crate::daemon) fn disconnected(&self) {
        if let Ok(mut connection) = self.connection.lock() {
            *connection = None;
        }
    }
}

/// Why a container could not be taken in.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttachError {
    #[error("cannot attach process {pid}: {source}; give the number of a running process of the container")]
    Process { pid: i32, source: ProcessError },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} does not have the form of an id map", path.display())]
    IdMap { path: PathBuf },
    #[error("process {pid} is not in a container: it has the host's own mount namespace")]
    Host { pid: i32 },
    #[error(transparent)]
    TakeOver(#[from] TakeOverError),
    #[error(transparent)]
    Cgroup(#[from] crate::host::cgroup::CgroupError),
    #[error(transparent)]
    Devfs(#[from] crate::host::devfs::DevfsError),
}

impl From<&AttachError> for ApiError {
    fn from(error: &AttachError) -> Self {
        let message = error.to_string();
        match error {
            AttachError::Process { pid, .. } => {
                Self::not_found(NotFoundKind::Process, pid.to_string(), message)
            }
            AttachError::Host { .. } | AttachError::TakeOver(TakeOverError::Refused(_)) => {
                Self::refused(message)
            }
            AttachError::Read { .. }
            | AttachError::IdMap { .. }
            | AttachError::TakeOver(_)
            | AttachError::Cgroup(_)
            | AttachError::Devfs(_) => Self::failed(message),
        }
    }
}

/// What a container that is attached by a process of it is called.
pub(super) fn name(attach: &AttachPid) -> Result<ContainerRef, ApiError> {
    let name = match &attach.name {
        Some(name) => name.clone(),
        None => attach
            .pid
            .to_string()
            .parse::<ContainerName>()
            .map_err(|error| ApiError::refused(error.to_string()))?,
    };
    Ok(ContainerRef {
        engine: Engine::Pid,
        name,
    })
}

/// Takes over the filter of a foreign container, gives it a devfs, and registers it. On failure everything is as it was.
/// Without `reassert` systemd is not told either: its rules come back as they did before there was a broker.
pub(super) fn take_in(
    container: &ContainerRef,
    pid: i32,
    reassert: bool,
    files: &Files,
    registrations: &Path,
    bus: &Bus,
) -> Result<Vec<String>, AttachError> {
    let gone = |source| AttachError::Process { pid, source };
    let start = process::started(pid).map_err(gone)?;
    let held = hold(pid, start).map_err(gone)?;
    let ours = fs::read_link("/proc/self/ns/mnt");
    let theirs = fs::read_link(format!("/proc/{pid}/ns/mnt"));
    if ours.is_ok_and(|ours| theirs.is_ok_and(|theirs| ours == theirs)) {
        return Err(AttachError::Host { pid });
    }
    let uid_map = id_map(&format!("/proc/{pid}/uid_map"))?;
    let gid_map = id_map(&format!("/proc/{pid}/gid_map"))?;
    // A held process keeps its number only while it lives: what was read is its own if it still does.
    if process::started(pid).map_err(gone)? != start {
        return Err(gone(ProcessError::Another { pid }));
    }
    let read = |path: &Path| {
        let path = path.to_owned();
        move |source| AttachError::Read { path, source }
    };
    fs::create_dir_all(&files.folder).map_err(read(&files.folder))?;
    let runtimes: Vec<PathBuf> = oci::ROOTS.iter().map(Into::into).collect();
    let target = Target {
        pid,
        start,
        dir: &files.filter,
        record: &files.takeover,
        runtimes: &runtimes,
    };
    let turn = bus.turn();
    let systemd = bus.get().filter(|_| reassert);
    let begun = TakeOver::begin(&target, Hierarchy::find()?, systemd.as_deref());
    let (takeover, _) = begun.inspect_err(|_| {
        fs::remove_dir(&files.folder).ok();
    })?;
    let finished = finish(
        container,
        files,
        registrations,
        (pid, start),
        uid_map,
        gid_map,
        &takeover,
    );
    drop((held, turn));
    if finished.is_err() {
        clean(files, bus);
    }
    finished
}

fn finish(
    container: &ContainerRef,
    files: &Files,
    registrations: &Path,
    (pid, pid_start): (i32, u64),
    uid_map: IdMap,
    gid_map: IdMap,
    takeover: &TakeOver,
) -> Result<Vec<String>, AttachError> {
    let devfs = Devfs::create(&files.devfs, Limits::default(), &uid_map, &gid_map)?;
    let owner = if uid_map.is_identity() {
        0
    } else {
        uid_map.to_host(0).unwrap_or(0)
    };
    let registration = Registration {
        container: container.clone(),
        owner,
        instance: files.instance.clone(),
        pid,
        pid_start,
        uid_map,
        gid_map,
        devfs: files.devfs.clone(),
        devfs_dev: devfs.st_dev(),
        bound_at: Some(BoundAt::DotDevbroker),
        rootfs: None,
        cgroup: takeover.cgroup().into(),
        filter: files.filter.clone(),
    };
    let file = registrations.join(format!("{container}.json"));
    let fresh = registrations.join(format!(".{container}.new"));
    let bytes = serde_json::to_vec(&registration).unwrap_or_default();
    fs::write(&fresh, bytes)
        .and_then(|()| fs::rename(&fresh, &file))
        .map_err(|source| AttachError::Read { path: file, source })?;
    let mut notes = vec![match takeover.unit() {
        Some(unit) => {
            format!("the device filter of {unit} was replaced by one that also lets granted devices through")
        }
        None => {
            "the runtime's device filter was replaced by one that also lets granted devices through".into()
        }
    }];
    if !takeover.confined() {
        notes.push("nothing filters this container's devices: it can open any that it can name".into());
    }
    Ok(notes)
}

fn id_map(path: &str) -> Result<IdMap, AttachError> {
    let text = fs::read_to_string(path).map_err(|source| AttachError::Read {
        path: path.into(),
        source,
    })?;
    IdMap::parse(&text).ok_or_else(|| AttachError::IdMap { path: path.into() })
}

/// Puts back what was there before a container was taken in; whatever is done already is passed over.
pub(super) fn clean(files: &Files, bus: &Bus) {
    let _turn = bus.turn();
    let restored = Hierarchy::find()
        .map_err(TakeOverError::from)
        .and_then(|hierarchy| TakeOver::open_record(&files.takeover, hierarchy))
        .and_then(|takeover| {
            let systemd = bus.get();
            if let (Some(systemd), Some(unit)) = (&systemd, takeover.unit()) {
                if let Err(error) = systemd.unwatch(unit) {
                    tracing::debug!(unit, %error, "unwatch");
                }
            }
            takeover.restore(systemd.as_deref())
        });
    if let Err(error) = restored {
        tracing::warn!(instance = %files.instance, %error, "give the device filter back");
    }
    if let Err(error) = Devfs::destroy(&files.devfs) {
        tracing::warn!(instance = %files.instance, %error, "devfs");
    }
    match fs::remove_dir_all(&files.folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(folder = %files.folder.display(), %error, "remove");
        }
        Ok(()) | Err(_) => {}
    }
}

/// Looks whether our program still decides, and sets it right again.
pub(super) fn reassert(files: &Files, bus: &Bus) -> Result<bool, TakeOverError> {
    let _turn = bus.turn();
    let mut takeover = TakeOver::open_record(&files.takeover, Hierarchy::find()?)?;
    let filter = DeviceFilter::open(&files.filter)?;
    let systemd = bus.get();
    if let (Some(systemd), Some(unit)) = (&systemd, takeover.unit()) {
        if let Err(error) = systemd.watch(unit) {
            tracing::warn!(unit, %error, "watch");
        }
    }
    let done = takeover.reassert(&filter, systemd.as_deref())?;
    Ok(done.put_back || !done.displaced.is_empty())
}

/// A new run's id.
pub(super) fn new_instance() -> io::Result<InstanceId> {
    let mut bytes = [0; 8];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(InstanceId::from_bits(u64::from_ne_bytes(bytes)))
}
