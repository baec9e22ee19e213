//! The administrator's own programs at turns of a container's life: `/etc/ctm/hooks.d/TURN` for all containers, then
//! `/etc/ctm/hooks.d/NAME.TURN`. They run as root on the host, with the environment that vzctl's action scripts had.
//!
//! `first-boot` is the exception: a shell script that runs inside, once, after the first start.

use crate::layout::Layout;
use crate::process::ProcessId;
use crate::run::console::Console;
use crate::{atomic, sys};
use devbroker::model::ContainerName;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a hook may take.
const LIMIT: Duration = Duration::from_secs(60);
/// SIGKILL
const KILL: i32 = 9;

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Before anything of the container is there. One that fails keeps it from starting.
    PreStart,
    /// Its first process runs. One that fails stops it again.
    PostStart,
    /// Before its init is asked to stop.
    PreStop,
    /// Nothing of it is left, however it ended.
    PostStop,
    /// Inside, after its first start.
    FirstBoot,
    /// It was refused something, or waited for too long. Nobody waits for it.
    Alert,
}

/// All turns.
pub(crate) const TURNS: [Turn; 6] = [
    Turn::PreStart,
    Turn::PostStart,
    Turn::PreStop,
    Turn::PostStop,
    Turn::FirstBoot,
    Turn::Alert,
];

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PreStart => "pre-start",
            Self::PostStart => "post-start",
            Self::PreStop => "pre-stop",
            Self::PostStop => "post-stop",
            Self::FirstBoot => "first-boot",
            Self::Alert => "alert",
        })
    }
}

/// What can go wrong with a hook.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// It would run as root on behalf of somebody else.
    #[error("the hook {} can be changed by others than root; chown root and chmod go-w, then try again", .0.display())]
    Unsafe(PathBuf),
    #[error("the hook {} failed ({status})", .path.display())]
    Failed { path: PathBuf, status: ExitStatus },
    #[error("the hook {} did not end within {} s and was killed", .0.display(), LIMIT.as_secs())]
    Slow(PathBuf),
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> HookError + use<'a> {
    move |source| HookError::Io {
        what,
        path: path.into(),
        source,
    }
}

/// A container's hooks.
#[derive(Debug)]
pub(crate) struct Hooks<'a> {
    layout: &'a Layout,
    name: &'a ContainerName,
}

impl<'a> Hooks<'a> {
    pub(crate) fn new(layout: &'a Layout, name: &'a ContainerName) -> Self {
        Self { layout, name }
    }

    /// Runs the hooks of a turn, the common one first; stops at the first that fails. What the container writes meanwhile
    /// is taken in, so that it need not wait for them.
    pub(crate) fn run(
        &self,
        turn: Turn,
        init: Option<i32>,
        mut console: Option<&mut Console>,
    ) -> Result<(), HookError> {
        for path in self.layout.hooks_of(self.name, &turn.to_string()) {
            if !is_there(&path, turn != Turn::FirstBoot)? {
                continue;
            }
            tracing::debug!(container = %self.name, hook = %path.display());
            let command = match turn {
                Turn::FirstBoot => self.inside(&path)?,
                Turn::PreStart | Turn::PostStart | Turn::PreStop | Turn::PostStop | Turn::Alert => {
                    self.on_host(&path, turn, init)
                }
            };
            Hook::start(command, path)?.finish(console.as_deref_mut())?;
        }
        Ok(())
    }

    /// Starts the hooks of an alert, with these variables besides, and waits for none of them.
    pub(crate) fn alert(
        &self,
        init: Option<i32>,
        variables: &[(&str, String)],
    ) -> Result<Vec<Hook>, HookError> {
        let mut started = Vec::new();
        for path in self.layout.hooks_of(self.name, &Turn::Alert.to_string()) {
            if is_there(&path, true)? {
                let mut command = self.on_host(&path, Turn::Alert, init);
                command.envs(variables.iter().map(|(name, value)| (name, value)));
                started.push(Hook::start(command, path)?);
            }
        }
        Ok(started)
    }

    /// Runs the hook of the first start, unless it has run. A container that had none is not asked again later.
    pub(crate) fn first_boot(&self, console: &mut Console) -> Result<(), HookError> {
        let mark = self.layout.booted(self.name);
        if mark.exists() {
            return Ok(());
        }
        self.run(Turn::FirstBoot, None, Some(console))?;
        if let Some(folder) = mark.parent() {
            atomic::folder(folder, 0o700).map_err(failed("make", folder))?;
        }
        atomic::write(&mark, b"", 0o600).map_err(failed("write", &mark))
    }

    fn on_host(&self, path: &Path, turn: Turn, init: Option<i32>) -> Command {
        let mut command = Command::new(path);
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("VEID", self.name.as_str())
            .env("VE_CONFFILE", self.layout.definition(self.name))
            .env("CTM_NAME", self.name.as_str())
            .env("CTM_HOOK", turn.to_string())
            .stdin(Stdio::null());
        if let Some(pid) = init {
            command.env("CTM_PID", pid.to_string());
        }
        command
    }

