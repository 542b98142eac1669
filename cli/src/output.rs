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

    /// The lines of the table, and of its notes after an empty one. On a terminal, one that is wider has its widest cells broken
    /// between words, as far as words allow; elsewhere a row is a line.
    pub fn render(&self) -> String {
        self.render_within(crate::screen::columns())
    }

    fn render_within(&self, columns: Option<usize>) -> String {
        let shown = |cell: &str| if cell.is_empty() { "-".to_owned() } else { cell.to_owned() };
        let numeric = |column: usize| self.rows.iter().all(|row| row[column].is_empty() || is_number(&row[column]));
        let right: Vec<bool> = (0..self.heads.len()).map(numeric).collect();
        let widths = self.widths(columns.unwrap_or(usize::MAX - 2));
        let heads: Vec<String> = self.heads.iter().map(|head| head.to_uppercase()).collect();
        let mut text = String::new();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let cells: Vec<Vec<String>> =
                row.iter().zip(&widths).map(|(cell, &width)| broken(&shown(cell), width)).collect();
            for number in 0..cells.iter().map(Vec::len).max().unwrap_or(0) {
                let mut line = String::new();
                for (column, cell) in cells.iter().enumerate() {
                    let (cell, width) = (cell.get(number).map_or("", String::as_str), widths[column]);
                    line += &if right[column] { format!("{cell:>width$}  ") } else { format!("{cell:width$}  ") };
                }
                text += line.trim_end();
                text.push('\n');
            }
        }
        for (index, note) in self.notes.iter().enumerate() {
            text += if index == 0 { "\n" } else { "" };
            text += note;
            text.push('\n');
        }
        text
    }
}

impl Table {
    /// Of each column: what its cells need, or less if the table would be too wide.
    fn widths(&self, most: usize) -> Vec<usize> {
        let cells = |column: usize| {
            self.rows.iter().map(move |row| row[column].as_str()).chain([self.heads[column]]).collect::<Vec<_>>()
        };
        let longest = |texts: Vec<&str>| texts.iter().map(|text| text.chars().count()).max().unwrap_or(0);
        let columns = 0..self.heads.len();
        let mut widths: Vec<usize> = columns.clone().map(|column| longest(cells(column))).collect();
        let words = |column| cells(column).into_iter().flat_map(pieces).map(str::trim_end).collect();
        let least: Vec<usize> = columns.map(|column| longest(words(column))).collect();
        while widths.iter().map(|width| width + 2).sum::<usize>() > most + 2 {
            let widest = (0..widths.len()).filter(|&column| widths[column] > least[column]);
            match widest.max_by_key(|&column| widths[column]) {
                Some(column) => widths[column] -= 1,
                None => break,
            }
        }
        widths
    }
}

/// What a cell may be broken into: words, and what ends with a comma.
fn pieces(cell: &str) -> impl Iterator<Item = &str> {
    cell.split_inclusive([' ', ','])
}

/// A cell in lines of at most this width, as far as its words allow.
fn broken(cell: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for piece in pieces(cell) {
        let last = lines.last_mut().expect("there is one at least");
        if last.is_empty() || last.chars().count() + piece.trim_end().chars().count() <= width {
            last.push_str(piece);
        } else {
            lines.push(piece.to_owned());
        }
    }
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
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
    fn a_table_is_no_wider_than_a_terminal_if_words_allow() {
        let mut table = Table::new(&["name", "fault", "id"]);
        let id = "0123456789abcdef0123456789abcdef0123";
        table.row(vec![
            "web".into(),
            "the host refused it: its namespace is gone. Make it. ".repeat(2).trim().into(),
            id.into(),
        ]);
        table.row(vec!["db".into(), String::new(), id.into()]);
        assert_eq!(table.render_within(None).lines().count(), 3);
        let text = table.render_within(Some(100));
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        let (first, second) = (text.lines().nth(1).unwrap(), text.lines().nth(2).unwrap());
        assert!(first.starts_with("web   the host refused it:") && first.ends_with(id), "{text}");
        assert!(second.starts_with("      ") && !second.contains(id), "{text}");
        // One word is never broken.
        let mut table = Table::new(&["id", "id"]);
        table.row(vec![id.repeat(2), id.repeat(2)]);
        assert!(table.render_within(Some(100)).lines().nth(1).unwrap().contains(&id.repeat(2)));
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
