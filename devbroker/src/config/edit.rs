//! Writes configuration files for the command line: adds at the end, takes out whole tables, leaves all else and every
//! comment as it is. A file is only ever replaced by one that has no faults, in one step.

use super::load::read_file;
use super::{Diagnostic, FileConfig, Key, Place, durable, parse_file_in};
use crate::model::{Access, AliasName, ContainerPattern, ContainerRef, NodePath, UserRef};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where all may stand that a file can say; whether a file is in the right folder the loader knows.
const PLACE: Place = Place::Runtime;

/// A file that was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It could not be read or written.
    #[error("cannot {what} {}: {source}; nothing was changed", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It has faults already.
    #[error("{} has faults, and nothing was changed; mend them first:\n{fault}", path.display())]
    Faulty {
        /// The file.
        path: PathBuf,
        /// The first of them.
        fault: Box<Diagnostic>,
    },
    /// It would have faults.
    #[error("{} was not changed, it would not be valid any more:\n{fault}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The first of them.
        fault: Box<Diagnostic>,
    },
    /// The entry is not a table with a header of its own.
    #[error("{}:{line}: this entry is not written as `[[{header}]]`; take it out by hand", path.display())]
    ByHand {
        /// The file.
        path: PathBuf,
        /// The line.
        line: u32,
        /// What the header would be.
        header: &'static str,
    },
}

/// A grant to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewGrant {
    /// The alias.
    pub alias: AliasName,
    /// The container.
    pub container: ContainerRef,
    /// The owner's uid.
    pub user: u32,
    /// One more name.
    pub path: Option<NodePath>,
    /// What the container may do.
    pub access: Access,
    /// Owner.
    pub owner: Option<UserRef>,
    /// Group.
    pub group: Option<UserRef>,
    /// Mode, in octal.
    pub mode: Option<String>,
}

