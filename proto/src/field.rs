//! The one table of match fields: how each is called, how wide it is, how it is written, and what
//! must be matched exactly before it means anything (OpenFlow 1.3.5, 7.2.3.6 "Flow Match Field
//! Prerequisite").
//!
//! Everything that needs to know fields reads this table: the text syntax, the validation in the
//! switch, the dumps. To add a field: a value in `flow.proto`, a row here, a place in the
//! data plane's `FlowKey` and a line in its parser.

use crate::v1::Field;

/// How a field's value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A decimal number.
    Decimal,
    /// A number in hexadecimal: bits rather than a quantity.
    Hexadecimal,
    /// `02:00:00:00:00:01`
    Mac,
    /// `10.0.0.1`, with a mask as a prefix length where it is one.
    Ipv4,
    /// `2001:db8::1`, likewise.
    Ipv6,
}

/// One prerequisite: the field must be matched exactly, on one of these values.
#[derive(Clone, Copy, Debug)]
pub struct Prerequisite {
    /// The field that must be matched.
    pub field: Field,
    /// Any of these values serves.
    pub values: &'static [u64],
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct FieldInfo {
    /// The field.
    pub field: Field,
    /// The name that is printed.
    pub name: &'static str,
    /// Other names that are understood: those of `ovs-ofctl`.
    pub aliases: &'static [&'static str],
    /// Width on the wire of our messages, bytes.
    pub bytes: usize,
    /// Width of the field itself, bits; the remaining upper bits of the bytes are zero.
    pub bits: u32,
    /// How it is written.
    pub form: Form,
    /// What must be matched with it; all of them.
    pub prerequisites: &'static [Prerequisite],
    /// Whether set-field may write it.
    pub writable: bool,
    /// See [`FieldInfo::full_mask`].
    full: [u8; 16],
}

const IPV4: Prerequisite = Prerequisite { field: Field::EthType, values: &[0x0800] };
const IPV6: Prerequisite = Prerequisite { field: Field::EthType, values: &[0x86dd] };
const IP: Prerequisite = Prerequisite { field: Field::EthType, values: &[0x0800, 0x86dd] };
const ARP: Prerequisite = Prerequisite { field: Field::EthType, values: &[0x0806] };
const TCP: Prerequisite = Prerequisite { field: Field::IpProto, values: &[6] };
const UDP: Prerequisite = Prerequisite { field: Field::IpProto, values: &[17] };
const SCTP: Prerequisite = Prerequisite { field: Field::IpProto, values: &[132] };
const ICMP: Prerequisite = Prerequisite { field: Field::IpProto, values: &[1] };
const ICMPV6: Prerequisite = Prerequisite { field: Field::IpProto, values: &[58] };
const ND: Prerequisite = Prerequisite { field: Field::Icmpv6Type, values: &[135, 136] };
const ND_SOLICIT: Prerequisite = Prerequisite { field: Field::Icmpv6Type, values: &[135] };
const ND_ADVERT: Prerequisite = Prerequisite { field: Field::Icmpv6Type, values: &[136] };
const TAGGED: Prerequisite = Prerequisite { field: Field::VlanTci, values: &[] };

const fn row(
    field: Field,
    name: &'static str,
    aliases: &'static [&'static str],
    bits: u32,
    form: Form,
    prerequisites: &'static [Prerequisite],
    writable: bool,
) -> FieldInfo {
    let bytes = match bits {
        0..=8 => 1,
        9..=16 => 2,
        17..=32 => 4,
        33..=48 => 6,
        49..=64 => 8,
        _ => 16,
    };
    let mut full = [0; 16];
    let mut byte = 0;
    while byte < bytes {
        full[byte] = 0xff;
        byte += 1;
    }
    let mut bit = bits as usize;
    while bit < bytes * 8 {
        let spare = bytes * 8 - 1 - bit;
        full[spare / 8] &= !(0x80 >> (spare % 8));
        bit += 1;
    }
    FieldInfo { field, name, aliases, bytes, bits, form, prerequisites, writable, full }
}

use Form::{Decimal, Hexadecimal, Ipv4, Ipv6, Mac};

