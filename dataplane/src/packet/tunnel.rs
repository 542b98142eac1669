//! VXLAN (RFC 7348) and GRE (`gre.rs`) over IPv4: putting a frame into a tunnel packet and taking it out.
//!
//! A [`Header`] is the whole outer header, made once when a flow is resolved; per packet only the
//! lengths, the ECN bits, VXLAN's source port and with them the IPv4 checksum are written. The outer UDP
//! checksum is sent as 0 (RFC 7348, 4.1), hence a `Partial` checksum within stays the only one to
//! complete, and a large frame stays large: `segment.rs` writes the outer lengths per segment.
//!
//! What arrives is verified before anything of it is believed: IPv4 header checksum, lengths, the UDP
//! checksum if there is one, the VXLAN flag.
//!
//! ECN follows RFC 6040: a packet enters in normal mode (the outer field copies the inner one) and
//! leaves by its figure 4 (congestion marked on the way is carried to the inner packet if that speaks
//! ECN; if it does not, the packet is dropped, as a router would have done).

use super::checksum;
use super::frame::{Checksum, Frame};
use super::header::{Ethernet, Gre, Ipv4, Udp, VlanTag, Vxlan, eth_type, protocol, view, view_mut};
use crate::drop::DropReason::{self, BadAction, BadTunnel, Malformed, NoHeadroom, TooBig, Truncated};
use std::net::Ipv4Addr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

mod gre;
#[cfg(test)]
mod tests;

pub use gre::{GRE_OVERHEAD, GreHeader};

/// A kind of tunnel: by what packets to its address are known, and how frames are wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encapsulation {
    /// VXLAN, at this UDP port.
    Vxlan(u16),
    /// Ethernet in GRE, with a key.
    Gre,
}

impl std::fmt::Display for Encapsulation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Vxlan(port) => write!(formatter, "UDP port {port}"),
            Self::Gre => formatter.write_str("GRE"),
        }
    }
}

/// The way of tunnel packets on the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// MAC of our interface.
    pub source_mac: [u8; 6],
    /// MAC of the remote end, or of the router towards it.
    pub destination_mac: [u8; 6],
    /// Our address.
    pub source: Ipv4Addr,
    /// The remote end.
    pub destination: Ipv4Addr,
}

/// An outer header, ready but for what differs per packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Of VXLAN.
    Vxlan(VxlanHeader),
    /// Of GRE.
    Gre(GreHeader),
}

impl Header {
    /// A header of this kind of tunnel, with TTL 64 and DSCP 0. Of the id 24 bits count in VXLAN, 32 in GRE.
    #[must_use]
    pub fn new(encapsulation: Encapsulation, way: Way, id: u64) -> Self {
        let Way { source_mac, destination_mac, source, destination } = way;
        match encapsulation {
            Encapsulation::Vxlan(port) => {
                let vni = (id & 0x00ff_ffff) as u32;
                Self::Vxlan(VxlanHeader::new(source_mac, destination_mac, source, destination, port, vni, 64, 0))
            }
            Encapsulation::Gre => Self::Gre(GreHeader::new(way, (id & 0xffff_ffff) as u32)),
        }
    }

    /// Puts the frame into the tunnel. Of one flow packets stay in order: `flow_hash` says which are of one.
    ///
    /// # Errors
    /// See [`VxlanHeader::push`].
    pub fn push(&self, frame: &mut Frame, flow_hash: u32) -> Result<(), DropReason> {
        match self {
            Self::Vxlan(header) => header.push(frame, flow_hash),
            Self::Gre(header) => header.push(frame),
        }
    }
}

/// Bytes that VXLAN puts before a frame: Ethernet, IPv4, UDP and its own header.
pub const VXLAN_OVERHEAD: usize = size_of::<Outermost>();

const L3: usize = Ethernet::BYTES;
const L4: usize = L3 + Ipv4::BYTES;
/// What the outer IPv4 header's length counts beside the inner frame.
const IPV4_OVERHEAD: usize = VXLAN_OVERHEAD - L3;
/// What the outer UDP header's length counts beside the inner frame.
const UDP_OVERHEAD: usize = VXLAN_OVERHEAD - L4;

/// The least source port: RFC 7348, 5 recommends the dynamic range, 49152 to 65535.
const LEAST_SOURCE_PORT: u16 = 49_152;

/// The outer header as it lies in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Outermost {
    ethernet: Ethernet,
    ip: Ipv4,
    udp: Udp,
    vxlan: Vxlan,
}

/// An outer header, ready but for what differs per packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VxlanHeader {
    bytes: Outermost,
    /// The sum of the IPv4 header as it stands in `bytes`, lengths and checksum zero.
    ip_sum: u32,
}

