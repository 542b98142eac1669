//! What became of a packet, in a sentence that names the object which is responsible, and what to do about it.
//!
//! Where a switch drops a packet, its last rule tells the table, and by what it matches the network, port or router; the
//! model has their names.

use super::packet::{Flow, Packet, Transport, address, mac};
use crate::compile::pipeline::{
    CLASSIFY, DELIVER, EGRESS_FIREWALL, GRE_PORT, INGRESS_FIREWALL, INGRESS_TRACK, NEIGHBOUR, PORT_SECURITY, ROUTE,
    TUNNEL_PORT,
};
use crate::compile::state::matched;
use crate::model::{DEFAULT_PROJECT, Model, Network, Port, Router, Subnet};
use std::net::Ipv4Addr;
use uuid::Uuid;
use weft_proto::fault::Fault;
use weft_proto::text;
use weft_proto::v1::action::Action as Kind;
use weft_proto::v1::effect::Effect;
use weft_proto::v1::{self, Field, OutputEffect, Owner, PathVerdict, RuleState, TraceReply};

mod firewall;

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// To a port of the cloud.
    Delivered,
    /// By a switch.
    Answered,
    /// Onto a physical network, to somebody who is not the cloud's.
    Out,
    /// By a port that is not the cloud's.
    Left,
    /// Handed to the controller.
    Punted,
    /// By a rule.
    Dropped,
    /// On its way, or never sent.
    Lost,
}

impl Outcome {
    /// As messages say it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Answered => "answered",
            Self::Out => "out",
            Self::Left => "left",
            Self::Punted => "punted",
            Self::Dropped => "dropped",
            Self::Lost => "lost",
        }
    }
}

/// The packet that a switch was asked about.
pub struct Hop<'a> {
    /// Which host's.
    pub host: Uuid,
    /// By which port it came in.
    pub in_port: u32,
    /// As it came in.
    pub packet: &'a Packet,
    /// What was sent.
    pub flow: &'a Flow,
}

/// Who is responsible, what is wrong, what to do.
struct Finding {
    object: String,
    problem: String,
    remedy: String,
}

fn finding(object: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { object: object.into(), problem: problem.into(), remedy: remedy.into() }
}

fn verdict(outcome: Outcome, host: &str, found: Finding) -> PathVerdict {
    PathVerdict {
        outcome: outcome.word().to_owned(),
        host: host.to_owned(),
        object: found.object,
        text: found.problem,
        remedy: found.remedy,
        ..PathVerdict::default()
    }
}

/// What a command needs to find an object of a project by name.
fn scope(model: &Model, project: Uuid) -> String {
    let project = model.projects.get(project).map_or("", |project| project.name.as_str());
    if project == DEFAULT_PROJECT { String::new() } else { format!(" --project {project}") }
}

fn who_has(model: &Model, network: Uuid) -> String {
    let scope = model.networks.get(network).map(|network| scope(model, network.project)).unwrap_or_default();
    format!("See who has which: weft port list --network {}{scope}", network_name(model, network))
}

fn network_name(model: &Model, network: Uuid) -> &str {
    model.networks.get(network).map_or("", |network| network.name.as_str())
}

/// The port was removed meanwhile.
pub fn gone() -> PathVerdict {
    verdict(Outcome::Lost, "", finding("", "the port is gone", "See \"weft port list\"."))
}

/// A port that is on no host.
pub fn unplugged(model: &Model, port: &Port, so: &str) -> PathVerdict {
    verdict(Outcome::Lost, "", plug_it(model, port, so))
}

fn plug_it(model: &Model, port: &Port, so: &str) -> Finding {
    finding(
        format!("port {}", port.name),
        format!("port {} is not plugged: {so}", port.name),
        format!("Plug it: weft port plug {} --host HOST{}", port.name, scope(model, port.project)),
    )
}

/// A port without an address has nothing to send from.
pub fn no_address(model: &Model, port: &Port) -> PathVerdict {
    let network = network_name(model, port.network);
    let found = finding(
        format!("port {}", port.name),
        format!("port {} has no address: network {network} had no subnet when it was made", port.name),
        format!(
            "Make the port anew, after: weft subnet create NAME --network {network} --cidr RANGE{}",
            scope(model, port.project)
        ),
    );
    verdict(Outcome::Lost, "", found)
}

