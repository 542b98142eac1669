//! From a frame to its [`FlowKey`]: once per frame, by the worker, before anything else.
//!
//! What it promises: it never panics and never reads outside the frame, whatever the bytes; once it
//! has succeeded, every header it put into the key lies wholly in the frame's first segment, at the
//! places the [`Layout`] names, so that later steps need not check again.
//!
//! - A header that is announced but does not fit is `Truncated`: in the
//!   frame, in the IP packet's own length, or in the first segment of a chain (where all headers lie).
//! - A header that contradicts itself is `Malformed`.
//! - What is not known is left unparsed and is no error: LLC frames (SNAP included) are type 0x05ff as
//!   in OpenFlow, a third VLAN tag stays an EtherType, ARP for anything but IPv4 over Ethernet has only
//!   its EtherType, options of neighbour discovery that make no sense are not set.
//! - Bytes behind the IP packet (Ethernet padding) are fine: [`Layout::end`] tells where it ends.
//!
//! The IPv4 header checksum is **not** verified here. Ethernet's own check covers the wire, every
//! rewrite is incremental and so preserves an error for the receiver to find (RFC 1624), and a tunnel
//! packet that ends here is verified when its outer header is removed (`tunnel.rs`).

use super::frame::{Checksum, Frame};
use super::header::{Arp, Ethernet, Icmp, Ipv4, Ipv6, Sctp, Tcp, Udp, VlanTag, eth_type, neighbour, protocol, view};
use crate::drop::DropReason::{self, Malformed, Truncated};
use crate::flow::key::{BASE_WORDS, FlowKey};
use crate::limits::EXTENSION_HEADERS;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

#[cfg(test)]
mod tests;

/// `ip_frag` of a packet that is no fragment.
pub const WHOLE: u8 = 0;
/// Of a first fragment.
pub const FIRST_FRAGMENT: u8 = 1;
/// Of a later fragment: it has no transport header.
pub const LATER_FRAGMENT: u8 = 3;

/// The bit that a VLAN TCI of the key has set if there is a tag.
pub const VLAN_PRESENT: u16 = 0x1000;

/// Where headers lie in a frame: offsets in bytes from its first one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// What follows Ethernet and its VLAN tags; 0 for LLC frames.
    pub l3: u16,
    /// What follows IP and its extension headers, known or not; 0 if it is not IP or a later fragment.
    pub l4: u16,
    /// VLAN tags parsed: 0 to 2.
    pub vlan_tags: u32,
    /// One past the IP packet's last byte, by its own length; the frame's end for anything else.
    pub end: u32,
}

/// The start of most frames: untagged IPv4 without options, with the least TCP header (or a UDP header,
/// whose ports are in the same place, and 12 bytes more).
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Ordinary {
    ethernet: Ethernet,
    ip: Ipv4,
    tcp: Tcp,
}

/// Fills the key from a frame. The tunnel and pipeline fields are zero afterwards: the caller sets them.
///
/// # Errors
/// `Truncated` and `Malformed`, as in the module comment; also `Malformed` if the frame's partial checksum
/// (see [`Checksum::Partial`]) would be written over something that is not a checksum. Then the key means
/// nothing.
pub fn parse(frame: &Frame, in_port: u32, key: &mut FlowKey) -> Result<Layout, DropReason> {
    let mut layout = Layout::default();
    *key = FlowKey::ZERO;
    parse_over(frame, in_port, key, &mut layout)?;
    Ok(layout)
}

/// Likewise with a key that is all zero, or was filled by this function and has had nothing but tunnel fields set
/// since: what most frames have no use for is not cleared again for each. The layout is written where it is to stay.
///
/// # Errors
/// As [`parse`].
#[inline(always)]
pub fn parse_over(frame: &Frame, in_port: u32, key: &mut FlowKey, layout: &mut Layout) -> Result<(), DropReason> {
    parse_bytes_over(frame.head(), frame.len(), in_port, key, layout)?;
    match frame.checksum {
        Checksum::Partial { start, offset } if !is_honest(frame.head(), key, *layout, start, offset) => Err(Malformed),
        _ => Ok(()),
    }
}

