//! Etherparse reads what is composed; checksums are added up word by word, as RFC 1071 defines them.

use super::*;
use crate::flow::key::FlowKey;
use crate::flow::rewrite::rewrite;
use crate::packet::pool::Pool;
use crate::packet::{parse, sample};
use crate::port::PortSlot;
use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Slice, Icmpv4Type, NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

const ANSWER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
const TAGS: [(u16, u16); 2] = [(0x88a8, 5), (0x8100, 6)];

fn parsed(pool: &mut Pool, bytes: &[u8]) -> (Frame, Layout, FlowKey) {
    let frame = pool.frame(PortSlot::new(0), bytes).unwrap();
    let mut key = FlowKey::ZERO;
    let layout = parse::parse(&frame, 1, &mut key).unwrap();
    (frame, layout, key)
}

fn error(bytes: &[u8], problem: Problem) -> Option<Vec<u8>> {
    let mut pool = sample::pool();
    let (mut original, layout, _) = parsed(&mut pool, bytes);
    let received = Received::keep(&original, &layout);
    let mut out = pool.chunk(PortSlot::new(0)).unwrap();
    let answered = received.may_be_answered() && received.error(problem, ANSWER, &mut original, &layout, &mut out);
    let composed = out.to_vec();
    pool.free(original);
    pool.free(out);
    answered.then_some(composed)
}

/// Addresses, type and quoted bytes of an ICMP packet all of whose checksums and lengths are right.
fn read(bytes: &[u8]) -> ([[u8; 4]; 2], Icmpv4Type, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(bytes).unwrap();
    let Some(NetSlice::Ipv4(ip)) = packet.net else { panic!("no IPv4") };
    assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
    let Some(TransportSlice::Icmpv4(icmp)) = packet.transport else { panic!("no ICMP") };
    assert_eq!(sample::slow_fold(sample::slow_sum(icmp.slice())), 0xffff, "the ICMP checksum");
    let l3 = bytes.len() - usize::from(ip.header().total_len());
    assert_eq!(l3 + 20 + icmp.slice().len(), bytes.len(), "nothing follows");
    ([ip.header().source(), ip.header().destination()], icmp.icmp_type(), icmp.payload().to_vec())
}

#[test]
fn each_problem_has_its_type_and_code() {
    use etherparse::icmpv4::TimeExceededCode::TtlExceededInTransit;
    let bytes = sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 17, 0, &sample::udp(true, b"some payload")));
    let expected = [
        (Problem::TimeExceeded, Icmpv4Type::TimeExceeded(TtlExceededInTransit)),
        (
            Problem::TooBig(1400),
            Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 }),
        ),
        (
            Problem::Unreachable(Unreachable::Network),
            Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Network),
        ),
        (Problem::Unreachable(Unreachable::Host), Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host)),
        (Problem::Unreachable(Unreachable::Port), Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port)),
        (
            Problem::Unreachable(Unreachable::Prohibited),
            Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FilterProhibited),
        ),
    ];
    for (problem, kind) in expected {
        let answer = error(&bytes, problem).unwrap();
        assert_eq!(answer[..12], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], "from where it was sent to, to who sent it");
        assert_eq!(read(&answer), ([ANSWER.octets(), sample::SOURCE4], kind, bytes[14..].to_vec()));
    }
}

#[test]
fn an_error_is_at_most_576_bytes_and_tagged_as_its_cause() {
    for length in [0, 519, 520, 521, 1400] {
        let packet = sample::ipv4(&[1; 12], 17, 0, &sample::udp(true, &vec![7; length]));
        let answer = error(&sample::ethernet(&TAGS, 0x0800, &packet), Problem::TimeExceeded).unwrap();
        assert_eq!(answer[12..22], [0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 8, 0]);
        let (_, _, quote) = read(&answer);
        assert_eq!(quote, packet[..packet.len().min(548)]);
    }
}

