//! Folders with good, faulty and contradicting files.

use super::*;

struct Host {
    root: tempfile::TempDir,
    loader: Loader,
}

impl Host {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let loader = Loader {
            admin: at("etc"),
            vendor: at("usr"),
            runtime: at("run"),
            last_good: at("var/last-good"),
        };
        for folder in loader.folders() {
            fs::create_dir(folder).unwrap();
        }
        Self { root, loader }
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.root.path().join(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.root.path().join(name)).unwrap();
    }

    /// The aliases in force with the first digit of their vendor, the states of the files, the faults' messages.
    fn load(&self) -> (String, String, Vec<String>) {
        let loaded = self.loader.load();
        // A restart after a crash sees the same.
        let again = self.loader.load();
        assert_eq!(
            (&again.config, &again.files, &again.diagnostics),
            (&loaded.config, &loaded.files, &loaded.diagnostics)
        );
        let aliases: Vec<String> = loaded
            .config
            .aliases
            .values()
            .map(|alias| {
                let value = alias.matches[0].keys[0].expected();
                format!("{}={}", alias.name, value.trim_start_matches('0'))
            })
            .collect();
        let files: Vec<String> = loaded
            .files
            .iter()
            .map(|file| {
                let path = file.path.strip_prefix(self.root.path()).unwrap();
                format!("{}:{:?}", path.display(), file.state)
            })
            .collect();
        let faults = loaded
            .diagnostics
            .iter()
            .map(|fault| {
                let root = format!("{}/", self.root.path().display());
                format!(
                    "{}: {}",
                    fault.origin.to_string().replace(&root, ""),
                    fault.message.replace(&root, "")
                )
            })
            .collect();
        (aliases.join(" "), files.join(" "), faults)
    }
}

fn alias(name: &str, number: u32) -> String {
    format!("[alias.{name}]\nmatch.vendor = '000{number}'\n")
}

