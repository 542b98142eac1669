use super::*;
use crate::drop::DropReason;
use crate::limits::connection as limits;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

const OTHER: Transport = Transport::Other;

fn masquerade(first: u16, last: u16) -> Nat {
    Nat { source: Some(SourceNat { address: EXTERNAL, ports: (first, last) }), destination: None }
}

fn host(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, number)
}

fn to(protocol: u8, source: (Ipv4Addr, u16), remote: u8, port: u16) -> Tuple {
    Tuple::ipv4(protocol, source, (Ipv4Addr::new(192, 0, 2, remote), port))
}

fn out(connections: &Connections, id: ConnectionId) -> Tuple {
    connections.get(id).unwrap().translated(Direction::Original)
}

#[test]
fn the_source_port_is_kept_if_it_is_free() {
    let mut connections = open(small());
    let first = to(protocol::UDP, (host(1), 5000), 1, 53);
    let id = start(&mut connections, &New { nat: masquerade(1024, 65535), ..new(7, first, OTHER) }, NOW).unwrap();
    assert_eq!(out(&connections, id).from(), (EXTERNAL.into(), 5000));
    assert_eq!(out(&connections, id).to(), first.to());
    let second = to(protocol::UDP, (host(2), 5000), 2, 53);
    let id = start(&mut connections, &New { nat: masquerade(1024, 65535), ..new(7, second, OTHER) }, NOW).unwrap();
    let port = out(&connections, id).from().1;
    assert!(port != 5000 && port.is_multiple_of(2), "not overloaded, and even like the internal one: {port}");
}

#[test]
fn rules_see_what_is_translated_in_each_direction() {
    let mut connections = open(small());
    let tuple = to(protocol::UDP, (host(1), 5000), 1, 53);
    let new = New { nat: masquerade(1024, 65535), ..new(7, tuple, OTHER) };
    let prepared = connections.prepare(&new, NOW).unwrap();
    assert_eq!(prepared.state(), CtState::NEW | CtState::TRACKED | CtState::SOURCE_NAT);
    assert_eq!(connections.len(), 0, "preparing changes nothing");
    connections.commit(&prepared, &passing(OTHER), NOW).unwrap();
    let answer = prepared.translated().inverse();
    let seen = connections.observe(7, Some(&answer), &OTHER, NOW);
    let expected = CtState::ESTABLISHED | CtState::REPLY | CtState::TRACKED | CtState::DESTINATION_NAT;
    assert_eq!(seen.state, expected);
    assert_eq!(seen.translated, Some(tuple.inverse()));
}

#[test]
fn an_internal_end_keeps_its_external_port_towards_everybody() {
    let mut connections = open(small());
    let nat = masquerade(1024, 65535);
    // Its own port is taken, so that it gets a random one.
    start(&mut connections, &New { nat, ..new(7, to(protocol::UDP, (host(1), 5000), 1, 53), OTHER) }, NOW).unwrap();
    let mut ports = HashSet::new();
    let mut ids = Vec::new();
    for remote in 1..=20 {
        let tuple = to(protocol::UDP, (host(2), 5000), remote, 53);
        ids.push(start(&mut connections, &New { nat, ..new(7, tuple, OTHER) }, NOW).unwrap());
        ports.insert(out(&connections, *ids.last().unwrap()).from().1);
    }
    assert_eq!((ports.len(), connections.mappings()), (1, 2));
    for id in ids.drain(1..) {
        connections.close(id, EndReason::Flushed);
    }
    let tuple = to(protocol::UDP, (host(2), 5000), 99, 99);
    let id = start(&mut connections, &New { nat, ..new(7, tuple, OTHER) }, NOW).unwrap();
    assert!(ports.contains(&out(&connections, id).from().1), "one connection keeps the mapping");
    connections.close(id, EndReason::Flushed);
    connections.close(ids[0], EndReason::Flushed);
    assert_eq!(connections.mappings(), 1, "and the last one ends it");
    // Another protocol or zone is another mapping.
    start(&mut connections, &New { nat, ..new(8, tuple, OTHER) }, NOW).unwrap();
    assert_eq!(connections.mappings(), 2);
}

