//! What ctm adds to crun: starting a container, a command in it, listing many, and what stays beside each.
//!
//! Runs in a mount namespace of its own with a pure cgroup v2 view, a bpffs and empty `/run`, `/var/lib` and `/etc/ctm`, so that
//! the host's containers are neither seen nor touched. The container is a busybox that sleeps. crun alone has the same root file
//! system and the very `config.json` that ctm wrote, but for its cgroup. systemd-nspawn has a copy of that root file system with
//! a user namespace as well; its first process says a line, since nobody else tells when it runs.

use super::daemon::{Memory, memory_of};
use super::inside::now;
use super::report::Spread;
use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How many definitions `ctm list` is to show.
const DEFINITIONS: u32 = 1000;
/// In how many milliseconds.
const AIM_LIST: f64 = 50.0;
/// Commands in the container for each start.
const COMMANDS: u32 = 5;

/// The user ids of systemd-nspawn's container; it wants a multiple of 65536.
const NSPAWN_IDS: &str = "1879048192:65536";

const DEFINED: &str = "/etc/ctm";

/// What was measured, in nanoseconds but for the memory.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// `ctm start` until it returns, when the container's first process runs.
    start: Vec<u64>,
    /// `crun run --detach` of the same bundle.
    start_alone: Vec<u64>,
    /// `systemd-nspawn` until its first process has written a line.
    start_nspawn: Vec<u64>,
    /// `ctm exec NAME -- true`.
    exec: Vec<u64>,
    /// `crun exec NAME true`.
    exec_alone: Vec<u64>,
    /// `ctm list`.
    list: Vec<u64>,
    /// Of the supervisor, `ctm run`.
    memory: Option<Memory>,
}

impl Figures {
    fn all(&self) -> [(&'static str, &[u64]); 6] {
        [
            ("ctm start, until the first process runs", &self.start),
            ("crun alone: run", &self.start_alone),
            ("systemd-nspawn, until its first line", &self.start_nspawn),
            ("ctm exec true", &self.exec),
            ("crun alone: exec true", &self.exec_alone),
            ("ctm list, 1000 definitions", &self.list),
        ]
    }

    /// The lines of the report.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .all()
            .iter()
            .map(|(name, samples)| {
                let spread = Spread::of(samples.to_vec());
                let (median, p90) = (spread.median / 1000.0, spread.p90 / 1000.0);
                format!(
                    "  {name:42} median {median:>7.1} ms, p90 {p90:>7.1} ms ({} times)",
                    spread.count
                )
            })
            .collect();
        let median = Spread::of(self.list.clone()).median / 1000.0;
        let met = if median < AIM_LIST { "met" } else { "NOT met" };
        lines.push(format!(
            "  aim: a list of {DEFINITIONS} in less than {AIM_LIST} ms: {met}"
        ));
        if let Some(memory) = self.memory {
            lines.push(format!(
                "  memory of what stays beside a container: {} KiB resident, {} KiB its share, {} KiB its own",
                memory.rss, memory.pss, memory.own
            ));
        }
        lines
    }

    /// The same as JSON.
    pub(super) fn json(&self) -> Value {
        let spread = |samples: &[u64]| Spread::of(samples.to_vec()).json();
        json!({
            "start_us": spread(&self.start),
            "crun_run_us": spread(&self.start_alone),
            "nspawn_us": spread(&self.start_nspawn),
            "exec_us": spread(&self.exec),
            "crun_exec_us": spread(&self.exec_alone),
            "list_us": spread(&self.list),
            "definitions": DEFINITIONS,
            "supervisor": self.memory.map(|memory| json!({
                "rss_kib": memory.rss, "pss_kib": memory.pss, "own_kib": memory.own,
            })),
        })
    }
}