#[test]
fn what_is_quoted_is_the_packet_as_it_was_received() {
    let packet = sample::ipv4(&[1; 8], 6, 0, &sample::tcp(true, 0x10, &[], &[5; 1000]));
    let mut pool = sample::pool();
    // In three pieces, with tags, its checksum left to the switch.
    let bytes = sample::ethernet(&TAGS, 0x0800, &packet);
    let mut pieces = [&bytes[..100], &bytes[100..333], &bytes[333..]].map(|piece| pool.frame(PortSlot::new(0), piece));
    let mut original = pieces[0].take().unwrap();
    pieces[1..].iter_mut().for_each(|piece| original.append(piece.take().unwrap()));
    let l4 = 22 + 28;
    let pseudo = sample::slow_fold(sample::pseudo_sum(true, 6, packet.len() - 28));
    original.head_mut()[l4 + 16..l4 + 18].copy_from_slice(&pseudo.to_be_bytes());
    original.checksum = Checksum::Partial { start: l4 as u16, offset: 16 };
    let mut key = FlowKey::ZERO;
    let mut layout = parse::parse(&original, 1, &mut key).unwrap();
    let received = Received::keep(&original, &layout);
    // On its way everything is rewritten, and the outer tag is taken off.
    let rule = "ip,tcp,actions=set_field:192.168.7.7->ip_src,set_field:9.9.9.9->ip_dst,set_field:4->ip_tos,\
                set_field:99->tcp_src,set_field:02:99:99:99:99:99->eth_dst,set_field:3->ip_ttl";
    let rule = weft_proto::text::parse_rule(&format!("table=0,{rule}")).unwrap();
    let rule = weft_proto::v1::Rule { owner: weft_proto::v1::Owner::Manual.into(), ..rule };
    let rule = crate::flow::message::rule_from_message(&rule, 0).unwrap();
    for action in &rule.instructions.apply {
        let crate::flow::action::Action::SetField(set) = action else { panic!("{action:?}") };
        assert!(rewrite(&mut original, &layout, set));
    }
    original.head_mut().copy_within(0..12, 4);
    assert!(original.pull_front(4));
    (layout.l3, layout.l4, layout.end) = (layout.l3 - 4, layout.l4 - 4, layout.end - 4);
    let mut out = pool.chunk(PortSlot::new(0)).unwrap();
    assert!(received.error(Problem::TooBig(1000), ANSWER, &mut original, &layout, &mut out));
    let (addresses, _, quote) = read(&out.to_vec());
    assert_eq!(addresses, [ANSWER.octets(), sample::SOURCE4]);
    assert_eq!(quote, packet[..548], "with the checksum that its sender left to be filled in");
    assert_eq!(out.to_vec()[..22], [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &bytes[12..22]].concat());
    pool.free(original);
    pool.free(out);
}

/// The sample's UDP packet with some bytes of its frame replaced, its header checksum put right.
fn altered(changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 17, 0, &sample::udp(true, b"some payload")));
    for (at, change) in changes {
        bytes[*at..at + change.len()].copy_from_slice(change);
    }
    bytes
}

#[test]
fn there_are_packets_that_no_error_is_about() {
    let silent = [
        ("to a broadcast MAC", altered(&[(0, &[0xff; 6])])),
        ("to a multicast MAC", altered(&[(0, &[1, 0, 0x5e, 0, 0, 1])])),
        ("from no MAC", altered(&[(6, &[0; 6])])),
        ("from a multicast MAC", altered(&[(6, &[3, 0, 0, 0, 0, 1])])),
        ("from no address", altered(&[(26, &[0, 0, 0, 0])])),
        ("from loopback", altered(&[(26, &[127, 0, 0, 1])])),
        ("from a multicast address", altered(&[(26, &[224, 0, 0, 1])])),
        ("from broadcast", altered(&[(26, &[255; 4])])),
        ("from class E", altered(&[(26, &[240, 0, 0, 1])])),
        ("to multicast", altered(&[(30, &[239, 1, 2, 3])])),
        ("to broadcast", altered(&[(30, &[255; 4])])),
        ("something else that looks like it", altered(&[(12, &[0x88, 0xb5])])),
        ("a later fragment", sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 17, 0x0003, &[7; 16]))),
    ];
    assert!(error(&altered(&[]), Problem::TimeExceeded).is_some());
    for (name, bytes) in silent {
        assert_eq!(error(&bytes, Problem::TimeExceeded), None, "{name}");
    }
    for kind in 0..=255 {
        let message = sample::ipv4(&[], 1, 0, &sample::icmp(true, kind, 0, &[0; 40]));
        let answered = error(&sample::ethernet(&[], 0x0800, &message), Problem::TimeExceeded).is_some();
        assert_eq!(answered, matches!(kind, 0 | 8 | 13..=18), "ICMP type {kind}");
    }
    for (name, bytes) in sample::frames().into_iter().filter(|(name, _)| name.contains('6') || name.contains("arp")) {
        assert_eq!(error(&bytes, Problem::TimeExceeded), None, "{name}");
    }
    let first = sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 17, 0x2000, &sample::udp(true, &[7; 32])[..24]));
    assert!(error(&first, Problem::TimeExceeded).is_some(), "a first fragment is answered");
}

fn echo(bytes: &[u8]) -> Result<Vec<u8>, DropReason> {
    let mut pool = sample::pool();
    let (mut frame, layout, _) = parsed(&mut pool, bytes);
    let result = echo_reply(&mut frame, &layout);
    let after = frame.to_vec();
    pool.free(frame);
    if result.is_err() {
        assert_eq!(after, bytes, "a refused frame stays as it was");
    }
    result.map(|()| after)
}

