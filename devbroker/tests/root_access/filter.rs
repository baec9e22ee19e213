//! One container's filter.

use crate::ground::{DISK, Ground, NULL, OTHER, STICK, wait_until};
use devbroker::access::{DEFAULT_SEED, Numbers, SeedRule};
use devbroker::host::access::{Attachment, CAPACITY, DeviceFilter, FilterError, Step};
use devbroker::model::{Access, DevKind, DevNum};
use devbroker::sys::bpf;
use nix::mount::{MntFlags, umount2};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

#[test]
fn the_seed_alone() {
    let ground = Ground::new("seed");
    assert_eq!(ground.access(STICK), Access::ALL, "nothing confines it yet");
    let filter = ground.filter();
    for (device, access) in [
        (NULL, Access::ALL),
        (DevNum::char(1, 9), Access::ALL),
        (DevNum::char(1, 4), Access::MKNOD),
        (DevNum::char(136, 4090), Access::ALL),
        (STICK, Access::MKNOD),
        (DISK, Access::MKNOD),
    ] {
        assert_eq!(ground.access(device), access, "{device}");
    }
    assert_eq!(filter.granted().unwrap(), BTreeMap::new());
    assert_eq!(
        filter.verify(ground.cgroup()).unwrap(),
        Attachment {
            program: true,
            link: true
        }
    );
}

#[test]
fn grants_come_and_go() {
    let ground = Ground::new("grants");
    let filter = ground.filter();
    filter.allow(STICK, Access::READ_WRITE).unwrap();
    filter.allow(DISK, Access::READ).unwrap();
    assert_eq!(ground.access(STICK), Access::ALL);
    assert_eq!(ground.access(DISK), Access::READ.union(Access::MKNOD));
    assert_eq!(ground.access(OTHER), Access::MKNOD);

    // The last word counts, and saying it twice changes nothing.
    filter.allow(STICK, Access::WRITE).unwrap();
    filter.allow(STICK, Access::WRITE).unwrap();
    assert_eq!(ground.access(STICK), Access::WRITE.union(Access::MKNOD));
    let granted = BTreeMap::from([(STICK, Access::WRITE), (DISK, Access::READ)]);
    assert_eq!(filter.granted().unwrap(), granted);

    // Another process finds the same, and takes it away.
    drop(filter);
    let filter = DeviceFilter::open(&ground.pins()).unwrap();
    assert_eq!(filter.granted().unwrap(), granted);
    filter.deny(STICK).unwrap();
    filter.deny(STICK).unwrap();
    filter.allow(DISK, Access::NONE).unwrap();
    assert_eq!(ground.access(STICK), Access::MKNOD);
    assert_eq!(ground.access(DISK), Access::MKNOD);
    assert_eq!(filter.granted().unwrap(), BTreeMap::new());
}

#[test]
fn denying_keeps_the_seed() {
    let ground = Ground::new("keeps");
    let seed = [SeedRule {
        kind: DevKind::Char,
        numbers: Numbers::One(STICK.major, STICK.minor),
        access: Access::READ,
    }];
    let filter = DeviceFilter::create(ground.cgroup(), &ground.pins(), &seed).unwrap();
    assert_eq!(ground.access(STICK), Access::READ);
    assert_eq!(ground.access(NULL), Access::NONE);
    for filter in [filter, DeviceFilter::open(&ground.pins()).unwrap()] {
        filter.allow(STICK, Access::WRITE).unwrap();
        assert_eq!(ground.access(STICK), Access::READ_WRITE);
        assert_eq!(
            filter.granted().unwrap(),
            BTreeMap::from([(STICK, Access::WRITE)])
        );
        filter.deny(STICK).unwrap();
        assert_eq!(ground.access(STICK), Access::READ);
        assert_eq!(filter.granted().unwrap(), BTreeMap::new());
    }
}

#[test]
fn either_attachment_is_enough() {
    let ground = Ground::new("either");
    let filter = ground.filter();
    let whole = Attachment {
        program: true,
        link: true,
    };

    // An engine removes the programs that it finds (crun update does).
    for id in bpf::query(ground.cgroup()).unwrap() {
        let program = bpf::program_by_id(id).unwrap();
        bpf::detach(ground.cgroup(), program.as_fd()).ok();
    }
    let link_only = Attachment {
        program: false,
        link: true,
    };
    assert_eq!(filter.verify(ground.cgroup()).unwrap(), link_only);
    assert_eq!(ground.access(STICK), Access::MKNOD);
    assert_eq!(filter.repair(ground.cgroup()).unwrap(), link_only);
    assert_eq!(filter.verify(ground.cgroup()).unwrap(), whole);

    // Somebody removes the link's pin.
    fs::remove_file(ground.pins().join("link")).unwrap();
    let program_only = Attachment {
        program: true,
        link: false,
    };
    assert_eq!(filter.verify(ground.cgroup()).unwrap(), program_only);
    wait_until(|| bpf::query(ground.cgroup()).unwrap() == [filter.program_id()]);
    assert_eq!(filter.verify(ground.cgroup()).unwrap(), program_only);
    assert_eq!(ground.access(STICK), Access::MKNOD);
    assert_eq!(filter.repair(ground.cgroup()).unwrap(), program_only);
    assert_eq!(filter.verify(ground.cgroup()).unwrap(), whole);
    assert_eq!(filter.repair(ground.cgroup()).unwrap(), whole);
    assert_eq!(bpf::query(ground.cgroup()).unwrap(), [filter.program_id(); 2]);
    assert_eq!(ground.access(STICK), Access::MKNOD);
}

