//! The container's `/dev` on the real kernel, with a container that does what it can to get in the way.

use crate::inside::{BASE, Container, hex, ids, private_host};
use devbroker::host::devfs::{Devfs, DevfsError, Kind, Limits, Made};
use devbroker::model::{Acl, AclEntry, AclTag, DevNum, IdMap, NodePath};
use devbroker::permissions::{HostPerms, acl_to_xattr, to_inside};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A device that can be opened on any host: what `/dev/null` and `/dev/zero` are.
const NULL: DevNum = DevNum::char(1, 3);
const ZERO: DevNum = DevNum::char(1, 5);

struct Setup {
    devfs: Devfs,
    container: Container,
    base: u32,
    _folder: tempfile::TempDir,
}

fn setup_with(own_users: bool, limits: Limits) -> Setup {
    let folder = private_host();
    let at = folder.path().join("devfs");
    let devfs = Devfs::create(&at, limits, &ids(own_users), &ids(own_users)).unwrap();
    devfs.standard_nodes().unwrap();
    let container = Container::start(own_users, &format!("mount --bind {}/dev /dev", at.display()));
    Setup {
        devfs,
        container,
        base: if own_users { BASE } else { 0 },
        _folder: folder,
    }
}

fn setup(own_users: bool) -> Setup {
    setup_with(own_users, Limits::default())
}

fn path(text: &str) -> NodePath {
    text.parse().unwrap()
}

fn perms(uid: u32, gid: u32, mode: u16) -> HostPerms {
    HostPerms {
        uid,
        gid,
        mode,
        acl: Acl::default(),
    }
}

fn place(devfs: &mut Devfs, at: &str, devnum: DevNum, perms: &HostPerms) -> Result<u64, DevfsError> {
    devfs.place(&path(at), devnum, perms, &mut |_| Ok(()))
}

#[test]
fn a_placed_node_opens_inside_and_is_gone_when_withdrawn() {
    for own_users in [false, true] {
        let Setup {
            mut devfs,
            mut container,
            base,
            _folder,
        } = setup(own_users);
        let uid_map = std::fs::read_to_string(format!("/proc/{}/uid_map", container.pid)).unwrap();
        assert_eq!(IdMap::parse(&uid_map), Some(ids(own_users)));
        let mut told = Vec::new();
        let node = path("bus/usb/001/004");
        let wanted = perms(base + 7, base + 8, 0o640);
        let ino = devfs
            .place(&node, NULL, &wanted, &mut |made| {
                told.push(made);
                Ok(())
            })
            .unwrap();
        let folders: Vec<_> = told
            .iter()
            .filter_map(|made| match made {
                Made::Folder { path, ino } => Some((path.clone(), *ino)),
                Made::Node { .. } => None,
            })
            .collect();
        assert_eq!(
            folders.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(),
            ["bus", "bus/usb", "bus/usb/001"]
        );
        assert_eq!(told.last(), Some(&Made::Node { ino }));
        assert_eq!(container.ask("stat /dev/bus/usb/001/004"), "c1:3 7:8 640");
        assert_eq!(container.ask("open /dev/bus/usb/001/004"), "ok");
        assert_eq!(container.ask("stat /dev/bus/usb"), "d0:0 0:0 755");

        // What is done inside is what is seen at the end.
        container.sh("chown 3:4 /dev/bus/usb/001/004; chmod 604 /dev/bus/usb/001/004");
        let seen = perms(base + 3, base + 4, 0o604);
        assert_eq!(devfs.permissions(ino).unwrap(), Some(seen.clone()));
        let withdrawn = devfs.withdraw(&node, ino, NULL).unwrap();
        assert_eq!(withdrawn.seen, Some(seen));
        assert_eq!(
            (withdrawn.in_place, withdrawn.elsewhere, withdrawn.lingering),
            (true, 0, 0)
        );
        assert_eq!(container.ask("stat /dev/bus/usb/001/004"), "ENOENT");
        assert_eq!(devfs.look(&node).unwrap(), None);

        // The folders go, but not one that something is in.
        container.sh("touch /dev/bus/mine");
        let gone = devfs.prune(&folders);
        assert_eq!(gone, [path("bus/usb/001"), path("bus/usb")]);
        assert_eq!(container.ask("stat /dev/bus/usb"), "ENOENT");
        container.sh("rm /dev/bus/mine");
        assert_eq!(devfs.prune(&folders).len(), 3);
        assert_eq!(container.ask("stat /dev/bus"), "ENOENT");
        assert_eq!(container.ask("open /dev/null"), "ok");
    }
}

