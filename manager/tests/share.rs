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
            "ctm: profile fifty was not made: ROOT/etc/ctm/profiles/fifty.toml exists already; --replace replaces it\n".into()
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

/// A host that is the same wherever the test runs.
const HOST: &str = "--host memory=4G,swap=1G,cpus=2,disk=100G";

#[test]
fn what_is_wrong_is_said_with_its_place_and_what_puts_it_right() {
    let system = System::new();
    assert_eq!(
        system.done(&format!("validate {HOST}")),
        "0 definitions and 0 profiles: nothing is wrong\n"
    );
    let web = "userns = false\nprofile = \"p\"\n\n# mine\nmemory_limit = \"512M\" # stays\ncpus = \"0-3\"\n";
    system.write("etc/ctm/containers/web.toml", web);
    system.write(
        "etc/ctm/profiles/p.toml",
        "memory_guarantee = \"1G\"\nprocesses = 100\n",
    );
    let validate = format!("validate {HOST}");
    let said = "ROOT/etc/ctm/containers/web.toml:6:1: error: `cpus` is 0-3, and this host has no processors 2-3\n   |\n \
        6 | cpus = \"0-3\"\n   | ^^^^^^^^^^^^\n   = it has 0-1\n\
        ROOT/etc/ctm/profiles/p.toml:1:1: error: `memory_guarantee` is 1G and `memory_limit` is 512M: what it may not have \
        cannot be guaranteed\n   |\n 1 | memory_guarantee = \"1G\"\n   | ^^^^^^^^^^^^^^^^^^^^^^^\n   \
        = lower it to 512M, or raise `memory_limit` (ROOT/etc/ctm/containers/web.toml:5)\n\
        1 definition and 1 profile: 2 errors, 0 warnings\n";
    assert_eq!(system.ctm(&validate), (1, said.into()));
    let json: Value = serde_json::from_str(&system.ctm(&format!("{validate} --json")).1).unwrap();
    assert_eq!((&json["errors"], &json["warnings"]), (&2.into(), &0.into()));
    assert_eq!(json["findings"][0]["origin"]["line"], 6);
    assert_eq!(json["findings"][0]["severity"], "error");

    let (code, repair) = system.ctm(&format!("{validate} --repair"));
    let diff = "--- a/etc/ctm/containers/web.toml\n+++ b/etc/ctm/containers/web.toml\n@@ -3,4 +3,5 @@\n \n # mine\n \
        memory_limit = \"512M\" # stays\n-cpus = \"0-3\"\n+cpus = \"0-1\"\n+memory_guarantee = \"512M\"\n";
    assert_eq!((code, repair.as_str()), (1, format!("{diff}{said}").as_str()));
    assert_eq!(
        system.read("etc/ctm/containers/web.toml"),
        web,
        "nothing is changed"
    );
    system.write(
        "etc/ctm/containers/web.toml",
        &(web.replace("0-3", "0-1") + "memory_guarantee = \"512M\"\n"),
    );
    assert_eq!(
        system.done(&format!("{validate} --repair")),
        "1 definition and 1 profile: nothing is wrong\n"
    );
}

#[test]
fn what_all_containers_ask_for_together() {
    let system = System::new();
    for (name, guarantee) in [("a", "1G"), ("b", "2.5G"), ("c", "1536M"), ("d", "10M")] {
        system.write(
            &format!("etc/ctm/containers/{name}.toml"),
            &format!("userns = false\nmemory_guarantee = \"{guarantee}\"\nmemory_limit = \"3G\"\n"),
        );
    }
    let validate = format!("validate {HOST}");
    let (code, said) = system.ctm(&validate);
    let lines: Vec<_> = said
        .lines()
        .filter(|line| line.contains(": ") && !line.starts_with(' '))
        .collect();
    assert_eq!(
        (code, lines),
        (
            1,
            vec![
                "ROOT/etc/ctm/containers/a.toml:3:1: warning: `memory_limit` of 4 containers is 12G together, and this host \
                 has 4.0G of memory: they cannot all use what they may",
                "ROOT/etc/ctm/containers/b.toml:2:1: error: `memory_guarantee` of 4 containers is 5.0G together, and this \
                 host has 4.0G, of which it needs 264M itself",
                "4 definitions and 0 profiles: 1 error, 1 warning",
            ]
        )
    );
    assert!(
        said.contains(
            "   = b 2.5G (ROOT/etc/ctm/containers/b.toml:2), c 1.5G (ROOT/etc/ctm/containers/c.toml:2), a 1.0G \
             (ROOT/etc/ctm/containers/a.toml:2), 1 more; lower them, or have `ctm split` divide the host\n"
        ),
        "{said}"
    );
    let (_, repair) = system.ctm(&format!("{validate} --repair"));
    let lowered: Vec<_> = repair
        .lines()
        .filter(|line| line.starts_with("+memory"))
        .collect();
    assert_eq!(
        lowered,
        [
            "+memory_guarantee = \"764M\"",
            "+memory_guarantee = \"1912M\"",
            "+memory_guarantee = \"1147M\"",
            "+memory_guarantee = \"7M\""
        ]
    );
    // Within one there is nothing wrong.
    assert_eq!(
        system.done(&format!("validate a d {HOST}")),
        "2 definitions: nothing is wrong\n"
    );
    assert_eq!(system.ctm("validate none").0, 14);
    // This machine, whatever it is, has a place for nothing.
    for name in ["a", "b", "c", "d"] {
        system.write(
            &format!("etc/ctm/containers/{name}.toml"),
            &format!("userns = false\nrootfs = \"/{name}\"\n"),
        );
    }
    assert_eq!(
        system.done("validate"),
        "4 definitions and 0 profiles: nothing is wrong\n"
    );
}

/// What `split` writes is without contradictions, by itself and on the host that it is for.
#[test]
fn a_division_is_valid() {
    for (n, host) in [
        (50, "memory=3G,cpus=2,disk=200G"),
        (1, "memory=1G"),
        (145, "memory=3G,swap=1G,disk=20G"),
    ] {
        let system = System::new();
        system.done(&format!("split -n {n} --host {host} --profile part"));
        for at in 0..n {
            system.write(
                &format!("etc/ctm/containers/c{at}.toml"),
                &format!("userns = false\nrootfs = \"/{at}\"\nprofile = \"part\"\n"),
            );
        }
        // Of a system that does not run here no file system is asked.
        system.write("etc/ctm/containers/c0.toml", "userns = false\nrootfs = \"/0\"\n");
        let said = system.done("profile apply c0 part");
        assert!(said.contains("memory_limit: \"unlimited\" -> "), "{said}");
        let said = system.done(&format!("validate --host {host}"));
        assert!(!said.contains("error:") && !said.contains("guarantee"), "{said}");
    }
}
