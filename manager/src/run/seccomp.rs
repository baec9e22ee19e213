//! The calls that a container cannot make, whatever it is. Pure.
//!
//! A list of what is refused: a whole system calls whatever there is, and what the kernel checks by capability needs no
//! second answer. Refused is what capabilities do not hold: what is not the container's although its namespaces are, what
//! would give a root all capabilities once more, and large parts of the kernel that no system needs.

use crate::ids::Ids;
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};
use std::collections::HashSet;

const EPERM: u32 = 1;
const ENOTTY: u32 = 25;
const ENOSYS: u32 = 38;
const EOPNOTSUPP: u32 = 95;
/// `linux/sched.h`
const CLONE_NEWUSER: u64 = 0x1000_0000;
/// `linux/socket.h`
const AF_VSOCK: u64 = 40;

/// Refused to everybody. Keyrings belong to a user id, of which a container without a user namespace has the host's.
const ALWAYS: [&str; 6] = [
    "add_key",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "request_key",
    "userfaultfd",
];

/// As if the kernel had none of them: programs then do without.
const ABSENT: [&str; 3] = ["io_uring_enter", "io_uring_register", "io_uring_setup"];

/// Refused unless the container was given the capability that is about them. bpf(2) above all: a root without a user
/// namespace could take our device program off its own cgroup, if the kernel lets everybody use it.
const UNLESS: [(Capability, &[&str]); 5] = [
    (Capability::Bpf, &["bpf"]),
    (Capability::DacReadSearch, &["open_by_handle_at"]),
    (Capability::Perfmon, &["perf_event_open"]),
    (
        Capability::SysModule,
        &["delete_module", "finit_module", "init_module"],
    ),
    // The kernel's log is the host's; by its own rule everybody may read it.
    (Capability::Syslog, &["syslog"]),
];

/// New subvolumes of btrfs have a quota group of their own, so that what is in them would count for nobody; whoever may write
/// to a folder may make them. `BTRFS_IOC_SNAP_CREATE`, `_SUBVOL_CREATE` and their second versions, `linux/btrfs.h`.
const SUBVOLUMES: [u64; 4] = [0x5000_9401, 0x5000_940e, 0x5000_9417, 0x5000_9418];

/// What changes the project that a file is counted for, or whether it is inherited: `FS_IOC_FSSETXATTR`, `FS_IOC_SETFLAGS` and
/// `FS_IOC32_SETFLAGS`, `linux/fs.h`. The kernel refuses that in a user namespace, and lets an owner do it outside of one.
const PROJECTS: [u64; 3] = [0x401c_5820, 0x4008_6602, 0x4004_6602];
/// The same as a call of its own (Linux 6.17). A libseccomp that does not know the name leaves it open, see SECURITY.md.
const PROJECT_CALL: &str = "file_setattr";

/// The filter for a container with these ids and capabilities, by every way of calling that this kind of machine knows.
pub(crate) fn filter(ids: Ids, capabilities: &HashSet<Capability>) -> Result<LinuxSeccomp, OciSpecError> {
    let architectures = if cfg!(target_arch = "x86_64") {
        vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
    } else if cfg!(target_arch = "aarch64") {
        vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]
    } else {
        // None named: the one crun runs on, and no other.
        Vec::new()
    };
    let lacks = |capability: &Capability| !capabilities.contains(capability);
    let mut refused = ALWAYS.to_vec();
    for (capability, calls) in &UNLESS {
        if lacks(capability) {
            refused.extend_from_slice(calls);
        }
    }
    refused.sort_unstable();
    let mut calls = vec![
        call(&refused, EPERM, None)?,
        call(&ABSENT, ENOSYS, None)?,
        // The hypervisor's sockets are in no network namespace.
        call(&["socket"], EPERM, Some(equals(AF_VSOCK)?))?,
    ];
    // As if it were another file system: programs then make a folder, or do without.
    for command in SUBVOLUMES {
        calls.push(call(&["ioctl"], ENOTTY, Some(commands(command)?))?);
    }
    if ids == Ids::Host {
        for command in PROJECTS {
            calls.push(call(&["ioctl"], EOPNOTSUPP, Some(commands(command)?))?);
        }
        calls.push(call(&[PROJECT_CALL], EOPNOTSUPP, None)?);
    }
    if lacks(&Capability::SysAdmin) {
        // A new user namespace has a root with all capabilities, and with them most of what the kernel keeps from a root
        // without SYS_ADMIN. The arguments of clone3 cannot be looked at; without it the C library takes clone.
        calls.push(call(
            &["clone", "unshare"],
            EPERM,
            Some(has_bits(CLONE_NEWUSER)?),
        )?);
        calls.push(call(&["clone3"], ENOSYS, None)?);
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActAllow)
        .architectures(architectures)
        .syscalls(calls)
        .build()
}

