//! A network address translator in hand-written rules, against what RFC 4787 (UDP), RFC 5382 (TCP) and RFC 5508 (ICMP) ask
//! of one: `docs/nat.md` has the requirements. Both sides are written and read frame by frame, so that every checksum
//! is looked at and nothing is left to a kernel. Timeouts are tested where time can be made up, in
//! `dataplane/src/connection/tests/`.

use std::collections::{BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use weft_tests::bench::{Bench, Switch};
use weft_tests::packet::{ACK, Endpoint, FIN, Packet, RST, SYN};
use weft_tests::{eventually, serial, weft};
use weft_up::capture::packet_socket;
use weft_up::frame::{self, End};
use weft_up::namespace::ip;
use weft_up::raw::PacketSocket;

const RANGE: std::ops::RangeInclusive<u16> = 20_000..=29_999;
const ALICE: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);
const BOB: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 3);
/// The router's, towards Alice and Bob.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// A router on the way to the others outside.
const TRANSIT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);

/// Somebody outside.
fn remote(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, number)
}

/// Port 1 is Alice's, 2 Bob's, 3 leads outside, by a link of 1400 bytes. Port 8443 of the external address is Bob's 443.
/// The range has none of the ports that are used inside: whatever passes is changed.
const RULES: &[&str] = &[
    "priority=30,in_port=1,tcp,ip_dst=192.0.2.1,tcp_dst=8443,\
     actions=ct(commit,zone=5,nat(src=192.0.2.1:20000-29999,dst=10.0.1.3:443)),goto_table:1",
    "priority=10,in_port=1,ip,actions=ct(commit,zone=5,nat(src=192.0.2.1:20000-29999)),goto_table:1",
    "priority=10,in_port=2,ip,actions=ct(commit,zone=5,nat(src=192.0.2.1:20000-29999)),goto_table:1",
    "priority=20,in_port=3,tcp,ip_dst=192.0.2.1,tcp_dst=8443,\
     actions=ct(commit,zone=5,nat(dst=10.0.1.3:443)),goto_table:1",
    "priority=10,in_port=3,ip,ip_dst=192.0.2.1,actions=ct(zone=5,nat),goto_table:1",
    "priority=0,actions=drop(elsewhere)",
    "table=1,priority=20,ip,ip_dst=10.0.1.2,actions=dec_ttl,set_field:02:00:00:00:01:02->eth_dst,output:1",
    "table=1,priority=20,ip,ip_dst=10.0.1.3,actions=dec_ttl,set_field:02:00:00:00:01:03->eth_dst,output:2",
    "table=1,priority=20,ip,ip_dst=192.0.2.1,actions=drop(policy)",
    "table=1,priority=10,ip,ip_src=192.0.2.1,actions=dec_ttl,check_mtu(1400,answer=10.0.1.1,fragment),\
     set_field:02:00:00:00:02:09->eth_dst,output:3",
    "table=1,priority=0,actions=drop(policy)",
];

/// One side's interface.
struct Side {
    socket: PacketSocket,
    own: End,
    seen: VecDeque<Packet>,
}

impl Side {
    fn new(namespace: &str, own: End) -> Self {
        ip(&format!("-n {namespace} link set eth0 up")).expect("the port made an interface");
        let socket = packet_socket(namespace, "eth0").expect("eth0 is there");
        socket.ignore_outgoing().expect("the kernel is new enough");
        Self { socket, own, seen: VecDeque::new() }
    }

    fn send(&self, packet: &Packet) {
        let mut bytes = frame::ethernet(self.own.mac, [2, 0, 0, 0, 1, 1], 0x0800);
        bytes.extend(packet.bytes());
        self.socket.send(&bytes).expect("the interface is up");
    }

    /// Takes what has arrived, for so long or until a packet came.
    fn look(&mut self, patience: Duration) {
        let mut buffer = [0; 4096];
        let mut patience = patience;
        while let Some(length) = self.socket.receive(&mut buffer, patience).expect("the interface is up") {
            if buffer[12..14] == [8, 0] {
                self.seen.extend(Packet::read(&buffer[14..length]));
                patience = Duration::ZERO;
            }
        }
    }

