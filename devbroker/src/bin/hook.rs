//! The udev hook, installed as `/usr/lib/devbroker/hook`: tells the daemon of one event.
//!
//! For `RUN+="/usr/lib/devbroker/hook [CONTAINER]"`: udev holds its own broadcast until such programs end, so this one sends a
//! datagram and is done; it never waits and always succeeds, daemon or not. A link to it named `NAME.dev` means container
//! NAME. For scripts, `--wait` waits until the daemon is through with the device, and fails if it is not within half a minute.

use devbroker::api::{self, Sync};
use devbroker::client::{CALL, Client};
use devbroker::host::hook::{SOCKET, encode, send};
use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::of(env::args_os());
    let properties: Vec<(OsString, OsString)> = env::vars_os().collect();
    let datagram = encode(
        arguments.container.as_deref(),
        properties
            .iter()
            .map(|(key, value)| (key.as_bytes(), value.as_bytes())),
    );
    // Nobody to tell: the daemon looks at everything when it starts, and udev is not to be told either.
    drop(send(Path::new(SOCKET), datagram.as_deref()));
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
#[derive(Debug, Default, PartialEq, Eq)]
struct Arguments {
    wait: bool,
    container: Option<Vec<u8>>,
}

impl Arguments {
    fn of(mut words: impl Iterator<Item = OsString>) -> Self {
        let program = words.next().unwrap_or_default();
        let mut found = Self {
            wait: false,
            container: Path::new(&program)
                .file_name()
                .and_then(|name| name.as_bytes().strip_suffix(b".dev"))
                .map(<[u8]>::to_vec),
        };
        for word in words {
            if word == "--wait" {
                found.wait = true;
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
        for (line, wait, container) in [
            ("/usr/lib/devbroker/hook", false, None),
            ("/usr/lib/devbroker/hook scan", false, Some("scan")),
            ("hook --wait", true, None),
            ("hook --wait pid:x", true, Some("pid:x")),
            ("/etc/udev/scan.dev", false, Some("scan")),
            ("/etc/udev/scan.dev other", false, Some("other")),
            ("scan.device", false, None),
        ] {
            let expected = Arguments {
                wait,
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