/// The instance has no route.
pub fn no_gateway(subnet: &Subnet, destination: Ipv4Addr, port: &Port) -> PathVerdict {
    let found = finding(
        format!("subnet {}", subnet.name),
        format!(
            "subnet {} has neither a gateway nor a route to {destination}: the instance of port {} cannot send there",
            subnet.name, port.name
        ),
        "Make the subnet anew with a gateway (--gateway) or a route (--route), or send to an address of the network.",
    );
    verdict(Outcome::Lost, "", found)
}

/// Nobody answers ARP for an address.
pub fn unresolved(model: &Model, network: Uuid, wanted: Ipv4Addr, host: &str) -> PathVerdict {
    let name = network_name(model, network);
    let mut subnets = model.subnets_of(network);
    let subnet = subnets.find(|subnet| subnet.prefix.contains(wanted));
    let holder = subnet.and_then(|subnet| model.port_with(subnet.id, wanted));
    let silent = format!("nobody answers ARP for {wanted} in network {name}");
    let found = match (holder, subnet) {
        (Some(port), _) if port.plug.is_none() && port.device.is_none() => plug_it(model, port, &silent),
        (Some(port), _) => {
            let router = port.router().and_then(|router| model.routers.get(router));
            let holder = match router {
                Some(router) => format!("router {}", router.name),
                None => format!("port {}", port.name),
            };
            let problem =
                format!("{silent}, though {holder} has it: host {host} does not hold the rules that it should");
            finding(holder, problem, format!("See \"weft host show {host}\"."))
        }
        (None, Some(subnet)) if subnet.gateway == Some(wanted) => finding(
            format!("subnet {}", subnet.name),
            format!("{silent}: it is the gateway of subnet {}, which is joined to no router", subnet.name),
            format!("Join it to one: weft router interface add ROUTER {}{}", subnet.name, scope(model, subnet.project)),
        ),
        (None, _) => finding(
            format!("network {name}"),
            format!("{silent}: no port of it has the address"),
            who_has(model, network),
        ),
    };
    verdict(Outcome::Lost, host, found)
}

/// A switch that should have got the packet does not answer.
pub fn unanswered(host: &str, from: &str, first: bool, fault: &Fault) -> PathVerdict {
    let problem = if first {
        format!("it begins on host {host}, and {}", fault.problem)
    } else {
        format!("it goes to host {host} by {from}, and {}", fault.problem)
    };
    verdict(Outcome::Lost, host, finding(format!("host {host}"), problem, fault.remedy.clone()))
}

/// Rules send it from host to host.
pub fn circles(model: &Model, host: Uuid) -> PathVerdict {
    let host = super::follow::name(model, host);
    let remedy = "Look among the rules that were made by hand: weft flows dump HOST --owner manual";
    verdict(Outcome::Lost, &host, finding("", "it goes in circles between hosts", remedy))
}

/// No host has the address that a rule sends it to.
pub fn nobody_there(host: &str, remote: Option<Ipv4Addr>) -> PathVerdict {
    let remote = remote.map(|address| address.to_string()).unwrap_or_default();
    let problem = format!("host {host} sends it through the tunnel to {remote}, which is no host of the cloud");
    let remedy = "Compare with the addresses in \"weft host list\", and look for rules made by hand.";
    verdict(Outcome::Lost, host, finding(format!("underlay address {remote}"), problem, remedy))
}

/// It arrived. `other`: the address it is for, if that is not the port's.
pub fn delivered(host: &str, port: &Port, other: Option<Ipv4Addr>) -> PathVerdict {
    let onward = match other {
        Some(address) => format!(", whose instance is the next hop to {address}"),
        None => String::new(),
    };
    let problem = format!("delivered to port {} on host {host}{onward}", port.name);
    let found = finding(format!("port {}", port.name), problem, "");
    PathVerdict { port_id: port.id.to_string(), ..verdict(Outcome::Delivered, host, found) }
}

/// A switch answers.
pub fn answered(host: &str, reply: &TraceReply, action: &Kind) -> PathVerdict {
    let what = match action {
        Kind::ArpReply(_) => "ARP",
        Kind::DhcpReply(_) => "DHCP",
        _ => "an ICMP echo reply",
    };
    let offer = match action {
        Kind::DhcpReply(offer) => format!(": {}/{}", text::format_ip(&offer.address), offer.prefix_length),
        _ => String::new(),
    };
    let object = last(reply).map(|rule| rule.origin.clone()).unwrap_or_default();
    let problem = format!("answered by the switch of host {host} with {what}{offer}");
    verdict(Outcome::Answered, host, finding(object, problem, ""))
}