#[test]
fn losing_the_pins_opens_nothing() {
    for unmount in [false, true] {
        let ground = Ground::new(if unmount { "unmount" } else { "unpin" });
        let filter = ground.filter();
        filter.allow(OTHER, Access::READ).unwrap();
        drop(filter);
        if unmount {
            umount2(&ground.dir.path().join("bpf"), MntFlags::MNT_DETACH).unwrap();
        } else {
            DeviceFilter::collect(&ground.pins()).unwrap();
        }
        assert_eq!(ground.access(STICK), Access::MKNOD);
        assert_eq!(
            ground.access(OTHER),
            Access::READ.union(Access::MKNOD),
            "what it holds goes on"
        );
        assert!(matches!(
            DeviceFilter::open(&ground.pins()),
            Err(FilterError::Absent(_))
        ));
    }
}

#[test]
fn killed_after_each_step() {
    for (step, programs) in [
        (Step::Folder, 0),
        (Step::Seeded, 0),
        (Step::Loaded, 0),
        (Step::Attached, 1),
        (Step::Linked, 1),
        (Step::LinkPinned, 2),
        (Step::ProgramPinned, 2),
        (Step::MapPinned, 2),
    ] {
        let ground = Ground::new(&format!("killed{}", step as u8));
        // Unwinding closes the descriptors and runs none of the undoing, as a kill does.
        catch_unwind(AssertUnwindSafe(|| {
            DeviceFilter::create_observed(ground.cgroup(), &ground.pins(), DEFAULT_SEED, &mut |done| {
                assert!(done != step, "killed here, as the test wants");
            })
        }))
        .unwrap_err();
        assert_eq!(bpf::query(ground.cgroup()).unwrap().len(), programs, "{step:?}");
        // Without a program the container has not been started either; with one it has the seed and no more.
        let access = if programs == 0 { Access::ALL } else { Access::MKNOD };
        assert_eq!(ground.access(STICK), access, "{step:?}");
        let open = DeviceFilter::open(&ground.pins());
        assert_eq!(open.is_ok(), step == Step::MapPinned, "{step:?}");
        drop(open);

        // What is left does not stand in the way, and clearing it opens nothing.
        DeviceFilter::collect(&ground.pins()).unwrap();
        assert!(!ground.pins().exists());
        assert_eq!(ground.access(STICK), access, "{step:?}");
    }
}

#[test]
fn a_killed_start_does_not_stop_the_next() {
    let ground = Ground::new("again");
    catch_unwind(AssertUnwindSafe(|| {
        DeviceFilter::create_observed(ground.cgroup(), &ground.pins(), DEFAULT_SEED, &mut |done| {
            assert!(done != Step::LinkPinned, "killed here, as the test wants");
        })
    }))
    .unwrap_err();
    let next = Ground::new("again-next");
    let filter = DeviceFilter::create(next.cgroup(), &ground.pins(), DEFAULT_SEED).unwrap();
    assert!(filter.verify(next.cgroup()).unwrap().is_whole());
    assert_eq!(
        filter.verify(ground.cgroup()).unwrap(),
        Attachment {
            program: false,
            link: false
        }
    );
}

#[test]
fn a_failure_leaves_nothing() {
    let ground = Ground::new("fails");
    let no_cgroup = File::open("/").unwrap();
    let error = DeviceFilter::create(no_cgroup.as_fd(), &ground.pins(), DEFAULT_SEED).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("cannot attach the program for the device filter /"),
        "{text}"
    );
    assert!(!ground.pins().exists());

    // The name of the last pin is taken: the program is already attached by then.
    let error = DeviceFilter::create_observed(ground.cgroup(), &ground.pins(), DEFAULT_SEED, &mut |done| {
        if done == Step::ProgramPinned {
            let program = bpf::pinned(&ground.pins().join("program")).unwrap();
            bpf::pin(program.as_fd(), &ground.pins().join("map")).unwrap();
        }
    })
    .unwrap_err();
    assert!(
        matches!(
            error,
            FilterError::Call {
                what: "pin an object",
                ..
            }
        ),
        "{error}"
    );
    assert!(bpf::query(ground.cgroup()).unwrap().is_empty());
    assert!(!ground.pins().exists());

    let elsewhere = ground.dir.path().join("no-bpffs/x");
    let error = DeviceFilter::create(ground.cgroup(), &elsewhere, DEFAULT_SEED).unwrap_err();
    assert!(matches!(error, FilterError::NoBpffs(_)), "{error}");
    assert!(!elsewhere.parent().unwrap().exists());
}

