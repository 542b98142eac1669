//! Replies are read by `etherparse` and `smoltcp`, so that no mistake of ours can hide by being made
//! twice; clients' messages are written here, and held against `smoltcp` too.

mod client;

use super::*;
use crate::packet::memory::Memory;
use crate::packet::pool::Pool;
use crate::port::PortSlot;
use client::{Coded, Message, Reply, TRANSACTION, message, requested, room, server, wants, with};
use etherparse::PacketBuilder;
use proptest::prelude::*;
use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr};
use std::sync::OnceLock;

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 5];
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 77);
const RELAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

fn offer() -> DhcpOffer {
    DhcpOffer {
        address: CLIENT,
        prefix_length: 24,
        server_address: SERVER,
        server_mac: SERVER_MAC,
        router: Some(ROUTER),
        dns_servers: vec![Ipv4Addr::new(9, 9, 9, 9), Ipv4Addr::new(1, 1, 1, 1)],
        mtu: Some(1450),
        lease_seconds: 86_400,
        host_name: Some("web-1".into()),
        domain_name: Some("weft.internal".into()),
        routes: vec![(Ipv4Addr::new(192, 168, 128, 0), 17, OTHER)],
    }
}

/// REQUEST of a client that accepts our offer.
fn selecting() -> Message {
    with(message(message_type::REQUEST), [server(SERVER), requested(CLIENT)])
}

/// In an untagged frame with right checksums.
fn framed(payload: &[u8]) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2(CLIENT_MAC, [0xff; 6]).ipv4([0; 4], [255; 4], 64).udp(CLIENT_PORT, SERVER_PORT);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, payload).unwrap();
    bytes
}

fn answer_bytes(bytes: &[u8], checksum: Checksum, offer: &DhcpOffer) -> Result<Vec<u8>, DropReason> {
    static MEMORY: OnceLock<&'static Memory> = OnceLock::new();
    let mut pool = Pool::new(MEMORY.get_or_init(|| Memory::map(1024, 64).unwrap()));
    let mut frame = pool.frame(PortSlot::new(0), bytes).unwrap();
    frame.checksum = checksum;
    let result = reply(&mut frame, offer);
    let (after, checksum) = (frame.to_vec(), frame.checksum);
    pool.free(frame);
    match result {
        Ok(()) => {
            assert_eq!(checksum, Checksum::Complete);
            Ok(after)
        }
        Err(reason) => {
            assert_eq!(after, bytes, "a refused frame stays as it was");
            Err(reason)
        }
    }
}

fn answer(message: &Message, offer: &DhcpOffer) -> Result<Reply, DropReason> {
    let bytes = framed(&message.bytes());
    answer_bytes(&bytes, Checksum::Unverified, offer).map(|bytes| Reply::read(&bytes))
}

fn all_options() -> [Coded; 12] {
    [
        (54, SERVER.octets().to_vec()),
        (51, 86_400_u32.to_be_bytes().to_vec()),
        (58, 43_200_u32.to_be_bytes().to_vec()),
        (59, 75_600_u32.to_be_bytes().to_vec()),
        (1, vec![255, 255, 255, 0]),
        (3, ROUTER.octets().to_vec()),
        (6, vec![9, 9, 9, 9, 1, 1, 1, 1]),
        (12, b"web-1".to_vec()),
        (15, b"weft.internal".to_vec()),
        (26, vec![5, 170]),
        (28, vec![10, 0, 0, 255]),
        (121, vec![17, 192, 168, 128, 10, 0, 0, 77, 0, 10, 0, 0, 1]),
    ]
}

#[test]
fn the_messages_of_these_tests_are_what_they_seem() {
    let mut request = with(selecting(), [room(1400), wants(&[1, 3])]);
    request.broadcast = true;
    request.relay_address = RELAY;
    let bytes = request.bytes();
    let packet = DhcpPacket::new_checked(&bytes[..]).unwrap();
    let read = DhcpRepr::parse(&packet).unwrap();
    assert_eq!((read.message_type, read.transaction_id.to_be_bytes()), (DhcpMessageType::Request, TRANSACTION));
    assert_eq!((read.server_identifier, read.requested_ip), (Some(SERVER), Some(CLIENT)));
    assert_eq!((read.broadcast, read.relay_agent_ip, read.max_size), (true, RELAY, Some(1400)));
    assert_eq!((read.client_hardware_address.0, read.parameter_request_list), (CLIENT_MAC, Some(&[1, 3][..])));
}

