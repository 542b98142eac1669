//! Groups through a whole worker: which buckets packets go to, and what moves when buckets and ports do.

use super::{Bench, bench, tcp_frame, udp_frame};
use crate::flow::group::{self, Group};
use crate::flow::tables::Change;
use crate::packet::sample::{self, verify};
use crate::topology::PortKind;
use proptest::prelude::*;
use weft_proto::fault::Fault;
use weft_proto::{text, v1};

fn group(line: &str) -> Group {
    let mut parsed = text::parse_group(line).unwrap_or_else(|fault| panic!("{line}: {fault}"));
    parsed.owner = v1::Owner::Manual.into();
    group::from_message(&parsed, 0).unwrap_or_else(|fault| panic!("{line}: {fault}"))
}

fn rule(line: &str) -> crate::flow::rule::Rule {
    let mut parsed = text::parse_rule(line).unwrap();
    parsed.owner = v1::Owner::Manual.into();
    crate::flow::message::rule_from_message(&parsed, 0).unwrap()
}

fn set(bench: &Bench, groups: &[&str]) {
    let set_groups = groups.iter().map(|line| group(line)).collect();
    bench.tables.commit(Change { set_groups, ..Change::default() }).unwrap();
}

fn grouped(groups: &[&str], rules: &[&str]) -> Bench {
    let bench = bench(&[]);
    set(&bench, groups);
    bench.add(rules);
    bench
}

/// Takes a port up or down.
fn turn(bench: &Bench, port: u32, on: bool) {
    let mut topology = (*bench.tables.topology()).clone();
    if let Some(PortKind::Device { up, .. }) = topology.ports.get_mut(&port).map(|info| &mut info.kind) {
        *up = on;
    }
    bench.tables.set_topology(topology);
}

/// UDP of one of many flows.
fn flow(number: u16) -> Vec<u8> {
    let mut frame = udp_frame();
    frame[26..30].copy_from_slice(&[10, 1, (number >> 8) as u8, number as u8]);
    frame[34..36].copy_from_slice(&(1000 + number * 7 % 5000).to_be_bytes());
    let sum = {
        frame[24..26].fill(0);
        !sample::slow_fold(sample::slow_sum(&frame[14..34]))
    };
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame[40..42].fill(0);
    frame
}

/// Which of ports 2 to 4 a flow leaves by.
fn way(bench: &Bench, number: u16) -> usize {
    let frame = flow(number);
    bench.send(1, frame.clone());
    let deadline = std::time::Instant::now() + super::PATIENCE;
    loop {
        for port in 2..=4 {
            if let Some(left) = bench.peers[port - 1].take() {
                assert_eq!(left.bytes, frame);
                return port;
            }
        }
        assert!(std::time::Instant::now() < deadline, "it left nowhere: {:?} {:?}", bench.drops(), bench.branches());
        std::thread::yield_now();
    }
}

fn counts(bench: &Bench) -> (u64, Vec<u64>) {
    // Asking for a report brings the counters up to date.
    let _report = bench.worker.report();
    let groups = bench.tables.groups();
    let buckets = groups[0].0.buckets.iter().map(|bucket| bucket.counters.read().0).collect();
    (groups[0].0.counters.read().0, buckets)
}

#[test]
fn all_buckets_get_copies_of_their_own() {
    let bench = grouped(
        &["group_id=7,type=all,bucket=actions=set_field:02:00:00:00:00:22->eth_dst,output:2,\
           bucket=actions=output:3,dec_ttl,bucket=actions=drop"],
        &["table=0,in_port=1,ip,actions=group:7,output:4"],
    );
    for round in 1..=3 {
        bench.send(1, tcp_frame());
        assert_eq!(&bench.receive(2)[..6], &[2, 0, 0, 0, 0, 0x22]);
        let third = bench.receive(3);
        verify(&third).unwrap();
        assert_eq!(third[22], tcp_frame()[22] - 1, "an action set: the output comes last");
        assert_eq!(bench.receive(4), tcp_frame(), "as it was before the group");
        assert_eq!(counts(&bench), (round, vec![round; 3]));
    }
    let report = bench.worker.report();
    assert_eq!((report.cache_hits, report.cache_misses), (2, 1));
    assert_eq!((bench.drops(), bench.branches()), (vec![], vec![(1, "no_output", 3)]));
    bench.finish();
}

