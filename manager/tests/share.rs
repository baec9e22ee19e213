//! What divides a host, and profiles, by files below a folder of their own: needs no root.

#![expect(clippy::unwrap_used, reason = "what fails in a test panics")]

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Definitions and profiles below a folder.
struct System(tempfile::TempDir);

impl System {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.path().join(path)).unwrap()
    }

    /// Runs ctm on these files; answers with its code, and what it said, where the folder is called ROOT.
    fn ctm(&self, line: &str) -> (i32, String) {
        let root = self.0.path().to_str().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_ctm"))
            .args(line.split(' '))
            .args(["--root", root])
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (output.status.code().unwrap(), said.concat().replace(root, "ROOT"))
    }

    #[track_caller]
    fn done(&self, line: &str) -> String {
        let (code, said) = self.ctm(line);
        assert_eq!(code, 0, "{line}: {said}");
        said
    }

    #[track_caller]
    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.done(&format!("{line} --json"))).unwrap()
    }
}

const MIB: u64 = 1 << 20;

/// The host of the 2008 article, whose author gave 48 MiB to each of his fifty.
#[test]
fn fifty_containers_on_three_gibibytes() {
    let system = System::new();
    let said = system.json("split -n 50 --host memory=3G,cpus=2,disk=200G");
    let number = |path: &str| said.pointer(path).and_then(Value::as_u64).unwrap();
    let guarantee = number("/container/memory/guarantee");
    let reserve = number("/host/reserve");
    assert!(guarantee >= 48 * MIB && reserve > 0, "{said}");
    assert!(50 * guarantee + reserve <= 3072 * MIB, "{said}");
    assert!(number("/container/memory/limit") + reserve <= 3072 * MIB);
    assert!(!system.0.path().join("etc").exists());

    let said = system.done("split -n 50 --host memory=3G,cpus=2,disk=200G");
    for line in [
        "50 containers on a host with 3.0G of memory: usual, at most 145 fit",
        "memory_guarantee       50M     2.4G",
        "cpu_weight             100     4% of a processor each",
        "left for the host: 322M of memory, 2476 processes, 10G of disk",
    ] {
        assert!(said.lines().any(|said| said == line), "{line}\n{said}");
    }
    let (code, said) = system.ctm("split -n 146 --host memory=3G");
    assert_eq!(
        (code, said.as_str()),
        (
            6,
            "ctm: 146 containers do not fit: each would have 15M of guaranteed memory, and cannot live with less than \
             16M; at most 145 fit\n"
        )
    );
    system.done("split -n 145 --host memory=3G");
}

#[test]
fn a_division_as_it_is_wished() {
    let system = System::new();
    let memory = |options: &str| {
        let said = system.json(&format!("split -n 10 --host memory=4G {options}"));
        let of = |path: &str| said.pointer(path).and_then(Value::as_u64).unwrap() / MIB;
        [
            of("/host/reserve"),
            of("/container/memory/soft_guarantee"),
            of("/container/memory/limit"),
            of("/container/swap"),
        ]
    };
    assert_eq!(memory("--overcommit 1"), [276, 382, 382, 0]);
    assert_eq!(memory("--overcommit 150%"), [276, 382, 573, 0]);
    assert_eq!(memory("--reserve 1G --overcommit 1"), [1024, 307, 307, 0]);
    assert_eq!(memory("--reserve 50% --overcommit 2"), [2048, 204, 409, 0]);
    assert_eq!(memory("--swap 2G --overcommit 1"), [276, 382, 382, 204]);
    for (line, part) in [
        ("-n 0", "0 is not in 1.."),
        ("-n 1 --host cpus=2", "how much memory it has must be said"),
        (
            "-n 1 --host memory=4G,swap=1G --swap 2G",
            "there is 1.0G of swap, and 2.0G",
        ),
        (
            "-n 1 --host memory=4G --overcommit 0.5",
            "--overcommit is 1 or more",
        ),
        (
            "-n 1 --host memory=4G --reserve 4G",
            "not even one container fits",
        ),
        ("-n 1 --host memory=4G --reserve unlimited", "has none to divide"),
        ("-n 1 --reserve 4X", "is no size"),
    ] {
        let (code, said) = system.ctm(&format!("split {line}"));
        assert!(code != 0 && said.contains(part), "{line}: {said}");
    }
    // This machine, whatever it is.
    assert!(system.json("split -n 1 --reserve 0")["host"]["memory"].as_u64() > Some(0));
}

