//! Clients' messages are written and replies are read by `dhcproto` and `etherparse`, so that no
//! mistake of ours can hide by being made twice.

use super::*;
use crate::packet::memory::Memory;
use crate::packet::pool::Pool;
use crate::port::PortSlot;
use dhcproto::v4::relay::{RelayAgentInformation, RelayInfo};
use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Encodable};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;
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

fn message(kind: MessageType) -> Message {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(0xdead_beef, none, none, none, none, &CLIENT_MAC);
    message.set_secs(3);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    message
}

fn with(mut message: Message, options: impl IntoIterator<Item = DhcpOption>) -> Message {
    for option in options {
        message.opts_mut().insert(option);
    }
    message
}

fn wants(codes: &[u8]) -> DhcpOption {
    DhcpOption::ParameterRequestList(codes.iter().map(|&code| OptionCode::from(code)).collect())
}

/// REQUEST of a client that accepts our offer.
fn selecting() -> Message {
    with(message(MessageType::Request), [DhcpOption::ServerIdentifier(SERVER), DhcpOption::RequestedIpAddress(CLIENT)])
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

/// A reply as a foreign client reads it.
#[derive(Debug)]
struct Reply {
    destination_mac: [u8; 6],
    destination: Ipv4Addr,
    destination_port: u16,
    datagram_bytes: usize,
    message: Message,
    /// The codes of its options, as they stand.
    order: Vec<u8>,
}

impl Reply {
    fn read(bytes: &[u8]) -> Self {
        let packet = SlicedPacket::from_ethernet(bytes).unwrap();
        let etherparse::LinkSlice::Ethernet2(ethernet) = packet.link.unwrap() else { panic!("no Ethernet header") };
        assert_eq!(ethernet.source(), SERVER_MAC);
        let Some(NetSlice::Ipv4(ip)) = packet.net else { panic!("no IPv4 header") };
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert_eq!((header.source, header.time_to_live), (SERVER.octets(), 64));
        let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("no UDP header") };
        assert_eq!(udp.source_port(), SERVER_PORT);
        let sum = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap();
        assert_eq!(udp.checksum(), sum);
        assert!(udp.payload().len() >= LEAST_MESSAGE);
        let message = Message::from_bytes(udp.payload()).unwrap();
        assert_eq!(
            (message.opcode(), message.xid(), message.chaddr()),
            (Opcode::BootReply, 0xdead_beef, &CLIENT_MAC[..])
        );
        assert_eq!((message.hops(), message.secs(), message.siaddr()), (0, 0, Ipv4Addr::UNSPECIFIED));
        assert_eq!((message.sname(), message.fname()), (None, None));
        let mut order = Vec::new();
        let mut rest = &udp.payload()[FIXED_BYTES..];
        while rest[0] != option::END {
            order.push(rest[0]);
            rest = &rest[2 + usize::from(rest[1])..];
        }
        Self {
            destination_mac: ethernet.destination(),
            destination: header.destination.into(),
            destination_port: udp.destination_port(),
            datagram_bytes: usize::from(header.total_len),
            message,
            order,
        }
    }

    fn kind(&self) -> MessageType {
        self.message.opts().msg_type().unwrap()
    }

    #[track_caller]
    fn assert_has(&self, options: impl IntoIterator<Item = DhcpOption>) {
        for option in options {
            assert_eq!(self.message.opts().get((&option).into()), Some(&option));
        }
    }
}

fn answer(message: &Message, offer: &DhcpOffer) -> Result<Reply, DropReason> {
    let bytes = framed(&message.to_vec().unwrap());
    answer_bytes(&bytes, Checksum::Unverified, offer).map(|bytes| Reply::read(&bytes))
}

