//! Finds what a name means: a field, or a part of one (`dl_vlan` is twelve bits of `vlan_tci`), given
//! what else is matched: `tp_dst` is TCP's with tcp and UDP's with udp, `nw_src` is ARP's with arp.

use super::scan::{Word, did_you_mean};
use crate::fault::Fault;
use crate::field::{FIELDS, FieldInfo, info};
use crate::v1::{Field, FieldMatch};

/// What decides the meaning of names that several protocols share.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Context {
    pub eth_type: Option<u64>,
    pub ip_proto: Option<u64>,
}

impl Context {
    /// Of a list of matches: their exact EtherType and protocol.
    pub fn of(matches: &[FieldMatch]) -> Self {
        Self { eth_type: exact(matches, Field::EthType), ip_proto: exact(matches, Field::IpProto) }
    }
}

/// The value that a field is matched on with all its bits.
pub(super) fn exact(matches: &[FieldMatch], field: Field) -> Option<u64> {
    let row = info(field)?;
    let matched = matches.iter().find(|matched| matched.field() == field)?;
    let full = matched.address_set.is_empty() && (matched.mask.is_empty() || matched.mask == row.full_mask());
    if full { super::value::to_number(&matched.value) } else { None }
}

/// Protocols by their short names, as `ovs-ofctl` has them: name, EtherType, IP protocol.
pub(super) const SHORTHANDS: [(&str, u64, Option<u64>); 11] = [
    ("ip", 0x0800, None),
    ("ipv6", 0x86dd, None),
    ("arp", 0x0806, None),
    ("tcp", 0x0800, Some(6)),
    ("udp", 0x0800, Some(17)),
    ("sctp", 0x0800, Some(132)),
    ("icmp", 0x0800, Some(1)),
    ("tcp6", 0x86dd, Some(6)),
    ("udp6", 0x86dd, Some(17)),
    ("sctp6", 0x86dd, Some(132)),
    ("icmp6", 0x86dd, Some(58)),
];

/// Some bits of a field that have a name of their own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub name: &'static str,
    pub field: Field,
    pub bits: u32,
    pub shift: u32,
    /// Bits of the field that are matched as set whenever the part is: the tag's presence.
    pub implied: u64,
    /// How much the written number is scaled up: `nw_tos` is written as an octet, its DSCP counts.
    pub written_shift: u32,
}

impl Part {
    /// The part's bits within the field.
    pub fn mask(&self) -> u64 {
        ((1 << self.bits) - 1) << self.shift
    }
}

const fn part(name: &'static str, field: Field, bits: u32, shift: u32, implied: u64, written_shift: u32) -> Part {
    Part { name, field, bits, shift, implied, written_shift }
}

pub(super) const PARTS: [Part; 8] = [
    part("dl_vlan", Field::VlanTci, 12, 0, 0x1000, 0),
    part("vlan_vid", Field::VlanTci, 12, 0, 0x1000, 0),
    part("dl_vlan_pcp", Field::VlanTci, 3, 13, 0x1000, 0),
    part("vlan_pcp", Field::VlanTci, 3, 13, 0x1000, 0),
    part("nw_tos", Field::IpTos, 6, 2, 0, 2),
    part("ip_dscp", Field::IpTos, 6, 2, 0, 0),
    part("nw_ecn", Field::IpTos, 2, 0, 0, 0),
    part("ip_ecn", Field::IpTos, 2, 0, 0, 0),
];

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    Whole(&'static FieldInfo),
    Part(Part),
}

/// All names by which a field or a part of one can be called.
pub(super) fn all_names() -> impl Iterator<Item = &'static str> {
    let fields = FIELDS.iter().flat_map(|row| std::iter::once(row.name).chain(row.aliases.iter().copied()));
    fields.chain(PARTS.iter().map(|part| part.name)).chain(SHORTHANDS.iter().map(|row| row.0))
}

/// Finds a field by name in a context. `written` is the whole item, for the remedy.
pub(super) fn resolve(name: Word<'_>, written: &str, context: Context) -> Result<Target, Fault> {
    let in_arp = context.eth_type == Some(0x0806);
    let in_ipv6 = context.eth_type == Some(0x86dd);
    let field = match name.text {
        "nw_src" if in_arp => Some(Field::ArpSpa),
        "nw_dst" if in_arp => Some(Field::ArpTpa),
        "nw_proto" if in_arp => Some(Field::ArpOp),
        "icmp_type" if in_ipv6 => Some(Field::Icmpv6Type),
        "icmp_code" if in_ipv6 => Some(Field::Icmpv6Code),
        "tp_src" | "tp_dst" => {
            let source = name.text == "tp_src";
            match context.ip_proto {
                Some(6) => Some(if source { Field::TcpSrc } else { Field::TcpDst }),
                Some(17) => Some(if source { Field::UdpSrc } else { Field::UdpDst }),
                Some(132) => Some(if source { Field::SctpSrc } else { Field::SctpDst }),
                _ => {
                    let protocol = if in_ipv6 { "tcp6" } else { "tcp" };
                    return Err(name.fault(
                        "missing_prerequisite",
                        format!("{} needs tcp, udp or sctp", name.text),
                        format!("Write \"{protocol},{written}\", or the same with udp or sctp."),
                    ));
                }
            }
        }
        _ => None,
    };
    if let Some(row) = field.and_then(info) {
        return Ok(Target::Whole(row));
    }
    if let Some(part) = PARTS.iter().find(|part| part.name == name.text) {
        return Ok(Target::Part(*part));
    }
    let named = |row: &&FieldInfo| row.name == name.text || row.aliases.contains(&name.text);
    FIELDS.iter().find(named).map(Target::Whole).ok_or_else(|| unknown(name))
}

