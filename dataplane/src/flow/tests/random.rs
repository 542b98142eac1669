//! The walk's account of itself, held against walks: random rules of every kind of match and action over
//! small values, so that they overlap, and packets that differ only where the walk says it did not look.
//!
//! Rules are made directly, not from text: what is consulted must be right whatever is matched.
//! Priorities are unique in a table: which of two rules of one rank wins is nobody's promise.

use super::{renew, rule, tables, topology, view};
use crate::drop::DropReason;
use crate::flow::action::{Action, CloneAction, Instructions, SetField};
use crate::flow::cache::{Cache, Found};
use crate::flow::effect::Effect;
use crate::flow::key::FlowKey;
use crate::flow::matched::Match;
use crate::flow::program::Program;
use crate::flow::resolve::{Resolution, Unobserved, resolve};
use crate::flow::rule::{Life, Owner, Rule, RuleCounters, RuleId, SetMatch};
use crate::flow::tables::{Change, SetChange, TableSettings, Tables};
use crate::topology::{Path, PortKind};
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;
use weft_proto::PORT_IN_PORT;
use weft_proto::v1::Field;

/// Of every section of the key; some share bytes.
const FIELDS: &[Field] = &[
    Field::InPort,
    Field::EthType,
    Field::EthDst,
    Field::VlanTci,
    Field::VlanInnerTci,
    Field::ArpSpa,
    Field::ArpSha,
    Field::Ipv4Src,
    Field::Ipv4Dst,
    Field::Ipv6Dst,
    Field::IpProto,
    Field::IpTos,
    Field::IpTtl,
    Field::IpFrag,
    Field::TcpSrc,
    Field::TcpDst,
    Field::IcmpType,
    Field::TcpFlags,
    Field::TunId,
    Field::TunSrc,
    Field::TunDst,
    Field::Metadata,
    Field::Reg0,
    Field::Reg1,
];
const TABLES: u8 = 4;

/// A field, which of its values, which of its masks.
type Operand = (prop::sample::Index, u8, u8);

/// Writes one of four values of a field under one of four masks.
fn put(value: &mut FlowKey, mask: &mut FlowKey, field: Field, which: u8, masked: u8) {
    let which = usize::from(which % 4);
    let small = |values: [u16; 4]| values[which].to_be_bytes();
    let place = value.field_mut(field);
    place.fill(0);
    match field {
        Field::EthType => place.copy_from_slice(&small([0x0800, 0x86dd, 0x0806, 0x88cc])),
        Field::VlanTci | Field::VlanInnerTci => place.copy_from_slice(&small([0, 0x1000, 0x1001, 0x3002])),
        Field::IpProto => place[0] = [6, 17, 1, 58][which],
        Field::IpTtl => place[0] = [1, 64, 65, 128][which],
        Field::IpFrag => place[0] = [0, 1, 3, 0][which],
        Field::TunDst => place.copy_from_slice(&[[0; 4], [10, 99, 0, 2], [10, 99, 0, 9], [10, 99, 0, 2]][which]),
        _ => *place.last_mut().unwrap() = which as u8,
    }
    let place = mask.field_mut(field);
    let last = place.len() - 1;
    match masked % 4 {
        0 | 1 => place.fill(0xff),
        2 => place[last] = 0x01,
        _ => (place[0], place[last]) = (0xf0, if last == 0 { 0xf0 } else { 0x02 }),
    }
    for (byte, mask) in value.field_mut(field).iter_mut().zip(mask.field(field)) {
        *byte &= mask;
    }
}

#[derive(Clone, Debug)]
enum Act {
    Output(u32),
    Set(Vec<Operand>),
    Push,
    Pop,
    DecTtl,
    Punt,
    Meter,
    Drop,
    Arp,
    /// With how many tables further on it goes on; 0: in none.
    Clone(Vec<Act>, u8),
}

