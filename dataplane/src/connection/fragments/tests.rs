use super::*;
use crate::packet::header::protocol;
use proptest::prelude::*;

const NOW: u64 = 5_000_000;

fn seen(identification: u16, offset: u32, length: u32, more: bool) -> Seen {
    let datagram = Datagram {
        zone: 1,
        source: [10, 0, 0, 1],
        destination: [10, 0, 0, 2],
        protocol: protocol::UDP,
        identification,
    };
    let first = First {
        ports: [[0x13, 0x88], [0, 53]],
        icmp_identifier: [0; 2],
        tcp_flags: [0; 2],
        transport: Transport::Other,
        quoted: None,
    };
    Seen {
        datagram,
        fragment: Fragment { identification, offset, length, more },
        in_port: 1,
        first: (offset == 0).then_some(first),
    }
}

/// What a walk sees, and the worker then remembers: "follows", "early", or the drop reason.
fn pass(fragments: &mut Fragments, seen: &Seen, now: u64) -> &'static str {
    let standing = fragments.look(seen, now);
    fragments.note(seen, now);
    match standing {
        Standing::Follows(first) => {
            assert_eq!(first.ports[1], [0, 53]);
            "follows"
        }
        Standing::Early => "early",
        Standing::Refused(reason) => reason.word(),
    }
}

#[test]
fn later_fragments_follow_the_first_one_until_all_have_come() {
    let mut fragments = Fragments::default();
    assert_eq!(pass(&mut fragments, &seen(7, 1480, 1480, true), NOW), "early");
    assert_eq!(pass(&mut fragments, &seen(7, 0, 1480, true), NOW), "follows");
    assert_eq!(pass(&mut fragments, &seen(7, 2960, 100, false), NOW), "follows");
    assert_eq!(fragments.len(), 1);
    assert_eq!(pass(&mut fragments, &seen(7, 1480, 1480, true), NOW), "follows");
    assert!(fragments.is_empty(), "complete, forgotten");
    assert_eq!(pass(&mut fragments, &seen(7, 1480, 1480, true), NOW), "early", "of another one of the same number");
}

#[test]
fn what_differs_in_anything_is_another_datagram() {
    let mut fragments = Fragments::default();
    assert_eq!(pass(&mut fragments, &seen(7, 0, 1480, true), NOW), "follows");
    let later = seen(7, 1480, 8, true);
    let others = [
        Datagram { zone: 2, ..later.datagram },
        Datagram { source: [10, 0, 0, 3], ..later.datagram },
        Datagram { destination: [10, 0, 0, 3], ..later.datagram },
        Datagram { protocol: protocol::TCP, ..later.datagram },
        Datagram { identification: 8, ..later.datagram },
    ];
    for datagram in others {
        assert_eq!(pass(&mut fragments, &Seen { datagram, ..later }, NOW), "early", "{datagram:?}");
    }
    assert_eq!(pass(&mut fragments, &later, NOW), "follows");
}

#[test]
fn an_overlap_ends_the_datagram() {
    // A part of what passed; beyond the end; an end before what passed; another end; a first one of other length.
    let overlaps = [
        vec![(0, 80, true), (72, 80, true)],
        vec![(0, 80, true), (160, 80, true), (80, 160, true)],
        vec![(0, 80, true), (160, 80, false), (240, 80, true)],
        vec![(0, 80, true), (160, 80, true), (80, 40, false)],
        vec![(0, 80, true), (160, 80, false), (80, 40, false)],
        vec![(0, 80, true), (0, 88, true)],
    ];
    for attack in overlaps {
        let mut fragments = Fragments::default();
        let (last, before) = attack.split_last().unwrap();
        for &(offset, length, more) in before {
            assert_eq!(pass(&mut fragments, &seen(7, offset, length, more), NOW), "follows", "{attack:?}");
        }
        assert_eq!(pass(&mut fragments, &seen(7, last.0, last.1, last.2), NOW), "fragment_overlap", "{attack:?}");
        assert_eq!(pass(&mut fragments, &seen(7, 8000, 80, true), NOW), "fragment_overlap", "{attack:?}: ended");
        assert_eq!(pass(&mut fragments, &seen(7, 0, 80, true), NOW), "fragment_overlap", "{attack:?}: ended");
    }
}

