//! Several workers, as `handover.rs` has them share connections, from a seed: flows with and without NAT through
//! three zones, packets by any worker, records that end by themselves, zones that were passed alone.

use super::*;
use crate::drop::DropReason;
use crate::limits::{HAND_OVERS_PER_FRAME, connection as limits};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Source port's zone, router's, destination port's.
const ZONES: [u32; 3] = [1, 7, 2];
const ROUTER: u32 = 7;

struct Lot(u64);

impl Lot {
    /// SplitMix64.
    fn draw(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % below as u64) as usize
    }
}

struct Workers {
    all: Vec<Connections>,
    directory: Arc<Directory>,
    hand_overs: usize,
    moves: usize,
}

/// What became of a packet.
struct Decided {
    states: Vec<(u32, CtState)>,
    /// As it leaves.
    tuple: Tuple,
}

impl Workers {
    fn new(count: u16, seed: u64) -> Self {
        let directory = Arc::new(Directory::new(count.into(), 10_000));
        let worker = |worker| {
            let options = Options { worker, workers: count, records: 2000, per_zone: 2000, ..small() };
            open(Options { directory: Some(directory.clone()), seed: Some(seed), ..options })
        };
        Self { all: (0..count).map(worker).collect(), directory, hand_overs: 0, moves: 0 }
    }

    /// The way of a packet, as `worker.rs` and `resolve/track.rs` have it.
    fn decide(
        &mut self,
        mut at: usize,
        zones: &[u32],
        entered: Tuple,
        nat: Nat,
        now: u64,
    ) -> Result<Decided, DropReason> {
        'worker: for _ in 0..=HAND_OVERS_PER_FRAME {
            let mut adopted = false;
            'walk: loop {
                let (mut tuple, mut states) = (entered, Vec::new());
                let (mut records, mut tracks, mut commits) = (Vec::new(), Vec::new(), Vec::new());
                for &zone in zones {
                    let connections = &mut self.all[at];
                    if let Some(owner) = connections.elsewhere(zone, &tuple).map(usize::from) {
                        if owner == at {
                            assert!(!adopted, "what is one's own is in the mailbox");
                            connections.adopt();
                            adopted = true;
                            continue 'walk;
                        }
                        records.iter().for_each(|&id| connections.give(id, owner as u16, now));
                        self.moves += records.len();
                        self.hand_overs += 1;
                        at = owner;
                        continue 'worker;
                    }
                    let seen = connections.observe(zone, Some(&tuple), &Transport::Other, now);
                    states.push((zone, seen.state));
                    records.extend(seen.record);
                    if let Some(track) = seen.track {
                        tracks.push(track);
                        tuple = seen.translated.unwrap();
                        continue;
                    }
                    let nat = if zone == ROUTER { nat } else { Nat::default() };
                    let apart = !records.is_empty();
                    let begins = New { nat, apart, ..new(zone, tuple, Transport::Other) };
                    if !apart && let Some(owner) = connections.mapped_elsewhere(&begins) {
                        self.hand_overs += 1;
                        at = owner.into();
                        continue 'worker;
                    }
                    let prepared = connections.prepare(&begins, now)?;
                    tuple = prepared.translated();
                    commits.push(prepared);
                }
                match self.all[at].commit_all(&commits, &passing(Transport::Other), now) {
                    Ok(_) => {}
                    Err(Refused::Because(reason)) => return Err(reason),
                    Err(Refused::OwnedBy(_)) => unreachable!("nobody else runs meanwhile"),
                }
                for track in &tracks {
                    assert!(self.all[at].advance(track, &passing(Transport::Other), now).is_some());
                }
                return Ok(Decided { states, tuple });
            }
        }
        Err(DropReason::HandOverLimit)
    }

    fn adopt(&mut self) {
        self.all.iter_mut().for_each(Connections::adopt);
    }

    /// No tuple twice in a zone; the directory agrees with the records.
    fn check(&mut self) {
        self.adopt();
        let mut seen = HashSet::new();
        for (worker, connections) in self.all.iter().enumerate() {
            for (_, record) in connections.iter(&Filter::default(), 0) {
                assert_eq!(usize::from(record.owner), worker);
                for direction in [Direction::Original, Direction::Reply] {
                    let tuple = record.tuple(direction);
                    assert!(seen.insert((record.zone, tuple)), "{tuple:?} is recorded twice");
                    assert_eq!(self.directory.owner(record.zone, &tuple), Some(worker as u16));
                }
            }
        }
    }
}

