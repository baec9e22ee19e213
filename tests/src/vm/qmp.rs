//! QEMU's machine protocol: commands and events as lines of JSON.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::log::Log;

/// Answers to a command come at once; plugging may take the emulator's lock.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection in command mode.
#[derive(Debug)]
pub(crate) struct Qmp {
    to: Mutex<UnixStream>,
    inbox: Arc<Inbox>,
    log: Log,
}

#[derive(Debug, Default)]
struct Inbox {
    received: Mutex<Received>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Received {
    answers: Vec<Value>,
    events: Vec<Value>,
    closed: bool,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the first thing that `pick` finds, waiting for it.
    fn take<T>(
        &self,
        what: &str,
        timeout: Duration,
        mut pick: impl FnMut(&mut Received) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + timeout;
        let mut received = self.lock();
        loop {
            if let Some(found) = pick(&mut received) {
                return Ok(found);
            }
            if received.closed {
                bail!("the machine ended while waiting for {what}");
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("no {what} from the machine within {} s", timeout.as_secs());
            }
            received = self
                .changed
                .wait_timeout(received, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Qmp {
    /// Takes a connection from its greeting into command mode.
    pub(crate) fn new(stream: UnixStream, log: Log) -> Result<Self> {
        let inbox = Arc::new(Inbox::default());
        let reader = stream.try_clone()?;
        let sink = Arc::clone(&inbox);
        thread::spawn(move || receive(reader, &sink));
        let qmp = Self {
            to: Mutex::new(stream),
            inbox,
            log,
        };
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Executes one command and returns what it returns.
    pub(crate) fn execute(&self, command: &str, arguments: &Value) -> Result<Value> {
        // Held until the answer is there: answers come in the order of commands.
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        let line = json!({ "execute": command, "arguments": arguments }).to_string();
        self.log.add("qmp>", &line);
        writeln!(to, "{line}").with_context(|| format!("cannot send {command} to the machine"))?;
        let answer = self
            .inbox
            .take(&format!("answer to {command}"), PATIENCE, |received| {
                (!received.answers.is_empty()).then(|| received.answers.remove(0))
            })?;
        self.log.add("qmp<", &answer.to_string());
        if let Some(value) = answer.get("return") {
            return Ok(value.clone());
        }
        bail!(
            "the machine refuses {command}: {}",
            answer.pointer("/error/desc").unwrap_or(&answer)
        )
    }

    /// Waits for an event of this name whose data `wanted` accepts, and takes it.
    pub(crate) fn event(
        &self,
        name: &str,
        timeout: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        self.inbox.take(name, timeout, |received| {
            let data = |event: &Value| event.get("data").cloned().unwrap_or_default();
            let index = received.events.iter().position(|event| {
                event.get("event").is_some_and(|event| event == name) && wanted(&data(event))
            })?;
            Some(data(&received.events.remove(index)))
        })
    }
}

fn receive(stream: UnixStream, inbox: &Inbox) {
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { break };
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        let mut received = inbox.lock();
        if message.get("event").is_some() {
            received.events.push(message);
        } else if message.get("QMP").is_none() {
            received.answers.push(message);
        }
        drop(received);
        inbox.changed.notify_all();
    }
    inbox.lock().closed = true;
    inbox.changed.notify_all();
}
