//! The daemon. A stand-in until its own commit, which replaces this file: the command line is built against these types.

use std::path::PathBuf;

/// The folders and sockets of one daemon.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Configuration folders: packages', the administrator's, run time's.
    pub config: [PathBuf; 3],
    /// State that a restart keeps: ledger, registrations, sockets.
    pub run: PathBuf,
    /// State that a reboot keeps.
    pub state: PathBuf,
    /// Alias links on the host.
    pub aliases: PathBuf,
    /// Folder in bpffs with a folder for each container.
    pub filters: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            config: [
                "/usr/lib/devbroker/conf.d".into(),
                "/etc/devbroker/conf.d".into(),
                "/run/devbroker/conf.d".into(),
            ],
            run: "/run/devbroker".into(),
            state: "/var/lib/devbroker".into(),
            aliases: "/dev/devbroker".into(),
            filters: "/sys/fs/bpf/devbroker".into(),
        }
    }
}

/// How the daemon is to run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where everything lies.
    pub paths: Paths,
    /// Where the API listens, if not where `paths` say.
    pub socket: Option<PathBuf>,
}

/// Runs the daemon until it is told to stop.
pub fn run(_options: &Options) -> anyhow::Result<()> {
    anyhow::bail!("this build has no daemon")
}
