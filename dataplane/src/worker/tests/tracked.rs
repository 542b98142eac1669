//! Connections through a whole worker: what rules see of them, and when they end.

use super::{Bench, bench};
use crate::packet::sample;
use crate::worker::Traced;
use weft_proto::{text, v1};

/// A stateful firewall between port 1 (inside) and port 2: inside may open TCP and UDP connections to port
/// 443, and pings; what belongs to them passes; nothing else.
const FIREWALL: &[&str] = &[
    "table=0,priority=10,ip,actions=ct(zone=7),goto_table:1",
    "table=1,priority=90,ip,ct_state=+est,actions=goto_table:2",
    "table=1,priority=90,ip,ct_state=+rel,actions=goto_table:2",
    "table=1,priority=80,ct_state=+new,in_port=1,tcp,tp_dst=443,actions=ct(commit,zone=7,follow_policy),goto_table:2",
    "table=1,priority=80,ct_state=+new,in_port=1,udp,tp_dst=443,actions=ct(commit,zone=7,follow_policy),goto_table:2",
    "table=1,priority=1,actions=drop(policy)",
    "table=2,in_port=1,actions=output:2",
    "table=2,in_port=2,actions=output:1",
];

const SYN: u16 = 0x02;
const SYN_ACK: u16 = 0x12;
const ACK: u16 = 0x10;
const RST: u16 = 0x04;

/// A TCP segment between the sample's two ends, ports 40001 and 443, in either direction.
fn tcp(reply: bool, flags: u16, sequence: u32, acknowledgement: u32) -> Vec<u8> {
    let mut frame = sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 6, 0, &sample::tcp(true, flags, &[], b"")));
    frame[38..42].copy_from_slice(&sequence.to_be_bytes());
    frame[42..46].copy_from_slice(&acknowledgement.to_be_bytes());
    if reply {
        turn(&mut frame);
    }
    frame
}

fn udp(reply: bool) -> Vec<u8> {
    let mut frame = sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 17, 0, &sample::udp(true, b"payload")));
    frame[36..38].copy_from_slice(&443_u16.to_be_bytes());
    // No checksum (RFC 768): the port was changed.
    frame[40..42].fill(0);
    if reply {
        turn(&mut frame);
    }
    frame
}

/// Exchanges addresses and ports.
fn turn(frame: &mut [u8]) {
    for (one, other, length) in [(26, 30, 4), (34, 36, 2)] {
        for index in 0..length {
            frame.swap(one + index, other + index);
        }
    }
}

fn passes(bench: &Bench, from: usize, frame: Vec<u8>) {
    bench.send(from, frame.clone());
    assert_eq!(bench.receive(3 - from), frame);
}

fn handshake(bench: &Bench) {
    passes(bench, 1, tcp(false, SYN, 1000, 0));
    passes(bench, 2, tcp(true, SYN_ACK, 5000, 1001));
    passes(bench, 1, tcp(false, ACK, 1001, 5001));
}

#[test]
fn replies_pass_and_strangers_do_not() {
    let bench = bench(FIREWALL);
    bench.send(2, tcp(true, SYN_ACK, 5000, 1001));
    bench.send(2, udp(true));
    assert_eq!(bench.dropped(2), [(2, "policy", 2)]);
    handshake(&bench);
    passes(&bench, 1, udp(false));
    passes(&bench, 2, udp(true));
    // A long conversation is served from the cache.
    let before = bench.worker.report().cache_misses;
    for _ in 0..50 {
        passes(&bench, 1, tcp(false, ACK, 1001, 5001));
        passes(&bench, 2, tcp(true, ACK, 5001, 1001));
        passes(&bench, 1, udp(false));
    }
    let walks = bench.worker.report().cache_misses - before;
    assert!(walks <= 6, "{walks} walks for 150 packets");
    bench.finish();
}

