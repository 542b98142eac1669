//! The cache against a fresh walk: whatever changes in between, the program a packet gets is the one that
//! a walk at that moment gives.

use super::{recent, renew, rule, tables, view};
use crate::flow::cache::{Cache, Found};
use crate::flow::key::FlowKey;
use crate::flow::log::{Recent, Work};
use crate::flow::program::Program;
use crate::flow::resolve::{Unobserved, resolve};
use crate::flow::tables::{Change, SetChange, Tables};
use proptest::prelude::*;

/// A pool of rules that overlap, in three tables, with registers, writes, tags, tunnels and a set.
const RULES: &[&str] = &[
    "table=0,priority=9,in_port=1,actions=set_field:0x1->reg0,goto_table:1",
    "table=0,priority=9,in_port=2,actions=set_field:0x2->reg0,goto_table:1",
    "table=0,priority=1,actions=set_field:0x3->reg0,goto_table:1",
    "table=0,priority=20,tcp,tcp_dst=80,actions=output:7",
    "table=0,priority=20,tcp,tcp_dst=0/0x1,actions=output:6",
    "table=0,priority=30,in_port=1,tcp,tcp_src=1,actions=drop(policy)",
    "table=0,priority=15,ip,nw_src=@web,actions=output:5",
    "table=1,priority=5,reg0=0x1,ip,nw_dst=10.0.0.0/24,actions=output:2",
    "table=1,priority=6,reg0=0x1,ip,nw_dst=10.0.0.2,actions=dec_ttl,output:3",
    "table=1,priority=5,reg0=0x2,ip,actions=set_field:10.0.0.2->ip_dst,goto_table:2",
    "table=1,priority=7,reg0=0x2,udp,udp_dst=1,actions=output:4",
    "table=1,priority=1,actions=goto_table:2",
    "table=2,priority=5,ip,nw_dst=10.0.0.2,actions=set_field:02:00:00:00:00:07->eth_dst,output:1,output:2",
    "table=2,priority=6,ip,nw_dst=10.0.0.2,nw_ttl=64,actions=output:8",
    "table=2,priority=1,reg0=0x3,actions=set_field:7->tun_id,set_field:10.99.0.2->tun_dst,output:20",
    "table=2,priority=0,actions=output:1,output:2,output:3",
];

#[derive(Clone, Debug)]
enum Event {
    Packets(Vec<[u8; 6]>),
    Add(usize, u8),
    Remove(usize),
    Set(Vec<u8>),
    PortDown(u32),
    Sweep,
}

fn event() -> impl Strategy<Value = Event> {
    let few = 0..3_u8;
    prop_oneof![
        6 => prop::collection::vec(prop::array::uniform6(few), 1..30).prop_map(Event::Packets),
        3 => (0..RULES.len(), 0..3_u8).prop_map(|(index, variant)| Event::Add(index, variant)),
        2 => (0..RULES.len()).prop_map(Event::Remove),
        1 => prop::collection::vec(1..4_u8, 0..3).prop_map(Event::Set),
        1 => (1..9_u32).prop_map(Event::PortDown),
        1 => Just(Event::Sweep),
    ]
}

fn key([port, proto, source, destination, l4, ttl]: [u8; 6]) -> FlowKey {
    let mut key = FlowKey::ZERO;
    key.in_port = [0, 0, 0, port + 1];
    key.eth_type = [8, 0];
    key.ip_proto = [6, 17, 1][proto as usize];
    key.ipv4_src = [10, 0, 0, source + 1];
    key.ipv4_dst = [10, 0, destination / 2, destination + 1];
    key.l4_src = [0, l4];
    key.l4_dst = [[0, 80], [0, 1], [0, 2]][l4 as usize];
    key.ip_ttl = 63 + ttl;
    key
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
    cache.take(entry, 60, now).text(&topology)
}

fn fresh(tables: &Tables, key: &FlowKey) -> String {
    let (state, version) = (tables.read(), tables.version());
    let topology = state.topology(version);
    let view = view(&state, version, &topology);
    Program::compile(&resolve(&view, &key.into(), &mut Unobserved)).text(&topology)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_cached_program_is_what_a_fresh_walk_gives(
        at_first in prop::collection::vec(any::<bool>(), RULES.len()),
        events in prop::collection::vec(event(), 1..40),
    ) {
        let lines: Vec<&str> = RULES.iter().zip(&at_first).filter(|(_, take)| **take).map(|(line, _)| *line).collect();
        let tables = tables(&lines);
        let mut cache = Cache::default();
        let mut walks = 0_u64;
        for (now, event) in events.into_iter().enumerate() {
            let now = now as u64;
            match event {
                Event::Packets(packets) => {
                    for values in packets {
                        let key = key(values);
                        walks += 1;
                        prop_assert_eq!(cached(&mut cache, &tables, &key, now), fresh(&tables, &key), "{:?}", values);
                    }
                }
                Event::Add(index, variant) => {
                    let line = match variant {
                        0 => RULES[index].to_owned(),
                        1 => format!("{},actions=drop(spoofed)", RULES[index].split(",actions").next().unwrap()),
                        _ => format!("{},actions=output:{}", RULES[index].split(",actions").next().unwrap(), index % 8 + 1),
                    };
                    tables.commit(Change { add: vec![rule(&line)], ..Change::default() }).unwrap();
                }
                Event::Remove(index) => {
                    tables.commit(Change { remove: vec![rule(RULES[index]).id], ..Change::default() }).unwrap();
                }
                Event::Set(members) => {
                    let members = members.into_iter().map(|last| ([10, 0, 0, last].into(), 32)).collect();
                    tables.commit(Change { sets: vec![SetChange::Set("web".into(), members)], ..Change::default() }).unwrap();
                }
                Event::PortDown(number) => {
                    let mut topology = (*tables.topology()).clone();
                    let info = topology.ports.get_mut(&number).unwrap();
                    if let crate::topology::PortKind::Device { up, .. } = &mut info.kind {
                        *up = !*up;
                    }
                    tables.set_topology(topology);
                }
                Event::Sweep => cache.sweep(usize::MAX, now),
            }
        }
        cache.flush();
        let first: u64 = tables.rules(|rule| rule.id.table == 0).iter().map(|rule| rule.counters.read().0).sum();
        prop_assert!(first <= walks, "a rule of the first table counts each packet at most once");
    }
}

