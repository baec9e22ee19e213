//! Every piece of configuration that the documents and examples show is one that `check` accepts: blocks marked `toml` in
//! `*.md`, blocks after a line `.\" toml` in manual pages, and `examples/*.toml`. (Files of ctm are marked `toml ctm`.)

#![expect(clippy::unwrap_used, reason = "a test that cannot read its files fails")]

use devbroker::config::{merge, parse_file};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().into()
}

/// All files below a folder that are not hidden and not built.
fn files(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with('.') || name == "target" || name == "node_modules" {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            files(&entry.path(), all);
        } else {
            all.push(entry.path());
        }
    }
}

/// The blocks between a line that `opens` and the next that `closes`, with the number of their first line.
fn blocks<'t>(text: &'t str, opens: impl Fn(&str, &str) -> bool, closes: &str) -> Vec<(usize, Vec<&'t str>)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, Vec<&str>)> = None;
    let mut before = "";
    for (number, line) in text.lines().enumerate() {
        match &mut open {
            Some(_) if line.trim() == closes => found.extend(open.take()),
            Some((_, lines)) => lines.push(line),
            None if opens(before, line.trim()) => open = Some((number + 2, Vec::new())),
            None => {}
        }
        before = line.trim();
    }
    assert!(open.is_none(), "a block is not closed");
    found
}

/// What is wrong with a piece of configuration, warnings included: documents show no doubtful ones.
fn faults(name: &str, text: &str) -> Vec<String> {
    // The place of run-time files, where all that exists may stand.
    let path = Path::new("/run/devbroker").join(name);
    let (file, mut faults) = parse_file(&path, text.as_bytes());
    faults.extend(merge(vec![file]).1);
    faults.iter().map(ToString::to_string).collect()
}

#[test]
fn snippets_pass_check() {
    let root = root();
    let mut all = Vec::new();
    files(&root, &mut all);
    let (mut bad, mut snippets) = (Vec::new(), 0);
    for path in all {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let man = matches!(extension, Some("5" | "8"));
        if !man && extension != Some("md") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let found = if man {
            blocks(
                &text,
                |before, line| before == ".\\\" toml" && line == ".EX",
                ".EE",
            )
        } else {
            blocks(&text, |_, line| line == "```toml", "```")
        };
        for (number, lines) in found {
            snippets += 1;
            let text = lines.join("\n");
            let text = if man {
                text.replace("\\-", "-").replace("\\e", "\\").replace("\\&", "")
            } else {
                text
            };
            // Several pieces of a document may give away what an earlier one named.
            bad.extend(
                faults(&format!("{name}:{number}"), &text)
                    .into_iter()
                    .filter(|fault| !fault.contains("no file has an alias")),
            );
        }
    }
    assert_eq!(bad, Vec::<String>::new());
    assert!(snippets > 0, "no snippet was found");
}

#[test]
fn examples_pass_check() {
    let mut names = Vec::new();
    let mut files = Vec::new();
    for entry in fs::read_dir(root().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(faults(&name, &text), Vec::<String>::new());
        files.push(parse_file(Path::new(&name), text.as_bytes()).0);
        names.push(name);
    }
    names.sort();
    for name in [
        "coral",
        "lab-hub",
        "printer",
        "scanner",
        "serial-stick",
        "tv-card",
    ] {
        assert!(names.contains(&format!("{name}.toml")), "{names:?}");
    }
    // All of them can be installed together.
    assert_eq!(merge(files).1, []);
}
