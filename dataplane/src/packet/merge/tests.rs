use super::*;
use crate::packet::sample;
use crate::packet::segment::fit;
use proptest::prelude::*;

const WIRE: Offloads =
    Offloads { checksum: false, tcp_segmentation: false, udp_segmentation: false, chains: false, max_frame: 9018 };
const TAP: Offloads =
    Offloads { checksum: true, tcp_segmentation: true, udp_segmentation: true, chains: true, max_frame: 9018 };

fn port() -> PortSlot {
    PortSlot::new(5)
}

/// A TCP segment to be made.
#[derive(Clone, Debug)]
struct Spec {
    version4: bool,
    /// Tells flows apart.
    source: u8,
    sequence: u32,
    flags: u16,
    identification: u16,
    fragment: u16,
    options: usize,
    payload: Vec<u8>,
}

impl Spec {
    fn l4(&self) -> usize {
        ETHERNET + if self.version4 { 20 } else { 40 }
    }

    fn bytes(&self) -> Vec<u8> {
        let tcp = sample::tcp(self.version4, self.flags, &vec![1; 4 * self.options], &self.payload);
        let mut frame = if self.version4 {
            sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 6, self.fragment, &tcp))
        } else {
            sample::ethernet(&[], 0x86dd, &sample::ipv6(&[], 6, &tcp))
        };
        let l4 = self.l4();
        frame[l4] = self.source;
        frame[l4 + 4..l4 + 8].copy_from_slice(&self.sequence.to_be_bytes());
        if self.version4 {
            frame[18..20].copy_from_slice(&self.identification.to_be_bytes());
        }
        mend(&mut frame, self.version4);
        frame
    }
}

/// Makes the checksums right, whatever else is wrong.
fn mend(frame: &mut [u8], version4: bool) {
    let l4 = ETHERNET + if version4 { 20 } else { 40 };
    frame[l4 + 16..l4 + 18].fill(0);
    let sum = sample::slow_sum(&frame[l4..]) + sample::pseudo_sum(version4, 6, frame.len() - l4);
    frame[l4 + 16..l4 + 18].copy_from_slice(&(!sample::slow_fold(sum)).to_be_bytes());
    if version4 {
        frame[24..26].fill(0);
        let sum = sample::slow_fold(sample::slow_sum(&frame[ETHERNET..l4]));
        frame[24..26].copy_from_slice(&(!sum).to_be_bytes());
    }
}

/// A stream of `count` segments of one flow, as a sender cuts it: all of `size` but the last, which has PSH.
fn stream(version4: bool, source: u8, count: usize, size: usize, last: usize) -> Vec<Spec> {
    let sequence = 0xffff_f000_u32;
    (0..count)
        .map(|index| {
            let end = index + 1 == count;
            Spec {
                version4,
                source,
                sequence: sequence.wrapping_add((index * size) as u32),
                flags: tcp_flag::ACK | if end { tcp_flag::PSH } else { 0 },
                identification: 0xfffe_u16.wrapping_add(index as u16),
                fragment: 0x4000,
                options: 3,
                payload: (0..if end { last } else { size }).map(|byte| (byte * 7 + index) as u8).collect(),
            }
        })
        .collect()
}

/// Merges frames; gives each that comes out as bytes, with its size if it is large. Checks that cutting gives the frames
/// back that went in, in their order, and that nothing is lost.
fn merged(frames: &[Vec<u8>]) -> Vec<(Vec<u8>, Option<Gso>)> {
    let mut pool = sample::pool();
    let mut merger = Merger::default();
    let mut batch: Vec<Frame> = frames
        .iter()
        .enumerate()
        .map(|(index, bytes)| {
            let mut frame = pool.frame(port(), bytes).unwrap();
            frame.departure.received = index as u32;
            frame
        })
        .collect();
    merger.begin();
    merger.merge(&mut batch);
    let out: Vec<_> = batch.iter().map(|frame| (frame.to_vec(), frame.gso)).collect();
    let mut again = Vec::new();
    let mut seen = Vec::new();
    for frame in batch {
        seen.push(frame.departure.received);
        seen.extend(merger.absorbed(&frame).map(|absorbed| absorbed.departure.received));
        assert_eq!(frame.gso.is_some(), merger.absorbed(&frame).count() > 0);
        if let Some(gso) = frame.gso {
            assert!(matches!(frame.checksum, Checksum::Partial { .. }), "{gso:?}");
            let mut whole = Vec::new();
            let copy = pool.copy(&frame).unwrap();
            fit(copy, &TAP, &mut pool, &mut whole).unwrap();
            assert_eq!(whole.len(), 1, "a port that takes it takes it whole");
            whole.into_iter().for_each(|frame| pool.free(frame));
        }
        fit(frame, &WIRE, &mut pool, &mut again).unwrap();
    }
    let mut cut: Vec<Vec<u8>> = again.iter().map(Frame::to_vec).collect();
    again.into_iter().for_each(|frame| pool.free(frame));
    assert_eq!(pool.outstanding(), 0);
    // Flows may overtake each other, frames of one flow may not.
    for source in 0..=u8::MAX {
        let of = |all: &[Vec<u8>]| -> Vec<Vec<u8>> {
            all.iter().filter(|frame| sender(frame) == Some(source)).cloned().collect()
        };
        assert_eq!(of(&cut), of(frames), "the frames of flow {source}");
    }
    let mut all = frames.to_vec();
    cut.sort();
    all.sort();
    assert_eq!(cut, all);
    seen.sort_unstable();
    assert_eq!(seen, (0..frames.len() as u32).collect::<Vec<_>>(), "each on its own behalf");
    out
}

