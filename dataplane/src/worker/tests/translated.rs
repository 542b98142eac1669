//! NAT through a whole worker. Frames are built and checked by `etherparse`: what comes out must be, to the byte,
//! what the other end would have been sent by a host with the translated address.

use super::routed::{icmp, joined, nothing_more};
use super::{Bench, PATIENCE, bench};
use crate::packet::frame::{Checksum, Gso, GsoKind};
use crate::packet::sample::{slow_fold, slow_sum, verify};
use crate::port::memory::MemoryFrame;
use crate::worker::Traced;
use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, PacketBuilder, PacketBuilderStep};
use proptest::prelude::*;
use weft_proto::{text, v1};

pub(super) type End = ([u8; 4], u16);

const CLIENT: End = ([10, 0, 0, 1], 5000);
const OTHER: End = ([10, 0, 0, 7], 5000);
const SERVER: End = ([198, 51, 100, 9], 443);
const EXTERNAL: [u8; 4] = [192, 0, 2, 1];
/// On the way to the server, and on the way to the client.
const OUTER_ROUTER: [u8; 4] = [203, 0, 113, 3];
const INNER_ROUTER: [u8; 4] = [10, 0, 0, 254];

/// Port 1 is inside, as is port 3; port 2 and (without any offload) port 4 are outside.
const MASQUERADE: &[&str] = &[
    "table=0,priority=10,in_port=1,ip,actions=ct(commit,zone=9,nat(src=192.0.2.1)),goto_table:1",
    "table=0,priority=10,in_port=3,ip,actions=ct(commit,zone=9,nat(src=192.0.2.1)),goto_table:1",
    "table=0,priority=10,ip,ip_dst=192.0.2.1,actions=ct(zone=9,nat),goto_table:1",
    "table=1,in_port=1,ip,ip_src=192.0.2.1,actions=output:2",
    "table=1,in_port=3,ip,ip_src=192.0.2.1,actions=output:4",
    "table=1,in_port=2,ip,ip_dst=10.0.0.0/24,actions=output:1",
    "table=1,in_port=4,ip,ip_dst=10.0.0.0/24,actions=output:3",
];

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Udp,
    Tcp(u16),
    /// The ends' ports are the identifier.
    Echo,
    EchoReply,
    Sctp,
}

pub(super) fn between(from: [u8; 4], to: [u8; 4]) -> PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4(from, to, 63)
}

pub(super) fn frame(kind: Kind, from: End, to: End, payload: &[u8]) -> Vec<u8> {
    let (mut bytes, step) = (Vec::new(), between(from.0, to.0));
    match kind {
        Kind::Udp => step.udp(from.1, to.1).write(&mut bytes, payload).unwrap(),
        Kind::Tcp(flags) => {
            let mut header = etherparse::TcpHeader::new(from.1, to.1, 1001, 60_000);
            (header.syn, header.ack) = (flags & 2 != 0, flags & 16 != 0);
            (header.sequence_number, header.acknowledgment_number) =
                if header.syn { (1000, 1001) } else { (1001, 1001) };
            step.tcp_header(header).write(&mut bytes, payload).unwrap();
        }
        Kind::Echo => step.icmpv4_echo_request(from.1, 1).write(&mut bytes, payload).unwrap(),
        Kind::EchoReply => step.icmpv4_echo_reply(to.1, 1).write(&mut bytes, payload).unwrap(),
        Kind::Sctp => {
            // One INIT chunk (RFC 9260, 3.3.2), or DATA if there is a payload.
            let chunk: &[u8] = if payload.is_empty() { &[1, 0, 0, 4] } else { payload };
            let mut packet = [&from.1.to_be_bytes()[..], &to.1.to_be_bytes(), &[0; 8], chunk].concat();
            let crc = slow_crc32c(&packet).to_le_bytes();
            packet[8..12].copy_from_slice(&crc);
            step.write(&mut bytes, 132.into(), &packet).unwrap();
        }
    }
    bytes
}

/// Bit by bit (RFC 9260, appendix A).
fn slow_crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

/// The ICMP error about a packet of which so many bytes are quoted.
pub(super) fn error(from: [u8; 4], to: [u8; 4], about: &[u8], quoted: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let kind = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host);
    between(from, to).icmpv4(kind).write(&mut bytes, &about[14..about.len().min(14 + quoted)]).unwrap();
    bytes
}

