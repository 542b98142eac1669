//! Lists of matches, and packets described by their fields.

use super::name::{Context, PARTS, SHORTHANDS, Target, check_prerequisites, exact, resolve, unknown};
use super::scan::{Word, words};
use super::value::{self, Masked, parse_number, to_number};
use crate::fault::Fault;
use crate::field::{FIELDS, FieldInfo, info};
use crate::v1::{Field, FieldMatch};

/// One match with the words it came from.
struct Entry<'a> {
    row: &'static FieldInfo,
    masked: Masked,
    address_set: String,
    /// Only some bits were named (`dl_vlan`), others may add to them (`dl_vlan_pcp`).
    partial: bool,
    name: &'a str,
    word: Word<'a>,
}

/// Reads a list of matches: `in_port=1,ip,nw_src=10.0.0.0/24`. An empty list matches everything.
///
/// # Errors
/// A [`Fault`] that names the column, the word and the remedy.
pub fn parse_match(text: &str) -> Result<Vec<FieldMatch>, Fault> {
    from_words(&words(Word::line(text))?)
}

/// Reads a packet as the fields it has: `in_port=1,tcp,eth_src=…,ip_dst=10.0.0.5,tcp_dst=80`. Fields
/// that are not named are absent, which the switch takes as zero. Nothing can be masked.
///
/// # Errors
/// As [`parse_match`], and for masks and address sets.
pub fn parse_packet(text: &str) -> Result<Vec<FieldMatch>, Fault> {
    let mut fields = Vec::new();
    for entry in collect(&words(Word::line(text))?)? {
        let full = entry.masked.mask == entry.row.full_mask();
        let flags = entry.row.field == Field::TcpFlags && !entry.word.text.contains('/');
        if !entry.address_set.is_empty() || (!full && !entry.partial && !flags) {
            return Err(entry.word.fault(
                "bad_value",
                format!("\"{}\" describes many packets", entry.word.text),
                format!("Give {} the one value that the packet has.", entry.name),
            ));
        }
        fields.push(FieldMatch { field: entry.row.field.into(), value: entry.masked.value, ..FieldMatch::default() });
    }
    Ok(fields)
}

/// Reads the words of a match.
pub(super) fn from_words(words: &[Word<'_>]) -> Result<Vec<FieldMatch>, Fault> {
    Ok(collect(words)?.into_iter().map(|entry| entry.to_match()).collect())
}

impl Entry<'_> {
    fn to_match(&self) -> FieldMatch {
        let set = !self.address_set.is_empty();
        FieldMatch {
            field: self.row.field.into(),
            value: if set { Vec::new() } else { self.masked.value.clone() },
            mask: if set || self.masked.mask == self.row.full_mask() { Vec::new() } else { self.masked.mask.clone() },
            address_set: self.address_set.clone(),
        }
    }
}

/// Reads the words in two rounds, the protocol first: what `tp_dst` means depends on it, and it may be
/// written last. Returns the entries in the order of the field table.
fn collect<'a>(words: &[Word<'a>]) -> Result<Vec<Entry<'a>>, Fault> {
    let mut entries: Vec<Entry<'a>> = Vec::new();
    let mut rest = Vec::new();
    for word in words {
        let Some((name, value)) = word.split_once("=") else {
            let Some((_, eth_type, protocol)) = SHORTHANDS.iter().find(|row| row.0 == word.text) else {
                return Err(bare(*word));
            };
            for (field, number) in [(Field::EthType, Some(*eth_type)), (Field::IpProto, *protocol)] {
                if let (Some(row), Some(number)) = (info(field), number) {
                    let masked = Masked::number(row, number, u64::MAX >> (64 - row.bits));
                    let name = word.text;
                    let entry = Entry { row, masked, address_set: String::new(), partial: false, name, word: *word };
                    add(&mut entries, entry)?;
                }
            }
            continue;
        };
        match name.text {
            "eth_type" | "dl_type" => add(&mut entries, whole(*word, name, value, Context::default())?)?,
            _ => rest.push((*word, name, value)),
        }
    }
    // The protocol needs the EtherType, which decides whether nw_proto is ARP's operation.
    let (protocols, others): (Vec<_>, Vec<_>) =
        rest.into_iter().partition(|(_, name, _)| matches!(name.text, "ip_proto" | "nw_proto"));
    for (word, name, value) in protocols.into_iter().chain(others) {
        let context = context(&entries);
        add(&mut entries, item(word, name, value, context)?)?;
    }
    entries.retain(|entry| !entry.address_set.is_empty() || entry.masked.mask.iter().any(|byte| *byte != 0));
    let matches: Vec<FieldMatch> = entries.iter().map(Entry::to_match).collect();
    for entry in &entries {
        check_prerequisites(entry.row, &matches, entry.word, entry.name, entry.word.text)?;
    }
    entries.sort_by_key(|entry| FIELDS.iter().position(|row| row.field == entry.row.field));
    Ok(entries)
}

