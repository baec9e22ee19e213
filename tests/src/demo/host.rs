//! The story on the host itself, with a disk in a file (a loop device).
//!
//! Everything it needs lives in namespaces of its own: processes in a pid namespace, whose end is theirs, and files in a mount
//! namespace, which hides the host's `/run`, `/var/lib`, `/etc` and bpf file system behind empty ones. Two things are outside,
//! the loop devices and the container's cgroup; the first process, which stays outside as well, puts them back at the
//! end, whatever that end is.

use std::cell::Cell;
use std::env;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::prepare::{Facts, Loops, Udevd, facts, obstacles, quietly};
use super::story::{self, Hello, Part, Stage};
use crate::sys;
use crate::vm::Output;

const CONTROL: &str = "/dev/loop-control";

/// How long udev and others may keep a device open that is to go.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes the empty places, the programs' folder and the container's root. `$D` is an empty folder, `$PROGRAMS` has the
/// programs, `$CGROUP` is where cgroup v2 is mounted.
const FURNISH: &str = r#"
set -e
mount -t tmpfs -o mode=755 demo "$D"
mkdir -p "$D"/{bin,run,etc,root}
for program in devbroker devbroker-hook ctm probe; do cp "$PROGRAMS/$program" "$D/bin/"; done
mount -t tmpfs -o mode=755 demo "$D/run"
mkdir "$D/run/udev"
mount --rbind /run/udev "$D/run/udev"
for file in ld.so.cache ld.so.conf ld.so.conf.d passwd group nsswitch.conf subuid subgid alternatives udev; do
  [ ! -e /etc/$file ] || cp -a /etc/$file "$D/etc/"
done
mkdir -p "$D/etc/devbroker/conf.d" "$D/etc/ctm/containers"
mount -t tmpfs -o mode=755 demo /var/lib
mount -t bpf bpf /sys/fs/bpf
[ "$CGROUP" = /sys/fs/cgroup ] || mount --bind "$CGROUP" /sys/fs/cgroup
mount --bind "$D/etc" /etc
mount --rbind "$D/run" /run
r=$D/root
mkdir -p $r/{bin,etc,proc,sys,dev,run,tmp}
cp "$D/bin/probe" $r/bin/
for program in sh ls chmod chown sleep sync; do
  path=$(command -v $program)
  cp -L "$path" $r/bin/$program
  for library in $(ldd "$path" | grep -o '/[^ ]*'); do
    mkdir -p "$r/$(dirname "$library")"
    cp -L "$library" "$r/$library"
  done
done
printf 'root:x:0:0:root:/:/bin/sh\nlp:x:7:7:lp:/:/bin/sh\nuser:x:1000:1000:user:/:/bin/sh\n' >$r/etc/passwd
printf 'root:x:0:\nlp:x:7:\nuser:x:1000:\n' >$r/etc/group
truncate -s 1M "$D/disk" "$D/other"
"#;

/// Says why the demo cannot be shown on this host, missing packages apart; whether it can.
pub fn host_qualifies(out: &mut dyn Write) -> Result<bool> {
    let mut facts = facts()?;
    if !facts.missing.is_empty() {
        facts.missing.clear();
        // It comes with them.
        facts.udevd = Udevd::Runs;
    }
    let obstacles = obstacles(&facts);
    refuse(&obstacles, out)?;
    Ok(obstacles.is_empty())
}

fn refuse(obstacles: &[String], out: &mut dyn Write) -> Result<()> {
    if obstacles.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "demo: this host does not qualify, and nothing of it was touched:"
    )?;
    for obstacle in obstacles {
        writeln!(out, "  - {obstacle}")?;
    }
    writeln!(
        out,
        "`make demo`, without HOST=1, shows the same in a virtual machine."
    )?;
    Ok(())
}

