//! Programs that do long work for us, such as `tar`: run to their end, watched, and ended with us.
//!
//! A program is killed when ctm is, so that nothing goes on writing into what the next ctm sweeps; and when the caller
//! interrupts ctm it is killed, so that what it made can be undone.

use crate::make::progress::Progress;
use crate::{signal, sys};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitStatus, Stdio};

/// How often is looked how far a program is.
const TICK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 150_000_000,
};
/// Of what a program says, this many lines at its beginning and at its end are kept.
const KEPT: usize = 5;
/// The longest line that is kept.
const MAX_LINE: usize = 400;

/// What can go wrong with a program.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkError {
    /// It could not be run.
    #[error("cannot run {program}: {source}; install the package {package}")]
    Run {
        program: String,
        package: &'static str,
        source: io::Error,
    },
    /// It said no.
    #[error("{program} failed ({status}): {message}")]
    Failed {
        program: String,
        status: ExitStatus,
        message: String,
    },
    /// There is no room for what it writes.
    #[error("{program} found no room left on the disk: {message}; make room, then try again")]
    NoSpace { program: String, message: String },
    /// Someone wants us to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// Watching it failed.
    #[error("cannot watch {program}: {source}")]
    Watch { program: String, source: io::Error },
}

/// A signal asked us to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted; nothing was left behind, and it can be tried again")]
pub(crate) struct Interrupted;

/// Signals that ask ctm to stop, taken note of instead of ending it at once.
#[derive(Debug)]
pub(crate) struct Interrupts(UnixStream);

impl Interrupts {
    /// From now on.
    pub(crate) fn heeded() -> io::Result<Self> {
        signal::heeded().map(Self)
    }

    /// Fails once there was such a signal.
    pub(crate) fn check(&self) -> Result<(), Interrupted> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut fds, Some(&Timespec::default())) {
            // It stays readable: the signal counts for all that comes.
            Ok(1..) => Err(Interrupted),
            Ok(0) | Err(_) => Ok(()),
        }
    }
}

/// Who waits for the work, and who may end it.
#[derive(Debug)]
pub(crate) struct Watcher {
    pub(crate) progress: Progress,
    pub(crate) interrupts: Option<Interrupts>,
}

impl Watcher {
    /// Nobody.
    pub(crate) fn none() -> Self {
        Self {
            progress: Progress::none(),
            interrupts: None,
        }
    }

    /// Fails once the caller wants us to stop.
    pub(crate) fn check(&self) -> Result<(), Interrupted> {
        self.interrupts.as_ref().map_or(Ok(()), Interrupts::check)
    }
}

/// What is done with each line a program says, and what at each look at how far it is.
pub(crate) trait Observer {
    /// A line of its output.
    fn line(&mut self, progress: &mut Progress, line: &str);
    /// Some time has gone by.
    fn tick(&mut self, progress: &mut Progress);
}

/// Shows what the program says.
#[derive(Debug)]
pub(crate) struct Notes;

impl Observer for Notes {
    fn line(&mut self, progress: &mut Progress, line: &str) {
        progress.note(line);
    }

    fn tick(&mut self, _: &mut Progress) {}
}

/// Runs a program to its end. Its standard output and error are read here; what of them explains a failure is in the error.
pub(crate) fn run(
    package: &'static str,
    mut command: Command,
    watcher: &mut Watcher,
    observer: &mut dyn Observer,
) -> Result<(), WorkError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let watch = |source: io::Error| WorkError::Watch {
        program: program.clone(),
        source,
    };
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| watch(e.into()))?;
    fcntl_getfl(&ours)
        .and_then(|flags| fcntl_setfl(&ours, flags | OFlags::NONBLOCK))
        .map_err(|e| watch(e.into()))?;
    let second = theirs.try_clone().map_err(watch)?;
    command.env("LC_ALL", "C.UTF-8").stdout(theirs).stderr(second);
    sys::killed_with_us(&mut command);
    let spawned = command.spawn();
    // Our copies of its end of the pipe.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = spawned.map_err(|source| WorkError::Run {
        program: program.clone(),
        package,
        source,
    })?;
    let mut said = Said::new(File::from(ours));
    let watched = pidfd(child.id())
        .and_then(|pidfd| attend(&pidfd, &mut said, watcher, observer))
        .map_err(watch);
    let interrupted = !matches!(watched, Ok(Ended::Itself));
    if interrupted {
        // It may have ended meanwhile.
        child.kill().ok();
    }
    let status = child.wait().map_err(watch)?;
    if let Ended::Interrupted = watched? {
        return Err(Interrupted.into());
    }
    if status.success() {
        return Ok(());
    }
    let message = said.reason();
    if [
        "No space left on device",
        "Disk quota exceeded",
        "enough free space",
    ]
    .iter()
    .any(|words| said.all_kept().any(|line| line.contains(words)))
    {
        return Err(WorkError::NoSpace { program, message });
    }
    Err(WorkError::Failed {
        program,
        status,
        message,
    })
}

fn pidfd(id: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("a process id out of range"))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

enum Ended {
    Itself,
    Interrupted,
}

/// Reads what a process says through a pipe until it ends; answers with what of it explains a failure.
pub(crate) fn follow(
    pidfd: &OwnedFd,
    pipe: OwnedFd,
    watcher: &mut Watcher,
    observer: &mut dyn Observer,
) -> io::Result<Result<String, Interrupted>> {
    fcntl_setfl(&pipe, fcntl_getfl(&pipe)? | OFlags::NONBLOCK)?;
    let mut said = Said::new(File::from(pipe));
    Ok(match attend(pidfd, &mut said, watcher, observer)? {
        Ended::Itself => Ok(said.reason()),
        Ended::Interrupted => Err(Interrupted),
    })
}

