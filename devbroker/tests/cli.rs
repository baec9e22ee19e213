//! The built program against a daemon with fixed answers: what it prints, what it asks, how it ends.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test's own helpers may fail"
)]

mod served;

use devbroker::api::{
    AddAliasReply, ApiError, AttachPidReply, AttachReply, DetachReply, EventKind, EventLog, EventView,
    ListAliasesReply, ListContainersReply, ListDevicesReply, ListEventsReply, ListGrantsReply, NotFoundKind,
    PlanReply, ReloadReply, Reply, Request, StatusView, WhyReply,
};
use devbroker::server::{Call, Limits};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use served::Served;
use std::process::{Command, Stdio};
use std::sync::mpsc as std_mpsc;
use tokio::sync::mpsc;

struct Fake {
    served: Served,
    requests: std_mpsc::Receiver<Request>,
}

impl Fake {
    fn start() -> Self {
        let (heard, requests) = std_mpsc::channel();
        let served = Served::start(Limits::default(), |calls| own(calls, heard));
        Self { served, requests }
    }

    /// Exit code, output, error output.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.command(arguments).output().unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_devbroker"));
        command.arg("--socket").arg(self.served.path());
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// What a command prints that must succeed.
    fn prints(&self, arguments: &[&str], name: &str) {
        let (code, out, err) = self.run(arguments);
        assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}");
        golden(name, &out);
    }

    fn request(&self) -> Request {
        self.requests.recv().unwrap()
    }
}

/// Compares with `tests/cli/<name>.txt`; `BLESS=1` writes it instead, to be read before it is committed.
fn golden(name: &str, out: &str) {
    let path = format!("{}/tests/cli/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, out).unwrap();
    }
    assert_eq!(out, std::fs::read_to_string(&path).unwrap(), "{path}");
}

async fn own(mut calls: mpsc::Receiver<Call>, heard: std_mpsc::Sender<Request>) {
    let mut log = EventLog::default();
    for view in events() {
        log.publish(view);
    }
    while let Some(call) = calls.recv().await {
        heard.send(call.request.clone()).unwrap();
        call.reply.send(answer(call.request, &log));
    }
}

fn answer(request: Request, log: &EventLog) -> Result<Reply, ApiError> {
    fn of<T: DeserializeOwned + Into<Reply>>(value: Value) -> Reply {
        serde_json::from_value::<T>(value).unwrap().into()
    }
    match request {
        Request::GetStatus(_) => Ok(of::<StatusView>(status())),
        Request::ListDevices(_) => Ok(of::<ListDevicesReply>(json!({"devices": [printer(), memory()]}))),
        Request::ListAliases(_) => Ok(of::<ListAliasesReply>(json!({"aliases": aliases()}))),
        Request::ListGrants(_) => Ok(of::<ListGrantsReply>(json!({"grants": [grant()]}))),
        Request::ListContainers(_) => Ok(of::<ListContainersReply>(json!({"containers": containers()}))),
        Request::ListEvents(list) => {
            let events = log
                .recent(list.limit.unwrap())
                .iter()
                .map(|event| (**event).clone())
                .collect();
            Ok(ListEventsReply { events }.into())
        }
        Request::Monitor(monitor) => Ok(log.subscribe(monitor.recent.unwrap_or(0)).into()),
        Request::Why(_) => Ok(of::<WhyReply>(why())),
        Request::Plan(_) => Ok(of::<PlanReply>(plan())),
        Request::Reload(_) => Ok(of::<ReloadReply>(json!({"problems": [problem()]}))),
        Request::AddAlias(add) => Ok(of::<AddAliasReply>(json!({
            "matches": "{ serial = \"A10K\" }", "file": "/etc/devbroker/conf.d/50-local.toml",
            "text": format!("\n[alias.{}]\nmatch = {{ serial = \"A10K\" }}\n", add.name),
            "nodes": ["ttyUSB0"], "notes": ["another device has the same ids"],
        }))),
        Request::Attach(attach) => match attach.alias.as_str() {
            "gone" => Err(ApiError::not_found(
                NotFoundKind::Alias,
                "gone",
                "no alias `gone`; see `devbroker aliases`",
            )),
            "mine" => Err(ApiError::refused("the filter belongs to podman")),
            "slow" => Err(ApiError::TimedOut {
                message: "the worker does not answer".into(),
            }),
            "secret" => Err(ApiError::PermissionDenied {}),
            _ => Ok(of::<AttachReply>(json!({
                "container": "ctm:office", "nodes": [placed()], "file": "/run/devbroker/conf.d/run-time.toml",
                "notes": ["no user `printer` inside: root owns it"],
            }))),
        },
        Request::AttachPid(_) => Ok(of::<AttachPidReply>(json!({
            "container": "pid:42", "nodes": [], "file": "/run/devbroker/conf.d/run-time.toml", "notes": [],
        }))),
        Request::Detach(_) => Ok(of::<DetachReply>(json!({
            "nodes": [placed()], "notes": [],
            "holders": [{"pid": 77, "command": "cupsd", "devnum": "c180:0"}],
        }))),
        _ => Err(ApiError::failed("not in this test")),
    }
}