#[test]
fn an_indirect_group_changes_what_all_its_rules_do_without_emptying_the_caches() {
    let bench = grouped(
        &["group_id=1,type=indirect,bucket=actions=output:2", "group_id=2,type=indirect,bucket=actions=output:3"],
        &["table=0,in_port=1,udp,actions=group:1", "table=0,in_port=1,tcp,actions=group:2", "table=0,arp,actions=drop"],
    );
    for _ in 0..3 {
        bench.send(1, udp_frame());
        bench.send(1, tcp_frame());
        assert_eq!((bench.receive(2), bench.receive(3)), (udp_frame(), tcp_frame()));
    }
    let before = bench.worker.report();
    set(&bench, &["group_id=1,type=indirect,bucket=actions=output:4"]);
    bench.send(1, tcp_frame());
    assert_eq!(bench.receive(3), tcp_frame());
    assert_eq!(bench.worker.report().cache_entries, before.cache_entries, "what does not name it stays");
    bench.send(1, udp_frame());
    assert_eq!(bench.receive(4), udp_frame());
    assert_eq!(counts(&bench), (4, vec![1]), "the group's count goes on, the new bucket's begins");
    // The same once more is no change at all.
    set(&bench, &["group_id=1,type=indirect,bucket=actions=output:4"]);
    bench.send(1, udp_frame());
    assert_eq!((bench.receive(4), counts(&bench)), (udp_frame(), (5, vec![2])));
    bench.finish();
}

#[test]
fn failover_follows_the_state_of_ports_at_once() {
    let bench = grouped(
        &["group_id=1,type=ff,bucket=watch_port:2,actions=output:2,bucket=watch_port:3,actions=output:3"],
        &["table=0,in_port=1,actions=group:1"],
    );
    assert_eq!(way(&bench, 1), 2);
    for (down, expected) in [(2, 3), (0, 3)] {
        if down > 0 {
            turn(&bench, down, false);
        }
        assert_eq!(way(&bench, 1), expected);
    }
    turn(&bench, 2, true);
    assert_eq!(way(&bench, 1), 2, "it comes back");
    turn(&bench, 2, false);
    turn(&bench, 3, false);
    bench.send(1, flow(1));
    assert_eq!(bench.dropped(1), [(1, "no_live_bucket", 1)]);
    turn(&bench, 3, true);
    assert_eq!(way(&bench, 1), 3);
    // A port that does not exist is not up.
    set(&bench, &["group_id=1,type=ff,bucket=watch_port:77,actions=output:2,bucket=watch_port:3,actions=output:3"]);
    turn(&bench, 2, true);
    assert_eq!(way(&bench, 1), 3);
    bench.finish();
}

#[test]
fn flows_keep_their_bucket_and_are_spread_by_weight() {
    let bench = grouped(
        &[
            "group_id=1,type=select,bucket=weight:1,actions=output:2,bucket=weight:2,actions=output:3,bucket=weight:1,watch_port:4,actions=output:4",
        ],
        &["table=0,in_port=1,actions=group:1"],
    );
    let ways: Vec<usize> = (0..400).map(|number| way(&bench, number)).collect();
    let again: Vec<usize> = (0..400).map(|number| way(&bench, number)).collect();
    assert_eq!(ways, again);
    let share = |port: usize| ways.iter().filter(|&&way| way == port).count();
    // Binomial: within four standard deviations of 100, 200, 100.
    for (port, expected) in [(2, 100), (3, 200), (4, 100)] {
        assert!(share(port).abs_diff(expected) < 40, "port {port}: {}", share(port));
    }
    assert_eq!(counts(&bench).1, [2, 3, 4].map(|port| 2 * share(port) as u64));
    // The bucket of port 4 dies with its port: its flows move, and no other.
    turn(&bench, 4, false);
    let moved: Vec<usize> = (0..400).map(|number| way(&bench, number)).collect();
    for (before, after) in ways.iter().zip(&moved) {
        assert!(before == after || (*before == 4 && *after != 4), "{before} became {after}");
    }
    turn(&bench, 4, true);
    // Likewise when it is removed, wherever it stood, and when it comes again.
    set(&bench, &["group_id=1,type=select,bucket=weight:2,actions=output:3,bucket=weight:1,actions=output:2"]);
    assert_eq!((0..400).map(|number| way(&bench, number)).collect::<Vec<_>>(), moved);
    bench.finish();
}

