//! What must meet: connections at several workers, ports at one.

use super::super::{FromTunnel, Message, Parcel, PortName};
use super::*;
use crate::limits::{BUFFERS_PER_PORT, HAND_OVER_RING};

/// Each direction is tracked in a zone of its own.
fn one_each() -> Vec<String> {
    vec![
        "table=0,in_port=1,ip,actions=ct(commit,zone=1),output:2".to_owned(),
        "table=0,in_port=2,ip,actions=ct(commit,zone=2),output:1".to_owned(),
    ]
}

/// Each packet must belong to a connection in both.
fn both() -> Vec<String> {
    let mut rules = Vec::new();
    for (port, other) in [(1, 2), (2, 1)] {
        rules.push(format!("table=0,in_port={port},ip,actions=ct(zone={port}),goto_table:2"));
        rules.push(format!("table=2,in_port={port},ip,ct_state=+trk,actions=ct(zone={other}),goto_table:3"));
        rules.push(format!("table=3,in_port={port},ip,actions=output:{other}"));
    }
    rules
}

#[test]
fn connections_of_several_workers_move_to_where_a_packet_needs_them() {
    for workers in [2, 3] {
        for first in [0, 1] {
            let bench = Bench::new(workers, 2, &one_each());
            for port in 0..20 {
                bench.passes(1, 0, 2, udp((1, 2), (2000 + port, 53), 1));
                bench.passes(2, 1, 1, udp((2, 1), (53, 2000 + port), 2));
            }
            let count = |bench: &Bench| bench.connections().iter().map(Vec::len).collect::<Vec<_>>();
            assert_eq!(count(&bench)[..2], [20, 20]);
            // By a table of its own, so that nothing of the first programs is left.
            bench.change(&both(), &[]);
            for round in 0..3 {
                for port in 0..20 {
                    let from = 1 + (first + round) % 2;
                    let worker = (first + round * 2 + usize::from(port)) % workers;
                    let ends = if from == 1 { (1, 2) } else { (2, 1) };
                    let ports = if from == 1 { (2000 + port, 53) } else { (53, 2000 + port) };
                    bench.passes(from, worker, 3 - from, udp(ends, ports, 3));
                }
            }
            assert_eq!(bench.drops(), HashMap::new());
            // All still there, none twice, and pairs together.
            let mut owners: HashMap<_, Vec<usize>> = HashMap::new();
            for (worker, listed) in bench.connections().iter().enumerate() {
                for one in listed {
                    let [from, to] = [one.record.original.from().1, one.record.original.to().1];
                    owners.entry(from.max(to)).or_default().push(worker);
                }
            }
            assert_eq!(owners.len(), 20);
            assert!(owners.values().all(|pair| pair.len() == 2 && pair[0] == pair[1]), "{owners:?}");
            bench.finish();
        }
    }
}

#[test]
fn packets_that_pull_the_same_connections_both_ways_lose_none_of_them() {
    let bench = Bench::new(2, 2, &one_each());
    for port in 0..20 {
        bench.passes(1, 0, 2, udp((1, 2), (2000 + port, 53), 1));
        bench.passes(2, 1, 1, udp((2, 1), (53, 2000 + port), 2));
    }
    bench.change(&both(), &[]);
    for port in 0..20 {
        bench.send(1, 0, udp((1, 2), (2000 + port, 53), 3));
        bench.send(2, 1, udp((2, 1), (53, 2000 + port), 4));
    }
    let deadline = Instant::now() + PATIENCE;
    let mut left = 0;
    while left + bench.drops().values().sum::<u64>() < 40 && Instant::now() < deadline {
        left += (bench.left(1).len() + bench.left(2).len()) as u64;
    }
    let drops = bench.drops();
    assert!(drops.keys().all(|reason| *reason == DropReason::HandOverLimit.word()), "{drops:?}");
    assert_eq!(left + drops.values().sum::<u64>(), 40);
    assert_eq!(bench.connections().iter().map(Vec::len).sum::<usize>(), 40);
    // When they do not, all is well again.
    for port in 0..20 {
        bench.passes(1, 1, 2, udp((1, 2), (2000 + port, 53), 5));
    }
    assert_eq!(bench.connections().iter().map(Vec::len).sum::<usize>(), 40);
    bench.finish();
}

#[test]
fn the_worker_that_has_the_port_s_only_queue_sends_for_the_others() {
    let bench = Bench::new(3, 1, &[format!("table=0,actions=output:{LONE}")]);
    for round in 0..50 {
        for worker in 0..3 {
            bench.send(1, worker, udp((1, 2), (2000, 53), round * 3 + worker as u32));
        }
    }
    let mut serials = Vec::new();
    while serials.len() < 150 {
        let frame = bench.lone[0].wait(PATIENCE).unwrap_or_else(|| panic!("{:?}", bench.drops()));
        serials.push(u32::from_be_bytes([frame.bytes[8], frame.bytes[9], frame.bytes[10], frame.bytes[11]]));
    }
    // What one worker received is sent in order.
    for worker in 0..3 {
        let own: Vec<u32> = serials.iter().copied().filter(|serial| serial % 3 == worker).collect();
        assert!(own.is_sorted() && own.len() == 50, "{own:?}");
    }
    assert_eq!(bench.drops(), HashMap::new());
    bench.finish();
}

