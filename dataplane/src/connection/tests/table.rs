use super::*;
use crate::drop::DropReason;
use crate::limits::connection as limits;
use std::sync::Arc;

const OTHER: Transport = Transport::Other;

#[test]
fn a_udp_conversation_is_new_until_the_first_reply() {
    let mut connections = open(small());
    let tuple = udp(1000);
    assert_eq!(send(&mut connections, 7, &tuple, OTHER, NOW), CtState::NEW | CtState::TRACKED);
    let id = start(&mut connections, &new(7, tuple, OTHER), NOW).unwrap();
    assert_eq!(connections.lookup(7, &tuple, NOW), Some((id, Direction::Original)));
    assert_eq!(connections.lookup(7, &tuple.inverse(), NOW), Some((id, Direction::Reply)));
    assert_eq!(connections.lookup(8, &tuple, NOW), None, "zones do not see each other");

    let forth = connections.observe(7, Some(&tuple), &OTHER, NOW).track.unwrap();
    assert_eq!(connections.touch(&forth, &passing(OTHER), NOW), Touched::Passed);
    let back = Track { direction: Direction::Reply, ..forth };
    assert_eq!(connections.check(&back, &OTHER, NOW), Touched::VisibleChange);
    assert_eq!(connections.touch(&back, &passing(OTHER), NOW), Touched::VisibleChange);
    assert_eq!(connections.get(id).unwrap().counters[1].packets, 0, "a visible change applies nothing");
    let expected = CtState::ESTABLISHED | CtState::REPLY | CtState::TRACKED;
    assert_eq!(send(&mut connections, 7, &tuple.inverse(), OTHER, NOW), expected);
    assert_eq!(connections.touch(&forth, &passing(OTHER), NOW), Touched::Stale, "compiled before the reply");
    let forth = connections.observe(7, Some(&tuple), &OTHER, NOW).track.unwrap();
    assert_eq!(connections.touch(&forth, &passing(OTHER), NOW), Touched::Passed);
    let record = connections.get(id).unwrap();
    assert_eq!(record.counters, [Counter { packets: 3, bytes: 300 }, Counter { packets: 1, bytes: 100 }]);
    assert_eq!(record.state(), State::Replied);
}

#[test]
fn a_deadline_is_pushed_by_packets_and_ends_the_connection_to_the_microsecond() {
    let mut connections = open(small());
    let tuple = udp(1000);
    let id = start(&mut connections, &new(7, tuple, OTHER), NOW).unwrap();
    let later = NOW + limits::UDP_UNREPLIED - 1;
    let track = connections.observe(7, Some(&tuple), &OTHER, later).track.unwrap();
    assert_eq!(connections.touch(&track, &passing(OTHER), later), Touched::Passed);
    let end = later + limits::UDP_UNREPLIED;
    assert!(connections.lookup(7, &tuple, end - 1).is_some());
    assert_eq!(connections.expire(end - 1, 100).removed, 0);
    assert_eq!(connections.remaining(connections.get(id).unwrap(), end - 1), 1);
    assert_eq!(connections.lookup(7, &tuple, end), None);
    assert_eq!(connections.touch(&track, &passing(OTHER), end), Touched::Stale);
    assert_eq!(connections.advance(&track, &passing(OTHER), end), None);
    assert_eq!(connections.iter(&Filter::default(), end).count(), 0);
    assert!(connections.get(id).is_some(), "not swept yet");
    assert_eq!(connections.expire(end, 100), Expired { examined: 1, removed: 1 });
    assert!(connections.get(id).is_none() && connections.is_empty() && connections.in_zone(7) == 0);
    assert_eq!(connections.ended(EndReason::Expired), 1);
}

#[test]
fn expiry_looks_at_no_more_than_its_budget_and_comes_around() {
    let mut connections = open(small());
    for port in 0..40 {
        start(&mut connections, &new(7 + u32::from(port % 2), udp(port), OTHER), NOW).unwrap();
    }
    let end = NOW + limits::UDP_UNREPLIED;
    let mut removed = 0;
    for round in 1..=10 {
        let done = connections.expire(end, 4);
        assert_eq!(done.examined, 4);
        removed += done.removed;
        assert_eq!(removed, 4 * round);
    }
    assert!(connections.is_empty());
}

#[test]
fn timeouts_are_what_the_rfcs_ask_for() {
    let minutes = |state: State, protocol| state.timeout(protocol) / (60 * SECOND);
    assert!(minutes(State::Established, protocol::TCP) >= 124);
    for state in [State::SynSent, State::SynReceived, State::FinWait, State::CloseWait, State::LastAck, State::TimeWait]
    {
        assert!(minutes(state, protocol::TCP) >= 4, "{state:?}");
    }
    assert!(minutes(State::Unreplied, protocol::UDP) >= 2);
    assert!(minutes(State::Replied, protocol::UDP) >= 5);
    assert!(minutes(State::Unreplied, protocol::ICMP) >= 1);
}

#[test]
fn limits_of_zone_and_table_refuse_and_leave_nothing() {
    let directory = Arc::new(Directory::new(2, 1000));
    let mut connections = open(Options { per_zone: 24, directory: Some(directory.clone()), ..small() });
    // As many as its zone may have; then each zone as many as it leaves free.
    for (zone, room) in [(7, 24), (8, 20), (10, 10), (11, 5), (12, 3), (13, 1), (14, 1)] {
        for port in 0..room {
            start(&mut connections, &new(zone, udp(port), OTHER), NOW).unwrap();
        }
        assert_eq!(start(&mut connections, &new(zone, udp(room), OTHER), NOW), Err(DropReason::ConnectionLimit));
    }
    assert_eq!(start(&mut connections, &new(9, udp(0), OTHER), NOW), Err(DropReason::ConnectionLimit));
    assert_eq!((connections.len(), connections.in_zone(9), directory.len()), (64, 0, 128));
    assert_eq!(connections.lookup(9, &udp(0), NOW), None);
    let (id, _) = connections.lookup(8, &udp(3), NOW).unwrap();
    connections.close(id, EndReason::Flushed).unwrap();
    start(&mut connections, &new(9, udp(0), OTHER), NOW).unwrap();
}

