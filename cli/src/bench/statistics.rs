//! What pairs of measurements say about a ratio.

/// The middle of some numbers; of an even number of them, halfway between the two in the middle.
///
/// # Panics
/// If there are none.
pub fn median(numbers: &[f64]) -> f64 {
    let sorted = sorted(numbers);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// The interval that holds the true median with a probability of at least 90 %, whatever the distribution: from the
/// r-th smallest to the r-th largest number, r as large as the binomial distribution allows. Fewer than 5 numbers
/// give their range, which holds it with less.
///
/// # Panics
/// If there are none.
pub fn interval(numbers: &[f64]) -> (f64, f64) {
    let sorted = sorted(numbers);
    let count = sorted.len();
    // The median lies below the r-th smallest number if fewer than r of them are below it: each is with probability ½.
    let (mut rank, mut below, mut term) = (0, 0.0, 0.5_f64.powi(count as i32));
    while rank < count.div_ceil(2) {
        below += term;
        if 2.0 * below > 0.1 {
            break;
        }
        rank += 1;
        term *= (count - rank + 1) as f64 / rank as f64;
    }
    let first = rank.saturating_sub(1);
    (sorted[first], sorted[count - 1 - first])
}

fn sorted(numbers: &[f64]) -> Vec<f64> {
    assert!(!numbers.is_empty(), "there is something to sort");
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// What becomes of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Even the interval's upper end is good enough.
    Passes,
    /// Not even its lower end is.
    Fails,
    /// The interval is too wide to tell.
    Undecided,
}

impl Verdict {
    /// Of a ratio that should be at most so much.
    pub fn of((low, high): (f64, f64), at_most: f64) -> Self {
        if high <= at_most {
            Self::Passes
        } else if low > at_most {
            Self::Fails
        } else {
            Self::Undecided
        }
    }

    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Passes => "passes",
            Self::Fails => "fails",
            Self::Undecided => "undecided",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_intervals() {
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 2.0, 3.0])), (2.0, 2.5));
        let numbers: Vec<f64> = (1..=11).rev().map(f64::from).collect();
        // P(at most 2 of 11 coins) = 67 / 2048 = 3.3 %, twice that is below 10 %; with 3 it is 11.3 % each.
        assert_eq!(interval(&numbers), (3.0, 9.0));
        // 1 / 32 each; 6 / 32 is too much.
        assert_eq!(interval(&[5.0, 4.0, 3.0, 2.0, 1.0]), (1.0, 5.0));
        assert_eq!(interval(&[1.0]), (1.0, 1.0));
    }

    #[test]
    fn verdicts_want_the_whole_interval_on_one_side() {
        assert_eq!(Verdict::of((0.3, 0.5), 0.5), Verdict::Passes);
        assert_eq!(Verdict::of((0.3, 0.6), 0.5), Verdict::Undecided);
        assert_eq!(Verdict::of((0.51, 0.6), 0.5), Verdict::Fails);
    }
}
