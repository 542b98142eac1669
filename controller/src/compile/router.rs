//! Routers on one host: of the networks of its ports, and what they need to deliver to all their networks.
//!
//! | table | what | priority |
//! |---|---|---|
//! | respond | ARP for a router's address: answered with its MAC there, on every host | 200 |
//! | l2 | IPv4 from a port here to a router's MAC: the router's number to reg3, on to route | 200 |
//! | route | echo requests to an address of the router: answered | 300 |
//! | | anything else to one: port unreachable | 290 |
//! | | to a subnet that is joined: TTL, MTU, the router's MAC there, the segment; on to neighbour | 100 + prefix length |
//! | | to an extra route's destination: likewise, and the next hop's MAC; on to deliver | 100 + prefix length |
//! | | to anything else: network unreachable | 50 |
//! | neighbour | to the address of a plugged port: its MAC; on to deliver | 100 |
//! | | to any other: host unreachable; on a physical network it may be a station's (`station.rs`) | 10 |
//! | deliver | to a MAC elsewhere, of networks that have no port here: through the tunnel to its host (`network.rs`) | 200 |
//!
//! East–west traffic is routed on the sender's own host, in one walk, and leaves on the destination's segment: what
//! comes from the tunnel never enters these tables, and a router's own MAC is never a frame's destination on the wire.
//! What leaves the cloud is routed on another host than the sender's: see `gateway.rs`.
//! Each host so needs the ports of all networks of its routers: who a port touches is `Model::hosts_reaching`.
//!
//! Errors come from the address to whose MAC the packet was sent (RFC 1812, 4.3.2.4), so a rule exists for each of the
//! router's interfaces here. Until `neighbour` hits, `eth_dst` tells which.
//!
//! A walk goes forward, so it passes one router: a next hop that is a router is refused or unreachable. Addresses of
//! address pairs are not reached by routers either: nobody knows which port has them.

use super::carrier;
use super::gateway::{Outside, from_outside, lead_out};
use super::network;
use super::pipeline::{DELIVER, L2, NEIGHBOUR, ROUTE, SNAT};
use super::rule::{RuleBuilder, act, cookie, set};
use super::state::HostState;
use super::station::{self, Wire};
use crate::model::{Ipv4Prefix, Mac, Model, Network, Port, Router, Subnet};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use uuid::Uuid;
use weft_proto::v1::{self, Action, Field, action};

/// Codes of ICMP's destination unreachable (RFC 792).
mod unreachable {
    pub const NETWORK: u32 = 0;
    pub const HOST: u32 = 1;
    pub const PORT: u32 = 3;
}

/// Where the interfaces of a router meet stations, by their ports.
type Wires = BTreeMap<Uuid, Wire>;

/// One interface of a router, and where it is.
pub(super) struct Interface<'a> {
    pub(super) port: &'a Port,
    pub(super) address: Ipv4Addr,
    pub(super) subnet: &'a Subnet,
    pub(super) network: &'a Network,
}

/// Adds the routers of the networks that have ports on the host, and those whose gateway host it is.
pub(super) fn compile(state: &mut HostState, model: &Model, here: &BTreeSet<Uuid>, host: Uuid) {
    for router in routers(model, here, host).iter().filter_map(|&router| model.routers.get(router)) {
        route(state, model, router, (host, here));
    }
    for network in networks(model, here, host).iter().filter_map(|&network| model.networks.get(network)) {
        for port in model.ports_of(network.id).filter(|port| port.plug.is_some()) {
            neighbour(state, network, port);
        }
        if !here.contains(&network.id) {
            network::reach(state, model, network, host);
            // From stations of a physical network its routers have what is sent to them.
            if network.segment_type.physical().is_some() {
                carrier::admit(state, model, network, host);
            }
        }
    }
}

fn routers(model: &Model, here: &BTreeSet<Uuid>, host: Uuid) -> BTreeSet<Uuid> {
    let joined = here.iter().flat_map(|&network| model.routers_of(network));
    joined.chain(model.routers_leaving_at(host).map(|router| router.id)).collect()
}

/// The networks that the host's routers lead to; `here`: those that have ports on it.
pub(super) fn networks(model: &Model, here: &BTreeSet<Uuid>, host: Uuid) -> BTreeSet<Uuid> {
    routers(model, here, host).into_iter().flat_map(|router| model.networks_of_router(router)).collect()
}

pub(super) fn of_router(state: &mut HostState, router: &Router, kind: &str, part: &str, what: &str) -> u64 {
    let cookie = cookie(kind, &format!("{}/{part}", router.id));
    state.origin(cookie, format!("router {}: {what}", router.name));
    cookie
}

