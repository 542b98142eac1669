//! Views of protocol headers: the bytes as they lie in a frame, with names. A view checks nothing but
//! that the bytes are there; `parse.rs` decides whether they make sense.
//!
//! All views have alignment 1 and hold multi-byte numbers as big-endian types, so that a view of any
//! position of a frame is sound. Addresses and checksums, which are copied and compared but rarely
//! computed with, are byte arrays.

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// EtherTypes (IEEE 802 numbers at IANA).
pub mod eth_type {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// A customer VLAN tag (802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// A service VLAN tag (802.1ad).
    pub const SERVICE_VLAN: u16 = 0x88a8;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// The least value that is a type; smaller ones are the length of an LLC frame.
    pub const LEAST: u16 = 0x0600;
    /// What OpenFlow matches LLC frames as.
    pub const LLC: u16 = 0x05ff;
}

/// IP protocol numbers, and IPv6's extension headers among them (IANA).
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// GRE.
    pub const GRE: u8 = 47;
    /// Authentication header.
    pub const AUTHENTICATION: u8 = 51;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// Nothing follows.
    pub const NO_NEXT_HEADER: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// TCP's flags (RFC 9293, 3.1), as in the 12 bits of the flow key.
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u16 = 0x001;
    /// Synchronise sequence numbers.
    pub const SYN: u16 = 0x002;
    /// Reset.
    pub const RST: u16 = 0x004;
    /// Push.
    pub const PSH: u16 = 0x008;
    /// The acknowledgement field counts.
    pub const ACK: u16 = 0x010;
    /// The urgent pointer counts.
    pub const URG: u16 = 0x020;
    /// ECN echo.
    pub const ECE: u16 = 0x040;
    /// Congestion window reduced.
    pub const CWR: u16 = 0x080;
}

/// ICMPv6's neighbour solicitation and advertisement (RFC 4861, 4.3 and 4.4).
pub mod neighbour {
    /// Type of a solicitation.
    pub const SOLICITATION: u8 = 135;
    /// Type of an advertisement.
    pub const ADVERTISEMENT: u8 = 136;
    /// The option with the source's link-layer address.
    pub const SOURCE_OPTION: u8 = 1;
    /// The option with the target's link-layer address.
    pub const TARGET_OPTION: u8 = 2;
}

macro_rules! headers {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)+ })+) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
            #[repr(C)]
            pub struct $name { $($(#[$field_meta])* pub $field: $type,)+ }

            impl $name {
                /// Bytes of the header without options.
                pub const BYTES: usize = size_of::<Self>();
            }
        )+
    };
}

headers! {
    /// Ethernet II, 14 bytes.
    Ethernet {
        /// Destination MAC.
        destination: [u8; 6],
        /// Source MAC.
        source: [u8; 6],
        /// Type, or the length of an LLC frame.
        eth_type: U16,
    }

    /// What follows the EtherType of a VLAN tag (802.1Q), 4 bytes.
    VlanTag {
        /// Priority, drop eligibility and VLAN ID.
        tci: U16,
        /// Type of what the tag carries.
        eth_type: U16,
    }

    /// ARP for IPv4 over Ethernet (RFC 826), 28 bytes.
    Arp {
        /// 1: Ethernet.
        hardware_type: U16,
        /// 0x0800: IPv4.
        protocol_type: U16,
        /// 6.
        hardware_length: u8,
        /// 4.
        protocol_length: u8,
        /// 1 request, 2 reply.
        operation: U16,
        /// Sender's MAC.
        sender_hardware: [u8; 6],
        /// Sender's address.
        sender_protocol: [u8; 4],
        /// Target's MAC.
        target_hardware: [u8; 6],
        /// Target's address.
        target_protocol: [u8; 4],
    }

    /// IPv4 (RFC 791, 3.1), 20 bytes and options.
    Ipv4 {
        /// Version (4) and header length in 32-bit words.
        version_ihl: u8,
        /// DSCP and ECN.
        tos: u8,
        /// Bytes of header and payload.
        total_length: U16,
        /// Which datagram a fragment belongs to.
        identification: U16,
        /// Flags and fragment offset: see the constants.
        fragment: U16,
        /// Time to live.
        ttl: u8,
        /// What is carried.
        protocol: u8,
        /// Of the header.
        checksum: [u8; 2],
        /// Source address.
        source: [u8; 4],
        /// Destination address.
        destination: [u8; 4],
    }

    /// IPv6 (RFC 8200, 3), 40 bytes.
    Ipv6 {
        /// Version (4 bits), traffic class (8), flow label (20).
        version_class_label: U32,
        /// Bytes after this header.
        payload_length: U16,
        /// What follows.
        next_header: u8,
        /// Hop limit.
        hop_limit: u8,
        /// Source address.
        source: [u8; 16],
        /// Destination address.
        destination: [u8; 16],
    }

    /// TCP (RFC 9293, 3.1), 20 bytes and options.
    Tcp {
        /// Source port.
        source: U16,
        /// Destination port.
        destination: U16,
        /// Sequence number.
        sequence: U32,
        /// Acknowledgement number.
        acknowledgement: U32,
        /// Header length in 32-bit words (4 bits) and flags (12).
        offset_flags: U16,
        /// Window.
        window: U16,
        /// Over pseudo-header, header and data.
        checksum: [u8; 2],
        /// Urgent pointer.
        urgent: U16,
    }

    /// UDP (RFC 768), 8 bytes.
    Udp {
        /// Source port.
        source: U16,
        /// Destination port.
        destination: U16,
        /// Bytes of header and data.
        length: U16,
        /// Over pseudo-header, header and data; 0: none.
        checksum: [u8; 2],
    }

    /// SCTP's common header (RFC 9260, 3.1), 12 bytes.
    Sctp {
        /// Source port.
        source: U16,
        /// Destination port.
        destination: U16,
        /// Verification tag.
        tag: U32,
        /// CRC32c, over the packet alone.
        checksum: [u8; 4],
    }

    /// ICMP (RFC 792) and ICMPv6 (RFC 4443), 8 bytes.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Over the message; for ICMPv6 with pseudo-header.
        checksum: [u8; 2],
        /// By type.
        rest: [u8; 4],
    }

    /// GRE with a key and nothing else that is optional (RFC 2784, 2; RFC 2890, 2), 8 bytes.
    Gre {
        /// Which optional fields follow, and the version, 0: see the constants.
        flags_version: U16,
        /// EtherType of what is carried.
        protocol: U16,
        /// Tells streams of one peer apart.
        key: U32,
    }

    /// VXLAN (RFC 7348, 5), 8 bytes.
    Vxlan {
        /// 0x08: the VNI counts.
        flags: u8,
        /// Zero when sent, ignored when received.
        reserved: [u8; 3],
        /// VXLAN network identifier.
        vni: [u8; 3],
        /// Likewise reserved.
        reserved_last: u8,
    }
}

