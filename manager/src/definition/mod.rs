//! A container's definition: the TOML file a person writes, as types that cannot be wrong.
//!
//! Pure: text in, definition or all its faults out. Reading and writing files is `definitions`'.

mod address;
mod boot;
mod capability;
mod disk;
mod edit;
mod key;
mod limit;
mod limit_value;
mod mount;
mod parse;
mod scale;
mod threshold;
pub(crate) mod value;

pub(crate) use address::Address;
pub(crate) use boot::Start;
pub(crate) use capability::CapabilityChange;
pub(crate) use disk::{DiskLimits, Grace};
pub(crate) use edit::{Edit, EditError, with_mount, without_mount};
pub(crate) use key::{Effect, KEYS, Key, key};
pub(crate) use limit::{IoLimit, Limits, MOST_INSTANCES, Numbers, OomScore, Rlimit, SHM, SoftHard, Weight};
pub(crate) use mount::{MountDefinition, MountSource};
pub(crate) use parse::{Faults, MAX_FILE, Parsed, Text, parse, parse_profile, profile_of};
pub(crate) use scale::scale;
pub(crate) use threshold::{Resource, Thresholds};

use crate::ids::Ids;
use crate::layout::Layout;
use crate::make::base::BaseId;
use crate::signal::StopSignal;
use devbroker::model::ContainerName;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

/// How long a container may take to shut down, unless its definition says otherwise.
const STOP_TIMEOUT: Duration = Duration::from_secs(90);
/// The place in the order of starting of a container that says none.
const BOOT_ORDER: u16 = 500;

/// What a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Definition {
    /// Its name.
    pub(crate) name: ContainerName,
    /// What it is for.
    pub(crate) description: String,
    /// Its root file system on the host.
    pub(crate) rootfs: PathBuf,
    /// The base system below its root file system, none if that is all its own.
    pub(crate) base: Option<BaseId>,
    /// Its ids on the host.
    pub(crate) ids: Ids,
    /// Its first process: program and arguments.
    pub(crate) init: Vec<String>,
    /// Whether that is no init, so that one of ours is its parent.
    pub(crate) reaper: bool,
    /// Its host name.
    pub(crate) hostname: String,
    /// Its DNS domain, empty for none.
    pub(crate) domain: String,
    /// Whether its first process has a terminal.
    pub(crate) console: bool,
    /// What asks its init to shut down.
    pub(crate) stop_signal: StopSignal,
    /// How long that may take.
    pub(crate) stop_timeout: Duration,
    /// Whether programs in it can gain no privilege by set-user-id bits and file capabilities.
    pub(crate) no_new_privs: bool,
    /// The host's `AppArmor` profile that its processes run under, empty for none.
    pub(crate) apparmor: String,
    /// Changes to the usual capabilities, later ones win.
    pub(crate) capabilities: Vec<CapabilityChange>,
    /// What starts it.
    pub(crate) start: Start,
    /// Its place at boot: higher ones first.
    pub(crate) boot_order: u16,
    /// Containers that start before it.
    pub(crate) after: Vec<ContainerName>,
    /// What it is reached by, the usual source of what it sends first.
    pub(crate) addresses: Vec<Address>,
    /// What is mounted in it.
    pub(crate) mounts: Vec<MountDefinition>,
    /// What it may use.
    pub(crate) limits: Limits,
    /// What it may have on the disk.
    pub(crate) disk: DiskLimits,
    /// How long it may wait for something before somebody is told.
    pub(crate) pressure: Thresholds,
    /// The profile that says what the definition does not.
    pub(crate) profile: Option<ContainerName>,
}

impl Definition {
    /// A definition with what is usual for everything that must not be said.
    pub(crate) fn new(name: ContainerName, ids: Ids, layout: &Layout) -> Self {
        Self {
            description: String::new(),
            rootfs: layout.rootfs(&name),
            base: None,
            ids,
            init: vec!["/sbin/init".into()],
            reaper: false,
            hostname: hostname(&name),
            domain: String::new(),
            console: false,
            stop_signal: StopSignal::TERM,
            stop_timeout: STOP_TIMEOUT,
            no_new_privs: no_new_privs(ids),
            apparmor: String::new(),
            capabilities: Vec::new(),
            start: Start::Manual,
            boot_order: BOOT_ORDER,
            after: Vec::new(),
            addresses: Vec::new(),
            mounts: Vec::new(),
            limits: Limits::default(),
            disk: DiskLimits::default(),
            pressure: Thresholds::new(),
            profile: None,
            name,
        }
    }

    /// Parses the bytes of one file, the definition of `name` with no profile.
    #[cfg(test)]
    pub(crate) fn parse(
        name: &ContainerName,
        path: &std::path::Path,
        bytes: &[u8],
        layout: &Layout,
    ) -> Result<Self, Faults> {
        let own = Text { path, bytes };
        self::parse(name, None, own, layout).map(|parsed| parsed.definition)
    }

