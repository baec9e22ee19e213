//! Where everything lies.

use crate::config::Loader;
use std::path::PathBuf;

/// The folders and sockets of one daemon. The defaults are the real ones; tests give their own.
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

impl Paths {
    /// Registrations of running containers.
    pub fn registrations(&self) -> PathBuf {
        self.run.join("containers")
    }

    /// Ledgers, one file a container instance.
    pub fn ledgers(&self) -> PathBuf {
        self.run.join("ledger")
    }

    /// What reads the configuration.
    pub fn loader(&self) -> Loader {
        let [vendor, admin, runtime] = self.config.clone();
        Loader {
            admin,
            vendor,
            runtime,
            last_good: self.last_good(),
        }
    }

    /// Last good copies of configuration files.
    pub fn last_good(&self) -> PathBuf {
        self.state.join("last-good")
    }

    /// Who had an alias last.
    pub fn alias_records(&self) -> PathBuf {
        self.state.join("aliases")
    }

    /// Permissions by container, alias and role.
    pub fn permissions(&self) -> PathBuf {
        self.state.join("permissions")
    }

    /// Aliases that udev rules set.
    pub fn rule_aliases(&self) -> PathBuf {
        self.run.join("rule-aliases")
    }

    /// What belongs to containers of other engines.
    pub fn foreign(&self) -> PathBuf {
        self.run.join("foreign")
    }

    /// The hook's socket.
    pub fn hook(&self) -> PathBuf {
        self.run.join("hook")
    }

    /// The API's socket.
    pub fn socket(&self) -> PathBuf {
        self.run.join(crate::api::INTERFACE)
    }
}