#[test]
fn a_repetition_is_dropped_alone() {
    let mut fragments = Fragments::default();
    assert_eq!(pass(&mut fragments, &seen(7, 0, 80, true), NOW), "follows");
    assert_eq!(pass(&mut fragments, &seen(7, 0, 80, true), NOW), "fragment_overlap");
    assert_eq!(pass(&mut fragments, &seen(7, 80, 80, true), NOW), "follows");
    assert_eq!(pass(&mut fragments, &seen(7, 80, 80, true), NOW), "fragment_overlap");
    assert_eq!(pass(&mut fragments, &seen(7, 160, 1, false), NOW), "follows");
    assert!(fragments.is_empty());
}

#[test]
fn what_cannot_be_a_fragment_is_malformed() {
    for (offset, length, more) in [(0, 7, true), (0, 0, true), (8, 0, false), (65_528, 16, false)] {
        let mut fragments = Fragments::default();
        assert_eq!(pass(&mut fragments, &seen(7, offset, length, more), NOW), "malformed");
        assert!(fragments.is_empty());
        assert_eq!(pass(&mut fragments, &seen(7, 0, 8, true), NOW), "follows");
        if offset > 0 {
            assert_eq!(pass(&mut fragments, &seen(7, offset, length, more), NOW), "malformed");
            assert_eq!(pass(&mut fragments, &seen(7, 8, 8, true), NOW), "fragment_overlap", "it ended its datagram");
        }
    }
}

#[test]
fn a_datagram_is_forgotten_a_second_after_its_last_fragment() {
    let mut fragments = Fragments::default();
    assert_eq!(pass(&mut fragments, &seen(7, 0, 80, true), NOW), "follows");
    assert_eq!(pass(&mut fragments, &seen(7, 80, 80, true), NOW + 900_000), "follows");
    assert_eq!(pass(&mut fragments, &seen(7, 160, 80, true), NOW + 1_899_999), "follows");
    fragments.expire(NOW + 2_800_000);
    assert_eq!(fragments.len(), 1);
    assert_eq!(pass(&mut fragments, &seen(7, 240, 80, true), NOW + 2_900_000), "early", "whether swept or not");
    assert!(fragments.is_empty());
    // A first one takes the place of what is past its deadline.
    assert_eq!(pass(&mut fragments, &seen(7, 0, 80, true), NOW), "follows");
    assert_eq!(pass(&mut fragments, &seen(7, 0, 160, true), NOW + 1_000_000), "follows");
    fragments.expire(NOW + 2_000_000);
    assert!(fragments.is_empty() && fragments.ports.is_empty());
}

#[test]
fn one_port_cannot_take_all() {
    let mut fragments = Fragments::default();
    for identification in 0..limits::DATAGRAMS_PER_PORT as u16 {
        assert_eq!(pass(&mut fragments, &seen(identification, 0, 80, true), NOW), "follows");
    }
    let one_more = seen(60_000, 0, 80, true);
    assert_eq!(pass(&mut fragments, &one_more, NOW), "fragment_limit");
    assert_eq!(pass(&mut fragments, &Seen { in_port: 2, ..one_more }, NOW), "follows");
    fragments.expire(NOW + limits::PATIENCE);
    assert!(fragments.is_empty() && fragments.ports.is_empty());
    assert_eq!(pass(&mut fragments, &one_more, NOW + limits::PATIENCE), "follows");
}

#[test]
fn gaps_are_bounded_and_can_still_be_closed() {
    let mut fragments = Fragments::default();
    assert_eq!(pass(&mut fragments, &seen(7, 0, 8, true), NOW), "follows");
    for gap in 1..=limits::GAPS as u32 {
        assert_eq!(pass(&mut fragments, &seen(7, gap * 16, 8, true), NOW), "follows");
    }
    assert_eq!(pass(&mut fragments, &seen(7, 8000, 8, true), NOW), "fragment_limit");
    for gap in 0..=limits::GAPS as u32 {
        assert_eq!(pass(&mut fragments, &seen(7, gap * 16 + 8, 8, gap < limits::GAPS as u32), NOW), "follows");
    }
    assert!(fragments.is_empty());
}

