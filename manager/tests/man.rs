//! The manual page says what the program can do.

use std::process::Command;

/// Every verb and option of the program is in ctm(8).
#[test]
fn every_verb_and_option_is_in_the_manual() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/man/ctm.8")).unwrap();
    let page = page.replace("\\-", "-");
    let help = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_ctm"))
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let top = help(&["--help"]);
    let verbs: Vec<&str> = top
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .collect();
    assert!(verbs.len() >= 8, "{top}");
    for verb in verbs {
        assert!(page.contains(&format!(".B ctm {verb}")), "{verb}");
        let options = help(&[verb, "--help"]);
        for option in options
            .split(|c: char| c.is_whitespace() || c == '`' || c == ']')
            .filter(|word| word.starts_with("--") && word.len() > 2 && *word != "--help")
        {
            let option = option.trim_end_matches(['.', ',', ':', ';']);
            assert!(page.contains(option), "ctm {verb}: {option}");
        }
    }
}

/// Every key of a definition is in ctm(8).
#[test]
fn every_key_is_in_the_manual() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/man/ctm.8")).unwrap();
    let (_, section) = page.split_once(".SH THE DEFINITION").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ctm"))
        .args(["set", "x", "nothing=1"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let (_, known) = said.split_once("known are ").unwrap();
    let keys: Vec<_> = known.lines().next().unwrap().split(", ").collect();
    assert!(keys.len() >= 15, "{said}");
    for key in keys {
        assert!(
            section
                .lines()
                .any(|line| line.starts_with(".B") && line.split([' ', '"', ',']).any(|word| word == key)),
            "{key}"
        );
    }
}
