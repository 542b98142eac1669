//! What tells connections of one zone apart: addresses, protocol and ports, of one direction.

use crate::flow::key::FlowKey;
use crate::packet::header::{eth_type, protocol};
use crate::packet::parse::LATER_FRAGMENT;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// One direction of a connection, as its packets look before this zone's NAT.
///
/// IPv4 addresses fill the first four bytes, the others are zero. What has no ports (protocols other than
/// TCP, UDP, SCTP and ICMP queries) has zeros there. An ICMP query has its identifier in both ports, as NAT
/// changes it like one (RFC 5508, 3.1), and its type in `kind`: so a request never passes for a reply.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct Tuple {
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// Source port or ICMP identifier, big-endian.
    pub source_port: [u8; 2],
    /// Destination port or ICMP identifier, big-endian.
    pub destination_port: [u8; 2],
    /// IP protocol.
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
    /// The type of an ICMP or ICMPv6 query or its answer; zero otherwise.
    pub kind: u8,
    /// Zero.
    pub reserved: u8,
}

const _: () = assert!(size_of::<Tuple>() == 40);

/// ICMP's query types and their answers: echo and timestamp (RFC 792), ICMPv6's echo (RFC 4443, 4).
const QUERIES: &[(u8, u8, u8)] = &[(protocol::ICMP, 8, 0), (protocol::ICMP, 13, 14), (protocol::ICMPV6, 128, 129)];

/// The type that answers this ICMP type, or that this one answers.
fn counterpart(protocol: u8, kind: u8) -> Option<u8> {
    QUERIES.iter().find_map(|&(of, query, answer)| match kind {
        _ if of != protocol => None,
        _ if kind == query => Some(answer),
        _ if kind == answer => Some(query),
        _ => None,
    })
}

/// An IPv4 address as tuples hold it.
#[must_use]
pub fn wide(address: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&address.octets());
    bytes
}

impl Tuple {
    /// The tuple of a packet. `icmp_identifier` is bytes 4 and 5 of an ICMP query's header (the key does
    /// not hold it); ignored for everything else.
    ///
    /// `None` for what cannot belong to a connection: anything but IP, later fragments, and ICMP messages
    /// that are no queries (errors are found by [`super::Connections::related`]).
    #[must_use]
    pub fn of(key: &FlowKey, icmp_identifier: [u8; 2]) -> Option<Self> {
        if key.ip_frag == LATER_FRAGMENT {
            return None;
        }
        let mut tuple = Self { protocol: key.ip_proto, ..Self::default() };
        match u16::from_be_bytes(key.eth_type) {
            eth_type::IPV4 => {
                tuple.family = 4;
                tuple.source[..4].copy_from_slice(&key.ipv4_src);
                tuple.destination[..4].copy_from_slice(&key.ipv4_dst);
            }
            eth_type::IPV6 => {
                tuple.family = 6;
                tuple.source = key.ipv6_src;
                tuple.destination = key.ipv6_dst;
            }
            _ => return None,
        }
        tuple.with_transport(key.l4_src, key.l4_dst, icmp_identifier)
    }

    fn with_transport(mut self, source: [u8; 2], destination: [u8; 2], icmp_identifier: [u8; 2]) -> Option<Self> {
        match self.protocol {
            protocol::TCP | protocol::UDP | protocol::SCTP => {
                self.source_port = source;
                self.destination_port = destination;
            }
            protocol::ICMP | protocol::ICMPV6 => {
                self.kind = source[1];
                counterpart(self.protocol, self.kind)?;
                self.source_port = icmp_identifier;
                self.destination_port = icmp_identifier;
            }
            _ => {}
        }
        Some(self)
    }

