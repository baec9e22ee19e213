//! Changes the text of a definition for `ctm set` and its like: one value at a time, every comment and all else as a person
//! left it. Pure.

use super::{Effect, Key, MountDefinition, key};
use std::path::Path;
use std::str::FromStr;
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Value};

/// The key of the mounts.
const MOUNT: &str = "mount";

/// A change that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EditError {
    #[error("`{0}` is no KEY=VALUE; as in `stop_timeout=30`, or `stop_timeout=` to go back to the usual")]
    Form(String),
    #[error("there is no key `{key}`; {remedy}")]
    Key { key: String, remedy: String },
    #[error("`{0}` is settled when a container is made; make another with `ctm create --clone`")]
    Fixed(&'static str),
    #[error("the definition is no TOML: {0}")]
    Text(String),
}

/// One change: a key, and its value or nothing.
#[derive(Debug, Clone)]
pub(crate) struct Edit {
    /// What is changed.
    pub(crate) key: &'static Key,
    /// To what; none: it is taken out.
    value: Option<Value>,
}

impl Edit {
    /// A key's new value, none to take it out.
    pub(crate) fn new(name: &str, value: Option<Value>) -> Result<Self, EditError> {
        let Some(key) = key(name) else {
            return Err(EditError::Key {
                key: name.into(),
                remedy: super::key::meant_by(name),
            });
        };
        Ok(Self { key, value })
    }

    /// The new value.
    pub(crate) fn value(&self) -> Option<&Value> {
        self.value.as_ref()
    }

    /// The text with this change in it.
    pub(crate) fn apply(&self, text: &str) -> Result<String, EditError> {
        let mut document = parsed(text)?;
        match &self.value {
            None => {
                document.remove(self.key.name);
            }
            Some(value) => {
                // What stands around the old value, a remark behind it above all, stays around the new one.
                if let Some(old) = document.get_mut(self.key.name).and_then(Item::as_value_mut) {
                    let decor = old.decor().clone();
                    *old = value.clone();
                    *old.decor_mut() = decor;
                } else {
                    document.remove(self.key.name);
                    document.insert(self.key.name, Item::Value(value.clone()));
                }
            }
        }
        Ok(document.to_string())
    }
}

/// The text with one more mount in it. `effective` are those that count so far: where the text itself has none they are a
/// profile's, which it then has to repeat.
pub(crate) fn with_mount(
    text: &str,
    effective: &[MountDefinition],
    mount: &MountDefinition,
) -> Result<String, EditError> {
    let mut document = parsed(text)?;
    match document.get_mut(MOUNT) {
        Some(Item::ArrayOfTables(tables)) => tables.push(mount.to_toml().into_table()),
        Some(Item::Value(Value::Array(list))) => list.push(mount.to_toml()),
        Some(_) | None => {
            let tables: ArrayOfTables = effective
                .iter()
                .chain([mount])
                .map(|mount| mount.to_toml().into_table())
                .collect();
            document.insert(MOUNT, Item::ArrayOfTables(tables));
        }
    }
    Ok(document.to_string())
}

/// The text without the mounts on `target`.
pub(crate) fn without_mount(
    text: &str,
    effective: &[MountDefinition],
    target: &Path,
) -> Result<String, EditError> {
    let mut document = parsed(text)?;
    let is_other = |at: Option<&str>| at.is_none_or(|at| Path::new(at) != target);
    match document.get_mut(MOUNT) {
        Some(Item::ArrayOfTables(tables)) => {
            tables.retain(|table| is_other(table.get("target").and_then(Item::as_str)));
        }
        Some(Item::Value(Value::Array(list))) => {
            list.retain(|value| {
                let table = value.as_inline_table();
                is_other(
                    table
                        .and_then(|table| table.get("target"))
                        .and_then(Value::as_str),
                )
            });
        }
        Some(_) | None => {
            let others = effective.iter().filter(|mount| mount.target != target);
            let list: Array = others.map(MountDefinition::to_toml).collect();
            document.insert(MOUNT, Item::Value(list.into()));
        }
    }
    Ok(document.to_string())
}

fn parsed(text: &str) -> Result<DocumentMut, EditError> {
    text.parse()
        .map_err(|e: toml_edit::TomlError| EditError::Text(e.message().into()))
}

