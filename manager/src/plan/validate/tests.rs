//! What is found, and put right, by texts.

use super::*;
use crate::definition::{KEYS, Numbers};
use crate::run::network;
use proptest::prelude::*;

const GIB: u64 = 1 << 30;

fn machine() -> Machine {
    Machine {
        memory: 4 * GIB,
        swap: GIB,
        cpus: Some(Numbers::first(2)),
        numa_nodes: Some(Numbers::first(1)),
        processes: Some(32_768),
        disk: FileSystem {
            device: 1,
            size: Some(100 * GIB),
            keeps: None,
        },
        elsewhere: BTreeMap::from([(
            "/mnt/a".into(),
            FileSystem {
                device: 2,
                size: Some(20 * GIB),
                keeps: Some(DiskKept::Nothing),
            },
        )]),
        weighs_disks: Some(false),
        open_files: Some(1_048_576),
        huge_pages: Some(vec![2 << 20]),
        missing: [PathBuf::from("/dev/none")].into(),
        network: network::Host::described("eth0", "192.0.2.1", &["net/ipv4/ip_forward"]),
    }
}

fn files(definitions: &[(&str, &str)], profiles: &[(&str, &str)]) -> Files {
    let of = |files: &[(&str, &str)]| {
        files
            .iter()
            .map(|(name, text)| {
                let file = (format!("/{name}.toml").into(), text.as_bytes().to_vec());
                (name.parse().unwrap(), file)
            })
            .collect()
    };
    Files {
        definitions: of(definitions),
        profiles: of(profiles),
    }
}

/// What is found, each as its first line.
fn found(files: &Files) -> Vec<String> {
    check(files, &machine(), &Layout::default(), None)
        .iter()
        .map(|finding| finding.diagnostic.to_string().lines().next().unwrap().to_owned())
        .collect()
}

