//! Many conversations at once, each packet by a worker drawn by lot.

use super::{
    ACK, Bench, DropReason, Duration, Filter, Instant, PATIENCE, SYN, firewall, message, sample, tcp, text, udp,
};
use crate::connection::{Contents, Direction};
use crate::worker::Traced;
use std::collections::{HashMap, HashSet};

/// A generator with a seed (SplitMix64).
struct Lot(u64);

impl Lot {
    fn draw(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % below as u64) as usize
    }
}

/// One conversation, and what it sent last.
struct Flow {
    is_tcp: bool,
    ends: (u8, u8),
    ports: (u16, u16),
    step: u32,
    waits: Option<u32>,
}

impl Flow {
    /// The next packet, and whether it is a reply.
    fn next(&mut self, lot: &mut Lot, serial: u32) -> (bool, Vec<u8>) {
        // The handshake in order, then either side.
        let reply = match self.step {
            0 | 2 => false,
            1 => true,
            _ => lot.draw(2) == 1,
        };
        let (flags, numbers) = match self.step {
            0 => (SYN, (1000, 0)),
            1 => (SYN | ACK, (5000, 1001)),
            _ if reply => (ACK, (5001, 1001)),
            _ => (ACK, (1001, 5001)),
        };
        self.step += 1;
        self.waits = Some(serial);
        let turn = |(one, other)| if reply { (other, one) } else { (one, other) };
        let ends = if reply { (self.ends.1, self.ends.0) } else { self.ends };
        let ports = turn(self.ports);
        (reply, if self.is_tcp { tcp(ends, ports, flags, numbers, serial) } else { udp(ends, ports, serial) })
    }
}

fn serial_of(frame: &[u8]) -> u32 {
    u32::from_be_bytes([frame[8], frame[9], frame[10], frame[11]])
}

fn converse(workers: usize, seed: u64) {
    const PORTS: usize = 3;
    const FLOWS: usize = 40;
    const PACKETS: u32 = 3000;
    let bench = Bench::new(workers, PORTS, &firewall(PORTS));
    let mut lot = Lot(seed);
    let mut flows: Vec<Flow> = (0..FLOWS)
        .map(|number| {
            let from = lot.draw(PORTS);
            let to = (from + 1 + lot.draw(PORTS - 1)) % PORTS;
            let is_tcp = lot.draw(2) == 0;
            let ports = (2000 + number as u16, if is_tcp { 443 } else { 53 });
            Flow { is_tcp, ends: (from as u8 + 1, to as u8 + 1), ports, step: 0, waits: None }
        })
        .collect();
    let mut sent: HashMap<u32, (usize, usize, Vec<u8>)> = HashMap::new();
    let (mut serial, mut strangers, mut arrived) = (0, 0, 0);
    let mut deadline = Instant::now() + PATIENCE;
    while serial < PACKETS || !sent.is_empty() {
        let flow = lot.draw(FLOWS);
        if serial < PACKETS && flows[flow].waits.is_none() {
            serial += 1;
            let (reply, frame) = flows[flow].next(&mut lot, serial);
            let (from, to) = flows[flow].ends;
            let (from, to) = if reply { (to, from) } else { (from, to) };
            bench.send(from.into(), lot.draw(workers), frame.clone());
            sent.insert(serial, (flow, to.into(), frame));
            if lot.draw(4) == 0 {
                // Answers to what nobody asked: few at a time, for each costs a walk.
                strangers += 1;
                let from = 1 + lot.draw(PORTS);
                let to = from % PORTS + 1;
                let ports = (53, 9000 + lot.draw(50) as u16);
                bench.send(from, lot.draw(workers), udp((from as u8, to as u8), ports, 0));
            }
        }
        for port in 1..=PORTS {
            for frame in bench.left(port) {
                let (flow, to, expected) = sent.remove(&serial_of(&frame)).expect("it was sent, and once");
                assert_eq!((port, &frame), (to, &expected));
                flows[flow].waits = None;
                arrived += 1;
                deadline = Instant::now() + PATIENCE;
            }
        }
        if Instant::now() > deadline {
            panic!("seed {seed}: {} packets are missing: {:?}", sent.len(), bench.drops());
        }
        if sent.len() == FLOWS {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
    assert_eq!(arrived, PACKETS);
    let drops = bench.dropped(strangers);
    assert_eq!(drops, HashMap::from([(DropReason::Policy.word(), strangers)]), "seed {seed}");
    // Each conversation is recorded once in the zones of both of its ports, both at one worker.
    let connections = bench.connections();
    let mut seen = HashSet::new();
    let mut owners: HashMap<_, HashSet<usize>> = HashMap::new();
    for (worker, listed) in connections.iter().enumerate() {
        for one in listed {
            assert_eq!(usize::from(one.record.owner), worker);
            for direction in [Direction::Original, Direction::Reply] {
                assert!(seen.insert((one.record.zone, one.record.tuple(direction))), "seed {seed}: recorded twice");
            }
            owners.entry(one.record.original).or_default().insert(worker);
        }
    }
    let begun = flows.iter().filter(|flow| flow.step > 0).count();
    assert_eq!((owners.len(), seen.len()), (begun, begun * 4), "seed {seed}");
    assert!(owners.values().all(|workers| workers.len() == 1), "seed {seed}: {owners:?}");
    let packets: u64 = connections.iter().flatten().flat_map(|one| one.record.counters.map(|sum| sum.packets)).sum();
    assert_eq!(packets, u64::from(PACKETS) * 2, "seed {seed}: each packet counts once in both zones");
    bench.finish();
}

#[test]
fn two_workers_fare_as_one() {
    for seed in 1..=3 {
        converse(2, seed);
    }
}

#[test]
fn three_workers_fare_as_one() {
    for seed in 11..=13 {
        converse(3, seed);
    }
}

#[test]
fn rules_count_a_packet_that_was_handed_over_once() {
    let bench = Bench::new(2, 2, &firewall(2));
    bench.passes(1, 0, 2, udp((1, 2), (2000, 53), 1));
    for serial in 2..12 {
        bench.passes(2, 1, 1, udp((2, 1), (53, 2000), serial));
    }
    bench.workers.iter().for_each(|worker| drop(worker.report()));
    let rules = bench.tables.rules(|rule| rule.id.table == 0 && rule.id.priority == 10);
    let mut counts: Vec<u64> = rules.iter().map(|rule| rule.counters.read().0).collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 10]);
    // Nearly all were handed over by a program, and served by one.
    let reports: Vec<_> = bench.workers.iter().map(crate::worker::WorkerHandle::report).collect();
    assert!(reports[1].cache_misses <= 1, "{reports:?}");
    bench.finish();
}

