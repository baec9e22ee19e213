//! Where everything lies. Owns the names of ctm's folders and files and nothing else.

use crate::make::base::{self, BaseId};
use devbroker::model::{ContainerName, InstanceId};
use std::path::{Path, PathBuf};

/// The folders ctm works in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Definitions, one `NAME.toml` for each container.
    pub(crate) definitions: PathBuf,
    /// What many definitions have in common, one `PROFILE.toml` each.
    pub(crate) profiles: PathBuf,
    /// The administrator's programs at turns of a container's life.
    pub(crate) hooks: PathBuf,
    /// Root file systems, `NAME/rootfs`.
    pub(crate) store: PathBuf,
    /// Run state, lost at reboot; 0700.
    pub(crate) run: PathBuf,
    /// What the broker reads to adopt containers.
    pub(crate) registrations: PathBuf,
    /// Pinned device filters, one folder for each run.
    pub(crate) filters: PathBuf,
    /// What the broker remembers of permissions.
    pub(crate) permissions: PathBuf,
    /// The first process of containers whose program is no init.
    pub(crate) reaper: PathBuf,
    /// Where lxcfs has files of /proc that say what a container has.
    pub(crate) views: PathBuf,
    /// Whether these are files of a system that does not run here: nothing is told to kernel, disk or systemd.
    pub(crate) offline: bool,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            definitions: "/etc/ctm/containers".into(),
            profiles: "/etc/ctm/profiles".into(),
            hooks: "/etc/ctm/hooks.d".into(),
            store: "/var/lib/ctm".into(),
            run: "/run/ctm".into(),
            registrations: "/run/devbroker/containers".into(),
            filters: "/sys/fs/bpf/devbroker".into(),
            permissions: "/var/lib/devbroker/permissions".into(),
            reaper: "/usr/lib/ctm/init".into(),
            views: "/var/lib/lxcfs/proc".into(),
            offline: false,
        }
    }
}

impl Layout {
    /// The same for a program that is installed as `program`: what belongs to it may be below another prefix.
    pub(crate) fn installed(self, program: &Path) -> Self {
        let beside = program.parent().and_then(Path::parent);
        let reaper = beside.map(|prefix| prefix.join("lib/ctm/init"));
        Self {
            reaper: reaper.filter(|path| path.is_file()).unwrap_or(self.reaper),
            ..self
        }
    }

    /// The same of a system whose root folder is `root`.
    pub(crate) fn below(&self, root: &Path) -> Self {
        let at = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
        Self {
            definitions: at(&self.definitions),
            profiles: at(&self.profiles),
            hooks: at(&self.hooks),
            store: at(&self.store),
            run: at(&self.run),
            registrations: at(&self.registrations),
            filters: at(&self.filters),
            permissions: at(&self.permissions),
            reaper: at(&self.reaper),
            views: at(&self.views),
            offline: true,
        }
    }

    /// A container's definition.
    pub(crate) fn definition(&self, name: &ContainerName) -> PathBuf {
        self.definitions.join(format!("{name}.toml"))
    }

    /// A profile.
    pub(crate) fn profile(&self, name: &ContainerName) -> PathBuf {
        self.profiles.join(format!("{name}.toml"))
    }

    /// The hooks of a container at one turn: that of all containers, then its own. A turn has no dot in its name.
    pub(crate) fn hooks_of(&self, name: &ContainerName, turn: &str) -> [PathBuf; 2] {
        [self.hooks.join(turn), self.hooks.join(format!("{name}.{turn}"))]
    }

    /// There once the container's first start is through. A container's name cannot begin with a dot.
    pub(crate) fn booted(&self, name: &ContainerName) -> PathBuf {
        self.store.join(".booted").join(name.as_str())
    }

    /// What ctm keeps of a container on disk.
    pub(crate) fn stored(&self, name: &ContainerName) -> PathBuf {
        self.store.join(name.as_str())
    }

    /// Its root file system, unless the definition names another.
    pub(crate) fn rootfs(&self, name: &ContainerName) -> PathBuf {
        self.stored(name).join("rootfs")
    }

    /// Base systems, which containers share.
    pub(crate) fn bases(&self) -> PathBuf {
        self.store.join(".bases")
    }

    /// One of them.
    pub(crate) fn base(&self, id: &BaseId) -> PathBuf {
        self.bases().join(id.as_str())
    }

    /// Its root file system.
    pub(crate) fn base_rootfs(&self, id: &BaseId) -> PathBuf {
        self.base(id).join("rootfs")
    }

    /// Where it is made.
    pub(crate) fn new_base(&self, id: &BaseId) -> PathBuf {
        self.bases().join(base::new_name(id))
    }

    /// What belongs to the container's present run.
    pub(crate) fn run_of(&self, name: &ContainerName) -> RunFolder {
        RunFolder(self.run.join(name.as_str()))
    }

    /// crun's own state. A container's name cannot begin with a dot.
    pub(crate) fn crun(&self) -> PathBuf {
        self.run.join(".crun")
    }

    /// Locks and the errors of failed starts.
    pub(crate) fn beside(&self, folder: &str, name: &ContainerName) -> PathBuf {
        self.run.join(folder).join(name.as_str())
    }

    /// The broker's file for a container.
    pub(crate) fn registration(&self, name: &ContainerName) -> PathBuf {
        self.registrations.join(format!("ctm:{name}.json"))
    }

    /// The pins of one run's device filter.
    pub(crate) fn filter(&self, instance: &InstanceId) -> PathBuf {
        self.filters.join(instance.as_str())
    }
}

/// The folder of one container's run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunFolder(pub(crate) PathBuf);

impl RunFolder {
    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The plan and how far it has come.
    pub(crate) fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }

    /// Where the container's /dev is mounted.
    pub(crate) fn devfs(&self) -> PathBuf {
        self.0.join("devfs")
    }

    /// What the container sees as /run/udev.
    pub(crate) fn udev(&self) -> PathBuf {
        self.0.join("udev")
    }

    /// Where the host mounts the file system of a block device that the container gets.
    pub(crate) fn volume(&self, uuid: &str) -> PathBuf {
        self.0.join("volumes").join(uuid)
    }

    /// The OCI bundle.
    pub(crate) fn bundle(&self) -> PathBuf {
        self.0.join("bundle")
    }

    /// Which addresses the container may have.
    pub(crate) fn network(&self) -> PathBuf {
        self.0.join("network.json")
    }

    /// Where crun writes the first process' id.
    pub(crate) fn pid_file(&self) -> PathBuf {
        self.0.join("pid")
    }

    /// How many seconds the container has for shutting down, where that was said; that it is there says that its end is
    /// wanted.
    pub(crate) fn stop_within(&self) -> PathBuf {
        self.0.join("stop-within")
    }

    /// Who holds the container still for a moment.
    pub(crate) fn held(&self) -> PathBuf {
        self.0.join("held.json")
    }

    /// Where crun writes its errors.
    pub(crate) fn crun_log(&self) -> PathBuf {
        self.0.join("crun.log")
    }

    /// Where crun sends the container's terminal.
    pub(crate) fn terminal(&self) -> PathBuf {
        self.0.join("terminal")
    }

    /// Where those who look at the console come.
    pub(crate) fn attach(&self) -> PathBuf {
        self.0.join("attach")
    }
}