/// Reads what the program says until it ends.
fn attend(
    pidfd: &OwnedFd,
    said: &mut Said,
    watcher: &mut Watcher,
    observer: &mut dyn Observer,
) -> io::Result<Ended> {
    let Watcher { progress, interrupts } = watcher;
    loop {
        let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
        if said.open {
            fds.push(PollFd::new(&said.pipe, PollFlags::IN));
        }
        if let Some(interrupts) = interrupts {
            fds.push(PollFd::from_borrowed_fd(interrupts.0.as_fd(), PollFlags::IN));
        }
        let tick = progress.is_shown().then_some(&TICK);
        match poll(&mut fds, tick) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let ended = fds.first().is_some_and(|fd| !fd.revents().is_empty());
        said.read(|line| observer.line(progress, line))?;
        observer.tick(progress);
        if ended {
            return Ok(Ended::Itself);
        }
        if interrupts
            .as_ref()
            .is_some_and(|interrupts| interrupts.check().is_err())
        {
            return Ok(Ended::Interrupted);
        }
    }
}

/// What a program has said.
struct Said {
    pipe: File,
    open: bool,
    /// A line without its end.
    rest: Vec<u8>,
    first: Vec<String>,
    last: VecDeque<String>,
}

impl Said {
    fn new(pipe: File) -> Self {
        Self {
            pipe,
            open: true,
            rest: Vec::new(),
            first: Vec::new(),
            last: VecDeque::new(),
        }
    }

    /// Takes what is there.
    fn read(&mut self, mut each: impl FnMut(&str)) -> io::Result<()> {
        let mut buffer = [0; 8192];
        while self.open {
            match self.pipe.read(&mut buffer) {
                Ok(0) => self.open = false,
                Ok(length) => self.take(buffer.get(..length).unwrap_or_default(), &mut each),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8], each: &mut impl FnMut(&str)) {
        for byte in bytes {
            if matches!(byte, b'\n' | b'\r') {
                self.keep(each);
            } else if self.rest.len() < MAX_LINE {
                self.rest.push(*byte);
            }
        }
    }

    fn keep(&mut self, each: &mut impl FnMut(&str)) {
        let line = String::from_utf8_lossy(&self.rest).trim().to_owned();
        self.rest.clear();
        if line.is_empty() {
            return;
        }
        each(&line);
        if self.first.len() < KEPT {
            self.first.push(line);
        } else {
            if self.last.len() == KEPT {
                self.last.pop_front();
            }
            self.last.push_back(line);
        }
    }

    fn all_kept(&self) -> impl Iterator<Item = &str> {
        self.first.iter().chain(&self.last).map(String::as_str)
    }

    /// What explains a failure: what it calls an error itself, or else all that was kept.
    fn reason(&mut self) -> String {
        if !self.rest.is_empty() {
            self.keep(&mut |_| {});
        }
        let errors: Vec<_> = self.all_kept().filter(|line| line.starts_with("E:")).collect();
        let lines: Vec<_> = if errors.is_empty() {
            self.all_kept().collect()
        } else {
            errors
        };
        if lines.is_empty() {
            "it gave no reason".into()
        } else {
            lines.join("; ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, watcher: &mut Watcher) -> Result<Vec<String>, WorkError> {
        struct Lines(Vec<String>);
        impl Observer for Lines {
            fn line(&mut self, _: &mut Progress, line: &str) {
                self.0.push(line.into());
            }
            fn tick(&mut self, _: &mut Progress) {}
        }
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null());
        let mut lines = Lines(Vec::new());
        run("dash", command, watcher, &mut lines)?;
        Ok(lines.0)
    }

    #[test]
    fn what_it_says_and_how_it_ends() {
        let mut nobody = Watcher::none();
        assert_eq!(sh("echo a; echo b >&2", &mut nobody).unwrap(), ["a", "b"]);
        let shown = |script: &str| sh(script, &mut Watcher::none()).unwrap_err().to_string();
        assert_eq!(shown("echo no; exit 3"), "sh failed (exit status: 3): no");
        assert_eq!(
            shown("echo; seq 100; echo E: that; exit 1"),
            "sh failed (exit status: 1): E: that"
        );
        assert_eq!(
            shown("kill -9 $$"),
            "sh failed (signal: 9 (SIGKILL)): it gave no reason"
        );
        assert!(matches!(
            sh("echo tar: x: No space left on device; exit 2", &mut nobody),
            Err(WorkError::NoSpace { .. })
        ));
        // One that leaves something running is not waited for.
        sh("sleep 600 & echo $!", &mut nobody)
            .map(|lines| kill(&lines))
            .unwrap();
    }

    fn kill(lines: &[String]) {
        let pid = Pid::from_raw(lines[0].parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }

    #[test]
    fn an_interruption_ends_it() {
        let (read, mut write) = UnixStream::pair().unwrap();
        io::Write::write_all(&mut write, b"x").unwrap();
        let mut watcher = Watcher {
            progress: Progress::none(),
            interrupts: Some(Interrupts(read)),
        };
        assert!(matches!(
            sh("exec sleep 600", &mut watcher),
            Err(WorkError::Interrupted(_))
        ));
        assert!(watcher.check().is_err());
    }
}
