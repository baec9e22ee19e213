//! How ctm ends, in numbers, and the errors that have one of their own. The numbers are vzctl's where it had one.

use super::LoadError;
use crate::enter::entry::EntryError;
use crate::ids::NoFreeIds;
use crate::lock::LockError;
use crate::make::bootstrap::BootstrapError;
use crate::make::inside::InsideError;
use crate::make::store::{self, StoreError};
use crate::make::work::{Interrupted, WorkError};
use crate::plan::split::SplitError;
use crate::run::failure::Failure;
use crate::run::limit::LimitError;
use crate::run::network::TakenError;
use crate::run::overlay::OverlayError;
use crate::run::supervisor::RunError;
use crate::runner::StepError;
use devbroker::model::ContainerName;
use std::io;
use std::process::ExitCode;

/// How ctm ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// Done.
    Done,
    /// It went wrong.
    Failed,
    /// `ctm counters --quiet` has something to show.
    Trouble,
    /// There is no such container.
    Unknown,
    /// Another command is at work on it.
    Locked,
    /// A command cannot be run in the container.
    CannotRun,
    /// A command's own code.
    Command(u8),
    /// Not enough of what the host shares out.
    NoResources,
    /// The container does not run.
    NotRunning,
    /// It runs already.
    Running,
    /// There is a container of this name already.
    Exists,
    /// An address is somebody else's.
    AddressTaken,
    /// A hook failed.
    Hook,
    /// The disk is full.
    NoSpace,
    /// What a container is to be made from, or needs for its start, is not there.
    NoSource,
    /// A signal asked us to stop.
    Interrupted,
    /// The profile is not there.
    NoProfile,
    /// A distribution's packages cannot be reached.
    NoNetwork,
    /// `ctm run` under systemd: the container rebooted itself and is to be started again.
    Rebooted,
}

impl Code {
    /// All of them.
    pub(crate) const ALL: &'static [Self] = &[
        Self::Done,
        Self::Failed,
        Self::Trouble,
        Self::CannotRun,
        Self::Locked,
        Self::Unknown,
        Self::NoResources,
        Self::NotRunning,
        Self::Running,
        Self::Exists,
        Self::AddressTaken,
        Self::Hook,
        Self::NoSpace,
        Self::NoSource,
        Self::Interrupted,
        Self::NoProfile,
        Self::NoNetwork,
        Self::Rebooted,
    ];

    /// The number. 2 is a wrong argument, from clap.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Trouble => 3,
            Self::NoResources => 6,
            Self::CannotRun => 8,
            Self::Locked => 9,
            Self::Command(code) => code,
            Self::Unknown => 14,
            Self::NotRunning => 31,
            Self::Running => 32,
            Self::Exists => 44,
            Self::AddressTaken => 78,
            Self::Hook => 79,
            Self::NoSpace => 46,
            Self::NoSource => 53,
            Self::NoProfile => 109,
            Self::NoNetwork => 110,
            // As systemd-nspawn has it.
            Self::Rebooted => 133,
            // As a shell has it for SIGINT.
            Self::Interrupted => 130,
        }
    }

    /// The code of this number.
    fn numbered(number: u8) -> Self {
        Self::ALL
            .iter()
            .copied()
            .find(|code| code.number() == number)
            .unwrap_or(Self::Failed)
    }

    /// The code of an error: that of the first of its causes that has one.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        error.chain().find_map(Self::of_cause).unwrap_or(Self::Failed)
    }

    fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Self> {
        if let Some(refused) = cause.downcast_ref::<Refused>() {
            return Some(refused.code());
        }
        if cause.is::<NoFreeIds>() || cause.is::<SplitError>() {
            return Some(Self::NoResources);
        }
        if let Some(LockError::Held { .. }) = cause.downcast_ref() {
            return Some(Self::Locked);
        }
        if let Some(error) = cause.downcast_ref::<TakenError>() {
            return Self::of_taken(error);
        }
        if cause.is::<EntryError>() {
            return Some(Self::CannotRun);
        }
        // The kernel's reasons for refusing a limit mean other things elsewhere.
        if cause.is::<LimitError>() {
            return Some(Self::Failed);
        }
        if cause.is::<Interrupted>() {
            return Some(Self::Interrupted);
        }
        if let Some(code) = cause.downcast_ref::<StepError>().and_then(Self::of_step) {
            return Some(code);
        }
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return store::is_full(error.kind()).then_some(Self::NoSpace);
        }
        if let Some(error) = cause.downcast_ref::<RunError>() {
            return match error {
                RunError::Hook(_) => Some(Self::Hook),
                RunError::Step(error) => Self::of_step(error),
                RunError::Busy(_) => Some(Self::Running),
                RunError::Load(error) => Self::of_load(error),
                RunError::Need(_) => Some(Self::NoSource),
                RunError::Taken(error) => Self::of_taken(error),
                RunError::Lock(_)
                | RunError::Limit(_)
                | RunError::Clean { .. }
                | RunError::NoRootfs(_)
                | RunError::NoReaper(_)
                | RunError::Bundle(_)
                | RunError::State(_)
                | RunError::Cgroup(_)
                | RunError::Service(_)
                | RunError::Io { .. }
                | RunError::Failed(_)
                | RunError::Rebooting
                | RunError::Left { .. } => None,
            };
        }
        Self::of_load(cause.downcast_ref()?)
    }

    /// The code of an error that shows itself as another, which is not among its causes then.
    fn of_step(error: &StepError) -> Option<Self> {
        match error {
            StepError::Hook(_) | StepError::OnHost(_) => Some(Self::Hook),
            StepError::Interrupted(_)
            | StepError::Inside(InsideError::Interrupted(_))
            | StepError::Bootstrap(BootstrapError::Work(WorkError::Interrupted(_))) => {
                Some(Self::Interrupted)
            }
            StepError::Inside(InsideError::Failed { .. }) => Some(Self::CannotRun),
            StepError::Inside(InsideError::Step(error)) => Self::of_step(error),
            StepError::Store(StoreError::Work {
                source: WorkError::Interrupted(_),
                ..
            }) => Some(Self::Interrupted),
            StepError::Store(StoreError::NoSpace(_)) | StepError::Bootstrap(BootstrapError::NoSpace(_)) => {
                Some(Self::NoSpace)
            }
            StepError::Bootstrap(BootstrapError::Network { .. }) => Some(Self::NoNetwork),
            StepError::Overlay(OverlayError::NoBase(_)) => Some(Self::NoSource),
            StepError::Io { .. }
            | StepError::Cgroup(_)
            | StepError::Crun(_)
            | StepError::Devfs(_)
            | StepError::Filter(_)
            | StepError::Registration(_)
            | StepError::Bootstrap(_)
            | StepError::Tree(_)
            | StepError::Inside(_)
            | StepError::Volume(_)
            | StepError::Mount { .. }
            | StepError::Store(_)
            | StepError::Ownership(_)
            | StepError::Overlay(_)
            | StepError::Quota(_)
            | StepError::Limit(_)
            | StepError::Network(_)
            | StepError::Order(_)
            | StepError::Gone(_) => None,
        }
    }

    fn of_taken(error: &TakenError) -> Option<Self> {
        match error {
            TakenError::Container { .. } | TakenError::Host { .. } => Some(Self::AddressTaken),
            TakenError::Load(error) => Self::of_load(error),
            TakenError::Network(_) => None,
        }
    }

    fn of_load(error: &LoadError) -> Option<Self> {
        match error {
            LoadError::Unknown(_) => Some(Self::Unknown),
            LoadError::Profile { .. } | LoadError::NoProfile(_) => Some(Self::NoProfile),
            LoadError::ProfileExists(_) => Some(Self::Exists),
            LoadError::Io { .. } | LoadError::Faults(_) | LoadError::Edit(_) => None,
        }
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code.number())
    }
}

