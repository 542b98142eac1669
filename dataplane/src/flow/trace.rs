//! The walk of a packet, written down for a person. It observes the same walk that the worker does.

use super::action::Action;
use super::effect::Effect;
use super::key::FlowKey;
use super::message;
use super::resolve::{Back, Observer, Packet, Resolution};
use super::rule::Rule;
use super::state::FlowState;
use crate::drop::DropReason;
use crate::topology::Topology;
use std::sync::Arc;
use weft_proto::v1;

/// Tables searched, in order, with the rule found.
#[derive(Default)]
pub struct Trace {
    steps: Vec<Step>,
    depth: u32,
}

struct Step {
    table: u8,
    rule: Option<Arc<Rule>>,
    depth: u32,
    /// Why the branch goes nowhere of which this is the last step.
    drop: Option<DropReason>,
}

impl Observer for Trace {
    fn searched(&mut self, table: u8, rule: Option<&Arc<Rule>>) {
        self.steps.push(Step { table, rule: rule.cloned(), depth: self.depth, drop: None });
    }

    fn forks(&mut self) {
        self.depth += 1;
    }

    fn joins(&mut self, drop: Option<DropReason>) {
        if let Some(last) = self.steps.last_mut().filter(|last| last.depth == self.depth) {
            last.drop = drop;
        }
        self.depth -= 1;
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
        idle_seconds: rule.counters.used().map(|used| now.saturating_sub(used) / 1_000_000),
    }
}

impl Trace {
    /// The walk and its result as a message.
    #[must_use]
    pub fn reply(
        &self,
        state: &FlowState,
        packet: &Packet<'_>,
        topology: &Topology,
        resolution: &Resolution,
    ) -> v1::TraceReply {
        let (key, now) = (packet.key, crate::clock::now());
        let steps = self.steps.iter().map(|step| {
            let settings = state.table(step.table).and_then(|table| table.settings.as_ref());
            let table_name = settings.map_or_else(String::new, |settings| settings.name.to_string());
            let rule = step.rule.as_ref().map(|rule| rule_state(rule, &table_name, now));
            let drop_reason = step.drop.map(|reason| reason.word().to_owned()).unwrap_or_default();
            v1::TraceStep { table: step.table.into(), table_name, rule, depth: step.depth, drop_reason }
        });
        let mut shown = Shown { packet, topology, resolution, copies: resolution.copies.iter() };
        let (effects, drop) = shown.effects(&resolution.effects, resolution.drop, key.ip_ttl);
        v1::TraceReply {
            steps: steps.collect(),
            effects,
            drop_reason: drop.map(|reason| reason.word().to_owned()).unwrap_or_default(),
            drop_meaning: drop.map(|reason| reason.meaning().to_owned()).unwrap_or_default(),
            consulted: message::matches(key, &resolution.consulted),
            // A packet that is dropped begins nothing.
            begins: match drop {
                None => resolution.commits.iter().map(message::connection::begun).collect(),
                Some(_) => Vec::new(),
            },
        }
    }
}

/// What a trace shows of a walk.
struct Shown<'a> {
    packet: &'a Packet<'a>,
    topology: &'a Topology,
    resolution: &'a Resolution,
    /// Of outputs that are not shown yet.
    copies: std::slice::Iter<'a, FlowKey>,
}

/// How many outputs there are, in branches too.
fn outputs(effects: &[Effect]) -> usize {
    let each = effects.iter().map(|effect| match effect {
        Effect::Branch(branch) => outputs(&branch.effects),
        Effect::Output { .. } | Effect::Tunnel(_) | Effect::Undeliverable { .. } => 1,
        Effect::Action { .. } | Effect::Translate(_) | Effect::TranslateOwn => 0,
        Effect::Neighbour(_) | Effect::HandOver(_) => 0,
    });
    each.sum()
}

impl Shown<'_> {
    /// The effects of one way, up to where a packet with this TTL is found to be dropped; and why it is.
    fn effects(
        &mut self,
        all: &[Effect],
        drop: Option<DropReason>,
        mut ttl: u8,
    ) -> (Vec<v1::Effect>, Option<DropReason>) {
        let mut effects = Vec::new();
        let mut sent = false;
        for (index, effect) in all.iter().enumerate() {
            let action = match effect {
                Effect::Branch(branch) => {
                    let (inner, lost) = self.effects(&branch.effects, branch.drop, ttl);
                    sent |= lost.is_none();
                    effects.push(branch.message(inner, lost));
                    continue;
                }
                Effect::Action { action, .. } => action,
                other => {
                    sent |= other.sends();
                    effects.extend(other.to_messages(self.topology));
                    if let Some(v1::Effect { effect: Some(v1::effect::Effect::Output(output)) }) = effects.last_mut() {
                        output.packet = self.copies.next().map(message::packet).unwrap_or_default();
                    }
                    continue;
                }
            };
            effects.extend(effect.to_messages(self.topology));
            let failed = fails(action, &mut ttl, self.packet.contents.size);
            if failed.is_some_and(|(_, answered)| answered) || action.consumes() {
                effects.extend(way_back(self.resolution, self.packet.key.port(), self.topology, action));
            }
            if let Some((reason, _)) = failed {
                // What comes after it does not happen.
                let skipped = outputs(&all[index + 1..]);
                self.copies = self.copies.as_slice().get(skipped..).unwrap_or_default().iter();
                return (effects, (!sent).then_some(reason));
            }
            sent |= effect.sends();
        }
        (effects, drop)
    }
}

/// What the program would find out when it runs, and whether it would tell the sender: a trace knows the
/// packet's TTL, and its size if it was given whole.
fn fails(action: &Action, ttl: &mut u8, size: Option<(u16, bool)>) -> Option<(DropReason, bool)> {
    match action {
        Action::DecTtl { answer } if *ttl <= 1 => Some((DropReason::TtlExpired, answer.is_some())),
        Action::DecTtl { .. } => {
            *ttl -= 1;
            None
        }
        Action::CheckMtu { mtu, answer, fragment } => {
            let (bytes, whole) = size?;
            (bytes > *mtu && (whole || !fragment)).then_some((DropReason::TooBig, whole && answer.is_some()))
        }
        _ => None,
    }
}

/// Where an answer goes. That one leaves by the port the packet came in by goes without saying, unless the
/// packet is dropped: then it says that there is an answer.
fn way_back(resolution: &Resolution, in_port: u32, topology: &Topology, action: &Action) -> Vec<v1::Effect> {
    let effect = match &resolution.back {
        _ if !action.answers() => return Vec::new(),
        Some(Back::Tunnel(output)) => Effect::Tunnel(output.clone()),
        Some(Back::Nowhere(reason)) => Effect::Undeliverable { port: in_port, reason: *reason },
        Some(Back::Ingress) if action.answer().is_some() => match topology.ports.get(&in_port) {
            Some(info) => Effect::Output { port: in_port, slot: info.kind.slot() },
            None => Effect::Undeliverable { port: in_port, reason: DropReason::NoSuchPort },
        },
        _ => return Vec::new(),
    };
    effect.to_messages(topology)
}