#[test]
fn a_node_appears_finished_and_goes_in_one_step() {
    for own_users in [false, true] {
        let Setup {
            mut devfs,
            mut container,
            base,
            _folder,
        } = setup(own_users);
        container.ask("probe /dev/ttyUSB0");
        for _ in 0..300 {
            let ino = place(&mut devfs, "ttyUSB0", NULL, &perms(base, base + 20, 0o660)).unwrap();
            devfs.withdraw(&path("ttyUSB0"), ino, NULL).unwrap();
        }
        // Once more and long enough to be seen.
        let ino = place(&mut devfs, "ttyUSB0", NULL, &perms(base, base + 20, 0o660)).unwrap();
        assert_eq!(container.ask("open /dev/ttyUSB0"), "ok");
        let probed = container.ask("probed");
        // An open that found the name just before it went finds a node without rights: EACCES in a user namespace.
        let allowed = [
            "ENOENT",
            "c1:3 0:20 660",
            "open: EACCES",
            "open: ENOENT",
            "open: ok",
        ];
        assert!(probed.split(", ").all(|seen| allowed.contains(&seen)), "{probed}");
        for must in ["c1:3 0:20 660", "open: ok"] {
            assert!(probed.split(", ").any(|seen| seen == must), "{probed}");
        }
        devfs.withdraw(&path("ttyUSB0"), ino, NULL).unwrap();
    }
}

#[test]
fn links_and_descriptors_that_the_container_keeps_open_nothing() {
    for own_users in [false, true] {
        let Setup {
            mut devfs,
            mut container,
            base,
            _folder,
        } = setup(own_users);
        let ino = place(&mut devfs, "lp0", NULL, &perms(base, base, 0o666)).unwrap();
        container.sh("mkdir -p /dev/a/b; ln /dev/lp0 /dev/a/b/hidden");
        container.sh("touch /tmp/devbroker-kept; mount --bind /dev/lp0 /tmp/devbroker-kept");
        container.ask("keep /dev/lp0");
        assert_eq!(container.ask("reopen"), "ok");
        assert_eq!(container.ask("open /tmp/devbroker-kept"), "ok");
        let withdrawn = devfs.withdraw(&path("lp0"), ino, NULL).unwrap();
        assert_eq!(
            (withdrawn.in_place, withdrawn.elsewhere, withdrawn.lingering),
            (true, 1, 0)
        );
        assert_eq!(container.ask("stat /dev/a/b/hidden"), "ENOENT");
        if own_users {
            assert_eq!(container.ask("reopen"), "EACCES");
            assert_eq!(container.ask("open /tmp/devbroker-kept"), "EACCES");
            assert_ne!(container.ask("sh chmod 666 /tmp/devbroker-kept 2>/dev/null"), "0");
            assert_ne!(container.ask("sh chown 0 /tmp/devbroker-kept 2>/dev/null"), "0");
        }
        // Without a user namespace root needs no rights: there the device program is what stops it.
        assert_eq!(
            container
                .ask("stat /tmp/devbroker-kept")
                .split_once(' ')
                .unwrap()
                .1,
            if own_users { "65534:65534 0" } else { "0:0 0" }
        );
        container.sh("umount /tmp/devbroker-kept; rm /tmp/devbroker-kept");
    }
}

