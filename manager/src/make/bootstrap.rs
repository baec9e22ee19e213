//! Base systems out of a distribution's packages, by `mmdebstrap` or `debootstrap`. The arguments are made here, pure; the
//! programs know the rest.

use crate::ids::Ids;
use crate::make::archives::{ARCHIVES, Archives};
use crate::make::base::BaseId;
use crate::make::mirror::{Mirror, MirrorError};
use crate::make::tree::{Owned, Tree, TreeError};
use crate::make::work::{self, Notes, Watcher, WorkError};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::str::FromStr;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootstrapError {
    #[error(
        "neither mmdebstrap nor debootstrap is installed, and one of them is needed for --distro; `apt install mmdebstrap`"
    )]
    NoTool,
    #[error("cannot make room for packages that are fetched: {0}")]
    Archives(io::Error),
    #[error("which packages {0} has is not known; name its mirror with --mirror")]
    NoMirror(Distro),
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// Nobody whose key is known signed them.
    #[error(
        "cannot tell whether the packages of {distro} are genuine: {message}; install the distribution's keyring (debian-archive-keyring), or say of a mirror of your own what its key is or that it is trusted: --mirror \"deb [signed-by=FILE] URL {suite} main\" or \"deb [trusted=yes] ...\"", suite = .distro.suite
    )]
    Unsigned { distro: Distro, message: String },
    /// The mirror is out of reach.
    #[error(
        "cannot reach the packages of {distro}: {message}; check the network, --mirror, and the proxy in `apt-config dump Acquire::http::Proxy`"
    )]
    Network { distro: Distro, message: String },
    /// There is no room.
    #[error("no room left on the disk for {}; make room, then try again", .0.display())]
    NoSpace(PathBuf),
    #[error(transparent)]
    Tree(#[from] TreeError),
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
    pub(super) const fn name(self) -> &'static str {
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
        self.arguments(Path::new("/"))?;
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
    fn arguments(&self, to: &Path) -> Result<Vec<String>, MirrorError> {
        let to = to.to_string_lossy().into_owned();
        let joined = self.packages.join(",");
        let suite = self.distro.suite.clone();
        let (mut arguments, mirror) = match self.tool {
            Tool::Mmdebstrap => (
                vec!["--mode=root".into(), format!("--architectures={}", self.arch)],
                self.mirror.clone(),
            ),
            Tool::Debootstrap => {
                let Mirror { mut options, url } = Mirror::of(self.mirror.as_deref(), &suite)?;
                options.insert(0, format!("--arch={}", self.arch));
                (options, url)
            }
        };
        if let Some(variant) = &self.variant {
            arguments.push(format!("--variant={variant}"));
        }
        if !joined.is_empty() {
            arguments.push(format!("--include={joined}"));
        }
        arguments.extend([suite, to]);
        arguments.extend(mirror);
        Ok(arguments)
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
        command.args([
            "--mount",
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--",
        ]);
        let archives = Archives::beside(to).map_err(BootstrapError::Archives)?;
        match &archives {
            Some(archives) => archives.given(&mut command, self.tool),
            None => {
                command.arg(self.tool.name());
            }
        }
        command
            .args(self.arguments(to)?)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null());
        if let Some(proxy) = proxy {
            for name in ["http_proxy", "https_proxy"] {
                if std::env::var_os(name).is_none() {
                    command.env(name, proxy);
                }
            }
        }
        let done = work::run("util-linux", command, watcher, &mut Notes);
        if let Some(archives) = archives {
            archives.forget().map_err(BootstrapError::Archives)?;
        }
        match done {
            Ok(()) => self.tidied(to),
            Err(WorkError::NoSpace { .. }) => Err(BootstrapError::NoSpace(to.into())),
            Err(WorkError::Failed { status, message, .. }) => Err(self.failed(to, status, message)),
            Err(error @ (WorkError::Run { .. } | WorkError::Interrupted(_) | WorkError::Watch { .. })) => {
                Err(error.into())
            }
        }
    }

    /// Why it failed, by what it said, and what debootstrap wrote into its log, where all is that its programs say.
    fn failed(&self, to: &Path, status: ExitStatus, said: String) -> BootstrapError {
        let mut logged = last_lines(&to.join(LOG)).unwrap_or_default();
        // Where there is none it is not in the log either.
        if is_full(to) || logged.iter().any(|line| line.contains("No space left on device")) {
            return BootstrapError::NoSpace(to.into());
        }
        logged.drain(..logged.len().saturating_sub(LOG_LINES));
        let distro = self.distro.clone();
        if is_unsigned(&said) {
            return BootstrapError::Unsigned {
                distro,
                message: said,
            };
        }
        if is_out_of_reach(&said) {
            return BootstrapError::Network {
                distro,
                message: said,
            };
        }
        let is_reason = said.starts_with("E:");
        let message = match (logged.is_empty(), is_reason) {
            (true, _) => said,
            (false, true) => format!("{said}; {}", logged.join("; ")),
            (false, false) => logged.join("; "),
        };
        let program = self.tool.name().into();
        WorkError::Failed {
            program,
            status,
            message,
        }
        .into()
    }

    /// Does what mmdebstrap does by itself: takes the packages away that were installed, and has apt inside know as much of the
    /// mirror as it was said.
    fn tidied(&self, to: &Path) -> Result<(), BootstrapError> {
        if self.tool == Tool::Mmdebstrap {
            return Ok(());
        }
        let tree = Tree::open(to, Ids::Host)?;
        let archives = Path::new(ARCHIVES);
        for path in tree.names(archives).into_iter().map(|name| archives.join(name)) {
            if path.extension().is_some_and(|kind| kind == "deb") {
                tree.remove(&path)?;
            }
        }
        if let Some(line) = self.mirror.as_ref().filter(|text| text.starts_with("deb ")) {
            tree.write(
                Path::new("/etc/apt/sources.list"),
                format!("{line}\n").as_bytes(),
                Owned::by_root(0o644),
            )?;
        }
        Ok(())
    }
}

