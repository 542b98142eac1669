//! The books: each received frame has one outcome, each output counts what it could not take.

use super::*;
use crate::limits::HEADROOM;
use crate::packet::frame::{Gso, GsoKind};
use crate::packet::memory::Memory;
use crate::packet::sample;
use crate::port::Offloads;
use crate::port::memory::{MemoryPeer, RING, pair_with};

const IN: usize = 1;
const OUT: usize = 2;
const OTHER: usize = 3;
const TUNNEL: usize = 9;

struct Deaf;

impl PuntSink for Deaf {
    fn punt(&self, _packet: v1::PacketIn) -> Result<(), DropReason> {
        Err(DropReason::NoListener)
    }
}

fn slot(index: usize) -> PortSlot {
    PortSlot::new(index)
}

/// Ports `OUT` and `OTHER`, and 64 chunks.
fn bench() -> (Outgoing, MemoryPeer, MemoryPeer) {
    let links = Links::of(1).unwrap().remove(0);
    let mut outgoing = Outgoing::new(Pool::new(Memory::map(64, 64).unwrap()), Arc::new(Deaf), links);
    let offloads =
        Offloads { checksum: false, tcp_segmentation: false, udp_segmentation: false, chains: false, max_frame: 1600 };
    let mut peers = [OUT, OTHER].map(|index| {
        let (queue, peer) = pair_with(slot(index), offloads).unwrap();
        outgoing.add(slot(index), Box::new(queue));
        Some(peer)
    });
    let [out, other] = &mut peers;
    let (out, other) = (out.take().unwrap(), other.take().unwrap());
    outgoing.begin(1);
    (outgoing, out, other)
}

fn frame(outgoing: &mut Outgoing) -> Frame {
    outgoing.pool.frame(slot(IN), &[0xff; 60]).unwrap()
}

/// Leaves room for this many frames in port `OUT`.
fn fill(outgoing: &mut Outgoing, room: usize) {
    for _ in 0..RING - room {
        outgoing.enter(slot(IN));
        let frame = frame(outgoing);
        outgoing.send(slot(OUT), frame);
        outgoing.flush();
    }
    assert_eq!(books(outgoing), (vec![], vec![]));
}

type Counts = Vec<(usize, DropReason, u64)>;

/// What was dropped, and what was not sent.
fn books(outgoing: &Outgoing) -> (Counts, Counts) {
    let counts = |counters: &crate::drop::DropCounters| {
        counters.iter().map(|(slot, reason, frames)| (slot.index(), reason, frames)).collect()
    };
    (counts(&outgoing.outcomes.drops), counts(&outgoing.outcomes.unsent))
}

/// Takes every buffer there is.
fn exhaust(outgoing: &mut Outgoing) -> Vec<Frame> {
    std::iter::from_fn(|| outgoing.pool.chunk(slot(IN))).collect()
}

#[test]
fn a_copy_without_a_buffer_is_one_outputs_loss() {
    let (mut outgoing, out, other) = bench();
    let whole = frame(&mut outgoing);
    let held = exhaust(&mut outgoing);
    outgoing.enter(slot(IN));
    assert!(outgoing.copy(&whole, Some(slot(OUT))).is_none());
    outgoing.send(slot(OTHER), whole);
    outgoing.flush();
    assert_eq!(books(&outgoing), (vec![], vec![(OUT, DropReason::NoBuffer, 1)]));
    assert_eq!((out.take_all().len(), other.take_all().len()), (0, 1));
    held.into_iter().for_each(|frame| outgoing.pool.free(frame));
    assert_eq!(outgoing.pool.outstanding(), 0);
}

#[test]
fn a_frame_that_no_output_takes_is_dropped_once_under_the_first_reason() {
    let (mut outgoing, ..) = bench();
    fill(&mut outgoing, 0);
    let whole = frame(&mut outgoing);
    outgoing.enter(slot(IN));
    let copy = outgoing.copy(&whole, Some(slot(OUT))).unwrap();
    outgoing.send(slot(OUT), copy);
    let copy = outgoing.copy(&whole, Some(slot(OUT))).unwrap();
    outgoing.send(slot(OUT), copy);
    // The program stops here: what waits is only tried later.
    outgoing.discard(whole, DropReason::TtlExpired);
    outgoing.flush();
    assert_eq!(
        books(&outgoing),
        (vec![(IN, DropReason::TtlExpired, 1)], vec![(OUT, DropReason::TransmitFull, 2)]),
        "one frame, two copies"
    );
}

#[test]
fn frames_of_one_batch_do_not_answer_for_each_other() {
    let (mut outgoing, out, _) = bench();
    fill(&mut outgoing, 1);
    for ingress in [IN, OTHER] {
        outgoing.enter(slot(ingress));
        let frame = frame(&mut outgoing);
        outgoing.send(slot(OUT), frame);
    }
    outgoing.flush();
    let expected = (vec![(OTHER, DropReason::TransmitFull, 1)], vec![(OUT, DropReason::TransmitFull, 1)]);
    assert_eq!(books(&outgoing), expected);
    assert_eq!((out.take_all().len(), outgoing.pool.outstanding()), (RING, 0));
}

