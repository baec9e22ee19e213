//! What has to be done to start a container, and to make one: data, in order; and how a host is divided among containers.
//! Pure.
//!
//! The steps are written down before the first of them is taken ([`crate::run::state`]), so that whoever comes after a
//! supervisor that was killed undoes the same steps, from the last to the first.

mod create;
pub(crate) mod split;
pub(crate) mod validate;

pub(crate) use create::{Finish, Material, Origin, base, create, inside};

use crate::definition::{Definition, DiskLimits, MountDefinition, MountSource};
use crate::ids::Ids;
use crate::layout::Layout;
use crate::make::base::Base;
use crate::make::bootstrap::Bootstrap;
use crate::make::fit::Item;
use crate::make::recipe::Put;
use crate::quota;
use crate::run::bundle;
use crate::run::cgroup::{Cgroup, Run};
use crate::run::limit::{Facts, Held};
use crate::run::network::Wanted;
use devbroker::model::InstanceId;
use oci_spec::OciSpecError;
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How long the broker may take to place what a starting container is granted.
const ANNOUNCE_LIMIT: Duration = Duration::from_secs(10);

/// One thing to do, which can be undone; undoing what was not done is no fault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Step {
    /// Move the supervisor into a cgroup of its own. Undone: out of it, and the run's cgroups are removed.
    Enter { run: Run },
    /// The administrator's hooks before a start. Undone: those after a stop.
    Hooks,
    /// A folder that the container sees and cannot write to. Undone: removed with what is in it.
    SharedFolder { path: PathBuf },
    /// The container's /dev with its standard nodes.
    Devfs { at: PathBuf, ids: Ids },
    /// What the file system lets a container's folder take.
    Quota { folder: PathBuf, limits: DiskLimits },
    /// A root file system in layers: a base below, the container's own files above, in its folder in the store. Undone:
    /// unmounted.
    Layers {
        base: PathBuf,
        folder: PathBuf,
        ids: Ids,
    },
    /// Layers are unmounted.
    Part { folder: PathBuf },
    /// A file in the container's /dev, over which crun binds its terminal. Undone with that /dev.
    ConsoleFile { path: PathBuf },
    /// The file system of a block device, mounted for the container. Undone: unmounted.
    Volume { uuid: String, at: PathBuf },
    /// The OCI bundle.
    Bundle { path: PathBuf, spec: Box<Spec> },
    /// `crun create`: namespaces, mounts, cgroup, first process waiting. Undone: `crun delete`, cgroup removed.
    Create { cgroup: Cgroup },
    /// What holds the container from outside. Undone: what was kept for it is given up.
    Limit { run: Run, held: Held },
    /// Addresses are routed to the container. Undone, also where they were changed since: nothing of them is left on the host.
    Network { wanted: Wanted },
    /// A file system is mounted in the container whose first process waits. It goes with the container.
    Mount { mount: MountDefinition, ids: Ids },
    /// The device program on the container's cgroup. Undone: the pins are removed.
    Filter { cgroup: Cgroup, dir: PathBuf },
    /// The file by which the broker knows the container.
    Register { file: PathBuf },
    /// Ask the broker to place what is granted. Undone: tell it that the container is gone.
    Announce { limit: Duration },
    /// `crun start`: the first process runs. Undone: everything in the cgroup is killed.
    Start { cgroup: Cgroup },
    /// A container's folder in the store. Undone: removed with what is in it.
    Store { path: PathBuf, ids: Ids },
    /// A folder in which a base is made. Undone: removed with what is in it.
    Draft { path: PathBuf },
    /// The finished base is in its place.
    Publish { from: PathBuf, to: PathBuf, base: Base },
    /// Unpack an archive as a root file system.
    Unpack { archive: PathBuf, to: PathBuf },
    /// Install a distribution as a root file system.
    Bootstrap { how: Bootstrap, to: PathBuf },
    /// Make a root file system fit for a container.
    Fit {
        rootfs: PathBuf,
        ids: Ids,
        items: BTreeSet<Item>,
        present_only: bool,
        hostname: String,
        domain: String,
    },
    /// Put files into a root file system.
    Put {
        rootfs: PathBuf,
        ids: Ids,
        files: Vec<Put>,
    },
    /// Run a command in the container that is being made.
    Inside {
        script: String,
        spec: Box<Spec>,
        run: Run,
        rootfs: PathBuf,
        ids: Ids,
    },
    /// Run a command on the host for the container that is being made.
    OnHost {
        script: String,
        rootfs: PathBuf,
        ids: Ids,
    },
    /// Copy a folder as a root file system.
    Copy { from: PathBuf, to: PathBuf },
    /// Give the files of a root file system from some container's ids to this one's, and remove device nodes from what came
    /// from outside.
    Own {
        rootfs: PathBuf,
        from: Ids,
        ids: Ids,
        drop_nodes: bool,
    },
    /// The definition.
    Define { path: PathBuf, text: String },
}

