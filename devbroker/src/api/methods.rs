//! The methods: each a type of its parameters, tied to the type of its reply and to who may call it.

use super::{
    AliasView, ApiError, CallFrame, ContainerPlan, ContainerView, DeviceView, DiagnosticView, EventView,
    GrantView, HolderView, INTERFACE, PlacedView, ReplyFrame, StatusView, Subscription, WhyReply,
};
use crate::model::{Access, AliasName, ContainerName, ContainerRef, NodePath, SysPath};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;

/// What a peer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Authority {
    /// Read; whoever may connect: root and group devbroker.
    Look,
    /// Everything; root, and the user the daemon runs as.
    Change,
}

/// A method, as the type of its parameters.
pub trait Method: Serialize + DeserializeOwned {
    /// Its name within the interface.
    const NAME: &'static str;
    /// Who may call it.
    const AUTHORITY: Authority;
    /// Its reply; for [`Monitor`] one item of the stream.
    type Reply: Serialize + DeserializeOwned;
}

/// Ties the methods together: [`Request`], [`Reply`], and the way between them and the wire.
macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident -> $reply:ident: $authority:ident,)+) => {
        $(impl Method for $name {
            const NAME: &'static str = stringify!($name);
            const AUTHORITY: Authority = Authority::$authority;
            type Reply = $reply;
        })+

        /// A call, parsed: what the daemon answers.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Request {
            $($(#[$doc])* $name($name),)+
            /// Subscribe to what happens.
            Monitor(Monitor),
        }

        impl Request {
            /// The name of every method.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name),)+ "Monitor"];

            /// Reads the call of a method of this interface.
            pub fn parse(call: CallFrame) -> Result<Self, ApiError> {
                let Some((interface, method)) = call.method.rsplit_once('.') else {
                    return Err(ApiError::InvalidParameter { parameter: "method".into() });
                };
                if interface != INTERFACE {
                    return Err(ApiError::InterfaceNotFound { interface: shorten(interface) });
                }
                match method {
                    $(stringify!($name) => Ok(Self::$name(parameters(call.parameters)?)),)+
                    "Monitor" if call.more => Ok(Self::Monitor(parameters(call.parameters)?)),
                    "Monitor" => Err(ApiError::ExpectedMore {}),
                    _ => Err(ApiError::MethodNotFound { method: shorten(method) }),
                }
            }

            /// Its name within the interface.
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($name),)+
                    Self::Monitor(_) => "Monitor",
                }
            }

            /// Who may call it.
            pub const fn authority(&self) -> Authority {
                match self {
                    $(Self::$name(_) => <$name as Method>::AUTHORITY,)+
                    Self::Monitor(_) => <Monitor as Method>::AUTHORITY,
                }
            }
        }

        /// The answer to a [`Request`], of the same variant.
        #[derive(Debug)]
        #[expect(
            clippy::large_enum_variant,
            reason = "one lives for a moment, between the daemon and the socket"
        )]
        pub enum Reply {
            $(
                #[doc = concat!("To [`Request::", stringify!($name), "`].")]
                $name($reply),
            )+
            /// To [`Request::Monitor`]: the server streams it.
            Monitor(Subscription),
        }

        impl Reply {
            /// The reply on the wire; a subscription is none.
            pub fn to_frame(&self) -> Result<ReplyFrame, serde_json::Error> {
                match self {
                    $(Self::$name(reply) => ReplyFrame::of(reply),)+
                    Self::Monitor(_) => Ok(ReplyFrame::default()),
                }
            }
        }

        $(impl From<$reply> for Reply {
            fn from(reply: $reply) -> Self {
                Self::$name(reply)
            }
        })+

        impl From<Subscription> for Reply {
            fn from(subscription: Subscription) -> Self {
                Self::Monitor(subscription)
            }
        }
    };
}

methods! {
    /// How the daemon is.
    GetStatus -> StatusView: Look,
    /// All devices that have nodes.
    ListDevices -> ListDevicesReply: Look,
    /// All aliases.
    ListAliases -> ListAliasesReply: Look,
    /// All grants.
    ListGrants -> ListGrantsReply: Look,
    /// All containers.
    ListContainers -> ListContainersReply: Look,
    /// The last events.
    ListEvents -> ListEventsReply: Look,
    /// Why a device, alias or container is as it is.
    Why -> WhyReply: Look,
    /// What would be done.
    Plan -> PlanReply: Look,
    /// Give a container a device, from now on.
    Attach -> AttachReply: Change,
    /// The same for a container that is only known by a process of it.
    AttachPid -> AttachPidReply: Change,
    /// Take it back.
    Detach -> DetachReply: Change,
    /// Name a device.
    AddAlias -> AddAliasReply: Change,
    /// A container is about to start: read its registration now.
    Register -> RegisterReply: Change,
    /// A container is gone.
    Unregister -> UnregisterReply: Change,
    /// Wait until a device is settled.
    Sync -> SyncReply: Change,
    /// Read the configuration again.
    Reload -> ReloadReply: Change,
}

