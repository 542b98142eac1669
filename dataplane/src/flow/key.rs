//! The flow key: everything rules can match, in a fixed layout of 64-byte sections.
//!
//! | section | bytes | what |
//! |---|---|---|
//! | base | 0–64 | an Ethernet, VLAN, ARP or IPv4 frame, and an IPv4 tunnel's outer header |
//! | wide | 64–128 | IPv6 addresses, ND, ARP's hardware addresses |
//! | pipeline | 128–192 | metadata, registers, connection state: zero when a packet enters |
//!
//! Multi-byte fields are big-endian arrays: values are compared, masked and set, never computed with.
//! A mask is a `FlowKey` too: a one bit is one that counts. Where two protocols cannot meet in one
//! packet they share bytes (ports and ICMP's type and code; IPv4 and ARP addresses; ND's link-layer
//! addresses and ARP's hardware addresses), which is sound because a rule that matches such a field
//! also matches, exactly, the field that tells the protocols apart (`weft_proto::field`).

use weft_proto::v1::Field;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// See the module comment.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct FlowKey {
    /// Port number.
    pub in_port: [u8; 4],
    /// The type after all VLAN tags; for LLC frames 0x05ff, as in OpenFlow.
    pub eth_type: [u8; 2],
    /// With bit 0x1000 set if there is a tag.
    pub vlan_tci: [u8; 2],
    /// Destination MAC.
    pub eth_dst: [u8; 6],
    /// Source MAC.
    pub eth_src: [u8; 6],
    /// The second tag, likewise.
    pub vlan_inner_tci: [u8; 2],
    /// IPv4's protocol, IPv6's last next header.
    pub ip_proto: u8,
    /// 0 whole, 1 first fragment, 3 later fragment.
    pub ip_frag: u8,
    /// Also ARP's sender address.
    pub ipv4_src: [u8; 4],
    /// Also ARP's target address.
    pub ipv4_dst: [u8; 4],
    /// TCP, UDP or SCTP source port; ICMP's or ICMPv6's type in the second byte.
    pub l4_src: [u8; 2],
    /// Destination port; the code in the second byte.
    pub l4_dst: [u8; 2],
    /// DSCP and ECN.
    pub ip_tos: u8,
    /// TTL or hop limit.
    pub ip_ttl: u8,
    /// 12 bits.
    pub tcp_flags: [u8; 2],
    /// ARP's operation.
    pub arp_op: [u8; 2],
    /// The identifier of ICMP and ICMPv6 messages that have one: no rule matches it, connections do.
    pub icmp_identifier: [u8; 2],
    /// 20 bits.
    pub ipv6_label: [u8; 4],
    /// Tunnel key.
    pub tun_id: [u8; 8],
    /// Outer source.
    pub tun_src: [u8; 4],
    /// Outer destination.
    pub tun_dst: [u8; 4],

    /// IPv6 source.
    pub ipv6_src: [u8; 16],
    /// IPv6 destination.
    pub ipv6_dst: [u8; 16],
    /// Target of a neighbour solicitation or advertisement.
    pub nd_target: [u8; 16],
    /// ND source link-layer address option; ARP's sender hardware address.
    pub link_source: [u8; 6],
    /// ND target link-layer address option; ARP's target hardware address.
    pub link_target: [u8; 6],
    /// Spare, zero.
    pub reserved_wide: [u8; 4],

    /// OpenFlow's metadata.
    pub metadata: [u8; 8],
    /// Registers.
    pub registers: [[u8; 4]; 8],
    /// What `ct` found of the connection.
    pub ct_state: u8,
    /// Spare, zero.
    pub reserved_state: [u8; 3],
    /// The connection's mark.
    pub ct_mark: [u8; 4],
    /// Spare, zero.
    pub reserved_pipeline: [u8; 16],
}

