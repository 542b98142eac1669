//! Ethernet frames built by hand, for the checks: what no well-behaved endpoint would send, or would send
//! only after questions that the checks do not want to depend on.

use std::net::Ipv4Addr;

/// A MAC address.
pub type Mac = [u8; 6];

/// The MAC address of everyone.
pub const BROADCAST: Mac = [0xff; 6];

/// One end of a frame.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// On the link.
    pub mac: Mac,
    /// IPv4.
    pub address: Ipv4Addr,
}

/// A UDP datagram in IPv4 in Ethernet, both checksums right. `payload` is at most 1,400 bytes long.
#[must_use]
pub fn udp(from: End, to: End, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    debug_assert!(payload.len() <= 1400, "the payload does not fit a frame");
    let length = 8 + payload.len() as u16;
    let mut datagram = Vec::with_capacity(usize::from(length));
    datagram.extend(ports.0.to_be_bytes());
    datagram.extend(ports.1.to_be_bytes());
    datagram.extend(length.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    let mut pseudo = Vec::new();
    pseudo.extend(from.address.octets());
    pseudo.extend(to.address.octets());
    pseudo.extend([0, 17]);
    pseudo.extend(length.to_be_bytes());
    pseudo.extend(&datagram);
    // Zero would say "no checksum". [RFC 768]
    let sum = match checksum(&pseudo) {
        0 => 0xffff,
        sum => sum,
    };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    ipv4(from, to, 17, &datagram)
}

/// A packet in IPv4 in Ethernet with a TTL of 64.
#[must_use]
pub fn ipv4(from: End, to: End, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend((20 + payload.len() as u16).to_be_bytes());
    // Identification 0, "don't fragment".
    header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    header.extend(from.address.octets());
    header.extend(to.address.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ethernet(from.mac, to.mac, 0x0800);
    frame.extend(header);
    frame.extend(payload);
    frame
}

/// An ARP request (RFC 826) of `from` for `target`.
#[must_use]
pub fn arp_request(from: End, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(from.mac, BROADCAST, 0x0806);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(from.mac);
    frame.extend(from.address.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// An Ethernet header.
#[must_use]
pub fn ethernet(from: Mac, to: Mac, kind: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(64);
    frame.extend(to);
    frame.extend(from);
    frame.extend(kind.to_be_bytes());
    frame
}

/// The Internet checksum (RFC 1071).
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Whether `marker` occurs in a frame.
#[must_use]
pub fn contains(frame: &[u8], marker: &[u8]) -> bool {
    frame.windows(marker.len()).any(|window| window == marker)
}

/// `02:00:00:00:00:01`, read.
#[must_use]
pub fn parse_mac(text: &str) -> Option<Mac> {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>().ok()?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_verify() {
        let from = End { mac: [2, 0, 0, 0, 0, 1], address: Ipv4Addr::new(10, 0, 0, 1) };
        let to = End { mac: BROADCAST, address: Ipv4Addr::BROADCAST };
        let frame = udp(from, to, (68, 67), b"abc");
        assert_eq!(checksum(&frame[14..34]), 0, "the header's sum with its checksum is zero");
        let mut pseudo = frame[26..34].to_vec();
        pseudo.extend([0, 17, 0, 11]);
        pseudo.extend(&frame[34..]);
        assert_eq!(checksum(&pseudo), 0);
        assert!(contains(&frame, b"abc") && !contains(&frame, b"abd"));
    }

    #[test]
    fn mac_addresses_are_read() {
        assert_eq!(parse_mac("02:00:00:00:0a:ff"), Some([2, 0, 0, 0, 0x0a, 0xff]));
        assert_eq!(parse_mac("02:00:00:00:0a"), None);
        assert_eq!(parse_mac("no:00:00:00:0a:00"), None);
    }
}
