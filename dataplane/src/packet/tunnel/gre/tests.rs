use super::*;
use crate::packet::frame::{Gso, GsoKind};
use crate::packet::sample;
use crate::packet::segment::fit;
use crate::packet::tunnel::{Encapsulation, Outer, outer};
use crate::port::{Offloads, PortSlot};
use proptest::prelude::*;
use std::net::Ipv4Addr;

const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const KEY: u32 = 0xfedc_ba98;

fn header() -> GreHeader {
    let way =
        Way { source_mac: [2, 0, 0, 0, 1, 1], destination_mac: [2, 0, 0, 0, 1, 2], source: HERE, destination: THERE };
    GreHeader::new(way, KEY)
}

fn sample(name: &str) -> Vec<u8> {
    sample::frames().into_iter().find(|frame| frame.0 == name).unwrap_or_else(|| panic!("no sample {name}")).1
}

fn pushed(inner: &[u8]) -> Vec<u8> {
    let mut pool = sample::pool();
    let mut frame = pool.frame(PortSlot::new(0), inner).unwrap();
    header().push(&mut frame).unwrap();
    let bytes = frame.to_vec();
    pool.free(frame);
    bytes
}

fn popped(bytes: &[u8]) -> Result<(Tunnel, Vec<u8>), DropReason> {
    let mut pool = sample::pool();
    let mut frame = pool.frame(PortSlot::new(0), bytes).unwrap();
    let result = pop(&mut frame).map(|tunnel| (tunnel, frame.to_vec()));
    pool.free(frame);
    assert_eq!(pool.outstanding(), 0);
    result
}

/// Makes the outer IPv4 header's length and checksum right after a test changed the packet.
fn repair(bytes: &mut [u8]) {
    let total = (bytes.len() - 14) as u16;
    bytes[16..18].copy_from_slice(&total.to_be_bytes());
    bytes[24..26].fill(0);
    let checksum = !sample::slow_fold(sample::slow_sum(&bytes[14..34]));
    bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
}

/// The packet with these four bytes at the start of GRE, and these after them in place of the key.
fn with(first: [u8; 4], options: &[u8]) -> Vec<u8> {
    let mut bytes = pushed(&sample("tcp4"));
    bytes[34..38].copy_from_slice(&first);
    bytes.splice(38..42, options.iter().copied());
    repair(&mut bytes);
    bytes
}

#[test]
fn the_outer_header_is_what_the_specifications_say() {
    let inner = sample("tcp4");
    let bytes = pushed(&inner);
    assert_eq!(bytes[42..], inner);
    assert_eq!(bytes[34..42], [0x20, 0, 0x65, 0x58, 0xfe, 0xdc, 0xba, 0x98]);
    let packet = etherparse::SlicedPacket::from_ethernet(&bytes).expect("lengths are right");
    let Some(etherparse::NetSlice::Ipv4(ip)) = packet.net else { panic!("not IPv4") };
    let ip = ip.header();
    assert_eq!((ip.source_addr(), ip.destination_addr(), ip.ttl()), (HERE, THERE, 64));
    assert!(ip.dont_fragment() && ip.identification() == 0 && ip.protocol().0 == 47);
    assert_eq!(usize::from(ip.total_len()), bytes.len() - 14);
    assert_eq!(sample::slow_fold(sample::slow_sum(&bytes[14..34])), 0xffff, "its checksum");
    assert_eq!(outer(&bytes), Some(Outer { source: HERE, destination: THERE, encapsulation: Encapsulation::Gre }));
}

#[test]
fn in_and_out_again_nothing_has_changed() {
    for (name, inner) in sample::frames() {
        let mut padded = pushed(&inner);
        padded.extend([0xee; 9]);
        let (tunnel, out) = popped(&padded).unwrap_or_else(|reason| panic!("{name}: {reason:?}"));
        assert_eq!(out, inner, "{name}");
        assert_eq!((tunnel.source, tunnel.destination, tunnel.id), (HERE, THERE, u64::from(KEY)));
    }
}