/// A rule hands it over.
pub fn punted(host: &str, reply: &TraceReply) -> PathVerdict {
    let object = last(reply).map(|rule| rule.origin.clone()).unwrap_or_default();
    let found = finding(object, format!("host {host} hands it to the controller"), "");
    verdict(Outcome::Punted, host, found)
}

/// It leaves the cloud by a physical network.
pub fn out(host: &str, physical: &str, output: &OutputEffect) -> PathVerdict {
    let source = address(&output.packet, Field::Ipv4Src).map(|address| address.to_string()).unwrap_or_default();
    let to = mac(&output.packet, Field::EthDst).unwrap_or_default();
    let problem = format!("it leaves the cloud at host {host} by physical network {physical}, from {source}, to {to}");
    verdict(Outcome::Out, host, finding(format!("physical network {physical}"), problem, ""))
}

/// It leaves by a port that a person made.
pub fn left(host: &str, output: &OutputEffect) -> PathVerdict {
    let object = format!("port {} of host {host}", output.port_name);
    let problem =
        format!("it leaves host {host} by port {} ({}), which is not the cloud's", output.port, output.port_name);
    verdict(Outcome::Left, host, finding(object, problem, "If that is not meant, look for rules made by hand."))
}

fn last(reply: &TraceReply) -> Option<&RuleState> {
    reply.steps.iter().rev().find_map(|step| step.rule.as_ref())
}

/// A switch does not let it through.
pub fn dropped(model: &Model, hop: &Hop<'_>, reply: &TraceReply) -> PathVerdict {
    let host = super::follow::name(model, hop.host);
    let mut found = why(model, hop, reply, &host);
    found.problem = format!("dropped on host {host} {}", found.problem);
    if let Some(answer) = told(reply) {
        found.problem += &format!("; its sender is told so from {answer}");
    }
    let reason = reply.drop_reason.clone();
    PathVerdict { drop_reason: reason, ..verdict(Outcome::Dropped, &host, found) }
}

/// From where the sender is told, if it is.
fn told(reply: &TraceReply) -> Option<String> {
    reply.effects.iter().find_map(|effect| match &effect.effect {
        Some(Effect::Action(v1::Action { action: Some(Kind::IcmpUnreachable(unreachable)) })) => {
            Some(text::format_ip(&unreachable.answer))
        }
        Some(Effect::Action(v1::Action { action: Some(Kind::CheckMtu(check)) })) if reply.drop_reason == "too_big" => {
            Some(text::format_ip(&check.answer)).filter(|_| !check.answer.is_empty())
        }
        Some(Effect::Action(v1::Action { action: Some(Kind::DecTtl(ttl)) })) if reply.drop_reason == "ttl_expired" => {
            Some(text::format_ip(&ttl.answer)).filter(|_| !ttl.answer.is_empty())
        }
        _ => None,
    })
}

fn why(model: &Model, hop: &Hop<'_>, reply: &TraceReply, host: &str) -> Finding {
    let step = reply.steps.last();
    let state = step.and_then(|step| step.rule.as_ref());
    let rule = state.and_then(|state| state.rule.clone()).unwrap_or_default();
    let table = step.map_or(0, |step| step.table);
    let origin = state.map(|state| state.origin.as_str()).unwrap_or_default();
    if let Some(found) = measured(model, hop, reply) {
        return found;
    }
    if let Some(found) = no_next_hop(reply) {
        return found;
    }
    if let Some(output) = unsent(reply) {
        return not_sent(model, hop, output, &rule, host);
    }
    if state.is_some() && rule.owner() == Owner::Manual {
        return by_hand(&rule, origin, host);
    }
    if state.is_none() && step.is_some() {
        let name = step.map(|step| step.table_name.as_str()).unwrap_or_default();
        return finding(
            format!("table {table} ({name}) of host {host}"),
            format!("in table {table} ({name}): no rule there matches it"),
            format!("See \"weft flows dump {host} table={table}\"; the host may be behind: weft host show {host}"),
        );
    }
    if hop.flow.transport == Transport::Dhcp && table != EGRESS_FIREWALL {
        return no_dhcp(model, hop, origin);
    }
    match (table, reply.drop_reason.as_str()) {
        (EGRESS_FIREWALL | INGRESS_FIREWALL, _) => firewall::refused(model, hop, reply, table == INGRESS_FIREWALL),
        (INGRESS_TRACK, _) => {
            finding(origin, format!("by {origin}"), "With port security off, anything reaches the port.")
        }
        (PORT_SECURITY, _) => not_its_own(model, hop, origin),
        (CLASSIFY, "unknown_segment") => {
            let segment = super::packet::get(hop.packet, Field::TunId).unwrap_or_default();
            let segment = segment.iter().fold(0_u64, |number, &byte| number << 8 | u64::from(byte));
            let network = model.networks.iter().find(|network| u64::from(network.segment) == segment);
            let network = network.map_or("no network".to_owned(), |network| format!("network {}", network.name));
            finding(
                format!("VNI {segment}"),
                format!("because no port of VNI {segment} ({network}) is plugged there"),
                "Look for a rule made by hand where it comes from: weft flows dump HOST --owner manual",
            )
        }
        (DELIVER, _) => not_here(model, hop, reply, &rule),
        (ROUTE | NEIGHBOUR, reason) => not_routed(model, hop, &rule, reason, origin),
        _ => finding(origin, format!("by {origin} ({})", reply.drop_reason), format!("See \"weft drops {host}\".")),
    }
}