#[test]
fn ports_run_out_and_come_back() {
    let mut connections = open(small());
    let nat = masquerade(6000, 6003);
    let tuple = |number| to(protocol::UDP, (host(number), 5000), 1, 53);
    let commit =
        |connections: &mut Connections, number| start(connections, &New { nat, ..new(7, tuple(number), OTHER) }, NOW);
    let ids: Vec<_> = (0..2).map(|number| commit(&mut connections, number).unwrap()).collect();
    let used: HashSet<u16> = ids.iter().map(|&id| out(&connections, id).from().1).collect();
    assert_eq!(used, HashSet::from([6000, 6002]), "of the internal port's parity");
    assert_eq!(commit(&mut connections, 9), Err(DropReason::NatPortsExhausted));
    assert_eq!((connections.len(), connections.mappings()), (2, 2));
    // Towards another remote end the ports serve once more.
    let elsewhere = to(protocol::UDP, (host(9), 5000), 2, 53);
    let shared = super::start(&mut connections, &New { nat, ..new(7, elsewhere, OTHER) }, NOW).unwrap();
    assert!(used.contains(&out(&connections, shared).from().1));
    connections.close(ids[0], EndReason::Flushed);
    commit(&mut connections, 3).unwrap();
    // What is past its deadline is no obstacle, swept or not.
    let later = NOW + limits::UDP_UNREPLIED;
    super::start(&mut connections, &New { nat, ..new(7, tuple(9), OTHER) }, later).unwrap();
}

#[test]
fn workers_never_choose_the_same_port() {
    let ports = |worker, workers| {
        let options = Options { worker, workers, records: 600, per_zone: 600, seed: Some(worker.into()), ..small() };
        let mut connections = open(options);
        let mut ports = HashSet::new();
        for number in 0..200_u16 {
            let tuple = to(protocol::UDP, (host((number / 2) as u8), 3100 + number), 1, 53);
            let Ok(id) = start(&mut connections, &New { nat: masquerade(3000, 4000), ..new(7, tuple, OTHER) }, NOW)
            else {
                continue;
            };
            ports.insert(out(&connections, id).from().1);
        }
        ports
    };
    for workers in [2, 3] {
        let all: Vec<HashSet<u16>> = (0..workers).map(|worker| ports(worker, workers)).collect();
        assert!(all.iter().all(|ports| ports.len() > 100), "{:?}", all.iter().map(HashSet::len).collect::<Vec<_>>());
        assert_eq!(all.iter().map(HashSet::len).sum::<usize>(), all.iter().flatten().collect::<HashSet<_>>().len());
        assert!(all.iter().flatten().all(|port| (3000..=4000).contains(port)));
        assert!(all.iter().flatten().any(|port| port % 2 == 1) && all.iter().flatten().any(|port| port % 2 == 0));
    }
}

#[test]
fn a_given_destination_and_both_at_once() {
    let mut connections = open(small());
    let tuple = to(protocol::TCP, (host(1), 5000), 1, 80);
    let syn = tcp(tcp_flag::SYN, 1, 0, 0);
    let nat = Nat { destination: Some((host(9), Some(8080))), ..masquerade(1024, 65535) };
    let id = start(&mut connections, &New { nat, ..new(7, tuple, syn) }, NOW).unwrap();
    let outside = out(&connections, id);
    assert_eq!((outside.from(), outside.to()), ((EXTERNAL.into(), 5000), (host(9).into(), 8080)));
    assert!(connections.lookup(7, &outside.inverse(), NOW).is_some());
    // Without a port the port stays; and the same backend reached directly from the same port clashes.
    let other = to(protocol::UDP, (host(1), 5000), 1, 53);
    let nat = Nat { source: None, destination: Some((host(9), None)) };
    let id = start(&mut connections, &New { nat, ..new(7, other, OTHER) }, NOW).unwrap();
    assert_eq!(out(&connections, id).to(), (host(9).into(), 53));
    let direct = Tuple::ipv4(protocol::UDP, (host(1), 5000), (host(9), 53));
    assert_eq!(start(&mut connections, &new(7, direct, OTHER), NOW), Err(DropReason::ConnectionClash));
    assert_eq!(connections.len(), 2);
}

