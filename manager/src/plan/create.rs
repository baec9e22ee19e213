//! What has to be done to make a container, a base system, and to run a command in one that is being made. Pure.

use super::Step;
use crate::definition::{Definition, SHM};
use crate::ids::Ids;
use crate::layout::Layout;
use crate::make::base::Base;
use crate::make::bootstrap::Bootstrap;
use crate::make::fit::Item;
use crate::make::inside::Inside;
use crate::make::recipe::{self, Put};
use crate::run::bundle;
use crate::run::cgroup::Cgroup;
use devbroker::model::{ContainerName, InstanceId};
use oci_spec::OciSpecError;
use std::collections::BTreeSet;
use std::path::PathBuf;

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
                    spec: Box::new(bundle::spec(&once, &folder, run.container().path(), SHM)?),
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
                owned: crate::make::tree::Owned::by_root(0o644),
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
