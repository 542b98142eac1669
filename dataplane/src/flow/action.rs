//! What rules can do to a packet: OpenFlow's actions, and those of our own (drop with a cause, connection
//! tracking, answers by ARP, DHCP and ICMP, MTU, neighbours, NAT one to one), in the form the walk uses; and both ways between that and messages, which
//! is where they are validated: what comes out of here the engine may trust.
//!
//! What an action means to a walk is in `resolve.rs`, what it does to a frame in `program.rs`.

mod dhcp;
mod gateway;
mod track;

pub use gateway::{Neighbour, host, vlan};

use super::key::FlowKey;
use super::message::{address, field_row, hexadecimal, operand, port_number, prerequisites};
use super::rule::RuleId;
use crate::connection::Nat;
use crate::drop::DropReason;
use crate::limits::{ACTIONS_PER_RULE, BRANCH_DEPTH, TABLES};
use crate::meter;
use crate::packet::fragment::LEAST_MTU;
use crate::respond::dhcp::DhcpOffer;
use crate::respond::icmp::{self, Unreachable};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use weft_proto::fault::Fault;
use weft_proto::v1::{self, action::Action as Wire};
use weft_proto::{FIRST_FABRIC_PUNT, PORT_IN_PORT};

/// One action.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// To a port, by number; to the ingress port only as [`weft_proto::PORT_IN_PORT`].
    Output(u32),
    /// Writes the masked bits of fields. Neighbouring set-fields are merged into one.
    SetField(Arc<SetField>),
    /// Pushes an 802.1Q tag of this type with a TCI of zero.
    PushVlan(u16),
    /// Removes the outer tag.
    PopVlan,
    /// Decrements the TTL or hop limit; a packet that has none left is dropped.
    DecTtl {
        /// Who tells the sender of an IPv4 packet.
        answer: Option<Ipv4Addr>,
    },
    /// Drops what is too big for what follows.
    CheckMtu {
        /// Bytes of an IPv4 packet: at least [`LEAST_MTU`].
        mtu: u16,
        /// Who tells the sender of what must not be fragmented.
        answer: Option<Ipv4Addr>,
        /// Whether what may be fragmented is, instead.
        fragment: bool,
    },
    /// Hands a copy to whoever listens for punts.
    Punt {
        /// At most this many bytes; `u32::MAX` for all.
        max_length: u32,
        /// For the receiver.
        reason: u32,
    },
    /// Drops it.
    Drop(DropReason),
    /// Looks the packet's connection up, and remembers it if asked to.
    Track(ConnectionTrack),
    /// Answers an ARP request with this MAC.
    ArpReply([u8; 6]),
    /// Answers a DHCP client.
    DhcpReply(Arc<DhcpOffer>),
    /// A copy of the packet goes its own way.
    Clone(Arc<CloneAction>),
    /// Copies of the packet go to buckets of this group.
    Group(u32),
    /// Answers an ICMP echo request.
    IcmpReply,
    /// Drops an IPv4 packet, and tells its sender why.
    IcmpUnreachable {
        /// Why.
        why: Unreachable,
        /// From this address.
        answer: Ipv4Addr,
    },
    /// Writes the MAC address of the next hop.
    Neighbour(Neighbour),
    /// Takes from an ARP packet where its sender is.
    LearnNeighbour {
        /// Behind which port; 0: the one it came in by.
        port: u32,
        /// In which VLAN; 0: none.
        vlan: u16,
    },
    /// Replaces addresses of an IPv4 packet.
    Translate {
        /// The source.
        source: Option<Ipv4Addr>,
        /// The destination.
        destination: Option<Ipv4Addr>,
    },
    /// Drops it if it exceeds the rate of the meter of this number.
    Meter(u32),
}

impl Action {
    /// Why it drops the packet, if that is what it does.
    #[must_use]
    pub fn drops(&self) -> Option<DropReason> {
        match self {
            Self::Drop(reason) => Some(*reason),
            Self::IcmpUnreachable { why, .. } => Some(why.reason()),
            _ => None,
        }
    }

