//! Every transition of TCP, and what an attacker outside the path cannot do.

use super::Direction::{Original, Reply};
use super::State::{CloseWait, Closed, Established, FinWait, LastAck, SynReceived, SynSent, SynSentBoth, TimeWait};
use super::*;
use crate::connection::protocol::{Progress, Verdict, begin, continue_with, continues};
use crate::limits::connection as limits;
use crate::packet::header::tcp_flag::{ACK, FIN, RST, SYN};
use proptest::prelude::*;

fn after(progress: &Progress, direction: Direction, transport: Transport) -> Verdict {
    progress.after(protocol::TCP, direction, &transport)
}

/// A connection in the state, by honest segments: the client has sent up to 101, the server up to 501.
fn at(state: State) -> Progress {
    let segments: &[(Direction, u16, u32, u32)] = match state {
        SynSent => &[],
        SynSentBoth => &[(Reply, SYN, 500, 0)],
        SynReceived => &[(Reply, SYN | ACK, 500, 101)],
        Established => &[(Reply, SYN | ACK, 500, 101), (Original, ACK, 101, 501)],
        FinWait => &[(Reply, SYN | ACK, 500, 101), (Original, ACK, 101, 501), (Original, FIN | ACK, 101, 501)],
        CloseWait => &[
            (Reply, SYN | ACK, 500, 101),
            (Original, ACK, 101, 501),
            (Original, FIN | ACK, 101, 501),
            (Reply, ACK, 501, 102),
        ],
        LastAck => &[
            (Reply, SYN | ACK, 500, 101),
            (Original, ACK, 101, 501),
            (Original, FIN | ACK, 101, 501),
            (Reply, FIN | ACK, 501, 102),
        ],
        TimeWait => &[
            (Reply, SYN | ACK, 500, 101),
            (Original, ACK, 101, 501),
            (Original, FIN | ACK, 101, 501),
            (Reply, FIN | ACK, 501, 102),
            (Original, ACK, 102, 502),
        ],
        Closed => &[(Reply, SYN | ACK, 500, 101), (Original, ACK, 101, 501), (Original, RST, 101, 0)],
        _ => unreachable!("not a state of TCP"),
    };
    let mut progress = begin(protocol::TCP, &tcp(SYN, 100, 0, 0), false).unwrap();
    for &(direction, flags, sequence, acknowledgement) in segments {
        let transport = tcp(flags, sequence, acknowledgement, 0);
        let Verdict::Pass(next) = after(&progress, direction, transport) else { panic!("{state:?} by {transport:?}") };
        progress = next;
    }
    assert_eq!(progress.state, state);
    progress
}

const STATES: [State; 9] =
    [SynSent, SynSentBoth, SynReceived, Established, FinWait, CloseWait, LastAck, TimeWait, Closed];

/// What a cell of the table says.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cell {
    To(State),
    /// Passes, and nothing changes but that it may count as a reply.
    Stays,
    Invalid,
    Reopens,
}

use Cell::{Invalid, Reopens, Stays, To};

/// The segments, with numbers that fit a side which has sent up to 101 or 501 (102 and 502 after its FIN).
fn segment(kind: &str, direction: Direction, progress: &Progress) -> Transport {
    let (own, other) = (progress.sides[direction as usize], progress.sides[direction.opposite() as usize]);
    let fin_sent = progress.fins[direction as usize];
    let next = if fin_sent { own.end.wrapping_sub(1) } else { own.end };
    match kind {
        "syn" => tcp(SYN, if direction == Original { 100 } else { 500 }, 0, 0),
        "syn_ack" => tcp(SYN | ACK, if direction == Original { 100 } else { 500 }, other.end, 0),
        "ack" => tcp(ACK, own.end, other.end, 0),
        "fin" => tcp(FIN | ACK, next, other.end, 0),
        "rst" => tcp(RST | ACK, own.end, other.end, 0),
        _ => unreachable!(),
    }
}

