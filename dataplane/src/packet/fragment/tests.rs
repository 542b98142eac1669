//! What a receiver puts together must be what was sent: a reassembler of a few lines, etherparse's headers.

use super::*;
use crate::flow::key::FlowKey;
use crate::packet::frame::Gso;
use crate::packet::parse::parse;
use crate::packet::sample;
use crate::port::PortSlot;
use etherparse::Ipv4HeaderSlice;
use proptest::prelude::*;

const L3: usize = 14;

/// What leaves when a datagram of these bytes (behind Ethernet) meets this MTU.
fn pieces(packet: &[u8], mtu: u16, chained: bool) -> Result<Vec<Vec<u8>>, DropReason> {
    let mut pool = sample::pool();
    let bytes = sample::ethernet(&[], 0x0800, packet);
    let split = if chained && bytes.len() > 200 { 101 } else { bytes.len() };
    let mut frame = pool.frame(PortSlot::new(0), &bytes[..split]).unwrap();
    if split < bytes.len() {
        frame.append(pool.frame(PortSlot::new(0), &bytes[split..]).unwrap());
    }
    let mut out = Vec::new();
    let done = fragment(frame, L3, mtu, &mut pool, &mut out);
    let packets = out.iter().map(|piece| piece.to_vec()[L3..].to_vec()).collect();
    out.into_iter().for_each(|piece| pool.free(piece));
    assert_eq!(pool.outstanding(), 0);
    done.map(|()| packets)
}

/// Puts fragments together as RFC 791 says: payload and whether more was to come behind.
fn reassembled(fragments: &[Vec<u8>]) -> (Vec<u8>, bool) {
    let mut parts: Vec<(usize, bool, &[u8])> = fragments
        .iter()
        .map(|bytes| {
            let ip = Ipv4HeaderSlice::from_slice(bytes).unwrap();
            assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
            assert_eq!(usize::from(ip.total_len()), bytes.len());
            let offset = usize::from(ip.fragments_offset().value()) * 8;
            (offset, ip.more_fragments(), &bytes[ip.slice().len()..])
        })
        .collect();
    parts.sort_by_key(|part| part.0);
    let start = parts[0].0;
    let mut payload = Vec::new();
    for (offset, _, part) in &parts {
        assert_eq!(*offset, start + payload.len(), "without gap or overlap");
        payload.extend_from_slice(part);
    }
    assert!(parts[..parts.len() - 1].iter().all(|part| part.1), "all but the last say that more follows");
    (payload, parts[parts.len() - 1].1)
}

#[test]
fn what_fits_stays_as_it_is() {
    let packet = sample::ipv4(&[], 17, 0, &sample::udp(true, &[7; 100]));
    assert_eq!(pieces(&packet, packet.len() as u16, false).unwrap(), std::slice::from_ref(&packet));
    assert_eq!(pieces(&packet, packet.len() as u16 - 1, false).unwrap().len(), 2);
}

#[test]
fn who_forbids_it_is_not_fragmented() {
    let packet = sample::ipv4(&[], 17, 0x4000, &sample::udp(true, &[7; 1000]));
    assert_eq!(pieces(&packet, 1028, false).unwrap(), std::slice::from_ref(&packet));
    assert_eq!(pieces(&packet, 1027, false), Err(TooBig));
}

#[test]
fn options_that_are_to_be_copied_are() {
    // Record route (not copied), loose source route (copied), nothing, router alert (copied), end.
    let options = [7, 7, 4, 0, 0, 0, 0, 131, 7, 4, 9, 9, 9, 9, 1, 148, 4, 0, 0, 0];
    let packet = sample::ipv4(&options, 17, 0, &sample::udp(true, &[7; 400]));
    let cut = pieces(&packet, 200, false).unwrap();
    assert_eq!(cut[0][20..40], options);
    for later in &cut[1..] {
        let ip = Ipv4HeaderSlice::from_slice(later).unwrap();
        assert_eq!(ip.options(), [131, 7, 4, 9, 9, 9, 9, 148, 4, 0, 0, 0]);
    }
    assert_eq!(reassembled(&cut).0, packet[40..]);
    assert!(cut.iter().all(|piece| piece.len() <= 200));
}

#[test]
fn a_fragment_is_cut_further() {
    for place in [0x2000_u16, 0x2010, 0x0010] {
        let packet = sample::ipv4(&[], 47, place, &(0..=255).collect::<Vec<u8>>());
        let cut = pieces(&packet, 100, false).unwrap();
        assert_eq!(cut.len(), 4);
        assert_eq!(reassembled(&cut), (packet[20..].to_vec(), place & 0x2000 != 0));
        let first = Ipv4HeaderSlice::from_slice(&cut[0]).unwrap();
        assert_eq!(first.fragments_offset().value(), place & 0x1fff);
    }
}

#[test]
fn a_partial_checksum_is_completed_first() {
    let datagram = sample::udp(true, &[7; 1000]);
    let mut open = datagram.clone();
    let pseudo = sample::slow_fold(sample::pseudo_sum(true, 17, datagram.len()));
    open[6..8].copy_from_slice(&pseudo.to_be_bytes());
    let mut pool = sample::pool();
    let mut frame =
        pool.frame(PortSlot::new(0), &sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 17, 0, &open))).unwrap();
    frame.checksum = Checksum::Partial { start: 34, offset: 6 };
    let mut out = Vec::new();
    fragment(frame, L3, 500, &mut pool, &mut out).unwrap();
    assert!(out.iter().all(|piece| piece.checksum == Checksum::Unverified));
    let cut: Vec<Vec<u8>> = out.iter().map(|piece| piece.to_vec()[L3..].to_vec()).collect();
    assert_eq!(reassembled(&cut).0, datagram);
    out.into_iter().for_each(|piece| pool.free(piece));
}