#[test]
fn within_a_definition() {
    for (text, expected) in [
        ("", ""),
        (
            "memory_guarantee = \"1G\"\nmemory_soft_guarantee = \"1G\"\nmemory_barrier = \"2G\"\nmemory_limit = \"2G\"",
            "",
        ),
        (
            "memory_limit = \"512M\"\nmemory_guarantee = \"1G\"",
            "3:1: error: `memory_guarantee` is 1G and `memory_limit` is 512M: what it may not have cannot be guaranteed",
        ),
        (
            "memory_limit = \"10%\"\nmemory_soft_guarantee = \"0.5G\"",
            "3:1: error: `memory_soft_guarantee` is 512M and `memory_limit` is 10%: what it may not have cannot be guaranteed",
        ),
        (
            "memory_barrier = \"512M\"\nmemory_guarantee = \"1G\"",
            "3:1: error: `memory_guarantee` is 1G and `memory_barrier` is 512M: it is slowed down before it has what is guaranteed",
        ),
        (
            "memory_barrier = \"2G\"\nmemory_limit = \"1G\"",
            "2:1: error: `memory_barrier` is 2G and `memory_limit` is 1G: the barrier is never reached",
        ),
        ("memory_barrier = \"unlimited\"\nmemory_limit = \"1G\"", ""),
        (
            "memory_guarantee = \"unlimited\"",
            "2:1: warning: `memory_guarantee` of 1 container is 4.0G together",
        ),
        (
            "memory_guarantee = \"1G\"\nmemory_soft_guarantee = \"512M\"",
            "3:1: warning: `memory_soft_guarantee` is 512M and `memory_guarantee` is 1G: it is without effect",
        ),
        (
            "shm = \"1G\"\nmemory_limit = \"512M\"",
            "2:1: warning: `shm` is 1G and `memory_limit` is 512M: what is in /dev/shm counts as its memory",
        ),
        (
            "memory_limit = \"512K\"",
            "2:1: error: `memory_limit` is 512K: nothing can start in it",
        ),
        (
            "memory_limit = \"5G\"",
            "2:1: warning: `memory_limit` is 5G, and this host has no more than 4.0G of memory: the limit never holds",
        ),
        (
            "swap_limit = \"2G\"",
            "2:1: warning: `swap_limit` is 2G, and this host has no more than 1.0G of swap: the limit never holds",
        ),
        (
            "processes = 40000",
            "2:1: warning: `processes` is 40000, and this host has no more than 32768 of processes",
        ),
        (
            "disk_space = \"200G\"",
            "2:1: warning: `disk_space` is 200G, and this host has no more than 100G of disk",
        ),
        (
            "disk_space = \"1G\"\ndisk_space_soft = \"2G\"",
            "3:1: error: `disk_space_soft` is 2G and `disk_space` is 1G: the soft limit is never reached",
        ),
        (
            "disk_inodes = 10\ndisk_inodes_soft = 20",
            "3:1: error: `disk_inodes_soft` is 20 and `disk_inodes` is 10: the soft limit is never reached",
        ),
        (
            "cpus = \"1-3\"",
            "2:1: error: `cpus` is 1-3, and this host has no processors 2-3",
        ),
        (
            "numa_nodes = \"1\"",
            "2:1: error: `numa_nodes` is 1, and this host has no NUMA nodes 1",
        ),
        (
            "cpu_limit = 300",
            "2:1: warning: `cpu_limit` is 300%, and this host has 2 processors (200%): the limit never holds",
        ),
        (
            "cpu_limit = 150\ncpus = \"1\"",
            "2:1: warning: `cpu_limit` is 150%, and it may be on 1 processors (100%): the limit never holds",
        ),
        (
            "rlimits = { nofile = \"1024:2000000\" }",
            "2:1: error: `rlimits` lets a process open 2000000 files, and this host's fs.nr_open is 1048576",
        ),
        ("rlimits = { nofile = 1048576 }", ""),
        (
            "ip = [\"192.0.2.1\", \"2001:db8::1\"]",
            "2:1: error: 192.0.2.1 is the host's own, on eth0",
        ),
        (
            "ip = [\"192.0.2.2\"]",
            "2:1: warning: this host does not pass on what is for 192.0.2.2; put `net.ipv4.ip_forward = 1` into \
             /etc/sysctl.d/60-ctm.conf and run `sysctl --system`",
        ),
        ("ip = [\"2001:db8::1\"]", ""),
        (
            "oom_score_adj = -1000\nmemory_limit = \"1G\"",
            "2:1: warning: `oom_score_adj` is -1000 and there is a `memory_limit`",
        ),
        (
            "hugepages = { \"1G\" = \"1G\", \"2M\" = \"4M\" }",
            "2:1: error: `hugepages` names pages of 1G, which this host does not have",
        ),
        ("io_weight = 100", ""),
        (
            "io_weight = 800",
            "2:1: warning: `io_weight` is 800, and no disk of this host is shared by weight: it is without effect",
        ),
        (
            "io_limits = [{ device = \"/dev/none\", read_bytes = 1 }]",
            "2:1: error: `io_limits` names /dev/none, which this host does not have",
        ),
        (
            "io_limits = [{ device = \"/dev/sda\" }]",
            "2:1: warning: `io_limits` names /dev/sda and limits nothing of it",
        ),
        (
            "profile = \"none\"",
            "2:1: error: there is no profile `none`, and the container cannot start",
        ),
        (
            "after = [\"none\"]",
            "2:1: warning: `after` names none, and there is no such container",
        ),
        ("memory_limit = \"1X\"", "2:16: error: `1X` is no size"),
    ] {
        let found = found(&files(&[("a", &format!("userns = false\n{text}\n"))], &[]));
        match found.as_slice() {
            [] => assert_eq!(expected, "", "{text}"),
            [one] => assert!(
                !expected.is_empty() && one.starts_with(&format!("/a.toml:{expected}")),
                "{text}: {one}"
            ),
            more => panic!("{text}: {more:?}"),
        }
    }
}

