//! Branches of a walk: each goes its way with a copy of the packet and all that was found out on the way to the
//! fork; then who forked goes on as if nothing had been.
//!
//! What `ct` found on a way holds (a connection begins, or is kept alive) if that way sends something in the end:
//! by an output of its own, or by a branch that forked after the `ct`. So it is kept as [`Pending`] until the way
//! ends. What a way that goes nowhere has seen is still something that the result depends on.
//!
//! Bounded: branches of one walk, and how deep they nest.

use super::{Observer, Walk};
use crate::connection::{Prepared, Track};
use crate::drop::DropReason;
use crate::flow::action::CloneAction;
use crate::flow::effect::{Branch, BucketName, Effect};
use crate::flow::rule::Rule;
use crate::limits::{BRANCH_DEPTH, BRANCHES_PER_WALK};
use std::sync::Arc;

/// What a `ct` found, until it is known whether the way on which it did ends in nothing.
pub(super) struct Pending {
    /// How many effects the way had before.
    pub at: usize,
    pub what: Found,
}

pub(super) enum Found {
    /// A connection the packet belongs to.
    Track(Track),
    /// A connection that it would begin.
    Begins(Box<Prepared>),
    /// A zone that a commit was asked for.
    Committed(u32),
}

impl Walk<'_> {
    /// `clone`: the actions, and the walk from its table on.
    pub(super) fn clone_action(
        &mut self,
        clone: &CloneAction,
        rule: &Arc<Rule>,
        observer: &mut impl Observer,
    ) -> Result<(), DropReason> {
        self.branch(None, observer, |walk, observer| {
            for action in &clone.actions {
                walk.apply(action, rule, observer)?;
            }
            clone.goto.map_or(Ok(()), |table| walk.run(table, observer))
        })
    }

    /// Walks a branch. An error ends the way that forks, too.
    pub(super) fn branch<O: Observer>(
        &mut self,
        of: Option<BucketName>,
        observer: &mut O,
        way: impl FnOnce(&mut Self, &mut O) -> Result<(), DropReason>,
    ) -> Result<(), DropReason> {
        if self.branches >= BRANCHES_PER_WALK || self.depth >= BRANCH_DEPTH {
            return Err(DropReason::BranchLimit);
        }
        self.branches += 1;
        self.depth += 1;
        observer.forks();
        let (key, written, contents, suppressed) = (self.key, self.written, self.contents, self.suppressed);
        let deeper_tags = self.deeper_tags.clone();
        let (zones, translated, begun) = (self.zones.len(), self.translated.len(), self.begun.len());
        let (knows_first, pending) = (self.first.is_some(), self.pending.len());
        let set = std::mem::take(&mut self.set);
        let before = std::mem::take(&mut self.effects);
        self.suppressed = false;

        let verdict = way(self, observer);

        if self.over {
            self.effects = before;
            return verdict.and(Err(DropReason::NoOutput));
        }
        let suppressed_all = self.suppressed && verdict.is_ok();
        let drop = self.close(verdict, pending);
        let effects = std::mem::replace(&mut self.effects, before);
        // That what is for everybody does not go back to who sent it is no drop.
        let elided = suppressed_all && effects.is_empty();
        observer.joins(drop.filter(|_| !elided));
        if !elided {
            self.effects.push(Effect::Branch(Box::new(Branch { of, effects, drop })));
        }
        self.depth -= 1;
        (self.key, self.written, self.contents, self.suppressed) = (key, written, contents, suppressed);
        (self.deeper_tags, self.set) = (deeper_tags, set);
        self.zones.truncate(zones);
        self.translated.truncate(translated);
        self.begun.truncate(begun);
        if !knows_first {
            // Of a later fragment that a branch has found the first one of, everybody knows it from then on.
            self.follow();
        }
        Ok(())
    }

    /// A way ends, with all that is pending from `from` on: settles what holds of it. Gives why it goes nowhere, if
    /// so.
    pub(super) fn close(&mut self, verdict: Result<(), DropReason>, from: usize) -> Option<DropReason> {
        let own = self.effects.iter().any(|effect| !matches!(effect, Effect::Branch(_)) && effect.sends());
        let last = self.effects.iter().rposition(Effect::sends);
        for Pending { at, what } in self.pending.drain(from..) {
            let holds = own || last.is_some_and(|last| last >= at);
            match what {
                Found::Track(track) if holds => add(&mut self.tracks, track),
                Found::Track(track) => add(&mut self.watched, track),
                Found::Begins(prepared) if holds => self.commits.push(*prepared),
                Found::Committed(zone) if holds => self.committed.push(zone),
                Found::Begins(_) | Found::Committed(_) => {}
            }
        }
        let lost = self.effects.iter().find_map(|effect| match effect {
            Effect::Branch(branch) => Some(branch.drop),
            _ => None,
        });
        let undeliverable = self.effects.iter().find_map(|effect| match effect {
            Effect::Undeliverable { reason, .. } => Some(*reason),
            _ => None,
        });
        if let (Err(reason), Some(_), false) = (verdict, lost, own)
            && !self.effects.last().is_some_and(Effect::refuses)
        {
            // Of the ways that the packet goes this one is a drop, to be counted as the branches' are.
            self.effects.push(Effect::Branch(Box::new(Branch { of: None, effects: Vec::new(), drop: Some(reason) })));
        }
        // What comes after the last consumer would be done to nothing.
        while self.effects.last().is_some_and(|last| !(last.consumes() || last.teaches() || last.explains())) {
            self.effects.pop();
        }
        let why = || lost.flatten().or(verdict.err()).or(undeliverable).unwrap_or_else(|| self.without_output());
        last.is_none().then(why)
    }
}

/// Each once: of a connection that several branches belong to, the packet is one packet.
fn add(tracks: &mut Vec<Track>, track: Track) {
    if !tracks.contains(&track) {
        tracks.push(track);
    }
}
