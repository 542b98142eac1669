//! Rules between the wire and the engine, both ways, and the one place where rules are validated.
//!
//! Into the engine: everything that a request can say wrongly is refused here with a [`Fault`] that
//! names field and remedy; what comes out the engine may trust (no bits outside masks, every
//! prerequisite matched, actions that fit). Back out: [`to_message`] gives the canonical form of
//! `weft_proto::digest`, so that a rule that was accepted comes back equal.
//!
//! Fields that share bytes in a [`FlowKey`] are told apart by the protocol fields of the value: a rule
//! matches those exactly (`weft_proto::field`), a packet's key holds them anyway.
//!
//! Called by the switch (`switch`), by `Tables::trace` and by dumps of the cache.

pub mod connection;
#[cfg(test)]
mod tests;

use super::action::{Instructions, instructions_from_message, instructions_to_message};
use super::key::FlowKey;
use super::matched::Match;
use super::rule::{Life, Owner, Rule, RuleCounters, RuleId, SetMatch};
use super::tables::{SetChange, TableSettings};
use crate::limits::{ADDRESS_SET_MEMBERS, TABLES};
use std::net::Ipv4Addr;
use std::sync::Arc;
use weft_proto::PORT_MAX;
use weft_proto::fault::Fault;
use weft_proto::field::{FIELDS, FieldInfo, info};
use weft_proto::v1::{self, Field};

/// The bit of a TCI that says that there is a tag.
const TAG_PRESENT: u16 = 0x1000;

/// Characters of a table's or an address set's name.
const NAME_CHARACTERS: usize = 64;

/// Members of an address set: address and prefix length.
type Prefixes = Vec<(Ipv4Addr, u8)>;

/// A rule from its message, created at `now` (microseconds of [`crate::clock`]), with fresh counters.
///
/// # Errors
/// The first thing that is wrong with it; the field is relative to the rule.
pub fn rule_from_message(message: &v1::Rule, now: u64) -> Result<Rule, Fault> {
    let id = rule_id_from_message(message)?;
    let instructions = match &message.instructions {
        Some(instructions) => {
            instructions_from_message(instructions, &id).map_err(|fault| fault.within("instructions"))?
        }
        None => Instructions::default(),
    };
    let life = life_from_message(message, id.owner)?;
    let counters = Arc::new(RuleCounters::default());
    Ok(Rule {
        id,
        instructions: Arc::new(instructions),
        cookie: message.cookie,
        created: now,
        since: now,
        life,
        counters,
    })
}

/// When the rule of a message ends by itself.
fn life_from_message(message: &v1::Rule, owner: Owner) -> Result<Life, Fault> {
    let timeout = |seconds: u32, place: &str| {
        u16::try_from(seconds).map_err(|_| {
            let problem = format!("a timeout of {seconds} seconds");
            Fault::invalid("bad_timeout", place, problem, "Use 1 to 65535 seconds, or 0 for none.")
        })
    };
    let idle = timeout(message.idle_timeout_seconds, "idle_timeout_seconds")?;
    let hard = timeout(message.hard_timeout_seconds, "hard_timeout_seconds")?;
    let life = Life { idle, hard, notify: message.notify_removal };
    if owner == Owner::Fabric && life != Life::default() {
        // The controller compares by digest: a rule that ended by itself would be one that was lost, and sent again.
        return Err(Fault::invalid(
            "timeout_of_fabric",
            if idle != 0 {
                "idle_timeout_seconds"
            } else if hard != 0 {
                "hard_timeout_seconds"
            } else {
                "notify_removal"
            },
            "rules of the fabric stay until the controller removes them",
            "Leave timeouts and notify_removal out, or add the rule by hand.",
        ));
    }
    Ok(life)
}