    /// The next packet that arrives, or has arrived.
    #[track_caller]
    fn receives(&mut self) -> Packet {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.seen.is_empty() && Instant::now() < deadline {
            self.look(Duration::from_millis(100));
        }
        self.seen.pop_front().expect("a packet arrives")
    }

    /// Everything was taken, and a while later still nothing has arrived.
    #[track_caller]
    fn has_nothing(&mut self) {
        self.look(Duration::from_millis(50));
        assert_eq!(self.seen, [], "something else arrived");
    }
}

struct Translator {
    alice: Side,
    bob: Side,
    outside: Side,
    switch: Switch,
    // Last, so that it is removed last.
    _bench: Bench,
}

fn translator() -> Translator {
    let mut bench = Bench::new();
    let names = ["host", "alice", "bob", "outside"].map(|tail| bench.namespace(tail));
    // Of two workers: what is promised holds whichever of them a packet comes to.
    let switch = bench.switch("nat", &names[0]);
    let ends = [(ALICE, [2, 0, 0, 0, 1, 2]), (BOB, [2, 0, 0, 0, 1, 3]), (remote(1), [2, 0, 0, 0, 2, 9])];
    let mut sides = Vec::new();
    for (number, (address, mac)) in ends.into_iter().enumerate() {
        let namespace = &names[number + 1];
        let text: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        switch.add_port(number as u32 + 1, &format!("tap:eth0,netns={namespace},mac={}", text.join(":")));
        sides.push(Side::new(namespace, End { mac, address }));
    }
    switch.add_flows(RULES);
    let [alice, bob, outside] = sides.try_into().ok().expect("there are three");
    Translator { alice, bob, outside, switch, _bench: bench }
}

impl Translator {
    /// Alice says something by UDP; gives what it looks like outside.
    #[track_caller]
    fn alice_says(&mut self, port: u16, to: Endpoint) -> Packet {
        self.alice.send(&Packet::udp((ALICE, port), to, b"hello"));
        let seen = self.outside.receives();
        assert_eq!((seen.source, seen.to(), &seen.body[8..]), (EXTERNAL, to, &b"hello"[..]));
        seen
    }

    fn states(&self, port: u16) -> String {
        weft(&["connections", &self.switch.host, "--port", &port.to_string()]).success()
    }

    #[track_caller]
    fn dropped(&self, port: u32, reason: &str, count: u64) {
        eventually(&format!("{count} drops under {reason}"), Duration::from_secs(10), || {
            (self.switch.drops_of(port).get(reason) == Some(&count)).then_some(())
        });
    }
}

/// RFC 4787, REQ-1, 3, 4 and 11; RFC 5382, REQ-1 and 7.
#[test]
fn an_inner_end_has_one_port_of_its_own_whoever_it_speaks_to() {
    let _turn = serial();
    let mut place = translator();
    // Many remote ends, so that both workers see some of them.
    let mut outer = BTreeSet::new();
    for (address, port) in [(ALICE, 5000), (BOB, 5000), (ALICE, 5001), (BOB, 5001), (ALICE, 123)] {
        let mut ports = BTreeSet::new();
        for number in 1..=20 {
            let side = if address == ALICE { &place.alice } else { &place.bob };
            side.send(&Packet::udp((address, port), (remote(number), 1000 + u16::from(number)), b"hello"));
            ports.insert(place.outside.receives().source_port());
        }
        assert_eq!(ports.len(), 1, "of {address}:{port}: {ports:?}");
        assert!(ports.iter().all(|outer| outer % 2 == port % 2 && RANGE.contains(outer)), "{port} became {ports:?}");
        outer.extend(ports);
    }
    assert_eq!(outer.len(), 5, "none has a port that another one has: {outer:?}");
    // All this has changed nothing for the first.
    let first = place.alice_says(5000, (remote(1), 1001));
    assert_eq!(place.alice_says(5000, (remote(99), 99)).from(), first.from());

    let mut by_tcp = BTreeSet::new();
    for (address, port) in [(ALICE, 6000), (BOB, 6000)] {
        let mut ports = BTreeSet::new();
        for number in 1..=20 {
            let side = if address == ALICE { &place.alice } else { &place.bob };
            side.send(&Packet::tcp((address, port), (remote(number), 80), SYN, (1, 0), b""));
            ports.insert(place.outside.receives().source_port());
        }
        assert_eq!(ports.len(), 1, "of {address}:{port}: {ports:?}");
        by_tcp.extend(ports);
    }
    assert_eq!(by_tcp.len(), 2, "no overloading: {by_tcp:?}");
    place.outside.has_nothing();
}