    /// Whether the packet, or a copy of it, ends its way here; all others leave it to what follows.
    #[must_use]
    pub fn consumes(&self) -> bool {
        match self {
            Self::Output(_) | Self::Punt { .. } | Self::Drop(_) => true,
            Self::ArpReply(_) | Self::DhcpReply(_) | Self::IcmpReply | Self::IcmpUnreachable { .. } => true,
            Self::SetField(_) | Self::PushVlan(_) | Self::PopVlan | Self::Track(_) => false,
            Self::Clone(_) | Self::Group(_) => false,
            Self::DecTtl { .. } | Self::CheckMtu { .. } | Self::Meter(_) => false,
            Self::Neighbour(_) | Self::LearnNeighbour { .. } | Self::Translate { .. } => false,
        }
    }

    /// Whether the switch may answer the packet here.
    #[must_use]
    pub fn answers(&self) -> bool {
        matches!(self, Self::ArpReply(_) | Self::DhcpReply(_) | Self::IcmpReply) || self.answer().is_some()
    }

    /// The address from which a packet is answered that this action drops.
    #[must_use]
    pub fn answer(&self) -> Option<Ipv4Addr> {
        match self {
            Self::DecTtl { answer } | Self::CheckMtu { answer, .. } => *answer,
            Self::IcmpUnreachable { answer, .. } => Some(*answer),
            _ => None,
        }
    }
}

/// See `flow.proto`.
#[derive(Clone, Debug, PartialEq)]
pub struct CloneAction {
    /// What is done with the copy first.
    pub actions: Vec<Action>,
    /// Where it goes on.
    pub goto: Option<u8>,
}

/// See `flow.proto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionTrack {
    /// Where.
    pub zone: u32,
    /// Whether the connection's NAT is applied.
    pub nat: bool,
    /// Set: what to remember of a packet that begins a connection.
    pub commit: Option<Commit>,
}

/// What a new connection is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// It ends when rules no longer admit its first packet.
    pub follow_policy: bool,
    /// Its mark.
    pub mark: u32,
    /// What of it is translated; nothing unless NAT is applied.
    pub translate: Nat,
}

/// Values for the bits of `mask`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetField {
    /// No bits outside the mask.
    pub value: FlowKey,
    /// Which bits are written.
    pub mask: FlowKey,
    /// The fields named, in order: where fields share bytes, the mask does not tell which is meant.
    pub fields: Vec<weft_proto::v1::Field>,
}

/// What a rule does, in OpenFlow's order of execution.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Instructions {
    /// At once.
    pub apply: Vec<Action>,
    /// Empty the action set.
    pub clear: bool,
    /// Merge into the action set.
    pub write: Vec<Action>,
    /// `metadata = (metadata & !mask) | value`, both big-endian.
    pub metadata: Option<([u8; 8], [u8; 8])>,
    /// Go on there.
    pub goto: Option<u8>,
}

impl Instructions {
    /// The tunnel destinations that set-field actions write.
    #[must_use]
    pub fn tunnel_destinations(&self) -> BTreeSet<Ipv4Addr> {
        let mut destinations = BTreeSet::new();
        tunnel_destinations(self.apply.iter().chain(&self.write), &mut destinations);
        destinations
    }

    /// The meters that its actions name.
    #[must_use]
    pub fn meters(&self) -> BTreeSet<u32> {
        let mut named = BTreeSet::new();
        meters(self.apply.iter().chain(&self.write), &mut named);
        named
    }
}

/// Adds the meters that actions name.
fn meters<'a>(actions: impl Iterator<Item = &'a Action>, all: &mut BTreeSet<u32>) {
    for action in actions {
        match action {
            Action::Meter(number) => {
                all.insert(*number);
            }
            Action::Clone(clone) => meters(clone.actions.iter(), all),
            _ => {}
        }
    }
}

