//! NAT on a frame (RFC 3022, 4.1): addresses, and ports or an ICMP query's identifier, with every checksum that
//! covers them kept right incrementally (RFC 1624); of a partial checksum only the pseudo-header's part is. Of an
//! ICMP error also the packet it quotes, with its own checksums as far as they are quoted (RFC 5508, 4).
//!
//! - A later fragment has addresses only.
//! - SCTP's CRC32c is computed anew where a port changes. A fragment has not all that it covers: NAT refuses to
//!   change its ports. Of a quoted SCTP packet it stays as it is: nobody could check it.
//!
//! Walks make a [`Translation`] of what a connection knows; programs carry it out. NAT one to one
//! ([`translate_one_to_one`]) needs no connection: addresses alone change, by constants. IPv4 only.

use super::key::FlowKey;
use super::rewrite::update_transport;
use crate::connection::{CtState, Related, Tuple, is_icmp_error};
use crate::packet::checksum;
use crate::packet::frame::{Checksum, Frame};
use crate::packet::header::{Icmp, Ipv4, protocol, view};
use crate::packet::parse::Layout;
use weft_proto::v1;

/// What changes of a packet; `None`: stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// Source address.
    pub source: Option<[u8; 4]>,
    /// Destination address.
    pub destination: Option<[u8; 4]>,
    /// Source port, big-endian.
    pub source_port: Option<[u8; 2]>,
    /// Destination port, likewise.
    pub destination_port: Option<[u8; 2]>,
    /// Of an ICMP query.
    pub identifier: Option<[u8; 2]>,
    /// Of an ICMP error: what the packet becomes that it quotes.
    pub quoted: Option<Tuple>,
    /// Of TCP and UDP: the same as constants.
    pub constants: Option<Constants>,
}

/// A translation of TCP or UDP packets of one key: what they have is known, so the whole change is, that of their
/// checksums included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Constants {
    /// Source and destination address, changed or not.
    addresses: [u8; 8],
    /// Source and destination port, likewise.
    ports: [u8; 4],
    /// What the sum of the addresses grows by; 0 if they stay.
    addresses_grow: u16,
    /// Likewise the ports'.
    ports_grow: u16,
    /// Which of the four change, for people: bits, from source address to destination port.
    changed: u8,
}

impl Constants {
    /// From the packet of a key to that of a tuple.
    fn of(key: &FlowKey, leaves: &Tuple, changed: &Translation) -> Self {
        fn joined<const N: usize>(one: &[u8], other: &[u8]) -> [u8; N] {
            let mut both = [0; N];
            both[..N / 2].copy_from_slice(one);
            both[N / 2..].copy_from_slice(other);
            both
        }
        let grow = |old: &[u8], new: &[u8]| if old == new { 0 } else { checksum::difference(old, new) };
        let addresses = joined(&narrow(&leaves.source), &narrow(&leaves.destination));
        let ports = joined(&leaves.source_port, &leaves.destination_port);
        Self {
            addresses,
            ports,
            addresses_grow: grow(&joined::<8>(&key.ipv4_src, &key.ipv4_dst), &addresses),
            ports_grow: grow(&joined::<4>(&key.l4_src, &key.l4_dst), &ports),
            changed: [
                changed.source.is_some(),
                changed.destination.is_some(),
                changed.source_port.is_some(),
                changed.destination_port.is_some(),
            ]
            .iter()
            .rfold(0, |bits, &bit| bits << 1 | u8::from(bit)),
        }
    }

    /// What it is written as, of packets that come as something else.
    #[must_use]
    pub fn translation(&self) -> Translation {
        let part =
            |at: usize| [self.addresses[at], self.addresses[at + 1], self.addresses[at + 2], self.addresses[at + 3]];
        let changes = |bit: u8| self.changed >> bit & 1 != 0;
        Translation {
            source: changes(0).then(|| part(0)),
            destination: changes(1).then(|| part(4)),
            source_port: changes(2).then_some([self.ports[0], self.ports[1]]),
            destination_port: changes(3).then_some([self.ports[2], self.ports[3]]),
            constants: Some(*self),
            ..Translation::default()
        }
    }

