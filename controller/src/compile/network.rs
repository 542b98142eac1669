//! The rules of one network on one host. What leads to other hosts is in `carrier.rs`, tagged frames of instances in
//! `tagged.rs`.
//!
//! | table | what | priority |
//! |---|---|---|
//! | classify | from a port here | 100 |
//! | port_security | tagged: dropped, but for networks that carry it | 200 |
//! | | IPv4, ARP and DHCP under the port's own addresses: on | 100 |
//! | | IPv4 and ARP under its address pairs: on | 100 |
//! | | anything else of the port: dropped as spoofed | 10 |
//! | | without port security, anything untagged: on | 100 |
//! | respond | ARP for the port's own address (a probe, an announcement): on, unanswered | 300 |
//! | | ARP for any address of the network; DHCP: answered | 200 |
//! | l2 | to a router's MAC: see `router.rs` | 200 |
//! | | ARP to a group: to every port here, and to all other hosts | 160 |
//! | | IPv4 to a group: likewise, through the firewalls of ports here that have one | 155 |
//! | | anything else to a group: likewise, but only for ports that have no port security | 150 |
//! | | to anything else: on to deliver | 0 |
//! | deliver | to a MAC here: its port's number to reg1, on through its firewall | 400 |
//! | | to a MAC elsewhere: through the tunnel to its host | 200 |
//! | | in a tunnel's network, to anything else: dropped as unknown | 0 |
//!
//! A broadcast or multicast branches: a copy for each guarded port passes that port's firewall, on the host where the
//! port is. What security groups have no rules for (neither IPv4 nor ARP) is not even copied for them.

use super::carrier::{self, Carrier};
use super::firewall::{Policies, guard};
use super::pipeline::{CLASSIFY, DELIVER, INGRESS_TRACK, L2, PORT_SECURITY, RESPOND};
use super::rule::{RuleBuilder, act, branch, cookie, output, set};
use super::state::HostState;
use super::tagged;
use crate::model::{Mac, Model, Network, Port, Subnet, host_label};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use uuid::Uuid;
use weft_proto::v1::{self, Action, DropCause, Field, action, port_spec};

/// Kinds of floods, in words.
pub(super) const FLOOD_ARP: &str = "ARP to everybody";
pub(super) const FLOOD_IPV4: &str = "IPv4 broadcast and multicast, through each port's firewall";
pub(super) const FLOOD: &str =
    "broadcast and multicast other than IPv4 and ARP, which only ports without port security take";

/// Where what is sent to everybody goes.
#[derive(Default)]
pub(super) struct Flood {
    /// To the ports here.
    pub here: Vec<Action>,
    /// The other hosts that have ports and an underlay.
    hosts: Vec<Ipv4Addr>,
}

impl Flood {
    /// Out of ports, and to where there may be others; for what came from there the former alone.
    pub fn actions(&self, network: &Network, carrier: Option<Carrier>) -> Vec<Action> {
        let mut actions = self.here.clone();
        actions.extend(carrier.map(|carrier| carrier.flood(network, &self.hosts)).unwrap_or_default());
        actions
    }
}

/// Which ports take what.
#[derive(Default)]
pub(super) struct Floods {
    /// All, as they are.
    pub all: Flood,
    /// All, those with port security through their firewalls.
    pub guarded: Flood,
    /// Those without port security.
    pub open: Flood,
}

