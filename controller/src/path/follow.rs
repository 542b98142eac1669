//! One way of a packet: what the instance does before it sends, then switch after switch.

use super::Cloud;
use super::packet::{Flow, Packet, Transport, address, arp_request, field, get, mac};
use super::verdict::{self, Outcome};
use crate::limits::PATH_HOPS;
use crate::model::{Device, Mac, Model, Network, Port, Subnet};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use uuid::Uuid;
use weft_proto::FIRST_PHYSICAL_PORT;
use weft_proto::v1::action::Action as Kind;
use weft_proto::v1::effect::Effect;
use weft_proto::v1::{self, Field, OutputEffect, PathVerdict, TraceReply};

/// A way that was followed.
#[derive(Default)]
pub struct Leg {
    /// For who asked.
    pub message: v1::PathLeg,
    /// The port it was delivered to, and the packet as it got there.
    pub arrived: Option<(Uuid, Packet)>,
    /// Where it left the cloud, and an answer from out there would come in.
    outside: Option<Outside>,
}

impl Leg {
    /// Whether it came to somebody.
    pub fn arrives(&self) -> bool {
        let outcome = self.message.verdict.as_ref().map(|verdict| verdict.outcome.as_str());
        outcome.is_some_and(|outcome| {
            [Outcome::Delivered, Outcome::Answered, Outcome::Out].iter().any(|good| good.word() == outcome)
        })
    }
}

/// Where a packet is: about to enter the tables of a switch.
struct Place {
    host: Uuid,
    in_port: u32,
    from: String,
    packet: Packet,
}

/// Out on a physical network, behind a host's port.
pub struct Outside {
    host: Uuid,
    port: u32,
    name: String,
    /// As it left.
    packet: Packet,
}

/// What becomes of a packet after a switch.
enum Fate {
    Ends(PathVerdict),
    Arrives(Uuid, Packet, PathVerdict),
    Leaves(Outside, PathVerdict),
    GoesOn(Place),
}

/// An instance about to send.
struct Sender {
    host: Uuid,
    number: u32,
    mac: Mac,
    network: Uuid,
    /// What it asks by ARP from: its own, whatever it forwards.
    own: Ipv4Addr,
    source: Ipv4Addr,
    /// `None`: to everybody.
    next_hop: Option<Ipv4Addr>,
}

/// Follows packets, and remembers the connections that they would begin.
pub struct Follower<'a, C> {
    cloud: &'a C,
    /// By host.
    begun: BTreeMap<Uuid, Vec<v1::Connection>>,
}

impl<'a, C: Cloud> Follower<'a, C> {
    /// Nothing has begun.
    pub fn new(cloud: &'a C) -> Self {
        Self { cloud, begun: BTreeMap::new() }
    }

    /// One way, from a port.
    pub async fn leg(&mut self, port: Uuid, flow: &Flow) -> Leg {
        let mut leg = Leg::default();
        let verdict = match self.depart(&mut leg, port, flow).await {
            Ok(place) => self.walk(&mut leg, place, flow).await,
            Err(verdict) => Err(verdict),
        };
        leg.message.verdict = Some(verdict.unwrap_or_else(|verdict| verdict));
        leg
    }

    /// The way of what is answered to a packet that came to a port or left the cloud; `None`: nobody answers.
    pub async fn answer(&mut self, to: &Leg) -> Option<Leg> {
        if let Some((port, packet)) = &to.arrived {
            return Some(self.leg(*port, &Flow::answer_to(packet)?).await);
        }
        let outside = to.outside.as_ref()?;
        let flow = Flow::answer_to(&outside.packet)?;
        let mut packet =
            flow.packet(flow.source?, mac(&outside.packet, Field::EthDst)?, mac(&outside.packet, Field::EthSrc)?);
        let tag = outside.packet.iter().find(|one| one.field() == Field::VlanTci);
        packet.extend(tag.cloned());
        let mut leg = Leg::default();
        leg.message.port_name.clone_from(&outside.name);
        let place = Place { host: outside.host, in_port: outside.port, from: outside.name.clone(), packet };
        let verdict = self.walk(&mut leg, place, &flow).await;
        leg.message.verdict = Some(verdict.unwrap_or_else(|verdict| verdict));
        Some(leg)
    }

