//! Work inside containers that have a `/dev` of their own.

use crate::inside::{BASE, Container, ids, private_host};
use devbroker::host::devfs::{Devfs, Limits};
use devbroker::host::namespace::{Busy, Job, NamespaceError, Outcome, Report, Target, Task, Workers};
use devbroker::model::{Acl, DevNum, InstanceId, NodePath};
use devbroker::permissions::HostPerms;
use std::collections::BTreeSet;
use tokio::sync::mpsc::UnboundedReceiver;

const NULL: DevNum = DevNum::char(1, 3);

struct Foreign {
    devfs: Devfs,
    container: Container,
    target: Target,
    base: u32,
}

/// A container with its own `/dev`, a tmpfs that it mounted itself.
fn foreign(folder: &tempfile::TempDir, own_users: bool, number: u64) -> Foreign {
    let at = folder.path().join(number.to_string());
    let ids = ids(own_users);
    let devfs = Devfs::create(&at, Limits::default(), &ids, &ids).unwrap();
    let mut container = Container::start(own_users, "");
    container.sh("mount -t tmpfs -o mode=755,nr_inodes=64 none /dev");
    let base = if own_users { BASE } else { 0 };
    let noted = folder.path().join(format!("{number}.folders"));
    let instance = InstanceId::from_bits(number);
    let target = Target::hold(instance, container.pid, (base, base), noted).unwrap();
    Foreign {
        devfs,
        container,
        target,
        base,
    }
}

fn names(names: &[&str]) -> BTreeSet<NodePath> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn done(outcomes: &mut UnboundedReceiver<Outcome>) -> Result<Report, NamespaceError> {
    match outcomes.blocking_recv().unwrap() {
        Outcome::Done { result, .. } => result,
        Outcome::Stuck { instance } => panic!("{instance} is stuck"),
    }
}

struct Pool {
    workers: Workers,
    outcomes: UnboundedReceiver<Outcome>,
}

impl Pool {
    fn new(limit: usize) -> Self {
        let (workers, outcomes) = Workers::new(limit).unwrap();
        Self { workers, outcomes }
    }

    fn run(&mut self, foreign: &Foreign, task: Task) -> Result<Report, NamespaceError> {
        self.workers
            .submit(Job {
                target: foreign.target.clone(),
                task,
            })
            .unwrap();
        done(&mut self.outcomes)
    }

    fn bind(&mut self, foreign: &Foreign) -> Result<Report, NamespaceError> {
        let dev = foreign.devfs.dev().try_clone().unwrap();
        self.run(foreign, Task::Bind { dev })
    }

    fn links(&mut self, foreign: &Foreign, wanted: &[&str], known: &[&str]) -> Report {
        let task = Task::Links {
            wanted: names(wanted),
            known: names(known),
        };
        self.run(foreign, task).unwrap()
    }
}

fn place(foreign: &mut Foreign, path: &str) -> u64 {
    let base = foreign.base;
    let perms = HostPerms {
        uid: base + 7,
        gid: base + 8,
        mode: 0o660,
        acl: Acl::default(),
    };
    foreign
        .devfs
        .place(&path.parse().unwrap(), NULL, &perms, &mut |_| Ok(()))
        .unwrap()
}

fn failures(report: &Report) -> Vec<(&str, &'static str)> {
    report
        .failed
        .iter()
        .map(|(path, error)| {
            let kind = if matches!(error, NamespaceError::Exists { .. }) {
                "exists"
            } else if matches!(error, NamespaceError::Blocked { .. }) {
                "blocked"
            } else if matches!(error, NamespaceError::Full { .. }) {
                "full"
            } else {
                panic!("{error}")
            };
            (path.as_str(), kind)
        })
        .collect()
}

