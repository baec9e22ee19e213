//! Whether an address is somebody's already: another container's, or the host's own.

use super::NetworkError;
use super::host::Host;
use crate::definition::{Address, Definition};
use crate::definitions::{self, LoadError};
use crate::layout::Layout;
use devbroker::model::ContainerName;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// An address that a container cannot have.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakenError {
    #[error("the address {address} is container {other}'s ({}); give one of them another, or take it out with `ctm set {other} ip=[...]`", .definition.display())]
    Container {
        address: Address,
        other: ContainerName,
        definition: PathBuf,
    },
    #[error(
        "the address {address} is the host's own, on {device}; give the container another, or take it from {device}"
    )]
    Host { address: Address, device: String },
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// All definitions but that of `name` and those with faults.
fn others(layout: &Layout, name: &ContainerName) -> Result<impl Iterator<Item = Definition>, LoadError> {
    let names = definitions::names(layout)?;
    let others = names.into_iter().filter(move |other| other != name);
    Ok(others.filter_map(|other| definitions::load(layout, &other).ok()))
}

/// Leaves out what became another container's: what is there for that on the host is the other's as well.
pub(super) fn without_others(
    layout: &Layout,
    name: &ContainerName,
    mut addresses: BTreeSet<Address>,
) -> BTreeSet<Address> {
    for other in others(layout, name).into_iter().flatten() {
        addresses.retain(|one| !other.addresses.contains(one));
    }
    addresses
}

/// Refuses addresses for `name` that are somebody else's. Of a definition that cannot be read nobody knows what it wants; the container
/// does not start before it can.
pub(crate) fn check(layout: &Layout, name: &ContainerName, addresses: &[Address]) -> Result<(), TakenError> {
    if addresses.is_empty() {
        return Ok(());
    }
    for other in others(layout, name)? {
        let same = addresses.iter().find(|one| other.addresses.contains(one));
        if let Some(address) = same {
            return Err(TakenError::Container {
                address: *address,
                definition: layout.definition(&other.name),
                other: other.name,
            });
        }
    }
    // Without the program no container starts that has an address, which is said then.
    if super::missing_tool().is_some() {
        return Ok(());
    }
    let host = Host::read()?;
    for address in addresses {
        if let Some(device) = host.device_of(address.ip()) {
            return Err(TakenError::Host {
                address: *address,
                device: device.into(),
            });
        }
    }
    Ok(())
}
