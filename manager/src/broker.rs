//! What ctm tells the broker: the registration file, and calls with a time limit. The broker need not be there.

use crate::atomic;
use devbroker::api::{Register, Unregister};
use devbroker::client::{Client, ClientError};
use devbroker::model::{ContainerName, ContainerRef, Engine, Registration};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the broker listens.
const SOCKET: &str = "/run/devbroker/io.devbroker";

/// A registration that cannot be written or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {source}", .path.display())]
pub(crate) struct RegistrationError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> RegistrationError + use<'a> {
    move |source| RegistrationError {
        what,
        path: path.into(),
        source,
    }
}

/// A container of ctm's in the broker's words.
pub(crate) fn reference(name: &ContainerName) -> ContainerRef {
    ContainerRef {
        engine: Engine::Ctm,
        name: name.clone(),
    }
}

/// Writes the file by which the broker adopts a container. The folder is made if the broker has not run yet.
pub(crate) fn register(file: &Path, registration: &Registration) -> Result<(), RegistrationError> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).map_err(failed("make", folder))?;
    }
    let bytes = serde_json::to_vec(registration)
        .map_err(io::Error::other)
        .map_err(failed("write", file))?;
    atomic::write(file, &bytes, 0o600).map_err(failed("write", file))
}

/// Removes it.
pub(crate) fn unregister(file: &Path) -> Result<(), RegistrationError> {
    match fs::remove_file(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(failed("remove", file)),
    }
}

/// Has the broker read the registration and place what the container is granted; returns when that is done.
pub(crate) fn announce(name: &ContainerName, limit: Duration) -> Result<(), ClientError> {
    let container = reference(name);
    Client::connect(Path::new(SOCKET), limit)?
        .call_within(&Register { container }, limit)
        .map(drop)
}

/// Tells the broker that the container is gone; with `forget`, for good.
pub(crate) fn withdraw(name: &ContainerName, forget: bool, limit: Duration) -> Result<(), ClientError> {
    let container = reference(name);
    Client::connect(Path::new(SOCKET), limit)?
        .call_within(&Unregister { container, forget }, limit)
        .map(drop)
}