fn problem() -> Value {
    json!({
        "severity": "error", "file": "/etc/devbroker/conf.d/x.toml", "line": 2, "column": 11,
        "message": "unknown key `vendr`",
        "text": "/etc/devbroker/conf.d/x.toml:2:11: error: unknown key `vendr`\n   |\n 2 | match = { vendr = 1 }\n   |           ^^^^^",
    })
}

fn status() -> Value {
    json!({
        "version": "0.1.0", "pid": 123, "uptime": 7384, "settled": true, "monitor": true, "devices": 2, "nodes": 3,
        "aliases": 2, "aliases_present": 1, "grants": 1, "containers": 2, "placed": 1, "failed": 1, "events": 77,
        "events_lost": 0, "clients": 0, "problems": [problem()],
        "troubles": ["permissions set inside ctm:a are not kept: no space\u{1b} left"],
        "files": [
            {"path": "/etc/devbroker/conf.d/a.toml", "state": "ok"},
            {"path": "/etc/devbroker/conf.d/x.toml", "state": "last_good"},
        ],
    })
}

fn printer() -> Value {
    json!({
        "syspath": "/devices/pci0000:00/0000:00:14.0/usb1/1-2", "subsystem": "usb", "vendor": "03f0", "product": "4117",
        "title": "HP LaserJet\u{1b}[2J 1018", "serial": "KP1", "port": "0000:00:14.0/2",
        "nodes": [
            {"devnum": "c189:1", "devname": "bus/usb/001/002", "subsystem": "usb", "driver": "usb", "links": [],
             "syspath": "/devices/pci0000:00/0000:00:14.0/usb1/1-2",
             "aliases": [{"alias": "laser", "role": "usb_device"}], "containers": []},
            {"devnum": "c180:0", "devname": "usb/lp0", "subsystem": "usbmisc", "driver": "usblp", "links": [],
             "syspath": "/devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/usbmisc/lp0",
             "aliases": [{"alias": "laser", "role": "usbmisc@if00"}], "containers": ["ctm:office"]},
        ],
    })
}

fn memory() -> Value {
    json!({
        "syspath": "/devices/virtual/mem/null", "subsystem": "mem",
        "nodes": [{"devnum": "c1:3", "devname": "null", "subsystem": "mem", "links": [],
                   "syspath": "/devices/virtual/mem/null", "aliases": [], "containers": []}],
    })
}

fn aliases() -> Value {
    let other = json!({"syspath": "/devices/pci0000:00/0000:00:14.0/usb1/1-3", "port": "0000:00:14.0/3"});
    json!([
        {"name": "laser", "matches": "{ vendor = \"03f0\" }", "state": "present",
         "origin": {"file": "/etc/devbroker/conf.d/a.toml", "line": 1},
         "device": {"syspath": "/devices/pci0000:00/0000:00:14.0/usb1/1-2", "port": "0000:00:14.0/2", "serial": "KP1"},
         "ambiguous": [other], "advice": "add `port` or `serial`",
         "nodes": [
            {"role": "usbmisc@if00", "devname": "usb/lp0", "devnum": "c180:0", "primary": true},
            {"role": "usb_device", "devname": "bus/usb/001/002", "devnum": "c189:1", "primary": false},
         ],
         "granted_to": ["ctm:office", "ctm:lab-*"]},
        {"name": "tv", "matches": "udev rule", "state": "absent", "ambiguous": [], "nodes": [], "granted_to": []},
    ])
}