#[test]
fn every_transition_is_as_the_table_says() {
    // The columns are STATES, in order.
    let table: &[(&str, Direction, [Cell; 9])] = &[
        ("syn", Original, [Stays, Stays, Stays, Stays, Stays, Stays, Stays, Reopens, Reopens]),
        ("syn", Reply, [To(SynSentBoth), Stays, Stays, Stays, Stays, Stays, Stays, Reopens, Reopens]),
        ("syn_ack", Original, [Invalid, To(SynReceived), Stays, Invalid, Invalid, Invalid, Invalid, Invalid, Invalid]),
        ("syn_ack", Reply, [To(SynReceived), To(SynReceived), Stays, Stays, Stays, Stays, Stays, Stays, Stays]),
        ("ack", Original, [Invalid, Invalid, To(Established), Stays, Stays, Stays, To(TimeWait), Stays, Stays]),
        ("ack", Reply, [Stays, Stays, Stays, Stays, To(CloseWait), Stays, Stays, Stays, Stays]),
        ("fin", Original, [Invalid, Invalid, To(FinWait), To(FinWait), Stays, Stays, To(TimeWait), Stays, Stays]),
        ("fin", Reply, [Invalid, Invalid, To(FinWait), To(FinWait), To(LastAck), To(LastAck), Stays, Stays, Stays]),
        (
            "rst",
            Original,
            [To(Closed), To(Closed), To(Closed), To(Closed), To(Closed), To(Closed), To(Closed), To(Closed), Stays],
        ),
        (
            "rst",
            Reply,
            [To(Closed), To(Closed), To(Closed), To(Closed), To(Closed), To(Closed), To(Closed), To(Closed), Stays],
        ),
    ];
    assert_eq!(table.len(), 10, "five kinds of segments, two directions");
    for &(kind, direction, row) in table {
        for (state, expected) in STATES.into_iter().zip(row) {
            let before = at(state);
            let transport = segment(kind, direction, &before);
            let found = match after(&before, direction, transport) {
                Verdict::Pass(next) if next.state == state => Stays,
                Verdict::Pass(next) => To(next.state),
                Verdict::Invalid => Invalid,
                Verdict::Reopen => Reopens,
            };
            assert_eq!(found, expected, "{kind} {direction:?} in {state:?}");
        }
    }
}

#[test]
fn flags_that_contradict_each_other_are_invalid_in_every_state() {
    for flags in 0..0x40_u16 {
        let sense = matches!(flags & (SYN | ACK | FIN | RST), f if f == SYN || f == SYN | ACK || f == ACK
            || f == FIN | ACK || f == RST || f == RST | ACK);
        if sense {
            continue;
        }
        assert!(begin(protocol::TCP, &tcp(flags, 1, 1, 0), true).is_none(), "{flags:#x}");
        for state in STATES {
            for direction in [Original, Reply] {
                assert_eq!(after(&at(state), direction, tcp(flags, 101, 501, 0)), Verdict::Invalid, "{flags:#x}");
            }
        }
    }
}

