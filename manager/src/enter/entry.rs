//! A command in a running container: `crun exec` starts it with what the container's first process had (capabilities,
//! seccomp, limits), as a user of the container's, and leaves it to us as our child.

use crate::atomic;
use crate::definitions;
use crate::enter::account::{self, Account, AccountError, Wanted};
use crate::enter::relay::{Relay, Signals, Streams};
use crate::enter::terminal::{self, Raw};
use crate::ids::Ids;
use crate::layout::Layout;
use crate::lookup;
use crate::plan::Step;
use crate::process::{Ending, ProcessId};
use crate::run::crun::{Crun, CrunError};
use crate::run::limit;
use crate::run::state::State;
use devbroker::model::ContainerName;
use oci_spec::runtime::{BoxBuilder, LinuxCapabilitiesBuilder, Process, User};
use oci_spec::{OciSpecError, runtime::Box as Size};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Uid, fchown, fstat, openat};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open, set_child_subreaper};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// A command that cannot be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EntryError {
    /// The container ended.
    #[error("container {0} has just ended")]
    Ended(ContainerName),
    #[error(transparent)]
    Cgroup(#[from] crate::run::cgroup::CgroupError),
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The folder to run it in is not there.
    #[error("the container has no folder {0}")]
    NoFolder(String),
    /// JSON has no words for it.
    #[error("`{0}` is not UTF-8, which commands in a container have to be")]
    NotText(String),
    /// The runtime said no: no such program, above all.
    #[error("cannot run it in the container: {0}")]
    Refused(String),
    /// Not one more process may be in it.
    #[error(
        "container {name} has all the {most} processes that it may have; allow more with `ctm set {name} processes=N`, or see `ctm ps {name}` and end some"
    )]
    Full { name: ContainerName, most: u64 },
    /// What the run wrote down cannot be.
    #[error("the container's run has no {0} written down; this is a bug in ctm")]
    NoPlan(&'static str),
    #[error("cannot write the command's configuration: {0}")]
    Oci(#[from] OciSpecError),
    #[error("cannot {what}: {source}")]
    Io { what: &'static str, source: io::Error },
}

/// The cgroup of such commands, below the container's. In the container's own they would keep its init from handing
/// controllers down: a cgroup has either processes or controlled children.
const EXEC: &str = "exec";

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> EntryError {
    move |source| EntryError::Io { what, source }
}

/// What is to be run.
#[derive(Debug)]
pub(crate) enum Program {
    /// A program and its arguments.
    Command(Vec<OsString>),
    /// The user's login shell.
    Shell,
}

/// How it is to be run.
#[derive(Debug)]
pub(crate) struct Request {
    /// What.
    pub(crate) program: Program,
    /// As whom.
    pub(crate) user: Wanted,
    /// In which folder; none: `/`, for a login shell the user's home.
    pub(crate) folder: Option<String>,
    /// On a terminal of its own.
    pub(crate) terminal: bool,
}

/// Runs a command and stays until it has ended.
pub(crate) fn run(
    layout: &Layout,
    name: &ContainerName,
    state: &State,
    request: &Request,
) -> Result<Ending, EntryError> {
    let (base, ids) = written_down(state)?;
    let root = root_of(state.init).ok_or_else(|| EntryError::Ended(name.clone()))?;
    let account = account::look_up(&root, &request.user)?;
    let size = request.terminal.then(terminal::size).flatten();
    let args = match &request.program {
        Program::Command(words) => words.iter().map(|word| text(word)).collect::<Result<_, _>>()?,
        Program::Shell => login_shell(&account, |path| is_kind(&root, path, FileType::RegularFile)),
    };
    let folder = match (&request.folder, &request.program) {
        (Some(folder), _) => {
            if !is_kind(&root, folder, FileType::Directory) {
                return Err(EntryError::NoFolder(folder.clone()));
            }
            folder.as_str()
        }
        (None, Program::Shell) if is_kind(&root, &account.home, FileType::Directory) => &account.home,
        (None, _) => "/",
    };
    let mut process = process(base, &account, args, folder, std::env::var("TERM").ok())?;
    // As the definition says now: they may have changed since the start.
    if let Ok(definition) = definitions::load(layout, name) {
        let limits = &definition.limits;
        process.set_rlimits(Some(limit::oci_rlimits(&limits.rlimits)?));
        // crun does not read this of a command: what it starts has what we have.
        let score = limits.oom_score_adj.get().to_string();
        fs::write("/proc/self/oom_score_adj", score).map_err(failed("say how soon it is ended"))?;
    }
    if request.terminal {
        process.set_terminal(Some(true));
        process.set_console_size(size.map(console_size).transpose()?);
    }
    let container = state.container_cgroup().ok_or(EntryError::NoPlan("cgroup"))?;
    let cgroup = container.below(EXEC);
    cgroup.create()?;
    let exchange = Exchange::new(layout).map_err(failed("make a folder below /run/ctm"))?;
    let bytes = serde_json::to_vec(&process)
        .map_err(io::Error::other)
        .map_err(failed("write the command's configuration"))?;
    fs::write(exchange.process(), bytes).map_err(failed("write the command's configuration"))?;

    // What crun starts and leaves becomes our child, so that its exit status can be had.
    set_child_subreaper(Some(rustix::process::getpid())).map_err(|e| failed("adopt orphans")(e.into()))?;
    let signals = Signals::take().map_err(failed("wait for signals"))?;
    let crun = Crun::new(layout, name);
    // Restored when this function returns, however it does.
    let _raw = if request.terminal {
        Raw::set().map_err(failed("set up the terminal"))?
    } else {
        None
    };
    let (streams, started) = if request.terminal {
        let listener = UnixListener::bind(exchange.console()).map_err(failed("listen for the terminal"))?;
        let started = crun.exec(EXEC, &exchange, None);
        let streams = started.is_ok().then(|| terminal_of(&listener, &account, ids));
        (
            streams.transpose().map_err(failed("take over the terminal"))?,
            started,
        )
    } else {
        let ends = pipes().map_err(|e| failed("make a pipe")(e.into()))?;
        let started = crun.exec(EXEC, &exchange, Some(ends.theirs));
        (Some(Streams::Pipes(ends.ours)), started)
    };
    let (pid, streams) = match (started, streams) {
        (Ok(pid), Some(streams)) => (pid, streams),
        (Err(CrunError::Failed { message, .. }), _) => {
            return Err(match container.full_of_processes() {
                Some(most) => EntryError::Full {
                    name: name.clone(),
                    most,
                },
                None => EntryError::Refused(message),
            });
        }
        (Err(error), _) => return Err(EntryError::Refused(error.to_string())),
        (Ok(_), None) => return Err(EntryError::NoPlan("terminal")),
    };
    drop(exchange);
    let pid = Pid::from_raw(pid).ok_or(EntryError::NoPlan("process id"))?;
    let pidfd =
        pidfd_open(pid, PidfdFlags::empty()).map_err(|e| failed("take hold of the command")(e.into()))?;
    Relay::new(pid, pidfd, streams, signals)
        .and_then(Relay::run)
        .map_err(failed("pass the command's streams on"))
}

/// The configuration of the container's first process, and its ids.
fn written_down(state: &State) -> Result<(&Process, Ids), EntryError> {
    let (mut process, mut ids) = (None, None);
    for step in &state.steps {
        if let Step::Bundle { spec, .. } = step {
            process = spec.process().as_ref();
        } else if let Step::Devfs { ids: known, .. } = step {
            ids = Some(*known);
        }
    }
    Ok((
        process.ok_or(EntryError::NoPlan("configuration"))?,
        ids.ok_or(EntryError::NoPlan("ids"))?,
    ))
}

/// The root folder that the container's first process sees.
fn root_of(init: Option<ProcessId>) -> Option<OwnedFd> {
    let init = init?;
    let held = init.open()?;
    let root = openat(
        CWD,
        format!("/proc/{}/root", init.pid),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .ok()?;
    // Had it ended before, the number could have been another's.
    (!crate::process::ended(&held, std::time::Instant::now()).ok()?).then_some(root)
}

/// Whether there is something of this kind at a path, as it is seen inside.
fn is_kind(root: &OwnedFd, path: &str, kind: FileType) -> bool {
    let relative = path.trim_start_matches('/');
    lookup::open(
        root,
        if relative.is_empty() { "." } else { relative },
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
    .and_then(fstat)
    .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == kind)
}

fn text(word: &OsStr) -> Result<String, EntryError> {
    word.to_str()
        .map(String::from)
        .ok_or_else(|| EntryError::NotText(word.to_string_lossy().into_owned()))
}

/// The account's shell, or one that every system has, started as a login shell.
fn login_shell(account: &Account, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let shell = if exists(&account.shell) {
        account.shell.clone()
    } else {
        "/bin/sh".into()
    };
    vec![shell, "-l".into()]
}

fn console_size(size: rustix::termios::Winsize) -> Result<Size, OciSpecError> {
    BoxBuilder::default()
        .height(u64::from(size.ws_row))
        .width(u64::from(size.ws_col))
        .build()
}

/// The configuration of a command: the first process' with another program, user and environment. Pure.
fn process(
    base: &Process,
    account: &Account,
    args: Vec<String>,
    folder: &str,
    terminal: Option<String>,
) -> Result<Process, OciSpecError> {
    let mut process = base.clone();
    let mut user = User::default();
    user.set_uid(account.uid);
    user.set_gid(account.gid);
    user.set_additional_gids(Some(account.groups.clone()));
    let own = ["HOME", "USER", "LOGNAME", "SHELL", "TERM"];
    let inherited = base.env().clone().unwrap_or_default().into_iter();
    let mut env: Vec<_> = inherited
        .filter(|setting| !own.iter().any(|name| setting.starts_with(&format!("{name}="))))
        .collect();
    env.extend([
        format!("HOME={}", account.home),
        format!("USER={}", account.name),
        format!("LOGNAME={}", account.name),
        format!("SHELL={}", account.shell),
    ]);
    env.extend(terminal.map(|terminal| format!("TERM={terminal}")));
    process
        .set_user(user)
        .set_args(Some(args))
        .set_env(Some(env))
        .set_cwd(PathBuf::from(folder))
        .set_terminal(Some(false))
        .set_console_size(None);
    if account.uid != 0 {
        let bounding = base
            .capabilities()
            .as_ref()
            .and_then(|sets| sets.bounding().clone())
            .unwrap_or_default();
        let none = || std::collections::HashSet::new();
        process.set_capabilities(Some(
            LinuxCapabilitiesBuilder::default()
                .bounding(bounding)
                .effective(none())
                .permitted(none())
                .inheritable(none())
                .ambient(none())
                .build()?,
        ));
    }
    Ok(process)
}

struct Ends {
    ours: [OwnedFd; 3],
    theirs: [OwnedFd; 3],
}

/// Pipes for standard input, output and error.
fn pipes() -> Result<Ends, Errno> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC);
    let ((in_read, in_write), (out_read, out_write), (err_read, err_write)) = (pipe()?, pipe()?, pipe()?);
    Ok(Ends {
        ours: [in_write, out_read, err_read],
        theirs: [in_read, out_write, err_write],
    })
}

/// The terminal that crun has made in the container and sent us, given to the user who works on it.
fn terminal_of(listener: &UnixListener, account: &Account, ids: Ids) -> io::Result<Streams> {
    let master = received(listener)?;
    let held = ioctl_tiocgptpeer(
        &master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    let owner = match ids {
        Ids::Host => account.uid,
        Ids::Block(block) => block.first.saturating_add(account.uid),
    };
    fchown(&held, Some(Uid::from_raw(owner)), None)?;
    Ok(Streams::Terminal { master, held })
}

/// The descriptor that crun has sent, which has ended by now: nothing is waited for.
pub(crate) fn received(listener: &UnixListener) -> io::Result<OwnedFd> {
    listener.set_nonblocking(true)?;
    let (stream, _) = listener.accept()?;
    stream.set_nonblocking(true)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 256];
    recvmsg(
        &stream,
        &mut [IoSliceMut::new(&mut name)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    control
        .drain()
        .find_map(|message| {
            if let RecvAncillaryMessage::ScmRights(mut fds) = message {
                fds.next()
            } else {
                None
            }
        })
        .ok_or_else(|| io::Error::other("crun sent none"))
}

/// A folder for what we and one crun tell each other; gone afterwards.
#[derive(Debug)]
pub(crate) struct Exchange(PathBuf);

impl Exchange {
    fn new(layout: &Layout) -> io::Result<Self> {
        let path = layout.run.join(".exec").join(std::process::id().to_string());
        // Of an earlier process with our number.
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Ok(()) | Err(_) => {}
        }
        atomic::folder(&path, 0o700)?;
        Ok(Self(path))
    }

    /// The command's configuration.
    pub(crate) fn process(&self) -> PathBuf {
        self.0.join("process.json")
    }

    /// Where crun writes the command's process id.
    pub(crate) fn pid_file(&self) -> PathBuf {
        self.0.join("pid")
    }

    /// Where crun sends the terminal.
    pub(crate) fn console(&self) -> PathBuf {
        self.0.join("console")
    }

    /// Where crun writes what is wrong.
    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("log")
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // The next process with our number removes it as well, and so does the next boot.
        fs::remove_dir_all(Path::new(&self.0)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::{Definition, SHM};
    use crate::run::bundle;

    fn account(uid: u32) -> Account {
        Account {
            name: "ann".into(),
            uid,
            gid: 7,
            groups: vec![20],
            home: "/home/ann".into(),
            shell: "/bin/ash".into(),
        }
    }

    fn made(uid: u32) -> serde_json::Value {
        let layout = Layout::default();
        let definition = Definition::new("scan".parse().unwrap(), Ids::Host, &layout);
        let spec = bundle::spec(
            &definition,
            &layout.run_of(&definition.name),
            Path::new("/x"),
            SHM,
        )
        .unwrap();
        let base = spec.process().as_ref().unwrap();
        let made = process(
            base,
            &account(uid),
            vec!["id".into()],
            "/tmp",
            Some("vt100".into()),
        )
        .unwrap();
        let mut json = serde_json::to_value(made).unwrap();
        if uid == 0 {
            assert_eq!(
                json["capabilities"],
                serde_json::to_value(base).unwrap()["capabilities"]
            );
        }
        json["capabilities"]["bounding"] = serde_json::Value::Null;
        json
    }

    #[test]
    fn a_command_has_what_the_first_process_has() {
        let root = made(0);
        assert_eq!(root["args"], serde_json::json!(["id"]));
        assert_eq!(root["noNewPrivileges"], serde_json::json!(true));
        assert_eq!(
            root["env"],
            serde_json::json!([
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "container=ctm",
                "HOME=/home/ann",
                "USER=ann",
                "LOGNAME=ann",
                "SHELL=/bin/ash",
                "TERM=vt100"
            ])
        );
    }

    #[test]
    fn a_user_has_no_capability() {
        let user = made(1000);
        assert_eq!(
            user["user"],
            serde_json::json!({ "uid": 1000, "gid": 7, "additionalGids": [20] })
        );
        for set in ["effective", "permitted", "inheritable", "ambient"] {
            assert_eq!(user["capabilities"][set], serde_json::json!([]), "{set}");
        }
    }

    #[test]
    fn a_shell_that_is_not_there() {
        assert_eq!(login_shell(&account(1), |_| true), ["/bin/ash", "-l"]);
        assert_eq!(login_shell(&account(1), |_| false), ["/bin/sh", "-l"]);
    }
}
