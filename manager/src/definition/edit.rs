//! Changes the text of a definition for `ctm set` and its like: one value at a time, every comment and all else as a person
//! left it. Pure.

use super::{Effect, Key, key};
use std::str::FromStr;
use toml_edit::{DocumentMut, Item, Value};

/// A change that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EditError {
    #[error("`{0}` is no KEY=VALUE; as in `stop_timeout=30`, or `stop_timeout=` to go back to the usual")]
    Form(String),
    #[error("there is no key `{key}`; known are {known}")]
    Key { key: String, known: String },
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
                known: super::key::names(),
            });
        };
        Ok(Self { key, value })
    }

    /// The text with this change in it.
    pub(crate) fn apply(&self, text: &str) -> Result<String, EditError> {
        let mut document: DocumentMut = text
            .parse()
            .map_err(|e: toml_edit::TomlError| EditError::Text(e.message().into()))?;
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
    fn what_is_refused() {
        for (change, part) in [
            ("hostname", "KEY=VALUE"),
            ("hostnam=x", "known are description, rootfs"),
            ("rootfs=/x", "settled"),
            ("userns=false", "settled"),
        ] {
            let error = set("", change).unwrap_err().to_string();
            assert!(error.contains(part), "{change}: {error}");
        }
        assert!(matches!(set("= 1", "hostname=x"), Err(EditError::Text(_))));
    }
}
