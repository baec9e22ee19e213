//! Which device programs decide for a cgroup.

use super::{TakeOverError, failed};
use crate::access::takeover::{Level, Program};
use crate::host::cgroup::Hierarchy;
use crate::sys::bpf;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

/// `/a/b`, `/a`, `/`.
pub(super) fn above(cgroup: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(cgroup), |path| match path.rsplit_once('/')? {
        ("", "") => None,
        ("", _) => Some("/"),
        (above, _) => Some(above),
    })
}

/// All device programs that decide for `cgroup`.
pub(super) fn look(
    hierarchy: &Hierarchy,
    cgroup: &str,
    ours: Option<u32>,
) -> Result<Vec<Level>, TakeOverError> {
    above(cgroup)
        .map(|cgroup| look_at(hierarchy, cgroup, ours))
        .collect()
}

pub(super) fn look_at(
    hierarchy: &Hierarchy,
    cgroup: &str,
    ours: Option<u32>,
) -> Result<Level, TakeOverError> {
    let path = hierarchy.folder(cgroup);
    let folder = hierarchy.open(cgroup)?;
    let ids = bpf::query(folder.as_fd()).map_err(failed("list the device programs of", &path))?;
    let linked = if ids.is_empty() {
        BTreeSet::new()
    } else {
        linked(&folder).map_err(failed("list the links of", &path))?
    };
    let mut programs = Vec::new();
    // A program that is attached twice is one.
    for id in ids.iter().copied().collect::<BTreeSet<_>>() {
        let info = match bpf::program_by_id(id).and_then(|program| bpf::program_info(program.as_fd())) {
            // It went in this moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            info => info.map_err(failed("look at a device program of", &path))?,
        };
        programs.push(Program {
            id,
            name: info.name,
            uid: info.uid,
            linked: linked.contains(&id),
            ours: ours == Some(id),
        });
    }
    programs.sort_by_key(|program| ids.iter().position(|id| *id == program.id));
    Ok(Level {
        cgroup: cgroup.into(),
        programs,
    })
}

/// Ids of the programs that are on a cgroup by a link.
fn linked(cgroup: &File) -> io::Result<BTreeSet<u32>> {
    use std::os::unix::fs::MetadataExt;
    let cgroup = cgroup.metadata()?.ino();
    let mut programs = BTreeSet::new();
    let mut id = 0;
    while let Some(next) = bpf::next_link_id(id)? {
        id = next;
        match bpf::link_by_id(id).and_then(|link| bpf::link_info(link.as_fd())) {
            Ok(link) if link.cgroup == Some(cgroup) => {
                programs.insert(link.program);
            }
            // Another kind, another cgroup, or gone.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ancestors() {
        assert_eq!(
            above("/a/b.scope/c").collect::<Vec<_>>(),
            ["/a/b.scope/c", "/a/b.scope", "/a", "/"]
        );
        assert_eq!(above("/").collect::<Vec<_>>(), ["/"]);
    }
}
