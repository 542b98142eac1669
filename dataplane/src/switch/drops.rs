//! `ListDrops`: what went nowhere, by reason, port and rule. Workers count by port; of the reasons that rules give,
//! the rules' own counters say which rule it was, and their cookies' origins which object.

use super::{State, Switch};
use crate::drop::DropReason;
use crate::flow::action::{Action, Instructions};
use crate::flow::rule::Rule;
use crate::flow::trace::rule_state;
use std::collections::BTreeMap;
use std::sync::Arc;
use weft_proto::v1;

/// Rules that are named of each reason; and if everything is asked for.
const NAMED_RULES: usize = 5;
/// See [`NAMED_RULES`].
const DUMPED_RULES: usize = 1000;

impl Switch {
    /// `ListDrops`, the most frequent reason first. Drops of ports that are gone stand under port 0.
    #[must_use]
    pub fn drops(&self, request: &v1::ListDropsRequest) -> v1::ListDropsReply {
        let totals = self.totals();
        let time_microseconds = self.started.elapsed().as_micros() as u64;
        let mut rules = self.dropping_rules();
        let state = self.state();
        let mut counts = state.ports.by_reason(&totals.drops);
        let mut unsent = state.ports.by_reason(&totals.unsent);
        let mut branches = state.ports.by_reason(&totals.branches);
        for port in state.ports.iter() {
            let missed = port.device.as_ref().map_or(0, |device| device.missed());
            if missed > 0 {
                counts.entry(DropReason::RingOverrun).or_default().insert(port.spec.number, missed);
            }
        }
        let unanswered = self.punts.destinations.unanswered(crate::clock::now());
        if unanswered > 0 {
            unsent.entry(DropReason::DestinationUnanswered).or_default().insert(0, unanswered);
        }
        let elsewhere = |reason| unsent.contains_key(reason) || branches.contains_key(reason);
        let shown = DropReason::ALL.iter().filter(|reason| request.all || elsewhere(reason));
        for &reason in shown {
            counts.entry(reason).or_default();
        }
        let by_port = |counts: BTreeMap<u32, u64>| {
            let name = |port| state.ports.get(port).map(|port| port.spec.name.clone()).unwrap_or_default();
            let drops = counts.into_iter().map(|(port, packets)| v1::PortDrops { port, name: name(port), packets });
            let mut drops: Vec<v1::PortDrops> = drops.collect();
            drops.sort_by_key(|port| std::cmp::Reverse(port.packets));
            drops
        };
        let mut drops: Vec<v1::DropCount> = counts
            .into_iter()
            .map(|(reason, received)| {
                let shown = if request.all { DUMPED_RULES } else { NAMED_RULES };
                let mut rules = rules.remove(&reason).unwrap_or_default();
                let others = rules.split_off(rules.len().min(shown));
                v1::DropCount {
                    reason: reason.word().to_owned(),
                    meaning: reason.meaning().to_owned(),
                    packets: received.values().sum(),
                    ports: by_port(received),
                    unsent: by_port(unsent.remove(&reason).unwrap_or_default()),
                    branches: by_port(branches.remove(&reason).unwrap_or_default()),
                    rules: rules.iter().map(|(rule, _)| self.named(&state, rule)).collect(),
                    other_rules: others.len() as u64,
                    other_rule_packets: others.iter().map(|(_, packets)| packets).sum(),
                }
            })
            .collect();
        drops.sort_by_key(|drop| std::cmp::Reverse(drop.packets));
        v1::ListDropsReply { drops, time_microseconds }
    }

    /// Rules that drop and have matched packets, by reason, the busiest first, with their packets.
    fn dropping_rules(&self) -> BTreeMap<DropReason, Vec<(Arc<Rule>, u64)>> {
        let mut rules: BTreeMap<DropReason, Vec<(Arc<Rule>, u64)>> = BTreeMap::new();
        for rule in self.tables.rules(|rule| drops_under(&rule.instructions).is_some() && rule.counters.read().0 > 0) {
            if let Some(reason) = drops_under(&rule.instructions) {
                let packets = rule.counters.read().0;
                rules.entry(reason).or_default().push((rule, packets));
            }
        }
        rules.values_mut().for_each(|rules| rules.sort_by_key(|(_, packets)| std::cmp::Reverse(*packets)));
        rules
    }

    fn named(&self, state: &State, rule: &Rule) -> v1::RuleState {
        let name = self.tables.table_name(rule.id.table);
        let origin = state.origins.text(rule.cookie).to_owned();
        v1::RuleState { origin, ..rule_state(rule, &name, crate::clock::now()) }
    }
}

/// The reason under which a rule drops what it matches.
fn drops_under(instructions: &Instructions) -> Option<DropReason> {
    let Instructions { apply, write, goto, .. } = instructions;
    if apply.is_empty() && write.is_empty() && goto.is_none() {
        return Some(DropReason::NoOutput);
    }
    apply.iter().chain(write).find_map(Action::drops)
}
