//! What a definition needs of the host before anything is begun: folders to bind, an `AppArmor` profile.

use crate::definition::{Definition, Limits, MountSource};
use crate::ids::Ids;
use crate::layout::Layout;
use crate::run::{limit, network, overlay};
use devbroker::model::ContainerName;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Which profiles are loaded, `NAME (MODE)` a line (`apparmor(7)`).
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

/// What is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NeedError {
    /// Nothing to bind.
    #[error("cannot bind {} on {}: {error}; make it, or take the mount out with `ctm mount remove`", .from.display(), .target.display())]
    Source {
        from: PathBuf,
        target: PathBuf,
        error: io::Error,
    },
    /// A container could lead it anywhere.
    #[error("cannot bind {}: it is below containers' own files and leads by a link to {}; name a path without links", .from.display(), .to.display())]
    Linked { from: PathBuf, to: PathBuf },
    /// Its root could lift them.
    #[error(
        "limits of a container without a user namespace hold it only where /sys/fs/cgroup is mounted with `nsdelegate`; \
             `mount -o remount,nsdelegate /sys/fs/cgroup` does that"
    )]
    Undelegated,
    /// The file system of what is bound has no idmapped mounts.
    #[error("cannot bind {} with the container's ids: {error}; its file system or this kernel has no idmapped mounts, take `ids = \"container\"` out", .from.display())]
    NoIdMap { from: PathBuf, error: io::Error },
    /// Nothing to make its network with.
    #[error("its addresses need the program {0}, which is not there; install the package iproute2")]
    Tool(String),
    /// No such family of addresses.
    #[error(
        "this kernel has no IPv6, and the container has an address of it; take it out with `ctm set {0} ip=[...]`"
    )]
    NoIpv6(ContainerName),
    /// No such profile.
    #[error("no AppArmor profile {0} is loaded; load it with `apparmor_parser`, or say `apparmor = \"\"`")]
    Profile(String),
}

/// Refuses a start for which something is missing.
pub(crate) fn check(layout: &Layout, definition: &Definition) -> Result<(), NeedError> {
    for mount in &definition.mounts {
        if let MountSource::Bind(from) = &mount.source {
            source(&layout.store, from, &mount.target)?;
            if let (true, Ids::Block(block)) = (mount.own_ids, definition.ids) {
                // The kernel says only "invalid argument", of anything, and crun no more.
                overlay::id_mapped(from, block).map_err(|error| NeedError::NoIdMap {
                    from: from.clone(),
                    error,
                })?;
            }
        }
    }
    check_limits(definition)?;
    check_network(definition)?;
    if definition.apparmor.is_empty() || is_loaded(&definition.apparmor) {
        Ok(())
    } else {
        Err(NeedError::Profile(definition.apparmor.clone()))
    }
}

/// Refuses limits that the container could lift.
pub(crate) fn check_limits(definition: &Definition) -> Result<(), NeedError> {
    if definition.limits == Limits::default() || limit::is_out_of_reach(definition.ids) {
        Ok(())
    } else {
        Err(NeedError::Undelegated)
    }
}

/// Refuses addresses that cannot be routed to it.
pub(crate) fn check_network(definition: &Definition) -> Result<(), NeedError> {
    if definition.addresses.is_empty() {
        return Ok(());
    }
    if let Some(tool) = network::missing_tool() {
        return Err(NeedError::Tool(tool));
    }
    if network::has_ipv6() || definition.addresses.iter().all(|address| address.is_ipv4()) {
        Ok(())
    } else {
        Err(NeedError::NoIpv6(definition.name.clone()))
    }
}

fn source(store: &Path, from: &Path, target: &Path) -> Result<(), NeedError> {
    let to = fs::canonicalize(from).map_err(|error| NeedError::Source {
        from: from.into(),
        target: target.into(),
        error,
    })?;
    // Elsewhere the links are the administrator's own.
    let below = |path: &Path| {
        path.starts_with(store) || fs::canonicalize(store).is_ok_and(|store| path.starts_with(store))
    };
    if below(from) && to != from {
        return Err(NeedError::Linked {
            from: from.into(),
            to,
        });
    }
    Ok(())
}

/// A kernel without `AppArmor` has none loaded.
fn is_loaded(name: &str) -> bool {
    fs::read_to_string(PROFILES).is_ok_and(|list| lists(&list, name))
}

fn lists(list: &str, name: &str) -> bool {
    list.lines()
        .filter_map(|line| line.rsplit_once(" ("))
        .any(|(profile, _)| profile == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn profiles_by_name() {
        let list = "a b (enforce)\nctm-default (complain)\n";
        assert!(lists(list, "a b") && lists(list, "ctm-default"));
        assert!(!lists(list, "a") && !lists(list, "b") && !lists("", "a"));
    }

    #[test]
    fn links_of_containers_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let top = fs::canonicalize(dir.path()).unwrap();
        let store = top.join("store");
        fs::create_dir_all(store.join("a/rootfs/srv")).unwrap();
        symlink("/etc", store.join("a/rootfs/etc")).unwrap();
        symlink(&store, top.join("mine")).unwrap();
        let target = Path::new("/t");
        source(&store, &store.join("a/rootfs/srv"), target).unwrap();
        source(&store, &top.join("mine/a/rootfs/srv"), target).unwrap();
        let linked = source(&store, &store.join("a/rootfs/etc"), target).unwrap_err();
        assert!(linked.to_string().contains("leads by a link to /etc"), "{linked}");
        let missing = source(&store, &top.join("none"), target).unwrap_err();
        assert!(
            missing.to_string().contains("/none on /t: No such file"),
            "{missing}"
        );
    }
}