/// What identifies the rule of a message; its instructions are not looked at.
///
/// # Errors
/// As [`rule_from_message`].
pub fn rule_id_from_message(message: &v1::Rule) -> Result<RuleId, Fault> {
    let owner = owner_from_message(message.owner)?;
    let table = table_number(message.table)?;
    let priority = u16::try_from(message.priority).map_err(|_| {
        Fault::invalid(
            "bad_priority",
            "priority",
            format!("priority {} is out of range", message.priority),
            "Use 0 to 65535; the highest wins.",
        )
    })?;
    let (value, mask, set) = match_from_message(&message.r#match)?;
    Ok(RuleId { owner, table, priority, matched: Match::new(&value, &mask), set })
}

/// Value, mask and address set of a rule's or filter's match: its fields without their place in a rule.
///
/// # Errors
/// As [`rule_from_message`].
pub fn match_from_message(matches: &[v1::FieldMatch]) -> Result<(FlowKey, FlowKey, Option<SetMatch>), Fault> {
    let (mut value, mut mask) = (FlowKey::ZERO, FlowKey::ZERO);
    let mut set: Option<SetMatch> = None;
    let mut rows: Vec<&'static FieldInfo> = Vec::with_capacity(matches.len());
    for (index, matched) in matches.iter().enumerate() {
        let at = |fault: Fault| fault.within(&format!("match[{index}]"));
        let row = field_row(matched.field, "").map_err(at)?;
        if rows.iter().any(|earlier| earlier.field == row.field) {
            return Err(at(Fault::invalid(
                "duplicate_field",
                "",
                format!("{} is matched twice", row.name),
                "List each field at most once; combine the two into one value and mask.",
            )));
        }
        rows.push(row);
        if !matched.address_set.is_empty() {
            let operand = set_operand(matched, row).map_err(at)?;
            if let Some(earlier) = set.replace(operand) {
                return Err(at(Fault::invalid(
                    "two_address_sets",
                    "",
                    format!("the rule already matches address set {}", earlier.set),
                    "Match at most one address set in a rule; write one rule for each combination or go through two tables.",
                )));
            }
            continue;
        }
        let (bits, counted) = operand(row, &matched.value, &matched.mask).map_err(at)?;
        value.field_mut(row.field).copy_from_slice(bits);
        mask.field_mut(row.field).copy_from_slice(counted);
        if row.field == Field::InPort && mask.in_port == [0xff; 4] {
            port_number(value.port(), "value").map_err(at)?;
        }
    }
    for (index, row) in rows.iter().enumerate() {
        prerequisites(row, &value, &mask).map_err(|fault| fault.within(&format!("match[{index}]")))?;
    }
    Ok((value, mask, set))
}

/// The canonical message of a rule.
#[must_use]
pub fn to_message(rule: &Rule) -> v1::Rule {
    v1::Rule {
        table: rule.id.table.into(),
        priority: rule.id.priority.into(),
        r#match: match_to_message(&rule.id),
        instructions: Some(instructions_to_message(&rule.instructions)),
        cookie: rule.cookie,
        owner: owner_to_message(rule.id.owner).into(),
        idle_timeout_seconds: rule.life.idle.into(),
        hard_timeout_seconds: rule.life.hard.into(),
        notify_removal: rule.life.notify,
    }
}

/// The match of a rule, in the order of the field table.
fn match_to_message(id: &RuleId) -> Vec<v1::FieldMatch> {
    let mut all = matches(&id.matched.value(), &id.matched.mask());
    if let Some(set) = &id.set {
        let position = |field: Field| FIELDS.iter().position(|row| row.field == field);
        let at = all.partition_point(|matched| position(matched.field()) < position(set.field));
        let operand = v1::FieldMatch {
            field: set.field.into(),
            value: Vec::new(),
            mask: Vec::new(),
            address_set: set.set.to_string(),
        };
        all.insert(at, operand);
    }
    all
}

/// The masked bits of a key as fields, in the order of the field table. `value` may have more bits than
/// the mask: of a consulted mask it is the packet's whole key, from which the protocols are known.
///
/// A field whose protocol the value does not have is left out: such a packet has no such field.
#[must_use]
pub fn matches(value: &FlowKey, mask: &FlowKey) -> Vec<v1::FieldMatch> {
    let mut all = Vec::new();
    for row in FIELDS {
        let counted = mask.field(row.field);
        if counted.iter().all(|&byte| byte == 0) || !present(row, value) {
            continue;
        }
        let bits = value.field(row.field).iter().zip(counted).map(|(value, mask)| value & mask).collect();
        let full = counted == row.full_mask();
        all.push(v1::FieldMatch {
            field: row.field.into(),
            value: bits,
            mask: if full { Vec::new() } else { counted.to_vec() },
            address_set: String::new(),
        });
    }
    all
}

/// The fields that a packet has, but for those that are zero: how a person tells it from others.
#[must_use]
pub fn fields(key: &FlowKey) -> Vec<v1::FieldMatch> {
    let mut mask = FlowKey::ZERO;
    for row in FIELDS.iter().filter(|row| present(row, key)) {
        if key.field(row.field).iter().any(|&byte| byte != 0) {
            mask.field_mut(row.field).copy_from_slice(row.full_mask());
        }
    }
    // What rules made of it is no field of its own.
    mask.words_mut()[super::key::PACKET_WORDS..].fill(0);
    matches(key, &mask)
}

/// A packet described by its fields, as a trace of it elsewhere takes them: without the port it came in by, and tunnels.
#[must_use]
pub fn packet(key: &FlowKey) -> Vec<v1::FieldMatch> {
    let mut fields = fields(key);
    let here = |field: Field| matches!(field, Field::InPort | Field::TunId | Field::TunSrc | Field::TunDst);
    fields.retain(|one| !here(one.field()));
    fields
}

/// The key of a packet described by its fields, for traces: each given exactly.
///
/// # Errors
/// As for a match; and a mask, or an address set, is refused.
pub fn key_from_packet(fields: &[v1::FieldMatch]) -> Result<FlowKey, Fault> {
    for (index, field) in fields.iter().enumerate() {
        let place = format!("packet[{index}]");
        let row = field_row(field.field, &place)?;
        if !field.address_set.is_empty() || (!field.mask.is_empty() && field.mask != row.full_mask()) {
            return Err(Fault::invalid(
                "not_exact",
                place,
                format!("{} is not one value", row.name),
                "Give a packet's fields as exact values, without mask or address set.",
            ));
        }
    }
    let (value, _, _) = match_from_message(fields).map_err(|mut fault| {
        if let Some(rest) = fault.field.strip_prefix("match") {
            fault.field = format!("packet{rest}");
        }
        fault
    })?;
    Ok(value)
}

/// The owner of a message.
///
/// # Errors
/// If it is unspecified or unknown.
pub fn owner_from_message(owner: i32) -> Result<Owner, Fault> {
    match v1::Owner::try_from(owner) {
        Ok(v1::Owner::Fabric) => Ok(Owner::Fabric),
        Ok(v1::Owner::Manual) => Ok(Owner::Manual),
        _ => Err(Fault::invalid(
            "bad_owner",
            "owner",
            format!("owner {owner} is not known"),
            "Say OWNER_MANUAL, or OWNER_FABRIC if you are the controller.",
        )),
    }
}

/// The message's word for an owner.
#[must_use]
pub fn owner_to_message(owner: Owner) -> v1::Owner {
    match owner {
        Owner::Fabric => v1::Owner::Fabric,
        Owner::Manual => v1::Owner::Manual,
    }
}

/// A table's settings.
///
/// # Errors
/// For a number, name, meaning or partition field that cannot be.
pub fn settings_from_message(message: &v1::TableConfig) -> Result<TableSettings, Fault> {
    let table = table_number(message.table)?;
    name("name", &message.name)?;
    if message.meaning.contains(['\n', '\r']) || message.meaning.len() > 200 {
        return Err(Fault::invalid(
            "bad_meaning",
            "meaning",
            "the meaning is more than one line of 200 bytes",
            "Say in one line what the table is for.",
        ));
    }
    let partition = match v1::Field::try_from(message.partition) {
        Ok(Field::Unspecified) => Field::InPort,
        _ => field_row(message.partition, "partition")?.field,
    };
    Ok(TableSettings { table, name: message.name.as_str().into(), meaning: message.meaning.as_str().into(), partition })
}

/// The message of a table's settings.
#[must_use]
pub fn settings_to_message(settings: &TableSettings) -> v1::TableConfig {
    v1::TableConfig {
        table: settings.table.into(),
        name: settings.name.to_string(),
        meaning: settings.meaning.to_string(),
        partition: settings.partition.into(),
    }
}

/// The changes of address sets in a bundle: first those replaced whole, then members added, then
/// members removed, then sets removed.
///
/// # Errors
/// For a name or member that cannot be; the field is relative to the bundle.
pub fn set_changes_from_message(bundle: &v1::Bundle) -> Result<Vec<SetChange>, Fault> {
    type Make = fn(Arc<str>, Prefixes) -> SetChange;
    let lists: [(&str, &[v1::AddressSet], Make); 3] = [
        ("set_address_sets", &bundle.set_address_sets, SetChange::Set),
        ("extend_address_sets", &bundle.extend_address_sets, SetChange::Extend),
        ("shrink_address_sets", &bundle.shrink_address_sets, SetChange::Shrink),
    ];
    let mut changes = Vec::new();
    for (list, sets, make) in lists {
        for (index, set) in sets.iter().enumerate() {
            let (name, members) =
                address_set_from_message(set).map_err(|fault| fault.within(&format!("{list}[{index}]")))?;
            changes.push(make(name, members));
        }
    }
    for (index, removed) in bundle.remove_address_sets.iter().enumerate() {
        name(&format!("remove_address_sets[{index}]"), removed)?;
        changes.push(SetChange::Remove(removed.as_str().into()));
    }
    Ok(changes)
}

/// Name and members of an address set.
fn address_set_from_message(set: &v1::AddressSet) -> Result<(Arc<str>, Prefixes), Fault> {
    name("name", &set.name)?;
    if set.members.len() > ADDRESS_SET_MEMBERS {
        return Err(Fault::invalid(
            "too_many_members",
            "members",
            format!("{} members are more than the {ADDRESS_SET_MEMBERS} a set can have", set.members.len()),
            "Combine neighbouring addresses into prefixes, or split the set.",
        ));
    }
    let member = |(index, member): (usize, &v1::Prefix)| {
        prefix(&member.address, member.length).map_err(|fault| fault.within(&format!("members[{index}]")))
    };
    let members = set.members.iter().enumerate().map(member).collect::<Result<_, _>>()?;
    Ok((set.name.as_str().into(), members))
}

/// The canonical message of an address set (`weft_proto::digest::canonical_set`).
#[must_use]
pub fn address_set_to_message(name: &str, members: &[(Ipv4Addr, u8)]) -> v1::AddressSet {
    let members = members
        .iter()
        .map(|(address, length)| v1::Prefix { address: address.octets().to_vec(), length: (*length).into() })
        .collect();
    weft_proto::digest::canonical_set(v1::AddressSet { name: name.to_owned(), members })
}

/// The row of a message's field.
pub(super) fn field_row(field: i32, place: &str) -> Result<&'static FieldInfo, Fault> {
    Field::try_from(field).ok().and_then(info).ok_or_else(|| {
        Fault::invalid(
            "unknown_field",
            place,
            format!("field number {field} is not known"),
            "Use a field of weft/v1/flow.proto; a newer program may know more fields than this switch.",
        )
    })
}

