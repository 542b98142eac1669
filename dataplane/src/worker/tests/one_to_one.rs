//! NAT one to one through a whole worker. Frames are built and checked by `etherparse`: what comes out must be, to
//! the byte, what a host with the other address would have sent.

use super::routed::nothing_more;
use super::translated::{End, Kind, between, error, frame};
use super::{Bench, PATIENCE, bench};
use crate::packet::frame::Checksum;
use crate::packet::sample::{slow_fold, slow_sum};
use crate::port::memory::MemoryFrame;
use proptest::prelude::*;

const FIXED: [u8; 4] = [10, 0, 0, 5];
const FLOATING: [u8; 4] = [192, 0, 2, 10];
const SERVER: End = ([198, 51, 100, 9], 443);
const ROUTER: [u8; 4] = [203, 0, 113, 3];

/// Port 1 is inside, port 2 outside. What follows sees the other address.
const RULES: &[&str] = &[
    "table=0,in_port=1,ip,ip_src=10.0.0.5,actions=translate(src=192.0.2.10),goto_table:1",
    "table=0,in_port=2,ip,ip_dst=192.0.2.10,actions=translate(dst=10.0.0.5),goto_table:1",
    "table=0,in_port=3,ip,actions=translate(src=192.0.2.10,dst=198.51.100.9),goto_table:1",
    "table=1,ip,ip_src=192.0.2.10,actions=output:2",
    "table=1,ip,ip_dst=10.0.0.5,actions=output:1",
];

fn port(address: [u8; 4]) -> End {
    (address, 5000)
}

fn passes(bench: &Bench, from: usize, sent: Vec<u8>, to: usize, expected: &[u8], what: &str) {
    bench.send(from, sent);
    assert_eq!(bench.receive(to), expected, "{what}");
}

#[test]
fn every_protocol_passes_both_ways() {
    let bench = bench(RULES);
    for kind in [Kind::Udp, Kind::Tcp(2), Kind::Tcp(16), Kind::Echo, Kind::EchoReply, Kind::Sctp] {
        let payload: &[u8] = if kind == Kind::Sctp { b"" } else { b"odd length" };
        let what = format!("{kind:?}");
        let (inside, outside) = (port(FIXED), port(FLOATING));
        let out = frame(kind, outside, SERVER, payload);
        passes(&bench, 1, frame(kind, inside, SERVER, payload), 2, &out, &what);
        let back = frame(kind, SERVER, inside, payload);
        passes(&bench, 2, frame(kind, SERVER, outside, payload), 1, &back, &what);
    }
    bench.send(3, frame(Kind::Udp, port([10, 9, 9, 9]), port([10, 8, 8, 8]), b"both"));
    assert_eq!(bench.receive(2), frame(Kind::Udp, port(FLOATING), (SERVER.0, 5000), b"both"));
    // Constants: one program for all of each direction.
    assert!(bench.worker.report().cache_entries <= 3, "{:?}", bench.worker.report());
    nothing_more(&bench);
    bench.finish();
}

#[test]
fn udp_without_a_checksum_keeps_having_none() {
    let bench = bench(RULES);
    let without = |from, to| {
        let mut bytes = frame(Kind::Udp, from, to, b"payload");
        bytes[40..42].fill(0);
        bytes
    };
    passes(&bench, 1, without(port(FIXED), SERVER), 2, &without(port(FLOATING), SERVER), "none");
    bench.finish();
}

#[test]
fn of_a_partial_checksum_the_pseudo_headers_part_follows() {
    let bench = bench(RULES);
    for (kind, at) in [(Kind::Udp, 40), (Kind::Tcp(16), 50)] {
        let partial = |from: End, to: End| {
            let mut bytes = frame(kind, from, to, b"payload");
            let length = (bytes.len() - 34) as u64;
            let pseudo = slow_sum(&bytes[26..34]) + u64::from(bytes[23]) + length;
            bytes[at..at + 2].copy_from_slice(&slow_fold(pseudo).to_be_bytes());
            let checksum = Checksum::Partial { start: 34, offset: at as u16 - 34 };
            MemoryFrame { checksum, ..bytes.into() }
        };
        bench.peers[0].send(partial(port(FIXED), SERVER)).unwrap();
        let left = bench.peers[1].wait(PATIENCE).unwrap();
        let expected = partial(port(FLOATING), SERVER);
        assert_eq!((left.bytes, left.checksum), (expected.bytes, expected.checksum), "{kind:?}");
    }
    bench.finish();
}

/// The fragments of a datagram whose payload behind the IP header is given, as this end sends them.
fn fragments(whole: &[u8], cut: usize) -> [Vec<u8>; 2] {
    [(0, cut, true), (cut, whole.len() - 34, false)].map(|(from, to, more)| {
        let mut bytes = [&whole[..34], &whole[34 + from..34 + to]].concat();
        let length = (bytes.len() - 14) as u16;
        bytes[16..18].copy_from_slice(&length.to_be_bytes());
        let offset = (from / 8) as u16 | if more { 0x2000 } else { 0 };
        bytes[20..22].copy_from_slice(&offset.to_be_bytes());
        bytes[24..26].fill(0);
        let sum = !slow_fold(slow_sum(&bytes[14..34]));
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        bytes
    })
}

