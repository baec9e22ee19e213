//! All files together.

use super::diagnostic::show_lines;
use super::{Config, Diagnostic, FileConfig, Grant, Place, SettingsDraft};
use crate::model::{AliasName, ContainerPattern, Origin};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::PathBuf;

/// Puts files together, in their order. Where two contradict each other the first one stays, and the fault names both. A
/// grant made at run time that a file has as well is no fault: the file's is in force.
pub fn merge(files: Vec<FileConfig>) -> (Config, Vec<Diagnostic>) {
    let mut config = Config::default();
    let mut faults = Vec::new();
    let mut settings = SettingsDraft::default();
    let mut texts: BTreeMap<PathBuf, String> = BTreeMap::new();
    let mut saved: BTreeSet<PathBuf> = BTreeSet::new();
    for file in files {
        let runtime = file.place == Place::Runtime;
        if !runtime {
            saved.insert(file.path.clone());
        }
        let more = file.settings;
        first(&mut settings.monitor, more.monitor, "monitor", &mut faults);
        first(
            &mut settings.receive_buffer,
            more.receive_buffer,
            "receive_buffer",
            &mut faults,
        );
        first(&mut settings.reassert, more.reassert, "reassert", &mut faults);
        first(
            &mut settings.snapshot_seconds,
            more.snapshot_seconds,
            "snapshot_seconds",
            &mut faults,
        );
        for alias in file.aliases {
            if let Some(before) = config.aliases.get(&alias.name) {
                let what = format!("alias `{}`", alias.name);
                faults.push(twice(
                    &what,
                    alias.origin,
                    &before.origin,
                    "give one of them another name, or remove it",
                ));
            } else {
                config.aliases.insert(alias.name.clone(), alias);
            }
        }
        for grant in file.grants {
            let twin = |before: &Grant| same_kind(before, &grant) && saved.contains(&before.origin.file);
            if runtime && config.grants.iter().any(twin) {
                continue;
            }
            match config.grants.iter().find_map(|before| conflict(before, &grant)) {
                Some(fault) => faults.push(fault),
                None => config.grants.push(grant),
            }
        }
        config.detached.extend(file.detached);
        texts.insert(file.path, file.text);
    }
    let defaults = config.settings;
    config.settings = super::Settings {
        monitor: settings.monitor.map_or(defaults.monitor, |(value, _)| value),
        receive_buffer: settings
            .receive_buffer
            .map_or(defaults.receive_buffer, |(value, _)| value),
        reassert: settings.reassert.map_or(defaults.reassert, |(value, _)| value),
        snapshot_seconds: settings
            .snapshot_seconds
            .map_or(defaults.snapshot_seconds, |(value, _)| value),
    };
    faults.extend(config.grants.iter().filter_map(|grant| unknown(&config, grant)));
    show_lines(&mut faults, |path| texts.get(path).cloned());
    (config, faults)
}

/// Keeps the first value of a setting.
fn first<T>(
    kept: &mut Option<(T, Origin)>,
    more: Option<(T, Origin)>,
    key: &str,
    faults: &mut Vec<Diagnostic>,
) {
    let Some((value, origin)) = more else { return };
    if let Some((_, before)) = kept {
        let what = format!("`{key}` of `[daemon]`");
        faults.push(twice(&what, origin, before, "set it in one file only"));
    } else {
        *kept = Some((value, origin));
    }
}

fn twice(what: &str, origin: Origin, before: &Origin, remedy: impl Display) -> Diagnostic {
    let mut fault = Diagnostic::at(origin, format!("{what} is already at {before}")).help(remedy.to_string());
    fault.other = Some(before.clone());
    fault
}

/// Whether two grants say the same alias and the same containers.
fn same_kind(a: &Grant, b: &Grant) -> bool {
    a.user == b.user && a.alias == b.alias && a.container == b.container
}

