//! Aliases that udev rules give (`ENV{DEVBROKER_ALIAS}="name"`), and the properties that the configuration matches, kept for
//! as long as the device stays.
//!
//! udev makes a device's properties anew at each event: what a rule sets at `add` alone is gone at the next `bind` or
//! `change`. Here it holds for the device's incarnation, over restarts of the daemon as well: one small file for each device
//! below `/run/devbroker/rule-aliases`, named by the incarnation. Not across reboots: then there is a new `add`.
//!
//! The file also has those of udev's links that the configuration matches. They do not hold by themselves; they, too, stand
//! in for udev's record while it cannot be had ([`RuleAliases::recall`]).

use super::event::Properties;
use crate::model::{AliasName, HostNode, Incarnation, NameError, NodePath, SysPath};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The property that a rule sets.
pub const PROPERTY: &str = "DEVBROKER_ALIAS";

/// How many aliases rules can give to one device.
pub const MAX_ALIASES: usize = 16;

/// Something could not be kept; it holds until the daemon ends.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {source}; a restart of the daemon may forget an alias set by a udev rule", path.display())]
pub struct KeepError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// What is kept of one stay of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    syspath: SysPath,
    incarnation: Incarnation,
    aliases: Vec<AliasName>,
    properties: Properties,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    links: Vec<NodePath>,
}

/// What rules and properties have established.
#[derive(Debug)]
pub struct RuleAliases {
    folder: PathBuf,
    /// The properties that the configuration matches.
    wanted: BTreeSet<String>,
    /// The links that it matches.
    wanted_links: BTreeSet<NodePath>,
    kept: BTreeMap<SysPath, Kept>,
    /// What of it is not in a file, and why.
    unsaved: BTreeMap<SysPath, String>,
}

