//! What a container's root may do: the usual capabilities, a definition's changes to them, and what these come to. Pure.

use crate::definition::CapabilityChange;
use crate::ids::Ids;
use oci_spec::runtime::Capability;
use std::collections::HashSet;

/// What every container may do; nothing that reaches beyond it. `SYS_BOOT` is for reboot(2), which in a pid namespace ends
/// its first process and tells how; what else it is for, kexec, no container may call.
const USUAL: [Capability; 15] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysBoot,
    Capability::SysChroot,
];
/// What it may do besides where these reach no further than its own namespaces.
const NAMESPACED: [Capability; 1] = [Capability::NetAdmin];

/// What the kernel checks in the host's own user namespace alone (`capable()`, not `ns_capable()`): one that has a user
/// namespace can be given these and has nothing of them.
const OF_THE_HOST: [Capability; 20] = [
    Capability::AuditControl,
    Capability::AuditRead,
    Capability::BlockSuspend,
    Capability::Bpf,
    Capability::IpcLock,
    Capability::Lease,
    Capability::LinuxImmutable,
    Capability::MacAdmin,
    Capability::MacOverride,
    Capability::Mknod,
    Capability::Perfmon,
    Capability::SysModule,
    Capability::SysNice,
    Capability::SysPacct,
    Capability::SysRawio,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Syslog,
    Capability::WakeAlarm,
];

/// With what a root without a user namespace is the host's, and how.
const UNCONFINED: [(Capability, &str); 8] = [
    (
        Capability::SysAdmin,
        "mounts the host's disks, leaves its namespaces",
    ),
    (Capability::SysModule, "loads code into the kernel"),
    // By the number that the kernel gives the network at the other end of a link (IFLA_TARGET_NETNSID).
    (
        Capability::NetAdmin,
        "makes and deletes the host's interfaces, over its link to it",
    ),
    (Capability::Bpf, "takes the device program off"),
    (Capability::SysRawio, "reaches the host's hardware and memory"),
    (Capability::DacReadSearch, "opens any file of the host's"),
    (Capability::MacAdmin, "changes the host's security policy"),
    (Capability::Perfmon, "watches the kernel and every process"),
];

/// The usual capabilities with these changes, of which later ones win.
pub(crate) fn capabilities(ids: Ids, changes: &[CapabilityChange]) -> HashSet<Capability> {
    let mut set: HashSet<_> = USUAL.into_iter().collect();
    if ids != Ids::Host {
        set.extend(NAMESPACED);
    }
    for change in changes {
        if change.given {
            set.insert(change.capability);
        } else {
            set.remove(&change.capability);
        }
    }
    set
}

/// Why the container is not held by anything, in words, one for each capability; empty for one that is.
pub(crate) fn unconfined(ids: Ids, changes: &[CapabilityChange]) -> Vec<String> {
    if ids != Ids::Host {
        return Vec::new();
    }
    let has = capabilities(ids, changes);
    UNCONFINED
        .iter()
        .filter(|(capability, _)| has.contains(capability))
        .map(|(capability, how)| format!("{} {how}", short(*capability)))
        .collect()
}

/// A capability that is given and cannot count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} counts for nothing in a user namespace: the kernel asks for it on the host")]
pub(crate) struct Ineffective(pub(crate) String);

impl Ineffective {
    /// What can be done about it.
    pub(crate) const REMEDY: &str = "leave it out and do it on the host, or make the container with `ctm create --privileged-root`, which has no user \
         namespace";
}

/// Refuses what would fail inside without a word.
pub(crate) fn check(ids: Ids, changes: &[CapabilityChange]) -> Result<(), Ineffective> {
    if ids == Ids::Host {
        return Ok(());
    }
    let has = capabilities(ids, changes);
    match changes.iter().find(|change| {
        change.given && has.contains(&change.capability) && OF_THE_HOST.contains(&change.capability)
    }) {
        Some(change) => Err(Ineffective(short(change.capability))),
        None => Ok(()),
    }
}

/// Without `CAP_`.
fn short(capability: Capability) -> String {
    let name = capability.to_string();
    name.strip_prefix("CAP_").unwrap_or(&name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{COUNT, IdBlock};

    const OWN: Ids = Ids::Block(IdBlock {
        first: 1_000_000,
        count: COUNT,
    });

    fn changes(texts: &[&str]) -> Vec<CapabilityChange> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_cannot_count_is_refused() {
        for (texts, refused) in [
            (&[][..], None),
            (&["+SYS_TIME"], Some("SYS_TIME")),
            (&["+SYS_TIME", "-SYS_TIME"], None),
            (&["-SYS_TIME", "+sys_time"], Some("SYS_TIME")),
            (&["+SYS_ADMIN", "-NET_RAW"], None),
            (&["+BPF"], Some("BPF")),
        ] {
            let changes = changes(texts);
            assert_eq!(check(Ids::Host, &changes), Ok(()), "{texts:?}");
            let expected = refused.map_or(Ok(()), |name| Err(Ineffective(name.into())));
            assert_eq!(check(OWN, &changes), expected, "{texts:?}");
        }
    }

    #[test]
    fn who_is_not_held() {
        let given = changes(&["+SYS_ADMIN", "+SYS_TIME", "+BPF", "-BPF", "+NET_ADMIN"]);
        assert_eq!(
            unconfined(Ids::Host, &given),
            [
                "SYS_ADMIN mounts the host's disks, leaves its namespaces",
                "NET_ADMIN makes and deletes the host's interfaces, over its link to it"
            ]
        );
        // It is one of the usual.
        assert!(unconfined(OWN, &[]).is_empty());
        assert!(unconfined(OWN, &changes(&["+SYS_ADMIN"])).is_empty());
        assert!(unconfined(Ids::Host, &[]).is_empty());
    }

    #[test]
    fn nothing_usual_leaves_the_container() {
        for ids in [Ids::Host, OWN] {
            assert!(unconfined(ids, &[]).is_empty());
        }
    }
}
