//! The closed sets of words in the API. Each is an enumeration in the interface's description.

use serde::{Deserialize, Serialize};
use std::fmt;

/// An enumeration whose words are the same on the wire and in text.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// Every word.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word on the wire.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words! {
    /// Whether an alias has a device.
    PresenceState {
        /// It is bound to a device.
        Present = "present",
        /// No device matches it.
        Absent = "absent",
    }
}

words! {
    /// How a container is.
    ContainerState {
        /// It is served.
        Running = "running",
        /// Its worker does not answer; revocation goes on, placing does not.
        Stuck = "stuck",
        /// It cannot be served; its problems say why.
        Failed = "failed",
    }
}

words! {
    /// How a node in a container is.
    NodeState {
        /// It is there and may be opened.
        Placed = "placed",
        /// It is to be placed: tried soon.
        Pending = "pending",
        /// Placing it failed; `problem` says why and what comes next.
        Failed = "failed",
    }
}

words! {
    /// How a configuration file is.
    FileState {
        /// In force as it is.
        Ok = "ok",
        /// Broken; its last good copy is in force.
        LastGood = "last_good",
        /// Broken, and there is no good copy: nothing of it is in force.
        Broken = "broken",
        /// Not read: a file of the same name in a stronger folder masks it.
        Masked = "masked",
    }
}

words! {
    /// How bad it is.
    Severity {
        /// Nothing is broken.
        Warning = "warning",
        /// The file or part is not in force.
        Error = "error",
    }
}

words! {
    /// What a question is about.
    SubjectKind {
        /// A device or one of its nodes.
        Device = "device",
        /// An alias.
        Alias = "alias",
        /// A container.
        Container = "container",
    }
}

words! {
    /// What could not be found.
    NotFoundKind {
        /// No alias of that name.
        Alias = "alias",
        /// No container of that name is known.
        Container = "container",
        /// No device or node of that name.
        Device = "device",
        /// No grant of that alias to that container.
        Grant = "grant",
        /// No such process.
        Process = "process",
        /// Neither device, alias nor container.
        Subject = "subject",
    }
}

words! {
    /// What happened.
    EventKind {
        /// The daemon is up and has brought everything into step.
        DaemonReady = "daemon_ready",
        /// The configuration was read and is in force.
        ConfigLoaded = "config_loaded",
        /// A file of the configuration is broken; its last good copy stays.
        ConfigBroken = "config_broken",
        /// A device came.
        DevicePlugged = "device_plugged",
        /// A device changed.
        DeviceChanged = "device_changed",
        /// A device went.
        DeviceUnplugged = "device_unplugged",
        /// An alias has its device.
        AliasBound = "alias_bound",
        /// An alias lost its device.
        AliasReleased = "alias_released",
        /// Several devices match one alias.
        AliasAmbiguous = "alias_ambiguous",
        /// A container may open a device.
        AccessAllowed = "access_allowed",
        /// A container may no longer open a device.
        AccessRevoked = "access_revoked",
        /// A node appeared in a container.
        NodePlaced = "node_placed",
        /// A node was taken from a container.
        NodeWithdrawn = "node_withdrawn",
        /// A container is known and served.
        ContainerStarted = "container_started",
        /// A container is gone.
        ContainerStopped = "container_stopped",
        /// A container's worker does not answer.
        ContainerStuck = "container_stuck",
        /// Something failed; it is tried again.
        ActionFailed = "action_failed",
        /// The kernel dropped events; everything was looked at again.
        EventsLost = "events_lost",
    }
}
