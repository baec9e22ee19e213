//! Remembered permissions on a file system that is full.

use crate::inside::private_host;
use devbroker::host::remember::Remember;
use devbroker::model::{Acl, ContainerKey, Permissions};
use nix::mount::{MsFlags, mount};

#[test]
fn a_full_disk_loses_no_line_that_was_written() {
    let folder = private_host();
    mount(
        Some("none"),
        folder.path(),
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=8k"),
    )
    .unwrap();
    let key = ContainerKey {
        container: "ctm:scan".parse().unwrap(),
        owner: 0,
    };
    let alias = "printer".parse().unwrap();
    let mut remember = Remember::open(folder.path()).unwrap();
    let perms = |uid| Permissions {
        uid,
        gid: 0,
        mode: 0o600,
        acl: Acl::default(),
    };
    let role = |uid: u32| format!("tty@if{uid:04}").parse().unwrap();
    // The disk fills with lines; the first that does not fit is an error, but counts while the broker runs.
    let failed = (0..1000)
        .find(|uid| remember.set(&key, &alias, &role(*uid), perms(*uid)).is_err())
        .unwrap();
    assert!(failed > 10);
    assert_eq!(
        remember.get(&key, &alias, &role(failed)).unwrap(),
        Some(&perms(failed))
    );
    remember.set(&key, &alias, &role(failed), perms(1)).unwrap_err();
    remember.close();
    let mut remember = Remember::open(folder.path()).unwrap();
    for uid in 0..failed {
        assert_eq!(remember.get(&key, &alias, &role(uid)).unwrap(), Some(&perms(uid)));
    }
    assert_eq!(remember.get(&key, &alias, &role(failed)).unwrap(), None);
    assert!(remember.forget(&key).unwrap());
}

/// What could not be written is, as soon as there is room; nothing that a container's end or another start does loses it.
#[test]
fn what_was_missed_is_made_up_for() {
    let folder = private_host();
    let none = None::<&str>;
    let tmpfs =
        |flags, options| mount(Some("none"), folder.path(), Some("tmpfs"), flags, Some(options)).unwrap();
    tmpfs(MsFlags::empty(), "size=8k");
    let at = folder.path().join("permissions");
    let key = ContainerKey {
        container: "ctm:scan".parse().unwrap(),
        owner: 0,
    };
    let (alias, role) = ("printer".parse().unwrap(), "block".parse().unwrap());
    let perms = |mode| Permissions {
        uid: 7,
        gid: 0,
        mode,
        acl: Acl::default(),
    };
    let again = |expected: u16| {
        let mut remember = Remember::open(&at).unwrap();
        assert_eq!(remember.get(&key, &alias, &role).unwrap(), Some(&perms(expected)));
        assert_eq!(remember.trouble(), None);
        remember
    };
    // Full from the start on.
    let filling = folder.path().join("filling");
    std::fs::write(&filling, [0; 8192]).unwrap();
    let mut remember = Remember::open(&at).unwrap();
    remember.set(&key, &alias, &role, perms(0o640)).unwrap_err();
    remember.mend();
    remember.release(&key);
    assert_eq!(remember.get(&key, &alias, &role).unwrap(), Some(&perms(0o640)));
    let file = at.join("0:ctm:scan.jsonl");
    assert_eq!(
        remember.trouble().unwrap(),
        format!(
            "permissions set inside ctm:scan are not kept beyond a restart: cannot write {}: No space left on device (os error 28)",
            file.display()
        )
    );
    std::fs::remove_file(filling).unwrap();
    remember.mend();
    assert_eq!(remember.trouble(), None);
    remember.close();
    again(0o640).close();

    // Read-only: what is there is read.
    let remount = |flags| mount(none, folder.path(), none, MsFlags::MS_REMOUNT | flags, none).unwrap();
    remount(MsFlags::MS_RDONLY);
    let mut remember = again(0o640);
    remember.set(&key, &alias, &role, perms(0o604)).unwrap_err();
    assert!(remember.trouble().unwrap().contains("Read-only file system"));
    remount(MsFlags::empty());
    remember.set(&key, &alias, &role, perms(0o604)).unwrap_or(true);
    remember.mend();
    remember.close();
    again(0o604).close();
    assert_eq!(
        std::fs::read_dir(&at).unwrap().count(),
        1,
        "nothing half written is left"
    );
}
