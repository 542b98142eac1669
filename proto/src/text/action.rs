//! Actions and instructions: `dec_ttl,set_field:02:00:00:00:00:01->eth_dst,output:2,goto_table:10`.

use super::matching::part_number;
use super::name::{Context, PARTS, Target, check_prerequisites, resolve};
use super::scan::{Word, did_you_mean, words};
use super::value::{self, Masked, format_mac, mac, parse_number, parse_within, to_bytes, to_number};
use super::{dhcp, gateway, icmp, track};
use crate::fault::Fault;
use crate::field::{FieldInfo, info};
use crate::v1::{self, DropCause, Field, FieldMatch, Instructions, action::Action as Kind};
use crate::{PORT_IN_PORT, PORT_MAX};

/// The causes of `drop(…)`.
const CAUSES: [(&str, DropCause); 5] = [
    ("policy", DropCause::Policy),
    ("spoofed", DropCause::Spoofed),
    ("unknown_destination", DropCause::UnknownDestination),
    ("unknown_segment", DropCause::UnknownSegment),
    ("elsewhere", DropCause::Elsewhere),
];

/// Every action and instruction that is understood.
const ACTIONS: &[&str] = &[
    "output",
    "in_port",
    "IN_PORT",
    "drop",
    "set_field",
    "load",
    "mod_dl_src",
    "mod_dl_dst",
    "mod_nw_src",
    "mod_nw_dst",
    "mod_nw_tos",
    "mod_nw_ecn",
    "mod_nw_ttl",
    "mod_tp_src",
    "mod_tp_dst",
    "mod_vlan_vid",
    "mod_vlan_pcp",
    "push_vlan",
    "pop_vlan",
    "strip_vlan",
    "dec_ttl",
    "check_mtu",
    "icmp_reply",
    "icmp_unreachable",
    "neighbour",
    "learn_neighbour",
    "translate",
    "controller",
    "punt",
    "ct",
    "clone",
    "group",
    "arp_reply",
    "dhcp_reply",
    "meter",
    "goto_table",
    "resubmit",
    "write_actions",
    "clear_actions",
    "write_metadata",
];

/// Actions of Open vSwitch that this switch does not have, and what to do instead.
const FOREIGN: [(&str, &str); 13] = [
    ("normal", "There is no learning bridge in here; match eth_dst and output to its port."),
    ("flood", "Name each port: output:1,output:2."),
    ("all", "Name each port: output:1,output:2."),
    ("local", "There is no local port; output to a tap port by its number."),
    ("output_reg", "Output to a port by its number."),
    ("nat", "It stands in ct: ct(zone=1,nat) or ct(commit,zone=1,nat(src=192.0.2.1))."),
    ("learn", "Rules come from you or the controller; punt packets that should cause one."),
    ("move", "Fields cannot be copied; set_field writes constants."),
    ("note", "Name the rule's origin by its cookie."),
    ("enqueue", "There are no queues; use output:N."),
    ("set_queue", "There are no queues; leave it out."),
    ("push_mpls", "MPLS is not built yet."),
    ("set_tunnel", "Write set_field:KEY->tun_id."),
];

