use super::*;
use crate::packet::sample;
use crate::packet::tunnel::{VXLAN_OVERHEAD, VxlanHeader, vxlan_pop};
use crate::port::PortSlot;
use etherparse::{NetHeaders, TransportHeader};
use proptest::prelude::*;
use std::net::Ipv4Addr;

/// The port that everything is charged to.
fn port() -> PortSlot {
    PortSlot::new(5)
}

/// A network card without any offload, as AF_XDP gives it.
const WIRE: Offloads =
    Offloads { checksum: false, tcp_segmentation: false, udp_segmentation: false, chains: false, max_frame: 3800 };
/// The same with frames of several chunks.
const JUMBO: Offloads = Offloads { max_frame: 9018, ..WIRE };
/// A TAP.
const TAP: Offloads =
    Offloads { checksum: true, tcp_segmentation: true, udp_segmentation: true, chains: true, max_frame: 9018 };

/// What a large frame is made of.
#[derive(Clone, Debug)]
struct Large {
    version4: bool,
    tcp: bool,
    tags: usize,
    /// Words of options of IPv4, or of 8 bytes in an extension header of IPv6.
    ip_options: usize,
    tcp_options: usize,
    flags: u16,
    size: u16,
    payload: Vec<u8>,
    tunnel: bool,
    /// Where the frame is cut into a chain, behind its headers.
    cuts: Vec<usize>,
}

