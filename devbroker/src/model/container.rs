//! Containers: how they are named, and what is known of a running one.

use super::IdMap;
use super::name::{NameError, check, serde_as_str};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Who runs a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Engine {
    /// Our own manager.
    Ctm,
    /// None that we know of: the container was named by a process.
    Pid,
}

impl Engine {
    /// Its name in configuration, as in `ctm:scan`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ctm => "ctm",
            Self::Pid => "pid",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Engine {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ctm" => Ok(Self::Ctm),
            "pid" => Ok(Self::Pid),
            _ => Err(NameError {
                what: "engine",
                text: text.chars().take(80).collect(),
                rule: "known are ctm and pid",
            }),
        }
    }
}

serde_as_str!(Engine);

/// A container's name within its engine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerName(String);

impl ContainerName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check(
            "container name",
            text,
            64,
            b"-_.",
            "use 1 to 64 letters, digits, `-`, `_` and `.`, beginning with a letter or digit",
        )?;
        Ok(Self(text.into()))
    }
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_str!(ContainerName);

/// Engine and name: `ctm:scan`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerRef {
    /// The engine.
    pub engine: Engine,
    /// The name.
    pub name: ContainerName,
}

impl FromStr for ContainerRef {
    type Err = NameError;

    /// `engine:name`; a name alone is one of ctm's.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (engine, name) = text.split_once(':').unwrap_or(("ctm", text));
        Ok(Self {
            engine: engine.parse()?,
            name: name.parse()?,
        })
    }
}

impl fmt::Display for ContainerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.engine, self.name)
    }
}

serde_as_str!(ContainerRef);

/// A container as a grant names it: `ctm:scan`, or with `*` and `?` as `ctm:lab-*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerPattern {
    engine: Engine,
    glob: String,
}

impl ContainerPattern {
    /// Whether the pattern names one container exactly.
    pub fn is_exact(&self) -> bool {
        !self.glob.contains(['*', '?'])
    }

    /// Whether the pattern names `container`.
    pub fn matches(&self, container: &ContainerRef) -> bool {
        self.engine == container.engine && glob(self.glob.as_bytes(), container.name.as_str().as_bytes())
    }
}

/// `*` is any run of bytes, `?` is one byte. Linear in the text for each star: the last star alone is retried.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry = None;
    while let Some(byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                retry = Some((p, t));
            }
            Some(want) if *want == b'?' || want == byte => {
                p += 1;
                t += 1;
            }
            Some(_) | None => match retry {
                Some((after_star, from)) => {
                    p = after_star;
                    t = from + 1;
                    retry = Some((after_star, t));
                }
                None => return false,
            },
        }
    }
    pattern
        .get(p..)
        .is_some_and(|rest| rest.iter().all(|b| *b == b'*'))
}

impl FromStr for ContainerPattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "write engine:name, as in `ctm:scan`; the name may hold `*` and `?`";
        let error = || NameError {
            what: "container",
            text: text.chars().take(80).collect(),
            rule: RULE,
        };
        let (engine, glob) = text.split_once(':').ok_or_else(error)?;
        let engine = engine.parse()?;
        let fits = (1..=64).contains(&glob.len())
            && glob
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.*?".contains(&b));
        if fits {
            Ok(Self {
                engine,
                glob: glob.into(),
            })
        } else {
            Err(error())
        }
    }
}

impl fmt::Display for ContainerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.engine, self.glob)
    }
}

serde_as_str!(ContainerPattern);

/// One run of a container, chosen at random by who started it: 16 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(String);

impl InstanceId {
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id made of these random bits.
    pub fn from_bits(bits: u64) -> Self {
        Self(format!("{bits:016x}"))
    }
}

impl FromStr for InstanceId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(text.into()))
        } else {
            Err(NameError {
                what: "container instance",
                text: text.chars().take(80).collect(),
                rule: "it has 16 lower-case hexadecimal digits",
            })
        }
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_str!(InstanceId);

/// What stays of a container from one run to the next: a name alone is no authority, so the owner belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerKey {
    /// Engine and name.
    pub container: ContainerRef,
    /// The host's uid of who owns it; 0 for ctm's.
    pub owner: u32,
}

/// What whoever starts a container tells the broker about it, as a file
/// `/run/devbroker/containers/<engine>:<name>.json` that only root can write. It is complete: the broker adopts a container
/// from this file alone, whether it was up when the container started or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// Engine and name.
    pub container: ContainerRef,
    /// The host's uid of who owns it.
    pub owner: u32,
    /// Which run.
    pub instance: InstanceId,
    /// The container's first process, in the host's pid namespace.
    pub pid: i32,
    /// When it began: field 22 of `/proc/PID/stat`, in clock ticks since boot. Pid and start time name one process.
    pub pid_start: u64,
    /// Its user ids.
    pub uid_map: IdMap,
    /// Its group ids.
    pub gid_map: IdMap,
    /// Root of the tmpfs that the host owns for it, holding `stage/` and `dev/`; `dev/` is what the container sees.
    pub devfs: PathBuf,
    /// `st_dev` of that tmpfs: after an unmount the path leads elsewhere, and nothing may be placed there.
    pub devfs_dev: u64,
    /// Where `dev/` is bound inside, relative to the container's `/dev`: absent where it *is* `/dev` (ctm's own), else the
    /// folder that links in the container's own `/dev` lead to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_at: Option<BoundAt>,
    /// The root file system as the host sees it, for `etc/passwd` and `etc/group`; absent where only the container sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<PathBuf>,
    /// Its cgroup, below the cgroup v2 mount, beginning with `/`.
    pub cgroup: PathBuf,
    /// The folder in bpffs that holds its pinned `map` and program links.
    pub filter: PathBuf,
}

/// The folder `.devbroker` in a foreign container's `/dev`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BoundAt {
    /// `/dev/.devbroker`.
    #[serde(rename = ".devbroker")]
    DotDevbroker,
}

impl Registration {
    /// The key under which permissions are remembered.
    pub fn key(&self) -> ContainerKey {
        ContainerKey {
            container: self.container.clone(),
            owner: self.owner,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, yes) in [
            ("ctm:scan", "ctm:scan", true),
            ("ctm:scan", "ctm:scanner", false),
            ("ctm:scan", "pid:scan", false),
            ("ctm:*", "ctm:scan", true),
            ("ctm:lab-*-x", "ctm:lab-a-b-x", true),
            ("ctm:lab-*-x", "ctm:lab-a-b-y", false),
            ("ctm:l?b", "ctm:lab", true),
            ("ctm:l?b", "ctm:lb", false),
            ("ctm:*a*a*a*b", "ctm:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            let pattern: ContainerPattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(&name.parse().unwrap()), yes, "{pattern} {name}");
        }
        for bad in ["scan", "ctm:", "vm:scan", "ctm:a/b", ""] {
            assert!(bad.parse::<ContainerPattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names() {
        assert_eq!("scan".parse::<ContainerRef>().unwrap().to_string(), "ctm:scan");
        for bad in ["", "-a", "a/b", "a:b:c", "ctm:", "..", "ctm:.x"] {
            assert!(bad.parse::<ContainerRef>().is_err(), "{bad}");
        }
        assert_eq!(InstanceId::from_bits(0xab).as_str(), "00000000000000ab");
        assert!("00000000000000AB".parse::<InstanceId>().is_err());
    }
}
