use super::*;
use crate::packet::frame::{Gso, GsoKind};
use crate::packet::sample;
use crate::port::PortSlot;
use proptest::prelude::*;

const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const VNI: u32 = 0x00ab_cdef;

fn header() -> VxlanHeader {
    VxlanHeader::new([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2], HERE, THERE, 4789, VNI, 64, 0xb8)
}

fn sample(name: &str) -> Vec<u8> {
    sample::frames().into_iter().find(|frame| frame.0 == name).unwrap_or_else(|| panic!("no sample {name}")).1
}

/// The sample in a tunnel packet, as bytes.
fn pushed(inner: &[u8]) -> Vec<u8> {
    let mut pool = sample::pool();
    let mut frame = pool.frame(PortSlot::new(0), inner).unwrap();
    header().push(&mut frame, 7).unwrap();
    let bytes = frame.to_vec();
    pool.free(frame);
    bytes
}

fn popped(bytes: &[u8]) -> Result<(Tunnel, Vec<u8>), DropReason> {
    let mut pool = sample::pool();
    let mut frame = pool.frame(PortSlot::new(0), bytes).unwrap();
    let result = vxlan_pop(&mut frame).map(|tunnel| (tunnel, frame.to_vec()));
    pool.free(frame);
    assert_eq!(pool.outstanding(), 0);
    result
}

/// Makes the outer IPv4 header's checksum right again after a test changed it.
fn repair(bytes: &mut [u8]) {
    bytes[24..26].fill(0);
    let checksum = !sample::slow_fold(sample::slow_sum(&bytes[14..34]));
    bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
}

#[test]
fn the_outer_header_is_what_the_specifications_say() {
    let inner = sample("tcp4");
    let bytes = pushed(&inner);
    assert_eq!(bytes[50..], inner);
    let packet = sample::verify(&bytes).expect("lengths and checksums are right");
    let Some(etherparse::NetHeaders::Ipv4(ip, _)) = packet.net else { panic!("not IPv4") };
    assert_eq!((ip.source, ip.destination, ip.time_to_live), (HERE.octets(), THERE.octets(), 64));
    assert!(ip.dont_fragment && ip.identification == 0 && ip.dscp.value() == 0xb8 >> 2);
    let Some(etherparse::TransportHeader::Udp(udp)) = packet.transport else { panic!("not UDP") };
    assert_eq!((udp.source_port, udp.destination_port, udp.checksum), (49_159, 4789, 0));
    assert_eq!(bytes[42..50], [8, 0, 0, 0, 0xab, 0xcd, 0xef, 0]);
    assert_eq!(
        outer(&bytes),
        Some(Outer { source: HERE, destination: THERE, encapsulation: Encapsulation::Vxlan(4789) })
    );
}

#[test]
fn in_and_out_again_nothing_has_changed() {
    for (name, inner) in sample::frames() {
        let mut padded = pushed(&inner);
        padded.extend([0xee; 9]);
        let (tunnel, out) = popped(&padded).unwrap_or_else(|reason| panic!("{name}: {reason:?}"));
        assert_eq!(out, inner, "{name}");
        assert_eq!((tunnel.source, tunnel.destination, tunnel.id), (HERE, THERE, u64::from(VNI)));
    }
}

#[test]
fn chains_pass_and_their_padding_goes() {
    let mut pool = sample::pool();
    let inner = sample("tcp6");
    let mut frame = pool.frame(PortSlot::new(0), &inner[..80]).unwrap();
    frame.append(pool.frame(PortSlot::new(0), &inner[80..]).unwrap());
    header().push(&mut frame, 1).unwrap();
    frame.append(pool.frame(PortSlot::new(0), &[0xee; 4]).unwrap());
    assert_eq!(vxlan_pop(&mut frame), Err(Malformed), "a whole segment of padding cannot be cut off");
    pool.free(frame);
    let mut frame = pool.frame(PortSlot::new(0), &inner[..80]).unwrap();
    frame.append(pool.frame(PortSlot::new(0), &inner[80..]).unwrap());
    header().push(&mut frame, 1).unwrap();
    vxlan_pop(&mut frame).unwrap();
    assert_eq!(frame.to_vec(), inner);
    pool.free(frame);
    let mut frame = pool.frame(PortSlot::new(0), &pushed(&inner)[..100]).unwrap();
    frame.append(pool.frame(PortSlot::new(0), &[&pushed(&inner)[100..], &[0; 3]].concat()).unwrap());
    vxlan_pop(&mut frame).unwrap();
    assert_eq!(frame.to_vec(), inner);
    pool.free(frame);
    assert_eq!(pool.outstanding(), 0);
}