impl Large {
    /// As a TAP hands it over: the transport checksum field holds the pseudo-header's sum.
    fn bytes(&self) -> Vec<u8> {
        let (protocol, mut body) = if self.tcp {
            (6, sample::tcp(self.version4, self.flags, &vec![1; 4 * self.tcp_options], &self.payload))
        } else {
            (17, sample::udp(self.version4, &self.payload))
        };
        let sum = sample::slow_fold(sample::pseudo_sum(self.version4, protocol, body.len()));
        let field = self.checksum_offset();
        body[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        let tags = &[(0x88a8, 0x0064), (0x8100, 0x2065)][..self.tags];
        if self.version4 {
            let packet = sample::ipv4(&vec![1; 4 * self.ip_options], protocol, 0x4000, &body);
            sample::ethernet(tags, 0x0800, &packet)
        } else {
            let extensions = match self.ip_options {
                0 => vec![],
                units => vec![(60, sample::padding_options(units))],
            };
            sample::ethernet(tags, 0x86dd, &sample::ipv6(&extensions, protocol, &body))
        }
    }

    fn checksum_offset(&self) -> usize {
        if self.tcp { 16 } else { 6 }
    }

    fn l4(&self) -> usize {
        14 + 4 * self.tags + if self.version4 { 20 + 4 * self.ip_options } else { 40 + 8 * self.ip_options }
    }

    fn headers(&self) -> usize {
        self.l4() + if self.tcp { 20 + 4 * self.tcp_options } else { 8 }
    }

    fn kind(&self) -> GsoKind {
        match (self.tcp, self.version4) {
            (false, _) => GsoKind::Udp,
            (true, true) => GsoKind::Tcp4,
            (true, false) => GsoKind::Tcp6,
        }
    }

    fn frame(&self, pool: &mut Pool) -> Frame {
        let bytes = self.bytes();
        let mut cuts: Vec<usize> =
            self.cuts.iter().map(|cut| self.headers() + cut).filter(|&cut| cut < bytes.len()).collect();
        cuts.sort_unstable();
        cuts.dedup();
        cuts.push(bytes.len());
        let mut frame = pool.frame(port(), &bytes[..cuts[0]]).unwrap();
        for pair in cuts.windows(2) {
            frame.append(pool.frame(port(), &bytes[pair[0]..pair[1]]).unwrap());
        }
        frame.checksum = Checksum::Partial { start: self.l4() as u16, offset: self.checksum_offset() as u16 };
        frame.gso = Some(Gso { kind: self.kind(), size: self.size, tunnel: 0 });
        if self.tunnel {
            tunnel_header().push(&mut frame, 99).unwrap();
        }
        frame
    }
}

fn tunnel_header() -> VxlanHeader {
    let (here, there) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
    VxlanHeader::new([2; 6], [4; 6], here, there, 4789, 77, 64, 0)
}

fn plain() -> Large {
    Large {
        version4: true,
        tcp: true,
        tags: 0,
        ip_options: 0,
        tcp_options: 3,
        flags: 0x0d9,
        size: 1448,
        payload: (0..5000).map(|index| (index * 7 / 3) as u8).collect(),
        tunnel: false,
        cuts: vec![],
    }
}

fn larges() -> impl Strategy<Value = Large> {
    let shape = (any::<[bool; 3]>(), 0_usize..3, 0_usize..3, 0_usize..4, 0_u16..0x100);
    let payload = (64_u16..2000, proptest::collection::vec(any::<u8>(), 0..12_000));
    (shape, payload, proptest::collection::vec(0_usize..12_000, 0..4)).prop_map(
        |(([version4, tcp, tunnel], tags, ip_options, tcp_options, flags), (size, payload), cuts)| Large {
            // Neither SYN nor RST: see `what_cannot_be_cut_up`.
            flags: flags & !0x006,
            ..Large { version4, tcp, tags, ip_options, tcp_options, flags, size, payload, tunnel, cuts }
        },
    )
}

/// Fits the frame; gives what came out as bytes, and checks that no buffer is lost.
fn fitted(large: &Large, offloads: &Offloads) -> Result<Vec<Vec<u8>>, DropReason> {
    let mut pool = sample::pool();
    let frame = large.frame(&mut pool);
    let mut out = Vec::new();
    let result = fit(frame, offloads, &mut pool, &mut out);
    for frame in &out {
        assert_eq!((frame.checksum, frame.gso), (Checksum::Complete, None));
        let chunks = frame.len().div_ceil(CHUNK_ROOM);
        assert!(offloads.chains || frame.umem_pieces() == Some(chunks), "{frame:?}");
        assert!(frame.len() <= offloads.max_frame);
    }
    let bytes = out.iter().map(Frame::to_vec).collect();
    out.into_iter().for_each(|frame| pool.free(frame));
    assert_eq!(pool.outstanding(), 0);
    result.map(|()| bytes)
}

/// Checks every segment by itself and all together against what was to be sent.
fn check(large: &Large, segments: &[Vec<u8>]) {
    let count = large.payload.len().div_ceil(usize::from(large.size)).max(1);
    assert_eq!(segments.len(), count);
    let mut payload = Vec::<u8>::new();
    for (index, segment) in segments.iter().enumerate() {
        let inner = if large.tunnel {
            let outer = sample::verify(segment).unwrap_or_else(|fault| panic!("outer header of {index}: {fault}"));
            assert!(matches!(outer.net, Some(NetHeaders::Ipv4(ip, _)) if ip.identification == 0 && ip.dont_fragment));
            assert!(matches!(outer.transport, Some(TransportHeader::Udp(udp)) if udp.checksum == 0));
            &segment[VXLAN_OVERHEAD..]
        } else {
            &segment[..]
        };
        let packet = sample::verify(inner).unwrap_or_else(|fault| panic!("segment {index}: {fault}"));
        assert_eq!(packet.link_exts.len(), large.tags);
        let part = packet.payload.slice();
        assert_eq!(part.len(), if index + 1 < count { large.size.into() } else { large.payload.len() - payload.len() });
        match packet.net {
            Some(NetHeaders::Ipv4(ip, _)) => {
                assert_eq!(ip.identification, sample::IDENTIFICATION.wrapping_add(index as u16));
            }
            Some(NetHeaders::Ipv6(..)) => assert!(!large.version4),
            other => panic!("segment {index}: {other:?}"),
        }
        match packet.transport {
            Some(TransportHeader::Tcp(tcp)) => {
                assert_eq!(tcp.sequence_number, sample::SEQUENCE.wrapping_add(payload.len() as u32));
                let (first, last) = (index == 0, index + 1 == count);
                assert_eq!(tcp.fin, last && large.flags & tcp_flag::FIN != 0, "FIN of {index}");
                assert_eq!(tcp.psh, last && large.flags & tcp_flag::PSH != 0, "PSH of {index}");
                assert_eq!(tcp.cwr, first && large.flags & tcp_flag::CWR != 0, "CWR of {index}");
                assert_eq!(tcp.ack, large.flags & tcp_flag::ACK != 0);
                assert_eq!(tcp.ece, large.flags & tcp_flag::ECE != 0);
                assert_eq!(tcp.options.as_slice(), vec![1; 4 * large.tcp_options]);
            }
            Some(TransportHeader::Udp(udp)) => assert_ne!(udp.checksum, 0),
            other => panic!("segment {index}: {other:?}"),
        }
        payload.extend(part);
    }
    assert!(payload == large.payload, "the payload differs");
}

#[test]
fn a_stream_is_cut_up() {
    for tunnel in [false, true] {
        for version4 in [false, true] {
            for tcp in [false, true] {
                let large = Large { tunnel, version4, tcp, ..plain() };
                let segments = fitted(&large, &WIRE).unwrap();
                check(&large, &segments);
            }
        }
    }
}

/// The checks above must be able to fail.
#[test]
fn planted_faults_are_found() {
    let large = plain();
    let good = fitted(&large, &WIRE).unwrap();
    let found = |segments: Vec<Vec<u8>>| std::panic::catch_unwind(|| check(&large, &segments)).is_err();
    assert!(!found(good.clone()));
    for place in [17, 19, 24, 41, 47, 50, 70] {
        let mut bad = good.clone();
        bad[1][place] ^= 0x10;
        assert!(found(bad), "byte {place} of the second segment changed");
    }
    assert!(found(good[1..].to_vec()), "the first segment is missing");
    let mut swapped = good.clone();
    swapped.swap(1, 2);
    assert!(found(swapped), "two segments are swapped");
}

#[test]
fn what_the_port_takes_passes_whole() {
    let mut pool = sample::pool();
    for (tcp, without) in
        [(true, Offloads { udp_segmentation: false, ..TAP }), (false, Offloads { tcp_segmentation: false, ..TAP })]
    {
        let large = Large { tcp, cuts: vec![100], ..plain() };
        let mut out = Vec::new();
        fit(large.frame(&mut pool), &without, &mut pool, &mut out).unwrap();
        assert_eq!(out.len(), 1);
        let frame = out.pop().unwrap();
        assert_eq!(frame.to_vec(), large.bytes());
        assert!(frame.gso.is_some() && matches!(frame.checksum, Checksum::Partial { .. }));
        pool.free(frame);
    }
    // Not in a tunnel, not without checksums, not chained to a port that takes one chunk.
    for (large, offloads) in [
        (Large { tunnel: true, ..plain() }, TAP),
        (plain(), Offloads { checksum: false, ..TAP }),
        (plain(), Offloads { tcp_segmentation: false, ..TAP }),
        (Large { tcp: false, ..plain() }, Offloads { udp_segmentation: false, ..TAP }),
        (plain(), Offloads { chains: false, ..TAP }),
    ] {
        let segments = fitted(&large, &offloads).unwrap();
        check(&large, &segments);
    }
    assert_eq!(pool.outstanding(), 0);
}

#[test]
fn the_largest_frame_is_held_against_each_segment() {
    let large = plain();
    let longest = 14 + 20 + 32 + 1448;
    assert!(fitted(&large, &Offloads { max_frame: longest, ..WIRE }).is_ok());
    assert_eq!(fitted(&large, &Offloads { max_frame: longest - 1, ..WIRE }), Err(TooBig));
    let tunnelled = Large { tunnel: true, ..plain() };
    assert!(fitted(&tunnelled, &Offloads { max_frame: longest + 50, ..WIRE }).is_ok());
    assert_eq!(fitted(&tunnelled, &Offloads { max_frame: longest, ..WIRE }), Err(TooBig));
    // Also if it would pass whole; and a single segment counts by its own length.
    let mut pool = sample::pool();
    let mut out = Vec::new();
    let narrow = Offloads { max_frame: longest - 1, ..TAP };
    assert_eq!(fit(large.frame(&mut pool), &narrow, &mut pool, &mut out), Err(TooBig));
    let short = Large { payload: vec![1; 10], ..plain() };
    assert_eq!(fit(short.frame(&mut pool), &narrow, &mut pool, &mut out), Ok(()));
    out.drain(..).for_each(|frame| pool.free(frame));
    let beyond_a_chunk = Large { size: 4000, ..plain() };
    check(&beyond_a_chunk, &fitted(&beyond_a_chunk, &JUMBO).unwrap());
    assert_eq!(fitted(&beyond_a_chunk, &WIRE), Err(TooBig));
    assert_eq!(pool.outstanding(), 0);
}

#[test]
fn what_cannot_be_cut_up() {
    let mut pool = sample::pool();
    let mut reason = |large: &Large, gso: Gso, change: Option<(usize, u8)>| {
        let mut frame = large.frame(&mut pool);
        frame.gso = Some(gso);
        if let Some((place, value)) = change {
            frame.head_mut()[place] = value;
        }
        let mut out = Vec::new();
        let result = fit(frame, &TAP, &mut pool, &mut out);
        out.drain(..).for_each(|frame| pool.free(frame));
        assert_eq!(pool.outstanding(), 0);
        result
    };
    let (large, gso) = (plain(), Gso { kind: GsoKind::Tcp4, size: 1448, tunnel: 0 });
    assert_eq!(reason(&large, gso, None), Ok(()));
    assert_eq!(reason(&large, Gso { size: 0, ..gso }, None), Err(Malformed));
    assert_eq!(reason(&large, Gso { size: 1, ..gso }, None), Err(Malformed), "5000 segments");
    assert_eq!(reason(&large, Gso { kind: GsoKind::Tcp6, ..gso }, None), Err(Malformed));
    assert_eq!(reason(&large, Gso { kind: GsoKind::Udp, ..gso }, None), Err(Malformed));
    assert_eq!(reason(&large, Gso { tunnel: 50, ..gso }, None), Err(Malformed), "no outer header");
    assert_eq!(reason(&large, Gso { tunnel: 60_000, ..gso }, None), Err(Malformed));
    assert_eq!(reason(&large, gso, Some((20, 0x20))), Err(Malformed), "a fragment");
    assert_eq!(reason(&large, gso, Some((46, 0x10))), Err(Malformed), "TCP data offset 1");
    assert_eq!(reason(&large, gso, Some((47, 0x12))), Err(Malformed), "a SYN");
    assert_eq!(reason(&Large { payload: vec![1; 9], ..plain() }, gso, Some((47, 0x12))), Ok(()), "a SYN alone");
    let options = Large { version4: false, ip_options: 1, ..plain() };
    let gso6 = Gso { kind: GsoKind::Tcp6, ..gso };
    assert_eq!(reason(&options, gso6, None), Ok(()));
    assert_eq!(reason(&options, gso6, Some((20, 43))), Err(Malformed), "a routing header");
    let tunnelled = Large { tunnel: true, ..plain() };
    let gso_in_tunnel = Gso { tunnel: 50, ..gso };
    assert_eq!(reason(&tunnelled, gso_in_tunnel, None), Ok(()));
    assert_eq!(reason(&tunnelled, gso_in_tunnel, Some((12, 0x86))), Err(Malformed), "not IPv4 outside");
    assert_eq!(reason(&tunnelled, Gso { tunnel: 14, ..gso }, None), Err(Malformed));
}

/// A port that holds its quota gets no segments, and not some of them either.
#[test]
fn all_or_nothing_without_buffers() {
    let mut pool = sample::pool();
    let mut held: Vec<Frame> = std::iter::from_fn(|| pool.chunk(port())).collect();
    let quota = held.len();
    for _ in 0..4 {
        pool.free(held.pop().unwrap());
    }
    // One for the large frame, three for its four segments.
    let frame = Large { payload: vec![1; 3700], size: 1000, ..plain() }.frame(&mut pool);
    let mut out = vec![held.pop().unwrap()];
    assert_eq!(fit(frame, &WIRE, &mut pool, &mut out), Err(NoBuffer));
    assert_eq!(out.len(), 1);
    held.append(&mut out);
    let before = held.len();
    held.into_iter().for_each(|frame| pool.free(frame));
    assert_eq!((pool.outstanding(), before), (0, quota - 4));
}

#[test]
fn a_plain_frame_is_made_to_fit() {
    let mut pool = sample::pool();
    let mut out = Vec::new();
    let bytes = vec![5; 1500];
    // As it is.
    let frame = pool.frame(port(), &bytes).unwrap();
    let place = frame.umem_address();
    fit(frame, &WIRE, &mut pool, &mut out).unwrap();
    assert_eq!(out[0].umem_address(), place, "not copied");
    // Chained, in a run, or followed by nothing but an empty segment: into one chunk.
    let mut chained = pool.frame(port(), &bytes[..600]).unwrap();
    chained.append(pool.frame(port(), &bytes[600..]).unwrap());
    let mut run = pool.run(port()).unwrap();
    assert!(run.set_len(1500));
    run.head_mut().copy_from_slice(&bytes);
    let mut followed = pool.frame(port(), &bytes).unwrap();
    followed.append(pool.chunk(port()).unwrap());
    for frame in [chained, run, followed] {
        fit(frame, &WIRE, &mut pool, &mut out).unwrap();
        let last = out.last().unwrap();
        assert!(last.umem_address().is_some());
        assert_eq!(last.to_vec(), bytes);
    }
    // Too big for the port.
    for (length, offloads) in [(3801, WIRE), (9019, TAP), (9019, JUMBO)] {
        let frame = pool.frame(port(), &vec![0; length]).unwrap();
        assert_eq!(fit(frame, &offloads, &mut pool, &mut out), Err(TooBig), "{length}");
    }
    assert_eq!(out.len(), 4);
    out.drain(..).for_each(|frame| pool.free(frame));
    assert_eq!(pool.outstanding(), 0);
}

#[test]
fn a_frame_beyond_a_chunk_goes_in_several() {
    let mut pool = sample::pool();
    let mut out = Vec::new();
    let bytes: Vec<u8> = (0..9018).map(|index| (index / 3) as u8).collect();
    // As a TAP reads it: the rest in a run.
    let mut read = pool.frame(port(), &bytes[..3840]).unwrap();
    let mut rest = pool.run(port()).unwrap();
    assert!(rest.set_len(9018 - 3840));
    rest.head_mut().copy_from_slice(&bytes[3840..]);
    read.append(rest);
    fit(read, &JUMBO, &mut pool, &mut out).unwrap();
    let lengths: Vec<usize> = out[0].segments().map(<[u8]>::len).collect();
    assert_eq!((lengths, out[0].umem_pieces()), (vec![3840, 3840, 1338], Some(3)));
    assert_eq!(out[0].to_vec(), bytes);
    // As AF_XDP reads it: nothing is to be done.
    let (pieces, charged) = Pool::into_umem_pieces(out.remove(0)).unwrap();
    let pieces: Vec<(u64, usize)> = pieces.collect();
    let mut received = pieces.iter().map(|&(address, length)| {
        // SAFETY: taken out just now, each once.
        unsafe { Pool::new(pool.memory()).from_umem(address, length, charged) }
    });
    let mut whole = received.next().unwrap();
    received.for_each(|piece| whole.append(piece));
    fit(whole, &JUMBO, &mut pool, &mut out).unwrap();
    assert_eq!(out[0].to_vec(), bytes);
    let (again, _) = Pool::into_umem_pieces(out.remove(0)).unwrap();
    assert_eq!(again.collect::<Vec<_>>(), pieces, "it was not copied");
    // SAFETY: taken out just now, each once.
    pieces.iter().for_each(|&(address, _)| unsafe { pool.free_umem(address, charged) });
    // More pieces than a ring's packet may have: copied to fewer.
    let mut small = pool.frame(port(), &bytes[..100]).unwrap();
    (1..60).for_each(|piece| small.append(pool.frame(port(), &bytes[piece * 100..(piece + 1) * 100]).unwrap()));
    fit(small, &JUMBO, &mut pool, &mut out).unwrap();
    assert_eq!((out[0].to_vec(), out[0].umem_pieces()), (bytes[..6000].to_vec(), Some(2)));
    out.drain(..).for_each(|frame| pool.free(frame));
    assert_eq!(pool.outstanding(), 0);
}

#[test]
fn checksums_are_completed_only_where_the_port_cannot() {
    let mut pool = sample::pool();
    let large = Large { payload: vec![3; 333], ..plain() };
    for (offloads, kept) in [(TAP, true), (WIRE, false)] {
        let mut frame = large.frame(&mut pool);
        frame.gso = None;
        let mut out = Vec::new();
        fit(frame, &offloads, &mut pool, &mut out).unwrap();
        let frame = out.pop().unwrap();
        assert_eq!(frame.checksum != Checksum::Complete, kept);
        assert_eq!(sample::verify(&frame.to_vec()).is_err(), kept);
        pool.free(frame);
    }
    for (start, offset) in [(34, 60_000), (65_535, 65_535), (390, 16), (400, 0)] {
        let mut frame = large.frame(&mut pool);
        frame.checksum = Checksum::Partial { start, offset };
        let before = frame.to_vec();
        assert_eq!(complete_checksum(&mut frame), Err(Malformed));
        assert_eq!(frame.to_vec(), before);
        pool.free(frame);
    }
}

/// UDP's computed zero is sent as all ones, TCP's is not.
#[test]
fn a_computed_zero() {
    let mut pool = sample::pool();
    for tcp in [false, true] {
        let mut large = Large { tcp, payload: vec![0, 0], ..plain() };
        // Choose the payload so that all sums to 0xffff.
        let bytes = large.bytes();
        large.payload = (!sample::slow_fold(sample::slow_sum(&bytes[34..]))).to_be_bytes().to_vec();
        let mut frame = large.frame(&mut pool);
        frame.gso = None;
        complete_checksum(&mut frame).unwrap();
        let field = 34 + large.checksum_offset();
        let expected = if tcp { [0, 0] } else { [0xff, 0xff] };
        assert_eq!(frame.head()[field..field + 2], expected);
        pool.free(frame);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn segments_add_up(large in larges()) {
        let segments = fitted(&large, &WIRE).map_err(|reason| TestCaseError::fail(format!("{reason:?}")))?;
        check(&large, &segments);
    }

    #[test]
    fn segments_leave_the_tunnel_as_they_entered(large in larges()) {
        let outside = fitted(&Large { tunnel: true, ..large.clone() }, &WIRE).unwrap();
        let inside = fitted(&Large { tunnel: false, ..large }, &WIRE).unwrap();
        let mut pool = sample::pool();
        for (outside, inside) in outside.iter().zip(&inside) {
            let mut frame = pool.frame(port(), outside).unwrap();
            vxlan_pop(&mut frame).unwrap();
            prop_assert_eq!(&frame.to_vec(), inside);
            pool.free(frame);
        }
    }

    #[test]
    fn a_partial_checksum_completes_to_the_whole_one(large in larges()) {
        let mut pool = sample::pool();
        let mut frame = large.frame(&mut pool);
        complete_checksum(&mut frame).unwrap();
        prop_assert_eq!(frame.checksum, Checksum::Complete);
        let skip = if large.tunnel { VXLAN_OVERHEAD } else { 0 };
        let verified = sample::verify(&frame.to_vec()[skip..]).map(|_| ());
        prop_assert_eq!(verified, Ok(()));
        pool.free(frame);
    }

    #[test]
    fn nothing_panics_and_nothing_leaks(
        large in larges(),
        kind in prop_oneof![Just(GsoKind::Tcp4), Just(GsoKind::Tcp6), Just(GsoKind::Udp)],
        size: u16,
        tunnel in prop_oneof![Just(0_u16), Just(50), Just(42), any::<u16>()],
        flips in proptest::collection::vec((0_usize..150, 0..8_u32), 0..4),
        (start, offset) in any::<(u16, u16)>(),
        offloads in any::<[bool; 4]>(),
    ) {
        let mut pool = sample::pool();
        let mut frame = large.frame(&mut pool);
        frame.gso = Some(Gso { kind, size, tunnel });
        frame.checksum = Checksum::Partial { start, offset };
        let length = frame.head().len();
        for (place, bit) in flips {
            frame.head_mut()[place % length] ^= 1 << bit;
        }
        let [checksum, tcp_segmentation, udp_segmentation, chains] = offloads;
        let offloads = Offloads { checksum, tcp_segmentation, udp_segmentation, chains, max_frame: 2000 };
        let mut out = Vec::new();
        let _ = fit(frame, &offloads, &mut pool, &mut out);
        out.into_iter().for_each(|frame| pool.free(frame));
        prop_assert_eq!(pool.outstanding(), 0);
    }
}