#[test]
fn a_node_that_was_moved_is_found_and_made_useless() {
    for own_users in [false, true] {
        let Setup {
            mut devfs,
            mut container,
            base,
            _folder,
        } = setup(own_users);
        let ino = place(&mut devfs, "usb/lp0", NULL, &perms(base, base, 0o600)).unwrap();
        container.ask("keep /dev/usb/lp0");
        container
            .sh("mkdir -p /dev/x/y; mv /dev/usb/lp0 /dev/x/y/z; mknod /dev/usb/lp0 p; chmod 640 /dev/x/y/z");
        let withdrawn = devfs.withdraw(&path("usb/lp0"), ino, NULL).unwrap();
        assert_eq!(withdrawn.seen, Some(perms(base, base, 0o640)));
        assert_eq!(
            (withdrawn.in_place, withdrawn.elsewhere, withdrawn.lingering),
            (false, 1, 0)
        );
        assert_eq!(container.ask("stat /dev/x/y/z"), "ENOENT");
        assert_eq!(container.ask("reopen"), if own_users { "EACCES" } else { "ok" });
        assert_eq!(container.ask("stat /dev/usb/lp0"), "?0:0 0:0 644");
        assert!(!devfs.is_ours(ino));

        // Deeper than any path reaches: not found, but useless all the same.
        let ino = place(&mut devfs, "lp1", NULL, &perms(base, base, 0o600)).unwrap();
        let name = "n".repeat(200);
        container.sh(&format!(
            "cd /dev; mkdir top; mv lp1 top/deep; for i in $(seq 25); do mkdir new; mv top new/{name}; mv new top; done"
        ));
        let withdrawn = devfs.withdraw(&path("lp1"), ino, NULL).unwrap();
        assert_eq!(
            (withdrawn.in_place, withdrawn.elsewhere, withdrawn.lingering),
            (false, 0, 1)
        );
    }
}

#[test]
fn what_lies_in_the_way_is_named_and_left_alone() {
    for own_users in [false, true] {
        let Setup {
            mut devfs,
            mut container,
            base,
            _folder: folder,
        } = setup(own_users);
        let victim = folder.path().join("victim");
        std::fs::create_dir(&victim).unwrap();
        let wanted = perms(base, base, 0o666);
        container.sh(&format!(
            "cd /dev; ln -s {0} absolute; ln -s ../../stage relative; mkfifo fifo; mkdir folder mounted; \
             echo x > file; ln -s {0}/new leaf; mount -t tmpfs none mounted",
            victim.display()
        ));
        // A parent that is no folder.
        for at in ["absolute/x", "relative/x", "fifo/x", "file/x", "absolute/a/b/c"] {
            let error = place(&mut devfs, at, NULL, &wanted).unwrap_err();
            assert!(matches!(error, DevfsError::Blocked { .. }), "{at}: {error:?}");
            assert!(error.is_the_containers());
            assert_eq!(devfs.look(&path(at)).unwrap().unwrap().kind, Kind::Blocked);
            let error = devfs.link(&path(at), "null", &mut |_| Ok(())).unwrap_err();
            assert!(matches!(error, DevfsError::Blocked { .. }), "{at}: {error:?}");
        }
        // The name itself is taken.
        for at in ["absolute", "relative", "fifo", "file", "folder", "leaf"] {
            let before = container.ask(&format!("stat /dev/{at}"));
            let error = place(&mut devfs, at, NULL, &wanted).unwrap_err();
            assert!(matches!(error, DevfsError::Exists { .. }), "{at}: {error:?}");
            let error = devfs.link(&path(at), "null", &mut |_| Ok(())).unwrap_err();
            assert!(matches!(error, DevfsError::Exists { .. }), "{at}: {error:?}");
            assert!(!devfs.unlink(&path(at), "null").unwrap());
            assert_eq!(container.ask(&format!("stat /dev/{at}")), before);
        }
        // A mount inside is not there for us: the node lands in the folder below it, and nothing hangs or escapes.
        let ino = place(&mut devfs, "mounted/x", NULL, &wanted).unwrap();
        assert_eq!(container.ask("stat /dev/mounted/x"), "ENOENT");
        assert!(devfs.withdraw(&path("mounted/x"), ino, NULL).unwrap().in_place);
        // A placed node replaced by a link into the host: the link stays, the host's file is untouched.
        std::fs::write(victim.join("file"), "precious").unwrap();
        let ino = place(&mut devfs, "usb/lp0", NULL, &wanted).unwrap();
        container.sh(&format!(
            "rm /dev/usb/lp0; ln -s {}/file /dev/usb/lp0",
            victim.display()
        ));
        assert!(!devfs.withdraw(&path("usb/lp0"), ino, NULL).unwrap().in_place);
        assert_eq!(container.ask("stat /dev/usb/lp0").get(..1), Some("l"));
        // Its folder replaced by a link into the host.
        let ino = place(&mut devfs, "usb/lp1", NULL, &wanted).unwrap();
        container.sh(&format!(
            "mv /dev/usb /dev/was; ln -s {} /dev/usb",
            victim.display()
        ));
        let withdrawn = devfs.withdraw(&path("usb/lp1"), ino, NULL).unwrap();
        assert_eq!((withdrawn.in_place, withdrawn.elsewhere), (false, 1));
        let left: Vec<_> = std::fs::read_dir(&victim)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["file"]);
        let meta = std::fs::metadata(victim.join("file")).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (0, 0, 0o644));
        assert_eq!(std::fs::read(victim.join("file")).unwrap(), b"precious");
        // Nothing on its way is left in stage/.
        assert!(devfs.sweep(&[].into()).unwrap().is_empty());
        assert_eq!(std::fs::read_dir(devfs.at().join("stage")).unwrap().count(), 0);
    }
}