/// Why two grants cannot both be in force.
fn conflict(before: &Grant, grant: &Grant) -> Option<Diagnostic> {
    if before.user != grant.user {
        return None;
    }
    let same = before.container == grant.container;
    if same_kind(before, grant) {
        let what = format!("a grant of `{}` for `{}`", grant.alias, grant.container);
        return Some(twice(
            &what,
            grant.origin.clone(),
            &before.origin,
            "remove one of them",
        ));
    }
    let both_globs = !before.container.is_exact() && !grant.container.is_exact();
    if before.alias == grant.alias && both_globs && overlap(&before.container, &grant.container) {
        let what = format!(
            "for some containers a grant of `{}` for `{}`, which `{}` matches as well,",
            grant.alias, before.container, grant.container
        );
        let remedy = "make the patterns exclude each other, or name the container exactly";
        return Some(twice(&what, grant.origin.clone(), &before.origin, remedy));
    }
    let path = grant.looks.path.as_ref()?;
    (same && before.looks.path.as_ref() == Some(path)).then(|| {
        let what = format!("the path `{path}` in `{}`", grant.container);
        twice(
            &what,
            grant.origin.clone(),
            &before.origin,
            "give each alias its own path",
        )
    })
}

/// Whether some name matches both patterns.
fn overlap(a: &ContainerPattern, b: &ContainerPattern) -> bool {
    let (a, b) = (a.to_string(), b.to_string());
    let (Some((engine_a, a)), Some((engine_b, b))) = (a.split_once(':'), b.split_once(':')) else {
        return false;
    };
    engine_a == engine_b && globs_meet(a.as_bytes(), b.as_bytes())
}

/// Row by row: can the first `i` bytes of `a` and the first `j` of `b` match the same text?
fn globs_meet(a: &[u8], b: &[u8]) -> bool {
    let mut row = vec![true];
    for byte in b {
        row.push(row.last() == Some(&true) && *byte == b'*');
    }
    for x in a {
        let mut next = vec![row.first() == Some(&true) && *x == b'*'];
        for (j, y) in b.iter().enumerate() {
            let both = row.get(j) == Some(&true);
            let a_more = row.get(j + 1) == Some(&true);
            let b_more = next.get(j) == Some(&true);
            // A star stands for nothing, or takes one more of what the other pattern has there.
            next.push(match (x, y) {
                (b'*', _) | (_, b'*') => a_more || b_more,
                (x, y) => both && (x == y || *x == b'?' || *y == b'?'),
            });
        }
        row = next;
    }
    row.last() == Some(&true)
}