fn context(entries: &[Entry<'_>]) -> Context {
    let matches: Vec<FieldMatch> = entries.iter().map(Entry::to_match).collect();
    Context::of(&matches)
}

/// A word without "=" that is no protocol.
fn bare(word: Word<'_>) -> Fault {
    if super::name::all_names().any(|name| name == word.text) {
        return word.fault(
            "bad_syntax",
            format!("{} has no value", word.text),
            format!("Write \"{}=VALUE\", or leave it out to match anything.", word.text),
        );
    }
    unknown(word)
}

/// Adds an entry, or merges it with the other half of the same field.
fn add<'a>(entries: &mut Vec<Entry<'a>>, entry: Entry<'a>) -> Result<(), Fault> {
    let Some(known) = entries.iter_mut().find(|known| known.row.field == entry.row.field) else {
        entries.push(entry);
        return Ok(());
    };
    let same = known.masked.value == entry.masked.value
        && known.masked.mask == entry.masked.mask
        && known.address_set == entry.address_set;
    if same {
        return Ok(());
    }
    let mut bits =
        known.masked.value.iter().zip(&known.masked.mask).zip(entry.masked.value.iter().zip(&entry.masked.mask));
    let agree = bits.all(|((a, mask_a), (b, mask_b))| (a ^ b) & mask_a & mask_b == 0);
    if known.partial && entry.partial && agree {
        for (to, from) in known.masked.value.iter_mut().zip(&entry.masked.value) {
            *to |= from;
        }
        for (to, from) in known.masked.mask.iter_mut().zip(&entry.masked.mask) {
            *to |= from;
        }
        return Ok(());
    }
    let remedy = match (known.word.text, entry.word.text) {
        (ip, other) | (other, ip)
            if ip == "ipv6" && SHORTHANDS.iter().any(|row| row.0.strip_suffix('6') == Some(other)) =>
        {
            format!("For IPv6 write \"{other}6\".")
        }
        ("ipv6", "icmp") | ("icmp", "ipv6") => "For IPv6 write \"icmp6\".".to_owned(),
        _ => "Keep one of them.".to_owned(),
    };
    Err(entry.word.fault(
        "duplicate_field",
        format!(
            "\"{}\" {} \"{}\" at column {}",
            entry.word.text,
            if agree { "speaks of the same field as" } else { "contradicts" },
            known.word.text,
            known.word.column
        ),
        remedy,
    ))
}

/// Reads `name=value` of any field.
fn item<'a>(word: Word<'a>, name: Word<'a>, value: Word<'a>, context: Context) -> Result<Entry<'a>, Fault> {
    match resolve(name, word.text, context)? {
        Target::Whole(_) => whole(word, name, value, context),
        Target::Part(part) => {
            let row = info(part.field).ok_or_else(|| unknown(name))?;
            let no_tag = part.name == "dl_vlan" && matches!(value.text, "0xffff" | "0xFFFF" | "65535");
            let masked = if no_tag {
                Masked::number(row, 0, 0xffff)
            } else if part.name == "vlan_vid" {
                vlan_vid(row, value)?
            } else {
                let (number, mask) = value.split_once("/").map_or((value, None), |(number, mask)| (number, Some(mask)));
                let number = part_number(part.name, part.bits, part.written_shift, number)?;
                let ones = (1 << part.bits) - 1;
                let mask = mask.map_or(Ok(ones), |mask| part_number(part.name, part.bits, part.written_shift, mask))?;
                let implied = part.implied;
                Masked::number(row, number << part.shift | implied, mask << part.shift | implied)
            };
            Ok(Entry { row, masked, address_set: String::new(), partial: !no_tag, name: name.text, word })
        }
    }
}

/// OpenFlow's vlan_vid counts the tag's presence as bit 12; people write the bare number. Only 0 is
/// ambiguous: no tag there, a priority tag here.
fn vlan_vid(row: &FieldInfo, value: Word<'_>) -> Result<Masked, Fault> {
    if let Some((number, mask)) = value.split_once("/") {
        let number = parse_number(number, "vlan_vid", 13)?;
        return Ok(Masked::number(row, number, parse_number(mask, "the mask of vlan_vid", 13)?));
    }
    match parse_number(value, "vlan_vid", 13)? {
        0 => Err(value.fault(
            "bad_value",
            "vlan_vid=0 has two meanings",
            "Write vlan_tci=0 for packets without a tag, or dl_vlan=0 for a tag with VLAN 0.",
        )),
        number => Ok(Masked::number(row, number | 0x1000, 0x1fff)),
    }
}

/// The number of a part of a field, scaled down from how it is written.
pub(super) fn part_number(name: &str, bits: u32, written_shift: u32, word: Word<'_>) -> Result<u64, Fault> {
    let number = parse_number(word, name, bits + written_shift)?;
    if number & ((1 << written_shift) - 1) != 0 {
        return Err(word.fault(
            "bad_value",
            format!("{name} is {}, whose lower {written_shift} bits are not zero", word.text),
            "Write a multiple of 4; the lower two bits are matched by nw_ecn, all eight by ip_tos.",
        ));
    }
    Ok(number >> written_shift)
}