#[test]
fn an_icmp_identifier_is_translated_like_a_port() {
    let mut connections = open(small());
    let echo = |number| Tuple::ipv4(protocol::ICMP, (host(number), 77), (SERVER, 77));
    let nat = masquerade(0, 65535);
    start(&mut connections, &New { nat, ..new(7, echo(1), OTHER) }, NOW).unwrap();
    let id = start(&mut connections, &New { nat, ..new(7, echo(2), OTHER) }, NOW).unwrap();
    let outside = out(&connections, id);
    assert!(outside.source_port == outside.destination_port && outside.from().1 != 77);
    let seen = connections.observe(7, Some(&outside.inverse()), &OTHER, NOW);
    assert_eq!(seen.translated, Some(echo(2).inverse()));
    // A request from outside with the same identifier is no reply.
    let attack = Tuple { kind: 8, ..outside.inverse() };
    assert_eq!(connections.observe(7, Some(&attack), &OTHER, NOW).state, CtState::NEW | CtState::TRACKED);
}

/// RFC 4787, REQ-5 and 6; RFC 5382, REQ-5.
#[test]
fn what_was_translated_finds_back_for_as_long_as_the_rfcs_ask_for() {
    const MINUTE: u64 = 60 * SECOND;
    let mut connections = open(small());
    let nat = masquerade(6000, 6999);
    let udp = to(protocol::UDP, (host(1), 5000), 1, 53);
    let id = start(&mut connections, &New { nat, ..new(7, udp, OTHER) }, NOW).unwrap();
    let answer = out(&connections, id).inverse();
    let finds = |connections: &Connections, answer: &Tuple, now| connections.lookup(7, answer, now).is_some();
    assert!(finds(&connections, &answer, NOW + 2 * MINUTE - 1) && !finds(&connections, &answer, NOW + 2 * MINUTE));
    // Each packet out begins the time anew.
    let refreshed = NOW + 2 * MINUTE - SECOND;
    send(&mut connections, 7, &udp, OTHER, refreshed);
    assert!(finds(&connections, &answer, refreshed + 2 * MINUTE - 1));
    // Once answered it is longer, and a packet in does it too.
    send(&mut connections, 7, &answer, OTHER, refreshed);
    assert!(finds(&connections, &answer, refreshed + 5 * MINUTE - 1));
    // The port stays that one's meanwhile.
    let again = Tuple { destination_port: 54_u16.to_be_bytes(), ..udp };
    let prepared =
        connections.prepare(&New { nat, ..new(7, again, OTHER) }, refreshed + 5 * MINUTE - 1).unwrap().translated();
    assert_eq!(prepared.from().1.to_be_bytes(), answer.destination_port);

    let outward = to(protocol::TCP, (host(1), 5000), 1, 80);
    let syn = tcp(tcp_flag::SYN, 100, 0, 0);
    let id = start(&mut connections, &New { nat, ..new(7, outward, syn) }, NOW).unwrap();
    let inward = out(&connections, id).inverse();
    assert!(finds(&connections, &inward, NOW + 4 * MINUTE - 1) && !finds(&connections, &inward, NOW + 4 * MINUTE));
    send(&mut connections, 7, &inward, tcp(tcp_flag::SYN | tcp_flag::ACK, 900, 101, 0), NOW);
    assert!(finds(&connections, &inward, NOW + 4 * MINUTE - 1) && !finds(&connections, &inward, NOW + 4 * MINUTE));
    send(&mut connections, 7, &outward, tcp(tcp_flag::ACK, 101, 901, 0), NOW);
    assert!(finds(&connections, &inward, NOW + 124 * MINUTE - 1));
}

