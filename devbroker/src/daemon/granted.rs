//! Who is granted what, by container and by alias: a hot-plug asks only after the containers of its alias, not all.

use crate::config::Grant;
use crate::model::{AliasName, ContainerRef};
use std::collections::{BTreeMap, BTreeSet};

/// The grants of every container, of the configuration in force.
#[derive(Debug, Clone, Default)]
pub(super) struct Granted {
    grants: BTreeMap<ContainerRef, Vec<Grant>>,
    containers: BTreeMap<AliasName, BTreeSet<ContainerRef>>,
}

impl Granted {
    /// A container's grants.
    pub(super) fn of(&self, container: &ContainerRef) -> &[Grant] {
        self.grants.get(container).map(Vec::as_slice).unwrap_or_default()
    }

    /// Every container with its grants.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&ContainerRef, &Vec<Grant>)> {
        self.grants.iter()
    }

    /// These are a container's grants from now on.
    pub(super) fn insert(&mut self, container: ContainerRef, grants: Vec<Grant>) {
        self.remove(&container);
        for grant in &grants {
            let of_alias = self.containers.entry(grant.alias.clone()).or_default();
            of_alias.insert(container.clone());
        }
        self.grants.insert(container, grants);
    }

    /// A container went.
    pub(super) fn remove(&mut self, container: &ContainerRef) {
        for grant in self.grants.remove(container).into_iter().flatten() {
            if let Some(of_alias) = self.containers.get_mut(&grant.alias) {
                of_alias.remove(container);
                if of_alias.is_empty() {
                    self.containers.remove(&grant.alias);
                }
            }
        }
    }

    /// The containers that are granted one of these aliases.
    pub(super) fn concerned<'a>(
        &'a self,
        aliases: impl IntoIterator<Item = &'a AliasName>,
    ) -> impl Iterator<Item = &'a ContainerRef> {
        aliases
            .into_iter()
            .filter_map(|alias| self.containers.get(alias))
            .flatten()
    }
}