    /// The text of a new definition's file, for a person to go on with: what differs from the usual, and what a person
    /// looks for first. With a profile nothing is said that the profile may say.
    pub(crate) fn text(&self, layout: &Layout) -> String {
        let usual = Self::new(self.name.clone(), self.ids, layout);
        let mut text = format!("# Container {}; see ctm(8).\n", self.name);
        for key in KEYS {
            let value = (key.show)(self).to_string();
            let seeded = key.seeded && (key.identity || self.profile.is_none());
            if seeded || value != (key.show)(&usual).to_string() {
                // Writing to a String does not fail.
                writeln!(text, "# {}\n{} = {}", key.about, key.name, value.trim()).ok();
            }
        }
        text
    }
}

/// Where a container says nothing: a system has `su`, `sudo` and `ping`, and in a user namespace what they lead to is nobody
/// outside. Without one it is the host's root, which fewer programs should be able to become.
fn no_new_privs(ids: Ids) -> bool {
    ids == Ids::Host
}

/// A container's name as a host name: `_` is not for host names.
fn hostname(name: &ContainerName) -> String {
    name.as_str().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{COUNT, IdBlock};
    use std::path::Path;

    fn parse(text: &str) -> Result<Definition, String> {
        Definition::parse(
            &"scan_1".parse().unwrap(),
            Path::new("scan_1.toml"),
            text.as_bytes(),
            &Layout::default(),
        )
        .map_err(|faults| faults.to_string())
    }

    #[test]
    fn what_need_not_be_said() {
        let usual = parse("userns = false\n").unwrap();
        assert_eq!(usual.rootfs, Path::new("/var/lib/ctm/scan_1/rootfs"));
        assert_eq!(usual.hostname, "scan-1");
        assert_eq!(
            parse("userns = false\n"),
            Ok(Definition::new(
                "scan_1".parse().unwrap(),
                Ids::Host,
                &Layout::default()
            ))
        );
    }

    #[test]
    fn text_and_back() {
        let mut definition = Definition::new(
            "scan_1".parse().unwrap(),
            Ids::Block(IdBlock {
                first: 1_000_000,
                count: COUNT,
            }),
            &Layout::default(),
        );
        definition.init = vec!["/bin/sh".into(), "-c".into(), "echo \"a\\b\"\n\t'é'".into()];
        definition.reaper = true;
        definition.stop_signal = StopSignal::SYSTEMD;
        definition.no_new_privs = true;
        definition.apparmor = "ctm-default".into();
        definition.console = true;
        assert_eq!(
            parse(&definition.text(&Layout::default())),
            Ok(definition.clone())
        );
        definition.description = "what \"it\" is".into();
        definition.domain = "example.org".into();
        definition.capabilities = vec!["+SYS_PTRACE".parse().unwrap(), "-NET_RAW".parse().unwrap()];
        definition.start = Start::Device("epson".parse().unwrap());
        definition.boot_order = 7;
        definition.after = vec!["db".parse().unwrap()];
        definition.addresses = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        definition.profile = Some("small".parse().unwrap());
        definition.disk = DiskLimits {
            space: "1.5G".parse().unwrap(),
            space_soft: "10%".parse().unwrap(),
            inodes: "100000".parse().unwrap(),
            inodes_soft: "90000".parse().unwrap(),
            grace: Some("7d".parse().unwrap()),
        };
        definition.mounts = vec![
            MountDefinition {
                source: MountSource::Bind("/srv/a b".into()),
                target: "/srv".into(),
                read_only: true,
                follow: true,
                own_ids: false,
            },
            MountDefinition {
                source: MountSource::Tmpfs("10%".into()),
                target: "/t".into(),
                read_only: false,
                follow: false,
                own_ids: false,
            },
            MountDefinition {
                source: MountSource::Uuid("1b2-c3".into()),
                target: "/u".into(),
                read_only: false,
                follow: false,
                own_ids: true,
            },
        ];
        assert_eq!(parse(&definition.text(&Layout::default())), Ok(definition));
    }

    #[test]
    fn every_fault_with_its_place() {
        let text = "rootfs = \"var/../etc\"\ninit = []\nhostname = \"-x\"\nusernst = false\n\
                    stop_signal = \"TERM\"\nstop_timeout = 0\nno_new_privs = 1\nuserns = { first = 0, count = 1 }\n";
        let faults = String::from(
            "scan_1.toml:1:10: error: the root file system is an absolute path without `..`, and not /\n   |\n \
             1 | rootfs = \"var/../etc\"\n   |          ^^^^^^^^^^^^\n   = as in `rootfs = \"/var/lib/ctm/NAME/rootfs\"`\n\
             scan_1.toml:2:8: error: the program to run is missing\n   |\n 2 | init = []\n   |        ^^\n   \
             = as in `init = [\"/sbin/init\"]`\n\
             scan_1.toml:3:12: error: `-x` is no host name\n   |\n 3 | hostname = \"-x\"\n   |            ^^^^\n   \
             = use 1 to 64 letters, digits, `-` and `.`\n\
             scan_1.toml:4:1: error: unknown key `usernst`\n   |\n 4 | usernst = false\n   | ^^^^^^^\n   \
             = did you mean `userns`?\n\
             scan_1.toml:5:15: error: `TERM` is no signal; write SIGTERM, SIGINT, SIGPWR, SIGRTMIN+3 and the like\n   |\n \
             5 | stop_signal = \"TERM\"\n   |               ^^^^^^\n\
             scan_1.toml:6:16: error: the time to stop is 1 to 3600 seconds\n   |\n 6 | stop_timeout = 0\n   |                ^\n\
             scan_1.toml:7:16: error: expected true or false, found integer\n   |\n 7 | no_new_privs = 1\n   |                ^\n\
             scan_1.toml:8:20: error: ids below 65536 belong to the host's own users; begin higher\n   |\n \
             8 | userns = { first = 0, count = 1 }\n   |                    ^",
        );
        assert_eq!(parse(text).unwrap_err(), faults);
    }

    #[test]
    fn what_is_no_definition() {
        for (text, part) in [
            ("", "`userns` is missing"),
            ("userns = true", "which host ids the container has must be said"),
            ("userns = { first = 100000 }", "`count` is missing"),
            ("userns = { first = 4294967295, count = 2 }", "do not exist"),
            ("userns = { first = 100000, count = 65537 }", "1 to 65536 ids"),
            ("userns = false\nuserns = false", "duplicate key"),
            ("userns = ", "scan_1.toml:1:"),
            ("userns = false\ninit = [\"a\\u0000\"]", "NUL"),
            ("userns = false\nrootfs = \"/\"", "not /"),
            (
                "userns = false\nmount = [{ target = \"/x\" }]",
                "what is mounted must be said",
            ),
            (
                "userns = false\n[[mount]]\nbind = \"/a\"\ntarget = \"/dev/x\"",
                "/dev is mounted by ctm",
            ),
            (
                "userns = false\n[[mount]]\nbind = \"/a\"\ntmpfs = \"1M\"\ntarget = \"/x\"",
                "one of `bind`, `tmpfs` and `uuid`",
            ),
            (
                "userns = false\nmount = [{ tmpfs = \"1T\", target = \"/x\" }]",
                "no size",
            ),
            (
                "userns = false\nmount = [{ bind = \"/a/../b\", target = \"/x\" }]",
                "without `..`",
            ),
            (
                "userns = false\nmount = [{ bind = \"/a\", target = \"/x\", ro = true }]",
                "unknown key `ro`",
            ),
            ("userns = false\ncapabilities = [\"SYS_TIME\"]", "neither + nor -"),
            ("userns = false\nstart = \"device:\"", ":2:9"),
            ("userns = false\nboot_order = 1001", "0 to 1000"),
            ("userns = false\ndescription = \"a\\nb\"", "one line"),
            ("userns = false\ndisk_space = \"5X\"", "is no size"),
            ("userns = false\ndisk_space = -5", "is no size"),
            ("userns = false\ndisk_inodes = \"5M\"", "is no number"),
            ("userns = false\ndisk_grace = \"5y\"", "is no grace time"),
        ] {
            let shown = parse(text).unwrap_err();
            assert!(shown.contains(part), "{text}: {shown}");
        }
        assert!(
            Definition::parse(
                &"x".parse().unwrap(),
                Path::new("x.toml"),
                b"userns = false # \xff",
                &Layout::default()
            )
            .is_err()
        );
        assert!(parse(&" ".repeat(MAX_FILE + 1)).is_err());
    }

    #[test]
    fn a_definition_is_laid_over_its_profile() {
        let name = "a".parse().unwrap();
        let parse = |profile: &str, own: &str| {
            let profile = Text {
                path: Path::new("p.toml"),
                bytes: profile.as_bytes(),
            };
            let own = Text {
                path: Path::new("a.toml"),
                bytes: own.as_bytes(),
            };
            super::parse(&name, Some(profile), own, &Layout::default())
        };
        let parsed = parse(
            "stop_timeout = 7\nno_new_privs = false\n",
            "userns = false\nstop_timeout = 9\nprofile = \"p\"\n",
        )
        .unwrap();
        assert_eq!(parsed.definition.stop_timeout, Duration::from_secs(9));
        assert!(!parsed.definition.no_new_privs);
        let place = |key| {
            let origin = parsed.origins.get(key)?;
            Some(format!("{}:{}", origin.file.display(), origin.line))
        };
        assert_eq!(place("stop_timeout").as_deref(), Some("a.toml:2"));
        assert_eq!(place("no_new_privs").as_deref(), Some("p.toml:2"));
        assert_eq!(place("init"), None);
        let faults = parse("hostname = \"x\"\nfoo = 1\n", "init = 7\n")
            .unwrap_err()
            .to_string();
        for part in [
            "p.toml:1:1: error: a profile cannot say `hostname`",
            "p.toml:2:1: error: unknown key `foo`",
            "a.toml:1:8: error: expected a list",
            "`userns` is missing",
        ] {
            assert!(faults.contains(part), "{faults}");
        }
    }
}