/// Sends a frame out by port 1; gives the source port it got. It must have left as its like from there.
fn leaves(bench: &Bench, kind: Kind, from: End, to: End, payload: &[u8]) -> u16 {
    bench.send(1, frame(kind, from, to, payload));
    let left = bench.receive(2);
    let at = if matches!(kind, Kind::Echo | Kind::EchoReply) { 38 } else { 34 };
    let port = u16::from_be_bytes([left[at], left[at + 1]]);
    assert_eq!(left, frame(kind, (EXTERNAL, port), to, payload), "{kind:?}");
    port
}

fn returns(bench: &Bench, kind: Kind, from: End, port: u16, to: End) {
    bench.send(2, frame(kind, from, (EXTERNAL, port), b"an answer"));
    assert_eq!(bench.receive(1), frame(kind, from, to, b"an answer"), "{kind:?}");
}

#[test]
fn conversations_are_translated_both_ways() {
    let bench = bench(MASQUERADE);
    let kinds = [
        (Kind::Udp, Kind::Udp, Kind::Udp),
        (Kind::Tcp(2), Kind::Tcp(18), Kind::Tcp(16)),
        (Kind::Echo, Kind::EchoReply, Kind::Echo),
        (Kind::Sctp, Kind::Sctp, Kind::Sctp),
    ];
    for (first, answer, next) in kinds {
        // INIT ACK, COOKIE ECHO: the chunk's type is what counts.
        let chunk: &[u8] = if first == Kind::Sctp { b"" } else { b"a question" };
        assert_eq!(leaves(&bench, first, CLIENT, SERVER, chunk), CLIENT.1, "it is free");
        let port = leaves(&bench, first, OTHER, SERVER, chunk);
        assert_ne!(port, OTHER.1, "and then it is not");
        if first == Kind::Sctp {
            continue;
        }
        returns(&bench, answer, SERVER, CLIENT.1, CLIENT);
        returns(&bench, answer, SERVER, port, OTHER);
        let walks = bench.worker.report().cache_misses;
        for _ in 0..40 {
            let answer = if let Kind::Tcp(_) = answer { next } else { answer };
            assert_eq!(leaves(&bench, next, OTHER, SERVER, b"more"), port);
            returns(&bench, answer, SERVER, port, OTHER);
            assert_eq!(leaves(&bench, next, CLIENT, SERVER, b"more"), CLIENT.1);
        }
        let walks = bench.worker.report().cache_misses - walks;
        assert!(walks <= 9, "{first:?}: {walks} walks for 120 packets");
    }
    // Nobody asked for this.
    bench.send(2, frame(Kind::Udp, SERVER, (EXTERNAL, 999), b""));
    assert_eq!(bench.dropped(1), [(2, "table_miss", 1)]);
    nothing_more(&bench);
    bench.finish();
}

#[test]
fn a_trace_tells_what_is_translated() {
    let bench = bench(MASQUERADE);
    let trace = |line: &str, assumed: &[v1::Connection]| {
        let key = crate::flow::message::key_from_packet(&text::parse_packet(line).unwrap()).unwrap();
        let packet = Traced::Fields(Box::new((key, crate::connection::Contents::unknown(&key))));
        bench.worker.trace(packet, crate::flow::message::connection::assumed(assumed).unwrap()).unwrap()
    };
    let shown = |traced: v1::TraceReply| traced.effects.iter().map(text::format_effect).collect::<Vec<_>>();
    let effects = |line: &str| shown(trace(line, &[]));
    let out = "in_port=1,udp,ip_src=10.0.0.1,ip_dst=198.51.100.9,udp_src=5000,udp_dst=443";
    let back = "in_port=2,udp,ip_src=198.51.100.9,ip_dst=192.0.2.1,udp_src=443,udp_dst=5000";
    assert_eq!(effects(out), ["nat(src=192.0.2.1)", "output:2 (port2)"]);
    assert!(effects(back).is_empty());
    // As if it had begun.
    let begins = trace(out, &[]).begins;
    assert_eq!(begins.len(), 1, "{begins:?}");
    assert_eq!(shown(trace(back, &begins)), ["nat(dst=10.0.0.1)", "output:1 (port1)"]);
    let Some(v1::effect::Effect::Output(output)) = &trace(back, &begins).effects[1].effect else { panic!("no output") };
    let expected = "udp,ip_src=198.51.100.9,ip_dst=10.0.0.1,udp_src=443,udp_dst=5000";
    assert_eq!(text::format_match(&output.packet), expected);
    assert_eq!(effects(back), [""; 0], "nothing is remembered");
    let ping = "in_port=1,icmp,icmp_type=8,ip_src=10.0.0.1,ip_dst=198.51.100.9";
    let pong = "in_port=2,icmp,ip_src=198.51.100.9,ip_dst=192.0.2.1";
    assert_eq!(shown(trace(pong, &trace(ping, &[]).begins)).last().unwrap(), "output:1 (port1)");
    leaves(&bench, Kind::Udp, CLIENT, SERVER, b"");
    assert_eq!(effects(back), ["nat(dst=10.0.0.1)", "output:1 (port1)"]);
    bench.finish();
}