    /// Carries it out. False if the frame is not what the walk took it for.
    #[inline]
    #[must_use]
    pub fn write(&self, frame: &mut Frame, layout: &Layout) -> bool {
        let (l3, l4) = (usize::from(layout.l3), usize::from(layout.l4));
        let partial = matches!(frame.checksum, Checksum::Partial { start, .. } if usize::from(start) == l4);
        let head = frame.head_mut();
        let Some(ip) = head.get_mut(l3..l3 + 20).filter(|ip| ip[0] >> 4 == 4) else { return false };
        let protocol = ip[9];
        ip[12..20].copy_from_slice(&self.addresses);
        if self.addresses_grow != 0 {
            let sum = checksum::grown([ip[10], ip[11]], self.addresses_grow.into());
            ip[10..12].copy_from_slice(&sum);
        }
        if l4 == 0 {
            // A later fragment.
            return true;
        }
        let (bytes, at) = match protocol {
            protocol::TCP => (20, 16),
            protocol::UDP => (8, 6),
            _ => return false,
        };
        let Some(transport) = head.get_mut(l4..l4 + bytes) else { return false };
        transport[..4].copy_from_slice(&self.ports);
        let old = [transport[at], transport[at + 1]];
        let new = match old {
            _ if partial => checksum::grown_partial(old, self.addresses_grow.into()),
            // No checksum (RFC 768), which a computed one must not look like.
            [0, 0] if protocol == protocol::UDP => return true,
            _ => match checksum::grown(old, u32::from(self.addresses_grow) + u32::from(self.ports_grow)) {
                [0, 0] if protocol == protocol::UDP => [0xff, 0xff],
                new => new,
            },
        };
        transport[at..at + 2].copy_from_slice(&new);
        true
    }
}

fn narrow(address: &[u8; 16]) -> [u8; 4] {
    [address[0], address[1], address[2], address[3]]
}

impl Translation {
    /// What makes of the IPv4 packet of a key one of this tuple.
    #[must_use]
    pub fn of(key: &FlowKey, leaves: &Tuple) -> Self {
        let changed = |new: [u8; 2], old: [u8; 2]| (new != old).then_some(new);
        let icmp = leaves.protocol == protocol::ICMP;
        let ports = leaves.has_ports() && !icmp;
        Self {
            source: Some(narrow(&leaves.source)).filter(|new| *new != key.ipv4_src),
            destination: Some(narrow(&leaves.destination)).filter(|new| *new != key.ipv4_dst),
            source_port: changed(leaves.source_port, key.l4_src).filter(|_| ports),
            destination_port: changed(leaves.destination_port, key.l4_dst).filter(|_| ports),
            identifier: changed(leaves.source_port, key.icmp_identifier).filter(|_| icmp),
            ..Self::default()
        }
        .with_constants(key, leaves)
        .unless(leaves.family != 4)
    }

    /// What undoes NAT for the ICMP error of a key, which quotes this.
    #[must_use]
    pub fn of_error(key: &FlowKey, related: &Related, quoted: Option<&Tuple>) -> Self {
        Self {
            source: related.source.map(|new| narrow(&new)).filter(|new| *new != key.ipv4_src),
            destination: related.destination.map(|new| narrow(&new)).filter(|new| *new != key.ipv4_dst),
            quoted: Some(related.quoted).filter(|new| Some(new) != quoted),
            ..Self::default()
        }
        .unless(related.quoted.family != 4)
    }

    /// Known, unless nothing changes.
    fn with_constants(mut self, key: &FlowKey, leaves: &Tuple) -> Self {
        if self != Self::default() && matches!(leaves.protocol, protocol::TCP | protocol::UDP) {
            self.constants = Some(Constants::of(key, leaves, &self));
        }
        self
    }

    fn unless(self, condition: bool) -> Self {
        if condition { Self::default() } else { self }
    }

    /// The bits of `ct_state` that tell of it.
    #[must_use]
    pub fn state(&self) -> CtState {
        let mut state = CtState::default();
        if self.source.is_some() || self.source_port.is_some() {
            state |= CtState::SOURCE_NAT;
        }
        if self.destination.is_some() || self.destination_port.is_some() {
            state |= CtState::DESTINATION_NAT;
        }
        state
    }

    /// Writes what changes of a key, and which bits those are.
    pub fn write(&self, value: &mut FlowKey, mask: &mut FlowKey) {
        fn put<const N: usize>(new: Option<[u8; N]>, value: &mut [u8; N], mask: &mut [u8; N]) {
            if let Some(new) = new {
                (*value, *mask) = (new, [0xff; N]);
            }
        }
        put(self.source, &mut value.ipv4_src, &mut mask.ipv4_src);
        put(self.destination, &mut value.ipv4_dst, &mut mask.ipv4_dst);
        put(self.source_port, &mut value.l4_src, &mut mask.l4_src);
        put(self.destination_port, &mut value.l4_dst, &mut mask.l4_dst);
        put(self.identifier, &mut value.icmp_identifier, &mut mask.icmp_identifier);
    }

