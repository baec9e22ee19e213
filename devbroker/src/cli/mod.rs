//! The command line: each command is one call of the API, printed as text or, with `--json`, as it came.

mod args;
mod check;
mod exit;

pub(crate) use args::Arguments;
pub(crate) use exit::Failure;

use crate::report;
use args::{
    AliasCommand, AttachArguments, Command, ContainersArguments, DaemonArguments, DevicesArguments,
    EventsArguments,
};
use devbroker::api::{
    AddAlias, Attach, AttachPid, Detach, GetStatus, ListAliases, ListContainers, ListDevices, ListEvents,
    ListGrants, Method, NotFoundKind, Plan, Reload, Why,
};
use devbroker::api::{ApiError, ContainerView};
use devbroker::client::{CALL, Client, ClientError};
use devbroker::daemon;
use serde::Serialize;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// How long to wait for a place at the socket.
const CONNECT: Duration = Duration::from_secs(5);

/// How long commands may take that wait for containers or for a whole plan to be done.
const CHANGE: Duration = Duration::from_secs(60);

/// Runs the command; says on the standard error why not.
pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let result = match arguments.command {
        Command::Daemon(options) => run_daemon(options, arguments.socket),
        Command::Check { files } => check::run(&files, arguments.json),
        Command::Completions { shell } => print(&args::completions(shell)),
        command @ (Command::Status
        | Command::Devices(_)
        | Command::Aliases
        | Command::Grants
        | Command::Containers(_)
        | Command::Events(_)
        | Command::Why { .. }
        | Command::Plan { .. }
        | Command::Reload
        | Command::Alias { .. }
        | Command::Attach(_)
        | Command::Detach { .. }) => {
            Session::open(arguments.socket, arguments.json).and_then(|session| session.run(command))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run_daemon(options: DaemonArguments, socket: Option<PathBuf>) -> Result<(), Failure> {
    daemon::run(&options.into_options(socket))
        .map_err(|error| Failure::new(exit::FAILED, format!("{error:#}")))
}

/// Prints; a reader that hangs up ends the command in silence.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::silent()),
        Err(error) => Err(Failure::new(
            exit::FAILED,
            format!("cannot write the output: {error}"),
        )),
    }
}

fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(exit::FAILED, format!("cannot write json: {error}")))?;
    print(&(text + "\n"))
}

/// A connection and how to print.
struct Session {
    client: Client,
    json: bool,
}

impl Session {
    fn open(socket: Option<PathBuf>, json: bool) -> Result<Self, Failure> {
        let path = socket.unwrap_or_else(|| devbroker::api::SOCKET.into());
        let client = Client::connect(&path, CONNECT)?;
        Ok(Self { client, json })
    }

    fn run(mut self, command: Command) -> Result<(), Failure> {
        match command {
            Command::Status => self.show(&GetStatus {}, report::status),
            Command::Devices(DevicesArguments { all }) => {
                self.show(&ListDevices {}, |reply| report::devices(&reply.devices, all))
            }
            Command::Aliases => self.show(&ListAliases {}, |reply| report::aliases(&reply.aliases)),
            Command::Grants => self.show(&ListGrants {}, |reply| report::grants(&reply.grants)),
            Command::Containers(ContainersArguments { container, nodes }) => {
                let mut reply = self.call(&ListContainers {})?;
                if let Some(wanted) = &container {
                    reply.containers.retain(|one| one.container == *wanted);
                    if reply.containers.is_empty() {
                        let message = format!(
                            "the daemon knows no container {wanted}; `devbroker containers` lists those it knows"
                        );
                        let error = ApiError::not_found(NotFoundKind::Container, wanted.to_string(), message);
                        return Err(ClientError::from(error).into());
                    }
                }
                let detail = nodes || container.is_some();
                let text = |all: &[ContainerView]| report::containers(all, detail);
                if self.json {
                    print_json(&reply)
                } else {
                    print(&text(&reply.containers))
                }
            }
            Command::Events(arguments) => self.events(&arguments),
            Command::Why { about } => {
                let about = resolve(&about);
                self.show(&Why { about }, report::why)
            }
            Command::Plan { container } => self.show(&Plan { container }, |reply| report::plan(&reply.plans)),
            Command::Reload => {
                let reply = self.call_within(&Reload {}, CHANGE)?;
                if self.json {
                    print_json(&reply)?;
                } else {
                    print(&report::reload(&reply.problems))?;
                }
                if reply
                    .problems
                    .iter()
                    .any(|one| one.severity == devbroker::api::Severity::Error)
                {
                    return Err(Failure::new(
                        exit::FAILED,
                        "the configuration has errors; what is named above is not in force".into(),
                    ));
                }
                Ok(())
            }
            Command::Alias {
                command:
                    AliasCommand::Add {
                        name,
                        device,
                        dry_run,
                    },
            } => {
                let device = resolve(&device);
                let call = AddAlias {
                    name,
                    device,
                    dry_run,
                };
                self.change(&call, |reply| report::add_alias(reply, dry_run))
            }
            Command::Attach(arguments) => self.attach(arguments),
            Command::Detach {
                alias,
                container,
                save,
            } => {
                let call = Detach {
                    alias,
                    container,
                    save,
                };
                self.change(&call, report::detach)
            }
            // Those that need no daemon do not come here.
            Command::Daemon(_) | Command::Check { .. } | Command::Completions { .. } => Ok(()),
        }
    }

