//! Two workers and one directory.

use super::*;
use crate::drop::DropReason;
use std::sync::Arc;

#[test]
fn a_tuple_has_one_owner_until_it_is_released_by_that_one() {
    let directory = Directory::new(2, 100);
    assert_eq!(directory.claim(&[(7, udp(1))], 0), Ok(()));
    assert_eq!(directory.claim(&[(7, udp(1))], 0), Ok(()));
    assert_eq!(directory.claim(&[(7, udp(1))], 1), Err(Refusal::OwnedBy(0)));
    assert_eq!(directory.claim(&[(8, udp(1))], 1), Ok(()), "another zone");
    directory.release(7, &udp(1), 1);
    assert_eq!((directory.owner(7, &udp(1)), directory.len()), (Some(0), 2));
    directory.release(7, &udp(1), 0);
    assert_eq!(directory.owner(7, &udp(1)), None);
}

#[test]
fn it_is_bounded() {
    let directory = Directory::new(2, 128);
    let taken = (0..5000).filter(|&port| directory.claim(&[(7, udp(port))], 0).is_ok()).count();
    assert_eq!(taken, directory.len());
    assert!((128..=64 * 10).contains(&taken), "{taken}");
    assert!((0..5000).any(|port| directory.claim(&[(9, udp(port))], 0) == Err(Refusal::Full)));
}

#[test]
fn what_another_worker_owns_is_a_clash_and_leaves_nothing() {
    let directory = Arc::new(Directory::new(2, 1000));
    let worker = |worker| open(Options { worker, workers: 2, directory: Some(directory.clone()), ..small() });
    let (mut one, mut two) = (worker(0), worker(1));
    let id = start(&mut one, &new(7, udp(1), Transport::Other), NOW).unwrap();
    assert_eq!(start(&mut two, &new(7, udp(1), Transport::Other), NOW), Err(DropReason::ConnectionClash));
    // Here only the reply is taken: the claim of the other tuple is given back.
    let nat = Nat { source: None, destination: Some((SERVER, None)) };
    let other = Tuple::ipv4(protocol::UDP, (CLIENT, 1), (EXTERNAL, 53));
    let refused = start(&mut two, &New { nat, ..new(7, other, Transport::Other) }, NOW);
    assert_eq!((refused, directory.owner(7, &other)), (Err(DropReason::ConnectionClash), None));
    assert_eq!((two.len(), directory.len()), (0, 2));
    one.close(id, EndReason::Flushed);
    assert!(directory.is_empty());
    start(&mut two, &new(7, udp(1), Transport::Other), NOW).unwrap();
    assert_eq!(directory.owner(7, &udp(1).inverse()), Some(1));
}

#[test]
fn the_holder_of_a_nat_mapping_is_found_by_the_internal_end() {
    let directory = Arc::new(Directory::new(2, 1000));
    let mut connections = open(Options { worker: 1, workers: 2, directory: Some(directory.clone()), ..small() });
    let nat = Nat { source: Some(SourceNat { address: EXTERNAL, ports: (2000, 3000) }), destination: None };
    let id = start(&mut connections, &New { nat, ..new(7, udp(1), Transport::Other) }, NOW).unwrap();
    let elsewhere = Tuple::ipv4(protocol::UDP, (CLIENT, 1), (EXTERNAL, 9));
    assert_eq!(directory.owner(7, &elsewhere.endpoint()), Some(1));
    let second = start(&mut connections, &New { nat, ..new(7, elsewhere, Transport::Other) }, NOW).unwrap();
    connections.close(id, EndReason::Flushed);
    assert_eq!(directory.owner(7, &elsewhere.endpoint()), Some(1));
    connections.close(second, EndReason::Flushed);
    assert!(directory.is_empty());
}

#[test]
fn two_workers_racing_for_the_same_tuples_share_them_out() {
    let directory = Arc::new(Directory::new(2, 10_000));
    let mut tables: Vec<Connections> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2_u16)
            .map(|worker| {
                let directory = directory.clone();
                scope.spawn(move || {
                    let options = Options { worker, workers: 2, records: 2000, per_zone: 2000, ..small() };
                    let mut connections = open(Options { directory: Some(directory), ..options });
                    for round in 0..3 {
                        for port in 0..1000 {
                            // One begins with a tuple, the other with its inverse.
                            let tuple = if worker == 0 { udp(port) } else { udp(port).inverse() };
                            match start(&mut connections, &new(7, tuple, Transport::Other), NOW) {
                                Ok(id) if round < 2 => assert!(connections.close(id, EndReason::Flushed).is_some()),
                                Ok(_) => {}
                                Err(reason) => assert_eq!(reason, DropReason::ConnectionClash),
                            }
                        }
                    }
                    connections
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(directory.len(), tables.iter().map(Connections::len).sum::<usize>() * 2);
    for port in 0..1000 {
        let holders: Vec<u16> =
            (0..2_u16).filter(|&w| tables[w as usize].lookup(7, &udp(port), NOW).is_some()).collect();
        assert!(holders.len() <= 1, "port {port}");
        assert_eq!(directory.owner(7, &udp(port)), holders.first().copied());
    }
    // Nothing is left over when both have removed theirs.
    for table in &mut tables {
        let ids: Vec<_> = table.iter(&Filter::default(), NOW).map(|(id, _)| id).collect();
        for id in ids {
            table.close(id, EndReason::Flushed).unwrap();
        }
    }
    assert!(directory.is_empty());
}