#[test]
fn early_fragments_wait_in_order_and_not_for_ever() {
    let mut waiting = Waiting::default();
    for index in 0..3 {
        waiting.hold(&seen(7, 80 * (index + 1), 80, true), index, 94, NOW + u64::from(index)).unwrap();
    }
    waiting.hold(&seen(8, 80, 80, true), 9, 94, NOW).unwrap();
    assert_eq!(waiting.len(), 4);
    assert_eq!(waiting.release(&seen(7, 0, 80, true).datagram), [0_u32, 1, 2]);
    assert!(waiting.release(&seen(7, 0, 80, true).datagram).is_empty());
    assert!(waiting.expire(NOW + limits::PATIENCE - 1).is_empty());
    assert_eq!(waiting.expire(NOW + limits::PATIENCE), [9]);
    assert!(waiting.is_empty() && waiting.ports.is_empty() && waiting.held.is_empty());
    waiting.hold(&seen(8, 80, 80, true), 1, 94, NOW).unwrap();
    waiting.hold(&seen(8, 160, 80, true), 2, 94, NOW).unwrap();
    assert_eq!(waiting.withdraw(|what| *what == 1), [1]);
    assert_eq!((waiting.len(), waiting.all), (1, (1, 94)));
}

#[test]
fn early_fragments_of_one_port_are_bounded_in_number_and_bytes() {
    let mut waiting = Waiting::default();
    for index in 0..limits::EARLY_PER_PORT {
        waiting.hold(&seen(index as u16, 80, 80, true), (), 94, NOW).unwrap();
    }
    let one_more = seen(60_000, 80, 80, true);
    assert!(waiting.hold(&one_more, (), 94, NOW).is_err());
    let other = Seen { in_port: 2, ..one_more };
    let large = limits::EARLY_BYTES_PER_PORT / 2;
    waiting.hold(&other, (), large, NOW).unwrap();
    waiting.hold(&other, (), large, NOW).unwrap();
    assert!(waiting.hold(&other, (), 1, NOW).is_err());
    waiting.hold(&Seen { in_port: 3, ..one_more }, (), 94, NOW).unwrap();
}

proptest! {
    /// Against a map of bytes: who follows is never told apart from the first one's datagram, no byte passes
    /// twice, and a datagram cut at random is forgotten exactly with its last piece, whatever the order.
    #[test]
    fn no_byte_passes_twice(cuts in proptest::collection::vec((0_u32..40, 1_u32..12, any::<bool>()), 1..60)) {
        let mut fragments = Fragments::default();
        pass(&mut fragments, &seen(7, 0, 16, true), NOW);
        let mut bytes = [false; 8 * 60];
        bytes[..16].fill(true);
        for (offset, length, more) in cuts.into_iter().filter(|cut| cut.0 > 0) {
            let (offset, length) = (offset * 8, length * 8);
            if pass(&mut fragments, &seen(7, offset, length, more), NOW) == "follows" {
                let passed = &mut bytes[offset as usize..(offset + length) as usize];
                prop_assert!(passed.iter().all(|byte| !byte), "{offset}+{length}");
                passed.fill(true);
            }
        }
    }

    #[test]
    fn any_order_completes(
        lengths in proptest::collection::vec(1_u32..200, 2..40),
        order in proptest::collection::vec(any::<u32>(), 40),
    ) {
        let mut offset = 0;
        let count = lengths.len();
        let mut pieces: Vec<Seen> = Vec::new();
        for (index, length) in lengths.iter().enumerate() {
            pieces.push(seen(7, offset, length * 8, index + 1 < count));
            offset += length * 8;
        }
        let (first, later) = pieces.split_first().unwrap();
        let mut later: Vec<(u32, Seen)> = order.into_iter().zip(later.iter().copied()).collect();
        later.sort_by_key(|piece| piece.0);
        let mut fragments = Fragments::default();
        prop_assert_eq!(pass(&mut fragments, first, NOW), "follows");
        for (_, piece) in &later {
            prop_assert_eq!(fragments.len(), 1);
            prop_assert_eq!(pass(&mut fragments, piece, NOW), "follows");
        }
        prop_assert!(fragments.is_empty());
    }
}
