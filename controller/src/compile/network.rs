//! The rules of one VXLAN network on one host.
//!
//! | table | what | priority |
//! |---|---|---|
//! | classify | from a port here; from the tunnel under the network's VNI | 100 |
//! | port_security | tagged: dropped | 200 |
//! | | IPv4, ARP and DHCP under the port's own addresses: on | 100 |
//! | | IPv4 and ARP under its address pairs: on | 100 |
//! | | anything else of the port: dropped as spoofed | 10 |
//! | | without port security, anything untagged: on | 100 |
//! | respond | ARP for the port's own address (a probe, an announcement): on, unanswered | 300 |
//! | | ARP for any address of the network; DHCP: answered | 200 |
//! | l2 | from the tunnel, ARP to a group: to every port here, never back to the tunnel | 360 |
//! | | from the tunnel, IPv4 to a group: to every port here, through its firewall if it has one | 355 |
//! | | from the tunnel, anything else to a group: to every port here that has no port security | 350 |
//! | | from the tunnel, to anything else: on to deliver | 300 |
//! | | to a router's MAC: see `router.rs` | 200 |
//! | | ARP to a group: to every port here, and one copy to each host that has ports (head-end replication) | 160 |
//! | | IPv4 to a group: likewise, through the firewalls of ports here that have one | 155 |
//! | | anything else to a group: likewise, but only for ports that have no port security | 150 |
//! | | to anything else: on to deliver | 0 |
//! | deliver | to a MAC here: its port's number to reg1, on through its firewall | 400 |
//! | | from the tunnel, to anything else: dropped | 300 |
//! | | to a MAC elsewhere: through the tunnel to its host | 200 |
//! | | to anything else: dropped as unknown | 0 |
//!
//! A broadcast or multicast branches: a copy for each guarded port passes that port's firewall, on the host where the
//! port is. What security groups have no rules for (neither IPv4 nor ARP) is not even copied for them.

use super::firewall::{Policies, guard};
use super::pipeline::{CLASSIFY, DELIVER, INGRESS_TRACK, L2, PORT_SECURITY, RESPOND, TUNNEL_PORT};
use super::rule::{RuleBuilder, act, branch, cookie, output, set};
use super::state::HostState;
use crate::model::{Host, Mac, Model, Network, Port, SegmentType, Subnet, host_label};
use std::net::Ipv4Addr;
use uuid::Uuid;
use weft_proto::v1::{self, Action, DropCause, Field, action, port_spec};

/// Where what is sent to everybody goes.
#[derive(Default)]
struct Flood {
    /// To the ports here.
    here: Vec<Action>,
    /// To the other hosts that have ports.
    elsewhere: Vec<Action>,
}

impl Flood {
    /// Out of ports, and into the tunnel; for what came from the tunnel the former alone.
    fn actions(&self, network: &Network) -> Vec<Action> {
        let mut actions = self.here.clone();
        if !self.elsewhere.is_empty() {
            actions.push(set(Field::TunId, u64::from(network.segment).to_be_bytes()));
            actions.extend(self.elsewhere.iter().cloned());
        }
        actions
    }
}

/// Which ports take what.
#[derive(Default)]
struct Floods {
    /// All, as they are.
    all: Flood,
    /// All, those with port security through their firewalls.
    guarded: Flood,
    /// Those without port security.
    open: Flood,
}