    /// What an instance sends, about to enter its host's tables. An error is a verdict too: that of a packet that does
    /// not get far.
    async fn depart(&self, leg: &mut Leg, port: Uuid, flow: &Flow) -> Result<Place, PathVerdict> {
        let sender = {
            let model = self.cloud.model();
            let port = model.ports.get(port).ok_or_else(verdict::gone)?;
            leg.message.port_name.clone_from(&port.name);
            depart(&model, port, flow, &mut leg.message).map_err(|verdict| *verdict)?
        };
        let to = match sender.next_hop {
            Some(next_hop) => self.resolve(leg, &sender, next_hop, flow).await?,
            None => Mac([0xff; 6]),
        };
        Ok(Place {
            host: sender.host,
            in_port: sender.number,
            from: leg.message.port_name.clone(),
            packet: flow.packet(sender.source, sender.mac, to),
        })
    }

    /// From switch to switch.
    async fn walk(&mut self, leg: &mut Leg, mut place: Place, flow: &Flow) -> Result<PathVerdict, PathVerdict> {
        loop {
            if leg.message.hops.len() >= PATH_HOPS {
                let model = self.cloud.model();
                return Err(verdict::circles(&model, place.host));
            }
            let reply = self.ask(leg, &place, flow).await?;
            let begun = self.begun.entry(place.host).or_default();
            begun.extend(reply.begins.iter().cloned());
            let model = self.cloud.model();
            match fate(&model, &place, flow, &reply) {
                Fate::Ends(verdict) => return Ok(verdict),
                Fate::Arrives(port, packet, verdict) => {
                    leg.arrived = Some((port, packet));
                    return Ok(verdict);
                }
                Fate::Leaves(outside, verdict) => {
                    leg.outside = Some(outside);
                    return Ok(verdict);
                }
                Fate::GoesOn(next) => place = next,
            }
        }
    }

    /// Asks the switch of a place, and writes the hop down.
    async fn ask(&self, leg: &mut Leg, place: &Place, flow: &Flow) -> Result<TraceReply, PathVerdict> {
        let mut packet = place.packet.clone();
        packet.push(field(Field::InPort, place.in_port.to_be_bytes()));
        let request = v1::TraceRequest {
            packet,
            assume: self.begun.get(&place.host).cloned().unwrap_or_default(),
            bytes: flow.bytes,
            ..v1::TraceRequest::default()
        };
        let reply = self.cloud.trace(place.host, request).await;
        let model = self.cloud.model();
        let host = name(&model, place.host);
        let reply =
            reply.map_err(|fault| verdict::unanswered(&host, &place.from, leg.message.hops.is_empty(), &fault))?;
        leg.message.hops.push(v1::PathHop {
            host,
            from: place.from.clone(),
            packet: place.packet.clone(),
            trace: Some(reply.clone()),
        });
        Ok(reply)
    }

    /// The MAC of a next hop, by ARP as the instance would ask for it.
    async fn resolve(&self, leg: &mut Leg, sender: &Sender, wanted: Ipv4Addr, flow: &Flow) -> Result<Mac, PathVerdict> {
        let place = Place {
            host: sender.host,
            in_port: sender.number,
            from: leg.message.port_name.clone(),
            packet: arp_request(sender.mac, sender.own, wanted),
        };
        let reply = self.ask(leg, &place, &Flow { bytes: 0, ..*flow }).await?;
        let answer = reply.effects.iter().find_map(|effect| match &effect.effect {
            Some(Effect::Action(v1::Action { action: Some(Kind::ArpReply(answer)) })) => {
                <[u8; 6]>::try_from(answer.mac.as_slice()).ok().map(Mac)
            }
            _ => None,
        });
        let model = self.cloud.model();
        let paired = || {
            model.ports_of(sender.network).filter(|port| port.plug.is_some()).find_map(|port| {
                let pair = port.pairs.iter().find(|pair| pair.prefix.contains(wanted))?;
                Some((pair.mac.unwrap_or(port.mac), port.name.clone()))
            })
        };
        if let Some(mac) = answer {
            let origin = reply.steps.iter().rev().find_map(|step| step.rule.as_ref()).map(|rule| rule.origin.as_str());
            leg.message.notes.push(format!(
                "Its ARP for {wanted} is answered with {mac}{}.",
                origin.filter(|origin| !origin.is_empty()).map_or_else(String::new, |origin| format!(" by {origin}"))
            ));
            // It has served: what is shown is the way of the packet.
            leg.message.hops.pop();
            return Ok(mac);
        }
        let sent = !outputs(&reply.effects).is_empty();
        if !matches!(reply.drop_reason.as_str(), "" | "no_output") {
            let hop = verdict::Hop { host: place.host, in_port: place.in_port, packet: &place.packet, flow };
            return Err(verdict::dropped(&model, &hop, &reply));
        }
        match paired().filter(|_| sent) {
            Some((mac, name)) => {
                leg.message.notes.push(format!(
                    "Its ARP for {wanted} goes to everybody; taken to be answered by port {name}, of whose address \
                     pairs it is, with {mac}."
                ));
                leg.message.hops.pop();
                Ok(mac)
            }
            None => Err(verdict::unresolved(&model, sender.network, wanted, &name(&model, sender.host))),
        }
    }
}