#[test]
fn errors_are_translated_with_what_they_quote_in_both_directions() {
    let bench = bench(MASQUERADE);
    let kinds = [
        (Kind::Udp, Kind::Udp),
        (Kind::Tcp(2), Kind::Tcp(18)),
        (Kind::Echo, Kind::EchoReply),
        (Kind::Sctp, Kind::Sctp),
    ];
    for (kind, answer) in kinds {
        // So that the other one's port is changed.
        let chunk: &[u8] = if kind == Kind::Sctp { b"" } else { b"a question" };
        leaves(&bench, kind, CLIENT, SERVER, chunk);
        let sent = frame(kind, OTHER, SERVER, chunk);
        bench.send(1, sent.clone());
        let left = bench.receive(2);
        for quoted in [28, 29, 40, 500] {
            bench.send(2, error(OUTER_ROUTER, EXTERNAL, &left, quoted));
            let arrived = bench.receive(1);
            if kind == Kind::Sctp {
                // Its checksum is not made anew: it stands behind the verification tag.
                assert_eq!(arrived[42..66], error(OUTER_ROUTER, OTHER.0, &sent, quoted)[42..66]);
                icmp(&arrived);
                continue;
            }
            assert_eq!(arrived, error(OUTER_ROUTER, OTHER.0, &sent, quoted), "{kind:?}, {quoted} bytes quoted");
        }
        if kind == Kind::Sctp {
            continue;
        }
        let at = if kind == Kind::Echo { 38 } else { 34 };
        let port = u16::from_be_bytes([left[at], left[at + 1]]);
        assert_ne!(port, OTHER.1);
        let reply = frame(answer, SERVER, (EXTERNAL, port), b"an answer");
        bench.send(2, reply.clone());
        let arrived = bench.receive(1);
        for from in [OTHER.0, INNER_ROUTER] {
            bench.send(1, error(from, SERVER.0, &arrived, 500));
            assert_eq!(bench.receive(2), error(EXTERNAL, SERVER.0, &reply, 500), "{kind:?}: nobody inside is named");
        }
    }
    // About nothing that was sent: not to be translated, so it does not leave.
    bench.send(1, error(CLIENT.0, SERVER.0, &frame(Kind::Udp, SERVER, (CLIENT.0, 9), b""), 28));
    assert_eq!(bench.dropped(1), [(1, "invalid_state", 1)]);
    nothing_more(&bench);
    bench.finish();
}

/// A datagram in fragments of 400 bytes.
fn fragments(whole: &[u8], identification: u16) -> Vec<Vec<u8>> {
    let (header, payload) = whole.split_at(34);
    let count = payload.len().div_ceil(400);
    let fragment = |(index, part): (usize, &[u8])| {
        let mut bytes = [header, part].concat();
        bytes[16..18].copy_from_slice(&(20 + part.len() as u16).to_be_bytes());
        bytes[18..20].copy_from_slice(&identification.to_be_bytes());
        let more = if index + 1 < count { 0x2000 } else { 0 };
        bytes[20..22].copy_from_slice(&(more | (index * 50) as u16).to_be_bytes());
        bytes[24..26].fill(0);
        let sum = !slow_fold(slow_sum(&bytes[14..34]));
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        bytes
    };
    payload.chunks(400).enumerate().map(fragment).collect()
}