/// RFC 4787, REQ-1: also if an inner end begins with many at once, at both workers.
#[test]
fn who_speaks_to_many_at_once_has_one_port_too() {
    let _turn = serial();
    let mut place = translator();
    let mut outer = BTreeSet::new();
    for port in 6000..6020 {
        for number in 1..=40 {
            place.alice.send(&Packet::udp((ALICE, port), (remote(number), 53), b"hello"));
        }
        let ports: BTreeSet<u16> = (1..=40).map(|_| place.outside.receives().source_port()).collect();
        assert_eq!(ports.len(), 1, "of {port}: {ports:?}");
        outer.extend(ports);
    }
    assert_eq!(outer.len(), 20, "no overloading: {outer:?}");
    let status = place.switch.status().expect("the switch answers");
    assert!(status.workers.iter().all(|worker| worker.packets > 50), "both have part in it: {:?}", status.workers);
}

/// RFC 4787, REQ-8: address and port-dependent.
#[test]
fn only_those_that_were_spoken_to_may_answer() {
    let _turn = serial();
    let mut place = translator();
    let outer = place.alice_says(5000, (remote(1), 53)).source_port();
    for (from, port) in [((remote(2), 53), outer), ((remote(1), 54), outer), ((remote(1), 53), outer ^ 2)] {
        place.outside.send(&Packet::udp(from, (EXTERNAL, port), b"strange"));
    }
    place.outside.send(&Packet::udp((remote(1), 53), (EXTERNAL, outer), b"answer"));
    let answer = place.alice.receives();
    assert_eq!((answer.from(), answer.to()), ((remote(1), 53), (ALICE, 5000)));
    assert_eq!(&answer.body[8..], b"answer");
    place.dropped(3, "policy", 3);
    // To Alice's own address nobody gets at all, though the router is on the way.
    place.outside.send(&Packet::udp((remote(1), 53), (ALICE, 5000), b"strange"));
    place.dropped(3, "elsewhere", 1);
    place.alice.has_nothing();
}

/// RFC 4787, REQ-12; RFC 5382, REQ-9 and 10; RFC 5508, REQ-3 to 5: whoever says it, both ways, and nothing ends by it.
#[test]
fn icmp_errors_are_translated_with_what_they_quote_and_end_nothing() {
    let _turn = serial();
    let mut place = translator();
    let out = Packet::udp((BOB, 5000), (remote(1), 53), b"hello");
    place.bob.send(&out);
    let seen = place.outside.receives();
    // Protocol, host, port unreachable; too big; too old; a parameter. All of the packet is quoted, or as little as may be.
    for kind in [(3, 2), (3, 1), (3, 3), (3, 4), (11, 0), (12, 0)] {
        for (from, most) in [(remote(1), 1000), (TRANSIT, 28)] {
            place.outside.send(&Packet::error(from, kind, &seen, most));
            let error = place.bob.receives();
            assert_eq!((error.source, error.destination, error.body[0], error.body[1]), (from, BOB, kind.0, kind.1));
            let quoted = error.quoted();
            assert_eq!((quoted.from(), quoted.to()), ((BOB, 5000), (remote(1), 53)), "as Bob sent it");
        }
    }
    place.outside.send(&Packet::udp((remote(1), 53), seen.from(), b"answer"));
    let answer = place.bob.receives();
    assert_eq!(answer.to(), (BOB, 5000), "the mapping is there");
    // And from inside, about what came from outside.
    place.bob.send(&Packet::error(BOB, (3, 3), &answer, 1000));
    let error = place.outside.receives();
    assert_eq!((error.source, error.destination), (EXTERNAL, remote(1)));
    assert_eq!((error.quoted().from(), error.quoted().to()), ((remote(1), 53), seen.from()), "as it was sent");
    place.bob.send(&out);
    assert_eq!(place.outside.receives().from(), seen.from(), "the mapping is still there");

    // About a TCP connection: it goes on. About none: nobody gets it.
    let syn = Packet::tcp((BOB, 7000), (remote(1), 80), SYN, (1, 0), b"");
    place.bob.send(&syn);
    let seen = place.outside.receives();
    place.outside.send(&Packet::error(remote(1), (3, 3), &seen, 1000));
    assert_eq!(place.bob.receives().quoted().from(), (BOB, 7000));
    place.outside.send(&Packet::tcp((remote(1), 80), seen.from(), SYN | ACK, (9, 2), b""));
    assert_eq!(place.bob.receives().to(), (BOB, 7000));
    let none = Packet::udp((EXTERNAL, 44_444), (remote(1), 53), b"never sent");
    place.outside.send(&Packet::error(remote(1), (3, 3), &none, 1000));
    place.dropped(3, "policy", 1);
    place.bob.has_nothing();
}