#[test]
fn discover_gets_an_offer_with_everything() {
    let reply = answer(&message(message_type::DISCOVER), &offer()).unwrap();
    assert_eq!(reply.kind, DhcpMessageType::Offer);
    assert_eq!((reply.your_address, reply.client_address), (CLIENT, Ipv4Addr::UNSPECIFIED));
    assert_eq!((reply.destination_mac, reply.destination, reply.destination_port), (CLIENT_MAC, CLIENT, CLIENT_PORT));
    reply.assert_has(all_options());
    assert_eq!(reply.order(), [53, 54, 51, 58, 59, 1, 26, 121, 3, 6, 28, 12, 15]);
}

#[test]
fn the_broadcast_flag_is_followed_and_returned() {
    let mut discover = message(message_type::DISCOVER);
    discover.broadcast = true;
    let reply = answer(&discover, &offer()).unwrap();
    assert!(reply.broadcast);
    assert_eq!((reply.destination_mac, reply.destination), ([0xff; 6], Ipv4Addr::BROADCAST));
}

#[test]
fn request_is_acknowledged_in_every_state() {
    let reboot = with(message(message_type::REQUEST), [requested(CLIENT)]);
    let mut renewing = message(message_type::REQUEST);
    renewing.client_address = CLIENT;
    let mut rebinding = renewing.clone();
    rebinding.broadcast = true;
    for request in [selecting(), reboot, renewing, rebinding] {
        let reply = answer(&request, &offer()).unwrap();
        assert_eq!(reply.kind, DhcpMessageType::Ack);
        assert_eq!((reply.your_address, reply.client_address), (CLIENT, request.client_address));
        // Who has the address is sent the answer there, whatever its flag says.
        assert_eq!((reply.destination_mac, reply.destination, reply.destination_port), (CLIENT_MAC, CLIENT, 68));
        reply.assert_has(all_options());
    }
}

#[test]
fn request_for_another_address_is_refused_by_broadcast() {
    let selecting = with(message(message_type::REQUEST), [server(SERVER), requested(OTHER)]);
    let reboot = with(message(message_type::REQUEST), [requested(OTHER)]);
    let mut renewing = message(message_type::REQUEST);
    renewing.client_address = OTHER;
    for request in [selecting, reboot, renewing] {
        let reply = answer(&with(request, [(61, vec![1, 2, 3])]), &offer()).unwrap();
        assert_eq!(reply.kind, DhcpMessageType::Nak);
        assert_eq!((reply.your_address, reply.client_address), (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED));
        assert_eq!((reply.destination_mac, reply.destination), ([0xff; 6], Ipv4Addr::BROADCAST));
        assert_eq!(reply.order(), [53, 54, 56, 61]);
    }
}

#[test]
fn a_request_to_another_server_is_left_alone() {
    let request = with(message(message_type::REQUEST), [server(OTHER), requested(CLIENT)]);
    assert_eq!(answer(&request, &offer()).unwrap_err(), DropReason::Consumed);
}

#[test]
fn a_request_without_an_address_is_bad() {
    let request = with(message(message_type::REQUEST), [server(SERVER)]);
    assert_eq!(answer(&request, &offer()).unwrap_err(), DropReason::BadRequest);
}

#[test]
fn inform_gets_parameters_but_no_lease() {
    let mut inform = message(message_type::INFORM);
    assert_eq!(answer(&inform, &offer()).unwrap_err(), DropReason::BadRequest, "it names no address");
    inform.client_address = OTHER;
    let reply = answer(&inform, &offer()).unwrap();
    assert_eq!(reply.kind, DhcpMessageType::Ack);
    assert_eq!((reply.your_address, reply.client_address), (Ipv4Addr::UNSPECIFIED, OTHER));
    assert_eq!((reply.destination_mac, reply.destination), (CLIENT_MAC, OTHER));
    assert_eq!(reply.order(), [53, 54, 1, 26, 121, 3, 6, 28, 12, 15]);
}

#[test]
fn decline_and_release_are_consumed() {
    for kind in [message_type::DECLINE, message_type::RELEASE] {
        let mut message = with(message(kind), [server(SERVER)]);
        message.client_address = CLIENT;
        assert_eq!(answer(&message, &offer()).unwrap_err(), DropReason::Consumed);
    }
}