#[test]
fn a_request_becomes_the_reply() {
    let body = b"0123456789abcdefghijk";
    for tags in [&[][..], &TAGS[1..], &TAGS] {
        let bytes = sample::ethernet(tags, 0x0800, &sample::ipv4(&[], 1, 0, &sample::icmp(true, 8, 0, body)));
        let reply = echo(&bytes).unwrap();
        assert_eq!(reply.len(), bytes.len());
        let (addresses, kind, data) = read(&reply);
        assert_eq!(addresses, [sample::DESTINATION4, sample::SOURCE4]);
        assert!(matches!(kind, Icmpv4Type::EchoReply(echo) if (echo.id, echo.seq) == (0x1234, 0)), "{kind:?}");
        assert_eq!(data, body);
        assert_eq!(reply[..12], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
        let l3 = 14 + tags.len() * 4;
        assert_eq!(reply[12..l3 + 8], bytes[12..l3 + 8], "tags, TOS, identification and flags stay");
        assert_eq!(reply[l3 + 8], 64);
    }
}

#[test]
fn a_reply_in_pieces_leaves_the_pieces_alone() {
    let message = sample::icmp(true, 8, 0, &(0..=255).cycle().take(40_001).collect::<Vec<u8>>());
    let bytes = sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 1, 0, &message));
    let mut pool = sample::pool();
    let mut frame = pool.frame(PortSlot::new(0), &bytes[..2001]).unwrap();
    frame.append(pool.frame(PortSlot::new(0), &bytes[2001..]).unwrap());
    let layout = parse::parse(&frame, 1, &mut FlowKey::default()).unwrap();
    echo_reply(&mut frame, &layout).unwrap();
    let reply = frame.to_vec();
    let (_, kind, data) = read(&reply);
    assert!(matches!(kind, Icmpv4Type::EchoReply(_)));
    assert_eq!(data, message[8..]);
    pool.free(frame);
}

#[test]
fn a_checksum_left_to_the_port_is_still_left_to_it() {
    let mut message = sample::icmp(true, 8, 0, b"odd data.");
    message[2..4].fill(0);
    let bytes = sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 1, 0, &message));
    let mut pool = sample::pool();
    let mut frame = pool.frame(PortSlot::new(0), &bytes).unwrap();
    frame.checksum = Checksum::Partial { start: 34, offset: 2 };
    let layout = parse::parse(&frame, 1, &mut FlowKey::default()).unwrap();
    echo_reply(&mut frame, &layout).unwrap();
    complete_checksum(&mut frame).unwrap();
    read(&frame.to_vec());
    pool.free(frame);
}

#[test]
fn fragments_of_a_request_become_those_of_the_reply() {
    let message = sample::icmp(true, 8, 0, &[9; 56]);
    let first = sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 1, 0x2000, &message[..32]));
    let later = sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 1, 0x0004, &message[32..]));
    let whole = [&echo(&first).unwrap()[34..], &echo(&later).unwrap()[34..]].concat();
    assert_eq!(sample::slow_fold(sample::slow_sum(&whole)), 0xffff);
    assert!(matches!(Icmpv4Slice::from_slice(&whole).unwrap().icmp_type(), Icmpv4Type::EchoReply(_)));
    assert_eq!(echo(&later).unwrap()[26..34], [sample::DESTINATION4, sample::SOURCE4].concat());
}

#[test]
fn what_is_no_request_is_not_answered() {
    for kind in (0..=255).filter(|kind| *kind != 8) {
        let message = sample::ipv4(&[], 1, 0, &sample::icmp(true, kind, 0, &[0; 40]));
        assert_eq!(echo(&sample::ethernet(&[], 0x0800, &message)), Err(DropReason::Consumed), "type {kind}");
    }
    let request = |options: &[u8]| sample::ipv4(options, 1, 0, &sample::icmp(true, 8, 0, &[0; 40]));
    let good = sample::ethernet(&[], 0x0800, &request(&[]));
    assert_eq!(echo(&sample::ethernet(&[], 0x0800, &request(&[7, 7, 4, 0, 0, 0, 0, 0]))), Err(DropReason::BadRequest));
    for (at, change) in [(0, &[0xff; 6][..]), (6, &[0; 6]), (26, &[0; 4]), (26, &[127, 1, 1, 1]), (30, &[255; 4])] {
        let mut bad = good.clone();
        bad[at..at + change.len()].copy_from_slice(change);
        assert_eq!(echo(&bad), Err(DropReason::BadRequest), "{change:?} at {at}");
    }
    for (name, bytes) in sample::frames().into_iter().filter(|(name, _)| *name != "icmp4") {
        assert_eq!(echo(&bytes), Err(DropReason::BadRequest), "{name}");
    }
}

proptest! {
    #[test]
    fn whatever_is_answered_is_answered_right(
        bytes in proptest::collection::vec(any::<u8>(), 14..700),
        sound: bool,
        changes in proptest::collection::vec((0..80_usize, any::<u8>()), 0..3),
    ) {
        let mut frame = if sound {
            let part = &bytes[..bytes.len() / 4 * 4 % 44];
            sample::ethernet(&[], 0x0800, &sample::ipv4(part, 6, 0, &sample::tcp(true, 0x10, &[], &bytes)))
        } else {
            [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0][..], &bytes].concat()
        };
        for (at, value) in changes {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        if parse::parse_bytes(&frame, frame.len(), 1, &mut FlowKey::default()).is_ok() {
            let _ = echo(&frame);
            if let Some(answer) = error(&frame, Problem::TimeExceeded) {
                let (_, _, quote) = read(&answer);
                let l3 = answer.len() - quote.len() - 28;
                prop_assert_eq!(&quote[..], &frame[l3..l3 + quote.len()]);
                prop_assert!(answer.len() - l3 <= 576);
            }
        }
    }
}
