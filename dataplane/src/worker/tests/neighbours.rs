//! Next hops through a whole worker: who is asked, what waits, what goes on, and that no program outlives what it
//! was made from.

use super::routed::nothing_more;
use super::{Bench, bench, udp_frame};
use crate::drop::DropReason;
use crate::packet::arp;
use crate::worker::Traced;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use weft_proto::v1;

const OURS: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
const SOURCE: [u8; 4] = [192, 0, 2, 1];
const HOP: [u8; 4] = [192, 0, 2, 254];
const THERE: [u8; 6] = [2, 0, 0, 0, 0, 9];
const ELSEWHERE: [u8; 6] = [2, 0, 0, 0, 0, 0xa];

const RULES: &[&str] = &[
    "priority=9,in_port=2,arp,arp_op=2,actions=learn_neighbour",
    "priority=8,in_port=2,arp,actions=learn_neighbour,output:3",
    "priority=1,in_port=1,ip,actions=neighbour(port=2,source=192.0.2.1,mac=02:00:00:00:00:fe,hop=192.0.2.254),output:2",
    "priority=1,in_port=3,ip,actions=neighbour(port=2,source=192.0.2.1,mac=02:00:00:00:00:fe),output:2",
];

fn reply(from: [u8; 6], address: [u8; 4]) -> Vec<u8> {
    let mut frame = arp::request(0, from, address, SOURCE, Some(OURS));
    frame[21] = 2;
    frame[32..38].copy_from_slice(&OURS);
    frame
}

fn to(mac: [u8; 6]) -> Vec<u8> {
    let mut frame = udp_frame();
    frame[..6].copy_from_slice(&mac);
    frame
}

fn question() -> Vec<u8> {
    arp::request(0, OURS, SOURCE, HOP, None)
}

/// Makes the hop known, by a packet that waited for it.
fn resolved(bench: &Bench) {
    bench.send(1, udp_frame());
    assert_eq!(bench.receive(2), question());
    bench.send(2, reply(THERE, HOP));
    assert_eq!(bench.receive(2), to(THERE));
}

fn listed(bench: &Bench) -> Vec<(u32, [u8; 4], &'static str)> {
    let list = bench.tables.read().neighbours.list();
    list.iter().map(|listed| (listed.hop.port, listed.hop.address.octets(), listed.state)).collect()
}

#[test]
fn packets_wait_for_the_answer_and_then_leave_at_once() {
    let bench = bench(RULES);
    for _ in 0..5 {
        bench.send(1, udp_frame());
    }
    assert_eq!(bench.receive(2), question(), "asked once");
    assert_eq!(bench.dropped(2), [(1, "neighbour_unresolved", 2)], "three wait");
    assert_eq!(listed(&bench), [(2, HOP, "incomplete")]);
    let answered = Instant::now();
    bench.send(2, reply(THERE, HOP));
    for _ in 0..3 {
        assert_eq!(bench.receive(2), to(THERE));
    }
    assert!(answered.elapsed() < Duration::from_millis(500), "not when it would have been asked again");
    assert_eq!(bench.dropped(3), [(1, "neighbour_unresolved", 2), (2, "consumed", 1)]);
    assert_eq!(listed(&bench), [(2, HOP, "reachable")]);
    let before = bench.worker.report();
    for _ in 0..20 {
        bench.send(1, udp_frame());
        assert_eq!(bench.receive(2), to(THERE));
    }
    let after = bench.worker.report();
    assert!(after.cache_misses - before.cache_misses <= 1, "what is known is cached");
    nothing_more(&bench);
    bench.finish();
}

#[test]
fn who_does_not_answer_is_asked_three_times_and_what_waited_drops() {
    let bench = bench(RULES);
    let begun = Instant::now();
    bench.send(1, udp_frame());
    for seconds in 0..3 {
        assert_eq!(bench.receive(2), question());
        let elapsed = begun.elapsed().as_millis();
        assert!(elapsed >= seconds * 1000 && elapsed < seconds * 1000 + 900, "request {seconds} after {elapsed} ms");
    }
    assert_eq!(bench.dropped(1), [(1, "neighbour_unresolved", 1)]);
    assert!(begun.elapsed() >= Duration::from_secs(3));
    bench.send(1, udp_frame());
    assert_eq!(bench.dropped(2), [(1, "neighbour_unresolved", 2)]);
    assert_eq!(listed(&bench), [(2, HOP, "failed")]);
    nothing_more(&bench);
    bench.finish();
}

