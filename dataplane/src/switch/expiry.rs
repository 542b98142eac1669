//! Rules that end by themselves, and who is told of removed ones.
//!
//! Workers know nothing of timeouts: from time to time ([`Switch::expire_rules`]) the rules whose time may have
//! come are looked at, and those whose has are removed by a commit like any other, so that caches stay right. A
//! rule's packets are counted in the workers' caches; before a rule is called idle these are asked. So a rule
//! never goes early; it goes late by the time between two looks, and by what waits before the commit.

use super::{State, Switch};
use crate::flow::message;
use crate::flow::rule::{Rule, RuleId, Timeout};
use crate::flow::tables::{Change, Committed};
use crate::limits::{EXPIRED_AT_ONCE, REMOVAL_LISTENERS, REMOVALS_KEPT};
use crate::worker::WorkerHandle;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use tokio::sync::broadcast;
use weft_proto::fault::Fault;
use weft_proto::v1::{self, RemovalReason};

/// The rules that end by themselves, by when each is to be looked at next. Rules that are gone by then stand in
/// it as well.
#[derive(Default)]
pub(super) struct Expiry(BinaryHeap<Reverse<Due>>);

struct Due {
    at: u64,
    rule: Arc<Rule>,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

impl Expiry {
    /// Looks at a rule when its time may have come.
    pub fn watch(&mut self, rule: Arc<Rule>) {
        if let Some((at, _)) = rule.end() {
            self.0.push(Reverse(Due { at, rule }));
        }
    }

    /// Rules that are kept.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Some of the rules to be looked at by `now`.
    fn take(&mut self, now: u64) -> Vec<Arc<Rule>> {
        let mut due = Vec::new();
        while due.len() < EXPIRED_AT_ONCE
            && self.0.peek().is_some_and(|Reverse(next)| next.at <= now)
            && let Some(Reverse(next)) = self.0.pop()
        {
            due.push(next.rule);
        }
        due
    }

    /// Forgets rules that are gone, once they are most of what is kept.
    fn tidy(&mut self, rules: usize, is_there: impl Fn(&Arc<Rule>) -> bool) {
        if self.0.len() > 2 * rules + EXPIRED_AT_ONCE {
            self.0.retain(|Reverse(due)| is_there(&due.rule));
        }
    }
}

/// Who is told of removed rules. What waits for a listener that does not keep up is bounded; it is told how many
/// messages it missed.
pub struct Removals(broadcast::Sender<v1::FlowRemoved>);

impl Default for Removals {
    fn default() -> Self {
        Self(broadcast::Sender::new(REMOVALS_KEPT))
    }
}

impl Removals {
    /// Enrols a listener; dropping the receiver ends it.
    ///
    /// # Errors
    /// There are [`REMOVAL_LISTENERS`] already.
    pub fn listen(&self) -> Result<broadcast::Receiver<v1::FlowRemoved>, Fault> {
        if self.0.receiver_count() >= REMOVAL_LISTENERS {
            return Err(Fault::invalid(
                "too_many_listeners",
                "",
                format!("{REMOVAL_LISTENERS} programs are listening for removed rules already"),
                "End one of them first.",
            )
            .with_status(tonic::Code::ResourceExhausted));
        }
        Ok(self.0.subscribe())
    }
}

impl Switch {
    /// Where listeners for removed rules enrol.
    #[must_use]
    pub fn removals(&self) -> &Removals {
        &self.removals
    }

    /// Removes the rules whose time has come at `now`, microseconds of [`crate::clock`]; gives how many. Called
    /// several times a second. Blocks.
    ///
    /// # Panics
    /// If a thread panicked under one of the switch's locks.
    pub fn expire_rules(&self, now: u64) -> usize {
        let mut state = self.state();
        let due = state.expiry.take(now);
        if due.is_empty() {
            return 0;
        }
        // For when a packet used them last.
        self.settle_counters();
        let mut reasons: HashMap<RuleId, RemovalReason> = HashMap::new();
        for rule in due.into_iter().filter(|rule| self.tables.has(rule)) {
            match rule.end() {
                Some((at, _)) if at > now => state.expiry.watch(rule),
                Some((_, timeout)) => {
                    let reason = match timeout {
                        Timeout::Idle => RemovalReason::IdleTimeout,
                        Timeout::Hard => RemovalReason::HardTimeout,
                    };
                    reasons.insert(rule.id.clone(), reason);
                }
                None => {}
            }
        }
        if reasons.is_empty() {
            return 0;
        }
        let change = Change { remove: reasons.keys().cloned().collect(), ..Change::default() };
        match self.tables.commit(change) {
            Ok(done) => {
                self.settle_lives(&mut state, &done, |id| reasons.get(id).copied());
                done.removed
            }
            Err(fault) => {
                tracing::error!(%fault, "rules whose time has come cannot be removed");
                0
            }
        }
    }

    /// Brings rules' counters up to date.
    fn settle_counters(&self) {
        self.workers.read().expect("no panic under this lock").iter().for_each(WorkerHandle::settle);
    }

    /// After a commit: follows the rules that end by themselves, and tells of those that are gone; `reason` of
    /// those that nobody deleted.
    pub(super) fn settle_lives(
        &self,
        state: &mut State,
        done: &Committed,
        reason: impl Fn(&RuleId) -> Option<RemovalReason>,
    ) {
        if !done.timed.is_empty() {
            state.expiry.tidy(self.tables.count(), |rule| self.tables.has(rule));
            done.timed.iter().cloned().for_each(|rule| state.expiry.watch(rule));
        }
        if done.told.is_empty() || self.removals.0.receiver_count() == 0 {
            return;
        }
        // No worker uses them any more, but some may still have counts of theirs.
        self.settle_counters();
        let now = crate::clock::now();
        for rule in &done.told {
            let (packets, bytes) = rule.counters.read();
            // Whether somebody listened to the last moment does not matter.
            let _ = self.removals.0.send(v1::FlowRemoved {
                rule: Some(message::to_message(rule)),
                reason: reason(&rule.id).unwrap_or(RemovalReason::Delete).into(),
                duration_milliseconds: now.saturating_sub(rule.created) / 1000,
                packets,
                bytes,
                missed: 0,
            });
        }
    }
}