/// Adds the tunnel destinations that set-field actions write.
pub fn tunnel_destinations<'a>(actions: impl Iterator<Item = &'a Action>, all: &mut BTreeSet<Ipv4Addr>) {
    for action in actions {
        match action {
            Action::SetField(set) if set.mask.tun_dst == [0xff; 4] => {
                all.insert(set.value.tun_dst.into());
            }
            Action::Clone(clone) => tunnel_destinations(clone.actions.iter(), all),
            _ => {}
        }
    }
}

/// Adds the numbers of the groups that actions name.
pub fn groups_of<'a>(actions: impl Iterator<Item = &'a Action>, all: &mut Vec<u32>) {
    for action in actions {
        match action {
            Action::Group(number) => all.push(*number),
            Action::Clone(clone) => groups_of(clone.actions.iter(), all),
            _ => {}
        }
    }
}

impl SetField {
    /// Adds what another set-field writes after this one.
    pub fn merge(&mut self, later: &Self) {
        let values = later.value.words().iter().zip(later.mask.words());
        for (word, (value, mask)) in self.value.words_mut().iter_mut().zip(values) {
            *word = (*word & !mask) | value;
        }
        self.mask.union(&later.mask);
        for field in &later.fields {
            if !self.fields.contains(field) {
                self.fields.push(*field);
            }
        }
    }
}

/// The instructions of the rule `id`, which tells what packets they will see.
///
/// # Errors
/// The first thing that is wrong; the field is relative to the instructions.
pub fn instructions_from_message(message: &v1::Instructions, id: &RuleId) -> Result<Instructions, Fault> {
    let count = count(&message.apply_actions, 0)? + message.write_actions.len();
    if count > ACTIONS_PER_RULE {
        return Err(Fault::invalid(
            "too_many_actions",
            "",
            format!("{count} actions are more than the {ACTIONS_PER_RULE} of one rule"),
            "Go on in another table with goto_table.",
        ));
    }
    if let Some(index) = message.write_actions.iter().position(|action| matches!(action.action, Some(Wire::Clone(_)))) {
        return Err(Fault::invalid(
            "bad_action",
            format!("write_actions[{index}].clone"),
            "an action set is carried out where the walk ends, and has one action of each kind: it cannot branch",
            "Write clone among the actions that are applied at once.",
        ));
    }
    let goto = message.goto_table.map(|table| goto(table, id.table)).transpose()?;
    let metadata = (message.metadata_mask != 0).then(|| {
        let value = message.metadata & message.metadata_mask;
        (value.to_be_bytes(), message.metadata_mask.to_be_bytes())
    });
    Ok(Instructions {
        apply: actions(&message.apply_actions, "apply_actions", id)?,
        clear: message.clear_actions,
        write: action_set(&message.write_actions, id)?,
        metadata,
        goto,
    })
}

/// Actions of a list, those within `clone` included.
fn count(list: &[v1::Action], depth: usize) -> Result<usize, Fault> {
    let mut all = 0;
    for action in list {
        all += 1;
        if let Some(Wire::Clone(clone)) = &action.action {
            if depth == BRANCH_DEPTH {
                return Err(Fault::invalid(
                    "too_deep",
                    "apply_actions",
                    format!("more than {BRANCH_DEPTH} clones lie within one another"),
                    "Let a clone go on in another table with goto_table.",
                ));
            }
            all += count(&clone.actions, depth + 1)?;
        }
    }
    Ok(all)
}

/// The canonical message of instructions.
#[must_use]
pub fn instructions_to_message(instructions: &Instructions) -> v1::Instructions {
    let (value, mask) = instructions.metadata.unwrap_or_default();
    v1::Instructions {
        apply_actions: instructions.apply.iter().flat_map(action_to_message).collect(),
        clear_actions: instructions.clear,
        write_actions: instructions.write.iter().flat_map(action_to_message).collect(),
        metadata: u64::from_be_bytes(value),
        metadata_mask: u64::from_be_bytes(mask),
        goto_table: instructions.goto.map(u32::from),
    }
}