#[test]
fn limits_that_the_disk_does_not_keep() {
    let text = "userns = false\ndisk_space = \"1G\"\ndisk_space_soft = \"1G\"\ndisk_inodes = 10\n\
        disk_inodes_soft = \"unlimited\"\n";
    let files = files(&[("a", text)], &[]);
    for (kept, lines) in [
        (None, &[][..]),
        (Some(DiskKept::All), &[]),
        (Some(DiskKept::Space), &[3, 4]),
        (Some(DiskKept::Nothing), &[2, 3, 4]),
    ] {
        let mut machine = machine();
        machine.disk.keeps = kept;
        let found = check(&files, &machine, &Layout::default(), None);
        let found: Vec<_> = found
            .iter()
            .map(|finding| finding.diagnostic.origin.line)
            .collect();
        assert_eq!(found, lines, "{kept:?}");
    }
}

/// A root file system in place is judged by the file system that it is on itself.
#[test]
fn disks_of_roots_that_are_elsewhere() {
    let of = |name: &str, more: &str| format!("userns = false\nrootfs = \"/mnt/{name}\"\n{more}\n");
    let found_in = |keeps, a: &str, b: &str| {
        let files = files(&[("a", &of("a", a)), ("b", &of("b", b))], &[]);
        let mut machine = machine();
        machine.disk.keeps = Some(DiskKept::Nothing);
        let elsewhere = machine.elsewhere.values_mut().next().unwrap();
        elsewhere.keeps = Some(keeps);
        let found = check(&files, &machine, &Layout::default(), None);
        let first = |finding: &Finding| finding.diagnostic.to_string().lines().next().unwrap().to_owned();
        found.iter().map(first).collect::<Vec<_>>()
    };
    assert_eq!(found_in(DiskKept::All, "disk_inodes = 10", ""), [""; 0]);
    assert_eq!(
        found_in(DiskKept::Space, "disk_inodes = 10", "disk_space = \"1G\""),
        [
            "/a.toml:3:1: error: `disk_inodes` is said, and the file system that its files are on keeps only limits of space, and none that \
             are soft",
            "/b.toml:3:1: error: `disk_space` is said, and the file system that its files are on keeps no limits for folders"
        ]
    );
    // Half of each is no more than each has.
    assert_eq!(
        found_in(
            DiskKept::All,
            "disk_space = \"50%\"",
            "disk_space = \"unlimited\""
        ),
        [""; 0]
    );
    assert_eq!(
        found_in(DiskKept::All, "disk_space = \"30G\"", ""),
        [
            "/a.toml:3:1: warning: `disk_space` is 30G, and the file system of its root has no more than 20G of disk: the limit never holds"
        ]
    );
    // Two on one are added up, what is on another is not: 20 GiB here, 100 GiB there.
    let three = |second: &str| {
        let files = files(
            &[
                ("a", &of("a", "disk_space = \"15G\"")),
                ("b", &of(second, "disk_space = \"15G\"")),
                ("c", &of("c", "disk_space = \"80G\"")),
            ],
            &[],
        );
        let mut machine = machine();
        let disk = machine.elsewhere.values().next().copied().unwrap();
        machine
            .elsewhere
            .insert("/mnt/a2".into(), FileSystem { keeps: None, ..disk });
        machine
            .elsewhere
            .insert("/mnt/a".into(), FileSystem { keeps: None, ..disk });
        let found = check(&files, &machine, &Layout::default(), None);
        let found: Vec<_> = found
            .iter()
            .map(|finding| finding.diagnostic.message.clone())
            .collect();
        found
    };
    assert_eq!(three("b"), [""; 0]);
    assert_eq!(
        three("a2"),
        [
            "`disk_space` of 2 containers is 30G together, and the file system of its root has 20G of disk: they cannot all use what they may"
        ]
    );
}