#[test]
fn no_folders_no_configuration() {
    let root = tempfile::tempdir().unwrap();
    let nowhere = root.path().join("x");
    let loader = Loader {
        admin: nowhere.clone(),
        vendor: nowhere.clone(),
        runtime: nowhere.clone(),
        last_good: nowhere,
    };
    let loaded = loader.load();
    assert_eq!(
        (loaded.config, loaded.diagnostics, loaded.files),
        (Config::default(), vec![], vec![])
    );
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn a_broken_file_is_replaced_by_its_last_good_copy_alone() {
    let host = Host::new();
    host.write("etc/a.toml", alias("a", 1));
    host.write("etc/b.toml", alias("b", 1));
    assert_eq!(
        host.load(),
        (
            "a=1 b=1".into(),
            "etc/a.toml:InForce etc/b.toml:InForce".into(),
            vec![]
        )
    );
    host.write("etc/a.toml", format!("{}nonsense = 1\n", alias("a", 2)));
    host.write("etc/b.toml", alias("b", 2));
    assert_eq!(
        host.load(),
        (
            "a=1 b=2".into(),
            "etc/a.toml:LastGood etc/b.toml:InForce".into(),
            vec!["etc/a.toml:3: unknown key `nonsense` in an alias".into()]
        )
    );
    host.write("etc/a.toml", alias("a", 3));
    assert_eq!(host.load().0, "a=3 b=2");
    // A file that is taken away is taken back, copy and all.
    host.remove("etc/a.toml");
    assert_eq!(host.load(), ("b=2".into(), "etc/b.toml:InForce".into(), vec![]));
    host.write("etc/a.toml", "[");
    let (aliases, files, faults) = host.load();
    assert_eq!((aliases.as_str(), faults.len()), ("b=2", 1));
    assert_eq!(files, "etc/a.toml:Unused etc/b.toml:InForce");
}

#[test]
fn every_kind_of_bad_file_leaves_the_last_good_one() {
    let host = Host::new();
    for bad in [
        b"[alias.a]\nmatch.vendor = '0002'\nmatch.vendro = '1'".to_vec(),
        b"[alias.a]\nmatch.vendor = 2".to_vec(),
        b"[alias.a]\nmatch.vendor = '0002'\n[alias.a]\nmatch.vendor = '0003'".to_vec(),
        b"[[grant]]\nalias = 'a'\ncontainer = 'ctm:a'\npath = '../../etc/passwd'".to_vec(),
        b"[[grant]]\ncontainer = 'ctm:a'".to_vec(),
        b"[[detach]]\nalias = 'a'\ncontainer = 'ctm:a'".to_vec(),
        vec![b'#'; 10 << 20],
        b"[alias.a]\nmatch.serial = '\xff\xfe'".to_vec(),
        vec![0; 100],
    ] {
        host.write("etc/a.toml", alias("a", 1));
        assert_eq!(host.load().0, "a=1");
        host.write("etc/a.toml", &bad);
        let (aliases, files, faults) = host.load();
        assert_eq!(
            (aliases.as_str(), files.as_str()),
            ("a=1", "etc/a.toml:LastGood"),
            "{faults:?}"
        );
        assert!(!faults.is_empty());
    }
}

#[test]
fn a_file_in_etc_masks_one_of_the_same_name() {
    let host = Host::new();
    host.write("usr/a.toml", alias("a", 1));
    host.write("usr/b.toml", alias("b", 1));
    assert_eq!(host.load().0, "a=1 b=1");
    host.write("etc/a.toml", alias("a", 2));
    std::os::unix::fs::symlink("/dev/null", host.root.path().join("etc/b.toml")).unwrap();
    assert_eq!(
        host.load(),
        (
            "a=2".into(),
            "etc/a.toml:InForce etc/b.toml:InForce usr/a.toml:Masked usr/b.toml:Masked".into(),
            vec![]
        )
    );
    // A broken file masks as well: what a package brings does not come back by a slip of the pen.
    host.write("etc/a.toml", "[");
    assert_eq!(host.load().0, "a=2");
}

#[test]
fn the_new_file_gives_way_to_what_was_in_force() {
    let host = Host::new();
    host.write("etc/m.toml", alias("x", 1));
    assert_eq!(host.load().0, "x=1");
    // Whether its name comes before or after.
    for name in ["a", "z"] {
        host.write(
            &format!("etc/{name}.toml"),
            format!("{}{}", alias("other", 3), alias("x", 2)),
        );
        let (aliases, files, faults) = host.load();
        assert_eq!(aliases, "x=1");
        assert!(files.contains(&format!("etc/{name}.toml:Unused")), "{files}");
        assert!(faults[0].contains("alias `x` is already at etc/"), "{faults:?}");
        host.remove(&format!("etc/{name}.toml"));
    }
    // Two new ones: the first stays.
    host.remove("etc/m.toml");
    host.write("etc/a.toml", alias("x", 4));
    host.write("etc/b.toml", alias("x", 5));
    assert_eq!(host.load().0, "x=4");
    // The second had a copy that fits.
    host.write("etc/b.toml", alias("y", 5));
    assert_eq!(host.load().0, "x=4 y=5");
    host.write("etc/b.toml", alias("x", 6));
    let (aliases, files, _) = host.load();
    assert_eq!(
        (aliases.as_str(), files.as_str()),
        ("x=4 y=5", "etc/a.toml:InForce etc/b.toml:LastGood")
    );
}

#[test]
fn a_contradiction_within_one_file() {
    let host = Host::new();
    let grant = "[[grant]]\nalias = 'x'\ncontainer = 'ctm:a'\n";
    host.write("etc/a.toml", format!("{}{grant}", alias("x", 1)));
    assert_eq!(host.load().2, Vec::<String>::new());
    host.write("etc/a.toml", format!("{}{grant}{grant}", alias("x", 2)));
    let (aliases, files, faults) = host.load();
    assert_eq!((aliases.as_str(), files.as_str()), ("x=1", "etc/a.toml:LastGood"));
    assert_eq!(
        faults,
        ["etc/a.toml:6: a grant of `x` for `ctm:a` is already at etc/a.toml:3"]
    );
}

#[test]
fn a_grant_at_run_time_that_is_then_saved_is_no_fault() {
    let host = Host::new();
    let grant = "[[grant]]\nalias = 'x'\ncontainer = 'ctm:a'\n";
    host.write("etc/a.toml", alias("x", 1));
    host.write("run/a.toml", grant);
    assert_eq!(host.load().2, Vec::<String>::new());
    host.write("etc/b.toml", format!("{grant}access = 'r'"));
    assert_eq!(host.load().2, Vec::<String>::new());
    let config = host.loader.load().config;
    assert_eq!(config.grants.len(), 1);
    assert_eq!(config.grants[0].access, crate::model::Access::READ);
}

#[test]
fn what_is_no_file_is_not_opened_for_long() {
    let host = Host::new();
    fs::create_dir(host.root.path().join("etc/a.toml")).unwrap();
    let fifo = host.root.path().join("etc/b.toml");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    host.write("etc/c.toml", alias("c", 1));
    host.write("etc/.d.toml", "[");
    host.write("etc/e.toml~", "[");
    let (aliases, files, faults) = host.load();
    assert_eq!(aliases, "c=1");
    assert_eq!(files, "etc/a.toml:Unused etc/b.toml:Unused etc/c.toml:InForce");
    assert_eq!(
        faults,
        [
            "etc/a.toml:0: this is no ordinary file",
            "etc/b.toml:0: this is no ordinary file"
        ]
    );
}

#[test]
fn copies_that_cannot_be_kept_are_reported() {
    let host = Host::new();
    host.write("var", "");
    host.write("etc/a.toml", alias("a", 1));
    let (aliases, _, faults) = host.load();
    assert_eq!(aliases, "a=1");
    assert!(faults[0].contains("cannot keep a last good copy"), "{faults:?}");
}