/// Shows the demo on this host, or says why that is not possible; whether it was shown. The programs are taken from a
/// folder, or built.
pub fn on_host(programs: impl FnOnce() -> Result<PathBuf>, out: &mut dyn Write) -> Result<bool> {
    let facts = facts()?;
    let obstacles = obstacles(&facts);
    if !obstacles.is_empty() {
        refuse(&obstacles, out)?;
        return Ok(false);
    }
    let programs = programs()?;
    let (tell, told) = mpsc::channel();
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let interrupted = tell.clone();
    thread::spawn(move || {
        for _ in signals.forever() {
            interrupted.send(News::Interrupted).ok();
        }
    });
    let mut outside = Outside::prepare(&facts)?;
    let child = outside.spawn(&programs, tell);
    let shown = wait(child, &told);
    // In any case, and before anything is said of the outcome.
    outside.put_back()?;
    match shown? {
        End::Exit(status) => {
            ensure!(
                status.success(),
                "the demo failed; what it had made is gone again"
            );
            Ok(true)
        }
        End::Interrupted => {
            writeln!(out, "demo: interrupted; what it had made is gone again")?;
            Ok(false)
        }
    }
}

/// What the first process hears.
enum News {
    /// The story's process runs.
    Began(Pid),
    /// It could not be started.
    Failed(anyhow::Error),
    /// It has ended, and with it all processes of the story.
    Ended(ExitStatus),
    /// Someone does not want to see it to its end.
    Interrupted,
}

enum End {
    Exit(ExitStatus),
    Interrupted,
}

fn wait(spawned: Result<()>, told: &mpsc::Receiver<News>) -> Result<End> {
    spawned?;
    let (mut story, mut interrupted) = (None, false);
    loop {
        match told.recv().context("the story's thread is gone")? {
            News::Began(pid) => story = Some(pid),
            News::Interrupted => interrupted = true,
            News::Failed(error) => return Err(error),
            News::Ended(_) if interrupted => return Ok(End::Interrupted),
            News::Ended(status) => return Ok(End::Exit(status)),
        }
        if let (Some(pid), true) = (story, interrupted) {
            // The first process of a pid namespace takes all others along. It may have ended just now.
            kill(pid, Signal::SIGKILL).ok();
        }
    }
}

/// What there is outside the story's namespaces.
struct Outside {
    folder: tempfile::TempDir,
    cgroup: PathBuf,
    number: u16,
    udevd: Option<Child>,
    made_udev_folder: bool,
    loaded: bool,
}

impl Outside {
    fn prepare(facts: &Facts) -> Result<Self> {
        let cgroup = facts.cgroup.clone().context("no cgroup v2")?;
        // Hidden folders must not be above it.
        let folder = tempfile::Builder::new()
            .prefix("devbroker-demo.")
            .tempdir_in("/tmp")?;
        let mut outside = Self {
            folder,
            cgroup,
            number: 0,
            udevd: None,
            made_udev_folder: false,
            loaded: false,
        };
        if facts.loops == Loops::Module {
            outside.loaded = quietly("modprobe", &["loop"]);
            ensure!(outside.loaded, "cannot load the module loop: see dmesg");
        }
        outside.number = (900..1000)
            .step_by(2)
            .find(|number| !exists(*number) && !exists(number + 1))
            .context("no two loop devices from 900 to 999 are free")?;
        if let Udevd::Startable(program) = &facts.udevd {
            outside.made_udev_folder = !Path::new("/run/udev").exists();
            let silent = Command::new(program)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            outside.udevd = Some(silent.with_context(|| format!("cannot run {}", program.display()))?);
            let deadline = Instant::now() + PATIENCE;
            while !quietly("udevadm", &["control", "--ping", "--timeout=10"]) {
                ensure!(Instant::now() < deadline, "udevd does not answer");
            }
        }
        Ok(outside)
    }

    fn container() -> String {
        format!("demo-{}", std::process::id())
    }

    /// Starts the story as the first process of a pid namespace. The thread that does it stays until the end: the story
    /// dies with its parent, and to the kernel that is the thread.
    fn spawn(&self, programs: &Path, tell: Sender<News>) -> Result<()> {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(env::current_exe().context("where is this program?")?)
            .args(["demo-inside", &Self::container()])
            .arg(self.folder.path())
            .arg(programs)
            .arg(&self.cgroup)
            .arg(self.number.to_string())
            .stdin(Stdio::null());
        thread::Builder::new().name("story".into()).spawn(move || {
            let mut run = || -> Result<ExitStatus> {
                unshare(CloneFlags::CLONE_NEWPID).context("cannot make a pid namespace")?;
                let mut child = command.spawn().context("cannot run setpriv of util-linux")?;
                let pid = Pid::from_raw(i32::try_from(child.id())?);
                tell.send(News::Began(pid)).ok();
                Ok(child.wait()?)
            };
            let news = run().map_or_else(News::Failed, News::Ended);
            tell.send(news).ok();
        })?;
        Ok(())
    }