/// A next hop outside that does not answer, or has not been asked yet.
fn no_next_hop(reply: &TraceReply) -> Option<Finding> {
    let hop = reply.effects.iter().find_map(|effect| match &effect.effect {
        Some(Effect::Neighbour(neighbour)) if neighbour.mac.is_empty() => Some(text::format_ip(&neighbour.hop)),
        _ => None,
    });
    let (hop, origin) = (hop?, last(reply).map(|rule| rule.origin.as_str()).unwrap_or_default());
    Some(finding(
        format!("next hop {hop}"),
        format!("by {origin}: the MAC of {hop} is not known"),
        format!(
            "Is {hop} there, and on that network? It is asked for when something is sent: see \"weft neighbours\"."
        ),
    ))
}

/// What a switch finds out about a packet when it runs the actions: somewhere on the way, not by the last rule.
fn measured(model: &Model, hop: &Hop<'_>, reply: &TraceReply) -> Option<Finding> {
    let too_big = reply.drop_reason == "too_big";
    if !too_big && reply.drop_reason != "ttl_expired" {
        return None;
    }
    let here = |action: &v1::Action| match &action.action {
        Some(Kind::CheckMtu(check)) => too_big && check.mtu < hop.flow.bytes,
        Some(Kind::DecTtl(_)) => !too_big,
        _ => false,
    };
    let states = reply.steps.iter().filter_map(|step| step.rule.as_ref());
    let mut checks = states.filter_map(|state| {
        let rule = state.rule.as_ref()?;
        let actions = &rule.instructions.as_ref()?.apply_actions;
        actions.iter().find(|action| here(action)).map(|action| (state, rule, action))
    });
    let (state, rule, action) = checks.next()?;
    let origin = &state.origin;
    let object =
        router_of(model, rule, origin).map_or_else(|| origin.clone(), |router| format!("router {}", router.name));
    Some(match &action.action {
        Some(Kind::CheckMtu(check)) => finding(
            object,
            format!("by {origin}: {} bytes are more than the MTU of {} there", hop.flow.bytes, check.mtu),
            "Senders that find out the MTU of the path keep to it; else send less, or give both networks one MTU.",
        ),
        _ => finding(object, format!("by {origin}: its time to live is over"), "Look for a loop of routes."),
    })
}

