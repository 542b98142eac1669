//! One field's value, with or without a mask, read and written in the form its row names.

use super::scan::Word;
use crate::fault::Fault;
use crate::field::{FieldInfo, Form};
use crate::v1::Field;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// A value and its mask, both as wide as the field; the mask is never empty here.
pub(super) struct Masked {
    pub value: Vec<u8>,
    pub mask: Vec<u8>,
}

impl Masked {
    /// Drops the value's bits outside the mask, as `ovs-ofctl` does: `10.0.0.5/24` is `10.0.0.0/24`.
    pub fn new(mut value: Vec<u8>, mask: Vec<u8>) -> Self {
        for (byte, mask) in value.iter_mut().zip(&mask) {
            *byte &= mask;
        }
        Self { value, mask }
    }

    pub fn number(info: &FieldInfo, value: u64, mask: u64) -> Self {
        Self::new(to_bytes(value, info.bytes), to_bytes(mask, info.bytes))
    }
}

/// A number of at most 64 bits in so many bytes, big-endian.
pub(super) fn to_bytes(number: u64, bytes: usize) -> Vec<u8> {
    let mut wide = vec![0; bytes.saturating_sub(8)];
    wide.extend_from_slice(&number.to_be_bytes()[8_usize.saturating_sub(bytes)..]);
    wide
}

