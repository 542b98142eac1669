//! Who may walk the tables: deficit round robin over ingress ports. Each gets an equal share of a round's
//! walks, and keeps what it does not use up to a full batch.

use crate::limits::MISSES_PER_BATCH;

/// How many walks a port may still cause.
#[derive(Clone, Copy)]
pub(super) struct Credit {
    walks: usize,
    round: u64,
}

impl Default for Credit {
    fn default() -> Self {
        Self { walks: MISSES_PER_BATCH, round: 0 }
    }
}

impl Credit {
    /// Whether one more walk is allowed in this round, which `active` queues share; it is then spent.
    pub fn spend(&mut self, round: u64, active: usize) -> bool {
        let share = (MISSES_PER_BATCH / active).max(1);
        let rounds = usize::try_from(round - self.round).unwrap_or(usize::MAX);
        self.walks = self.walks.saturating_add(rounds.saturating_mul(share)).min(MISSES_PER_BATCH);
        self.round = round;
        let allowed = self.walks > 0;
        self.walks = self.walks.saturating_sub(1);
        allowed
    }
}