#[test]
fn fragments_are_translated_like_their_first_in_any_order() {
    let bench = bench(MASQUERADE);
    let payload: Vec<u8> = (0..=250).cycle().take(1900).collect();
    for (kind, answer) in [(Kind::Udp, Kind::Udp), (Kind::Echo, Kind::EchoReply)] {
        let port = leaves(&bench, kind, CLIENT, SERVER, b"");
        assert_eq!(port, CLIENT.1);
        let port = leaves(&bench, kind, OTHER, SERVER, b"");
        let expected = frame(kind, (EXTERNAL, port), SERVER, &payload);
        for (identification, order) in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 3, 1]].into_iter().enumerate() {
            let sent = fragments(&frame(kind, OTHER, SERVER, &payload), identification as u16);
            order.iter().for_each(|&index| bench.send(1, sent[index].clone()));
            let left: Vec<Vec<u8>> = sent.iter().map(|_| bench.receive(2)).collect();
            assert!(left.iter().all(|fragment| fragment[26..34] == [EXTERNAL, SERVER.0].concat()));
            assert_eq!(joined(&left), expected[34..], "{kind:?} {order:?}");
            let back = fragments(&frame(answer, SERVER, (EXTERNAL, port), &payload), identification as u16);
            order.iter().for_each(|&index| bench.send(2, back[index].clone()));
            let arrived: Vec<Vec<u8>> = back.iter().map(|_| bench.receive(1)).collect();
            assert_eq!(joined(&arrived), frame(answer, SERVER, OTHER, &payload)[34..], "{answer:?} {order:?}");
        }
    }
    // A CRC that covers what is not here cannot be made anew.
    bench.send(1, frame(Kind::Sctp, CLIENT, SERVER, b""));
    bench.receive(2);
    let data = [&[1, 0, 3, 0][..], &[7; 764]].concat();
    fragments(&frame(Kind::Sctp, OTHER, SERVER, &data), 7).into_iter().take(1).for_each(|first| bench.send(1, first));
    assert_eq!(bench.dropped(1), [(1, "bad_action", 1)]);
    nothing_more(&bench);
    bench.finish();
}

#[test]
fn of_a_partial_checksum_the_pseudo_header_is_kept() {
    let bench = bench(MASQUERADE);
    let shake = |client: End| {
        bench.send(3, frame(Kind::Tcp(2), client, SERVER, b""));
        let left = bench.receive(4);
        let port = u16::from_be_bytes([left[34], left[35]]);
        bench.send(4, frame(Kind::Tcp(18), SERVER, (EXTERNAL, port), b""));
        bench.receive(3);
        port
    };
    shake(CLIENT);
    let port = shake(OTHER);
    assert_ne!(port, OTHER.1);
    let payload: Vec<u8> = (0..20_000_u32).map(|index| index as u8).collect();
    let partial = |payload: &[u8], gso| {
        let mut bytes = frame(Kind::Tcp(16), OTHER, SERVER, payload);
        let length = (bytes.len() - 34) as u64;
        let pseudo = slow_sum(&OTHER.0) + slow_sum(&SERVER.0) + 6 + length;
        bytes[50..52].copy_from_slice(&slow_fold(pseudo).to_be_bytes());
        MemoryFrame { bytes, checksum: Checksum::Partial { start: 34, offset: 16 }, gso }
    };
    // Port 4 can do nothing: the switch finishes sums and cuts.
    bench.send(3, partial(b"small", None));
    assert_eq!(bench.receive(4), frame(Kind::Tcp(16), (EXTERNAL, port), SERVER, b"small"));
    bench.send(3, partial(&payload, Some(Gso { kind: GsoKind::Tcp4, size: 1400, tunnel: 0 })));
    let mut received: Vec<u8> = Vec::new();
    while received.len() < payload.len() {
        let segment = bench.receive(4);
        verify(&segment).unwrap();
        assert_eq!(segment[26..36], [&EXTERNAL[..], &SERVER.0, &port.to_be_bytes()].concat());
        received.extend(&segment[54..]);
    }
    assert_eq!(received, payload);
    // Port 2 takes it as it is.
    bench.add(&["table=1,priority=40000,in_port=3,ip,ip_src=192.0.2.1,actions=output:2"]);
    bench.send(3, partial(&payload, Some(Gso { kind: GsoKind::Tcp4, size: 1400, tunnel: 0 })));
    let left = bench.peers[1].wait(PATIENCE).unwrap();
    assert_eq!(left.checksum, Checksum::Partial { start: 34, offset: 16 });
    let pseudo = slow_sum(&EXTERNAL) + slow_sum(&SERVER.0) + 6 + (left.bytes.len() as u64 - 34);
    assert_eq!(left.bytes[50..52], slow_fold(pseudo).to_be_bytes());
    nothing_more(&bench);
    bench.finish();
}