/// The number in at most 8 bytes; `None` if there are more.
pub(super) fn to_number(bytes: &[u8]) -> Option<u64> {
    (bytes.len() <= 8).then(|| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// A decimal number, or a hexadecimal one after `0x`, of at most so many bits.
pub(super) fn parse_number(word: Word<'_>, what: &str, bits: u32) -> Result<u64, Fault> {
    let digits = word.text.strip_prefix("0x").or_else(|| word.text.strip_prefix("0X"));
    let (digits, radix) = digits.map_or((word.text, 10), |digits| (digits, 16));
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let most = u64::MAX >> (64 - bits.clamp(1, 64));
    match u64::from_str_radix(digits, radix) {
        Ok(number) if plain && number <= most => Ok(number),
        Ok(_) if plain => Err(word.fault(
            "bad_value",
            format!("{what} is {}, more than its {bits} bits hold", word.text),
            format!("Write at most {most} ({most:#x})."),
        )),
        _ => Err(word.fault(
            "bad_value",
            format!("{what} is \"{}\", which is not a number of at most {bits} bits", word.text),
            "Write a decimal number, or a hexadecimal one after 0x.",
        )),
    }
}

/// Reads a number that has narrower limits than its bits, and names these if it is beyond them.
pub(super) fn parse_within(word: Word<'_>, what: &str, limits: RangeInclusive<u32>) -> Result<u32, Fault> {
    let number = word.text.strip_prefix("0x").or_else(|| word.text.strip_prefix("0X")).map_or_else(
        || word.text.parse::<u64>().ok().filter(|_| !word.text.starts_with('+')),
        |digits| u64::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+')),
    );
    let found = number.and_then(|number| u32::try_from(number).ok()).filter(|number| limits.contains(number));
    found.ok_or_else(|| {
        let problem = match number {
            Some(_) => format!("there is no {what} {}", word.text),
            None => format!("the {what} is \"{}\", which is not a number", word.text),
        };
        word.fault("bad_value", problem, format!("Write {} to {}.", limits.start(), limits.end()))
    })
}

/// Reads `02:00:00:00:00:01`.
#[must_use]
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next()?;
        if part.is_empty() || part.len() > 2 || !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// Writes an Ethernet address; bytes of another length as `0x…`.
#[must_use]
pub fn format_mac(mac: &[u8]) -> String {
    if mac.len() != 6 {
        return raw(mac);
    }
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// Writes an IPv4 or IPv6 address, told apart by length; bytes of another length as `0x…`.
#[must_use]
pub fn format_ip(address: &[u8]) -> String {
    if let Ok(bytes) = <[u8; 4]>::try_from(address) {
        Ipv4Addr::from(bytes).to_string()
    } else if let Ok(bytes) = <[u8; 16]>::try_from(address) {
        Ipv6Addr::from(bytes).to_string()
    } else {
        raw(address)
    }
}

/// Bytes that have no better form.
fn raw(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// Reads an Ethernet address or says how one is written.
pub(super) fn mac(word: Word<'_>, what: &str) -> Result<Vec<u8>, Fault> {
    parse_mac(word.text).map(|mac| mac.to_vec()).ok_or_else(|| {
        word.fault(
            "bad_value",
            format!("{what} is \"{}\", which is not a MAC address", word.text),
            "Write six bytes, as in 02:00:00:00:00:01.",
        )
    })
}

/// Reads an IPv4 address or says how one is written.
pub(super) fn ipv4(word: Word<'_>, what: &str) -> Result<Vec<u8>, Fault> {
    word.text.parse::<Ipv4Addr>().map(|address| address.octets().to_vec()).map_err(|_| {
        word.fault(
            "bad_value",
            format!("{what} is \"{}\", which is not an IPv4 address", word.text),
            "Write it as in 10.0.0.1, with a prefix length (/24) or mask (/255.255.255.0) where one is allowed.",
        )
    })
}

fn ipv6(word: Word<'_>, what: &str) -> Result<Vec<u8>, Fault> {
    word.text.parse::<Ipv6Addr>().map(|address| address.octets().to_vec()).map_err(|_| {
        word.fault(
            "bad_value",
            format!("{what} is \"{}\", which is not an IPv6 address", word.text),
            "Write it as in 2001:db8::1, with a prefix length (/64) where one is allowed.",
        )
    })
}

/// The mask of a prefix length: that many leading ones.
pub(super) fn prefix_mask(length: u32, bytes: usize) -> Vec<u8> {
    (0..bytes as u32)
        .map(|byte| {
            let ones = length.saturating_sub(byte * 8).min(8);
            (0xff00_u16 >> ones) as u8
        })
        .collect()
}

/// The prefix length of a mask that is one.
fn prefix_length(mask: &[u8]) -> Option<u32> {
    let length = mask.iter().map(|byte| byte.count_ones()).sum();
    (prefix_mask(length, mask.len()) == mask).then_some(length)
}

/// Reads one value without a mask.
fn single(info: &FieldInfo, word: Word<'_>) -> Result<Vec<u8>, Fault> {
    match info.form {
        Form::Mac => mac(word, info.name),
        Form::Ipv4 => ipv4(word, info.name),
        Form::Ipv6 => ipv6(word, info.name),
        Form::Decimal | Form::Hexadecimal => Ok(to_bytes(parse_number(word, info.name, info.bits)?, info.bytes)),
    }
}

/// Reads `value` or `value/mask`, and the words that `ip_frag` and `tcp_flags` have.
pub(super) fn parse(info: &FieldInfo, word: Word<'_>) -> Result<Masked, Fault> {
    if let Some(masked) = by_word(info, word)? {
        return Ok(masked);
    }
    let Some((value, mask)) = word.split_once("/") else {
        return Ok(Masked::new(single(info, word)?, info.full_mask().to_vec()));
    };
    let value = single(info, value)?;
    let addressed = matches!(info.form, Form::Ipv4 | Form::Ipv6);
    let mask = if addressed && !mask.text.is_empty() && mask.text.bytes().all(|byte| byte.is_ascii_digit()) {
        match mask.text.parse::<u32>() {
            Ok(length) if length <= info.bits => prefix_mask(length, info.bytes),
            _ => {
                return Err(mask.fault(
                    "bad_mask",
                    format!("{} has the prefix length {}", info.name, mask.text),
                    format!("Write a length of 0 to {}.", info.bits),
                ));
            }
        }
    } else {
        single(info, mask)?
    };
    Ok(Masked::new(value, mask))
}

/// The words for `ip_frag`; "later" is the exact value 3 of the field's definition.
const FRAGMENTS: [(&str, u64, u64); 5] =
    [("no", 0, 0xff), ("yes", 1, 1), ("first", 1, 0xff), ("later", 3, 0xff), ("not_later", 0, 2)];

/// The flags of `tcp_flags` from bit 0 (RFC 9293, 3.1; RFC 3540 for NS).
const FLAGS: [&str; 9] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns"];

/// The flags of `ct_state` from bit 0 (ovs-fields(7)).
const STATES: [&str; 8] = ["new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat"];

/// The flags that a field is written by, if it is.
fn flags_of(field: Field) -> Option<(&'static [&'static str], &'static str)> {
    match field {
        Field::TcpFlags => Some((&FLAGS, "+syn-ack")),
        Field::CtState => Some((&STATES, "+trk+est-inv")),
        _ => None,
    }
}

fn by_word(info: &FieldInfo, word: Word<'_>) -> Result<Option<Masked>, Fault> {
    if info.field == Field::IpFrag {
        if let Some((_, value, mask)) = FRAGMENTS.iter().find(|(name, ..)| *name == word.text) {
            return Ok(Some(Masked::number(info, *value, *mask)));
        }
        if word.text.starts_with(|first: char| !first.is_ascii_digit()) {
            return Err(word.fault(
                "bad_value",
                format!("ip_frag is \"{}\"", word.text),
                "Write no, yes, first, later or not_later.",
            ));
        }
    }
    if let Some((flags, example)) = flags_of(info.field)
        && word.text.starts_with(['+', '-'])
    {
        let (mut value, mut mask) = (0_u64, 0_u64);
        let mut rest = word.text;
        while let Some(sign) = rest.chars().next() {
            rest = &rest[1..];
            let end = rest.find(['+', '-']).unwrap_or(rest.len());
            let flag = &rest[..end];
            let Some(bit) = flags.iter().position(|known| *known == flag) else {
                return Err(word.fault(
                    "bad_value",
                    format!("{} names \"{flag}\", which is no flag", info.name),
                    format!("Write, for example, {example}; the flags are {}.", flags.join(", ")),
                ));
            };
            mask |= 1 << bit;
            value |= u64::from(sign == '+') << bit;
            rest = &rest[end..];
        }
        return Ok(Some(Masked::number(info, value, mask)));
    }
    Ok(None)
}

/// Writes a value; an empty mask means all ones.
pub(super) fn format(info: &FieldInfo, value: &[u8], mask: &[u8]) -> String {
    let full = mask.is_empty() || mask == info.full_mask();
    if value.len() != info.bytes || (!full && mask.len() != info.bytes) {
        // Not a value that this field can have; shown as it came.
        return if mask.is_empty() { raw(value) } else { format!("{}/{}", raw(value), raw(mask)) };
    }
    if let Some(word) = as_word(info, value, if full { None } else { Some(mask) }) {
        return word;
    }
    match info.form {
        Form::Mac if full => format_mac(value),
        Form::Mac => format!("{}/{}", format_mac(value), format_mac(mask)),
        Form::Ipv4 | Form::Ipv6 if full => format_ip(value),
        Form::Ipv4 | Form::Ipv6 => match prefix_length(mask) {
            Some(length) => format!("{}/{length}", format_ip(value)),
            None => format!("{}/{}", format_ip(value), format_ip(mask)),
        },
        Form::Decimal if full => to_number(value).unwrap_or_default().to_string(),
        Form::Decimal | Form::Hexadecimal => {
            let width = if info.form == Form::Hexadecimal && info.bits == 16 { 6 } else { 0 };
            let hexadecimal = |bytes: &[u8]| format!("{:#0width$x}", to_number(bytes).unwrap_or_default());
            if full { hexadecimal(value) } else { format!("{}/{}", hexadecimal(value), hexadecimal(mask)) }
        }
    }
}

fn as_word(info: &FieldInfo, value: &[u8], mask: Option<&[u8]>) -> Option<String> {
    let value = to_number(value)?;
    let mask = mask.map(to_number);
    match info.field {
        Field::IpFrag => {
            let mask = mask.unwrap_or(Some(0xff))?;
            FRAGMENTS.iter().find(|row| (row.1, row.2) == (value, mask)).map(|row| row.0.to_owned())
        }
        Field::TcpFlags | Field::CtState => {
            let (flags, _) = flags_of(info.field)?;
            let mask = mask??;
            if mask == 0 || mask >> flags.len() != 0 || value & !mask != 0 {
                return None;
            }
            let set = flags.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1);
            Some(set.map(|(bit, flag)| format!("{}{flag}", if value >> bit & 1 == 1 { '+' } else { '-' })).collect())
        }
        _ => None,
    }
}

/// Reads `address/length`, the length required, and keeps the address's host bits: 10.0.0.5/24.
pub(super) fn interface(word: Word<'_>, what: &str) -> Result<(Vec<u8>, u32), Fault> {
    let Some((address, length)) = word.split_once("/") else {
        return Err(word.fault(
            "bad_value",
            format!("{what} is \"{}\", without a prefix length", word.text),
            "Write address and length, as in 10.0.0.5/24.",
        ));
    };
    let address = ipv4(address, what)?;
    let length = parse_number(length, "prefix length", 8).ok().filter(|bits| *bits <= 32).ok_or_else(|| {
        length.fault(
            "bad_value",
            format!("{what} has the prefix length \"{}\"", length.text),
            "Write a length of 0 to 32.",
        )
    })?;
    Ok((address, length as u32))
}

/// Whether a text is an address of either family.
pub(super) fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}