#[test]
fn what_a_profile_says_wrongly_is_said_once() {
    let wrong = "memory_guarantee = \"1G\"\nmemory_limit = \"512M\"\n";
    let named = "userns = false\nrootfs = \"/NAME\"\nprofile = \"p\"\n";
    let (a, b) = (named.replace("NAME", "a"), named.replace("NAME", "b"));
    let files = files(
        &[("a", &a), ("b", &b)],
        &[("p", wrong), ("q", "hostname = \"x\"\n")],
    );
    assert_eq!(
        found(&files),
        [
            "/p.toml:1:1: error: `memory_guarantee` is 1G and `memory_limit` is 512M: what it may not have cannot be guaranteed",
            "/q.toml:1:1: error: a profile cannot say `hostname`",
        ]
    );
    // Put right where it is said.
    let repaired = repaired(&files, &machine(), &Layout::default(), None);
    assert_eq!(
        repaired,
        [("/p.toml".into(), wrong.into(), wrong.replace("1G", "512M"))]
    );
}

#[test]
fn of_a_profile_and_a_definition_the_definition_is_put_right() {
    let own = "userns = false\nprofile = \"p\"\nmemory_limit = \"512M\"\n";
    let files = files(&[("a", own)], &[("p", "memory_guarantee = \"1G\"\n")]);
    assert_eq!(
        repaired(&files, &machine(), &Layout::default(), None),
        [(
            "/a.toml".into(),
            own.into(),
            format!("{own}memory_guarantee = \"512M\"\n")
        )]
    );
}

#[test]
fn all_together() {
    let of = |name: &str, more: &str| format!("userns = false\nrootfs = \"/{name}\"\n{more}\n");
    let pair = |one: &str, other: &str| found(&files(&[("a", &of("a", one)), ("b", &of("b", other))], &[]));
    for (one, other, expected) in [
        ("memory_guarantee = \"1G\"", "memory_guarantee = \"2G\"", ""),
        (
            "memory_guarantee = \"2G\"",
            "memory_guarantee = \"75%\"",
            "/b.toml:3:1: error: `memory_guarantee` of 2 containers is 5.0G together, and this host has 4.0G, of which it \
             needs 260M itself",
        ),
        (
            "memory_guarantee = \"2G\"",
            "memory_guarantee = \"1.9G\"",
            "/a.toml:3:1: warning: `memory_guarantee` of 2 containers is 3.8G together, and this host has 4.0G, of which it \
             needs 260M itself",
        ),
        (
            "memory_guarantee = \"2G\"",
            "memory_soft_guarantee = \"3G\"",
            "/b.toml:3:1: warning: `memory_soft_guarantee` of 2 containers is 5.0G together",
        ),
        (
            "memory_limit = \"3G\"",
            "memory_limit = \"2G\"",
            "/a.toml:3:1: warning: `memory_limit` of 2 containers is 5.0G together, and this host has 4.0G of memory: they \
             cannot all use what they may",
        ),
        ("memory_limit = \"3G\"", "", ""),
        (
            "swap_limit = \"1G\"",
            "swap_limit = \"1M\"",
            "/a.toml:3:1: warning: `swap_limit` of 2 containers is 1.0G together",
        ),
        (
            "processes = 20000",
            "processes = 20000",
            "/a.toml:3:1: warning: `processes` of 2 containers is 40000 together",
        ),
        (
            "disk_space = \"60%\"",
            "disk_space = \"50G\"",
            "/a.toml:3:1: warning: `disk_space` of 2 containers is 110G together, and this host has 100G of disk",
        ),
    ] {
        let found = pair(one, other);
        match found.as_slice() {
            [] => assert_eq!(expected, "", "{one} {other}"),
            [first] if !expected.is_empty() => assert!(first.starts_with(expected), "{first}"),
            more => panic!("{one} {other}: {more:?}"),
        }
    }
    let ids = |first: u32, rootfs: &str| {
        format!("userns = {{ first = {first}, count = 65536 }}\nrootfs = \"{rootfs}\"\n")
    };
    let clash = |first, rootfs| {
        found(&files(
            &[("a", &ids(100_000, "/a")), ("b", &ids(first, rootfs))],
            &[],
        ))
    };
    assert!(clash(165_536, "/b").is_empty());
    assert_eq!(
        clash(165_535, "/b"),
        [
            "/b.toml:1:1: error: host ids 165535..231071 are in part those of container a (100000..165536): each could reach \
          the other's files"
        ]
    );
    assert_eq!(
        clash(165_536, "/a"),
        ["/b.toml:2:1: error: /a is the root file system of container a as well"]
    );
}

