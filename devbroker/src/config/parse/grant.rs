//! Grants: who gets what, and how it looks inside.

use super::super::table::{Faults, Integer, Table, integer, shorten, wrong_type};
use super::super::{Grant, Looks, NodeRule};
use super::entries;
use crate::model::{Access, UserRef};
use toml::Spanned;
use toml::de::DeValue;

const GRANT: &[&str] = &[
    "alias",
    "container",
    "user",
    "path",
    "as",
    "access",
    "owner",
    "group",
    "mode",
    "node",
];
const NODE: &[&str] = &["role", "omit", "path", "as", "access", "owner", "group", "mode"];

/// Reads one `[[grant]]`.
pub(super) fn grant(faults: &mut Faults<'_>, value: &Spanned<DeValue<'_>>) -> Option<Grant> {
    const ACCESS: &str = "\"r\", \"w\" or \"rw\", with \"m\" where the container may also mknod it";
    let table = Table::new(faults, "a grant", value, GRANT, "[[grant]]")?;
    let alias = table.need(faults, "alias", "the name of an alias, as in alias = \"scanner\"");
    let container = table.need(
        faults,
        "container",
        "engine and name, as in container = \"ctm:scan\" or \"ctm:lab-*\"",
    );
    let user = table.number(faults, "user", 0..=u32::MAX - 1);
    let access = table.parse(faults, "access", ACCESS);
    let looks = looks(faults, &table);
    let rules = entries(faults, &table, "node", "[[grant.node]]");
    let mut nodes: Vec<NodeRule> = Vec::new();
    for value in rules {
        let Some(table) = Table::new(faults, "a grant's node", value, NODE, "[[grant.node]]") else {
            continue;
        };
        let role = table.need(faults, "role", "a role, as in role = \"usb_device\"");
        let rule = NodeRule {
            omit: table.flag(faults, "omit").is_some_and(|(omit, _)| omit),
            access: table.parse(faults, "access", ACCESS),
            looks: self::looks(faults, &table),
            origin: faults.source.origin(&table.span),
            role: match role {
                Some(role) => role,
                None => continue,
            },
        };
        if let Some(before) = nodes.iter().find(|before| before.role == rule.role) {
            let message = format!("role `{}` has two entries in one grant", rule.role);
            let help = format!("expected one; the first is at line {}", before.origin.line);
            faults.at(&table.span, message, help);
        }
        nodes.push(rule);
    }
    Some(Grant {
        alias: alias?,
        container: container?,
        user: user.map_or(0, |(user, _)| user),
        access: access.unwrap_or(Access::READ_WRITE),
        looks,
        nodes,
        origin: faults.source.origin(&table.span),
    })
}

fn looks(faults: &mut Faults<'_>, table: &Table<'_, '_>) -> Looks {
    const PATH: &str = "a path below the container's /dev, as in \"scanner\"";
    let path: Option<crate::model::NodePath> = table.parse(faults, "path", PATH);
    if let Some(reserved) = path.as_ref().and_then(|path| reserved(path.as_str())) {
        let span = table.get("path").map_or(0..0, Spanned::span);
        faults.at(
            &span,
            format!("`{reserved}` in /dev is the container's own"),
            "expected another path: this one would hide what programs inside rely on",
        );
    }
    let as_node = match table.text(faults, "as", "\"link\" or \"node\"") {
        Some(("node", span)) => {
            if table.get("path").is_none() {
                faults.at(
                    &span,
                    "`as` without `path`",
                    "expected `path` as well: it says where the node goes",
                );
            }
            true
        }
        Some(("link", _)) | None => false,
        Some((other, span)) => {
            faults.at(
                &span,
                format!("`as` cannot be `{}`", shorten(other)),
                "expected \"link\" (the node is at the kernel's name, `path` leads to it) or \"node\"",
            );
            false
        }
    };
    Looks {
        path,
        as_node,
        owner: user(faults, table, "owner"),
        group: user(faults, table, "group"),
        mode: mode(faults, table),
    }
}

/// Names that every container's /dev has, and folders that are the broker's or other file systems.
fn reserved(path: &str) -> Option<&str> {
    const NAMES: &[&str] = &[
        "null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "stdin", "stdout", "stderr",
        "log", "initctl",
    ];
    const FOLDERS: &[&str] = &["pts", "shm", "mqueue", "fd", "devbroker", "hugepages"];
    let first = path.split('/').next().unwrap_or_default();
    (NAMES.contains(&first) || FOLDERS.contains(&first)).then_some(first)
}

/// A number, or a name as `useradd` takes it.
fn user_ref(text: &str) -> Option<UserRef> {
    let name = (1..=32).contains(&text.len())
        && text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.$".contains(&b));
    if name {
        return Some(UserRef::Name(text.into()));
    }
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let id: u32 = text.parse().ok().filter(|_| digits)?;
    (id < u32::MAX).then_some(UserRef::Id(id))
}

fn user(faults: &mut Faults<'_>, table: &Table<'_, '_>, key: &str) -> Option<UserRef> {
    let expected = "a name or number in the container, as in \"saned\" or 1000";
    let value = table.get(key)?;
    match integer(value.get_ref()) {
        Integer::Fits(id) if id < u32::MAX => Some(UserRef::Id(id)),
        Integer::Fits(_) | Integer::TooLarge => {
            faults.at(
                &value.span(),
                format!("`{key}` is out of range"),
                format!("expected {expected}"),
            );
            None
        }
        Integer::No => {
            let (text, span) = table.text(faults, key, expected)?;
            let user = user_ref(text);
            if user.is_none() {
                let message = format!("`{}` is no name or number of a user or group", shorten(text));
                faults.at(&span, message, format!("expected {expected}"));
            }
            user
        }
    }
}

fn mode(faults: &mut Faults<'_>, table: &Table<'_, '_>) -> Option<u16> {
    let expected = "octal digits in quotes, as in \"0660\", at most \"0777\"";
    let value = table.get("mode")?;
    if let DeValue::Integer(number) = value.get_ref() {
        if number.radix() != 8 {
            faults.at(
                &value.span(),
                "`mode` is a decimal number, and modes are octal",
                format!("expected {expected}"),
            );
            return None;
        }
    }
    let digits = match value.get_ref() {
        DeValue::Integer(number) => number.as_str(),
        DeValue::String(text) => text,
        DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => {
            wrong_type(faults, "`mode`", value, expected);
            return None;
        }
    };
    let fits = (3..=4).contains(&digits.len()) && digits.bytes().all(|b| matches!(b, b'0'..=b'7'));
    let mode = u16::from_str_radix(digits, 8)
        .ok()
        .filter(|mode| fits && *mode <= 0o777);
    if mode.is_none() {
        let message = format!("`{}` is no mode of a node", shorten(digits));
        faults.at(&value.span(), message, format!("expected {expected}"));
    }
    mode
}