/// Value and mask of a match or set-field, both as wide as the field. Faults are relative to it.
pub(super) fn operand<'a>(row: &'a FieldInfo, value: &'a [u8], mask: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Fault> {
    let full = row.full_mask();
    let wide = |bytes: &[u8], what: &str| {
        if bytes.len() == row.bytes {
            return Ok(());
        }
        Err(Fault::invalid(
            "bad_length",
            what,
            format!("the {what} of {} has {} bytes", row.name, bytes.len()),
            format!("Give {} bytes, big-endian.", row.bytes),
        ))
    };
    wide(value, "value")?;
    if !mask.is_empty() {
        wide(mask, "mask")?;
    }
    for (bytes, what) in [(value, "value"), (mask, "mask")] {
        if bytes.iter().zip(full).any(|(byte, full)| byte & !full != 0) {
            return Err(Fault::invalid(
                "beyond_width",
                what,
                format!("the {what} {} has bits beyond the {} bits of {}", hexadecimal(bytes), row.bits, row.name),
                format!("Leave the upper bits zero: at most {}.", hexadecimal(full)),
            ));
        }
    }
    if mask.is_empty() {
        return Ok((value, full));
    }
    if mask.iter().all(|&byte| byte == 0) {
        return Err(Fault::invalid(
            "empty_mask",
            "mask",
            format!("the mask of {} has no bits", row.name),
            "Leave the field out, or leave the mask empty so that every bit counts.",
        ));
    }
    if value.iter().zip(mask).any(|(value, mask)| value & !mask != 0) {
        return Err(Fault::invalid(
            "outside_mask",
            "value",
            format!("the value {} of {} has bits outside its mask {}", hexadecimal(value), row.name, hexadecimal(mask)),
            "Clear the bits that the mask leaves out.",
        ));
    }
    Ok((value, mask))
}