/// The error for a name that means nothing.
pub(super) fn unknown(name: Word<'_>) -> Fault {
    let meant = did_you_mean(name.text, all_names());
    name.fault(
        "unknown_field",
        format!("\"{}\" is not a match field", name.text),
        if meant.is_empty() {
            "Use a field of ovs-ofctl, such as in_port, eth_src, eth_dst, ip, ip_src, tcp, tcp_dst, reg0 or tun_id."
                .to_owned()
        } else {
            meant.trim_start().to_owned()
        },
    )
}

/// Checks that what a field needs is matched; `written` is how the user called it.
pub(super) fn check_prerequisites(
    row: &FieldInfo,
    matches: &[FieldMatch],
    at: Word<'_>,
    name: &str,
    written: &str,
) -> Result<(), Fault> {
    for needed in row.prerequisites {
        if needed.field == Field::VlanTci {
            if tagged(matches) {
                continue;
            }
            return Err(at.fault(
                "missing_prerequisite",
                format!("{name} needs a VLAN tag"),
                format!("Write \"vlan_tci=0x1000/0x1000,{written}\"."),
            ));
        }
        let found = exact(matches, needed.field);
        if found.is_some_and(|value| needed.values.contains(&value)) {
            continue;
        }
        let shorthand = shorthand_for(row, matches);
        return Err(match found {
            Some(_) => at.fault(
                "missing_prerequisite",
                format!("{name} needs {shorthand}, but the rule matches {}", called(matches)),
                format!("Match {shorthand} instead, or leave {name} out."),
            ),
            None => at.fault(
                "missing_prerequisite",
                format!("{name} needs {shorthand}"),
                format!("Write \"{shorthand},{written}\"."),
            ),
        });
    }
    Ok(())
}

/// Whether a tag is required to be present.
fn tagged(matches: &[FieldMatch]) -> bool {
    matches.iter().filter(|matched| matched.field() == Field::VlanTci).any(|matched| {
        let bit = |bytes: &[u8]| bytes.first().is_some_and(|byte| byte & 0x10 != 0);
        bit(&matched.value) && (matched.mask.is_empty() || bit(&matched.mask))
    })
}

/// The short words that bring all that a field needs.
fn shorthand_for(row: &FieldInfo, matches: &[FieldMatch]) -> &'static str {
    let values = |field: Field| {
        row.prerequisites.iter().find(|needed| needed.field == field).map_or(&[][..], |needed| needed.values)
    };
    let only_ipv6 = values(Field::EthType) == [0x86dd];
    let ipv6 = only_ipv6 || exact(matches, Field::EthType) == Some(0x86dd);
    match (values(Field::IpProto).first(), values(Field::Icmpv6Type).first()) {
        (_, Some(136)) => "icmp6,icmpv6_type=136",
        (_, Some(_)) => "icmp6,icmpv6_type=135",
        (Some(6), _) if ipv6 => "tcp6",
        (Some(6), _) => "tcp",
        (Some(17), _) if ipv6 => "udp6",
        (Some(17), _) => "udp",
        (Some(132), _) if ipv6 => "sctp6",
        (Some(132), _) => "sctp",
        (Some(1), _) => "icmp",
        (Some(_), _) => "icmp6",
        (None, _) if values(Field::EthType) == [0x0806] => "arp",
        (None, _) if only_ipv6 => "ipv6",
        (None, _) => "ip",
    }
}

/// What the matches say about the protocol, in the user's words.
fn called(matches: &[FieldMatch]) -> String {
    let context = Context::of(matches);
    let known = SHORTHANDS.iter().find(|row| Some(row.1) == context.eth_type && row.2 == context.ip_proto);
    match (known, context.eth_type, context.ip_proto) {
        (Some(row), ..) => row.0.to_owned(),
        (None, Some(eth_type), Some(protocol)) => format!("eth_type={eth_type:#06x},ip_proto={protocol}"),
        (None, Some(eth_type), None) => format!("eth_type={eth_type:#06x}"),
        (None, None, _) => "another protocol".to_owned(),
    }
}