/// Reads what follows `actions=` of a rule with these matches.
pub(super) fn from_words(words: &[Word<'_>], matches: &[FieldMatch]) -> Result<Instructions, Fault> {
    let mut instructions = Instructions::default();
    let mut last: (u8, Word<'_>) = (0, Word::line(""));
    let lone_drop = words.len() == 1;
    for word in words {
        if word.text == "drop" {
            if lone_drop {
                return Ok(instructions);
            }
            return Err(drop_among_others(*word));
        }
        let (name, argument) = name_and_argument(*word);
        let place = match name.text {
            "clear_actions" => 1,
            "write_actions" => 2,
            "write_metadata" => 3,
            "goto_table" | "resubmit" => 4,
            _ => 0,
        };
        if place < last.0 || (place > 0 && place == last.0) {
            let (problem, remedy) = if place == last.0 {
                (format!("{} is given twice", name.text), "Keep one of them.".to_owned())
            } else {
                (
                    format!("{} is executed before {}, but written after it", name.text, last.1.text),
                    format!("Write {} first.", word.text),
                )
            };
            return Err(word.fault("bad_order", problem, remedy));
        }
        last = (place, name);
        match place {
            0 => instructions.apply_actions.push(one(*word, Packets::Of(matches), 0)?),
            1 => instructions.clear_actions = true,
            2 => {
                let inner = argument.call_argument(*word, "write_actions(output:1)")?;
                let inner = self::words(inner)?;
                for word in &inner {
                    if word.text.starts_with("clone(") {
                        return Err(not_in_set(*word, "clone"));
                    }
                    instructions.write_actions.push(one(*word, Packets::Of(matches), 0)?);
                }
            }
            3 => {
                let argument = argument.colon_argument(*word, "write_metadata:VALUE/MASK")?;
                let row = info(Field::Metadata).ok_or_else(|| unknown(name))?;
                let masked = value::parse(row, argument)?;
                instructions.metadata = to_number(&masked.value).unwrap_or_default();
                instructions.metadata_mask = to_number(&masked.mask).unwrap_or_default();
            }
            _ => instructions.goto_table = Some(goto(*word, name, argument)?),
        }
    }
    Ok(instructions)
}

/// Clones within clones that are read: as many as a switch takes.
const NESTING: usize = 16;

/// Reads what stands in `clone(…)`: actions, and last, perhaps, a table.
fn clone(word: Word<'_>, inner: Word<'_>, packets: Packets<'_>, depth: usize) -> Result<v1::Clone, Fault> {
    if depth >= NESTING {
        return Err(word.fault(
            "too_deep",
            format!("more than {NESTING} clones lie within one another"),
            "Let a clone go on in another table with goto_table:N.",
        ));
    }
    let mut clone = v1::Clone::default();
    for word in words(inner)? {
        if clone.goto_table.is_some() {
            return Err(word.fault(
                "bad_order",
                "the copy goes on in another table before this",
                "Write goto_table last.",
            ));
        }
        match word.split_once("=") {
            Some((name, table)) if name.text == "goto_table" => {
                clone.goto_table = Some(goto(word, name, Argument::Colon(table))?);
                continue;
            }
            _ => {}
        }
        let (name, argument) = name_and_argument(word);
        if matches!(name.text, "goto_table" | "resubmit") {
            clone.goto_table = Some(goto(word, name, argument)?);
        } else {
            clone.actions.push(one(word, packets, depth + 1)?);
        }
    }
    if clone.actions.is_empty() && clone.goto_table.is_none() {
        return Err(word.fault(
            "bad_action",
            "nothing is to be done with the copy",
            "Write clone(output:2), or clone(goto_table:N).",
        ));
    }
    Ok(clone)
}

/// The lowest table that a clone goes on in.
pub(super) fn leads_to(action: &v1::Action) -> Option<u32> {
    let Some(Kind::Clone(clone)) = &action.action else { return None };
    clone.actions.iter().filter_map(leads_to).chain(clone.goto_table).min()
}

fn not_in_set(word: Word<'_>, name: &str) -> Fault {
    word.fault("bad_action", format!("{name} cannot be written into an action set"), "Move it out of the parentheses.")
}

fn goto(word: Word<'_>, name: Word<'_>, argument: Argument<'_>) -> Result<u32, Fault> {
    let table = if name.text == "goto_table" {
        argument.colon_argument(word, "goto_table:N")?
    } else {
        match argument {
            Argument::Call(inner) if inner.text.starts_with(',') => inner.after(1),
            _ => {
                return Err(word.fault(
                    "unknown_action",
                    format!("\"{}\" would look a packet up again under another port", word.text),
                    "Write resubmit(,N) or goto_table:N to go on in another table.",
                ));
            }
        }
    };
    parse_within(table, "table", 1..=254)
}

/// What stands behind an action's name.
#[derive(Clone, Copy)]
enum Argument<'a> {
    None,
    /// After a colon.
    Colon(Word<'a>),
    /// Between parentheses.
    Call(Word<'a>),
}

impl<'a> Argument<'a> {
    fn colon_argument(self, word: Word<'_>, example: &str) -> Result<Word<'a>, Fault> {
        match self {
            Self::Colon(argument) if !argument.text.is_empty() => Ok(argument),
            _ => Err(form(word, example)),
        }
    }

    fn call_argument(self, word: Word<'_>, example: &str) -> Result<Word<'a>, Fault> {
        match self {
            Self::Call(argument) => Ok(argument),
            _ => Err(form(word, example)),
        }
    }

    fn nothing(self, word: Word<'_>, name: &str) -> Result<(), Fault> {
        match self {
            Self::None => Ok(()),
            _ => Err(form(word, name)),
        }
    }
}

fn form(word: Word<'_>, example: &str) -> Fault {
    word.fault(
        "bad_syntax",
        format!("\"{}\" is not how this action is written", word.text),
        format!("Write {example}."),
    )
}

fn name_and_argument(word: Word<'_>) -> (Word<'_>, Argument<'_>) {
    let colon = word.text.find(':').unwrap_or(usize::MAX);
    let parenthesis = word.text.find('(').unwrap_or(usize::MAX);
    if parenthesis < colon
        && let Some((name, inner)) = word.call()
    {
        return (name, Argument::Call(inner));
    }
    match word.split_once(":") {
        Some((name, argument)) => (name, Argument::Colon(argument)),
        None => (word, Argument::None),
    }
}

fn drop_among_others(word: Word<'_>) -> Fault {
    word.fault(
        "bad_action",
        "\"drop\" stands for no actions at all, but others are written beside it",
        "Remove the others, or drop under a cause: drop(policy).",
    )
}

fn unknown(name: Word<'_>) -> Fault {
    if let Some((_, instead)) = FOREIGN.iter().find(|row| row.0.eq_ignore_ascii_case(name.text)) {
        return name.fault("unknown_action", format!("\"{}\" is not an action of this switch", name.text), *instead);
    }
    let meant = did_you_mean(name.text, ACTIONS.iter().copied());
    name.fault(
        "unknown_action",
        format!("\"{}\" is not an action", name.text),
        if meant.is_empty() {
            "Use output:N, drop, set_field:VALUE->FIELD, push_vlan, pop_vlan, dec_ttl, controller or goto_table:N."
                .to_owned()
        } else {
            meant.trim_start().to_owned()
        },
    )
}

/// The packets that actions are written for: those of a rule's match. A bucket's may be any: what does not fit one is
/// found out when it comes.
#[derive(Clone, Copy)]
pub(super) enum Packets<'a> {
    Of(&'a [FieldMatch]),
    Any,
}

impl<'a> Packets<'a> {
    fn matches(self) -> &'a [FieldMatch] {
        match self {
            Self::Of(matches) => matches,
            Self::Any => &[],
        }
    }

    fn may_be(self, types: &[u64]) -> bool {
        match self {
            Self::Of(matches) => Context::of(matches).eth_type.is_some_and(|own| types.contains(&own)),
            Self::Any => true,
        }
    }
}

/// Reads one action.
pub(super) fn one(word: Word<'_>, packets: Packets<'_>, depth: usize) -> Result<v1::Action, Fault> {
    let (name, argument) = name_and_argument(word);
    if word.text.starts_with(|first: char| first.is_ascii_digit()) {
        return Ok(output(port(word)?));
    }
    let kind = match name.text {
        "output" => return Ok(output(port(argument.colon_argument(word, "output:N")?)?)),
        "in_port" | "IN_PORT" => {
            argument.nothing(word, "IN_PORT")?;
            return Ok(output(PORT_IN_PORT));
        }
        "drop" => {
            let Argument::Call(cause) = argument else {
                return Err(drop_among_others(word));
            };
            Kind::Drop(v1::Drop { cause: drop_cause(cause)?.into() })
        }
        "set_field" | "load" => {
            let written = argument.colon_argument(word, "set_field:VALUE->FIELD")?;
            let (value, field) =
                written.split_last("->").ok_or_else(|| form(word, &format!("{}:VALUE->FIELD", name.text)))?;
            // Open vSwitch writes load's target as reg0[].
            let field = Word { text: field.text.strip_suffix("[]").unwrap_or(field.text), ..field };
            Kind::SetField(set_field(word, field, value, packets)?)
        }
        "push_vlan" => {
            let written = argument.colon_argument(word, "push_vlan:0x8100")?;
            let ether_type = parse_number(written, "the tag's EtherType", 16)? as u32;
            if !matches!(ether_type, 0x8100 | 0x88a8) {
                return Err(written.fault(
                    "bad_value",
                    format!("{} is not a VLAN tag's EtherType", written.text),
                    "Write 0x8100 (802.1Q) or 0x88a8 (802.1ad).",
                ));
            }
            Kind::PushVlan(v1::PushVlan { ether_type })
        }
        "pop_vlan" | "strip_vlan" => {
            argument.nothing(word, "pop_vlan")?;
            Kind::PopVlan(v1::PopVlan {})
        }
        "dec_ttl" => {
            let dec_ttl = match argument {
                Argument::Call(inner) => icmp::dec_ttl(word, inner)?,
                _ => argument.nothing(word, "dec_ttl or dec_ttl(answer=10.0.0.1)").map(|()| v1::DecTtl::default())?,
            };
            if !packets.may_be(&[0x0800, 0x86dd]) {
                return Err(word.fault(
                    "missing_prerequisite",
                    "dec_ttl needs ip or ipv6",
                    "Add ip or ipv6 to the rule's match.",
                ));
            }
            Kind::DecTtl(dec_ttl)
        }
        "check_mtu" => {
            let inner = argument.call_argument(word, "check_mtu(1450,answer=10.0.0.1,fragment)")?;
            needs_ip(word, name, packets)?;
            Kind::CheckMtu(icmp::check_mtu(word, inner)?)
        }
        "icmp_reply" => {
            argument.nothing(word, "icmp_reply")?;
            needs_ip(word, name, packets)?;
            Kind::IcmpReply(v1::IcmpReply {})
        }
        "icmp_unreachable" => {
            let inner = argument.call_argument(word, "icmp_unreachable(code=host,answer=10.0.0.1)")?;
            needs_ip(word, name, packets)?;
            Kind::IcmpUnreachable(icmp::unreachable(word, inner)?)
        }
        "neighbour" => {
            let inner = argument.call_argument(word, gateway::NEIGHBOUR)?;
            needs_ip(word, name, packets)?;
            Kind::Neighbour(gateway::neighbour(word, inner)?)
        }
        "learn_neighbour" => {
            let learn = match argument {
                Argument::Call(inner) => gateway::learn(word, inner)?,
                _ => argument.nothing(word, gateway::LEARN).map(|()| v1::LearnNeighbour::default())?,
            };
            if !packets.may_be(&[0x0806]) {
                return Err(word.fault(
                    "missing_prerequisite",
                    "learn_neighbour needs arp",
                    "Add arp to the rule's match.",
                ));
            }
            Kind::LearnNeighbour(learn)
        }
        "translate" => {
            let inner = argument.call_argument(word, gateway::TRANSLATE)?;
            needs_ip(word, name, packets)?;
            Kind::Translate(gateway::translate(word, inner)?)
        }
        "controller" | "CONTROLLER" | "punt" => Kind::Punt(punt(word, argument)?),
        "ct" => {
            let inner = argument.call_argument(word, "ct(zone=1) or ct(commit,zone=1)")?;
            let track = track::parse(word, inner)?;
            if track.nat {
                needs_ip(word, Word { text: "nat", ..word }, packets)?;
            }
            Kind::Ct(track)
        }
        "group" => {
            let group = parse_within(argument.colon_argument(word, "group:N")?, "group", 0..=PORT_MAX)?;
            Kind::Group(v1::GroupAction { group })
        }
        "clone" => {
            let inner = argument.call_argument(word, "clone(output:2) or clone(set_field:0x1->reg1,goto_table:70)")?;
            Kind::Clone(clone(word, inner, packets, depth)?)
        }
        "arp_reply" => {
            let written = argument.colon_argument(word, "arp_reply:02:00:00:00:00:01")?;
            Kind::ArpReply(v1::ArpReply { mac: mac(written, "arp_reply")? })
        }
        "dhcp_reply" => {
            let inner = argument.call_argument(word, "dhcp_reply(address=10.0.0.5/24,server=10.0.0.2,mac=…)")?;
            Kind::DhcpReply(dhcp::parse(word, inner)?)
        }
        "meter" => {
            let number = match argument {
                Argument::Call(number) => number,
                _ => argument.colon_argument(word, "meter:1")?,
            };
            Kind::Meter(v1::MeterAction { meter: super::meter::number(number)? })
        }
        "clear_actions" | "write_actions" | "write_metadata" | "goto_table" | "resubmit" => {
            return Err(not_in_set(word, name.text));
        }
        other => match other.strip_prefix("mod_") {
            Some(field) if ACTIONS.contains(&other) => {
                let value = argument.colon_argument(word, &format!("{other}:VALUE"))?;
                Kind::SetField(set_field(word, Word { text: field, ..name }, value, packets)?)
            }
            _ => return Err(unknown(name)),
        },
    };
    Ok(v1::Action { action: Some(kind) })
}

fn needs_ip(word: Word<'_>, name: Word<'_>, packets: Packets<'_>) -> Result<(), Fault> {
    if packets.may_be(&[0x0800]) {
        return Ok(());
    }
    Err(word.fault("missing_prerequisite", format!("{} needs ip", name.text), "Add ip to the rule's match."))
}

fn output(port: u32) -> v1::Action {
    v1::Action { action: Some(Kind::Output(v1::Output { port })) }
}

fn port(word: Word<'_>) -> Result<u32, Fault> {
    if matches!(word.text, "IN_PORT" | "in_port") {
        return Ok(PORT_IN_PORT);
    }
    let number = parse_number(word, "the port", 32)? as u32;
    if (1..=PORT_MAX).contains(&number) || number == PORT_IN_PORT {
        return Ok(number);
    }
    Err(word.fault("bad_value", format!("{} is not a port", word.text), format!("Write 1 to {PORT_MAX}, or IN_PORT.")))
}

fn drop_cause(word: Word<'_>) -> Result<DropCause, Fault> {
    CAUSES.iter().find(|row| row.0 == word.text).map(|row| row.1).ok_or_else(|| {
        let names: Vec<_> = CAUSES.iter().map(|row| row.0).collect();
        let meant = did_you_mean(word.text, names.iter().copied());
        word.fault(
            "bad_value",
            format!("\"{}\" is not a cause to drop under", word.text),
            format!("Write one of {}.{meant}", names.join(", ")),
        )
    })
}

fn punt(word: Word<'_>, argument: Argument<'_>) -> Result<v1::Punt, Fault> {
    let mut punt = v1::Punt::default();
    match argument {
        Argument::None => {}
        Argument::Colon(length) => punt.max_length = parse_number(length, "the length", 32)? as u32,
        Argument::Call(inner) => {
            for part in words(inner)? {
                match part.split_once("=") {
                    Some((name, number)) if name.text == "max_len" => {
                        punt.max_length = parse_number(number, "max_len", 32)? as u32;
                    }
                    Some((name, number)) if name.text == "reason" => {
                        punt.reason = parse_number(number, "reason", 32)? as u32;
                    }
                    _ => return Err(form(word, "punt(max_len=128,reason=1)")),
                }
            }
        }
    }
    Ok(punt)
}

/// Reads the value of a set-field of the field of this name.
fn set_field(word: Word<'_>, name: Word<'_>, written: Word<'_>, packets: Packets<'_>) -> Result<v1::SetField, Fault> {
    let context = Context::of(packets.matches());
    let unset = |row: &FieldInfo| {
        word.fault("not_writable", format!("{} cannot be set", row.name), "Match it instead, or leave this out.")
    };
    let (row, masked) = match resolve(name, "…", context).map_err(|fault| in_match(fault, name))? {
        Target::Whole(row) if !row.writable => return Err(unset(row)),
        Target::Whole(row) => (row, value::parse(row, written)?),
        Target::Part(part) => {
            let row = info(part.field).ok_or_else(|| unknown(name))?;
            // Open vSwitch sets vlan_vid with the presence bit, 4096 + VLAN.
            let number = if part.name == "vlan_vid" {
                parse_number(written, part.name, 13)? & 0xfff
            } else {
                part_number(part.name, part.bits, part.written_shift, written)?
            };
            (row, Masked::number(row, number << part.shift, part.mask()))
        }
    };
    if masked.mask.iter().all(|byte| *byte == 0) {
        return Err(written.fault(
            "bad_mask",
            format!("\"{}\" sets no bit", written.text),
            "Write a mask that is not zero, or leave the action out.",
        ));
    }
    if let Packets::Of(matches) = packets {
        check_prerequisites(row, matches, word, name.text, "…").map_err(|fault| in_match(fault, name))?;
    }
    let full = masked.mask == row.full_mask();
    Ok(v1::SetField { field: row.field.into(), value: masked.value, mask: if full { Vec::new() } else { masked.mask } })
}

/// A missing prerequisite of an action is cured in the match: the remedy says so.
fn in_match(mut fault: Fault, name: Word<'_>) -> Fault {
    if fault.code == "missing_prerequisite" {
        let needed = fault.remedy.strip_prefix("Write \"").and_then(|rest| rest.split_once(",…"));
        if let Some((needed, _)) = needed {
            fault.remedy = format!("Add {needed} to the rule's match.");
        }
        fault.problem = format!("setting {}", fault.problem);
    }
    if fault.code == "unknown_field" {
        fault.problem = format!("\"{}\" is not a field to set", name.text);
    }
    fault
}

/// Writes one action as [`super::parse_rule`] reads it.
#[must_use]
pub fn format_action(action: &v1::Action) -> String {
    match &action.action {
        None => "unknown_action".to_owned(),
        Some(Kind::Output(output)) if output.port == PORT_IN_PORT => "IN_PORT".to_owned(),
        Some(Kind::Output(output)) => format!("output:{}", output.port),
        Some(Kind::SetField(set)) => format_set_field(set),
        Some(Kind::PushVlan(push)) => format!("push_vlan:{:#06x}", push.ether_type),
        Some(Kind::PopVlan(_)) => "pop_vlan".to_owned(),
        Some(Kind::DecTtl(dec_ttl)) => icmp::format_dec_ttl(dec_ttl),
        Some(Kind::CheckMtu(check)) => icmp::format_check_mtu(check),
        Some(Kind::IcmpReply(_)) => "icmp_reply".to_owned(),
        Some(Kind::IcmpUnreachable(unreachable)) => icmp::format_unreachable(unreachable),
        Some(Kind::Punt(punt)) => match (punt.max_length, punt.reason) {
            (0, 0) => "controller".to_owned(),
            (length, 0) => format!("controller:{length}"),
            (length, reason) => format!("punt(max_len={length},reason={reason})"),
        },
        Some(Kind::Drop(drop)) => {
            let cause = CAUSES.iter().find(|row| i32::from(row.1) == drop.cause);
            cause.map_or_else(|| format!("drop({})", drop.cause), |row| format!("drop({})", row.0))
        }
        Some(Kind::Ct(track)) => track::format(track),
        Some(Kind::Group(group)) => format!("group:{}", group.group),
        Some(Kind::Clone(clone)) => {
            let goto = clone.goto_table.map(|table| format!("goto_table:{table}"));
            let words: Vec<String> = clone.actions.iter().map(format_action).chain(goto).collect();
            format!("clone({})", words.join(","))
        }
        Some(Kind::ArpReply(reply)) => format!("arp_reply:{}", format_mac(&reply.mac)),
        Some(Kind::DhcpReply(reply)) => dhcp::format(reply),
        Some(Kind::Neighbour(neighbour)) => gateway::format_neighbour(neighbour),
        Some(Kind::LearnNeighbour(learn)) => gateway::format_learn(learn),
        Some(Kind::Translate(translate)) => gateway::format_translate(translate),
        Some(Kind::Meter(meter)) => format!("meter:{}", meter.meter),
    }
}

fn format_set_field(set: &v1::SetField) -> String {
    let Some(row) = info(set.field()) else {
        return format!("set_field:?->field{}", set.field);
    };
    if let (Some(number), Some(mask)) = (to_number(&set.value), to_number(&set.mask))
        && set.mask.len() == row.bytes
        && set.value.len() == row.bytes
        && mask != 0
        && let Some(part) = PARTS.iter().find(|part| {
            part.field == row.field && part.mask() == mask && ACTIONS.contains(&format!("mod_{}", part.name).as_str())
        })
    {
        return format!("mod_{}:{}", part.name, (number & mask) >> part.shift << part.written_shift);
    }
    format!("set_field:{}->{}", value::format(row, &set.value, &set.mask), row.name)
}

/// Writes a list of actions; empty for none.
#[must_use]
pub fn format_actions(actions: &[v1::Action]) -> String {
    actions.iter().map(format_action).collect::<Vec<_>>().join(",")
}

/// Writes what follows `actions=`; "drop" if a rule does nothing.
#[must_use]
pub fn format_instructions(instructions: &Instructions) -> String {
    let mut words: Vec<String> = instructions.apply_actions.iter().map(format_action).collect();
    if instructions.clear_actions {
        words.push("clear_actions".to_owned());
    }
    if !instructions.write_actions.is_empty() {
        words.push(format!("write_actions({})", format_actions(&instructions.write_actions)));
    }
    if instructions.metadata_mask != 0
        && let Some(row) = info(Field::Metadata)
    {
        let bytes = |number| to_bytes(number, row.bytes);
        let written = value::format(row, &bytes(instructions.metadata), &bytes(instructions.metadata_mask));
        words.push(format!("write_metadata:{written}"));
    }
    if let Some(table) = instructions.goto_table {
        words.push(format!("goto_table:{table}"));
    }
    if words.is_empty() { "drop".to_owned() } else { words.join(",") }
}
