//! The API's types: requests, replies, views, errors and the interface description of `io.devbroker`.
//!
//! Pure. What goes over the socket is Varlink (<https://varlink.org>): JSON messages ended by NUL. The file
//! `io.devbroker.varlink` describes the same types; a test keeps both in step. Owned here: shapes. Not owned: the socket
//! (`server`, `client`), and what the answers are (`daemon`).

mod enums;
mod error;
mod events;
mod frame;
mod methods;
mod view;
mod why;

#[cfg(test)]
mod description_test;

pub use enums::{
    ContainerState, EventKind, FileState, NodeState, NotFoundKind, PresenceState, Severity, SubjectKind,
};
pub use error::ApiError;
pub use events::{EventLog, Subscription};
pub use frame::{CallFrame, Envelope, FrameError, MAX_FRAME, ReplyFrame};
pub use methods::{
    AddAlias, AddAliasReply, Attach, AttachPid, AttachPidReply, AttachReply, Authority, Detach, DetachReply,
    GetStatus, ListAliases, ListAliasesReply, ListContainers, ListContainersReply, ListDevices,
    ListDevicesReply, ListEvents, ListEventsReply, ListGrants, ListGrantsReply, Method, Monitor,
    MonitorReply, Plan, PlanReply, Register, RegisterReply, Reload, ReloadReply, Reply, Request, Sync,
    SyncReply, Unregister, UnregisterReply, Why,
};
pub use view::{
    ActionView, AliasNode, AliasRole, AliasView, AnchorView, ContainerPlan, ContainerView, DeviceView,
    DiagnosticView, EventView, FileView, GrantView, HolderView, NodeView, OriginView, PlacedView, StatusView,
    devices,
};
pub use why::{DoneView, FailedView, KeyView, MatchView, NextView, WhyGrant, WhyReply};

/// The interface's name, and that of the socket.
pub const INTERFACE: &str = "io.devbroker";

/// Where the daemon listens.
pub const SOCKET: &str = "/run/devbroker/io.devbroker";

/// The interface's description in Varlink's own language.
pub const DESCRIPTION: &str = include_str!("io.devbroker.varlink");

/// The description of Varlink's own interface, which every service has.
pub const SERVICE_DESCRIPTION: &str = include_str!("org.varlink.service.varlink");