/// An action as it was asked for: one message, or one for each field of a merged set-field.
#[must_use]
pub fn action_to_message(action: &Action) -> Vec<v1::Action> {
    let one = match action {
        Action::SetField(set) => {
            let wire = set.fields.iter().map(|&field| Wire::SetField(set_field_to_message(set, field)));
            return wire.map(|wire| v1::Action { action: Some(wire) }).collect();
        }
        Action::Output(port) => Wire::Output(v1::Output { port: *port }),
        Action::PushVlan(ether_type) => Wire::PushVlan(v1::PushVlan { ether_type: (*ether_type).into() }),
        Action::PopVlan => Wire::PopVlan(v1::PopVlan {}),
        Action::DecTtl { answer } => Wire::DecTtl(v1::DecTtl { answer: octets(*answer) }),
        Action::CheckMtu { mtu, answer, fragment } => {
            Wire::CheckMtu(v1::CheckMtu { mtu: (*mtu).into(), answer: octets(*answer), fragment: *fragment })
        }
        Action::IcmpReply => Wire::IcmpReply(v1::IcmpReply {}),
        Action::IcmpUnreachable { why, answer } => {
            Wire::IcmpUnreachable(v1::IcmpUnreachable { code: why.code().into(), answer: answer.octets().to_vec() })
        }
        Action::Punt { max_length, reason } => {
            let max_length = if *max_length == u32::MAX { 0 } else { *max_length };
            Wire::Punt(v1::Punt { max_length, reason: *reason })
        }
        Action::Drop(reason) => Wire::Drop(v1::Drop { cause: drop_cause(*reason).into() }),
        Action::Track(track) => Wire::Ct(track::to_message(track)),
        Action::Group(number) => Wire::Group(v1::GroupAction { group: *number }),
        Action::Clone(clone) => Wire::Clone(v1::Clone {
            actions: clone.actions.iter().flat_map(action_to_message).collect(),
            goto_table: clone.goto.map(u32::from),
        }),
        Action::ArpReply(mac) => Wire::ArpReply(v1::ArpReply { mac: mac.to_vec() }),
        Action::DhcpReply(offer) => Wire::DhcpReply(dhcp::to_message(offer)),
        Action::Neighbour(neighbour) => Wire::Neighbour(gateway::neighbour_to_message(neighbour)),
        Action::LearnNeighbour { port, vlan } => {
            Wire::LearnNeighbour(v1::LearnNeighbour { port: *port, vlan: (*vlan).into() })
        }
        Action::Translate { source, destination } => {
            Wire::Translate(v1::Translate { source: octets(*source), destination: octets(*destination) })
        }
        Action::Meter(meter) => Wire::Meter(v1::MeterAction { meter: *meter }),
    };
    vec![v1::Action { action: Some(one) }]
}

/// A list of actions; neighbouring set-fields become one, unless they name a field twice: then the
/// order of writing matters, and the dump must show it.
fn actions(list: &[v1::Action], place: &str, id: &RuleId) -> Result<Vec<Action>, Fault> {
    let mut all: Vec<Action> = Vec::with_capacity(list.len());
    for (index, message) in list.iter().enumerate() {
        let action = action(message, Some(id)).map_err(|fault| fault.within(&format!("{place}[{index}]")))?;
        if let (Action::SetField(next), Some(Action::SetField(last))) = (&action, all.last_mut())
            && !last.mask.words().iter().zip(next.mask.words()).any(|(last, next)| last & next != 0)
            && !last.fields.contains(&next.fields[0])
        {
            let last = Arc::make_mut(last);
            last.value.union(&next.value);
            last.mask.union(&next.mask);
            last.fields.push(next.fields[0]);
            continue;
        }
        all.push(action);
    }
    Ok(all)
}

