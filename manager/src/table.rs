//! A table of text for people: columns as wide as they have to be. Pure.

/// What stands in a column.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cell {
    /// Nothing is known.
    Nothing,
    /// A number, with how it is shown.
    Number(u64, String),
    /// A text.
    Text(String),
}

impl Cell {
    /// A number that is shown as it is.
    pub(crate) fn number(value: Option<u64>) -> Self {
        Self::shown(value, |value| value.to_string())
    }

    /// A number that is shown in another way.
    pub(crate) fn shown(value: Option<u64>, show: impl FnOnce(u64) -> String) -> Self {
        value.map_or(Self::Nothing, |value| Self::Number(value, show(value)))
    }

    /// A text, or nothing.
    pub(crate) fn text(text: impl Into<Option<String>>) -> Self {
        text.into()
            .filter(|text| !text.is_empty())
            .map_or(Self::Nothing, Self::Text)
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Nothing => "-",
            Self::Number(_, shown) => shown,
            Self::Text(text) => text,
        }
    }
}

/// The lines of a table; numbers stand to the right. `heads` are its first line, if it has one.
pub(crate) fn lines(heads: Option<&[String]>, rows: &[Vec<Cell>]) -> Vec<String> {
    let columns = rows.first().map_or(0, Vec::len).max(heads.map_or(0, <[_]>::len));
    let column = |at: usize| rows.iter().filter_map(move |row| row.get(at));
    let widths: Vec<usize> = (0..columns)
        .map(|at| {
            column(at)
                .map(|cell| cell.as_str().chars().count())
                .chain(
                    heads
                        .and_then(|heads| heads.get(at))
                        .map(|head| head.chars().count()),
                )
                .max()
                .unwrap_or(0)
        })
        .collect();
    let right: Vec<bool> = (0..columns)
        .map(|at| {
            column(at).any(|cell| matches!(cell, Cell::Number(..)))
                && !column(at).any(|cell| matches!(cell, Cell::Text(_)))
        })
        .collect();
    let line = |texts: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = texts
            .zip(widths.iter().zip(&right))
            .map(|(text, (width, right))| {
                if *right {
                    format!("{text:>width$}")
                } else {
                    format!("{text:width$}")
                }
            })
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    heads
        .into_iter()
        .map(|heads| line(&mut heads.iter().map(String::as_str)))
        .chain(rows.iter().map(|row| line(&mut row.iter().map(Cell::as_str))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_to_the_right() {
        let rows = [
            vec![
                Cell::text("a".to_owned()),
                Cell::number(Some(7)),
                Cell::text(None),
            ],
            vec![
                Cell::text("bcd".to_owned()),
                Cell::number(None),
                Cell::text("x".to_owned()),
            ],
        ];
        let heads = ["NAME", "PID", "X"].map(String::from);
        assert_eq!(
            lines(Some(&heads), &rows),
            ["NAME  PID  X", "a       7  -", "bcd     -  x"]
        );
        assert_eq!(lines(None, &rows), ["a    7  -", "bcd  -  x"]);
        assert_eq!(lines(Some(&heads), &[]), ["NAME  PID  X"]);
    }
}
