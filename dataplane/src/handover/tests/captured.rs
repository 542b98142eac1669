//! A frame that one worker receives and another decides about is seen once, by who decides.

use super::*;
use crate::capture::{CaptureReader, Selection, pair};
use crate::flow::key::FlowKey;

/// How often each frame was seen received, how often sent; what is not shown is passed over.
fn seen(readers: &mut [CaptureReader]) -> HashMap<(Vec<u8>, bool), usize> {
    let mut seen = HashMap::new();
    for reader in readers {
        while let Ok(one) = reader.seen.pop() {
            let mut bytes = vec![0; one.copied as usize];
            reader.bytes.pop_entire_slice(&mut bytes).unwrap();
            if one.shown {
                *seen.entry((bytes, one.sent)).or_default() += 1;
            }
        }
    }
    seen
}

#[test]
fn a_frame_is_seen_once_whichever_workers_it_passes() {
    let bench = Bench::new(2, 2, &firewall(2));
    let everything = Arc::new(Selection {
        ports: Vec::new(),
        value: FlowKey::ZERO,
        mask: FlowKey::ZERO,
        snap: usize::MAX,
        received: true,
        sent: true,
    });
    let start = |worker: &WorkerHandle| {
        let (capture, reader) = pair(0, everything.clone());
        worker.capture(capture);
        reader
    };
    let mut readers: Vec<CaptureReader> = bench.workers.iter().map(start).collect();
    let mut frames = Vec::new();
    let mut pass = |from: usize, worker, to, frame: Vec<u8>| {
        bench.passes(from, worker, to, frame.clone());
        frames.push(frame);
    };
    // Each conversation begins at one worker, and all of it comes by the other from then on: by a walk, then cached.
    for conversation in 0..8_u16 {
        let (serial, ports) = (u32::from(conversation) * 10, (40_000 + conversation, 53));
        pass(1, 0, 2, udp((1, 2), ports, serial));
        for packet in 1..4 {
            pass(2, 1, 1, udp((2, 1), (53, ports.0), serial + 2 * packet));
            pass(1, 1, 2, udp((1, 2), ports, serial + 2 * packet + 1));
        }
    }
    // Records come at the end of the batch, after what was sent in it has arrived.
    bench.workers.iter().for_each(|worker| drop(worker.report()));
    let seen = seen(&mut readers);
    for frame in &frames {
        for sent in [false, true] {
            assert_eq!(seen.get(&(frame.clone(), sent)), Some(&1), "sent: {sent}");
        }
    }
    assert_eq!(seen.len(), 2 * frames.len());
    bench.finish();
}
