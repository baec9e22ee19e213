//! The words of the program as types that cannot be wrong: device numbers, names, paths, devices, containers.
//!
//! Owns no behaviour beyond parsing and printing; does no I/O. Everything from outside (configuration, udev, labels,
//! the API) becomes one of these types at the edge or is refused there.

mod access;
mod container;
mod device;
mod devnum;
mod ids;
mod name;
mod origin;
mod path;
mod permissions;

pub use access::{Access, AccessError};
pub use container::{
    BoundAt, ContainerKey, ContainerName, ContainerPattern, ContainerRef, Engine, InstanceId, Registration,
};
pub use device::{HostNode, Incarnation, PortName, SysDevice};
pub use devnum::{DevKind, DevNum, DevNumError};
pub use ids::{IdMap, IdRange, UserRef};
pub use name::{AliasName, NameError, Role};
pub use origin::Origin;
pub use path::{NodePath, PathError, SysPath};
pub use permissions::{Acl, AclEntry, AclTag, Permissions};