fn all_options() -> [DhcpOption; 12] {
    [
        DhcpOption::ServerIdentifier(SERVER),
        DhcpOption::AddressLeaseTime(86_400),
        DhcpOption::Renewal(43_200),
        DhcpOption::Rebinding(75_600),
        DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
        DhcpOption::Router(vec![ROUTER]),
        DhcpOption::DomainNameServer(offer().dns_servers),
        DhcpOption::Hostname("web-1".into()),
        DhcpOption::DomainName("weft.internal".into()),
        DhcpOption::InterfaceMtu(1450),
        DhcpOption::BroadcastAddr(Ipv4Addr::new(10, 0, 0, 255)),
        DhcpOption::ClasslessStaticRoute(vec![
            ("192.168.128.0/17".parse().unwrap(), OTHER),
            ("0.0.0.0/0".parse().unwrap(), ROUTER),
        ]),
    ]
}

#[test]
fn discover_gets_an_offer_with_everything() {
    let reply = answer(&message(MessageType::Discover), &offer()).unwrap();
    assert_eq!(reply.kind(), MessageType::Offer);
    assert_eq!((reply.message.yiaddr(), reply.message.ciaddr()), (CLIENT, Ipv4Addr::UNSPECIFIED));
    assert_eq!((reply.destination_mac, reply.destination, reply.destination_port), (CLIENT_MAC, CLIENT, CLIENT_PORT));
    reply.assert_has(all_options());
    assert_eq!(reply.order, [53, 54, 51, 58, 59, 1, 26, 121, 3, 6, 28, 12, 15]);
}

#[test]
fn the_broadcast_flag_is_followed_and_returned() {
    let mut discover = message(MessageType::Discover);
    discover.set_flags(Flags::default().set_broadcast());
    let reply = answer(&discover, &offer()).unwrap();
    assert!(reply.message.flags().broadcast());
    assert_eq!((reply.destination_mac, reply.destination), ([0xff; 6], Ipv4Addr::BROADCAST));
}

#[test]
fn request_is_acknowledged_in_every_state() {
    let reboot = with(message(MessageType::Request), [DhcpOption::RequestedIpAddress(CLIENT)]);
    let mut renewing = message(MessageType::Request);
    renewing.set_ciaddr(CLIENT);
    let mut rebinding = renewing.clone();
    rebinding.set_flags(Flags::default().set_broadcast());
    for request in [selecting(), reboot, renewing, rebinding] {
        let reply = answer(&request, &offer()).unwrap();
        assert_eq!(reply.kind(), MessageType::Ack);
        assert_eq!((reply.message.yiaddr(), reply.message.ciaddr()), (CLIENT, request.ciaddr()));
        // Who has the address is sent the answer there, whatever its flag says.
        assert_eq!((reply.destination_mac, reply.destination, reply.destination_port), (CLIENT_MAC, CLIENT, 68));
        reply.assert_has(all_options());
    }
}

#[test]
fn request_for_another_address_is_refused_by_broadcast() {
    let selecting = with(
        message(MessageType::Request),
        [DhcpOption::ServerIdentifier(SERVER), DhcpOption::RequestedIpAddress(OTHER)],
    );
    let reboot = with(message(MessageType::Request), [DhcpOption::RequestedIpAddress(OTHER)]);
    let mut renewing = message(MessageType::Request);
    renewing.set_ciaddr(OTHER);
    for request in [selecting, reboot, renewing] {
        let reply = answer(&with(request, [DhcpOption::ClientIdentifier(vec![1, 2, 3])]), &offer()).unwrap();
        assert_eq!(reply.kind(), MessageType::Nak);
        assert_eq!((reply.message.yiaddr(), reply.message.ciaddr()), (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED));
        assert_eq!((reply.destination_mac, reply.destination), ([0xff; 6], Ipv4Addr::BROADCAST));
        assert_eq!(reply.order, [53, 54, 56, 61]);
    }
}

#[test]
fn a_request_to_another_server_is_left_alone() {
    let request = with(
        message(MessageType::Request),
        [DhcpOption::ServerIdentifier(OTHER), DhcpOption::RequestedIpAddress(CLIENT)],
    );
    assert_eq!(answer(&request, &offer()).unwrap_err(), DropReason::Consumed);
}