#[test]
fn messages_that_no_client_sends_are_bad() {
    for kind in [2, 5, 6, 9, 10, 13, 18, 0, 255] {
        assert_eq!(answer(&message(kind), &offer()).unwrap_err(), DropReason::BadRequest, "{kind}");
    }
    let mut reply = message(message_type::DISCOVER);
    reply.operation = 2;
    assert_eq!(answer(&reply, &offer()).unwrap_err(), DropReason::BadRequest);
    let mut bootp = message(message_type::DISCOVER);
    bootp.options.clear();
    assert_eq!(answer(&bootp, &offer()).unwrap_err(), DropReason::BadRequest, "BOOTP");
}

#[test]
fn the_parameter_request_list_decides_what_and_in_which_order() {
    let discover = with(message(message_type::DISCOVER), [wants(&[15, 12, 119, 6, 1, 28, 6])]);
    let reply = answer(&discover, &offer()).unwrap();
    assert_eq!(reply.order(), [53, 54, 51, 58, 59, 1, 26, 15, 12, 6, 28]);
    let empty = answer(&with(message(message_type::DISCOVER), [wants(&[119])]), &offer()).unwrap();
    assert_eq!(empty.order(), [53, 54, 51, 58, 59, 1, 26]);
}

#[test]
fn classless_routes_have_the_default_route_unless_it_is_given() {
    let discover = with(message(message_type::DISCOVER), [wants(&[121])]);
    let routes = |offer: &DhcpOffer| answer(&discover, offer).unwrap().data(121);
    let (given, default) = ([17, 192, 168, 128, 10, 0, 0, 77], [0, 10, 0, 0, 1]);
    assert_eq!(routes(&offer()), [&given[..], &default].concat());
    let other_default = DhcpOffer { routes: vec![(Ipv4Addr::UNSPECIFIED, 0, OTHER)], ..offer() };
    assert_eq!(routes(&other_default), [0, 10, 0, 0, 77]);
    let no_router = DhcpOffer { router: None, ..offer() };
    assert_eq!(routes(&no_router), given);
    // Bits beyond the prefix are not sent, even where the encoding has a place for them.
    let odd = DhcpOffer { routes: vec![(Ipv4Addr::new(10, 20, 255, 255), 18, OTHER)], router: None, ..offer() };
    assert_eq!(routes(&odd), [18, 10, 20, 192, 10, 0, 0, 77]);
    let host = DhcpOffer { routes: vec![(CLIENT, 32, OTHER)], router: None, ..offer() };
    assert_eq!(routes(&host), [32, 10, 0, 0, 5, 10, 0, 0, 77]);
    // Nothing but a router: the router option says it, and says it alone.
    assert!(routes(&DhcpOffer { routes: Vec::new(), ..offer() }).is_empty());
}

#[test]
fn the_identifier_and_the_relays_information_come_back() {
    // Circuit "port 7" and a remote id.
    let information = [&[1, 6][..], b"port 7", &[2, 4, 9, 8, 7, 6]].concat();
    let echoed = [(82, information), (61, [&[1][..], &CLIENT_MAC].concat())];
    let mut request = with(selecting(), echoed.clone());
    request.relay_address = RELAY;
    let reply = answer(&request, &offer()).unwrap();
    reply.assert_has(echoed);
    assert_eq!(reply.order()[reply.order().len() - 2..], [61, 82], "the relay's is the last");
}

#[test]
fn a_relay_gets_the_answer_on_the_servers_port() {
    let mut request = selecting();
    request.relay_address = RELAY;
    let reply = answer(&request, &offer()).unwrap();
    assert_eq!((reply.destination, reply.destination_port), (RELAY, SERVER_PORT));
    assert_eq!((reply.relay_address, reply.broadcast), (RELAY, false));
    // A refusal must reach a client without an address: the relay is told to broadcast.
    request.options[2] = requested(OTHER);
    let reply = answer(&request, &offer()).unwrap();
    assert_eq!((reply.kind, reply.destination, reply.destination_port), (DhcpMessageType::Nak, RELAY, SERVER_PORT));
    assert!(reply.broadcast);
}