    /// The tuple of the packet that an ICMP or ICMPv6 error quotes. `bytes` begin with the quoted IP
    /// header; the first 8 bytes behind it are enough (RFC 792).
    ///
    /// `None` if that is cut short, a later fragment, or itself no query where it is ICMP (an error about an
    /// error is none, RFC 1122, 3.2.2). IPv6 extension headers are not followed.
    #[must_use]
    pub fn quoted(bytes: &[u8]) -> Option<Self> {
        let mut tuple = Self::default();
        let transport = match bytes.first()? >> 4 {
            4 => {
                let header = usize::from(bytes[0] & 15) * 4;
                let ip = bytes.get(..20)?;
                if header < 20 || u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff != 0 {
                    return None;
                }
                (tuple.family, tuple.protocol) = (4, ip[9]);
                tuple.source[..4].copy_from_slice(&ip[12..16]);
                tuple.destination[..4].copy_from_slice(&ip[16..20]);
                bytes.get(header..)?
            }
            6 => {
                let ip = bytes.get(..40)?;
                (tuple.family, tuple.protocol) = (6, ip[6]);
                tuple.source.copy_from_slice(&ip[8..24]);
                tuple.destination.copy_from_slice(&ip[24..40]);
                &bytes[40..]
            }
            _ => return None,
        };
        match tuple.protocol {
            protocol::ICMP | protocol::ICMPV6 => {
                let header = transport.get(..6)?;
                tuple.with_transport([0, header[0]], [0, header[1]], [header[4], header[5]])
            }
            protocol::TCP | protocol::UDP | protocol::SCTP => {
                let ports = transport.get(..4)?;
                tuple.with_transport([ports[0], ports[1]], [ports[2], ports[3]], [0; 2])
            }
            _ => Some(tuple),
        }
    }

    /// An IPv4 tuple; the ports of ICMP are both the identifier, and it is an echo request.
    #[must_use]
    pub fn ipv4(protocol: u8, source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) -> Self {
        Self {
            source: wide(source.0),
            destination: wide(destination.0),
            source_port: source.1.to_be_bytes(),
            destination_port: destination.1.to_be_bytes(),
            protocol,
            family: 4,
            kind: if protocol == protocol::ICMP { 8 } else { 0 },
            reserved: 0,
        }
    }

    /// What answers to it look like.
    #[must_use]
    pub fn inverse(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            kind: counterpart(self.protocol, self.kind).unwrap_or(0),
            ..*self
        }
    }

    /// The sending end alone: what the owner of a NAT mapping is found by in the directory.
    #[must_use]
    pub fn endpoint(&self) -> Self {
        Self { destination: [0; 16], destination_port: [0; 2], kind: 0, reserved: 1, ..*self }
    }

    /// Whether the protocol has ports or an identifier, which NAT can choose.
    #[must_use]
    pub fn has_ports(&self) -> bool {
        matches!(self.protocol, protocol::TCP | protocol::UDP | protocol::SCTP | protocol::ICMP | protocol::ICMPV6)
    }

    pub(super) fn is_icmp(&self) -> bool {
        matches!(self.protocol, protocol::ICMP | protocol::ICMPV6)
    }

    /// Whether a packet of this tuple may begin a connection: an answer to an ICMP query may not.
    pub(super) fn may_begin(&self) -> bool {
        !self.is_icmp() || QUERIES.iter().any(|&(of, query, _)| of == self.protocol && query == self.kind)
    }

    fn address(&self, bytes: [u8; 16]) -> IpAddr {
        if self.family == 4 {
            Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()
        } else {
            Ipv6Addr::from(bytes).into()
        }
    }

    /// Source address and port, for people.
    #[must_use]
    pub fn from(&self) -> (IpAddr, u16) {
        (self.address(self.source), u16::from_be_bytes(self.source_port))
    }

    /// Destination address and port, for people.
    #[must_use]
    pub fn to(&self) -> (IpAddr, u16) {
        (self.address(self.destination), u16::from_be_bytes(self.destination_port))
    }
}

impl fmt::Debug for Tuple {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((from, source), (to, destination)) = (self.from(), self.to());
        write!(formatter, "{} {from}:{source}>{to}:{destination}", self.protocol)?;
        if self.is_icmp() { write!(formatter, " type {}", self.kind) } else { Ok(()) }
    }
}