#[test]
fn fragments_of_a_datagram_go_one_way() {
    let bench = grouped(
        &["group_id=1,type=select,bucket=actions=output:2,bucket=actions=output:3,bucket=actions=output:4"],
        &["table=0,in_port=1,actions=group:1"],
    );
    for number in 0..40 {
        let mut ways = Vec::new();
        for fragment in [0x2000_u16, 5] {
            let mut frame = flow(number);
            frame[20..22].copy_from_slice(&fragment.to_be_bytes());
            bench.send(1, frame);
            ways.push((2..=4).cycle().find(|port| bench.peers[port - 1].take().is_some()).unwrap());
        }
        assert_eq!(ways[0], ways[1]);
    }
    bench.finish();
}

#[test]
fn a_group_needs_no_ports_of_packets_that_have_none() {
    let bench = grouped(
        &["group_id=1,type=select,bucket=actions=output:2", "group_id=2,type=all,bucket=actions=dec_ttl,output:3"],
        &["table=0,in_port=1,actions=group:1,group:2"],
    );
    let arp = sample::ethernet(&[], 0x0806, &sample::arp(1));
    bench.send(1, arp.clone());
    assert_eq!(bench.receive(2), arp);
    assert_eq!(super::branches::lost(&bench, 1), [(1, "bad_action", 1)], "ARP has no TTL");
    bench.finish();
}

fn refused(bench: &Bench, change: Change) -> Fault {
    bench.tables.commit(change).expect_err("it is refused")
}

#[test]
fn rules_and_groups_refer_to_each_other_or_are_refused() {
    let bench = grouped(&["group_id=1,type=all,bucket=actions=output:2"], &["table=0,in_port=1,udp,actions=group:1"]);
    let manual = crate::flow::rule::Owner::Manual;
    let named = rule("table=3,in_port=1,actions=clone(group:2),output:2");
    let fault = refused(&bench, Change { add: vec![named], ..Change::default() });
    assert_eq!((fault.code.as_str(), fault.field.as_str()), ("unknown_group", "add_rules[0].instructions"));
    let remove = || Change { remove_groups: vec![(manual, 1)], ..Change::default() };
    let fault = refused(&bench, remove());
    assert_eq!(fault.code, "group_in_use");
    assert!(fault.problem.contains("in_port=1,udp,actions=group:1"), "{fault}");
    // The fabric's groups are others.
    let mut fabric = text::parse_rule("table=0,in_port=2,actions=group:1").unwrap();
    fabric.owner = v1::Owner::Fabric.into();
    let fabric = crate::flow::message::rule_from_message(&fabric, 0).unwrap();
    assert_eq!(refused(&bench, Change { add: vec![fabric], ..Change::default() }).code, "unknown_group");
    // A refused change has changed nothing.
    bench.send(1, udp_frame());
    assert_eq!(bench.receive(2), udp_frame());
    // With its last rule, replaced or removed, it may go; the rule of the same bundle must not name it.
    let other = "table=0,in_port=1,udp,actions=output:3";
    let again = Change { add: vec![rule("table=0,in_port=1,udp,actions=group:1")], ..remove() };
    assert_eq!(refused(&bench, again).code, "unknown_group");
    bench.tables.commit(Change { add: vec![rule(other)], ..remove() }).unwrap();
    assert_eq!(bench.tables.groups().len(), 0);
    bench.send(1, udp_frame());
    assert_eq!(bench.receive(3), udp_frame());
    // And come again, with a rule, in one bundle.
    let set_groups = vec![group("group_id=1,type=all,bucket=actions=output:4")];
    let add = vec![rule("table=0,in_port=1,udp,actions=group:1")];
    bench.tables.commit(Change { add, set_groups, ..Change::default() }).unwrap();
    bench.send(1, udp_frame());
    assert_eq!(bench.receive(4), udp_frame());
    // A replacement of all that is manual leaves out both.
    bench.tables.commit(Change { replace_owner: Some(manual), ..Change::default() }).unwrap();
    assert_eq!((bench.tables.groups().len(), bench.tables.count()), (0, 0));
    bench.finish();
}