fn large(kind: GsoKind, size: u16) -> (Pool, Frame, Vec<u8>) {
    let data: Vec<u8> = (0..=250).cycle().take(5000).collect();
    let (protocol, transport, offset) = match kind {
        GsoKind::Udp => (17, sample::udp(true, &data), 6),
        _ => (6, sample::tcp(true, 0x10, &[], &data), 16),
    };
    let mut pool = sample::pool();
    let bytes = sample::ethernet(&[], 0x0800, &sample::ipv4(&[], protocol, 0, &transport));
    let mut frame = pool.frame(PortSlot::new(0), &bytes).unwrap();
    frame.gso = Some(Gso { kind, size, tunnel: 0 });
    frame.checksum = Checksum::Partial { start: 34, offset };
    (pool, frame, data)
}

#[test]
fn of_a_large_frame_the_segments_count() {
    let (mut pool, frame, _) = large(GsoKind::Tcp4, 1000);
    let layout = parse(&frame, 1, &mut FlowKey::default()).unwrap();
    assert_eq!(datagram_bytes(&frame, &layout), Some(1040));
    pool.free(frame);
    let (mut pool, mut frame, _) = large(GsoKind::Udp, 1000);
    assert_eq!(datagram_bytes(&frame, &layout), Some(1028));
    frame.gso = None;
    assert_eq!(datagram_bytes(&frame, &layout), Some(5028));
    pool.free(frame);
}

#[test]
fn a_large_frame_of_tcp_gets_smaller_segments() {
    let (mut pool, frame, data) = large(GsoKind::Tcp4, 1000);
    let mut out = Vec::new();
    fragment(frame, L3, 640, &mut pool, &mut out).unwrap();
    let frame = out.pop().unwrap();
    assert!(out.is_empty());
    assert_eq!(frame.gso.map(|gso| gso.size), Some(600));
    fit(frame, &WIRE, &mut pool, &mut out).unwrap();
    let mut sent = Vec::new();
    for segment in out {
        let bytes = segment.to_vec();
        assert!(bytes.len() <= L3 + 640);
        sent.extend_from_slice(sample::verify(&bytes).unwrap().payload.slice());
        pool.free(segment);
    }
    assert_eq!(sent, data);
    let (mut pool, frame, _) = large(GsoKind::Tcp4, 1000);
    assert_eq!(fragment(frame, L3, 40, &mut pool, &mut Vec::new()), Err(TooBig));
    assert_eq!(pool.outstanding(), 0);
}

#[test]
fn large_datagrams_keep_their_limits() {
    let (mut pool, frame, data) = large(GsoKind::Udp, 2000);
    let mut out = Vec::new();
    fragment(frame, L3, 700, &mut pool, &mut out).unwrap();
    let cut: Vec<Vec<u8>> = out.iter().map(|piece| piece.to_vec()[L3..].to_vec()).collect();
    out.into_iter().for_each(|piece| pool.free(piece));
    let identification = |bytes: &Vec<u8>| Ipv4HeaderSlice::from_slice(bytes).unwrap().identification();
    for (index, part) in data.chunks(2000).enumerate() {
        let own = sample::IDENTIFICATION + index as u16;
        let fragments: Vec<Vec<u8>> = cut.iter().filter(|bytes| identification(bytes) == own).cloned().collect();
        let (payload, more) = reassembled(&fragments);
        assert!(!more);
        assert_eq!(payload, sample::udp(true, part), "with its own length and checksum");
    }
    assert_eq!(pool.outstanding(), 0);
}

#[test]
fn too_many_pieces_are_refused() {
    let packet = sample::ipv4(&[], 17, 0, &sample::udp(true, &vec![7; 60_000]));
    assert_eq!(pieces(&packet, 68, false), Err(TooBig));
    assert_eq!(pieces(&packet, 20, false), Err(TooBig));
    assert_eq!(pieces(&packet, 10, false), Err(TooBig));
}

proptest! {
    #[test]
    fn fragments_reassemble_to_the_original(
        // With the longest header a piece of the smallest MTU holds 8 bytes: this stays below the most pieces.
        length in 0_usize..8000,
        options in 0_usize..=10,
        mtu in LEAST_MTU..2000,
        second in LEAST_MTU..2000,
        chained: bool,
    ) {
        let data: Vec<u8> = (0..length).map(|index| (index * 7 % 251) as u8).collect();
        let packet = sample::ipv4(&vec![1; options * 4], 17, 0, &sample::udp(true, &data));
        let cut = pieces(&packet, mtu, chained).unwrap();
        prop_assert!(cut.iter().all(|piece| piece.len() <= usize::from(mtu)));
        let header = 20 + options * 4;
        prop_assert_eq!(reassembled(&cut), (packet[header..].to_vec(), false));
        // And through a second, narrower link.
        let again: Vec<Vec<u8>> = cut.iter().flat_map(|piece| pieces(piece, second, chained).unwrap()).collect();
        prop_assert!(again.iter().all(|piece| piece.len() <= usize::from(second)));
        prop_assert_eq!(reassembled(&again), (packet[header..].to_vec(), false));
    }

    #[test]
    fn no_options_make_it_panic(options in proptest::collection::vec(any::<u8>(), 40), mtu in 0_u16..300) {
        let packet = sample::ipv4(&options, 17, 0, &sample::udp(true, &[7; 400]));
        if let Ok(cut) = pieces(&packet, mtu, false) {
            prop_assert_eq!(reassembled(&cut).0, packet[60..].to_vec());
        }
    }
}