#[test]
fn a_tunnel_port_sends_what_the_port_below_takes() {
    let (mut outgoing, ..) = bench();
    fill(&mut outgoing, 1);
    for _ in 0..2 {
        outgoing.enter(slot(IN));
        let frame = frame(&mut outgoing);
        outgoing.send_wrapped(slot(TUNNEL), slot(OUT), frame);
    }
    outgoing.flush();
    let tunnel = outgoing.outcomes.tunnels[&slot(TUNNEL)];
    assert_eq!((tunnel.sent_packets, tunnel.sent_bytes), (1, 60));
    let full = |port| (port, DropReason::TransmitFull, 1);
    assert_eq!(books(&outgoing), (vec![full(IN)], vec![full(OUT), full(TUNNEL)]));
    // What entered by a tunnel counts at the tunnel port, not where its buffers are charged.
    outgoing.enter(slot(TUNNEL));
    let frame = frame(&mut outgoing);
    outgoing.discard(frame, DropReason::TableMiss);
    outgoing.flush();
    assert_eq!(books(&outgoing).0, [full(IN), (TUNNEL, DropReason::TableMiss, 1)]);
}

#[test]
fn a_large_frame_is_forwarded_if_a_segment_of_it_is() {
    let (mut outgoing, ..) = bench();
    fill(&mut outgoing, 2);
    let bytes = sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 6, 0, &sample::tcp(true, 0x10, &[], &[7; 5000])));
    assert!(bytes.len() > crate::limits::CHUNK_BYTES - HEADROOM);
    let large = |outgoing: &mut Outgoing| {
        let mut frame = outgoing.pool.frame(slot(IN), &bytes).unwrap();
        frame.gso = Some(Gso { kind: GsoKind::Tcp4, size: 1000, tunnel: 0 });
        outgoing.enter(slot(IN));
        outgoing.send(slot(OUT), frame);
        outgoing.flush();
    };
    large(&mut outgoing);
    assert_eq!(books(&outgoing), (vec![], vec![(OUT, DropReason::TransmitFull, 3)]));
    large(&mut outgoing);
    let expected = (vec![(IN, DropReason::TransmitFull, 1)], vec![(OUT, DropReason::TransmitFull, 8)]);
    assert_eq!(books(&outgoing), expected);
    assert_eq!(outgoing.pool.outstanding(), 0);
}

#[test]
fn a_punt_that_nobody_takes_drops_the_frame_only_if_nothing_else_does() {
    let (mut outgoing, _, other) = bench();
    for sends in [true, false] {
        outgoing.enter(slot(IN));
        let whole = frame(&mut outgoing);
        if sends {
            let copy = outgoing.copy(&whole, Some(slot(OTHER))).unwrap();
            outgoing.send(slot(OTHER), copy);
        }
        outgoing.punt(v1::PacketIn::default(), whole);
        outgoing.flush();
    }
    assert_eq!(books(&outgoing), (vec![(IN, DropReason::NoListener, 1)], vec![(0, DropReason::NoListener, 2)]));
    assert_eq!(other.take_all().len(), 1);
}

/// Three segments of one flow leave as one frame by a port that takes it; if that has no room, three are not sent.
#[test]
fn merged_frames_are_settled_one_by_one() {
    let (mut outgoing, ..) = bench();
    let (queue, peer) = crate::port::memory::pair(slot(OUT)).unwrap();
    outgoing.add(slot(OUT), Box::new(queue));
    let segments = |outgoing: &mut Outgoing| {
        let tcp = sample::tcp(true, 0x010, &[], &[5; 3000]);
        let bytes = sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 6, 0x4000, &tcp));
        let mut large = outgoing.pool.frame(slot(IN), &bytes).unwrap();
        large.gso = Some(Gso { kind: GsoKind::Tcp4, size: 1000, tunnel: 0 });
        let wire =
            Offloads { checksum: false, chains: false, tcp_segmentation: false, ..crate::port::memory::EVERYTHING };
        let mut cut = Vec::new();
        segment::fit(large, &wire, &mut outgoing.pool, &mut cut).unwrap();
        cut
    };
    let send = |outgoing: &mut Outgoing| {
        for frame in segments(outgoing) {
            outgoing.enter(slot(IN));
            outgoing.send(slot(OUT), frame);
        }
        outgoing.flush();
    };
    send(&mut outgoing);
    let sent = peer.take_all();
    assert_eq!((sent.len(), sent[0].gso.map(|gso| gso.size), sent[0].bytes.len()), (1, Some(1000), 3054));
    assert_eq!(books(&outgoing), (vec![], vec![]));
    fill(&mut outgoing, 0);
    send(&mut outgoing);
    let three = |port| vec![(port, DropReason::TransmitFull, 3)];
    assert_eq!(books(&outgoing), (three(IN), three(OUT)));
    assert_eq!(outgoing.pool.outstanding(), 0);
}
