//! A figure: what was measured on both sides, what it says, and how it is shown.

use super::statistics::{Verdict, interval, median};
use crate::output::Table;
use serde_json::{Value, json};

/// See the module comment.
pub struct Figure {
    /// The case's name.
    pub name: String,
    /// For people.
    pub about: String,
    /// Of `ours` and `theirs`; smaller is better.
    pub unit: &'static str,
    /// Measured here, I/O subtracted.
    pub ours: f64,
    /// Of Open vSwitch, at its best setting.
    pub theirs: Option<f64>,
    /// What decides.
    pub judged: Judged,
    /// The I/O that was subtracted: ours, theirs.
    pub io: Option<(f64, Option<f64>)>,
    /// How it came about.
    pub notes: Vec<(&'static str, String)>,
}

/// What decides about a figure.
pub enum Judged {
    /// Nothing: there is nothing to compare with.
    Not,
    /// Ratios of pairs, ours to theirs, should be at most so much.
    Ratios(Vec<f64>, f64),
    /// Each of these should be at most so much, whatever theirs is.
    Bound(Vec<f64>, f64),
}

impl Figure {
    fn numbers(&self) -> Option<(&[f64], f64)> {
        match &self.judged {
            Judged::Not => None,
            Judged::Ratios(numbers, at_most) | Judged::Bound(numbers, at_most) => Some((numbers, *at_most)),
        }
    }

    /// What becomes of it.
    pub fn verdict(&self) -> Option<Verdict> {
        self.numbers().map(|(numbers, at_most)| Verdict::of(interval(numbers), at_most))
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let mut all = json!({
            "case": self.name, "about": self.about, "unit": self.unit, "ours": self.ours, "theirs": self.theirs,
        });
        if let Some((ours, theirs)) = self.io {
            all["io_ours"] = json!(ours);
            all["io_theirs"] = json!(theirs);
        }
        if let Some((numbers, at_most)) = self.numbers() {
            let (low, high) = interval(numbers);
            let kind = if matches!(self.judged, Judged::Ratios(..)) { "ratio" } else { "bound" };
            all[kind] = json!({
                "median": median(numbers), "low": low, "high": high, "at_most": at_most, "of": numbers,
                "verdict": Verdict::of((low, high), at_most).word(),
            });
        }
        for (name, text) in &self.notes {
            all[*name] = json!(text);
        }
        all
    }
}

/// The table of all figures.
pub fn table(figures: &[Figure]) -> String {
    let mut table = Table::new(&["case", "unit", "ours", "theirs", "ratio", "90 %", "at most", "verdict"]);
    for figure in figures {
        let mut cells = vec![
            figure.name.clone(),
            figure.unit.to_owned(),
            number(figure.ours),
            figure.theirs.map(number).unwrap_or_default(),
        ];
        match &figure.judged {
            Judged::Not => cells.extend([const { String::new() }; 4]),
            Judged::Ratios(numbers, at_most) => {
                let (low, high) = interval(numbers);
                cells.push(format!("{:.3}", median(numbers)));
                cells.push(format!("{low:.3} to {high:.3}"));
                cells.push(at_most.to_string());
                cells.push(Verdict::of((low, high), *at_most).word().to_owned());
            }
            Judged::Bound(numbers, at_most) => {
                cells.extend([String::new(), String::new()]);
                cells.push(format!("{at_most} {}", figure.unit));
                cells.push(Verdict::of(interval(numbers), *at_most).word().to_owned());
            }
        }
        table.row(cells);
        let notes = figure.notes.iter().map(|(name, text)| format!("{name}: {text}")).collect::<Vec<_>>();
        let io = figure.io.map(|(ours, theirs)| {
            let theirs = theirs.map(|theirs| format!(" and {}", number(theirs))).unwrap_or_default();
            format!("i/o subtracted: {}{theirs}", number(ours))
        });
        table.note(&figure.name, &[vec![figure.about.clone()], io.into_iter().collect(), notes].concat().join("; "));
    }
    table.render()
}

fn number(value: f64) -> String {
    if value >= 1000.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_shown_to_people_and_programs() {
        let figure = Figure {
            name: "one-flow".into(),
            about: "1 flow".into(),
            unit: "ns",
            ours: 20.0,
            theirs: Some(80.0),
            judged: Judged::Ratios(vec![0.25; 11], 0.5),
            io: Some((10.0, Some(21.0))),
            notes: vec![("setting", "default".into())],
        };
        assert_eq!(figure.verdict(), Some(Verdict::Passes));
        assert_eq!(figure.json()["ratio"]["verdict"], "passes");
        let text = table(&[figure]);
        assert!(
            text.contains("0.250 to 0.250") && text.contains("i/o subtracted: 10.0 and 21.0; setting: default"),
            "{text}"
        );
    }
}
