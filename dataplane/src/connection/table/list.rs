//! Lists of connections.

use super::Connections;
use crate::connection::ConnectionId;
use crate::connection::exchange::Filter;
use crate::connection::record::Record;

impl Connections {
    /// The connections a filter admits that are not past their deadline, in no order.
    pub fn iter<'a>(&'a self, filter: &'a Filter, now: u64) -> impl Iterator<Item = (ConnectionId, &'a Record)> + 'a {
        self.admitted(0..self.high, filter, now)
    }

    /// Likewise, but of at most `slots` slots from number `from` on, so that a long list does not hold up
    /// packets. Also gives where to go on, unless that was all.
    pub fn page<'a>(
        &'a self,
        filter: &'a Filter,
        now: u64,
        from: usize,
        slots: usize,
    ) -> (impl Iterator<Item = (ConnectionId, &'a Record)> + 'a, Option<usize>) {
        let from = from.min(self.high);
        let end = from.saturating_add(slots).min(self.high);
        (self.admitted(from..end, filter, now), (end < self.high).then_some(end))
    }

    fn admitted<'a>(
        &'a self,
        slots: std::ops::Range<usize>,
        filter: &'a Filter,
        now: u64,
    ) -> impl Iterator<Item = (ConnectionId, &'a Record)> + 'a {
        slots.clone().zip(&self.file.records()[slots]).filter_map(move |(slot, record)| {
            let wanted = record.is_live() && !self.is_past(record, now) && filter.admits(record);
            wanted.then_some((ConnectionId { index: slot as u32, generation: record.generation }, record))
        })
    }
}
