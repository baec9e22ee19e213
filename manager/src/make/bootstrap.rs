//! Base systems out of a distribution's packages, by `mmdebstrap` or `debootstrap`. The arguments are made here, pure; the
//! programs know the rest.

use crate::make::base::BaseId;
use crate::make::work::{self, Notes, Watcher, WorkError};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootstrapError {
    #[error(
        "neither mmdebstrap nor debootstrap is installed, and one of them is needed for --distro; `apt install mmdebstrap`"
    )]
    NoTool,
    #[error("which packages {0} has is not known; name its mirror with --mirror")]
    NoMirror(Distro),
    /// The mirror is out of reach.
    #[error(
        "cannot reach the packages of {distro}: {message}; check the network, --mirror, and the proxy in `apt-config dump Acquire::http::Proxy`"
    )]
    Network { distro: Distro, message: String },
    /// There is no room.
    #[error("no room left on the disk for {}; make room, then try again", .0.display())]
    NoSpace(PathBuf),
    #[error(transparent)]
    Work(#[from] WorkError),
}

/// A distribution's release, as in `debian:bookworm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Distro {
    vendor: String,
    suite: String,
}

/// A text that names none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no distribution; as in `debian:bookworm`")]
pub(crate) struct DistroError(String);

impl FromStr for Distro {
    type Err = DistroError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_name = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_lowercase())
                && text.len() <= 64
                && text
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
        };
        match text.split_once(':') {
            Some((vendor, suite)) if is_name(vendor) && is_name(suite) => Ok(Self {
                vendor: vendor.into(),
                suite: suite.into(),
            }),
            Some(_) | None => Err(DistroError(text.chars().take(80).collect())),
        }
    }
}

impl fmt::Display for Distro {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.vendor, self.suite)
    }
}

/// Which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Tool {
    Mmdebstrap,
    Debootstrap,
}

impl Tool {
    const fn name(self) -> &'static str {
        match self {
            Self::Mmdebstrap => "mmdebstrap",
            Self::Debootstrap => "debootstrap",
        }
    }

    /// The one that is installed in one of these folders.
    pub(crate) fn installed(folders: &[PathBuf]) -> Result<Self, BootstrapError> {
        [Self::Mmdebstrap, Self::Debootstrap]
            .into_iter()
            .find(|tool| folders.iter().any(|folder| folder.join(tool.name()).exists()))
            .ok_or(BootstrapError::NoTool)
    }
}

/// All that a base is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bootstrap {
    pub(crate) tool: Tool,
    pub(crate) distro: Distro,
    pub(crate) arch: String,
    pub(crate) mirror: Option<String>,
    pub(crate) variant: Option<String>,
    pub(crate) packages: Vec<String>,
}

impl Bootstrap {
    /// Checks that its packages can be found, and brings them into the one order that its id is made from.
    pub(crate) fn settled(mut self) -> Result<Self, BootstrapError> {
        if self.distro.vendor != "debian" && self.mirror.is_none() {
            return Err(BootstrapError::NoMirror(self.distro));
        }
        // The smallest variant has no init, and a system without one does not boot.
        if self.variant.as_deref() == Some("minbase") {
            self.packages.push("init".into());
        }
        self.packages.sort();
        self.packages.dedup();
        Ok(self)
    }

    /// By what it is made from.
    pub(crate) fn id(&self) -> BaseId {
        let distro = self.distro.to_string();
        let mut parts = vec![self.tool.name(), &distro, &self.arch];
        parts.extend([&self.mirror, &self.variant].map(|part| part.as_deref().unwrap_or("")));
        parts.extend(self.packages.iter().map(String::as_str));
        BaseId::of(
            [&b"distro"[..]]
                .into_iter()
                .chain(parts.into_iter().map(str::as_bytes)),
        )
    }

    /// The same for people.
    pub(crate) fn what(&self) -> String {
        let mut what = format!("{} {}", self.distro, self.arch);
        if let Some(variant) = &self.variant {
            what = format!("{what} {variant}");
        }
        match self.packages.len() {
            0 => what,
            1..=3 => format!("{what} +{}", self.packages.join(" +")),
            more => format!("{what} +{more} packages"),
        }
    }

    /// The program's arguments.
    fn arguments(&self, to: &Path) -> Vec<String> {
        let to = to.to_string_lossy().into_owned();
        let joined = self.packages.join(",");
        let suite = self.distro.suite.clone();
        let mut arguments = match self.tool {
            Tool::Mmdebstrap => vec!["--mode=root".into(), format!("--architectures={}", self.arch)],
            Tool::Debootstrap => vec![format!("--arch={}", self.arch)],
        };
        if let Some(variant) = &self.variant {
            arguments.push(format!("--variant={variant}"));
        }
        if !joined.is_empty() {
            arguments.push(format!("--include={joined}"));
        }
        arguments.extend([suite, to]);
        arguments.extend(self.mirror.clone());
        arguments
    }

    /// Makes the new folder `to` a root file system. The program runs in namespaces of its own: what it mounts and starts
    /// ends with it, and it ends with us.
    pub(crate) fn run(
        &self,
        to: &Path,
        proxy: Option<&str>,
        watcher: &mut Watcher,
    ) -> Result<(), BootstrapError> {
        watcher
            .progress
            .begin(format!("installing {} with {}", self.distro, self.tool.name()));
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--propagation",
                "private",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--",
            ])
            .arg(self.tool.name())
            .args(self.arguments(to))
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null());
        if let Some(proxy) = proxy {
            for name in ["http_proxy", "https_proxy"] {
                if std::env::var_os(name).is_none() {
                    command.env(name, proxy);
                }
            }
        }
        work::run("util-linux", command, watcher, &mut Notes).map_err(|error| match error {
            WorkError::NoSpace { .. } => BootstrapError::NoSpace(to.into()),
            WorkError::Failed { message, .. } if is_out_of_reach(&message) => BootstrapError::Network {
                distro: self.distro.clone(),
                message,
            },
            error @ (WorkError::Run { .. }
            | WorkError::Failed { .. }
            | WorkError::Interrupted(_)
            | WorkError::Watch { .. }) => error.into(),
        })
    }
}