/// What an action set can hold: those that have a place in its order (`flow.proto`).
fn action_set(list: &[v1::Action], id: &RuleId) -> Result<Vec<Action>, Fault> {
    let all = actions(list, "write_actions", id)?;
    let foreign = |action: &v1::Action| {
        matches!(action.action, Some(Wire::Neighbour(_) | Wire::LearnNeighbour(_) | Wire::Translate(_)))
    };
    match list.iter().position(foreign) {
        None => Ok(all),
        Some(index) => Err(Fault::invalid(
            "bad_action",
            format!("write_actions[{index}]"),
            "neighbour, learn_neighbour and translate have no place in an action set's order",
            "Put it into apply_actions.",
        )),
    }
}

/// An action of a group's bucket: packets of any kind may come to it, and what does not fit one is found out then.
///
/// # Errors
/// As for actions of rules; also what a bucket cannot do.
pub fn plain_action(message: &v1::Action) -> Result<Action, Fault> {
    let action = action(message, None)?;
    match action {
        Action::Track(_) => Err(not_in_bucket("ct")),
        Action::Group(_) => Err(not_in_bucket("group")),
        Action::Meter(_) => Err(not_in_bucket("meter")),
        Action::Neighbour(_) => Err(not_in_bucket("neighbour")),
        Action::LearnNeighbour { .. } => Err(not_in_bucket("learn_neighbour")),
        Action::Translate { .. } => Err(not_in_bucket("translate")),
        plain => Ok(plain),
    }
}

fn not_in_bucket(name: &str) -> Fault {
    Fault::invalid(
        "bad_action",
        name,
        "a bucket cannot track connections, meter, translate, deal with neighbours, branch, or lead to a group",
        "Do it in a rule, before or after the group.",
    )
}