#[test]
fn a_folder_has_one_filter() {
    let ground = Ground::new("exists");
    let filter = ground.filter();
    let error = DeviceFilter::create(ground.cgroup(), &ground.pins(), DEFAULT_SEED).unwrap_err();
    assert!(matches!(error, FilterError::Exists(_)), "{error}");
    assert!(filter.verify(ground.cgroup()).unwrap().is_whole());
    let mode = |path: &Path| {
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions()) & 0o777
    };
    assert_eq!(mode(&ground.pins()), 0o700);
    assert_eq!(mode(ground.pins().parent().unwrap()), 0o700);
}

#[test]
fn a_full_filter_refuses_and_still_denies() {
    let ground = Ground::new("full");
    let filter = ground.filter();
    let seeded = u32::try_from(DEFAULT_SEED.len()).unwrap();
    let mut refused = None;
    // The kernel may give a few more than asked for, one for each processor.
    for minor in 0..=CAPACITY {
        if let Err(error) = filter.allow(DevNum::char(241, minor), Access::READ) {
            refused = Some((minor, error));
            break;
        }
    }
    let (minor, error) = refused.expect("it has a limit");
    assert!(matches!(error, FilterError::Full { .. }), "{error}");
    assert_eq!(minor, CAPACITY - seeded);
    filter.allow(DevNum::char(241, 0), Access::WRITE).unwrap();
    for minor in 0..CAPACITY - seeded {
        filter.deny(DevNum::char(241, minor)).unwrap();
    }
    assert_eq!(filter.granted().unwrap(), BTreeMap::new());
    assert_eq!(ground.access(NULL), Access::ALL);
}

#[test]
fn pins_of_a_removed_cgroup_are_seen_and_collected() {
    let ground = Ground::new("dead");
    drop(ground.filter());
    assert!(!DeviceFilter::is_dead(&ground.pins()));
    let pins = ground.pins();
    fs::remove_dir(&ground.cgroup).unwrap();
    wait_until(|| DeviceFilter::is_dead(&pins));
    DeviceFilter::collect(&pins).unwrap();
    DeviceFilter::collect(&pins).unwrap();
    assert!(!pins.exists());
}

#[test]
fn a_sweep_takes_what_serves_nobody_and_nothing_else() {
    let ground = Ground::new("sweep");
    let root = ground.pins().parent().unwrap().to_path_buf();
    let unused = |_: &str| false;
    let sweep = || {
        let (swept, failed) = DeviceFilter::sweep(&root, &unused);
        assert!(failed.is_empty(), "{failed:?}");
        swept
    };
    assert_eq!(
        sweep(),
        Vec::<std::path::PathBuf>::new(),
        "there is not even the folder"
    );

    // Being made, it is swept after each step, and is whole in the end.
    let mut steps = 0;
    let filter = DeviceFilter::create_observed(ground.cgroup(), &ground.pins(), DEFAULT_SEED, &mut |_| {
        steps += 1;
        sweep();
    })
    .unwrap();
    assert_eq!(steps, 8);
    assert!(filter.verify(ground.cgroup()).unwrap().is_whole());
    assert_eq!(sweep(), Vec::<std::path::PathBuf>::new());
    filter.allow(STICK, Access::READ).unwrap();

    // Killed before the first pin.
    let half = root.join("half");
    fs::create_dir(&half).unwrap();
    let (swept, _) = DeviceFilter::sweep(&root, &|name| name == "half");
    assert_eq!(swept, Vec::<std::path::PathBuf>::new());
    assert_eq!(sweep(), [half]);

    // Half made or whole, it goes when its cgroup has.
    let other = ground
        .cgroup
        .with_file_name(format!("devbroker-test-swept-{}", std::process::id()));
    fs::create_dir(&other).unwrap();
    let pins = root.join("other");
    let made = DeviceFilter::create(File::open(&other).unwrap().as_fd(), &pins, DEFAULT_SEED).unwrap();
    drop(made);
    fs::remove_file(pins.join("map")).unwrap();
    assert_eq!(sweep(), Vec::<std::path::PathBuf>::new());
    fs::remove_dir(&other).unwrap();
    wait_until(|| sweep() == [pins.clone()]);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
    assert_eq!(
        DeviceFilter::open(&ground.pins())
            .unwrap()
            .granted()
            .unwrap()
            .len(),
        1
    );
}