#[test]
fn nodes_open_through_links_in_the_containers_own_dev() {
    let folder = private_host();
    for (number, own_users) in [(1, false), (2, true)] {
        let mut foreign = foreign(&folder, own_users, number);
        let mut pool = Pool::new(2);
        pool.bind(&foreign).unwrap();
        pool.bind(&foreign).unwrap();
        let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", foreign.container.pid)).unwrap();
        assert_eq!(mounts.matches("/dev/.devbroker").count(), 1, "{mounts}");
        // What is in stage/ is out of reach inside.
        assert_eq!(foreign.container.ask("stat /dev/.devbroker/../stage"), "ENOENT");

        let all = ["bus/usb/001/004", "ttyUSB0"];
        let ino = place(&mut foreign, "ttyUSB0");
        place(&mut foreign, "bus/usb/001/004");
        let report = pool.links(&foreign, &all, &[]);
        assert_eq!(
            report.linked.iter().map(NodePath::as_str).collect::<Vec<_>>(),
            all
        );
        for name in all {
            assert_eq!(foreign.container.ask(&format!("open /dev/{name}")), "ok");
            assert_eq!(
                foreign.container.ask(&format!("stat /dev/.devbroker/{name}")),
                "c1:3 7:8 660"
            );
            assert_eq!(
                foreign.container.ask(&format!("stat /dev/{name}")),
                "l0:0 0:0 777"
            );
        }
        assert_eq!(foreign.container.ask("stat /dev/bus/usb/001"), "d0:0 0:0 755");
        assert!(pool.links(&foreign, &all, &all).linked.is_empty());
        // A node goes and comes without a step inside.
        foreign
            .devfs
            .withdraw(&"ttyUSB0".parse().unwrap(), ino, NULL)
            .unwrap();
        assert_eq!(foreign.container.ask("open /dev/ttyUSB0"), "ENOENT");
        place(&mut foreign, "ttyUSB0");
        assert_eq!(foreign.container.ask("open /dev/ttyUSB0"), "ok");
        // Root inside cannot make a node there of its own accord.
        if own_users {
            assert_ne!(
                foreign.container.ask("sh mknod /dev/.devbroker/x c 1 3 2>&1"),
                "0"
            );
        }

        // What goes takes its folders along, but not the container's.
        let report = pool.links(&foreign, &["ttyUSB0"], &all);
        assert_eq!(report.unlinked, ["bus/usb/001/004".parse().unwrap()]);
        assert_eq!(foreign.container.ask("stat /dev/bus"), "ENOENT");
        foreign.container.sh("mkdir /dev/mine");
        let st_dev = foreign.devfs.st_dev();
        pool.run(
            &foreign,
            Task::Unbind {
                known: names(&all),
                st_dev,
            },
        )
        .unwrap();
        pool.run(
            &foreign,
            Task::Unbind {
                known: names(&all),
                st_dev,
            },
        )
        .unwrap();
        foreign.container.sh("[ \"$(ls -A /dev)\" = mine ]");
        // And once more from the beginning.
        pool.bind(&foreign).unwrap();
        pool.links(&foreign, &all, &[]);
        assert_eq!(foreign.container.ask("open /dev/ttyUSB0"), "ok");
    }
}