/// What was asked for does not fit what the container is doing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("container {0} does not run; `ctm start {0}` starts it")]
    NotRunning(ContainerName),
    #[error("container {0} is paused; `ctm resume {0}` lets it go on")]
    Paused(ContainerName),
    #[error("container {name} is {phase} already")]
    Running { name: ContainerName, phase: String },
    #[error("cannot start container {name}: {}", .failure.reason)]
    Failed { name: ContainerName, failure: Failure },
    #[error("container {name} exists already: {}", .definition.display())]
    Exists {
        name: ContainerName,
        definition: std::path::PathBuf,
    },
    #[error("cannot find {}: {source}", .path.display())]
    NoSource {
        path: std::path::PathBuf,
        source: io::Error,
    },
    #[error("container {name} is {phase}; `ctm stop {name}` stops it, and then it can be {deed}")]
    NotDown {
        name: ContainerName,
        phase: String,
        /// What was to be done with it.
        deed: &'static str,
    },
}

impl Refused {
    fn code(&self) -> Code {
        match self {
            Self::Failed { failure, .. } => Code::numbered(failure.code),
            Self::NotRunning(_) | Self::Paused(_) => Code::NotRunning,
            Self::Running { .. } | Self::NotDown { .. } => Code::Running,
            Self::NoSource { .. } => Code::NoSource,
            Self::Exists { .. } => Code::Exists,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_has_every_code() {
        let page =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/man/ctm.8")).unwrap();
        let (_, section) = page.split_once(".SH EXIT STATUS\n").unwrap();
        let (section, _) = section.split_once(".SH").unwrap();
        for code in Code::ALL {
            let number = code.number();
            assert!(section.contains(&format!(".B {number}\n")), "{code:?} {number}");
        }
    }

    #[test]
    fn an_error_s_code_is_that_of_its_cause() {
        let name: ContainerName = "a".parse().unwrap();
        let of = |error: anyhow::Error| Code::of(&error.context("cannot do it"));
        assert_eq!(of(Refused::NotRunning(name.clone()).into()), Code::NotRunning);
        assert_eq!(of(LoadError::Unknown(name).into()), Code::Unknown);
        assert_eq!(of(NoFreeIds.into()), Code::NoResources);
        assert_eq!(of(anyhow::anyhow!("x")), Code::Failed);
    }
}