impl Step {
    /// The step's name, as fail points have it.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Enter { .. } => "enter",
            Self::Hooks => "hooks",
            Self::SharedFolder { .. } => "shared-folder",
            Self::Devfs { .. } => "devfs",
            Self::ConsoleFile { .. } => "console-file",
            Self::Quota { .. } => "quota",
            Self::Layers { .. } => "layers",
            Self::Part { .. } => "part",
            Self::Draft { .. } => "draft",
            Self::Publish { .. } => "publish",
            Self::Volume { .. } => "volume",
            Self::Bundle { .. } => "bundle",
            Self::Create { .. } => "create",
            Self::Limit { .. } => "limit",
            Self::Network { .. } => "network",
            Self::Mount { .. } => "mount",
            Self::Filter { .. } => "filter",
            Self::Register { .. } => "register",
            Self::Announce { .. } => "announce",
            Self::Start { .. } => "start",
            Self::Store { .. } => "store",
            Self::Unpack { .. } => "unpack",
            Self::Bootstrap { .. } => "bootstrap",
            Self::Fit { .. } => "fit",
            Self::Put { .. } => "put",
            Self::Inside { .. } => "inside",
            Self::OnHost { .. } => "on-host",
            Self::Copy { .. } => "copy",
            Self::Own { .. } => "own",
            Self::Define { .. } => "define",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enter { run } => write!(f, "enter cgroup {}", run.supervisor().path().display()),
            Self::Hooks => f.write_str("run the pre-start hooks"),
            Self::Quota { folder, limits } if limits.is_none() => {
                write!(f, "lift limits of the disk from {}", folder.display())
            }
            Self::Quota { folder, limits } => write!(f, "limit {}: {limits}", folder.display()),
            Self::Layers { base, folder, .. } => {
                write!(
                    f,
                    "mount {} over {}",
                    folder.join("rootfs").display(),
                    base.display()
                )
            }
            Self::Part { folder } => write!(f, "unmount {}", folder.join("rootfs").display()),
            Self::Publish { to, .. } => write!(f, "keep it as {}", to.display()),
            Self::SharedFolder { path } | Self::Store { path, .. } | Self::Draft { path } => {
                write!(f, "make {}", path.display())
            }
            Self::Devfs { at, .. } => write!(f, "mount the container's /dev on {}", at.display()),
            Self::ConsoleFile { path } => write!(f, "make the file {}", path.display()),
            Self::Volume { uuid, at } => write!(f, "mount the file system {uuid} on {}", at.display()),
            Self::Bundle { path, .. } => write!(f, "write {}", path.join("config.json").display()),
            Self::Create { cgroup } => write!(f, "crun create in cgroup {}", cgroup.path().display()),
            Self::Limit { held, .. } => write!(f, "hold it to {held}"),
            Self::Network { wanted } => write!(f, "{wanted}"),
            Self::Mount { mount, .. } => write!(f, "mount {} in the container", mount.target.display()),
            Self::Filter { dir, .. } => write!(f, "attach the device program, pinned in {}", dir.display()),
            Self::Register { file } => write!(f, "write {}", file.display()),
            Self::Announce { limit } => write!(f, "tell the broker, wait at most {} s", limit.as_secs()),
            Self::Start { .. } => f.write_str("crun start"),
            Self::Unpack { archive, to } => write!(f, "unpack {} to {}", archive.display(), to.display()),
            Self::Bootstrap { how, to } => write!(f, "install {} to {}", how.what(), to.display()),
            Self::Fit { rootfs, items, .. } => {
                let names = Item::ALL.iter().filter(|(item, _)| items.contains(item));
                let names: Vec<_> = names.map(|(_, name)| *name).collect();
                write!(f, "fit {}: {}", rootfs.display(), names.join(", "))
            }
            Self::Put { files, .. } => {
                let paths: Vec<_> = files.iter().map(|put| put.path.display().to_string()).collect();
                write!(f, "put {}", paths.join(", "))
            }
            Self::Inside { script, .. } => write!(f, "run inside: {script}"),
            Self::OnHost { script, .. } => write!(f, "run on the host: {script}"),
            Self::Copy { from, to } => write!(f, "copy {} to {}", from.display(), to.display()),
            Self::Own { rootfs, ids, .. } => match ids {
                Ids::Host => write!(f, "look through {}", rootfs.display()),
                Ids::Block(block) => write!(f, "give {} to ids {block}", rootfs.display()),
            },
            Self::Define { path, .. } => write!(f, "write {}", path.display()),
        }
    }
}

