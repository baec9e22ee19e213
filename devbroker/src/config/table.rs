//! Reading one TOML table: known keys, types, and what to say where they do not fit.

use super::diagnostic::{Diagnostic, Source};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::Range;
use std::str::FromStr;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The faults found so far in one file. More than [`Faults::MAX`] are counted, not kept.
#[derive(Debug)]
pub(super) struct Faults<'s> {
    pub(super) source: &'s Source<'s>,
    list: Vec<Diagnostic>,
    left_out: usize,
    /// Lines that are no TOML: what follows from them is not reported as well.
    broken: BTreeSet<u32>,
}

impl<'s> Faults<'s> {
    /// How many faults of one file are shown.
    pub(super) const MAX: usize = 500;

    pub(super) fn new(source: &'s Source<'s>) -> Self {
        Self {
            source,
            list: Vec::new(),
            left_out: 0,
            broken: BTreeSet::new(),
        }
    }

    /// Whether more faults are only counted.
    pub(super) fn is_full(&self) -> bool {
        self.list.len() >= Self::MAX
    }

    /// How many there are, shown or not.
    pub(super) fn count(&self) -> usize {
        self.list.len() + self.left_out
    }

    /// Counts one that is not shown.
    pub(super) fn leave_out(&mut self) {
        self.left_out += 1;
    }

    fn push(&mut self, fault: Diagnostic) {
        if self.is_full() {
            self.leave_out();
        } else {
            self.list.push(fault);
        }
    }

    /// Text that is no TOML.
    pub(super) fn syntax(&mut self, span: &Range<usize>, message: &str, help: Option<String>) {
        self.broken.insert(self.source.origin(span).line);
        if self.is_full() {
            self.leave_out();
        } else {
            let mut fault = self.source.error(span, message);
            fault.help = help;
            self.push(fault);
        }
    }

    /// TOML that is no configuration.
    pub(super) fn at(&mut self, span: &Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        if self.broken.contains(&self.source.origin(span).line) {
            return;
        }
        if self.is_full() {
            self.leave_out();
        } else {
            self.push(self.source.error(span, message).help(help));
        }
    }

    /// All of them, in the order of the file.
    pub(super) fn finish(mut self, path: &std::path::Path) -> Vec<Diagnostic> {
        self.list.sort_by_key(|fault| (fault.origin.line, fault.column));
        self.list.dedup();
        if self.left_out > 0 {
            self.list.push(Diagnostic::of_file(
                path,
                format!("{} more faults are not shown", self.left_out),
            ));
        }
        self.list
    }
}

/// A table whose keys are known.
#[derive(Debug)]
pub(super) struct Table<'t, 'i> {
    /// What it is, as in "an alias".
    what: &'static str,
    content: &'t DeTable<'i>,
    /// Its header, or the whole of an inline table.
    pub(super) span: Range<usize>,
}

impl<'t, 'i> Table<'t, 'i> {
    /// Takes `value` as a table that may hold `keys`.
    pub(super) fn new(
        faults: &mut Faults<'_>,
        what: &'static str,
        value: &'t Spanned<DeValue<'i>>,
        keys: &[&str],
        example: &str,
    ) -> Option<Self> {
        let span = value.span();
        if let DeValue::Table(table) = value.get_ref() {
            Some(Self::root(faults, what, table, span, keys))
        } else {
            wrong_type(faults, what, value, &format!("a table, as in `{example}`"));
            None
        }
    }

    /// The same for a table that is one for sure.
    pub(super) fn root(
        faults: &mut Faults<'_>,
        what: &'static str,
        table: &'t DeTable<'i>,
        span: Range<usize>,
        keys: &[&str],
    ) -> Self {
        for key in table.keys() {
            let name: &str = key.get_ref();
            if !keys.contains(&name) {
                let help = match nearest(name, keys) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known are {}", list(keys)),
                };
                faults.at(
                    &key.span(),
                    format!("unknown key `{}` in {what}", shorten(name)),
                    help,
                );
            }
        }
        Self {
            what,
            content: table,
            span,
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&'t Spanned<DeValue<'i>>> {
        self.content.get(key)
    }

    /// A text.
    pub(super) fn text(
        &self,
        faults: &mut Faults<'_>,
        key: &str,
        expected: &str,
    ) -> Option<(&'t str, Range<usize>)> {
        let value = self.get(key)?;
        text(faults, &format!("`{key}`"), value, expected)
    }

    /// A text that can be parsed.
    pub(super) fn parse<T>(&self, faults: &mut Faults<'_>, key: &str, expected: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let (text, span) = self.text(faults, key, expected)?;
        parsed(faults, text, &span, expected)
    }

    /// A text that can be parsed and must be there.
    pub(super) fn need<T>(&self, faults: &mut Faults<'_>, key: &str, expected: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        if self.get(key).is_none() {
            faults.at(
                &self.span,
                format!("{} lacks `{key}`", self.what),
                format!("expected {expected}"),
            );
        }
        self.parse(faults, key, expected)
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, faults: &mut Faults<'_>, key: &str) -> Option<(bool, Range<usize>)> {
        let value = self.get(key)?;
        if let DeValue::Boolean(flag) = value.get_ref() {
            Some((*flag, value.span()))
        } else {
            wrong_type(faults, &format!("`{key}`"), value, "true or false");
            None
        }
    }