fn by_hand(rule: &v1::Rule, origin: &str, host: &str) -> Finding {
    let matched = text::format_match(&rule.r#match);
    let separator = if matched.is_empty() { "" } else { "," };
    let select = format!("table={},priority={}{separator}{matched}", rule.table, rule.priority);
    let note = if origin.is_empty() { String::new() } else { format!(" ({origin})") };
    finding(
        format!("rule by hand {select}"),
        format!("by a rule made by hand: {select}{note}"),
        format!("Remove it, if it is not meant: weft flows del {host} --strict '{select}'"),
    )
}

/// The output that it could not take.
fn unsent(reply: &TraceReply) -> Option<&OutputEffect> {
    reply.effects.iter().find_map(|effect| match &effect.effect {
        Some(Effect::Output(output)) if !output.drop_reason.is_empty() => Some(output),
        _ => None,
    })
}

fn not_sent(model: &Model, hop: &Hop<'_>, output: &OutputEffect, rule: &v1::Rule, host: &str) -> Finding {
    let reason = &output.drop_reason;
    if ![TUNNEL_PORT, GRE_PORT].contains(&output.port) {
        let port = model.ports_on(hop.host).find(|port| port.number == output.port);
        let name = port.map_or(output.port_name.clone(), |port| port.name.clone());
        return finding(
            format!("port {name}"),
            format!("because the interface of port {name} does not take it ({reason})"),
            format!("See what is wrong with it: weft port show {name}; it is mended once that is."),
        );
    }
    let remote =
        rule.instructions.iter().flat_map(|instructions| &instructions.apply_actions).find_map(|action| match &action
            .action
        {
            Some(Kind::SetField(set)) if set.field() == Field::TunDst => <[u8; 4]>::try_from(set.value.as_slice()).ok(),
            _ => None,
        });
    let remote = remote.map(Ipv4Addr::from);
    let other = remote
        .and_then(|remote| model.host_of_underlay(hop.host, remote))
        .map(|host| host.name.clone())
        .unwrap_or_default();
    let remote = remote.map(|address| address.to_string()).unwrap_or_default();
    finding(
        format!("underlay from host {host} to host {other}"),
        format!("because its underlay does not reach {remote}, host {other} ({reason})"),
        format!("Is host {other} up, and on the same network? See \"weft neighbours {host}\"."),
    )
}

fn not_its_own(model: &Model, hop: &Hop<'_>, origin: &str) -> Finding {
    let Some(port) = model.ports_on(hop.host).find(|port| port.number == hop.in_port) else {
        return finding(origin, format!("by {origin}"), "");
    };
    let source = address(hop.packet, Field::Ipv4Src).or(hop.flow.source).map(|address| address.to_string());
    let source = source.unwrap_or_default();
    finding(
        format!("port {}", port.name),
        format!("because port {} may not send from {source} (port security)", port.name),
        format!(
            "If its instance forwards for others: weft port set {} --address-pair {source}{}",
            port.name,
            scope(model, port.project)
        ),
    )
}

/// A request for an address that nothing answers.
fn no_dhcp(model: &Model, hop: &Hop<'_>, origin: &str) -> Finding {
    let port = model.ports_on(hop.host).find(|port| port.number == hop.in_port);
    let mut subnets = port.iter().flat_map(|port| &port.addresses).filter_map(|fixed| model.subnets.get(fixed.subnet));
    match (port, subnets.next()) {
        (Some(port), Some(subnet)) => finding(
            format!("subnet {}", subnet.name),
            format!("by {origin}: nobody answers DHCP, which is off in subnet {}", subnet.name),
            format!("Give the instance of port {} its address by hand, or make the subnet anew with DHCP.", port.name),
        ),
        (Some(port), None) => finding(
            format!("port {}", port.name),
            format!("by {origin}: nobody answers DHCP, for port {} has no address", port.name),
            "Make a subnet in its network, then the port anew.",
        ),
        (None, _) => finding(origin, format!("by {origin}"), ""),
    }
}

fn network_of<'a>(model: &'a Model, rule: &v1::Rule) -> Option<&'a Network> {
    let segment = <[u8; 4]>::try_from(matched(rule, Field::Reg0)?).ok().map(u32::from_be_bytes)?;
    model.networks.iter().find(|network| network.segment == segment)
}