/// Whether a message of apt's, wget's or debootstrap's says that a mirror cannot be reached.
fn is_out_of_reach(message: &str) -> bool {
    [
        "Could not resolve",
        "Temporary failure resolving",
        "Could not connect",
        "Unable to connect",
        "Cannot initiate the connection",
        "Connection refused",
        "Connection timed out",
        "Network is unreachable",
        "Failed getting release file",
        "Failed to fetch",
        "apt-get update",
    ]
    .iter()
    .any(|words| message.contains(words))
}

/// The proxy that apt uses on this host, if it is told one (`apt.conf(5)`); `APT_CONFIG` counts.
pub(crate) fn proxy() -> Option<String> {
    let said =
        printed(Command::new("apt-config").args(["dump", "--format", "%v%n", "Acquire::http::Proxy"]))?;
    let proxy = said.lines().next()?.trim();
    (!proxy.is_empty() && proxy != "DIRECT").then(|| proxy.to_owned())
}

/// The host's architecture by Debian's name.
pub(crate) fn arch() -> String {
    printed(Command::new("dpkg").arg("--print-architecture"))
        .map(|said| said.trim().to_owned())
        .filter(|arch| !arch.is_empty())
        .unwrap_or_else(|| match std::env::consts::ARCH {
            "x86_64" => "amd64".into(),
            "aarch64" => "arm64".into(),
            "x86" => "i386".into(),
            other => other.into(),
        })
}

fn printed(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bootstrap(tool: Tool) -> Bootstrap {
        Bootstrap {
            tool,
            distro: "debian:bookworm".parse().unwrap(),
            arch: "amd64".into(),
            mirror: None,
            variant: None,
            packages: Vec::new(),
        }
    }

    #[test]
    fn distributions() {
        for bad in [
            "debian",
            "debian:",
            ":x",
            "debian:--help",
            "debian:../x",
            "Debian:x",
            "a:b:c",
            "debian:a b",
        ] {
            assert!(bad.parse::<Distro>().is_err(), "{bad}");
        }
        assert_eq!(
            "debian:trixie".parse::<Distro>().unwrap().to_string(),
            "debian:trixie"
        );
        let mut other = bootstrap(Tool::Mmdebstrap);
        other.distro = "ubuntu:noble".parse().unwrap();
        assert!(matches!(
            other.clone().settled(),
            Err(BootstrapError::NoMirror(_))
        ));
        other.mirror = Some("http://x".into());
        assert!(other.settled().is_ok());
    }

    #[test]
    fn arguments_of_both_programs() {
        let shown = |bootstrap: Bootstrap| bootstrap.settled().unwrap().arguments(Path::new("/to")).join(" ");
        assert_eq!(
            shown(bootstrap(Tool::Mmdebstrap)),
            "--mode=root --architectures=amd64 bookworm /to"
        );
        let full = |tool| Bootstrap {
            mirror: Some("http://x/debian".into()),
            variant: Some("minbase".into()),
            packages: vec!["ssh".into(), "bash".into(), "ssh".into()],
            ..bootstrap(tool)
        };
        assert_eq!(
            shown(full(Tool::Mmdebstrap)),
            "--mode=root --architectures=amd64 --variant=minbase --include=bash,init,ssh bookworm /to http://x/debian"
        );
        assert_eq!(
            shown(full(Tool::Debootstrap)),
            "--arch=amd64 --variant=minbase --include=bash,init,ssh bookworm /to http://x/debian"
        );
        assert_eq!(
            full(Tool::Debootstrap).settled().unwrap().what(),
            "debian:bookworm amd64 minbase +bash +init +ssh"
        );
    }

    #[test]
    fn the_id_is_that_of_what_it_is_made_from() {
        let id = |change: &dyn Fn(&mut Bootstrap)| {
            let mut made = bootstrap(Tool::Mmdebstrap);
            change(&mut made);
            made.settled().unwrap().id()
        };
        let plain = id(&|_| {});
        assert_eq!(
            id(&|made| made.packages = vec!["b".into(), "a".into()]),
            id(&|made| made.packages = vec!["a".into(), "b".into(), "a".into()])
        );
        for change in [
            &(|made: &mut Bootstrap| made.arch = "arm64".into()) as &dyn Fn(&mut Bootstrap),
            &|made| made.mirror = Some("a".into()),
            &|made| made.variant = Some("a".into()),
            &|made| made.packages = vec!["a".into()],
            &|made| made.tool = Tool::Debootstrap,
        ] {
            assert_ne!(id(change), plain);
        }
    }

    #[test]
    fn which_program() {
        let dir = tempfile::tempdir().unwrap();
        let folders = [dir.path().join("none"), dir.path().into()];
        assert!(matches!(Tool::installed(&folders), Err(BootstrapError::NoTool)));
        std::fs::write(dir.path().join("debootstrap"), "").unwrap();
        assert_eq!(Tool::installed(&folders).unwrap(), Tool::Debootstrap);
        std::fs::write(dir.path().join("mmdebstrap"), "").unwrap();
        assert_eq!(Tool::installed(&folders).unwrap(), Tool::Mmdebstrap);
        assert!(is_out_of_reach("E: Could not resolve 'x'"));
    }
}