/// Adds the network's part of a host's state.
pub(super) fn compile(state: &mut HostState, model: &Model, (network, host): (Uuid, Uuid), policies: &Policies) {
    let Some(network) = model.networks.get(network) else { return };
    let tunnel = network.segment_type == SegmentType::Vxlan && state.ports.contains_key(&TUNNEL_PORT);
    // To all ports, whatever their firewalls say, and through these; and to those without port security.
    let mut floods = Floods::default();
    let Floods { all, guarded, open } = &mut floods;
    for place in model.hosts_of(network.id) {
        let remote = model.hosts.get(place).filter(|remote| remote.id != host);
        let underlay = remote.and_then(|remote| remote.underlay);
        if let Some(underlay) = underlay.filter(|_| tunnel) {
            let copy = [set(Field::TunDst, underlay.octets()), output(TUNNEL_PORT)];
            if model.ports_plugged(network.id, place).any(|port| !port.port_security) {
                open.elsewhere.extend(copy.clone());
            }
            guarded.elsewhere.extend(copy.clone());
            all.elsewhere.extend(copy);
        }
        for port in model.ports_plugged(network.id, place) {
            answer_arp(state, network, port);
            match (remote, underlay) {
                (None, _) => {
                    local_port(state, model, network, port);
                    guard(state, port, policies.get(port));
                    all.here.push(output(port.number));
                    if port.port_security {
                        let to = set(Field::Reg1, port.number.to_be_bytes());
                        guarded.here.push(branch(vec![to], INGRESS_TRACK));
                    } else {
                        guarded.here.push(output(port.number));
                        open.here.push(output(port.number));
                    }
                }
                (Some(remote), Some(underlay)) if tunnel => remote_port(state, network, port, remote, underlay),
                // There is no way to that host, from here or at all.
                (Some(_), _) => {}
            }
        }
    }
    for subnet in model.subnets_of(network.id) {
        if let Some(address) = subnet.dhcp {
            let cookie = cookie("dhcp-arp", &subnet.id.to_string());
            let text = format!("subnet {} (network {}): ARP for its DHCP address", subnet.name, network.name);
            state.origin(cookie, text);
            state.add(arp_answer(cookie, network, address, subnet.dhcp_mac()));
        }
    }
    whole_network(state, network, tunnel, &floods);
    unknown(state, network);
}

/// Adds what it takes to send to the ports of a network that has none here.
pub(super) fn reach(state: &mut HostState, model: &Model, network: &Network, host: Uuid) {
    unknown(state, network);
    if network.segment_type != SegmentType::Vxlan || !state.ports.contains_key(&TUNNEL_PORT) {
        return;
    }
    for remote in model.hosts_of(network.id).filter_map(|place| model.hosts.get(place)) {
        let Some(underlay) = remote.underlay.filter(|_| remote.id != host) else { continue };
        for port in model.ports_plugged(network.id, remote.id) {
            remote_port(state, network, port, remote, underlay);
        }
    }
}

fn of_port(state: &mut HostState, network: &Network, port: &Port, kind: &str, what: &str) -> u64 {
    let cookie = cookie(kind, &port.id.to_string());
    state.origin(cookie, format!("port {} (network {}): {what}", port.name, network.name));
    cookie
}

fn of_network(state: &mut HostState, network: &Network, kind: &str, what: &str) -> u64 {
    let cookie = cookie(kind, &network.id.to_string());
    state.origin(cookie, format!("network {}: {what}", network.name));
    cookie
}

/// What concerns the network as a whole.
fn whole_network(state: &mut HostState, network: &Network, tunnel: bool, floods: &Floods) {
    let Floods { all, guarded, open } = floods;
    let segment = network.segment;
    let arp = of_network(state, network, "flood-arp", "ARP to everybody");
    let ipv4 = of_network(state, network, "flood-ipv4", "IPv4 broadcast and multicast, through each port's firewall");
    let group = of_network(
        state,
        network,
        "flood",
        "broadcast and multicast other than IPv4 and ARP, which only ports without port security take",
    );
    let unicast = of_network(state, network, "unicast", "to one station");
    let or_drop = |rule: RuleBuilder, actions: Vec<Action>| {
        if actions.is_empty() { rule.drop(DropCause::Policy) } else { rule.apply(actions) }
    };
    if tunnel {
        from_tunnel(state, network);
        let from_tunnel =
            |priority, cookie| RuleBuilder::new(L2, priority, cookie).in_port(TUNNEL_PORT).segment(segment);
        state.add(from_tunnel(360, arp).arp().group().apply(all.here.clone()));
        state.add(from_tunnel(355, ipv4).ipv4().group().apply(guarded.here.clone()));
        state.add(or_drop(from_tunnel(350, group).group(), open.here.clone()));
        state.add(from_tunnel(300, unicast).goto(DELIVER));
        let stray = of_network(state, network, "tunnel-stray", "from other hosts, to a MAC that is not here");
        let stray = RuleBuilder::new(DELIVER, 300, stray).in_port(TUNNEL_PORT).segment(segment);
        state.add(stray.drop(DropCause::UnknownDestination));
    }
    let from_here = |priority, cookie| RuleBuilder::new(L2, priority, cookie).segment(segment);
    state.add(from_here(160, arp).arp().group().apply(all.actions(network)));
    state.add(from_here(155, ipv4).ipv4().group().apply(guarded.actions(network)));
    state.add(or_drop(from_here(150, group).group(), open.actions(network)));
    state.add(from_here(0, unicast).goto(DELIVER));
}

