//! For tests: frames made from parts, and a verifier of finished frames. Nothing here uses the code
//! under test: checksums are computed word by word as RFC 1071 defines them, and the verifier parses and
//! computes with `etherparse`.

use super::memory::Memory;
use super::pool::Pool;
use etherparse::{NetHeaders, PacketHeaders, TransportHeader};

pub const SOURCE4: [u8; 4] = [10, 0, 0, 1];
pub const DESTINATION4: [u8; 4] = [10, 0, 0, 2];
pub const SOURCE6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub const DESTINATION6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0xff, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0xa, 2];
pub const SEQUENCE: u32 = 0xffff_f000;
pub const IDENTIFICATION: u16 = 0xfff0;

/// A pool of the test's own memory: in a memory of all tests, one could use up a port's quota for another.
pub fn pool() -> Pool {
    thread_local! {
        static MEMORY: &'static Memory = Memory::map(16_384, 256).unwrap();
    }
    Pool::new(MEMORY.with(|memory| *memory))
}

pub fn slow_sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum()
}

pub fn slow_fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The uncomplemented sum of a pseudo-header.
pub fn pseudo_sum(version4: bool, protocol: u8, length: usize) -> u64 {
    let addresses = if version4 {
        slow_sum(&SOURCE4) + slow_sum(&DESTINATION4)
    } else {
        slow_sum(&SOURCE6) + slow_sum(&DESTINATION6)
    };
    addresses + u64::from(protocol) + slow_sum(&(length as u32).to_be_bytes())
}

pub fn ethernet(tags: &[(u16, u16)], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    for (tag, tci) in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend(tci.to_be_bytes());
    }
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame
}

pub fn ipv4(options: &[u8], protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45 + (options.len() / 4) as u8, 0xb8];
    packet.extend(((20 + options.len() + payload.len()) as u16).to_be_bytes());
    packet.extend(IDENTIFICATION.to_be_bytes());
    packet.extend(fragment.to_be_bytes());
    packet.extend([63, protocol, 0, 0]);
    packet.extend(SOURCE4);
    packet.extend(DESTINATION4);
    packet.extend(options);
    let checksum = !slow_fold(slow_sum(&packet));
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// With extension headers: the number of each, and its bytes, of which the first is overwritten.
pub fn ipv6(extensions: &[(u8, Vec<u8>)], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (index, (_, bytes)) in extensions.iter().enumerate() {
        body.push(extensions.get(index + 1).map_or(protocol, |(number, _)| *number));
        body.extend(&bytes[1..]);
    }
    body.extend(payload);
    let mut packet = vec![0x6b, 0x85, 0x43, 0x21];
    packet.extend((body.len() as u16).to_be_bytes());
    packet.extend([extensions.first().map_or(protocol, |(number, _)| *number), 62]);
    packet.extend(SOURCE6);
    packet.extend(DESTINATION6);
    packet.extend(body);
    packet
}

/// Options that do nothing, as an extension header of `units` times 8 bytes.
pub fn padding_options(units: usize) -> Vec<u8> {
    let mut bytes = vec![0, units as u8 - 1];
    bytes.resize(units * 8, 0);
    bytes
}

/// TCP, 40001 to 443, with its checksum.
pub fn tcp(version4: bool, flags: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![0x9c, 0x41, 0x01, 0xbb];
    segment.extend(SEQUENCE.to_be_bytes());
    segment.extend([1, 2, 3, 4]);
    segment.extend((((5 + options.len() as u16 / 4) << 12) | flags).to_be_bytes());
    segment.extend([0x20, 0, 0, 0, 0, 0]);
    segment.extend(options);
    segment.extend(payload);
    let checksum = !slow_fold(slow_sum(&segment) + pseudo_sum(version4, 6, segment.len()));
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    segment
}