/// The first byte of the source port.
fn sender(frame: &[u8]) -> Option<u8> {
    match frame[12..14] {
        [8, 0] if frame[23] == 6 => frame.get(34).copied(),
        [0x86, 0xdd] if frame[20] == 6 => frame.get(54).copied(),
        _ => None,
    }
}

fn bytes(specs: &[Spec]) -> Vec<Vec<u8>> {
    specs.iter().map(Spec::bytes).collect()
}

#[test]
fn a_stream_becomes_one_frame() {
    for version4 in [true, false] {
        let out = merged(&bytes(&stream(version4, 1, 40, 1448, 700)));
        let kind = if version4 { GsoKind::Tcp4 } else { GsoKind::Tcp6 };
        assert_eq!(out.len(), 1);
        assert_eq!(out[0].1, Some(Gso { kind, size: 1448, tunnel: 0 }));
    }
}

#[test]
fn two_streams_become_two_frames_and_others_pass_between() {
    let (one, two) = (bytes(&stream(true, 1, 10, 1000, 1000)), bytes(&stream(true, 2, 10, 1000, 1000)));
    let udp = sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 17, 0, &sample::udp(true, b"between")));
    let mixed: Vec<Vec<u8>> = one.into_iter().zip(two).flat_map(|(one, two)| [one, udp.clone(), two]).collect();
    let out = merged(&mixed);
    assert_eq!((out.len(), out.iter().filter(|(_, gso)| gso.is_some()).count()), (12, 2));
}

/// More flows than are followed at a time: all right, if less is gained.
#[test]
fn many_flows_stay_in_order() {
    let streams: Vec<_> = (0..20).map(|flow| bytes(&stream(true, flow, 6, 500, 100))).collect();
    let mixed: Vec<Vec<u8>> = (0..6).flat_map(|index| streams.iter().map(move |flow| flow[index].clone())).collect();
    merged(&mixed);
}

#[test]
fn what_does_not_follow_is_not_merged() {
    let three = stream(true, 1, 3, 1000, 1000);
    let plain = bytes(&three);
    assert_eq!(merged(&plain).len(), 1);
    // The second differs, with right checksums: nothing may be added to it, nor it to the first.
    let differing = |what: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut frames = plain.clone();
        change(&mut frames[1]);
        mend(&mut frames[1], true);
        assert_eq!(merged(&frames).len(), 3, "{what}");
    };
    differing("TOS", &|frame| frame[15] ^= 4);
    differing("ECN", &|frame| frame[15] ^= 3);
    differing("TTL", &|frame| frame[22] -= 1);
    differing("don't fragment", &|frame| frame[20] ^= 0x40);
    differing("identification", &|frame| frame[19] ^= 9);
    differing("destination MAC", &|frame| frame[5] ^= 1);
    differing("acknowledgement", &|frame| frame[45] ^= 1);
    differing("window", &|frame| frame[49] ^= 1);
    differing("options", &|frame| frame[54] = 0);
    differing("sequence", &|frame| frame[41] ^= 1);
    differing("FIN", &|frame| frame[47] |= 1);
    differing("URG", &|frame| frame[47] |= 0x20);
    differing("CWR", &|frame| frame[47] |= 0x80);
    // Of another length, with what its headers say.
    let mut longer = three.clone();
    longer[1].payload.push(1);
    assert_eq!(merged(&bytes(&longer)).len(), 3, "longer than the first");
    let mut shorter = three.clone();
    shorter[1].payload.pop();
    assert_eq!(merged(&bytes(&shorter)).len(), 2, "a shorter one is the last");
    let mut pushed = three.clone();
    pushed[0].flags |= tcp_flag::PSH;
    assert_eq!(merged(&bytes(&pushed)).len(), 2, "behind PSH begins another");
    // Padded: what follows the packet is not the stream's.
    let mut padded = plain.clone();
    padded[1].push(0);
    let mut pool = sample::pool();
    let mut batch: Vec<Frame> = padded.iter().map(|bytes| pool.frame(port(), bytes).unwrap()).collect();
    Merger::default().merge(&mut batch);
    assert_eq!(batch.len(), 3);
    batch.into_iter().for_each(|frame| pool.free(frame));
}

