//! The programs `ip` and `tc`: which of them, where, what they are told, what they say. Owns no decision.

use super::NetworkError;
use crate::run::namespace::Network;
use serde::de::DeserializeOwned;
use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// Where programs of the system are.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The most that one of them may say of a container's network, of which its root decides what there is.
const MAX_INSIDE: u64 = 4 << 20;
/// The most that it may say of the host's, with a thousand containers and more.
const MAX_HOST: u64 = 64 << 20;

/// One of the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    Ip,
    Tc,
}

impl Tool {
    const fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Tc => "tc",
        }
    }

    fn command(self) -> Command {
        let mut command = Command::new(self.name());
        command.env_clear().env("PATH", PATH).stdin(Stdio::null());
        command
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The first of the programs that is not there.
pub(super) fn missing() -> Option<Tool> {
    let is_there = |tool: &Tool| {
        PATH.split(':')
            .any(|folder| Path::new(folder).join(tool.name()).exists())
    };
    [Tool::Ip, Tool::Tc].into_iter().find(|tool| !is_there(tool))
}

/// Runs something in a container's network, or in the host's.
fn somewhere<T: Send>(
    network: Option<&Network>,
    act: impl FnOnce() -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    match network {
        None => act(),
        Some(network) => network.within(act),
    }
}

/// What a program says in JSON, as a list.
pub(super) fn asked<T: DeserializeOwned + Send>(
    tool: Tool,
    network: Option<&Network>,
    words: &[&str],
) -> Result<Vec<T>, NetworkError> {
    let most = if network.is_some() { MAX_INSIDE } else { MAX_HOST };
    let what = || format!("{tool} -json {}", words.join(" "));
    somewhere(network, || {
        let mut child = tool
            .command()
            .arg("-json")
            .args(words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| NetworkError::Run { tool, source })?;
        let mut text = Vec::new();
        let read = child
            .stdout
            .take()
            .map_or(Ok(0), |out| out.take(most).read_to_end(&mut text));
        // Its output is closed by now; one that still has something to say ends by that.
        let output = child
            .wait_with_output()
            .and_then(|output| read.map(|_| output))
            .map_err(|source| NetworkError::Run { tool, source })?;
        if text.len() as u64 >= most {
            return Err(NetworkError::TooMuch { what: what(), most });
        }
        if !output.status.success() {
            return Err(NetworkError::Failed {
                what: what(),
                message: message(&output.stderr),
            });
        }
        if text.trim_ascii().is_empty() {
            return Ok(Vec::new());
        }
        serde_json::from_slice(&text).map_err(|source| NetworkError::Answer { what: what(), source })
    })
}

/// Has a program do these things in their order. It stops at the first that cannot be done, which is said.
pub(super) fn told(tool: Tool, network: Option<&Network>, lines: &[String]) -> Result<(), NetworkError> {
    somewhere(network, || {
        let mut child = tool
            .command()
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| NetworkError::Run { tool, source })?;
        if let Some(mut input) = child.stdin.take() {
            // That it has ended before it read all of it shows below.
            writeln!(input, "{}", lines.join("\n")).ok();
        }
        let output = child
            .wait_with_output()
            .map_err(|source| NetworkError::Run { tool, source })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(NetworkError::Failed {
            what: format!("{tool} {}", failed_line(&said, lines)),
            message: message(&output.stderr),
        })
    })
}

/// Which line it was that a program says `Command failed -:LINE` of.
fn failed_line<'l>(said: &str, lines: &'l [String]) -> &'l str {
    said.lines()
        .find_map(|line| {
            line.strip_prefix("Command failed -:")?
                .trim()
                .parse::<usize>()
                .ok()
        })
        .and_then(|at| lines.get(at.checked_sub(1)?))
        .or_else(|| lines.first())
        .map_or("", String::as_str)
}

/// What a program gives as its reason, in a line.
fn message(said: &[u8]) -> String {
    const MAX_MESSAGE: usize = 400;
    let said = String::from_utf8_lossy(said);
    let lines: Vec<_> = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("Command failed"))
        .collect();
    if lines.is_empty() {
        return "it gave no reason".into();
    }
    lines.join("; ").chars().take(MAX_MESSAGE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_and_why() {
        let lines = ["qdisc add dev x clsact".into(), "filter add dev x".into()];
        let said =
            "Error: TC classifier not found.\nWe have an error talking to the kernel\nCommand failed -:2\n";
        assert_eq!(failed_line(said, &lines), "filter add dev x");
        assert_eq!(
            failed_line("Command failed -:9", &lines),
            "qdisc add dev x clsact"
        );
        assert_eq!(failed_line("", &[]), "");
        assert_eq!(
            message(said.as_bytes()),
            "Error: TC classifier not found.; We have an error talking to the kernel"
        );
        assert_eq!(message(b"\n"), "it gave no reason");
    }
}