/// While the container swaps the node's name and its folder as fast as it can, all that is placed is taken away again and
/// the host's files stay as they were.
#[test]
fn a_container_that_races_gets_nothing() {
    let Setup {
        mut devfs,
        mut container,
        base,
        _folder: folder,
    } = setup(true);
    let victim = folder.path().join("victim");
    std::fs::create_dir(&victim).unwrap();
    container.sh(&format!(
        "(set +e; cd /dev; while [ ! -e stop ]; do mkdir usb 2>/dev/null; mv usb was 2>/dev/null; ln -s {} usb 2>/dev/null; \
         rm -f usb lp0 2>/dev/null; mkdir lp0 2>/dev/null; mv was/lp0 was/x 2>/dev/null; rmdir lp0 2>/dev/null; \
         rm -rf was; done; touch stopped) >/dev/null 2>&1 &",
        victim.display()
    ));
    let mut placed = 0;
    for round in 0..2000 {
        let at = if round % 2 == 0 { "usb/lp0" } else { "lp0" };
        match place(&mut devfs, at, NULL, &perms(base, base, 0o666)) {
            Ok(ino) => {
                placed += 1;
                assert!(devfs.withdraw(&path(at), ino, NULL).unwrap().seen.is_some());
            }
            Err(error) => assert!(error.is_the_containers(), "{error:?}"),
        }
    }
    container.sh("touch /dev/stop; while [ ! -e /dev/stopped ]; do :; done");
    assert!(placed > 0);
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0);
    devfs.sweep(&[].into()).unwrap();
    assert_eq!(std::fs::read_dir(devfs.at().join("stage")).unwrap().count(), 0);
}

#[test]
fn a_full_dev_is_named_and_can_still_be_cleared() {
    let Setup {
        mut devfs,
        mut container,
        base,
        _folder,
    } = setup_with(
        true,
        Limits {
            bytes: 65_536,
            inodes: 40,
        },
    );
    let ino = place(&mut devfs, "lp0", NULL, &perms(base, base, 0o666)).unwrap();
    assert_ne!(
        container.ask("sh cd /dev; for i in $(seq 100); do : > f$i; done 2>/dev/null"),
        "0"
    );
    for at in ["lp1", "usb/lp1"] {
        let error = place(&mut devfs, at, NULL, &perms(base, base, 0o666)).unwrap_err();
        assert!(matches!(error, DevfsError::Full { .. }), "{error:?}");
        assert!(error.is_the_containers());
    }
    let error = devfs.link(&path("l"), "lp0", &mut |_| Ok(())).unwrap_err();
    assert!(matches!(error, DevfsError::Full { .. }), "{error:?}");
    assert!(devfs.withdraw(&path("lp0"), ino, NULL).unwrap().in_place);
    container.sh("rm /dev/f*");
    place(&mut devfs, "usb/lp1", NULL, &perms(base, base, 0o666)).unwrap();
}

