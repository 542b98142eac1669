//! A view that shows itself anew every interval: over itself on a terminal, one after the other elsewhere. Plain ANSI,
//! nothing to be put back when it is interrupted.

use crate::failure::Failure;
use crate::output::write;
use std::io::IsTerminal as _;
use std::time::Duration;
use weft_proto::fault::Fault;

/// Where it is shown.
pub struct Screen {
    /// Columns and rows; `None`: no terminal.
    size: Option<(usize, usize)>,
    shown: bool,
}

impl Screen {
    /// Standard output.
    pub fn new() -> Self {
        Self { size: size(), shown: false }
    }

    /// Rows that there are for a view; `None`: as many as it likes.
    pub fn rows(&self) -> Option<usize> {
        self.size.map(|(_, rows)| rows)
    }

    /// Shows a view: lines that are too long are cut, and those that are too many left out.
    pub fn show(&mut self, view: &str) -> Result<(), Failure> {
        let first = !std::mem::replace(&mut self.shown, true);
        // The window may have another size by now.
        self.size = size();
        write(&match self.size {
            None if first => view.to_owned(),
            None => format!("\n{view}"),
            Some((columns, rows)) => {
                // The whole screen is cleared once, then each line behind its end: it does not flicker.
                let clear = if first { "\x1b[2J" } else { "" };
                // The last row is the cursor's.
                let lines =
                    view.lines().take(rows.saturating_sub(1)).map(|line| format!("{}\x1b[K\n", cut(line, columns)));
                format!("{clear}\x1b[H{}\x1b[J", lines.collect::<String>())
            }
        })
    }
}

/// How wide the terminal is that standard output is; `None`: it is none.
pub fn columns() -> Option<usize> {
    size().map(|(columns, _)| columns)
}

fn size() -> Option<(usize, usize)> {
    let output = std::io::stdout();
    let size = output.is_terminal().then(|| rustix::termios::tcgetwinsize(&output).ok()).flatten()?;
    // Some terminals do not know.
    let known = |number: u16, usual: usize| if number == 0 { usual } else { number.into() };
    Some((known(size.ws_col, 80), known(size.ws_row, 24)))
}

fn cut(line: &str, columns: usize) -> &str {
    line.char_indices().nth(columns).map_or(line, |(end, _)| &line[..end])
}

/// An interval that was asked for.
pub fn interval(seconds: f64, field: &str) -> Result<Duration, Fault> {
    let interval = Duration::try_from_secs_f64(seconds).ok();
    interval.filter(|interval| (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(interval)).ok_or_else(
        || Fault::invalid("bad_interval", field, format!("{seconds} s is no interval"), "Write 0.1 to 3600 seconds."),
    )
}

/// What grew by so much in so long, per second.
pub fn per_second(before: u64, now: u64, elapsed: Duration) -> f64 {
    // What is smaller than before was counted by another run of the switch.
    now.saturating_sub(before) as f64 / elapsed.as_secs_f64().max(0.001)
}

/// A rate in at most five characters: "0.5", "999", "1.2k", "40.1M".
pub fn rate(rate: f64) -> String {
    if rate == 0.0 {
        return "0".to_owned();
    }
    if rate < 9.95 {
        return format!("{rate:.1}");
    }
    let (mut rate, mut unit) = (rate, "");
    for next in ["k", "M", "G", "T"] {
        if rate < 999.5 {
            break;
        }
        (rate, unit) = (rate / 1000.0, next);
    }
    if unit.is_empty() || rate >= 99.95 { format!("{rate:.0}{unit}") } else { format!("{rate:.1}{unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_short() {
        let shown = [0.0, 0.5, 9.9, 42.4, 999.4, 999.6, 1234.0, 40_100_000.0, 2e9, 123_456_789.0].map(rate);
        assert_eq!(shown, ["0", "0.5", "9.9", "42", "999", "1.0k", "1.2k", "40.1M", "2.0G", "123M"]);
    }

    #[test]
    fn a_counter_that_began_anew_has_no_rate() {
        assert_eq!(per_second(100, 150, Duration::from_secs(2)).to_string(), "25");
        assert_eq!(per_second(100, 3, Duration::from_secs(2)).to_string(), "0");
    }

    #[test]
    fn lines_are_cut_between_characters() {
        assert_eq!((cut("grün", 3), cut("grün", 4), cut("", 9)), ("grü", "grün", ""));
        assert!(interval(0.01, "--interval").is_err() && interval(f64::NAN, "").is_err() && interval(1.0, "").is_ok());
    }
}
