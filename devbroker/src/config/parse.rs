//! One file: from bytes to what it says, with every fault.

mod grant;

use self::grant::grant;
use super::diagnostic::{Diagnostic, Source};
use super::table::{Faults, Table, list, parsed, shorten, text, wrong_type};
use super::{Alias, Detach, FileConfig, HexId, Key, Match, Place, SettingsDraft};
use crate::model::{AliasName, Origin, PortName};
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

/// The largest file that is read, in bytes.
pub const MAX_FILE: usize = 1 << 20;

const TOP: &[&str] = &["alias", "grant", "daemon", "detach"];
const ALIAS: &[&str] = &["match", "primary"];
const MATCH: &[&str] = &[
    "vendor",
    "product",
    "serial",
    "port",
    "subsystem",
    "driver",
    "link",
    "property",
    "attr",
    "whole",
];
const DAEMON: &[&str] = &["monitor", "receive_buffer", "reassert", "snapshot_seconds"];
const DETACH: &[&str] = &["alias", "container"];

const MATCH_EXAMPLE: &str = "match = { vendor = \"04b8\", product = \"011f\" }";

/// Parses a file; where it lies follows from its path. See [`parse_file_in`].
pub fn parse_file(path: &Path, bytes: &[u8]) -> (FileConfig, Vec<Diagnostic>) {
    let place = if path.starts_with("/run/devbroker") {
        Place::Runtime
    } else if path.starts_with("/usr/lib/devbroker") {
        Place::Vendor
    } else {
        Place::Admin
    };
    parse_file_in(path, place, bytes)
}

/// Parses a file. Of a faulty file the content is what could be understood; only one without errors may be used.
pub fn parse_file_in(path: &Path, place: Place, bytes: &[u8]) -> (FileConfig, Vec<Diagnostic>) {
    let mut file = FileConfig {
        path: path.into(),
        place,
        text: String::new(),
        settings: SettingsDraft::default(),
        aliases: Vec::new(),
        grants: Vec::new(),
        detached: Vec::new(),
    };
    if bytes.len() > MAX_FILE {
        let fault = Diagnostic::of_file(path, format!("the file is larger than {MAX_FILE} bytes"))
            .help("split it into several files of the same folder");
        return (file, vec![fault]);
    }
    let (content, invalid) = without_invalid(bytes);
    let source = Source::new(path, &content);
    let mut faults = Faults::new(&source);
    for span in invalid {
        faults.syntax(
            &span,
            "this is not UTF-8",
            Some("expected text in UTF-8; save the file in that encoding".into()),
        );
    }
    let (root, errors) = DeTable::parse_recoverable(&content);
    for error in errors {
        if faults.is_full() {
            faults.leave_out();
            continue;
        }
        let end = content.len();
        let span = error.span().unwrap_or(end..end);
        let (message, help) = match error.message().split_once(", expected ") {
            Some((message, expected)) => (message, Some(format!("expected {expected}"))),
            None => (error.message(), None),
        };
        match first_alias(&content, &span).filter(|_| message == "duplicate key") {
            Some((name, line)) => {
                let message = format!("alias `{}` is already at line {line}", shorten(name));
                let help = "give one of them another name; several devices of one alias go into one list, `match = [{ ... }, { ... }]`";
                faults.syntax(&span, &message, Some(help.into()));
            }
            None => faults.syntax(&span, message, help),
        }
    }
    read(&mut file, &mut faults, root.get_ref());
    let faults = faults.finish(path);
    drop(source);
    file.text = content;
    (file, faults)
}

/// The name of the alias whose header holds `span`, and the line where it stands first.
fn first_alias<'t>(content: &'t str, span: &Range<usize>) -> Option<(&'t str, usize)> {
    let name_in = |line: &'t str| {
        let name = line.trim().strip_prefix("[alias.")?.split(']').next()?;
        Some(name.trim().trim_matches(['"', '\'']))
    };
    let begin = content.get(..span.start)?.rfind('\n').map_or(0, |at| at + 1);
    let name = name_in(content.get(begin..)?.lines().next()?)?;
    let before = content.get(..begin)?.lines();
    let first = before.map(name_in).position(|other| other == Some(name))?;
    Some((name, first + 1))
}

/// The text with every byte that is not UTF-8 as `?`, so that places stay as they are.
fn without_invalid(bytes: &[u8]) -> (String, Vec<Range<usize>>) {
    let mut content = String::with_capacity(bytes.len());
    let mut invalid = Vec::new();
    for chunk in bytes.utf8_chunks() {
        content.push_str(chunk.valid());
        let start = content.len();
        content.extend(chunk.invalid().iter().map(|_| '?'));
        if content.len() > start {
            invalid.push(start..content.len());
        }
    }
    (content, invalid)
}