#[test]
fn what_the_container_puts_in_the_way_is_named_and_left_alone() {
    let folder = private_host();
    let victim = folder.path().join("victim");
    std::fs::create_dir(&victim).unwrap();
    for (number, own_users) in [(1, false), (2, true)] {
        let mut foreign = foreign(&folder, own_users, number);
        let mut pool = Pool::new(1);
        let victim_path = victim.display().to_string();
        for trap in [
            &format!("ln -s {victim_path} /dev/.devbroker"),
            "mkfifo /dev/.devbroker",
        ] {
            foreign.container.sh(trap);
            let error = pool.bind(&foreign).unwrap_err();
            assert!(matches!(error, NamespaceError::Blocked { .. }), "{error:?}");
            foreign.container.sh("rm /dev/.devbroker");
        }
        foreign
            .container
            .sh("mkdir /dev/.devbroker; mount -t tmpfs none /dev/.devbroker");
        let error = pool.bind(&foreign).unwrap_err();
        assert!(matches!(error, NamespaceError::Blocked { .. }), "{error:?}");
        foreign.container.sh("umount /dev/.devbroker");
        pool.bind(&foreign).unwrap();

        foreign.container.sh(&format!(
            "cd /dev; ln -s {victim_path} bus; ln -s ../..{victim_path} relative; mkfifo fifo; mkdir mounted; \
             mount -t tmpfs none mounted; ln -s {victim_path}/new lp0; echo > lp1"
        ));
        let all = [
            "bus/usb/001/004",
            "fifo/x",
            "lp0",
            "lp1",
            "mounted/x",
            "relative/x",
            "ttyUSB0",
        ];
        let report = pool.links(&foreign, &all, &all);
        assert_eq!(
            failures(&report),
            [
                ("bus/usb/001/004", "blocked"),
                ("fifo/x", "blocked"),
                ("lp0", "exists"),
                ("lp1", "exists"),
                ("mounted/x", "blocked"),
                ("relative/x", "blocked"),
            ]
        );
        assert_eq!(report.linked, ["ttyUSB0".parse().unwrap()]);
        // Nothing of it is ours, so nothing of it is removed.
        let report = pool.links(&foreign, &[], &all);
        assert_eq!(report.unlinked, ["ttyUSB0".parse().unwrap()]);
        assert!(report.failed.is_empty(), "{report:?}");
        foreign
            .container
            .sh("[ \"$(ls -A /dev | tr '\\n' ' ')\" = '.devbroker bus fifo lp0 lp1 mounted relative ' ]");
        assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0);
        // The container's own /dev can be full while ours is not.
        foreign.container.sh("umount /dev/mounted");
        foreign
            .container
            .ask("sh cd /dev; for i in $(seq 100); do : > f$i; done 2>&1");
        assert_eq!(
            failures(&pool.links(&foreign, &["ttyUSB1"], &[])),
            [("ttyUSB1", "full")]
        );
    }
}

/// Workers die with the daemon, at any moment; the next one leaves nothing of theirs and nothing less of the container's.
#[test]
fn folders_of_a_killed_daemon_go_and_the_containers_stay() {
    let folder = private_host();
    for (number, own_users) in [(1, false), (2, true)] {
        let mut foreign = foreign(&folder, own_users, number);
        let noted = foreign.target.folders.clone();
        let all = ["bus/usb/001/004", "snd/x", "theirs/x"];
        let mut pool = Pool::new(1);
        pool.bind(&foreign).unwrap();
        foreign.container.sh("mkdir /dev/theirs");
        assert_eq!(pool.links(&foreign, &all, &[]).linked.len(), 3);
        assert_eq!(foreign.container.ask("stat /dev/snd"), "d0:0 0:0 755");
        let before = std::fs::read_to_string(&noted).unwrap();
        drop(pool);
        let mut pool = Pool::new(1);
        // Killed before it noted a folder, and before it named one.
        foreign.container.sh("mkdir /dev/.devbroker.new /dev/later");
        std::fs::write(&noted, before.replacen('{', "{\"later\":1,", 1)).unwrap();
        let report = pool.links(&foreign, &[], &all);
        assert_eq!(report.unlinked.len(), 3);
        foreign
            .container
            .sh("[ \"$(ls -A /dev | tr '\\n' ' ')\" = '.devbroker later theirs ' ]");
        assert_eq!(std::fs::read_to_string(&noted).unwrap(), "{}");

        // What cannot be noted is not made.
        std::fs::remove_file(&noted).unwrap();
        std::fs::create_dir(noted.with_extension("new")).unwrap();
        let report = pool.links(&foreign, &["lp0", "usb/lp0"], &[]);
        let failed: Vec<_> = report
            .failed
            .iter()
            .map(|(path, error)| format!("{path}: {error}"))
            .collect();
        let expected = "usb/lp0: cannot note that the folder /dev/usb is the broker's: Is a directory (os error 21); it was not made, and is tried again";
        assert_eq!(failed, [expected]);
        foreign
            .container
            .sh("[ \"$(ls -A /dev | tr '\\n' ' ')\" = '.devbroker later lp0 theirs ' ]");
    }
}

