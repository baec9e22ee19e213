//! The daemon is killed before and after every single effect of a history of plugging, unplugging, replugging and changes of the
//! configuration, and started again: the history goes on and ends the same, and nothing is left over. On real loop devices, a
//! real udevd, tmpfs, ledger and device filter. Needs root, loop-control and a cgroup v2 mount.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

#[path = "root_access/ground.rs"]
#[expect(dead_code, reason = "the tests of device access use the rest")]
mod ground;
#[expect(dead_code, reason = "the tests of events and hook use the rest")]
mod host_devices;

use devbroker::api::Sync;
use devbroker::client::Client;
use devbroker::host::access::DeviceFilter;
use devbroker::host::devfs::{Devfs, Limits};
use devbroker::host::process;
use devbroker::model::{Access, DevNum, IdMap, InstanceId, Registration};
use ground::{Ground, wait_until};
use host_devices::{Loop, Udevd};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Every effect that has a fail point. Between a line of the ledger and what it announces there is one of its own.
const EFFECTS: [&str; 10] = [
    "revoke-now",
    "remember",
    "revoke",
    "unlink",
    "withdraw",
    "allow",
    "place",
    "permit",
    "link",
    "host-link",
];

/// What happens, in order.
#[derive(Debug, Clone, Copy)]
enum Step {
    PlugBoth,
    /// The container's root changes the mode of the first device's node.
    Chmod,
    /// The grant of the second says another mode.
    Regrant,
    /// It is taken back, and given again.
    Ungrant,
    Grant,
    UnplugFirst,
    PlugFirst,
    UnplugBoth,
}

const HISTORY: [Step; 8] = [
    Step::PlugBoth,
    Step::Chmod,
    Step::Regrant,
    Step::Ungrant,
    Step::Grant,
    Step::UnplugFirst,
    Step::PlugFirst,
    Step::UnplugBoth,
];

/// All that can be seen of a container and of the links on the host.
#[derive(Debug, Default, PartialEq, Eq)]
struct Picture {
    /// Below the container's `/dev`: number and mode of nodes, texts of links, folders.
    dev: BTreeMap<String, String>,
    /// Names in `stage/`.
    staged: usize,
    access: BTreeMap<DevNum, Access>,
    on_host: BTreeSet<String>,
}

/// A daemon, which does not outlive the test.
struct Daemon(Child);

impl Daemon {
    fn is_dead(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A container with a process that sleeps, two loop devices, and room for the daemon's files.
struct Scene {
    ground: Ground,
    devices: [Loop; 2],
    container: Child,
    _udevd: Arc<Udevd>,
    plugged: [bool; 2],
    /// The mode of the first device's node, as the container's root set it.
    mode: Option<u32>,
    /// The mode that the grant of the second says.
    granted: Option<u32>,
}

impl Scene {
    fn new() -> Self {
        let udevd = Udevd::get();
        let ground = Ground::new("killed");
        drop(ground.filter());
        let ids = IdMap::identity();
        let at = ground.dir.path().join("devfs");
        let devfs = Devfs::create(&at, Limits::default(), &ids, &ids).unwrap();
        let container = Command::new("sh")
            .args(["-c", "echo $$ >\"$0/cgroup.procs\" && exec sleep 10000"])
            .arg(&ground.cgroup)
            .spawn()
            .unwrap();
        let pid = i32::try_from(container.id()).unwrap();
        let inside = ground.cgroup.join("cgroup.procs");
        wait_until(|| fs::read_to_string(&inside).is_ok_and(|all| !all.is_empty()));
        let registration = Registration {
            container: "ctm:box".parse().unwrap(),
            owner: 0,
            instance: InstanceId::from_bits(0xbeef),
            pid,
            pid_start: process::started(pid).unwrap(),
            uid_map: ids.clone(),
            gid_map: ids,
            devfs: at,
            devfs_dev: devfs.st_dev(),
            bound_at: None,
            rootfs: None,
            cgroup: Path::new("/").join(ground.cgroup.file_name().unwrap()),
            filter: ground.pins(),
        };
        let scene = Self {
            ground,
            devices: [Loop::reserve(27), Loop::reserve(28)],
            container,
            _udevd: udevd,
            plugged: [false; 2],
            mode: None,
            granted: Some(0o640),
        };
        let folder = scene.at("run/containers");
        fs::create_dir_all(&folder).unwrap();
        let json = serde_json::to_vec(&registration).unwrap();
        fs::write(folder.join("ctm:box.json"), json).unwrap();
        fs::create_dir(scene.at("conf")).unwrap();
        scene.configure();
        scene
    }

    fn at(&self, path: &str) -> PathBuf {
        self.ground.dir.path().join(path)
    }

    fn socket(&self) -> PathBuf {
        self.at("run/io.devbroker")
    }

    fn configure(&self) {
        let mut text = String::new();
        for (alias, device) in ["first", "second"].iter().zip(&self.devices) {
            writeln!(text, "[alias.{alias}]\nmatch.link = '{}'", device.name()).unwrap();
        }
        text += "[[grant]]\nalias = 'first'\ncontainer = 'ctm:box'\npath = 'my/disk'\n";
        if let Some(mode) = self.granted {
            let grant = "[[grant]]\nalias = 'second'\ncontainer = 'ctm:box'\nmode";
            writeln!(text, "{grant} = '{mode:04o}'").unwrap();
        }
        // In one step, as editors do.
        fs::write(self.at("conf/x.new"), text).unwrap();
        fs::rename(self.at("conf/x.new"), self.at("conf/x.toml")).unwrap();
    }

    /// Starts the daemon; with a fail point it may be dead before long.
    fn daemon(&self, fail_point: Option<&str>) -> Daemon {
        let mut command = Command::new(env!("CARGO_BIN_EXE_devbroker"));
        command
            .arg("daemon")
            .args(["--config".as_ref(), self.at("conf").as_os_str()])
            .args(["--run".as_ref(), self.at("run").as_os_str()])
            .args(["--state".as_ref(), self.at("state").as_os_str()])
            .args(["--aliases".as_ref(), self.at("aliases").as_os_str()])
            .args(["--filters".as_ref(), self.at("bpf/devbroker").as_os_str()])
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.at("log")).unwrap());
        if let Some(point) = fail_point {
            command.env("DEVBROKER_FAIL_POINT", point);
        }
        Daemon(command.spawn().unwrap())
    }

