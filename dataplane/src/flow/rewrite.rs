//! Set-field on a frame: writes a field's bits where they lie, and keeps every checksum that covers them
//! right, incrementally (RFC 1624). Of a partial checksum only the pseudo-header's part is kept.

use super::action::SetField;
use super::key::{FlowKey, PACKET_WORDS, place};
use crate::packet::checksum;
use crate::packet::frame::{Checksum, Frame};
use crate::packet::header::{Ipv4, view};
use crate::packet::parse::Layout;
use weft_proto::v1::Field;

const ETHERNET: usize = 14;

/// Writes all fields of a set-field; false if the frame has no such header after all (the walk checked
/// that it has).
#[must_use]
pub fn rewrite(frame: &mut Frame, layout: &Layout, set: &SetField) -> bool {
    set.fields.iter().all(|&field| write(frame, layout, field, &set.value, &set.mask))
}

/// Which checksums cover a field.
#[derive(Clone, Copy, PartialEq)]
enum Covered {
    /// None.
    No,
    /// IPv4's header checksum.
    Header,
    /// That, and the pseudo-header in the transport checksum.
    HeaderAndPseudo,
    /// The pseudo-header only (IPv6).
    Pseudo,
    /// The transport checksum itself.
    Transport,
}

fn write(frame: &mut Frame, layout: &Layout, field: Field, value: &FlowKey, mask: &FlowKey) -> bool {
    let (l3, l4) = (layout.l3 as usize, layout.l4 as usize);
    let head = frame.head();
    // A frame may end with its Ethernet header; then it has no field that lies behind.
    let version6 = head.get(l3).is_some_and(|version| version >> 4 == 6);
    let (at, covered) = match field {
        _ if !is_in_frame(field) => return true,
        Field::EthDst => (0, Covered::No),
        Field::EthSrc => (6, Covered::No),
        Field::VlanTci => (ETHERNET, Covered::No),
        Field::ArpOp => (l3 + 6, Covered::No),
        Field::ArpSha => (l3 + 8, Covered::No),
        Field::ArpSpa => (l3 + 14, Covered::No),
        Field::ArpTha => (l3 + 18, Covered::No),
        Field::ArpTpa => (l3 + 24, Covered::No),
        Field::Ipv4Src => (l3 + 12, Covered::HeaderAndPseudo),
        Field::Ipv4Dst => (l3 + 16, Covered::HeaderAndPseudo),
        Field::Ipv6Src => (l3 + 8, Covered::Pseudo),
        Field::Ipv6Dst => (l3 + 24, Covered::Pseudo),
        Field::IpTtl if version6 => (l3 + 7, Covered::No),
        Field::IpTtl => (l3 + 8, Covered::Header),
        Field::IpTos if version6 => return write_traffic_class(frame, l3, value.ip_tos, mask.ip_tos),
        Field::IpTos => (l3 + 1, Covered::Header),
        // A later fragment, whose ports the walk knows from its first: that one is rewritten.
        _ if l4 == 0 => return view::<Ipv4>(head, l3).is_some_and(|ip| ip.fragment.get() & Ipv4::OFFSET_MASK != 0),
        Field::TcpSrc | Field::UdpSrc | Field::SctpSrc => (l4, Covered::Transport),
        Field::TcpDst | Field::UdpDst | Field::SctpDst => (l4 + 2, Covered::Transport),
        Field::IcmpType | Field::Icmpv6Type => (l4, Covered::Transport),
        Field::IcmpCode | Field::Icmpv6Code => (l4 + 1, Covered::Transport),
        _ => return false,
    };
    let (value, mask) = (value.field(field), mask.field(field));
    match value.len() {
        // The key's presence bit stands where a tag has its drop-eligible indicator: not ours to write.
        2 if field == Field::VlanTci => put::<2>(frame, at, value, &[mask[0] & !0x10, mask[1]]).is_some(),
        6 => exchange::<6>(frame, layout, at, covered, value, mask),
        4 => exchange::<4>(frame, layout, at, covered, value, mask),
        2 => exchange::<2>(frame, layout, at, covered, value, mask),
        16 => exchange::<16>(frame, layout, at, covered, value, mask),
        1 => {
            // Checksums sum 16-bit words from their header's start, which is even in both headers.
            let base = if covered == Covered::Transport { l4 } else { l3 };
            if (at - base).is_multiple_of(2) {
                exchange::<2>(frame, layout, at, covered, &[value[0], 0], &[mask[0], 0])
            } else {
                exchange::<2>(frame, layout, at - 1, covered, &[0, value[0]], &[0, mask[0]])
            }
        }
        _ => false,
    }
}

/// Writes bytes under a mask; gives those before and after, `None` (and nothing done) if the frame is shorter.
#[inline]
fn put<const N: usize>(frame: &mut Frame, at: usize, value: &[u8], mask: &[u8]) -> Option<([u8; N], [u8; N])> {
    let (value, mask): (&[u8; N], &[u8; N]) = (value.try_into().ok()?, mask.try_into().ok()?);
    let place: &mut [u8; N] = frame.head_mut().get_mut(at..at + N)?.try_into().ok()?;
    let old = *place;
    for ((byte, value), mask) in place.iter_mut().zip(value).zip(mask) {
        *byte = (*byte & !mask) | (value & mask);
    }
    Some((old, *place))
}