/// What sends to a host on a network; `None`: there is no way to it.
pub(super) fn way_to(state: &HostState, model: &Model, network: &Network, host: Uuid) -> Option<Vec<Action>> {
    let underlay = model.hosts.get(host)?.underlay.filter(|_| state.ports.contains_key(&TUNNEL_PORT))?;
    Some(through_tunnel(network, underlay, output(TUNNEL_PORT)))
}

fn through_tunnel(network: &Network, underlay: Ipv4Addr, output: Action) -> Vec<Action> {
    vec![set(Field::TunId, u64::from(network.segment).to_be_bytes()), set(Field::TunDst, underlay.octets()), output]
}

/// Adds what lets in from other hosts a network that has no port here, for routers that it sends out by.
pub(super) fn admit(state: &mut HostState, network: &Network) {
    if !state.ports.contains_key(&TUNNEL_PORT) {
        return;
    }
    from_tunnel(state, network);
    let stray = of_network(state, network, "tunnel-stray", "from other hosts, to a MAC that is not here");
    let rule = RuleBuilder::new(L2, 300, stray).in_port(TUNNEL_PORT).segment(network.segment);
    state.add(rule.drop(DropCause::UnknownDestination));
}

/// Adds what it takes to send back into the tunnel what came from it and was routed here. `routed` is the bit of reg6
/// that says so.
pub(super) fn back(state: &mut HostState, model: &Model, network: &Network, host: Uuid, routed: u32) {
    if !state.ports.contains_key(&TUNNEL_PORT) {
        return;
    }
    let bit = routed.to_be_bytes();
    for remote in model.hosts_of(network.id).filter_map(|place| model.hosts.get(place)) {
        let Some(underlay) = remote.underlay.filter(|_| remote.id != host) else { continue };
        for port in model.ports_plugged(network.id, remote.id) {
            let what = format!("delivery back through the tunnel to host {}", remote.name);
            let cookie = of_port(state, network, port, "delivery-back", &what);
            let to = RuleBuilder::new(DELIVER, 310, cookie)
                .in_port(TUNNEL_PORT)
                .segment(network.segment)
                .with_mask(Field::Reg6, bit, bit)
                .with(Field::EthDst, port.mac.0);
            // An output to where it came from has to be said so.
            state.add(to.apply(through_tunnel(network, underlay, output(weft_proto::PORT_IN_PORT))));
        }
    }
}

fn from_tunnel(state: &mut HostState, network: &Network) {
    let cookie = of_network(state, network, "from-tunnel", "packets from the tunnel");
    state.add(
        RuleBuilder::new(CLASSIFY, 100, cookie)
            .in_port(TUNNEL_PORT)
            .with(Field::TunId, u64::from(network.segment).to_be_bytes())
            .apply_goto(vec![set(Field::Reg0, network.segment.to_be_bytes())], L2),
    );
}

/// What is for nobody.
fn unknown(state: &mut HostState, network: &Network) {
    let unknown = of_network(state, network, "unknown-unicast", "to a MAC that no port of it has");
    let rule = RuleBuilder::new(DELIVER, 0, unknown).segment(network.segment);
    state.add(rule.drop(DropCause::UnknownDestination));
}

pub(super) fn arp_answer(cookie: u64, network: &Network, address: Ipv4Addr, mac: Mac) -> v1::Rule {
    let reply = act(action::Action::ArpReply(v1::ArpReply { mac: mac.0.to_vec() }));
    RuleBuilder::new(RESPOND, 200, cookie).segment(network.segment).arp_request(address).apply(vec![reply])
}

