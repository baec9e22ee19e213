//! What is between two texts, as `diff -u` shows it and `patch` understands it. Pure.

use std::fmt::Write;
use std::ops::Range;

/// Lines around a change.
const CONTEXT: usize = 3;

/// One line of a text's way into another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line<'t> {
    Both(&'t str),
    Old(&'t str),
    New(&'t str),
}

/// The unified diff of a file, empty where nothing differs. `path` is its path without the first `/`, for `patch -p1 -d /`.
pub(crate) fn unified(path: &str, old: &str, new: &str) -> String {
    let lines = lines(
        &old.split_inclusive('\n').collect::<Vec<_>>(),
        &new.split_inclusive('\n').collect::<Vec<_>>(),
    );
    let mut text = String::new();
    for hunk in hunks(&lines) {
        let (mut old_from, mut new_from, mut old_count, mut new_count) = (1, 1, 0, 0);
        for (at, line) in lines.iter().enumerate() {
            let counts = match at {
                at if at < hunk.start => (&mut old_from, &mut new_from),
                at if hunk.contains(&at) => (&mut old_count, &mut new_count),
                _ => break,
            };
            *counts.0 += usize::from(!matches!(line, Line::New(_)));
            *counts.1 += usize::from(!matches!(line, Line::Old(_)));
        }
        if text.is_empty() {
            // Writing to a String does not fail.
            writeln!(text, "--- a/{path}\n+++ b/{path}").ok();
        }
        // Of no lines the one before is named.
        let from = |from: usize, count| from - usize::from(count == 0);
        writeln!(
            text,
            "@@ -{},{old_count} +{},{new_count} @@",
            from(old_from, old_count),
            from(new_from, new_count)
        )
        .ok();
        for line in lines.get(hunk).unwrap_or_default() {
            let (mark, line) = match line {
                Line::Both(line) => (' ', line),
                Line::Old(line) => ('-', line),
                Line::New(line) => ('+', line),
            };
            write!(text, "{mark}{line}").ok();
            if !line.ends_with('\n') {
                text.push_str("\n\\ No newline at end of file\n");
            }
        }
    }
    text
}

/// The changes with their context; those whose contexts touch are one.
fn hunks(lines: &[Line<'_>]) -> Vec<Range<usize>> {
    let mut hunks: Vec<Range<usize>> = Vec::new();
    for (at, _) in lines
        .iter()
        .enumerate()
        .filter(|(_, line)| !matches!(line, Line::Both(_)))
    {
        let around = at.saturating_sub(CONTEXT)..(at + CONTEXT + 1).min(lines.len());
        match hunks.last_mut() {
            Some(last) if around.start <= last.end => last.end = around.end,
            _ => hunks.push(around),
        }
    }
    hunks
}

/// The way from one text to the other that keeps the most lines.
fn lines<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<Line<'t>> {
    let same = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let (before, old) = old.split_at(same);
    let (_, new) = new.split_at(same);
    let same = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take_while(|(old, new)| old == new)
        .count();
    let (old, after) = old.split_at(old.len() - same);
    let (new, _) = new.split_at(new.len() - same);
    let both = |lines: &[&'t str]| lines.iter().copied().map(Line::Both).collect::<Vec<_>>();
    [both(before), between(old, new), both(after)].concat()
}

/// The same by the lengths of the longest common parts of all rests (a definition has a few lines).
fn between<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<Line<'t>> {
    let width = new.len() + 1;
    let mut kept = vec![0_u32; (old.len() + 1) * width];
    let of = |kept: &[u32], i: usize, j: usize| kept.get(i * width + j).copied().unwrap_or(0);
    for (i, old) in old.iter().enumerate().rev() {
        for (j, new) in new.iter().enumerate().rev() {
            let most = if old == new {
                of(&kept, i + 1, j + 1) + 1
            } else {
                of(&kept, i + 1, j).max(of(&kept, i, j + 1))
            };
            if let Some(place) = kept.get_mut(i * width + j) {
                *place = most;
            }
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    loop {
        match (old.get(i), new.get(j)) {
            (Some(old), Some(new)) if old == new => {
                lines.push(Line::Both(old));
                (i, j) = (i + 1, j + 1);
            }
            (Some(old), None) => {
                lines.push(Line::Old(old));
                i += 1;
            }
            (Some(old), Some(_)) if of(&kept, i + 1, j) >= of(&kept, i, j + 1) => {
                lines.push(Line::Old(old));
                i += 1;
            }
            (_, Some(new)) => {
                lines.push(Line::New(new));
                j += 1;
            }
            (None, None) => return lines,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shown() {
        let old = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n";
        assert_eq!(unified("x", old, old), "");
        assert_eq!(
            unified(
                "etc/x.toml",
                old,
                &old.replace("b\n", "B\nB2\n").replace("j\n", "")
            ),
            "--- a/etc/x.toml\n+++ b/etc/x.toml\n@@ -1,5 +1,6 @@\n a\n-b\n+B\n+B2\n c\n d\n e\n\
             @@ -7,4 +8,3 @@\n g\n h\n i\n-j\n"
        );
        assert_eq!(
            unified("x", "a", "a\n"),
            "--- a/x\n+++ b/x\n@@ -1,1 +1,1 @@\n-a\n\\ No newline at end of file\n+a\n"
        );
        assert_eq!(unified("x", "", "a\n"), "--- a/x\n+++ b/x\n@@ -0,0 +1,1 @@\n+a\n");
    }

    /// What `patch` makes of a diff.
    pub(crate) fn patched(old: &str, diff: &str) -> String {
        let mut old = old.split_inclusive('\n');
        let (mut at, mut new) = (1, String::new());
        let mut lines = diff.split_inclusive('\n').peekable();
        while let Some(line) = lines.next() {
            let bare = lines.peek().is_some_and(|next| next.starts_with('\\'));
            let text = |line: &str| line[1..].trim_end_matches(|c| bare && c == '\n').to_owned();
            match line.split_at(1) {
                ("-" | "+", rest) if rest.starts_with("-- ") || rest.starts_with("++ ") => {}
                ("@", _) => {
                    let from = line.split(['-', ',']).nth(1).unwrap().parse::<usize>().unwrap();
                    while at < from {
                        new += old.next().unwrap();
                        at += 1;
                    }
                }
                ("+", _) => new += &text(line),
                ("\\", _) => {}
                (mark, _) => {
                    assert_eq!(old.next().unwrap(), text(line));
                    at += 1;
                    if mark == " " {
                        new += &text(line);
                    }
                }
            }
        }
        new + &old.collect::<String>()
    }

    fn text() -> impl Strategy<Value = String> {
        proptest::collection::vec("[a-d]", 0..24).prop_map(|lines| lines.join("\n"))
    }

    proptest! {
        #[test]
        fn a_diff_leads_from_one_to_the_other(old in text(), new in text()) {
            let diff = unified("x", &old, &new);
            prop_assert_eq!(diff.is_empty(), old == new);
            prop_assert_eq!(patched(&old, &diff), new);
        }
    }
}