fn answer_unreachable(code: u32, answer: Ipv4Addr) -> Vec<Action> {
    let answer = answer.octets().to_vec();
    vec![act(action::Action::IcmpUnreachable(v1::IcmpUnreachable { code, answer }))]
}

/// What the router itself answers at one of its addresses, whichever network asks.
fn own_address(state: &mut HostState, router: &Router, interface: &Interface<'_>) {
    let (number, address) = (router.number.to_be_bytes(), interface.address);
    let what = format!("its address {address}");
    let own = of_router(state, router, "router-address", &address.to_string(), &what);
    let to = |priority| {
        RuleBuilder::new(ROUTE, priority, own).with(Field::Reg3, number).ipv4().with(Field::Ipv4Dst, address.octets())
    };
    let echo = to(300).with(Field::IpProto, [1]).with(Field::IcmpType, [8]);
    state.add(echo.apply(vec![act(action::Action::IcmpReply(v1::IcmpReply {}))]));
    state.add(to(290).apply(answer_unreachable(unreachable::PORT, address)));
}

/// The way in from a network that has ports here, and what is next.
fn entrance(state: &mut HostState, router: &Router, interface: &Interface<'_>, (actions, next): (Vec<Action>, u32)) {
    let (network, mac) = (interface.network, interface.port.mac);
    let part = interface.port.id.to_string();
    let arp = of_router(
        state,
        router,
        "router-arp",
        &part,
        &format!("ARP for its address {} (network {})", interface.address, network.name),
    );
    state.add(network::arp_answer(arp, network, interface.address, mac));
    let entrance =
        of_router(state, router, "router-entrance", &part, &format!("what network {} sends to its MAC", network.name));
    state.add(
        RuleBuilder::new(L2, 200, entrance)
            .segment(network.segment)
            .with(Field::EthDst, mac.0)
            .ipv4()
            .apply_goto(actions, next),
    );
}

/// What the sender is told of where no route leads, and of who is not there.
fn nowhere(state: &mut HostState, router: &Router, interface: &Interface<'_>) {
    let (network, mac) = (interface.network, interface.port.mac);
    let part = interface.port.id.to_string();
    let to_mac = |table, priority, cookie| {
        RuleBuilder::new(table, priority, cookie)
            .with(Field::Reg3, router.number.to_be_bytes())
            .with(Field::EthDst, mac.0)
            .ipv4()
    };
    let what = format!("no route for what network {} sends", network.name);
    let nowhere = of_router(state, router, "no-route", &part, &what);
    state.add(to_mac(ROUTE, 50, nowhere).apply(answer_unreachable(unreachable::NETWORK, interface.address)));
    let what = format!("to an address that no plugged port has, from network {}", network.name);
    let nobody = of_router(state, router, "no-neighbour", &part, &what);
    state.add(to_mac(NEIGHBOUR, 10, nobody).apply(answer_unreachable(unreachable::HOST, interface.address)));
}

/// TTL and MTU of what goes on to a network, errors about it from an address of the router; and what follows.
pub(super) fn check(answer: Ipv4Addr, to: &Network, follow: &[Action]) -> Vec<Action> {
    let answer = answer.octets().to_vec();
    let checks = [
        act(action::Action::DecTtl(v1::DecTtl { answer: answer.clone() })),
        act(action::Action::CheckMtu(v1::CheckMtu { mtu: to.mtu, answer, fragment: true })),
    ];
    checks.into_iter().chain(follow.iter().cloned()).collect()
}

/// What happens to a packet that a router forwards from one of its interfaces to another.
fn forward(from: &Interface<'_>, to: &Interface<'_>, mac: Mac) -> Vec<Action> {
    let segment = to.network.segment.to_be_bytes();
    check(from.address, to.network, &[set(Field::EthSrc, mac.0), set(Field::Reg0, segment)])
}