    fn call<M: Method>(&mut self, call: &M) -> Result<M::Reply, Failure> {
        self.call_within(call, CALL)
    }

    fn call_within<M: Method>(&mut self, call: &M, limit: Duration) -> Result<M::Reply, Failure> {
        self.client.call_within(call, limit).map_err(Failure::from)
    }

    /// Calls and prints.
    fn show<M: Method>(&mut self, call: &M, text: impl FnOnce(&M::Reply) -> String) -> Result<(), Failure> {
        let reply = self.call(call)?;
        if self.json {
            print_json(&reply)
        } else {
            print(&text(&reply))
        }
    }

    /// The same for what changes something, which may take longer.
    fn change<M: Method>(&mut self, call: &M, text: impl FnOnce(&M::Reply) -> String) -> Result<(), Failure> {
        let reply = self.call_within(call, CHANGE)?;
        if self.json {
            print_json(&reply)
        } else {
            print(&text(&reply))
        }
    }

    fn attach(&mut self, arguments: AttachArguments) -> Result<(), Failure> {
        let AttachArguments {
            alias,
            container,
            pid,
            name,
            save,
            access,
            path,
            owner,
            group,
            mode,
        } = arguments;
        match (container, pid) {
            (Some(container), _) => {
                let call = Attach {
                    alias,
                    container,
                    access,
                    path,
                    owner,
                    group,
                    mode,
                    save,
                };
                self.change(&call, |reply| {
                    report::attach(&reply.container, &reply.nodes, &reply.notes)
                })
            }
            (None, Some(pid)) => {
                let call = AttachPid {
                    alias,
                    pid,
                    name,
                    access,
                    path,
                    owner,
                    group,
                    mode,
                };
                self.change(&call, |reply| {
                    report::attach(&reply.container, &reply.nodes, &reply.notes)
                })
            }
            (None, None) => Err(Failure::new(
                exit::USAGE,
                "say which container, or --pid PID".into(),
            )),
        }
    }

    fn events(mut self, arguments: &EventsArguments) -> Result<(), Failure> {
        if !arguments.follow {
            let limit = Some(arguments.lines);
            return self.show(&ListEvents { limit }, |reply| {
                reply.events.iter().map(report::event).collect()
            });
        }
        let json = self.json;
        for item in self.client.monitor(Some(arguments.lines))? {
            let item = item?;
            if json {
                // A line an item, so that a reader needs no end of the stream.
                let line = serde_json::to_string(&item)
                    .map_err(|error| Failure::new(exit::FAILED, format!("cannot write json: {error}")))?;
                print(&(line + "\n"))?;
                continue;
            }
            if let Some(event) = &item.event {
                print(&report::event(event))?;
            }
            if let Some(count) = item.lost {
                print(&report::lost(count))?;
            }
        }
        Err(ClientError::Closed.into())
    }
}

/// A path that people type as the daemon knows it: links followed, as far as it is one below /dev or /sys.
fn resolve(text: &str) -> String {
    let known = |path: &Path| path.starts_with("/dev") || path.starts_with("/sys");
    if !text.contains('/') {
        return text.into();
    }
    match std::fs::canonicalize(text) {
        Ok(path) if known(&path) => path.to_string_lossy().into_owned(),
        Ok(_) | Err(_) => text.into(),
    }
}
