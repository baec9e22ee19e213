//! `/dev/devbroker` on the host: a link for each alias, and a folder of links for its roles.
//!
//! Owns that folder and all in it. Links are replaced by rename, so that a name never goes missing while its device is
//! there.

use crate::model::{AliasName, NodePath, Role};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// What the links of one alias lead to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AliasLinks {
    /// The primary node.
    pub primary: Option<NodePath>,
    /// Every node by its role.
    pub roles: BTreeMap<Role, NodePath>,
}

/// A link that could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {source}", path.display())]
pub struct LinkError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The folder of alias links.
#[derive(Debug)]
pub struct AliasFolder {
    root: PathBuf,
}

impl AliasFolder {
    /// The folder `root`, usually `/dev/devbroker`, which lies directly below `/dev`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// What the links of `alias` lead to now, as far as they are of our form.
    pub fn get(&self, alias: &AliasName) -> AliasLinks {
        let leads = |path: &Path, up: &str| {
            let target = std::fs::read_link(path).ok()?;
            target.to_str()?.strip_prefix(up)?.parse::<NodePath>().ok()
        };
        let folder = self.root.join(format!("{alias}.d"));
        let role = |name: &OsString| name.to_str()?.replace(':', "/").parse::<Role>().ok();
        AliasLinks {
            primary: leads(&self.root.join(alias.as_str()), "../"),
            // A folder that cannot be listed has nothing to tell.
            roles: listing(&folder)
                .unwrap_or_default()
                .iter()
                .filter_map(|name| Some((role(name)?, leads(&folder.join(name), "../../")?)))
                .collect(),
        }
    }

    /// Makes the links of `alias` what `links` says; with nothing in it they go away. Says whether anything changed.
    pub fn set(&self, alias: &AliasName, links: &AliasLinks) -> Result<bool, LinkError> {
        let mut changed = false;
        let top = self.root.join(alias.as_str());
        changed |= match &links.primary {
            Some(node) => point(&top, &format!("../{node}"))?,
            None => remove(&top)?,
        };
        let folder = self.root.join(format!("{alias}.d"));
        let wanted: BTreeMap<OsString, &NodePath> = links
            .roles
            .iter()
            .map(|(role, node)| (role_file(role), node))
            .collect();
        for name in listing(&folder)? {
            if !wanted.contains_key(&name) {
                changed |= remove(&folder.join(name))?;
            }
        }
        for (name, node) in &wanted {
            changed |= point(&folder.join(name), &format!("../../{node}"))?;
        }
        if wanted.is_empty() && folder.exists() {
            std::fs::remove_dir(&folder).map_err(|source| LinkError {
                what: "remove",
                path: folder,
                source,
            })?;
            changed = true;
        }
        Ok(changed)
    }

    /// Removes all links of aliases that are not in `known`: what a stopped broker left behind.
    pub fn keep_only(&self, known: &dyn Fn(&AliasName) -> bool) -> Result<(), LinkError> {
        for name in listing(&self.root)? {
            let text = name.to_string_lossy();
            let alias = text.strip_suffix(".d").unwrap_or(&text).parse::<AliasName>();
            match alias {
                Ok(alias) if known(&alias) => {}
                Ok(alias) => {
                    self.set(&alias, &AliasLinks::default())?;
                }
                Err(_) => {
                    remove(&self.root.join(&name))?;
                }
            }
        }
        Ok(())
    }
}

/// The file name of a role: a role behind a hub has slashes, which become `:`.
pub fn role_file(role: &Role) -> OsString {
    role.as_str().replace('/', ":").into()
}

fn listing(folder: &Path) -> Result<Vec<OsString>, LinkError> {
    let failed = |source| LinkError {
        what: "list",
        path: folder.into(),
        source,
    };
    match std::fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.file_name()).map_err(failed))
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}

fn point(path: &Path, target: &str) -> Result<bool, LinkError> {
    if std::fs::read_link(path).is_ok_and(|now| now.as_os_str() == target) {
        return Ok(false);
    }
    let failed = |source| LinkError {
        what: "make",
        path: path.into(),
        source,
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push("~new");
    remove(Path::new(&fresh))?;
    std::os::unix::fs::symlink(target, &fresh).map_err(failed)?;
    std::fs::rename(&fresh, path).map_err(failed)?;
    Ok(true)
}

fn remove(path: &Path) -> Result<bool, LinkError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(LinkError {
            what: "remove",
            path: path.into(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(root: &Path) -> Vec<(String, String)> {
        let mut all = Vec::new();
        let mut open = vec![root.to_path_buf()];
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    open.push(entry.path());
                } else {
                    let name = entry
                        .path()
                        .strip_prefix(root)
                        .unwrap()
                        .to_string_lossy()
                        .into_owned();
                    all.push((
                        name,
                        std::fs::read_link(entry.path())
                            .unwrap()
                            .to_string_lossy()
                            .into_owned(),
                    ));
                }
            }
        }
        all.sort();
        all
    }

    #[test]
    fn links_follow_and_go() {
        let dev = tempfile::tempdir().unwrap();
        let root = dev.path().join("devbroker");
        let folder = AliasFolder::new(&root);
        let alias: AliasName = "printer".parse().unwrap();
        let links = |usb: &str, lp: &str| AliasLinks {
            primary: Some(lp.parse().unwrap()),
            roles: [("usb_device", usb), ("usbmisc@if00", lp)]
                .map(|(role, node)| (role.parse().unwrap(), node.parse().unwrap()))
                .into(),
        };
        assert!(folder.set(&alias, &links("bus/usb/001/004", "usb/lp0")).unwrap());
        assert!(!folder.set(&alias, &links("bus/usb/001/004", "usb/lp0")).unwrap());
        assert!(folder.set(&alias, &links("bus/usb/001/005", "usb/lp1")).unwrap());
        assert_eq!(
            tree(&root),
            [
                ("printer", "../usb/lp1"),
                ("printer.d/usb_device", "../../bus/usb/001/005"),
                ("printer.d/usbmisc@if00", "../../usb/lp1"),
            ]
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
        );
        std::fs::write(root.join("stray~new"), "").unwrap();
        folder.keep_only(&|name| name == &alias).unwrap();
        assert_eq!(tree(&root).len(), 3);
        folder.keep_only(&|_| false).unwrap();
        assert_eq!(tree(&root), []);
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
    }
}
