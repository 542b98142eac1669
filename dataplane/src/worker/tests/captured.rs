//! What captures see of frames: as they came, as they leave, and what became of them.

use super::*;
use crate::capture::{CaptureReader, Seen, Selection};
use crate::flow::key::FlowKey;
use crate::limits::CAPTURE_RECORDS;

const ALL: Selection = Selection {
    ports: Vec::new(),
    value: FlowKey::ZERO,
    mask: FlowKey::ZERO,
    snap: usize::MAX,
    received: true,
    sent: true,
};

fn capture(bench: &Bench, id: u32, selection: Selection) -> CaptureReader {
    let (capture, reader) = crate::capture::pair(id, Arc::new(selection));
    bench.worker.capture(capture);
    reader
}

/// Waits for so many records, and gives them with their bytes.
fn seen(reader: &mut CaptureReader, count: usize) -> Vec<(Seen, Vec<u8>)> {
    let deadline = Instant::now() + PATIENCE;
    let mut all = Vec::new();
    while all.len() < count {
        if let Ok(one) = reader.seen.pop() {
            let mut bytes = vec![0; one.copied as usize];
            reader.bytes.pop_entire_slice(&mut bytes).unwrap();
            all.push((one, bytes));
        }
        assert!(Instant::now() < deadline, "only {all:?}");
    }
    assert!(reader.seen.pop().is_err(), "more than {count} frames were seen");
    all
}

#[test]
fn frames_are_seen_as_they_come_and_as_they_leave() {
    let bench = bench(&["in_port=1,tcp,actions=dec_ttl,output:2", "in_port=1,udp,actions=drop(policy)"]);
    let mut reader = capture(&bench, 0, ALL);
    bench.send(1, tcp_frame());
    let left = bench.receive(2);
    assert_ne!(left, tcp_frame());
    let both = seen(&mut reader, 2);
    assert_eq!((both[0].0.port, both[0].0.sent, &both[0].1), (1, false, &tcp_frame()));
    assert_eq!((both[1].0.port, both[1].0.sent, &both[1].1), (2, true, &left));
    assert_eq!((both[0].0.reason, both[1].0.reason), (None, None));
    let walk = both[0].0.walk.as_ref().unwrap();
    assert_eq!((walk.cached, walk.rules.len()), (false, 1));

    for cached in [false, true] {
        bench.send(1, udp_frame());
        let (one, bytes) = seen(&mut reader, 1).remove(0);
        assert_eq!((one.reason, bytes), (Some(DropReason::Policy), udp_frame()));
        let walk = one.walk.unwrap();
        assert_eq!(walk.cached, cached);
        let culprit = walk.culprit(DropReason::Policy).unwrap();
        assert!(matches!(culprit.instructions.apply[..], [crate::flow::action::Action::Drop(DropReason::Policy)]));
    }
    // Without a rule, and what is no frame at all.
    bench.send(3, udp_frame());
    assert_eq!(seen(&mut reader, 1)[0].0.reason, Some(DropReason::TableMiss));
    bench.send(1, vec![1; 9]);
    let (one, bytes) = seen(&mut reader, 1).remove(0);
    assert_eq!((one.reason, one.walk.is_none(), bytes.len()), (Some(DropReason::Truncated), true, 9));
    // What has ended sees no more.
    bench.worker.end_capture(0);
    bench.send(3, udp_frame());
    assert_eq!(bench.dropped(5).len(), 3);
    assert!(reader.seen.pop().is_err() && reader.seen.is_abandoned());
    bench.finish();
}

#[test]
fn a_filter_holds_both_ways_and_ports_and_length_are_chosen() {
    let bench = bench(&["in_port=1,actions=output:2,output:3", "in_port=2,actions=output:1"]);
    let matches = |line| message::match_from_message(&text::parse_match(line).unwrap()).unwrap();
    let (value, mask, _) = matches("udp,in_port=1");
    let mut filtered = capture(&bench, 0, Selection { value, mask, ..ALL });
    let mut cut = capture(&bench, 1, Selection { ports: vec![2], snap: 20, received: false, ..ALL });
    bench.send(1, tcp_frame());
    bench.send(1, udp_frame());
    bench.send(2, udp_frame());
    assert_eq!((bench.receive(1), bench.receive(2), bench.receive(2)), (udp_frame(), tcp_frame(), udp_frame()));
    let ports = |seen: Vec<(Seen, Vec<u8>)>| seen.iter().map(|(one, _)| (one.port, one.sent)).collect::<Vec<_>>();
    assert_eq!(ports(seen(&mut filtered, 3)), [(1, false), (2, true), (3, true)]);
    let two = seen(&mut cut, 2);
    assert_eq!((two[0].0.length as usize, &two[0].1[..]), (tcp_frame().len(), &tcp_frame()[..20]));
    bench.finish();
}