pub(super) fn name(model: &Model, host: Uuid) -> String {
    model.hosts.get(host).map(|host| host.name.clone()).unwrap_or_default()
}

/// What an instance does before it sends anything: which address it takes, and which next hop.
fn depart(model: &Model, port: &Port, flow: &Flow, leg: &mut v1::PathLeg) -> Result<Sender, Box<PathVerdict>> {
    let Some(plug) = &port.plug else { return Err(verdict::unplugged(model, port, "it sends nothing").into()) };
    leg.host = name(model, plug.host);
    let sender = |own, source, next_hop| Sender {
        host: plug.host,
        number: port.number,
        mac: port.mac,
        network: port.network,
        own,
        source,
        next_hop,
    };
    if flow.transport == Transport::Dhcp {
        return Ok(sender(Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED, None));
    }
    let mut own = port.addresses.iter().filter_map(|fixed| Some((fixed.address, model.subnets.get(fixed.subnet)?)));
    let near = own.clone().find(|(_, subnet)| subnet.prefix.contains(flow.destination));
    let first = own.next();
    let Some((address, subnet)) = near.or(first) else { return Err(verdict::no_address(model, port).into()) };
    let source = flow.source.unwrap_or(address);
    if subnet.dhcp.is_none() {
        leg.notes.push(format!(
            "Subnet {} has DHCP off: the instance must have {address} and its routes by hand.",
            subnet.name
        ));
    }
    if near.is_some() {
        return Ok(sender(address, source, Some(flow.destination)));
    }
    let Some((next_hop, why)) = next_hop(subnet, flow.destination) else {
        return Err(verdict::no_gateway(subnet, flow.destination, port).into());
    };
    leg.notes.push(format!("Its next hop to {} is {next_hop}, {why} of subnet {}.", flow.destination, subnet.name));
    Ok(sender(address, source, Some(next_hop)))
}

/// By what DHCP tells: the longest route, else the gateway.
fn next_hop(subnet: &Subnet, destination: Ipv4Addr) -> Option<(Ipv4Addr, String)> {
    let routes = subnet.routes.iter().filter(|route| route.destination.contains(destination));
    let longest = routes.max_by_key(|route| route.destination.length());
    let route = longest.map(|route| (route.next_hop, format!("by the route to {}", route.destination)));
    route.or_else(|| subnet.gateway.map(|gateway| (gateway, "the gateway".to_owned())))
}

/// What becomes of a packet by what a switch would do with it. Each kind of output is one arm.
fn fate(model: &Model, place: &Place, flow: &Flow, reply: &TraceReply) -> Fate {
    let host = name(model, place.host);
    let outputs = outputs(&reply.effects);
    for effect in &reply.effects {
        match &effect.effect {
            Some(Effect::Action(v1::Action { action: Some(action) })) if reply.drop_reason.is_empty() => match action {
                Kind::ArpReply(_) | Kind::DhcpReply(_) | Kind::IcmpReply(_) => {
                    return Fate::Ends(verdict::answered(&host, reply, action));
                }
                Kind::Punt(_) => return Fate::Ends(verdict::punted(&host, reply)),
                _ => {}
            },
            _ => {}
        }
    }
    // An answer to a packet that is dropped is an output too.
    let Some(output) = outputs.first().filter(|_| reply.drop_reason.is_empty()) else {
        let hop = verdict::Hop { host: place.host, in_port: place.in_port, packet: &place.packet, flow };
        return Fate::Ends(verdict::dropped(model, &hop, reply));
    };
    if !output.tunnel_destination.is_empty() {
        return through_tunnel(model, place, output);
    }
    if let Some(physical) = physical(model, place.host, output.port) {
        return onto_physical(model, place, output, physical);
    }
    match model.ports_on(place.host).find(|port| port.number == output.port) {
        Some(port) => {
            let owner = address(&output.packet, Field::Ipv4Dst).filter(|&address| !has(port, address));
            Fate::Arrives(port.id, output.packet.clone(), verdict::delivered(&host, port, owner))
        }
        None => Fate::Ends(verdict::left(&host, output)),
    }
}