/// Whether completing a partial checksum would write only where a checksum is, or behind all that was
/// parsed. Its place comes from the sender: were it believed, a guest could name its own source address
/// as the field and have it overwritten, after port security looked at it, with a value of its choice.
///
/// A start behind the transport header is honest: the checksum of a packet in a guest's own tunnel.
fn is_honest(head: &[u8], key: &FlowKey, layout: Layout, start: u16, offset: u16) -> bool {
    let (start, field, l4) = (usize::from(start), usize::from(start) + usize::from(offset), usize::from(layout.l4));
    if key.ip_frag != WHOLE || field + 2 > head.len() {
        return false;
    }
    if l4 == 0 {
        return layout.l3 > 0 && start >= usize::from(layout.l3) && key.eth_type != eth_type::ARP.to_be_bytes();
    }
    match key.ip_proto {
        protocol::TCP if start == l4 => offset == 16,
        protocol::UDP if start == l4 => offset == 6,
        protocol::ICMP | protocol::ICMPV6 => start == l4 && offset == 2,
        protocol::TCP => view::<Tcp>(head, l4).is_some_and(|tcp| start >= l4 + tcp.header_bytes()),
        protocol::UDP => start >= l4 + Udp::BYTES,
        protocol::SCTP => false,
        _ => start >= l4,
    }
}

/// Likewise from `bytes`, the first of a frame that has `total` bytes.
///
/// # Errors
/// `Truncated` and `Malformed`, as in the module comment.
pub fn parse_bytes(bytes: &[u8], total: usize, in_port: u32, key: &mut FlowKey) -> Result<Layout, DropReason> {
    let mut layout = Layout::default();
    *key = FlowKey::ZERO;
    parse_bytes_over(bytes, total, in_port, key, &mut layout)?;
    Ok(layout)
}

#[inline(always)]
fn parse_bytes_over(
    bytes: &[u8],
    total: usize,
    in_port: u32,
    key: &mut FlowKey,
    layout: &mut Layout,
) -> Result<(), DropReason> {
    if let Some((ordinary, _)) = bytes.split_first_chunk::<{ size_of::<Ordinary>() }>() {
        let ordinary: &Ordinary = zerocopy::transmute_ref!(ordinary);
        let ip = &ordinary.ip;
        if ordinary.ethernet.eth_type.get() == eth_type::IPV4
            && ip.version_ihl == 0x45
            && ip.fragment.get() & (Ipv4::MORE_FRAGMENTS | Ipv4::OFFSET_MASK) == 0
            && (ip.protocol == protocol::TCP || ip.protocol == protocol::UDP)
        {
            const L3: usize = Ethernet::BYTES;
            const L4: usize = L3 + Ipv4::BYTES;
            let end = L3 + usize::from(ip.total_length.get());
            if end < L4 || end > total {
                return Err(Malformed);
            }
            let limit = end.min(bytes.len());
            let tcp_flags = if ip.protocol == protocol::TCP {
                check_tcp(&ordinary.tcp, limit - L4)?;
                (ordinary.tcp.offset_flags.get() & 0x0fff).to_be_bytes()
            } else {
                check_udp(Udp::ref_from_prefix(&bytes[L4..limit]).map_err(|_| Truncated)?.0, Some(end - L4))?;
                [0; 2]
            };
            clear(key);
            key.in_port = in_port.to_be_bytes();
            key.eth_dst = ordinary.ethernet.destination;
            key.eth_src = ordinary.ethernet.source;
            key.eth_type = eth_type::IPV4.to_be_bytes();
            ipv4_fields(ip, key);
            // UDP's ports lie where TCP's do.
            key.l4_src = ordinary.tcp.source.to_bytes();
            key.l4_dst = ordinary.tcp.destination.to_bytes();
            key.tcp_flags = tcp_flags;
            *layout = Layout { l3: L3 as u16, l4: L4 as u16, vlan_tags: 0, end: end as u32 };
            return Ok(());
        }
    }
    clear(key);
    key.in_port = in_port.to_be_bytes();
    *layout = Layout { end: total as u32, ..Layout::default() };
    general(bytes, total, key, layout)
}