fn not_here(model: &Model, hop: &Hop<'_>, reply: &TraceReply, rule: &v1::Rule) -> Finding {
    // A router's host sends to another MAC than the packet came with.
    let written = reply.steps.iter().rev().filter_map(|step| step.rule.as_ref()?.rule.as_ref());
    let written = written.flat_map(|rule| &rule.instructions).flat_map(|instructions| &instructions.apply_actions);
    let mut written = written.filter_map(|action| match &action.action {
        Some(Kind::SetField(set)) if set.field() == Field::EthDst => <[u8; 6]>::try_from(set.value.as_slice()).ok(),
        _ => None,
    });
    let to = written.next().map(crate::model::Mac).or_else(|| mac(hop.packet, Field::EthDst)).unwrap_or_default();
    let Some(network) = network_of(model, rule) else {
        return finding(format!("MAC {to}"), format!("because no network is known that has {to}"), "");
    };
    if let Some(subnet) = model.subnets_of(network.id).find(|subnet| subnet.dhcp.is_some() && subnet.dhcp_mac() == to) {
        return finding(
            format!("subnet {}", subnet.name),
            format!(
                "because its next hop is where DHCP of subnet {} is answered from, which forwards nothing: a route of \
                 the subnet is wrong",
                subnet.name
            ),
            "Make the subnet anew with a route (--route) by the address of a router or an instance.",
        );
    }
    match model.ports_of(network.id).find(|port| port.mac == to) {
        Some(port) if port.plug.is_none() => plug_it(model, port, "it is not delivered to it"),
        Some(port) => finding(
            format!("port {}", port.name),
            format!("because port {}, which has {to}, is on another host than the rules say", port.name),
            "Wait a moment; if it stays so, see \"weft status\".",
        ),
        None => finding(
            format!("network {}", network.name),
            format!("because no port of network {} has the MAC {to}", network.name),
            who_has(model, network.id),
        ),
    }
}

fn router_of<'a>(model: &'a Model, rule: &v1::Rule, origin: &str) -> Option<&'a Router> {
    let number = matched(rule, Field::Reg3).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(u32::from_be_bytes);
    let by_number = model.routers.iter().find(|router| Some(router.number) == number);
    by_number.or_else(|| model.routers.iter().find(|router| origin.starts_with(&format!("router {}:", router.name))))
}

fn not_routed(model: &Model, hop: &Hop<'_>, rule: &v1::Rule, reason: &str, origin: &str) -> Finding {
    let Some(router) = router_of(model, rule, origin) else {
        return finding(origin, format!("by {origin} ({reason})"), "");
    };
    let (name, scope) = (&router.name, scope(model, router.project));
    let to = hop.flow.destination;
    let object = format!("router {name}");
    let extra = router.routes.iter().filter(|route| route.destination.contains(to));
    let extra = extra.max_by_key(|route| route.destination.length());
    let subnet = model.router_subnets(router.id).map(|(_, subnet)| subnet).find(|subnet| subnet.prefix.contains(to));
    match (subnet, extra) {
        (Some(subnet), _) => match model.port_with(subnet.id, to) {
            Some(port) if port.device.is_none() && port.plug.is_none() => {
                plug_it(model, port, &format!("router {name} does not reach {to}"))
            }
            Some(port) if port.router().is_some() => finding(
                object,
                format!("by router {name}: {to} is its own address, which answers pings and nothing else"),
                "Try: --protocol icmp",
            ),
            _ => finding(
                object,
                format!("by router {name}: no port of network {} has {to}", network_name(model, subnet.network)),
                who_has(model, subnet.network),
            ),
        },
        (None, Some(route)) => {
            let hop = route.next_hop;
            let subnets = model.router_subnets(router.id).map(|(_, subnet)| subnet);
            let mut holders = subnets.filter_map(|subnet| model.port_with(subnet.id, hop));
            let (holder, remedy) = match holders.next() {
                Some(port) => (
                    format!("port {}, which is not plugged", port.name),
                    format!("Plug it: weft port plug {} --host HOST{scope}", port.name),
                ),
                None => (
                    "no port".to_owned(),
                    format!("Remove the route: weft router route remove {name} {}{scope}", route.destination),
                ),
            };
            finding(
                object,
                format!("by router {name}: its route to {} leads to {hop}, which is {holder}", route.destination),
                remedy,
            )
        }
        (None, None) => finding(
            object,
            format!("by router {name}, which has no route to {to}"),
            format!(
                "Join the subnet (weft router interface add {name} SUBNET{scope}) or add a route (weft router route \
                 add {name} {to}/32 NEXTHOP{scope})"
            ),
        ),
    }
}

/// The protocol that a packet has, for a rule of a security group.
fn asked_for(flow: &Flow) -> (String, String) {
    match flow.transport {
        Transport::Tcp(_, port, _) => (format!("tcp {port}"), format!("--protocol tcp --port {port}")),
        Transport::Udp(_, port) => (format!("udp {port}"), format!("--protocol udp --port {port}")),
        Transport::Icmp(_) => ("icmp".to_owned(), "--protocol icmp".to_owned()),
        Transport::Dhcp => ("dhcp".to_owned(), "--protocol udp --port 67".to_owned()),
    }
}