/// An address set as the operand of a match.
fn set_operand(matched: &v1::FieldMatch, row: &FieldInfo) -> Result<SetMatch, Fault> {
    if !matches!(row.field, Field::Ipv4Src | Field::Ipv4Dst) {
        return Err(Fault::invalid(
            "bad_address_set",
            "address_set",
            format!("{} cannot be matched with an address set", row.name),
            "Use address sets with ip_src and ip_dst only.",
        ));
    }
    if !matched.value.is_empty() || !matched.mask.is_empty() {
        return Err(Fault::invalid(
            "bad_address_set",
            "",
            format!("{} has both a value and an address set", row.name),
            "Give either a value or the name of a set.",
        ));
    }
    name("address_set", &matched.address_set)?;
    Ok(SetMatch { field: row.field, set: matched.address_set.as_str().into() })
}

/// Refuses a field whose prerequisites the match does not have.
pub(super) fn prerequisites(row: &FieldInfo, value: &FlowKey, mask: &FlowKey) -> Result<(), Fault> {
    for required in row.prerequisites {
        let needed = info(required.field).expect("prerequisites name fields that exist");
        if required.values.is_empty() {
            // "tagged": the one prerequisite that is a bit rather than values.
            if u16::from_be_bytes(mask.vlan_tci) & TAG_PRESENT != 0 && tagged(value) {
                continue;
            }
            return Err(Fault::invalid(
                "missing_prerequisite",
                "",
                format!("{} means nothing unless the packet has a VLAN tag", row.name),
                "Match vlan_tci with bit 0x1000 set in value and mask.",
            ));
        }
        if mask.field(needed.field) == needed.full_mask() && required.values.contains(&number(needed, value)) {
            continue;
        }
        let shown = |value: &u64| match needed.form {
            weft_proto::field::Form::Hexadecimal => format!("0x{value:04x}"),
            _ => value.to_string(),
        };
        let values: Vec<String> = required.values.iter().map(shown).collect();
        return Err(Fault::invalid(
            "missing_prerequisite",
            "",
            format!("{} means nothing without an exact {}", row.name, needed.name),
            format!("Match {}={} as well.", needed.name, values.join(" or ")),
        ));
    }
    Ok(())
}

