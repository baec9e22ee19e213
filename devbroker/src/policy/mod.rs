//! What the configuration means for the devices that are there: which device an alias stands for, which nodes belong
//! to it, who gets them. Pure; remembers nothing, the caller passes what was bound and recorded before.

mod anchor;
mod bind;
mod candidates;
mod explain;
mod grants;
mod members;
mod role;

pub use anchor::{Anchor, Cover};
pub use bind::{AliasRecord, Binding, BoundBy, DeviceRecord, bind, keys_text};
pub use candidates::{Candidate, Wanted, candidates, wanted};
pub use explain::{
    AliasExplanation, DeviceExplanation, KeyExplanation, MatchExplanation, explain_alias, explain_device,
    narrow, propose, telling_apart,
};
pub use grants::{alias_link, grants, role_link, wants};
pub use members::{Member, members};
pub use role::role;

#[cfg(test)]
pub(crate) mod tests;