/// Where debootstrap keeps what its programs say.
const LOG: &str = "debootstrap/debootstrap.log";
/// So many bytes are no room for anything.
const NEXT_TO_NOTHING: u64 = 64 << 10;
/// As much of a log's end as is read, and as is shown.
const LOG_BYTES: u64 = 4096;
const LOG_LINES: usize = 3;

/// Whether next to nothing can be written there.
fn is_full(folder: &Path) -> bool {
    rustix::fs::statvfs(folder).is_ok_and(|found| {
        found.f_bfree.saturating_mul(found.f_frsize) < NEXT_TO_NOTHING
            || (found.f_files > 0 && found.f_ffree == 0)
    })
}

/// The last lines of a file.
fn last_lines(path: &Path) -> io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.map(String::from).collect())
}

/// Whether a message of apt's or debootstrap's says that nobody known has signed what a mirror has.
fn is_unsigned(message: &str) -> bool {
    [
        "is not signed",
        "NO_PUBKEY",
        "Failed getting release signature file",
        "Keyring-based check was requested",
        "Release signed by unknown key",
        "Invalid Release signature",
        "Error executing gpgv",
    ]
    .iter()
    .any(|words| message.contains(words))
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
        "Couldn't download",
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
        let shown = |bootstrap: Bootstrap| {
            bootstrap
                .settled()
                .unwrap()
                .arguments(Path::new("/to"))
                .unwrap()
                .join(" ")
        };
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
            "--arch=amd64 --force-check-gpg --variant=minbase --include=bash,init,ssh bookworm /to http://x/debian"
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
        assert!(is_unsigned(
            "E: The repository 'file:/x trixie Release' is not signed."
        ));
        let log = dir.path().join("log");
        std::fs::write(&log, format!("{}a\n\n b\nc\nd", "x".repeat(5000))).unwrap();
        assert_eq!(last_lines(&log).unwrap()[1..], ["b", "c", "d"]);
        assert!(!is_full(dir.path()));
    }
}
