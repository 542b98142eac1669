use super::*;
use crate::limits::neighbour::KNOWN_OR_ASKED;

const SECOND: u64 = 1_000_000;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const ASKER: Asker = Asker { source: Ipv4Addr::new(192, 0, 2, 1), mac: [2, 0, 0, 0, 0, 1] };

fn hop(last: u32) -> Hop {
    Hop { port: 2, vlan: 0, address: Ipv4Addr::from_bits(0xc612_0000 + last) }
}

fn request(hop: Hop, to: Option<[u8; 6]>) -> Request {
    Request { hop, asker: ASKER, to }
}

fn states(neighbours: &Neighbours) -> Vec<&'static str> {
    neighbours.list().iter().map(|listed| listed.state).collect()
}

/// One that knows this hop since `now`.
fn knows(hop: Hop, now: u64) -> (Neighbours, Arc<Used>) {
    let mut neighbours = Neighbours::default();
    neighbours.ask(hop, ASKER, 1, now);
    assert!(neighbours.learn(hop, MAC, now), "it had been asked for");
    let Sight::Known(MAC, used) = neighbours.look(&hop, 1) else { panic!("it is not known") };
    (neighbours, used)
}

#[test]
fn what_does_not_answer_is_asked_for_three_times_then_refused_then_asked_for_again() {
    let mut neighbours = Neighbours::default();
    let hop = hop(1);
    assert_eq!(neighbours.ask(hop, ASKER, 1, 0), Asked::Waits(Some(request(hop, None))));
    assert_eq!(neighbours.ask(hop, ASKER, 1, 10), Asked::Waits(None));
    assert_eq!(neighbours.ask(hop, ASKER, 1, 20), Asked::Waits(None));
    assert!(matches!(neighbours.look(&hop, 1), Sight::Refused), "three frames wait");
    assert_eq!(neighbours.ask(hop, ASKER, 1, 30), Asked::Refused);
    assert_eq!(neighbours.service(SECOND - 1), []);
    assert_eq!(neighbours.service(SECOND), [request(hop, None)]);
    assert_eq!(neighbours.due(), Some(2 * SECOND));
    assert_eq!(neighbours.service(2 * SECOND), [request(hop, None)]);
    assert!(neighbours.is_asked(&hop));
    assert_eq!(neighbours.service(3 * SECOND), []);
    assert!(!neighbours.is_asked(&hop));
    assert_eq!(states(&neighbours), ["failed"]);
    assert!(matches!(neighbours.look(&hop, 1), Sight::Refused));
    neighbours.service(8 * SECOND - 1);
    assert_eq!(neighbours.ask(hop, ASKER, 1, 8 * SECOND - 1), Asked::Refused);
    neighbours.service(8 * SECOND);
    assert_eq!(neighbours.ask(hop, ASKER, 1, 8 * SECOND), Asked::Waits(Some(request(hop, None))));
    assert_eq!(neighbours.take_changed(), [], "no program was made from any of this");
}

#[test]
fn nobody_is_learnt_who_was_not_asked_for() {
    let mut neighbours = Neighbours::default();
    assert!(!neighbours.is_news(&hop(1), MAC, 0));
    assert!(!neighbours.learn(hop(1), MAC, 0));
    assert_eq!(neighbours.list(), []);
    let elsewhere = Hop { vlan: 7, ..hop(1) };
    neighbours.ask(elsewhere, ASKER, 1, 0);
    assert!(!neighbours.learn(hop(1), MAC, 0), "not in that VLAN");
    assert!(neighbours.learn(elsewhere, MAC, 0));
}

#[test]
fn who_moves_changes_and_who_stays_does_not() {
    let (mut neighbours, _) = knows(hop(1), 0);
    assert!(!neighbours.is_news(&hop(1), MAC, SECOND - 1));
    assert!(neighbours.is_news(&hop(1), MAC, SECOND));
    assert!(!neighbours.learn(hop(1), MAC, SECOND));
    assert_eq!(neighbours.take_changed(), []);
    assert!(neighbours.is_news(&hop(1), [4; 6], SECOND));
    assert!(!neighbours.learn(hop(1), [4; 6], SECOND));
    assert_eq!(neighbours.take_changed(), [hop(1)]);
    assert!(matches!(neighbours.look(&hop(1), 1), Sight::Known([4, 4, 4, 4, 4, 4], _)));
}

