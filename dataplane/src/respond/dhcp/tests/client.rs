//! A client of these tests: writes messages, and reads replies with other people's parsers.

use super::{CLIENT_MAC, SERVER, SERVER_MAC};
use crate::respond::dhcp::{LEAST_MESSAGE, MAGIC_COOKIE, SERVER_PORT, option};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr};
use std::net::Ipv4Addr;

pub(super) const TRANSACTION: [u8; 4] = [0xde, 0xad, 0xbe, 0xef];

/// An option: code and data.
pub(super) type Coded = (u8, Vec<u8>);

/// A message of a client.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) operation: u8,
    pub(super) broadcast: bool,
    pub(super) client_address: Ipv4Addr,
    pub(super) relay_address: Ipv4Addr,
    pub(super) hardware_address: Vec<u8>,
    pub(super) server_name: Vec<u8>,
    pub(super) file: Vec<u8>,
    pub(super) options: Vec<Coded>,
}

impl Message {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.operation, 1, self.hardware_address.len() as u8, 0];
        bytes.extend_from_slice(&TRANSACTION);
        bytes.extend_from_slice(&[0, 3, if self.broadcast { 0x80 } else { 0 }, 0]);
        bytes.extend_from_slice(&self.client_address.octets());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&self.relay_address.octets());
        for (field, length) in [(&self.hardware_address, 16), (&self.server_name, 64), (&self.file, 128)] {
            let end = bytes.len() + length;
            bytes.extend_from_slice(field);
            bytes.resize(end, 0);
        }
        bytes.extend_from_slice(&MAGIC_COOKIE);
        for (code, data) in &self.options {
            bytes.extend_from_slice(&[*code, data.len() as u8]);
            bytes.extend_from_slice(data);
        }
        bytes.push(option::END);
        bytes
    }
}

pub(super) fn message(kind: u8) -> Message {
    Message {
        operation: 1,
        broadcast: false,
        client_address: Ipv4Addr::UNSPECIFIED,
        relay_address: Ipv4Addr::UNSPECIFIED,
        hardware_address: CLIENT_MAC.to_vec(),
        server_name: Vec::new(),
        file: Vec::new(),
        options: vec![(option::MESSAGE_TYPE, vec![kind])],
    }
}

pub(super) fn with(mut message: Message, options: impl IntoIterator<Item = Coded>) -> Message {
    message.options.extend(options);
    message
}

pub(super) fn wants(codes: &[u8]) -> Coded {
    (option::PARAMETER_REQUEST_LIST, codes.to_vec())
}

pub(super) fn server(address: Ipv4Addr) -> Coded {
    (option::SERVER_IDENTIFIER, address.octets().to_vec())
}

pub(super) fn requested(address: Ipv4Addr) -> Coded {
    (option::REQUESTED_ADDRESS, address.octets().to_vec())
}

pub(super) fn room(bytes: u16) -> Coded {
    (option::MAX_MESSAGE_SIZE, bytes.to_be_bytes().to_vec())
}

/// A reply as a foreign client reads it.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) destination_mac: [u8; 6],
    pub(super) destination: Ipv4Addr,
    pub(super) destination_port: u16,
    pub(super) datagram_bytes: usize,
    pub(super) kind: DhcpMessageType,
    pub(super) broadcast: bool,
    pub(super) client_address: Ipv4Addr,
    pub(super) your_address: Ipv4Addr,
    pub(super) relay_address: Ipv4Addr,
    /// As they stand.
    pub(super) options: Vec<Coded>,
}

impl Reply {
    pub(super) fn read(bytes: &[u8]) -> Self {
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

        let message = DhcpPacket::new_checked(udp.payload()).unwrap();
        let summary = DhcpRepr::parse(&message).unwrap();
        assert_eq!(udp.payload()[0], 2, "BOOTREPLY");
        assert_eq!(summary.transaction_id.to_be_bytes(), TRANSACTION);
        assert_eq!(summary.client_hardware_address.0, CLIENT_MAC);
        assert_eq!(summary.server_identifier, Some(SERVER));
        assert_eq!((message.hops(), message.secs(), message.server_ip()), (0, 0, Ipv4Addr::UNSPECIFIED));
        assert_eq!((message.get_sname().unwrap_or(""), message.get_boot_file().unwrap_or("")), ("", ""));
        assert_eq!(udp.payload()[34..44], [0; 10], "the rest of chaddr");
        Self {
            destination_mac: ethernet.destination(),
            destination: header.destination.into(),
            destination_port: udp.destination_port(),
            datagram_bytes: usize::from(header.total_len),
            kind: summary.message_type,
            broadcast: summary.broadcast,
            client_address: summary.client_ip,
            your_address: summary.your_ip,
            relay_address: summary.relay_agent_ip,
            options: message.options().map(|option| (option.kind, option.data.to_vec())).collect(),
        }
    }

    /// The codes of its options, as they stand.
    pub(super) fn order(&self) -> Vec<u8> {
        self.options.iter().map(|(code, _)| *code).collect()
    }

    /// The data of an option, its parts put together (RFC 3396).
    pub(super) fn data(&self, code: u8) -> Vec<u8> {
        self.options.iter().filter(|option| option.0 == code).flat_map(|(_, data)| data.clone()).collect()
    }

    #[track_caller]
    pub(super) fn assert_has(&self, options: impl IntoIterator<Item = Coded>) {
        for (code, data) in options {
            assert_eq!(self.data(code), data, "option {code}");
        }
    }
}
