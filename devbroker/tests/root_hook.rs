//! The hook as a real udevd runs it, from the packaged rules. Needs root and loop-control; where no udevd runs, one is started
//! and stopped again.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod host_devices;

use devbroker::host::event::{Action, HostEvent, Source};
use devbroker::host::hook::{HookMessage, HookSocket};
use devbroker::host::monitor::{RECEIVE_BUFFER, UdevMonitor};
use devbroker::host::sysfs::Reader;
use host_devices::{Loop, Udevd, reload_rules, wait_readable};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const HOOK: &str = env!("CARGO_BIN_EXE_devbroker-hook");
const HOOK_ONLY: &str = include_str!("../../rules/examples/99-devbroker-hook.rules");
const PACKAGED: &str = include_str!("../../rules/99-devbroker.rules");

/// Rules of this test, gone at its end.
struct Rules(PathBuf);

impl Rules {
    fn new(name: &str, text: &str) -> Self {
        fs::create_dir_all("/run/udev/rules.d").unwrap();
        let path = Path::new("/run/udev/rules.d").join(format!("{name}-{}.rules", std::process::id()));
        fs::write(&path, text).unwrap();
        reload_rules();
        Self(path)
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
        reload_rules();
    }
}

/// The next message about this device.
fn message(socket: &mut HookSocket, device: &Loop) -> HookMessage {
    loop {
        match socket.next_message().unwrap() {
            Some(message) => {
                let about = match &message.event {
                    HostEvent::Changed(changed) => &changed.syspath,
                    HostEvent::Removed(removed) => &removed.syspath,
                    HostEvent::Lost => panic!("messages were lost"),
                };
                if about.as_str() == device.devpath() {
                    return message;
                }
            }
            None => wait_readable(&[socket]),
        }
    }
}

#[test]
fn the_hook_alone_carries_what_udev_knows() {
    let _udevd = Udevd::get();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hook");
    let mut socket = HookSocket::listen(&path).unwrap();
    let mut monitor = UdevMonitor::open(RECEIVE_BUFFER).unwrap();
    let device = Loop::reserve(0);
    let told = format!("{HOOK} --socket {}", path.display());
    assert!(HOOK_ONLY.contains("RUN+=\"/usr/lib/devbroker/hook\""));
    let _hook_only = Rules::new(
        "99-hook",
        &HOOK_ONLY.replace("RUN+=\"/usr/lib/devbroker/hook\"", &format!("RUN+=\"{told}\"")),
    );
    let _alias = Rules::new(
        "90-alias",
        &format!(
            "ACTION==\"add\", KERNEL==\"{}\", ENV{{DEVBROKER_ALIAS}}=\"mine\"\n",
            device.name()
        ),
    );
    let _packaged = Rules::new("99-packaged", PACKAGED);

    device.add();
    let HookMessage {
        event: HostEvent::Changed(added),
        container: None,
    } = message(&mut socket, &device)
    else {
        panic!("no add");
    };
    assert_eq!((added.action, added.from), (Action::Add, Source::Hook));
    let mut reader = Reader::new(BTreeSet::new());
    let node = reader
        .read(&added.syspath, Some(&mut added.clone()))
        .unwrap()
        .unwrap();
    assert_eq!(
        node.properties.get("DEVBROKER_ALIAS").map(String::as_str),
        Some("mine")
    );
    assert!(
        node.properties
            .get("TAGS")
            .is_some_and(|tags| tags.contains(":devbroker:"))
    );
    // The hook's word is the broadcast's.
    let broadcast = loop {
        match monitor.next_event().unwrap() {
            Some(HostEvent::Changed(changed)) if changed.syspath == added.syspath => break changed,
            Some(_) => {}
            None => wait_readable(&[&monitor]),
        }
    };
    assert_eq!(broadcast.seqnum, added.seqnum);
    assert_eq!(
        reader.read(&added.syspath, Some(&mut broadcast.clone())).unwrap(),
        Some(node.clone())
    );
    // udev has forgotten what was said at the add alone.
    device.change();
    let HookMessage {
        event: HostEvent::Changed(changed),
        ..
    } = message(&mut socket, &device)
    else {
        panic!("no change");
    };
    assert_eq!(changed.properties.get("DEVBROKER_ALIAS"), None);
    device.remove();
    let HookMessage {
        event: HostEvent::Removed(removed),
        ..
    } = message(&mut socket, &device)
    else {
        panic!("no removal");
    };
    assert_eq!((removed.devnum, removed.from), (node.devnum, Source::Hook));
    assert!(removed.seqnum > added.seqnum);
}

#[test]
fn a_rule_may_name_a_container_and_so_may_the_programs_name() {
    let _udevd = Udevd::get();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hook");
    let mut socket = HookSocket::listen(&path).unwrap();
    let device = Loop::reserve(1);
    let link = folder.path().join("scan.dev");
    std::os::unix::fs::symlink(HOOK, &link).unwrap();
    let text = format!(
        "ACTION==\"add\", KERNEL==\"{name}\", RUN+=\"{HOOK} --socket {socket} printing\", RUN+=\"{link} --socket {socket}\"\n",
        name = device.name(),
        socket = path.display(),
        link = link.display()
    );
    let _rules = Rules::new("90-named", &text);
    device.add();
    let named: Vec<_> = (0..2)
        .map(|_| message(&mut socket, &device).container.unwrap().unwrap())
        .collect();
    assert_eq!(named, ["printing".parse().unwrap(), "scan".parse().unwrap()]);
}

#[test]
fn without_a_daemon_the_hook_succeeds_and_says_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = folder.path().join("hook");
    let stale = folder.path().join("stale");
    drop(HookSocket::listen(&stale).unwrap());
    for socket in [&nobody, &stale] {
        let output = Command::new(HOOK)
            .arg("--socket")
            .arg(socket)
            .env_clear()
            .env("ACTION", "add")
            .output()
            .unwrap();
        assert!(output.status.success());
        assert_eq!((output.stdout, output.stderr), (vec![], vec![]));
    }
    assert!(!folder.path().join("hook.overflow").exists());
}