/// The steps from a stopped container to a running one. The folder of the run is there already: it holds this plan.
pub(crate) fn start(
    definition: &Definition,
    layout: &Layout,
    run: &Run,
    instance: &InstanceId,
    host: Facts,
) -> Result<Vec<Step>, OciSpecError> {
    let folder = layout.run_of(&definition.name);
    let cgroup = run.container();
    let mut spec = bundle::spec(definition, &folder, cgroup.path(), host.held.shm)?;
    bundle::seen_through(&mut spec, &layout.views, &host.views)?;
    if definition.reaper {
        bundle::reaped(&mut spec, &layout.reaper)?;
    }
    let mut steps = vec![
        Step::Enter { run: run.clone() },
        Step::Hooks,
        Step::SharedFolder { path: folder.udev() },
        Step::Devfs {
            at: folder.devfs(),
            ids: definition.ids,
        },
        Step::Quota {
            folder: quota::folder_of(layout, definition),
            limits: definition.disk.clone(),
        },
    ];
    if let Some(base) = &definition.base {
        steps.push(Step::Layers {
            base: layout.base_rootfs(base),
            folder: layout.stored(&definition.name),
            ids: definition.ids,
        });
    }
    if definition.console {
        steps.push(Step::ConsoleFile {
            path: folder.devfs().join("dev/console"),
        });
    }
    // Twice the same one is one volume, bound twice.
    let volumes: BTreeSet<_> = definition
        .mounts
        .iter()
        .filter_map(|mount| match &mount.source {
            MountSource::Uuid(uuid) => Some(uuid),
            MountSource::Bind(_) | MountSource::Tmpfs(_) => None,
        })
        .collect();
    steps.extend(volumes.into_iter().map(|uuid| Step::Volume {
        uuid: uuid.clone(),
        at: folder.volume(uuid),
    }));
    steps.extend([
        Step::Bundle {
            path: folder.bundle(),
            spec: Box::new(spec),
        },
        Step::Create {
            cgroup: cgroup.clone(),
        },
        Step::Limit {
            run: run.clone(),
            held: host.held.for_new(),
        },
        Step::Network {
            wanted: Wanted::of(definition),
        },
    ]);
    // crun would cut off from the host what it binds, also what is to follow it, and older ones leave restrictions out.
    steps.extend(definition.mounts.iter().map(|mount| Step::Mount {
        mount: mount.clone(),
        ids: definition.ids,
    }));
    steps.extend([
        Step::Filter {
            cgroup: cgroup.clone(),
            dir: layout.filter(instance),
        },
        Step::Register {
            file: layout.registration(&definition.name),
        },
        Step::Announce {
            limit: ANNOUNCE_LIMIT,
        },
        Step::Start { cgroup },
    ]);
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::limit::Host;

    fn shown(steps: &[Step]) -> Vec<String> {
        steps.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_start() {
        let layout = Layout::default();
        let mut definition = Definition::new("scan".parse().unwrap(), Ids::Host, &layout);
        let mount = |target: &str, follow| MountDefinition {
            source: MountSource::Bind("/srv".into()),
            target: target.into(),
            read_only: false,
            follow,
            own_ids: false,
        };
        definition.mounts = vec![
            mount("/first", false),
            mount("/srv", true),
            mount("/srv/a", false),
        ];
        definition.addresses = vec!["192.0.2.10".parse().unwrap(), "2001:db8::10".parse().unwrap()];
        let own = Cgroup::parse("0::/user.slice").unwrap();
        let run = Cgroup::of_run(&definition.name, &own);
        let facts = Facts::of(&definition, &Host::default());
        let steps = start(&definition, &layout, &run, &InstanceId::from_bits(1), facts).unwrap();
        assert_eq!(
            shown(&steps),
            [
                "enter cgroup /ctm/scan/supervisor",
                "run the pre-start hooks",
                "make /run/ctm/scan/udev",
                "mount the container's /dev on /run/ctm/scan/devfs",
                "lift limits of the disk from /var/lib/ctm/scan",
                "write /run/ctm/scan/bundle/config.json",
                "crun create in cgroup /ctm/scan/container",
                "hold it to no limits",
                "route 192.0.2.10, 2001:db8::10 to it by ctm-scan",
                "mount /first in the container",
                "mount /srv in the container",
                "mount /srv/a in the container",
                "attach the device program, pinned in /sys/fs/bpf/devbroker/0000000000000001",
                "write /run/devbroker/containers/ctm:scan.json",
                "tell the broker, wait at most 10 s",
                "crun start",
            ]
        );
        let text = serde_json::to_string(&steps).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Step>>(&text).unwrap(), steps);
    }
}