/// In the tunnel and out of it, both ways; no checksum is wrong that is not wrong on the wire.
#[test]
fn tunnels_are_seen_from_both_sides_and_checksums_are_complete() {
    let bench = bench(&[
        "in_port=1,actions=set_field:7->tun_id,set_field:10.99.0.2->tun_dst,output:20",
        "in_port=20,actions=output:1",
    ]);
    let mut reader = capture(&bench, 0, ALL);
    let (frame, whole) = partial();
    bench.send(1, frame);
    let wrapped = bench.receive(4);
    let three = seen(&mut reader, 3);
    assert_eq!(three[0].1, whole);
    assert_eq!((three[1].0.port, three[1].0.sent, &three[1].1), (TUNNEL, true, &whole));
    assert_eq!((three[2].0.port, three[2].0.sent, &three[2].1), (4, true, &wrapped));
    // Back: what we sent, with the ends changed over.
    let mut back = wrapped;
    back[26..34].rotate_left(4);
    bench.send(4, back.clone());
    assert_eq!(bench.receive(1), whole);
    let three = seen(&mut reader, 3);
    assert_eq!((three[0].0.port, three[0].0.sent, &three[0].1), (4, false, &back));
    assert_eq!((three[1].0.port, three[1].0.sent, &three[1].1), (TUNNEL, false, &whole));
    assert_eq!(three[1].0.key.unwrap().tun_src, [10, 99, 0, 2]);
    assert_eq!((three[2].0.port, three[2].0.sent), (1, true));
    bench.finish();
}

/// A frame whose checksum is left to the port, and as it is with it.
fn partial() -> (MemoryFrame, Vec<u8>) {
    let whole = tcp_frame();
    let mut bytes = whole.clone();
    // Ethernet and IPv4 without options lie before TCP.
    let (l4, field) = (34, 34 + 16);
    let length = bytes.len() - l4;
    let [source, destination] = [26, 30].map(|at| <[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap());
    let pseudo = crate::packet::checksum::pseudo_header4(source, destination, 6, length);
    bytes[field..field + 2].copy_from_slice(&crate::packet::checksum::fold(pseudo).to_be_bytes());
    let checksum = Checksum::Partial { start: l4 as u16, offset: 16 };
    (MemoryFrame { bytes, checksum, gso: None }, whole)
}

#[test]
fn a_port_that_is_full_has_not_sent_it() {
    let bench = bench(&["in_port=1,actions=output:2", "in_port=3,actions=output:2"]);
    for _ in 0..RING {
        while bench.peers[0].send(udp_frame()).is_err() {}
    }
    let deadline = Instant::now() + PATIENCE;
    while bench.worker.report().packets < RING as u64 && Instant::now() < deadline {}
    let mut reader = capture(&bench, 0, ALL);
    bench.send(3, tcp_frame());
    let two = seen(&mut reader, 2);
    assert_eq!((two[0].0.port, two[0].0.reason), (3, Some(DropReason::TransmitFull)));
    assert_eq!((two[1].0.port, two[1].0.sent, two[1].0.reason), (2, true, Some(DropReason::TransmitFull)));
    bench.finish();
}

#[test]
fn what_nobody_reads_is_lost_and_counted_and_stalls_nothing() {
    let bench = bench(&["in_port=1,actions=output:2"]);
    let mut reader = capture(&bench, 0, Selection { received: true, sent: false, ..ALL });
    let frames = CAPTURE_RECORDS + 100;
    for _ in 0..frames {
        while bench.peers[0].send(udp_frame()).is_err() {}
        let _taken = bench.peers[1].take();
    }
    let deadline = Instant::now() + PATIENCE;
    while bench.worker.report().packets < frames as u64 {
        assert!(Instant::now() < deadline, "{:?}", bench.worker.report());
    }
    assert_eq!(reader.lost.iter().collect::<Vec<_>>(), [(PortSlot::new(1), 100)]);
    assert_eq!(seen(&mut reader, CAPTURE_RECORDS).len(), CAPTURE_RECORDS);
    bench.finish();
}