impl VxlanHeader {
    /// A header from this VTEP to that one. `destination_mac` is the next hop's; `udp_port` the
    /// destination port (4789 by IANA); `vni` has 24 bits, upper ones are ignored; of `tos` the DSCP
    /// counts, for the ECN bits are each packet's own. DF is set: the underlay never fragments it.
    #[allow(clippy::too_many_arguments)]
    #[must_use]
    pub fn new(
        source_mac: [u8; 6],
        destination_mac: [u8; 6],
        source: Ipv4Addr,
        destination: Ipv4Addr,
        udp_port: u16,
        vni: u32,
        ttl: u8,
        tos: u8,
    ) -> Self {
        let [_, vni @ ..] = vni.to_be_bytes();
        let ip = Ipv4 {
            version_ihl: 0x45,
            tos: tos & !ECN_MASK,
            total_length: 0.into(),
            identification: 0.into(),
            fragment: Ipv4::DONT_FRAGMENT.into(),
            ttl,
            protocol: protocol::UDP,
            checksum: [0; 2],
            source: source.octets(),
            destination: destination.octets(),
        };
        Self {
            ip_sum: checksum::sum(ip.as_bytes()),
            bytes: Outermost {
                ethernet: Ethernet {
                    destination: destination_mac,
                    source: source_mac,
                    eth_type: eth_type::IPV4.into(),
                },
                ip,
                udp: Udp {
                    source: LEAST_SOURCE_PORT.into(),
                    destination: udp_port.into(),
                    length: 0.into(),
                    checksum: [0; 2],
                },
                vxlan: Vxlan { flags: Vxlan::VNI_VALID, reserved: [0; 3], vni, reserved_last: 0 },
            },
        }
    }

    /// Puts the frame into the tunnel. The source port follows from `flow_hash`, so that the underlay
    /// may balance flows and keeps each in order. A large frame's (`gso`) outer lengths mean
    /// nothing yet.
    ///
    /// # Errors
    /// `NoHeadroom`; `TooBig` if the outer packet would exceed 65,535 bytes; `BadAction` for a large
    /// frame that is in a tunnel already. The frame is as it was.
    pub fn push(&self, frame: &mut Frame, flow_hash: u32) -> Result<(), DropReason> {
        let length = match frame.gso {
            None => frame.len(),
            Some(gso) if gso.tunnel == 0 => 0,
            Some(_) => return Err(BadAction),
        };
        if length + IPV4_OVERHEAD > 65_535 {
            return Err(TooBig);
        }
        let ecn = inner_ip(frame.head()).map_or(0, |ip| ip.ecn(frame.head()));
        let head = frame.push_front(VXLAN_OVERHEAD).ok_or(NoHeadroom)?;
        let (outer, _) = Outermost::mut_from_prefix(head).map_err(|_| NoHeadroom)?;
        *outer = self.bytes;
        outer.ip.tos |= ecn;
        outer.udp.source = (LEAST_SOURCE_PORT | (flow_hash as u16 & 0x3fff)).into();
        // A large frame's are overwritten by `patch_outer`, segment by segment.
        outer.set_lengths(length, self.ip_sum + u32::from(ecn));
        if let Some(gso) = &mut frame.gso {
            gso.tunnel = VXLAN_OVERHEAD as u16;
        }
        Ok(())
    }
}

impl Outermost {
    /// Writes what depends on the inner frame's length; `ip_sum` is the sum of the IPv4 header with
    /// its length and checksum zero.
    fn set_lengths(&mut self, inner: usize, ip_sum: u32) {
        let total = (inner + IPV4_OVERHEAD) as u16;
        self.ip.total_length = total.into();
        self.ip.checksum = checksum::finish(ip_sum + u32::from(total)).to_be_bytes();
        self.udp.length = ((inner + UDP_OVERHEAD) as u16).into();
    }
}

/// Whether a large frame's outer header of so many bytes is one that [`patch_outer`] can finish.
pub(super) fn is_outer(head: &[u8], overhead: usize) -> bool {
    match overhead {
        VXLAN_OVERHEAD => is_vxlan(head),
        GRE_OVERHEAD => gre::is_outer(head),
        _ => false,
    }
}

fn is_vxlan(head: &[u8]) -> bool {
    view::<Outermost>(head, 0).is_some_and(|outer| {
        outer.ethernet.eth_type.get() == eth_type::IPV4
            && outer.ip.version_ihl == 0x45
            && outer.ip.protocol == protocol::UDP
            && outer.udp.checksum == [0; 2]
    })
}

/// Finishes the outer header before an inner frame of `inner` bytes, which was cut from a larger one.
/// The outer identification stays 0, which DF allows (RFC 6864, 4.1).
pub(super) fn patch_outer(head: &mut [u8], overhead: usize, inner: usize) {
    if overhead == GRE_OVERHEAD {
        return gre::patch_outer(head, inner);
    }
    let Some(outer) = view_mut::<Outermost>(head, 0) else { return };
    outer.ip.total_length = 0.into();
    outer.ip.checksum = [0; 2];
    let ip_sum = checksum::sum(outer.ip.as_bytes());
    outer.set_lengths(inner, ip_sum);
}