    /// A whole number.
    pub(super) fn number(
        &self,
        faults: &mut Faults<'_>,
        key: &str,
        within: std::ops::RangeInclusive<u32>,
    ) -> Option<(u32, Range<usize>)> {
        let value = self.get(key)?;
        let expected = format!("a whole number from {} to {}", within.start(), within.end());
        match integer(value.get_ref()) {
            Integer::Fits(number) if within.contains(&number) => Some((number, value.span())),
            Integer::Fits(_) | Integer::TooLarge => {
                faults.at(
                    &value.span(),
                    format!("`{key}` is out of range"),
                    format!("expected {expected}"),
                );
                None
            }
            Integer::No => {
                wrong_type(faults, &format!("`{key}`"), value, &expected);
                None
            }
        }
    }
}

/// A value that must be a text.
pub(super) fn text<'t>(
    faults: &mut Faults<'_>,
    what: &str,
    value: &'t Spanned<DeValue<'_>>,
    expected: &str,
) -> Option<(&'t str, Range<usize>)> {
    if let DeValue::String(text) = value.get_ref() {
        Some((text, value.span()))
    } else {
        wrong_type(faults, what, value, expected);
        None
    }
}

/// Parses a text, or says why not.
pub(super) fn parsed<T>(faults: &mut Faults<'_>, text: &str, span: &Range<usize>, expected: &str) -> Option<T>
where
    T: FromStr,
    T::Err: Display,
{
    match text.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            faults.at(span, error.to_string(), format!("expected {expected}"));
            None
        }
    }
}

/// A value as a whole number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Integer {
    /// It is one.
    Fits(u32),
    /// It is one, but negative or too large.
    TooLarge,
    /// It is none.
    No,
}

pub(super) fn integer(value: &DeValue<'_>) -> Integer {
    if let DeValue::Integer(number) = value {
        u32::from_str_radix(number.as_str(), number.radix()).map_or(Integer::TooLarge, Integer::Fits)
    } else {
        Integer::No
    }
}

pub(super) fn wrong_type(faults: &mut Faults<'_>, what: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
    let found = match value.get_ref() {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    faults.at(
        &value.span(),
        format!("{what} is {found}"),
        format!("expected {expected}"),
    );
}

/// Names in a row: `a`, `b` and `c`.
pub(super) fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => "none".into(),
    }
}

/// The first characters of a text from outside, for a message.
pub(super) fn shorten(text: &str) -> String {
    let mut short: String = text
        .chars()
        .take(40)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    if text.chars().nth(40).is_some() {
        short.push_str("...");
    }
    short
}

/// The name that was probably meant: at most a third of the letters wrong.
pub(super) fn nearest<'n>(name: &str, known: &[&'n str]) -> Option<&'n str> {
    if name.len() > 64 {
        return None;
    }
    let name = name.to_lowercase();
    known
        .iter()
        .map(|candidate| (distance(&name, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(3) / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many letters to put in, take out, change or swap with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let of = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX / 2);
            let mut best = (of(&last, j) + usize::from(x != y))
                .min(of(&last, j + 1) + 1)
                .min(of(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped {
                best = best.min(of(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name() {
        let keys = [
            "alias",
            "container",
            "path",
            "as",
            "access",
            "owner",
            "group",
            "mode",
            "node",
        ];
        for (text, near) in [
            ("contianer", Some("container")),
            ("acces", Some("access")),
            ("Owner", Some("owner")),
            ("mod", Some("mode")),
            ("nodes", Some("node")),
            ("colour", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(nearest(text, &keys), near, "{text}");
        }
    }

    #[test]
    fn distances() {
        for (a, b, d) in [
            ("", "", 0),
            ("a", "", 1),
            ("ab", "ba", 1),
            ("vendor", "vendr", 1),
            ("abc", "xyz", 3),
        ] {
            assert_eq!(distance(a, b), d, "{a} {b}");
        }
    }
}
