//! What has to be done to start a container, and to make one: data, in order. Pure.
//!
//! The steps are written down before the first of them is taken ([`crate::state`]), so that whoever comes after a
//! supervisor that was killed undoes the same steps, from the last to the first.

use crate::base::Base;
use crate::bootstrap::Bootstrap;
use crate::bundle;
use crate::cgroup::{Cgroup, Run};
use crate::definition::{Definition, MountSource};
use crate::fit::Item;
use crate::ids::Ids;
use crate::inside::Inside;
use crate::layout::Layout;
use crate::recipe::{self, Put};
use devbroker::model::{ContainerName, InstanceId};
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
            Self::Layers { .. } => "layers",
            Self::Part { .. } => "part",
            Self::Draft { .. } => "draft",
            Self::Publish { .. } => "publish",
            Self::Volume { .. } => "volume",
            Self::Bundle { .. } => "bundle",
            Self::Create { .. } => "create",
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
) -> Result<Vec<Step>, OciSpecError> {
    let folder = layout.run_of(&definition.name);
    let cgroup = run.container();
    let spec = bundle::spec(definition, &folder, cgroup.path())?;
    let mut steps = vec![
        Step::Enter { run: run.clone() },
        Step::Hooks,
        Step::SharedFolder { path: folder.udev() },
        Step::Devfs {
            at: folder.devfs(),
            ids: definition.ids,
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

/// Where a new container's root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The base that its definition names.
    Base,
    /// A tar archive.
    Archive(PathBuf),
    /// A folder that is copied, with the ids that its files have.
    Copied { from: PathBuf, ids: Ids },
    /// A folder that becomes the container's as it is.
    InPlace(PathBuf),
    /// What another container, with these ids, changed in the base that both have.
    Changes { from: PathBuf, ids: Ids },
    /// The layers of another container as one folder: its folder in the store, its base.
    Flattened {
        folder: PathBuf,
        base: PathBuf,
        ids: Ids,
    },
}

/// What is done to a new root file system.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Finish {
    /// What is made fit; with `present_only` as far as it is there.
    pub(crate) items: BTreeSet<Item>,
    pub(crate) present_only: bool,
    /// Files that are put.
    pub(crate) files: Vec<Put>,
    /// Commands that are run.
    pub(crate) runs: Vec<recipe::Run>,
}

/// The steps that make a container; `text` is its definition's.
pub(crate) fn create(
    definition: &Definition,
    origin: &Origin,
    finish: &Finish,
    text: String,
    layout: &Layout,
) -> Result<Vec<Step>, OciSpecError> {
    let (ids, to) = (definition.ids, definition.rootfs.clone());
    let folder = layout.stored(&definition.name);
    let store = Step::Store {
        path: folder.clone(),
        ids,
    };
    let copy = |from: &PathBuf, to: &PathBuf| Step::Copy {
        from: from.clone(),
        to: to.clone(),
    };
    let own = |rootfs: &PathBuf, from, drop_nodes| Step::Own {
        rootfs: rootfs.clone(),
        from,
        ids,
        drop_nodes,
    };
    let mut steps = match origin {
        Origin::Base => vec![store],
        Origin::Archive(archive) => vec![
            store,
            Step::Unpack {
                archive: archive.clone(),
                to: to.clone(),
            },
            own(&to, Ids::Host, true),
        ],
        Origin::Copied { from, ids } => vec![store, copy(from, &to), own(&to, *ids, true)],
        Origin::InPlace(_) => match ids {
            Ids::Host => Vec::new(),
            Ids::Block(_) => vec![own(&to, Ids::Host, false)],
        },
        // Nodes stay: a removed file of the base is one (`overlayfs`, whiteouts).
        Origin::Changes { from, ids } => {
            let upper = folder.join("upper");
            vec![store, copy(from, &upper), own(&upper, *ids, false)]
        }
        Origin::Flattened {
            folder: other,
            base,
            ids,
        } => vec![
            store,
            Step::Layers {
                base: base.clone(),
                folder: other.clone(),
                ids: *ids,
            },
            copy(&other.join("rootfs"), &to),
            Step::Part {
                folder: other.clone(),
            },
            own(&to, *ids, true),
        ],
    };
    if let Some(base) = &definition.base {
        steps.push(Step::Layers {
            base: layout.base_rootfs(base),
            folder: folder.clone(),
            ids,
        });
    }
    steps.extend(finishing(definition, finish, layout)?);
    steps.push(Step::Define {
        path: layout.definition(&definition.name),
        text,
    });
    if definition.base.is_some() {
        steps.push(Step::Part { folder });
    }
    Ok(steps)
}

fn finishing(definition: &Definition, finish: &Finish, layout: &Layout) -> Result<Vec<Step>, OciSpecError> {
    let (rootfs, ids) = (&definition.rootfs, definition.ids);
    let mut steps = Vec::new();
    if !finish.items.is_empty() {
        steps.push(Step::Fit {
            rootfs: rootfs.clone(),
            ids,
            items: finish.items.clone(),
            present_only: finish.present_only,
            hostname: definition.hostname.clone(),
            domain: definition.domain.clone(),
        });
    }
    if !finish.files.is_empty() {
        steps.push(Step::Put {
            rootfs: rootfs.clone(),
            ids,
            files: finish.files.clone(),
        });
    }
    let run = Cgroup::beside_systemd(&definition.name);
    for command in &finish.runs {
        steps.push(match command {
            recipe::Run::Host(script) => Step::OnHost {
                script: script.clone(),
                rootfs: rootfs.clone(),
                ids,
            },
            recipe::Run::Inside(script) => {
                let once = Definition {
                    init: vec!["/bin/sh".into(), "-c".into(), script.clone()],
                    mounts: Vec::new(),
                    ..definition.clone()
                };
                let folder = layout.run_of(&definition.name);
                Step::Inside {
                    script: script.clone(),
                    spec: Box::new(bundle::spec(&once, &folder, run.container().path())?),
                    run: run.clone(),
                    rootfs: rootfs.clone(),
                    ids,
                }
            }
        });
    }
    Ok(steps)
}

/// The steps of one command in a container that is being made.
pub(crate) fn inside(
    layout: &Layout,
    name: &ContainerName,
    inside: &Inside<'_>,
    instance: &InstanceId,
) -> Vec<Step> {
    let folder = layout.run_of(name);
    let cgroup = inside.run.container();
    vec![
        Step::Enter {
            run: inside.run.clone(),
        },
        Step::SharedFolder { path: folder.udev() },
        Step::Devfs {
            at: folder.devfs(),
            ids: inside.ids,
        },
        Step::Bundle {
            path: folder.bundle(),
            spec: Box::new(inside.spec.clone()),
        },
        Step::Create {
            cgroup: cgroup.clone(),
        },
        Step::Filter {
            cgroup: cgroup.clone(),
            dir: layout.filter(instance),
        },
        Step::Start { cgroup },
    ]
}

/// What a base system is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Material {
    /// A tar archive.
    Archive(PathBuf),
    /// A distribution.
    Bootstrap(Bootstrap),
}

