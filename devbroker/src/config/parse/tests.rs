//! What a file says, and every fault it can have.

use super::*;
use crate::config::{Grant, Looks, Match, NodeRule};
use crate::model::{Access, UserRef};

fn parse(text: &str) -> FileConfig {
    let (file, faults) = parse_file(Path::new("a.toml"), text.as_bytes());
    assert_eq!(faults, [], "{text}");
    file
}

/// All faults, as they are shown.
fn faults(text: impl AsRef<[u8]>) -> String {
    let (_, faults) = parse_file(Path::new("a.toml"), text.as_ref());
    let shown: Vec<String> = faults.iter().map(ToString::to_string).collect();
    shown.join("\n")
}

/// Each input of `faults.txt` with what is said about it: `===`, the input, `---`, the output. `BLESS=1` writes the outputs
/// anew; read them before you keep them.
#[test]
fn every_fault_is_shown() {
    let text = include_str!("faults.txt");
    let mut shown = String::new();
    for case in text.split("===\n").skip(1) {
        let (input, _) = case.split_once("---\n").unwrap();
        shown += &["===\n", input, "---\n", &faults(input), "\n"].concat();
    }
    if std::env::var_os("BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/parse/faults.txt");
        std::fs::write(path, &shown).unwrap();
    } else {
        assert_eq!(shown, text);
    }
}

#[test]
fn bytes_that_are_no_text() {
    let shown = faults(b"[alias.x]\nmatch.serial = '\xff\xfe' # \x80\nmatch.prot = '1'");
    let lines: Vec<&str> = shown.lines().collect();
    let no_text = |column: u32| {
        [
            format!("a.toml:2:{column}: error: this is not UTF-8"),
            "   |".into(),
            " 2 | match.serial = '??' # ?".into(),
            format!("   | {}^", " ".repeat(column as usize - 1)),
            "   = expected text in UTF-8; save the file in that encoding".into(),
        ]
    };
    let prot = [
        "a.toml:3:7: error: unknown key `prot` in a match",
        "   |",
        " 3 | match.prot = '1'",
        "   |       ^^^^",
        "   = did you mean `port`?",
    ]
    .map(str::to_owned);
    assert_eq!(lines, [no_text(17), no_text(18), no_text(23), prot].concat());
}

#[test]
fn a_file_that_is_too_large() {
    assert_eq!(
        faults(vec![b'#'; 10 << 20]),
        "a.toml: error: the file is larger than 1048576 bytes\n   = split it into several files of the same folder"
    );
    assert_eq!(faults(vec![b'#'; MAX_FILE]), "");
}

/// A file of nothing but faults is answered in bounded space: each fault has a short excerpt, and there are at most so
/// many.
#[test]
fn endless_faults_are_counted() {
    for unit in [
        "]",
        "a=\n",
        "[[[",
        "\u{1}",
        "'''",
        "{",
        "=\n",
        "x = [",
        "a.",
        "\"\n",
        "[a]\n",
        "a.b.",
        "[alias.x]\n",
        "\n[[grant]]x='
",
        "[a.a.a.a.a]\n",
        "é",
    ] {
        let text = unit.repeat(MAX_FILE / 8 / unit.len());
        let (_, faults) = parse_file(Path::new("a.toml"), text.as_bytes());
        assert!(!faults.is_empty(), "{unit:?}");
        assert!(faults.len() <= Faults::MAX + 1, "{unit:?}: {}", faults.len());
        let shown: usize = faults.iter().map(|fault| fault.to_string().len()).sum();
        assert!(shown < 1 << 19, "{unit:?}: {shown}");
    }
}