    /// Leaves the host as it was. All processes of the story are gone.
    fn put_back(&mut self) -> Result<()> {
        let devices =
            [self.number, self.number + 1].map(|number| if exists(number) { remove(number) } else { Ok(()) });
        let cgroup = self.cgroup.join("ctm");
        let cgroups = remove_tree(&cgroup.join(Self::container()));
        // Its parent is ctm's; it stays if there are other containers.
        fs::remove_dir(cgroup).ok();
        if let Some(mut udevd) = self.udevd.take() {
            quietly("udevadm", &["settle", "--timeout=30"]);
            kill(Pid::from_raw(i32::try_from(udevd.id())?), Signal::SIGTERM)?;
            udevd.wait()?;
            if self.made_udev_folder {
                fs::remove_dir_all("/run/udev").context("cannot remove /run/udev")?;
            }
        }
        if self.loaded {
            quietly("modprobe", &["--remove", "loop"]);
        }
        for device in devices {
            device?;
        }
        cgroups.with_context(|| format!("cannot remove {}", self.cgroup.display()))
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // After put_back there is nothing left to do.
        self.put_back().ok();
    }
}

fn exists(number: u16) -> bool {
    Path::new("/sys/block").join(format!("loop{number}")).exists()
}

fn node(number: u16) -> String {
    format!("/dev/loop{number}")
}

/// Takes a loop device's file and the device itself away. udev (or anyone) may have it open for a moment; that ends, and
/// nothing tells when.
fn remove(number: u16) -> Result<()> {
    let control = File::open(CONTROL).with_context(|| format!("cannot open {CONTROL}"))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(device) = File::open(node(number)) {
            match sys::loop_clear(&device) {
                Ok(()) | Err(Errno::ENXIO | Errno::EBUSY) => {}
                Err(errno) => bail!("cannot take the file from {}: {errno}", node(number)),
            }
        }
        match sys::loop_remove(&control, number) {
            Ok(()) | Err(Errno::ENODEV) => return Ok(()),
            Err(Errno::EBUSY) if Instant::now() < deadline => thread::yield_now(),
            Err(errno) => bail!("cannot remove {}: {errno}", node(number)),
        }
    }
}

/// Removes cgroups from the leaves up.
fn remove_tree(folder: &Path) -> std::io::Result<()> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(entries) => {
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    remove_tree(&entry.path())?;
                }
            }
        }
    }
    fs::remove_dir(folder)
}

/// The story's process: `arguments` are what [`Outside::spawn`] gives it.
pub fn inside(arguments: &[String], out: &mut dyn Write) -> Result<()> {
    let [container, folder, programs, cgroup, number] = arguments else {
        bail!("demo-inside is started by `make demo HOST=1`");
    };
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none)?;
    let host = Host {
        container: container.clone(),
        folder: folder.into(),
        number: number.parse()?,
        plugged: Cell::new(0),
    };
    host.furnish(programs, cgroup)?;
    writeln!(
        out,
        "This host, with its own udev and a disk in a file: {} and {}.\n",
        node(host.number),
        node(host.number + 1)
    )?;
    host.start_broker()?;
    host.ok(&format!(
        "ctm create {container} --rootfs \"$D/root\" \
            --init /bin/sh -c \"trap 'exit 0' TERM; while :; do sleep 1000 & wait; done\""
    ))?;
    let told = story::tell(&host, out);
    if told.is_err() {
        let log = fs::read_to_string(host.folder.join("log")).unwrap_or_default();
        writeln!(out, "the broker's log:\n{log}")?;
    }
    // In order, for a container that is killed stays behind in the broker's memory; this one's goes anyway.
    let stopped = host.ok(&format!("ctm stop {container} && ctm destroy --yes {container}"));
    told.and(stopped.map(drop))
}

