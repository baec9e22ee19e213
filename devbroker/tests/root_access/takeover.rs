//! Taking over the filter of a container that another runtime started. The runtime and systemd are played by programs of
//! the same make under their names, on `web.scope` and `web.scope/container` below the test's own cgroup.

use crate::ground::{Ground, NULL, OTHER, STICK};
use devbroker::access::takeover::{Refusal, SYSTEMD_NAME};
use devbroker::access::{DEFAULT_SEED, Instruction, Value, program};
use devbroker::host::access::DeviceFilter;
use devbroker::host::cgroup::Hierarchy;
use devbroker::host::oci;
use devbroker::host::takeover::{Change, Reasserted, TakeOver, TakeOverError, Target};
use devbroker::model::{Access, DevNum};
use devbroker::sys::bpf;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// What the runtime's configuration lets the container do besides the defaults.
const GIVEN: DevNum = DevNum::char(240, 9);

/// The scope (its probes' cgroup is the one inside) and a container's process.
struct Stage {
    container: Ground,
    scope: PathBuf,
    process: Child,
    start: u64,
}

impl Stage {
    fn new(name: &str) -> Self {
        let mut container = Ground::new(name);
        let scope = container.cgroup.join("web.scope");
        let own = scope.join("container");
        fs::create_dir_all(&own).unwrap();
        container.cgroup = own;
        container.cgroup_fd = File::open(&container.cgroup).unwrap();
        let process = Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(container.cgroup.join("cgroup.procs"), process.id().to_string()).unwrap();
        let stage = Self {
            start: oci::start_of(i32::try_from(process.id()).unwrap()).unwrap(),
            container,
            scope,
            process,
        };
        stage.write_state();
        stage
    }

    /// crun's state and bundle.
    fn write_state(&self) {
        let bundle = self.path("bundle");
        let status = serde_json::json!({
            "pid": self.process.id(), "process-start-time": self.start, "bundle": bundle, "cgroup-path": self.cgroup(),
            "scope": "web.scope", "systemd-cgroup": true, "owner": "root",
        });
        let config = serde_json::json!({ "ociVersion": "1.0.2", "linux": { "resources": { "devices": [
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": GIVEN.major, "minor": GIVEN.minor, "access": "r" },
        ] } } });
        fs::create_dir_all(self.path("crun/web")).unwrap();
        fs::create_dir_all(&bundle).unwrap();
        fs::write(self.path("crun/web/status"), status.to_string()).unwrap();
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.container.dir.path().join(name)
    }

    fn cgroup(&self) -> String {
        let mount = Hierarchy::find().unwrap().folder("/");
        format!(
            "/{}",
            self.container.cgroup.strip_prefix(mount).unwrap().display()
        )
    }

    /// The runtime's and systemd's programs, as crun with the systemd cgroup manager leaves them.
    fn confine(&self) {
        Self::put(&self.container.cgroup, "");
        Self::put(&self.scope, SYSTEMD_NAME);
    }

    fn put(cgroup: &Path, name: &str) -> OwnedFd {
        let program = named_program(name);
        bpf::attach(File::open(cgroup).unwrap().as_fd(), program.as_fd(), None).unwrap();
        program
    }

    fn begin(&self) -> Result<(TakeOver, DeviceFilter), TakeOverError> {
        self.begin_observed(&mut |_| ())
    }

    fn begin_observed(
        &self,
        done: &mut dyn FnMut(Change),
    ) -> Result<(TakeOver, DeviceFilter), TakeOverError> {
        TakeOver::begin_observed(
            &Target {
                pid: i32::try_from(self.process.id()).unwrap(),
                start: self.start,
                dir: &self.container.pins(),
                record: &self.path("run/takeover.json"),
                runtimes: &[self.path("none"), self.path("crun")],
            },
            Hierarchy::find().unwrap(),
            None,
            done,
        )
    }

    fn reopen(&self) -> TakeOver {
        TakeOver::open_record(&self.path("run/takeover.json"), Hierarchy::find().unwrap()).unwrap()
    }

    /// Programs on the container's cgroup and on the scope.
    fn programs(&self) -> [Vec<u32>; 2] {
        [&self.container.cgroup, &self.scope]
            .map(|path| bpf::query(File::open(path).unwrap().as_fd()).unwrap())
    }