/// A text as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// The table of an alias with one match.
pub fn alias_text(name: &AliasName, keys: &[Key]) -> String {
    let bare = |name: &str| {
        name.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    let key = |name: &str| if bare(name) { name.into() } else { quoted(name) };
    let pairs: Vec<String> = keys
        .iter()
        .map(|one| {
            let name = match one {
                Key::Property(name, _) => format!("property.{}", key(name)),
                Key::Attribute(name, _) => format!("attr.{}", key(name)),
                Key::Vendor(_)
                | Key::Product(_)
                | Key::Serial(_)
                | Key::Port(_)
                | Key::Subsystem(_)
                | Key::Driver(_)
                | Key::Link(_) => one.name(),
            };
            format!("{name} = {}", quoted(&one.expected()))
        })
        .collect();
    format!(
        "[alias.{}]\nmatch = {{ {} }}\n",
        key(name.as_str()),
        pairs.join(", ")
    )
}

/// The table of a grant.
pub fn grant_text(grant: &NewGrant) -> String {
    let mut lines = vec![
        "[[grant]]".to_owned(),
        format!("alias = {}", quoted(grant.alias.as_str())),
        format!("container = {}", quoted(&grant.container.to_string())),
    ];
    if grant.user != 0 {
        lines.push(format!("user = {}", grant.user));
    }
    if let Some(path) = &grant.path {
        lines.push(format!("path = {}", quoted(path.as_str())));
    }
    if grant.access != Access::READ_WRITE {
        lines.push(format!("access = {}", quoted(&grant.access.to_string())));
    }
    let user = |user: &UserRef| match user {
        UserRef::Id(id) => id.to_string(),
        UserRef::Name(name) => quoted(name),
    };
    lines.extend(
        grant
            .owner
            .as_ref()
            .map(|owner| format!("owner = {}", user(owner))),
    );
    lines.extend(
        grant
            .group
            .as_ref()
            .map(|group| format!("group = {}", user(group))),
    );
    lines.extend(grant.mode.as_ref().map(|mode| format!("mode = {}", quoted(mode))));
    format!("{}\n", lines.join("\n"))
}

/// The table of a detach.
pub fn detach_text(alias: &AliasName, container: &ContainerRef) -> String {
    format!(
        "[[detach]]\nalias = {}\ncontainer = {}\n",
        quoted(alias.as_str()),
        quoted(&container.to_string())
    )
}

/// Adds a table at the end of a file, which is made if it is not there.
pub fn append(path: &Path, table: &str) -> Result<(), EditError> {
    let (mut text, _) = read(path)?;
    if !text.is_empty() {
        text.push_str(if text.ends_with('\n') { "\n" } else { "\n\n" });
    }
    text.push_str(table);
    write(path, &text)
}

/// Takes a grant out of a file: whether it had it.
pub fn remove_grant(path: &Path, alias: &AliasName, container: &ContainerPattern) -> Result<bool, EditError> {
    let (text, file) = read(path)?;
    let found = file
        .grants
        .iter()
        .find(|grant| grant.alias == *alias && grant.container == *container);
    match found {
        Some(grant) => remove(path, &text, "grant", grant.origin.line).map(|()| true),
        None => Ok(false),
    }
}

/// Takes a detach out of a file: whether it had it.
pub fn remove_detach(path: &Path, alias: &AliasName, container: &ContainerRef) -> Result<bool, EditError> {
    let (text, file) = read(path)?;
    let found = file
        .detached
        .iter()
        .find(|one| one.alias == *alias && one.container == *container);
    match found {
        Some(one) => remove(path, &text, "detach", one.origin.line).map(|()| true),
        None => Ok(false),
    }
}

/// A file without faults; an empty one if it is not there.
fn read(path: &Path) -> Result<(String, FileConfig), EditError> {
    let there = fs::symlink_metadata(path);
    let absent = matches!(&there, Err(error) if error.kind() == io::ErrorKind::NotFound);
    let bytes = if absent {
        Vec::new()
    } else {
        read_file(path).map_err(|fault| EditError::Faulty {
            path: path.into(),
            fault,
        })?
    };
    let (file, faults) = parse_file_in(path, PLACE, &bytes);
    match faults.into_iter().find(Diagnostic::is_error) {
        Some(fault) => Err(EditError::Faulty {
            path: path.into(),
            fault: Box::new(fault),
        }),
        None => Ok((file.text.clone(), file)),
    }
}

fn write(path: &Path, text: &str) -> Result<(), EditError> {
    let (file, mut faults) = parse_file_in(path, PLACE, text.as_bytes());
    faults.extend(super::merge(vec![file]).1);
    if let Some(fault) = faults.into_iter().find(Diagnostic::is_error) {
        return Err(EditError::Refused {
            path: path.into(),
            fault: Box::new(fault),
        });
    }
    let failed = |source| EditError::Io {
        what: "write",
        path: path.into(),
        source,
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    // A link to a file elsewhere stays a link.
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.into());
    durable::replace(&real, text.as_bytes()).map_err(failed)
}

/// Takes out the table of the list `header` that begins at a line, with the tables below it, up to the next header;
/// comments in front of that one stay.
fn remove(path: &Path, text: &str, header: &'static str, line: u32) -> Result<(), EditError> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut starts = BTreeSet::new();
    headers(
        DeTable::parse_recoverable(text).0.get_ref(),
        0,
        None,
        &mut |depth, at, under| {
            // A table within a line begins with a brace, one by dotted keys with a name.
            if !text.get(at..).is_some_and(|rest| rest.starts_with('[')) {
                return;
            }
            let number = text.get(..at).map_or(0, |before| before.matches('\n').count());
            // What lies below an entry of the list goes with it.
            if depth == 1 || under != header {
                starts.insert(number);
            }
        },
    );
    let first = line as usize - 1;
    let begins = lines
        .get(first)
        .is_some_and(|line| line.trim_start().starts_with(&format!("[[{header}]]")));
    if !begins {
        return Err(EditError::ByHand {
            path: path.into(),
            line,
            header,
        });
    }
    let mut end = starts.range(first + 1..).next().copied().unwrap_or(lines.len());
    let is_kept = |line: &&str| line.trim().is_empty() || line.trim_start().starts_with('#');
    if end < lines.len() {
        while end > first + 1 && lines.get(end - 1).is_some_and(is_kept) {
            end -= 1;
        }
    }
    let rest = lines.get(..first).into_iter().chain(lines.get(end..));
    let rest: String = rest.flatten().copied().collect();
    write(path, &rest)
}

/// Calls `found` with depth, place and first name of each table.
fn headers(
    table: &DeTable<'_>,
    depth: usize,
    under: Option<&str>,
    found: &mut impl FnMut(usize, usize, &str),
) {
    for (name, value) in table {
        visit(value, depth, under.unwrap_or_else(|| name.get_ref()), found);
    }
}

fn visit(
    value: &Spanned<DeValue<'_>>,
    depth: usize,
    under: &str,
    found: &mut impl FnMut(usize, usize, &str),
) {
    match value.get_ref() {
        DeValue::Table(table) => {
            found(depth + 1, value.span().start, under);
            headers(table, depth + 1, Some(under), found);
        }
        DeValue::Array(list) => {
            for one in list {
                visit(one, depth, under, found);
            }
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HexId;
    use crate::model::PortName;

    #[test]
    fn an_alias_and_a_grant_are_added_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("conf.d/local.toml");
        let alias: AliasName = "tv.left".parse().unwrap();
        let keys = [
            Key::Vendor(HexId(0x04b8)),
            Key::Serial("a\"b\\c é".into()),
            Key::Port(PortName("0000:00:14.0/2.1".into())),
            Key::Property("ID_X".into(), "1".into()),
            Key::Attribute("device/model".into(), "x".into()),
        ];
        append(&path, &alias_text(&alias, &keys)).unwrap();
        let grant = NewGrant {
            alias: alias.clone(),
            container: "ctm:scan".parse().unwrap(),
            user: 1000,
            path: Some("scanner".parse().unwrap()),
            access: Access::READ,
            owner: Some(UserRef::Id(5)),
            group: Some(UserRef::Name("lp".into())),
            mode: Some("0660".into()),
        };
        append(&path, &grant_text(&grant)).unwrap();
        let (text, file) = read(&path).unwrap();
        assert_eq!(
            text,
            "[alias.\"tv.left\"]\nmatch = { vendor = \"04b8\", serial = 'a\"b\\c é', port = \"0000:00:14.0/2.1\", property.ID_X = \"1\", attr.\"device/model\" = \"x\" }\n\n[[grant]]\nalias = \"tv.left\"\ncontainer = \"ctm:scan\"\nuser = 1000\npath = \"scanner\"\naccess = \"r\"\nowner = 5\ngroup = \"lp\"\nmode = \"0660\"\n"
        );
        assert_eq!(file.aliases[0].name, alias);
        assert_eq!(file.aliases[0].matches[0].keys, keys);
        assert_eq!((file.grants[0].user, file.grants[0].access), (1000, Access::READ));
    }

    #[test]
    fn what_would_be_faulty_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        let table = "[alias.x]\nmatch.vendor = '0001'\n";
        append(&path, table).unwrap();
        assert!(matches!(append(&path, table), Err(EditError::Refused { .. })));
        assert!(matches!(append(&path, "[["), Err(EditError::Refused { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), table);
        fs::write(&path, "[[").unwrap();
        assert!(matches!(append(&path, table), Err(EditError::Faulty { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "[[");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    const FILE: &str = "# the lab\n[alias.x]\nmatch.vendor = '0001'\n\n# first\n[[grant]]\nalias = 'x'\ncontainer = 'ctm:a'\n[[grant.node]]\nrole = 'usb_device'\nomit = true\n\n# of the second\n[[grant]]\nalias = 'x'\ncontainer = 'ctm:b*' # a pattern\n\n# settings\n[daemon]\nmonitor = true\n";

    #[test]
    fn a_grant_is_taken_out_and_comments_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        let alias: AliasName = "x".parse().unwrap();
        fs::write(&path, FILE).unwrap();
        assert!(!remove_grant(&path, &alias, &"ctm:c".parse().unwrap()).unwrap());
        assert!(remove_grant(&path, &alias, &"ctm:a".parse().unwrap()).unwrap());
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "# the lab\n[alias.x]\nmatch.vendor = '0001'\n\n# first\n\n# of the second\n[[grant]]\nalias = 'x'\ncontainer = 'ctm:b*' # a pattern\n\n# settings\n[daemon]\nmonitor = true\n"
        );
        assert!(remove_grant(&path, &alias, &"ctm:b*".parse().unwrap()).unwrap());
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "# the lab\n[alias.x]\nmatch.vendor = '0001'\n\n# first\n\n# of the second\n\n# settings\n[daemon]\nmonitor = true\n"
        );
        fs::write(&path, "grant = [{ alias = 'x', container = 'ctm:a' }]").unwrap();
        let error = remove_grant(&path, &alias, &"ctm:a".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("take it out by hand"), "{error}");
    }

    #[test]
    fn a_detach_comes_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        let (alias, container) = ("x".parse().unwrap(), "ctm:a".parse().unwrap());
        assert!(!remove_detach(&path, &alias, &container).unwrap());
        append(&path, &detach_text(&alias, &container)).unwrap();
        assert_eq!(read(&path).unwrap().1.detached.len(), 1);
        assert!(remove_detach(&path, &alias, &container).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
    }
}