#[test]
fn a_request_without_an_address_is_bad() {
    let request = with(message(MessageType::Request), [DhcpOption::ServerIdentifier(SERVER)]);
    assert_eq!(answer(&request, &offer()).unwrap_err(), DropReason::BadRequest);
}

#[test]
fn inform_gets_parameters_but_no_lease() {
    let mut inform = message(MessageType::Inform);
    assert_eq!(answer(&inform, &offer()).unwrap_err(), DropReason::BadRequest, "it names no address");
    inform.set_ciaddr(OTHER);
    let reply = answer(&inform, &offer()).unwrap();
    assert_eq!(reply.kind(), MessageType::Ack);
    assert_eq!((reply.message.yiaddr(), reply.message.ciaddr()), (Ipv4Addr::UNSPECIFIED, OTHER));
    assert_eq!((reply.destination_mac, reply.destination), (CLIENT_MAC, OTHER));
    assert_eq!(reply.order, [53, 54, 1, 26, 121, 3, 6, 28, 12, 15]);
}

#[test]
fn decline_and_release_are_consumed() {
    for kind in [MessageType::Decline, MessageType::Release] {
        let mut message = with(message(kind), [DhcpOption::ServerIdentifier(SERVER)]);
        message.set_ciaddr(CLIENT);
        assert_eq!(answer(&message, &offer()).unwrap_err(), DropReason::Consumed);
    }
}

#[test]
fn messages_that_no_client_sends_are_bad() {
    for kind in [2, 5, 6, 9, 10, 13, 18, 0, 255] {
        assert_eq!(answer(&message(MessageType::from(kind)), &offer()).unwrap_err(), DropReason::BadRequest, "{kind}");
    }
    let mut reply = message(MessageType::Discover);
    reply.set_opcode(Opcode::BootReply);
    assert_eq!(answer(&reply, &offer()).unwrap_err(), DropReason::BadRequest);
    let mut bootp = message(MessageType::Discover);
    bootp.opts_mut().clear();
    assert_eq!(answer(&bootp, &offer()).unwrap_err(), DropReason::BadRequest, "BOOTP");
}

#[test]
fn the_parameter_request_list_decides_what_and_in_which_order() {
    let discover = with(message(MessageType::Discover), [wants(&[15, 12, 119, 6, 1, 28, 6])]);
    let reply = answer(&discover, &offer()).unwrap();
    assert_eq!(reply.order, [53, 54, 51, 58, 59, 1, 26, 15, 12, 6, 28]);
    let empty = answer(&with(message(MessageType::Discover), [wants(&[119])]), &offer()).unwrap();
    assert_eq!(empty.order, [53, 54, 51, 58, 59, 1, 26]);
}

#[test]
fn classless_routes_have_the_default_route_unless_it_is_given() {
    let discover = with(message(MessageType::Discover), [wants(&[121])]);
    let routes = |offer: &DhcpOffer| match answer(&discover, offer)
        .unwrap()
        .message
        .opts_mut()
        .remove(OptionCode::ClasslessStaticRoute)
    {
        Some(DhcpOption::ClasslessStaticRoute(routes)) => {
            routes.into_iter().map(|(net, hop)| format!("{net} {hop}")).collect::<Vec<_>>()
        }
        _ => Vec::new(),
    };
    assert_eq!(routes(&offer()), ["192.168.128.0/17 10.0.0.77", "0.0.0.0/0 10.0.0.1"]);
    let given = DhcpOffer { routes: vec![(Ipv4Addr::UNSPECIFIED, 0, OTHER)], ..offer() };
    assert_eq!(routes(&given), ["0.0.0.0/0 10.0.0.77"]);
    let no_router = DhcpOffer { router: None, ..offer() };
    assert_eq!(routes(&no_router), ["192.168.128.0/17 10.0.0.77"]);
    // Bits beyond the prefix are not sent: the encoding has no place for them.
    let odd = DhcpOffer { routes: vec![(Ipv4Addr::new(10, 20, 255, 255), 18, OTHER)], router: None, ..offer() };
    assert_eq!(routes(&odd), ["10.20.192.0/18 10.0.0.77"]);
    // Nothing but a router: the router option says it, and says it alone.
    assert_eq!(routes(&DhcpOffer { routes: Vec::new(), ..offer() }), [""; 0]);
}

