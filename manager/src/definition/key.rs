//! The keys of a definition, each with what reads it, what shows it, and when a change of it counts. The only list of
//! them: parsing, new files, `ctm set` and `ctm config` all go by it.

use super::value::{self, Fault, Value, string};
use super::{Definition, mount};
use crate::ids::{IdBlock, Ids};
use crate::make::base::BaseId;
use toml_edit::{Array, InlineTable};

/// When a changed value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// At once, also in a running container.
    AtOnce,
    /// When the container starts next.
    NextStart,
    /// Never: the files on disk would no longer fit.
    Fixed,
}

/// One key.
pub(crate) struct Key {
    /// As it is written.
    pub(crate) name: &'static str,
    /// What it means, in a line.
    pub(crate) about: &'static str,
    /// When a change counts.
    pub(crate) effect: Effect,
    /// Whether it is this container's alone, so that no profile may say it.
    pub(crate) identity: bool,
    /// Whether a new definition has it even where it says the usual.
    pub(crate) seeded: bool,
    pub(super) read: fn(&Value<'_>, &mut Definition) -> Result<(), Fault>,
    /// The value as it is written.
    pub(crate) show: fn(&Definition) -> toml_edit::Value,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// All keys, in the order in which a new definition has them.
pub(crate) static KEYS: [Key; 19] = [
    Key {
        name: "description",
        about: "What it is for, in a line.",
        effect: Effect::AtOnce,
        identity: true,
        seeded: false,
        read: |value, definition| place(&mut definition.description, value::description(value)),
        show: |definition| definition.description.as_str().into(),
    },
    Key {
        name: "rootfs",
        about: "Its root file system on the host.",
        effect: Effect::Fixed,
        identity: true,
        seeded: true,
        read: |value, definition| place(&mut definition.rootfs, value::rootfs(value)),
        show: |definition| definition.rootfs.to_string_lossy().into_owned().into(),
    },
    Key {
        name: "base",
        about: "The base system that its root file system lies upon; `ctm images` lists them.",
        effect: Effect::Fixed,
        identity: true,
        seeded: false,
        read: |value, definition| {
            let id = string(value).and_then(|text| match text {
                "" => Ok(None),
                _ => value::parsed(value).map(Some),
            });
            place(&mut definition.base, id)
        },
        show: |definition| definition.base.as_ref().map_or("", BaseId::as_str).into(),
    },
    Key {
        name: "userns",
        about: "Host ids of its user namespace, which own its files; false: none.",
        effect: Effect::Fixed,
        identity: true,
        seeded: true,
        read: |value, definition| place(&mut definition.ids, value::userns(value)),
        show: |definition| match definition.ids {
            Ids::Host => false.into(),
            Ids::Block(IdBlock { first, count }) => {
                let mut table = InlineTable::new();
                table.insert("first", i64::from(first).into());
                table.insert("count", i64::from(count).into());
                table.into()
            }
        },
    },
    Key {
        name: "init",
        about: "Its first process, with arguments.",
        effect: Effect::NextStart,
        identity: false,
        seeded: true,
        read: |value, definition| place(&mut definition.init, value::init(value)),
        show: |definition| strings(&definition.init),
    },
    Key {
        name: "console",
        about: "Whether its first process has a terminal, which `ctm console` shows.",
        effect: Effect::NextStart,
        identity: false,
        seeded: false,
        read: |value, definition| place(&mut definition.console, value::boolean(value)),
        show: |definition| definition.console.into(),
    },
    Key {
        name: "reaper",
        about: "Whether its first process is no init: a small one is its parent then, reaps orphans, passes signals on.",
        effect: Effect::NextStart,
        identity: false,
        seeded: false,
        read: |value, definition| place(&mut definition.reaper, value::boolean(value)),
        show: |definition| definition.reaper.into(),
    },
    Key {
        name: "hostname",
        about: "Its host name.",
        effect: Effect::NextStart,
        identity: true,
        seeded: true,
        read: |value, definition| place(&mut definition.hostname, value::hostname(value)),
        show: |definition| definition.hostname.as_str().into(),
    },
    Key {
        name: "domain",
        about: "Its DNS domain; empty: none.",
        effect: Effect::NextStart,
        identity: false,
        seeded: false,
        read: |value, definition| place(&mut definition.domain, value::domain(value)),
        show: |definition| definition.domain.as_str().into(),
    },
    Key {
        name: "stop_signal",
        about: "What asks its init to shut down: SIGRTMIN+3 for systemd, SIGINT for sysvinit, SIGUSR2 for busybox, else SIGTERM.",
        effect: Effect::NextStart,
        identity: false,
        seeded: true,
        read: |value, definition| place(&mut definition.stop_signal, value::stop_signal(value)),
        show: |definition| definition.stop_signal.to_string().into(),
    },
    Key {
        name: "stop_timeout",
        about: "How many seconds this may take, 1 to 3600; then it is killed.",
        effect: Effect::NextStart,
        identity: false,
        seeded: true,
        read: |value, definition| place(&mut definition.stop_timeout, value::stop_timeout(value)),
        show: |definition| {
            i64::try_from(definition.stop_timeout.as_secs())
                .unwrap_or(i64::MAX)
                .into()
        },
    },
    Key {
        name: "no_new_privs",
        about: "Whether set-user-id programs such as sudo are without effect; usual without a user namespace.",
        effect: Effect::NextStart,
        identity: false,
        seeded: true,
        read: |value, definition| place(&mut definition.no_new_privs, value::boolean(value)),
        show: |definition| definition.no_new_privs.into(),
    },
    Key {
        name: "apparmor",
        about: "The host's AppArmor profile that it runs under; empty: none.",
        effect: Effect::NextStart,
        identity: false,
        seeded: false,
        read: |value, definition| place(&mut definition.apparmor, value::apparmor(value)),
        show: |definition| definition.apparmor.as_str().into(),
    },
    Key {
        name: "capabilities",
        about: "Changes to the usual capabilities, as in [\"+SYS_TIME\", \"-NET_RAW\"].",
        effect: Effect::NextStart,
        identity: false,
        seeded: false,
        read: |value, definition| {
            let changes = value::list(value, "as in `[\"+SYS_TIME\"]`", value::parsed);
            place(&mut definition.capabilities, changes)
        },
        show: |definition| strings(&definition.capabilities),
    },
    Key {
        name: "start",
        about: "What starts it: \"manual\", \"boot\", or \"device:ALIAS\".",
        effect: Effect::AtOnce,
        identity: true,
        seeded: false,
        read: |value, definition| place(&mut definition.start, value::parsed(value)),
        show: |definition| definition.start.to_string().into(),
    },
    Key {
        name: "boot_order",
        about: "Its place at boot, 0 to 1000; higher ones start first, equal ones together.",
        effect: Effect::AtOnce,
        identity: false,
        seeded: false,
        read: |value, definition| place(&mut definition.boot_order, value::boot_order(value)),
        show: |definition| i64::from(definition.boot_order).into(),
    },
    Key {
        name: "after",
        about: "Containers that are started before it, if they are started at all.",
        effect: Effect::AtOnce,
        identity: true,
        seeded: false,
        read: |value, definition| {
            let names = value::list(value, "as in `[\"database\"]`", value::parsed);
            place(&mut definition.after, names)
        },
        show: |definition| strings(&definition.after),
    },
    Key {
        name: "mount",
        about: "What is mounted in it, as in [{ bind = \"/srv/scans\", target = \"/srv/scans\" }].",
        effect: Effect::NextStart,
        identity: false,
        seeded: false,
        read: |value, definition| {
            let mounts = value::list(value, "as in `[[mount]]`", mount::read);
            place(&mut definition.mounts, mounts)
        },
        show: |definition| {
            definition
                .mounts
                .iter()
                .map(mount::MountDefinition::to_toml)
                .collect::<Array>()
                .into()
        },
    },
    Key {
        name: "profile",
        about: "The profile that says what this file does not.",
        effect: Effect::NextStart,
        identity: true,
        seeded: false,
        read: |value, definition| {
            let name = string(value).and_then(|text| match text {
                "" => Ok(None),
                _ => value::parsed(value).map(Some),
            });
            place(&mut definition.profile, name)
        },
        show: |definition| {
            definition
                .profile
                .as_ref()
                .map_or("", |name| name.as_str())
                .into()
        },
    },
];

/// The key of this name.
pub(crate) fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// All names, for a help text.
pub(crate) fn names() -> String {
    let names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
    names.join(", ")
}

fn place<T>(place: &mut T, value: Result<T, Fault>) -> Result<(), Fault> {
    value.map(|value| *place = value)
}

fn strings(list: &[impl ToString]) -> toml_edit::Value {
    list.iter().map(ToString::to_string).collect::<Array>().into()
}
