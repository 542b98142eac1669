//! Cuts a line into words that remember where they stood.

use crate::fault::Fault;

/// A piece of the line and the column, in characters from 1, of its first character.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word<'a> {
    pub text: &'a str,
    pub column: usize,
}

impl<'a> Word<'a> {
    /// The whole of a line.
    pub fn line(text: &'a str) -> Self {
        Self { text, column: 1 }
    }

    /// What follows the first `bytes` bytes, which must end at a character.
    pub fn after(self, bytes: usize) -> Self {
        let (before, text) = self.text.split_at(bytes);
        Self { text, column: self.column + before.chars().count() }
    }

    /// What comes before and after the first `separator`.
    pub fn split_once(self, separator: &str) -> Option<(Self, Self)> {
        let at = self.text.find(separator)?;
        Some((Self { text: &self.text[..at], ..self }, self.after(at + separator.len())))
    }

    /// What comes before and after the last `separator`.
    pub fn split_last(self, separator: &str) -> Option<(Self, Self)> {
        let at = self.text.rfind(separator)?;
        Some((Self { text: &self.text[..at], ..self }, self.after(at + separator.len())))
    }

    /// `name(inner)`, cut at the first parenthesis; `None` unless the word ends with one.
    pub fn call(self) -> Option<(Self, Self)> {
        let (name, rest) = self.split_once("(")?;
        let inner = rest.text.strip_suffix(')')?;
        Some((name, Word { text: inner, ..rest }))
    }

    /// The parts between separators, empty ones left out.
    pub fn split(self, separator: char) -> Vec<Self> {
        let mut parts = Vec::new();
        let mut column = self.column;
        for text in self.text.split(separator) {
            if !text.is_empty() {
                parts.push(Self { text, column });
            }
            column += text.chars().count() + 1;
        }
        parts
    }

    /// An error at this word.
    pub fn fault(self, code: &str, problem: impl Into<String>, remedy: impl Into<String>) -> Fault {
        Fault::invalid(code, format!("column {}", self.column), problem, remedy)
    }
}

/// Cuts at commas and white space outside parentheses. A `#` at the start or after white space begins
/// a comment.
pub(super) fn words(line: Word<'_>) -> Result<Vec<Word<'_>>, Fault> {
    let mut words = Vec::new();
    let mut open: Vec<Word<'_>> = Vec::new();
    let mut start: Option<(usize, usize)> = None;
    let mut end = line.text.len();
    let mut after_space = true;
    for (column, (at, character)) in (line.column..).zip(line.text.char_indices()) {
        if character == '#' && after_space && open.is_empty() {
            end = at;
            break;
        }
        after_space = character.is_whitespace();
        let separates = open.is_empty() && (character == ',' || after_space);
        match start {
            Some((from, column)) if separates => {
                words.push(Word { text: &line.text[from..at], column });
                start = None;
            }
            None if !separates => start = Some((at, column)),
            _ => {}
        }
        match character {
            '(' => open.push(Word { text: &line.text[at..], column }),
            ')' if open.pop().is_none() => {
                return Err(Word { text: ")", column }.fault(
                    "bad_syntax",
                    "\")\" closes nothing",
                    "Remove it, or open it with \"(\".",
                ));
            }
            _ => {}
        }
    }
    if let Some(parenthesis) = open.last() {
        return Err(parenthesis.fault("bad_syntax", "\"(\" is never closed", "Close it with \")\"."));
    }
    if let Some((from, column)) = start {
        words.push(Word { text: &line.text[from..end], column });
    }
    Ok(words)
}

/// The candidate that was probably meant, as " Did you mean …?" or nothing.
pub(super) fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    // No name is longer; the distance to a longer word would cost time and say nothing.
    if word.len() > 40 {
        return String::new();
    }
    let word = word.to_lowercase();
    let allowed = if word.chars().count() <= 4 { 1 } else { 2 };
    let nearest = candidates.into_iter().map(|candidate| (distance(&word, candidate), candidate)).min();
    match nearest {
        Some((distance, candidate)) if distance <= allowed => format!(" Did you mean \"{candidate}\"?"),
        _ => String::new(),
    }
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other
/// (optimal string alignment).
fn distance(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.chars().collect();
    let to: Vec<char> = to.chars().collect();
    let mut rows = vec![vec![0; to.len() + 1]; from.len() + 1];
    rows[0] = (0..=to.len()).collect();
    for i in 1..=from.len() {
        rows[i][0] = i;
        for j in 1..=to.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_know_their_columns() {
        let line = "  in_port=1, a(b,c)\tµ=2,actions=drop # why, really";
        let found: Vec<_> =
            words(Word::line(line)).unwrap().into_iter().map(|word| (word.column, word.text.to_owned())).collect();
        let expected = [(3, "in_port=1"), (14, "a(b,c)"), (21, "µ=2"), (25, "actions=drop")];
        assert_eq!(found, expected.map(|(column, text)| (column, text.to_owned())));
    }

    #[test]
    fn parentheses_must_pair() {
        assert_eq!(words(Word::line("a(b")).unwrap_err().field, "column 2");
        assert_eq!(words(Word::line("a)b")).unwrap_err().field, "column 2");
    }

    #[test]
    fn suggestions_are_near_or_absent() {
        assert_eq!(did_you_mean("nw_scr", ["nw_src", "nw_dst"]), " Did you mean \"nw_src\"?");
        assert_eq!(did_you_mean("banana", ["nw_src", "nw_dst"]), "");
    }
}
