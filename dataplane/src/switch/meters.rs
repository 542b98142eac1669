//! The switch's meters: which there are, and how their rates are shared out among the workers (`meter.rs`).

use super::{State, Switch};
use crate::flow::rule::{Owner, Rule, RuleId};
use crate::flow::tables::Tables;
use crate::limits::METERS;
use crate::meter::{self, Meter, MeterCounters};
use crate::worker::WorkerHandle;
use std::collections::{BTreeMap, HashSet};
use tonic::Code;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// A meter of the switch.
#[derive(Clone)]
pub(super) struct Metered {
    pub meter: Meter,
    /// Microseconds of [`crate::clock`].
    created: u64,
    /// Each worker's part of the rate.
    parts: Vec<f64>,
    /// Packets that had come to each worker when the rate was last shared out.
    came: Vec<u64>,
}

/// By number.
pub(super) type Meters = BTreeMap<u32, Metered>;

/// The meters after a bundle of `owner` that adds and removes these rules; `None`: as they are.
///
/// # Errors
/// What is wrong with the bundle's meters, or a rule that names one that does not exist (any more).
pub(super) fn plan(
    bundle: &v1::Bundle,
    owner: Owner,
    replace: bool,
    state: &State,
    tables: &Tables,
    (add, remove): (&[Rule], &[RuleId]),
) -> Result<Option<BTreeMap<u32, Meter>>, Fault> {
    let changes = !bundle.set_meters.is_empty() || !bundle.remove_meters.is_empty();
    if owner == Owner::Fabric {
        if changes {
            let problem = "meters are made by hand";
            return Err(Fault::invalid("not_the_owner", "set_meters", problem, "Leave them out.")
                .with_status(Code::PermissionDenied));
        }
        if let Some(index) = add.iter().position(|rule| !rule.instructions.meters().is_empty()) {
            let (field, problem) = (format!("add_rules[{index}].instructions"), "a rule of the fabric names a meter");
            return Err(Fault::invalid("not_the_owner", field, problem, "Meters are for hand-made rules."));
        }
        return Ok(None);
    }
    let before: BTreeMap<u32, Meter> = state.meters.iter().map(|(&number, metered)| (number, metered.meter)).collect();
    let mut after = if replace { BTreeMap::new() } else { before.clone() };
    for (index, &number) in bundle.remove_meters.iter().enumerate() {
        if after.remove(&number).is_none() && !replace {
            let problem = format!("there is no meter {number}");
            let field = format!("remove_meters[{index}]");
            return Err(Fault::invalid("unknown_meter", field, problem, "See \"weft meters dump\".")
                .with_status(Code::NotFound));
        }
    }
    for (index, message) in bundle.set_meters.iter().enumerate() {
        let meter = Meter::from_message(message).map_err(|fault| fault.within(&format!("set_meters[{index}]")))?;
        after.insert(meter.number, meter);
    }
    if after.len() > METERS {
        let problem = format!("the switch would have more than {METERS} meters");
        return Err(Fault::invalid("limit_exceeded", "set_meters", problem, "Remove meters first.")
            .with_status(Code::ResourceExhausted));
    }
    for (index, rule) in add.iter().enumerate() {
        if let Some(number) = rule.instructions.meters().into_iter().find(|number| !after.contains_key(number)) {
            let problem = format!("there is no meter {number}");
            let remedy = format!("Make it first: weft meters add HOST meter={number},kbps,rate=1000");
            let field = format!("add_rules[{index}].instructions");
            return Err(Fault::invalid("unknown_meter", field, problem, remedy).with_status(Code::NotFound));
        }
    }
    let gone: HashSet<u32> = before.keys().filter(|number| !after.contains_key(number)).copied().collect();
    if !gone.is_empty() && !replace {
        let changed: HashSet<&RuleId> = remove.iter().chain(add.iter().map(|rule| &rule.id)).collect();
        let users = tables.rules(|rule| {
            rule.instructions.meters().iter().any(|number| gone.contains(number)) && !changed.contains(&rule.id)
        });
        if let Some(user) = users.first() {
            let number =
                user.instructions.meters().into_iter().find(|number| gone.contains(number)).unwrap_or_default();
            let problem = format!(
                "meter {number} is named by {} rule{}, the first one of table {}, priority {}",
                users.len(),
                if users.len() == 1 { "" } else { "s" },
                user.id.table,
                user.id.priority
            );
            return Err(Fault::invalid("meter_in_use", "remove_meters", problem, "Remove or change the rules first.")
                .with_status(Code::FailedPrecondition));
        }
    }
    Ok((after != before).then_some(after))
}