#[test]
fn chosen_ones_alone() {
    let files = files(
        &[
            ("a", "userns = false\nmemory_limit = \"3G\"\n"),
            (
                "b",
                "userns = false\nmemory_limit = \"3G\"\nmemory_guarantee = \"4G\"\n",
            ),
        ],
        &[("q", "hostname = \"x\"\n")],
    );
    let of = |name: &str| {
        let chosen = [name.parse().unwrap()];
        check(&files, &machine(), &Layout::default(), Some(&chosen)).len()
    };
    assert_eq!((of("a"), of("b")), (0, 1));
}

/// Guarantees, barriers and limits as people might have them.
fn text() -> impl Strategy<Value = String> {
    let size = proptest::option::weighted(
        0.7,
        prop_oneof![
            (1..6000_u64).prop_map(|mib| format!("{mib}M")),
            (1..150_u64).prop_map(|percent| format!("{percent}%")),
            Just("unlimited".to_owned()),
        ],
    );
    (proptest::collection::vec(size, 5), proptest::option::of(0..6_u16)).prop_map(|(sizes, cpus)| {
        let keys = [
            "memory_guarantee",
            "memory_soft_guarantee",
            "memory_barrier",
            "memory_limit",
            "shm",
        ];
        let said = keys
            .iter()
            .zip(sizes)
            .filter_map(|(key, size)| Some(format!("{key} = \"{}\"\n", size?)));
        let cpus = cpus.map(|last| format!("cpus = \"0-{last}\"\n"));
        said.chain(cpus).collect()
    })
}

proptest! {
    #[test]
    fn a_repair_is_done_once_and_only_lowers(own in proptest::collection::vec((text(), any::<bool>()), 1..5), profile in text()) {
        let machine = machine();
        let own: Vec<_> = own
            .into_iter()
            .enumerate()
            .map(|(at, (text, has))| {
                let profile = if has { "profile = \"p\"\n" } else { "" };
                (format!("c{at}"), format!("userns = false\nrootfs = \"/{at}\"\n{profile}{text}"))
            })
            .collect();
        let own: Vec<_> = own.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let before = files(&own, &[("p", &profile)]);
        let mut after = before.clone();
        for (path, old, new) in repaired(&before, &machine, &Layout::default(), None) {
            let mut all = after.definitions.values_mut().chain(after.profiles.values_mut());
            let (_, bytes) = all.find(|(at, _)| *at == path).unwrap();
            prop_assert_eq!(&String::from_utf8_lossy(bytes), &old);
            *bytes = new.into_bytes();
        }
        prop_assert!(repaired(&after, &machine, &Layout::default(), None).is_empty());
        for finding in check(&after, &machine, &Layout::default(), None) {
            let shown = finding.diagnostic.to_string();
            prop_assert!(!finding.diagnostic.is_error() || shown.contains("nothing can start"), "{}", shown);
        }
        for (name, (path, bytes)) in &before.definitions {
            let read = |files: &Files, bytes: &[u8]| {
                let profile = profile_of(bytes).map(|name| &files.profiles[&name]);
                let profile = profile.map(|(path, bytes)| Text { path, bytes });
                parse(name, profile, Text { path, bytes }, &Layout::default()).unwrap()
            };
            let one = Read { path, parsed: read(&before, bytes) };
            let other = Read { path, parsed: read(&after, &after.definitions[name].1) };
            // Soft guarantees may grow to where they have no effect either.
            for key in KEYS.iter().filter(|key| key.name != "memory_soft_guarantee") {
                if let Some(was) = one.amount(key.name, &machine) {
                    prop_assert!(other.amount(key.name, &machine).is_some_and(|is| is <= was), "{:?}", key);
                } else if key.name != "cpus" {
                    prop_assert_eq!((key.show)(one.definition()).to_string(), (key.show)(other.definition()).to_string());
                }
            }
        }
    }
}
