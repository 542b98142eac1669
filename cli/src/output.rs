//! Prints: aligned tables for people, JSON for programs. Standard output may be a pipe that closes
//! early (`weft flows dump web | head`); that ends the program quietly.

use crate::failure::{Failure, system};
use serde_json::Value;
use std::io::{ErrorKind, Write as _};

/// Who reads.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// A program.
    pub json: bool,
}

impl Output {
    /// Prints a sentence to a person, or its JSON to a program.
    pub fn say(self, text: &str, json: &Value) -> Result<(), Failure> {
        if self.json { self.value(json) } else { write(&format!("{text}\n")) }
    }

    /// Prints a table, or what to do when it is empty; to a program the array.
    pub fn table(self, table: &Table, empty: &str, json: Vec<Value>) -> Result<(), Failure> {
        if self.json {
            self.value(&Value::Array(json))
        } else if table.rows.is_empty() {
            write(&format!("{empty}\n"))
        } else {
            write(&table.render())
        }
    }

    /// Prints the lines of one object, `name  value`, empty values left out.
    pub fn object(self, lines: &[(&str, String)], json: &Value) -> Result<(), Failure> {
        if self.json { self.value(json) } else { write(&properties(lines)) }
    }

    fn value(self, json: &Value) -> Result<(), Failure> {
        write(&format!("{json:#}\n"))
    }
}

/// Writes to standard output at once.
pub fn write(text: &str) -> Result<(), Failure> {
    let mut standard = std::io::stdout().lock();
    match standard.write_all(text.as_bytes()).and_then(|()| standard.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(system(
            "output",
            format!("cannot write to standard output: {error}"),
            "Free space, or write elsewhere.",
        )
        .into()),
    }
}

/// Names and values in two columns.
pub fn properties(lines: &[(&str, String)]) -> String {
    let shown: Vec<_> = lines.iter().filter(|(_, value)| !value.is_empty()).collect();
    let width = shown.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    shown.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// A table with aligned columns: numbers to the right, all else to the left. Sentences about rows stand below
/// it, where they do not widen a column.
pub struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
}

impl Table {
    /// An empty table with these heads.
    pub fn new(heads: &[&'static str]) -> Self {
        Self { heads: heads.to_vec(), rows: Vec::new(), notes: Vec::new() }
    }

    /// Adds a row: as many cells as there are heads.
    pub fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.heads.len());
        self.rows.push(cells);
    }

    /// Adds a sentence about what a row names; an empty one is none.
    pub fn note(&mut self, about: &str, sentence: &str) {
        if !sentence.is_empty() {
            self.notes.push(format!("{about}: {sentence}"));
        }
    }

    /// The lines of the table, and of its notes after an empty one.
    pub fn render(&self) -> String {
        let shown = |cell: &str| if cell.is_empty() { "-".to_owned() } else { cell.to_owned() };
        let numeric = |column: usize| self.rows.iter().all(|row| row[column].is_empty() || is_number(&row[column]));
        let right: Vec<bool> = (0..self.heads.len()).map(numeric).collect();
        let widths: Vec<usize> = (0..self.heads.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| shown(&row[column]).chars().count());
                cells.chain([self.heads[column].chars().count()]).max().unwrap_or(0)
            })
            .collect();
        let heads: Vec<String> = self.heads.iter().map(|head| head.to_uppercase()).collect();
        let mut text = String::new();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let (cell, width) = (shown(cell), widths[column]);
                line += &if right[column] { format!("{cell:>width$}  ") } else { format!("{cell:width$}  ") };
            }
            text += line.trim_end();
            text.push('\n');
        }
        for (index, note) in self.notes.iter().enumerate() {
            text += if index == 0 { "\n" } else { "" };
            text += note;
            text.push('\n');
        }
        text
    }
}

/// A count, or a rate: "12", "0.5", "1.2k".
fn is_number(cell: &str) -> bool {
    let digits = cell.trim_end_matches(['k', 'M', 'G', 'T', '%']);
    let mut parts = digits.split('.');
    let are_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    parts.next().is_some_and(are_digits) && parts.next().is_none_or(are_digits) && parts.next().is_none()
}

/// "1 rule", "2 rules".
pub fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// A duration in its two largest units: "3d 4h", "5m 1s".
pub fn duration(seconds: u64) -> String {
    let units = [(seconds / 86400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let first = units.iter().position(|(number, _)| *number > 0).unwrap_or(3);
    let shown = units[first..].iter().take(2).map(|(number, unit)| format!("{number}{unit}"));
    shown.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_stand_right() {
        let mut table = Table::new(&["name", "packets", "note"]);
        table.row(vec!["web".into(), "7".into(), "ü".into()]);
        table.row(vec!["database".into(), "1234567890".into(), String::new()]);
        assert!(["7", "0.5", "1.2k", "99%"].into_iter().all(is_number));
        assert!(!["", "k", ".", "1.2.3", "192.0.2.1", "7a"].into_iter().any(is_number));
        assert_eq!(table.render(), "NAME         PACKETS  NOTE\nweb                7  ü\ndatabase  1234567890  -\n");
    }

    #[test]
    fn sentences_stand_below_the_table() {
        let mut table = Table::new(&["host", "state"]);
        table.row(vec!["a".into(), "connected".into()]);
        table.note("a", "");
        table.note("host a", "It broke. Mend it.");
        table.note("host b", "It is away.");
        assert_eq!(table.render(), "HOST  STATE\na     connected\n\nhost a: It broke. Mend it.\nhost b: It is away.\n");
    }

    #[test]
    fn durations_have_two_units() {
        assert_eq!(duration(0), "0s");
        assert_eq!(duration(61), "1m 1s");
        assert_eq!(duration(86400 * 3 + 3600 * 4 + 5), "3d 4h");
    }

    #[test]
    fn empty_properties_are_left_out() {
        assert_eq!(
            properties(&[("name", "a".into()), ("fault", String::new()), ("id", "b".into())]),
            "name  a\nid    b\n"
        );
    }
}
