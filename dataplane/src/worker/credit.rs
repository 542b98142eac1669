//! Who may walk the tables: deficit round robin over ingress ports. Each gets an equal share of a round's
//! walks, and keeps what it does not use up to a full batch.

use crate::limits::{COMPARISONS_PER_WALK, MISSES_PER_BATCH};

const FULL: isize = (MISSES_PER_BATCH * COMPARISONS_PER_WALK) as isize;

/// What a port may still cause in walks and in checks of older entries, in comparisons with changes: a walk
/// costs [`COMPARISONS_PER_WALK`]. Below zero it owes.
#[derive(Clone, Copy)]
pub(super) struct Credit {
    comparisons: isize,
    round: u64,
}

impl Default for Credit {
    fn default() -> Self {
        Self { comparisons: FULL, round: 0 }
    }
}

impl Credit {
    /// Whether anything is left in this round, which `active` queues share.
    pub fn is_left(&mut self, round: u64, active: usize) -> bool {
        let share = (MISSES_PER_BATCH / active).max(1) * COMPARISONS_PER_WALK;
        let rounds = isize::try_from(round - self.round).unwrap_or(isize::MAX);
        self.comparisons = self.comparisons.saturating_add(rounds.saturating_mul(share as isize)).min(FULL);
        self.round = round;
        self.comparisons > 0
    }

    /// Charges the port.
    pub fn spend(&mut self, comparisons: usize) {
        self.comparisons -= comparisons as isize;
    }
}
