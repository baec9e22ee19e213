//! File systems that a definition mounts below a container's root.

use super::value::{Fault, Value, absolute, boolean, string, table};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use toml_edit::InlineTable;

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MountSource {
    /// A folder or file of the host's.
    Bind(PathBuf),
    /// A new tmpfs of this size (`tmpfs(5)`, `size=`).
    Tmpfs(String),
    /// The file system with this UUID.
    Uuid(String),
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MountDefinition {
    /// What.
    pub(crate) source: MountSource,
    /// Where inside.
    pub(crate) target: PathBuf,
    /// Whether nothing in it can be changed from inside.
    pub(crate) read_only: bool,
    /// Whether mounts that the host makes below a bound folder later appear inside (`mount_namespaces(7)`, slave).
    pub(crate) follow: bool,
    /// Whether the files' ids are taken as the container's own: the host's root's are its root's. Otherwise a container with
    /// a user namespace sees those of the host's users as nobody's.
    pub(crate) own_ids: bool,
}

const HELP: &str = "as in `{ bind = \"/srv/scans\", target = \"/srv/scans\", read_only = true }`, or with `tmpfs = \"64M\"` or `uuid = \"UUID\"` \
                    instead of `bind`";

/// Places that ctm mounts itself, which nothing may hide.
const OURS: [&str; 4] = ["/dev", "/proc", "/sys", "/run/udev"];

pub(super) fn read(value: &Value<'_>) -> Result<MountDefinition, Fault> {
    let table = table(
        value,
        &["bind", "tmpfs", "uuid", "target", "read_only", "follow", "ids"],
        HELP,
    )?;
    let sources: Vec<_> = ["bind", "tmpfs", "uuid"]
        .into_iter()
        .filter_map(|key| table.get(key).map(|value| (key, value)))
        .collect();
    let source = match sources.as_slice() {
        [("bind", path)] => MountSource::Bind(absolute(path, "what is bound")?),
        [("tmpfs", size)] => MountSource::Tmpfs(tmpfs_size(size)?),
        [(_, uuid)] => MountSource::Uuid(file_system(uuid)?),
        [] => return Err(Fault::of(value, "what is mounted must be said").help(HELP)),
        _ => return Err(Fault::of(value, "a mount has one of `bind`, `tmpfs` and `uuid`").help(HELP)),
    };
    let at = table
        .get("target")
        .ok_or_else(|| Fault::of(value, "`target` is missing").help(HELP))?;
    let target = absolute(at, "the target")?;
    if let Some(ours) = OURS.iter().find(|ours| target.starts_with(ours)) {
        return Err(
            Fault::of(at, format!("{ours} is mounted by ctm, nothing can be put there"))
                .help("devices are granted with `devbroker attach`"),
        );
    }
    let flag = |key: &str| table.get(key).map_or(Ok(false), boolean);
    let follow = flag("follow")?;
    if follow && !matches!(source, MountSource::Bind(_)) {
        return Err(Fault::of(value, "`follow` is for `bind` alone").help(HELP));
    }
    let own_ids = match table.get("ids").map(string).transpose()? {
        None | Some("host") => false,
        Some("container") => true,
        Some(_) => return Err(Fault::of(value, "`ids` is \"host\" or \"container\"").help(HELP)),
    };
    if own_ids && (follow || matches!(source, MountSource::Tmpfs(_))) {
        return Err(
            Fault::of(value, "`ids` is for `bind` and `uuid`, without `follow`")
                .help("mounts that come later would have the host's ids; a tmpfs has the container's"),
        );
    }
    Ok(MountDefinition {
        source,
        target,
        read_only: flag("read_only")?,
        follow,
        own_ids,
    })
}

/// A size as the kernel reads it: digits and at most one of k, m, g or %.
fn tmpfs_size(value: &Value<'_>) -> Result<String, Fault> {
    let text = string(value)?;
    let digits = text.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G', '%']);
    let fits = text.len() - digits.len() <= 1
        && (1..=12).contains(&digits.len())
        && digits.bytes().all(|b| b.is_ascii_digit());
    if fits {
        Ok(text.into())
    } else {
        Err(Fault::of(value, format!("`{text}` is no size")).help("as in `tmpfs = \"64M\"` or `\"10%\"`"))
    }
}

/// The UUID of a file system as udev has it in /dev/disk/by-uuid.
fn file_system(value: &Value<'_>) -> Result<String, Fault> {
    let text = string(value)?;
    let fits = (4..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if fits {
        Ok(text.into())
    } else {
        Err(Fault::of(value, format!("`{text}` is no UUID"))
            .help("`ls /dev/disk/by-uuid` shows those that there are"))
    }
}

impl MountDefinition {
    /// As a definition has it.
    pub(crate) fn to_toml(&self) -> InlineTable {
        let mut table = InlineTable::new();
        let (key, value) = match &self.source {
            MountSource::Bind(path) => ("bind", path.to_string_lossy().into_owned()),
            MountSource::Tmpfs(size) => ("tmpfs", size.clone()),
            MountSource::Uuid(uuid) => ("uuid", uuid.clone()),
        };
        table.insert(key, value.into());
        table.insert("target", self.target.to_string_lossy().into_owned().into());
        for (key, set) in [("read_only", self.read_only), ("follow", self.follow)] {
            if set {
                table.insert(key, true.into());
            }
        }
        if self.own_ids {
            table.insert("ids", "container".into());
        }
        table
    }
}