fn grant() -> Value {
    json!({
        "alias": "laser", "container": "ctm:office", "access": "rw", "path": "printer", "group": "lp", "mode": "0660",
        "run_time": false, "suspended": ["ctm:office"], "applies_to": [],
        "origin": {"file": "/etc/devbroker/conf.d/a.toml", "line": 4},
    })
}

fn placed() -> Value {
    json!({
        "alias": "laser", "role": "usbmisc@if00", "path": "usb/lp0", "devnum": "c180:0", "access": "rw",
        "links": ["printer"], "uid": 0, "gid": 7, "mode": "0660", "state": "placed",
    })
}

fn containers() -> Value {
    let mut failed = placed();
    failed["path"] = json!("bus/usb/001/002");
    failed["state"] = json!("failed");
    failed["problem"] = json!("no space left; tried again in 4 s");
    failed["links"] = json!([]);
    json!([
        {"container": "ctm:office", "owner": 0, "instance": "0123456789abcdef", "pid": 4711, "state": "running",
         "confined": true, "user_namespace": true, "nodes": [placed(), failed], "problems": []},
        {"container": "pid:99", "owner": 1000, "instance": "0123456789abcde0", "pid": 99, "state": "stuck",
         "confined": false, "user_namespace": false, "nodes": [],
         "problems": ["it has CAP_SYS_ADMIN and can take its filter off"]},
    ])
}

fn events() -> [EventView; 2] {
    let mut plugged = EventView::new(EventKind::DevicePlugged, "usb 03f0:4117 at port 0000:00:14.0/2");
    plugged.time = 1_795_413_600_000_000;
    let mut placed = EventView::new(EventKind::NodePlaced, "/dev/usb/lp0 in ctm:office");
    placed.time = 1_795_413_600_000_345;
    placed.after = Some(345);
    [plugged, placed]
}

fn why() -> Value {
    json!({
        "subject": "device", "name": "/dev/usb/lp0", "summary": "it is in ctm:office",
        "device": printer(),
        "matches": [
            {"alias": "laser", "origin": {"file": "/etc/devbroker/conf.d/a.toml", "line": 2}, "devname": "usb/lp0",
             "matched": true, "role": "usbmisc@if00", "keys": [
                {"key": "vendor", "expected": "03f0", "found": "03f0", "matched": true}]},
            {"alias": "other", "origin": {"file": "/etc/devbroker/conf.d/b.toml", "line": 9}, "devname": "usb/lp0",
             "matched": false, "keys": [
                {"key": "vendor", "expected": "03f0", "found": "03f0", "matched": true},
                {"key": "serial", "expected": "KP2", "found": "KP1", "matched": false},
                {"key": "property.X", "expected": "1", "matched": false}]},
        ],
        "grants": [{"grant": grant(), "applies": false, "reason": "detached"}],
        "done": [{"container": "ctm:office", "node": placed(), "because": "group and mode by the grant, owner as on the host"}],
        "failed": [
            {"container": "ctm:office", "action": "place /dev/bus/usb/001/002", "error": "no space left on device",
             "attempts": 3, "retry": 4000},
            {"action": "link /dev/devbroker/laser", "error": "read-only file system", "attempts": 1},
        ],
        "next": [{"container": "ctm:office", "action": "place /dev/bus/usb/001/002", "when": "in 4 s"}],
        "notes": ["group `lp` is 7 inside"],
    })
}

fn plan() -> Value {
    json!({"plans": [
        {"actions": [{"text": "link /dev/devbroker/laser to usb/lp0", "action": {"link": "laser"}}]},
        {"container": "ctm:office", "actions": [
            {"text": "allow c180:0 rw", "action": {"allow": "c180:0"}},
            {"text": "place /dev/usb/lp0", "action": {"place": "usb/lp0"}}]},
    ]})
}