fn act() -> impl Strategy<Value = Act> {
    let leaf = leaf().boxed();
    let nested = leaf.clone().prop_recursive(2, 8, 3, |inner| {
        let clone = (prop::collection::vec(inner.clone(), 0..3), 0..3_u8);
        prop_oneof![3 => inner, 2 => clone.prop_map(|(acts, onward)| Act::Clone(acts, onward))]
    });
    prop_oneof![4 => leaf, 1 => nested]
}

fn leaf() -> impl Strategy<Value = Act> {
    let ports = prop_oneof![4 => 1..10_u32, 2 => Just(20), 1 => Just(77), 1 => Just(PORT_IN_PORT)];
    prop_oneof![
        5 => ports.prop_map(Act::Output),
        6 => prop::collection::vec(any::<Operand>(), 1..4).prop_map(Act::Set),
        1 => Just(Act::Push),
        1 => Just(Act::Pop),
        2 => Just(Act::DecTtl),
        1 => Just(Act::Punt),
        1 => Just(Act::Meter),
        1 => Just(Act::Drop),
        1 => Just(Act::Arp),
    ]
}

fn action(act: &Act, table: u8) -> Option<Action> {
    Some(match act {
        Act::Output(port) => Action::Output(*port),
        Act::Set(operands) => {
            let mut set = SetField { value: FlowKey::ZERO, mask: FlowKey::ZERO, fields: Vec::new() };
            for (index, which, masked) in operands {
                let field = *index.get(FIELDS);
                if weft_proto::field::info(field).unwrap().writable {
                    let mut one = SetField { value: FlowKey::ZERO, mask: FlowKey::ZERO, fields: vec![field] };
                    put(&mut one.value, &mut one.mask, field, *which, *masked);
                    set.merge(&one);
                }
            }
            if set.fields.is_empty() {
                return None;
            }
            Action::SetField(Arc::new(set))
        }
        Act::Push => Action::PushVlan(0x8100),
        Act::Pop => Action::PopVlan,
        Act::DecTtl => Action::DecTtl { answer: None },
        Act::Punt => Action::Punt { max_length: 60, reason: 1 },
        Act::Meter => Action::Meter(1),
        Act::Drop => Action::Drop(DropReason::Policy),
        Act::Arp => Action::ArpReply([2, 0, 0, 0, 0, 1]),
        Act::Clone(acts, onward) => {
            let actions = acts.iter().filter_map(|act| action(act, table)).collect();
            Action::Clone(Arc::new(CloneAction { actions, goto: goto(table, *onward) }))
        }
    })
}

#[derive(Clone, Debug)]
struct Behaviour {
    apply: Vec<Act>,
    write: Vec<Act>,
    clear: bool,
    metadata: Option<(u8, u8)>,
    onward: u8,
}

#[derive(Clone, Debug)]
struct Plan {
    table: u8,
    matches: Vec<Operand>,
    /// Also matches a set: field and name.
    set: Option<(bool, bool)>,
    behaviour: Behaviour,
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    let few = |most| prop::collection::vec(act(), 0..most);
    (few(4), few(3), prop::bool::weighted(0.1), prop::option::weighted(0.2, any::<(u8, u8)>()), 0..5_u8)
        .prop_map(|(apply, write, clear, metadata, onward)| Behaviour { apply, write, clear, metadata, onward })
}

fn plan() -> impl Strategy<Value = Plan> {
    let matches = prop::collection::vec(any::<Operand>(), 0..4);
    (
        prop_oneof![3 => Just(0), 3 => Just(1), 2 => Just(2), 2 => Just(3)],
        matches,
        prop::option::weighted(0.1, any::<(bool, bool)>()),
        behaviour(),
    )
        .prop_map(|(table, matches, set, behaviour)| Plan { table, matches, set, behaviour })
}

fn goto(table: u8, onward: u8) -> Option<u8> {
    let next = table + onward;
    (next > table && next < TABLES).then_some(next)
}