#[test]
fn programs_do_not_outlive_where_their_hop_was() {
    let bench = bench(RULES);
    resolved(&bench);
    for (mac, frame) in [
        // It says so itself, as everybody hears; then by a reply that nobody asked for.
        (ELSEWHERE, arp::announcement(0, ELSEWHERE, HOP)),
        (THERE, reply(THERE, HOP)),
    ] {
        let passed_on = frame[21] == 1;
        bench.send(2, frame);
        if passed_on {
            bench.receive(3);
        } else {
            bench.dropped(2);
        }
        for _ in 0..3 {
            bench.send(1, udp_frame());
            assert_eq!(bench.receive(2), to(mac));
        }
    }
    // The port loses its link, so what was behind it is unknown.
    let mut topology = (*bench.tables.topology()).clone();
    let original = topology.clone();
    topology.ports.remove(&2);
    bench.tables.set_topology(topology);
    assert_eq!(listed(&bench), []);
    bench.tables.set_topology(original);
    bench.send(1, udp_frame());
    assert_eq!(bench.receive(2), question());
    bench.finish();
}

#[test]
fn while_a_commit_waits_neighbours_change_all_the_same() {
    let bench = bench(RULES);
    resolved(&bench);
    let (stop, end) = (AtomicBool::new(false), Instant::now() + 4 * super::PATIENCE);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) && Instant::now() < end {
                bench.tables.set_topology((*bench.tables.topology()).clone());
            }
        });
        for round in 0..50 {
            let mac = [2, 0, 0, 0, 1, round];
            bench.send(2, arp::announcement(0, mac, HOP));
            bench.receive(3);
            let deadline = Instant::now() + super::PATIENCE;
            loop {
                bench.send(1, udp_frame());
                if bench.receive(2) == to(mac) {
                    break;
                }
                assert!(Instant::now() < deadline, "round {round}: the old address is used on");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    bench.finish();
}

#[test]
fn nobody_is_learnt_unasked_nor_from_nonsense() {
    let bench = bench(RULES);
    bench.send(2, reply(THERE, HOP));
    bench.dropped(1);
    assert_eq!(listed(&bench), []);
    bench.send(1, udp_frame());
    assert_eq!(bench.receive(2), question());
    for nonsense in [reply([0xff; 6], HOP), reply([0; 6], HOP), reply(THERE, [192, 0, 2, 253])] {
        bench.send(2, nonsense);
    }
    assert_eq!(bench.dropped(4), [(2, "consumed", 4)]);
    assert_eq!(listed(&bench), [(2, HOP, "incomplete")]);
    bench.finish();
}

#[test]
fn without_a_hop_it_is_the_packets_destination() {
    let bench = bench(&[
        RULES[0],
        RULES[3],
        "priority=2,in_port=1,ip,actions=set_field:192.0.2.77->ip_dst,\
         neighbour(port=2,source=192.0.2.1,mac=02:00:00:00:00:fe,vlan=7),output:2",
        "priority=3,in_port=4,ip,actions=set_field:224.0.0.9->ip_dst,\
         neighbour(port=2,source=192.0.2.1,mac=02:00:00:00:00:fe),output:2",
    ]);
    let destination = udp_frame()[30..34].try_into().unwrap();
    bench.send(3, udp_frame());
    assert_eq!(bench.receive(2), arp::request(0, OURS, SOURCE, destination, None));
    bench.send(1, udp_frame());
    assert_eq!(bench.receive(2), arp::request(7, OURS, SOURCE, [192, 0, 2, 77], None));
    bench.send(4, udp_frame());
    assert_eq!(bench.dropped(1), [(4, "unknown_destination", 1)]);
    // Another destination is another program.
    bench.send(2, reply(THERE, destination));
    assert_eq!(bench.receive(2), to(THERE));
    let mut other = udp_frame();
    other[33] = 200;
    bench.send(3, other);
    assert_eq!(&bench.receive(2)[38..42], &[destination[0], destination[1], destination[2], 200]);
    bench.finish();
}

#[test]
fn a_packet_that_has_left_elsewhere_does_not_wait() {
    let bench = bench(&[
        RULES[0],
        "in_port=1,ip,actions=output:3,neighbour(port=2,source=192.0.2.1,mac=02:00:00:00:00:fe,hop=192.0.2.254),output:2",
    ]);
    bench.send(1, udp_frame());
    assert_eq!(bench.receive(3), udp_frame());
    assert_eq!(bench.receive(2), question());
    bench.send(2, reply(THERE, HOP));
    bench.dropped(1);
    nothing_more(&bench);
    bench.send(1, udp_frame());
    assert_eq!((bench.receive(3), bench.receive(2)), (udp_frame(), to(THERE)));
    bench.finish();
}

#[test]
fn a_connection_begins_when_its_packet_goes_on() {
    let bench = bench(&[
        RULES[0],
        "priority=1,in_port=1,ip,actions=ct(commit,zone=5,follow_policy,nat(src=192.0.2.1)),\
         neighbour(port=2,source=192.0.2.1,mac=02:00:00:00:00:fe,hop=192.0.2.254),output:2",
    ]);
    let connections = || bench.worker.connections(&crate::connection::Filter::default(), 10).len();
    bench.send(1, udp_frame());
    bench.send(1, udp_frame());
    assert_eq!(bench.receive(2), question());
    assert_eq!(connections(), 0);
    bench.send(2, reply(THERE, HOP));
    for _ in 0..2 {
        let left = bench.receive(2);
        assert_eq!((&left[..6], &left[26..30]), (&THERE[..], &SOURCE[..]));
    }
    assert_eq!(connections(), 1);
    // That its neighbour is unknown ends no connection.
    bench.tables.change_neighbours(|neighbours| neighbours.forget_port(2));
    bench.send(1, udp_frame());
    assert_eq!(bench.receive(2), question());
    bench.send(2, reply(ELSEWHERE, HOP));
    assert_eq!(bench.receive(2)[..6], ELSEWHERE);
    assert_eq!(connections(), 1);
    bench.finish();
}

#[test]
fn a_trace_tells_the_hop_and_asks_nobody() {
    let bench = bench(RULES);
    let traced = || {
        let reply = bench.worker.trace(Traced::Frame { in_port: 1, bytes: udp_frame() }, [].into()).unwrap();
        let words: Vec<String> = reply.effects.iter().map(weft_proto::text::format_effect).collect();
        (words, reply.drop_reason)
    };
    let unknown = "neighbour 192.0.2.254 at port 2: not known (yet)".to_owned();
    assert_eq!(traced(), (vec![unknown], "neighbour_unresolved".to_owned()));
    nothing_more(&bench);
    assert_eq!(listed(&bench), []);
    resolved(&bench);
    let known = "neighbour 192.0.2.254 at port 2: 02:00:00:00:00:09".to_owned();
    assert_eq!(traced(), (vec![known, "output:2 (port2)".to_owned()], String::new()));
    bench.finish();
}

#[test]
fn what_waits_goes_with_its_port_and_with_the_worker() {
    let bench = bench(RULES);
    bench.send(1, udp_frame());
    bench.send(3, udp_frame());
    bench.receive(2);
    bench.receive(2);
    bench.worker.remove_queues(crate::port::PortSlot::new(1));
    let dropped = bench.dropped(1);
    assert_eq!(dropped.iter().map(|(_, reason, count)| (*reason, *count)).collect::<Vec<_>>(), [("port_down", 1)]);
    // The other one's buffer comes home when the worker stops.
    bench.finish();
}

#[test]
fn frames_of_our_own_leave_by_the_port_that_is_named() {
    let bench = bench(&[]);
    let frame = arp::announcement(0, OURS, SOURCE);
    assert_eq!(bench.worker.send(3, frame.clone()), Ok(()));
    assert_eq!(bench.receive(3), frame);
    assert_eq!(bench.worker.send(77, frame.clone()), Err(DropReason::NoSuchPort));
    assert_eq!(bench.worker.send(super::TUNNEL, frame), Err(DropReason::NoTunnelDestination));
    assert_eq!(bench.worker.send(3, vec![0; 70_000]), Err(DropReason::NoBuffer));
    let long = vec![1; 5000];
    assert_eq!(bench.worker.send(3, long.clone()), Ok(()));
    assert_eq!(bench.receive(3), long);
    assert_eq!(bench.drops(), []);
    bench.finish();
}

#[test]
fn what_an_action_set_cannot_do_is_refused() {
    let action =
        |action| v1::Instructions { write_actions: vec![v1::Action { action: Some(action) }], ..Default::default() };
    for refused in [
        v1::action::Action::Translate(v1::Translate { source: SOURCE.to_vec(), ..Default::default() }),
        v1::action::Action::LearnNeighbour(v1::LearnNeighbour::default()),
    ] {
        let rule =
            v1::Rule { owner: v1::Owner::Manual.into(), instructions: Some(action(refused)), ..Default::default() };
        let fault = crate::flow::message::rule_from_message(&rule, 0).unwrap_err();
        assert_eq!((fault.code.as_str(), fault.field.contains("write_actions[0]")), ("bad_action", true), "{fault}");
    }
}
