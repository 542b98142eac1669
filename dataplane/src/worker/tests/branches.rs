//! Walks that branch, through a whole worker: each copy goes its own way, and is accounted for.

use super::{Bench, PATIENCE, bench, tcp_frame, udp_frame};
use crate::connection::Filter;
use crate::limits::BRANCHES_PER_WALK;
use crate::packet::sample::{self, verify};
use crate::worker::Traced;
use std::time::Instant;
use weft_proto::text;

/// Waits until this many branches have gone nowhere, and gives them.
pub(super) fn lost(bench: &Bench, branches: u64) -> Vec<(usize, &'static str, u64)> {
    let deadline = Instant::now() + PATIENCE;
    while bench.branches().iter().map(|(_, _, count)| count).sum::<u64>() < branches && Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    bench.branches()
}

fn zones(bench: &Bench) -> Vec<u32> {
    let mut zones: Vec<u32> =
        bench.worker.connections(&Filter::default(), 100).iter().map(|one| one.record.zone).collect();
    zones.sort_unstable();
    zones
}

#[test]
fn each_branch_has_a_packet_and_registers_of_its_own() {
    let rules = [
        "table=0,in_port=1,ip,actions=set_field:0x1->reg0,\
         clone(dec_ttl,set_field:02:00:00:00:00:77->eth_dst,set_field:0x2->reg0,goto_table:5),\
         clone(push_vlan:0x8100,set_field:0x1007->vlan_tci,output:3),goto_table:5",
        "table=5,reg0=0x2,ip,nw_ttl=62,vlan_tci=0/0x1000,actions=output:4",
        "table=5,reg0=0x1,ip,nw_ttl=63,vlan_tci=0/0x1000,dl_dst=02:00:00:00:00:02,actions=output:2",
    ];
    let bench = bench(&rules);
    let mut sent = tcp_frame();
    sent[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    for _ in 0..3 {
        bench.send(1, sent.clone());
        assert_eq!(bench.receive(2), sent, "as it was before the branches");
        let tagged = bench.receive(3);
        assert_eq!((&tagged[12..18], &tagged[18..]), (&[0x81, 0, 0, 7, 8, 0][..], &sent[14..]));
        let routed = bench.receive(4);
        verify(&routed).unwrap();
        assert_eq!((&routed[..6], routed[22]), (&[2, 0, 0, 0, 0, 0x77][..], sent[22] - 1));
        assert_eq!(&routed[26..], &sent[26..]);
    }
    let report = bench.worker.report();
    assert_eq!((report.cache_hits, report.cache_misses), (2, 1), "one program, forks and all");
    assert_eq!((bench.drops(), bench.branches()), (vec![], vec![]));
    bench.finish();
}

#[test]
fn branches_nest() {
    let rules = [
        "table=0,in_port=1,actions=clone(set_field:0x5->reg1,clone(set_field:0x6->reg1,goto_table:2),goto_table:1),goto_table:3",
        "table=1,reg1=0x5,actions=clone(goto_table:2),output:2",
        "table=2,reg1=0x6,actions=output:4",
        "table=2,reg1=0x5,actions=output:3",
        "table=3,reg1=0,actions=drop(unknown_destination)",
    ];
    let bench = bench(&rules);
    bench.send(1, udp_frame());
    for port in [2, 3, 4] {
        assert_eq!(bench.receive(port), udp_frame());
    }
    // The packet's own way ends nowhere; but it went somewhere.
    assert_eq!((lost(&bench, 1), bench.drops()), (vec![(1, "unknown_destination", 1)], vec![]));
    bench.finish();
}

#[test]
fn a_branch_that_is_dropped_is_counted_apart_and_hurts_no_other() {
    let rules = [
        "table=0,in_port=1,ip,actions=clone(goto_table:1),clone(set_field:0x1->reg1,goto_table:1),\
         clone(set_field:0x2->reg1,goto_table:1),clone(output:2)",
        "table=1,reg1=0,actions=drop(policy)",
        "table=1,reg1=0x1,actions=drop(spoofed)",
        // Found out only when the program runs.
        "table=1,reg1=0x2,ip,actions=dec_ttl,output:3",
    ];
    let bench = bench(&rules);
    let mut frame = udp_frame();
    let sum = u16::from_be_bytes([frame[24], frame[25]]) + (u16::from(frame[22]) - 1) * 256;
    frame[22] = 1;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    for round in 1..=3 {
        bench.send(1, frame.clone());
        assert_eq!(bench.receive(2), frame);
        let expected = vec![(1, "policy", round), (1, "spoofed", round), (1, "ttl_expired", round)];
        assert_eq!(lost(&bench, round * 3), expected);
    }
    assert_eq!(bench.drops(), [], "each frame went somewhere");
    bench.remove(&[rules[0]]);
    bench.add(&["table=0,in_port=1,ip,actions=clone(goto_table:1),clone(set_field:0x1->reg1,goto_table:1)"]);
    bench.send(1, frame);
    assert_eq!(bench.dropped(1), [(1, "policy", 1)], "one outcome for a frame: the first thing that went wrong");
    assert_eq!(lost(&bench, 11), [(1, "policy", 4), (1, "spoofed", 4), (1, "ttl_expired", 3)]);
    bench.finish();
}

#[test]
fn what_would_go_back_to_who_sent_it_is_no_drop() {
    let bench = bench(&["table=0,actions=clone(output:1),clone(output:2),clone(output:3)"]);
    bench.send(1, udp_frame());
    assert_eq!((bench.receive(2), bench.receive(3)), (udp_frame(), udp_frame()));
    assert_eq!((bench.drops(), bench.branches()), (vec![], vec![]));
    bench.finish();
}

/// Port 1 floods to ports 2 to 4, each of which has a firewall with a zone of its own: 2 and 3 let UDP to port 53
/// enter, 4 nothing.
const FLOOD: &[&str] = &[
    "table=0,priority=9,in_port=1,ip,actions=ct(commit,zone=1,follow_policy),\
     clone(set_field:0x2->reg1,goto_table:70),clone(set_field:0x3->reg1,goto_table:70),\
     clone(set_field:0x4->reg1,goto_table:70)",
    "table=0,priority=9,in_port=2,ip,actions=ct(zone=2),goto_table:10",
    "table=10,ct_state=+est,actions=output:1",
    "table=10,priority=1,actions=drop(policy)",
    "table=70,reg1=0x2,ip,actions=ct(commit,zone=2,follow_policy),goto_table:71",
    "table=70,reg1=0x3,ip,actions=ct(commit,zone=3,follow_policy),goto_table:71",
    "table=70,reg1=0x4,ip,actions=ct(commit,zone=4,follow_policy),goto_table:71",
    "table=71,priority=300,ct_state=-new-inv,actions=goto_table:80",
    "table=71,priority=100,reg1=0x2,udp,tp_dst=53,ct_state=+new,actions=goto_table:80",
    "table=71,priority=100,reg1=0x3,udp,tp_dst=53,ct_state=+new,actions=goto_table:80",
    "table=71,priority=1,actions=drop(policy)",
    "table=80,reg1=0x2,actions=output:2",
    "table=80,reg1=0x3,actions=output:3",
    "table=80,reg1=0x4,actions=output:4",
];

#[test]
fn a_connection_begins_only_where_its_branch_arrives() {
    let bench = bench(FLOOD);
    for round in 1..=4 {
        bench.send(1, udp_frame());
        assert_eq!((bench.receive(2), bench.receive(3)), (udp_frame(), udp_frame()));
        assert_eq!(lost(&bench, round), [(1, "policy", round)]);
        assert_eq!(zones(&bench), [1, 2, 3], "none in the zone that refused it");
    }
    // Counted once for each connection, whichever branches it met.
    for one in bench.worker.connections(&Filter::default(), 100) {
        assert_eq!(one.record.counters[0].packets, 4, "zone {}", one.record.zone);
    }
    // An answer of one of them passes.
    let mut answer = udp_frame();
    for (one, other, length) in [(26, 30, 4), (34, 36, 2)] {
        (0..length).for_each(|index| answer.swap(one + index, other + index));
    }
    bench.send(2, answer.clone());
    assert_eq!(bench.receive(1), answer);
    bench.finish();
}

#[test]
fn a_flood_that_all_admit_is_served_from_the_cache() {
    let bench = bench(FLOOD);
    bench.add(&["table=71,priority=100,reg1=0x4,udp,tp_dst=53,ct_state=+new,actions=goto_table:80"]);
    for _ in 0..50 {
        bench.send(1, udp_frame());
        (2..=4).for_each(|port| assert_eq!(bench.receive(port), udp_frame()));
    }
    assert_eq!(zones(&bench), [1, 2, 3, 4]);
    let walks = bench.worker.report().cache_misses;
    assert!(walks <= 3, "{walks} walks for 50 packets");
    for one in bench.worker.connections(&Filter::default(), 100) {
        assert_eq!(one.record.counters[0].packets, 50, "zone {}", one.record.zone);
    }
    bench.finish();
}

#[test]
fn removing_a_rule_ends_the_connection_of_its_branch_alone() {
    let bench = bench(FLOOD);
    for _ in 0..3 {
        bench.send(1, udp_frame());
        (2..=3).for_each(|port| assert_eq!(bench.receive(port), udp_frame()));
    }
    bench.remove(&["table=71,priority=100,reg1=0x3,udp,tp_dst=53,ct_state=+new,actions=goto_table:80"]);
    for _ in 0..3 {
        bench.send(1, udp_frame());
        assert_eq!(bench.receive(2), udp_frame());
    }
    assert_eq!(zones(&bench), [1, 2]);
    assert_eq!(bench.peers[2].take_all().len(), 0, "nothing more by port 3");
    // And none at all when nobody takes it.
    bench.remove(&["table=71,priority=100,reg1=0x2,udp,tp_dst=53,ct_state=+new,actions=goto_table:80"]);
    bench.send(1, udp_frame());
    assert_eq!(bench.dropped(1), [(1, "policy", 1)]);
    assert_eq!(zones(&bench), [0; 0]);
    bench.finish();
}

#[test]
fn branches_translate_each_for_itself() {
    let rules = [
        "table=0,in_port=1,udp,actions=clone(ct(commit,zone=2,nat(dst=10.0.0.22)),goto_table:1),\
         clone(ct(commit,zone=3,nat(dst=10.0.0.33:5353)),goto_table:1),output:4",
        "table=1,udp,ip_dst=10.0.0.22,udp_dst=53,actions=output:2",
        "table=1,udp,ip_dst=10.0.0.33,udp_dst=5353,actions=output:3",
    ];
    let bench = bench(&rules);
    for _ in 0..3 {
        bench.send(1, udp_frame());
        assert_eq!(bench.receive(4), udp_frame());
        for (port, last) in [(2, 22), (3, 33)] {
            let frame = bench.receive(port);
            verify(&frame).unwrap();
            assert_eq!(&frame[30..34], &[10, 0, 0, last]);
        }
    }
    assert_eq!(zones(&bench), [2, 3]);
    bench.finish();
}

#[test]
fn two_branches_that_begin_one_connection_begin_it_once() {
    let rules = ["table=0,in_port=1,udp,actions=clone(ct(commit,zone=5),output:2),clone(ct(commit,zone=5),output:3)"];
    let bench = bench(&rules);
    for _ in 0..3 {
        bench.send(1, udp_frame());
        assert_eq!((bench.receive(2), bench.receive(3)), (udp_frame(), udp_frame()));
    }
    let all = bench.worker.connections(&Filter::default(), 100);
    assert_eq!((all.len(), all[0].record.counters[0].packets), (1, 3));
    bench.finish();
}

#[test]
fn later_fragments_are_known_in_every_branch() {
    let rules = [
        "table=0,in_port=1,udp,actions=clone(ct(commit,zone=2),goto_table:1),clone(ct(commit,zone=3),goto_table:2)",
        "table=1,udp,tp_dst=53,actions=output:2",
        "table=2,udp,tp_dst=53,actions=output:3",
    ];
    let bench = bench(&rules);
    let datagram = sample::udp(true, &[7; 64]);
    let first = sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 17, 0x2000, &datagram[..40]));
    let second = sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 17, 5, &datagram[40..]));
    bench.send(1, second.clone());
    bench.send(1, first.clone());
    for port in [2, 3] {
        assert_eq!((bench.receive(port), bench.receive(port)), (first.clone(), second.clone()));
    }
    assert_eq!((bench.drops(), bench.branches()), (vec![], vec![]));
    bench.finish();
}