impl Method for Monitor {
    const NAME: &'static str = "Monitor";
    const AUTHORITY: Authority = Authority::Look;
    type Reply = MonitorReply;
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Reads parameters; the error names the one that is wrong, as far as serde tells.
fn parameters<M: Method>(given: Option<serde_json::Map<String, Value>>) -> Result<M, ApiError> {
    let given = given.unwrap_or_default();
    // One field at a time would need a list of fields; serde names the field in its message instead, except where a
    // value is wrong. There the field is found by leaving each out in turn.
    serde_json::from_value(Value::Object(given.clone())).map_err(|error| {
        let message = error.to_string();
        let named = (message.starts_with("missing field") || message.starts_with("unknown field"))
            .then(|| message.split('`').nth(1).unwrap_or_default().to_owned());
        let parameter = named
            .or_else(|| wrong_value::<M>(&given, &message))
            .unwrap_or(message);
        ApiError::InvalidParameter {
            parameter: shorten(&parameter),
        }
    })
}

/// The parameter without which the message changes.
fn wrong_value<M: Method>(given: &serde_json::Map<String, Value>, message: &str) -> Option<String> {
    given.keys().find_map(|key| {
        let rest = given.iter().filter(|(name, _)| *name != key);
        let rest = rest.map(|(name, value)| (name.clone(), value.clone())).collect();
        match serde_json::from_value::<M>(Value::Object(rest)) {
            Err(error) if error.to_string() == message => None,
            Ok(_) | Err(_) => Some(key.clone()),
        }
    })
}

/// Types of parameters: unknown ones are refused.
macro_rules! parameters {
    ($($(#[$meta:meta])* struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })+) => {
        $($(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        })+
    };
}

/// Types of replies: a newer daemon may say more.
macro_rules! replies {
    ($($(#[$meta:meta])* struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })+) => {
        $($(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        })+
    };
}

parameters! {
    /// How the daemon is.
    #[derive(Default)]
    struct GetStatus {}
    /// All devices that have nodes.
    #[derive(Default)]
    struct ListDevices {}
    /// All aliases.
    #[derive(Default)]
    struct ListAliases {}
    /// All grants.
    #[derive(Default)]
    struct ListGrants {}
    /// All containers.
    #[derive(Default)]
    struct ListContainers {}
    /// The last events, oldest first.
    #[derive(Default)]
    struct ListEvents {
        /// At most so many.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u64>,
    }
    /// Why something is as it is.
    struct Why {
        /// An alias, a container (`ctm:scan`), or a device: a node (`/dev/ttyUSB0`), number (`c188:0`) or path in sysfs.
        about: String,
    }
    /// What would be done, without doing it.
    #[derive(Default)]
    struct Plan {
        /// For this container alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        container: Option<ContainerRef>,
    }
    /// Give a container a device, now and whenever it comes back.
    struct Attach {
        /// Which.
        alias: AliasName,
        /// To whom.
        container: ContainerRef,
        /// What it may do; read and write unless said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        access: Option<Access>,
        /// A further stable name below the container's /dev.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<NodePath>,
        /// Owner by the container's passwd.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
        /// Group by the container's group file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
        /// Mode, in octal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<String>,
        /// Write the grant to /etc, so that it outlives this boot.
        #[serde(default)]
        save: bool,
    }
    /// Give a device to a container that the broker knows only by a process of it.
    struct AttachPid {
        /// Which.
        alias: AliasName,
        /// A process of the container, in the host's pid namespace.
        pid: i32,
        /// What to call the container: `pid:<name>`; its number unless said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<ContainerName>,
        /// What it may do; read and write unless said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        access: Option<Access>,
        /// A further stable name below the container's /dev.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<NodePath>,
        /// Owner by the container's passwd.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
        /// Group by the container's group file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
        /// Mode, in octal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<String>,
    }
    /// Take a device from a container.
    struct Detach {
        /// Which.
        alias: AliasName,
        /// From whom.
        container: ContainerRef,
        /// Also take the grant out of the files in /etc.
        #[serde(default)]
        save: bool,
    }
    /// Name a device that is plugged: by serial if it has one, else by port.
    struct AddAlias {
        /// What to call it.
        name: AliasName,
        /// A node (`/dev/ttyUSB0`), number (`c188:0`) or path in sysfs.
        device: String,
        /// Only propose: write nothing.
        #[serde(default)]
        dry_run: bool,
    }
    /// Read a container's registration file now, place what it is granted, and answer when all of it is placed or failed.
    struct Register {
        /// Which.
        container: ContainerRef,
    }
    /// A container is gone: take away what was placed.
    struct Unregister {
        /// Which.
        container: ContainerRef,
        /// It is destroyed for good: also forget the permissions remembered for it.
        #[serde(default)]
        forget: bool,
    }
    /// Wait until the broker has done what follows from the device as it is now.
    #[derive(Default)]
    struct Sync {
        /// Which; everything unless said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        syspath: Option<SysPath>,
        /// Also wait until udev's event of this number has been handled.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seqnum: Option<u64>,
    }
    /// Read the configuration again and answer when it is in force.
    #[derive(Default)]
    struct Reload {}
    /// Subscribe to what happens.
    #[derive(Default)]
    struct Monitor {
        /// First so many of the events that were.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        recent: Option<u64>,
    }
}

replies! {
    /// To [`ListDevices`].
    struct ListDevicesReply {
        /// By path in sysfs.
        devices: Vec<DeviceView>,
    }
    /// To [`ListAliases`].
    struct ListAliasesReply {
        /// By name.
        aliases: Vec<AliasView>,
    }
    /// To [`ListGrants`].
    struct ListGrantsReply {
        /// By alias and container.
        grants: Vec<GrantView>,
    }
    /// To [`ListContainers`].
    struct ListContainersReply {
        /// By engine and name.
        containers: Vec<ContainerView>,
    }
    /// To [`ListEvents`].
    struct ListEventsReply {
        /// Oldest first.
        events: Vec<EventView>,
    }
    /// To [`Plan`].
    struct PlanReply {
        /// Only those for which there is something to do.
        plans: Vec<ContainerPlan>,
    }
    /// To [`Attach`].
    struct AttachReply {
        /// The container, as it is called from now on.
        container: ContainerRef,
        /// The alias's nodes in it; none while the device is away or the container is not running.
        nodes: Vec<PlacedView>,
        /// The file that holds the grant.
        file: PathBuf,
        /// What else is to be said: the device is away, an owner is unknown, ...
        notes: Vec<String>,
    }
    /// To [`AttachPid`].
    struct AttachPidReply {
        /// The container, as it is called from now on.
        container: ContainerRef,
        /// The alias's nodes in it; none while the device is away.
        nodes: Vec<PlacedView>,
        /// The file that holds the grant.
        file: PathBuf,
        /// What else is to be said: whose device filter was replaced, an owner is unknown, ...
        notes: Vec<String>,
    }
    /// To [`Detach`].
    struct DetachReply {
        /// The nodes that were taken away.
        nodes: Vec<PlacedView>,
        /// Who in the container still holds one of them open.
        holders: Vec<HolderView>,
        /// The file that was changed, if one was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<PathBuf>,
        /// What else is to be said.
        notes: Vec<String>,
    }
    /// To [`AddAlias`].
    struct AddAliasReply {
        /// What the alias goes by, as the configuration has it: `{ serial = "A10K" }`.
        matches: String,
        /// The file it is in, or would be.
        file: PathBuf,
        /// What is added to it.
        text: String,
        /// The nodes it names now.
        nodes: Vec<NodePath>,
        /// What else is to be said: no serial, two alike, ...
        notes: Vec<String>,
    }
    /// To [`Register`].
    struct RegisterReply {
        /// As it is now, with what was placed and what failed.
        container: ContainerView,
    }
    /// To [`Unregister`].
    struct UnregisterReply {}
    /// To [`Sync`].
    struct SyncReply {}
    /// To [`Reload`].
    struct ReloadReply {
        /// What is wrong with the files.
        problems: Vec<DiagnosticView>,
    }
    /// One item of [`Monitor`]'s stream.
    struct MonitorReply {
        /// What happened.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        event: Option<EventView>,
        /// So many events were missed, because the subscriber read too slowly.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lost: Option<u64>,
    }
}
