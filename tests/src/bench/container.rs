//! Containers as ctm makes and registers them, around a small process of ours.

use super::inside::now;
use super::lines::Talker;
use super::place::Bare;
use super::place::OWNER;
use anyhow::{Context, Result, ensure};
use devbroker::access::{DEFAULT_SEED, Numbers, SeedRule};
use devbroker::host::access::DeviceFilter;
use devbroker::host::cgroup::Hierarchy;
use devbroker::host::devfs::{Devfs, Limits};
use devbroker::host::process;
use devbroker::model::{Access, ContainerRef, DevKind, IdMap, IdRange, InstanceId, Registration};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The first of the host's ids of a container with its own users.
const BASE: u32 = 100_000;

/// Where everything of one run lies: a folder that udev's programs see, in it a tmpfs that only we and our children see,
/// and a cgroup.
#[derive(Debug)]
pub(super) struct Ground {
    shared: PathBuf,
    cgroup: String,
    cgroups: PathBuf,
    hierarchy: Hierarchy,
}

impl Ground {
    /// Makes it, in a mount namespace of our own.
    pub(super) fn new() -> Result<Self> {
        let shared = PathBuf::from(format!("/run/devbroker-bench-{}", std::process::id()));
        let private = shared.join("private");
        fs::create_dir_all(&private).with_context(|| format!("make {}", private.display()))?;
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make mounts private")?;
        mount(
            Some("bench"),
            &private,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("mode=0700"),
        )
        .context("mount a tmpfs")?;
        let bpf = private.join("bpf");
        fs::create_dir(&bpf).context("make a folder")?;
        mount(Some("bpf"), &bpf, Some("bpf"), MsFlags::empty(), none).context("mount a bpffs")?;
        let hierarchy = if let Ok(hierarchy) = Hierarchy::find() {
            hierarchy
        } else {
            let at = private.join("cgroup");
            fs::create_dir(&at).context("make a folder")?;
            let flags = MsFlags::empty();
            mount(Some("cgroup2"), &at, Some("cgroup2"), flags, none).context("mount cgroup v2")?;
            Hierarchy::find()?
        };
        let cgroup = format!("/devbroker-bench-{}", std::process::id());
        let cgroups = hierarchy.folder(&cgroup);
        fs::create_dir(&cgroups).with_context(|| format!("make {}", cgroups.display()))?;
        Ok(Self {
            shared,
            cgroup,
            cgroups,
            hierarchy,
        })
    }

    /// A folder that udev's programs see.
    pub(super) fn shared(&self) -> &Path {
        &self.shared
    }

    /// A folder on the tmpfs.
    pub(super) fn private(&self, name: &str) -> PathBuf {
        self.shared.join("private").join(name)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // All processes in them have been waited for; the mounts go with our namespace.
        for entry in fs::read_dir(&self.cgroups).into_iter().flatten().flatten() {
            fs::remove_dir(entry.path()).ok();
        }
        fs::remove_dir(&self.cgroups).ok();
        nix::mount::umount2(&self.shared.join("private"), nix::mount::MntFlags::MNT_DETACH).ok();
        fs::remove_dir_all(&self.shared).ok();
    }
}

/// A process in a cgroup of its own.
#[derive(Debug)]
enum First {
    Prober(Talker),
    /// One that only is there.
    Idle(Child),
}

/// One container.
#[derive(Debug)]
pub(super) struct Container {
    registration: Registration,
    own_users: bool,
    first: First,
}

/// What its filter lets through from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Open {
    /// The standard devices, as ctm has it.
    Standard,
    /// All block devices as well: what a script would have opened by itself.
    AllBlock,
}