#[test]
fn ports_that_run_out_and_packets_that_nothing_translates_are_dropped() {
    let bench = bench(&[
        "table=0,in_port=1,ip,actions=ct(commit,zone=9,nat(src=192.0.2.1:40000-40003)),output:2",
        "table=0,in_port=2,ip,actions=ct(zone=9,nat),output:1",
    ]);
    let client = |number| ([10, 0, 0, number], 5000);
    let ports = [1, 2].map(|number| leaves(&bench, Kind::Udp, client(number), SERVER, b""));
    assert!(ports.iter().all(|port| [40_000, 40_002].contains(port)) && ports[0] != ports[1], "{ports:?}");
    bench.send(1, frame(Kind::Udp, client(3), SERVER, b""));
    assert_eq!(bench.dropped(1), [(1, "nat_ports_exhausted", 1)]);
    // Those that have one keep it.
    assert_eq!(leaves(&bench, Kind::Udp, client(1), SERVER, b"more"), ports[0]);
    returns(&bench, Kind::Udp, SERVER, ports[1], client(2));
    // Towards somebody else there are some.
    assert!((40_000..=40_003).contains(&leaves(&bench, Kind::Udp, client(3), OTHER_SERVER, b"")));
    // In the middle of what nobody knows.
    bench.send(1, frame(Kind::Tcp(16), client(1), SERVER, b"data"));
    let mut drops = bench.dropped(2);
    drops.sort_unstable();
    assert_eq!(drops, [(1, "invalid_state", 1), (1, "nat_ports_exhausted", 1)]);
    nothing_more(&bench);
    bench.finish();
}

const OTHER_SERVER: End = ([198, 51, 100, 10], 53);

#[test]
fn a_destination_is_translated_with_its_port() {
    let bench = bench(&[
        "table=0,in_port=2,ip,ip_dst=192.0.2.1,actions=ct(commit,zone=9,nat(dst=10.0.0.1:5000)),goto_table:1",
        "table=0,in_port=1,ip,actions=ct(zone=9,nat),goto_table:2",
        "table=1,udp,ip_dst=10.0.0.1,udp_dst=5000,ct_state=+new+dnat-snat,actions=output:1",
        "table=2,udp,ip_src=192.0.2.1,udp_src=80,ct_state=+est+rpl+snat-dnat,actions=output:2",
    ]);
    let (asked, guest) = ((EXTERNAL, 80), SERVER);
    for _ in 0..3 {
        bench.send(2, frame(Kind::Udp, guest, asked, b"a question"));
        let arrived = bench.receive(1);
        assert_eq!(arrived, frame(Kind::Udp, guest, CLIENT, b"a question"));
        bench.send(1, error(INNER_ROUTER, guest.0, &arrived, 28));
    }
    // No error: rules let only the conversation pass.
    assert_eq!(bench.dropped(3), [(1, "table_miss", 3)]);
    bench.send(1, frame(Kind::Udp, CLIENT, guest, b"an answer"));
    assert_eq!(bench.receive(2), frame(Kind::Udp, asked, guest, b"an answer"));
    nothing_more(&bench);
    bench.finish();
}

/// A firewall in zone 7 before NAT, and one in zone 8 behind it, which sees what is translated.
const GUARDED: &[&str] = &[
    "table=0,in_port=1,ip,actions=ct(zone=7),goto_table:1",
    "table=1,priority=90,ct_state=+est,ip,actions=goto_table:2",
    "table=1,priority=80,udp,ct_state=+new,udp_dst=443,actions=ct(commit,zone=7,follow_policy),goto_table:2",
    "table=2,ip,actions=ct(commit,follow_policy,zone=9,nat(src=192.0.2.1:40000-40959)),goto_table:3",
    "table=3,ip,actions=ct(zone=8),goto_table:4",
    "table=4,priority=90,ct_state=+est,ip,actions=output:2",
    "table=4,priority=80,udp,ct_state=+new,ip_src=192.0.2.1,udp_src=0x9c00/0xfc00,actions=ct(commit,zone=8,follow_policy),output:2",
    "table=0,in_port=2,ip,actions=ct(zone=8),goto_table:5",
    "table=5,ct_state=+est,ip,actions=ct(zone=9,nat),goto_table:6",
    "table=6,ip,actions=ct(zone=7),goto_table:7",
    "table=7,ct_state=+est,ip,actions=output:1",
];