    /// The host's file is only read; whatever it does it does as the container's root.
    fn inside(&self, path: &Path) -> Result<Command, HookError> {
        let script = File::open(path).map_err(failed("open", path))?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("ctm")
            .args(["exec", self.name.as_str(), "--", "/bin/sh", "-s"])
            .env_clear()
            .stdin(script);
        Ok(command)
    }
}

/// Forgets that a container was started before.
pub(crate) fn forget(layout: &Layout, name: &ContainerName) -> Result<(), HookError> {
    let mark = layout.booted(name);
    match fs::remove_file(&mark) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", &mark)(e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether there is a hook that may run as root.
fn is_there(path: &Path, executable: bool) -> Result<bool, HookError> {
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(failed("look at", path)(e)),
    };
    if found.uid() != 0 || found.permissions().mode() & 0o022 != 0 {
        return Err(HookError::Unsafe(path.into()));
    }
    Ok(found.is_file() && (!executable || found.permissions().mode() & 0o100 != 0))
}

/// A hook that runs. One that is dropped before its end goes with all that it started.
#[derive(Debug)]
pub(crate) struct Hook {
    path: PathBuf,
    child: Child,
    deadline: Instant,
}

impl Hook {
    fn start(mut command: Command, path: PathBuf) -> Result<Self, HookError> {
        let child = command
            .current_dir("/")
            .process_group(0)
            .spawn()
            .map_err(failed("run", &path))?;
        Ok(Self {
            path,
            child,
            deadline: Instant::now() + LIMIT,
        })
    }

    /// When it has taken too long.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// How it ended, if it has or if its time is over.
    pub(crate) fn ended(&mut self) -> Option<Result<(), HookError>> {
        match self.child.try_wait() {
            Ok(None) if Instant::now() < self.deadline => None,
            Ok(None) => Some(Err(HookError::Slow(self.path.clone()))),
            Ok(Some(status)) => Some(self.judge(status)),
            Err(e) => Some(Err(failed("wait for", &self.path)(e))),
        }
    }

    /// Waits for its end; what the container writes meanwhile is taken in.
    pub(crate) fn finish(&mut self, console: Option<&mut Console>) -> Result<(), HookError> {
        if !wait(&self.child, self.deadline, console).map_err(failed("wait for", &self.path))? {
            return Err(HookError::Slow(self.path.clone()));
        }
        let status = self.child.wait().map_err(failed("wait for", &self.path))?;
        self.judge(status)
    }

    fn judge(&self, status: ExitStatus) -> Result<(), HookError> {
        if status.success() {
            Ok(())
        } else {
            Err(HookError::Failed {
                path: self.path.clone(),
                status,
            })
        }
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            kill_group(&self.child);
            self.child.wait().ok();
        }
    }
}

fn wait(child: &Child, deadline: Instant, mut console: Option<&mut Console>) -> io::Result<bool> {
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let Some(process) = ProcessId::now(pid)?.open() else {
        return Ok(true);
    };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let mut fds = vec![PollFd::new(&process, PollFlags::IN)];
        if let Some(output) = console.as_ref().and_then(|console| console.readable()) {
            fds.push(PollFd::from_borrowed_fd(output, PollFlags::IN));
        }
        let limit = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        let (ended, output) = (ready(0), ready(1));
        if let (true, Some(console)) = (output, console.as_deref_mut()) {
            console.drain()?;
        }
        if ended {
            return Ok(true);
        }
    }
}

/// Ends a hook and what it started in its process group. That they have just ended is no fault.
fn kill_group(child: &Child) {
    let Ok(pid) = i32::try_from(child.id()) else {
        return;
    };
    if let Some(group) = rustix::process::Pid::from_raw(pid) {
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
    }
    if let Some(process) = ProcessId::now(pid).ok().and_then(ProcessId::open) {
        sys::send_signal(process.as_fd(), KILL).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pre-start");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn who_may_change_a_hook() {
        let (dir, path) = hook("#!/bin/sh\n", 0o777);
        assert!(matches!(is_there(&path, true), Err(HookError::Unsafe(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let owner = fs::metadata(&path).unwrap().uid();
        if owner == 0 {
            assert!(!is_there(&path, true).unwrap(), "one that is no program");
            assert!(is_there(&path, false).unwrap());
        }
        assert!(!is_there(&dir.path().join("none"), true).unwrap());
    }

    #[test]
    fn how_it_ends() {
        let (_dir, path) = hook("", 0o700);
        let shell = |text: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", text]);
            Hook::start(command, path.clone())?.finish(None)
        };
        shell("exit 0").unwrap();
        assert!(matches!(shell("exit 3"), Err(HookError::Failed { status, .. }) if status.code() == Some(3)));
        let gone = Hook::start(Command::new("/nonexistent"), path.clone()).map(drop);
        assert!(matches!(gone, Err(HookError::Io { what: "run", .. })));
    }
}