impl FromStr for Edit {
    type Err = EditError;

    /// `KEY=VALUE` as typed: the value is TOML, or else a text that needs no quotes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, value) = text.split_once('=').ok_or_else(|| EditError::Form(text.into()))?;
        let (name, value) = (name.trim(), value.trim());
        let value = match value {
            "" => None,
            _ => Some(Value::from_str(value).unwrap_or_else(|_| value.into())),
        };
        let edit = Self::new(name, value)?;
        if edit.key.effect == Effect::Fixed {
            return Err(EditError::Fixed(edit.key.name));
        }
        Ok(edit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::MountSource;

    fn set(text: &str, change: &str) -> Result<String, EditError> {
        change.parse::<Edit>()?.apply(text)
    }

    #[test]
    fn all_else_stays() {
        let text = "# mine\nhostname = \"a\" # short\n\n[[mount]]\ntmpfs = \"1M\"\ntarget = \"/x\"\n";
        assert_eq!(
            set(text, "hostname=b.c").unwrap(),
            text.replace("\"a\"", "\"b.c\"")
        );
        assert_eq!(
            set(text, "stop_timeout=30").unwrap(),
            "# mine\nhostname = \"a\" # short\nstop_timeout = 30\n\n[[mount]]\ntmpfs = \"1M\"\ntarget = \"/x\"\n"
        );
        assert_eq!(
            set(text, "capabilities=[\"+SYS_TIME\"]").unwrap().lines().nth(2),
            Some("capabilities = [\"+SYS_TIME\"]")
        );
        assert_eq!(set(text, "mount=").unwrap(), "# mine\nhostname = \"a\" # short\n");
        assert_eq!(set("", "after=[]").unwrap(), "after = []\n");
        assert_eq!(set(text, "domain=").unwrap(), text);
    }

    #[test]
    fn mounts_come_and_go() {
        let mount = |target: &str| MountDefinition {
            source: MountSource::Tmpfs("1M".into()),
            target: target.into(),
            read_only: false,
            follow: false,
            own_ids: false,
        };
        let table = |target: &str| format!("\n[[mount]]\ntmpfs = \"1M\"\ntarget = \"{target}\"\n");
        let tables = format!("init = [] # mine\n{}{}", table("/a"), table("/b"));
        let (a, b) = (mount("/a"), mount("/b"));
        assert_eq!(
            with_mount("init = [] # mine\n", &[], &a).unwrap(),
            format!("init = [] # mine\n{}", table("/a"))
        );
        assert_eq!(
            with_mount(
                &format!("init = [] # mine\n{}", table("/a")),
                std::slice::from_ref(&a),
                &b
            )
            .unwrap(),
            tables
        );
        // What a profile says is repeated.
        assert_eq!(
            with_mount("init = [] # mine\n", std::slice::from_ref(&a), &b).unwrap(),
            tables
        );
        assert_eq!(
            without_mount(&tables, &[], Path::new("/a")).unwrap(),
            format!("init = [] # mine\n{}", table("/b"))
        );
        assert_eq!(
            without_mount("", &[a.clone(), b.clone()], Path::new("/a")).unwrap(),
            "mount = [{ tmpfs = \"1M\", target = \"/b\" }]\n"
        );
        let inline = "mount = [{ tmpfs = \"1M\", target = \"/a\" }] # all\n";
        let both =
            "mount = [{ tmpfs = \"1M\", target = \"/a\" }, { tmpfs = \"1M\", target = \"/b\" }] # all\n";
        assert_eq!(with_mount(inline, &[a], &b).unwrap(), both);
        assert_eq!(without_mount(both, &[], Path::new("/b")).unwrap(), inline);
    }

    #[test]
    fn what_is_refused() {
        for (change, part) in [
            ("hostname", "KEY=VALUE"),
            ("hostnam=x", "did you mean `hostname`?"),
            ("colour=x", "known are description, rootfs"),
            ("rootfs=/x", "settled"),
            ("userns=false", "settled"),
        ] {
            let error = set("", change).unwrap_err().to_string();
            assert!(error.contains(part), "{change}: {error}");
        }
        assert!(matches!(set("= 1", "hostname=x"), Err(EditError::Text(_))));
    }
}