/// `id`: of the rule; `None`: it stands in a bucket.
fn action(message: &v1::Action, id: Option<&RuleId>) -> Result<Action, Fault> {
    let Some(wire) = &message.action else {
        return Err(Fault::invalid(
            "unknown_action",
            "",
            "the action is empty or of a kind this switch does not know",
            "Use an action of weft/v1/flow.proto; a newer program may know more of them.",
        ));
    };
    Ok(match wire {
        Wire::Output(v1::Output { port: PORT_IN_PORT }) => Action::Output(PORT_IN_PORT),
        Wire::Output(output) => Action::Output(port_number(output.port, "output.port").map_err(|mut fault| {
            fault.remedy =
                format!("{}, or {PORT_IN_PORT} (0xfffffff8) for in_port.", fault.remedy.trim_end_matches('.'));
            fault
        })?),
        Wire::SetField(set) => Action::SetField(Arc::new(set_field(set, id)?)),
        Wire::PushVlan(push) => match push.ether_type {
            0x8100 => Action::PushVlan(0x8100),
            0x88a8 => Action::PushVlan(0x88a8),
            other => {
                return Err(Fault::invalid(
                    "bad_ether_type",
                    "push_vlan.ether_type",
                    format!("0x{other:04x} is not the type of a VLAN tag"),
                    "Use 0x8100 (802.1Q) or 0x88a8 (802.1ad).",
                ));
            }
        },
        Wire::PopVlan(_) => Action::PopVlan,
        Wire::DecTtl(dec_ttl) => Action::DecTtl { answer: answer(&dec_ttl.answer, "dec_ttl.answer")? },
        Wire::CheckMtu(check) => {
            let mtu = u16::try_from(check.mtu).ok().filter(|&mtu| mtu >= LEAST_MTU).ok_or_else(|| {
                Fault::invalid(
                    "bad_mtu",
                    "check_mtu.mtu",
                    format!("an MTU of {} bytes", check.mtu),
                    format!("Use {LEAST_MTU} to 65535."),
                )
            })?;
            Action::CheckMtu { mtu, answer: answer(&check.answer, "check_mtu.answer")?, fragment: check.fragment }
        }
        Wire::IcmpReply(_) => Action::IcmpReply,
        Wire::IcmpUnreachable(unreachable) => {
            let why = u8::try_from(unreachable.code).ok().and_then(Unreachable::from_code).ok_or_else(|| {
                Fault::invalid(
                    "unknown_code",
                    "icmp_unreachable.code",
                    format!("{} is not a code of ICMP's destination unreachable that a router sends", unreachable.code),
                    "Use 0 (network), 1 (host), 3 (port) or 13 (administratively prohibited).",
                )
            })?;
            let answer = answer(&unreachable.answer, "icmp_unreachable.answer")?.ok_or_else(|| {
                Fault::invalid(
                    "missing_field",
                    "icmp_unreachable.answer",
                    "nobody is named who tells the sender",
                    "Give the router's address, or use drop.",
                )
            })?;
            Action::IcmpUnreachable { why, answer }
        }
        Wire::Punt(punt)
            if punt.reason >= FIRST_FABRIC_PUNT && id.is_none_or(|id| id.owner != super::rule::Owner::Fabric) =>
        {
            let problem = format!("reason 0x{:08x} is the fabric's own", punt.reason);
            return Err(Fault::invalid("bad_reason", "punt.reason", problem, "Give one below 0xffffff00."));
        }
        Wire::Punt(punt) => Action::Punt {
            max_length: if punt.max_length == 0 { u32::MAX } else { punt.max_length },
            reason: punt.reason,
        },
        Wire::Drop(dropped) => Action::Drop(drop_reason(dropped.cause)?),
        Wire::Ct(track) => Action::Track(track::from_message(track).map_err(|fault| fault.within("ct"))?),
        Wire::Meter(action) => Action::Meter(meter::number(action.meter, "meter.meter")?),
        Wire::Group(group) => Action::Group(group.group),
        Wire::Clone(clone) => {
            let Some(id) = id else { return Err(not_in_bucket("clone")) };
            Action::Clone(Arc::new(clone_action(clone, id).map_err(|fault| fault.within("clone"))?))
        }
        Wire::ArpReply(reply) => Action::ArpReply(mac(&reply.mac, "arp_reply.mac")?),
        Wire::DhcpReply(reply) => {
            Action::DhcpReply(Arc::new(dhcp::from_message(reply).map_err(|fault| fault.within("dhcp_reply"))?))
        }
        Wire::Neighbour(neighbour) => {
            Action::Neighbour(gateway::neighbour_from_message(neighbour).map_err(|fault| fault.within("neighbour"))?)
        }
        Wire::LearnNeighbour(learn) => {
            gateway::learn_from_message(learn).map_err(|fault| fault.within("learn_neighbour"))?
        }
        Wire::Translate(translate) => {
            gateway::translate_from_message(translate).map_err(|fault| fault.within("translate"))?
        }
    })
}

fn clone_action(message: &v1::Clone, id: &RuleId) -> Result<CloneAction, Fault> {
    let goto = message.goto_table.map(|table| goto(table, id.table)).transpose()?;
    if goto.is_none() && message.actions.is_empty() {
        return Err(Fault::invalid(
            "bad_clone",
            "actions",
            "nothing is to be done with the copy",
            "Give actions, or a table to go on in.",
        ));
    }
    Ok(CloneAction { actions: actions(&message.actions, "actions", id)?, goto })
}

fn set_field(message: &v1::SetField, id: Option<&RuleId>) -> Result<SetField, Fault> {
    let row = field_row(message.field, "set_field.field")?;
    if !row.writable {
        return Err(Fault::invalid(
            "not_writable",
            "set_field.field",
            format!("{} cannot be set", row.name),
            "It follows from the packet itself; set another field, or push or pop headers.",
        ));
    }
    let (bits, counted) = operand(row, &message.value, &message.mask).map_err(|fault| fault.within("set_field"))?;
    if let Some(id) = id {
        prerequisites(row, &id.matched.value(), &id.matched.mask()).map_err(|fault| fault.within("set_field.field"))?;
    }
    let (mut value, mut mask) = (FlowKey::ZERO, FlowKey::ZERO);
    value.field_mut(row.field).copy_from_slice(bits);
    mask.field_mut(row.field).copy_from_slice(counted);
    Ok(SetField { value, mask, fields: vec![row.field] })
}

