//! Everything the daemon listens to, as descriptors that tokio can wait for.

use super::paths::Paths;
use crate::config::Settings;
use crate::host::event::HostEvent;
use crate::host::hook::HookSocket;
use crate::host::monitor::{KernelMonitor, MonitorError, UdevMonitor};
use crate::host::udev_queue::QueueWatch;
use crate::host::watch::ConfigWatch;
use anyhow::Context;
use std::os::fd::{AsFd, OwnedFd};
use tokio::io::unix::AsyncFd;

/// Something that is read when tokio says so.
#[derive(Debug)]
pub(super) struct Source<T> {
    ready: AsyncFd<OwnedFd>,
    inner: T,
}

impl<T: AsFd> Source<T> {
    /// Registers `inner` with the running runtime.
    pub(super) fn new(inner: T) -> std::io::Result<Self> {
        let ready = crate::sys::wait::readable(inner.as_fd().try_clone_to_owned()?)?;
        Ok(Self { ready, inner })
    }

    /// Waits until there is something to read. All of it has to be read then: what stays is not told again.
    pub(super) async fn readable(&self) -> std::io::Result<()> {
        self.ready.readable().await.map(|mut guard| guard.clear_ready())
    }

    /// What is read.
    pub(super) fn get(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// All inputs but the API.
#[derive(Debug)]
pub(super) struct Inputs {
    /// Removals, as the kernel tells them.
    pub(super) kernel: Source<KernelMonitor>,
    /// udev's events; absent with `monitor = false`.
    pub(super) udev: Option<Source<UdevMonitor>>,
    /// Messages of the hook.
    pub(super) hook: Source<HookSocket>,
    /// Whether udev's queue has drained.
    pub(super) queue: Option<Source<QueueWatch>>,
    /// Configuration folders.
    pub(super) config: Source<ConfigWatch>,
    /// Registrations.
    pub(super) registrations: Source<ConfigWatch>,
}

impl Inputs {
    /// Opens everything. Monitors are open before anybody looks at devices, so nothing is missed in between.
    pub(super) fn open(paths: &Paths, settings: &Settings) -> anyhow::Result<Self> {
        let buffer = settings.receive_buffer as usize;
        let udev = if settings.monitor {
            let monitor = UdevMonitor::open(buffer).context("listen to udev")?;
            Some(Source::new(monitor).context("wait for udev")?)
        } else {
            None
        };
        let kernel = KernelMonitor::open(buffer).context("listen to the kernel")?;
        let hook = HookSocket::listen(&paths.hook()).context("listen to the hook")?;
        let config: Vec<_> = paths.config.iter().map(AsRef::as_ref).collect();
        let config = ConfigWatch::new(&config).context("watch the configuration")?;
        let registrations = paths.registrations();
        let registrations =
            ConfigWatch::of(&[registrations.as_ref()], "json").context("watch the registrations")?;
        // Without udev there is nothing to wait for: what the kernel has is all there is.
        let queue = QueueWatch::new()
            .map_err(|error| tracing::warn!(%error, "udev's queue"))
            .ok();
        Ok(Self {
            kernel: Source::new(kernel).context("wait for the kernel")?,
            udev,
            hook: Source::new(hook).context("wait for the hook")?,
            queue: queue
                .map(Source::new)
                .transpose()
                .context("wait for udev's queue")?,
            config: Source::new(config).context("wait for the configuration")?,
            registrations: Source::new(registrations).context("wait for registrations")?,
        })
    }

    /// Every removal that the kernel has told up to now.
    pub(super) fn removals(&mut self) -> Vec<HostEvent> {
        let mut all = Vec::new();
        loop {
            match self.kernel.get().next_event() {
                Ok(Some(event)) => all.push(event),
                Ok(None) => return all,
                Err(error @ MonitorError::Message(_)) => tracing::warn!(%error, "kernel events"),
                Err(error) => {
                    tracing::error!(%error, "kernel events");
                    all.push(HostEvent::Lost);
                    return all;
                }
            }
        }
    }
}