impl RuleAliases {
    /// Takes up what an earlier daemon has kept in `folder`, as far as `incarnation` says that the device is still the same.
    /// Files that cannot be read are removed and named in the second list.
    pub fn open(
        folder: &Path,
        incarnation: impl Fn(&SysPath) -> Option<Incarnation>,
    ) -> Result<(Self, Vec<PathBuf>), KeepError> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| KeepError { what, path, source }
        };
        fs::create_dir_all(folder).map_err(failed("make", folder))?;
        let (mut kept, mut bad) = (BTreeMap::new(), Vec::new());
        for entry in fs::read_dir(folder).map_err(failed("list", folder))? {
            let path = entry.map_err(failed("list", folder))?.path();
            let found = fs::read(&path)
                .ok()
                .and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
            match found {
                Some(found) if incarnation(&found.syspath) == Some(found.incarnation) => {
                    kept.insert(found.syspath.clone(), found);
                    continue;
                }
                // It went while no daemon was up.
                Some(_) => {}
                None => bad.push(path.clone()),
            }
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
        bad.sort();
        Ok((
            Self {
                folder: folder.into(),
                wanted: BTreeSet::new(),
                wanted_links: BTreeSet::new(),
                kept,
                unsaved: BTreeMap::new(),
            },
            bad,
        ))
    }

    /// Keeps these properties and links from now on.
    pub fn set_wanted(&mut self, properties: BTreeSet<String>, links: BTreeSet<NodePath>) {
        self.wanted = properties;
        self.wanted_links = links;
    }

    /// Fills in what is kept of a node whose record of udev's cannot be had now. Keeps nothing.
    pub fn recall(&self, node: &mut HostNode) {
        let known = self.kept.get(node.syspath());
        let Some(known) = known.filter(|known| known.incarnation == node.incarnation()) else {
            return;
        };
        node.rule_aliases.clone_from(&known.aliases);
        node.properties.extend(known.properties.clone());
        node.links.extend(known.links.iter().cloned());
        node.links.sort();
        node.links.dedup();
    }

    /// Fills in what this or an earlier event has established for the node's device, and keeps it. Words of the property
    /// that are no aliases are returned.
    pub fn note(&mut self, node: &mut HostNode) -> (Vec<NameError>, Result<(), KeepError>) {
        let (given, bad) = parse(node.properties.get(PROPERTY).map_or("", String::as_str));
        let known = self
            .kept
            .get(node.syspath())
            .filter(|known| known.incarnation == node.incarnation());
        let mut aliases = known.map(|known| known.aliases.clone()).unwrap_or_default();
        for alias in given {
            if !aliases.contains(&alias) && aliases.len() < MAX_ALIASES {
                aliases.push(alias);
            }
        }
        let mut properties = Properties::new();
        for key in &self.wanted {
            let before = known.and_then(|known| known.properties.get(key));
            if let Some(value) = node.properties.get(key).or(before) {
                properties.insert(key.clone(), value.clone());
            }
        }
        let links: Vec<NodePath> = node
            .links
            .iter()
            .filter(|link| self.wanted_links.contains(link))
            .cloned()
            .collect();
        node.rule_aliases.clone_from(&aliases);
        for (key, value) in &properties {
            node.properties
                .entry(key.clone())
                .or_insert_with(|| value.clone());
        }
        let is_kept = match known {
            Some(known) => known.aliases == aliases && known.properties == properties && known.links == links,
            None => aliases.is_empty() && properties.is_empty() && links.is_empty(),
        };
        if is_kept {
            return (bad, Ok(()));
        }
        let kept = Kept {
            syspath: node.syspath().clone(),
            incarnation: node.incarnation(),
            aliases,
            properties,
            links,
        };
        let forgotten = self.forget_former(&kept);
        let stored = self.save(&kept);
        self.kept.insert(kept.syspath.clone(), kept);
        (bad, forgotten.and(stored))
    }

    /// Why something is not in a file, if so.
    pub fn trouble(&self) -> Option<&str> {
        self.unsaved.values().next().map(String::as_str)
    }

    /// Tries to write what could not be written.
    pub fn mend(&mut self) {
        for syspath in self.unsaved.clone().into_keys() {
            match self.kept.get(&syspath).cloned() {
                // What fails stays the trouble.
                Some(kept) => self.save(&kept).unwrap_or(()),
                None => drop(self.unsaved.remove(&syspath)),
            }
        }
    }

    fn save(&mut self, kept: &Kept) -> Result<(), KeepError> {
        let stored = self.store(kept);
        match &stored {
            Ok(()) => self.unsaved.remove(&kept.syspath),
            Err(error) => self.unsaved.insert(kept.syspath.clone(), error.to_string()),
        };
        stored
    }

    /// Forgets one stay of a device. Another one that has its place by now is left alone.
    pub fn forget(&mut self, syspath: &SysPath, incarnation: Incarnation) -> Result<(), KeepError> {
        if self
            .kept
            .get(syspath)
            .is_some_and(|kept| kept.incarnation == incarnation)
        {
            self.kept.remove(syspath);
            self.unsaved.remove(syspath);
        }
        self.remove(incarnation)
    }

    /// Forgets all devices that are not there any more, after a scan.
    pub fn forget_gone(
        &mut self,
        incarnation: impl Fn(&SysPath) -> Option<Incarnation>,
    ) -> Result<(), KeepError> {
        let gone: Vec<(SysPath, Incarnation)> = self
            .kept
            .values()
            .filter(|kept| incarnation(&kept.syspath) != Some(kept.incarnation))
            .map(|kept| (kept.syspath.clone(), kept.incarnation))
            .collect();
        gone.iter()
            .try_for_each(|(syspath, stay)| self.forget(syspath, *stay))
    }

    /// Removes what was kept of the device that had this place before.
    fn forget_former(&self, now: &Kept) -> Result<(), KeepError> {
        match self.kept.get(&now.syspath) {
            Some(former) if former.incarnation != now.incarnation => self.remove(former.incarnation),
            Some(_) | None => Ok(()),
        }
    }

    fn path(&self, incarnation: Incarnation) -> PathBuf {
        self.folder.join(format!("{}.json", incarnation.0))
    }

    fn store(&self, kept: &Kept) -> Result<(), KeepError> {
        let path = self.path(kept.incarnation);
        let failed = |source| KeepError {
            what: "write",
            path: path.clone(),
            source,
        };
        let fresh = path.with_extension("new");
        let bytes = serde_json::to_vec(kept).map_err(|error| failed(error.into()))?;
        let written = fs::write(&fresh, bytes).and_then(|()| fs::rename(&fresh, &path));
        written.map_err(|error| {
            // Half of it takes up room.
            fs::remove_file(&fresh).ok();
            failed(error)
        })
    }

    fn remove(&self, incarnation: Incarnation) -> Result<(), KeepError> {
        let path = self.path(incarnation);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(KeepError {
                what: "remove",
                path,
                source,
            }),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// The names in a property's value, between commas or blanks, and what is none.
pub fn parse(value: &str) -> (Vec<AliasName>, Vec<NameError>) {
    let (mut names, mut bad) = (Vec::new(), Vec::new());
    let words = value.split(|c: char| c == ',' || c.is_ascii_whitespace());
    for word in words.filter(|word| !word.is_empty()).take(MAX_ALIASES) {
        match word.parse() {
            Ok(name) => names.push(name),
            Err(error) => bad.push(error),
        }
    }
    (names, bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DevNum, SysDevice};

    fn node(incarnation: u64, properties: &[(&str, &str)]) -> HostNode {
        HostNode {
            devnum: DevNum::char(188, 0),
            devname: "ttyUSB0".parse().unwrap(),
            mode: 0o660,
            links: vec![],
            properties: properties
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect(),
            rule_aliases: vec![],
            chain: vec![SysDevice {
                syspath: "/devices/x/ttyUSB0".parse().unwrap(),
                incarnation: Incarnation(incarnation),
                subsystem: Some("tty".into()),
                devtype: None,
                driver: None,
                attributes: BTreeMap::new(),
                port: None,
            }],
        }
    }

    fn open(folder: &Path, incarnation: u64) -> RuleAliases {
        let (mut rules, bad) = RuleAliases::open(folder, |_| Some(Incarnation(incarnation))).unwrap();
        assert_eq!(bad, Vec::<PathBuf>::new());
        rules.set_wanted(
            BTreeSet::from(["MINE".to_owned(), "OTHER".to_owned()]),
            BTreeSet::from(["serial/by-id/mine".parse().unwrap()]),
        );
        rules
    }

    fn seen(rules: &mut RuleAliases, mut node: HostNode) -> (Vec<String>, Vec<String>) {
        let (bad, kept) = rules.note(&mut node);
        assert_eq!(bad, []);
        kept.unwrap();
        (
            node.rule_aliases.iter().map(ToString::to_string).collect(),
            node.properties
                .iter()
                .filter(|(key, _)| *key != PROPERTY)
                .map(|(k, v)| format!("{k}={v}"))
                .collect(),
        )
    }

    fn texts(all: &[&str]) -> Vec<String> {
        all.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn what_a_rule_says_once_holds_while_the_device_stays() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("rule-aliases");
        let files = || fs::read_dir(&folder).unwrap().count();
        let mut rules = open(&folder, 7);
        let add = node(7, &[(PROPERTY, "a,b"), ("MINE", "1"), ("ELSE", "x")]);
        assert_eq!(
            seen(&mut rules, add),
            (texts(&["a", "b"]), texts(&["ELSE=x", "MINE=1"]))
        );
        // udev forgets at the next event, and has a new value for another property.
        let bind = node(7, &[("OTHER", "2")]);
        assert_eq!(
            seen(&mut rules, bind),
            (texts(&["a", "b"]), texts(&["MINE=1", "OTHER=2"]))
        );
        // After a restart of the daemon as well.
        let mut rules = open(&folder, 7);
        let change = node(7, &[(PROPERTY, "c"), ("OTHER", "3")]);
        assert_eq!(
            seen(&mut rules, change),
            (texts(&["a", "b", "c"]), texts(&["MINE=1", "OTHER=3"]))
        );
        assert_eq!(files(), 1);
        // The next device at the same place inherits nothing.
        assert_eq!(seen(&mut rules, node(8, &[])), (vec![], vec![]));
        assert_eq!(
            seen(&mut rules, node(9, &[(PROPERTY, "d")])),
            (texts(&["d"]), vec![])
        );
        assert_eq!(files(), 1);
        // That the one before it went is heard only now: this one keeps what it has.
        rules.forget(node(8, &[]).syspath(), Incarnation(8)).unwrap();
        assert_eq!(seen(&mut rules, node(9, &[])), (texts(&["d"]), vec![]));
        rules.forget(node(9, &[]).syspath(), Incarnation(9)).unwrap();
        assert_eq!(files(), 0);
        assert_eq!(seen(&mut rules, node(9, &[])), (vec![], vec![]));
    }

    #[test]
    fn a_device_that_went_while_no_daemon_was_up_is_forgotten() {
        let temp = tempfile::tempdir().unwrap();
        let mut rules = open(temp.path(), 7);
        seen(&mut rules, node(7, &[(PROPERTY, "a")]));
        fs::write(temp.path().join("6.json"), "{\"syspath\":").unwrap();
        fs::write(temp.path().join("5.new"), "").unwrap();
        let (mut rules, bad) = RuleAliases::open(temp.path(), |_| None).unwrap();
        assert_eq!(bad, [temp.path().join("5.new"), temp.path().join("6.json")]);
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
        assert_eq!(seen(&mut rules, node(7, &[])), (vec![], vec![]));
        seen(&mut rules, node(7, &[(PROPERTY, "a")]));
        rules.forget_gone(|_| Some(Incarnation(7))).unwrap();
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
        rules.forget_gone(|_| Some(Incarnation(8))).unwrap();
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_kept_stands_in_for_a_record_that_cannot_be_had() {
        let temp = tempfile::tempdir().unwrap();
        let mut rules = open(temp.path(), 7);
        let mut add = node(7, &[(PROPERTY, "a"), ("MINE", "1"), ("ID_X", "y")]);
        add.links = vec!["serial/by-id/mine".parse().unwrap(), "x".parse().unwrap()];
        rules.note(&mut add).1.unwrap();
        let rules = open(temp.path(), 7);
        let mut bare = node(7, &[]);
        rules.recall(&mut bare);
        assert_eq!(bare.rule_aliases, ["a".parse().unwrap()]);
        assert_eq!(bare.properties, [("MINE".to_owned(), "1".to_owned())].into());
        assert_eq!(bare.links, ["serial/by-id/mine".parse().unwrap()]);
        let mut next = node(8, &[]);
        rules.recall(&mut next);
        assert_eq!(next, node(8, &[]));
        // A link does not hold by itself.
        let mut rules = rules;
        rules.note(&mut bare.clone()).1.unwrap();
        let mut without = node(7, &[]);
        rules.note(&mut without).1.unwrap();
        assert_eq!(without.links, []);
        rules.recall(&mut without);
        assert_eq!(without.links, []);
    }

    #[test]
    fn words_that_are_no_aliases_are_named() {
        let temp = tempfile::tempdir().unwrap();
        let mut rules = open(temp.path(), 7);
        let mut odd = node(7, &[(PROPERTY, "../etc, good\tx.d,,good")]);
        let (bad, kept) = rules.note(&mut odd);
        kept.unwrap();
        assert_eq!(
            bad.iter().map(|error| error.text.as_str()).collect::<Vec<_>>(),
            ["../etc", "x.d"]
        );
        assert_eq!(odd.rule_aliases, ["good".parse().unwrap()]);
        let many = (0..100).map(|n| format!("n{n}")).collect::<Vec<_>>().join(" ");
        let mut flood = node(7, &[(PROPERTY, &many)]);
        rules.note(&mut flood).1.unwrap();
        assert_eq!(flood.rule_aliases.len(), MAX_ALIASES);
    }

    #[test]
    fn a_full_disk_is_an_error_and_the_alias_holds_meanwhile() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("rules");
        let mut rules = open(&folder, 7);
        fs::remove_dir(&folder).unwrap();
        let mut add = node(7, &[(PROPERTY, "a")]);
        let (_, kept) = rules.note(&mut add);
        let error = kept.unwrap_err().to_string();
        assert!(
            error.contains("rules/7.new") || error.contains("rules/7.json"),
            "{error}"
        );
        assert_eq!(add.rule_aliases.len(), 1);
        let mut bind = node(7, &[]);
        rules.note(&mut bind).1.unwrap();
        assert_eq!(bind.rule_aliases.len(), 1);
        rules.mend();
        assert_eq!(rules.trouble(), Some(error.as_str()));
        fs::create_dir(&folder).unwrap();
        rules.mend();
        assert_eq!(rules.trouble(), None);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }
}