#[test]
fn senseless_groups_are_refused() {
    let plain = |line: &str| text::parse_group(line).unwrap();
    let bucket = |weight, watch_port, actions: &str| {
        let rule = text::parse_rule(&format!("actions={actions}")).unwrap();
        v1::Bucket { weight, watch_port, actions: rule.instructions.unwrap().apply_actions }
    };
    let of = |kind: v1::GroupType, buckets| v1::Group { id: 1, r#type: kind.into(), buckets, owner: 2 };
    use v1::GroupType::{All, FastFailover, Indirect, Select, Unspecified};
    for (group, field) in [
        (of(Unspecified, vec![]), "type"),
        (of(Indirect, vec![]), "buckets"),
        (of(All, vec![bucket(0, 0, "output:1"); 257]), "buckets"),
        (of(All, vec![bucket(3, 0, "output:1")]), "buckets[0].weight"),
        (of(Select, vec![bucket(0, 0, "output:1")]), "buckets[0].weight"),
        (of(FastFailover, vec![bucket(0, 0, "output:1")]), "buckets[0].watch_port"),
        (of(All, vec![bucket(0, 2, "output:1")]), "buckets[0].watch_port"),
        (of(All, vec![bucket(0, 0, "output:1,ct(zone=1)")]), "buckets[0].actions[1].ct"),
        (of(All, vec![bucket(0, 0, "clone(output:1)")]), "buckets[0].actions[0].clone"),
        (of(All, vec![bucket(0, 0, "group:1")]), "buckets[0].actions[0].group"),
        (v1::Group { id: u32::MAX, ..plain("group_id=1,type=all,owner=manual") }, "id"),
    ] {
        assert_eq!(group::from_message(&group, 0).expect_err(field).field, field);
    }
}

proptest! {
    /// A bucket that goes moves its own flows and no others; its share is its weight's.
    #[test]
    fn removing_a_bucket_moves_only_its_share(weights in prop::collection::vec(1_u16..100, 2..12), gone in any::<prop::sample::Index>()) {
        let line = |left: &dyn Fn(usize) -> bool| {
            let buckets = weights.iter().enumerate().filter(|(index, _)| left(*index));
            let buckets = buckets.map(|(index, weight)| format!(",bucket=weight:{weight},actions=output:{}", index + 1));
            format!("group_id=1,type=select{}", buckets.collect::<String>())
        };
        let gone = gone.index(weights.len());
        let (all, fewer) = (group(&line(&|_| true)), group(&line(&|index| index != gone)));
        let mut moved = 0;
        for flow in 0..2000_u64 {
            let before = all.choose(flow, |_| true).unwrap();
            let after = fewer.choose(flow, |_| true).unwrap();
            let after = after + usize::from(after >= gone);
            if before == gone {
                moved += 1;
            } else {
                prop_assert_eq!(before, after);
            }
        }
        let expected = 2000.0 * f64::from(weights[gone]) / weights.iter().map(|&weight| f64::from(weight)).sum::<f64>();
        prop_assert!((f64::from(moved) - expected).abs() < 5.0 * expected.sqrt().max(1.0) + 5.0, "{} of {}", moved, expected);
    }
}
