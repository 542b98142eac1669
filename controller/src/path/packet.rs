//! The packets that instances would send, as fields of traces.

use crate::model::{Mac, Port};
use std::net::Ipv4Addr;
use weft_proto::fault::Fault;
use weft_proto::v1::{self, Field, FieldMatch};

/// A packet as fields; those that are zero may be missing.
pub type Packet = Vec<FieldMatch>;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ECHO: u8 = 8;
const SYN: u16 = 0x02;
const ACK: u16 = 0x10;
/// As Linux sends it.
const TTL: u8 = 64;
/// Of a TCP or UDP client, unless it is given.
const CLIENT_PORT: u16 = 40_000;

/// One field.
pub fn field(field: Field, value: impl Into<Vec<u8>>) -> FieldMatch {
    FieldMatch { field: field.into(), value: value.into(), ..FieldMatch::default() }
}

/// A field's value, if the packet has it and it is not zero.
pub fn get(packet: &[FieldMatch], wanted: Field) -> Option<&[u8]> {
    packet.iter().find(|one| one.field() == wanted).map(|one| one.value.as_slice())
}

/// An IPv4 address of a packet.
pub fn address(packet: &[FieldMatch], wanted: Field) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(get(packet, wanted)?).ok().map(Ipv4Addr::from)
}

/// A MAC of a packet.
pub fn mac(packet: &[FieldMatch], wanted: Field) -> Option<Mac> {
    <[u8; 6]>::try_from(get(packet, wanted)?).ok().map(Mac)
}

fn number(packet: &[FieldMatch], wanted: Field) -> u16 {
    get(packet, wanted).unwrap_or_default().iter().fold(0, |number, &byte| number << 8 | u16::from(byte))
}

/// What is above IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Source and destination port; whether it answers.
    Tcp(u16, u16, bool),
    /// Source and destination port.
    Udp(u16, u16),
    /// Echo: its type.
    Icmp(u8),
    /// A client's first message (RFC 2131, 4.4.1).
    Dhcp,
}

/// What an instance sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// From which address; `None`: of its own, that of the subnet which has the destination, or its first.
    pub source: Option<Ipv4Addr>,
    /// To whom.
    pub destination: Ipv4Addr,
    /// What.
    pub transport: Transport,
    /// Bytes of the IP packet; 0: it fits everywhere.
    pub bytes: u32,
}

impl Flow {
    /// What a request asks for.
    pub fn read(request: &v1::TracePathRequest, port: &Port) -> Result<Self, Fault> {
        let refuse = |field: &str, problem: String, remedy: &str| Fault::invalid("bad_path", field, problem, remedy);
        let number = |field: &str, number: u32, otherwise: u16| match u16::try_from(number) {
            Ok(0) => Ok(otherwise),
            Ok(number) => Ok(number),
            Err(_) => Err(refuse(field, format!("{number} is no port"), "Use 1 to 65535.")),
        };
        let with_port = request.destination_port != 0;
        let (client, server) = (request.source_port, request.destination_port);
        let ports =
            |usual| Ok((number("source_port", client, CLIENT_PORT)?, number("destination_port", server, usual)?));
        let transport = match request.protocol.as_str() {
            "tcp" => ports(80).map(|(source, destination)| Transport::Tcp(source, destination, false))?,
            "" if with_port => ports(80).map(|(source, destination)| Transport::Tcp(source, destination, false))?,
            "udp" => ports(53).map(|(source, destination)| Transport::Udp(source, destination))?,
            "icmp" | "dhcp" if with_port => {
                let problem = format!("{} has no ports", request.protocol);
                return Err(refuse("destination_port", problem, "Leave it out, or say tcp or udp."));
            }
            "" | "icmp" => Transport::Icmp(ECHO),
            "dhcp" => Transport::Dhcp,
            other => {
                return Err(refuse("protocol", format!("{other:?} is not known here"), "Say tcp, udp, icmp or dhcp."));
            }
        };
        if request.bytes > 65_535 {
            return Err(refuse("bytes", format!("no packet has {} bytes", request.bytes), "Use at most 65535."));
        }
        let flow = |destination| Self { source: None, destination, transport, bytes: request.bytes };
        if transport == Transport::Dhcp {
            return Ok(flow(Ipv4Addr::BROADCAST));
        }
        let destination = request.destination.parse::<Ipv4Addr>().ok().filter(|address| {
            !(address.is_multicast() || address.is_broadcast() || address.is_unspecified() || address.is_loopback())
        });
        let destination = destination.ok_or_else(|| {
            let problem = format!("{:?} is not the IPv4 address of one station", request.destination);
            refuse("destination", problem, "Write it as 10.0.0.5.")
        })?;
        if port.addresses.iter().any(|own| own.address == destination) {
            let problem = format!("{destination} is an address of the port itself, which the instance does not send");
            return Err(refuse("destination", problem, "Name another one's."));
        }
        Ok(flow(destination))
    }

    /// What who gets a packet answers; `None`: nothing, as far as anybody knows.
    pub fn answer_to(packet: &[FieldMatch]) -> Option<Self> {
        let transport = match get(packet, Field::IpProto)? {
            [TCP] => Transport::Tcp(number(packet, Field::TcpDst), number(packet, Field::TcpSrc), true),
            [UDP] => Transport::Udp(number(packet, Field::UdpDst), number(packet, Field::UdpSrc)),
            [ICMP] if get(packet, Field::IcmpType) == Some(&[ECHO]) => Transport::Icmp(0),
            _ => return None,
        };
        Some(Self {
            source: address(packet, Field::Ipv4Dst),
            destination: address(packet, Field::Ipv4Src)?,
            transport,
            bytes: 0,
        })
    }

    /// The packet, on a link.
    pub fn packet(&self, source: Ipv4Addr, from: Mac, to: Mac) -> Packet {
        let mut packet = vec![
            field(Field::EthDst, to.0),
            field(Field::EthSrc, from.0),
            field(Field::EthType, [0x08, 0x00]),
            field(Field::IpTtl, [TTL]),
            field(Field::Ipv4Src, source.octets()),
            field(Field::Ipv4Dst, self.destination.octets()),
        ];
        let port = |which, port: u16| field(which, port.to_be_bytes());
        packet.extend(match self.transport {
            Transport::Tcp(source, destination, answers) => vec![
                field(Field::IpProto, [TCP]),
                port(Field::TcpSrc, source),
                port(Field::TcpDst, destination),
                field(Field::TcpFlags, if answers { SYN | ACK } else { SYN }.to_be_bytes()),
            ],
            Transport::Udp(source, destination) => {
                vec![field(Field::IpProto, [UDP]), port(Field::UdpSrc, source), port(Field::UdpDst, destination)]
            }
            Transport::Icmp(kind) => vec![field(Field::IpProto, [ICMP]), field(Field::IcmpType, [kind])],
            Transport::Dhcp => vec![field(Field::IpProto, [UDP]), port(Field::UdpSrc, 68), port(Field::UdpDst, 67)],
        });
        packet
    }
}

/// Asks who has an address (RFC 826).
pub fn arp_request(mac: Mac, own: Ipv4Addr, wanted: Ipv4Addr) -> Packet {
    vec![
        field(Field::EthDst, [0xff; 6]),
        field(Field::EthSrc, mac.0),
        field(Field::EthType, [0x08, 0x06]),
        field(Field::ArpOp, [0, 1]),
        field(Field::ArpSha, mac.0),
        field(Field::ArpSpa, own.octets()),
        field(Field::ArpTpa, wanted.octets()),
    ]
}