fn read(file: &mut FileConfig, faults: &mut Faults<'_>, root: &DeTable<'_>) {
    let root = Table::root(faults, "the file", root, 0..0, TOP);
    if let Some(value) = root.get("daemon") {
        file.settings = settings(faults, value);
    }
    if let Some(value) = root.get("alias") {
        if let DeValue::Table(aliases) = value.get_ref() {
            let all = aliases.iter().filter_map(|(name, body)| {
                let name_span = name.span();
                let name: &str = name.get_ref();
                let parsed: Option<AliasName> =
                    parsed(faults, name, &name_span, "a name, as in `[alias.scanner]`");
                let body = alias(faults, name, name_span, body);
                let (matches, primary, origin) = body?;
                Some(Alias {
                    name: parsed?,
                    matches,
                    primary,
                    origin,
                })
            });
            file.aliases = all.collect();
            file.aliases.sort_by_key(|alias| alias.origin.line);
        } else {
            wrong_type(
                faults,
                "`alias`",
                value,
                "a table for each alias, as in `[alias.scanner]`",
            );
        }
    }
    let grants = entries(faults, &root, "grant", "[[grant]]");
    file.grants = grants.iter().filter_map(|value| grant(faults, value)).collect();
    let detached = entries(faults, &root, "detach", "[[detach]]");
    for value in detached {
        if file.place == Place::Runtime {
            file.detached.extend(detach(faults, value));
        } else {
            faults.at(
                &value.span(),
                "`detach` holds until the next boot and cannot stand here",
                "expected it below /run/devbroker/conf.d only; to take a device away for good, remove its `[[grant]]`",
            );
        }
    }
}

/// The tables of a list of tables.
fn entries<'t, 'i>(
    faults: &mut Faults<'_>,
    table: &Table<'t, 'i>,
    key: &str,
    header: &str,
) -> Vec<&'t Spanned<DeValue<'i>>> {
    let Some(value) = table.get(key) else {
        return Vec::new();
    };
    if let DeValue::Array(entries) = value.get_ref() {
        entries.iter().collect()
    } else {
        let help = format!("expected a list of tables: write `{header}`, with two brackets on each side");
        faults.at(&value.span(), format!("`{key}` is not a list of tables"), help);
        Vec::new()
    }
}

fn settings(faults: &mut Faults<'_>, value: &Spanned<DeValue<'_>>) -> SettingsDraft {
    let Some(table) = Table::new(faults, "the table `daemon`", value, DAEMON, "[daemon]") else {
        return SettingsDraft::default();
    };
    let source = faults.source;
    let flag = |(flag, span): (bool, Range<usize>)| (flag, source.origin(&span));
    let number = |(number, span): (u32, Range<usize>)| (number, source.origin(&span));
    SettingsDraft {
        monitor: table.flag(faults, "monitor").map(flag),
        receive_buffer: table.number(faults, "receive_buffer", 2048..=1 << 30).map(number),
        reassert: table.flag(faults, "reassert").map(flag),
        snapshot_seconds: table.number(faults, "snapshot_seconds", 0..=86_400).map(number),
    }
}

type AliasBody = (Vec<Match>, Option<crate::model::Role>, Origin);

fn alias(
    faults: &mut Faults<'_>,
    name: &str,
    name_span: Range<usize>,
    value: &Spanned<DeValue<'_>>,
) -> Option<AliasBody> {
    let table = Table::new(faults, "an alias", value, ALIAS, "[alias.scanner]")?;
    let origin = faults.source.origin(&name_span);
    let primary = table.parse(faults, "primary", "a role, as in \"tty@if02\"");
    let Some(value) = table.get("match") else {
        faults.at(
            &name_span,
            format!("alias `{}` lacks `match`", shorten(name)),
            format!("expected what tells its device, as in `{MATCH_EXAMPLE}`"),
        );
        return None;
    };
    let matches = match value.get_ref() {
        DeValue::Table(_) => matching(faults, value).into_iter().collect(),
        DeValue::Array(list) => several(faults, value.span(), list),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => {
            let expected = format!("a table or a list of tables, as in `{MATCH_EXAMPLE}`");
            wrong_type(faults, "`match`", value, &expected);
            Vec::new()
        }
    };
    (!matches.is_empty()).then_some((matches, primary, origin))
}

fn several(faults: &mut Faults<'_>, span: Range<usize>, list: &DeArray<'_>) -> Vec<Match> {
    if list.is_empty() {
        faults.at(
            &span,
            "`match` is empty and would never match",
            format!("expected at least one table, as in `{MATCH_EXAMPLE}`"),
        );
    }
    list.iter().filter_map(|value| matching(faults, value)).collect()
}