    /// For traces and dumps.
    #[must_use]
    pub fn to_message(&self) -> v1::TranslationEffect {
        let address = |address: Option<[u8; 4]>| address.map_or_else(Vec::new, Vec::from);
        let number = |bytes: Option<[u8; 2]>| bytes.map(|bytes| u16::from_be_bytes(bytes).into());
        v1::TranslationEffect {
            source: address(self.source),
            destination: address(self.destination),
            source_port: number(self.source_port),
            destination_port: number(self.destination_port),
            identifier: number(self.identifier),
            quoted: self.quoted.is_some(),
        }
    }
}

/// Replaces two neighbouring fields, as far as they are given.
fn replace<const N: usize>(bytes: &mut [u8], at: usize, new: [Option<[u8; N]>; 2]) -> Option<()> {
    for (index, new) in new.into_iter().enumerate() {
        if let Some(new) = new {
            bytes.get_mut(at + index * N..at + (index + 1) * N)?.copy_from_slice(&new);
        }
    }
    Some(())
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Carries it out. False if the frame is not what the walk took it for, or a fragment of SCTP whose ports would
/// change; it may be half changed then.
#[must_use]
pub fn translate(frame: &mut Frame, layout: &Layout, translation: &Translation) -> bool {
    if let Some(constants) = &translation.constants {
        return constants.write(frame, layout);
    }
    try_translate(frame, layout, translation).is_some()
}

fn try_translate(frame: &mut Frame, layout: &Layout, translation: &Translation) -> Option<()> {
    let (l3, l4) = (usize::from(layout.l3), usize::from(layout.l4));
    let ip: Ipv4 = *view::<Ipv4>(frame.head(), l3).filter(|ip| ip.version_ihl >> 4 == 4)?;
    readdress(frame, layout, [translation.source, translation.destination])?;
    if l4 == 0 {
        return Some(());
    }
    let (at, ports) = match ip.protocol {
        protocol::ICMP => (l4 + 4, [translation.identifier, None]),
        _ => (l4, [translation.source_port, translation.destination_port]),
    };
    if ports != [None; 2] {
        let is_fragment = ip.fragment.get() & (Ipv4::OFFSET_MASK | Ipv4::MORE_FRAGMENTS) != 0;
        if ip.protocol == protocol::SCTP && is_fragment {
            return None;
        }
        let old: [u8; 4] = array(frame.head(), at)?;
        replace(frame.head_mut(), at, ports)?;
        let new: [u8; 4] = array(frame.head(), at)?;
        update_transport(frame, layout, false, false, &old, &new).then_some(())?;
    }
    match &translation.quoted {
        Some(quoted) if ip.protocol == protocol::ICMP => {
            change_quoted(frame, layout, |bytes| translate_quote(bytes, quoted))
        }
        _ => Some(()),
    }
}

/// Replaces addresses, and what depends on them. Gives those of before.
fn readdress(frame: &mut Frame, layout: &Layout, addresses: [Option<[u8; 4]>; 2]) -> Option<[[u8; 4]; 2]> {
    let l3 = usize::from(layout.l3);
    let ip: Ipv4 = *view::<Ipv4>(frame.head(), l3).filter(|ip| ip.version_ihl >> 4 == 4)?;
    let old: [u8; 8] = array(frame.head(), l3 + 12)?;
    replace(frame.head_mut(), l3 + 12, addresses)?;
    let new: [u8; 8] = array(frame.head(), l3 + 12)?;
    if old != new {
        let sum = checksum::update(ip.checksum, &old, &new);
        replace(frame.head_mut(), l3 + 10, [Some(sum), None])?;
        update_transport(frame, layout, false, true, &old, &new).then_some(())?;
    }
    Some([array(&old, 0)?, array(&old, 4)?])
}

/// Replaces addresses of an IPv4 packet. An ICMP error quotes a packet that went the other way: if that one has
/// the address that is replaced at its other end, it is replaced there too, so that the receiver knows its own.
/// False as with [`translate`].
#[must_use]
pub fn translate_one_to_one(
    frame: &mut Frame,
    layout: &Layout,
    source: Option<[u8; 4]>,
    destination: Option<[u8; 4]>,
) -> bool {
    let Some([old_source, old_destination]) = readdress(frame, layout, [source, destination]) else { return false };
    let (l3, l4) = (usize::from(layout.l3), usize::from(layout.l4));
    let of_icmp = l4 != 0 && frame.head().get(l3 + 9) == Some(&protocol::ICMP);
    if !of_icmp || !frame.head().get(l4).is_some_and(|&kind| is_icmp_error(kind)) {
        return true;
    }
    // What quotes no packet of IPv4 goes on as it is.
    let _ = change_quoted(frame, layout, |bytes| {
        let ip: Ipv4 = *view::<Ipv4>(bytes, 0).filter(|ip| ip.version_ihl >> 4 == 4)?;
        let quoted: [u8; 8] = array(bytes, 12)?;
        let addresses =
            [destination.filter(|_| quoted[..4] == old_destination), source.filter(|_| quoted[4..] == old_source)];
        change_quote(bytes, &ip, addresses, None)
    });
    true
}

/// The longest IPv4 header, and a transport header up to its checksum.
const QUOTED: usize = 60 + 20;

/// Changes the packet that an ICMP error quotes, as far as headers go.
fn change_quoted(frame: &mut Frame, layout: &Layout, change: impl FnOnce(&mut [u8]) -> Option<()>) -> Option<()> {
    let from = usize::from(layout.l4) + Icmp::BYTES;
    let head = frame.head();
    let length = head.len().min(layout.end as usize).checked_sub(from)?.min(QUOTED) & !1;
    let mut old = [0; QUOTED];
    old[..length].copy_from_slice(&head[from..from + length]);
    let mut new = old;
    change(&mut new[..length])?;
    frame.head_mut()[from..from + length].copy_from_slice(&new[..length]);
    update_transport(frame, layout, false, false, &old[..length], &new[..length]).then_some(())
}

/// Makes it one of this tuple.
fn translate_quote(bytes: &mut [u8], quoted: &Tuple) -> Option<()> {
    let ip: Ipv4 = *view::<Ipv4>(bytes, 0)?;
    if ip.protocol != quoted.protocol {
        return None;
    }
    let addresses = [Some(narrow(&quoted.source)), Some(narrow(&quoted.destination))];
    change_quote(bytes, &ip, addresses, quoted.has_ports().then_some([quoted.source_port, quoted.destination_port]))
}

/// Replaces addresses, and ports (or an identifier, twice), of a packet that begins with this header; its
/// checksums as far as they are there.
fn change_quote(
    bytes: &mut [u8],
    ip: &Ipv4,
    addresses: [Option<[u8; 4]>; 2],
    ports: Option<[[u8; 2]; 2]>,
) -> Option<()> {
    let old: [u8; 8] = array(bytes, 12)?;
    replace(bytes, 12, addresses)?;
    let new: [u8; 8] = array(bytes, 12)?;
    let sum = checksum::update(ip.checksum, &old, &new);
    replace(bytes, 10, [Some(sum), None])?;
    if ip.fragment.get() & Ipv4::OFFSET_MASK != 0 {
        return Some(());
    }
    let l4 = ip.header_bytes();
    // Where the ports (or the identifier) and the checksum stand.
    let (at, sum) = match ip.protocol {
        protocol::ICMP => (l4 + 4, l4 + 2),
        protocol::TCP => (l4, l4 + 16),
        protocol::UDP | protocol::SCTP => (l4, l4 + 6),
        _ => return Some(()),
    };
    let (mut old_ports, mut new_ports) = ([0; 4], [0; 4]);
    if let Some([source, destination]) = ports {
        old_ports = array(bytes, at)?;
        replace(bytes, at, [Some(source), Some(destination).filter(|_| ip.protocol != protocol::ICMP)])?;
        new_ports = array(bytes, at)?;
    }
    let Some(before) = array::<2>(bytes, sum) else { return Some(()) };
    if ip.protocol == protocol::SCTP || (ip.protocol == protocol::UDP && before == [0, 0]) {
        return Some(());
    }
    let mut after = checksum::update(before, &old_ports, &new_ports);
    if ip.protocol != protocol::ICMP {
        after = checksum::update(after, &old, &new);
    }
    if ip.protocol == protocol::UDP && after == [0, 0] {
        after = [0xff; 2];
    }
    replace(bytes, sum, [Some(after), None])
}
