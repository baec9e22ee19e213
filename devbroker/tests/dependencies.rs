//! What the workspace depends upon is what `deny.toml` allows: licences, sources, one version of each. The same as
//! `cargo deny check licenses bans sources`, with no more than cargo itself.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Every package of the workspace and of what it needs on this machine.
fn packages() -> Vec<Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let rustc = Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into()))
        .arg("-vV")
        .output()
        .unwrap();
    let rustc = String::from_utf8(rustc.stdout).unwrap();
    let host = rustc
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap();
    let output = Command::new(cargo)
        .args(["metadata", "--offline", "--locked", "--format-version=1"])
        .args(["--filter-platform", host])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    // Packages of other platforms are in the lock file and not among these.
    let used: BTreeSet<&str> = all["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| text(node, "id"))
        .collect();
    let packages = all["packages"].as_array().unwrap().iter();
    packages
        .filter(|package| used.contains(text(package, "id")))
        .cloned()
        .collect()
}

fn rules() -> toml::Table {
    std::fs::read_to_string(root().join("deny.toml"))
        .unwrap()
        .parse()
        .unwrap()
}

/// Whether a licence expression (SPDX; an old `/` is an OR) is met by these licences.
fn is_met(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = either(&words, &mut at, allowed);
    assert_eq!(at, words.len(), "{expression} is no licence expression");
    met
}

fn either(words: &[&str], at: &mut usize, allowed: &BTreeSet<&str>) -> bool {
    let mut met = both(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= both(words, at, allowed);
    }
    met
}

fn both(words: &[&str], at: &mut usize, allowed: &BTreeSet<&str>) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &BTreeSet<&str>) -> bool {
    let word = words.get(*at).copied().unwrap_or_default();
    *at += 1;
    if word == "(" {
        let met = either(words, at, allowed);
        *at += 1;
        return met;
    }
    if words.get(*at) == Some(&"WITH") {
        *at += 2;
        let whole = format!("{word} WITH {}", words.get(*at - 1).copied().unwrap_or_default());
        return allowed.contains(whole.as_str());
    }
    allowed.contains(word)
}

#[test]
fn expressions() {
    let allowed = BTreeSet::from(["MIT", "Unicode-3.0"]);
    for (expression, met) in [
        ("MIT", true),
        ("GPL-3.0-only", false),
        ("MIT OR GPL-3.0-only", true),
        ("GPL-3.0-only/MIT", true),
        ("MIT AND GPL-3.0-only", false),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("(GPL-2.0-only OR Apache-2.0) AND Unicode-3.0", false),
        ("Apache-2.0 OR MIT AND Unicode-3.0", true),
        ("Apache-2.0 WITH LLVM-exception OR MIT", true),
        ("MIT WITH anything", false),
        ("", false),
    ] {
        assert_eq!(
            !expression.is_empty() && is_met(expression, &allowed),
            met,
            "{expression}"
        );
    }
}

#[test]
fn every_licence_is_allowed() {
    let rules = rules();
    let allowed: BTreeSet<&str> = rules["licenses"]["allow"]
        .as_array()
        .unwrap()
        .iter()
        .map(|licence| licence.as_str().unwrap())
        .collect();
    let packages = packages();
    assert!(packages.len() > 50, "{}", packages.len());
    let refused: Vec<String> = packages
        .iter()
        .filter(|package| {
            let licence = text(package, "license");
            licence.is_empty() || !is_met(licence, &allowed)
        })
        .map(|package| format!("{}: {:?}", text(package, "name"), text(package, "license")))
        .collect();
    assert_eq!(
        refused,
        Vec::<String>::new(),
        "choose another crate, or discuss the licence"
    );
}

#[test]
fn everything_comes_from_the_standard_registry_and_once() {
    let rules = rules();
    let skipped: Vec<&str> = rules["bans"]["skip"]
        .as_array()
        .unwrap()
        .iter()
        .map(|skip| skip["crate"].as_str().unwrap())
        .collect();
    let mut versions = BTreeMap::<String, BTreeSet<String>>::new();
    let mut sources = BTreeSet::new();
    for package in packages() {
        let source = text(&package, "source").to_owned();
        if source.is_empty() {
            // Of the workspace.
            continue;
        }
        sources.insert(source);
        let (name, version) = (text(&package, "name"), text(&package, "version"));
        versions
            .entry(name.into())
            .or_default()
            .insert(version.to_owned());
    }
    assert!(
        sources.len() == 1 && sources.iter().all(|source| source.starts_with("registry+")),
        "{sources:?}"
    );
    let skips = |name: &str, version: &str| {
        let is_it = |skip: &&str| {
            skip.split_once('@').is_some_and(|(of, prefix)| {
                of == name
                    && (version == prefix
                        || version
                            .strip_prefix(prefix)
                            .is_some_and(|rest| rest.starts_with('.')))
            })
        };
        skipped.iter().copied().find(is_it)
    };
    let mut unused: BTreeSet<&str> = skipped.iter().copied().collect();
    let mut twice = Vec::new();
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        let left: Vec<&String> = versions
            .iter()
            .filter(|version| match skips(name, version) {
                Some(skip) => {
                    unused.remove(skip);
                    false
                }
                None => true,
            })
            .collect();
        if left.len() > 1 {
            twice.push(format!("{name} {left:?}"));
        }
    }
    assert_eq!(
        twice,
        Vec::<String>::new(),
        "bring them to one version, or say why not in deny.toml"
    );
    assert_eq!(
        unused,
        BTreeSet::new(),
        "no longer there twice: take them out of deny.toml"
    );
}