    /// Whether the daemon answers that it has done all there is to do.
    fn is_settled(&self) -> bool {
        let everything = Sync {
            syspath: None,
            seqnum: None,
        };
        Client::connect(&self.socket(), Duration::from_secs(20))
            .and_then(|mut client| client.call(&everything))
            .is_ok()
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::PlugBoth => self.plug([true, true]),
            Step::PlugFirst => self.plug([true, self.plugged[1]]),
            Step::UnplugFirst => self.plug([false, self.plugged[1]]),
            Step::UnplugBoth => self.plug([false, false]),
            Step::Chmod => {
                let node = self.at("devfs/dev").join(self.devices[0].name());
                fs::set_permissions(node, fs::Permissions::from_mode(0o604)).unwrap();
                self.mode = Some(0o604);
            }
            Step::Regrant => self.grant(Some(0o600)),
            Step::Ungrant => self.grant(None),
            Step::Grant => self.grant(Some(0o640)),
        }
    }

    fn plug(&mut self, wanted: [bool; 2]) {
        for (at, device) in self.devices.iter().enumerate() {
            match (self.plugged[at], wanted[at]) {
                (false, true) => device.add(),
                (true, false) => device.remove(),
                (false, false) | (true, true) => {}
            }
        }
        self.plugged = wanted;
    }

    fn grant(&mut self, mode: Option<u32>) {
        self.granted = mode;
        self.configure();
    }

    /// What is to be seen.
    fn expected(&self) -> Picture {
        let mut picture = Picture::default();
        let folder = |picture: &mut Picture, path: &str| {
            picture.dev.insert(path.into(), "folder".into());
        };
        let host_mode = |device: &Loop| {
            let meta = fs::metadata(Path::new("/dev").join(device.name()));
            meta.map_or(0, |meta| meta.mode() & 0o777)
        };
        let modes = [
            Some(self.mode.unwrap_or_else(|| host_mode(&self.devices[0]))),
            self.granted,
        ];
        for (at, alias) in ["first", "second"].iter().enumerate() {
            if !self.plugged[at] {
                continue;
            }
            let device = &self.devices[at];
            let name = device.name();
            for link in [
                (*alias).to_owned(),
                format!("{alias}.d"),
                format!("{alias}.d/block"),
            ] {
                picture.on_host.insert(link);
            }
            let Some(mode) = modes[at] else { continue };
            picture.staged += 1;
            picture.access.insert(devnum(device), Access::READ_WRITE);
            picture
                .dev
                .insert(name.clone(), format!("{} {mode:o}", devnum(device)));
            folder(&mut picture, "devbroker");
            folder(&mut picture, &format!("devbroker/{alias}.d"));
            let mut link = |path: String, up: &str| picture.dev.insert(path, format!("-> {up}{name}"));
            link(format!("devbroker/{alias}"), "../");
            link(format!("devbroker/{alias}.d/block"), "../../");
            if at == 0 {
                link("my/disk".into(), "../");
                folder(&mut picture, "my");
            }
        }
        picture
    }

    /// What is seen.
    fn seen(&self) -> Picture {
        let mut picture = Picture {
            staged: fs::read_dir(self.at("devfs/stage")).unwrap().count(),
            access: DeviceFilter::open(&self.ground.pins())
                .unwrap()
                .granted()
                .unwrap(),
            ..Picture::default()
        };
        walk(&self.at("devfs/dev"), "", &mut |path, text| {
            picture.dev.insert(path, text);
        });
        walk(&self.at("aliases"), "", &mut |path, _| {
            picture.on_host.insert(path);
        });
        picture
    }

    /// Waits until things are as they are to be, starting the daemon again if it died. Says whether it did.
    fn comes_about(&self, daemon: &mut Daemon, what: &str) -> bool {
        let mut died = false;
        let mut begun = std::time::Instant::now();
        loop {
            if daemon.is_dead() {
                assert!(!died, "{what}: it died once more\n{}", self.log());
                died = true;
                *daemon = self.daemon(None);
                begun = std::time::Instant::now();
            }
            if self.seen() == self.expected() && self.is_settled() && self.seen() == self.expected() {
                // Killed after all was done: that counts as well.
                if !daemon.is_dead() {
                    return died;
                }
                continue;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(40),
                "{what}:\n{:#?}\ninstead of\n{:#?}\n{}",
                self.seen(),
                self.expected(),
                self.log()
            );
            nix::poll::poll(&mut [], 5_u8).unwrap();
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.at("log")).unwrap_or_default()
    }

    /// The whole history, with the daemon killed at `point`. Says whether it came to that.
    fn history(&mut self, point: &str) -> bool {
        let mut daemon = self.daemon(Some(point));
        let mut died = self.comes_about(&mut daemon, point);
        for step in HISTORY {
            self.step(step);
            died |= self.comes_about(&mut daemon, &format!("{point}, {step:?}"));
        }
        drop(daemon);
        // The next one begins where this one did.
        self.mode = None;
        fs::remove_dir_all(self.at("state/permissions")).unwrap();
        died
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.container.kill().ok();
        self.container.wait().ok();
    }
}

