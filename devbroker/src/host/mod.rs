//! Effects on the host and in containers, one concern a file.

pub mod alias_links;
pub mod alias_records;