#[test]
fn a_change_elsewhere_does_not_empty_the_cache() {
    let tables = tables(&["table=0,in_port=1,tcp,actions=output:2", "table=0,in_port=2,tcp,actions=output:1"]);
    let mut cache = Cache::default();
    let key = super::packet("in_port=1,tcp,tcp_dst=80");
    cached(&mut cache, &tables, &key, 0);
    tables.commit(Change { add: vec![rule("table=0,in_port=3,udp,actions=output:1")], ..Change::default() }).unwrap();
    let Found::Stale(number) = cache.lookup(&key, tables.version()) else { panic!("the version moved") };
    let (state, version) = (tables.read(), tables.version());
    let topology = state.topology(version);
    let view = view(&state, version, &topology);
    assert!(cache.renew(number, &key, &recent(&view), &mut Work::ONE_WALK.clone()), "no walk is needed");
}

/// Of a thousand flows with an entry each, those walk anew that a change matches, and no others; what lies in other
/// partitions is not even compared.
#[test]
fn a_change_costs_walks_only_where_it_matches() {
    const FLOWS: u16 = 1000;
    let flow = |number: u16| super::packet(&format!("in_port=1,udp,udp_dst={number}"));
    let lines: Vec<String> =
        (1..=FLOWS).map(|number| format!("table=0,in_port=1,udp,udp_dst={number},actions=output:2")).collect();
    let tables = tables(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    let (mut cache, mut recent) = (Cache::default(), Recent::default());
    let mut pass_all = |changed: &str| {
        let change = Change { add: vec![rule(changed)], ..Change::default() };
        tables.commit(change).unwrap();
        let (state, version) = (tables.read(), tables.version());
        let topology = state.topology(version);
        let view = view(&state, version, &topology);
        recent.catch_up(state.logs(), version);
        let (mut walks, mut comparisons) = (0, 0);
        for key in (1..=FLOWS).map(flow) {
            let found = cache.lookup(&key, version);
            if let Found::Stale(number) = found {
                let mut work = Work::ONE_WALK;
                if cache.renew(number, &key, &recent, &mut work) {
                    comparisons += work.done();
                    continue;
                }
                cache.remove(number);
            }
            walks += 1;
            cache.insert(&key, resolve(&view, &(&key).into(), &mut Unobserved), version, 0);
        }
        (walks, comparisons)
    };
    assert_eq!(pass_all("table=0,in_port=3,udp,udp_dst=1,actions=output:4"), (1000, 0), "all are new");
    for change in 1..=20 {
        assert_eq!(pass_all(&format!("table=0,in_port=3,udp,udp_dst={change},actions=output:5")), (0, 0), "elsewhere");
    }
    for change in 1..=20 {
        let beside = format!("table=0,in_port=1,udp,udp_dst={},actions=output:4", FLOWS + change);
        assert_eq!(pass_all(&beside), (0, 1000), "one comparison each, with that one change");
    }
    for change in 1..=20 {
        let of_one = format!("table=0,priority=40000,in_port=1,udp,udp_dst={change},actions=output:4");
        assert_eq!(pass_all(&of_one), (1, 999));
    }
    assert_eq!(pass_all("table=0,priority=50000,in_port=1,udp,udp_dst=8/8,actions=output:5").0, 497);
}

#[test]
fn many_masks_are_found_through_the_exact_table() {
    // More masks than have tables of their own.
    let lines: Vec<String> = (0..24)
        .map(|bits| {
            format!(
                "table=0,priority={},ip,nw_dst=10.{}.0.0/{},actions=output:{}",
                bits + 1,
                bits,
                8 + bits,
                bits % 8 + 1
            )
        })
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let tables = tables(&lines);
    let mut cache = Cache::default();
    for round in 0..3 {
        for bits in 0..24_u8 {
            let key = super::packet(&format!("in_port=9,tcp,ip_dst=10.{bits}.0.0"));
            assert_eq!(cached(&mut cache, &tables, &key, round), fresh(&tables, &key));
        }
    }
    assert!(cache.masks() <= crate::limits::CACHE_MASKS);
}
