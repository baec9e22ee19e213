//! Starting, the loop, stopping.

use super::answers::{self, Waiting};
use super::foreign::{self, Bus, ForeignDone};
use super::inputs::{Inputs, Source};
use super::paths::Paths;
use super::registration::Held;
use super::state::State;
use super::storage::Storage;
use crate::api::{EventKind, EventView};
use crate::host::alias_records::AliasRecords;
use crate::host::alias_targets::AliasTargets;
use crate::host::event::HostEvent;
use crate::host::hook::HookError;
use crate::host::monitor::MonitorError;
use crate::host::namespace::{Outcome as WorkerOutcome, Workers};
use crate::host::remember::Remember;
use crate::host::rule_aliases::RuleAliases;
use crate::host::sysfs::Reader;
use crate::host::systemd::{Notifier, listen_fds};
use crate::host::unit_rules::Event;
use crate::model::{ContainerRef, InstanceId, SysPath};
use crate::server::{self, Call, Limits, Server};
use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// How the daemon is to run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where everything lies.
    pub paths: Paths,
    /// Where the API listens, if not where `paths` say.
    pub socket: Option<std::path::PathBuf>,
}

/// How many workers may be inside containers at once; those that hang are not counted.
const WORKERS: usize = 16;

/// Runs the daemon until it is told to stop.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async { Daemon::start(options)?.serve().await })
}

#[derive(Debug)]
struct Daemon {
    state: State,
    inputs: Inputs,
    calls: mpsc::Receiver<Call>,
    ended: (mpsc::UnboundedSender<Ended>, mpsc::UnboundedReceiver<Ended>),
    foreign: mpsc::UnboundedReceiver<ForeignDone>,
    systemd: mpsc::UnboundedReceiver<Event>,
    workers: Workers,
    outcomes: mpsc::UnboundedReceiver<WorkerOutcome>,
    stop: UnixStream,
    hangup: UnixStream,
    notifier: Notifier,
    waiting: Vec<Waiting>,
}

/// The first process of a container ended.
#[derive(Debug)]
struct Ended(ContainerRef, InstanceId);