/// The steps that make a base system.
pub(crate) fn base(base: &Base, material: &Material, layout: &Layout) -> Vec<Step> {
    let draft = layout.new_base(&base.id);
    let rootfs = draft.join("rootfs");
    vec![
        Step::Draft { path: draft.clone() },
        match material {
            Material::Archive(archive) => Step::Unpack {
                archive: archive.clone(),
                to: rootfs.clone(),
            },
            Material::Bootstrap(how) => Step::Bootstrap {
                how: how.clone(),
                to: rootfs.clone(),
            },
        },
        Step::Own {
            rootfs,
            from: Ids::Host,
            ids: Ids::Host,
            drop_nodes: true,
        },
        Step::Publish {
            from: draft,
            to: layout.base(&base.id),
            base: base.clone(),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::IdBlock;

    fn made(definition: &Definition, origin: &Origin, layout: &Layout) -> Vec<Step> {
        create(definition, origin, &Finish::default(), String::new(), layout).unwrap()
    }

    fn shown(steps: &[Step]) -> Vec<String> {
        steps.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_start() {
        let layout = Layout::default();
        let definition = Definition::new("scan".parse().unwrap(), Ids::Host, &layout);
        let own = Cgroup::parse("0::/user.slice").unwrap();
        let run = Cgroup::of_run(&definition.name, &own);
        let steps = start(&definition, &layout, &run, &InstanceId::from_bits(1)).unwrap();
        assert_eq!(
            shown(&steps),
            [
                "enter cgroup /ctm/scan/supervisor",
                "run the pre-start hooks",
                "make /run/ctm/scan/udev",
                "mount the container's /dev on /run/ctm/scan/devfs",
                "write /run/ctm/scan/bundle/config.json",
                "crun create in cgroup /ctm/scan/container",
                "attach the device program, pinned in /sys/fs/bpf/devbroker/0000000000000001",
                "write /run/devbroker/containers/ctm:scan.json",
                "tell the broker, wait at most 10 s",
                "crun start",
            ]
        );
        let text = serde_json::to_string(&steps).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Step>>(&text).unwrap(), steps);
    }

    #[test]
    fn a_creation() {
        let layout = Layout::default();
        let ids = Ids::Block(IdBlock {
            first: 1_000_000,
            count: 65_536,
        });
        let mut definition = Definition::new("scan".parse().unwrap(), ids, &layout);
        assert_eq!(
            shown(&made(&definition, &Origin::Archive("/a.tar".into()), &layout)),
            [
                "make /var/lib/ctm/scan",
                "unpack /a.tar to /var/lib/ctm/scan/rootfs",
                "give /var/lib/ctm/scan/rootfs to ids 1000000..1065536",
                "write /etc/ctm/containers/scan.toml",
            ]
        );
        definition.base = Some("0123456789abcdef".parse().unwrap());
        let changes = Origin::Changes {
            from: "/var/lib/ctm/a/upper".into(),
            ids: Ids::Host,
        };
        assert_eq!(
            shown(&made(&definition, &changes, &layout)),
            [
                "make /var/lib/ctm/scan",
                "copy /var/lib/ctm/a/upper to /var/lib/ctm/scan/upper",
                "give /var/lib/ctm/scan/upper to ids 1000000..1065536",
                "mount /var/lib/ctm/scan/rootfs over /var/lib/ctm/.bases/0123456789abcdef/rootfs",
                "write /etc/ctm/containers/scan.toml",
                "unmount /var/lib/ctm/scan/rootfs",
            ]
        );
        definition.base = None;
        definition.rootfs = "/srv/x".into();
        assert_eq!(
            shown(&made(&definition, &Origin::InPlace("/srv/x".into()), &layout)),
            [
                "give /srv/x to ids 1000000..1065536",
                "write /etc/ctm/containers/scan.toml"
            ]
        );
        definition.ids = Ids::Host;
        assert_eq!(
            shown(&made(&definition, &Origin::InPlace("/srv/x".into()), &layout)),
            ["write /etc/ctm/containers/scan.toml"]
        );
    }
    #[test]
    fn what_a_recipe_wants() {
        let layout = Layout::default();
        let definition = Definition::new("scan".parse().unwrap(), Ids::Host, &layout);
        let finish = Finish {
            items: [Item::Mtab, Item::Hosts].into(),
            present_only: false,
            files: vec![Put {
                path: "/etc/motd".into(),
                content: recipe::Content::Text("x".into()),
                owned: crate::tree::Owned::by_root(0o644),
            }],
            runs: vec![recipe::Run::Inside("a".into()), recipe::Run::Host("b".into())],
        };
        let steps = create(
            &definition,
            &Origin::InPlace("/srv/x".into()),
            &finish,
            String::new(),
            &layout,
        )
        .unwrap();
        assert_eq!(
            shown(&steps),
            [
                "fit /var/lib/ctm/scan/rootfs: mtab, hosts",
                "put /etc/motd",
                "run inside: a",
                "run on the host: b",
                "write /etc/ctm/containers/scan.toml",
            ]
        );
    }
}
