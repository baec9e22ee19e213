//! A fault in the configuration and where it stands.

use crate::model::Origin;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Whether a fault keeps the file from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is not used; its last good copy is.
    Error,
    /// It is used, but probably not what was meant.
    Warning,
}

/// A fault, with all that is needed to show it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Diagnostic {
    /// Where.
    pub origin: Origin,
    /// The column, in characters from 1; 0 where the file as a whole is meant.
    pub column: u32,
    /// Error or warning.
    pub severity: Severity,
    /// What is wrong, in lower case.
    pub message: String,
    /// What was expected, or what to do.
    pub help: Option<String>,
    /// The line itself, shortened to [`Excerpt::WIDTH`] characters around the fault.
    pub excerpt: Option<Excerpt>,
    /// Another file that the fault is about: where the same thing was said before.
    pub other: Option<Origin>,
}

/// A part of a line, with the faulty text marked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Excerpt {
    /// The text, without control characters.
    pub text: String,
    /// Characters before the mark.
    pub at: u32,
    /// Length of the mark in characters, at least 1.
    pub len: u32,
}

impl Excerpt {
    /// How many characters of a line are shown.
    pub const WIDTH: usize = 120;
}

impl Diagnostic {
    /// A fault of a file as a whole.
    pub fn of_file(path: &Path, message: impl Into<String>) -> Self {
        Self::at(
            Origin {
                file: path.into(),
                line: 0,
            },
            message,
        )
    }

    /// A fault of a line whose text is not at hand.
    pub fn at(origin: Origin, message: impl Into<String>) -> Self {
        Self {
            origin,
            column: 0,
            severity: Severity::Error,
            message: message.into(),
            help: None,
            excerpt: None,
            other: None,
        }
    }

    /// With what was expected.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// As a warning.
    #[must_use]
    pub fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// Whether it is an error.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Diagnostic {
    /// The form of compilers: place, fault, line, caret, help.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{}", self.origin.file.display())?;
        for number in [self.origin.line, self.column]
            .into_iter()
            .filter(|number| *number > 0)
        {
            write!(f, ":{number}")?;
        }
        write!(f, ": {word}: {}", self.message)?;
        if let Some(excerpt) = &self.excerpt {
            let number = self.origin.line.to_string();
            let gutter = " ".repeat(number.len());
            write!(f, "\n {gutter} |\n {number} | {}\n {gutter} | ", excerpt.text)?;
            write!(
                f,
                "{}{}",
                " ".repeat(excerpt.at as usize),
                "^".repeat(excerpt.len as usize)
            )?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n   = {help}")?;
        }
        Ok(())
    }
}

/// Shows the line of each fault that has none yet, from the texts of the files.
pub(super) fn show_lines(faults: &mut [Diagnostic], text_of: impl Fn(&Path) -> Option<String>) {
    for fault in faults {
        if fault.excerpt.is_some() || fault.origin.line == 0 {
            continue;
        }
        let Some(text) = text_of(&fault.origin.file) else {
            continue;
        };
        let source = Source::new(&fault.origin.file, &text);
        let Some(start) = source.starts.get(fault.origin.line as usize - 1).copied() else {
            continue;
        };
        let line = text
            .get(start..)
            .and_then(|rest| rest.lines().next())
            .unwrap_or_default();
        let indent = line.len() - line.trim_start().len();
        let shown = source.error(&(start + indent..start + line.trim_end().len()), "");
        fault.column = shown.column;
        fault.excerpt = shown.excerpt;
    }
}

/// A file's text with the places of its lines.
#[derive(Debug)]
pub struct Source<'a> {
    file: PathBuf,
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Source<'a> {
    /// The text of a file.
    pub fn new(path: &Path, text: &'a str) -> Self {
        let starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Self {
            file: path.into(),
            text,
            starts,
        }
    }

    /// Index of the line that holds a byte.
    fn index(&self, at: usize) -> usize {
        self.starts
            .partition_point(|start| *start <= at)
            .saturating_sub(1)
    }

    /// The line that holds a byte.
    pub fn origin(&self, span: &Range<usize>) -> Origin {
        Origin {
            file: self.file.clone(),
            line: u32::try_from(self.index(span.start) + 1).unwrap_or(u32::MAX),
        }
    }

    /// A fault at these bytes.
    pub fn error(&self, span: &Range<usize>, message: impl Into<String>) -> Diagnostic {
        let start = self.starts.get(self.index(span.start)).copied().unwrap_or(0);
        let rest = self.text.get(start..).unwrap_or_default();
        let line = rest.split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let before = self
            .text
            .get(start..span.start.min(start + line.len()))
            .unwrap_or_default()
            .chars()
            .count();
        let marked = self
            .text
            .get(span.start..span.end.min(start + line.len()))
            .unwrap_or_default()
            .chars()
            .count();
        let from = before.saturating_sub(Excerpt::WIDTH / 2);
        let text: String = line
            .chars()
            .skip(from)
            .take(Excerpt::WIDTH)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let at = before - from;
        let len = marked.clamp(1, Excerpt::WIDTH - at);
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Diagnostic {
            origin: self.origin(span),
            column: narrow(before + 1),
            severity: Severity::Error,
            message: message.into(),
            help: None,
            excerpt: Some(Excerpt {
                text,
                at: narrow(at),
                len: narrow(len),
            }),
            other: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_line_and_caret() {
        let text = "[alias.x]\nmatch = { vendr = \"04b8\" }\r\n";
        let source = Source::new(Path::new("a.toml"), text);
        let shown = source
            .error(&(20..25), "unknown key `vendr`")
            .help("did you mean `vendor`?")
            .to_string();
        assert_eq!(
            shown,
            "a.toml:2:11: error: unknown key `vendr`\n   |\n 2 | match = { vendr = \"04b8\" }\n   |           ^^^^^\n   = did you mean `vendor`?"
        );
    }

    #[test]
    fn long_lines_are_cut_around_the_fault() {
        let text = format!("{}é!{}", "a".repeat(1000), "b".repeat(1000));
        let source = Source::new(Path::new("a.toml"), &text);
        let fault = source.error(&(1002..1003), "x");
        let excerpt = fault.excerpt.unwrap();
        assert_eq!(fault.column, 1002);
        assert_eq!(excerpt.text.chars().nth(excerpt.at as usize), Some('!'));
        assert_eq!(
            (excerpt.text.chars().count(), excerpt.at, excerpt.len),
            (120, 60, 1)
        );
    }

    #[test]
    fn the_end_of_a_file_has_a_place() {
        for text in ["", "a", "a\n", "é"] {
            let source = Source::new(Path::new("a.toml"), text);
            let len = text.len();
            assert!(source.error(&(len..len), "x").excerpt.is_some());
            assert!(source.error(&(len + 5..len + 9), "x").excerpt.is_some());
        }
    }
}
