//! Ethernet in GRE over IPv4, with a key (RFC 2784, RFC 2890; protocol type 0x6558).
//!
//! What we send has a key and nothing else. Of what arrives, a checksum is verified; what has no key, or asks for
//! routing (RFC 1701) or for order (sequence numbers, which a receiver must not ignore: RFC 2890, 2.2), or is of
//! another version, is refused as `bad_tunnel`.

use super::{ECN_MASK, L3, Tunnel, Way, inner_ip, outer_ip, strip};
use crate::drop::DropReason::{self, BadAction, BadTunnel, Malformed, NoHeadroom, TooBig, Truncated};
use crate::packet::checksum;
use crate::packet::frame::{Checksum, Frame};
use crate::packet::header::{Ethernet, Gre, Ipv4, eth_type, protocol, view, view_mut};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

#[cfg(test)]
mod tests;

/// Bytes that GRE with a key puts before a frame: Ethernet, IPv4 and its own header.
pub const GRE_OVERHEAD: usize = size_of::<Outermost>();

/// What the outer IPv4 header's length counts beside the inner frame.
const IPV4_OVERHEAD: usize = GRE_OVERHEAD - L3;

/// The outer header as it lies in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Outermost {
    ethernet: Ethernet,
    ip: Ipv4,
    gre: Gre,
}

/// An outer header, ready but for what differs per packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GreHeader {
    bytes: Outermost,
    /// The sum of the IPv4 header as it stands in `bytes`, length and checksum zero.
    ip_sum: u32,
}

impl GreHeader {
    /// A header of this key, with TTL 64. DF is set: the underlay never fragments it.
    #[must_use]
    pub fn new(way: Way, key: u32) -> Self {
        let ip = Ipv4 {
            version_ihl: 0x45,
            tos: 0,
            total_length: 0.into(),
            identification: 0.into(),
            fragment: Ipv4::DONT_FRAGMENT.into(),
            ttl: 64,
            protocol: protocol::GRE,
            checksum: [0; 2],
            source: way.source.octets(),
            destination: way.destination.octets(),
        };
        let ethernet =
            Ethernet { destination: way.destination_mac, source: way.source_mac, eth_type: eth_type::IPV4.into() };
        let gre = Gre { flags_version: Gre::KEY.into(), protocol: Gre::ETHERNET.into(), key: key.into() };
        Self { ip_sum: checksum::sum(ip.as_bytes()), bytes: Outermost { ethernet, ip, gre } }
    }

    /// As [`super::VxlanHeader::push`].
    pub(super) fn push(&self, frame: &mut Frame) -> Result<(), DropReason> {
        let length = match frame.gso {
            None => frame.len(),
            Some(gso) if gso.tunnel == 0 => 0,
            Some(_) => return Err(BadAction),
        };
        if length + IPV4_OVERHEAD > 65_535 {
            return Err(TooBig);
        }
        let ecn = inner_ip(frame.head()).map_or(0, |ip| ip.ecn(frame.head()));
        let head = frame.push_front(GRE_OVERHEAD).ok_or(NoHeadroom)?;
        let (outer, _) = Outermost::mut_from_prefix(head).map_err(|_| NoHeadroom)?;
        *outer = self.bytes;
        outer.ip.tos |= ecn;
        // A large frame's is overwritten by `patch_outer`, segment by segment.
        outer.set_length(length, self.ip_sum + u32::from(ecn));
        if let Some(gso) = &mut frame.gso {
            gso.tunnel = GRE_OVERHEAD as u16;
        }
        Ok(())
    }
}

impl Outermost {
    /// Writes what depends on the inner frame's length; `ip_sum` is the sum of the IPv4 header with its length and
    /// checksum zero.
    fn set_length(&mut self, inner: usize, ip_sum: u32) {
        let total = (inner + IPV4_OVERHEAD) as u16;
        self.ip.total_length = total.into();
        self.ip.checksum = checksum::finish(ip_sum + u32::from(total)).to_be_bytes();
    }
}

/// Whether [`patch_outer`] can finish this header.
pub(super) fn is_outer(head: &[u8]) -> bool {
    view::<Outermost>(head, 0).is_some_and(|outer| {
        outer.ethernet.eth_type.get() == eth_type::IPV4
            && outer.ip.version_ihl == 0x45
            && outer.ip.protocol == protocol::GRE
            && outer.gre.flags_version.get() == Gre::KEY
    })
}

/// As [`super::patch_outer`].
pub(super) fn patch_outer(head: &mut [u8], inner: usize) {
    let Some(outer) = view_mut::<Outermost>(head, 0) else { return };
    outer.ip.total_length = 0.into();
    outer.ip.checksum = [0; 2];
    let ip_sum = checksum::sum(outer.ip.as_bytes());
    outer.set_length(inner, ip_sum);
}

/// Takes a frame out of its tunnel packet, as [`super::vxlan_pop`].
///
/// # Errors
/// `Truncated`: it ends within the outer headers. `Malformed`: the outer lengths contradict each other, or an outer
/// checksum is wrong. `BadTunnel`: see the module comment; or it stands for several frames, or is marked as congested
/// and carries a packet that does not speak ECN.
pub(super) fn pop(frame: &mut Frame) -> Result<Tunnel, DropReason> {
    if frame.gso.is_some() {
        return Err(BadTunnel);
    }
    let (ip, l4, end) = outer_ip(frame, protocol::GRE)?;
    let number = |at: usize| -> Result<u16, DropReason> {
        let bytes = frame.head().get(at..at + 2).filter(|_| at + 2 <= end).ok_or(Truncated)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    let flags = number(l4)? & !Gre::IGNORED;
    if number(l4 + 2)? != Gre::ETHERNET || flags & !Gre::CHECKSUM != Gre::KEY {
        return Err(BadTunnel);
    }
    let key = l4 + if flags & Gre::CHECKSUM == 0 { 4 } else { 8 };
    let inner = key + 4;
    let id = u64::from(number(key)?) << 16 | u64::from(number(key + 2)?);
    if end < inner + Ethernet::BYTES {
        return Err(Truncated);
    }
    // A partial checksum within is not yet what the outer one was made of: then a local sender made it, and it is not
    // asked about, as none that is known to be right.
    if flags & Gre::CHECKSUM != 0
        && frame.checksum == Checksum::Unverified
        && checksum::finish(checksum::sum_range(frame, l4, end)) != 0
    {
        return Err(Malformed);
    }
    let tunnel = Tunnel { source: ip.source.into(), destination: ip.destination.into(), id, ecn: ip.tos & ECN_MASK };
    strip(frame, inner, end, tunnel.ecn)?;
    Ok(tunnel)
}