#[test]
fn lists() {
    let fake = Fake::start();
    fake.prints(&["status"], "status");
    fake.prints(&["devices"], "devices");
    fake.prints(&["devices", "--all"], "devices-all");
    fake.prints(&["aliases"], "aliases");
    fake.prints(&["grants"], "grants");
    fake.prints(&["containers"], "containers");
    fake.prints(&["containers", "office"], "containers-office");
    fake.prints(&["events"], "events");
    fake.prints(&["why", "/dev/usb/lp0"], "why");
    fake.prints(&["plan"], "plan");
}

#[test]
fn json_is_the_reply_as_it_came() {
    let fake = Fake::start();
    let mut here = status();
    here["clients"] = json!(1);
    for (arguments, expected) in [
        (&["status"][..], here),
        (&["devices"], json!({"devices": [printer(), memory()]})),
        (&["aliases"], json!({"aliases": aliases()})),
        (&["grants"], json!({"grants": [grant()]})),
        (&["containers"], json!({"containers": containers()})),
        (
            &["containers", "pid:99"],
            json!({"containers": [containers()[1]]}),
        ),
        (&["why", "laser"], why()),
        (&["plan", "office"], plan()),
    ] {
        let (code, out, err) = fake.run(&[&["--json"], arguments].concat());
        assert_eq!((code, err.as_str()), (0, ""));
        assert_eq!(
            serde_json::from_str::<Value>(&out).unwrap(),
            expected,
            "{arguments:?}"
        );
    }
}

#[test]
fn changes_ask_for_what_was_said() {
    let fake = Fake::start();
    fake.prints(
        &[
            "attach",
            "laser",
            "office",
            "--path",
            "printer",
            "--group=lp",
            "--mode",
            "0660",
            "--save",
        ],
        "attach",
    );
    let attach = match fake.request() {
        Request::Attach(attach) => serde_json::to_value(attach).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        attach,
        json!({"alias": "laser", "container": "ctm:office", "path": "printer", "group": "lp", "mode": "0660", "save": true})
    );
    fake.prints(&["attach", "laser", "--pid", "42", "--access", "r"], "attach-pid");
    let attach = match fake.request() {
        Request::AttachPid(attach) => serde_json::to_value(attach).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(attach, json!({"alias": "laser", "pid": 42, "access": "r"}));
    fake.prints(&["detach", "laser", "ctm:office"], "detach");
    fake.prints(&["alias", "add", "stick", "/dev/ttyUSB0"], "alias-add");
    let (code, out, _) = fake.run(&["alias", "add", "-n", "stick", "ttyUSB0", "--json"]);
    assert_eq!(code, 0);
    assert_eq!(
        serde_json::from_str::<Value>(&out).unwrap()["nodes"],
        json!(["ttyUSB0"])
    );
}

#[test]
fn how_it_ends() {
    let fake = Fake::start();
    for (arguments, code, said) in [
        (
            &["attach", "gone", "office"][..],
            5,
            "devbroker: no alias `gone`; see `devbroker aliases`\n",
        ),
        (
            &["attach", "mine", "office"],
            1,
            "devbroker: the filter belongs to podman\n",
        ),
        (
            &["attach", "slow", "office"],
            6,
            "devbroker: the worker does not answer\n",
        ),
        (
            &["attach", "secret", "office"],
            4,
            "devbroker: permission denied: changes are root's; group devbroker may only look\n",
        ),
        (
            &["containers", "ctm:nobody"],
            5,
            "devbroker: the daemon knows no container ctm:nobody; `devbroker containers` lists those it knows\n",
        ),
    ] {
        let (got, out, err) = fake.run(arguments);
        assert_eq!((got, out.as_str(), err.as_str()), (code, "", said));
    }
    let (code, out, err) = fake.run(&["reload"]);
    assert_eq!(code, 1);
    golden("reload", &out);
    assert!(err.contains("not in force"), "{err}");
    for wrong in [
        &["attach", "laser"][..],
        &["attach", "../x", "office"],
        &["attach", "laser", "vm:office"],
        &["attach", "laser", "office", "--pid", "1"],
        &["attach", "laser", "--pid", "0"],
        &["attach", "laser", "office", "--access", "x"],
        &["attach", "laser", "office", "--path", "../etc"],
        &["explode"],
        &[],
    ] {
        let (code, _, err) = fake.run(wrong);
        assert_eq!(code, 2, "{wrong:?}: {err}");
    }
    let nobody = fake.served.folder().join("nobody");
    let output = Command::new(env!("CARGO_BIN_EXE_devbroker"))
        .arg("status")
        .arg("--socket")
        .arg(&nobody)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        said,
        format!(
            "devbroker: the daemon is not running: nobody answers at {}; start it with `systemctl start devbroker`, or `devbroker daemon` in the foreground\n",
            nobody.display()
        )
    );
}

