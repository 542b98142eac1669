//! A router in hand-written rules through a whole worker: what is answered, what is fragmented, and how
//! fragments find their datagram.

use super::{Bench, PATIENCE, PLAIN, TUNNEL, bench};
use crate::packet::frame::{Checksum, Gso, GsoKind};
use crate::packet::sample::{self, verify};
use crate::port::memory::MemoryFrame;
use etherparse::{Icmpv4Type, NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use std::time::Duration;
use weft_proto::text;

const ROUTER: [u8; 4] = [10, 0, 0, 254];

/// From port 1 to port 2: everything about the frame changes before the checks that may fail.
const ROUTED: &[&str] = &[
    "table=0,priority=9,icmp,ip_dst=10.0.0.254,actions=icmp_reply",
    "table=0,priority=1,in_port=1,ip,actions=set_field:02:00:00:00:00:77->eth_dst,set_field:02:00:00:00:00:78->eth_src,\
     set_field:192.168.0.1->ip_src,dec_ttl(answer=10.0.0.254),check_mtu(600,answer=10.0.0.254,fragment),output:2",
    "table=0,priority=1,in_port=3,ip,actions=dec_ttl,check_mtu(600),output:2",
];

fn packet(transport: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    sample::ethernet(&[], 0x0800, &sample::ipv4(&[], transport, fragment, payload))
}

/// A UDP packet with a payload of so many bytes; without DF.
fn datagram(length: usize) -> Vec<u8> {
    packet(17, 0, &sample::udp(true, &(0..=255).cycle().take(length).collect::<Vec<u8>>()))
}

fn with_ttl(mut frame: Vec<u8>, ttl: u8) -> Vec<u8> {
    let sum = sample::slow_fold(
        u64::from(!u16::from_be_bytes([frame[24], frame[25]])) + 0xffff - (u64::from(frame[22]) << 8)
            + (u64::from(ttl) << 8),
    );
    frame[22] = ttl;
    frame[24..26].copy_from_slice(&(!sum).to_be_bytes());
    frame
}

fn without_fragmentation(mut frame: Vec<u8>) -> Vec<u8> {
    let sum = sample::slow_fold(u64::from(!u16::from_be_bytes([frame[24], frame[25]])) + 0x4000);
    frame[20] |= 0x40;
    frame[24..26].copy_from_slice(&(!sum).to_be_bytes());
    frame
}

/// Source and destination, type, and what an ICMP packet with right checksums carries.
pub(super) fn icmp(frame: &[u8]) -> ([[u8; 4]; 2], Icmpv4Type, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Icmpv4(icmp))) = (packet.net, packet.transport) else {
        panic!("no ICMP: {frame:?}")
    };
    assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
    assert_eq!(sample::slow_fold(sample::slow_sum(icmp.slice())), 0xffff);
    ([ip.header().source(), ip.header().destination()], icmp.icmp_type(), icmp.payload().to_vec())
}

/// Payload of the IPv4 packets in these frames, put together; all of one datagram.
pub(super) fn joined(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut parts: Vec<(usize, Vec<u8>)> = frames
        .iter()
        .map(|frame| {
            let ip = etherparse::Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap();
            assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
            (usize::from(ip.fragments_offset().value()) * 8, frame[34..14 + usize::from(ip.total_len())].to_vec())
        })
        .collect();
    parts.sort();
    let mut all = Vec::new();
    for (offset, part) in parts {
        assert_eq!(offset, all.len(), "no gap, no overlap");
        all.extend(part);
    }
    all
}

fn receive(bench: &Bench, port: usize, count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|_| bench.receive(port)).collect()
}

pub(super) fn nothing_more(bench: &Bench) {
    std::thread::sleep(Duration::from_millis(5));
    for (index, peer) in bench.peers.iter().enumerate() {
        assert!(peer.take().is_none(), "port {} sent something more", index + 1);
    }
}

