//! What things cost when there are many of them.

use super::{packet, renew, rule, tables, view};
use crate::flow::cache::{Cache, Found};
use crate::flow::tables::{Change, SetChange, Tables};
use crate::limits::CACHE_IDLE_MICROSECONDS;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

fn member(index: u32) -> (Ipv4Addr, u8) {
    (Ipv4Addr::from(0x0a00_0000 + index), 32)
}

/// The shortest of a few commits that add and remove one member.
fn one_change(tables: &Tables, name: &str) -> Duration {
    let commit = |change| {
        let begun = Instant::now();
        tables.commit(Change { sets: vec![change], ..Change::default() }).unwrap();
        begun.elapsed()
    };
    let pair = |index: u32| {
        let new = vec![member(0x00f0_0000 + index)];
        commit(SetChange::Extend(name.into(), new.clone())) + commit(SetChange::Shrink(name.into(), new))
    };
    (0..50_u32).map(pair).min().unwrap()
}

#[test]
fn a_change_of_one_member_costs_the_same_in_a_large_set() {
    let tables = tables(&["table=0,ip,nw_src=@small,actions=output:2", "table=0,ip,nw_src=@large,actions=output:3"]);
    let fill = |name: &str, members: u32| SetChange::Set(name.into(), (0..members).map(member).collect());
    let sets = vec![fill("small", 10), fill("large", 50_000)];
    tables.commit(Change { sets, ..Change::default() }).unwrap();
    let (small, large) = (one_change(&tables, "small"), one_change(&tables, "large"));
    // Copying 50,000 members takes milliseconds; the trees and maps grow by a logarithm.
    assert!(large < small * 10 + Duration::from_micros(100), "{large:?} in the large set, {small:?} in the small one");
}

#[test]
fn changes_of_one_bundle_follow_one_another() {
    let tables = tables(&["table=0,ip,nw_src=@web,actions=output:2"]);
    let members = |indexes: &[u32]| indexes.iter().map(|&index| member(index)).collect::<Vec<_>>();
    let sets = vec![
        SetChange::Set("web".into(), members(&[1, 2, 3])),
        SetChange::Shrink("web".into(), members(&[2, 9])),
        SetChange::Extend("web".into(), members(&[2, 4, 4])),
        SetChange::Shrink("web".into(), members(&[1])),
    ];
    tables.commit(Change { sets, ..Change::default() }).unwrap();
    assert_eq!(tables.address_sets(), [("web".into(), members(&[2, 3, 4]))]);
    assert_eq!(tables.read().places, 3);
    let sets = vec![SetChange::Remove("web".into()), SetChange::Extend("web".into(), members(&[4, 5]))];
    tables.commit(Change { sets, ..Change::default() }).unwrap();
    assert_eq!(tables.address_sets(), [("web".into(), members(&[4, 5]))]);
    assert_eq!(tables.read().places, 2);
    tables.commit(Change { sets: vec![SetChange::Remove("web".into())], ..Change::default() }).unwrap();
    assert_eq!((tables.address_sets().len(), tables.read().places), (0, 0));
}

#[test]
fn a_flood_leaves_no_memory_behind() {
    const FLOWS: u32 = 200_000;
    let tables = tables(&["table=0,priority=2,tcp,tcp_dst=1/1,actions=output:2", "table=0,udp,actions=output:3"]);
    let (state, version) = (tables.read(), tables.version());
    let topology = state.topology(version);
    let view = view(&state, version, &topology);
    let mut cache = Cache::default();
    let mut key = packet("in_port=1,tcp,ip_src=10.0.0.1,ip_dst=10.0.0.2,tcp_dst=80");
    for flow in 0..FLOWS {
        key.l4_dst = ((flow as u16) | 1).to_be_bytes();
        // Exact entries, as a rule on every field would make them.
        let mut resolution =
            crate::flow::resolve::resolve(&view, &(&key).into(), &mut crate::flow::resolve::Unobserved);
        resolution.consulted.ipv4_src = [0xff; 4];
        key.ipv4_src = flow.to_be_bytes();
        cache.insert(&key, resolution, version, 0);
    }
    assert!(cache.len() > FLOWS as usize * 9 / 10);
    let full = cache.reserved();
    assert!(full / cache.len() < 256, "{} bytes an entry", full / cache.len());
    assert!(cache.ways() <= 4, "{} ways", cache.ways());

    let last = renew(&mut cache, Found::Miss, &packet("in_port=1,udp,udp_dst=9"), &view, CACHE_IDLE_MICROSECONDS);
    cache.take(last, 60, CACHE_IDLE_MICROSECONDS);
    for _ in 0..20 {
        cache.sweep(FLOWS as usize / 8, CACHE_IDLE_MICROSECONDS / 2);
    }
    assert_eq!((cache.len(), cache.ways()), (1, 1));
    assert!(matches!(cache.lookup(&packet("in_port=1,udp,udp_dst=9"), version), Found::Hit(_)), "what is used stays");
    assert!(cache.reserved() < 64 * 1024, "{} bytes of {full} are left", cache.reserved());
    let more = rule("table=0,priority=9,udp,actions=output:4");
    drop(state);
    tables.commit(Change { add: vec![more], ..Change::default() }).unwrap();
    assert!(matches!(cache.lookup(&packet("in_port=1,udp,udp_dst=9"), tables.version()), Found::Stale(_)));
}