/// Measures with so many starts. `program` is `ctm`.
pub(super) fn measure(program: &Path, starts: u32) -> Result<Figures> {
    let made = !Path::new(DEFINED).exists();
    if made {
        fs::create_dir(DEFINED).with_context(|| format!("make {DEFINED}"))?;
    }
    // In a thread, whose mount namespace ends with it.
    let done = std::thread::scope(|scope| {
        let room = scope.spawn(|| -> Result<Figures> {
            enter()?;
            Room::new(program)?.figures(starts)
        });
        room.join()
    });
    if made {
        fs::remove_dir(DEFINED).with_context(|| format!("remove {DEFINED}"))?;
    }
    match done {
        Ok(figures) => figures,
        Err(_) => bail!("the thread that measures ctm died"),
    }
}

/// Makes the mount namespace.
fn enter() -> Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make mounts private")?;
    umount2("/sys/fs/cgroup", MntFlags::MNT_DETACH).context("take the cgroups away")?;
    for (kind, at) in [
        ("cgroup2", "/sys/fs/cgroup"),
        ("bpf", "/sys/fs/bpf"),
        ("tmpfs", "/run"),
        ("tmpfs", "/var/lib"),
        ("tmpfs", DEFINED),
    ] {
        mount(Some(kind), at, Some(kind), MsFlags::empty(), none)
            .with_context(|| format!("mount {kind} on {at}"))?;
    }
    Ok(())
}

/// One container of ctm's. Nothing of it stays, however this ends.
struct Room<'a> {
    ctm: &'a Path,
    name: String,
}