/// Every field, in the order in which matches are printed.
pub const FIELDS: &[FieldInfo] = &[
    row(Field::InPort, "in_port", &[], 32, Decimal, &[], false),
    row(Field::Metadata, "metadata", &[], 64, Hexadecimal, &[], true),
    row(Field::Reg0, "reg0", &[], 32, Hexadecimal, &[], true),
    row(Field::Reg1, "reg1", &[], 32, Hexadecimal, &[], true),
    row(Field::Reg2, "reg2", &[], 32, Hexadecimal, &[], true),
    row(Field::Reg3, "reg3", &[], 32, Hexadecimal, &[], true),
    row(Field::Reg4, "reg4", &[], 32, Hexadecimal, &[], true),
    row(Field::Reg5, "reg5", &[], 32, Hexadecimal, &[], true),
    row(Field::Reg6, "reg6", &[], 32, Hexadecimal, &[], true),
    row(Field::Reg7, "reg7", &[], 32, Hexadecimal, &[], true),
    row(Field::CtState, "ct_state", &[], 8, Hexadecimal, &[], false),
    row(Field::CtMark, "ct_mark", &[], 32, Hexadecimal, &[], false),
    // The width on the wire is 8 bytes although no key has more than 32 bits.
    row(Field::TunId, "tun_id", &["tunnel_id"], 64, Decimal, &[], true),
    row(Field::TunSrc, "tun_src", &[], 32, Ipv4, &[], true),
    row(Field::TunDst, "tun_dst", &[], 32, Ipv4, &[], true),
    row(Field::EthSrc, "eth_src", &["dl_src"], 48, Mac, &[], true),
    row(Field::EthDst, "eth_dst", &["dl_dst"], 48, Mac, &[], true),
    row(Field::EthType, "eth_type", &["dl_type"], 16, Hexadecimal, &[], false),
    row(Field::VlanTci, "vlan_tci", &[], 16, Hexadecimal, &[], true),
    row(Field::VlanInnerTci, "vlan_inner_tci", &[], 16, Hexadecimal, &[TAGGED], false),
    row(Field::ArpOp, "arp_op", &[], 16, Decimal, &[ARP], true),
    row(Field::ArpSpa, "arp_spa", &[], 32, Ipv4, &[ARP], true),
    row(Field::ArpTpa, "arp_tpa", &[], 32, Ipv4, &[ARP], true),
    row(Field::ArpSha, "arp_sha", &[], 48, Mac, &[ARP], true),
    row(Field::ArpTha, "arp_tha", &[], 48, Mac, &[ARP], true),
    row(Field::Ipv4Src, "ip_src", &["nw_src", "ipv4_src"], 32, Ipv4, &[IPV4], true),
    row(Field::Ipv4Dst, "ip_dst", &["nw_dst", "ipv4_dst"], 32, Ipv4, &[IPV4], true),
    row(Field::Ipv6Src, "ipv6_src", &[], 128, Ipv6, &[IPV6], true),
    row(Field::Ipv6Dst, "ipv6_dst", &[], 128, Ipv6, &[IPV6], true),
    row(Field::Ipv6Label, "ipv6_label", &[], 20, Hexadecimal, &[IPV6], false),
    row(Field::IpProto, "ip_proto", &["nw_proto"], 8, Decimal, &[IP], false),
    row(Field::IpTos, "ip_tos", &["nw_tos"], 8, Decimal, &[IP], true),
    row(Field::IpTtl, "ip_ttl", &["nw_ttl"], 8, Decimal, &[IP], true),
    row(Field::IpFrag, "ip_frag", &[], 8, Decimal, &[IP], false),
    row(Field::IcmpType, "icmp_type", &[], 8, Decimal, &[IPV4, ICMP], true),
    row(Field::IcmpCode, "icmp_code", &[], 8, Decimal, &[IPV4, ICMP], true),
    row(Field::Icmpv6Type, "icmpv6_type", &[], 8, Decimal, &[IPV6, ICMPV6], true),
    row(Field::Icmpv6Code, "icmpv6_code", &[], 8, Decimal, &[IPV6, ICMPV6], true),
    row(Field::NdTarget, "nd_target", &[], 128, Ipv6, &[IPV6, ICMPV6, ND], false),
    row(Field::NdSll, "nd_sll", &[], 48, Mac, &[IPV6, ICMPV6, ND_SOLICIT], false),
    row(Field::NdTll, "nd_tll", &[], 48, Mac, &[IPV6, ICMPV6, ND_ADVERT], false),
    row(Field::TcpSrc, "tcp_src", &["tp_src"], 16, Decimal, &[IP, TCP], true),
    row(Field::TcpDst, "tcp_dst", &["tp_dst"], 16, Decimal, &[IP, TCP], true),
    row(Field::TcpFlags, "tcp_flags", &[], 12, Hexadecimal, &[IP, TCP], false),
    row(Field::UdpSrc, "udp_src", &["tp_src"], 16, Decimal, &[IP, UDP], true),
    row(Field::UdpDst, "udp_dst", &["tp_dst"], 16, Decimal, &[IP, UDP], true),
    row(Field::SctpSrc, "sctp_src", &["tp_src"], 16, Decimal, &[IP, SCTP], true),
    row(Field::SctpDst, "sctp_dst", &["tp_dst"], 16, Decimal, &[IP, SCTP], true),
];

/// The row of a field; `None` for `Field::Unspecified`.
#[must_use]
pub fn info(field: Field) -> Option<&'static FieldInfo> {
    let row = ROWS.get(field as usize)?;
    FIELDS.get(usize::from(*row))
}

/// The places of rows in the table, by the number of their field; beyond the table for numbers without one.
const ROWS: [u8; 64] = {
    let mut rows = [u8::MAX; 64];
    let mut row = 0;
    while row < FIELDS.len() {
        rows[FIELDS[row].field as usize] = row as u8;
        row += 1;
    }
    rows
};

impl FieldInfo {
    /// The field's all-ones mask, as wide as its value: the bits that exist.
    #[must_use]
    pub fn full_mask(&self) -> &[u8] {
        &self.full[..self.bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_one_row() {
        for number in 1..=48 {
            let field = Field::try_from(number).expect("fields are numbered without gaps");
            assert_eq!(FIELDS.iter().filter(|row| row.field == field).count(), 1, "{field:?}");
        }
        assert!(Field::try_from(49).is_err(), "a new field needs a row in FIELDS and a line here");
    }

    #[test]
    fn masks_cover_the_bits_that_exist() {
        assert_eq!(info(Field::Ipv6Label).unwrap().full_mask(), [0x00, 0x0f, 0xff, 0xff]);
        assert_eq!(info(Field::TcpFlags).unwrap().full_mask(), [0x0f, 0xff]);
        assert_eq!(info(Field::EthSrc).unwrap().full_mask(), [0xff; 6]);
    }
}