/// Reads `name=value` of a whole field.
fn whole<'a>(word: Word<'a>, name: Word<'a>, value: Word<'a>, context: Context) -> Result<Entry<'a>, Fault> {
    let Target::Whole(row) = resolve(name, word.text, context)? else {
        return Err(unknown(name));
    };
    let entry = |masked, address_set| Entry { row, masked, address_set, partial: false, name: name.text, word };
    if let Some(set) = value.text.strip_prefix('@') {
        if !matches!(row.field, Field::Ipv4Src | Field::Ipv4Dst) {
            return Err(value.fault(
                "bad_value",
                format!("{} cannot match an address set", name.text),
                "Use address sets with ip_src or ip_dst.",
            ));
        }
        if set.is_empty() {
            return Err(value.fault("bad_value", "the address set has no name", "Write it after the @, as in @web."));
        }
        return Ok(entry(Masked::new(vec![0; row.bytes], row.full_mask().to_vec()), set.to_owned()));
    }
    if row.field == Field::InPort && matches!(value.text, "IN_PORT" | "in_port") {
        return Err(value.fault(
            "bad_value",
            "no packet comes in by IN_PORT",
            "Write the port's number; IN_PORT is for outputs.",
        ));
    }
    if value.text.is_empty() {
        return Err(word.fault(
            "bad_value",
            format!("{} has no value", name.text),
            "Write it after the \"=\", or leave the field out to match anything.",
        ));
    }
    // An IPv6 address under an IPv4 name deserves the right name, not "not an IPv4 address".
    let ipv6_name = match row.field {
        Field::Ipv4Src => "ipv6_src",
        Field::Ipv4Dst => "ipv6_dst",
        _ => "",
    };
    let address = value.text.split('/').next().unwrap_or_default();
    if !ipv6_name.is_empty() && address.contains(':') && value::is_ip(address) {
        return Err(value.fault(
            "bad_value",
            format!("{} is an IPv4 address, {address} is not", name.text),
            format!("Write \"ipv6,{ipv6_name}={}\".", value.text),
        ));
    }
    Ok(entry(value::parse(row, value)?, String::new()))
}

/// Writes a list of matches in the order of the field table, protocols by their short names. Empty for
/// an empty list.
#[must_use]
pub fn format_match(matches: &[FieldMatch]) -> String {
    let mut sorted: Vec<&FieldMatch> = matches.iter().collect();
    sorted.sort_by_key(|matched| FIELDS.iter().position(|row| row.field == matched.field()));
    let context = Context::of(matches);
    let short = SHORTHANDS
        .iter()
        .filter(|row| Some(row.1) == context.eth_type && (row.2.is_none() || row.2 == context.ip_proto))
        .max_by_key(|row| row.2.is_some());
    let mut words = Vec::new();
    for matched in sorted {
        let field = matched.field();
        match (field, short) {
            (Field::EthType, Some(row)) if exact(matches, field).is_some() => words.push(row.0.to_owned()),
            (Field::IpProto, Some((_, _, Some(_)))) => {}
            _ => words.extend(format_one(matched)),
        }
    }
    words.join(",")
}

fn format_one(matched: &FieldMatch) -> Vec<String> {
    let Some(row) = info(matched.field()) else {
        return vec![format!("field{}=?", matched.field)];
    };
    if !matched.address_set.is_empty() {
        return vec![format!("{}=@{}", row.name, matched.address_set)];
    }
    let mask = if matched.mask.is_empty() { row.full_mask().to_vec() } else { matched.mask.clone() };
    if matched.value.len() == row.bytes
        && let (Some(number), Some(mask)) = (to_number(&matched.value), to_number(&mask))
        && let Some(parts) = as_parts(row.field, number, mask)
    {
        return parts;
    }
    vec![format!("{}={}", row.name, value::format(row, &matched.value, &matched.mask))]
}

/// The named parts that a match consists of, if it does.
fn as_parts(field: Field, number: u64, mask: u64) -> Option<Vec<String>> {
    let names: &[&str] = match field {
        Field::VlanTci if number & 0x1000 != 0 => &["dl_vlan", "dl_vlan_pcp"],
        Field::IpTos if mask != 0xff => &["nw_tos", "nw_ecn"],
        _ => return None,
    };
    let mut covered = 0;
    let mut words = Vec::new();
    for part in PARTS.iter().filter(|part| names.contains(&part.name)) {
        let bits = part.mask() | part.implied;
        if mask & bits == bits {
            covered |= bits;
            words.push(format!("{}={}", part.name, (number & part.mask()) >> part.shift << part.written_shift));
        }
    }
    (!words.is_empty() && covered == mask).then_some(words)
}