#[test]
fn following_ends_with_the_daemon() {
    use std::io::{BufRead, BufReader};
    let fake = Fake::start();
    let mut text = fake
        .command(&["events", "-f"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut data = fake
        .command(&["events", "-f", "-n", "1", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(text.stdout.take().unwrap()).lines();
    for expected in include_str!("cli/events.txt").lines() {
        assert_eq!(lines.next().unwrap().unwrap(), expected);
    }
    let mut items = BufReader::new(data.stdout.take().unwrap()).lines();
    let item: Value = serde_json::from_str(&items.next().unwrap().unwrap()).unwrap();
    assert_eq!(
        (&item["event"]["seq"], &item["event"]["after"]),
        (&json!(2), &json!(345))
    );
    drop(fake);
    assert!(lines.next().is_none());
    assert!(items.next().is_none());
    assert_eq!(text.wait().unwrap().code(), Some(1));
    assert_eq!(data.wait().unwrap().code(), Some(1));
}

#[test]
fn a_reader_that_hangs_up_ends_the_command_in_silence() {
    let fake = Fake::start();
    let mut child = fake
        .command(&["devices", "--all", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn completions_are_made() {
    let fake = Fake::start();
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = fake.run(&["completions", shell]);
        assert!(
            code == 0 && out.contains("devbroker") && out.contains("attach"),
            "{shell}"
        );
    }
}

#[test]
fn check_tells_every_fault_without_a_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let check = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_devbroker"))
            .current_dir(folder.path())
            .arg("check")
            .args(arguments)
            .output()
            .unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let write = |name: &str, text: &[u8]| std::fs::write(folder.path().join(name), text).unwrap();
    write("good.toml", b"[alias.stick]\nmatch = { serial = \"A10K\" }\n");
    write(
        "more.toml",
        b"[[grant]]\nalias = \"stick\"\ncontainer = \"ctm:lab\"\npath = \"modem\"\n",
    );
    write(
        "bad.toml",
        b"[alias.stick]\nmatch = { vendr = \"04b8\" }\n\n[[grant]]\ncontainer = \"ctm:lab\"\npath = \"../etc/passwd\"\nmode = 7\n",
    );
    write("dup.toml", b"[alias.stick]\nmatch = { serial = \"B\" }\n");
    write("binary.toml", b"\xff\xfe[alias.x]\n");
    write("huge.toml", &b"# x\n".repeat(2_600_000));
    write("notes.txt", b"not looked at");

    assert_eq!(
        check(&["good.toml", "more.toml"]),
        (0, "2 files without a fault\n".into(), String::new())
    );
    let (code, out, err) = check(&["bad.toml"]);
    assert_eq!((code, err.contains("in the configuration")), (1, true), "{err}");
    golden("check-bad", &out);
    // Of a folder all; faults between files too.
    let (code, out, _) = check(&["."]);
    assert_eq!(code, 1);
    for part in [
        "./bad.toml:2:11: error: ",
        "./binary.toml:1:",
        "./huge.toml: error: the file has 10400000 bytes, more than 1048576",
        "./good.toml:1:1: error: alias `stick` is already at ./dup.toml:1",
    ] {
        assert!(out.contains(part), "{part} in:\n{out}");
    }
    assert!(!out.contains("notes.txt"));
    let (code, out, _) = check(&["absent.toml"]);
    assert!(
        code == 1 && out.contains("absent.toml: error: cannot read the file: No such file"),
        "{out}"
    );
    let (code, out, _) = check(&["--json", "bad.toml", "good.toml"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 1);
    assert_eq!(
        (&report["files"][0]["state"], &report["files"][1]["state"]),
        (&json!("broken"), &json!("ok"))
    );
    assert_eq!(report["problems"][0]["line"], 2);
}