/// The rules of one router.
fn route(state: &mut HostState, model: &Model, router: &Router, (host, here): (Uuid, &BTreeSet<Uuid>)) {
    let interfaces: Vec<Interface<'_>> = model
        .router_subnets(router.id)
        .filter_map(|(port, subnet)| {
            let address = port.addresses.first()?.address;
            Some(Interface { port, address, subnet, network: model.networks.get(subnet.network)? })
        })
        .collect();
    let outside = Outside::of(model, router, host);
    let leaves_here = outside.as_ref().filter(|outside| outside.is_here());
    // What is sent to its address outside may be an answer to somebody it hides: only there is that known.
    for interface in interfaces.iter().chain(leaves_here.map(|outside| &outside.side)) {
        own_address(state, router, interface);
    }
    for from in interfaces.iter().filter(|interface| here.contains(&interface.network.id)) {
        let plain = || (vec![set(Field::Reg3, router.number.to_be_bytes())], ROUTE);
        entrance(state, router, from, leaves_here.map_or_else(plain, Outside::entered));
    }
    let wires: Wires =
        interfaces.iter().filter_map(|it| Some((it.port.id, Wire::of(state, model, it, host)?))).collect();
    for (interface, &wire) in interfaces.iter().filter_map(|it| Some((it, wires.get(&it.port.id)?))) {
        let plain = || (vec![set(Field::Reg3, router.number.to_be_bytes())], ROUTE);
        let enter = leaves_here.map_or_else(plain, Outside::entered);
        station::lay(state, model, (router, interface, host), wire, enter);
    }
    let entered = |it: &&Interface<'_>| here.contains(&it.network.id) || wires.contains_key(&it.port.id);
    for from in interfaces.iter().filter(|it| leaves_here.is_some() || entered(it)) {
        nowhere(state, router, from);
        routes(state, model, router, from, (&interfaces, &wires), false);
        if let Some(outside) = &outside {
            lead_out(state, model, outside, from, host);
        }
    }
    if let Some(outside) = leaves_here {
        for from in &interfaces {
            outside.enter_from_afar(state, from);
        }
        nowhere(state, router, &outside.side);
        routes(state, model, router, &outside.side, (&interfaces, &wires), true);
    }
}

/// The routes of what comes from one of a router's interfaces, to its others and beyond.
fn routes(
    state: &mut HostState,
    model: &Model,
    router: &Router,
    from: &Interface<'_>,
    (interfaces, wires): (&[Interface<'_>], &Wires),
    outside: bool,
) {
    let towards = |prefix: Ipv4Prefix, cookie| {
        RuleBuilder::new(ROUTE, 100 + u32::from(prefix.length()), cookie)
            .with(Field::Reg3, router.number.to_be_bytes())
            .with(Field::EthDst, from.port.mac.0)
            .ipv4()
            .within(Field::Ipv4Dst, prefix)
    };
    let forward = |to: &Interface<'_>| forward(from, to, if outside { to.port.central_mac() } else { to.port.mac });
    for to in interfaces {
        let prefix = to.subnet.prefix;
        let what = format!("route to {prefix} (network {})", to.network.name);
        let cookie = of_router(state, router, "route", &prefix.to_string(), &what);
        let mut actions = forward(to);
        actions.extend(outside.then(|| from_outside(false)));
        state.add(towards(prefix, cookie).apply_goto(actions, if outside { SNAT } else { NEIGHBOUR }));
    }
    for route in &router.routes {
        let what = format!("extra route to {} by {}", route.destination, route.next_hop);
        let cookie = of_router(state, router, "route", &route.destination.to_string(), &what);
        let rule = towards(route.destination, cookie);
        state.add(match next_hop(model, (interfaces, wires), route.next_hop) {
            Some((to, find)) => {
                let mut actions = forward(to);
                actions.push(find);
                actions.extend(outside.then(|| from_outside(true)));
                rule.apply_goto(actions, if outside { SNAT } else { DELIVER })
            }
            None => rule.apply(answer_unreachable(unreachable::HOST, from.address)),
        });
    }
}

/// Through which interface a next hop is reached, and what gives its MAC: the plugged port has it that has the address, or a
/// station is asked for it.
fn next_hop<'a>(
    model: &Model,
    (interfaces, wires): (&'a [Interface<'a>], &Wires),
    address: Ipv4Addr,
) -> Option<(&'a Interface<'a>, Action)> {
    let to = interfaces.iter().find(|interface| interface.subnet.prefix.contains(address))?;
    let port = model.port_with(to.subnet.id, address);
    match port.filter(|port| port.plug.is_some()) {
        Some(port) => Some((to, set(Field::EthDst, port.mac.0))),
        // A port of the cloud's is nowhere else.
        None if port.is_some() => None,
        None => Some((to, wires.get(&to.port.id)?.find(to.address, Some(address)))),
    }
}

/// Where routers send what is for a plugged port.
fn neighbour(state: &mut HostState, network: &Network, port: &Port) {
    let cookie = cookie("neighbour", &port.id.to_string());
    state.origin(cookie, format!("port {} (network {}): what a router sends to it", port.name, network.name));
    for fixed in &port.addresses {
        state.add(
            RuleBuilder::new(NEIGHBOUR, 100, cookie)
                .segment(network.segment)
                .ipv4()
                .with(Field::Ipv4Dst, fixed.address.octets())
                .apply_goto(vec![set(Field::EthDst, port.mac.0)], DELIVER),
        );
    }
}