/// RFC 5508, REQ-1 and 2: a query's identifier is its port.
#[test]
fn pings_of_two_with_one_identifier_are_kept_apart() {
    let _turn = serial();
    let mut place = translator();
    let mut outer = Vec::new();
    for (side, address) in [(&place.alice, ALICE), (&place.bob, BOB)] {
        side.send(&Packet::echo(8, address, remote(1), 77));
        let seen = place.outside.receives();
        assert_eq!((seen.source, seen.destination, seen.body[0]), (EXTERNAL, remote(1), 8));
        outer.push(u16::from_be_bytes([seen.body[4], seen.body[5]]));
    }
    assert_ne!(outer[0], outer[1]);
    for (identifier, address) in [(outer[1], BOB), (outer[0], ALICE)] {
        place.outside.send(&Packet::echo(0, remote(1), EXTERNAL, identifier));
        let side = if address == BOB { &mut place.bob } else { &mut place.alice };
        let answer = side.receives();
        assert_eq!((answer.destination, answer.body[0], &answer.body[4..6]), (address, 0, &77_u16.to_be_bytes()[..]));
    }
    // A ping from outside is none of theirs.
    place.outside.send(&Packet::echo(8, remote(1), EXTERNAL, outer[0]));
    place.dropped(3, "policy", 1);
    place.alice.has_nothing();
}

/// RFC 4787, REQ-14.
#[test]
fn fragments_are_translated_in_any_order() {
    let _turn = serial();
    let mut place = translator();
    let payload: Vec<u8> = (0..1200_u16).map(|number| number as u8).collect();
    let inner = (BOB, 5000);
    let mut outer = None;
    for (round, order) in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]].into_iter().enumerate() {
        let fragments = Packet::udp(inner, (remote(1), 53), &payload).fragments(round as u16, 4);
        order.iter().for_each(|&index| place.bob.send(&fragments[index]));
        let seen = Packet::whole((0..4).map(|_| place.outside.receives()).collect());
        assert_eq!((seen.source, seen.to(), &seen.body[8..]), (EXTERNAL, (remote(1), 53), &payload[..]));
        assert_eq!(*outer.get_or_insert(seen.from()), seen.from());

        let fragments = Packet::udp((remote(1), 53), seen.from(), &payload).fragments(100 + round as u16, 4);
        order.iter().for_each(|&index| place.outside.send(&fragments[index]));
        let seen = Packet::whole((0..4).map(|_| place.bob.receives()).collect());
        assert_eq!((seen.from(), seen.to(), &seen.body[8..]), ((remote(1), 53), inner, &payload[..]));
    }
    // Those of a datagram without a first one go nowhere.
    let fragments = Packet::udp((remote(1), 53), outer.expect("it is known by now"), &payload).fragments(999, 4);
    fragments[1..].iter().for_each(|fragment| place.outside.send(fragment));
    place.dropped(3, "fragment_timeout", 3);
    place.bob.has_nothing();
}