impl<'a> Room<'a> {
    fn new(ctm: &'a Path) -> Result<Self> {
        let this = Self {
            ctm,
            name: format!("bench-{}", std::process::id()),
        };
        let root = Path::new("/run/root");
        for folder in ["bin", "dev", "proc", "sys", "run", "tmp", "etc"] {
            fs::create_dir_all(root.join(folder)).context("make the root file system")?;
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from);
        let busybox = busybox.iter().find(|path| path.exists());
        let busybox = busybox.context("busybox is missing: install busybox-static")?;
        fs::copy(busybox, root.join("bin/busybox")).context("copy busybox")?;
        for applet in ["sh", "sleep", "true"] {
            symlink("busybox", root.join("bin").join(applet)).context("link an applet")?;
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").context("write passwd")?;
        this.ctm(&[
            "create",
            &this.name,
            "--rootfs",
            "/run/root",
            "--init",
            "/bin/sleep",
            "infinity",
        ])?;
        Ok(this)
    }

    fn ctm(&self, words: &[&str]) -> Result<u64> {
        timed(Command::new(self.ctm).args(words))
    }

    fn figures(&self, starts: u32) -> Result<Figures> {
        let mut figures = Figures::default();
        let bundle = Path::new("/run/alone");
        for turn in 0..starts {
            figures.start.push(self.ctm(&["start", &self.name])?);
            if turn == 0 {
                self.copy_bundle(bundle)?;
            }
            for _ in 0..COMMANDS {
                figures.exec.push(self.ctm(&["exec", &self.name, "--", "true"])?);
                let mut exec = runtime("/run/ctm/.crun");
                figures
                    .exec_alone
                    .push(timed(exec.args(["exec", &self.name, "true"]))?);
            }
            // While ctm's runs, whose /dev the bundle names.
            let alone = format!("{}-alone", self.name);
            let mut run = runtime("/run/crun-alone");
            run.args(["run", "--detach", "--bundle"]).arg(bundle).arg(&alone);
            figures.start_alone.push(timed(&mut run)?);
            timed(runtime("/run/crun-alone").args(["delete", "--force", &alone]))?;
            if turn == 0 {
                self.nspawn()?;
            }
            figures.start_nspawn.push(self.nspawn()?);
            figures.memory = Some(self.supervisor()?);
            self.ctm(&["stop", &self.name])?;
        }
        let defined = Path::new(DEFINED).join("containers");
        let text = fs::read(defined.join(format!("{}.toml", self.name))).context("read the definition")?;
        for number in 1..DEFINITIONS {
            fs::write(defined.join(format!("c{number}.toml")), &text).context("write a definition")?;
        }
        for _ in 0..starts {
            figures.list.push(self.ctm(&["list"])?);
        }
        Ok(figures)
    }

    /// How long systemd-nspawn takes. The first run also gives the files to its user namespace.
    fn nspawn(&self) -> Result<u64> {
        let cgroup = Path::new("/sys/fs/cgroup").join(format!("{}-nspawn", self.name));
        fs::create_dir(&cgroup).context("make a cgroup for systemd-nspawn")?;
        let root = "/run/nspawn-root";
        if !Path::new(root).exists() {
            timed(Command::new("cp").args(["-a", "/run/root", root]))?;
            fs::create_dir(Path::new(root).join("usr")).context("make usr")?;
        }
        // It makes cgroups below the one that it is in.
        let script = format!(
            "echo 0 >{}/cgroup.procs; exec systemd-nspawn --quiet --directory={root} --register=no --keep-unit --private-network \
             --private-users={NSPAWN_IDS} --private-users-ownership=chown --console=pipe /bin/sh -c 'echo up; exec sleep 1000'",
            cgroup.display()
        );
        let begin = now();
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run systemd-nspawn")?;
        let mut line = String::new();
        if let Some(output) = &mut child.stdout {
            BufReader::new(output).read_line(&mut line)?;
        }
        let took = now() - begin;
        fs::write(cgroup.join("cgroup.kill"), "1").context("end systemd-nspawn")?;
        let output = child.wait_with_output()?;
        for folder in ["payload", "supervisor", ""] {
            gone(&cgroup.join(folder))?;
        }
        ensure!(
            line.trim() == "up",
            "systemd-nspawn: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(took)
    }

    /// ctm's bundle with another cgroup.
    fn copy_bundle(&self, to: &Path) -> Result<()> {
        let file = format!("/run/ctm/{}/bundle/config.json", self.name);
        let text = fs::read(&file).with_context(|| format!("read {file}"))?;
        let mut spec: Value = serde_json::from_slice(&text).with_context(|| format!("understand {file}"))?;
        let cgroup = spec
            .pointer_mut("/linux/cgroupsPath")
            .context("a bundle without cgroup")?;
        *cgroup = json!(format!("/{}-alone", self.name));
        fs::create_dir(to).context("make a bundle")?;
        fs::write(to.join("config.json"), spec.to_string()).context("write a bundle")
    }

    fn supervisor(&self) -> Result<Memory> {
        let file = format!("/sys/fs/cgroup/ctm/{}/supervisor/cgroup.procs", self.name);
        let pids = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
        memory_of(pids.lines().next().context("no supervisor")?)
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        // What fails has been told by the command that brought us here.
        self.ctm(&["stop", &self.name]).ok();
        self.ctm(&["destroy", &self.name, "--yes"]).ok();
    }
}

/// Removes a cgroup whose processes have just been killed.
fn gone(cgroup: &Path) -> Result<()> {
    loop {
        match fs::remove_dir(cgroup) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy => std::thread::yield_now(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            done => return done.with_context(|| format!("remove {}", cgroup.display())),
        }
    }
}

fn runtime(root: &str) -> Command {
    let mut command = Command::new("crun");
    command.args(["--cgroup-manager=cgroupfs", "--root", root]);
    command
}

/// How long a command takes that must succeed.
fn timed(command: &mut Command) -> Result<u64> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let errors = Path::new("/run/errors");
    let file = fs::File::create(errors).context("make a file for errors")?;
    let begin = now();
    let status = command.stderr(file).status();
    let took = now() - begin;
    let status = status.with_context(|| format!("run {command:?}"))?;
    ensure!(
        status.success(),
        "{command:?}: {status}: {}",
        fs::read_to_string(errors).unwrap_or_default()
    );
    Ok(took)
}
