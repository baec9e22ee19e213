//! Recipes: what a container is made from and what is done to it then, as a TOML file.
//!
//! Parsing is pure: text in, recipe or all its faults out. [`load`] reads the file and those that it puts.

use crate::definition::value::{Fault, Value, absolute, boolean, list, parsed, string, table};
use crate::definition::{Faults, MAX_FILE};
use crate::make::bootstrap::Distro;
use crate::make::fit::Item;
use crate::make::tree::Owned;
use devbroker::config::{Diagnostic, Source};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use toml::de::DeTable;

/// The largest file that is put.
const MAX_PUT: u64 = 64 << 20;

/// A recipe.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Recipe {
    pub(crate) distro: Option<Distro>,
    pub(crate) arch: Option<String>,
    pub(crate) mirror: Option<String>,
    pub(crate) variant: Option<String>,
    pub(crate) packages: Vec<String>,
    pub(crate) files: Vec<Put>,
    pub(crate) runs: Vec<Run>,
    /// What is made fit, and what is not, where that is said.
    pub(crate) fit: BTreeMap<Item, bool>,
}

/// A file that is put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Put {
    pub(crate) path: PathBuf,
    pub(crate) content: Content,
    pub(crate) owned: Owned,
}

/// What is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Content {
    Text(String),
    /// A file of the host's; relative paths are the recipe's folder's.
    From(PathBuf),
    /// That, read.
    Bytes(Vec<u8>),
}

/// A command that is run after installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Run {
    /// By the container's shell, confined as the container is.
    Inside(String),
    /// By the host's shell, as root.
    Host(String),
}

/// A recipe that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecipeError {
    #[error("cannot read {}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: a file that is put is a regular file of at most 64 MiB", .0.display())]
    Unfit(PathBuf),
    #[error(transparent)]
    Faults(#[from] Faults),
}

const KEYS: &str = "known are distro, arch, mirror, variant, packages, file, run, fit";
const FILE: &str = "as in `[[file]]` with `path = \"/etc/motd\"`, `content = \"...\"` or `source = \"motd\"`, and perhaps `mode = \"0644\"`, \
                    `uid = 0`, `gid = 0`";
const RUN: &str = "as in `[[run]]` with `inside = \"systemctl enable ssh\"` or `host = \"...\"`";

/// Reads a recipe and the files that it puts.
pub(crate) fn load(path: &Path) -> Result<Recipe, RecipeError> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_FILE).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(|source| RecipeError::Io {
            path: path.into(),
            source,
        })?;
    let mut recipe = parse(path, &bytes)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    for put in &mut recipe.files {
        if let Content::From(from) = &put.content {
            put.content = Content::Bytes(content(&folder.join(from))?);
        }
    }
    Ok(recipe)
}