/// Broken ones reach the receiver as they came, for it to count them.
#[test]
fn wrong_checksums_are_left_alone() {
    for at in [25, 50, 51, 100, 1065] {
        let mut frames = bytes(&stream(true, 1, 3, 1000, 1000));
        frames[1][at] ^= 1;
        let mut pool = sample::pool();
        let mut batch: Vec<Frame> = frames.iter().map(|bytes| pool.frame(port(), bytes).unwrap()).collect();
        Merger::default().merge(&mut batch);
        assert_eq!(batch.len(), 3, "byte {at}");
        assert_eq!(batch[1].to_vec(), frames[1]);
        assert_eq!(batch[1].checksum, Checksum::Unverified);
        batch.into_iter().for_each(|frame| pool.free(frame));
    }
}

/// Between the parts of a stream comes something whose flow cannot be told.
#[test]
fn nothing_overtakes_what_may_be_its_own_flow() {
    let plain = bytes(&stream(true, 1, 4, 1000, 1000));
    let fragment = sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 6, 0x2000, &[7; 64]));
    let tagged = sample::ethernet(&[(0x8100, 7)], 0x0800, &sample::ipv4(&[], 6, 0, &sample::tcp(true, 16, &[], b"x")));
    let options = sample::ethernet(&[], 0x0800, &sample::ipv4(&[1; 4], 6, 0, &sample::tcp(true, 16, &[], b"x")));
    for between in [fragment, tagged, options] {
        let mut frames = plain.clone();
        frames.insert(2, between.clone());
        let mut pool = sample::pool();
        let mut batch: Vec<Frame> = frames.iter().map(|bytes| pool.frame(port(), bytes).unwrap()).collect();
        Merger::default().merge(&mut batch);
        assert_eq!((batch.len(), batch[1].to_vec()), (3, between));
        batch.into_iter().for_each(|frame| pool.free(frame));
    }
}

#[test]
fn a_frame_charged_to_another_port_is_not_hung_behind() {
    let mut pool = sample::pool();
    let frames = bytes(&stream(true, 1, 2, 100, 100));
    let mut batch: Vec<Frame> =
        frames.iter().zip([1, 2]).map(|(bytes, slot)| pool.frame(PortSlot::new(slot), bytes).unwrap()).collect();
    Merger::default().merge(&mut batch);
    assert_eq!(batch.len(), 2);
    batch.into_iter().for_each(|frame| pool.free(frame));
    assert_eq!(pool.held(PortSlot::new(1)), 0);
}

#[test]
fn a_merged_frame_has_bounds() {
    // Longer than an IP packet can be; and of more pieces than a chain has.
    assert_eq!(merged(&bytes(&stream(true, 1, 10, 8900, 8900))).len(), 2);
    assert_eq!(merged(&bytes(&stream(true, 1, SEGMENTS + 1, 100, 100))).len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever comes in whatever order: what is cut again is what came.
    #[test]
    fn cutting_undoes_merging(
        version4: bool,
        streams in proptest::collection::vec((1_usize..12, 1_usize..3000, 1_usize..3000), 1..5),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 64),
        defects in proptest::collection::vec((any::<prop::sample::Index>(), 0_usize..8), 0..4),
    ) {
        let mut queues: Vec<std::collections::VecDeque<Vec<u8>>> = streams
            .iter()
            .enumerate()
            .map(|(flow, &(count, size, last))| {
                bytes(&stream(version4, flow as u8, count, size, last.min(size))).into()
            })
            .collect();
        let mut frames = Vec::new();
        for pick in order {
            queues.retain(|queue| !queue.is_empty());
            if queues.is_empty() {
                break;
            }
            let queue = pick.index(queues.len());
            frames.extend(queues[queue].pop_front());
        }
        for (pick, what) in defects {
            // Of sequence number, acknowledgement, flags (FIN, PSH, URG), window; TTL or next header's neighbour.
            let l4 = if version4 { 34 } else { 54 };
            let place = pick.index(frames.len());
            let (at, bits) =
                [(l4 + 7, 1), (l4 + 11, 1), (l4 + 13, 1), (l4 + 13, 8), (l4 + 13, 32), (l4 + 15, 1), (5, 1), (15, 4)][what];
            frames[place][at] ^= bits;
            mend(&mut frames[place], version4);
        }
        merged(&frames);
    }

    #[test]
    fn nothing_panics_and_nothing_leaks(
        version4: bool,
        flips in proptest::collection::vec((0_usize..12, 0_usize..120, 0_u32..8), 0..12),
        cuts in proptest::collection::vec((0_usize..12, 0_usize..200), 0..3),
    ) {
        let mut frames = bytes(&stream(version4, 1, 12, 120, 80));
        for (frame, byte, bit) in flips {
            frames[frame][byte] ^= 1 << bit;
        }
        for (frame, length) in cuts {
            frames[frame].truncate(length);
        }
        let mut pool = sample::pool();
        let mut batch: Vec<Frame> = frames.iter().map(|bytes| pool.frame(port(), bytes).unwrap()).collect();
        Merger::default().merge(&mut batch);
        let total: usize = batch.iter().map(Frame::len).sum();
        prop_assert!(total <= frames.iter().map(Vec::len).sum());
        batch.into_iter().for_each(|frame| pool.free(frame));
        prop_assert_eq!(pool.outstanding(), 0);
    }
}