#[test]
fn descriptors_move_along() {
    let mut pool = sample::pool();
    let mut frame = pool.frame(PortSlot::new(0), &sample("tcp4")).unwrap();
    frame.checksum = Checksum::Partial { start: 34, offset: 16 };
    header().push(&mut frame, 1).unwrap();
    assert_eq!(frame.checksum, Checksum::Partial { start: 84, offset: 16 });
    vxlan_pop(&mut frame).unwrap();
    assert_eq!(frame.checksum, Checksum::Partial { start: 34, offset: 16 });
    // What was known of the outer packet says nothing of the inner one.
    header().push(&mut frame, 1).unwrap();
    frame.checksum = Checksum::Complete;
    vxlan_pop(&mut frame).unwrap();
    assert_eq!(frame.checksum, Checksum::Unverified);
    // A large frame stays large, and is neither put in twice nor taken out.
    frame.gso = Some(Gso { kind: GsoKind::Tcp4, size: 4, tunnel: 0 });
    header().push(&mut frame, 1).unwrap();
    assert_eq!(frame.gso.map(|gso| gso.tunnel), Some(50));
    assert_eq!(header().push(&mut frame, 1), Err(BadAction));
    assert_eq!(vxlan_pop(&mut frame), Err(BadTunnel));
    pool.free(frame);
}

#[test]
fn no_room_is_told_and_nothing_done() {
    let mut pool = sample::pool();
    let mut frame = pool.frame(PortSlot::new(0), &sample("udp4")).unwrap();
    let room = frame.headroom();
    assert!(frame.push_front(room - VXLAN_OVERHEAD + 1).is_some());
    let before = frame.to_vec();
    assert_eq!(header().push(&mut frame, 1), Err(NoHeadroom));
    assert_eq!(frame.to_vec(), before);
    pool.free(frame);
    let mut frame = pool.run(PortSlot::new(0)).unwrap();
    assert!(frame.set_len(65_500));
    assert_eq!(header().push(&mut frame, 1), Err(TooBig));
    assert!(frame.set_len(65_499));
    assert_eq!(header().push(&mut frame, 1), Ok(()));
    pool.free(frame);
}

#[test]
fn what_is_wrong_is_found() {
    let good = pushed(&sample("tcp4"));
    let with = |changes: &[(usize, u8)]| {
        let mut bytes = good.clone();
        changes.iter().for_each(|&(place, value)| bytes[place] = value);
        repair(&mut bytes);
        popped(&bytes).map(|_| ())
    };
    assert_eq!(with(&[]), Ok(()));
    assert_eq!(with(&[(42, 0)]), Err(BadTunnel), "no VNI flag");
    assert_eq!(with(&[(42, 0xff), (43, 9), (49, 9)]), Ok(()), "reserved bits are ignored");
    assert_eq!(with(&[(23, 6)]), Err(BadTunnel), "TCP");
    assert_eq!(with(&[(12, 0x86), (13, 0xdd)]), Err(BadTunnel), "not IPv4");
    assert_eq!(with(&[(20, 0x20)]), Err(BadTunnel), "a fragment");
    assert_eq!(with(&[(14, 0x44)]), Err(Malformed), "IHL below 5");
    assert_eq!(with(&[(16, 9)]), Err(Malformed), "length beyond the frame");
    assert_eq!(with(&[(38, 9)]), Err(Malformed), "UDP length beyond the packet");
    assert_eq!(with(&[(38, 0), (39, 7)]), Err(Malformed), "UDP length below 8");
    assert_eq!(with(&[(38, 0), (39, 29)]), Err(Truncated), "no inner Ethernet header");
    let mut bad = good.clone();
    bad[22] ^= 1;
    assert_eq!(popped(&bad).unwrap_err(), Malformed, "IPv4 checksum");
    for length in 0..good.len() {
        assert!(popped(&good[..length]).is_err(), "cut to {length}");
        let _ = outer(&good[..length]);
    }
}