/// UDP, 5000 to 53, with its checksum.
pub fn udp(version4: bool, payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0x13, 0x88, 0, 53];
    datagram.extend(((8 + payload.len()) as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    let checksum = !slow_fold(slow_sum(&datagram) + pseudo_sum(version4, 17, datagram.len()));
    datagram[6..8].copy_from_slice(&if checksum == 0 { 0xffff } else { checksum }.to_be_bytes());
    datagram
}

pub fn sctp() -> Vec<u8> {
    vec![0x0b, 0x59, 0x0b, 0x5a, 1, 2, 3, 4, 5, 6, 7, 8, 0, 3, 0, 4]
}

/// A message with a body of any content, checksum included.
pub fn icmp(version4: bool, kind: u8, code: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0, 0x12, 0x34, 0, 0];
    message.extend(body);
    let pseudo = if version4 { 0 } else { pseudo_sum(false, 58, message.len()) };
    let checksum = !slow_fold(slow_sum(&message) + pseudo);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

pub fn arp(operation: u8) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, operation, 2, 0, 0, 0, 0, 1];
    packet.extend(SOURCE4);
    packet.extend([2, 0, 0, 0, 0, 9]);
    packet.extend(DESTINATION4);
    packet
}

/// One of everything.
pub fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let target = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    let solicitation = icmp(false, 135, 0, &[&target[..], &[1, 1, 2, 0, 0, 0, 0, 1]].concat());
    let advertisement =
        icmp(false, 136, 0, &[&target[..], &[14, 1, 0, 0, 0, 0, 0, 0, 2, 1, 2, 0, 0, 0, 0, 7]].concat());
    let fragment = |place: u16| {
        let [high, low] = place.to_be_bytes();
        (44, vec![0, 0, high, low, 0, 0, 0, 9])
    };
    let authentication = (51, vec![0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    vec![
        ("tcp4", ethernet(&[], 0x0800, &ipv4(&[], 6, 0x4000, &tcp(true, 0x018, &[1; 12], b"hello, world")))),
        ("udp4", ethernet(&[], 0x0800, &ipv4(&[], 17, 0, &udp(true, b"a question")))),
        ("tiny udp4", ethernet(&[], 0x0800, &ipv4(&[], 17, 0, &udp(true, b"")))),
        ("options4", ethernet(&[], 0x0800, &ipv4(&[1; 8], 6, 0, &tcp(true, 0x002, &[2, 4, 5, 0xb4], b"")))),
        ("icmp4", ethernet(&[], 0x0800, &ipv4(&[], 1, 0, &icmp(true, 8, 0, b"ping")))),
        ("sctp4", ethernet(&[], 0x0800, &ipv4(&[], 132, 0, &sctp()))),
        ("gre4", ethernet(&[], 0x0800, &ipv4(&[], 47, 0, &[0, 0, 0x65, 0x58]))),
        ("first fragment4", ethernet(&[], 0x0800, &ipv4(&[], 17, 0x2000, &udp(true, &[7; 32])[..24]))),
        ("later fragment4", ethernet(&[], 0x0800, &ipv4(&[], 17, 0x0003, &[7; 16]))),
        ("tagged tcp4", ethernet(&[(0x8100, 0x6007)], 0x0800, &ipv4(&[], 6, 0, &tcp(true, 0x0c2, &[], b"x")))),
        ("double tagged udp6", ethernet(&[(0x88a8, 5), (0x8100, 6)], 0x86dd, &ipv6(&[], 17, &udp(false, b"six")))),
        ("tcp6", ethernet(&[], 0x86dd, &ipv6(&[], 6, &tcp(false, 0x010, &[1; 12], b"hello")))),
        ("ping6", ethernet(&[], 0x86dd, &ipv6(&[], 58, &icmp(false, 128, 0, b"ping")))),
        ("solicitation", ethernet(&[], 0x86dd, &ipv6(&[], 58, &solicitation))),
        ("advertisement", ethernet(&[], 0x86dd, &ipv6(&[], 58, &advertisement))),
        ("extensions6", {
            let extensions = [(0, padding_options(1)), (60, padding_options(2)), authentication];
            ethernet(&[], 0x86dd, &ipv6(&extensions, 6, &tcp(false, 0x011, &[], b"bye")))
        }),
        ("first fragment6", ethernet(&[], 0x86dd, &ipv6(&[fragment(1)], 17, &udp(false, &[1; 48])[..40]))),
        ("later fragment6", ethernet(&[], 0x86dd, &ipv6(&[fragment(40)], 17, &[1; 16]))),
        ("atomic fragment6", ethernet(&[], 0x86dd, &ipv6(&[fragment(0)], 17, &udp(false, b"whole")))),
        ("arp", ethernet(&[], 0x0806, &arp(1))),
        ("llc", ethernet(&[], 0x0026, &[0x42, 0x42, 3, 0, 0, 0, 0])),
        ("unknown type", ethernet(&[], 0x88cc, &[2, 7, 4, 0])),
    ]
}

/// Whether lengths and checksums of a finished frame are right, and nothing follows the packet; gives
/// its headers and payload.
pub fn verify(frame: &[u8]) -> Result<PacketHeaders<'_>, String> {
    let packet = PacketHeaders::from_ethernet_slice(frame).map_err(|error| error.to_string())?;
    let mut end = 14 + packet.link_exts.iter().map(|tag| tag.header_len()).sum::<usize>();
    let payload = packet.payload.slice();
    let expect = |what: &str, found: u16, right: Result<u16, String>| match right? {
        right if right == found => Ok(()),
        right => Err(format!("{what} checksum {found:#06x} instead of {right:#06x}")),
    };
    let text = |error: etherparse::err::ValueTooBigError<usize>| error.to_string();
    match (&packet.net, &packet.transport) {
        (Some(NetHeaders::Ipv4(ip, _)), transport) => {
            end += usize::from(ip.total_len);
            expect("IPv4", ip.header_checksum, Ok(ip.calc_header_checksum()))?;
            match transport {
                Some(TransportHeader::Tcp(tcp)) => {
                    expect("TCP", tcp.checksum, tcp.calc_checksum_ipv4(ip, payload).map_err(text))?;
                }
                Some(TransportHeader::Udp(udp)) if udp.checksum != 0 => {
                    expect("UDP", udp.checksum, udp.calc_checksum_ipv4(ip, payload).map_err(text))?;
                }
                _ => {}
            }
        }
        (Some(NetHeaders::Ipv6(ip, _)), transport) => {
            end += 40 + usize::from(ip.payload_length);
            match transport {
                Some(TransportHeader::Tcp(tcp)) => {
                    expect("TCP", tcp.checksum, tcp.calc_checksum_ipv6(ip, payload).map_err(text))?;
                }
                Some(TransportHeader::Udp(udp)) => {
                    expect("UDP", udp.checksum, udp.calc_checksum_ipv6(ip, payload).map_err(text))?;
                }
                _ => {}
            }
        }
        _ => return Err("not an IP packet".into()),
    }
    if let Some(TransportHeader::Udp(udp)) = &packet.transport
        && usize::from(udp.length) != 8 + payload.len()
    {
        return Err(format!("UDP length {} before {} bytes", udp.length, payload.len()));
    }
    if end != frame.len() {
        return Err(format!("the packet ends at {end}, the frame at {}", frame.len()));
    }
    Ok(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A verifier that finds nothing would make every test that uses it worthless.
    #[test]
    fn the_verifier_finds_planted_faults() {
        for (name, good) in frames() {
            let Ok(packet) = verify(&good) else { continue };
            if !matches!(packet.transport, Some(TransportHeader::Tcp(_) | TransportHeader::Udp(_))) {
                continue;
            }
            let last = good.len() - 1;
            // A byte of payload (or of the transport header), and one of the IP header's TTL and length.
            let l3 = 14 + packet.link_exts.iter().map(|tag| tag.header_len()).sum::<usize>();
            let length = if matches!(packet.net, Some(NetHeaders::Ipv4(..))) { l3 + 3 } else { l3 + 5 };
            for place in [last, length] {
                let mut bad = good.clone();
                bad[place] ^= 1;
                assert!(verify(&bad).is_err(), "{name}: byte {place} changed, not found");
            }
            assert!(verify(&[&good[..], &[0]].concat()).is_err(), "{name}: one byte too many, not found");
        }
    }

    #[test]
    fn the_samples_are_right() {
        let verified: Vec<&str> =
            frames().iter().filter(|(_, bytes)| verify(bytes).is_ok()).map(|(name, _)| *name).collect();
        for name in ["tcp4", "udp4", "options4", "tagged tcp4", "double tagged udp6", "tcp6", "extensions6"] {
            assert!(
                verified.contains(&name),
                "{name}: {:?}",
                frames().iter().find(|frame| frame.0 == name).map(|frame| verify(&frame.1).err())
            );
        }
    }
}
