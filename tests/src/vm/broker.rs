//! The broker in a machine, in the foreground, with a configuration of the scenario's own.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::agent::Job;
use super::machine::Vm;

/// How long it may take to come up on a busy host.
const SOON: Duration = Duration::from_secs(60);

/// A running broker. Dropped, it goes on running.
#[derive(Clone, Debug)]
pub struct Broker {
    vm: Vm,
    job: Job,
}

impl Broker {
    /// Writes the configuration and starts the broker; it has taken up everything when this returns.
    pub fn start(vm: &Vm, configuration: &str) -> Result<Self> {
        Self::configure(vm, configuration)?;
        Self::again(vm, "")
    }

    /// Starts the broker with the configuration that is there; `environment` is put before the command.
    pub fn again(vm: &Vm, environment: &str) -> Result<Self> {
        let job = vm.start_job(&format!("exec env {environment} devbroker daemon"))?;
        vm.until("devbroker status >/dev/null 2>&1")?;
        Ok(Self { vm: vm.clone(), job })
    }

    /// Writes the configuration; a running broker takes it up.
    pub fn configure(vm: &Vm, configuration: &str) -> Result<()> {
        vm.ok("mkdir -p /etc/devbroker/conf.d")?;
        vm.put("/etc/devbroker/conf.d/scenario.toml", configuration.as_bytes())
    }

    /// Waits until udev and the broker are through with everything that has happened.
    pub fn settle(&self) -> Result<()> {
        self.vm.settle()?;
        self.vm.ok("env -i PATH=$PATH devbroker-hook --wait").map(drop)
    }

    /// Kills it with SIGKILL.
    pub fn kill(&self) -> Result<()> {
        self.job.kill().map(drop)
    }

    /// Tells it to stop and waits for its end.
    pub fn stop(&self) -> Result<()> {
        self.vm.ok("pkill -TERM -x devbroker")?;
        self.job.wait(SOON).map(drop)
    }

    /// What one of its commands prints as JSON.
    pub fn json(&self, command: &str) -> Result<Value> {
        let text = self.vm.ok(&format!("devbroker {command} --json"))?;
        serde_json::from_str(&text).with_context(|| format!("devbroker {command} printed {text}"))
    }

    /// The process.
    pub fn job(&self) -> &Job {
        &self.job
    }
}
