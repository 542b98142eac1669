//! IPv4 packets written and read whole, for tests of what a kernel would not send, or would not show.

use std::net::Ipv4Addr;
use weft_up::frame::checksum;

/// Protocol numbers.
pub const ICMP: u8 = 1;
/// See [`ICMP`].
pub const TCP: u8 = 6;
/// See [`ICMP`].
pub const UDP: u8 = 17;

/// TCP's flags (RFC 9293, 3.1).
pub const FIN: u8 = 1;
/// See [`FIN`].
pub const SYN: u8 = 2;
/// See [`FIN`].
pub const RST: u8 = 4;
/// See [`FIN`].
pub const ACK: u8 = 16;

/// An address and a port.
pub type Endpoint = (Ipv4Addr, u16);

/// An IPv4 packet without options, as far as tests care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// [`ICMP`], [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Whom it is from.
    pub source: Ipv4Addr,
    /// Whom it is for.
    pub destination: Ipv4Addr,
    /// Identification, and flags with the fragment offset.
    pub fragment: (u16, u16),
    /// What follows the IPv4 header.
    pub body: Vec<u8>,
}

fn pseudo_header(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [&source.octets()[..], &destination.octets(), &[0, protocol], &length, body].concat()
}

impl Packet {
    fn new(protocol: u8, source: Ipv4Addr, destination: Ipv4Addr, mut body: Vec<u8>) -> Self {
        let place = match protocol {
            UDP => 6,
            TCP => 16,
            _ => 2,
        };
        let covered = if protocol == ICMP { body.clone() } else { pseudo_header(source, destination, protocol, &body) };
        let sum = checksum(&covered);
        // Zero would say "no checksum". [RFC 768]
        let sum = if protocol == UDP && sum == 0 { 0xffff } else { sum };
        body[place..place + 2].copy_from_slice(&sum.to_be_bytes());
        Self { protocol, source, destination, fragment: (0, 0), body }
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp(from: Endpoint, to: Endpoint, payload: &[u8]) -> Self {
        let length = (8 + payload.len() as u16).to_be_bytes();
        let body = [&from.1.to_be_bytes()[..], &to.1.to_be_bytes(), &length, &[0, 0], payload].concat();
        Self::new(UDP, from.0, to.0, body)
    }

    /// A TCP segment without options; `numbers` are of sequence and acknowledgement.
    #[must_use]
    pub fn tcp(from: Endpoint, to: Endpoint, flags: u8, numbers: (u32, u32), payload: &[u8]) -> Self {
        let mut body = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
        body.extend(numbers.0.to_be_bytes());
        body.extend(numbers.1.to_be_bytes());
        body.extend([0x50, flags, 0x20, 0, 0, 0, 0, 0]);
        body.extend(payload);
        Self::new(TCP, from.0, to.0, body)
    }

    /// An ICMP error of somebody about a packet, of which it quotes so many bytes at most.
    #[must_use]
    pub fn error(from: Ipv4Addr, kind: (u8, u8), about: &Self, most: usize) -> Self {
        let about_bytes = about.bytes();
        let quoted = &about_bytes[..most.min(about_bytes.len())];
        Self::new(ICMP, from, about.source, [&[kind.0, kind.1, 0, 0, 0, 0, 0, 0], quoted].concat())
    }

    /// An ICMP echo request (`kind` 8) or reply (0).
    #[must_use]
    pub fn echo(kind: u8, from: Ipv4Addr, to: Ipv4Addr, identifier: u16) -> Self {
        let body = [&[kind, 0, 0, 0][..], &identifier.to_be_bytes(), &[0, 1], b"echo"].concat();
        Self::new(ICMP, from, to, body)
    }

    /// Of TCP or UDP.
    #[must_use]
    pub fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.body[0], self.body[1]])
    }

    fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.body[2], self.body[3]])
    }

    /// The source, with the port of TCP or UDP.
    #[must_use]
    pub fn from(&self) -> Endpoint {
        (self.source, self.source_port())
    }

    /// The destination, likewise.
    #[must_use]
    pub fn to(&self) -> Endpoint {
        (self.destination, self.destination_port())
    }

    /// What an ICMP error quotes, as it would be if the packet had been received.
    ///
    /// # Panics
    /// If it quotes none, or a wrong checksum.
    #[must_use]
    pub fn quoted(&self) -> Self {
        Self::read(&self.body[8..]).expect("an error quotes a packet")
    }

    /// From the IPv4 header on; its TTL is 64.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut header = vec![0x45, 0];
        header.extend((20 + self.body.len() as u16).to_be_bytes());
        header.extend(self.fragment.0.to_be_bytes());
        header.extend(self.fragment.1.to_be_bytes());
        header.extend([64, self.protocol, 0, 0]);
        header.extend(self.source.octets());
        header.extend(self.destination.octets());
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [header, self.body.clone()].concat()
    }

    /// Reads a packet, and verifies every checksum that can be: of what is quoted in part, only the header's.
    ///
    /// # Panics
    /// If one is wrong.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        if bytes.len() < 28 || bytes[0] != 0x45 {
            return None;
        }
        assert_eq!(checksum(&bytes[..20]), 0, "a wrong checksum of an IPv4 header: {bytes:02x?}");
        let address = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
        let packet = Self {
            protocol: bytes[9],
            source: address(12),
            destination: address(16),
            fragment: (word(4), word(6)),
            body: bytes[20..usize::from(word(2)).min(bytes.len())].to_vec(),
        };
        if packet.fragment.1 & 0x3fff == 0 && usize::from(word(2)) <= bytes.len() {
            packet.verify();
        }
        Some(packet)
    }

    fn verify(&self) {
        let covered = match self.protocol {
            ICMP => self.body.clone(),
            _ => pseudo_header(self.source, self.destination, self.protocol, &self.body),
        };
        assert_eq!(checksum(&covered), 0, "a wrong checksum in {self:?}");
    }

    /// In so many fragments.
    #[must_use]
    pub fn fragments(&self, identification: u16, count: usize) -> Vec<Self> {
        let share = self.body.len().div_ceil(count).next_multiple_of(8);
        let parts = self.body.chunks(share).enumerate().map(|(index, part)| {
            let more = if (index + 1) * share < self.body.len() { 0x2000 } else { 0 };
            let fragment = (identification, more | (index * share / 8) as u16);
            Self { fragment, body: part.to_vec(), ..self.clone() }
        });
        parts.collect()
    }

    /// From fragments in any order; the whole is verified.
    ///
    /// # Panics
    /// If they are not all there, or the checksum is wrong.
    #[must_use]
    pub fn whole(mut fragments: Vec<Self>) -> Self {
        fragments.sort_by_key(|packet| packet.fragment.1 & 0x1fff);
        let mut body = Vec::new();
        for packet in &fragments {
            assert_eq!(usize::from(packet.fragment.1 & 0x1fff) * 8, body.len(), "{fragments:#?}");
            body.extend(&packet.body);
        }
        let whole = Self { fragment: (0, 0), body, ..fragments[0].clone() };
        whole.verify();
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: Endpoint = (Ipv4Addr::new(10, 0, 0, 1), 1000);
    const TO: Endpoint = (Ipv4Addr::new(10, 0, 0, 2), 2000);

    #[test]
    fn what_is_written_is_read_and_every_wrong_bit_is_seen() {
        let udp = Packet::udp(FROM, TO, b"datagram");
        let error = Packet::error(TO.0, (3, 3), &udp, 1000);
        assert_eq!(error.quoted(), udp);
        let all = [Packet::tcp(FROM, TO, SYN, (1, 2), b"segment"), Packet::echo(8, FROM.0, TO.0, 7), udp, error];
        for packet in all {
            assert_eq!(Packet::read(&packet.bytes()), Some(packet.clone()));
            // The first two bytes and the length say what there is to verify.
            for place in (4..packet.bytes().len()).filter(|place| !(6..8).contains(place)) {
                let mut bytes = packet.bytes();
                bytes[place] ^= 4;
                let read = std::panic::catch_unwind(|| Packet::read(&bytes));
                assert!(read.is_err(), "byte {place} of {packet:?}");
            }
        }
    }

    #[test]
    fn fragments_make_the_whole() {
        let whole = Packet::udp(FROM, TO, &[7; 100]);
        let mut fragments = whole.fragments(9, 3);
        assert_eq!(fragments.len(), 3);
        fragments.reverse();
        assert_eq!(Packet { fragment: (0, 0), ..Packet::whole(fragments) }, whole);
    }
}