#[test]
fn what_is_used_is_verified_where_it_was() {
    let (mut neighbours, used) = knows(hop(1), 0);
    used.mark(10 * SECOND);
    assert_eq!(neighbours.service(30 * SECOND - 1), []);
    assert_eq!(neighbours.service(30 * SECOND), [request(hop(1), Some(MAC))]);
    assert_eq!(states(&neighbours), ["probe"]);
    assert!(matches!(neighbours.look(&hop(1), 1), Sight::Known(..)), "until it fails to answer");
    assert!(!neighbours.learn(hop(1), MAC, 30 * SECOND + 5));
    assert_eq!(states(&neighbours), ["reachable"]);
    assert_eq!(neighbours.take_changed(), [], "its programs go on");

    used.mark(40 * SECOND);
    let probes: Vec<usize> = (60..70).map(|second| neighbours.service(second * SECOND + 5).len()).collect();
    assert_eq!(probes, [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(neighbours.list(), []);
    assert_eq!(neighbours.take_changed(), [hop(1)]);
}

#[test]
fn what_is_not_used_is_forgotten_without_a_word() {
    let (mut neighbours, _) = knows(hop(1), 0);
    assert!((1..600).all(|tenth| neighbours.service(tenth * SECOND / 10).is_empty()));
    assert_eq!(states(&neighbours), ["reachable"]);
    assert_eq!(neighbours.service(60 * SECOND), []);
    assert_eq!(neighbours.list(), []);
    assert_eq!(neighbours.take_changed(), [hop(1)]);
    assert_eq!(neighbours.due(), None);
}

#[test]
fn one_port_cannot_have_everything_asked_for() {
    let mut neighbours = Neighbours::default();
    for number in 0..ASKED_PER_PORT as u32 {
        assert!(matches!(neighbours.ask(hop(number), ASKER, 1, 0), Asked::Waits(Some(_))));
    }
    assert_eq!(neighbours.ask(hop(5000), ASKER, 1, 0), Asked::Refused);
    assert!(matches!(neighbours.look(&hop(5000), 1), Sight::Refused));
    assert!(matches!(neighbours.ask(hop(5000), ASKER, 7, 0), Asked::Waits(Some(_))), "another port can");
    assert!(neighbours.learn(hop(0), MAC, 0));
    assert!(matches!(neighbours.ask(hop(5001), ASKER, 1, 0), Asked::Waits(Some(_))), "one has answered");
    // Those that were refused count until they are forgotten.
    (1..4).for_each(|second| drop(neighbours.service(second * SECOND)));
    assert_eq!(neighbours.ask(hop(5002), ASKER, 1, 4 * SECOND), Asked::Refused);
    neighbours.service(8 * SECOND);
    assert!(matches!(neighbours.ask(hop(5002), ASKER, 1, 8 * SECOND), Asked::Waits(Some(_))));
}

#[test]
fn what_was_used_longest_ago_makes_room() {
    let mut neighbours = Neighbours::default();
    for number in 0..KNOWN_OR_ASKED as u32 {
        assert!(matches!(neighbours.ask(hop(number), ASKER, 1, 0), Asked::Waits(_)));
        neighbours.learn(hop(number), MAC, u64::from(number));
    }
    let Sight::Known(_, used) = neighbours.look(&hop(0), 1) else { panic!("it is not known") };
    used.mark(u64::from(u32::MAX));
    assert!(matches!(neighbours.ask(hop(9999), ASKER, 1, 0), Asked::Waits(_)));
    assert_eq!(neighbours.list().len(), KNOWN_OR_ASKED);
    assert_eq!(neighbours.take_changed(), [hop(1)]);
}

#[test]
fn a_port_takes_what_is_behind_it_along() {
    let (mut neighbours, _) = knows(hop(1), 0);
    let other = Hop { port: 3, ..hop(1) };
    neighbours.ask(other, ASKER, 1, 0);
    neighbours.forget_port(2);
    assert_eq!(neighbours.list().iter().map(|listed| listed.hop).collect::<Vec<_>>(), [other]);
    assert_eq!(neighbours.take_changed(), [hop(1)]);
    neighbours.forget_port(3);
    for number in 0..ASKED_PER_PORT as u32 {
        assert!(matches!(neighbours.ask(hop(number), ASKER, 1, 0), Asked::Waits(Some(_))), "its share is free again");
    }
}
