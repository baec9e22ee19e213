//! Executes and undoes the steps of [`crate::plan`]: the only `match` on [`Step`] that acts.

use crate::broker::{self, RegistrationError};
use crate::ids::Ids;
use crate::layout::Layout;
use crate::make::base::Base;
use crate::make::bootstrap::{self, BootstrapError};
use crate::make::furnish::{self, Called};
use crate::make::inside::{self, Inside, InsideError};
use crate::make::ownership::{self, Changed, OwnershipError};
use crate::make::store::{self, StoreError};
use crate::make::tree::TreeError;
use crate::make::work::{self, Interrupted, Notes, Watcher, WorkError};
use crate::plan::Step;
use crate::process::ProcessId;
use crate::quota::{self, Activity, QuotaError};
use crate::run::cgroup::{self, CgroupError};
use crate::run::crun::{Crun, CrunError, Output};
use crate::run::hooks::{HookError, Hooks, Turn};
use crate::run::limit::{self, LimitError};
use crate::run::live_mount::{LiveMountError, Made};
use crate::run::network::{self, NetworkError};
use crate::run::overlay::{self, OverlayError};
use crate::run::volume::{self, VolumeError};
use crate::{atomic, fail_point};
use devbroker::access::DEFAULT_SEED;
use devbroker::host::access::{DeviceFilter, FilterError};
use devbroker::host::devfs::{Devfs, DevfsError, Limits};
use devbroker::model::{ContainerName, InstanceId, Registration};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long processes may take to go away after SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(20);
/// How long the broker may take to take note of a container's end, which includes a last look at its nodes.
const WITHDRAW_LIMIT: Duration = Duration::from_secs(5);