#[test]
fn a_packet_that_has_lived_long_enough_is_answered() {
    let bench = bench(ROUTED);
    let frame = with_ttl(datagram(100), 1);
    verify(&frame).unwrap();
    // Walked, then from the cache.
    for _ in 0..2 {
        bench.send(1, frame.clone());
        let answer = bench.receive(1);
        let (addresses, kind, quote) = icmp(&answer);
        assert_eq!(addresses, [ROUTER, sample::SOURCE4]);
        assert!(matches!(kind, Icmpv4Type::TimeExceeded(_)), "{kind:?}");
        assert_eq!(quote, frame[14..], "as it was received");
        assert_eq!(answer[..12], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    }
    // One hop more, and one rule that does not answer.
    bench.send(1, with_ttl(frame.clone(), 2));
    verify(&bench.receive(2)).unwrap();
    bench.send(3, frame);
    assert_eq!(bench.dropped(3), [(1, "ttl_expired", 2), (3, "ttl_expired", 1)]);
    nothing_more(&bench);
    bench.finish();
}

#[test]
fn what_is_too_big_is_answered_or_fragmented() {
    let bench = bench(ROUTED);
    let frame = without_fragmentation(datagram(1000));
    for _ in 0..2 {
        bench.send(1, frame.clone());
        let (addresses, kind, quote) = icmp(&bench.receive(1));
        assert_eq!(addresses, [ROUTER, sample::SOURCE4]);
        assert!(matches!(
            kind,
            Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded {
                next_hop_mtu: 600
            })
        ));
        assert_eq!(quote, frame[14..14 + 548]);
    }
    bench.send(1, datagram(1000));
    let fragments = receive(&bench, 2, 2);
    assert!(fragments.iter().all(|fragment| fragment.len() <= 614 && fragment[..6] == [2, 0, 0, 0, 0, 0x77]));
    let whole = packet(17, 0, &joined(&fragments));
    let mut rewritten = whole.clone();
    rewritten[26..30].copy_from_slice(&[192, 168, 0, 1]);
    let fixed = sample::slow_fold(sample::slow_sum(&rewritten[14..24]) + sample::slow_sum(&rewritten[26..34]));
    rewritten[24..26].copy_from_slice(&(!fixed).to_be_bytes());
    verify(&rewritten).expect("the transport checksum is that of the rewritten datagram");
    // The longest that fits; and one byte more where nothing is fragmented or answered.
    bench.send(1, datagram(572));
    verify(&bench.receive(2)).unwrap();
    bench.send(3, datagram(573));
    bench.send(3, without_fragmentation(datagram(573)));
    assert_eq!(bench.dropped(4), [(1, "too_big", 2), (3, "too_big", 2)]);
    nothing_more(&bench);
    bench.finish();
}

#[test]
fn of_a_large_frame_the_segments_are_held_against_the_mtu() {
    let bench = bench(ROUTED);
    let payload: Vec<u8> = (0..20_000_u32).map(|index| index as u8).collect();
    let large = |size, fragment| MemoryFrame {
        bytes: packet(6, fragment, &sample::tcp(true, 0x18, &[], &payload)),
        checksum: Checksum::Partial { start: 34, offset: 16 },
        gso: Some(Gso { kind: GsoKind::Tcp4, size, tunnel: 0 }),
    };
    let sent = |size, fragment| {
        bench.send(1, large(size, fragment));
        bench.peers[1].wait(PATIENCE).unwrap()
    };
    let fits = sent(560, 0x4000);
    assert_eq!((fits.bytes.len(), fits.gso.map(|gso| gso.size)), (20_054, Some(560)));
    let smaller = sent(1400, 0);
    assert_eq!((smaller.bytes.len(), smaller.gso.map(|gso| gso.size)), (20_054, Some(560)));
    bench.send(1, large(561, 0x4000));
    let (_, kind, quote) = icmp(&bench.receive(1));
    assert!(matches!(kind, Icmpv4Type::DestinationUnreachable(_)));
    assert_eq!(quote[12..20], [sample::SOURCE4, sample::DESTINATION4].concat());
    assert_eq!(bench.dropped(1), [(1, "too_big", 1)]);
    nothing_more(&bench);
    bench.finish();
}

#[test]
fn each_output_after_the_check_is_fragmented_and_none_before() {
    let bench = bench(&["table=0,in_port=1,ip,actions=output:3,check_mtu(600,fragment),output:2,\
         set_field:77->tun_id,set_field:10.99.0.2->tun_dst,output:20"]);
    bench.send(1, datagram(1000));
    assert_eq!(bench.receive(3), datagram(1000));
    assert_eq!(joined(&receive(&bench, 2, 2)), datagram(1000)[34..]);
    let outer = receive(&bench, 4, 2);
    outer.iter().for_each(|frame| drop(verify(frame).unwrap()));
    let inner: Vec<Vec<u8>> = outer.iter().map(|frame| frame[50..].to_vec()).collect();
    assert_eq!(joined(&inner), datagram(1000)[34..]);
    assert!(outer.iter().all(|frame| frame.len() <= 614 + 50));
    nothing_more(&bench);
    bench.finish();
}