impl Ipv4 {
    /// "Don't fragment" in `fragment`.
    pub const DONT_FRAGMENT: u16 = 0x4000;
    /// "More fragments".
    pub const MORE_FRAGMENTS: u16 = 0x2000;
    /// The fragment's offset, in units of 8 bytes.
    pub const OFFSET_MASK: u16 = 0x1fff;

    /// Bytes of header and options, as announced.
    #[must_use]
    pub fn header_bytes(&self) -> usize {
        usize::from(self.version_ihl & 0x0f) * 4
    }
}

impl Tcp {
    /// Bytes of header and options, as announced.
    #[must_use]
    pub fn header_bytes(&self) -> usize {
        usize::from(self.offset_flags.get() >> 12) * 4
    }
}

impl Gre {
    /// A checksum and two reserved bytes follow the first four bytes.
    pub const CHECKSUM: u16 = 0x8000;
    /// A key follows.
    pub const KEY: u16 = 0x2000;
    /// Bits that the receiver may ignore (RFC 2784, 2.3).
    pub const IGNORED: u16 = 0x03f8;
    /// Ethernet ("transparent Ethernet bridging").
    pub const ETHERNET: u16 = 0x6558;
}

impl Vxlan {
    /// The I flag.
    pub const VNI_VALID: u8 = 0x08;
}

/// The header at this position, if all of it is there.
#[must_use]
pub fn view<T: FromBytes + Immutable + KnownLayout + Unaligned>(bytes: &[u8], at: usize) -> Option<&T> {
    T::ref_from_prefix(bytes.get(at..)?).ok().map(|(header, _)| header)
}

/// Likewise, to be changed.
#[must_use]
pub fn view_mut<T: FromBytes + IntoBytes + KnownLayout + Unaligned>(bytes: &mut [u8], at: usize) -> Option<&mut T> {
    T::mut_from_prefix(bytes.get_mut(at..)?).ok().map(|(header, _)| header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_as_long_as_their_specifications_say() {
        let bytes = [
            (Ethernet::BYTES, 14),
            (VlanTag::BYTES, 4),
            (Arp::BYTES, 28),
            (Ipv4::BYTES, 20),
            (Ipv6::BYTES, 40),
            (Tcp::BYTES, 20),
            (Udp::BYTES, 8),
            (Sctp::BYTES, 12),
            (Icmp::BYTES, 8),
            (Gre::BYTES, 8),
            (Vxlan::BYTES, 8),
        ];
        assert!(bytes.iter().all(|(found, expected)| found == expected), "{bytes:?}");
    }

    #[test]
    fn a_view_never_leaves_the_bytes() {
        let mut bytes = [0_u8; 20];
        assert!(view::<Ipv4>(&bytes, 0).is_some());
        assert!(view::<Ipv4>(&bytes, 1).is_none());
        assert!(view::<Udp>(&bytes, 21).is_none());
        view_mut::<Udp>(&mut bytes, 3).unwrap().length = 0x1234.into();
        assert_eq!(bytes[7..9], [0x12, 0x34]);
    }
}
