//! What passed each table, as OpenFlow counts it: packets looked up, and those of them that a rule matched. Cached
//! packets are not looked up in fact; they count as if each had been, by the way that their program was made of.
//! Each worker keeps its own.

use super::rule::Rule;
use std::sync::Arc;

/// Packets of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableCounts {
    /// That a rule matched.
    pub matched: u64,
    /// That none did.
    pub missed: u64,
}

/// Of all tables, by number.
pub struct TableStatistics(Box<[TableCounts; 256]>);

impl Default for TableStatistics {
    fn default() -> Self {
        Self(Box::new([TableCounts::default(); 256]))
    }
}

impl TableStatistics {
    /// Counts packets that passed these rules, and found none in these tables.
    pub fn count(&mut self, rules: &[Arc<Rule>], missed: &[u8], packets: u64) {
        for rule in rules {
            self.0[usize::from(rule.id.table)].matched += packets;
        }
        for &table in missed {
            self.0[usize::from(table)].missed += packets;
        }
    }

    /// Tables that packets passed.
    #[must_use]
    pub fn counts(&self) -> Vec<(u8, TableCounts)> {
        let counts = (0..=u8::MAX).zip(self.0.iter().copied());
        counts.filter(|(_, counts)| *counts != TableCounts::default()).collect()
    }
}
