//! Single steps of the work, each in a loop by itself, with warm caches: what a median is made of.

use super::inside::now;
use super::place::Bare;
use super::report::Spread;
use anyhow::{Context, Result};
use devbroker::host::access::DeviceFilter;
use devbroker::host::devfs::Devfs;
use devbroker::host::ledger::{Entry, Ledger};
use devbroker::host::sysfs::Reader;
use devbroker::model::{Access, AliasName, DevNum, NodePath, Registration, SysPath};
use devbroker::permissions::HostPerms;
use devbroker::plan::{GrantPermissions, PlacedNode};
use std::collections::BTreeSet;
use std::path::Path;

/// How often each is done.
const TIMES: usize = 2000;

/// One step.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) spread: Spread,
}

/// Times `step`; what `undo` does is not counted.
fn part(
    name: &str,
    mut step: impl FnMut() -> Result<()>,
    mut undo: impl FnMut() -> Result<()>,
) -> Result<Part> {
    let mut times = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        let begin = now();
        step()?;
        times.push(now() - begin);
        undo()?;
    }
    Ok(Part {
        name: name.into(),
        spread: Spread::of(times),
    })
}

/// The floor's system calls.
pub(super) fn bare(bare: &Bare, own_users: bool, number: u32) -> Result<Part> {
    let devnum = DevNum::block(7, number);
    let users = if own_users { ", user namespace" } else { "" };
    part(
        &format!("bare system calls{users}"),
        || bare.place("part", devnum),
        || bare.remove("part", devnum),
    )
}

/// The daemon's steps, through its library, on a container of no running daemon's.
pub(super) fn daemon(registration: &Registration, folder: &Path, number: u32) -> Result<Vec<Part>> {
    let syspath: SysPath = format!("/devices/virtual/block/loop{number}").parse()?;
    let mut reader = Reader::new(BTreeSet::new());
    let node = reader
        .read(&syspath, None)?
        .context("udev is not done with the device")?;
    let mut parts = vec![part(
        "read a device from sysfs (with udev's record)",
        || reader.read(&syspath, None).map(drop).map_err(Into::into),
        || Ok(()),
    )?];
    parts.push(part(
        "ask whether the number is still the device's",
        || reader.still_is(&node).map(drop).map_err(Into::into),
        || Ok(()),
    )?);
    // Not a name that the container's prober looks at.
    let path: NodePath = "part".parse()?;
    let alias: AliasName = "bench".parse()?;
    let devnum = node.devnum;
    let entry = Entry::Node {
        path: path.clone(),
        node: PlacedNode {
            ino: 1,
            devnum,
            syspath,
            incarnation: node.incarnation(),
            alias,
            role: "block".parse()?,
            grant: GrantPermissions::default(),
        },
    };
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let mut ledger = Ledger::open(folder, &registration.instance)?;
    parts.push(part(
        "write to the ledger",
        || ledger.append(&entry).map_err(Into::into),
        || Ok(()),
    )?);
    let filter = DeviceFilter::open(&registration.filter)?;
    parts.push(part(
        "allow the number",
        || filter.allow(devnum, Access::READ_WRITE).map_err(Into::into),
        || filter.deny(devnum).map_err(Into::into),
    )?);
    let (ids, gids) = (&registration.uid_map, &registration.gid_map);
    let devfs = Devfs::open(&registration.devfs, registration.devfs_dev, ids, gids)?;
    let mut perms = HostPerms {
        uid: 7,
        gid: 7,
        mode: 0o660,
        acl: devbroker::model::Acl::default(),
    };
    perms.uid = ids.to_host(7).unwrap_or(7);
    perms.gid = gids.to_host(7).unwrap_or(7);
    let devfs = std::cell::RefCell::new(devfs);
    let placed = std::cell::Cell::new(0);
    parts.push(part(
        "make the node appear",
        || {
            let ino = devfs.borrow_mut().place(&path, devnum, &perms, &mut |_| Ok(()))?;
            placed.set(ino);
            Ok(())
        },
        || {
            devfs
                .borrow_mut()
                .withdraw(&path, placed.get(), devnum)
                .map(drop)
                .map_err(Into::into)
        },
    )?);
    parts.push(part(
        "look at a path of the container's /dev",
        || devfs.borrow().look(&path).map(drop).map_err(Into::into),
        || Ok(()),
    )?);
    Ok(parts)
}