/// Addresses of what may be a tunnel packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// The VTEP it comes from.
    pub source: Ipv4Addr,
    /// The VTEP it goes to.
    pub destination: Ipv4Addr,
    /// The caller knows which UDP port is a tunnel's.
    pub encapsulation: Encapsulation,
}

/// Whether the frame is an unfragmented, untagged IPv4 packet of UDP, or of Ethernet in GRE, that could be for a
/// tunnel, and whose. Only looks; [`pop`] verifies.
#[must_use]
pub fn outer(head: &[u8]) -> Option<Outer> {
    let ip: &Ipv4 = view(head, L3)?;
    // The two bytes before are Ethernet's type, at a place that the view has shown to exist.
    if head[L3 - 2..L3] != eth_type::IPV4.to_be_bytes()
        || ip.version_ihl >> 4 != 4
        || ip.fragment.get() & (Ipv4::MORE_FRAGMENTS | Ipv4::OFFSET_MASK) != 0
    {
        return None;
    }
    let l4 = L3 + ip.header_bytes();
    let encapsulation = match ip.protocol {
        protocol::UDP => Encapsulation::Vxlan(view::<Udp>(head, l4)?.destination.get()),
        protocol::GRE if head.get(l4 + 2..l4 + 4)? == Gre::ETHERNET.to_be_bytes() => Encapsulation::Gre,
        _ => return None,
    };
    Some(Outer { source: ip.source.into(), destination: ip.destination.into(), encapsulation })
}

/// Takes a frame out of the tunnel packet that [`outer`] has seen.
///
/// # Errors
/// See [`vxlan_pop`] and `gre::pop`. The frame is to be dropped.
pub fn pop(frame: &mut Frame, encapsulation: Encapsulation) -> Result<Tunnel, DropReason> {
    match encapsulation {
        Encapsulation::Vxlan(_) => vxlan_pop(frame),
        Encapsulation::Gre => gre::pop(frame),
    }
}

/// Where a frame came from that was in a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The VTEP that sent it.
    pub source: Ipv4Addr,
    /// Our own address it was sent to.
    pub destination: Ipv4Addr,
    /// The VNI or key.
    pub id: u64,
    /// The outer ECN field as it arrived, 0 to 3; what it means for the inner packet is done.
    pub ecn: u8,
}

/// Takes a frame out of its tunnel packet. Outer padding is cut off. What is known of the checksum
/// afterwards is that of a partial one inside; else it is unverified.
///
/// # Errors
/// `Truncated`: it ends within the outer headers. `Malformed`: the outer lengths contradict each other,
/// or an outer checksum is wrong. `BadTunnel`: it is not VXLAN, has no VNI, stands for several frames,
/// or is marked as congested and carries a packet that does not speak ECN. The frame is to be dropped.
pub fn vxlan_pop(frame: &mut Frame) -> Result<Tunnel, DropReason> {
    if frame.gso.is_some() {
        return Err(BadTunnel);
    }
    let (ip, l4, end) = outer_ip(frame, protocol::UDP)?;
    let head = frame.head();
    let inner = l4 + Udp::BYTES + Vxlan::BYTES;
    let udp: &Udp = view(head, l4).ok_or(Truncated)?;
    let udp_length = usize::from(udp.length.get());
    if udp_length < Udp::BYTES || l4 + udp_length > end {
        return Err(Malformed);
    }
    if udp_length < Udp::BYTES + Vxlan::BYTES + Ethernet::BYTES {
        return Err(Truncated);
    }
    let vxlan: &Vxlan = view(head, l4 + Udp::BYTES).ok_or(Truncated)?;
    if vxlan.flags & Vxlan::VNI_VALID == 0 {
        return Err(BadTunnel);
    }
    // A peer may send a checksum although most send 0. One that is known to be right, or that a local
    // sender left for us to complete (Partial, at the outer header), is not summed.
    let known = match frame.checksum {
        Checksum::Unverified => false,
        Checksum::Complete => true,
        Checksum::Partial { start, .. } => usize::from(start) == l4,
    };
    if udp.checksum != [0; 2] && !known {
        let pseudo = checksum::pseudo_header4(ip.source, ip.destination, protocol::UDP, udp_length);
        if checksum::finish(pseudo + checksum::sum_range(frame, l4, l4 + udp_length)) != 0 {
            return Err(Malformed);
        }
    }
    let [first, second, third] = vxlan.vni;
    let tunnel = Tunnel {
        source: ip.source.into(),
        destination: ip.destination.into(),
        id: u64::from(u32::from_be_bytes([0, first, second, third])),
        ecn: ip.tos & ECN_MASK,
    };
    strip(frame, inner, l4 + udp_length, tunnel.ecn)?;
    Ok(tunnel)
}

