//! Instructions and actions between the wire and the engine.

use super::{address, field_row, operand, port_number, prefix, prefix_length, prerequisites};
use crate::drop::DropReason;
use crate::flow::action::{Action, Commit, ConnectionTrack, Instructions, SetField};
use crate::flow::key::FlowKey;
use crate::flow::rule::RuleId;
use crate::limits::{ACTIONS_PER_RULE, TABLES};
use crate::respond::dhcp::DhcpOffer;
use std::net::Ipv4Addr;
use std::sync::Arc;
use weft_proto::PORT_IN_PORT;
use weft_proto::fault::Fault;
use weft_proto::v1::{self, action::Action as Wire};

/// DNS servers that one DHCP reply can name: option 6, bounded so that the reply fits 576 bytes.
const DNS_SERVERS: usize = 8;
/// Classless routes that one DHCP reply can name.
const ROUTES: usize = 32;
/// Bytes of a label and of a name (RFC 1035, 2.3.4).
const LABEL_BYTES: usize = 63;
const DOMAIN_BYTES: usize = 253;
/// Smallest MTU that option 26 can carry (RFC 2132, 5.1).
const LEAST_MTU: u32 = 68;

/// The instructions of the rule `id`, which tells what packets they will see.
///
/// # Errors
/// The first thing that is wrong; the field is relative to the instructions.
pub fn instructions_from_message(message: &v1::Instructions, id: &RuleId) -> Result<Instructions, Fault> {
    let count = message.apply_actions.len() + message.write_actions.len();
    if count > ACTIONS_PER_RULE {
        return Err(Fault::invalid(
            "too_many_actions",
            "",
            format!("{count} actions are more than the {ACTIONS_PER_RULE} of one rule"),
            "Go on in another table with goto_table.",
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
        write: actions(&message.write_actions, "write_actions", id)?,
        metadata,
        goto,
    })
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
        Action::DecTtl => Wire::DecTtl(v1::DecTtl {}),
        Action::Punt { max_length, reason } => {
            let max_length = if *max_length == u32::MAX { 0 } else { *max_length };
            Wire::Punt(v1::Punt { max_length, reason: *reason })
        }
        Action::Drop(reason) => Wire::Drop(v1::Drop { cause: drop_cause(*reason).into() }),
        Action::Track(track) => Wire::Ct(v1::ConnectionTrack {
            zone: track.zone,
            commit: track.commit.is_some(),
            follow_policy: track.commit.is_some_and(|commit| commit.follow_policy),
            mark: track.commit.map_or(0, |commit| commit.mark),
        }),
        Action::ArpReply(mac) => Wire::ArpReply(v1::ArpReply { mac: mac.to_vec() }),
        Action::DhcpReply(offer) => Wire::DhcpReply(dhcp_to_message(offer)),
    };
    vec![v1::Action { action: Some(one) }]
}

/// A list of actions; neighbouring set-fields become one, unless they name a field twice: then the
/// order of writing matters, and the dump must show it.
fn actions(list: &[v1::Action], place: &str, id: &RuleId) -> Result<Vec<Action>, Fault> {
    let mut all: Vec<Action> = Vec::with_capacity(list.len());
    for (index, message) in list.iter().enumerate() {
        let action = action(message, id).map_err(|fault| fault.within(&format!("{place}[{index}]")))?;
        if let (Action::SetField(next), Some(Action::SetField(last))) = (&action, all.last_mut())
            && !last.mask.words().iter().zip(next.mask.words()).any(|(last, next)| last & next != 0)
            && !last.fields.contains(&next.fields[0])
        {
            last.value.union(&next.value);
            last.mask.union(&next.mask);
            last.fields.push(next.fields[0]);
            continue;
        }
        all.push(action);
    }
    Ok(all)
}

fn action(message: &v1::Action, id: &RuleId) -> Result<Action, Fault> {
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
        Wire::SetField(set) => Action::SetField(Box::new(set_field(set, id)?)),
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
        Wire::DecTtl(_) => Action::DecTtl,
        Wire::Punt(punt) => Action::Punt {
            max_length: if punt.max_length == 0 { u32::MAX } else { punt.max_length },
            reason: punt.reason,
        },
        Wire::Drop(dropped) => Action::Drop(drop_reason(dropped.cause)?),
        Wire::Ct(track) => {
            if !track.commit && (track.follow_policy || track.mark != 0) {
                return Err(Fault::invalid(
                    "bad_ct",
                    "ct.commit",
                    "follow_policy and mark are of the connection that ct begins",
                    "Set commit as well.",
                ));
            }
            let commit = Commit { follow_policy: track.follow_policy, mark: track.mark };
            Action::Track(ConnectionTrack { zone: track.zone, commit: track.commit.then_some(commit) })
        }
        Wire::ArpReply(reply) => Action::ArpReply(mac(&reply.mac, "arp_reply.mac")?),
        Wire::DhcpReply(reply) => Action::DhcpReply(Arc::new(dhcp(reply).map_err(|fault| fault.within("dhcp_reply"))?)),
    })
}

fn set_field(message: &v1::SetField, id: &RuleId) -> Result<SetField, Fault> {
    let row = field_row(message.field, "set_field.field")?;
    if !row.writable {
        return Err(Fault::invalid(
            "not_writable",
            "set_field.field",
            format!("{} cannot be set", row.name),
            "It follows from the packet itself; set another field, or push or pop headers.",
        ));
    }
    let (bits, counted) = operand(row, &message.value, &message.mask, "set_field")?;
    prerequisites(row, &id.value, &id.mask, "set_field.field")?;
    let (mut value, mut mask) = (FlowKey::ZERO, FlowKey::ZERO);
    value.field_mut(row.field).copy_from_slice(&bits);
    mask.field_mut(row.field).copy_from_slice(&counted);
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
        _ => v1::DropCause::Policy,
    }
}