#[test]
fn an_acl_is_set_kept_and_taken() {
    for own_users in [false, true] {
        let Setup {
            mut devfs,
            mut container,
            base,
            _folder,
        } = setup(own_users);
        let acl = |user: u32| {
            Acl([
                (AclTag::UserObj, 6),
                (AclTag::User(user), 6),
                (AclTag::GroupObj, 4),
                (AclTag::Mask, 6),
                (AclTag::Other, 0),
            ]
            .map(|(tag, perm)| AclEntry { tag, perm })
            .to_vec())
        };
        let hex = |acl: &Acl| hex(&acl_to_xattr(acl));
        let wanted = HostPerms {
            uid: base,
            gid: base,
            mode: 0o660,
            acl: acl(base + 33),
        };
        let ino = place(&mut devfs, "lp0", NULL, &wanted).unwrap();
        assert_eq!(container.ask("getacl /dev/lp0"), hex(&acl(33)));
        assert_eq!(container.ask("stat /dev/lp0"), "c1:3 0:0 660");
        container.ask(&format!("acl /dev/lp0 {}", hex(&acl(44))));
        container.ask("keep /dev/lp0");
        let seen = devfs.withdraw(&path("lp0"), ino, NULL).unwrap().seen.unwrap();
        assert_eq!(
            seen,
            HostPerms {
                uid: base,
                gid: base,
                mode: 0o660,
                acl: acl(base + 44)
            }
        );
        assert_eq!(to_inside(&seen, &container.ids, &container.ids).acl, acl(44));
        // The same comes back with another number.
        let ino = place(&mut devfs, "lp1", ZERO, &seen).unwrap();
        assert_eq!(container.ask("getacl /dev/lp1"), hex(&acl(44)));
        assert_eq!(container.ask("stat /dev/lp1"), "c1:5 0:0 660");
        assert_eq!(devfs.permissions(ino).unwrap(), Some(seen));
        assert!(devfs.permit(ino, None, Some(base + 9), Some(0o600)).unwrap());
        assert_eq!(container.ask("stat /dev/lp1"), "c1:5 0:9 600");
    }
}

#[test]
fn links_belong_to_the_container_and_only_ours_are_removed() {
    for own_users in [false, true] {
        let Setup {
            devfs,
            mut container,
            _folder,
            ..
        } = setup(own_users);
        let at = path("scan/epson");
        assert!(devfs.link(&at, "../bus/usb/001/004", &mut |_| Ok(())).unwrap());
        assert!(!devfs.link(&at, "../bus/usb/001/004", &mut |_| Ok(())).unwrap());
        assert_eq!(container.ask("stat /dev/scan/epson"), "l0:0 0:0 777");
        assert_eq!(
            devfs.look(&at).unwrap().unwrap().kind,
            Kind::Link("../bus/usb/001/004".into())
        );
        container.sh("ln -sf elsewhere /dev/scan/epson");
        assert!(!devfs.unlink(&at, "../bus/usb/001/004").unwrap());
        container.sh("ln -sfn ../bus/usb/001/004 /dev/scan/epson");
        assert!(devfs.unlink(&at, "../bus/usb/001/004").unwrap());
        assert!(!devfs.unlink(&at, "../bus/usb/001/004").unwrap());
        assert_eq!(container.ask("stat /dev/scan/epson"), "ENOENT");
    }
}

#[test]
fn what_was_not_written_down_does_not_appear() {
    let Setup {
        mut devfs,
        mut container,
        base,
        _folder,
    } = setup(true);
    let refuse = |_| Err(std::io::Error::from_raw_os_error(libc::ENOSPC));
    for at in ["lp0", "usb/lp0"] {
        let error = devfs
            .place(&path(at), NULL, &perms(base, base, 0o600), &mut { refuse })
            .unwrap_err();
        assert!(matches!(error, DevfsError::Unrecorded { .. }), "{error:?}");
    }
    assert_eq!(container.ask("stat /dev/lp0"), "ENOENT");
    assert_eq!(container.ask("stat /dev/usb"), "ENOENT");
    assert_eq!(std::fs::read_dir(devfs.at().join("stage")).unwrap().count(), 0);
}