/// The number of a device that is there.
fn devnum(device: &Loop) -> DevNum {
    let text = fs::read_to_string(device.sysfs().join("dev")).unwrap();
    format!("b{}", text.trim()).parse().unwrap()
}

/// Tells of everything below a folder, by relative path.
fn walk(top: &Path, below: &str, tell: &mut dyn FnMut(String, String)) {
    let Ok(entries) = fs::read_dir(top.join(below)) else {
        return;
    };
    for entry in entries {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let path = if below.is_empty() {
            name
        } else {
            format!("{below}/{name}")
        };
        // Gone in between: it is looked at again.
        let Ok(meta) = top.join(&path).symlink_metadata() else {
            continue;
        };
        let kind = meta.file_type();
        let text = if kind.is_dir() {
            "folder".to_owned()
        } else if kind.is_symlink() {
            let target = fs::read_link(top.join(&path)).unwrap_or_default();
            format!("-> {}", target.display())
        } else if kind.is_block_device() {
            let devnum = DevNum::from_stat(meta.mode(), meta.rdev()).unwrap();
            format!("{devnum} {:o}", meta.mode() & 0o777)
        } else {
            format!("{kind:?}")
        };
        tell(path.clone(), text);
        if kind.is_dir() {
            walk(top, &path, tell);
        }
    }
}

#[test]
fn killed_before_and_after_each_effect() {
    let mut scene = Scene::new();
    let mut deaths = BTreeMap::new();
    let sweeps = EFFECTS
        .iter()
        .flat_map(|effect| [("before", *effect), ("after", *effect)])
        .chain([("after", "ledger")]);
    for (when, effect) in sweeps {
        let nth = (1..200)
            .find(|nth| !scene.history(&format!("{when}:{effect}:{nth}")))
            .unwrap();
        deaths.insert(format!("{when} {effect}"), nth - 1);
    }
    println!("{deaths:?}");
    assert!(deaths.values().all(|deaths| *deaths > 0), "{deaths:?}");
}