/// 64-bit words of a key, and of its sections.
pub const WORDS: usize = 24;
/// Words of the base section.
pub const BASE_WORDS: usize = 8;
/// Words of what comes from the packet: base and wide.
pub const PACKET_WORDS: usize = 16;

const _: () = assert!(size_of::<FlowKey>() == WORDS * 8);
const _: () = assert!(std::mem::offset_of!(FlowKey, ipv6_src) == BASE_WORDS * 8);
const _: () = assert!(std::mem::offset_of!(FlowKey, metadata) == PACKET_WORDS * 8);

// As one piece of memory: tables of many masks compare and hash keys more than anything else.
impl PartialEq for FlowKey {
    fn eq(&self, other: &Self) -> bool {
        self.words() == other.words()
    }
}

impl std::hash::Hash for FlowKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write(self.as_bytes());
    }
}

impl FlowKey {
    /// All bits zero.
    pub const ZERO: Self = zerocopy::transmute!([0_u64; WORDS]);

    /// The key as words, for masking, comparing and hashing.
    #[must_use]
    #[inline]
    pub fn words(&self) -> &[u64; WORDS] {
        zerocopy::transmute_ref!(self)
    }

    /// Likewise, to be changed.
    #[must_use]
    #[inline]
    pub fn words_mut(&mut self) -> &mut [u64; WORDS] {
        zerocopy::transmute_mut!(self)
    }

    /// `self & mask`
    #[must_use]
    pub fn masked(&self, mask: &Self) -> Self {
        let mut out = *self;
        out.words_mut().iter_mut().zip(mask.words()).for_each(|(word, mask)| *word &= mask);
        out
    }

    /// `self |= other`
    pub fn union(&mut self, other: &Self) {
        self.words_mut().iter_mut().zip(other.words()).for_each(|(word, other)| *word |= other);
    }

    /// `self |= add & !except`
    pub fn union_except(&mut self, add: &Self, except: &Self) {
        for (word, (add, except)) in self.words_mut().iter_mut().zip(add.words().iter().zip(except.words())) {
            *word |= add & !except;
        }
    }

    /// Whether `packet & mask == self`, for a `self` that has no bits outside the mask.
    #[must_use]
    pub fn matches(&self, packet: &Self, mask: &Self) -> bool {
        self.words().iter().zip(packet.words()).zip(mask.words()).all(|((value, packet), mask)| packet & mask == *value)
    }

    /// Whether every bit of `other` is also set here: as masks, whether this one is at least as narrow.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.words().iter().zip(other.words()).all(|(own, other)| own & other == *other)
    }

    /// How many leading words hold anything: what must be hashed of a packet's key under this mask.
    #[must_use]
    pub fn used_words(&self) -> usize {
        self.words().iter().rposition(|&word| word != 0).map_or(0, |last| last + 1)
    }

    /// The bytes of a field.
    #[must_use]
    pub fn field(&self, field: Field) -> &[u8] {
        let (offset, length) = place(field);
        &self.as_bytes()[offset..offset + length]
    }

    /// Likewise, to be changed.
    pub fn field_mut(&mut self, field: Field) -> &mut [u8] {
        let (offset, length) = place(field);
        &mut self.as_mut_bytes()[offset..offset + length]
    }

    /// The ingress port's number.
    #[must_use]
    pub fn port(&self) -> u32 {
        u32::from_be_bytes(self.in_port)
    }
}