/// One conversation: what it sends, and what its last packet looked like when it arrived.
struct Flow {
    tuple: Tuple,
    nat: Nat,
    arrived: Option<Tuple>,
}

fn simulate(count: u16, seed: u64) -> (usize, usize) {
    let mut lot = Lot(seed);
    let mut workers = Workers::new(count, seed);
    let source = SourceNat { address: EXTERNAL, ports: (2000, 2999) };
    let mut flows: Vec<Flow> = (0..80_u16)
        .map(|number| {
            // Several flows of one internal end, to different servers.
            let server = Ipv4Addr::new(192, 0, 2, (number % 8) as u8);
            let tuple = Tuple::ipv4(protocol::UDP, (CLIENT, 1000 + number / 8), (server, 53));
            let source = (number / 8 % 2 == 0).then_some(source);
            Flow { tuple, nat: Nat { source, destination: None }, arrived: None }
        })
        .collect();
    let mut now = NOW;
    for _ in 0..4000 {
        now += lot.draw(20_000) as u64;
        let number = lot.draw(flows.len());
        let at = lot.draw(count.into());
        let flow = &mut flows[number];
        match lot.draw(20) {
            // One zone ends early, as if its timeout were shorter.
            0 => {
                let zone = ZONES[lot.draw(3)];
                // Of a translated flow only as a whole: what leaves would have another port.
                let zones = if flow.nat.source.is_some() { &ZONES[..] } else { &[zone] };
                for connections in &mut workers.all {
                    connections.adopt();
                    for zone in zones {
                        for tuple in [Some(flow.tuple), flow.arrived].into_iter().flatten() {
                            if let Some((id, _)) = connections.lookup(*zone, &tuple, now) {
                                connections.close(id, EndReason::Flushed);
                            }
                        }
                    }
                }
                flow.arrived = None;
            }
            // Rules that let it pass one zone alone.
            1 | 3 | 5 if flow.nat.source.is_none() => {
                let zone = [ZONES[lot.draw(3)]];
                workers.decide(at, &zone, flow.tuple, Nat::default(), now).unwrap();
            }
            choice => {
                let reply = flow.arrived.filter(|_| choice % 2 == 0).map(|arrived| arrived.inverse());
                let mut zones = ZONES;
                if reply.is_some() {
                    zones.reverse();
                }
                let decided = workers.decide(at, &zones, reply.unwrap_or(flow.tuple), flow.nat, now).unwrap();
                if flow.arrived.is_some() {
                    // It is known in every zone: nobody takes it for a stranger.
                    for (zone, state) in decided.states {
                        let fresh = CtState::TRACKED | CtState::NEW;
                        assert!(reply.is_none() || state.has(CtState::ESTABLISHED), "seed {seed}: {state} in {zone}");
                        assert!(reply.is_none() || state.has(CtState::REPLY), "seed {seed}: {state} in {zone}");
                        let replied = state.has(CtState::ESTABLISHED);
                        assert!(replied || state.has(fresh), "seed {seed}: {state} in {zone}");
                    }
                }
                match reply {
                    Some(_) => assert_eq!(decided.tuple, flow.tuple.inverse(), "seed {seed}"),
                    None => {
                        let changed = flow.arrived.is_some_and(|arrived| arrived != decided.tuple);
                        assert!(!changed, "seed {seed}: {:?} became {:?}", flow.arrived, decided.tuple);
                        flow.arrived = Some(decided.tuple);
                    }
                }
            }
        }
    }
    workers.check();
    // Each outside end is one flow's.
    let mut outside = HashMap::new();
    for (number, flow) in flows.iter().enumerate() {
        if let Some(arrived) = flow.arrived {
            assert_eq!(outside.insert(arrived, number), None, "seed {seed}");
        }
    }
    // All of a flow's connections are where its next packet is decided, and it is decided there at once.
    for flow in flows.iter().filter(|flow| flow.arrived.is_some()) {
        workers.decide(0, &ZONES, flow.tuple, flow.nat, now).unwrap();
        workers.adopt();
        let at = workers.directory.owner(ZONES[0], &flow.tuple).unwrap();
        for (zone, tuple) in [(ZONES[1], flow.tuple), (ZONES[2], flow.arrived.unwrap())] {
            assert_eq!(workers.directory.owner(zone, &tuple), Some(at), "seed {seed}: zone {zone}");
        }
    }
    // Nothing stays in the directory when all have ended.
    let end = now + limits::UDP_REPLIED + SECOND;
    for connections in &mut workers.all {
        let slots = connections.slots();
        connections.expire(end, slots);
    }
    assert!(workers.directory.is_empty(), "seed {seed}: {} tuples are left", workers.directory.len());
    (workers.hand_overs, workers.moves)
}