#[test]
fn options_are_what_rfc_2784_and_rfc_2890_say() {
    let key = KEY.to_be_bytes();
    let fate = |first, options: &[u8]| popped(&with(first, options)).map(|(tunnel, _)| tunnel.id);
    assert_eq!(fate([0x20, 0, 0x65, 0x58], &key), Ok(u64::from(KEY)));
    assert_eq!(fate([0x23, 0xf8, 0x65, 0x58], &key), Ok(u64::from(KEY)), "bits that may be ignored");
    assert_eq!(fate([0, 0, 0x65, 0x58], &[]), Err(BadTunnel), "no key");
    assert_eq!(fate([0x30, 0, 0x65, 0x58], &[key, [0; 4]].concat()), Err(BadTunnel), "a sequence number");
    assert_eq!(fate([0x60, 0, 0x65, 0x58], &key), Err(BadTunnel), "routing (RFC 1701)");
    assert_eq!(fate([0x28, 0, 0x65, 0x58], &key), Err(BadTunnel), "bit 4, which must be zero");
    assert_eq!(fate([0x24, 0, 0x65, 0x58], &key), Err(BadTunnel), "bit 5, which must be zero");
    assert_eq!(fate([0x20, 1, 0x65, 0x58], &key), Err(BadTunnel), "version 1 (RFC 2637)");
    assert_eq!(fate([0x20, 0, 0x08, 0x00], &key), Err(BadTunnel), "IPv4, not Ethernet");
    assert_eq!(outer(&with([0x20, 0, 0x08, 0x00], &key)), None);
}

#[test]
fn a_checksum_is_verified_if_there_is_one() {
    let mut bytes = with([0xa0, 0, 0x65, 0x58], &[[0; 4], KEY.to_be_bytes()].concat());
    let checksum = !sample::slow_fold(sample::slow_sum(&bytes[34..]));
    bytes[38..40].copy_from_slice(&checksum.to_be_bytes());
    let (tunnel, out) = popped(&bytes).unwrap();
    assert_eq!((tunnel.id, out), (u64::from(KEY), sample("tcp4")));
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    assert_eq!(popped(&bytes).unwrap_err(), Malformed);
}

#[test]
fn what_is_cut_or_contradicts_itself_is_found() {
    let good = pushed(&sample("tcp4"));
    for length in 0..good.len() {
        assert!(popped(&good[..length]).is_err(), "cut to {length}");
        let _ = outer(&good[..length]);
    }
    let mut short = good[..42 + 13].to_vec();
    repair(&mut short);
    assert_eq!(popped(&short).unwrap_err(), Truncated, "no inner Ethernet header");
    let mut bad = good.clone();
    bad[22] ^= 1;
    assert_eq!(popped(&bad).unwrap_err(), Malformed, "IPv4 checksum");
    let mut fragment = good;
    fragment[20] = 0x20;
    repair(&mut fragment);
    assert_eq!(popped(&fragment).unwrap_err(), BadTunnel, "a fragment");
}

#[test]
fn a_large_frame_is_cut_inside_its_tunnel() {
    let mut pool = sample::pool();
    let inner = sample("tcp4");
    let mut frame = pool.frame(PortSlot::new(0), &inner).unwrap();
    frame.checksum = Checksum::Partial { start: 34, offset: 16 };
    frame.gso = Some(Gso { kind: GsoKind::Tcp4, size: 4, tunnel: 0 });
    header().push(&mut frame).unwrap();
    assert_eq!(frame.gso.map(|gso| gso.tunnel), Some(42));
    assert_eq!(header().push(&mut frame), Err(BadAction), "once");
    let offloads =
        Offloads { checksum: false, tcp_segmentation: false, udp_segmentation: false, chains: false, max_frame: 2000 };
    let mut out = Vec::new();
    fit(frame, &offloads, &mut pool, &mut out).unwrap();
    assert!(out.len() > 1);
    for segment in out {
        let bytes = segment.to_vec();
        pool.free(segment);
        let (_, part) = popped(&bytes).expect("outer length and checksum are right");
        sample::verify(&part).expect("and the inner ones");
    }
    assert_eq!(pool.outstanding(), 0);
}

proptest! {
    #[test]
    fn any_payload_survives(inner in proptest::collection::vec(any::<u8>(), 14..3000), key: u32) {
        let mut pool = sample::pool();
        let mut frame = pool.frame(PortSlot::new(0), &inner).unwrap();
        let way = Way { source_mac: [2; 6], destination_mac: [4; 6], source: HERE, destination: THERE };
        GreHeader::new(way, key).push(&mut frame).unwrap();
        let tunnel = pop(&mut frame).unwrap();
        prop_assert_eq!(tunnel.id, u64::from(key));
        prop_assert_eq!(frame.to_vec(), inner);
        pool.free(frame);
    }

    #[test]
    fn nothing_panics(first: [u8; 4], options in proptest::collection::vec(any::<u8>(), 0..40), repaired: bool, cut: prop::sample::Index) {
        let mut bytes = with(first, &options);
        bytes.truncate(cut.index(bytes.len() + 1));
        if repaired && bytes.len() >= 34 {
            repair(&mut bytes);
        }
        let _ = outer(&bytes);
        // What is accepted is a whole frame under a key.
        if let Ok((_, inner)) = popped(&bytes) {
            prop_assert!(inner.len() >= 14 && first[0] & 0x20 != 0 && first[2..] == [0x65, 0x58]);
        }
    }
}