#[test]
fn answers_are_budgeted() {
    let bench = bench(ROUTED);
    let total = 2000;
    for _ in 0..total {
        while bench.peers[0].send(with_ttl(datagram(10), 1)).is_err() {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
    let drops = bench.dropped(total);
    let count = |word| drops.iter().filter(|drop| drop.1 == word).map(|drop| drop.2).sum::<u64>();
    assert_eq!(count("ttl_expired") + count("responder_budget"), total, "{drops:?}");
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(bench.peers[0].take_all().len() as u64, count("ttl_expired"), "{drops:?}");
    bench.finish();
}

#[test]
fn a_refused_packet_is_answered_and_begins_no_connection() {
    let bench = bench(&[
        "table=0,in_port=1,ip,actions=ct(commit,zone=1),set_field:9.9.9.9->ip_dst,icmp_unreachable(code=host,answer=10.0.0.254)",
        "table=0,in_port=3,ip,actions=icmp_unreachable(code=admin,answer=10.0.0.254)",
        "table=0,in_port=2,ip,actions=ct(zone=1),goto_table:1",
        "table=1,ct_state=+new,actions=output:3",
    ]);
    bench.send(1, datagram(10));
    let (addresses, kind, quote) = icmp(&bench.receive(1));
    assert_eq!((addresses, &quote[..]), ([ROUTER, sample::SOURCE4], &datagram(10)[14..]));
    use etherparse::icmpv4::DestUnreachableHeader::{FilterProhibited, Host};
    assert_eq!(kind, Icmpv4Type::DestinationUnreachable(Host));
    bench.send(3, datagram(10));
    assert_eq!(icmp(&bench.receive(3)).1, Icmpv4Type::DestinationUnreachable(FilterProhibited));
    assert_eq!(bench.dropped(2), [(1, "unknown_destination", 1), (3, "policy", 1)]);
    bench.send(2, datagram(10));
    assert_eq!(bench.receive(3), datagram(10), "still new");
    bench.finish();
}

/// A frame as a tunnel packet from 10.99.0.2 with this VNI, its outer checksum left out.
fn tunnelled(inner: &[u8], vni: u8) -> Vec<u8> {
    let mut udp = vec![0xc0, 0, 0x12, 0xb5];
    udp.extend(((16 + inner.len()) as u16).to_be_bytes());
    udp.extend([0, 0, 8, 0, 0, 0, 0, 0, vni, 0]);
    udp.extend(inner);
    let mut frame = packet(17, 0x4000, &udp);
    frame[26..34].copy_from_slice(&[10, 99, 0, 2, 10, 99, 0, 1]);
    let sum = sample::slow_fold(sample::slow_sum(&frame[14..24]) + sample::slow_sum(&frame[26..34]));
    frame[24..26].copy_from_slice(&(!sum).to_be_bytes());
    frame
}

#[test]
fn who_came_through_a_tunnel_is_answered_through_it() {
    let bench = bench(&[
        "table=0,priority=9,arp,actions=arp_reply:02:00:00:00:00:fe",
        "table=0,priority=9,icmp,ip_dst=10.0.0.2,actions=set_field:1->tun_id,set_field:10.99.0.1->tun_dst,icmp_reply",
        "table=0,priority=1,in_port=20,ip,actions=set_field:1->tun_id,dec_ttl(answer=10.0.0.254),output:2",
    ]);
    let request = packet(1, 0, &sample::icmp(true, 8, 0, b"ping"));
    let arp = sample::ethernet(&[], 0x0806, &sample::arp(1));
    for frame in [arp, request, with_ttl(datagram(10), 1)] {
        for vni in [7, 9, 7] {
            bench.send(4, tunnelled(&frame, vni));
            let outer = bench.receive(4);
            verify(&outer).unwrap();
            assert_eq!(outer[26..34], [10, 99, 0, 1, 10, 99, 0, 2], "to where it came from");
            assert_eq!(outer[46..49], [0, 0, vni], "in its own network, whatever rules wrote since");
            assert_eq!(outer[50..56], [2, 0, 0, 0, 0, 1]);
        }
    }
    assert_eq!(bench.dropped(3), [(TUNNEL as usize, "ttl_expired", 3)]);
    nothing_more(&bench);
    bench.finish();
}

/// Bytes of a trace: its verdict's reason and what it says would be done.
fn trace(bench: &Bench, frame: &[u8]) -> (String, Vec<String>) {
    let reply =
        bench.worker.trace(crate::worker::Traced::Frame { in_port: 1, bytes: frame.to_vec() }, [].into()).unwrap();
    (reply.drop_reason, reply.effects.iter().map(text::format_effect).collect())
}

#[test]
fn traces_tell_what_would_be_answered_and_to_where() {
    let bench = bench(ROUTED);
    let (reason, effects) = trace(&bench, &with_ttl(datagram(10), 1));
    assert_eq!(reason, "ttl_expired");
    assert_eq!(effects[effects.len() - 2], "dec_ttl(answer=10.0.0.254)");
    assert!(effects[effects.len() - 1].contains("port1"), "{effects:?}");
    let (reason, effects) = trace(&bench, &without_fragmentation(datagram(1000)));
    assert_eq!(reason, "too_big");
    assert_eq!(effects[effects.len() - 2], "check_mtu(600,answer=10.0.0.254,fragment)");
    let (reason, effects) = trace(&bench, &datagram(1000));
    assert_eq!(reason, "");
    assert!(effects[effects.len() - 1].contains("port2"), "{effects:?}");
    bench.finish();
}

/// Rules that tell fragments' ports only from their first: in both directions, one connection at a time.
const TRACKED: &[&str] = &[
    "table=0,priority=5,ip,actions=ct(zone=7),goto_table:1",
    "table=1,priority=90,ip,ct_state=+est,actions=goto_table:2",
    "table=1,priority=80,ct_state=+new,in_port=1,udp,tp_dst=53,actions=ct(commit,zone=7),goto_table:2",
    "table=1,priority=70,icmp,icmp_type=8,ip_dst=10.0.0.2,actions=icmp_reply",
    "table=1,priority=1,actions=drop(policy)",
    "table=2,in_port=1,udp,actions=set_field:5353->udp_dst,output:2",
    "table=2,in_port=2,udp,actions=output:1",
];

/// A UDP datagram of so many bytes in fragments of 104 bytes of payload.
fn fragments(identification: u16, port: u16, length: usize) -> Vec<Vec<u8>> {
    let mut datagram = sample::udp(true, &(0..=250).cycle().take(length).collect::<Vec<u8>>());
    datagram[2..4].copy_from_slice(&port.to_be_bytes());
    // No checksum (RFC 768): the port was changed.
    datagram[6..8].fill(0);
    split(17, identification, &datagram)
}

fn split(protocol: u8, identification: u16, payload: &[u8]) -> Vec<Vec<u8>> {
    let count = payload.len().div_ceil(104);
    let fragment = |(index, part): (usize, &[u8])| {
        let more = if index + 1 < count { 0x2000 } else { 0 };
        let mut frame = packet(protocol, more | (index * 13) as u16, part);
        frame[18..20].copy_from_slice(&identification.to_be_bytes());
        let sum = sample::slow_fold(sample::slow_sum(&frame[14..24]) + sample::slow_sum(&frame[26..34]));
        frame[24..26].copy_from_slice(&(!sum).to_be_bytes());
        frame
    };
    payload.chunks(104).enumerate().map(fragment).collect()
}

#[test]
fn fragments_fare_as_their_first_one_in_any_order() {
    let bench = bench(TRACKED);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let orders = Just((0..8).collect::<Vec<usize>>()).prop_shuffle();
    for identification in 0..60 {
        let order = orders.new_tree(&mut runner).unwrap().current();
        let all = fragments(identification, 53, 800);
        assert_eq!(all.len(), 8);
        order.iter().for_each(|index| bench.send(1, all[*index].clone()));
        let passed = receive(&bench, 2, 8);
        let mut datagram = joined(&passed);
        assert_eq!(datagram[2..4], 5353_u16.to_be_bytes(), "only the first has ports to rewrite");
        datagram[2..4].copy_from_slice(&53_u16.to_be_bytes());
        assert_eq!(datagram, joined(&all), "{order:?}");
        // The same to a port that nothing lets through.
        for index in order {
            bench.send(1, fragments(identification + 100, 54, 800)[index].clone());
        }
    }
    assert_eq!(bench.dropped(480), [(1, "policy", 480)]);
    nothing_more(&bench);
    bench.finish();
}

#[test]
fn fragments_of_a_request_are_answered() {
    let bench = bench(TRACKED);
    let message = sample::icmp(true, 8, 0, &[7; 700]);
    let mut requests = split(1, 9, &message);
    requests.swap(0, 3);
    requests.iter().for_each(|request| bench.send(1, request.clone()));
    let whole = joined(&receive(&bench, 1, requests.len()));
    assert_eq!((whole[0], &whole[8..]), (0, &message[8..]));
    assert_eq!(sample::slow_fold(sample::slow_sum(&whole)), 0xffff);
    nothing_more(&bench);
    bench.finish();
}

#[test]
fn fragments_without_their_first_are_dropped_after_a_second() {
    let bench = bench(TRACKED);
    let all = fragments(1, 53, 800);
    let sent = std::time::Instant::now();
    all[1..].iter().for_each(|fragment| bench.send(1, fragment.clone()));
    assert_eq!(bench.dropped(7), [(1, "fragment_timeout", 7)]);
    assert!(sent.elapsed() >= Duration::from_secs(1));
    nothing_more(&bench);
    // Too late.
    bench.send(1, all[0].clone());
    bench.receive(2);
    nothing_more(&bench);
    bench.finish();
}

#[test]
fn an_overlap_ends_its_datagram_and_a_missing_header_its_own() {
    let bench = bench(TRACKED);
    let all = fragments(1, 53, 800);
    bench.send(1, all[0].clone());
    bench.receive(2);
    // A second first one, to a port that is not allowed, and longer.
    let mut other = packet(17, 0x2000, &[&[0x13, 0x88, 0, 22, 3, 0x28, 0, 0][..], &[0; 104]].concat());
    other[18..20].copy_from_slice(&1_u16.to_be_bytes());
    bench.send(1, other);
    bench.send(1, all[1].clone());
    assert_eq!(bench.dropped(2), [(1, "fragment_overlap", 2)]);
    // RFC 1858's tiny fragment, and the one that would overwrite the flags of TCP.
    bench.send(1, packet(6, 0x2000, &sample::tcp(true, 2, &[], b"")[..16]));
    bench.send(1, packet(6, 0x0001, &[0; 40]));
    assert_eq!(bench.dropped(4), [(1, "truncated", 1), (1, "malformed", 1), (1, "fragment_overlap", 2)]);
    nothing_more(&bench);
    bench.finish();
}

#[test]
fn one_port_cannot_have_others_wait() {
    let bench = bench(TRACKED);
    let share = crate::limits::fragment::EARLY_PER_PORT as u64;
    for identification in 0..share as u16 + 20 {
        let frame = fragments(identification, 53, 300)[1].clone();
        while bench.peers[2].send(frame.clone()).is_err() {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
    assert_eq!(bench.dropped(20), [(3, "fragment_limit", 20)]);
    let all = fragments(5000, 53, 300);
    all.iter().rev().for_each(|fragment| bench.send(1, fragment.clone()));
    assert_eq!(joined(&receive(&bench, 2, all.len()))[8..], joined(&all)[8..]);
    // What still waits goes with its port.
    bench.worker.remove_queues(crate::port::PortSlot::new(3));
    let gone: u64 = bench.dropped(20 + share).iter().map(|drop| drop.2).sum();
    assert_eq!(gone, 20 + share);
    bench.finish();
}

#[test]
fn a_cached_program_never_takes_a_fragment_for_a_whole_datagram() {
    let bench = bench(&[
        "table=0,priority=5,in_port=1,udp,actions=ct(zone=7),goto_table:1",
        "table=1,udp,tp_dst=53,actions=ct(commit,zone=7),output:2",
        "table=1,priority=1,actions=drop(policy)",
    ]);
    let whole = datagram(10);
    for _ in 0..5 {
        bench.send(1, whole.clone());
        bench.receive(2);
    }
    let before = bench.worker.report();
    assert!(before.cache_hits >= 3, "the conversation is cached");
    // Later fragments of the same ends; a first one to another port, and what follows that.
    let stray = fragments(3, 53, 300);
    bench.send(1, stray[1].clone());
    for fragment in fragments(4, 54, 300) {
        bench.send(1, fragment);
    }
    assert_eq!(bench.dropped(3), [(1, "policy", 3)]);
    nothing_more(&bench);
    bench.send(1, stray[0].clone());
    assert_eq!(receive(&bench, 2, 2), [stray[0].clone(), stray[1].clone()]);
    assert_eq!(bench.worker.report().cache_hits, before.cache_hits);
    bench.finish();
}

#[test]
fn a_port_that_can_do_nothing_gets_fragments_too() {
    const { assert!(!PLAIN.chains && !PLAIN.checksum) };
    let bench = bench(&["table=0,in_port=1,ip,actions=check_mtu(600,fragment),output:4"]);
    let bytes = datagram(9000);
    bench.send(1, bytes.clone());
    let fragments = receive(&bench, 4, 16);
    assert_eq!(joined(&fragments), bytes[34..]);
    nothing_more(&bench);
    bench.finish();
}