/// Clears what an earlier frame left. In the wide section only ARP and IPv6 write.
#[inline]
fn clear(key: &mut FlowKey) {
    if matches!(u16::from_be_bytes(key.eth_type), eth_type::ARP | eth_type::IPV6) {
        *key = FlowKey::ZERO;
    } else {
        key.words_mut()[..BASE_WORDS].fill(0);
    }
}

/// Every frame, step by step.
#[inline(never)]
fn general(bytes: &[u8], total: usize, key: &mut FlowKey, layout: &mut Layout) -> Result<(), DropReason> {
    let ethernet: &Ethernet = view(bytes, 0).ok_or(Truncated)?;
    key.eth_dst = ethernet.destination;
    key.eth_src = ethernet.source;
    let mut kind = ethernet.eth_type.get();
    let mut l3 = Ethernet::BYTES;
    while matches!(kind, eth_type::VLAN | eth_type::SERVICE_VLAN) && layout.vlan_tags < 2 {
        let tag: &VlanTag = view(bytes, l3).ok_or(Truncated)?;
        let tci = (tag.tci.get() | VLAN_PRESENT).to_be_bytes();
        if layout.vlan_tags == 0 {
            key.vlan_tci = tci;
        } else {
            key.vlan_inner_tci = tci;
        }
        layout.vlan_tags += 1;
        kind = tag.eth_type.get();
        l3 += VlanTag::BYTES;
    }
    if kind < eth_type::LEAST {
        key.eth_type = eth_type::LLC.to_be_bytes();
        return Ok(());
    }
    key.eth_type = kind.to_be_bytes();
    layout.l3 = l3 as u16;
    match kind {
        eth_type::IPV4 => ipv4(bytes, l3, total, key, layout),
        eth_type::IPV6 => ipv6(bytes, l3, total, key, layout),
        eth_type::ARP => arp(bytes, l3, key),
        _ => Ok(()),
    }
}

fn arp(bytes: &[u8], l3: usize, key: &mut FlowKey) -> Result<(), DropReason> {
    let kinds = bytes.get(l3..l3 + 6).ok_or(Truncated)?;
    // Hardware type 1, protocol type 0x0800, lengths 6 and 4.
    if kinds != [0, 1, 8, 0, 6, 4] {
        return Ok(());
    }
    let arp: &Arp = view(bytes, l3).ok_or(Truncated)?;
    key.arp_op = arp.operation.to_bytes();
    key.ipv4_src = arp.sender_protocol;
    key.ipv4_dst = arp.target_protocol;
    key.link_source = arp.sender_hardware;
    key.link_target = arp.target_hardware;
    Ok(())
}

#[inline]
fn ipv4_fields(ip: &Ipv4, key: &mut FlowKey) {
    key.ip_proto = ip.protocol;
    key.ip_tos = ip.tos;
    key.ip_ttl = ip.ttl;
    key.ipv4_src = ip.source;
    key.ipv4_dst = ip.destination;
}

fn ipv4(bytes: &[u8], l3: usize, total: usize, key: &mut FlowKey, layout: &mut Layout) -> Result<(), DropReason> {
    let ip: &Ipv4 = view(bytes, l3).ok_or(Truncated)?;
    let header = ip.header_bytes();
    if ip.version_ihl >> 4 != 4 || header < Ipv4::BYTES {
        return Err(Malformed);
    }
    if l3 + header > bytes.len() {
        return Err(Truncated);
    }
    let length = usize::from(ip.total_length.get());
    let end = l3 + length;
    if length < header || end > total {
        return Err(Malformed);
    }
    ipv4_fields(ip, key);
    layout.end = end as u32;
    let offset = usize::from(ip.fragment.get() & Ipv4::OFFSET_MASK) * 8;
    if offset > 0 {
        // A datagram of more than 65,535 bytes, or a fragment that would overwrite the flags of the
        // TCP header that the first one showed (RFC 1858, 3).
        if offset + length > 65_535 || (offset == 8 && ip.protocol == protocol::TCP) {
            return Err(Malformed);
        }
        key.ip_frag = LATER_FRAGMENT;
        return Ok(());
    }
    if ip.fragment.get() & Ipv4::MORE_FRAGMENTS != 0 {
        key.ip_frag = FIRST_FRAGMENT;
    }
    let l4 = l3 + header;
    layout.l4 = l4 as u16;
    transport(&bytes[..end.min(bytes.len())], l4, end - l4, key)
}