#[test]
fn what_branches_too_often_or_too_deep_is_dropped() {
    // Each table forks into the next one, twice: without a limit 2 to the 40th walks.
    let lines: Vec<String> = (0..40)
        .map(|table| format!("table={table},actions=clone(goto_table:{}),clone(goto_table:{0})", table + 1))
        .chain(["table=40,actions=output:2".to_owned()])
        .collect();
    let bench = bench(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    bench.send(1, udp_frame());
    assert_eq!(bench.dropped(1), [(1, "branch_limit", 1)]);
    bench.remove(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    // As many as there may be, and one more.
    let flood = |table: usize, branches: usize, onward: &str| {
        format!("table={table},actions={}{onward}", vec!["clone(output:2)"; branches].join(","))
    };
    let before = bench.branches();
    bench.add(&[&flood(0, BRANCHES_PER_WALK - 1, ",goto_table:1"), &flood(1, 1, "")]);
    bench.send(1, udp_frame());
    (0..BRANCHES_PER_WALK).for_each(|_| assert_eq!(bench.receive(2), udp_frame()));
    assert_eq!(bench.branches(), before);
    bench.add(&[&flood(1, 2, "")]);
    bench.send(1, udp_frame());
    (0..BRANCHES_PER_WALK).for_each(|_| assert_eq!(bench.receive(2), udp_frame()));
    let of_limit = |all: Vec<(usize, &str, u64)>| all.iter().map(|(_, _, count)| count).sum::<u64>();
    let sum = of_limit(before) + 1;
    assert_eq!(of_limit(lost(&bench, sum)), sum);
    bench.finish();
}

#[test]
fn a_trace_shows_branches_within_what_forks() {
    let bench = bench(FLOOD);
    let line = "in_port=1,udp,ip_src=10.0.0.1,ip_dst=10.0.0.255,udp_src=5000,udp_dst=53";
    let key = crate::flow::message::key_from_packet(&text::parse_packet(line).unwrap()).unwrap();
    let packet = Traced::Fields(Box::new((key, crate::connection::Contents::unknown(&key))));
    let reply = bench.worker.trace(packet, [].into()).unwrap();
    let steps: Vec<(u32, u32, &str)> =
        reply.steps.iter().map(|step| (step.depth, step.table, step.drop_reason.as_str())).collect();
    let branch = [(1, 70, ""), (1, 71, ""), (1, 80, "")];
    let refused = [(1, 70, ""), (1, 71, "policy")];
    assert_eq!(steps, [&[(0, 0, "")][..], &branch, &branch, &refused].concat());
    let effects: Vec<String> = reply.effects.iter().map(text::format_effect).collect();
    assert_eq!(effects, ["clone(output:2 (port2))", "clone(output:3 (port3))", "clone(drop policy)"]);
    assert_eq!(reply.drop_reason, "");
    assert_eq!(zones(&bench), [0; 0], "a trace begins nothing");
    bench.finish();
}
