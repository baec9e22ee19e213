//! systemd: whether it runs the machine, the unit that runs a container, and the readiness protocol (`sd_notify(3)`),
//! which `ctm start` speaks as well where it stands in for systemd.

use devbroker::model::ContainerName;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What can go wrong with systemd.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    /// systemctl could not be run.
    #[error("cannot run systemctl: {0}")]
    Run(#[source] io::Error),
    /// systemctl said no.
    #[error("systemctl {verb} {unit} failed: {message}")]
    Failed {
        verb: &'static str,
        unit: String,
        message: String,
    },
    /// No readiness message could be sent or received.
    #[error("cannot tell that the container is ready, over {socket}: {source}")]
    Notify { socket: String, source: io::Error },
}

/// The unit that runs a container. The characters of a [`ContainerName`] need no escaping in an instance name.
pub(crate) fn unit(name: &ContainerName) -> String {
    format!("ctm@{name}.service")
}

/// Whether systemd runs this machine (`sd_booted(3)`) and has our unit.
pub(crate) fn is_available() -> bool {
    Path::new("/run/systemd/system").is_dir() && has_unit()
}

/// Where unit files are.
const FOLDERS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

fn has_unit() -> bool {
    folder_of("ctm@.service").is_some()
}

fn folder_of(file: &str) -> Option<&'static str> {
    FOLDERS
        .into_iter()
        .find(|folder| Path::new(folder).join(file).exists())
}

/// The file of a unit, for an instance that of its template.
pub(crate) fn file_of(unit: &str) -> PathBuf {
    let file = match (unit.split_once('@'), unit.rsplit_once('.')) {
        (Some((template, _)), Some((_, kind))) => format!("{template}@.{kind}"),
        _ => unit.into(),
    };
    let folder = folder_of(&file).unwrap_or("/usr/lib/systemd/system");
    Path::new(folder).join(file)
}

/// Has systemd `start` or `stop` a container's unit and waits until that is done.
pub(crate) fn systemctl(verb: &'static str, name: &ContainerName) -> Result<(), ServiceError> {
    ask(verb, &[unit(name)])
}

/// Whether systemd has a container's unit up, or is about to: also in the time that it leaves between two runs of one that
/// reboots itself, or whose first process failed.
pub(crate) fn is_up(name: &ContainerName) -> Result<bool, ServiceError> {
    if !is_available() {
        return Ok(false);
    }
    let output = Command::new("systemctl")
        .args(["show", "--property=ActiveState", "--value", &unit(name)])
        .stdin(Stdio::null())
        .output()
        .map_err(ServiceError::Run)?;
    let state = String::from_utf8_lossy(&output.stdout);
    Ok(!matches!(state.trim(), "" | "inactive" | "failed"))
}

/// Has systemd read again what starts which container.
pub(crate) fn reload() -> Result<(), ServiceError> {
    ask("daemon-reload", &[])
}

/// Where systemd keeps such properties, `UNIT.d/50-PROPERTY.conf` (`systemd.unit(5)`).
pub(crate) const CONTROL: &str = "/run/systemd/system.control";

/// Has systemd keep properties of a unit until the machine is booted again.
pub(crate) fn set_until_reboot(
    unit: &str,
    properties: &[(&'static str, String)],
) -> Result<(), ServiceError> {
    let mut words = vec!["--runtime".to_owned(), unit.to_owned()];
    words.extend(properties.iter().map(|(name, value)| format!("{name}={value}")));
    ask("set-property", &words)
}

fn ask(verb: &'static str, words: &[String]) -> Result<(), ServiceError> {
    let output = Command::new("systemctl")
        .arg(verb)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .map_err(ServiceError::Run)?;
    if output.status.success() {
        return Ok(());
    }
    Err(ServiceError::Failed {
        verb,
        unit: words.join(" "),
        message: String::from_utf8_lossy(&output.stderr).trim().into(),
    })
}

/// Takes a unit out of systemd's list of failed ones. That it was in none is no fault.
pub(crate) fn forget_failure(name: &ContainerName) -> Result<(), ServiceError> {
    Command::new("systemctl")
        .args(["reset-failed", &unit(name)])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map(drop)
        .map_err(ServiceError::Run)
}

/// Tells how far the supervisor is to whoever started it.
#[derive(Debug)]
pub(crate) struct Notifier(Option<(UnixDatagram, SocketAddr, String)>);

impl Notifier {
    /// To the socket that the environment names; to nobody if it names none.
    pub(crate) fn from_environment() -> Result<Self, ServiceError> {
        let Some(text) = std::env::var_os("NOTIFY_SOCKET") else {
            return Ok(Self(None));
        };
        let socket = text.to_string_lossy().into_owned();
        let made = address(&text).and_then(|address| Ok((UnixDatagram::unbound()?, address)));
        match made {
            Ok((from, address)) => Ok(Self(Some((from, address, socket)))),
            Err(source) => Err(ServiceError::Notify { socket, source }),
        }
    }

    /// One that tells nobody.
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    fn send(&self, message: &str) -> Result<(), ServiceError> {
        match &self.0 {
            None => Ok(()),
            Some((from, to, socket)) => {
                from.send_to_addr(message.as_bytes(), to)
                    .map(drop)
                    .map_err(|source| ServiceError::Notify {
                        socket: socket.clone(),
                        source,
                    })
            }
        }
    }

    /// The container runs.
    pub(crate) fn ready(&self, pid: i32) -> Result<(), ServiceError> {
        self.send(&format!("READY=1\nSTATUS=running, first process {pid}"))
    }

    /// It is being stopped, which may take this long.
    pub(crate) fn stopping(&self, within: Duration) -> Result<(), ServiceError> {
        self.send(&format!(
            "STOPPING=1\nSTATUS=stopping\nEXTEND_TIMEOUT_USEC={}",
            within.as_micros()
        ))
    }
}

/// The address in `NOTIFY_SOCKET`: a path, or with `@` in front an abstract name.
fn address(text: &OsStr) -> io::Result<SocketAddr> {
    match text.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(Path::new(text)),
    }
}

/// Whether a readiness message says that the container runs.
pub(crate) fn is_ready(message: &[u8]) -> bool {
    message.split(|b| *b == b'\n').any(|line| line == b"READY=1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness() {
        assert!(is_ready(b"READY=1"));
        assert!(is_ready(b"STATUS=x\nREADY=1\n"));
        assert!(!is_ready(b"READY=11"));
        assert!(!is_ready(b"STATUS=READY=1"));
        assert_eq!(unit(&"a-b_c.d".parse().unwrap()), "ctm@a-b_c.d.service");
        assert_eq!(file_of("ctm@a.b.service").file_name().unwrap(), "ctm@.service");
        assert_eq!(file_of("ctm.target").file_name().unwrap(), "ctm.target");
    }
}