/// RFC 4787, REQ-13.
#[test]
fn what_is_too_big_is_answered_or_leaves_in_fragments_in_order() {
    let _turn = serial();
    let mut place = translator();
    let payload = [7; 1430];
    let sent = Packet::udp((ALICE, 5000), (remote(1), 53), &payload);
    place.alice.send(&sent);
    let parts = [place.outside.receives(), place.outside.receives()];
    assert!(parts[0].fragment.1 == 0x2000 && parts[1].fragment.1 & 0x1fff > 0, "in order: {parts:?}");
    assert!(parts.iter().all(|part| part.bytes().len() <= 1400), "{parts:?}");
    let whole = Packet::whole(parts.to_vec());
    assert_eq!((whole.source, whole.to()), (EXTERNAL, (remote(1), 53)));
    assert!(whole.body[8..] == payload, "the payload is as it was");

    place.alice.send(&Packet { fragment: (0, 0x4000), ..sent });
    let error = place.alice.receives();
    assert_eq!((error.source, error.destination, &error.body[..2]), (GATEWAY, ALICE, &[3, 4][..]));
    assert_eq!(u16::from_be_bytes([error.body[6], error.body[7]]), 1400);
    assert_eq!((error.quoted().from(), error.quoted().to()), ((ALICE, 5000), (remote(1), 53)), "as Alice sent it");
    place.outside.has_nothing();
}

/// Both ends of a TCP connection through the translator, and the numbers that come next.
struct Session {
    inner: Endpoint,
    outer: Endpoint,
    remote: Endpoint,
    numbers: (u32, u32),
}

impl Session {
    fn outward(&self, flags: u8, payload: &[u8]) -> Packet {
        Packet::tcp(self.inner, self.remote, flags, self.numbers, payload)
    }

    fn inward(&self, flags: u8, payload: &[u8]) -> Packet {
        Packet::tcp(self.remote, self.outer, flags, (self.numbers.1, self.numbers.0), payload)
    }

    /// Alice opens it.
    #[track_caller]
    fn open(place: &mut Translator, port: u16, remote: Endpoint) -> Self {
        let mut session = Self { inner: (ALICE, port), outer: (EXTERNAL, 0), remote, numbers: (100, 0) };
        place.alice.send(&session.outward(SYN, b""));
        let seen = place.outside.receives();
        assert_eq!((seen.source, seen.to()), (EXTERNAL, remote));
        session.outer = seen.from();
        session.numbers = (101, 900);
        place.outside.send(&session.inward(SYN | ACK, b""));
        assert_eq!(place.alice.receives().to(), session.inner);
        session.numbers = (101, 901);
        place.alice.send(&session.outward(ACK, b""));
        assert_eq!(place.outside.receives().body[13], ACK);
        session.talks(place);
        session
    }

    /// Some bytes in each direction.
    #[track_caller]
    fn talks(&mut self, place: &mut Translator) {
        place.alice.send(&self.outward(ACK, b"ask"));
        let seen = place.outside.receives();
        assert_eq!((seen.from(), seen.to(), &seen.body[20..]), (self.outer, self.remote, &b"ask"[..]));
        self.numbers.0 += 3;
        place.outside.send(&self.inward(ACK, b"tell"));
        let seen = place.alice.receives();
        assert_eq!((seen.from(), seen.to(), &seen.body[20..]), (self.remote, self.inner, &b"tell"[..]));
        self.numbers.1 += 4;
        place.alice.send(&self.outward(ACK, b""));
        assert_eq!(&place.outside.receives().body[20..], b"");
    }
}

