//! ICMP errors.

use super::*;

const ROUTER: [u8; 4] = [198, 51, 100, 7];

/// The head of a packet as an error quotes it: an IPv4 header and 8 bytes.
fn quote(tuple: &Tuple) -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 100, 0, 0, 0x40, 0, 64, tuple.protocol, 0, 0];
    bytes.extend(&tuple.source[..4]);
    bytes.extend(&tuple.destination[..4]);
    if tuple.protocol == protocol::ICMP {
        bytes.extend([tuple.kind, 0, 0, 0, tuple.source_port[0], tuple.source_port[1], 0, 1]);
    } else {
        bytes.extend(tuple.source_port);
        bytes.extend(tuple.destination_port);
        bytes.extend([0; 4]);
    }
    bytes
}

#[test]
fn an_error_about_a_translated_packet_finds_its_connection_and_what_to_undo() {
    let mut connections = open(small());
    let nat = Nat { source: Some(SourceNat { address: EXTERNAL, ports: (2000, 3000) }), destination: None };
    for tuple in [udp(9), Tuple::ipv4(protocol::ICMP, (CLIENT, 77), (SERVER, 77))] {
        let id = start(&mut connections, &New { nat, mark: 4, ..new(7, tuple, Transport::Other) }, NOW).unwrap();
        let before = *connections.get(id).unwrap();
        let outside = before.translated(Direction::Original);
        // From outside, about what the client sent.
        let found = connections.related(7, &Tuple::quoted(&quote(&outside)).unwrap(), NOW).unwrap();
        assert_eq!((found.id, found.direction, found.mark), (id, Direction::Reply, 4));
        let bits = CtState::RELATED | CtState::TRACKED | CtState::REPLY | CtState::DESTINATION_NAT;
        assert_eq!(found.state, bits);
        assert_eq!(found.quoted, tuple, "as the client sent it");
        assert_eq!((found.source, found.destination), (None, Some(wide(CLIENT))), "a router's own address stays");
        // From inside, about what the server sent.
        let found = connections.related(7, &Tuple::quoted(&quote(&tuple.inverse())).unwrap(), NOW).unwrap();
        assert_eq!((found.id, found.direction), (id, Direction::Original));
        assert_eq!(found.state, CtState::RELATED | CtState::TRACKED | CtState::SOURCE_NAT);
        assert_eq!((found.quoted, found.source), (outside.inverse(), Some(wide(EXTERNAL))));
        assert_eq!(found.destination, None);
        // It neither prolongs nor ends anything.
        assert_eq!(connections.get(id).unwrap().deadline, before.deadline);
        assert!(connections.related(8, &outside, NOW).is_none(), "in another zone");
        assert!(connections.related(7, &Tuple { source: wide(ROUTER.into()), ..outside }, NOW).is_none());
    }
}

#[test]
fn what_cannot_be_about_a_connection_is_not_quoted() {
    let good = quote(&udp(9));
    assert_eq!(Tuple::quoted(&good), Some(udp(9)));
    for length in 0..24 {
        assert_eq!(Tuple::quoted(&good[..length]), None, "{length} bytes");
    }
    let mut fragment = good.clone();
    fragment[7] = 5;
    assert_eq!(Tuple::quoted(&fragment), None);
    let mut error = quote(&Tuple::ipv4(protocol::ICMP, (CLIENT, 77), (SERVER, 77)));
    error[20] = 3;
    assert_eq!(Tuple::quoted(&error), None, "an error about an error");
    let mut options = good.clone();
    options[0] = 0x46;
    options.splice(20..20, [0; 4]);
    assert_eq!(Tuple::quoted(&options), Some(udp(9)));
    let mut six = vec![0x60, 0, 0, 0, 0, 8, protocol::UDP, 64];
    six.extend([1; 16]);
    six.extend([2; 16]);
    six.extend([0, 9, 0, 53]);
    let tuple = Tuple { family: 6, source: [1; 16], destination: [2; 16], ..udp(9) };
    assert_eq!(Tuple::quoted(&six), Some(tuple));
}

#[test]
fn keys_give_the_tuples_that_quotes_give() {
    let mut key = FlowKey::ZERO;
    (key.eth_type, key.ip_proto) = ([8, 0], protocol::UDP);
    (key.ipv4_src, key.ipv4_dst) = (CLIENT.octets(), SERVER.octets());
    (key.l4_src, key.l4_dst) = ([0, 9], [0, 53]);
    assert_eq!(Tuple::of(&key, [1, 1]), Some(udp(9)));
    key.ip_frag = 3;
    assert_eq!(Tuple::of(&key, [1, 1]), None, "a later fragment has no ports");
    (key.ip_frag, key.ip_proto) = (1, protocol::ICMP);
    (key.l4_src, key.l4_dst) = ([0, 8], [0, 0]);
    let echo = Tuple::ipv4(protocol::ICMP, (CLIENT, 77), (SERVER, 77));
    assert_eq!(Tuple::of(&key, [0, 77]), Some(echo));
    assert_eq!(echo.inverse().kind, 0);
    key.l4_src = [0, 3];
    assert_eq!(Tuple::of(&key, [0, 77]), None, "an error");
    key.eth_type = [8, 6];
    assert_eq!(Tuple::of(&key, [0, 77]), None);
}