    fn nothing_of_ours(&self) {
        assert!(!self.container.pins().exists());
        assert!(!self.path("run/takeover.json").exists());
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
        fs::remove_dir(&self.container.cgroup).ok();
        fs::remove_dir(&self.scope).ok();
        // What is left is for the ground to remove.
        self.container.cgroup = self.scope.parent().map(Path::to_path_buf).unwrap_or_default();
    }
}

/// A program with the default seed, and with what the runtime's configuration gives.
fn named_program(name: &str) -> OwnedFd {
    let map = bpf::Map::create("", 64).unwrap();
    for (key, value) in Value::seed(DEFAULT_SEED) {
        map.update(key.words(), value.word()).unwrap();
    }
    let given = devbroker::access::Key::device(GIVEN);
    map.update(given.words(), Access::READ.bits()).unwrap();
    let code: Vec<_> = program(map.fd().as_raw_fd())
        .into_iter()
        .map(Instruction::bytes)
        .collect();
    bpf::program_load(name, &code, None).unwrap()
}

/// What a container has whose filter is or was the runtime's.
fn confined(ground: &Ground) {
    assert_eq!(ground.access(NULL), Access::ALL);
    assert_eq!(ground.access(GIVEN), Access::READ.union(Access::MKNOD));
    assert_eq!(ground.access(OTHER), Access::MKNOD);
}

#[test]
fn taken_over_and_given_back() {
    let stage = Stage::new("takeover");
    stage.confine();
    let before = stage.programs();
    confined(&stage.container);

    let (take_over, filter) = stage.begin().unwrap();
    assert_eq!(take_over.cgroup(), stage.cgroup());
    assert_eq!(take_over.unit(), None, "there is no systemd to tell");
    assert!(take_over.confined());
    let id = filter.program_id();
    assert_eq!(stage.programs(), [vec![id, id], vec![id]]);
    confined(&stage.container);
    filter.allow(STICK, Access::READ_WRITE).unwrap();
    assert_eq!(stage.container.access(STICK), Access::ALL);
    confined(&stage.container);

    // Another process goes on.
    drop((take_over, filter));
    let take_over = stage.reopen();
    let filter = DeviceFilter::open(take_over.dir()).unwrap();
    filter.deny(STICK).unwrap();
    assert_eq!(stage.container.access(STICK), Access::MKNOD);
    filter.allow(STICK, Access::READ).unwrap();
    drop(filter);
    take_over.restore(None).unwrap();
    assert_eq!(stage.programs(), before);
    assert_eq!(stage.container.access(STICK), Access::MKNOD);
    confined(&stage.container);
    stage.nothing_of_ours();
}

#[test]
fn reasserted() {
    let stage = Stage::new("reassert");
    stage.confine();
    let (mut take_over, filter) = stage.begin().unwrap();
    filter.allow(STICK, Access::READ_WRITE).unwrap();
    assert_eq!(take_over.reassert(&filter, None).unwrap(), Reasserted::default());

    // systemd and the runtime both put one of theirs on again, and ours gets lost where it is attached.
    let systemds = Stage::put(&stage.scope, SYSTEMD_NAME);
    let runtimes = Stage::put(&stage.container.cgroup, "");
    bpf::detach(File::open(&stage.scope).unwrap().as_fd(), filter.program()).unwrap();
    assert_eq!(stage.container.access(STICK), Access::MKNOD);
    let ids: Vec<u32> = [&runtimes, &systemds]
        .map(|program| bpf::program_info(program.as_fd()).unwrap().id)
        .into();
    assert_eq!(
        take_over.reassert(&filter, None).unwrap(),
        Reasserted {
            put_back: true,
            displaced: ids
        }
    );
    assert_eq!(stage.container.access(STICK), Access::ALL);
    let id = filter.program_id();
    assert_eq!(stage.programs(), [vec![id, id], vec![id]]);
    assert_eq!(take_over.reassert(&filter, None).unwrap(), Reasserted::default());

    // A stranger is named and left alone.
    let stranger = Stage::put(&stage.scope, "stranger");
    let error = take_over.reassert(&filter, None).unwrap_err();
    assert!(
        matches!(error, TakeOverError::Refused(Refusal::Stranger { .. })),
        "{error}"
    );
    bpf::detach(File::open(&stage.scope).unwrap().as_fd(), stranger.as_fd()).unwrap();

    drop(take_over);
    stage.reopen().restore(None).unwrap();
    let ids: Vec<Vec<u32>> = [&runtimes, &systemds]
        .map(|program| vec![bpf::program_info(program.as_fd()).unwrap().id])
        .into();
    assert_eq!(stage.programs(), ids[..], "each owner's newest");
    assert_eq!(stage.container.access(STICK), Access::MKNOD);
    confined(&stage.container);
    stage.nothing_of_ours();
}