/// RFC 5382, REQ-2 to 4, 8: who opens, and how, and what becomes of what nobody asked for.
#[test]
fn tcp_opens_from_inside_at_once_from_both_sides_and_from_outside_where_that_is_permitted() {
    let _turn = serial();
    let mut place = translator();
    let first = Session::open(&mut place, 5000, (remote(1), 80));
    // Nobody asked for these; nobody is told anything, for six seconds at least.
    let begun = Instant::now();
    for port in [first.outer.1, first.outer.1 ^ 2] {
        place.outside.send(&Packet::tcp((remote(2), 80), (EXTERNAL, port), SYN, (900, 0), b""));
    }
    place.dropped(3, "policy", 2);
    // To whom the first of them came opens by itself: that one stays dropped.
    let second = Session::open(&mut place, 5000, (remote(2), 80));
    assert_eq!(second.outer, first.outer);

    // At once from both sides.
    let (inner, remote_end) = ((ALICE, 5000), (remote(3), 7001));
    place.alice.send(&Packet::tcp(inner, remote_end, SYN, (100, 0), b""));
    let outer = place.outside.receives().from();
    place.outside.send(&Packet::tcp(remote_end, outer, SYN, (900, 0), b""));
    let syn = place.alice.receives();
    assert_eq!((syn.from(), syn.to(), syn.body[13]), (remote_end, inner, SYN));
    place.alice.send(&Packet::tcp(inner, remote_end, SYN | ACK, (100, 901), b""));
    assert_eq!(place.outside.receives().body[13], SYN | ACK);
    place.outside.send(&Packet::tcp(remote_end, outer, SYN | ACK, (900, 101), b""));
    assert_eq!(place.alice.receives().body[13], SYN | ACK);
    Session { inner, outer, remote: remote_end, numbers: (101, 901) }.talks(&mut place);
    assert!(place.states(7001).contains("ESTABLISHED"), "{}", place.states(7001));

    // From outside, to the port that is Bob's; and from inside to the same, by the address outside.
    let service = (EXTERNAL, 8443);
    for from in [(remote(4), 6000), (ALICE, 6000)] {
        let outside = from.0 != ALICE;
        let asking = if outside { &place.outside } else { &place.alice };
        asking.send(&Packet::tcp(from, service, SYN, (100, 0), b""));
        let seen = place.bob.receives();
        assert_eq!(seen.to(), (BOB, 443));
        // "External source IP address and port".
        let seen_as = seen.from();
        assert!(if outside { seen_as == from } else { seen_as.0 == EXTERNAL && RANGE.contains(&seen_as.1) });
        place.bob.send(&Packet::tcp((BOB, 443), seen_as, SYN | ACK, (900, 101), b""));
        let asking = if outside { &mut place.outside } else { &mut place.alice };
        let seen = asking.receives();
        assert_eq!((seen.from(), seen.to(), seen.body[13]), (service, from, SYN | ACK));
        asking.send(&Packet::tcp(from, service, ACK, (101, 901), b"ask"));
        let seen = place.bob.receives();
        assert_eq!((seen.from(), seen.to(), &seen.body[20..]), (seen_as, (BOB, 443), &b"ask"[..]));
    }
    std::thread::sleep(Duration::from_millis(6200).saturating_sub(begun.elapsed()));
    [&mut place.outside, &mut place.alice, &mut place.bob].into_iter().for_each(Side::has_nothing);
}

/// RFC 5382, REQ-2; RFC 5961, 3.2.
#[test]
fn tcp_ends_by_both_fins_or_a_reset_that_the_receiver_would_believe() {
    let _turn = serial();
    let mut place = translator();
    let mut session = Session::open(&mut place, 5000, (remote(1), 80));
    // One that is beyond every window ends nothing.
    let far = (session.numbers.1.wrapping_add(1_000_000), 0);
    place.outside.send(&Packet::tcp(session.remote, session.outer, RST, far, b""));
    assert_eq!(place.alice.receives().body[13], RST, "Alice judges for herself");
    assert!(place.states(5000).contains("ESTABLISHED"), "{}", place.states(5000));
    session.talks(&mut place);
    place.outside.send(&session.inward(RST, b""));
    assert_eq!(place.alice.receives().body[13], RST);
    assert!(!place.states(5000).contains("ESTABLISHED"), "{}", place.states(5000));
    // The same ends may begin anew at once, by the same port.
    let outer = session.outer;
    let mut session = Session::open(&mut place, 5000, (remote(1), 80));
    assert_eq!(session.outer, outer);

    place.alice.send(&session.outward(FIN | ACK, b""));
    assert_eq!(place.outside.receives().body[13], FIN | ACK);
    session.numbers.0 += 1;
    // Half closed, it still carries data.
    place.outside.send(&session.inward(ACK, b"late"));
    assert_eq!(&place.alice.receives().body[20..], b"late");
    session.numbers.1 += 4;
    place.outside.send(&session.inward(FIN | ACK, b""));
    assert_eq!(place.alice.receives().body[13], FIN | ACK);
    session.numbers.1 += 1;
    place.alice.send(&session.outward(ACK, b""));
    assert_eq!(place.outside.receives().body[13], ACK);
    assert!(place.states(5000).contains("TIME_WAIT"), "{}", place.states(5000));
    Session::open(&mut place, 5000, (remote(1), 80));
}