#[test]
fn the_identifier_and_the_relays_information_come_back() {
    let mut information = RelayAgentInformation::default();
    information.insert(RelayInfo::AgentCircuitId(b"port 7".to_vec()));
    information.insert(RelayInfo::AgentRemoteId(vec![7; 40]));
    let echoed = [
        DhcpOption::ClientIdentifier([&[1][..], &CLIENT_MAC].concat()),
        DhcpOption::RelayAgentInformation(information),
    ];
    let mut request = with(selecting(), echoed.clone());
    request.set_giaddr(RELAY);
    let reply = answer(&request, &offer()).unwrap();
    reply.assert_has(echoed);
    assert_eq!(reply.order[reply.order.len() - 2..], [61, 82], "the relay's is the last");
}

#[test]
fn a_relay_gets_the_answer_on_the_servers_port() {
    let mut request = selecting();
    request.set_giaddr(RELAY);
    let reply = answer(&request, &offer()).unwrap();
    assert_eq!((reply.destination, reply.destination_port), (RELAY, SERVER_PORT));
    assert_eq!((reply.message.giaddr(), reply.message.flags().broadcast()), (RELAY, false));
    // A refusal must reach a client without an address: the relay is told to broadcast.
    request.opts_mut().insert(DhcpOption::RequestedIpAddress(OTHER));
    let reply = answer(&request, &offer()).unwrap();
    assert_eq!((reply.kind(), reply.destination, reply.destination_port), (MessageType::Nak, RELAY, SERVER_PORT));
    assert!(reply.message.flags().broadcast());
}

#[test]
fn the_clients_room_is_respected() {
    let routes = (0..60).map(|n| (Ipv4Addr::new(172, 16, n, 0), 24, OTHER)).collect();
    let large = DhcpOffer { routes, mtu: Some(9000), dns_servers: vec![ROUTER; 70], ..offer() };
    // 60 routes take 480 bytes: more than a client must accept that says nothing.
    let small = answer(&message(MessageType::Discover), &large).unwrap();
    assert!(small.datagram_bytes <= 576);
    assert_eq!(small.order, [53, 54, 51, 58, 59, 1, 26, 3, 28, 12, 15], "what does not fit is left out whole");
    let size = |bytes| with(message(MessageType::Discover), [DhcpOption::MaxMessageSize(bytes)]);
    let reply = answer(&size(1472), &large).unwrap();
    assert!(reply.datagram_bytes <= 1472);
    let Some(DhcpOption::ClasslessStaticRoute(routes)) = reply.message.opts().get(OptionCode::ClasslessStaticRoute)
    else {
        panic!("{reply:?}")
    };
    assert_eq!(routes.len(), 61, "split options are read as one");
    let Some(DhcpOption::DomainNameServer(servers)) = reply.message.opts().get(OptionCode::DomainNameServer) else {
        panic!("{reply:?}")
    };
    assert_eq!(servers.len(), 70);
    // Less than every client must accept is not a wish that counts; more than a frame holds neither.
    assert!(answer(&size(100), &large).unwrap().datagram_bytes <= 576);
    assert!(answer(&size(u16::MAX), &large).unwrap().datagram_bytes <= 1500);
    let narrow = DhcpOffer { mtu: Some(600), ..large };
    assert!(answer(&size(1472), &narrow).unwrap().datagram_bytes <= 600);
}