#[test]
fn fragments_pass_in_any_order() {
    let bench = bench(RULES);
    let sent = fragments(&frame(Kind::Udp, port(FIXED), SERVER, &[7; 64]), 32);
    let expected = fragments(&frame(Kind::Udp, port(FLOATING), SERVER, &[7; 64]), 32);
    for index in [1, 0, 0, 1] {
        passes(&bench, 1, sent[index].clone(), 2, &expected[index], "a fragment");
    }
    bench.finish();
}

#[test]
fn icmp_errors_speak_of_the_address_that_their_receiver_knows() {
    let bench = bench(RULES);
    for kind in [Kind::Udp, Kind::Tcp(16), Kind::Echo, Kind::Sctp] {
        for quoted in [20, 24, 28, 40, 2000] {
            let what = format!("{kind:?}, {quoted} bytes quoted");
            let (outside, inside) =
                (frame(kind, port(FLOATING), SERVER, b"data"), frame(kind, port(FIXED), SERVER, b"data"));
            let expected = error(ROUTER, FIXED, &inside, quoted);
            passes(&bench, 2, error(ROUTER, FLOATING, &outside, quoted), 1, &expected, &what);
            // The instance tells somebody outside that what it was sent is not wanted.
            let (arrived, sent) =
                (frame(kind, SERVER, port(FIXED), b"data"), frame(kind, SERVER, port(FLOATING), b"data"));
            let expected = error(FLOATING, SERVER.0, &sent, quoted);
            passes(&bench, 1, error(FIXED, SERVER.0, &arrived, quoted), 2, &expected, &what);
        }
    }
    bench.finish();
}

#[test]
fn what_an_error_quotes_of_others_stays() {
    let bench = bench(RULES);
    let other = frame(Kind::Udp, port([10, 7, 7, 7]), SERVER, b"data");
    passes(&bench, 2, error(ROUTER, FLOATING, &other, 40), 1, &error(ROUTER, FIXED, &other, 40), "not ours");
    // The same address at the wrong end.
    let own = frame(Kind::Udp, SERVER, port(FLOATING), b"data");
    passes(&bench, 2, error(ROUTER, FLOATING, &own, 40), 1, &error(ROUTER, FIXED, &own, 40), "its own end");
    for quoted in 0..20 {
        let cut = error(ROUTER, FLOATING, &own, quoted);
        passes(&bench, 2, cut, 1, &error(ROUTER, FIXED, &own, quoted), "no header");
    }
    // No error: what it carries is data.
    let mut echo = Vec::new();
    let data = &frame(Kind::Udp, port(FLOATING), SERVER, b"data")[14..];
    between(ROUTER, FLOATING).icmpv4_echo_reply(7, 1).write(&mut echo, data).unwrap();
    let mut expected = Vec::new();
    between(ROUTER, FIXED).icmpv4_echo_reply(7, 1).write(&mut expected, data).unwrap();
    passes(&bench, 2, echo, 1, &expected, "an echo");
    bench.finish();
}

#[test]
fn a_later_fragment_that_an_error_quotes_has_no_ports_to_touch() {
    let bench = bench(RULES);
    let quote = |address| fragments(&frame(Kind::Udp, port(address), SERVER, &[0xff; 64]), 32)[1].clone();
    let expected = error(ROUTER, FIXED, &quote(FIXED), 60);
    passes(&bench, 2, error(ROUTER, FLOATING, &quote(FLOATING), 60), 1, &expected, "a later fragment");
    bench.finish();
}

#[test]
fn connections_behind_it_see_the_other_address_and_know_errors() {
    let bench = bench(&[
        "table=0,in_port=1,ip,actions=ct(commit,zone=5),goto_table:1",
        "table=0,in_port=2,ip,actions=translate(dst=10.0.0.5),ct(zone=5),goto_table:2",
        "table=1,ip,actions=translate(src=192.0.2.10),output:2",
        "table=2,ct_state=+rel,actions=set_field:02:00:00:00:00:77->eth_dst,output:1",
        "table=2,ct_state=+est,actions=output:1",
    ]);
    let sent = frame(Kind::Udp, port(FIXED), SERVER, b"a question");
    let left = frame(Kind::Udp, port(FLOATING), SERVER, b"a question");
    passes(&bench, 1, sent.clone(), 2, &left, "out");
    let answer = frame(Kind::Udp, SERVER, port(FIXED), b"an answer");
    passes(&bench, 2, frame(Kind::Udp, SERVER, port(FLOATING), b"an answer"), 1, &answer, "in");
    let mut related = error(ROUTER, FIXED, &sent, 40);
    related[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x77]);
    passes(&bench, 2, error(ROUTER, FLOATING, &left, 40), 1, &related, "an error");
    bench.finish();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_payload_and_quote_come_out_right(
        frames in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..300), 10_usize..40), 1..12),
    ) {
        let bench = bench(RULES);
        for (tcp, payload, quoted) in frames {
            let kind = if tcp { Kind::Tcp(16) } else { Kind::Udp };
            let [inside, outside] = [FIXED, FLOATING].map(|address| frame(kind, port(address), SERVER, &payload));
            bench.send(1, inside.clone());
            prop_assert_eq!(&bench.receive(2), &outside);
            // Whole words of a header and what follows.
            bench.send(2, error(ROUTER, FLOATING, &outside, 2 * quoted));
            prop_assert_eq!(bench.receive(1), error(ROUTER, FIXED, &inside, 2 * quoted));
        }
        bench.finish();
    }
}
