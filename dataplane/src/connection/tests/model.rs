//! The table against a model that is a list and a clock.

use super::*;
use crate::drop::DropReason;
use crate::limits::connection as limits;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Begin {
        zone: u32,
        port: u16,
    },
    /// A packet of a tuple, in one direction or the other.
    Packet {
        zone: u32,
        port: u16,
        reply: bool,
    },
    Close {
        zone: u32,
        port: u16,
    },
    Mark {
        zone: u32,
        port: u16,
        mark: u32,
    },
    Wait {
        seconds: u64,
    },
    Expire {
        budget: usize,
    },
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let zone = || 0_u32..3;
    let port = || 0_u16..6;
    let step = prop_oneof![
        4 => (zone(), port()).prop_map(|(zone, port)| Step::Begin { zone, port }),
        6 => (zone(), port(), any::<bool>()).prop_map(|(zone, port, reply)| Step::Packet { zone, port, reply }),
        1 => (zone(), port()).prop_map(|(zone, port)| Step::Close { zone, port }),
        1 => (zone(), port(), 0_u32..3).prop_map(|(zone, port, mark)| Step::Mark { zone, port, mark }),
        2 => (0_u64..130).prop_map(|seconds| Step::Wait { seconds }),
        2 => (0_usize..12).prop_map(|budget| Step::Expire { budget }),
    ];
    prop::collection::vec(prop_oneof![40 => step, 1 => Just(Step::Reopen)], 1..120)
}

/// One connection, as the model knows it.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    zone: u32,
    port: u16,
    id: ConnectionId,
    deadline: u64,
    replied: bool,
    mark: u32,
    packets: [u64; 2],
    /// What a cached program would hold.
    track: Track,
}

