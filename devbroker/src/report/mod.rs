//! Replies of the API as text for people. Pure: views in, text out.
//!
//! Strings of devices and containers are not trusted: what a terminal would act on is escaped.

mod events;
mod lists;
mod table;
mod why;

pub(crate) use events::{event, lost};
pub(crate) use lists::{
    add_alias, aliases, attach, containers, count, detach, devices, grants, plan, reload, status,
};
pub(crate) use table::{Table, clean};
pub(crate) use why::why;