/// Whether a packet with this key has the field.
fn present(row: &FieldInfo, value: &FlowKey) -> bool {
    row.prerequisites.iter().all(|required| {
        if required.values.is_empty() {
            return tagged(value);
        }
        let needed = info(required.field).expect("prerequisites name fields that exist");
        required.values.contains(&number(needed, value))
    })
}

fn tagged(value: &FlowKey) -> bool {
    u16::from_be_bytes(value.vlan_tci) & TAG_PRESENT != 0
}

/// A field of at most 64 bits as a number.
fn number(row: &FieldInfo, value: &FlowKey) -> u64 {
    value.field(row.field).iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// The number of a table.
fn table_number(table: u32) -> Result<u8, Fault> {
    u8::try_from(table)
        .ok()
        .filter(|&table| usize::from(table) < TABLES)
        .ok_or_else(|| Fault::invalid("bad_table", "table", format!("table {table} does not exist"), "Use 0 to 254."))
}

/// Refuses a number that no ordinary port can have.
///
/// # Errors
/// For 0 and reserved numbers.
pub fn port_number(number: u32, place: &str) -> Result<u32, Fault> {
    if (1..=PORT_MAX).contains(&number) {
        return Ok(number);
    }
    Err(Fault::invalid(
        "bad_port",
        place,
        format!("{number} is not a port number"),
        format!("Use 1 to {PORT_MAX} (0xffffff00)."),
    ))
}

/// Refuses a name that would not survive dumps and command lines.
fn name(place: &str, name: &str) -> Result<(), Fault> {
    let fine = |character: char| character.is_ascii_alphanumeric() || "_-.:/".contains(character);
    if (1..=NAME_CHARACTERS).contains(&name.len()) && name.chars().all(fine) {
        return Ok(());
    }
    Err(Fault::invalid(
        "bad_name",
        place,
        format!("\"{}\" cannot be a name", name.escape_debug()),
        format!("Use 1 to {NAME_CHARACTERS} letters, digits and the characters _-.:/ only."),
    ))
}

/// An IPv4 address of 4 bytes.
pub(super) fn address(bytes: &[u8], place: &str) -> Result<Ipv4Addr, Fault> {
    let octets: [u8; 4] = bytes.try_into().map_err(|_| {
        Fault::invalid(
            "bad_length",
            place,
            format!("an address of {} bytes", bytes.len()),
            "Give the 4 bytes of an IPv4 address.",
        )
    })?;
    Ok(octets.into())
}

/// A prefix, without bits beyond its length.
pub(super) fn prefix(bytes: &[u8], length: u32) -> Result<(Ipv4Addr, u8), Fault> {
    let address = address(bytes, "address")?;
    let length = prefix_length(length, "length")?;
    let host_bits = u32::MAX.checked_shr(length.into()).unwrap_or(0);
    if address.to_bits() & host_bits != 0 {
        let network = Ipv4Addr::from_bits(address.to_bits() & !host_bits);
        return Err(Fault::invalid(
            "bad_prefix",
            "address",
            format!("{address}/{length} has bits beyond its length"),
            format!("Use {network}/{length}, or {address}/32 for the one address."),
        ));
    }
    Ok((address, length))
}

/// A prefix length of IPv4.
pub(super) fn prefix_length(length: u32, place: &str) -> Result<u8, Fault> {
    u8::try_from(length).ok().filter(|&length| length <= 32).ok_or_else(|| {
        Fault::invalid("bad_prefix", place, format!("a prefix of {length} bits"), "Use a length of 0 to 32.")
    })
}

/// Bytes as a person reads them.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |mut text, byte| {
        use std::fmt::Write as _;
        let _ = write!(text, "{byte:02x}");
        text
    })
}