/// Outputs that take the packet, or a copy of it.
fn outputs(effects: &[v1::Effect]) -> Vec<&OutputEffect> {
    let each = effects.iter().flat_map(|effect| match &effect.effect {
        Some(Effect::Output(output)) if output.drop_reason.is_empty() => vec![output],
        Some(Effect::Branch(branch)) => outputs(&branch.effects),
        _ => Vec::new(),
    });
    each.collect()
}

fn has(port: &Port, address: Ipv4Addr) -> bool {
    port.addresses.iter().any(|fixed| fixed.address == address)
        || port.pairs.iter().any(|pair| pair.prefix.contains(address))
}

/// The physical network that a port of a host leads to.
fn physical(model: &Model, host: Uuid, port: u32) -> Option<&str> {
    let index = port.checked_sub(FIRST_PHYSICAL_PORT)?;
    model.hosts.get(host)?.physical.keys().nth(index as usize).map(String::as_str)
}

/// Onto a physical network: to the host where a port or a router has the MAC, or out of the cloud.
fn onto_physical(model: &Model, place: &Place, output: &OutputEffect, physical: &str) -> Fate {
    let vlan = get(&output.packet, Field::VlanTci).map_or(0, |tci| u16::from_be_bytes([tci[0] & 0x0f, tci[1]]));
    let on_link =
        |network: &&Network| network.segment_type.physical() == Some(physical) && network.segment_type.vlan() == vlan;
    let networks = model.networks.iter().filter(on_link);
    let to = mac(&output.packet, Field::EthDst).unwrap_or_default();
    let holder = networks.flat_map(|network| model.ports_of(network.id)).find(|port| port.mac == to);
    let host = holder.and_then(|port| match port.device {
        Some(Device::Gateway(router)) => model.gateway_host(router),
        Some(_) => None,
        None => port.plug.as_ref().map(|plug| plug.host),
    });
    let there = host.filter(|&host| host != place.host).and_then(|host| {
        let index = model.hosts.get(host)?.physical.keys().position(|name| name == physical)?;
        Some((host, FIRST_PHYSICAL_PORT + u32::try_from(index).ok()?))
    });
    let here = name(model, place.host);
    match there {
        Some((host, in_port)) => {
            let from = format!("physical network {physical}, from host {here}");
            Fate::GoesOn(Place { host, in_port, from, packet: output.packet.clone() })
        }
        None => {
            let name = format!("physical network {physical}");
            let packet = output.packet.clone();
            let verdict = verdict::out(&here, physical, output);
            Fate::Leaves(Outside { host: place.host, port: output.port, name, packet }, verdict)
        }
    }
}

/// To the switch at a tunnel's other end, where the packet comes in by the port of the same number.
fn through_tunnel(model: &Model, place: &Place, output: &OutputEffect) -> Fate {
    let remote = <[u8; 4]>::try_from(output.tunnel_destination.as_slice()).ok().map(Ipv4Addr::from);
    let Some(next) = remote.and_then(|remote| model.host_of_underlay(place.host, remote)) else {
        return Fate::Ends(verdict::nobody_there(&name(model, place.host), remote));
    };
    let mut packet = output.packet.clone();
    packet.extend([
        field(Field::TunId, output.tunnel_id.to_be_bytes()),
        field(Field::TunSrc, output.tunnel_source.clone()),
        field(Field::TunDst, output.tunnel_destination.clone()),
    ]);
    let from = format!("the tunnel from host {}", name(model, place.host));
    Fate::GoesOn(Place { host: next.id, in_port: output.port, from, packet })
}