struct Host {
    container: String,
    folder: PathBuf,
    /// The first of two loop devices that are ours.
    number: u16,
    /// How often the disk was plugged in.
    plugged: Cell<u16>,
}

impl Host {
    fn bash(&self, script: &str) -> Command {
        let path = env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command
            .args(["-c", script])
            .env("D", &self.folder)
            .env(
                "PATH",
                format!("{}:{path}:/usr/sbin:/sbin", self.folder.join("bin").display()),
            )
            .env_remove("DEVBROKER_LOG")
            .stdin(Stdio::null());
        command
    }

    fn furnish(&self, programs: &str, cgroup: &str) -> Result<()> {
        let output = self
            .bash(FURNISH)
            .env("PROGRAMS", programs)
            .env("CGROUP", cgroup)
            .output()?;
        ensure!(
            output.status.success(),
            "cannot prepare a place of its own: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// The aliases' links go where nobody else sees them.
    fn start_broker(&self) -> Result<()> {
        fs::write("/etc/devbroker/conf.d/demo.toml", self.part().configuration)?;
        let log = File::create(self.folder.join("log"))?;
        self.bash("exec devbroker daemon --aliases /run/aliases")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot run bash")?;
        self.ok(
            "for try in $(seq 600); do devbroker status >/dev/null 2>&1 && exit; sleep 0.05; done
            cat \"$D/log\" >&2; exit 1",
        )
        .map(drop)
        .context("the broker does not come up")
    }

    fn ok(&self, script: &str) -> Result<String> {
        let output = self.run(script)?;
        ensure!(
            output.success(),
            "status {} of: {script}\n{}{}",
            output.status,
            output.stdout,
            output.stderr
        );
        Ok(output.stdout)
    }

    /// Makes a loop device with this file in it, and waits until udev knows.
    fn insert(&self, number: u16, file: &str) -> Result<()> {
        let control = File::open(CONTROL).with_context(|| format!("cannot open {CONTROL}"))?;
        sys::loop_add(&control, number).with_context(|| format!("cannot make {}", node(number)))?;
        self.ok(&format!(
            "losetup {} \"$D/{file}\" && udevadm settle --timeout=60",
            node(number)
        ))
        .map(drop)
    }
}

impl Stage for Host {
    fn part(&self) -> Part {
        Part {
            thing: "disk",
            alias: "demo",
            container: self.container.clone(),
            configuration: format!(
                r#"
[alias.demo]
match = {{ subsystem = "block", attr."loop/backing_file" = "{}" }}

[[grant]]
alias = "demo"
container = "ctm:{}"
path = "disk"
"#,
                self.folder.join("disk").display(),
                self.container
            ),
        }
    }

    fn run(&self, script: &str) -> Result<Output> {
        let output = self.bash(script).output().context("cannot run bash")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Output {
            status: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        })
    }

    fn start_container(&self) -> Result<()> {
        self.ok(&format!("ctm start {}", self.container)).map(drop)
    }

    fn settle(&self) -> Result<()> {
        self.ok("udevadm settle --timeout=60 && env -i PATH=\"$PATH\" devbroker-hook --wait")
            .map(drop)
    }

    fn plug(&self) -> Result<Vec<String>> {
        let number = self.number + self.plugged.get();
        self.plugged.set(self.plugged.get() + 1);
        self.insert(number, "disk")?;
        Ok(vec![node(number)])
    }

    fn unplug(&self, path: &str) -> Result<()> {
        remove(self.number)?;
        self.ok("udevadm settle --timeout=60")?;
        ensure!(!Path::new(path).exists(), "{path} is still there");
        Ok(())
    }

    fn plug_other(&self) -> Result<()> {
        self.insert(self.number, "other")
    }

    fn hello(&self, text: &str) -> Result<Hello> {
        self.ok(&format!(
            "ctm exec {} -- /bin/sh -c \"echo '{text}' >/dev/disk && sync /dev/disk\"",
            self.container
        ))?;
        Ok(Hello {
            how: "The container writes to the disk; its file on the host begins with:",
            arrived: self.ok("head -n 1 \"$D/disk\"")?,
        })
    }
}
