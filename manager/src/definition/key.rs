//! The keys of a definition, each with what reads it, what shows it, and when a change of it counts. The only list of
//! them: parsing, new files, `ctm set` and `ctm config` all go by it.

use super::value::{self, Fault, Value, string};
use super::{Definition, address, disk, limit_value, mount, threshold};
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

/// A key that a profile may say, whose changes count at once.
const fn live(
    name: &'static str,
    about: &'static str,
    read: fn(&Value<'_>, &mut Definition) -> Result<(), Fault>,
    show: fn(&Definition) -> toml_edit::Value,
) -> Key {
    Key {
        name,
        about,
        effect: Effect::AtOnce,
        identity: false,
        seeded: false,
        read,
        show,
    }
}

/// All keys, in the order in which a new definition has them.
pub(crate) static KEYS: &[Key] = &[
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
        name: "ip",
        about: "Addresses that are routed to it, as in [\"192.0.2.10\", \"2001:db8::10\"].",
        effect: Effect::AtOnce,
        identity: true,
        seeded: false,
        read: |value, definition| place(&mut definition.addresses, address::addresses(value)),
        show: |definition| strings(&definition.addresses),
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
    live(
        "memory_guarantee",
        "Memory that is never taken back from it.",
        |value, definition| place(&mut definition.limits.memory_guarantee, limit_value::size(value)),
        |definition| limit_value::shown_size(definition.limits.memory_guarantee),
    ),
    live(
        "memory_soft_guarantee",
        "Memory that is taken back from it only where nobody else has any to give.",
        |value, definition| {
            place(
                &mut definition.limits.memory_soft_guarantee,
                limit_value::size(value),
            )
        },
        |definition| limit_value::shown_size(definition.limits.memory_soft_guarantee),
    ),
    live(
        "memory_barrier",
        "Memory above which it is slowed down and has to give some back.",
        |value, definition| place(&mut definition.limits.memory_barrier, limit_value::size(value)),
        |definition| limit_value::shown_size(definition.limits.memory_barrier),
    ),
    live(
        "memory_limit",
        "Memory that it cannot exceed: its processes are ended before.",
        |value, definition| place(&mut definition.limits.memory_limit, limit_value::size(value)),
        |definition| limit_value::shown_size(definition.limits.memory_limit),
    ),
    live(
        "swap_limit",
        "Swap that it may use besides.",
        |value, definition| place(&mut definition.limits.swap_limit, limit_value::size(value)),
        |definition| limit_value::shown_size(definition.limits.swap_limit),
    ),
    live(
        "processes",
        "Processes and threads that it may have.",
        |value, definition| place(&mut definition.limits.processes, limit_value::processes(value)),
        |definition| limit_value::shown_count(definition.limits.processes),
    ),
    live(
        "cpu_weight",
        "Its share of busy processors against the others', 1 to 10000.",
        |value, definition| place(&mut definition.limits.cpu_weight, limit_value::weight(value)),
        |definition| i64::from(definition.limits.cpu_weight.get()).into(),
    ),
    live(
        "cpu_limit",
        "Time on processors, in percent of one.",
        |value, definition| place(&mut definition.limits.cpu_limit, limit_value::cpu_limit(value)),
        |definition| limit_value::shown_cpu_limit(definition.limits.cpu_limit),
    ),
    live(
        "cpus",
        "The processors it may be on, as in \"0-3,5\"; empty for all.",
        |value, definition| place(&mut definition.limits.cpus, limit_value::numbers(value)),
        |definition| definition.limits.cpus.to_string().into(),
    ),
    live(
        "numa_nodes",
        "The NUMA nodes whose memory it may have, as in \"0\"; empty for all.",
        |value, definition| place(&mut definition.limits.numa_nodes, limit_value::numbers(value)),
        |definition| definition.limits.numa_nodes.to_string().into(),
    ),
    live(
        "io_weight",
        "Its share of busy disks against the others', 1 to 10000.",
        |value, definition| place(&mut definition.limits.io_weight, limit_value::weight(value)),
        |definition| i64::from(definition.limits.io_weight.get()).into(),
    ),
    live(
        "io_limits",
        "What it may do to a disk in a second, as in [{ device = \"/dev/sda\", write_bytes = \"10M\" }].",
        |value, definition| place(&mut definition.limits.io, limit_value::io_limits(value)),
        |definition| limit_value::shown_io_limits(&definition.limits.io),
    ),
    live(
        "ptys",
        "Terminals that it may have.",
        |value, definition| place(&mut definition.limits.ptys, limit_value::ptys(value)),
        |definition| limit_value::shown_count(definition.limits.ptys),
    ),
    live(
        "rlimits",
        "Limits of each of its processes, soft and hard, as in { nofile = \"1024:4096\" }.",
        |value, definition| place(&mut definition.limits.rlimits, limit_value::rlimits(value)),
        |definition| limit_value::shown_rlimits(&definition.limits.rlimits),
    ),
    live(
        "shm",
        "The size of its /dev/shm.",
        |value, definition| place(&mut definition.limits.shm, limit_value::size(value)),
        |definition| limit_value::shown_size(definition.limits.shm),
    ),
    live(
        "hugepages",
        "Huge pages by their size, as in { \"2M\" = \"64M\" }.",
        |value, definition| place(&mut definition.limits.hugepages, limit_value::hugepages(value)),
        |definition| limit_value::shown_hugepages(&definition.limits.hugepages),
    ),
    live(
        "tcp_receive_buffer",
        "The largest receive buffer of a TCP connection; empty for the host's.",
        |value, definition| {
            place(
                &mut definition.limits.tcp_receive_buffer,
                limit_value::size_or_usual(value),
            )
        },
        |definition| {
            definition
                .limits
                .tcp_receive_buffer
                .map_or_else(|| "".into(), limit_value::shown_size)
        },
    ),
    live(
        "tcp_send_buffer",
        "The largest send buffer of a TCP connection; empty for the host's.",
        |value, definition| {
            place(
                &mut definition.limits.tcp_send_buffer,
                limit_value::size_or_usual(value),
            )
        },
        |definition| {
            definition
                .limits
                .tcp_send_buffer
                .map_or_else(|| "".into(), limit_value::shown_size)
        },
    ),
    live(
        "inotify_instances",
        "How many watchers of files (inotify) its processes may have together; usually 128. With a user namespace.",
        |value, definition| {
            place(
                &mut definition.limits.inotify_instances,
                limit_value::inotify_instances(value),
            )
        },
        |definition| limit_value::shown_count(definition.limits.inotify_instances),
    ),
    live(
        "oom_score_adj",
        "How soon its processes are ended where the host has no memory left, -1000 to 1000.",
        |value, definition| {
            place(
                &mut definition.limits.oom_score_adj,
                limit_value::oom_score(value),
            )
        },
        |definition| i64::from(definition.limits.oom_score_adj.get()).into(),
    ),
    live(
        "disk_space",
        "The most that its files may take on the disk, as in \"20G\" or \"10%\" of the file system.",
        |value, definition| place(&mut definition.disk.space, limit_value::size(value)),
        |definition| limit_value::shown_size(definition.disk.space),
    ),
    live(
        "disk_space_soft",
        "What they may take for no longer than disk_grace; ext4 and xfs.",
        |value, definition| place(&mut definition.disk.space_soft, limit_value::size(value)),
        |definition| limit_value::shown_size(definition.disk.space_soft),
    ),
    live(
        "disk_inodes",
        "The most files, folders and links that it may have; ext4 and xfs.",
        |value, definition| place(&mut definition.disk.inodes, disk::inodes(value)),
        |definition| limit_value::shown_count(definition.disk.inodes),
    ),
    live(
        "disk_inodes_soft",
        "How many it may have for no longer than disk_grace; ext4 and xfs.",
        |value, definition| place(&mut definition.disk.inodes_soft, disk::inodes(value)),
        |definition| limit_value::shown_count(definition.disk.inodes_soft),
    ),
    live(
        "disk_grace",
        "How long a soft limit may be exceeded, as in \"7d\"; the shortest of a file system counts for all on it.",
        |value, definition| place(&mut definition.disk.grace, disk::grace(value)),
        |definition| {
            let grace = definition.disk.grace.as_ref();
            grace.map(ToString::to_string).unwrap_or_default().into()
        },
    ),
    Key {
        name: "pressure",
        about: "Waits of which somebody is told, as in { memory = 10, io = 50 }: percent of two seconds.",
        effect: Effect::NextStart,
        identity: false,
        seeded: false,
        read: |value, definition| place(&mut definition.pressure, threshold::read(value)),
        show: |definition| threshold::show(&definition.pressure),
    },
    Key {
        name: "profile",
        about: "The profile that says what this file does not.",
        effect: Effect::AtOnce,
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

/// How alike two names are, 0 to 1, for one to be taken for the other's misspelling.
const ALIKE: f64 = 0.75;

/// What to do about a name that is no key: the key that it is almost, or all that there are.
pub(crate) fn meant_by(name: &str) -> String {
    let alike = |key: &Key| strsim::normalized_damerau_levenshtein(key.name, name);
    let nearest = KEYS.iter().max_by(|a, b| alike(a).total_cmp(&alike(b)));
    if let Some(key) = nearest.filter(|key| alike(key) >= ALIKE) {
        return format!("did you mean `{}`?", key.name);
    }
    let names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
    format!("known are {}", names.join(", "))
}

fn place<T>(place: &mut T, value: Result<T, Fault>) -> Result<(), Fault> {
    value.map(|value| *place = value)
}

fn strings(list: &[impl ToString]) -> toml_edit::Value {
    list.iter().map(ToString::to_string).collect::<Array>().into()
}
