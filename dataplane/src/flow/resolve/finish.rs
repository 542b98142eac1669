//! The end of a walk: everything it kept account of, made one result.

use super::{Resolution, Walk, all_ones};
use crate::drop::DropReason;
use crate::flow::effect::Effect;
use crate::flow::key::{FlowKey, PACKET_WORDS};
use crate::flow::log::Passed;

impl Walk<'_> {
    pub(super) fn finish(mut self, verdict: Result<(), DropReason>) -> Resolution {
        let mut moves = Vec::new();
        let mut drop = self.close(verdict, 0);
        if let Some(owner) = self.owner {
            moves = std::mem::take(&mut self.records);
            // What moves now is not met here again: the next packet's walk is another one.
            self.cacheable = moves.is_empty() && self.contents.quoted.is_none() && self.contents.fragment.is_none();
            self.effects = vec![Effect::HandOver(owner)];
            drop = None;
            // The owner counts the packet, and does everything to it.
            (self.rules, self.counted, self.missed) = Default::default();
            (self.tracks, self.watched, self.commits) = Default::default();
        }
        if self.decremented && self.consulted.ip_ttl != 0 {
            self.consulted.ip_ttl = 0xff;
        }
        let mut stable = FlowKey::ZERO;
        stable.union_except(&self.consulted, &self.changed);
        // Pipeline fields start from zero for every packet: nothing to match.
        let mut from_packet = self.consulted;
        from_packet.words_mut()[PACKET_WORDS..].fill(0);
        Resolution {
            consulted: from_packet,
            stable,
            passed: self.passed(),
            effects: self.effects,
            rules: self.rules,
            counted: self.counted,
            missed: self.missed,
            drop,
            tracks: self.tracks,
            watched: self.watched,
            commits: self.commits,
            refused: self.refused,
            owner: self.owner,
            moves,
            cacheable: self.cacheable,
            back: self.back,
            fragment: self.fragment,
            early: self.early,
            hops: self.hops,
            transport: self.contents.transport,
            branches: self.branches + self.branches_repeated,
            copies: self.copies,
        }
    }

    /// Tables and topology that the walk has passed.
    pub(super) fn passed(&self) -> Vec<Passed> {
        let tables = self.tables.iter().map(|passed| Passed {
            table: passed.table,
            partition: (passed.written || all_ones(self.consulted.field(passed.field))).then_some(passed.partition),
            others: false,
        });
        tables.chain(self.topology.iter().copied()).chain(self.others.iter().copied()).collect()
    }
}