impl Container {
    /// One with a prober in its namespaces.
    pub(super) fn with_prober(ground: &Ground, name: &str, own_users: bool, seed: Open) -> Result<Self> {
        let dev = ground.private(name).join("devfs/dev");
        let users = if own_users { "own-users" } else { "host-users" };
        let prober = Talker::start(&["prober", &dev.to_string_lossy(), users])?;
        let mut this = Self::around(ground, name, own_users, seed, First::Prober(prober))?;
        let prober = this.prober()?;
        let mut said = prober.ask("go")?;
        if own_users {
            ensure!(said == "map", "the prober said `{said}`");
            let pid = prober.pid();
            for map in ["uid_map", "gid_map"] {
                fs::write(format!("/proc/{pid}/{map}"), format!("0 {BASE} 65536"))
                    .with_context(|| format!("write {map}"))?;
            }
            said = prober.ask("mapped")?;
        }
        ensure!(said == "ready", "the prober said `{said}`");
        Ok(this)
    }

    /// One in which nothing happens. It ends when `input` does.
    pub(super) fn idle(ground: &Ground, name: &str, own_users: bool, input: Stdio) -> Result<Self> {
        let child = Command::new("cat").stdin(input).spawn().context("start `cat`")?;
        Self::around(ground, name, own_users, Open::Standard, First::Idle(child))
    }

    fn around(ground: &Ground, name: &str, own_users: bool, seed: Open, first: First) -> Result<Self> {
        let pid = match &first {
            First::Prober(prober) => prober.pid(),
            First::Idle(child) => i32::try_from(child.id())?,
        };
        let cgroup = format!("{}/{name}", ground.cgroup);
        let folder = ground.hierarchy.folder(&cgroup);
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        fs::write(folder.join("cgroup.procs"), pid.to_string()).context("enter a cgroup")?;
        let filter = ground.private("bpf").join(name);
        let mut rules = DEFAULT_SEED.to_vec();
        if seed == Open::AllBlock {
            rules.push(SeedRule {
                kind: DevKind::Block,
                numbers: Numbers::All,
                access: Access::ALL,
            });
        }
        DeviceFilter::create(
            File::open(&folder).context("open a cgroup")?.as_fd(),
            &filter,
            &rules,
        )?;
        let own = ground.private(name);
        fs::create_dir(&own).with_context(|| format!("make {}", own.display()))?;
        let ids = if own_users {
            IdMap::new(vec![IdRange {
                inside: 0,
                outside: BASE,
                count: 65_536,
            }])
        } else {
            IdMap::identity()
        };
        let devfs = Devfs::create(&own.join("devfs"), Limits::default(), &ids, &ids)?;
        devfs.standard_nodes()?;
        let container: ContainerRef = format!("ctm:{name}").parse()?;
        Ok(Self {
            registration: Registration {
                container,
                owner: 0,
                instance: InstanceId::from_bits(now() ^ (u64::from(pid.unsigned_abs()) << 40)),
                pid,
                pid_start: process::started(pid)?,
                uid_map: ids.clone(),
                gid_map: ids,
                devfs_dev: devfs.st_dev(),
                devfs: devfs.at().into(),
                bound_at: None,
                rootfs: None,
                cgroup: cgroup.into(),
                filter,
            },
            own_users,
            first,
        })
    }

    pub(super) fn prober(&mut self) -> Result<&mut Talker> {
        match &mut self.first {
            First::Prober(prober) => Ok(prober),
            First::Idle(_) => anyhow::bail!("an idle container has no prober"),
        }
    }

    pub(super) const fn registration(&self) -> &Registration {
        &self.registration
    }

    /// The host's id of who gets nodes in it.
    pub(super) const fn owner(&self) -> u32 {
        if self.own_users { BASE + OWNER } else { OWNER }
    }

    /// The bare calls on it.
    pub(super) fn bare(&self) -> Result<Bare> {
        Bare::open(&self.registration.devfs, &self.registration.filter, self.owner())
    }

    /// Writes the file by which a daemon adopts it.
    pub(super) fn register(&self, folder: &Path) -> Result<()> {
        let path = folder.join(format!("{}.json", self.registration.container));
        let bytes = serde_json::to_vec(&self.registration).context("a registration")?;
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        match &mut self.first {
            First::Prober(_) => {}
            First::Idle(child) => {
                child.kill().ok();
                child.wait().ok();
            }
        }
    }
}
