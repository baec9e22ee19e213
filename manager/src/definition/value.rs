//! Reads single values of a definition: each function takes a TOML value and answers with what it means or why it means
//! nothing. Pure.

use crate::ids::{COUNT, IdBlock, Ids};
use crate::signal::StopSignal;
use devbroker::config::{Diagnostic, Source};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The longest time to stop that a definition may ask for, in seconds.
const MAX_STOP_TIMEOUT: u32 = 3600;
/// The longest host name (`HOST_NAME_MAX`, `gethostname(2)`).
const MAX_HOSTNAME: usize = 64;
/// The longest domain name (RFC 1035, 2.3.4).
const MAX_DOMAIN: usize = 253;
/// The longest description.
const MAX_DESCRIPTION: usize = 256;

/// A value as it stands in the text.
pub(crate) type Value<'v> = Spanned<DeValue<'v>>;

/// A value that does not fit.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) span: Range<usize>,
    pub(crate) message: String,
    pub(crate) help: Option<&'static str>,
}

impl Fault {
    pub(crate) fn of(value: &Value<'_>, message: impl Into<String>) -> Self {
        Self {
            span: value.span(),
            message: message.into(),
            help: None,
        }
    }

    /// A fault at a place that is no value's.
    pub(crate) fn at(span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            span,
            message: message.into(),
            help: None,
        }
    }

    /// As a person is shown it.
    pub(crate) fn shown(self, source: &Source<'_>) -> Diagnostic {
        let fault = source.error(&self.span, self.message);
        match self.help {
            Some(help) => fault.help(help),
            None => fault,
        }
    }

    pub(crate) fn help(mut self, help: &'static str) -> Self {
        self.help = Some(help);
        self
    }

    fn kind(value: &Value<'_>, wanted: &'static str) -> Self {
        Self::of(
            value,
            format!("expected {wanted}, found {}", value.get_ref().type_str()),
        )
    }
}

pub(crate) fn string<'v>(value: &'v Value<'_>) -> Result<&'v str, Fault> {
    let text = value
        .get_ref()
        .as_str()
        .ok_or_else(|| Fault::kind(value, "a string"))?;
    if text.contains('\0') {
        return Err(Fault::of(value, "a NUL character cannot be passed on"));
    }
    Ok(text)
}

/// A string of a type that says itself what it is not.
pub(crate) fn parsed<T: FromStr<Err: std::fmt::Display>>(value: &Value<'_>) -> Result<T, Fault> {
    string(value)?
        .parse()
        .map_err(|e| Fault::of(value, format!("{e}")))
}

pub(crate) fn boolean(value: &Value<'_>) -> Result<bool, Fault> {
    value
        .get_ref()
        .as_bool()
        .ok_or_else(|| Fault::kind(value, "true or false"))
}

pub(super) fn number(value: &Value<'_>) -> Result<u32, Fault> {
    let integer = value
        .get_ref()
        .as_integer()
        .ok_or_else(|| Fault::kind(value, "a whole number"))?;
    u32::from_str_radix(integer.as_str(), integer.radix())
        .map_err(|_| Fault::of(value, "expected a number from 0 to 4294967295"))
}