fn set_field_to_message(set: &SetField, field: v1::Field) -> v1::SetField {
    let mask = set.mask.field(field);
    let full = weft_proto::field::info(field).is_some_and(|row| row.full_mask() == mask);
    v1::SetField {
        field: field.into(),
        value: set.value.field(field).to_vec(),
        mask: if full { Vec::new() } else { mask.to_vec() },
    }
}

fn goto(table: u32, own: u8) -> Result<u8, Fault> {
    let next = u8::try_from(table).ok().filter(|&next| usize::from(next) < TABLES && next > own);
    next.ok_or_else(|| {
        Fault::invalid(
            "bad_goto",
            "goto_table",
            format!("a rule of table {own} cannot go to table {table}"),
            "Go to a table with a greater number, at most 254.",
        )
    })
}

fn drop_reason(cause: i32) -> Result<DropReason, Fault> {
    match v1::DropCause::try_from(cause) {
        Ok(v1::DropCause::Policy) => Ok(DropReason::Policy),
        Ok(v1::DropCause::Spoofed) => Ok(DropReason::Spoofed),
        Ok(v1::DropCause::UnknownDestination) => Ok(DropReason::UnknownDestination),
        Ok(v1::DropCause::UnknownSegment) => Ok(DropReason::UnknownSegment),
        Ok(v1::DropCause::Elsewhere) => Ok(DropReason::Elsewhere),
        Err(_) => Err(Fault::invalid(
            "unknown_drop_cause",
            "drop.cause",
            format!("drop cause {cause} is not known"),
            "Use a DropCause of weft/v1/flow.proto.",
        )),
    }
}

/// The cause of a reason that a rule may name; the switch's own reasons never stand in a rule.
fn drop_cause(reason: DropReason) -> v1::DropCause {
    match reason {
        DropReason::Spoofed => v1::DropCause::Spoofed,
        DropReason::UnknownDestination => v1::DropCause::UnknownDestination,
        DropReason::UnknownSegment => v1::DropCause::UnknownSegment,
        DropReason::Elsewhere => v1::DropCause::Elsewhere,
        _ => v1::DropCause::Policy,
    }
}

fn octets(address: Option<Ipv4Addr>) -> Vec<u8> {
    address.map_or(Vec::new(), |address| address.octets().to_vec())
}

/// The address of a router; none if empty.
fn answer(bytes: &[u8], place: &str) -> Result<Option<Ipv4Addr>, Fault> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let address = address(bytes, place)?;
    if icmp::is_host(address.octets()) {
        return Ok(Some(address));
    }
    Err(Fault::invalid(
        "bad_address",
        place,
        format!("{address} cannot be a router's address"),
        "Use the address of the router's interface towards the sender.",
    ))
}

/// The MAC address of one interface.
///
/// # Errors
/// It is none.
pub fn mac(bytes: &[u8], place: &str) -> Result<[u8; 6], Fault> {
    let mac: [u8; 6] = bytes.try_into().map_err(|_| {
        Fault::invalid("bad_length", place, format!("a MAC address of {} bytes", bytes.len()), "Give 6 bytes.")
    })?;
    if mac[0] & 1 != 0 || mac == [0; 6] {
        return Err(Fault::invalid(
            "bad_mac",
            place,
            format!("{} is not the address of one interface", hexadecimal(&mac)),
            "Use a unicast MAC address, such as 02:00:00:00:00:01.",
        ));
    }
    Ok(mac)
}
