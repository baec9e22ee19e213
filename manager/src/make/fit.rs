//! What a fresh root file system needs to boot in a container: as items, each with what it changes. Pure; the files are
//! written by [`crate::make::tree`].
//!
//! A container made from a distribution gets all of it, a clone what is each machine's own, and others what a recipe says.

use crate::make::tree::Owned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Units of consoles that no container has (the one on its own console stays), and those that look after devices and modules.
const GETTYS: [&str; 2] = ["getty@.service", "serial-getty@.service"];
const DEVICES: [&str; 9] = [
    "systemd-udevd.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udev-trigger.service",
    "systemd-udev-settle.service",
    "systemd-hwdb-update.service",
    "systemd-modules-load.service",
    "kmod-static-nodes.service",
    "modprobe@.service",
];
/// Scripts of sysvinit with the same business.
const DEVICE_SCRIPTS: [&str; 5] = ["udev", "kmod", "hwclock.sh", "udev-finish", "eudev"];

/// One thing that is made fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Item {
    Gettys,
    Mtab,
    Recommends,
    TimeZone,
    RootLocked,
    Devices,
    MachineId,
    Locale,
    ResolvConf,
    Hostname,
    Hosts,
    PolicyRc,
}

impl Item {
    /// All, with their names in a recipe.
    pub(crate) const ALL: [(Self, &'static str); 12] = [
        (Self::Gettys, "gettys"),
        (Self::Mtab, "mtab"),
        (Self::Recommends, "recommends"),
        (Self::TimeZone, "time_zone"),
        (Self::RootLocked, "root_locked"),
        (Self::Devices, "devices"),
        (Self::MachineId, "machine_id"),
        (Self::Locale, "locale"),
        (Self::ResolvConf, "resolv_conf"),
        (Self::Hostname, "hostname"),
        (Self::Hosts, "hosts"),
        (Self::PolicyRc, "policy_rc"),
    ];

    /// All of them.
    pub(crate) fn all() -> BTreeSet<Self> {
        Self::ALL.into_iter().map(|(item, _)| item).collect()
    }

    /// What no two machines have in common.
    pub(crate) fn of_a_clone() -> BTreeSet<Self> {
        [Self::MachineId, Self::Hostname].into()
    }
}

/// What the changes follow from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Facts {
    pub(crate) hostname: String,
    /// Empty: none.
    pub(crate) domain: String,
    /// The host's time zone, as in `Europe/Berlin`.
    pub(crate) time_zone: Option<String>,
    /// What the host resolves names by.
    pub(crate) resolv_conf: String,
    /// Whether the tree has apt, has systemd, has D-Bus' own copy of the machine id.
    pub(crate) apt: bool,
    pub(crate) systemd: bool,
    pub(crate) dbus_id: bool,
    /// Whether the tree has this time zone.
    pub(crate) has_zone: bool,
    /// Its passwords and the configuration of sysvinit.
    pub(crate) shadow: Option<(String, Owned)>,
    pub(crate) inittab: Option<(String, Owned)>,
    /// The links in /etc/rcS.d.
    pub(crate) boot_scripts: Vec<String>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Write {
        path: PathBuf,
        text: String,
        owned: Owned,
    },
    Link {
        path: PathBuf,
        target: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
}

fn write(path: &str, text: impl Into<String>) -> Change {
    Change::Write {
        path: path.into(),
        text: text.into(),
        owned: Owned::by_root(0o644),
    }
}

fn link(path: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Change {
    Change::Link {
        path: path.into(),
        target: target.into(),
    }
}

fn masked(units: &'static [&'static str]) -> impl Iterator<Item = Change> {
    units
        .iter()
        .map(|unit| link(format!("/etc/systemd/system/{unit}"), "/dev/null"))
}

/// All changes for these items.
pub(crate) fn changes(items: &BTreeSet<Item>, facts: &Facts) -> Vec<Change> {
    items.iter().flat_map(|item| of(*item, facts)).collect()
}

fn of(item: Item, facts: &Facts) -> Vec<Change> {
    match item {
        Item::Gettys => {
            let units = facts.systemd.then(|| masked(&GETTYS)).into_iter().flatten();
            let inittab = facts.inittab.iter().filter_map(|(text, owned)| {
                let quiet = without_gettys(text)?;
                Some(Change::Write {
                    path: "/etc/inittab".into(),
                    text: quiet,
                    owned: *owned,
                })
            });
            units.chain(inittab).collect()
        }
        Item::Mtab => vec![link("/etc/mtab", "../proc/self/mounts")],
        Item::Recommends if facts.apt => vec![write(
            "/etc/apt/apt.conf.d/90no-recommends",
            "APT::Install-Recommends \"false\";\n",
        )],
        Item::TimeZone => match &facts.time_zone {
            Some(zone) if facts.has_zone => vec![
                link("/etc/localtime", format!("/usr/share/zoneinfo/{zone}")),
                write("/etc/timezone", format!("{zone}\n")),
            ],
            Some(_) | None => Vec::new(),
        },
        Item::RootLocked => facts
            .shadow
            .iter()
            .filter_map(|(text, owned)| {
                Some(Change::Write {
                    path: "/etc/shadow".into(),
                    text: with_root_locked(text)?,
                    owned: *owned,
                })
            })
            .collect(),
        Item::Devices => {
            let units = facts.systemd.then(|| masked(&DEVICES)).into_iter().flatten();
            let scripts = facts.boot_scripts.iter().filter(|link| {
                // S02udev
                let name = link
                    .trim_start_matches('S')
                    .trim_start_matches(|c: char| c.is_ascii_digit());
                link.starts_with('S') && DEVICE_SCRIPTS.contains(&name)
            });
            let scripts = scripts.map(|link| Change::Remove {
                path: format!("/etc/rcS.d/{link}").into(),
            });
            units.chain(scripts).collect()
        }
        Item::MachineId => {
            // Empty, systemd makes one at the first boot (`machine-id(5)`).
            let id = write("/etc/machine-id", "");
            let dbus = facts
                .dbus_id
                .then(|| link("/var/lib/dbus/machine-id", "/etc/machine-id"));
            [id].into_iter().chain(dbus).collect()
        }
        Item::Locale => vec![write("/etc/default/locale", "LANG=C.UTF-8\n")],
        Item::ResolvConf => vec![write("/etc/resolv.conf", &facts.resolv_conf)],
        Item::Hostname => vec![write("/etc/hostname", format!("{}\n", facts.hostname))],
        Item::Hosts => vec![write("/etc/hosts", hosts(&facts.hostname, &facts.domain))],
        Item::PolicyRc => vec![Change::Remove {
            path: "/usr/sbin/policy-rc.d".into(),
        }],
        Item::Recommends => Vec::new(),
    }
}

fn hosts(hostname: &str, domain: &str) -> String {
    let names = if domain.is_empty() {
        hostname.to_owned()
    } else {
        format!("{hostname}.{domain} {hostname}")
    };
    format!(
        "127.0.0.1\tlocalhost\n127.0.1.1\t{names}\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
    )
}

/// The text of /etc/inittab without getties; none if it has none.
fn without_gettys(text: &str) -> Option<String> {
    let is_getty = |line: &str| !line.starts_with('#') && line.contains("getty");
    text.lines().any(is_getty).then(|| {
        let quiet = |line: &str| {
            if is_getty(line) {
                format!("#{line}")
            } else {
                line.into()
            }
        };
        ended(text.lines().map(quiet))
    })
}

/// The text of /etc/shadow with root's password locked, which `passwd` unlocks; none if it is.
fn with_root_locked(text: &str) -> Option<String> {
    let locked = |line: &str| {
        let (password, rest) = line.strip_prefix("root:")?.split_once(':')?;
        (!password.starts_with(['!', '*'])).then(|| format!("root:!{password}:{rest}"))
    };
    text.lines().any(|line| locked(line).is_some()).then(|| {
        let lines = text
            .lines()
            .map(|line| locked(line).unwrap_or_else(|| line.into()));
        ended(lines)
    })
}

/// Lines, each with its end.
fn ended(lines: impl Iterator<Item = String>) -> String {
    lines.fold(String::new(), |mut text, line| {
        text.push_str(&line);
        text.push('\n');
        text
    })
}

/// The host's /etc/resolv.conf as a container can use it: without name servers that are the host's own loopback.
pub(crate) fn resolv_conf(text: &str) -> String {
    let is_loopback = |line: &str| {
        let mut words = line.split_whitespace();
        words.next() == Some("nameserver")
            && words
                .next()
                .is_some_and(|server| server.starts_with("127.") || server == "::1")
    };
    let lines = text.lines().filter(|line| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with(['#', ';']) && !is_loopback(line)
    });
    ended(lines.map(String::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(items: &[Item], facts: &Facts) -> Vec<String> {
        changes(&items.iter().copied().collect(), facts)
            .into_iter()
            .map(|change| match change {
                Change::Write { path, text, owned } => {
                    format!("{} {:o} {text:?}", path.display(), owned.mode)
                }
                Change::Link { path, target } => format!("{} -> {}", path.display(), target.display()),
                Change::Remove { path } => format!("no {}", path.display()),
            })
            .collect()
    }

    #[test]
    fn each_item() {
        let facts = Facts {
            hostname: "scan".into(),
            domain: "example.org".into(),
            time_zone: Some("Europe/Berlin".into()),
            resolv_conf: "nameserver 9.9.9.9\n".into(),
            apt: true,
            systemd: true,
            dbus_id: true,
            has_zone: true,
            shadow: Some(("root::1:0:::::\nx::1::::::\n".into(), Owned::by_root(0o640))),
            inittab: Some((
                "id:2:initdefault:\n1:23:respawn:/sbin/getty 38400 tty1\n".into(),
                Owned::by_root(0o644),
            )),
            boot_scripts: ["S01hostname.sh", "S02udev", "S03kmod", "K01udev"]
                .map(String::from)
                .to_vec(),
        };
        for (item, expected) in [
            (
                Item::Gettys,
                &[
                    "/etc/systemd/system/getty@.service -> /dev/null",
                    "/etc/systemd/system/serial-getty@.service -> /dev/null",
                    "/etc/inittab 644 \"id:2:initdefault:\\n#1:23:respawn:/sbin/getty 38400 tty1\\n\"",
                ][..],
            ),
            (Item::Mtab, &["/etc/mtab -> ../proc/self/mounts"]),
            (
                Item::Recommends,
                &["/etc/apt/apt.conf.d/90no-recommends 644 \"APT::Install-Recommends \\\"false\\\";\\n\""],
            ),
            (
                Item::TimeZone,
                &[
                    "/etc/localtime -> /usr/share/zoneinfo/Europe/Berlin",
                    "/etc/timezone 644 \"Europe/Berlin\\n\"",
                ],
            ),
            (
                Item::RootLocked,
                &["/etc/shadow 640 \"root:!:1:0:::::\\nx::1::::::\\n\""],
            ),
            (
                Item::MachineId,
                &[
                    "/etc/machine-id 644 \"\"",
                    "/var/lib/dbus/machine-id -> /etc/machine-id",
                ],
            ),
            (Item::Locale, &["/etc/default/locale 644 \"LANG=C.UTF-8\\n\""]),
            (
                Item::ResolvConf,
                &["/etc/resolv.conf 644 \"nameserver 9.9.9.9\\n\""],
            ),
            (Item::Hostname, &["/etc/hostname 644 \"scan\\n\""]),
            (
                Item::Hosts,
                &[
                    "/etc/hosts 644 \"127.0.0.1\\tlocalhost\\n127.0.1.1\\tscan.example.org scan\\n::1\\tlocalhost ip6-localhost \
                   ip6-loopback\\nff02::1\\tip6-allnodes\\nff02::2\\tip6-allrouters\\n\"",
                ],
            ),
            (Item::PolicyRc, &["no /usr/sbin/policy-rc.d"]),
        ] {
            assert_eq!(shown(&[item], &facts), expected, "{item:?}");
        }
        let devices = shown(&[Item::Devices], &facts);
        assert_eq!(devices.len(), DEVICES.len() + 2);
        assert_eq!(
            devices[DEVICES.len()..],
            ["no /etc/rcS.d/S02udev", "no /etc/rcS.d/S03kmod"]
        );
        // What is not there is not made up.
        let bare = Facts::default();
        for item in [
            Item::Gettys,
            Item::Recommends,
            Item::TimeZone,
            Item::RootLocked,
            Item::Devices,
        ] {
            assert!(shown(&[item], &bare).is_empty(), "{item:?}");
        }
        assert_eq!(Item::all().len(), 12);
    }

    #[test]
    fn passwords_and_name_servers() {
        for locked in ["root:*:1\n", "root:!x:1\n", "x::1\n", ""] {
            assert_eq!(with_root_locked(locked), None, "{locked}");
        }
        assert_eq!(
            resolv_conf(
                "# resolved\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 10.0.0.1\nsearch a b\n\n"
            ),
            "nameserver 10.0.0.1\nsearch a b\n"
        );
    }
}