#[test]
fn a_division_becomes_a_profile() {
    let system = System::new();
    let split = "split -n 50 --host memory=3G --profile fifty";
    assert!(
        system
            .done(split)
            .contains("written into ROOT/etc/ctm/profiles/fifty.toml")
    );
    assert_eq!(
        system.done("profile show fifty"),
        "memory_guarantee = \"50M\"       # ROOT/etc/ctm/profiles/fifty.toml:3\n\
         memory_soft_guarantee = \"55M\"  # ROOT/etc/ctm/profiles/fifty.toml:5\n\
         memory_barrier = \"100M\"        # ROOT/etc/ctm/profiles/fifty.toml:7\n\
         memory_limit = \"111M\"          # ROOT/etc/ctm/profiles/fifty.toml:9\n\
         swap_limit = \"0\"               # ROOT/etc/ctm/profiles/fifty.toml:11\n\
         processes = 442                # ROOT/etc/ctm/profiles/fifty.toml:13\n\
         cpu_weight = 100               # ROOT/etc/ctm/profiles/fifty.toml:15\n"
    );
    assert_eq!(
        system.ctm(split),
        (
            44,
            "ctm: ROOT/etc/ctm/profiles/fifty.toml exists already; --replace replaces it\n".into()
        )
    );
    system.done("split -n 20 --host memory=3G --profile fifty --replace");
    assert!(
        system
            .done("profile show fifty")
            .contains("memory_guarantee = \"127M\"")
    );
}

const OWN: &str = "# mine\nuserns = false\nhostname = \"web.example\"\ndescription = \"shop\"\n\
    rootfs = \"/srv/web\"\ninit = [\"/sbin/init\"] # stays\nmemory_limit = \"1G\" # goes\ncpu_weight = 300\n";

#[test]
fn a_profile_is_applied_and_keeps_who_a_container_is() {
    let system = System::new();
    system.write("etc/ctm/containers/web.toml", OWN);
    assert_eq!(
        system.done("profile create small memory_limit=512M processes=200 memory_guarantee=48M"),
        "ROOT/etc/ctm/profiles/small.toml\n"
    );
    let (code, said) = system.ctm("profile apply web small");
    assert_eq!(
        (code, said.as_str()),
        (
            0,
            "memory_guarantee: \"0\" -> \"48M\"\nmemory_limit: \"1G\" -> \"512M\"\nprocesses: \"unlimited\" -> 200\n\
             profile: \"\" -> \"small\"\nweb keeps of its own what small does not say: init, cpu_weight\n"
        )
    );
    assert_eq!(
        system.read("etc/ctm/containers/web.toml"),
        OWN.replace("memory_limit = \"1G\" # goes\n", "") + "profile = \"small\"\n"
    );
    assert!(
        system
            .done("profile apply web small")
            .starts_with("nothing is to be changed\n")
    );

    // Where each value is from.
    let config = system.done("config web");
    let from = |key: &str| {
        let line = config.lines().find(|line| line.starts_with(&format!("{key} =")));
        line.and_then(|line| line.split_once("  # "))
            .unwrap()
            .1
            .to_owned()
    };
    assert_eq!(from("hostname"), "ROOT/etc/ctm/containers/web.toml:3");
    assert_eq!(from("cpu_weight"), "ROOT/etc/ctm/containers/web.toml:7");
    assert_eq!(from("memory_limit"), "ROOT/etc/ctm/profiles/small.toml:5");
    assert_eq!(from("processes"), "ROOT/etc/ctm/profiles/small.toml:7");
    assert_eq!(from("swap_limit"), "usual");

    system.write("etc/ctm/profiles/broken.toml", "hostname = \"x\"\n");
    assert_eq!(
        system.done("profile list"),
        "PROFILE  KEYS                                       CONTAINERS\n\
         broken   has faults, see `ctm profile show broken`  -\n\
         small    3                                          web\n"
    );
    let listed = system.json("profile list");
    assert_eq!(listed[1]["containers"], serde_json::json!(["web"]));
    assert_eq!(listed[1]["keys"], 3);

    // A profile that is none changes nothing.
    let before = system.read("etc/ctm/containers/web.toml");
    let (code, said) = system.ctm("profile apply web broken");
    assert!(
        code == 1 && said.contains("broken.toml:1:1: error: a profile cannot say `hostname`"),
        "{said}"
    );
    assert_eq!(
        system.ctm("profile apply web none"),
        (
            109,
            "ctm: there is no profile none; `ctm profile list` shows those that there are\n".into()
        )
    );
    assert_eq!(system.ctm("profile apply none small").0, 14);
    assert_eq!(system.read("etc/ctm/containers/web.toml"), before);
}