/// The rule of a plan, with the instructions of another.
fn build(priority: usize, plan: &Plan, behaviour: &Behaviour) -> Rule {
    let (mut value, mut mask) = (FlowKey::ZERO, FlowKey::ZERO);
    for (index, which, masked) in &plan.matches {
        let (mut one, mut bits) = (FlowKey::ZERO, FlowKey::ZERO);
        put(&mut one, &mut bits, *index.get(FIELDS), *which, *masked);
        if !mask.words().iter().zip(bits.words()).any(|(mask, bits)| mask & bits != 0) {
            value.union(&one);
            mask.union(&bits);
        }
    }
    let set = plan.set.map(|(source, web)| SetMatch {
        field: if source { Field::Ipv4Src } else { Field::Ipv4Dst },
        set: if web { "web" } else { "db" }.into(),
    });
    if let Some(set) = &set {
        value.field_mut(set.field).fill(0);
        mask.field_mut(set.field).fill(0);
    }
    let to_set = |act: &&Act| !matches!(act, Act::Clone(..));
    let instructions = Instructions {
        apply: behaviour.apply.iter().filter_map(|act| action(act, plan.table)).collect(),
        clear: behaviour.clear,
        write: behaviour.write.iter().filter(to_set).filter_map(|act| action(act, plan.table)).collect(),
        metadata: behaviour.metadata.map(|(which, masked)| {
            let (mut value, mut mask) = (FlowKey::ZERO, FlowKey::ZERO);
            put(&mut value, &mut mask, Field::Metadata, which, masked);
            (value.metadata, mask.metadata)
        }),
        goto: goto(plan.table, behaviour.onward),
    };
    let id = RuleId {
        owner: Owner::Fabric,
        table: plan.table,
        priority: priority as u16,
        matched: Match::new(&value, &mask),
        set,
    };
    Rule {
        id,
        instructions: instructions.into(),
        cookie: 0,
        created: 0,
        since: 0,
        life: Life::default(),
        counters: Arc::default(),
    }
}

/// A packet's key from four values of each field; a few fields are usual more often than not.
fn key(values: &[u8]) -> FlowKey {
    let (mut key, mut mask) = (FlowKey::ZERO, FlowKey::ZERO);
    for (&field, which) in FIELDS.iter().zip(values) {
        if super::super::key::place(field).0 < super::super::key::PACKET_WORDS * 8 {
            put(&mut key, &mut mask, field, *which, 0);
        }
    }
    key
}

fn packet() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![2 => Just(0_u8), 1 => 0..4_u8], FIELDS.len())
}

#[derive(Clone, Debug)]
enum Event {
    Packets(Vec<(Vec<u8>, Vec<u8>)>),
    Put(prop::sample::Index, prop::sample::Index),
    Take(prop::sample::Index),
    Members(bool, Vec<u8>),
    Partition(u8, prop::sample::Index),
    Port(u32),
    Path,
    Sweep,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => prop::collection::vec((packet(), packet()), 1..20).prop_map(Event::Packets),
        3 => any::<(prop::sample::Index, prop::sample::Index)>().prop_map(|(at, other)| Event::Put(at, other)),
        2 => any::<prop::sample::Index>().prop_map(Event::Take),
        1 => (any::<bool>(), prop::collection::vec(0..4_u8, 0..3)).prop_map(|(web, members)| Event::Members(web, members)),
        1 => (0..TABLES, any::<prop::sample::Index>()).prop_map(|(table, field)| Event::Partition(table, field)),
        1 => (1..10_u32).prop_map(Event::Port),
        1 => Just(Event::Path),
        1 => Just(Event::Sweep),
    ]
}

fn fresh(tables: &Tables, key: &FlowKey) -> Resolution {
    let (state, version) = (tables.read(), tables.version());
    let topology = state.topology(version);
    resolve(&view(&state, version, &topology), &key.into(), &mut Unobserved)
}

fn program(resolution: &Resolution) -> String {
    format!("{:?}", Program::compile(resolution))
}

/// The program that the worker would run.
fn cached(cache: &mut Cache, tables: &Tables, key: &FlowKey, now: u64) -> String {
    let (state, version) = (tables.read(), tables.version());
    let topology = state.topology(version);
    let entry = match cache.lookup(key, version) {
        Found::Hit(entry) => entry,
        found => {
            let view = view(&state, version, &topology);
            renew(cache, found, key, &view, now)
        }
    };
    format!("{:?}", cache.take(entry, 60, now))
}