#[test]
fn a_commit_that_lost_a_race_is_refused_and_leaves_nothing() {
    let mut connections = open(small());
    let prepared = connections.prepare(&new(7, udp(1), OTHER), NOW).unwrap();
    connections.commit(&prepared, &passing(OTHER), NOW).unwrap();
    assert_eq!(connections.commit(&prepared, &passing(OTHER), NOW), Err(DropReason::ConnectionClash));
    assert_eq!(connections.prepare(&new(7, udp(1), OTHER), NOW).unwrap_err(), DropReason::ConnectionClash);
    assert_eq!(connections.prepare(&new(7, udp(1).inverse(), OTHER), NOW).unwrap_err(), DropReason::ConnectionClash);
    assert_eq!(connections.len(), 1);
}

#[test]
fn an_id_never_names_a_second_connection() {
    let mut connections = open(small());
    let old = start(&mut connections, &new(7, udp(1), OTHER), NOW).unwrap();
    let track = connections.observe(7, Some(&udp(1)), &OTHER, NOW).track.unwrap();
    assert_eq!(connections.close(old, EndReason::PolicyChanged).unwrap().original, udp(1));
    assert!(connections.close(old, EndReason::PolicyChanged).is_none());
    assert!(!connections.set_mark(old, 5));
    let young = start(&mut connections, &new(7, udp(1), OTHER), NOW).unwrap();
    assert_eq!(old.index, young.index);
    assert_ne!(old, young);
    assert!(connections.get(old).is_none());
    assert_eq!(connections.touch(&track, &passing(OTHER), NOW), Touched::Stale);
    let stray = ConnectionId { index: 1_000_000, generation: 0 };
    assert!(connections.get(stray).is_none());
}

#[test]
fn a_mark_changes_what_rules_see() {
    let mut connections = open(small());
    let id = start(&mut connections, &New { mark: 3, ..new(7, udp(1), OTHER) }, NOW).unwrap();
    let track = connections.observe(7, Some(&udp(1)), &OTHER, NOW).track.unwrap();
    assert!(connections.set_mark(id, 3));
    assert_eq!(connections.touch(&track, &passing(OTHER), NOW), Touched::Passed, "the same mark changes nothing");
    assert!(connections.set_mark(id, 4));
    assert_eq!(connections.touch(&track, &passing(OTHER), NOW), Touched::Stale);
    assert_eq!(connections.observe(7, Some(&udp(1)), &OTHER, NOW).mark, 4);
}

#[test]
fn what_is_no_beginning_is_invalid() {
    let connections = open(small());
    let answer = Tuple::ipv4(protocol::ICMP, (CLIENT, 9), (SERVER, 9)).inverse();
    let invalid = CtState::INVALID | CtState::TRACKED;
    assert_eq!(connections.observe(7, Some(&answer), &OTHER, NOW).state, invalid);
    assert_eq!(connections.observe(7, None, &OTHER, NOW).state, invalid);
    assert_eq!(connections.prepare(&new(7, answer, OTHER), NOW).unwrap_err(), DropReason::InvalidState);
    let web = Tuple::ipv4(protocol::TCP, (CLIENT, 9), (SERVER, 80));
    let data = tcp(tcp_flag::ACK, 1, 1, 10);
    assert_eq!(connections.observe(7, Some(&web), &data, NOW).state, invalid);
    assert_eq!(connections.observe(7, Some(&web), &OTHER, NOW).state, invalid, "a TCP header cut short");
    assert_eq!(connections.prepare(&new(7, web, data), NOW).unwrap_err(), DropReason::InvalidState);
}

#[test]
fn lists_are_filtered_by_either_end() {
    let mut connections = open(small());
    start(&mut connections, &New { mark: 0x10, ..new(7, udp(1), OTHER) }, NOW).unwrap();
    let echo = Tuple::ipv4(protocol::ICMP, (CLIENT, 77), (EXTERNAL, 77));
    start(&mut connections, &new(8, echo, OTHER), NOW).unwrap();
    let count = |filter: Filter| connections.iter(&filter, NOW).count();
    assert_eq!(count(Filter::default()), 2);
    assert_eq!(count(Filter { zone: Some(8), ..Filter::default() }), 1);
    assert_eq!(count(Filter { protocol: Some(protocol::UDP), ..Filter::default() }), 1);
    assert_eq!(count(Filter { address: Some(CLIENT.into()), ..Filter::default() }), 2);
    assert_eq!(count(Filter { address: Some(SERVER.into()), ..Filter::default() }), 1);
    assert_eq!(count(Filter { port: Some(53), ..Filter::default() }), 1);
    assert_eq!(count(Filter { mark: Some((0x10, 0xf0)), ..Filter::default() }), 1);
    assert_eq!(count(Filter { zone: Some(8), port: Some(53), ..Filter::default() }), 0);
    let (both, all) = (Filter::default(), usize::MAX);
    let (found, next) = connections.page(&both, NOW, 0, 1);
    assert_eq!((found.count(), next), (1, Some(1)));
    let (found, next) = connections.page(&both, NOW, 1, all);
    assert_eq!((found.count(), next), (1, None));
    assert_eq!(connections.page(&both, NOW, 99, all).0.count(), 0);
}