impl Daemon {
    fn start(options: &Options) -> anyhow::Result<Self> {
        let paths = options.paths.clone();
        for folder in [
            &paths.run,
            &paths.registrations(),
            &paths.ledgers(),
            &paths.config[2],
        ] {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("make the folder {}", folder.display()))?;
        }
        let notifier = Notifier::of_process().context("reach systemd")?;
        let loader = paths.loader();
        let loaded = loader.load();
        let inputs = Inputs::open(&paths, &loaded.config.settings)?;
        let store = AliasRecords::new(&paths.alias_records());
        let (records, bad) = store.load().context("read the alias records")?;
        for path in bad {
            tracing::warn!(record = %path.display(), "an alias record that cannot be read was left out");
        }
        let storage = Storage::start(store).context("start the storage thread")?;
        let remember = Remember::open(&paths.permissions()).context("open the memory of permissions")?;
        let reader = Reader::new(BTreeSet::new());
        let incarnation = |syspath: &SysPath| reader.incarnation(syspath).unwrap_or(None);
        let (rule_aliases, bad) =
            RuleAliases::open(&paths.rule_aliases(), incarnation).context("read the rule aliases")?;
        for path in bad {
            tracing::warn!(record = %path.display(), "a rule's alias that cannot be read was forgotten");
        }
        let (systemd_events, systemd) = mpsc::unbounded_channel();
        let (foreign_done, foreign) = mpsc::unbounded_channel();
        // One with folders of its own, for a test, does not speak for the machine.
        let targets = if paths.run == Paths::default().run {
            AliasTargets::start().context("start the thread that tells systemd of aliases")?
        } else {
            AliasTargets::none()
        };
        let outside = (Bus::new(systemd_events), targets, foreign_done);
        let mut state = State::new(paths, loader, rule_aliases, storage, remember, outside);
        state.records = records;
        state.configure(loaded);
        let listener = if let Some(socket) = listen_fds().into_iter().next() {
            server::adopt(socket).context("take over the socket")?
        } else {
            let path = options.socket.clone().unwrap_or_else(|| state.paths.socket());
            server::bind(&path).context("open the socket")?
        };
        let (server, calls) = Server::new(listener, Limits::default());
        tokio::spawn(server.run());
        let (workers, outcomes) = Workers::new(WORKERS).context("start the workers")?;
        let stop = on_signals(&[SIGTERM, SIGINT]).context("wait for signals")?;
        let hangup = on_signals(&[SIGHUP]).context("wait for SIGHUP")?;
        Ok(Self {
            state,
            inputs,
            calls,
            ended: mpsc::unbounded_channel(),
            foreign,
            systemd,
            workers,
            outcomes,
            stop,
            hangup,
            notifier,
            waiting: Vec::new(),
        })
    }

    async fn serve(mut self) -> anyhow::Result<()> {
        self.begin();
        let mut watchdog = self.notifier.watchdog_interval().map(tokio::time::interval);
        let snapshots = self.state.config.settings.snapshot_seconds;
        let mut snapshot =
            (snapshots > 0).then(|| tokio::time::interval(Duration::from_secs(u64::from(snapshots))));
        let (mut stop_byte, mut hangup_bytes) = ([0; 1], [0; 16]);
        loop {
            let retry = self.state.next_retry();
            tokio::select! {
                biased;
                done = self.inputs.kernel.readable() => {
                    done.context("wait for the kernel")?;
                    self.state.stirred = Some(Instant::now());
                    let removals = self.inputs.removals();
                    self.take(removals);
                }
                done = readable(self.inputs.udev.as_ref()) => {
                    done.context("wait for udev")?;
                    self.state.stirred = Some(Instant::now());
                    self.udev_events();
                }
                done = self.inputs.hook.readable() => {
                    done.context("wait for the hook")?;
                    self.state.stirred = Some(Instant::now());
                    self.hook_messages();
                }
                Some(Ended(container, instance)) = self.ended.1.recv() => {
                    self.state.ended(&container, &instance);
                    self.state.clean_run(&container, &instance, &self.workers);
                }
                Some(call) = self.calls.recv() => self.call(call),
                Some(done) = self.foreign.recv() => self.foreign_done(done),
                Some(outcome) = self.outcomes.recv() => self.state.worked(outcome),
                Some(event) = self.systemd.recv() => self.state.systemd_event(&event),
                done = readable(self.inputs.queue.as_ref()) => {
                    done.context("wait for udev's queue")?;
                    self.queue_drained();
                }
                done = self.inputs.registrations.readable() => {
                    done.context("wait for registrations")?;
                    if changed(&mut self.inputs.registrations) {
                        let held = self.state.adopt_all();
                        self.hold(held);
                    }
                }
                done = self.inputs.config.readable() => {
                    done.context("wait for the configuration")?;
                    if changed(&mut self.inputs.config) {
                        self.reload();
                    }
                }
                read = self.hangup.read(&mut hangup_bytes) => {
                    read.context("wait for SIGHUP")?;
                    self.reload();
                }
                read = self.stop.read(&mut stop_byte) => {
                    read.context("wait for signals")?;
                    break;
                }
                () = tick(watchdog.as_mut()) => {
                    if let Err(error) = self.notifier.watchdog() {
                        tracing::warn!(%error, "watchdog");
                    }
                }
                () = tick(snapshot.as_mut()) => self.state.snapshot(),
                () = until(retry) => {}
            }
            if self
                .state
                .adopt_retry
                .due()
                .is_some_and(|due| due <= Instant::now())
            {
                let held = self.state.adopt_all();
                self.hold(held);
            }
            self.state.settle(Instant::now());
            self.state.send_work(&self.workers);
            answers::answer_waiting(&self.state, &mut self.waiting);
        }
        if let Err(error) = self.notifier.stopping() {
            tracing::debug!(%error, "systemd");
        }
        self.state.snapshot();
        tracing::info!("stopped; what is placed stays, and the next start takes it up");
        Ok(())
    }

    /// Everything is dirty at the start.
    fn begin(&mut self) {
        let removals = self.inputs.removals();
        self.take(removals);
        self.state.rescan();
        let held = self.state.adopt_all();
        self.hold(held);
        self.state.tidy_ledgers();
        self.state.sweep_filters();
        self.state.settle(Instant::now());
        self.state.tell_systemd();
        self.state.tidy_links();
        self.state.tidy_foreign();
        self.state.systemd_event(&Event::Reloaded);
        self.state.send_work(&self.workers);
        let text = format!(
            "{} containers, {} nodes",
            self.state.containers.len(),
            self.state.host.nodes().count()
        );
        self.state
            .publish(EventView::new(EventKind::DaemonReady, text.clone()));
        tracing::info!("ready: {text}");
        if let Err(error) = self.notifier.ready(&text) {
            tracing::warn!(%error, "systemd");
        }
    }

    fn take(&mut self, events: Vec<HostEvent>) {
        for event in events {
            match event {
                HostEvent::Removed(removed) => self.state.removed(removed),
                HostEvent::Changed(mut changed) => {
                    let node = self.state.read(&mut changed);
                    let removals = self.inputs.removals();
                    self.take(removals);
                    self.state.changed(changed, node);
                }
                HostEvent::Lost => self.state.lost(),
            }
        }
    }

    fn udev_events(&mut self) {
        loop {
            let Some(udev) = &mut self.inputs.udev else { return };
            match udev.get().next_event() {
                Ok(Some(event)) => {
                    self.take(vec![event]);
                    // The next may be of a device that concerns nobody; this one does not wait for it.
                    self.state.settle(Instant::now());
                    self.state.stirred = Some(Instant::now());
                }
                Ok(None) => return,
                Err(error @ MonitorError::Message(_)) => tracing::warn!(%error, "udev events"),
                Err(error) => {
                    tracing::error!(%error, "udev events");
                    self.state.lost();
                    return;
                }
            }
        }
    }

    fn hook_messages(&mut self) {
        loop {
            match self.inputs.hook.get().next_message() {
                Ok(Some(message)) => {
                    // Only what the event concerns is looked at anyway.
                    if let Some(Err(error)) = message.container {
                        tracing::warn!(%error, "hook");
                    }
                    self.take(vec![message.event]);
                }
                Ok(None) => return,
                Err(error @ HookError::Message(_)) => tracing::warn!(%error, "hook"),
                Err(error) => {
                    tracing::warn!(%error, "hook");
                    return;
                }
            }
        }
    }

    fn queue_drained(&mut self) {
        let Some(queue) = &mut self.inputs.queue else {
            return;
        };
        match queue.get().drained() {
            Ok(true) if self.state.scan_again => self.state.rescan(),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "udev's queue"),
        }
    }

    fn reload(&mut self) {
        let loaded = self.state.loader.load();
        self.state.configure(loaded);
    }

    /// Waits for the end of containers that were taken up.
    fn hold(&mut self, held: impl IntoIterator<Item = Held>) {
        for Held {
            container,
            instance,
            process,
        } in held
        {
            let sender = self.ended.0.clone();
            match Source::<OwnedFd>::new(process) {
                Ok(process) => {
                    tokio::spawn(async move {
                        if process.readable().await.is_ok() {
                            // The daemon may be stopping.
                            sender.send(Ended(container, instance)).ok();
                        }
                    });
                }
                Err(error) => tracing::error!(%container, %error, "its end will not be noticed"),
            }
        }
    }

    fn call(&mut self, call: Call) {
        let done = self.state.foreign_done.clone();
        let (held, waiting) = answers::begin(&mut self.state, call, &done);
        self.hold(held);
        self.waiting.extend(waiting);
    }

    fn foreign_done(&mut self, done: ForeignDone) {
        let (held, waiting) = foreign::finish(&mut self.state, done);
        self.hold(held);
        self.waiting.extend(waiting);
    }
}

/// A stream from which a byte can be read after each of these signals.
fn on_signals(signals: &[i32]) -> std::io::Result<UnixStream> {
    let (inside, outside) = std::os::unix::net::UnixStream::pair()?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, inside.try_clone()?)?;
    }
    outside.set_nonblocking(true)?;
    UnixStream::from_std(outside)
}

fn changed(watch: &mut Source<crate::host::watch::ConfigWatch>) -> bool {
    match watch.get().changed() {
        Ok(changed) => changed,
        Err(error) => {
            tracing::warn!(%error, "watch");
            true
        }
    }
}

async fn readable<T: std::os::fd::AsFd>(source: Option<&Source<T>>) -> std::io::Result<()> {
    match source {
        Some(source) => source.readable().await,
        None => std::future::pending().await,
    }
}

async fn tick(interval: Option<&mut tokio::time::Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