/// Where a field lies in the key: offset and bytes. Its width is that of `weft_proto::field`.
///
/// # Panics
/// For `Field::Unspecified`, which validation refuses before.
#[must_use]
pub fn place(field: Field) -> (usize, usize) {
    macro_rules! at {
        ($name:ident, $bytes:expr) => {
            (std::mem::offset_of!(FlowKey, $name), $bytes)
        };
    }
    let register = |index: usize| (std::mem::offset_of!(FlowKey, registers) + 4 * index, 4);
    let second_byte = |(offset, _): (usize, usize)| (offset + 1, 1);
    match field {
        Field::Unspecified => panic!("an unspecified field has no place"),
        Field::InPort => at!(in_port, 4),
        Field::EthDst => at!(eth_dst, 6),
        Field::EthSrc => at!(eth_src, 6),
        Field::EthType => at!(eth_type, 2),
        Field::VlanTci => at!(vlan_tci, 2),
        Field::VlanInnerTci => at!(vlan_inner_tci, 2),
        Field::ArpOp => at!(arp_op, 2),
        Field::ArpSpa | Field::Ipv4Src => at!(ipv4_src, 4),
        Field::ArpTpa | Field::Ipv4Dst => at!(ipv4_dst, 4),
        Field::ArpSha | Field::NdSll => at!(link_source, 6),
        Field::ArpTha | Field::NdTll => at!(link_target, 6),
        Field::IpProto => at!(ip_proto, 1),
        Field::IpTos => at!(ip_tos, 1),
        Field::IpTtl => at!(ip_ttl, 1),
        Field::IpFrag => at!(ip_frag, 1),
        Field::Ipv6Src => at!(ipv6_src, 16),
        Field::Ipv6Dst => at!(ipv6_dst, 16),
        Field::Ipv6Label => at!(ipv6_label, 4),
        Field::TcpSrc | Field::UdpSrc | Field::SctpSrc => at!(l4_src, 2),
        Field::TcpDst | Field::UdpDst | Field::SctpDst => at!(l4_dst, 2),
        Field::IcmpType | Field::Icmpv6Type => second_byte(at!(l4_src, 2)),
        Field::IcmpCode | Field::Icmpv6Code => second_byte(at!(l4_dst, 2)),
        Field::TcpFlags => at!(tcp_flags, 2),
        Field::NdTarget => at!(nd_target, 16),
        Field::TunId => at!(tun_id, 8),
        Field::TunSrc => at!(tun_src, 4),
        Field::TunDst => at!(tun_dst, 4),
        Field::Metadata => at!(metadata, 8),
        Field::Reg0 => register(0),
        Field::Reg1 => register(1),
        Field::Reg2 => register(2),
        Field::Reg3 => register(3),
        Field::Reg4 => register(4),
        Field::Reg5 => register(5),
        Field::Reg6 => register(6),
        Field::Reg7 => register(7),
        Field::CtState => at!(ct_state, 1),
        Field::CtMark => at!(ct_mark, 4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_proto::field::FIELDS;

    #[test]
    fn every_field_has_a_place_as_wide_as_its_row() {
        for row in FIELDS {
            assert_eq!(place(row.field).1, row.bytes, "{}", row.name);
        }
    }

    #[test]
    fn fields_are_written_where_they_are_read() {
        let mut key = FlowKey::ZERO;
        key.field_mut(Field::TcpDst).copy_from_slice(&443_u16.to_be_bytes());
        assert_eq!(key.l4_dst, [1, 187]);
        assert_eq!(key.used_words(), 5);
        key.field_mut(Field::Reg7)[3] = 1;
        assert_eq!(key.field(Field::Reg7), [0, 0, 0, 1]);
        assert_eq!(key.registers[7], [0, 0, 0, 1]);
    }

    #[test]
    fn masks_compare_and_combine() {
        let mut mask = FlowKey::ZERO;
        mask.eth_type = [0xff; 2];
        let mut packet = FlowKey::ZERO;
        packet.eth_type = [8, 0];
        packet.ip_proto = 6;
        let value = packet.masked(&mask);
        assert!(value.matches(&packet, &mask));
        packet.eth_type = [8, 6];
        assert!(!value.matches(&packet, &mask));
        let mut wider = mask;
        wider.ip_proto = 0xff;
        assert!(wider.covers(&mask) && !mask.covers(&wider));
        let mut consulted = FlowKey::ZERO;
        consulted.union_except(&wider, &mask);
        assert_eq!((consulted.ip_proto, consulted.eth_type), (0xff, [0, 0]));
    }
}