fn answer_arp(state: &mut HostState, network: &Network, port: &Port) {
    let cookie = of_port(state, network, port, "arp", "ARP for its addresses");
    for fixed in &port.addresses {
        state.add(arp_answer(cookie, network, fixed.address, port.mac));
    }
}

fn remote_port(state: &mut HostState, network: &Network, port: &Port, host: &Host, underlay: Ipv4Addr) {
    let what = format!("delivery through the tunnel to host {}", host.name);
    let cookie = of_port(state, network, port, "delivery", &what);
    let to = RuleBuilder::new(DELIVER, 200, cookie).segment(network.segment).with(Field::EthDst, port.mac.0);
    state.add(to.apply(through_tunnel(network, underlay, output(TUNNEL_PORT))));
}

/// The port as the switch should have it; `None` if it is not plugged.
#[must_use]
pub fn spec_of(network: &Network, port: &Port) -> Option<v1::PortSpec> {
    let plug = port.plug.as_ref()?;
    let tap = v1::TapPort {
        interface: plug.interface.clone(),
        netns: plug.netns.clone(),
        mac: port.mac.0.to_vec(),
        mtu: network.mtu,
    };
    Some(v1::PortSpec {
        number: port.number,
        // Names of ports need not be unique in the cloud; on a switch they must be.
        name: format!("{}.{}", port.name, port.number),
        owner: v1::Owner::Fabric.into(),
        kind: Some(port_spec::Kind::Tap(tap)),
    })
}

/// A port that is plugged here: itself, and its rules in every table.
fn local_port(state: &mut HostState, model: &Model, network: &Network, port: &Port) {
    let Some(spec) = spec_of(network, port) else { return };
    state.ports.insert(port.number, spec);
    let classify = of_port(state, network, port, "classify", "packets it sends");
    state.add(
        RuleBuilder::new(CLASSIFY, 100, classify)
            .in_port(port.number)
            .apply_goto(vec![set(Field::Reg0, network.segment.to_be_bytes())], PORT_SECURITY),
    );
    let tagged = of_port(state, network, port, "tagged", "tagged frames, which the network does not carry");
    state.add(RuleBuilder::new(PORT_SECURITY, 200, tagged).in_port(port.number).tagged().drop(DropCause::Policy));
    if port.port_security {
        secure(state, network, port);
    } else {
        let anything = of_port(state, network, port, "unsecured", "anything: its port security is off");
        state.add(RuleBuilder::new(PORT_SECURITY, 100, anything).in_port(port.number).goto(RESPOND));
    }
    respond(state, model, network, port);
    let delivery = of_port(state, network, port, "delivery", "delivery");
    state.add(
        RuleBuilder::new(DELIVER, 400, delivery)
            .segment(network.segment)
            .with(Field::EthDst, port.mac.0)
            .apply_goto(vec![set(Field::Reg1, port.number.to_be_bytes())], INGRESS_TRACK),
    );
}

