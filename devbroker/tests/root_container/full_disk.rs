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