fn change(tables: &Tables, event: &Event, plans: &[Plan]) {
    let mut change = Change::default();
    match event {
        Event::Put(at, other) => {
            let at = at.index(plans.len());
            change.add.push(build(at, &plans[at], &other.get(plans).behaviour));
        }
        Event::Take(at) => {
            let at = at.index(plans.len());
            change.remove.push(build(at, &plans[at], &plans[at].behaviour).id);
        }
        Event::Members(web, members) => {
            let name: Arc<str> = if *web { "web" } else { "db" }.into();
            let members = members
                .iter()
                .map(|&last| ([0, 0, 0, last & !u8::from(last > 1)].into(), if last > 1 { 31 } else { 32 }));
            change.sets.push(SetChange::Set(name, members.collect()));
        }
        Event::Partition(table, field) => {
            let partition = *field.get(FIELDS);
            change.settings.push(TableSettings { table: *table, name: "some".into(), meaning: "".into(), partition });
        }
        Event::Port(number) => {
            let mut topology = (*tables.topology()).clone();
            if let Some(PortKind::Device { up, .. }) = topology.ports.get_mut(number).map(|info| &mut info.kind) {
                *up = !*up;
            }
            change.topology = Some(topology);
        }
        Event::Path => {
            let mut now = (*tables.topology()).clone();
            let unusable = Path::Unusable(DropReason::NoRoute);
            let path = now.paths.values_mut().next().unwrap();
            *path = if *path == unusable { topology().paths.into_values().next().unwrap() } else { unusable };
            change.topology = Some(now);
        }
        Event::Packets(_) | Event::Sweep => return,
    }
    tables.commit(change).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Whatever changes in between, the cached program is what a fresh walk gives, and each rule counts
    /// exactly the packets that passed it.
    #[test]
    fn random_rules_are_cached_right(
        plans in prop::collection::vec(plan(), 1..24),
        present in prop::collection::vec(any::<bool>(), 24),
        events in prop::collection::vec(event(), 1..30),
    ) {
        let tables = tables(&[]);
        let at_first = plans.iter().enumerate().zip(&present).filter(|(_, present)| **present);
        let add = at_first.map(|((priority, plan), _)| build(priority, plan, &plan.behaviour)).collect();
        tables.commit(Change { add, ..Change::default() }).unwrap();
        let mut cache = Cache::default();
        let mut counted: HashMap<*const RuleCounters, (Arc<RuleCounters>, u64)> = HashMap::new();
        for (now, event) in events.iter().enumerate() {
            change(&tables, event, &plans);
            match event {
                Event::Packets(packets) => for (values, noise) in packets {
                    let own = key(values);
                    let walked = fresh(&tables, &own);
                    let expected = program(&walked);
                    for rule in &walked.rules {
                        counted.entry(Arc::as_ptr(&rule.counters)).or_insert_with(|| (rule.counters.clone(), 0)).1 += 1;
                    }
                    prop_assert_eq!(cached(&mut cache, &tables, &own, now as u64), expected.clone(), "{:?}", values);
                    // Any packet that agrees on the consulted bits walks the same way.
                    let mut other = key(noise);
                    for (word, (own, mask)) in other.words_mut().iter_mut().zip(own.words().iter().zip(walked.consulted.words())) {
                        *word = (*word & !mask) | (own & mask);
                    }
                    let again = fresh(&tables, &other);
                    prop_assert_eq!(program(&again), expected, "{:?} instead of {:?}", noise, values);
                    prop_assert_eq!(again.consulted, walked.consulted);
                },
                Event::Sweep => cache.sweep(usize::MAX, now as u64),
                _ => {}
            }
        }
        cache.flush();
        for (counters, packets) in counted.values() {
            prop_assert_eq!(counters.read().0, *packets);
        }
    }
}

/// What the packet itself goes through: without its branches, and what is done to nothing since.
fn trunk(mut effects: Vec<Effect>) -> Vec<Effect> {
    effects.retain(|effect| !matches!(effect, Effect::Branch(_)));
    let to_nothing = |effect: &Effect| !effect.consumes() && !matches!(effect, Effect::Undeliverable { .. });
    while effects.last().is_some_and(to_nothing) {
        effects.pop();
    }
    effects
}

