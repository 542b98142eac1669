//! A packet whose branches belong to connections of several workers.

use super::*;

/// Of one conversation: to port 2 in a zone of its own, and to port 3.
fn one_each() -> Vec<String> {
    [2, 3]
        .map(|port| {
            format!(
                "table=0,priority=5,in_port=1,dl_dst=02:00:00:00:00:0{port},ip,actions=ct(commit,zone={port}),output:{port}"
            )
        })
        .into()
}

/// To both, each by its own zone.
fn both() -> Vec<String> {
    let branch = |port: u32| format!("clone(ct(commit,zone={port}),set_field:{port}->reg1,goto_table:1)");
    vec![
        format!("table=0,priority=5,in_port=1,dl_dst=ff:ff:ff:ff:ff:ff,ip,actions={},{}", branch(2), branch(3)),
        "table=1,reg1=2,actions=output:2".to_owned(),
        "table=1,reg1=3,actions=output:3".to_owned(),
    ]
}

fn to(mac: [u8; 6], conversation: u16) -> Vec<u8> {
    let mut frame = udp((1, 9), (2000 + conversation, 53), 1);
    frame[..6].copy_from_slice(&mac);
    frame
}

const EVERYBODY: [u8; 6] = [0xff; 6];

fn station(port: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, port]
}

/// Who has which conversation's records.
fn owners(bench: &Bench) -> HashMap<u16, Vec<(u32, usize)>> {
    let mut owners: HashMap<u16, Vec<(u32, usize)>> = HashMap::new();
    for (worker, listed) in bench.connections().iter().enumerate() {
        for one in listed {
            let port = one.record.original.from().1;
            owners.entry(port).or_default().push((one.record.zone, worker));
        }
    }
    owners.values_mut().for_each(|all| all.sort_unstable());
    owners
}

#[test]
fn connections_of_all_branches_come_together_and_each_branch_arrives_once() {
    for workers in [2, 3] {
        let bench = Bench::new(workers, 3, &[one_each(), both()].concat());
        for conversation in 0..20 {
            bench.passes(1, 0, 2, to(station(2), conversation));
            bench.passes(1, 1, 3, to(station(3), conversation));
        }
        for round in 0..4 {
            for conversation in 0..20 {
                let frame = to(EVERYBODY, conversation);
                bench.send(1, (round + usize::from(conversation)) % workers, frame.clone());
                assert_eq!((bench.receive(2), bench.receive(3)), (frame.clone(), frame));
            }
        }
        assert_eq!(bench.drops(), HashMap::new());
        assert!(bench.left(2).is_empty() && bench.left(3).is_empty(), "no copy is sent twice");
        let owners = owners(&bench);
        assert_eq!(owners.len(), 20);
        for all in owners.values() {
            assert!(matches!(all[..], [(2, one), (3, other)] if one == other), "{owners:?}");
        }
        // All packets are counted by both.
        for one in bench.connections().iter().flatten() {
            assert_eq!(one.record.counters[0].packets, 5);
        }
        bench.finish();
    }
}

#[test]
fn branches_begin_their_connections_at_one_worker() {
    let bench = Bench::new(2, 3, &both());
    for conversation in 0..40 {
        // At the same time by both workers: one of them begins both.
        bench.send(1, 0, to(EVERYBODY, conversation));
        bench.send(1, 1, to(EVERYBODY, conversation));
        for port in [2, 2, 3, 3] {
            assert_eq!(bench.receive(port), to(EVERYBODY, conversation));
        }
    }
    assert_eq!(bench.drops(), HashMap::new());
    let owners = owners(&bench);
    assert_eq!(owners.len(), 40);
    assert!(owners.values().all(|all| matches!(all[..], [(2, one), (3, other)] if one == other)), "{owners:?}");
    bench.finish();
}

#[test]
fn a_refused_branch_begins_nothing_at_any_worker() {
    let mut rules = both();
    rules[2] = "table=1,reg1=3,actions=drop(policy)".to_owned();
    let bench = Bench::new(2, 3, &rules);
    for worker in [0, 1, 0, 1] {
        let frame = to(EVERYBODY, 7);
        bench.send(1, worker, frame.clone());
        assert_eq!(bench.receive(2), frame);
    }
    assert_eq!(bench.drops(), HashMap::new());
    let owners = owners(&bench);
    assert!(matches!(owners[&2007][..], [(2, _)]), "{owners:?}");
    bench.finish();
}