#[test]
fn flows_meet_their_connections_wherever_they_come_in() {
    let (mut hand_overs, mut moves) = (0, 0);
    for seed in 1..=20 {
        for count in [2, 3] {
            let done = simulate(count, seed);
            hand_overs += done.0;
            moves += done.1;
        }
    }
    assert!(hand_overs > 10_000 && moves > 60, "{hand_overs} hand-overs and {moves} moves: this shows too little");
}

#[test]
fn a_connection_that_moves_to_a_full_worker_ends_and_leaves_nothing() {
    let mut workers = Workers::new(2, 1);
    let full = Options { worker: 1, workers: 2, records: 1, directory: Some(workers.directory.clone()), ..small() };
    workers.all[1] = open(full);
    start(&mut workers.all[1], &new(7, udp(1), Transport::Other), NOW).unwrap();
    let id = start(&mut workers.all[0], &new(7, udp(2), Transport::Other), NOW).unwrap();
    workers.all[0].give(id, 1, NOW);
    assert_eq!((workers.directory.owner(7, &udp(2)), workers.all[0].len()), (Some(1), 0));
    workers.all[1].adopt();
    assert_eq!((workers.directory.owner(7, &udp(2)), workers.all[1].ended(EndReason::Displaced)), (None, 1));
    workers.check();
}

#[test]
fn commits_of_several_zones_are_one_step() {
    let mut workers = Workers::new(2, 1);
    start(&mut workers.all[1], &new(8, udp(1), Transport::Other), NOW).unwrap();
    let prepare = |zone| workers.all[0].prepare(&new(zone, udp(1), Transport::Other), NOW).unwrap();
    let prepared = [prepare(7), prepare(8), prepare(9)];
    let refused = workers.all[0].commit_all(&prepared, &passing(Transport::Other), NOW);
    assert_eq!((refused, workers.all[0].len()), (Err(Refused::OwnedBy(1)), 0));
    assert_eq!((workers.directory.owner(7, &udp(1)), workers.directory.len()), (None, 2));
}

/// Two workers that an internal end sends by at once: the second to commit learns who has the mapping.
#[test]
fn an_internal_end_that_begins_at_two_workers_at_once_is_mapped_by_one() {
    let to_port = |port| Tuple::ipv4(protocol::UDP, (CLIENT, 5000), (SERVER, port));
    let mut workers = Workers::new(2, 1);
    let nat = Nat { source: Some(SourceNat { address: EXTERNAL, ports: (6000, 6999) }), destination: None };
    let [one, other] = [53, 54].map(|port| New { nat, ..new(ROUTER, to_port(port), Transport::Other) });
    let [first, second] =
        [(0, &one), (1, &other)].map(|(worker, new): (usize, _)| workers.all[worker].prepare(new, NOW).unwrap());
    let commit = |connections: &mut Connections, prepared: &Prepared| {
        connections.commit_all(std::slice::from_ref(prepared), &passing(Transport::Other), NOW)
    };
    commit(&mut workers.all[0], &first).unwrap();
    assert!(matches!(commit(&mut workers.all[1], &second), Err(Refused::OwnedBy(0))));
    assert_eq!((workers.all[1].len(), workers.all[1].mappings()), (0, 0));
    let again = workers.all[0].prepare(&other, NOW).unwrap();
    commit(&mut workers.all[0], &again).unwrap();
    assert_eq!(again.translated().from(), first.translated().from());
    // Who has records of the packet's begins apart.
    let apart = New { nat, apart: true, ..new(ROUTER, to_port(55), Transport::Other) };
    let apart = workers.all[1].prepare(&apart, NOW).unwrap();
    commit(&mut workers.all[1], &apart).unwrap();
}