proptest! {
    /// Whatever a branch does, who forked goes on as if there had been none.
    #[test]
    fn a_branch_leaves_no_trace_on_who_forked(
        plans in prop::collection::vec(plan(), 1..24),
        packets in prop::collection::vec(packet(), 1..20),
    ) {
        let with = tables(&[]);
        let add = plans.iter().enumerate().map(|(at, plan)| build(at, plan, &plan.behaviour)).collect();
        with.commit(Change { add, ..Change::default() }).unwrap();
        let without = tables(&[]);
        let add = plans.iter().enumerate().map(|(at, plan)| {
            let mut behaviour = plan.behaviour.clone();
            behaviour.apply.retain(|act| !matches!(act, Act::Clone(..)));
            build(at, plan, &behaviour)
        });
        without.commit(Change { add: add.collect(), ..Change::default() }).unwrap();
        for values in packets {
            let (forked, plain) = (fresh(&with, &key(&values)), fresh(&without, &key(&values)));
            prop_assert_eq!(trunk(forked.effects), trunk(plain.effects), "{:?}", values);
        }
    }
}

#[test]
fn a_decremented_ttl_depends_on_all_its_bits() {
    // 64 - 1 and 65 - 1 differ in their upper bits although 64 and 65 do not.
    let rules = [
        "table=0,ip,actions=dec_ttl,goto_table:1",
        "table=1,priority=2,ip,nw_ttl=64/192,actions=output:2",
        "table=1,priority=1,actions=output:3",
    ];
    let tables = tables(&rules);
    let mut cache = Cache::default();
    for ttl in [64, 65, 64] {
        let key = super::packet(&format!("in_port=1,tcp,ip_ttl={ttl}"));
        assert_eq!(cached(&mut cache, &tables, &key, 0), program(&fresh(&tables, &key)), "ttl {ttl}");
    }
}

#[test]
fn an_entry_without_a_mask_table_is_not_taken_from_one() {
    use crate::limits::CACHE_MASKS;
    let tables = tables(&[]);
    let lines: Vec<String> = (0..=CACHE_MASKS)
        .map(|bits| format!("table={bits},ip,nw_dst=10.0.0.0/{},actions=output:2", 8 + bits))
        .collect();
    // Each port walks to a table of its own: as many masks as ports.
    let first = (0..=CACHE_MASKS).map(|bits| {
        format!(
            "table=0,priority=9,in_port={},actions={}",
            bits + 1,
            if bits == 0 { "output:2".into() } else { format!("goto_table:{bits}") }
        )
    });
    let add = lines[1..].iter().cloned().chain(first).map(|line| rule(&line)).collect();
    tables.commit(Change { add, ..Change::default() }).unwrap();
    let mut cache = Cache::default();
    let key = |port: usize, last: u8| super::packet(&format!("in_port={port},tcp,ip_src=1.1.1.1,ip_dst=10.0.0.{last}"));
    // All mask tables are taken when the last mask comes: its entry is only in the exact table.
    for port in 1..=CACHE_MASKS + 1 {
        cached(&mut cache, &tables, &key(port, 0), 0);
    }
    // The masks' entries go, all but the one without a table: then its mask gets one.
    cached(&mut cache, &tables, &key(CACHE_MASKS + 1, 0), 10);
    cache.sweep(usize::MAX, 5);
    assert_eq!((cache.len(), cache.masks()), (1, 0));
    cached(&mut cache, &tables, &key(CACHE_MASKS + 1, 0), 20);
    assert_eq!((cache.len(), cache.masks()), (2, 1), "the exact table is not asked while there are few masks");
    cache.sweep(usize::MAX, 15);
    assert_eq!((cache.len(), cache.masks()), (1, 1), "the old entry went, and the mask's table stays for the new one");
    cache.sweep(usize::MAX, 25);
    assert!(cache.is_empty());
}