#[test]
fn an_ended_container_and_the_hosts_dev_are_refused() {
    let folder = private_host();
    let mut pool = Pool::new(1);
    let mut foreign = foreign(&folder, true, 1);
    foreign.container.kill();
    let error = pool.bind(&foreign).unwrap_err();
    assert!(matches!(error, NamespaceError::Gone { .. }), "{error:?}");
    let task = Task::Links {
        wanted: names(&["x"]),
        known: names(&[]),
    };
    let error = pool.run(&foreign, task).unwrap_err();
    assert!(matches!(error, NamespaceError::Gone { .. }), "{error:?}");

    let mut foreign = self::foreign(&folder, false, 2);
    foreign.container.sh("umount /dev");
    let error = pool.bind(&foreign).unwrap_err();
    assert!(matches!(error, NamespaceError::HostsDev), "{error:?}");
    assert_eq!(foreign.container.ask("stat /dev/.devbroker"), "ENOENT");
}

#[test]
fn accounts_are_the_containers_own() {
    let folder = private_host();
    let mut pool = Pool::new(1);
    let mut foreign = foreign(&folder, true, 1);
    foreign
        .container
        .sh("mount -t tmpfs none /etc; echo saned:x:113:120::/:/bin/false > /etc/passwd");
    let accounts = pool.run(&foreign, Task::Accounts).unwrap().accounts.unwrap();
    let name = |name: &str| devbroker::model::UserRef::Name(name.into());
    assert_eq!(accounts.user(&name("saned")), Some(113));
    assert_eq!(accounts.user(&name("daemon")), None);
}

/// A FUSE that never answers over one container's `/dev`: its worker hangs and is reported, everyone else goes on, its
/// node can be withdrawn, and when it ends the worker comes back.
#[test]
fn a_container_that_hangs_holds_up_nobody() {
    let folder = private_host();
    let mut pool = Pool::new(1);
    let mut hostile = foreign(&folder, false, 1);
    let other = foreign(&folder, true, 2);
    pool.bind(&hostile).unwrap();
    pool.bind(&other).unwrap();
    let ino = place(&mut hostile, "ttyUSB0");
    hostile.container.sh("mknod /dev/fuse c 10 229");
    assert_eq!(hostile.container.ask("fuse /dev"), "ok");

    let job = |foreign: &Foreign| Job {
        target: foreign.target.clone(),
        task: Task::Links {
            wanted: names(&["ttyUSB0"]),
            known: names(&[]),
        },
    };
    pool.workers.submit(job(&hostile)).unwrap();
    assert_eq!(pool.workers.submit(job(&hostile)), Err(Busy::AtWork));
    // There is one thread, so this waits until the first is known to hang.
    pool.workers.submit(job(&other)).unwrap();
    let outcome = pool.outcomes.blocking_recv().unwrap();
    assert!(
        matches!(&outcome, Outcome::Stuck { instance } if *instance == hostile.target.instance),
        "{outcome:?}"
    );
    assert_eq!(pool.workers.submit(job(&hostile)), Err(Busy::Stuck));
    let outcome = pool.outcomes.blocking_recv().unwrap();
    assert!(
        matches!(&outcome, Outcome::Done { instance, result: Ok(_) } if *instance == other.target.instance),
        "{outcome:?}"
    );
    assert_eq!(pool.links(&other, &[], &["ttyUSB0"]).unlinked.len(), 1);
    let withdrawn = hostile
        .devfs
        .withdraw(&"ttyUSB0".parse().unwrap(), ino, NULL)
        .unwrap();
    assert!(withdrawn.in_place);

    // Its end ends the FUSE, and the worker with an error.
    hostile.container.kill();
    done(&mut pool.outcomes).unwrap();
    let error = pool
        .run(
            &hostile,
            Task::Links {
                wanted: names(&["x"]),
                known: names(&[]),
            },
        )
        .unwrap_err();
    assert!(matches!(error, NamespaceError::Gone { .. }), "{error:?}");
}

/// A FUSE that is there beforehand is seen without touching it.
#[test]
fn a_fuse_over_dev_is_refused_unasked() {
    let folder = private_host();
    let mut pool = Pool::new(1);
    let mut foreign = foreign(&folder, false, 1);
    foreign.container.sh("mknod /dev/fuse c 10 229");
    foreign.container.ask("fuse /dev");
    let error = pool.bind(&foreign).unwrap_err();
    assert!(
        matches!(&error, NamespaceError::Fuse { fs } if fs == "fuse"),
        "{error:?}"
    );
}
