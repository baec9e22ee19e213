//! Holding a container to its limits, when it starts and while it runs.
//!
//! What is written follows from the definition and the host alone ([`desired`], pure), and it is always all of it: a key that was
//! taken out is put back to the kernel's usual value by the same rule as one that was changed. The files are those of the
//! container's own cgroup, below the one that systemd keeps and writes anew. Nobody inside can write to them: with a user
//! namespace they belong to the host's root, and no process may change the limits of the root of its own cgroup namespace where
//! the hierarchy is mounted with `nsdelegate` ([`needs`](super::needs) sees to that).

mod desired;
mod inside;
mod standing;

pub(crate) use desired::{Host, oci_rlimits};
pub(crate) use inside::devpts_options;

use crate::definition::{Definition, OomScore, Weight};
use crate::host::{self, HostError};
use crate::ids::Ids;
use crate::layout::Layout;
use crate::lock::LockError;
use crate::plan::Step;
use crate::plan::validate::{NO_WEIGHTS, WEIGHTS_REMEDY};
use crate::process::ProcessId;
use crate::run::bundle;
use crate::run::cgroup::{self, Cgroup, CgroupError, Run};
use crate::run::hold::HoldError;
use crate::run::live_mount::LiveMountError;
use crate::run::state::State;
use crate::service::ServiceError;
use serde::{Deserialize, Serialize};
use standing::Standing;
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Warns of what the kernel takes and then does nothing about.
pub(crate) fn warn(definition: &Definition) {
    if definition.limits.io_weight != Weight::USUAL && !host::weighs_disks() {
        tracing::warn!(container = %definition.name, "io_weight: {NO_WEIGHTS}; {WEIGHTS_REMEDY}");
    }
}

/// A limit that cannot be set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LimitError {
    /// The kernel says no.
    #[error("{key}: cannot write `{text}` to {}: {source}; {remedy}", .file.display())]
    Refused {
        key: String,
        text: String,
        file: PathBuf,
        source: io::Error,
        remedy: &'static str,
    },
    /// The kernel has no such thing.
    #[error("{key}: this host has no {}; {remedy}", .file.display())]
    Missing {
        key: String,
        file: PathBuf,
        remedy: &'static str,
    },
    /// Not a disk.
    #[error("io_limits: {} is no block device of this host: {source}; `lsblk --paths` lists them", .device.display())]
    Device { device: PathBuf, source: io::Error },
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Hold(#[from] HoldError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("{key}: {source}")]
    Inside {
        key: &'static str,
        source: LiveMountError,
    },
    /// Something in a running container cannot be changed.
    #[error("{key}: cannot change it in the running container: {source}; {remedy}")]
    Live {
        key: &'static str,
        source: io::Error,
        remedy: &'static str,
    },
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error("the container's run has no {0} written down; this is a bug in ctm")]
    NoPlan(&'static str),
}

/// One file of a cgroup and what has to be in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Setting {
    /// The key that says so, and which part of it.
    pub(crate) key: String,
    /// The file's name.
    pub(crate) file: String,
    /// What is written.
    pub(crate) text: String,
    /// Whether the kernel begins with that: a host without this file is no fault then.
    pub(crate) usual: bool,
}

/// All that holds a container from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Held {
    /// Files of its cgroup.
    pub(crate) settings: Vec<Setting>,
    /// What the cgroups above have to say as well.
    pub(crate) standing: Standing,
    /// The largest buffers of a TCP connection, for receiving and sending; none: the host's.
    pub(crate) tcp: [Option<u64>; 2],
    /// The most instances of inotify.
    pub(crate) inotify: u64,
    /// The size of its /dev/shm.
    pub(crate) shm: u64,
    /// How soon its processes are ended.
    pub(crate) score: OomScore,
}

/// What a start has to know of the host.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// What holds the container.
    pub(crate) held: Held,
    /// Files of /proc that say what a container has.
    pub(crate) views: Vec<&'static str>,
}

