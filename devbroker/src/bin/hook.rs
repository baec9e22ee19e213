//! The udev hook, installed as `/usr/lib/devbroker/hook`: tells the daemon of one event.
//!
//! For `RUN+="/usr/lib/devbroker/hook [CONTAINER]"`: udev holds its own broadcast until such programs end, so this one sends a
//! datagram and is done; it never waits and always succeeds, daemon or not. A link to it named `NAME.dev` means container
//! NAME. `--socket PATH` tells a daemon that listens elsewhere. For scripts, `--wait` waits until the daemon is through with the device, and fails if it is not within half a minute.

use devbroker::api::{self, Sync};
use devbroker::client::{CALL, Client};
use devbroker::host::hook::{SOCKET, encode, send};
use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::of(env::args_os());
    // By hand, without an event, there is only something to wait for.
    if env::var_os("ACTION").is_some() {
        tell(&arguments);
    }
    if !arguments.wait {
        return ExitCode::SUCCESS;
    }
    match wait() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(io::stderr(), "hook: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Sends the environment, which is udev's properties.
fn tell(arguments: &Arguments) {
    let properties: Vec<(OsString, OsString)> = env::vars_os().collect();
    let datagram = encode(
        arguments.container.as_deref(),
        properties
            .iter()
            .map(|(key, value)| (key.as_bytes(), value.as_bytes())),
    );
    // Nobody to tell: the daemon looks at everything when it starts, and udev is not to be told either.
    drop(send(&arguments.socket, datagram.as_deref()));
}

/// Waits until the daemon is through with the device in the environment, or without one with all it knows.
fn wait() -> Result<(), Box<dyn std::error::Error>> {
    let syspath = match env::var("DEVPATH") {
        Ok(devpath) => Some(devpath.parse()?),
        Err(_) => None,
    };
    let seqnum = env::var("SEQNUM").ok().and_then(|number| number.parse().ok());
    Client::connect(Path::new(api::SOCKET), CALL)?.call(&Sync { syspath, seqnum })?;
    Ok(())
}

/// What the command line says.
#[derive(Debug, PartialEq, Eq)]
struct Arguments {
    wait: bool,
    socket: PathBuf,
    container: Option<Vec<u8>>,
}

impl Arguments {
    fn of(mut words: impl Iterator<Item = OsString>) -> Self {
        let program = words.next().unwrap_or_default();
        let mut found = Self {
            wait: false,
            socket: SOCKET.into(),
            container: Path::new(&program)
                .file_name()
                .and_then(|name| name.as_bytes().strip_suffix(b".dev"))
                .map(<[u8]>::to_vec),
        };
        while let Some(word) = words.next() {
            if word == "--wait" {
                found.wait = true;
            } else if word == "--socket" {
                found.socket = words.next().unwrap_or_default().into();
            } else {
                found.container = Some(word.into_vec());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_by_argument_or_by_the_programs_name() {
        for (line, wait, socket, container) in [
            ("/usr/lib/devbroker/hook", false, SOCKET, None),
            ("/usr/lib/devbroker/hook scan", false, SOCKET, Some("scan")),
            ("hook --wait", true, SOCKET, None),
            ("hook --wait pid:x", true, SOCKET, Some("pid:x")),
            ("/etc/udev/scan.dev", false, SOCKET, Some("scan")),
            ("/etc/udev/scan.dev other", false, SOCKET, Some("other")),
            ("scan.device", false, SOCKET, None),
            ("hook --socket /run/x scan", false, "/run/x", Some("scan")),
            ("hook --socket", false, "", None),
        ] {
            let expected = Arguments {
                wait,
                socket: socket.into(),
                container: container.map(|name| name.as_bytes().to_vec()),
            };
            assert_eq!(
                Arguments::of(line.split(' ').map(OsString::from)),
                expected,
                "{line}"
            );
        }
    }
}
