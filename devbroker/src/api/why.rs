//! The answer to `why`: which keys matched, to whom it was granted, what was done, what failed, what comes next.

use super::view::views;
use super::{
    AliasView, AnchorView, ContainerView, DeviceView, GrantView, OriginView, PlacedView, SubjectKind,
};
use crate::model::{AliasName, ContainerRef, NodePath, Role, SysPath};
use serde::{Deserialize, Serialize};

views! {
    /// To [`super::Why`]. What does not concern the subject is left empty.
    #[derive(Eq)]
    struct WhyReply {
        /// What was asked about.
        subject: SubjectKind,
        /// Its name.
        name: String,
        /// The answer in one sentence.
        summary: String,
        /// The device asked about, or the alias's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<DeviceView>,
        /// The alias asked about.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        alias: Option<AliasView>,
        /// The container asked about.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        container: Option<ContainerView>,
        /// Every alias (or the one asked about) against every node (or those of the device asked about) that came near:
        /// all that matched, and those of which at least one key did.
        matches: Vec<MatchView>,
        /// Grants of these aliases, or to this container.
        grants: Vec<WhyGrant>,
        /// What was done and is in force.
        done: Vec<DoneView>,
        /// What failed.
        failed: Vec<FailedView>,
        /// What would be done next.
        next: Vec<NextView>,
        /// Remedies and anything else: an owner that is unknown inside, a mode that the container changed, ...
        notes: Vec<String>,
    }

    /// One way to match (an alias may have several) against one node.
    #[derive(Eq)]
    struct MatchView {
        /// The alias.
        alias: AliasName,
        /// Where it is written; absent for a rule's alias.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        origin: Option<OriginView>,
        /// The node.
        devname: NodePath,
        /// Whether every key matched.
        matched: bool,
        /// Which of the alias's nodes it is, where it matched.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        role: Option<Role>,
        /// The device that the match covers, where it matched.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        anchor: Option<AnchorView>,
        /// Every key, matched or not.
        keys: Vec<KeyView>,
    }

    /// One key of a match.
    #[derive(Eq)]
    struct KeyView {
        /// `vendor`, `property.ID_MODEL`, ...
        key: String,
        /// The value asked for.
        expected: String,
        /// The value found; absent where the node and its device have none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        found: Option<String>,
        /// Where in sysfs it was found, or looked for last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<SysPath>,
        /// Whether it is what was asked for.
        matched: bool,
    }

    /// One grant and whether it applies.
    #[derive(Eq)]
    struct WhyGrant {
        /// The grant.
        grant: GrantView,
        /// To the container asked about, or to any.
        applies: bool,
        /// Why not, or what else is to be said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    }

    /// Something that was done and is in force.
    #[derive(Eq)]
    struct DoneView {
        /// In which container.
        container: ContainerRef,
        /// The node.
        node: PlacedView,
        /// Where owner, group and mode come from: the grant, what was remembered, or the host's node.
        because: String,
    }

    /// Something that failed.
    #[derive(Eq)]
    struct FailedView {
        /// In which container; absent on the host itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        container: Option<ContainerRef>,
        /// What was to be done.
        action: String,
        /// What went wrong.
        error: String,
        /// How often it was tried.
        attempts: u32,
        /// In how many milliseconds it is tried again; absent where only a change can bring that about.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry: Option<u64>,
    }

    /// What would be done next.
    #[derive(Eq)]
    struct NextView {
        /// In which container; absent on the host itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        container: Option<ContainerRef>,
        /// In words.
        action: String,
        /// When: `now`, `in 2 s`, `when the device is plugged`, `when the container starts`.
        when: String,
    }
}