/// A grant of an alias that is not configured: a udev rule may set it, more often it is a slip.
fn unknown(config: &Config, grant: &Grant) -> Option<Diagnostic> {
    if config.aliases.contains_key(&grant.alias) {
        return None;
    }
    let names: Vec<&str> = config.aliases.keys().map(AliasName::as_str).collect();
    let help = match super::table::nearest(grant.alias.as_str(), &names) {
        Some(near) => format!("did you mean `{near}`? otherwise a udev rule has to set it (DEVBROKER_ALIAS)"),
        None => "expected `[alias.NAME]` in some file, or a udev rule that sets DEVBROKER_ALIAS to it".into(),
    };
    let message = format!("no file has an alias `{}`", grant.alias);
    Some(Diagnostic::at(grant.origin.clone(), message).help(help).warning())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_file;
    use std::path::Path;

    fn merged(files: &[(&str, &str)]) -> (Config, Vec<String>) {
        let files = files
            .iter()
            .map(|(name, text)| {
                let (file, faults) = parse_file(Path::new(name), text.as_bytes());
                assert_eq!(faults, [], "{name}");
                file
            })
            .collect();
        let (config, faults) = merge(files);
        (config, faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_alias_in_two_files_names_both() {
        let (config, faults) = merged(&[
            ("a.toml", "[alias.x]\nmatch.vendor = \"0001\""),
            ("b.toml", "\n[alias.x]\nmatch.vendor = \"0002\""),
        ]);
        assert_eq!(
            faults,
            [
                "b.toml:2:1: error: alias `x` is already at a.toml:1\n   |\n 2 | [alias.x]\n   | ^^^^^^^^^\n   = give one of them another name, or remove it"
            ]
        );
        assert_eq!(
            config.aliases.values().next().unwrap().origin.to_string(),
            "a.toml:1"
        );
    }

    #[test]
    fn two_grants_of_a_kind() {
        let alias = "[alias.x]\nmatch.vendor = \"0001\"\n[alias.y]\nmatch.vendor = \"0002\"\n";
        for (grants, fault) in [
            (
                "[[grant]]\nalias = \"x\"\ncontainer = \"ctm:a\"\n[[grant]]\nalias = \"x\"\ncontainer = \"ctm:a\"",
                Some("a grant of `x` for `ctm:a` is already at a.toml:5"),
            ),
            (
                "[[grant]]\nalias = \"x\"\ncontainer = \"ctm:a*\"\n[[grant]]\nalias = \"x\"\ncontainer = \"ctm:a\"",
                None,
            ),
            (
                "[[grant]]\nalias = \"x\"\ncontainer = \"ctm:a*\"\n[[grant]]\nalias = \"x\"\ncontainer = \"ctm:*b\"",
                Some(
                    "for some containers a grant of `x` for `ctm:a*`, which `ctm:*b` matches as well, is already at a.toml:5",
                ),
            ),
            (
                "[[grant]]\nalias = \"x\"\ncontainer = \"ctm:a*\"\n[[grant]]\nalias = \"x\"\ncontainer = \"ctm:b*\"",
                None,
            ),
            (
                "[[grant]]\nalias = \"x\"\ncontainer = \"ctm:a\"\npath = \"p\"\n[[grant]]\nalias = \"y\"\ncontainer = \"ctm:a\"\npath = \"p\"",
                Some("the path `p` in `ctm:a` is already at a.toml:5"),
            ),
            (
                "[[grant]]\nalias = \"x\"\ncontainer = \"ctm:a\"\n[[grant]]\nalias = \"x\"\ncontainer = \"ctm:a\"\nuser = 1000",
                None,
            ),
        ] {
            let (config, faults) = merged(&[("a.toml", &format!("{alias}{grants}"))]);
            match fault {
                Some(fault) => {
                    assert_eq!(faults.len(), 1);
                    assert!(faults[0].contains(fault), "{faults:?}");
                    assert_eq!(config.grants.len(), 1);
                }
                None => assert_eq!((faults, config.grants.len()), (Vec::<String>::new(), 2)),
            }
        }
    }

    #[test]
    fn settings_once() {
        let (config, faults) = merged(&[
            ("a.toml", "[daemon]\nmonitor = false\nsnapshot_seconds = 5"),
            (
                "b.toml",
                "[daemon]\nmonitor = true\nreassert = false\nreceive_buffer = 4096",
            ),
        ]);
        assert_eq!(
            config.settings,
            crate::config::Settings {
                monitor: false,
                receive_buffer: 4096,
                reassert: false,
                snapshot_seconds: 5
            }
        );
        assert_eq!(
            faults,
            [
                "b.toml:2:1: error: `monitor` of `[daemon]` is already at a.toml:2\n   |\n 2 | monitor = true\n   | ^^^^^^^^^^^^^^\n   = set it in one file only"
            ]
        );
    }

    #[test]
    fn a_grant_of_an_unknown_alias_is_a_warning() {
        let (config, faults) = merged(&[(
            "a.toml",
            "[alias.scanner]\nmatch.vendor = \"0001\"\n[[grant]]\nalias = \"scaner\"\ncontainer = \"ctm:a\"",
        )]);
        assert_eq!(config.grants.len(), 1);
        assert_eq!(
            faults,
            [
                "a.toml:3:1: warning: no file has an alias `scaner`\n   |\n 3 | [[grant]]\n   | ^^^^^^^^^\n   = did you mean `scanner`? otherwise a udev rule has to set it (DEVBROKER_ALIAS)"
            ]
        );
    }

    #[test]
    fn globs() {
        for (a, b, meet) in [
            ("*", "*", true),
            ("a*", "*b", true),
            ("a*", "b*", false),
            ("lab-?", "lab-*", true),
            ("lab-??", "lab-x", false),
            ("*a*", "b", false),
            ("*a*", "?", true),
            ("a*b*c", "ac*", true),
            ("a*b", "a*c", false),
            ("", "*", true),
            ("x", "*?*", true),
        ] {
            assert_eq!(globs_meet(a.as_bytes(), b.as_bytes()), meet, "{a} {b}");
            assert_eq!(globs_meet(b.as_bytes(), a.as_bytes()), meet, "{b} {a}");
        }
    }
}
