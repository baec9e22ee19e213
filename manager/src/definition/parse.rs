//! From the texts of a definition and its profile to the definition, or to all their faults. Pure.

use super::value::{Fault, string};
use super::{Definition, key};
use crate::ids::Ids;
use crate::layout::Layout;
use crate::run::privilege::{self, Ineffective};
use devbroker::config::{Diagnostic, Source};
use devbroker::model::{ContainerName, Origin};
use std::collections::BTreeMap;
use std::path::Path;
use toml::de::DeTable;

/// The largest definition that is read.
pub(crate) const MAX_FILE: usize = 64 << 10;

/// What is wrong with a definition. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub(crate) struct Faults(pub(crate) Vec<Diagnostic>);

/// A file as it was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<'a> {
    /// Its path.
    pub(crate) path: &'a Path,
    /// What is in it.
    pub(crate) bytes: &'a [u8],
}

/// A definition, and where each of its values was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// The definition.
    pub(crate) definition: Definition,
    /// The place by the key's name; keys that nobody said have the usual value.
    pub(crate) origins: BTreeMap<&'static str, Origin>,
}

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Profile,
    Definition,
}

/// Parses a profile: what a definition would be that says no more. Its ids are the host's, as far as that counts.
pub(crate) fn parse_profile(name: &ContainerName, text: Text<'_>, layout: &Layout) -> Result<Parsed, Faults> {
    let mut parsed = Parsed {
        definition: Definition::new(name.clone(), Ids::Host, layout),
        origins: BTreeMap::new(),
    };
    match sorted(take(&mut parsed, text, Kind::Profile)) {
        faults if faults.is_empty() => Ok(parsed),
        faults => Err(Faults(faults)),
    }
}

/// Parses a definition over its profile: what the profile says counts where the definition says nothing.
pub(crate) fn parse(
    name: &ContainerName,
    profile: Option<Text<'_>>,
    own: Text<'_>,
    layout: &Layout,
) -> Result<Parsed, Faults> {
    let mut parsed = Parsed {
        definition: Definition::new(name.clone(), Ids::Host, layout),
        origins: BTreeMap::new(),
    };
    let mut faults = Vec::new();
    if let Some(profile) = profile {
        faults.extend(take(&mut parsed, profile, Kind::Profile));
    }
    let own_faults = take(&mut parsed, own, Kind::Definition);
    // A text that is no TOML says nothing, so that nothing is missing in it.
    let whole = own_faults.iter().any(|fault| fault.is_whole);
    faults.extend(own_faults);
    if !whole && !parsed.origins.contains_key("userns") {
        faults.push(Found::of_file(Diagnostic::of_file(own.path, "`userns` is missing").help(
            "write `userns = { first = FIRST, count = 65536 }` with host ids of the container's own, or `userns = false`",
        )));
    }
    // What is usual depends on whose ids it has.
    if !parsed.origins.contains_key("no_new_privs") {
        parsed.definition.no_new_privs = super::no_new_privs(parsed.definition.ids);
    }
    if faults.is_empty() {
        faults.extend(ineffective(&parsed));
    }
    if faults.is_empty() {
        return Ok(parsed);
    }
    Err(Faults(sorted(faults)))
}

/// The faults by their places.
fn sorted(faults: Vec<Found>) -> Vec<Diagnostic> {
    let mut faults: Vec<_> = faults.into_iter().map(|fault| fault.diagnostic).collect();
    faults.sort_by_key(|fault| (fault.origin.file.clone(), fault.origin.line, fault.column));
    faults
}

/// What a definition says as a whole that each of its values does not: a capability that cannot count.
fn ineffective(parsed: &Parsed) -> Option<Found> {
    let Definition {
        ids, capabilities, ..
    } = &parsed.definition;
    let fault = privilege::check(*ids, capabilities).err()?;
    let origin = parsed.origins.get("capabilities")?.clone();
    Some(Found {
        diagnostic: Diagnostic::at(origin, fault.to_string()).help(Ineffective::REMEDY),
        is_whole: false,
    })
}

/// The profile that a definition names, if it can be read as far as that. What is wrong with it [`parse`] says.
pub(crate) fn profile_of(bytes: &[u8]) -> Option<ContainerName> {
    let table = DeTable::parse(std::str::from_utf8(bytes).ok()?).ok()?;
    string(table.get_ref().get("profile")?).ok()?.parse().ok()
}

struct Found {
    diagnostic: Diagnostic,
    /// Nothing of the file could be read.
    is_whole: bool,
}

impl Found {
    fn of_file(diagnostic: Diagnostic) -> Self {
        Self {
            diagnostic,
            is_whole: true,
        }
    }
}

/// Takes what one file says; answers with its faults.
fn take(parsed: &mut Parsed, text: Text<'_>, kind: Kind) -> Vec<Found> {
    let whole = |message: &str| vec![Found::of_file(Diagnostic::of_file(text.path, message))];
    if text.bytes.len() > MAX_FILE {
        return whole("the file is larger than 64 KiB; a definition is a few lines");
    }
    let content = match std::str::from_utf8(text.bytes) {
        Ok(content) => content,
        Err(e) => {
            return whole(&format!(
                "byte {} is not UTF-8; save the file as UTF-8",
                e.valid_up_to()
            ));
        }
    };
    let source = Source::new(text.path, content);
    let table = match DeTable::parse(content) {
        Ok(table) => table,
        Err(e) => {
            let fault = source.error(&e.span().unwrap_or(0..0), e.message().to_lowercase());
            return vec![Found::of_file(fault)];
        }
    };
    let mut faults = Vec::new();
    let mut report = |diagnostic| {
        faults.push(Found {
            diagnostic,
            is_whole: false,
        });
    };
    for (name, value) in table.get_ref() {
        let Some(key) = key::key(name.get_ref()) else {
            let fault = source.error(&name.span(), format!("unknown key `{}`", name.get_ref()));
            report(fault.help(key::meant_by(name.get_ref())));
            continue;
        };
        if kind == Kind::Profile && key.identity {
            let fault = source.error(&name.span(), format!("a profile cannot say `{}`", key.name));
            report(fault.help("this is for each container's own definition"));
            continue;
        }
        // Also where the value is wrong: it must not be reported as missing as well.
        parsed.origins.insert(key.name, source.origin(&name.span()));
        if let Err(Fault { span, message, help }) = (key.read)(value, &mut parsed.definition) {
            let fault = source.error(&span, message);
            report(match help {
                Some(help) => fault.help(help),
                None => fault,
            });
        }
    }
    faults
}