#[test]
fn a_trace_says_whom_to_ask() {
    let bench = Bench::new(2, 2, &firewall(2));
    bench.passes(1, 0, 2, udp((1, 2), (2000, 53), 1));
    let packet = "in_port=2,udp,ip_src=10.0.0.2,ip_dst=10.0.0.1,udp_src=53,udp_dst=2000";
    let key = message::key_from_packet(&text::parse_packet(packet).unwrap()).unwrap();
    let ask = |worker: usize| {
        bench.workers[worker].trace(Traced::Fields(Box::new((key, Contents::unknown(&key)))), [].into())
    };
    assert_eq!(ask(1).unwrap_err(), 0);
    assert_eq!(ask(0).unwrap().drop_reason, "");
    bench.finish();
}

#[test]
fn removing_the_rule_that_admitted_a_connection_ends_it_from_any_worker() {
    let admits = "table=1,priority=80,ct_state=+new,in_port=1,udp,actions=ct(commit,zone=7,follow_policy),goto_table:2";
    let rules = [
        "table=0,priority=10,ip,actions=ct(zone=7),goto_table:1",
        "table=1,priority=90,ip,ct_state=+est,actions=goto_table:2",
        admits,
        "table=1,priority=1,actions=drop(policy)",
        "table=2,in_port=1,actions=output:2",
        "table=2,in_port=2,actions=output:1",
    ];
    let bench = Bench::new(2, 2, &rules.map(str::to_owned));
    bench.passes(1, 0, 2, udp((1, 2), (2000, 53), 1));
    for serial in 2..5 {
        bench.passes(2, 1, 1, udp((2, 1), (53, 2000), serial));
    }
    bench.change(&[], &[admits.to_owned()]);
    bench.send(2, 1, udp((2, 1), (53, 2000), 6));
    assert_eq!(bench.dropped(1), HashMap::from([(DropReason::Policy.word(), 1)]));
    assert!(bench.connections().iter().all(Vec::is_empty));
    bench.finish();
}

#[test]
fn a_hand_over_that_is_out_of_date_is_a_detour_once() {
    let bench = Bench::new(3, 2, &firewall(2));
    bench.passes(1, 0, 2, udp((1, 2), (2000, 53), 1));
    bench.passes(2, 1, 1, udp((2, 1), (53, 2000), 2));
    assert_eq!(bench.workers[0].flush(&Filter::default()), 2);
    bench.passes(1, 2, 2, udp((1, 2), (2000, 53), 3));
    let hands_to = |worker: u32| {
        let program = format!("hand to worker {worker}");
        bench.workers[1].cache(100).iter().any(|entry| entry.program == program)
    };
    assert!(hands_to(0), "it knows no better yet");
    bench.passes(2, 1, 1, udp((2, 1), (53, 2000), 4));
    let deadline = Instant::now() + PATIENCE;
    while hands_to(0) {
        assert!(Instant::now() < deadline, "it was not told to forget");
    }
    bench.passes(2, 1, 1, udp((2, 1), (53, 2000), 5));
    assert!(hands_to(2) && bench.drops().is_empty());
    bench.finish();
}

#[test]
fn fragments_of_a_datagram_meet_whichever_workers_they_come_in_by() {
    let bench = Bench::new(3, 2, &firewall(2));
    bench.passes(1, 0, 2, udp((1, 2), (2000, 53), 1));
    let piece = |identification: u16, first: bool| {
        let payload = if first { sample::udp(true, &[0x55; 16]) } else { vec![0x55; 30] };
        let fragment = if first { 0x2000 } else { 24 / 8 };
        let mut frame = sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 17, fragment, &payload));
        frame[18..20].copy_from_slice(&identification.to_be_bytes());
        frame[26..34].copy_from_slice(&[10, 0, 0, 2, 10, 0, 0, 1]);
        if first {
            frame[34..36].copy_from_slice(&53_u16.to_be_bytes());
            frame[36..38].copy_from_slice(&2000_u16.to_be_bytes());
            frame[40..42].fill(0);
        }
        frame
    };
    for identification in 0..30_u16 {
        let [first, second] = [piece(identification, true), piece(identification, false)];
        let workers = [usize::from(identification % 3), usize::from(identification / 3 % 3)];
        // In either order.
        let order = if identification % 2 == 0 { [&first, &second] } else { [&second, &first] };
        for (frame, worker) in order.into_iter().zip(workers) {
            bench.send(2, worker, frame.clone());
        }
        let mut left = [bench.receive(1), bench.receive(1)];
        left.sort_by_key(Vec::len);
        let mut sent = [first, second];
        sent.sort_by_key(Vec::len);
        assert_eq!(left, sent, "datagram {identification}");
    }
    assert_eq!(bench.drops(), HashMap::new());
    bench.finish();
}
