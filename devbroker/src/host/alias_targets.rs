//! Tells systemd which aliases have a device: `devbroker-alias@ALIAS.target` is up for as long as one has, and any unit may be
//! wanted by it or bound to it.
//!
//! Level-triggered: the daemon says which aliases are present, a thread with a connection of its own brings the targets into
//! step, and tries again while systemd refuses or is silent. Only the last thing said counts, so an alias that comes back
//! before systemd was told does not disturb what is bound to it. Targets that an earlier daemon started count as well.

use crate::model::AliasName;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;
use zbus::Connection;
use zbus::zvariant::{DynamicType, OwnedObjectPath};

const SERVICE: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// systemd answers nobody while it reads its units anew.
const LIMIT: Duration = Duration::from_secs(30);
/// How long after a failure the next attempt is: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

const PREFIX: &str = "devbroker-alias@";
const SUFFIX: &str = ".target";

/// The unit that is up while a device holds the alias. What an alias may be made of needs no escaping in an instance's name.
fn unit(alias: &AliasName) -> String {
    format!("{PREFIX}{alias}{SUFFIX}")
}

fn alias_of(unit: &str) -> Option<AliasName> {
    unit.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()
}

/// Which aliases have a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Presence {
    /// All of them. A target of another one is stopped.
    pub held: BTreeSet<AliasName>,
    /// Those with whose device udev is done. Their targets are started; with the others nothing is done yet.
    pub ready: BTreeSet<AliasName>,
}

/// What is to be started and what stopped.
fn difference(presence: &Presence, up: &BTreeSet<AliasName>) -> (Vec<String>, Vec<String>) {
    (
        presence.ready.difference(up).map(unit).collect(),
        up.difference(&presence.held).map(unit).collect(),
    )
}

/// The way to the thread.
#[derive(Debug)]
pub struct AliasTargets {
    present: Option<watch::Sender<Option<Presence>>>,
}

impl AliasTargets {
    /// Nobody is told.
    pub fn none() -> Self {
        Self { present: None }
    }

    /// Starts the thread, where systemd runs the machine (`sd_booted(3)`).
    pub fn start() -> io::Result<Self> {
        if !Path::new("/run/systemd/system").is_dir() {
            return Ok(Self::none());
        }
        let (present, wanted) = watch::channel(None);
        thread::Builder::new().name("targets".into()).spawn(move || {
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(serve(wanted)),
                Err(error) => tracing::error!(%error, "systemd is not told of aliases"),
            }
        })?;
        Ok(Self {
            present: Some(present),
        })
    }

    /// These aliases have a device, and no others.
    pub fn set(&self, present: Presence) {
        if let Some(channel) = &self.present {
            channel.send_if_modified(|known| {
                let is_new = known.as_ref() != Some(&present);
                *known = Some(present);
                is_new
            });
        }
    }
}

/// Brings systemd into step after each change, until the daemon is gone.
async fn serve(mut wanted: watch::Receiver<Option<Presence>>) {
    let mut connection = None;
    let mut pause = None;
    loop {
        let changed = match pause {
            None => wanted.changed().await,
            Some(pause) => timeout(pause, wanted.changed()).await.unwrap_or(Ok(())),
        };
        if changed.is_err() {
            return;
        }
        let present = wanted.borrow_and_update().clone();
        let Some(present) = present else { continue };
        let done = timeout(LIMIT, bring_into_step(&mut connection, &present)).await;
        pause = match done {
            Ok(Ok(())) => None,
            failed => {
                let error = match failed {
                    Ok(Err(error)) => error.to_string(),
                    Ok(Ok(())) | Err(_) => "no answer".into(),
                };
                if pause.is_none() {
                    tracing::warn!(
                        error,
                        "systemd could not be told which aliases have a device; trying again"
                    );
                }
                connection = None;
                Some(pause.map_or(RETRY.0, |pause| (pause * 2).min(RETRY.1)))
            }
        };
    }
}

async fn bring_into_step(connection: &mut Option<Connection>, present: &Presence) -> zbus::Result<()> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(Connection::system().await?),
    };
    let up = up(connection).await?;
    let (start, stop) = difference(present, &up);
    // What is bound to a device that went is stopped before anything else is started.
    for (method, units) in [("StopUnit", stop), ("StartUnit", start)] {
        for unit in units {
            let done = call(connection, method, &(unit.as_str(), "replace")).await;
            match done {
                Err(zbus::Error::MethodError(name, _, _)) if name.ends_with(".NoSuchUnit") => {
                    tracing::debug!(unit, "not installed");
                }
                done => drop(done?),
            }
        }
    }
    Ok(())
}

/// The aliases whose targets are up or coming up.
async fn up(connection: &Connection) -> zbus::Result<BTreeSet<AliasName>> {
    type Unit = (
        String,
        String,
        String,
        String,
        String,
        String,
        OwnedObjectPath,
        u32,
        String,
        OwnedObjectPath,
    );
    let pattern = format!("{PREFIX}*{SUFFIX}");
    let states: &[&str] = &["active", "activating", "reloading"];
    let answer = call(
        connection,
        "ListUnitsByPatterns",
        &(states, &[pattern.as_str()][..]),
    )
    .await?;
    let units: Vec<Unit> = answer.body().deserialize()?;
    Ok(units.iter().filter_map(|unit| alias_of(&unit.0)).collect())
}

async fn call<B: serde::Serialize + DynamicType>(
    connection: &Connection,
    method: &str,
    body: &B,
) -> zbus::Result<zbus::Message> {
    connection
        .call_method(Some(SERVICE), PATH, Some(MANAGER), method, body)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<AliasName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn units_and_aliases() {
        let alias: AliasName = "epson-1670.x".parse().unwrap();
        assert_eq!(unit(&alias), "devbroker-alias@epson-1670.x.target");
        assert_eq!(alias_of(&unit(&alias)), Some(alias));
        for other in [
            "multi-user.target",
            "devbroker-alias@.target",
            "devbroker-alias@x.service",
        ] {
            assert_eq!(alias_of(other), None, "{other}");
        }
    }

    #[test]
    fn only_what_differs_is_asked_for() {
        let all = ["a", "b"];
        for (held, ready, up, start, stop) in [
            (&all[..], &all[..], &all[..], &[][..], &[][..]),
            (&["a"], &["a"], &[], &["a"], &[]),
            (&["a"], &["a"], &["b"], &["a"], &["b"]),
            // udev is not done with it: what is bound to it is left alone.
            (&["a"], &[], &["a"], &[], &[]),
            (&["a"], &[], &[], &[], &[]),
            (&[], &[], &[], &[], &[]),
        ] {
            let presence = Presence {
                held: set(held),
                ready: set(ready),
            };
            let units = |names: &[&str]| set(names).iter().map(unit).collect::<Vec<_>>();
            assert_eq!(difference(&presence, &set(up)), (units(start), units(stop)));
        }
    }
}