#[test]
fn a_port_s_quota_is_right_however_much_is_handed_over() {
    let bench = Bench::new(2, 2, &firewall(2));
    bench.passes(1, 0, 2, udp((1, 2), (2000, 53), 1));
    // More frames than a port may hold buffers, each received by one worker and sent by the other.
    let mut left = 0;
    for serial in 0..BUFFERS_PER_PORT + 500 {
        bench.send(2, 1, udp((2, 1), (53, 2000), serial));
        if serial % 50 == 49 {
            let deadline = Instant::now() + PATIENCE;
            while left <= serial && Instant::now() < deadline {
                left += bench.left(1).len() as u32;
            }
        }
    }
    let deadline = Instant::now() + PATIENCE;
    while left < BUFFERS_PER_PORT + 500 && Instant::now() < deadline {
        left += bench.left(1).len() as u32;
    }
    assert_eq!((left, bench.drops()), (BUFFERS_PER_PORT + 500, HashMap::new()));
    bench.finish();
}

#[test]
fn a_slot_that_is_another_port_s_by_now_takes_nothing_meant_for_the_one_before() {
    // The test is worker 0: it says what it likes.
    let (mut links, tables) = (Links::of(2).unwrap(), Tables::new());
    let memory = Memory::map(CHUNKS, 64).unwrap();
    let worker = links.remove(1);
    let worker =
        WorkerHandle::start(worker, tables.clone(), memory, Arc::new(Deaf), WorkerSettings::default()).unwrap();
    let mut zero = links.remove(0);
    let mut bench = Bench { tables, workers: vec![worker], peers: Vec::new(), lone: Vec::new(), memory };
    bench.open(2);
    bench.change(&["table=0,in_port=1,actions=output:2".to_owned()], &[]);
    let mut pool = Pool::new(memory);
    let mut tell = |slot: usize, number: u32, send: bool| {
        let frame = Parcel::new(pool.frame(PortSlot::new(slot), &udp((1, 2), (2000, 53), 1)).unwrap());
        let port = PortName { slot: PortSlot::new(slot), number };
        let message = if send {
            Message::Send { frame, port }
        } else {
            Message::Resume { frame, ingress: port, tunnel: FromTunnel::default(), hops: 1 }
        };
        zero.begin(1);
        assert!(zero.put(1, message).is_ok());
        zero.wake_readers();
    };
    tell(1, 1, false);
    assert_eq!(bench.receive(2), udp((1, 2), (2000, 53), 1));
    tell(2, 2, true);
    assert_eq!(bench.receive(2), udp((1, 2), (2000, 53), 1));
    tell(1, 7, false);
    tell(2, 7, true);
    assert_eq!(bench.dropped(2), HashMap::from([(DropReason::PortDown.word(), 2)]));
    assert!(bench.left(2).is_empty());
    // What nobody takes any more is not lost.
    let worker = bench.workers.pop().unwrap();
    worker.stop();
    tell(1, 1, false);
    drop(zero);
    drop(pool);
    bench.finish();
}

#[test]
fn no_port_fills_a_ring_and_only_who_sleeps_is_woken() {
    let mut links = Links::of(2).unwrap();
    let (mut one, mut two) = (links.remove(0), links.remove(0));
    let forget = || Message::Forget(Box::default());
    // A port alone, turn after turn, never takes the last place.
    for _ in 0..200 {
        one.begin(1);
        (0..64).for_each(|_| drop(one.put(1, forget())));
        one.wake_readers();
    }
    let taken = two.waiting(0);
    assert!((HAND_OVER_RING / 2..HAND_OVER_RING + 1).contains(&taken), "{taken}");
    assert!(one.put(0, forget()).is_err(), "there is no ring to itself");
    // With two at it, the light one finds room in each turn, once the reader has taken a batch.
    let mut refused = 0;
    for _ in 0..100 {
        (0..64).for_each(|_| drop(two.take(0)));
        one.begin(2);
        (0..64).for_each(|_| drop(one.put(1, forget())));
        one.begin(2);
        refused += (0..5).filter(|_| one.put(1, forget()).is_err()).count();
        one.wake_readers();
    }
    assert_eq!(refused, 0);
    assert!(!two.park(), "who has messages does not sleep");
    while two.take(0).is_some() {}
    assert!(two.park());
    one.begin(1);
    assert!(one.put(1, forget()).is_ok());
    one.wake_readers();
    let mut count = [0; 8];
    assert_eq!(rustix::io::read(&*two.wake(), &mut count), Ok(8));
    assert_eq!(u64::from_ne_bytes(count), 1, "who sleeps is woken, once");
    one.wake_readers();
    assert!(rustix::io::read(&*two.wake(), &mut count).is_err());
}