#[test]
fn the_clients_room_is_respected() {
    let routes = (0..60).map(|n| (Ipv4Addr::new(172, 16, n, 0), 24, OTHER)).collect();
    let large = DhcpOffer { routes, mtu: Some(9000), dns_servers: vec![ROUTER; 70], ..offer() };
    // 60 routes take 480 bytes: more than a client must accept that says nothing.
    let small = answer(&message(message_type::DISCOVER), &large).unwrap();
    assert!(small.datagram_bytes <= 576);
    assert_eq!(small.order(), [53, 54, 51, 58, 59, 1, 26, 3, 28, 12, 15], "what does not fit is left out whole");
    let size = |bytes| with(message(message_type::DISCOVER), [room(bytes)]);
    let reply = answer(&size(1472), &large).unwrap();
    assert!(reply.datagram_bytes <= 1472);
    assert_eq!(reply.data(121).len(), 60 * 8 + 5, "split");
    assert_eq!(reply.data(6), ROUTER.octets().repeat(70), "split");
    // Less than every client must accept is not a wish that counts; more than a frame holds neither.
    assert!(answer(&size(100), &large).unwrap().datagram_bytes <= 576);
    assert!(answer(&size(u16::MAX), &large).unwrap().datagram_bytes <= 1500);
    let narrow = DhcpOffer { mtu: Some(600), ..large };
    assert!(answer(&size(1472), &narrow).unwrap().datagram_bytes <= 600);
}

#[test]
fn what_must_be_sent_back_and_does_not_fit_is_refused() {
    let identifier = (61, vec![9; 250]);
    assert!(answer(&with(message(message_type::DISCOVER), [identifier.clone()]), &offer()).is_ok());
    let both = with(message(message_type::DISCOVER), [identifier, (82, vec![7; 202])]);
    assert_eq!(answer(&both, &offer()).unwrap_err(), DropReason::BadRequest);
    let larger = with(both, [room(1000)]);
    assert!(answer(&larger, &offer()).is_ok());
}

#[test]
fn poor_offers_are_sent_as_they_are() {
    let poor = DhcpOffer {
        router: None,
        dns_servers: Vec::new(),
        mtu: None,
        host_name: None,
        domain_name: Some(String::new()),
        routes: Vec::new(),
        prefix_length: 32,
        lease_seconds: u32::MAX,
        ..offer()
    };
    let reply = answer(&message(message_type::DISCOVER), &poor).unwrap();
    assert_eq!(reply.order(), [53, 54, 51, 1]);
    reply.assert_has([(1, vec![255; 4])]);
    let widest = answer(&message(message_type::DISCOVER), &DhcpOffer { prefix_length: 0, ..poor }).unwrap();
    widest.assert_has([(1, vec![0; 4]), (28, vec![255; 4])]);
}

#[test]
fn tags_stay_and_padding_does_not_matter() {
    let plain = framed(&message(message_type::DISCOVER).bytes());
    for tags in [&[0x81, 0, 0x20, 7][..], &[0x88, 0xa8, 0, 5, 0x81, 0, 0x60, 9]] {
        let bytes = [&plain[..12], tags, &plain[12..], &[0xaa; 7]].concat();
        let reply = answer_bytes(&bytes, Checksum::Unverified, &offer()).unwrap();
        assert_eq!(&reply[12..12 + tags.len()], tags);
        assert_eq!(Reply::read(&reply).kind, DhcpMessageType::Offer);
    }
}

/// The message with these option bytes instead of its own.
fn with_option_bytes(message: &Message, options: &[u8]) -> Vec<u8> {
    let mut bytes = message.bytes();
    bytes.truncate(FIXED_BYTES);
    bytes.extend_from_slice(options);
    framed(&bytes)
}

#[test]
fn overloaded_fields_are_read() {
    let mut discover = message(message_type::DISCOVER);
    // Identifier in two parts, one in each field; parameters in `sname`.
    discover.file = vec![61, 2, 1, 2, 255];
    discover.server_name = vec![61, 2, 3, 4, 55, 1, 6, 255];
    let bytes = with_option_bytes(&discover, &[53, 1, 1, 52, 1, 3, 255]);
    let reply = answer_bytes(&bytes, Checksum::Unverified, &offer()).unwrap();
    assert_eq!(Reply::read(&reply).order(), [53, 54, 51, 58, 59, 1, 26, 6, 61, 61]);
    Reply::read(&reply).assert_has([(61, vec![1, 2, 3, 4])]);
    let bytes = with_option_bytes(&discover, &[53, 1, 1, 52, 1, 1, 255]);
    let reply = answer_bytes(&bytes, Checksum::Unverified, &offer()).unwrap();
    assert_eq!(Reply::read(&reply).order(), [53, 54, 51, 58, 59, 1, 26, 121, 3, 6, 28, 12, 15, 61], "only `file`");
}