fn matching(faults: &mut Faults<'_>, value: &Spanned<DeValue<'_>>) -> Option<Match> {
    const ID: &str = "four hexadecimal digits, as in \"04b8\"";
    let before = faults.count();
    let table = Table::new(faults, "a match", value, MATCH, MATCH_EXAMPLE)?;
    let mut keys = Vec::new();
    let id = |faults: &mut Faults<'_>, key| {
        let (text, span) = table.text(faults, key, ID)?;
        let id = text.parse::<HexId>().ok();
        if id.is_none() {
            let message = format!("`{}` is no id of a device", shorten(text));
            faults.at(&span, message, format!("expected {ID}"));
        }
        id
    };
    keys.extend(id(faults, "vendor").map(Key::Vendor));
    keys.extend(id(faults, "product").map(Key::Product));
    let plain = |faults: &mut Faults<'_>, key, expected: &str| {
        let (text, span) = table.text(faults, key, expected)?;
        value_of(faults, text, &span, key, expected)
    };
    keys.extend(plain(faults, "serial", "the serial number, as in \"A50285BI\"").map(Key::Serial));
    let port = plain(
        faults,
        "port",
        "controller and chain of ports, as in \"0000:00:14.0/2.1\" (`devbroker devices` shows it)",
    );
    keys.extend(port.map(|text| Key::Port(PortName(text))));
    keys.extend(plain(faults, "subsystem", "a subsystem, as in \"tty\"").map(Key::Subsystem));
    keys.extend(plain(faults, "driver", "a driver, as in \"usblp\"").map(Key::Driver));
    keys.extend(
        table
            .parse(
                faults,
                "link",
                "a link below /dev, as in \"serial/by-id/usb-FTDI_A50285BI-if00-port0\"",
            )
            .map(Key::Link),
    );
    for (name, text) in named(
        faults,
        &table,
        "property",
        "property.ID_MODEL = \"DS4\"",
        property_name,
    ) {
        keys.push(Key::Property(name, text));
    }
    for (name, text) in named(faults, &table, "attr", "attr.index = \"0\"", attribute_name) {
        keys.push(Key::Attribute(name, text));
    }
    let whole = table.flag(faults, "whole").is_some_and(|(whole, _)| whole);
    // A key that has a fault is not said to be missing as well.
    if keys.is_empty() && faults.count() == before {
        faults.at(
            &value.span(),
            "a match without keys would match every device",
            format!(
                "expected one or more of {}",
                list(MATCH.get(..9).unwrap_or(MATCH))
            ),
        );
    }
    (!keys.is_empty()).then(|| Match {
        keys,
        whole,
        origin: faults.source.origin(&value.span()),
    })
}

/// A value to compare with: not empty, short, without control characters, which no kernel gives.
fn value_of(
    faults: &mut Faults<'_>,
    text: &str,
    span: &Range<usize>,
    key: &str,
    expected: &str,
) -> Option<String> {
    if text.is_empty() || text.len() > 255 || text.chars().any(char::is_control) {
        faults.at(
            span,
            format!("`{key}` cannot be `{}`", shorten(text)),
            format!("expected {expected}: 1 to 255 bytes without control characters"),
        );
        return None;
    }
    Some(text.into())
}

/// The pairs of `property` or `attr`.
fn named(
    faults: &mut Faults<'_>,
    table: &Table<'_, '_>,
    key: &str,
    example: &str,
    fits: fn(&str) -> bool,
) -> Vec<(String, String)> {
    let Some(value) = table.get(key) else {
        return Vec::new();
    };
    let DeValue::Table(pairs) = value.get_ref() else {
        wrong_type(
            faults,
            &format!("`{key}`"),
            value,
            &format!("a name after the point, as in `{example}`"),
        );
        return Vec::new();
    };
    let mut all = Vec::new();
    for (name, value) in pairs {
        let (span, name): (_, &str) = (name.span(), name.get_ref());
        if !fits(name) {
            faults.at(
                &span,
                format!("`{}` cannot be the name after `{key}`", shorten(name)),
                format!("expected a name, as in `{example}`"),
            );
            continue;
        }
        let what = format!("`{key}.{name}`");
        if let Some((value, span)) = text(faults, &what, value, &format!("a text, as in `{example}`")) {
            let value = value_of(faults, value, &span, &format!("{key}.{name}"), "a text");
            all.extend(value.map(|value| (name.to_owned(), value)));
        }
    }
    all
}

fn property_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-:".contains(&b))
}

/// A file below the node's own directory in sysfs: it must not lead out of it.
fn attribute_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-:/".contains(&b))
}

fn detach(faults: &mut Faults<'_>, value: &Spanned<DeValue<'_>>) -> Option<Detach> {
    let table = Table::new(faults, "a detach", value, DETACH, "[[detach]]")?;
    let alias = table.need(faults, "alias", "the name of an alias");
    let container = table.need(faults, "container", "engine and name, as in \"ctm:scan\"");
    Some(Detach {
        alias: alias?,
        container: container?,
        origin: faults.source.origin(&table.span),
    })
}

#[cfg(test)]
mod tests;
