//! Whether an address is somebody's already: another container's, or the host's own.

use super::NetworkError;
use super::host::Host;
use crate::definition::Address;
use crate::definitions::{self, LoadError};
use crate::layout::Layout;
use devbroker::model::ContainerName;
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

/// Refuses addresses for `name` that are somebody else's. Of a definition that cannot be read nobody knows what it wants; the container
/// does not start before it can.
pub(crate) fn check(layout: &Layout, name: &ContainerName, addresses: &[Address]) -> Result<(), TakenError> {
    if addresses.is_empty() {
        return Ok(());
    }
    for other in definitions::names(layout)? {
        if other == *name {
            continue;
        }
        let Ok(definition) = definitions::load(layout, &other) else {
            continue;
        };
        let same = addresses.iter().find(|one| definition.addresses.contains(one));
        if let Some(address) = same {
            return Err(TakenError::Container {
                address: *address,
                definition: layout.definition(&other),
                other,
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