#[test]
fn protocols_without_ports_get_the_address_alone() {
    let mut connections = open(small());
    let gre = |number| Tuple::ipv4(47, (host(number), 0), (SERVER, 0));
    let nat = masquerade(1024, 65535);
    let id = start(&mut connections, &New { nat, ..new(7, gre(1), OTHER) }, NOW).unwrap();
    assert_eq!(out(&connections, id), Tuple::ipv4(47, (EXTERNAL, 0), (SERVER, 0)));
    let second = start(&mut connections, &New { nat, ..new(7, gre(2), OTHER) }, NOW);
    assert_eq!(second, Err(DropReason::NatPortsExhausted));
    assert_eq!(connections.mappings(), 0);
}

#[test]
fn what_cannot_be_translated_is_refused() {
    let mut connections = open(small());
    let six = Tuple { family: 6, source: [1; 16], destination: [2; 16], ..udp(5) };
    let refused = start(&mut connections, &New { nat: masquerade(1, 2), ..new(7, six, OTHER) }, NOW);
    assert_eq!(refused, Err(DropReason::BadAction));
    let refused = start(&mut connections, &New { nat: masquerade(2, 1), ..new(7, udp(5), OTHER) }, NOW);
    assert_eq!(refused, Err(DropReason::BadAction));
    start(&mut connections, &new(7, six, OTHER), NOW).unwrap();
    assert!(connections.lookup(7, &six.inverse(), NOW).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever comes and goes: no two connections look alike from outside, no end that has a mapping
    /// changes it, and nothing is left when all have gone.
    #[test]
    fn translations_are_unique_and_mappings_stable(
        seed in any::<u64>(),
        steps in prop::collection::vec((0_u8..6, 0_u16..4, 1_u8..5, any::<bool>(), any::<bool>()), 1..150),
    ) {
        let mut connections = open(Options { seed: Some(seed), ..small() });
        let nat = masquerade(4000, 4015);
        let mut live: Vec<(ConnectionId, Tuple)> = Vec::new();
        let mut mappings: HashMap<(u8, u8, u16), (u16, usize)> = HashMap::new();
        for (number, port, remote, is_udp, close) in steps {
            if close && !live.is_empty() {
                let (id, _) = live.swap_remove(usize::from(number) * 7 % live.len());
                connections.close(id, EndReason::Flushed).unwrap();
            } else {
                let (protocol, transport) =
                    if is_udp { (protocol::UDP, OTHER) } else { (protocol::TCP, tcp(tcp_flag::SYN, 1, 0, 0)) };
                let tuple = to(protocol, (host(number), 4000 + port), remote, 9);
                match start(&mut connections, &New { nat, ..new(7, tuple, transport) }, NOW) {
                    Ok(id) => live.push((id, tuple)),
                    Err(DropReason::ConnectionClash) => prop_assert!(live.iter().any(|&(_, known)| known == tuple)),
                    Err(DropReason::NatPortsExhausted | DropReason::ConnectionLimit) => {}
                    Err(other) => prop_assert!(false, "{:?}", other),
                }
            }
            let outside: HashSet<Tuple> = live.iter().map(|&(id, _)| out(&connections, id)).collect();
            prop_assert_eq!(outside.len(), live.len());
            let mut found: HashMap<(u8, u8, u16), (u16, usize)> = HashMap::new();
            for &(id, tuple) in &live {
                let record = connections.get(id).unwrap();
                let port = out(&connections, id).from().1;
                prop_assert!((4000..=4015).contains(&port));
                if record.has(flag::MAPPED) {
                    let key = (tuple.protocol, tuple.source[3], tuple.from().1);
                    let entry = found.entry(key).or_insert((port, 0));
                    prop_assert_eq!(entry.0, port);
                    entry.1 += 1;
                }
            }
            prop_assert_eq!(connections.mappings(), found.len());
            for (key, (port, _)) in &mappings {
                // One thing happens at a time: a mapping that was there and is there has not been away.
                if let Some((now, _)) = found.get(key) {
                    prop_assert_eq!(now, port);
                }
            }
            mappings = found;
        }
        for (id, _) in live {
            connections.close(id, EndReason::Flushed).unwrap();
        }
        prop_assert!(connections.is_empty() && connections.mappings() == 0);
    }
}