/// Leaves of a tunnel packet the frame from `inner` to `end`.
fn strip(frame: &mut Frame, inner: usize, end: usize, ecn: u8) -> Result<(), DropReason> {
    if !frame.truncate(end) {
        return Err(Malformed);
    }
    if !frame.pull_front(inner) {
        return Err(Truncated);
    }
    if frame.checksum == Checksum::Complete {
        frame.checksum = Checksum::Unverified;
    }
    carry_congestion(frame.head_mut(), ecn)
}

/// The verified outer IPv4 header of an unfragmented packet of this protocol; where its payload begins, and ends.
fn outer_ip(frame: &Frame, wanted: u8) -> Result<(Ipv4, usize, usize), DropReason> {
    let (total, head) = (frame.len(), frame.head());
    let ethernet: &Ethernet = view(head, 0).ok_or(Truncated)?;
    if ethernet.eth_type.get() != eth_type::IPV4 {
        return Err(BadTunnel);
    }
    let ip: &Ipv4 = view(head, L3).ok_or(Truncated)?;
    let header = ip.header_bytes();
    let end = L3 + usize::from(ip.total_length.get());
    if ip.version_ihl >> 4 != 4 || header < Ipv4::BYTES {
        return Err(Malformed);
    }
    let header_bytes = head.get(L3..L3 + header).ok_or(Truncated)?;
    if end > total || end < L3 + header || checksum::finish(checksum::sum(header_bytes)) != 0 {
        return Err(Malformed);
    }
    if ip.protocol != wanted || ip.fragment.get() & (Ipv4::MORE_FRAGMENTS | Ipv4::OFFSET_MASK) != 0 {
        return Err(BadTunnel);
    }
    Ok((*ip, L3 + header, end))
}

/// The ECN field's bits in IPv4's TOS byte.
const ECN_MASK: u8 = 3;
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CONGESTED: u8 = 3;

/// The place of an IP header in a frame with at most two VLAN tags.
#[derive(Clone, Copy)]
enum InnerIp {
    Four(usize),
    Six(usize),
}

/// Finds the IP header if there is a whole one (of IPv4, without options; of IPv6).
fn inner_ip(frame: &[u8]) -> Option<InnerIp> {
    let mut kind = view::<Ethernet>(frame, 0)?.eth_type.get();
    let mut l3 = Ethernet::BYTES;
    for _ in 0..2 {
        if matches!(kind, eth_type::VLAN | eth_type::SERVICE_VLAN) {
            kind = view::<VlanTag>(frame, l3)?.eth_type.get();
            l3 += VlanTag::BYTES;
        }
    }
    match kind {
        eth_type::IPV4 if frame.len() >= l3 + Ipv4::BYTES => Some(InnerIp::Four(l3)),
        eth_type::IPV6 if frame.len() >= l3 + 40 => Some(InnerIp::Six(l3)),
        _ => None,
    }
}

impl InnerIp {
    fn ecn(self, frame: &[u8]) -> u8 {
        match self {
            Self::Four(l3) => frame[l3 + 1] & ECN_MASK,
            Self::Six(l3) => (frame[l3 + 1] >> 4) & ECN_MASK,
        }
    }

    fn set_ecn(self, frame: &mut [u8], ecn: u8) {
        match self {
            Self::Four(l3) => {
                let old = [frame[l3], frame[l3 + 1]];
                frame[l3 + 1] = (old[1] & !ECN_MASK) | ecn;
                let new = [old[0], frame[l3 + 1]];
                let checksum = checksum::update16([frame[l3 + 10], frame[l3 + 11]], old, new);
                frame[l3 + 10..l3 + 12].copy_from_slice(&checksum);
            }
            Self::Six(l3) => frame[l3 + 1] = (frame[l3 + 1] & !(ECN_MASK << 4)) | (ecn << 4),
        }
    }
}

/// RFC 6040, figure 4.
fn carry_congestion(inner: &mut [u8], outer_ecn: u8) -> Result<(), DropReason> {
    if outer_ecn == NOT_ECT {
        return Ok(());
    }
    let Some(ip) = inner_ip(inner) else { return Ok(()) };
    match (ip.ecn(inner), outer_ecn) {
        (NOT_ECT, CONGESTED) => return Err(BadTunnel),
        (ECT_0 | ECT_1, CONGESTED) => ip.set_ecn(inner, CONGESTED),
        (ECT_0, ECT_1) => ip.set_ecn(inner, ECT_1),
        _ => {}
    }
    Ok(())
}
