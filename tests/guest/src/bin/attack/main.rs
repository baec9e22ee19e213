//! A hostile root in a container: each way to reach the host that is known to have worked somewhere, by its name.
//!
//! ```text
//! attack all              WAY<tab>refused: WHY  or  WAY<tab>SUCCEEDED: WHAT, a line for each
//! attack WAY              only this one
//! attack listen NAME      on the host: listens on the abstract socket NAME until its input ends
//! attack overwrite FILE   until FILE is there: opens for writing each program that runs here and is not the container's
//! ```
//!
//! Whatever succeeds does as little harm as it can: values are written as they were read.

mod devices;
mod kernel;
mod mounts;
mod outcome;
mod processes;
mod writes;

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, ExitCode};

use devbroker_guest::disk;
use devbroker_guest::raw::{clone_with, clone3_with};
use nix::libc;

use devices::{mount_blocks, open_blocks, open_chars};
use kernel::{
    abstract_socket, clock_adjust, clock_set, forged_uevent, interfaces, listen, perf_event, raise_limit,
};
use mounts::{mount, new_mount_api, remount, unmount};
use outcome::{Outcome, done, raw, unshare};
use processes::{chroot_walk, descriptors, overwrite, processes, same_root};
use writes::{
    cgroup_limits, cgroups_nested, cgroups_without_end, create, read_from, write_below, write_sys, write_to,
};