fn content(path: &Path) -> Result<Vec<u8>, RecipeError> {
    let failed = |source| RecipeError::Io {
        path: path.into(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    if !about.is_file() || about.len() > MAX_PUT {
        return Err(RecipeError::Unfit(path.into()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_PUT).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Parses a recipe.
pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Recipe, Faults> {
    let whole = |message: String| Err(Faults(vec![Diagnostic::of_file(path, message)]));
    if bytes.len() > MAX_FILE {
        return whole("the file is larger than 64 KiB; put long contents with `source`".into());
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => {
            return whole(format!(
                "byte {} is not UTF-8; save the file as UTF-8",
                e.valid_up_to()
            ));
        }
    };
    let source = Source::new(path, text);
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(e) => {
            let fault = source.error(&e.span().unwrap_or(0..0), e.message().to_lowercase());
            return Err(Faults(vec![fault]));
        }
    };
    let (mut recipe, mut faults) = (Recipe::default(), Vec::new());
    for (name, value) in table.get_ref() {
        let taken = match name.get_ref().as_ref() {
            "distro" => parsed(value).map(|distro| recipe.distro = Some(distro)),
            "arch" => word(value).map(|arch| recipe.arch = Some(arch)),
            "mirror" => string(value).map(|mirror| recipe.mirror = Some(mirror.into())),
            "variant" => word(value).map(|variant| recipe.variant = Some(variant)),
            "packages" => list(value, "as in `packages = [\"openssh-server\"]`", word)
                .map(|packages| recipe.packages = packages),
            "file" => list(value, FILE, put).map(|files| recipe.files = files),
            "run" => list(value, RUN, run).map(|runs| recipe.runs = runs),
            "fit" => fit(value).map(|fit| recipe.fit = fit),
            unknown => Err(Fault::at(name.span(), format!("unknown key `{unknown}`")).help(KEYS)),
        };
        faults.extend(taken.err());
    }
    if faults.is_empty() {
        return Ok(recipe);
    }
    let mut faults: Vec<_> = faults.into_iter().map(|fault| fault.shown(&source)).collect();
    faults.sort_by_key(|fault| (fault.origin.line, fault.column));
    Err(Faults(faults))
}

/// A word for the command line of another program: nothing in it could be taken for an option or a list.
fn word(value: &Value<'_>) -> Result<String, Fault> {
    let text = string(value)?;
    if is_word(text) {
        Ok(text.into())
    } else {
        Err(Fault::of(value, format!("`{text}` cannot be passed on")).help(
            "use letters, digits and `+`, `-`, `.`, `_`, `:`, `~`, `=`, beginning with a letter or digit",
        ))
    }
}

/// Whether a text is such a word.
pub(crate) fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= 128
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-._:~=".contains(&b))
}

fn put(value: &Value<'_>) -> Result<Put, Fault> {
    let table = table(value, &["path", "content", "source", "mode", "uid", "gid"], FILE)?;
    let at = table
        .get("path")
        .ok_or_else(|| Fault::of(value, "`path` is missing").help(FILE))?;
    let path = absolute(at, "where a file is put")?;
    let content = match (table.get("content"), table.get("source")) {
        (Some(text), None) => Content::Text(string(text)?.into()),
        (None, Some(from)) => Content::From(string(from)?.into()),
        _ => return Err(Fault::of(value, "a file has one of `content` and `source`").help(FILE)),
    };
    let mode = table.get("mode").map_or(Ok(0o644), |mode| {
        u32::from_str_radix(string(mode)?, 8)
            .ok()
            .filter(|mode| *mode <= 0o7777)
            .ok_or_else(|| Fault::of(mode, "a mode is an octal number in quotes").help(FILE))
    })?;
    let id = |key: &str| {
        table.get(key).map_or(Ok(0), |id| {
            let number = id
                .get_ref()
                .as_integer()
                .and_then(|id| id.as_str().parse::<u32>().ok());
            number
                .filter(|id| *id < crate::ids::COUNT)
                .ok_or_else(|| Fault::of(id, "an id is a number from 0 to 65535").help(FILE))
        })
    };
    let (uid, gid) = (id("uid")?, id("gid")?);
    Ok(Put {
        path,
        content,
        owned: Owned { uid, gid, mode },
    })
}

fn run(value: &Value<'_>) -> Result<Run, Fault> {
    let table = table(value, &["inside", "host"], RUN)?;
    match (table.get("inside"), table.get("host")) {
        (Some(script), None) => Ok(Run::Inside(string(script)?.into())),
        (None, Some(script)) => Ok(Run::Host(string(script)?.into())),
        _ => Err(Fault::of(value, "a command is one of `inside` and `host`").help(RUN)),
    }
}

fn fit(value: &Value<'_>) -> Result<BTreeMap<Item, bool>, Fault> {
    const HELP: &str = "as in `[fit]` with `time_zone = false`; known are gettys, mtab, recommends, time_zone, root_locked, devices, \
                        machine_id, locale, resolv_conf, hostname, hosts, policy_rc";
    let table = table(value, &Item::ALL.map(|(_, name)| name), HELP)?;
    let mut fit = BTreeMap::new();
    for (item, name) in Item::ALL {
        if let Some(wanted) = table.get(name) {
            fit.insert(item, boolean(wanted)?);
        }
    }
    Ok(fit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_recipe() {
        let text = "distro = \"debian:bookworm\"\narch = \"amd64\"\nmirror = \"http://x/debian\"\nvariant = \"minbase\"\n\
                    packages = [\"openssh-server\", \"g++\"]\n\
                    [[file]]\npath = \"/etc/motd\"\ncontent = \"hi\\n\"\n\
                    [[file]]\npath = \"/root/x\"\nsource = \"x\"\nmode = \"0600\"\nuid = 7\ngid = 8\n\
                    [[run]]\ninside = \"true\"\n[[run]]\nhost = \"false\"\n[fit]\nlocale = false\n";
        let recipe = parse(Path::new("r.toml"), text.as_bytes()).unwrap();
        assert_eq!(
            recipe,
            Recipe {
                distro: Some("debian:bookworm".parse().unwrap()),
                arch: Some("amd64".into()),
                mirror: Some("http://x/debian".into()),
                variant: Some("minbase".into()),
                packages: vec!["openssh-server".into(), "g++".into()],
                files: vec![
                    Put {
                        path: "/etc/motd".into(),
                        content: Content::Text("hi\n".into()),
                        owned: Owned::by_root(0o644),
                    },
                    Put {
                        path: "/root/x".into(),
                        content: Content::From("x".into()),
                        owned: Owned {
                            uid: 7,
                            gid: 8,
                            mode: 0o600,
                        },
                    },
                ],
                runs: vec![Run::Inside("true".into()), Run::Host("false".into())],
                fit: [(Item::Locale, false)].into(),
            }
        );
        assert_eq!(parse(Path::new("r.toml"), b""), Ok(Recipe::default()));
    }

    #[test]
    fn the_example() {
        let text = include_str!("../../../examples/ctm/recipe.toml");
        let recipe = parse(Path::new("recipe.toml"), text.as_bytes()).unwrap();
        assert_eq!(
            (recipe.files.len(), recipe.runs.len(), recipe.fit.len()),
            (2, 2, 1)
        );
    }

    #[test]
    fn faults_with_their_places() {
        for (text, part) in [
            (
                "distro = \"debian\"",
                "r.toml:1:10: error: `debian` is no distribution",
            ),
            (
                "packages = [\"-x\"]",
                "r.toml:1:13: error: `-x` cannot be passed on",
            ),
            ("packages = [\"a,b\"]", "cannot be passed on"),
            ("arch = 7", "r.toml:1:8: error: expected a string"),
            ("\npackage = []", "r.toml:2:1: error: unknown key `package`"),
            ("[[file]]\npath = \"etc\"\ncontent = \"\"", "absolute path"),
            ("[[file]]\npath = \"/a/../b\"\ncontent = \"\"", "absolute path"),
            ("[[file]]\npath = \"/a\"", "one of `content` and `source`"),
            (
                "[[file]]\npath = \"/a\"\ncontent = \"\"\nmode = \"9\"",
                "r.toml:4:8: error: a mode is",
            ),
            (
                "[[file]]\npath = \"/a\"\ncontent = \"\"\nuid = 65536",
                "r.toml:4:7: error: an id is",
            ),
            (
                "[[run]]\ninside = \"a\"\nhost = \"b\"",
                "one of `inside` and `host`",
            ),
            (
                "[fit]\ntimezone = true",
                "r.toml:2:1: error: unknown key `timezone`",
            ),
            ("[fit]\nmtab = 1", "expected true or false"),
            ("=", "r.toml:1:1: error:"),
        ] {
            let shown = parse(Path::new("r.toml"), text.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(shown.contains(part), "{text}: {shown}");
        }
        assert!(parse(Path::new("r"), b"\xff").is_err());
        assert!(parse(Path::new("r"), " ".repeat(MAX_FILE + 1).as_bytes()).is_err());
    }
}