fn state_after(progress: &Progress, direction: Direction, transport: Transport) -> State {
    match after(progress, direction, transport) {
        Verdict::Pass(next) => next.state,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_reset_is_believed_only_inside_the_receivers_window() {
    let established = at(Established);
    // The server acknowledged 101; its window, of a SYN and ACK, is 1000 and unscaled.
    for (sequence, believed) in [(101, true), (1101, true), (1102, false), (100, false), (0x8000_0000, false)] {
        let state = state_after(&established, Original, tcp(RST, sequence, 0, 0));
        assert_eq!(state == Closed, believed, "{sequence}");
    }
    // Opening: only what acknowledges the SYN.
    let opening = at(SynSent);
    assert_eq!(state_after(&opening, Reply, tcp(RST | ACK, 0, 101, 0)), Closed);
    assert_eq!(state_after(&opening, Reply, tcp(RST | ACK, 0, 100, 0)), SynSent);
    assert_eq!(state_after(&opening, Reply, tcp(RST, 0, 101, 0)), SynSent);
}

#[test]
fn a_blind_sender_cannot_move_the_window_first() {
    let mut progress = at(Established);
    // Acknowledges what was never sent, and sends what nobody allowed.
    for (direction, transport) in [
        (Reply, tcp(ACK, 501, 0x4000_0000, 0)),
        (Reply, tcp(ACK, 0x4000_0000, 101, 10)),
        (Original, tcp(ACK, 0x4000_0000, 501, 10)),
    ] {
        let Verdict::Pass(next) = after(&progress, direction, transport) else { panic!("data are never invalid") };
        progress = next;
    }
    assert_eq!((progress.sides[0].end, progress.sides[1].end), (101, 501));
    assert_eq!(state_after(&progress, Original, tcp(RST, 0x4000_0000, 0, 0)), Established);
    assert_eq!(state_after(&progress, Original, tcp(FIN | ACK, 0x4000_0000, 501, 0)), Established);
    assert_eq!(state_after(&progress, Original, tcp(RST, 101, 0, 0)), Closed);
}

#[test]
fn windows_are_scaled_as_both_sides_agreed() {
    let mut progress = at(Established);
    // 1000 << 2, since both SYNs had a scale of 2.
    let Verdict::Pass(next) = after(&progress, Reply, tcp(ACK, 501, 101, 0)) else { panic!() };
    progress = next;
    assert_eq!(progress.sides[1].window, 4000);
    assert_eq!(state_after(&progress, Original, tcp(RST, 101 + 4000, 0, 0)), Closed);
    assert_eq!(state_after(&progress, Original, tcp(RST, 101 + 4001, 0, 0)), Established);
}

#[test]
fn a_merged_segment_of_64_kilobytes_is_followed() {
    let mut progress = at(Established);
    let large = Transport::Tcp(Segment {
        flags: ACK,
        sequence: 501,
        acknowledgement: 101,
        window: 60_000,
        scale: None,
        payload: 0,
    });
    let Verdict::Pass(next) = after(&progress, Reply, large) else { panic!() };
    progress = next;
    let Verdict::Pass(next) = after(&progress, Original, tcp(ACK, 101, 501, 64_000)) else { panic!() };
    assert_eq!(next.sides[0].end, 64_101);
}

#[test]
fn numbers_wrap() {
    let mut progress = begin(protocol::TCP, &tcp(SYN, u32::MAX, 0, 0), false).unwrap();
    for (direction, transport, state) in [
        (Reply, tcp(SYN | ACK, u32::MAX - 1, 0, 0), SynReceived),
        (Original, tcp(ACK, 0, u32::MAX, 0), Established),
        (Reply, tcp(ACK, u32::MAX, 0, 300), Established),
        (Original, tcp(ACK, 0, 299, 0), Established),
        (Reply, tcp(FIN | ACK, 299, 0, 0), FinWait),
        (Original, tcp(FIN | ACK, 0, 300, 0), LastAck),
        (Reply, tcp(ACK, 300, 1, 0), TimeWait),
    ] {
        let Verdict::Pass(next) = after(&progress, direction, transport) else { panic!("{transport:?}") };
        assert_eq!(next.state, state, "{transport:?}");
        progress = next;
    }
}

#[test]
fn a_syn_with_data_may_be_acknowledged_with_them_or_without() {
    let open = begin(protocol::TCP, &tcp(SYN, 100, 0, 20), false).unwrap();
    for (acknowledgement, fits) in [(100, false), (101, true), (121, true), (122, false)] {
        let verdict = after(&open, Reply, tcp(SYN | ACK, 500, acknowledgement, 0));
        assert_eq!(matches!(verdict, Verdict::Pass(next) if next.state == SynReceived), fits, "{acknowledgement}");
    }
}

#[test]
fn picking_up_in_the_middle_is_off_unless_asked_for() {
    assert!(begin(protocol::TCP, &tcp(ACK, 100, 500, 10), false).is_none());
    let progress = begin(protocol::TCP, &tcp(ACK, 100, 500, 10), true).unwrap();
    assert_eq!(progress.state, Established);
    assert!(begin(protocol::TCP, &tcp(RST, 100, 500, 0), true).is_none());
    assert!(begin(protocol::TCP, &tcp(FIN | ACK, 100, 500, 0), true).is_none());
    // The server's numbers are learnt from its first segment, and then guard like any others.
    let Verdict::Pass(progress) = after(&progress, Reply, tcp(ACK, 500, 110, 0)) else { panic!() };
    assert_eq!(state_after(&progress, Original, tcp(RST, 100, 0, 0)), Established);
    assert_eq!(state_after(&progress, Original, tcp(RST, 110, 0, 0)), Closed);
}

#[test]
fn a_whole_connection_through_the_table() {
    let mut connections = open(small());
    let forth = Tuple::ipv4(protocol::TCP, (CLIENT, 4000), (SERVER, 443));
    let back = forth.inverse();
    let (new_state, established) = (CtState::NEW | CtState::TRACKED, CtState::ESTABLISHED | CtState::TRACKED);
    let reply = established | CtState::REPLY;
    let syn = tcp(SYN, 100, 0, 0);
    let id = begin_tcp(&mut connections, &forth, syn);
    let epoch = |connections: &Connections| connections.get(id).unwrap().visible_epoch;
    let first = epoch(&connections);
    assert_eq!(send(&mut connections, 7, &forth, syn, NOW), new_state, "sent again");
    assert_eq!(epoch(&connections), first);
    assert_eq!(send(&mut connections, 7, &back, tcp(SYN | ACK, 500, 101, 0), NOW), reply);
    assert_eq!(epoch(&connections), first + 1);
    assert_eq!(send(&mut connections, 7, &forth, tcp(ACK, 101, 501, 0), NOW), established);
    assert_eq!(connections.remaining(connections.get(id).unwrap(), NOW), limits::TCP_ESTABLISHED);
    assert_eq!(send(&mut connections, 7, &forth, tcp(FIN | ACK, 101, 501, 0), NOW), established);
    assert_eq!(connections.remaining(connections.get(id).unwrap(), NOW), limits::TCP_TRANSITORY);
    assert_eq!(send(&mut connections, 7, &back, tcp(FIN | ACK, 501, 102, 0), NOW), reply);
    assert_eq!(epoch(&connections), first + 1);
    assert_eq!(send(&mut connections, 7, &forth, tcp(ACK, 102, 502, 0), NOW), established);
    assert_eq!((connections.get(id).unwrap().state(), epoch(&connections)), (TimeWait, first + 2));

    // The same ports again.
    let track = Track { id, direction: Original, visible_epoch: first + 2 };
    assert_eq!(connections.touch(&track, &passing(syn), NOW), Touched::Invalid);
    assert_eq!(connections.observe(7, Some(&forth), &syn, NOW).state, new_state);
    let again = begin_tcp(&mut connections, &forth, syn);
    assert!(connections.get(id).is_none() && connections.get(again).is_some());
    assert_eq!((connections.len(), connections.ended(EndReason::Reopened)), (1, 1));
    // And from the other side, after a reset.
    send(&mut connections, 7, &back, tcp(RST | ACK, 0, 101, 0), NOW);
    assert_eq!(connections.get(again).unwrap().state(), Closed);
    let other = begin_tcp(&mut connections, &back, syn);
    assert_eq!(connections.lookup(7, &back, NOW), Some((other, Original)));
    assert_eq!(connections.len(), 1);
}

fn begin_tcp(connections: &mut Connections, tuple: &Tuple, syn: Transport) -> ConnectionId {
    start(connections, &new(7, *tuple, syn), NOW).unwrap()
}

#[test]
fn packets_after_a_reset_do_not_keep_the_connection() {
    let mut connections = open(small());
    let forth = Tuple::ipv4(protocol::TCP, (CLIENT, 4000), (SERVER, 443));
    begin_tcp(&mut connections, &forth, tcp(SYN, 100, 0, 0));
    send(&mut connections, 7, &forth.inverse(), tcp(RST | ACK, 0, 101, 0), NOW);
    send(&mut connections, 7, &forth.inverse(), tcp(ACK, 500, 101, 0), NOW + limits::TCP_RESET - 1);
    assert_eq!(connections.expire(NOW + limits::TCP_RESET, 10).removed, 1);
    assert_eq!(connections.ended(EndReason::Finished), 1);
}

#[test]
fn headers_are_read_with_their_options() {
    let mut bytes = vec![0; 28];
    bytes[4..8].copy_from_slice(&7_u32.to_be_bytes());
    bytes[8..12].copy_from_slice(&9_u32.to_be_bytes());
    bytes[12] = 7 << 4;
    bytes[13] = SYN as u8;
    bytes[14..16].copy_from_slice(&500_u16.to_be_bytes());
    bytes[20..28].copy_from_slice(&[2, 4, 5, 0xb4, 1, 3, 3, 9]);
    let read = Transport::read(protocol::TCP, &bytes, 30);
    let expected = Segment { flags: SYN, sequence: 7, acknowledgement: 9, window: 500, scale: Some(9), payload: 2 };
    assert_eq!(read, Transport::Tcp(expected));
    assert_eq!(Transport::read(protocol::TCP, &bytes[..19], 30), Transport::Other);
    assert_eq!(Transport::read(protocol::TCP, &bytes, 27), Transport::Other, "a header longer than the packet");
    assert_eq!(Transport::read(protocol::SCTP, &[0; 13], 13), Transport::Sctp(0));
    assert_eq!(Transport::read(protocol::SCTP, &[0; 12], 12), Transport::Sctp(255));
}

proptest! {
    #[test]
    fn no_bytes_break_the_reading(bytes in prop::collection::vec(any::<u8>(), 0..80), length in 0_u32..100) {
        for protocol in [protocol::TCP, protocol::SCTP, protocol::UDP] {
            let _ = Transport::read(protocol, &bytes, length);
        }
        if let Some(tuple) = Tuple::quoted(&bytes) {
            prop_assert_eq!(tuple.inverse().inverse(), tuple);
        }
    }

    /// What is judged by little is judged as by all of it.
    #[test]
    fn the_short_way_is_the_long_way(
        segments in prop::collection::vec((any::<bool>(), 0_u16..0x40, 80_u32..1200, 480_u32..1600, 0_u32..600), 1..20)
    ) {
        for state in STATES {
            let mut progress = at(state);
            for &(forth, flags, sequence, acknowledgement, payload) in &segments {
                let direction = if forth { Original } else { Reply };
                let (sequence, acknowledgement) =
                    if forth { (sequence, acknowledgement) } else { (acknowledgement, sequence) };
                let transport = tcp(flags, sequence, acknowledgement, payload);
                let verdict = after(&progress, direction, transport);
                if continues(progress.state, progress.replied, direction, &transport) {
                    let mut same = progress;
                    continue_with(&mut same.sides, direction, &transport);
                    prop_assert_eq!(verdict, Verdict::Pass(same), "{:?}", state);
                }
                if let Verdict::Pass(next) = verdict {
                    progress = next;
                }
            }
        }
    }

    /// A sender outside the path, who knows no numbers, does not end a connection whatever he sends
    /// outside the windows.
    #[test]
    fn nothing_outside_the_windows_ends_a_connection(
        forged in prop::collection::vec((any::<bool>(), 0_u16..0x40, 0x1000_0000_u32..0xf000_0000, 0x1000_0000_u32..0xf000_0000, 0_u32..60_000), 1..20)
    ) {
        let mut progress = at(Established);
        for (forth, flags, sequence, acknowledgement, payload) in forged {
            let direction = if forth { Original } else { Reply };
            if let Verdict::Pass(next) = after(&progress, direction, tcp(flags, sequence, acknowledgement, payload)) {
                progress = next;
            }
            prop_assert_eq!(progress.state, Established);
        }
        prop_assert_eq!(state_after(&progress, Original, tcp(RST, 101, 0, 0)), Closed);
    }
}

#[test]
fn sctp_opens_by_its_handshake_and_believes_no_end() {
    let run = |chunks: &[(Direction, u8)]| {
        let mut progress = begin(protocol::SCTP, &Transport::Sctp(1), false).unwrap();
        for &(direction, chunk) in chunks {
            let Verdict::Pass(next) = progress.after(protocol::SCTP, direction, &Transport::Sctp(chunk)) else {
                return None;
            };
            progress = next;
        }
        Some(progress.state)
    };
    let open = [(Reply, 2), (Original, 10), (Reply, 11)];
    assert_eq!(run(&open[..2]), Some(State::Opening));
    assert_eq!(run(&open), Some(State::Open));
    let with = |more: &[(Direction, u8)]| run(&[&open[..], more].concat());
    for end in [6, 7, 8, 14] {
        assert_eq!(with(&[(Original, end)]), Some(State::Closing));
        assert_eq!(with(&[(Original, end), (Reply, 0)]), Some(State::Open));
    }
    assert_eq!(run(&[(Original, 2)]), None, "the initiator does not answer itself");
    assert!(begin(protocol::SCTP, &Transport::Sctp(0), false).is_none());
    assert!(begin(protocol::SCTP, &Transport::Sctp(0), true).is_some());
}