#[test]
fn a_profile_from_a_container() {
    let system = System::new();
    system.write("etc/ctm/containers/web.toml", OWN);
    system.done("profile create like-web --from web cpu_weight=50 swap_limit=0");
    let said: Vec<String> = system
        .read("etc/ctm/profiles/like-web.toml")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(String::from)
        .collect();
    assert_eq!(
        said,
        [
            "init = [\"/sbin/init\"]",
            "memory_limit = \"1G\"",
            "swap_limit = 0",
            "cpu_weight = 50"
        ]
    );
    for (line, part) in [
        ("create p", "required"),
        ("create p hostname=x", "a profile cannot say `hostname`"),
        ("create p rootfs=/x", "settled"),
        ("create p memory_limit=x", "is no size"),
        (
            "create like-web cpu_weight=1",
            "exists already; --replace replaces it",
        ),
        ("create p --from none", "there is no container none"),
        ("show none", "there is no profile none"),
        ("create ../p cpu_weight=1", "../p"),
    ] {
        let (code, said) = system.ctm(&format!("profile {line}"));
        assert!(code != 0 && said.contains(part), "{line}: {said}");
    }
    assert!(!system.0.path().join("etc/ctm/profiles/p.toml").exists());
    system.done("profile create like-web cpu_weight=1 --replace");
}

#[test]
fn a_profile_is_scaled() {
    let system = System::new();
    system.write(
        "etc/ctm/profiles/p.toml",
        "memory_limit = \"100M\" # his\nprocesses = 100\ncpu_weight = 100\nmemory_guarantee = \"10%\"\n",
    );
    let text = system.read("etc/ctm/profiles/p.toml");
    let changes = "memory_limit: \"100M\" -> \"150M\"\nprocesses: 100 -> 150\n";
    assert_eq!(system.done("profile scale p 1.5 --dry-run"), changes);
    assert_eq!(system.done("profile scale p 150% --to q"), changes);
    assert_eq!(system.read("etc/ctm/profiles/p.toml"), text);
    let larger = text
        .replace("100M", "150M")
        .replace("processes = 100", "processes = 150");
    assert_eq!(system.read("etc/ctm/profiles/q.toml"), larger);
    assert_eq!(system.ctm("profile scale p 2 --to q").0, 44);
    assert_eq!(system.done("profile scale p 1.5"), changes);
    assert_eq!(system.read("etc/ctm/profiles/p.toml"), larger);
    assert_eq!(system.done("profile scale p 1"), "nothing is to be changed\n");
    let (code, said) = system.ctm("profile scale p 1000000");
    assert!(
        code == 1 && said.contains("150000000 is not between 1 and 4194304"),
        "{said}"
    );
    assert_eq!(system.read("etc/ctm/profiles/p.toml"), larger);
}

/// The folder stands for a system that need not be there.
#[test]
fn an_empty_system() {
    let system = System::new();
    assert_eq!(system.done("profile list"), "PROFILE  KEYS  CONTAINERS\n");
    assert_eq!(system.ctm("config none").0, 14);
    assert!(fs::read_dir(Path::new(system.0.path())).unwrap().next().is_none());
}