impl Switch {
    /// Gives the workers the meters of `state`, and for as long as rules may still name them those that go.
    pub(super) fn give_meters(&self, meters: &Meters) {
        for (number, worker) in self.workers.read().expect("no panic under this lock").iter().enumerate() {
            let part = |metered: &Metered| metered.parts.get(number).copied().unwrap_or_default();
            worker.set_meters(meters.values().map(|metered| (metered.meter, part(metered))).collect());
        }
    }

    /// The meters of `before` after a change to `after`.
    pub(super) fn changed_meters(&self, before: &Meters, after: &BTreeMap<u32, Meter>) -> Meters {
        let workers = self.workers.read().expect("no panic under this lock").len();
        let metered = |(&number, &meter): (&u32, &Meter)| {
            let kept = before.get(&number).cloned();
            let new = || Metered {
                meter,
                created: crate::clock::now(),
                parts: meter::parts(&vec![0; workers]),
                came: vec![0; workers],
            };
            (number, Metered { meter, ..kept.unwrap_or_else(new) })
        };
        after.iter().map(metered).collect()
    }

    /// Shares the meters' rates out by what came to each worker since the last time. Called several times a
    /// second. Blocks.
    ///
    /// # Panics
    /// If a thread panicked under one of the switch's locks.
    pub fn share_meters(&self) {
        let mut state = self.state();
        if state.meters.is_empty() || self.workers.read().expect("no panic under this lock").len() < 2 {
            return;
        }
        for (worker, counters) in self.meter_counters().into_iter().enumerate() {
            for (number, counters) in counters {
                if let Some(metered) = state.meters.get_mut(&number) {
                    // For now what came since; then what had come.
                    metered.parts[worker] = counters.packets.saturating_sub(metered.came[worker]) as f64;
                    metered.came[worker] = counters.packets;
                }
            }
        }
        for metered in state.meters.values_mut() {
            let came: Vec<u64> = metered.parts.iter().map(|&came| came as u64).collect();
            metered.parts = meter::parts(&came);
        }
        self.give_meters(&state.meters);
    }

    /// By worker.
    fn meter_counters(&self) -> Vec<Vec<(u32, MeterCounters)>> {
        let workers = self.workers.read().expect("no panic under this lock");
        workers.iter().map(WorkerHandle::meter_counters).collect()
    }

    /// `ListMeters`.
    ///
    /// # Panics
    /// If a thread panicked under one of the switch's locks.
    #[must_use]
    pub fn meters(&self) -> v1::ListMetersReply {
        let state = self.state();
        let mut sums: BTreeMap<u32, MeterCounters> = BTreeMap::new();
        for (number, counters) in self.meter_counters().into_iter().flatten() {
            *sums.entry(number).or_default() += counters;
        }
        let mut rules: BTreeMap<u32, u64> = BTreeMap::new();
        if !state.meters.is_empty() {
            for rule in self.tables.rules(|rule| !rule.instructions.meters().is_empty()) {
                for number in rule.instructions.meters() {
                    *rules.entry(number).or_default() += 1;
                }
            }
        }
        let now = crate::clock::now();
        let meters = state.meters.iter().map(|(number, metered)| {
            let counters = sums.get(number).copied().unwrap_or_default();
            v1::MeterState {
                meter: Some(metered.meter.to_message()),
                rules: rules.get(number).copied().unwrap_or_default(),
                packets: counters.packets,
                bytes: counters.bytes,
                dropped_packets: counters.dropped_packets,
                dropped_bytes: counters.dropped_bytes,
                age_seconds: now.saturating_sub(metered.created) / 1_000_000,
            }
        });
        v1::ListMetersReply { meters: meters.collect() }
    }
}