#[test]
fn removing_the_rule_that_admitted_a_connection_ends_it_in_both_directions() {
    for direction in [1, 2] {
        let bench = bench(FIREWALL);
        handshake(&bench);
        passes(&bench, 2, tcp(true, ACK, 5001, 1001));
        // Another rule's change ends nothing.
        bench
            .add(&["table=1,priority=80,ct_state=+new,in_port=2,tcp,tp_dst=22,actions=ct(commit,zone=7),goto_table:2"]);
        passes(&bench, 1, tcp(false, ACK, 1001, 5001));
        passes(&bench, 2, tcp(true, ACK, 5001, 1001));
        bench.remove(&[FIREWALL[3]]);
        bench.send(direction, tcp(direction == 2, ACK, 1001, 5001));
        assert_eq!(bench.dropped(1), [(direction, "policy", 1)]);
        // It stays ended when the rule comes back: TCP is not picked up in the middle.
        bench.add(&[FIREWALL[3]]);
        bench.send(1, tcp(false, ACK, 1001, 5001));
        assert_eq!(bench.dropped(2).iter().map(|(_, _, count)| count).sum::<u64>(), 2);
        handshake(&bench);
        bench.finish();
    }
}

#[test]
fn a_packet_that_goes_nowhere_begins_no_connection() {
    let rules = [
        "table=0,in_port=1,udp,actions=ct(commit,zone=7),goto_table:1",
        "table=0,in_port=2,udp,actions=ct(zone=7),goto_table:2",
        "table=1,actions=drop(policy)",
        "table=2,ct_state=+est,udp,actions=output:1",
        "table=2,priority=1,actions=drop(unknown_destination)",
    ];
    let bench = bench(&rules);
    bench.send(1, udp(false));
    assert_eq!(bench.dropped(1), [(1, "policy", 1)]);
    bench.send(2, udp(true));
    assert_eq!(bench.dropped(2), [(1, "policy", 1), (2, "unknown_destination", 1)]);
    bench.finish();
}

#[test]
fn zones_are_strangers_to_one_another() {
    let rules = [
        "table=0,in_port=1,udp,actions=ct(commit,zone=1),output:2",
        "table=0,in_port=2,udp,actions=ct(zone=2),goto_table:1",
        "table=1,ct_state=+est,udp,actions=output:1",
        "table=1,priority=1,ct_state=+new,udp,actions=drop(policy)",
    ];
    let bench = bench(&rules);
    passes(&bench, 1, udp(false));
    bench.send(2, udp(true));
    assert_eq!(bench.dropped(1), [(2, "policy", 1)]);
    bench.finish();
}

#[test]
fn an_icmp_error_about_a_connection_passes_and_others_do_not() {
    let bench = bench(FIREWALL);
    let sent = udp(false);
    passes(&bench, 1, sent.clone());
    let error = |quoted: &[u8]| {
        let message = sample::icmp(true, 3, 4, &quoted[14..42]);
        sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 1, 0, &message))
    };
    passes(&bench, 2, error(&sent));
    let mut stranger = sent;
    stranger[35] ^= 1;
    bench.send(2, error(&stranger));
    assert_eq!(bench.dropped(1), [(2, "policy", 1)]);
    bench.finish();
}

#[test]
fn a_reset_ends_what_rules_see() {
    let bench = bench(FIREWALL);
    handshake(&bench);
    passes(&bench, 2, tcp(true, RST, 5001, 0));
    // A new connection of the same ends may begin at once.
    passes(&bench, 1, tcp(false, SYN, 90_000, 0));
    bench.finish();
}

#[test]
fn a_trace_sees_the_connections_and_changes_none() {
    let bench = bench(FIREWALL);
    let key = |line: &str| crate::flow::message::key_from_packet(&text::parse_packet(line).unwrap()).unwrap();
    let reply = "in_port=2,tcp,ip_src=10.0.0.2,ip_dst=10.0.0.1,tcp_src=443,tcp_dst=40001,tcp_flags=+ack";
    let trace = |line: &str| {
        let key = key(line);
        let packet = Traced::Fields(Box::new((key, crate::connection::Contents::unknown(&key))));
        bench.worker.trace(packet, [].into()).unwrap()
    };
    assert_eq!(trace(reply).drop_reason, "policy");
    handshake(&bench);
    let traced = trace(reply);
    assert_eq!(traced.drop_reason, "", "{traced:?}");
    let new: v1::TraceReply = trace("in_port=1,tcp,ip_src=10.0.0.9,ip_dst=10.0.0.2,tcp_src=1,tcp_dst=443");
    assert_eq!(new.drop_reason, "");
    assert!(new.effects.iter().any(|effect| text::format_effect(effect).contains("output:2")), "{new:?}");
    bench.finish();
}