#[test]
fn refused_before_anything_is_changed() {
    for (case, expected) in [
        (
            "stranger",
            "device program ID `stranger` of user 0 on the cgroup SCOPE decides for",
        ),
        (
            "link",
            "device program ID of user 0, held by a link, on the cgroup SCOPE decides for",
        ),
        (
            "above",
            "device program ID of user 0 on the cgroup PARENT decides for",
        ),
    ] {
        let stage = Stage::new(&format!("refuse-{case}"));
        stage.confine();
        let parent = stage.scope.parent().unwrap().to_path_buf();
        let (program, _link) = match case {
            "stranger" => (Stage::put(&stage.scope, "stranger"), None),
            "above" => (Stage::put(&parent, ""), None),
            _ => {
                let program = named_program("");
                let link = bpf::link(File::open(&stage.scope).unwrap().as_fd(), program.as_fd()).unwrap();
                (program, Some(link))
            }
        };
        let before = stage.programs();
        let error = stage.begin().unwrap_err().to_string();
        let own = stage.cgroup();
        let scope = own.strip_suffix("/container").unwrap();
        let expected = expected
            .replace("ID", &bpf::program_info(program.as_fd()).unwrap().id.to_string())
            .replace("SCOPE", scope)
            .replace("PARENT", scope.strip_suffix("/web.scope").unwrap());
        assert!(error.starts_with(&expected), "{error}\n{expected}");
        assert_eq!(stage.programs(), before);
        stage.nothing_of_ours();
        if case == "above" {
            bpf::detach(File::open(&parent).unwrap().as_fd(), program.as_fd()).unwrap();
        }
    }
}

#[test]
fn an_unconfined_container_stays_so() {
    let stage = Stage::new("unconfined");
    let (take_over, filter) = stage.begin().unwrap();
    assert!(!take_over.confined());
    filter.allow(STICK, Access::READ).unwrap();
    filter.deny(STICK).unwrap();
    assert_eq!(stage.container.access(STICK), Access::ALL);
    take_over.restore(None).unwrap();
    assert_eq!(stage.programs(), [Vec::<u32>::new(), Vec::new()]);
    stage.nothing_of_ours();
}

#[test]
fn killed_after_each_change() {
    let mut steps = Vec::new();
    {
        let stage = Stage::new("takeover-steps");
        stage.confine();
        stage.begin_observed(&mut |change| steps.push(change)).unwrap();
    }
    assert_eq!(
        steps,
        [
            Change::Folder,
            Change::Recorded,
            Change::ProgramPinned,
            Change::OldPinned,
            Change::OldPinned,
            Change::Placed(0),
            Change::Placed(1),
            Change::Linked,
            Change::Told,
            Change::MapPinned
        ]
    );
    for stop in 0..steps.len() {
        let stage = Stage::new(&format!("takeover-kill{stop}"));
        stage.confine();
        let before = stage.programs();
        let mut count = 0;
        // Unwinding closes the descriptors and runs none of the undoing, as a kill does.
        catch_unwind(AssertUnwindSafe(|| {
            stage.begin_observed(&mut |_| {
                assert!(count != stop, "killed here, as the test wants");
                count += 1;
            })
        }))
        .unwrap_err();
        confined(&stage.container);
        assert_eq!(stage.container.access(STICK), Access::MKNOD, "{stop}");
        if stop == 0 {
            // The folder alone: nothing is recorded, and it is in nobody's way.
            assert_eq!(stage.programs(), before);
            stage.begin().unwrap().0.restore(None).unwrap();
        } else {
            stage.reopen().restore(None).unwrap();
        }
        assert_eq!(stage.programs(), before, "{stop}");
        confined(&stage.container);
        stage.nothing_of_ours();
    }
}

#[test]
fn the_container_is_gone() {
    let mut stage = Stage::new("takeover-gone");
    stage.confine();
    let (take_over, filter) = stage.begin().unwrap();
    drop(filter);
    stage.process.kill().unwrap();
    stage.process.wait().unwrap();
    fs::remove_dir(&stage.container.cgroup).unwrap();
    take_over.restore(None).unwrap();
    stage.nothing_of_ours();
}