const RECORDS: usize = 10;
const PER_ZONE: u32 = 5;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn the_table_does_what_the_model_does(steps in steps()) {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            records: RECORDS, per_zone: PER_ZONE, path: Some(folder.path().join("connections")), ..small()
        };
        let mut connections = open(options.clone());
        let mut model: Vec<Known> = Vec::new();
        let mut ended: Vec<ConnectionId> = Vec::new();
        let mut now = NOW;
        for step in steps {
            let position = |model: &[Known], zone, port| {
                model.iter().position(|known| (known.zone, known.port) == (zone, port) && known.deadline > now)
            };
            match step {
                Step::Begin { zone, port } => {
                    let result = start(&mut connections, &new(zone, udp(port), Transport::Other), now);
                    let same = model.iter().position(|known| (known.zone, known.port) == (zone, port));
                    let in_zone = model.iter().filter(|known| known.zone == zone).count() as u32;
                    if position(&model, zone, port).is_some() {
                        prop_assert_eq!(result, Err(DropReason::ConnectionClash));
                    } else if same.is_none()
                        && (model.len() >= RECORDS
                            || in_zone >= PER_ZONE
                            || in_zone as usize >= RECORDS - model.len())
                    {
                        prop_assert_eq!(result, Err(DropReason::ConnectionLimit));
                    } else {
                        // One past its deadline, not swept, makes way.
                        if let Some(same) = same {
                            ended.push(model.remove(same).id);
                        }
                        let id = result.unwrap();
                        prop_assert!(!ended.contains(&id) && model.iter().all(|known| known.id != id));
                        let track = connections.observe(zone, Some(&udp(port)), &Transport::Other, now).track.unwrap();
                        model.push(Known {
                            zone, port, id, deadline: now + limits::UDP_UNREPLIED, replied: false, mark: 0,
                            packets: [1, 0], track,
                        });
                    }
                }
                Step::Packet { zone, port, reply } => {
                    let tuple = if reply { udp(port).inverse() } else { udp(port) };
                    let seen = connections.observe(zone, Some(&tuple), &Transport::Other, now);
                    let direction = if reply { Direction::Reply } else { Direction::Original };
                    let Some(at) = position(&model, zone, port) else {
                        prop_assert_eq!(seen.track, None);
                        prop_assert_eq!(seen.state, CtState::NEW | CtState::TRACKED);
                        continue;
                    };
                    let known = &mut model[at];
                    let first_reply = reply && !known.replied;
                    known.replied |= reply;
                    prop_assert_eq!(seen.state.has(CtState::ESTABLISHED), known.replied);
                    prop_assert_eq!(seen.state.has(CtState::REPLY), reply);
                    prop_assert_eq!(seen.mark, known.mark);
                    let touched = connections.touch(&Track { direction, ..known.track }, &passing(Transport::Other), now);
                    if first_reply {
                        prop_assert_eq!(touched, Touched::VisibleChange);
                        let advanced = connections.advance(&seen.track.unwrap(), &passing(Transport::Other), now).unwrap();
                        prop_assert!(advanced.visible_changed && advanced.visible_epoch != known.track.visible_epoch);
                        known.track.visible_epoch = advanced.visible_epoch;
                    } else {
                        prop_assert_eq!(touched, Touched::Passed);
                    }
                    known.packets[direction as usize] += 1;
                    known.deadline = now + if known.replied { limits::UDP_REPLIED } else { limits::UDP_UNREPLIED };
                }
                Step::Close { zone, port } => {
                    if let Some(at) = model.iter().position(|known| (known.zone, known.port) == (zone, port)) {
                        let known = model.remove(at);
                        prop_assert!(connections.close(known.id, EndReason::Flushed).is_some());
                        ended.push(known.id);
                    }
                }
                Step::Mark { zone, port, mark } => {
                    if let Some(at) = position(&model, zone, port) {
                        let known = &mut model[at];
                        prop_assert!(connections.set_mark(known.id, mark));
                        if known.mark != mark {
                            known.mark = mark;
                            let touched = connections.check(&known.track, &Transport::Other, now);
                            prop_assert_eq!(touched, Touched::Stale);
                            known.track.visible_epoch = connections.get(known.id).unwrap().visible_epoch;
                        }
                    }
                }
                Step::Wait { seconds } => now += seconds * SECOND,
                Step::Expire { budget } => {
                    let done = connections.expire(now, budget);
                    prop_assert!(done.examined <= budget);
                    let before = model.len();
                    model.retain(|known| connections.get(known.id).is_some() || {
                        ended.push(known.id);
                        known.deadline > now
                    });
                    prop_assert_eq!(before - model.len(), done.removed);
                }
                Step::Reopen => {
                    drop(connections);
                    // The next process's own clock begins anew.
                    let start = Start { now: 0, monotonic: START.monotonic + (now - NOW) };
                    let (again, kept) = Connections::open(options.clone(), start).unwrap();
                    connections = again;
                    prop_assert_eq!(kept, model.len());
                    // And this test's goes on: the offset is the same as if it had begun then.
                    drop(connections);
                    connections = open(options.clone());
                }
            }
            // Everything the model knows is there, and nothing else.
            prop_assert_eq!(connections.len(), model.len());
            for known in &model {
                let record = connections.get(known.id).unwrap();
                prop_assert_eq!(connections.remaining(record, now), known.deadline.saturating_sub(now));
                prop_assert_eq!(record.counters.map(|counter| counter.packets), known.packets);
                prop_assert_eq!((record.mark, record.has(flag::REPLIED)), (known.mark, known.replied));
                let alive = known.deadline > now;
                let found = connections.lookup(known.zone, &udp(known.port), now);
                prop_assert_eq!(found, alive.then_some((known.id, Direction::Original)));
                let found = connections.lookup(known.zone, &udp(known.port).inverse(), now);
                prop_assert_eq!(found, alive.then_some((known.id, Direction::Reply)));
            }
            for zone in 0..3 {
                let count = model.iter().filter(|known| known.zone == zone).count();
                prop_assert_eq!(connections.in_zone(zone) as usize, count);
            }
            prop_assert!(ended.iter().all(|&id| connections.get(id).is_none()));
        }
    }
}