#[test]
fn malformed_options_are_refused() {
    let discover = message(message_type::DISCOVER);
    let cases: &[(&str, &[u8])] = &[
        ("none", &[]),
        ("no length", &[53]),
        ("cut short", &[53, 1, 1, 61, 9, 1, 2]),
        ("empty type", &[53, 0, 255]),
        ("long type", &[53, 2, 1, 1, 255]),
        ("two types", &[53, 1, 1, 53, 1, 3, 255]),
        ("type behind the end", &[255, 53, 1, 1]),
        ("short address", &[53, 1, 3, 50, 3, 10, 0, 0, 255]),
        ("long server", &[53, 1, 3, 54, 5, 10, 0, 0, 2, 2, 255]),
        ("odd size", &[53, 1, 1, 57, 1, 2, 255]),
        ("overload of nothing", &[53, 1, 1, 52, 1, 9, 255]),
        ("empty overload", &[53, 1, 1, 52, 0, 255]),
    ];
    for (case, options) in cases {
        let bytes = with_option_bytes(&discover, options);
        assert_eq!(answer_bytes(&bytes, Checksum::Unverified, &offer()), Err(DropReason::BadRequest), "{case}");
    }
    let good = with_option_bytes(&discover, &[0, 0, 53, 1, 1]);
    assert!(answer_bytes(&good, Checksum::Unverified, &offer()).is_ok(), "padding before, no end mark");
    // Options of lengths that their definitions forbid, none of which concerns the reply.
    let strange = with_option_bytes(&discover, &[53, 1, 1, 81, 0, 94, 1, 0, 152, 1, 0, 151, 0, 255]);
    assert!(answer_bytes(&strange, Checksum::Unverified, &offer()).is_ok());
}

#[test]
fn addresses_that_nothing_can_be_sent_to_are_refused() {
    for address in [Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::LOCALHOST, Ipv4Addr::new(0, 0, 0, 1)] {
        let mut discover = message(message_type::DISCOVER);
        discover.client_address = address;
        assert_eq!(answer(&discover, &offer()).unwrap_err(), DropReason::BadRequest, "ciaddr {address}");
        discover.client_address = Ipv4Addr::UNSPECIFIED;
        discover.relay_address = address;
        assert_eq!(answer(&discover, &offer()).unwrap_err(), DropReason::BadRequest, "giaddr {address}");
    }
    for mac in [&[0xff; 6][..], &[0; 6], &[1, 0, 0x5e, 0, 0, 1], &[2; 8], &[]] {
        let mut discover = message(message_type::DISCOVER);
        discover.hardware_address = mac.to_vec();
        assert_eq!(answer(&discover, &offer()).unwrap_err(), DropReason::BadRequest, "chaddr {mac:?}");
    }
}

#[test]
fn damaged_frames_are_refused() {
    let good = framed(&message(message_type::DISCOVER).bytes());
    for cut in 0..good.len() {
        assert_eq!(answer_bytes(&good[..cut], Checksum::Unverified, &offer()), Err(DropReason::BadRequest), "{cut}");
    }
    // Every byte but the MAC addresses and the UDP source port is covered by a check or a checksum.
    for position in (12..good.len()).filter(|position| *position != 40 && *position != 41) {
        let mut bad = good.clone();
        bad[position] ^= 0x04;
        assert_eq!(answer_bytes(&bad, Checksum::Unverified, &offer()), Err(DropReason::BadRequest), "byte {position}");
    }
    let rewritten = |change: &dyn Fn(&mut [u8])| {
        let mut bytes = good.clone();
        change(&mut bytes[14..34]);
        bytes[24..26].copy_from_slice(&[0, 0]);
        let sum = checksum::finish(checksum::sum(&bytes[14..34]));
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        answer_bytes(&bytes, Checksum::Partial { start: 34, offset: 6 }, &offer())
    };
    assert!(rewritten(&|_| ()).is_ok());
    assert_eq!(rewritten(&|ip| ip[6] = 0x20), Err(DropReason::BadRequest), "first fragment");
    assert_eq!(rewritten(&|ip| ip[7] = 1), Err(DropReason::BadRequest), "later fragment");
    assert_eq!(rewritten(&|ip| ip[0] = 0x4f), Err(DropReason::BadRequest), "options of IPv4 that are not there");
    assert_eq!(rewritten(&|ip| ip[9] = 6), Err(DropReason::BadRequest), "TCP");
    assert_eq!(rewritten(&|ip| ip[3] = 20), Err(DropReason::BadRequest), "no UDP header");
}