#[test]
fn a_connection_that_follows_policy_is_judged_as_it_was_translated() {
    let bench = bench(GUARDED);
    let port = leaves(&bench, Kind::Udp, CLIENT, SERVER, b"a question");
    assert!((40_000..=40_959).contains(&port));
    let converse = || {
        assert_eq!(leaves(&bench, Kind::Udp, CLIENT, SERVER, b"more"), port);
        returns(&bench, Kind::Udp, SERVER, port, CLIENT);
    };
    converse();
    // Whatever changes makes the walks of all three zones be repeated.
    for table in 1..=7 {
        bench.add(&[&format!("table={table},priority=95,tcp,tcp_dst=1,actions=drop(policy)")]);
        converse();
    }
    // Behind NAT nobody of that address may begin anything any more.
    bench.remove(&[GUARDED[6]]);
    bench.send(2, frame(Kind::Udp, SERVER, (EXTERNAL, port), b""));
    assert_eq!(bench.dropped(1), [(2, "table_miss", 1)]);
    bench.finish();
}

#[test]
fn a_connection_that_follows_policy_ends_when_rules_would_translate_it_otherwise() {
    let bench = bench(&[
        "table=0,in_port=1,ip,actions=ct(commit,follow_policy,zone=9,nat(src=192.0.2.1)),output:2",
        "table=0,in_port=2,ip,actions=ct(zone=9,nat),output:1",
    ]);
    leaves(&bench, Kind::Udp, CLIENT, SERVER, b"");
    // By adding it in its place.
    bench.add(&["table=0,in_port=1,ip,actions=ct(commit,follow_policy,zone=9,nat(src=192.0.2.77)),output:2"]);
    bench.send(1, frame(Kind::Udp, CLIENT, SERVER, b"more"));
    assert_eq!(bench.receive(2)[26..30], [192, 0, 2, 77]);
    bench.finish();
}

#[test]
fn an_instance_reaches_its_own_network_by_a_floating_address() {
    // 10.0.0.9 is 192.0.2.50 outside; the router's own address is 192.0.2.1.
    let bench = bench(&[
        "table=0,priority=9,ip,ip_dst=192.0.2.50,actions=set_field:10.0.0.9->ip_dst,set_field:1->reg3,goto_table:1",
        "table=0,priority=9,ip,ip_dst=192.0.2.1,actions=ct(zone=9,nat),set_field:1->reg3,goto_table:1",
        "table=1,priority=9,ip,reg3=1,ip_src=10.0.0.9,actions=set_field:192.0.2.50->ip_src,goto_table:2",
        "table=1,priority=8,ip,reg3=1,actions=ct(commit,zone=9,nat(src=192.0.2.1)),goto_table:2",
        "table=2,ip,ip_dst=10.0.0.9,actions=output:2",
        "table=2,ip,ip_dst=10.0.0.1,actions=output:1",
    ]);
    let (server, floating) = (([10, 0, 0, 9], 80), ([192, 0, 2, 50], 80));
    for _ in 0..3 {
        bench.send(1, frame(Kind::Udp, CLIENT, floating, b"a question"));
        assert_eq!(bench.receive(2), frame(Kind::Udp, (EXTERNAL, CLIENT.1), server, b"a question"));
        bench.send(2, frame(Kind::Udp, server, (EXTERNAL, CLIENT.1), b"an answer"));
        assert_eq!(bench.receive(1), frame(Kind::Udp, floating, CLIENT, b"an answer"));
    }
    nothing_more(&bench);
    bench.finish();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Sums that are nearly all ones or zeros are where incremental updates go wrong.
    #[test]
    fn checksums_are_right_whatever_the_addresses(
        ends in proptest::collection::vec((any::<[u8; 3]>(), 1_u16.., any::<[u8; 2]>()), 60),
    ) {
        let bench = bench(MASQUERADE);
        for (index, (host, port, payload)) in ends.iter().enumerate() {
            let client = ([10, host[0] | 1, host[1], host[2]], *port);
            let kind = [Kind::Udp, Kind::Tcp(2), Kind::Echo][index % 3];
            leaves(&bench, kind, client, SERVER, payload);
        }
        bench.finish();
    }
}