impl Facts {
    /// Those that concern this definition.
    pub(crate) fn read(layout: &Layout, definition: &Definition) -> Result<Self, LimitError> {
        let mut facts = Self::of(definition, &Host::read(&definition.limits)?);
        // Where lxcfs was killed its files are still there and cannot be read: binding them would keep a container from starting.
        let is_there = |file: &&str| {
            let mut byte = [0];
            fs::File::open(layout.views.join(file))
                .and_then(|mut file| file.read(&mut byte))
                .is_ok()
        };
        facts.views = bundle::VIEWS.into_iter().filter(is_there).collect();
        Ok(facts)
    }

    /// Those of a host without lxcfs.
    pub(crate) fn of(definition: &Definition, host: &Host) -> Self {
        Self {
            held: desired::desired(&definition.limits, host),
            views: Vec::new(),
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said: Vec<_> = self
            .settings
            .iter()
            .filter(|setting| !setting.usual)
            .map(|setting| format!("{} {}", setting.file, setting.text.trim_end().replace('\n', ", ")))
            .collect();
        let tcp = ["tcp_rmem", "tcp_wmem"].into_iter().zip(self.tcp);
        said.extend(tcp.filter_map(|(file, most)| most.map(|most| format!("{file} {most}"))));
        if said.is_empty() {
            f.write_str("no limits")
        } else {
            f.write_str(&said.join(", "))
        }
    }
}

impl Held {
    /// The same for a cgroup that is new: without what the kernel begins with.
    pub(crate) fn for_new(mut self) -> Self {
        self.settings.retain(|setting| !setting.usual);
        self
    }

    /// Holds a container that is about to run.
    pub(crate) fn hold(&self, layout: &Layout, run: &Run, init: ProcessId) -> Result<(), LimitError> {
        write(&run.container(), &self.settings)?;
        self.standing.settle(layout, run)?;
        // The runtime may have written it when it had given up the capability: then the container could lower it to what ctm has.
        inside::oom_score_of_first(init, self.score)?;
        if self.tcp.iter().any(Option::is_some) {
            inside::tcp_buffers(init, self.tcp)?;
        }
        inside::inotify(init, self.inotify)
    }
}

/// Gives up what a container that is no longer had beside others.
pub(crate) fn release(layout: &Layout, run: &Run) -> Result<(), LimitError> {
    Standing::default().settle(layout, run)
}

/// Changes the limits of a running container from what one definition says to what another does. Where one of them cannot be, all are
/// as before.
pub(crate) fn change(
    layout: &Layout,
    state: &State,
    before: &Definition,
    after: &Definition,
) -> Result<(), LimitError> {
    if before.limits == after.limits {
        return Ok(());
    }
    let result = apply(layout, state, before, after);
    if result.is_err() {
        if let Err(error) = apply(layout, state, after, before) {
            tracing::warn!(container = %after.name, %error, "not all limits are back to what they were");
        }
    }
    result
}

fn apply(layout: &Layout, state: &State, before: &Definition, after: &Definition) -> Result<(), LimitError> {
    let run = run_of(state)?;
    let init = state.init.ok_or(LimitError::NoPlan("first process"))?;
    let cgroup = run.container();
    let folder = layout.run_of(&after.name);
    let processes = inside::Processes {
        folder: &folder,
        cgroup: &cgroup,
    };
    let held = desired::desired(&after.limits, &Host::read(&after.limits)?);
    write(&cgroup, &held.settings)?;
    held.standing.settle(layout, run)?;
    let (old, new) = (&before.limits, &after.limits);
    if (old.tcp_receive_buffer, old.tcp_send_buffer) != (new.tcp_receive_buffer, new.tcp_send_buffer) {
        inside::tcp_buffers(init, held.tcp)?;
    }
    if old.inotify_instances != new.inotify_instances {
        inside::inotify(init, held.inotify)?;
    }
    if old.ptys != new.ptys {
        inside::ptys(init, after.ids, new.ptys)?;
    }
    if old.shm != new.shm {
        inside::shm(init, held.shm)?;
    }
    if old.rlimits != new.rlimits {
        inside::rlimits(processes, state.supervisor, &old.rlimits, &new.rlimits)?;
    }
    if old.oom_score_adj != new.oom_score_adj {
        inside::oom_score(processes, new.oom_score_adj)?;
    }
    Ok(())
}

fn run_of(state: &State) -> Result<&Run, LimitError> {
    state
        .steps
        .iter()
        .find_map(|step| {
            if let Step::Enter { run } = step {
                Some(run)
            } else {
                None
            }
        })
        .ok_or(LimitError::NoPlan("cgroup"))
}

/// Whether nobody inside can change the limits of a container with these ids: without ids of its own its root is the host's by
/// number, and only the cgroup namespace keeps it from them.
pub(crate) fn is_out_of_reach(ids: Ids) -> bool {
    ids != Ids::Host || is_delegated_by_namespace()
}

fn is_delegated_by_namespace() -> bool {
    let options = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        (fields.next()? == cgroup::MOUNT).then_some(fields.nth(1)?.contains("nsdelegate"))
    };
    fs::read_to_string("/proc/mounts")
        .is_ok_and(|mounts| mounts.lines().any(|line| options(line) == Some(true)))
}