#[test]
fn what_must_be_sent_back_and_does_not_fit_is_refused() {
    let identifier = DhcpOption::ClientIdentifier(vec![9; 250]);
    assert!(answer(&with(message(MessageType::Discover), [identifier.clone()]), &offer()).is_ok());
    let mut information = RelayAgentInformation::default();
    information.insert(RelayInfo::AgentRemoteId(vec![7; 200]));
    let both = with(message(MessageType::Discover), [identifier, DhcpOption::RelayAgentInformation(information)]);
    assert_eq!(answer(&both, &offer()).unwrap_err(), DropReason::BadRequest);
    let larger = with(both, [DhcpOption::MaxMessageSize(1000)]);
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
    let reply = answer(&message(MessageType::Discover), &poor).unwrap();
    assert_eq!(reply.order, [53, 54, 51, 1]);
    reply.assert_has([DhcpOption::SubnetMask(Ipv4Addr::BROADCAST)]);
    let widest = answer(&message(MessageType::Discover), &DhcpOffer { prefix_length: 0, ..poor }).unwrap();
    widest.assert_has([DhcpOption::SubnetMask(Ipv4Addr::UNSPECIFIED), DhcpOption::BroadcastAddr(Ipv4Addr::BROADCAST)]);
}

#[test]
fn tags_stay_and_padding_does_not_matter() {
    let plain = framed(&message(MessageType::Discover).to_vec().unwrap());
    for tags in [&[0x81, 0, 0x20, 7][..], &[0x88, 0xa8, 0, 5, 0x81, 0, 0x60, 9]] {
        let bytes = [&plain[..12], tags, &plain[12..], &[0xaa; 7]].concat();
        let reply = answer_bytes(&bytes, Checksum::Unverified, &offer()).unwrap();
        assert_eq!(&reply[12..12 + tags.len()], tags);
        assert_eq!(Reply::read(&reply).kind(), MessageType::Offer);
    }
}

/// The message with these option bytes instead of its own.
fn with_option_bytes(message: &Message, options: &[u8]) -> Vec<u8> {
    let mut bytes = message.to_vec().unwrap();
    bytes.truncate(FIXED_BYTES);
    bytes.extend_from_slice(options);
    framed(&bytes)
}

#[test]
fn overloaded_fields_are_read() {
    let mut discover = message(MessageType::Discover);
    // Identifier in two parts, one in each field; parameters in `sname`.
    discover.set_fname(&[61, 2, 1, 2, 255]).set_sname(&[61, 2, 3, 4, 55, 1, 6, 255]);
    let bytes = with_option_bytes(&discover, &[53, 1, 1, 52, 1, 3, 255]);
    let reply = answer_bytes(&bytes, Checksum::Unverified, &offer()).unwrap();
    assert_eq!(Reply::read(&reply).order, [53, 54, 51, 58, 59, 1, 26, 6, 61, 61]);
    Reply::read(&reply).assert_has([DhcpOption::ClientIdentifier(vec![1, 2, 3, 4])]);
    let bytes = with_option_bytes(&discover, &[53, 1, 1, 52, 1, 1, 255]);
    let reply = answer_bytes(&bytes, Checksum::Unverified, &offer()).unwrap();
    assert_eq!(Reply::read(&reply).order, [53, 54, 51, 58, 59, 1, 26, 121, 3, 6, 28, 12, 15, 61], "only `file`");
}

#[test]
fn malformed_options_are_refused() {
    let discover = message(MessageType::Discover);
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
    // Options of which dhcproto asserts the length: nothing that concerns the reply.
    let strange = with_option_bytes(&discover, &[53, 1, 1, 81, 0, 94, 1, 0, 152, 1, 0, 151, 0, 255]);
    assert!(answer_bytes(&strange, Checksum::Unverified, &offer()).is_ok());
}

