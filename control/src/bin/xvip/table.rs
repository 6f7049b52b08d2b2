//! Columns, and numbers as people read them.

use std::io::{self, Write};

use control::config::show_duration;

/// Rows of cells, printed with columns aligned; a `>` before a heading aligns it to the right.
pub(crate) struct Table {
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headings: &[&str]) -> Self {
        let right = headings.iter().map(|h| h.starts_with('>')).collect();
        let heading = headings.iter().map(|h| h.trim_start_matches('>').to_owned()).collect();
        Self { right, rows: vec![heading] }
    }

    /// Whether there is nothing but the headings.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|c| clean(&c)).collect());
    }

    pub(crate) fn print(&self, out: &mut impl Write, indent: &str) -> io::Result<()> {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        for row in &self.rows {
            let mut line = String::from(indent);
            for ((cell, width), right) in row.iter().zip(&widths).zip(&self.right) {
                if *right {
                    line.push_str(&format!("{cell:>width$}  "));
                } else {
                    line.push_str(&format!("{cell:<width$}  "));
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Without control characters, whoever sent them.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// `1234567` as `1.23M`: a number to compare at a glance. `--json` has it exactly.
#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn short(n: u64, step: f64, units: &[&str]) -> String {
    let (mut value, mut unit) = (n as f64, 0);
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 => 0,
        v if v < 10.0 => 2,
        v if v < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{}", units[unit])
}

pub(crate) fn count(n: u64) -> String {
    short(n, 1000.0, &["", "k", "M", "G", "T", "P", "E"])
}

pub(crate) fn bytes(n: u64) -> String {
    short(n, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"])
}

pub(crate) fn ms(ms: u64) -> String {
    let ms = match ms {
        0..10_000 => ms,
        10_000..600_000 => ms / 1000 * 1000,
        _ => ms / 60_000 * 60_000,
    };
    show_duration(std::time::Duration::from_millis(ms))
}

pub(crate) fn plural(n: usize, word: &str) -> String {
    if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_control_characters_stay_inside() {
        let mut table = Table::new(&["NAME", ">N"]);
        table.row(["é\u{1b}[2J".to_owned(), "7".to_owned()]);
        table.row(["long name".to_owned(), "1234".to_owned()]);
        let mut out = Vec::new();
        table.print(&mut out, "").unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "NAME          N\né?[2J         7\nlong name  1234\n");
    }

    #[test]
    fn numbers_keep_three_digits() {
        let shown = [0, 999, 1000, 123_456, 1 << 20, u64::MAX].map(count);
        assert_eq!(shown, ["0", "999", "1.00k", "123k", "1.05M", "18.4E"]);
        assert_eq!([512, 1536, 84 << 20].map(bytes), ["512 B", "1.50 KiB", "84.0 MiB"]);
        assert_eq!([250, 59_999, 3_599_999].map(ms), ["250ms", "59s", "59m"]);
    }
}
