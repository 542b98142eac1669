//! The walk of a packet, written down for a person. It observes the same walk that the worker does.

use super::action::Action;
use super::effect::Effect;
use super::key::FlowKey;
use super::message;
use super::resolve::{Observer, Resolution};
use super::rule::Rule;
use super::state::FlowState;
use crate::drop::DropReason;
use crate::topology::Topology;
use std::sync::Arc;
use weft_proto::v1;

/// Tables searched, in order, with the rule found.
#[derive(Default)]
pub struct Trace {
    steps: Vec<(u8, Option<Arc<Rule>>)>,
}

impl Observer for Trace {
    fn searched(&mut self, table: u8, rule: Option<&Arc<Rule>>) {
        self.steps.push((table, rule.cloned()));
    }
}

/// A rule with its counters; `origin` is left for who knows the cookies.
#[must_use]
pub fn rule_state(rule: &Rule, table_name: &str, now: u64) -> v1::RuleState {
    let (packets, bytes) = rule.counters.read();
    v1::RuleState {
        rule: Some(message::to_message(rule)),
        packets,
        bytes,
        age_seconds: now.saturating_sub(rule.created) / 1_000_000,
        origin: String::new(),
        table_name: table_name.to_owned(),
    }
}

impl Trace {
    /// The walk and its result as a message.
    #[must_use]
    pub fn reply(
        &self,
        state: &FlowState,
        key: &FlowKey,
        topology: &Topology,
        resolution: &Resolution,
    ) -> v1::TraceReply {
        let now = crate::clock::now();
        let steps = self.steps.iter().map(|(table, rule)| {
            let settings = state.table(*table).and_then(|table| table.settings.as_ref());
            let table_name = settings.map_or_else(String::new, |settings| settings.name.to_string());
            let rule = rule.as_ref().map(|rule| rule_state(rule, &table_name, now));
            v1::TraceStep { table: (*table).into(), table_name, rule }
        });
        // The program checks the TTL when it runs; a trace knows the packet's and can say so.
        let mut effects = Vec::new();
        let mut ttl = key.ip_ttl;
        let mut drop = resolution.drop;
        for effect in &resolution.effects {
            if let Effect::Action { action: Action::DecTtl, .. } = effect {
                if ttl <= 1 {
                    drop = Some(DropReason::TtlExpired);
                    break;
                }
                ttl -= 1;
            }
            effects.extend(effect.to_messages(topology));
        }
        v1::TraceReply {
            steps: steps.collect(),
            effects,
            drop_reason: drop.map(|reason| reason.word().to_owned()).unwrap_or_default(),
            drop_meaning: drop.map(|reason| reason.meaning().to_owned()).unwrap_or_default(),
            consulted: message::matches(key, &resolution.consulted),
        }
    }
}
