//! Why a port's security groups do not let a packet pass.

use super::{Finding, Hop, asked_for, finding, scope};
use crate::compile::pipeline::{EGRESS_TRACK, INGRESS_TRACK};
use crate::compile::state::matched;
use crate::model::{Direction, Model, Port, Remote, SecurityGroup};
use crate::path::packet::{Packet, Transport, address};
use std::net::Ipv4Addr;
use weft_proto::v1::{Field, TraceReply};

/// The packet was looked up and refused, on its way into a port or out of one.
pub fn refused(model: &Model, hop: &Hop<'_>, reply: &TraceReply, enters: bool) -> Finding {
    // Where it was looked up, the port's number is matched.
    let (table, field) = if enters { (INGRESS_TRACK, Field::Reg1) } else { (EGRESS_TRACK, Field::InPort) };
    let tracked = reply.steps.iter().find(|step| step.table == table);
    let rule = tracked.and_then(|step| step.rule.as_ref()?.rule.as_ref());
    let number = rule.and_then(|rule| <[u8; 4]>::try_from(matched(rule, field)?).ok()).map(u32::from_be_bytes);
    let Some(port) = model.ports_on(hop.host).find(|port| Some(port.number) == number) else {
        return finding("", "by a security group", "See \"weft group list\".");
    };
    let state = reply.steps.last().and_then(|step| step.rule.as_ref());
    if state.and_then(|state| state.rule.as_ref()).is_some_and(|rule| matched(rule, Field::Reg2).is_none()) {
        return finding(
            format!("port {}", port.name),
            format!("before port {}: it belongs to no connection, and can begin none", port.name),
            "See what the switch knows: weft connections HOST",
        );
    }
    by_groups(model, hop, port, if enters { Direction::Ingress } else { Direction::Egress })
}

fn by_groups(model: &Model, hop: &Hop<'_>, port: &Port, direction: Direction) -> Finding {
    let scope = scope(model, port.project);
    let (what, options) = asked_for(hop.flow);
    let groups: Vec<&SecurityGroup> =
        port.groups().iter().filter_map(|&group| model.security_groups.get(group)).collect();
    let (way, preposition, other) = match direction {
        Direction::Ingress => ("in", "from", address(hop.packet, Field::Ipv4Src)),
        Direction::Egress => ("out", "to", Some(hop.flow.destination)),
    };
    let other = other.unwrap_or(Ipv4Addr::UNSPECIFIED);
    let Some(first) = groups.first() else {
        return finding(
            format!("port {}", port.name),
            format!("because port {} has no security group: nothing passes but ARP and DHCP", port.name),
            format!("Give it one: weft port set {} --group default{scope}", port.name),
        );
    };
    let names: Vec<String> = groups.iter().map(|group| format!("\"{}\"", group.name)).collect();
    let object = format!("security group{} {}", if names.len() == 1 { "" } else { "s" }, names.join(", "));
    let mut problem = format!("by {object} of port {}: no rule lets {what} {way} {preposition} {other}", port.name);
    if let Some(near) = groups.iter().find_map(|group| almost(model, group, hop.packet, hop.flow.transport, direction))
    {
        problem += &format!(" ({near})");
    }
    let remedy = format!(
        "Add one: weft group rule add {} --{} {options} --remote {other}/32{scope}",
        first.name,
        direction.word()
    );
    finding(object, problem, remedy)
}

/// A rule that would let it pass, were its other end another one.
fn almost(
    model: &Model,
    group: &SecurityGroup,
    packet: &Packet,
    transport: Transport,
    direction: Direction,
) -> Option<String> {
    let number = crate::path::packet::get(packet, Field::IpProto)?;
    let admits = |rule: &&crate::model::SecurityGroupRule| {
        use crate::model::Protocol;
        rule.direction == direction
            && match (rule.protocol, transport) {
                (Protocol::Any, _) => true,
                (Protocol::Ports(of, ports), Transport::Tcp(_, port, _) | Transport::Udp(_, port)) => {
                    number == [of] && ports.blocks().iter().any(|(value, mask)| port & mask == *value)
                }
                (Protocol::Icmp(kind, None | Some(0)), Transport::Icmp(sent)) => kind == sent,
                (Protocol::Number(of), _) => number == [of],
                _ => false,
            }
    };
    let rule = model.rules_of(group.id).find(admits)?;
    Some(match rule.remote {
        Remote::Any => return None,
        Remote::Prefix(prefix) => format!("the rule \"{rule}\" is for {prefix} only"),
        Remote::Group(remote) => {
            let name = model.security_groups.get(remote).map_or("", |group| group.name.as_str());
            match model.ports_of_group(remote).count() {
                0 => format!("the rule \"{rule}\" is for ports of group \"{name}\" only, and no port has it"),
                _ => format!("the rule \"{rule}\" is for addresses of ports of group \"{name}\" only"),
            }
        }
    })
}