fn ipv6(bytes: &[u8], l3: usize, total: usize, key: &mut FlowKey, layout: &mut Layout) -> Result<(), DropReason> {
    let ip: &Ipv6 = view(bytes, l3).ok_or(Truncated)?;
    let first = ip.version_class_label.get();
    let end = l3 + Ipv6::BYTES + usize::from(ip.payload_length.get());
    if first >> 28 != 6 || end > total {
        return Err(Malformed);
    }
    key.ip_tos = (first >> 20) as u8;
    key.ipv6_label = (first & 0x000f_ffff).to_be_bytes();
    key.ip_ttl = ip.hop_limit;
    key.ipv6_src = ip.source;
    key.ipv6_dst = ip.destination;
    layout.end = end as u32;
    let packet = &bytes[..end.min(bytes.len())];
    let (mut next, mut l4) = (ip.next_header, l3 + Ipv6::BYTES);
    let mut fragment_seen = false;
    for _ in 0..=EXTENSION_HEADERS {
        let size = match next {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
                // Hop-by-hop options stand first or not at all (RFC 8200, 4.1).
                if next == protocol::HOP_BY_HOP && l4 != l3 + Ipv6::BYTES {
                    return Err(Malformed);
                }
                (usize::from(*packet.get(l4 + 1).ok_or(Truncated)?) + 1) * 8
            }
            protocol::AUTHENTICATION => (usize::from(*packet.get(l4 + 1).ok_or(Truncated)?) + 2) * 4,
            protocol::FRAGMENT => 8,
            _ => {
                key.ip_proto = next;
                layout.l4 = l4 as u16;
                return transport(packet, l4, end - l4, key);
            }
        };
        let header = packet.get(l4..l4 + size).ok_or(Truncated)?;
        if next == protocol::FRAGMENT {
            if fragment_seen {
                return Err(Malformed);
            }
            fragment_seen = true;
            let place = u16::from_be_bytes([header[2], header[3]]);
            if place & 0xfff8 != 0 {
                // What its first header is called is all that can be known of a later fragment.
                key.ip_proto = header[0];
                key.ip_frag = LATER_FRAGMENT;
                return if usize::from(place & 0xfff8) + (end - l4 - size) > 65_535 { Err(Malformed) } else { Ok(()) };
            }
            // Neither offset nor more to come: an atomic fragment is a whole packet (RFC 6946).
            if place & 1 != 0 {
                key.ip_frag = FIRST_FRAGMENT;
            }
        }
        next = header[0];
        l4 += size;
    }
    Err(Malformed)
}

