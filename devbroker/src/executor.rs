//! Applies actions to one container. The only `match` on [`Action`].
//!
//! What makes something writes its intent to the ledger, rechecks its precondition and acts. What takes away or sets something is
//! written down when it is done: if it was not, it is done again. Nothing here enters the container or blocks: the devices lie
//! on a tmpfs that the host owns. It decides nothing; what it is handed comes from `plan`.

use crate::fail_point;
use crate::host::access::{DeviceFilter, FilterError};
use crate::host::devfs::{Devfs, DevfsError, Made};
use crate::host::ledger::{Entry, Ledger, LedgerError};
use crate::model::{AliasName, DevNum, IdMap, Incarnation, NodePath, Permissions, Role, SysPath};
use crate::permissions::{self, NoRoot};
use crate::plan::{Action, PlannedNode};
use std::io;

/// Where actions are applied.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    /// The container's `/dev`.
    pub(crate) devfs: &'a mut Devfs,
    /// Its device filter.
    pub(crate) filter: &'a DeviceFilter,
    /// What the broker has placed in it.
    pub(crate) ledger: &'a mut Ledger,
    /// Its user ids.
    pub(crate) uid_map: &'a IdMap,
    /// Its group ids.
    pub(crate) gid_map: &'a IdMap,
}

/// What came of an action that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing more to say.
    Done,
    /// A node went; these were its permissions, as the container saw them.
    Withdrawn {
        /// Through which alias it had been granted.
        alias: AliasName,
        /// Which of the device's nodes.
        role: Role,
        /// Its last permissions; `None` if its inode was gone.
        seen: Option<Permissions>,
    },
}

/// Why an action was not applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ActionError {
    /// The device filter could not be changed.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The container's `/dev` could not be changed.
    #[error(transparent)]
    Devfs(#[from] DevfsError),
    /// The intent could not be written down.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The container's root has no id on the host.
    #[error(transparent)]
    NoRoot(#[from] NoRoot),
    /// The number was given to another device while access was being allowed; it was revoked at once.
    #[error("{devnum} is no longer {syspath}; access was taken back, and the next event settles it")]
    Reused {
        /// The number.
        devnum: DevNum,
        /// Whose it was to be.
        syspath: SysPath,
    },
}

/// Applies one action. `still_is` asks sysfs whether a number still belongs to that stay of that device.
pub(crate) fn apply(
    action: &Action,
    target: &mut Target<'_>,
    still_is: &mut dyn FnMut(&SysPath, Incarnation, DevNum) -> bool,
) -> Result<Outcome, ActionError> {
    fail_point::reached("before", action.name());
    let outcome = match action {
        Action::Revoke { devnum } => {
            target.filter.deny(*devnum)?;
            Outcome::Done
        }
        Action::Unlink { path, target: text } => {
            target.devfs.unlink(path, text)?;
            target.ledger.append(&Entry::LinkGone { path: path.clone() })?;
            Outcome::Done
        }
        Action::Withdraw {
            path,
            ino,
            devnum,
            alias,
            role,
        } => withdraw(target, path, *ino, *devnum, alias, role)?,
        Action::Allow {
            devnum,
            access,
            syspath,
            incarnation,
        } => {
            target.filter.allow(*devnum, *access)?;
            if !still_is(syspath, *incarnation, *devnum) {
                target.filter.deny(*devnum)?;
                return Err(ActionError::Reused {
                    devnum: *devnum,
                    syspath: syspath.clone(),
                });
            }
            Outcome::Done
        }
        Action::Place { node } => place(target, node)?,
        Action::Permit { path, ino, grant, .. } => {
            let root = permissions::root_of(target.uid_map, target.gid_map)?;
            let uid = grant.uid.map(|uid| target.uid_map.to_host(uid).unwrap_or(root.0));
            let gid = grant.gid.map(|gid| target.gid_map.to_host(gid).unwrap_or(root.1));
            target.devfs.permit(*ino, uid, gid, grant.mode)?;
            // Only now: a line that a crash left without its effect would pass for done.
            target.ledger.append(&Entry::Permitted {
                path: path.clone(),
                grant: *grant,
            })?;
            Outcome::Done
        }
        Action::Link { path, target: text } => {
            target.ledger.append(&Entry::Link {
                path: path.clone(),
                target: text.clone(),
            })?;
            let ledger = &mut *target.ledger;
            target
                .devfs
                .link(path, text, &mut |made| record_folder(ledger, made))?;
            Outcome::Done
        }
    };
    fail_point::reached("after", action.name());
    Ok(outcome)
}

fn withdraw(
    target: &mut Target<'_>,
    path: &NodePath,
    ino: u64,
    devnum: DevNum,
    alias: &AliasName,
    role: &Role,
) -> Result<Outcome, ActionError> {
    let withdrawn = target.devfs.withdraw(path, ino, devnum)?;
    target.ledger.append(&Entry::NodeGone { path: path.clone() })?;
    let seen = withdrawn
        .seen
        .map(|seen| permissions::to_inside(&seen, target.uid_map, target.gid_map));
    Ok(Outcome::Withdrawn {
        alias: alias.clone(),
        role: role.clone(),
        seen,
    })
}

fn place(target: &mut Target<'_>, node: &PlannedNode) -> Result<Outcome, ActionError> {
    let (perms, _) = permissions::to_host(&node.permissions, target.uid_map, target.gid_map)?;
    let ledger = &mut *target.ledger;
    target
        .devfs
        .place(&node.path, node.devnum, &perms, &mut |made| match made {
            made @ Made::Folder { .. } => record_folder(ledger, made),
            Made::Node { ino } => {
                let entry = Entry::Node {
                    path: node.path.clone(),
                    node: node.placed(ino),
                };
                record(ledger, &entry)
            }
        })?;
    Ok(Outcome::Done)
}

fn record_folder(ledger: &mut Ledger, made: Made) -> io::Result<()> {
    match made {
        Made::Folder { path, ino } => record(ledger, &Entry::Folder { path, ino }),
        Made::Node { .. } => Ok(()),
    }
}

fn record(ledger: &mut Ledger, entry: &Entry) -> io::Result<()> {
    ledger.append(entry).map_err(io::Error::other)
}