#[test]
fn addresses_that_nothing_can_be_sent_to_are_refused() {
    for address in [Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::LOCALHOST, Ipv4Addr::new(0, 0, 0, 1)] {
        let mut discover = message(MessageType::Discover);
        discover.set_ciaddr(address);
        assert_eq!(answer(&discover, &offer()).unwrap_err(), DropReason::BadRequest, "ciaddr {address}");
        discover.set_ciaddr(Ipv4Addr::UNSPECIFIED).set_giaddr(address);
        assert_eq!(answer(&discover, &offer()).unwrap_err(), DropReason::BadRequest, "giaddr {address}");
    }
    for mac in [&[0xff; 6][..], &[0; 6], &[1, 0, 0x5e, 0, 0, 1], &[2; 8], &[]] {
        let mut discover = message(MessageType::Discover);
        discover.set_chaddr(mac);
        assert_eq!(answer(&discover, &offer()).unwrap_err(), DropReason::BadRequest, "chaddr {mac:?}");
    }
}

#[test]
fn damaged_frames_are_refused() {
    let good = framed(&message(MessageType::Discover).to_vec().unwrap());
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
        let sum = internet_checksum(&bytes[14..34]);
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
    let bytes = framed(&message(MessageType::Discover).to_vec().unwrap());
    let padded = [&bytes[..], &[0; 6000]].concat();
    let reply = answer_bytes(&padded, Checksum::Unverified, &offer()).unwrap();
    assert_eq!(Reply::read(&reply).kind(), MessageType::Offer);

    let mut pool = Pool::new(Memory::map(64, 0).unwrap());
    let mut chained = pool.frame(PortSlot::new(0), &bytes[..200]).unwrap();
    chained.append(pool.frame(PortSlot::new(0), &bytes[200..]).unwrap());
    assert_eq!(super::reply(&mut chained, &offer()), Err(DropReason::BadRequest));
    pool.free(chained);
}

#[test]
fn unfinished_checksums_are_understood() {
    let mut bytes = framed(&message(MessageType::Discover).to_vec().unwrap());
    let (_, udp) = bytes[14..].split_at(20);
    let pseudo = [&bytes[26..34], &[0, 17], &udp[4..6]].concat();
    let unfinished = (!internet_checksum(&pseudo)).to_be_bytes();
    bytes[40..42].copy_from_slice(&unfinished);
    assert!(answer_bytes(&bytes, Checksum::Unverified, &offer()).is_ok(), "as a veth hands it over");
    assert!(answer_bytes(&bytes, Checksum::Partial { start: 34, offset: 6 }, &offer()).is_ok(), "as a TAP says it");
    bytes[40..42].copy_from_slice(&[0, 0]);
    assert!(answer_bytes(&bytes, Checksum::Unverified, &offer()).is_ok(), "none was made (RFC 768)");
    bytes[40..42].copy_from_slice(&[0xab, 0xcd]);
    assert_eq!(answer_bytes(&bytes, Checksum::Unverified, &offer()), Err(DropReason::BadRequest));
}

#[test]
fn the_checksum_is_that_of_rfc_1071() {
    // The example of its section 3, with and without an odd byte.
    assert_eq!(!internet_checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    assert_eq!(!internet_checksum(&[0x00, 0x01, 0xf2]), 0xf201);
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
        let mut bytes = framed(&selecting().to_vec().unwrap());
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
        let mut message = message(MessageType::Discover);
        message.set_fname(&file).set_sname(&file);
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
        // An identifier or relay information of the client's choice is not for dhcproto to read.
        for (code, data) in options.iter().filter(|(code, _)| !matches!(code, 53 | 82)) {
            bytes.extend_from_slice(&[*code, data.len() as u8]);
            bytes.extend_from_slice(data);
        }
        let offer = DhcpOffer { lease_seconds, prefix_length, host_name: Some(host_name), ..offer() };
        let frame = with_option_bytes(&message(MessageType::Discover), &bytes);
        if let Ok(reply) = answer_bytes(&frame, Checksum::Unverified, &offer) {
            prop_assert_eq!(Reply::read(&reply).kind(), MessageType::Offer);
        }
    }
}