#[test]
fn all_that_a_file_can_say() {
    let file = parse(include_str!("full.toml"));
    let line = |line: u32| Origin {
        file: "a.toml".into(),
        line,
    };
    assert_eq!(
        file.settings,
        SettingsDraft {
            monitor: Some((false, line(2))),
            receive_buffer: Some((1_048_576, line(3))),
            reassert: Some((false, line(4))),
            snapshot_seconds: Some((0, line(5))),
        }
    );
    let names: Vec<(&str, u32, Option<&str>)> = file
        .aliases
        .iter()
        .map(|alias| {
            let primary = alias.primary.as_ref().map(crate::model::Role::as_str);
            (alias.name.as_str(), alias.origin.line, primary)
        })
        .collect();
    assert_eq!(
        names,
        [
            ("epson-1670", 7, None),
            ("coral", 10, Some("usb_device")),
            ("tv.card", 17, None)
        ]
    );
    let keys = |alias: usize| -> Vec<String> {
        file.aliases[alias]
            .matches
            .iter()
            .flat_map(|one: &Match| &one.keys)
            .map(|key| format!("{}={}", key.name(), key.expected()))
            .collect()
    };
    assert_eq!(keys(0), ["vendor=04b8", "product=011f"]);
    let coral = "vendor=1a6e product=089a vendor=18d1 product=9302 serial=A_1 port=0000:00:14.0/2.1";
    assert_eq!(keys(1).join(" "), coral);
    let tv = "subsystem=dvb driver=em28xx link=dvb/adapter0 property.ID_MODEL=x_y property.ID_VENDOR=z attr.device/model=m";
    assert_eq!(keys(2).join(" "), tv);
    assert!(file.aliases[2].matches[0].whole && !file.aliases[1].matches[0].whole);
    let user = |name: &str| Some(UserRef::Name(name.into()));
    let scanner = Grant {
        alias: "epson-1670".parse().unwrap(),
        container: "ctm:scan".parse().unwrap(),
        user: 0,
        access: Access::READ_WRITE,
        looks: Looks {
            path: Some("scanner".parse().unwrap()),
            as_node: false,
            owner: user("saned"),
            group: user("scanner"),
            mode: Some(0o660),
        },
        nodes: vec![
            NodeRule {
                role: "usb_device".parse().unwrap(),
                omit: false,
                access: Some(Access::READ),
                looks: Looks {
                    path: Some("raw/scanner".parse().unwrap()),
                    as_node: true,
                    owner: Some(UserRef::Id(5)),
                    group: user("plugdev"),
                    mode: Some(0o600),
                },
                origin: line(31),
            },
            NodeRule {
                role: "scsi_generic".parse().unwrap(),
                omit: true,
                access: None,
                looks: Looks::default(),
                origin: line(39),
            },
        ],
        origin: line(21),
    };
    let coral = Grant {
        alias: "coral".parse().unwrap(),
        container: "pid:lab-*".parse().unwrap(),
        user: 1000,
        access: Access::ALL,
        looks: Looks {
            mode: Some(0o600),
            owner: Some(UserRef::Id(33)),
            ..Looks::default()
        },
        nodes: vec![],
        origin: line(43),
    };
    assert_eq!(file.grants, [scanner, coral]);
}

/// Checks what must hold of any answer about any bytes.
fn sane(bytes: &[u8]) {
    let (file, faults) = parse_file(Path::new("a.toml"), bytes);
    let lines = bytes.split(|byte| *byte == b'\n').count();
    for fault in &faults {
        assert!(fault.origin.line as usize <= lines, "{fault}");
        if let Some(excerpt) = &fault.excerpt {
            assert!(excerpt.len >= 1 && fault.column >= 1, "{fault}");
            assert!(
                excerpt.text.chars().count() <= crate::config::Excerpt::WIDTH,
                "{fault}"
            );
            assert!(excerpt.at as usize <= excerpt.text.chars().count(), "{fault}");
            assert!(!excerpt.text.chars().any(char::is_control), "{fault}");
        }
        assert!(!fault.message.is_empty() && !fault.to_string().contains('\0'));
    }
    let (config, _) = crate::config::merge(vec![file]);
    assert!(config.aliases.values().all(|alias| !alias.matches.is_empty()));
}

proptest::proptest! {
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        sane(&bytes);
    }

    /// Pieces of real files in the wrong places.
    #[test]
    fn any_pieces(pieces in proptest::collection::vec(proptest::sample::select(vec![
        "[alias.x]", "[alias.y]", "[[grant]]", "[[grant.node]]", "[daemon]", "[[detach]]", "\n", "\n", "match = ", "{", "}",
        "[", "]", "vendor = '04b8'", "product = \"011f\"", "alias = 'x'", "container = 'ctm:*'", "path = '../x'", "mode = 0o660",
        "mode = '0999'", ", ", "whole = true", "property.", "attr.", "é", "\u{0}", "'''", "\"", "#", "= ", "1979-05-27", "-1", "role = 'a'",
    ]), 0..40)) {
        sane(pieces.concat().as_bytes());
    }

    /// A good file with one byte changed, and cut off anywhere.
    #[test]
    fn any_slip(at in 0..1000usize, byte in proptest::num::u8::ANY, end in 0..1200usize) {
        let mut bytes = include_bytes!("full.toml").to_vec();
        if let Some(old) = bytes.get_mut(at) {
            *old = byte;
        }
        bytes.truncate(end);
        sane(&bytes);
    }
}

/// A configuration is data: what a shell would run is a text like any other, or no value at all.
#[test]
fn nothing_in_a_file_is_run() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("ran");
    let command = format!("touch {}", trace.display());
    for text in [
        format!("$({command})"),
        format!("`{command}`"),
        format!("; {command}"),
    ] {
        let file = parse(&format!("[alias.x]\nmatch.serial = '{text}'"));
        assert_eq!(file.aliases[0].matches[0].keys, [Key::Serial(text.clone())]);
        let all = [
            format!("[alias.'{text}']\nmatch.serial = 'S'"),
            format!("[[grant]]\nalias = 'x'\ncontainer = '{text}'"),
            format!("[[grant]]\nalias = 'x'\ncontainer = 'ctm:c'\nowner = '{text}'"),
            text.clone(),
        ];
        for file in all {
            assert!(faults(&file).contains("error:"), "{file}");
        }
    }
    assert!(!trace.exists());
}