fn call(names: &[&str], errno: u32, argument: Option<LinuxSeccompArg>) -> Result<LinuxSyscall, OciSpecError> {
    let call = LinuxSyscallBuilder::default()
        .names(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        .action(LinuxSeccompAction::ScmpActErrno)
        .errno_ret(errno);
    match argument {
        Some(argument) => call.args(vec![argument]).build(),
        None => call.build(),
    }
}

/// The first argument is this.
fn equals(value: u64) -> Result<LinuxSeccompArg, OciSpecError> {
    LinuxSeccompArgBuilder::default()
        .index(0_usize)
        .value(value)
        .op(LinuxSeccompOperator::ScmpCmpEq)
        .build()
}

/// The first argument has these bits.
fn has_bits(bits: u64) -> Result<LinuxSeccompArg, OciSpecError> {
    LinuxSeccompArgBuilder::default()
        .index(0_usize)
        .value(bits)
        .value_two(bits)
        .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
        .build()
}

/// The second argument is this in the 32 bits that the kernel looks at.
fn commands(command: u64) -> Result<LinuxSeccompArg, OciSpecError> {
    LinuxSeccompArgBuilder::default()
        .index(1_usize)
        .value(u64::from(u32::MAX))
        .value_two(command)
        .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{COUNT, IdBlock};
    use serde_json::{Value, json};

    fn calls(ids: Ids, capabilities: &[Capability]) -> Value {
        let filter = filter(ids, &capabilities.iter().copied().collect()).unwrap();
        serde_json::to_value(filter).unwrap()["syscalls"].clone()
    }

    const OWN: Ids = Ids::Block(IdBlock {
        first: 1_000_000,
        count: COUNT,
    });

    #[test]
    fn what_is_refused() {
        let action = "SCMP_ACT_ERRNO";
        let ioctl = |command: u64, errno: u32| {
            json!({ "names": ["ioctl"], "action": action, "errnoRet": errno,
                    "args": [{ "index": 1, "value": 0xffff_ffff_u64, "valueTwo": command, "op": "SCMP_CMP_MASKED_EQ" }] })
        };
        let always = [
            json!({ "names": ["add_key", "bpf", "delete_module", "finit_module", "init_module", "kexec_file_load", "kexec_load",
                              "keyctl", "open_by_handle_at", "perf_event_open", "request_key", "syslog", "userfaultfd"],
                    "action": action, "errnoRet": 1 }),
            json!({ "names": ["io_uring_enter", "io_uring_register", "io_uring_setup"], "action": action, "errnoRet": 38 }),
            json!({ "names": ["socket"], "action": action, "errnoRet": 1,
                    "args": [{ "index": 0, "value": 40, "op": "SCMP_CMP_EQ" }] }),
            ioctl(0x5000_9401, 25),
            ioctl(0x5000_940e, 25),
            ioctl(0x5000_9417, 25),
            ioctl(0x5000_9418, 25),
        ];
        let plain = [
            ioctl(0x401c_5820, 95),
            ioctl(0x4008_6602, 95),
            ioctl(0x4004_6602, 95),
            json!({ "names": ["file_setattr"], "action": action, "errnoRet": 95 }),
        ];
        let namespaces = [
            json!({ "names": ["clone", "unshare"], "action": action, "errnoRet": 1,
                    "args": [{ "index": 0, "value": 0x1000_0000, "valueTwo": 0x1000_0000, "op": "SCMP_CMP_MASKED_EQ" }] }),
            json!({ "names": ["clone3"], "action": action, "errnoRet": 38 }),
        ];
        assert_eq!(calls(OWN, &[]), json!([&always[..], &namespaces].concat()));
        assert_eq!(
            calls(Ids::Host, &[]),
            json!([&always[..], &plain, &namespaces].concat())
        );
    }

    /// A capability opens the calls that it is for, and no others.
    #[test]
    fn what_a_capability_opens() {
        let usual = calls(OWN, &[]);
        assert_eq!(calls(OWN, &[Capability::SysTime, Capability::NetAdmin]), usual);
        let names = |calls: &Value| calls[0]["names"].as_array().unwrap().clone();
        for (capability, opened) in UNLESS {
            let mut expected = names(&usual);
            expected.retain(|name| !opened.contains(&name.as_str().unwrap()));
            assert_eq!(names(&calls(OWN, &[capability])), expected);
        }
        let nested = calls(OWN, &[Capability::SysAdmin]);
        let usual = usual.as_array().unwrap();
        assert_eq!(nested, json!(usual[..usual.len() - 2]));
    }
}
