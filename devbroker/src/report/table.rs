//! Aligned columns.

use std::fmt::Write;

/// Rows of cells; each column is as wide as its widest cell.
#[derive(Debug, Default)]
pub(crate) struct Table {
    indent: usize,
    headed: bool,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this heading.
    pub(crate) fn new<const N: usize>(heading: [&str; N]) -> Self {
        Self {
            indent: 0,
            headed: true,
            rows: vec![heading.map(str::to_owned).to_vec()],
        }
    }

    /// Lines without a heading, so far to the right.
    pub(crate) fn bare(indent: usize) -> Self {
        Self {
            indent,
            headed: false,
            rows: Vec::new(),
        }
    }

    /// Adds a row; below a heading an empty cell is shown as `-`.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        let empty = if self.headed { "-" } else { "" };
        let cells = cells.map(|cell| {
            if cell.is_empty() {
                empty.into()
            } else {
                clean(&cell)
            }
        });
        self.rows.push(cells.to_vec());
    }

    /// The lines.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = " ".repeat(self.indent);
            for (cell, width) in row.iter().zip(&widths) {
                // Writing to a string cannot fail.
                write!(line, "{cell:<width$}  ").ok();
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// The text with what a terminal would act on, and what would break a line, escaped.
pub(crate) fn clean(text: &str) -> String {
    let acts = |c: char| {
        c.is_control()
            || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}'..='\u{200f}')
    };
    if !text.contains(acts) {
        return text.to_owned();
    }
    text.chars()
        .map(|c| {
            if acts(c) {
                c.escape_default().to_string()
            } else {
                c.to_string()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns() {
        let mut table = Table::new(["NAME", "WHAT"]);
        table.row(["é".into(), "x".into()]);
        table.row(["longer name".into(), String::new()]);
        assert_eq!(
            table.render(),
            "NAME         WHAT\né            x\nlonger name  -\n"
        );
        let mut table = Table::bare(2);
        table.row(["a".into(), "b".into()]);
        assert_eq!(table.render(), "  a  b\n");
        assert_eq!(Table::bare(0).render(), "");
    }

    #[test]
    fn terminals_are_not_driven_by_devices() {
        assert_eq!(
            clean("EPSON \x1b[2J\r\n\u{202e}x"),
            "EPSON \\u{1b}[2J\\r\\n\\u{202e}x"
        );
        assert_eq!(clean("Größe 5"), "Größe 5");
    }
}