/// What the port may send.
fn secure(state: &mut HostState, network: &Network, port: &Port) {
    let allowed = of_port(state, network, port, "own-addresses", "its own addresses");
    let from = || RuleBuilder::new(PORT_SECURITY, 100, allowed).in_port(port.number).with(Field::EthSrc, port.mac.0);
    for fixed in &port.addresses {
        state.add(from().ipv4().with(Field::Ipv4Src, fixed.address.octets()).goto(RESPOND));
    }
    // 0.0.0.0: a probe, whether an address is in use (RFC 5227, 2.1.1).
    let probes = [Ipv4Addr::UNSPECIFIED];
    for sender in port.addresses.iter().map(|fixed| fixed.address).chain(probes) {
        let arp = from().arp().with(Field::ArpSha, port.mac.0).with(Field::ArpSpa, sender.octets());
        state.add(arp.goto(RESPOND));
    }
    for pair in &port.pairs {
        let paired = of_port(state, network, port, "address-pairs", "its address pairs");
        let mac = pair.mac.unwrap_or(port.mac);
        let from = || RuleBuilder::new(PORT_SECURITY, 100, paired).in_port(port.number).with(Field::EthSrc, mac.0);
        // One of its own addresses may be in them.
        state.add_if_new(from().ipv4().within(Field::Ipv4Src, pair.prefix).goto(RESPOND));
        let arp = from().arp().with(Field::ArpSha, mac.0).within(Field::ArpSpa, pair.prefix);
        state.add_if_new(arp.goto(RESPOND));
    }
    let client = from().dhcp_request(Ipv4Addr::BROADCAST).with(Field::Ipv4Src, Ipv4Addr::UNSPECIFIED.octets());
    state.add(client.goto(RESPOND));

    // Otherwise an instance could give addresses to others (and RFC 8415's server ports to come).
    let server = of_port(state, network, port, "dhcp-server", "DHCP answers, which only the switch gives");
    state.add(RuleBuilder::new(PORT_SECURITY, 150, server).in_port(port.number).dhcp_answer().drop(DropCause::Policy));
    // Every Linux instance sends some: it is no spoofing.
    let ipv6 = of_port(state, network, port, "ipv6", "IPv6, which the network does not carry yet");
    let own = RuleBuilder::new(PORT_SECURITY, 90, ipv6).in_port(port.number).with(Field::EthSrc, port.mac.0);
    state.add(own.ipv6().drop(DropCause::Policy));

    let spoofed = of_port(state, network, port, "anti-spoofing", "anti-spoofing");
    state.add(RuleBuilder::new(PORT_SECURITY, 10, spoofed).in_port(port.number).drop(DropCause::Spoofed));
}

/// What the port is answered.
fn respond(state: &mut HostState, model: &Model, network: &Network, port: &Port) {
    let own = of_port(state, network, port, "own-arp", "ARP probes and announcements of its own addresses");
    for fixed in &port.addresses {
        // An answer would look to it like a conflict (RFC 5227, 2.1.1).
        state.add(RuleBuilder::new(RESPOND, 300, own).in_port(port.number).arp_request(fixed.address).goto(L2));
    }
    let served = port.addresses.iter().find_map(|fixed| {
        let subnet = model.subnets.get(fixed.subnet)?;
        Some((fixed.address, subnet, subnet.dhcp?))
    });
    let Some((address, subnet, server)) = served else { return };
    let dhcp = of_port(state, network, port, "dhcp", "DHCP");
    let reply = act(action::Action::DhcpReply(dhcp_reply(network, port, subnet, address, server)));
    for destination in [Ipv4Addr::BROADCAST, server] {
        state.add(
            RuleBuilder::new(RESPOND, 200, dhcp)
                .in_port(port.number)
                .dhcp_request(destination)
                .apply(vec![reply.clone()]),
        );
    }
}

fn dhcp_reply(network: &Network, port: &Port, subnet: &Subnet, address: Ipv4Addr, server: Ipv4Addr) -> v1::DhcpReply {
    let octets = |address: Ipv4Addr| address.octets().to_vec();
    let mut routes: Vec<v1::ClasslessRoute> = subnet
        .routes
        .iter()
        .map(|route| v1::ClasslessRoute {
            destination: octets(route.destination.address()),
            prefix_length: route.destination.length().into(),
            next_hop: octets(route.next_hop),
        })
        .collect();
    // RFC 3442: a client that takes classless routes ignores the router, so the default route is one of
    // them too, unless the subnet's own routes have one.
    let has_default = routes.iter().any(|route| route.prefix_length == 0);
    if let Some(gateway) = subnet.gateway.filter(|_| !routes.is_empty() && !has_default) {
        routes.push(v1::ClasslessRoute {
            destination: octets(Ipv4Addr::UNSPECIFIED),
            prefix_length: 0,
            next_hop: octets(gateway),
        });
    }
    v1::DhcpReply {
        address: octets(address),
        prefix_length: subnet.prefix.length().into(),
        server_address: octets(server),
        server_mac: subnet.dhcp_mac().0.to_vec(),
        router: subnet.gateway.map(octets).unwrap_or_default(),
        dns_servers: subnet.dns.iter().copied().map(octets).collect(),
        mtu: network.mtu,
        lease_seconds: subnet.lease_seconds,
        host_name: host_label(&port.name, address),
        domain_name: subnet.domain.clone(),
        routes,
    }
}