#[test]
fn an_outer_checksum_is_verified_if_there_is_one() {
    let inner = sample("udp4");
    let mut bytes = pushed(&inner);
    let length = (bytes.len() - 34) as u64;
    let pseudo = sample::slow_sum(&HERE.octets()) + sample::slow_sum(&THERE.octets()) + 17 + length;
    let checksum = !sample::slow_fold(sample::slow_sum(&bytes[34..]) + pseudo);
    bytes[40..42].copy_from_slice(&checksum.to_be_bytes());
    assert_eq!(popped(&bytes).unwrap().1, inner);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    assert_eq!(popped(&bytes).unwrap_err(), Malformed);
    // One that a local sender left to be completed is not there yet.
    let mut pool = sample::pool();
    let mut frame = pool.frame(PortSlot::new(0), &bytes).unwrap();
    frame.checksum = Checksum::Partial { start: 34, offset: 6 };
    assert!(vxlan_pop(&mut frame).is_ok());
    assert_eq!(frame.checksum, Checksum::Unverified);
    pool.free(frame);
}

#[test]
fn congestion_follows_rfc_6040() {
    let inner = |version4: bool, ecn: u8| {
        let mut bytes = sample(if version4 { "tcp4" } else { "tcp6" });
        if version4 {
            bytes[15] = (bytes[15] & !3) | ecn;
            let checksum = {
                bytes[24..26].fill(0);
                !sample::slow_fold(sample::slow_sum(&bytes[14..34]))
            };
            bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
        } else {
            bytes[15] = (bytes[15] & !0x30) | (ecn << 4);
        }
        bytes
    };
    let ecn_of = |version4: bool, bytes: &[u8]| if version4 { bytes[15] & 3 } else { (bytes[15] >> 4) & 3 };
    // Figure 4: by the inner field (Not-ECT, ECT(1), ECT(0), CE) and the outer one; none: dropped.
    let figure = [
        [Some(0), Some(0), Some(0), None],
        [Some(1), Some(1), Some(1), Some(3)],
        [Some(2), Some(1), Some(2), Some(3)],
        [Some(3), Some(3), Some(3), Some(3)],
    ];
    for version4 in [true, false] {
        for (inner_ecn, row) in figure.iter().enumerate() {
            let mut bytes = pushed(&inner(version4, inner_ecn as u8));
            assert_eq!(usize::from(bytes[15]), 0xb8 | inner_ecn, "the outer field copies the inner one");
            sample::verify(&bytes).unwrap();
            for (outer_ecn, expected) in row.iter().enumerate() {
                bytes[15] = 0xb8 | outer_ecn as u8;
                repair(&mut bytes);
                match (popped(&bytes), expected) {
                    (Ok((tunnel, out)), Some(expected)) => {
                        assert_eq!(ecn_of(version4, &out), *expected, "{inner_ecn} in {outer_ecn}");
                        assert_eq!(usize::from(tunnel.ecn), outer_ecn);
                        sample::verify(&out).expect("the inner checksum follows");
                    }
                    (Err(reason), None) => assert_eq!(reason, BadTunnel),
                    (result, _) => panic!("{inner_ecn} in {outer_ecn}: {result:?}"),
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn any_payload_survives(inner in proptest::collection::vec(any::<u8>(), 14..3000), hash: u32, vni in 0_u32..1 << 24) {
        let mut pool = sample::pool();
        let mut frame = pool.frame(PortSlot::new(0), &inner).unwrap();
        VxlanHeader::new([2; 6], [4; 6], HERE, THERE, 8472, vni, 1, 0).push(&mut frame, hash).unwrap();
        let outside = frame.to_vec();
        prop_assert!(sample::verify(&outside).is_ok());
        prop_assert!(u16::from_be_bytes([outside[34], outside[35]]) >= 49_152);
        let tunnel = vxlan_pop(&mut frame).unwrap();
        prop_assert_eq!(tunnel.id, u64::from(vni));
        prop_assert_eq!(frame.to_vec(), inner);
        pool.free(frame);
    }

    #[test]
    fn flipped_bits_never_panic(place: prop::sample::Index, bit in 0..8_u32, second: prop::sample::Index, length: prop::sample::Index) {
        let mut bytes = pushed(&sample("udp4"));
        let (first, second) = (place.index(50), second.index(bytes.len()));
        bytes[first] ^= 1 << bit;
        bytes[second] ^= 1 << bit;
        if first % 2 == 0 {
            repair(&mut bytes);
        }
        let _ = outer(&bytes);
        let _ = popped(&bytes);
        let _ = popped(&bytes[..length.index(bytes.len())]);
    }
}