/// Adds the network's part of a host's state.
pub(super) fn compile(
    state: &mut HostState,
    model: &Model,
    (network, host): (Uuid, Uuid),
    policies: &Policies,
    subscriptions: &BTreeSet<Uuid>,
) {
    let Some(network) = model.networks.get(network) else { return };
    let carrier = Carrier::of(state, model, network, host);
    // To all ports, whatever their firewalls say, and through these; and to those without port security.
    let mut floods = Floods::default();
    let Floods { all, guarded, open } = &mut floods;
    for place in model.hosts_of(network.id) {
        let remote = model.hosts.get(place).filter(|remote| remote.id != host);
        // One copy, whatever addresses it has.
        if let Some(underlay) = remote.and_then(|remote| remote.tunnel_end(network.id)) {
            if model.ports_plugged(network.id, place).any(|port| !port.port_security) {
                open.hosts.push(underlay);
            }
            guarded.hosts.push(underlay);
            all.hosts.push(underlay);
        }
        for port in model.ports_plugged(network.id, place) {
            if remote.is_some() && network.reactive && !subscriptions.contains(&port.id) {
                continue;
            }
            answer_arp(state, network, port);
            let Some(remote) = remote else {
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
                continue;
            };
            // Else there is no way to that host, from here or at all.
            if let (Some(carrier), Some(underlay)) = (carrier, remote.tunnel_end_of(port)) {
                carrier.deliver(state, network, port, (&remote.name, underlay));
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
    if let Some(carrier) = carrier {
        carrier.arrive(state, network, &floods);
    }
    whole_network(state, network, &floods, carrier);
    if network.vlan_transparent {
        tagged::compile(state, model, (network, host), &floods.open, carrier);
    }
    carrier::unknown(state, model, network, host, carrier);
}

/// Adds what it takes to send to the ports of a network that has none here.
pub(super) fn reach(state: &mut HostState, model: &Model, network: &Network, host: Uuid) {
    let carrier = Carrier::of(state, model, network, host);
    carrier::unknown(state, model, network, host, carrier);
    let Some(carrier) = carrier else { return };
    for remote in model.hosts_of(network.id).filter_map(|place| model.hosts.get(place)) {
        for port in model.ports_plugged(network.id, remote.id).filter(|_| remote.id != host) {
            let Some(underlay) = remote.tunnel_end_of(port) else { continue };
            carrier.deliver(state, network, port, (&remote.name, underlay));
        }
    }
}

pub(super) fn of_port(state: &mut HostState, network: &Network, port: &Port, kind: &str, what: &str) -> u64 {
    let cookie = cookie(kind, &port.id.to_string());
    state.origin(cookie, format!("port {} (network {}): {what}", port.name, network.name));
    cookie
}

pub(super) fn of_network(state: &mut HostState, network: &Network, kind: &str, what: &str) -> u64 {
    let cookie = cookie(kind, &network.id.to_string());
    state.origin(cookie, format!("network {}: {what}", network.name));
    cookie
}

/// Without anywhere to go, a policy.
pub(super) fn or_drop(rule: RuleBuilder, actions: Vec<Action>) -> v1::Rule {
    if actions.is_empty() { rule.drop(DropCause::Policy) } else { rule.apply(actions) }
}

/// What concerns the network as a whole: frames from here.
fn whole_network(state: &mut HostState, network: &Network, floods: &Floods, carrier: Option<Carrier>) {
    let arp = of_network(state, network, "flood-arp", FLOOD_ARP);
    let ipv4 = of_network(state, network, "flood-ipv4", FLOOD_IPV4);
    let group = of_network(state, network, "flood", FLOOD);
    let unicast = of_network(state, network, "unicast", "to one station");
    let from_here = |priority, cookie| RuleBuilder::new(L2, priority, cookie).segment(network.segment);
    state.add(from_here(160, arp).arp().group().apply(floods.all.actions(network, carrier)));
    state.add(from_here(155, ipv4).ipv4().group().apply(floods.guarded.actions(network, carrier)));
    state.add(or_drop(from_here(150, group).group(), floods.open.actions(network, carrier)));
    state.add(from_here(0, unicast).goto(DELIVER));
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

/// The port as the switch should have it; `None` if it is not plugged.
#[must_use]
pub fn spec_of(network: &Network, port: &Port) -> Option<v1::PortSpec> {
    let plug = port.plug.as_ref()?;
    let mac = port.mac.0.to_vec();
    let kind = if plug.vhost_user {
        let socket = plug.interface.clone();
        port_spec::Kind::VhostUser(v1::VhostUserPort { socket, mac, mtu: network.mtu, queues: 0 })
    } else {
        let (interface, netns) = (plug.interface.clone(), plug.netns.clone());
        port_spec::Kind::Tap(v1::TapPort { interface, netns, mac, mtu: network.mtu })
    };
    Some(v1::PortSpec {
        number: port.number,
        // Names of ports need not be unique in the cloud; on a switch they must be.
        name: format!("{}.{}", port.name, port.number),
        owner: v1::Owner::Fabric.into(),
        kind: Some(kind),
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
    tagged::leave(state, network, port);
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