/// Likewise, and keeps the checksums right that cover them.
#[inline]
fn exchange<const N: usize>(
    frame: &mut Frame,
    layout: &Layout,
    at: usize,
    covered: Covered,
    value: &[u8],
    mask: &[u8],
) -> bool {
    let Some((old, new)) = put::<N>(frame, at, value, mask) else { return false };
    if covered == Covered::No {
        return true;
    }
    let l3 = layout.l3 as usize;
    if matches!(covered, Covered::Header | Covered::HeaderAndPseudo) {
        let Some(sum) = frame.head_mut().get_mut(l3 + 10..l3 + 12) else { return false };
        let updated = checksum::update([sum[0], sum[1]], &old, &new);
        sum.copy_from_slice(&updated);
    }
    let version6 = frame.head().get(l3).is_some_and(|version| version >> 4 == 6);
    match covered {
        Covered::No | Covered::Header => true,
        Covered::HeaderAndPseudo | Covered::Pseudo => update_transport(frame, layout, version6, true, &old, &new),
        Covered::Transport => update_transport(frame, layout, version6, false, &old, &new),
    }
}

/// Metadata, registers and the tunnel's fields stand in the key only: a set-field may name them beside
/// others, and the walk has written them.
fn is_in_frame(field: Field) -> bool {
    let pipeline = place(field).0 >= PACKET_WORDS * 8;
    !pipeline && !matches!(field, Field::TunId | Field::TunSrc | Field::TunDst)
}

/// IPv6's traffic class straddles the first two bytes; no checksum covers it.
fn write_traffic_class(frame: &mut Frame, l3: usize, value: u8, mask: u8) -> bool {
    let Some(bytes) = frame.head_mut().get_mut(l3..l3 + 2) else { return false };
    let class = (bytes[0] << 4) | (bytes[1] >> 4);
    let class = (class & !mask) | (value & mask);
    bytes[0] = (bytes[0] & 0xf0) | (class >> 4);
    bytes[1] = (bytes[1] & 0x0f) | (class << 4);
    true
}

/// Keeps the transport checksum right after bytes under it changed. `pseudo`: they are addresses.
pub(super) fn update_transport(
    frame: &mut Frame,
    layout: &Layout,
    version6: bool,
    pseudo: bool,
    old: &[u8],
    new: &[u8],
) -> bool {
    let (l3, l4) = (layout.l3 as usize, layout.l4 as usize);
    if l4 == 0 {
        // A later fragment: the checksum travelled with the first one, which is rewritten likewise.
        return true;
    }
    let protocol = transport_protocol(frame.head(), l3, l4, version6);
    let at = match protocol {
        Some(6) => l4 + 16,
        Some(17) => l4 + 6,
        Some(1) if !pseudo => l4 + 2,
        Some(58) => l4 + 2,
        Some(132) if !pseudo => return sctp_checksum(frame, layout),
        _ => return true,
    };
    let partial = matches!(frame.checksum, Checksum::Partial { start, .. } if start as usize == l4);
    let Some(field) = frame.head_mut().get_mut(at..at + 2) else { return false };
    let sum = [field[0], field[1]];
    if partial {
        if pseudo {
            field.copy_from_slice(&checksum::update_partial(sum, old, new));
        }
        return true;
    }
    if protocol == Some(17) {
        if sum == [0, 0] {
            return true; // no checksum (RFC 768; over IPv6, tunnels may do without: RFC 6935)
        }
        let updated = checksum::update(sum, old, new);
        field.copy_from_slice(if updated == [0, 0] { &[0xff, 0xff] } else { &updated });
    } else {
        field.copy_from_slice(&checksum::update(sum, old, new));
    }
    true
}

/// The transport protocol: for IPv6 the last next-header byte before the transport header.
fn transport_protocol(head: &[u8], l3: usize, l4: usize, version6: bool) -> Option<u8> {
    if !version6 {
        return head.get(l3 + 9).copied();
    }
    let mut next = *head.get(l3 + 6)?;
    let mut at = l3 + 40;
    while at < l4 {
        let length = *head.get(at + 1)? as usize;
        let bytes = match next {
            44 => 8,
            51 => (length + 2) * 4,
            _ => (length + 1) * 8,
        };
        next = *head.get(at)?;
        at += bytes;
    }
    (at == l4).then_some(next)
}

/// SCTP's CRC32c over the whole packet (RFC 9260, appendix A): it has no incremental form worth having.
/// A fragment's cannot be computed here; it stays, and the receiver drops the datagram.
fn sctp_checksum(frame: &mut Frame, layout: &Layout) -> bool {
    let l4 = layout.l4 as usize;
    let Some(field) = frame.head_mut().get_mut(l4 + 8..l4 + 12) else { return false };
    field.fill(0);
    let mut crc = u32::MAX;
    let mut at = 0;
    for segment in frame.segments() {
        for &byte in segment {
            if at >= l4 && at < layout.end as usize {
                crc = CRC32C[((crc ^ u32::from(byte)) & 0xff) as usize] ^ (crc >> 8);
            }
            at += 1;
        }
    }
    frame.head_mut()[l4 + 8..l4 + 12].copy_from_slice(&(!crc).to_le_bytes());
    true
}

/// The table of the reflected polynomial 0x82f63b78.
const CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};
