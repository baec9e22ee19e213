//! A recipe's commands in a container that is being made: run by the container's shell in its namespaces, with its
//! capabilities and devices and no network, as it will run itself.
//!
//! The steps are those of a start, and written down like those, so that what is left of a ctm that was killed is cleaned up.

use crate::ids::Ids;
use crate::layout::Layout;
use crate::make::work::{self, Interrupted, Notes, Watcher};
use crate::plan::{self, Step};
use crate::process::{Ending, ProcessId, ending_of};
use crate::run::cgroup::{self, CgroupError, Run};
use crate::run::crun::Output;
use crate::run::state::{State, StateError};
use crate::run::supervisor::random_instance;
use crate::runner::{Runner, Running, StepError};
use devbroker::model::ContainerName;
use oci_spec::runtime::Spec;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{getpid, set_child_subreaper};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InsideError {
    #[error("the command `{script}` failed inside, its shell {ending}: {message}")]
    Failed {
        script: String,
        ending: Ending,
        message: String,
    },
    #[error(transparent)]
    Step(Box<StepError>),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    #[error("cannot {what}: {source}")]
    Io { what: &'static str, source: io::Error },
}

impl From<StepError> for InsideError {
    fn from(error: StepError) -> Self {
        Self::Step(Box::new(error))
    }
}

fn failed<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> InsideError {
    move |source| InsideError::Io {
        what,
        source: source.into(),
    }
}

/// A command to run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inside<'a> {
    pub(crate) script: &'a str,
    pub(crate) spec: &'a Spec,
    pub(crate) run: &'a Run,
    pub(crate) rootfs: &'a PathBuf,
    pub(crate) ids: Ids,
}

/// Runs a command to its end.
pub(crate) fn run(
    layout: &Layout,
    name: &ContainerName,
    inside: &Inside<'_>,
    watcher: &mut Watcher,
) -> Result<(), InsideError> {
    cgroup::require_unified()?;
    // The container's first process is crun's, and ours once crun has ended.
    set_child_subreaper(Some(getpid())).map_err(failed("adopt orphans"))?;
    let instance = random_instance().map_err(failed("read /dev/urandom"))?;
    let steps = plan::inside(layout, name, inside, &instance);
    let folder = layout.run_of(name);
    State::begun(&folder, instance.clone(), steps.clone())?;
    let (ours, console) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("make a pipe"))?;
    let rootfs = inside.rootfs.clone();
    let running = Running {
        instance,
        rootfs,
        output: Output::Pipe(console),
    };
    let mut runner = Runner::new(layout, name, Some(running));
    let ended = taken(&mut runner, &steps, ours, watcher);
    let failures = runner.undo_all(&steps);
    if let Some(failure) = failures.into_iter().next() {
        // The folder stays: it holds the list of what is left to undo.
        return Err(ended.err().unwrap_or_else(|| failure.into()));
    }
    fs::remove_dir_all(folder.path()).map_err(failed("remove the run's folder"))?;
    match ended? {
        (Ending::Exit(0), _) => Ok(()),
        (ending, message) => Err(InsideError::Failed {
            script: inside.script.lines().next().unwrap_or_default().into(),
            ending,
            message,
        }),
    }
}

/// Takes the steps and waits for the end of the command; answers with what it said.
fn taken(
    runner: &mut Runner<'_>,
    steps: &[Step],
    output: OwnedFd,
    watcher: &mut Watcher,
) -> Result<(Ending, String), InsideError> {
    let mut init = None;
    for step in steps {
        // The place of its cgroups is only removed at the end: this process stays where it is.
        if !matches!(step, Step::Enter { .. }) {
            runner.take(step)?;
        }
        if init.is_none() {
            // Held before it runs, so that its end cannot be missed.
            init = runner.init().and_then(ProcessId::open);
        }
    }
    let Some(init) = init else {
        return Err(StepError::Order("the first process").into());
    };
    let message = work::follow(&init, output, watcher, &mut Notes).map_err(failed("watch the command"))??;
    Ok((ending_of(&init), message))
}