/// What can go wrong with a step.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    /// A file operation failed.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Crun(#[from] CrunError),
    #[error(transparent)]
    Devfs(#[from] DevfsError),
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error(transparent)]
    Registration(#[from] RegistrationError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Inside(#[from] InsideError),
    #[error("the recipe's command on the host failed: {0}")]
    OnHost(#[source] WorkError),
    #[error("cannot mount {} in the container: {source}", .target.display())]
    Mount { target: PathBuf, source: LiveMountError },
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Ownership(#[from] OwnershipError),
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    #[error(transparent)]
    Quota(#[from] QuotaError),
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// Steps in an order that cannot be.
    #[error("{0} is not known yet; this is a bug in ctm")]
    Order(&'static str),
    /// The first process is gone already.
    #[error("the container's first process ended before it was started; `crun` left its reason in {}", .0.display())]
    Gone(PathBuf),
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StepError + use<'a> {
    move |source| StepError::Io {
        what,
        path: path.into(),
        source,
    }
}

fn first_line(script: &str) -> &str {
    script.lines().next().unwrap_or_default()
}

/// Takes and undoes steps for one container, and keeps what one step learns and another needs.
#[derive(Debug)]
pub(crate) struct Runner<'a> {
    layout: &'a Layout,
    name: &'a ContainerName,
    run: Option<Running>,
    devfs: Option<(PathBuf, u64, Ids)>,
    filter: Option<(PathBuf, PathBuf)>,
    init: Option<ProcessId>,
    given: Changed,
    watcher: Watcher,
}

/// What a run needs that a creation does not.
#[derive(Debug)]
pub(crate) struct Running {
    /// Which run.
    pub(crate) instance: InstanceId,
    /// The container's root file system.
    pub(crate) rootfs: PathBuf,
    /// Its standard output and error.
    pub(crate) output: Output,
}

impl<'a> Runner<'a> {
    pub(crate) fn new(layout: &'a Layout, name: &'a ContainerName, run: Option<Running>) -> Self {
        Self {
            layout,
            name,
            run,
            devfs: None,
            filter: None,
            init: None,
            given: Changed::default(),
            watcher: Watcher::none(),
        }
    }

    /// A runner whose steps are watched and can be interrupted.
    pub(crate) fn watched(layout: &'a Layout, name: &'a ContainerName, watcher: Watcher) -> Self {
        Self {
            watcher,
            ..Self::new(layout, name, None)
        }
    }

    /// The container's first process, once [`Step::Create`] was taken.
    pub(crate) fn init(&self) -> Option<ProcessId> {
        self.init
    }

    fn running(&self) -> Result<&Running, StepError> {
        self.run.as_ref().ok_or(StepError::Order("the run"))
    }

    /// Takes a step.
    pub(crate) fn take(&mut self, step: &Step) -> Result<(), StepError> {
        tracing::debug!(container = %self.name, step = %step);
        self.watcher.check()?;
        match step {
            Step::Enter { run } => {
                cgroup::require_unified()?;
                run.supervisor().create()?;
                run.supervisor().enter()?;
            }
            Step::Hooks => Hooks::new(self.layout, self.name).run(Turn::PreStart, None, None)?,
            Step::SharedFolder { path } => atomic::folder(path, 0o755).map_err(io_error("make", path))?,
            Step::Devfs { at, ids } => {
                let map = ids.map();
                let devfs = Devfs::create(at, Limits::default(), &map, &map)?;
                devfs.standard_nodes()?;
                self.devfs = Some((at.clone(), devfs.st_dev(), *ids));
            }
            Step::Quota { folder, limits } => {
                quota::apply(self.layout, self.name, folder, limits, Activity::Stopped)?;
            }
            Step::Layers { base, folder, ids } => overlay::mount(base, folder, *ids)?,
            Step::Part { folder } => overlay::unmount(folder)?,
            Step::ConsoleFile { path } => {
                fs::File::create_new(path).map_err(io_error("make", path))?;
            }
            Step::Volume { uuid, at } => volume::mount(uuid, at)?,
            Step::Bundle { path, spec } => {
                atomic::folder(path, 0o700).map_err(io_error("make", path))?;
                let file = path.join("config.json");
                let bytes = serde_json::to_vec(spec)
                    .map_err(io::Error::other)
                    .map_err(io_error("write", &file))?;
                atomic::write(&file, &bytes, 0o600).map_err(io_error("write", &file))?;
            }
            Step::Mount { mount, ids } => {
                let init = self.init.ok_or(StepError::Order("the first process"))?;
                let folder = self.layout.run_of(self.name);
                Made::of(&folder, mount, *ids, init)
                    .and_then(|made| made.attach(init, *ids, &mount.target))
                    .map_err(|source| StepError::Mount {
                        target: mount.target.clone(),
                        source,
                    })?;
            }
            Step::Create { cgroup } => {
                let pid = Crun::new(self.layout, self.name).create(&self.running()?.output)?;
                let log = self.layout.run_of(self.name).crun_log();
                self.init = Some(ProcessId::now(pid).map_err(|_| StepError::Gone(log))?);
                cgroup.bound()?;
            }
            Step::Limit { run, held } => {
                let init = self.init.ok_or(StepError::Order("the first process"))?;
                held.hold(self.layout, run, init)?;
            }
            Step::Network { wanted } => {
                let init = self.init.ok_or(StepError::Order("the first process"))?;
                network::apply(self.layout, wanted, init)?;
            }
            Step::Filter { cgroup, dir } => {
                let mut done = |step| fail_point::reached("filter", &format!("{step:?}"));
                DeviceFilter::create_observed(cgroup.open()?.as_fd(), dir, DEFAULT_SEED, &mut done)?;
                self.filter = Some((cgroup.path().into(), dir.clone()));
            }
            Step::Register { file } => broker::register(file, &self.registration()?)?,
            Step::Announce { limit } => {
                // A broker that is down or slow is no reason not to start: the container is closed, and the broker adopts
                // it when it comes.
                if let Err(error) = broker::announce(self.name, *limit) {
                    tracing::warn!(container = %self.name, %error, "starting without granted devices");
                }
            }
            Step::Start { .. } => Crun::new(self.layout, self.name).start()?,
            Step::Store { path, ids } => store::make(self.layout, path, *ids)?,
            Step::Unpack { archive, to } => store::unpack(archive, to, &mut self.watcher)?,
            Step::Copy { from, to } => store::copy(from, to, &mut self.watcher)?,
            Step::Draft { path } => store::draft(path)?,
            Step::Publish { from, to, base } => {
                let base = Base {
                    bytes: self.given.bytes,
                    beyond: self.given.beyond.clone().map(|(path, id)| {
                        let within = path
                            .strip_prefix(from.join("rootfs"))
                            .map(|path| Path::new("/").join(path));
                        (within.unwrap_or(path), id)
                    }),
                    ..base.clone()
                };
                let file = from.join("base.json");
                let bytes = serde_json::to_vec_pretty(&base)
                    .map_err(io::Error::other)
                    .map_err(io_error("write", &file))?;
                atomic::write(&file, &bytes, 0o600).map_err(io_error("write", &file))?;
                store::publish(from, to)?;
            }
            Step::Bootstrap { how, to } => how.run(to, bootstrap::proxy().as_deref(), &mut self.watcher)?,
            Step::Fit {
                rootfs,
                ids,
                items,
                present_only,
                hostname,
                domain,
            } => furnish::fit(rootfs, *ids, items, *present_only, Called { hostname, domain })?,
            Step::Put { rootfs, ids, files } => furnish::put(rootfs, *ids, files)?,
            Step::Inside {
                script,
                spec,
                run,
                rootfs,
                ids,
            } => {
                self.watcher
                    .progress
                    .begin(format!("running {}", first_line(script)));
                let inside = Inside {
                    script,
                    spec,
                    run,
                    rootfs,
                    ids: *ids,
                };
                inside::run(self.layout, self.name, &inside, &mut self.watcher)?;
            }
            Step::OnHost { script, rootfs, ids } => self.on_host(script, rootfs, *ids)?,
            Step::Own {
                rootfs,
                from,
                ids,
                drop_nodes,
            } => {
                if self.watcher.progress.is_shown() {
                    self.watcher
                        .progress
                        .begin(format!("looking through {}", rootfs.display()));
                }
                self.given = ownership::give(rootfs, *from, *ids, *drop_nodes)?;
                tracing::debug!(owned = self.given.owned, nodes_removed = self.given.nodes);
            }
            Step::Define { path, text } => {
                if let Some(folder) = path.parent() {
                    fs::create_dir_all(folder).map_err(io_error("make", folder))?;
                }
                // Who finds the definition finds the files as well, also after a power cut.
                let stored = self.layout.stored(self.name);
                if stored.exists() {
                    store::flush(&stored)?;
                }
                atomic::write_new(path, text.as_bytes(), 0o644).map_err(io_error("write", path))?;
            }
        }
        fail_point::reached("after", step.name());
        Ok(())
    }

    /// Runs a recipe's command on the host, which is told which container it is for.
    fn on_host(&mut self, script: &str, rootfs: &Path, ids: Ids) -> Result<(), StepError> {
        self.watcher
            .progress
            .begin(format!("running {} on the host", first_line(script)));
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", script])
            .current_dir("/")
            .env("CTM_NAME", self.name.as_str())
            .env("CTM_ROOTFS", rootfs)
            .stdin(Stdio::null());
        if let Ids::Block(block) = ids {
            command.env("CTM_FIRST_ID", block.first.to_string());
        }
        work::run("dash", command, &mut self.watcher, &mut Notes).map_err(|error| match error {
            WorkError::Interrupted(interrupted) => interrupted.into(),
            WorkError::Run { .. }
            | WorkError::Failed { .. }
            | WorkError::NoSpace { .. }
            | WorkError::Watch { .. } => StepError::OnHost(error),
        })
    }

    fn registration(&self) -> Result<Registration, StepError> {
        let running = self.running()?;
        let init = self.init.ok_or(StepError::Order("the first process"))?;
        let (devfs, devfs_dev, ids) = self.devfs.clone().ok_or(StepError::Order("the devfs"))?;
        let (cgroup, filter) = self.filter.clone().ok_or(StepError::Order("the filter"))?;
        Ok(Registration {
            container: broker::reference(self.name),
            owner: 0,
            instance: running.instance.clone(),
            pid: init.pid,
            pid_start: init.start,
            uid_map: ids.map(),
            gid_map: ids.map(),
            devfs,
            devfs_dev,
            bound_at: None,
            rootfs: Some(running.rootfs.clone()),
            cgroup,
            filter,
        })
    }

    /// Undoes a step, taken or not.
    pub(crate) fn undo(&self, step: &Step) -> Result<(), StepError> {
        tracing::debug!(container = %self.name, undo = %step);
        match step {
            Step::Enter { run } => {
                if cgroup::own()? == run.supervisor() && !run.systemd {
                    cgroup::leave()?;
                }
                if !run.systemd {
                    run.cgroup.remove()?;
                }
            }
            Step::SharedFolder { path } | Step::Bundle { path, .. } => match fs::remove_dir_all(path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                result => result.map_err(io_error("remove", path))?,
            },
            Step::Hooks => Hooks::new(self.layout, self.name).run(Turn::PostStop, None, None)?,
            Step::Devfs { at, .. } => {
                Devfs::destroy(at)?;
            }
            Step::Layers { folder, .. } => overlay::unmount(folder)?,
            Step::Volume { at, .. } => volume::unmount(at)?,
            Step::Create { cgroup } => {
                cgroup.kill(Instant::now() + KILL_LIMIT)?;
                Crun::new(self.layout, self.name).delete()?;
                cgroup.remove()?;
            }
            Step::Limit { run, .. } => limit::release(self.layout, run)?,
            Step::Network { .. } => network::release(self.layout, self.name)?,
            Step::Filter { dir, .. } => DeviceFilter::collect(dir)?,
            Step::Register { file } => broker::unregister(file)?,
            Step::Announce { .. } => {
                if let Err(error) = broker::withdraw(self.name, false, WITHDRAW_LIMIT) {
                    tracing::debug!(container = %self.name, %error, "the broker was not told of the end");
                }
            }
            Step::Start { cgroup } => cgroup.kill(Instant::now() + KILL_LIMIT)?,
            Step::Store { path, .. } => store::clear(path)?,
            Step::Draft { path } => store::remove(path)?,
            // What is in a /dev goes with it, what is in the store with the container's folder; limits of its disk stay with its
            // files; what was there before stays as it is.
            Step::ConsoleFile { .. }
            | Step::Mount { .. }
            | Step::Part { .. }
            | Step::Quota { .. }
            | Step::Unpack { .. }
            | Step::Copy { .. }
            | Step::Bootstrap { .. }
            | Step::Fit { .. }
            | Step::Put { .. }
            | Step::Inside { .. }
            | Step::OnHost { .. }
            | Step::Own { .. }
            | Step::Publish { .. } => {}
            Step::Define { path, .. } => {
                atomic::remove(path).map_err(io_error("remove", path))?;
            }
        }
        Ok(())
    }

    /// Undoes steps from the last to the first. One that fails does not keep the others; answers with all failures.
    pub(crate) fn undo_all(&self, steps: &[Step]) -> Vec<StepError> {
        steps
            .iter()
            .rev()
            .filter_map(|step| self.undo(step).err())
            .collect()
    }
}