/// Another process (the broker after a crash) finds what is there, and what nobody wrote down becomes useless.
#[test]
fn after_a_crash_what_is_ours_is_found_again() {
    let Setup {
        mut devfs,
        mut container,
        base,
        _folder: folder,
    } = setup(true);
    let known = place(&mut devfs, "lp0", NULL, &perms(base, base, 0o666)).unwrap();
    let unknown = place(&mut devfs, "lp1", NULL, &perms(base, base, 0o666)).unwrap();
    // Between rename out and unlink.
    let (at, st_dev) = (devfs.at().to_owned(), devfs.st_dev());
    std::fs::rename(at.join("dev/lp1"), at.join("stage/t999")).unwrap();
    std::fs::create_dir(at.join("stage/t1000")).unwrap();
    drop(devfs);
    container.ask("keep /dev/lp0");
    let ids = ids(true);
    let mut devfs = Devfs::open(&at, st_dev, &ids, &ids).unwrap();
    assert!(devfs.is_ours(known) && devfs.is_ours(unknown));
    assert_eq!(devfs.sweep(&[known].into()).unwrap(), [unknown]);
    assert!(devfs.is_ours(known) && !devfs.is_ours(unknown));
    assert_eq!(std::fs::read_dir(at.join("stage")).unwrap().count(), 1);
    assert_eq!(container.ask("open /dev/lp0"), "ok");
    assert!(matches!(
        Devfs::open(&at, st_dev + 1, &ids, &ids),
        Err(DevfsError::NotMounted { .. })
    ));
    // Taking all of it down makes what the container keeps useless.
    assert!(Devfs::destroy(&at).unwrap());
    assert_eq!(container.ask("reopen"), "EACCES");
    assert!(!at.exists());
    assert!(!Devfs::destroy(&at).unwrap());
    drop(folder);
}

/// Killed in the middle of withdrawing: the rights may be gone already, so they are no longer what the container set.
#[test]
fn a_withdrawal_that_a_crash_cut_short_is_finished() {
    let Setup {
        mut devfs,
        mut container,
        base,
        _folder,
    } = setup(true);
    let ino = place(&mut devfs, "lp0", NULL, &perms(base, base, 0o666)).unwrap();
    container.sh("ln /dev/lp0 /dev/kept");
    container.ask("keep /dev/lp0");
    let (at, st_dev) = (devfs.at().to_owned(), devfs.st_dev());
    drop(devfs);
    std::fs::remove_file(at.join("dev/lp0")).unwrap();
    let held = std::fs::read_dir(at.join("stage"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    std::fs::rename(held.path(), at.join("stage/t77")).unwrap();
    let ids = ids(true);
    let mut devfs = Devfs::open(&at, st_dev, &ids, &ids).unwrap();
    assert_eq!(devfs.permissions(ino).unwrap(), None);
    devfs.sweep(&[ino].into()).unwrap();
    assert_eq!(container.ask("reopen"), "EACCES");
    assert_eq!(container.ask("stat /dev/kept"), "ENOENT");
    assert_eq!(std::fs::read_dir(at.join("stage")).unwrap().count(), 0);
    assert_eq!(devfs.withdraw(&path("lp0"), ino, NULL).unwrap().seen, None);
}

#[test]
fn nothing_lands_where_the_tmpfs_was() {
    let folder = private_host();
    let at = folder.path().join("devfs");
    let ids = ids(false);
    let mut devfs = Devfs::create(&at, Limits::default(), &ids, &ids).unwrap();
    assert!(devfs.is_mounted());
    nix::mount::umount2(&at, nix::mount::MntFlags::MNT_DETACH).unwrap();
    assert!(!devfs.is_mounted());
    place(&mut devfs, "lp0", NULL, &perms(0, 0, 0o666)).unwrap();
    for made in ["dev", "stage"] {
        std::fs::create_dir(at.join(made)).unwrap();
    }
    let error = Devfs::open(&at, devfs.st_dev(), &ids, &ids).unwrap_err();
    assert!(matches!(error, DevfsError::NotMounted { .. }), "{error:?}");
    assert_eq!(std::fs::read_dir(at.join("dev")).unwrap().count(), 0);
    assert!(Path::new(&at).exists());
}

/// A container whose user namespace has no root cannot have a `/dev`.
#[test]
fn without_a_root_there_is_no_dev() {
    let folder = private_host();
    let none = IdMap::new(vec![]);
    let error = Devfs::create(&folder.path().join("devfs"), Limits::default(), &none, &none).unwrap_err();
    assert!(matches!(error, DevfsError::NoRoot(_)));
    assert!(!folder.path().join("devfs").exists());
}