/// The transport header at `l4` of `packet` (the frame's bytes up to the IP packet's end), which has
/// `length` bytes with its payload, some of them perhaps in later segments.
fn transport(packet: &[u8], l4: usize, length: usize, key: &mut FlowKey) -> Result<(), DropReason> {
    let version4 = key.eth_type == eth_type::IPV4.to_be_bytes();
    match key.ip_proto {
        protocol::TCP => tcp(view(packet, l4).ok_or(Truncated)?, packet.len() - l4, key),
        protocol::UDP => datagram(view(packet, l4).ok_or(Truncated)?, (key.ip_frag == WHOLE).then_some(length), key),
        protocol::SCTP => {
            let sctp: &Sctp = view(packet, l4).ok_or(Truncated)?;
            key.l4_src = sctp.source.to_bytes();
            key.l4_dst = sctp.destination.to_bytes();
            Ok(())
        }
        protocol::ICMP if version4 => icmp(packet, l4, key).map(|_| ()),
        protocol::ICMPV6 if !version4 => {
            let icmp = icmp(packet, l4, key)?;
            if icmp.code == 0 && matches!(icmp.kind, neighbour::SOLICITATION | neighbour::ADVERTISEMENT) {
                // Its options are headers too: they must lie in the first segment.
                if packet.len() < l4 + length {
                    return Err(Truncated);
                }
                neighbour_discovery(icmp.kind, &packet[l4 + Icmp::BYTES..], key)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// `present`: bytes of the packet from here on that lie in the first segment.
#[inline]
fn check_tcp(tcp: &Tcp, present: usize) -> Result<(), DropReason> {
    let header = tcp.header_bytes();
    if header < Tcp::BYTES {
        return Err(Malformed);
    }
    if header > present {
        return Err(Truncated);
    }
    Ok(())
}

fn tcp(tcp: &Tcp, present: usize, key: &mut FlowKey) -> Result<(), DropReason> {
    check_tcp(tcp, present)?;
    key.l4_src = tcp.source.to_bytes();
    key.l4_dst = tcp.destination.to_bytes();
    key.tcp_flags = (tcp.offset_flags.get() & 0x0fff).to_be_bytes();
    Ok(())
}

/// `room`: bytes of the IP payload, unless it is a fragment of it.
#[inline]
fn check_udp(udp: &Udp, room: Option<usize>) -> Result<(), DropReason> {
    let length = usize::from(udp.length.get());
    if length < Udp::BYTES || room.is_some_and(|room| length > room) {
        return Err(Malformed);
    }
    Ok(())
}

fn datagram(udp: &Udp, room: Option<usize>, key: &mut FlowKey) -> Result<(), DropReason> {
    check_udp(udp, room)?;
    key.l4_src = udp.source.to_bytes();
    key.l4_dst = udp.destination.to_bytes();
    Ok(())
}

fn icmp<'a>(packet: &'a [u8], l4: usize, key: &mut FlowKey) -> Result<&'a Icmp, DropReason> {
    let icmp: &Icmp = view(packet, l4).ok_or(Truncated)?;
    key.l4_src = [0, icmp.kind];
    key.l4_dst = [0, icmp.code];
    // Echo and the old timestamp, information and address mask messages (RFC 792, RFC 950); ICMPv6's echo.
    let identified = if key.eth_type == [0x08, 0x00] {
        matches!(icmp.kind, 0 | 8 | 13..=18)
    } else {
        matches!(icmp.kind, 128 | 129)
    };
    if identified && let Some(identifier) = packet.get(l4 + 4..l4 + 6) {
        key.icmp_identifier.copy_from_slice(identifier);
    }
    Ok(icmp)
}

/// The target, and the option that goes with the type (RFC 4861, 4.3 and 4.4): a solicitation's source
/// address, an advertisement's target address. Twice the same one counts as none, for a receiver might
/// take either.
fn neighbour_discovery(kind: u8, body: &[u8], key: &mut FlowKey) -> Result<(), DropReason> {
    let (target, mut options) = body.split_first_chunk::<16>().ok_or(Truncated)?;
    key.nd_target = *target;
    let wanted = if kind == neighbour::SOLICITATION { neighbour::SOURCE_OPTION } else { neighbour::TARGET_OPTION };
    let mut found = None;
    while let [option, length, ..] = *options {
        // In units of 8 bytes; zero is void (RFC 4861, 4.6).
        let Some(rest) = options.get(usize::from(length) * 8..).filter(|_| length > 0) else { break };
        if option == wanted && length == 1 {
            if found.is_some() {
                return Ok(());
            }
            found = options[2..].first_chunk::<6>().copied();
        }
        options = rest;
    }
    let address = found.unwrap_or_default();
    if kind == neighbour::SOLICITATION {
        key.link_source = address;
    } else {
        key.link_target = address;
    }
    Ok(())
}