#[test]
fn large_buffers_serve_and_chains_do_not() {
    let bytes = framed(&message(message_type::DISCOVER).bytes());
    let padded = [&bytes[..], &[0; 6000]].concat();
    let reply = answer_bytes(&padded, Checksum::Unverified, &offer()).unwrap();
    assert_eq!(Reply::read(&reply).kind, DhcpMessageType::Offer);

    let mut pool = Pool::new(Memory::map(64, 0).unwrap());
    let mut chained = pool.frame(PortSlot::new(0), &bytes[..200]).unwrap();
    chained.append(pool.frame(PortSlot::new(0), &bytes[200..]).unwrap());
    assert_eq!(super::reply(&mut chained, &offer()), Err(DropReason::BadRequest));
    pool.free(chained);
}

#[test]
fn unfinished_checksums_are_understood() {
    let mut bytes = framed(&message(message_type::DISCOVER).bytes());
    let (_, udp) = bytes[14..].split_at(20);
    let pseudo = [&bytes[26..34], &[0, 17], &udp[4..6]].concat();
    let unfinished = checksum::fold(checksum::sum(&pseudo)).to_be_bytes();
    bytes[40..42].copy_from_slice(&unfinished);
    assert!(answer_bytes(&bytes, Checksum::Unverified, &offer()).is_ok(), "as a veth hands it over");
    assert!(answer_bytes(&bytes, Checksum::Partial { start: 34, offset: 6 }, &offer()).is_ok(), "as a TAP says it");
    bytes[40..42].copy_from_slice(&[0, 0]);
    assert!(answer_bytes(&bytes, Checksum::Unverified, &offer()).is_ok(), "none was made (RFC 768)");
    bytes[40..42].copy_from_slice(&[0xab, 0xcd]);
    assert_eq!(answer_bytes(&bytes, Checksum::Unverified, &offer()), Err(DropReason::BadRequest));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = answer_bytes(&bytes, Checksum::Unverified, &offer());
        let _ = answer_bytes(&framed(&bytes), Checksum::Unverified, &offer());
    }

    #[test]
    fn no_change_to_a_good_frame_makes_it_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = framed(&selecting().bytes());
        // Behind the IPv4 header, whose checksum would hide everything else; no UDP checksum either.
        let transport = &mut bytes[34..];
        for (position, value) in changes {
            transport[position.index(transport.len())] = value;
            transport[position.index(16)] = value;
        }
        let _ = answer_bytes(&bytes, Checksum::Partial { start: 34, offset: 6 }, &offer());
    }

    #[test]
    fn no_options_make_it_panic(options in proptest::collection::vec(any::<u8>(), 0..700), kind in 0_u8..10, file: [u8; 32]) {
        let mut message = message(message_type::DISCOVER);
        (message.file, message.server_name) = (file.to_vec(), file.to_vec());
        let bytes = with_option_bytes(&message, &[&[53, 1, kind, 52, 1, 3][..], &options].concat());
        let _ = answer_bytes(&bytes, Checksum::Unverified, &offer());
    }

    #[test]
    fn whatever_is_answered_can_be_read(
        options in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..12),
        lease_seconds: u32,
        prefix_length in 0_u8..=40,
        host_name in "[a-z]{0,300}",
    ) {
        let mut bytes = vec![53, 1, 1];
        // A second type would make the message malformed; an identifier of 7 bytes is for smoltcp always a MAC.
        for (code, data) in options.iter().filter(|(code, data)| *code != 53 && (*code, data.len()) != (61, 7)) {
            bytes.extend_from_slice(&[*code, data.len() as u8]);
            bytes.extend_from_slice(data);
        }
        let offer = DhcpOffer { lease_seconds, prefix_length, host_name: Some(host_name), ..offer() };
        let frame = with_option_bytes(&message(message_type::DISCOVER), &bytes);
        if let Ok(reply) = answer_bytes(&frame, Checksum::Unverified, &offer) {
            prop_assert_eq!(Reply::read(&reply).kind, DhcpMessageType::Offer);
        }
    }
}