/// A list, each of whose members `read` understands.
pub(crate) fn list<T>(
    value: &Value<'_>,
    help: &'static str,
    read: impl FnMut(&Value<'_>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    value
        .get_ref()
        .as_array()
        .ok_or_else(|| Fault::kind(value, "a list").help(help))?
        .iter()
        .map(read)
        .collect()
}

/// A table that has no other keys than these.
pub(crate) fn table<'v, 't>(
    value: &'v Value<'t>,
    known: &[&str],
    help: &'static str,
) -> Result<&'v DeTable<'t>, Fault> {
    let table = value
        .get_ref()
        .as_table()
        .ok_or_else(|| Fault::kind(value, "a table").help(help))?;
    match table.keys().find(|key| !known.contains(&key.get_ref().as_ref())) {
        Some(unknown) => Err(Fault {
            span: unknown.span(),
            message: format!("unknown key `{}`", unknown.get_ref()),
            help: Some(help),
        }),
        None => Ok(table),
    }
}

/// A profile's name as `AppArmor` lists them: one line, no blanks at its ends.
pub(super) fn apparmor(value: &Value<'_>) -> Result<String, Fault> {
    let text = string(value)?;
    if text.trim() == text && text.len() <= 256 && !text.contains(char::is_control) {
        Ok(text.into())
    } else {
        Err(Fault::of(value, "this names no AppArmor profile")
            .help("`aa-status` lists those that are loaded; empty for none"))
    }
}

/// An absolute path without `..`, other than `/`.
pub(crate) fn absolute(value: &Value<'_>, what: &str) -> Result<PathBuf, Fault> {
    let path = Path::new(string(value)?);
    let plain = path
        .components()
        .skip(1)
        .all(|part| matches!(part, Component::Normal(_)));
    if path.is_absolute() && plain && path != Path::new("/") {
        Ok(path.into())
    } else {
        Err(Fault::of(
            value,
            format!("{what} is an absolute path without `..`, and not /"),
        ))
    }
}

pub(crate) fn rootfs(value: &Value<'_>) -> Result<PathBuf, Fault> {
    absolute(value, "the root file system")
        .map_err(|fault| fault.help("as in `rootfs = \"/var/lib/ctm/NAME/rootfs\"`"))
}

pub(crate) fn init(value: &Value<'_>) -> Result<Vec<String>, Fault> {
    const HELP: &str = "as in `init = [\"/sbin/init\"]`";
    let words = list(value, HELP, |word| string(word).map(String::from))?;
    match words.first().map(String::as_str) {
        None | Some("") => Err(Fault::of(value, "the program to run is missing").help(HELP)),
        Some(_) => Ok(words),
    }
}

/// Whether a text is made of labels as host names are (RFC 1123, 2.1).
fn is_labels(text: &str) -> bool {
    text.split('.')
        .all(|label| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-'))
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
}

pub(crate) fn hostname(value: &Value<'_>) -> Result<String, Fault> {
    let text = string(value)?;
    if (1..=MAX_HOSTNAME).contains(&text.len()) && is_labels(text) {
        Ok(text.into())
    } else {
        Err(Fault::of(value, format!("`{text}` is no host name"))
            .help("use 1 to 64 letters, digits, `-` and `.`"))
    }
}

pub(crate) fn domain(value: &Value<'_>) -> Result<String, Fault> {
    let text = string(value)?;
    if text.is_empty() || (text.len() <= MAX_DOMAIN && is_labels(text)) {
        Ok(text.into())
    } else {
        Err(Fault::of(value, format!("`{text}` is no domain name")).help("as in `domain = \"example.org\"`"))
    }
}

pub(crate) fn description(value: &Value<'_>) -> Result<String, Fault> {
    let text = string(value)?;
    if text.chars().any(char::is_control) {
        return Err(Fault::of(
            value,
            "a description is one line without control characters",
        ));
    }
    if text.len() > MAX_DESCRIPTION {
        return Err(Fault::of(value, "a description has at most 256 bytes"));
    }
    Ok(text.into())
}

pub(crate) fn userns(value: &Value<'_>) -> Result<Ids, Fault> {
    const HELP: &str = "write `userns = false` or `userns = { first = FIRST, count = 65536 }`";
    if let Some(wanted) = value.get_ref().as_bool() {
        return if wanted {
            Err(Fault::of(value, "which host ids the container has must be said").help(HELP))
        } else {
            Ok(Ids::Host)
        };
    }
    if value.get_ref().as_table().is_none() {
        return Err(Fault::kind(value, "false or a table").help(HELP));
    }
    let table = table(value, &["first", "count"], HELP)?;
    let of = |key: &str| {
        table
            .get(key)
            .ok_or_else(|| Fault::of(value, format!("`{key}` is missing")).help(HELP))
    };
    let (first_value, count_value) = (of("first")?, of("count")?);
    let block = IdBlock {
        first: number(first_value)?,
        count: number(count_value)?,
    };
    if block.count == 0 || block.count > COUNT {
        return Err(Fault::of(count_value, "a container has 1 to 65536 ids"));
    }
    if block.first < COUNT {
        return Err(Fault::of(
            first_value,
            "ids below 65536 belong to the host's own users; begin higher",
        ));
    }
    if block.first.checked_add(block.count).is_none() {
        return Err(Fault::of(first_value, "ids above 4294967294 do not exist"));
    }
    Ok(Ids::Block(block))
}

pub(crate) fn stop_signal(value: &Value<'_>) -> Result<StopSignal, Fault> {
    parsed(value)
}

pub(crate) fn stop_timeout(value: &Value<'_>) -> Result<Duration, Fault> {
    match number(value)? {
        seconds @ 1..=MAX_STOP_TIMEOUT => Ok(Duration::from_secs(seconds.into())),
        _ => Err(Fault::of(value, "the time to stop is 1 to 3600 seconds")),
    }
}

/// A place in the order of starting: 0 to 1000.
pub(crate) fn boot_order(value: &Value<'_>) -> Result<u16, Fault> {
    match number(value)? {
        order @ 0..=1000 => Ok(u16::try_from(order).unwrap_or(u16::MAX)),
        _ => Err(Fault::of(value, "the order of starting is 0 to 1000")),
    }
}