/// Writes files of a cgroup. Of the files of one key one is enough: which of them there are is the kernel's choice.
fn write(cgroup: &Cgroup, settings: &[Setting]) -> Result<(), LimitError> {
    let folder = cgroup.folder();
    let mut found = BTreeSet::new();
    for setting in settings {
        if !setting.usual && !folder.join(&setting.file).exists() {
            enable(&folder, controller(&setting.file));
        }
        if write_one(&folder, setting)? {
            found.insert(setting.key.as_str());
        }
    }
    match settings
        .iter()
        .find(|setting| !setting.usual && !found.contains(setting.key.as_str()))
    {
        None => Ok(()),
        Some(Setting { key, file, .. }) => Err(LimitError::Missing {
            key: key.clone(),
            file: folder.join(file),
            remedy: desired::remedy_of_missing(file),
        }),
    }
}

/// Writes one file, if there is such a file.
fn write_one(folder: &Path, setting: &Setting) -> Result<bool, LimitError> {
    let file = folder.join(&setting.file);
    let refused = |text: &str| {
        let (key, text, file) = (setting.key.clone(), text.trim_end().to_owned(), file.clone());
        let remedy = desired::remedy_of_refused(&setting.file);
        move |source| LimitError::Refused {
            key,
            text,
            file,
            source,
            remedy,
        }
    };
    // Of a file with a line for each device those that are not wanted any more are lifted first.
    let lifted = match fs::read_to_string(&file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Ok(now) if now.trim_end() == setting.text => return Ok(true),
        now => desired::lifted(&setting.file, &now.unwrap_or_default(), &setting.text),
    };
    // The kernel takes one line at a time.
    for line in lifted.lines().chain(setting.text.lines()) {
        fs::write(&file, format!("{line}\n")).map_err(refused(line))?;
    }
    Ok(true)
}

/// The controller that has a file.
fn controller(file: &str) -> &str {
    file.split('.').next().unwrap_or_default()
}

/// Has a controller handed down from the hierarchy's root to the cgroup's own files, level by level. Where that cannot be the file
/// is missing, which is said by whoever looks for it.
fn enable(folder: &Path, controller: &str) {
    let above: Vec<_> = folder
        .ancestors()
        .skip(1)
        .take_while(|above| above.starts_with(cgroup::MOUNT))
        .collect();
    for level in above.into_iter().rev() {
        if let Err(error) = fs::write(level.join("cgroup.subtree_control"), format!("+{controller}")) {
            tracing::debug!(level = %level.display(), controller, %error);
        }
    }
}