fn mac(bytes: &[u8], place: &str) -> Result<[u8; 6], Fault> {
    let mac: [u8; 6] = bytes.try_into().map_err(|_| {
        Fault::invalid("bad_length", place, format!("a MAC address of {} bytes", bytes.len()), "Give 6 bytes.")
    })?;
    if mac[0] & 1 != 0 || mac == [0; 6] {
        return Err(Fault::invalid(
            "bad_mac",
            place,
            format!("{} is not the address of one interface", super::hexadecimal(&mac)),
            "Use a unicast MAC address, such as 02:00:00:00:00:01.",
        ));
    }
    Ok(mac)
}

fn dhcp(reply: &v1::DhcpReply) -> Result<DhcpOffer, Fault> {
    let too_many = |place: &str, count: usize, most: usize| {
        if count <= most {
            return Ok(());
        }
        Err(Fault::invalid(
            "too_many",
            place,
            format!("{count} entries are more than the {most} that fit a reply"),
            format!("Give at most {most}."),
        ))
    };
    too_many("dns_servers", reply.dns_servers.len(), DNS_SERVERS)?;
    too_many("routes", reply.routes.len(), ROUTES)?;
    if reply.lease_seconds == 0 {
        return Err(Fault::invalid(
            "bad_lease",
            "lease_seconds",
            "a lease of 0 seconds",
            "Give a lease of at least 1 second; 4294967295 means for ever.",
        ));
    }
    let mtu = match reply.mtu {
        0 => None,
        mtu @ LEAST_MTU..=0xffff => Some(mtu as u16),
        mtu => {
            return Err(Fault::invalid(
                "bad_mtu",
                "mtu",
                format!("an MTU of {mtu} bytes"),
                "Use 68 to 65535, or 0 to offer none.",
            ));
        }
    };
    let dns_servers = reply.dns_servers.iter().enumerate();
    let routes = reply.routes.iter().enumerate();
    Ok(DhcpOffer {
        address: host_address(&reply.address, "address")?,
        prefix_length: prefix_length(reply.prefix_length, "prefix_length")?,
        server_address: host_address(&reply.server_address, "server_address")?,
        server_mac: mac(&reply.server_mac, "server_mac")?,
        router: (!reply.router.is_empty()).then(|| host_address(&reply.router, "router")).transpose()?,
        dns_servers: dns_servers
            .map(|(index, server)| host_address(server, &format!("dns_servers[{index}]")))
            .collect::<Result<_, _>>()?,
        mtu,
        lease_seconds: reply.lease_seconds,
        host_name: (!reply.host_name.is_empty()).then(|| host_name(&reply.host_name)).transpose()?,
        domain_name: (!reply.domain_name.is_empty()).then(|| domain_name(&reply.domain_name)).transpose()?,
        routes: routes
            .map(|(index, route)| {
                let route_place = format!("routes[{index}]");
                let (destination, length) =
                    prefix(&route.destination, route.prefix_length).map_err(|fault| fault.within(&route_place))?;
                Ok((destination, length, address(&route.next_hop, &format!("{route_place}.next_hop"))?))
            })
            .collect::<Result<_, Fault>>()?,
    })
}

fn dhcp_to_message(offer: &DhcpOffer) -> v1::DhcpReply {
    let bytes = |address: Ipv4Addr| address.octets().to_vec();
    v1::DhcpReply {
        address: bytes(offer.address),
        prefix_length: offer.prefix_length.into(),
        server_address: bytes(offer.server_address),
        server_mac: offer.server_mac.to_vec(),
        router: offer.router.map(bytes).unwrap_or_default(),
        dns_servers: offer.dns_servers.iter().copied().map(bytes).collect(),
        mtu: offer.mtu.map(u32::from).unwrap_or_default(),
        lease_seconds: offer.lease_seconds,
        host_name: offer.host_name.clone().unwrap_or_default(),
        domain_name: offer.domain_name.clone().unwrap_or_default(),
        routes: offer
            .routes
            .iter()
            .map(|&(destination, length, next_hop)| v1::ClasslessRoute {
                destination: bytes(destination),
                prefix_length: length.into(),
                next_hop: bytes(next_hop),
            })
            .collect(),
    }
}

/// The address of a host: not the zero, broadcast or a multicast address.
fn host_address(bytes: &[u8], place: &str) -> Result<Ipv4Addr, Fault> {
    let address = address(bytes, place)?;
    if address.is_unspecified() || address.is_broadcast() || address.is_multicast() {
        return Err(Fault::invalid(
            "bad_address",
            place,
            format!("{address} is not the address of a host"),
            "Give a unicast address.",
        ));
    }
    Ok(address)
}

fn is_label(label: &str) -> bool {
    (1..=LABEL_BYTES).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// RFC 1123, 2.1.
fn host_name(name: &str) -> Result<String, Fault> {
    if is_label(name) {
        return Ok(name.to_owned());
    }
    Err(Fault::invalid(
        "bad_host_name",
        "host_name",
        format!("\"{}\" is not a host name", name.escape_debug()),
        "Use 1 to 63 letters, digits and hyphens, without a hyphen at either end.",
    ))
}

/// RFC 1035, 2.3.1.
fn domain_name(name: &str) -> Result<String, Fault> {
    if name.len() <= DOMAIN_BYTES && name.strip_suffix('.').unwrap_or(name).split('.').all(is_label) {
        return Ok(name.to_owned());
    }
    Err(Fault::invalid(
        "bad_domain_name",
        "domain_name",
        format!("\"{}\" is not a domain name", name.escape_debug()),
        "Use labels of letters, digits and hyphens, joined by dots, 253 bytes in all.",
    ))
}
