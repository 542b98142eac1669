//! Next hops, asked for by some workers and heard by others.

use super::{Bench, LONE, udp};
use crate::packet::arp;
use std::time::{Duration, Instant};

const OURS: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
const THERE: [u8; 6] = [2, 0, 0, 0, 0, 9];

#[test]
fn the_answer_lets_go_on_what_waits_with_any_worker() {
    let bench = Bench::new(
        3,
        2,
        &[
            "priority=2,arp,actions=learn_neighbour".to_owned(),
            "in_port=1,ip,actions=neighbour(port=2,source=192.0.2.1,mac=02:00:00:00:00:fe,hop=192.0.2.9),output:2"
                .to_owned(),
        ],
    );
    let question = arp::request(0, OURS, [192, 0, 2, 1], [192, 0, 2, 9], None);
    let sent: Vec<Vec<u8>> = (0..3).map(|worker| udp((10, 2), (5000, worker), 1)).collect();
    let expected: Vec<Vec<u8>> = sent.iter().map(|frame| [&THERE, &frame[6..]].concat()).collect();
    let mut times = Vec::new();
    for _ in 0..5 {
        for (worker, frame) in sent.iter().enumerate() {
            bench.send(1, worker, frame.clone());
        }
        assert_eq!(bench.receive(2), question, "one worker asks for all");
        // Asleep, all of them.
        std::thread::sleep(Duration::from_millis(50));
        let answered = Instant::now();
        bench.send(2, 1, arp::announcement(0, THERE, [192, 0, 2, 9]));
        let mut left: Vec<Vec<u8>> = (0..3).map(|_| bench.receive(2)).collect();
        times.push(answered.elapsed());
        left.sort();
        assert_eq!(left, expected);
        bench.tables.change_neighbours(|neighbours| neighbours.forget_port(2));
    }
    // They sleep for 200 ms. The machine may be busy, but not each time.
    assert!(times.iter().any(|time| *time < Duration::from_millis(100)), "they were not woken: {times:?}");
    bench.send(1, 0, sent[0].clone());
    bench.receive(2);
    bench.send(2, 1, arp::announcement(0, THERE, [192, 0, 2, 9]));
    bench.receive(2);
    // Whoever hears that it has moved, all send to where it is by then.
    let moved = [2, 0, 0, 0, 0, 0xb];
    bench.send(2, 2, arp::announcement(0, moved, [192, 0, 2, 9]));
    bench.dropped(7);
    for (worker, frame) in sent.iter().enumerate() {
        bench.send(1, worker, frame.clone());
        assert_eq!(bench.receive(2), [&moved, &frame[6..]].concat());
    }
    bench.finish();
}

#[test]
fn a_worker_without_a_queue_of_the_port_asks_by_the_one_that_has_it() {
    let bench = Bench::new(
        2,
        1,
        &[format!(
            "in_port=1,ip,actions=neighbour(port={LONE},source=192.0.2.1,mac=02:00:00:00:00:fe,hop=192.0.2.9),output:{LONE}"
        )],
    );
    bench.send(1, 1, udp((10, 2), (5000, 53), 1));
    let asked = bench.lone[0].wait(super::PATIENCE).expect("nobody asks").bytes;
    assert_eq!(asked, arp::request(0, OURS, [192, 0, 2, 1], [192, 0, 2, 9], None));
    bench.finish();
}