/// A name, and what tries it.
type Way = (&'static str, fn() -> Outcome);

const WAYS: &[Way] = &[
    ("open-char-by-number", open_chars),
    ("open-block-by-number", open_blocks),
    ("mount-block-device", mount_blocks),
    ("mount-proc", || mount("proc", "proc", "/tmp/m")),
    ("mount-sysfs", || mount("sysfs", "sysfs", "/tmp/m")),
    ("mount-cgroup", || mount("cgroup", "cgroup", "/tmp/m")),
    ("mount-cgroup2", || mount("cgroup2", "cgroup2", "/tmp/m")),
    ("mount-devtmpfs", || mount("devtmpfs", "devtmpfs", "/tmp/m")),
    ("mount-debugfs", || mount("debugfs", "debugfs", "/tmp/m")),
    ("mount-tracefs", || mount("tracefs", "tracefs", "/tmp/m")),
    ("mount-securityfs", || mount("securityfs", "securityfs", "/tmp/m")),
    ("mount-bpf", || mount("bpf", "bpf", "/tmp/m")),
    ("mount-configfs", || mount("configfs", "configfs", "/tmp/m")),
    ("mount-binfmt-misc", || {
        mount("binfmt_misc", "binfmt_misc", "/tmp/m")
    }),
    ("mount-tmpfs-over-dev", || mount("tmpfs", "tmpfs", "/dev")),
    ("mount-by-new-api", new_mount_api),
    ("remount-proc-sys", || remount("/proc/sys")),
    ("remount-sys", || remount("/sys")),
    ("remount-run-udev", || remount("/run/udev")),
    ("unmount-masks", unmount),
    ("pivot-root", || {
        raw(
            libc::SYS_pivot_root,
            [c"/".as_ptr().addr(), c"/tmp".as_ptr().addr(), 0, 0, 0, 0],
        )
    }),
    ("write-proc", || write_below("/proc", 8)),
    ("write-sys", write_sys),
    ("write-run-udev", || create("/run/udev/x")),
    ("sysrq", || write_to("/proc/sysrq-trigger", b"h")),
    ("binfmt-register", || {
        write_to("/proc/sys/fs/binfmt_misc/register", b":x:E::x::/bin/sh:C")
    }),
    ("cgroup-limits", cgroup_limits),
    ("cgroups-nested", cgroups_nested),
    ("cgroups-without-end", cgroups_without_end),
    ("cgroup-parent", || create("/sys/fs/cgroup/../x")),
    ("cgroup-release-agent", || {
        write_to("/sys/fs/cgroup/release_agent", b"/bin/sh")
    }),
    ("cgroup-namespace", || unshare(libc::CLONE_NEWCGROUP)),
    ("mount-namespace", || unshare(libc::CLONE_NEWNS)),
    ("user-namespace-by-unshare", || unshare(libc::CLONE_NEWUSER)),
    ("user-namespace-by-clone", || {
        done(clone_with(usize::try_from(libc::CLONE_NEWUSER).unwrap_or(0)))
    }),
    ("user-namespace-by-clone3", || {
        done(clone3_with(u64::try_from(libc::CLONE_NEWUSER).unwrap_or(0)))
    }),
    ("processes-of-others", processes),
    ("proc-root-walk", || same_root("/proc/1/root/../../..")),
    ("chroot-walk", chroot_walk),
    ("descriptors-of-the-host", descriptors),
    ("module-load", || raw(libc::SYS_init_module, [0; 6])),
    ("module-load-by-file", || {
        raw(libc::SYS_finit_module, [99, 0, 0, 0, 0, 0])
    }),
    ("module-unload", || {
        raw(libc::SYS_delete_module, [c"none".as_ptr().addr(), 0, 0, 0, 0, 0])
    }),
    ("kexec", || raw(libc::SYS_kexec_load, [0; 6])),
    ("kexec-by-file", || {
        raw(libc::SYS_kexec_file_load, [99, 99, 0, 0, 0, 0])
    }),
    // Takes Ctrl-Alt-Del away from the host, which does no harm here.
    ("reboot", || {
        raw(libc::SYS_reboot, [0xfee1_dead, 672_274_793, 0, 0, 0, 0])
    }),
    ("clock-set", clock_set),
    ("clock-adjust", clock_adjust),
    ("bpf", || raw(libc::SYS_bpf, [0, 0, 0, 0, 0, 0])),
    ("perf-event", perf_event),
    ("open-by-handle", || raw(libc::SYS_open_by_handle_at, [0; 6])),
    ("userfaultfd", || raw(libc::SYS_userfaultfd, [1, 0, 0, 0, 0, 0])),
    ("io-uring", || raw(libc::SYS_io_uring_setup, [1, 0, 0, 0, 0, 0])),
    ("keyring-of-the-user", || {
        // KEYCTL_GET_KEYRING_ID of KEY_SPEC_USER_KEYRING: every root without a user namespace has the same one.
        raw(libc::SYS_keyctl, [0, usize::MAX - 3, 1, 0, 0, 0])
    }),
    ("key-add", || {
        raw(
            libc::SYS_add_key,
            [
                c"user".as_ptr().addr(),
                c"x".as_ptr().addr(),
                c"x".as_ptr().addr(),
                1,
                usize::MAX - 3,
                0,
            ],
        )
    }),
    ("kernel-log", || raw(libc::SYS_syslog, [10, 0, 0, 0, 0, 0])),
    ("kernel-memory", || read_from("/proc/kcore")),
    ("io-ports", || raw(libc::SYS_iopl, [3, 0, 0, 0, 0, 0])),
    ("accounting", || raw(libc::SYS_acct, [0; 6])),
    ("swap-off", || {
        raw(libc::SYS_swapoff, [c"/none".as_ptr().addr(), 0, 0, 0, 0, 0])
    }),
    ("vsock", || raw(libc::SYS_socket, [40, 1, 0, 0, 0, 0])),
    ("abstract-socket-of-the-host", abstract_socket),
    ("interfaces-of-the-host", interfaces),
    ("uevent-forged", forged_uevent),
    ("priority", || {
        raw(libc::SYS_setpriority, [0, 0, usize::MAX - 9, 0, 0, 0])
    }),
    ("out-of-memory-immunity", || {
        write_to("/proc/self/oom_score_adj", b"-1000")
    }),
    ("limits", raise_limit),
    ("disk-project-of-a-file", disk::project_of_a_file),
    ("disk-project-not-inherited", disk::project_not_inherited),
    ("disk-project-by-call", disk::project_by_call),
    ("disk-subvolume", disk::subvolume),
];

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["all"] => all(),
        ["listen", name] => listen(name),
        ["overwrite", until] => overwrite(Path::new(until)),
        [way] => one(way),
        _ => Err(io::Error::other(
            "usage: attack all|WAY|listen NAME|overwrite FILE",
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nowhere else to say it.
            writeln!(io::stderr(), "attack: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

pub(crate) fn say(line: impl std::fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Each in a process of its own, so that none changes what the next one finds.
fn all() -> io::Result<()> {
    fs::create_dir_all("/tmp/m")?;
    for (way, _) in WAYS {
        let status = Command::new("/proc/self/exe").arg(way).status()?;
        if !status.success() {
            say(format!("{way}\tended: {status}"))?;
        }
    }
    say("end")
}

fn one(wanted: &str) -> io::Result<()> {
    let (way, run) = WAYS
        .iter()
        .find(|(way, _)| *way == wanted)
        .ok_or_else(|| io::Error::other("no such way"))?;
    match run() {
        Ok(what) => say(format!("{way}\tSUCCEEDED: {what}")),
        Err(why) => say(format!("{way}\trefused: {why}")),
    }
}
