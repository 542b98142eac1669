//! Routers' ways out of the cloud, on one host: towards the gateway host of a router, and on that host itself.
//!
//! On other hosts than the router's gateway host:
//!
//! | table | what | priority |
//! |---|---|---|
//! | route | to an external subnet: the router's central MAC of the sender's network; on to deliver | 100 + prefix length |
//! | | to anything else that has no route: likewise | 60 |
//! | deliver | to a central MAC: to the gateway host | 200 |
//!
//! On the gateway host:
//!
//! | table | what | priority |
//! |---|---|---|
//! | classify | from the physical network: the external network's segment; on to respond | 100 |
//! | | from the tunnel, of a network that has no port here | 100 |
//! | respond | ARP from outside for the router's address and its floating IPs: answered | 200 |
//! | | any other ARP from outside: what is known of its sender is brought up to date | 150 |
//! | l2 | IPv4 to a central MAC: the router's number to reg3 and reg4, the external segment to reg5; on to dnat | 320 |
//! | | from the tunnel, of a network that has no port here, to any other MAC: dropped | 300 |
//! | | from outside, IPv4 to the router's MAC: its number to reg3, the external segment to reg5; on to dnat | 200 |
//! | | anything else from outside: dropped | 100 |
//! | dnat | to a floating IP: the fixed address, and as if it came from outside | 200 |
//! | | to the router's address: its connection's translation, and as if it came from outside | 200 |
//! | | from outside, to anything else, if the router translates: dropped | 100 |
//! | | all else: on to route | 0 |
//! | route | to an external subnet, or to anything else that has no route: TTL, MTU, the segment; on to snat | as above |
//! | | from another host by a VLAN, an echo request to the router's address: answered, with the tag | 310 |
//! | snat | from outside, tagged: the tag goes | 300 |
//! | | from inside, a sender who has a floating IP: that one | 200 |
//! | | from inside, any other: the router's address and a port of its choice, if it translates | 100 |
//! | | all else: on | 0 |
//! | neighbour | to a next hop that route has found: on to deliver | 200 |
//! | | to the external network: the MAC of the router outside, or of the destination itself; out there | 100, 110 |
//! | | the same, of what came by that link: back there | 105, 115 |
//! | deliver | from the tunnel, routed by the external side, to a MAC elsewhere: back into the tunnel | 310 |
//! | output | from a port to its own floating IP: back to it | 110 |
//!
//! What is sent outside travels on the instance's own segment to its gateway host, and is routed there, once: the
//! *central MAC* of a router's interface is where. Answers are routed from the gateway host to the instance's.
//!
//! What an instance sends to a floating IP or a router's address of its own gateway host never leaves it: `dnat` takes it
//! for something that came in by that router, and `snat` translates the sender (reg4) as if it had gone out.
//!
//! A zone of a router's connections is its number with bit 24 set, which no port has.

use super::carrier::{self, Carrier};
use super::network::arp_answer;
use super::physical;
use super::pipeline::{CLASSIFY, DELIVER, DNAT, L2, NEIGHBOUR, OUTPUT, RESPOND, ROUTE, SNAT};
use super::router::{Interface, of_router};
use super::rule::{RuleBuilder, act, cookie, output, set};
use super::state::HostState;
use crate::model::{Ipv4Prefix, Model, Network, Port, Router, reaches};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use uuid::Uuid;
use weft_proto::v1::{self, Action, DropCause, Field, action};

/// What sets the zones of routers apart from those of ports.
const ROUTER_ZONES: u32 = 0x0100_0000;

/// Of reg6, from route on: the packet came in by the external side.
const FROM_OUTSIDE: u32 = 1;
/// Likewise: `eth_dst` is that of the next hop.
const HOP_KNOWN: u32 = 2;

/// How a router leads out.
pub(super) struct Outside<'a> {
    router: &'a Router,
    /// Its port in the external network.
    pub(super) side: Interface<'a>,
    /// Whether it translates senders.
    snat: bool,
    way: Way,
}

/// Where that is from here.
enum Way {
    /// On this host.
    Here(Link),
    /// On another: what sends there, on a network of the router.
    There(Uuid),
}

/// The external network on the gateway host.
#[derive(Clone, Copy)]
struct Link {
    port: u32,
    /// 0: untagged.
    vlan: u16,
}

impl<'a> Outside<'a> {
    /// `None`: it leads nowhere.
    pub(super) fn of(model: &'a Model, router: &'a Router, host: Uuid) -> Option<Self> {
        let gateway = router.gateway?;
        let port = model.gateway_port(router.id)?;
        let fixed = port.addresses.first()?;
        let network = model.networks.get(gateway.network)?;
        let subnet = model.subnets.get(fixed.subnet)?;
        let gateway_host = model.hosts.get(gateway.host?).filter(|host| reaches(host, network))?;
        let way = if gateway_host.id == host {
            let port = physical::port_of(gateway_host, network.segment_type.physical()?)?.number;
            Way::Here(Link { port, vlan: network.segment_type.vlan() })
        } else {
            Way::There(gateway_host.id)
        };
        let side = Interface { port, address: fixed.address, subnet, network };
        Some(Self { router, side, snat: gateway.snat, way })
    }

    /// Whether this host is the gateway host.
    pub(super) fn is_here(&self) -> bool {
        matches!(self.way, Way::Here(_))
    }

    fn number(&self) -> [u8; 4] {
        self.router.number.to_be_bytes()
    }

    fn segment(&self) -> [u8; 4] {
        self.side.network.segment.to_be_bytes()
    }

    /// What of an instance's becomes the router's, on the gateway host, and what is next.
    pub(super) fn entered(&self) -> (Vec<Action>, u32) {
        let actions =
            vec![set(Field::Reg3, self.number()), set(Field::Reg4, self.number()), set(Field::Reg5, self.segment())];
        (actions, DNAT)
    }

    /// What other hosts send to the central MAC of one of the router's interfaces: from there on it is as if it came
    /// from here.
    pub(super) fn enter_from_afar(&self, state: &mut HostState, interface: &Interface<'_>) {
        let what = format!("what other hosts send out for network {}", interface.network.name);
        let cookie = of_router(state, self.router, "from-afar", &interface.port.id.to_string(), &what);
        let (mut actions, next) = self.entered();
        actions.push(set(Field::EthDst, interface.port.mac.0));
        let central = interface.port.central_mac();
        let rule = RuleBuilder::new(L2, 320, cookie).segment(interface.network.segment).with(Field::EthDst, central.0);
        state.add(rule.ipv4().apply_goto(actions, next));
    }

    /// What leads out for what comes from one of the router's interfaces: ranges of addresses, and priorities.
    fn ranges(&self, model: &Model) -> Vec<(Ipv4Prefix, u32)> {
        let subnets = model.subnets_of(self.side.network.id).map(|subnet| subnet.prefix);
        let everything = Ipv4Prefix::EVERYTHING;
        subnets.map(|prefix| (prefix, 100 + u32::from(prefix.length()))).chain([(everything, 60)]).collect()
    }
}

/// Routes of what comes from one of the router's interfaces: out, or to the gateway host.
pub(super) fn lead_out(state: &mut HostState, model: &Model, outside: &Outside<'_>, from: &Interface<'_>, here: Uuid) {
    let (router, network) = (outside.router, outside.side.network);
    let (actions, next) = match outside.way {
        Way::Here(_) => (super::router::check(from.address, network, &[set(Field::Reg0, outside.segment())]), SNAT),
        Way::There(host) => {
            let Some(way) = carrier::way_to(state, model, from.network, (here, host)) else { return };
            let name = model.hosts.get(host).map_or("", |host| host.name.as_str());
            let what = format!("what network {} sends out, to gateway host {name}", from.network.name);
            let there = of_router(state, router, "to-gateway", &from.port.id.to_string(), &what);
            let central = from.port.central_mac();
            let to = RuleBuilder::new(DELIVER, 200, there).segment(from.network.segment).with(Field::EthDst, central.0);
            state.add(to.apply(way));
            (vec![set(Field::EthDst, central.0)], DELIVER)
        }
    };
    for (prefix, priority) in outside.ranges(model) {
        let what = match priority {
            60 => format!("default route (external network {})", network.name),
            _ => format!("route to {prefix} (external network {})", network.name),
        };
        let cookie = of_router(state, router, "route-out", &prefix.to_string(), &what);
        let route = RuleBuilder::new(ROUTE, priority, cookie)
            .with(Field::Reg3, outside.number())
            .with(Field::EthDst, from.port.mac.0)
            .ipv4()
            .within(Field::Ipv4Dst, prefix);
        state.add(route.apply_goto(actions.clone(), next));
    }
}

/// What has come in by the external side and has been routed, before anything else is done with it.
pub(super) fn from_outside(hop_known: bool) -> Action {
    let flags = if hop_known { FROM_OUTSIDE | HOP_KNOWN } else { FROM_OUTSIDE };
    set(Field::Reg6, flags.to_be_bytes())
}

/// Adds what the host does as the gateway host of routers. `here`: the networks that have ports on it.
pub(super) fn compile(state: &mut HostState, model: &Model, host: Uuid, here: &BTreeSet<Uuid>) {
    let routers: Vec<&Router> = model.routers_leaving_at(host).collect();
    let outsides: Vec<Outside<'_>> =
        routers.iter().filter_map(|router| Outside::of(model, router, host)).filter(Outside::is_here).collect();
    if outsides.is_empty() {
        return;
    }
    common(state);
    let mut external = BTreeSet::new();
    let mut inside = BTreeSet::new();
    for outside in &outsides {
        let Way::Here(link) = outside.way else { continue };
        if external.insert(outside.side.network.id) {
            external_network(state, outside.side.network, link);
        }
        side(state, model, outside, link);
        echo_in_vlans(state, model, outside, host);
        snat(state, model, outside);
        inside.extend(model.networks_of_router(outside.router.id));
    }
    for network in inside.into_iter().filter_map(|network| model.networks.get(network)) {
        carrier::back(state, model, network, host, FROM_OUTSIDE);
        for port in model.ports_plugged(network.id, host) {
            itself(state, port);
        }
        // From physical networks all that have the router let in what is sent to it.
        if !here.contains(&network.id) && network.segment_type.physical().is_none() {
            carrier::admit(state, model, network, host);
        }
    }
}

/// What a port here sends to its own floating IP.
fn itself(state: &mut HostState, port: &Port) {
    let cookie = cookie("itself", &port.id.to_string());
    state.origin(cookie, format!("port {}: what it sends to its own floating IP", port.name));
    let (number, bit) = (port.number.to_be_bytes(), FROM_OUTSIDE.to_be_bytes());
    let rule = RuleBuilder::new(OUTPUT, 110, cookie).in_port(port.number).with(Field::Reg1, number);
    // An output to where it came from has to be said so.
    state.add(rule.with_mask(Field::Reg6, bit, bit).apply(vec![output(weft_proto::PORT_IN_PORT)]));
}

fn of_network(state: &mut HostState, network: &Network, kind: &str, what: &str) -> u64 {
    let cookie = cookie(kind, &network.id.to_string());
    state.origin(cookie, format!("external network {}: {what}", network.name));
    cookie
}

/// What is no router's in particular.
fn common(state: &mut HostState) {
    let untranslated = cookie("dnat-miss", "");
    state.origin(untranslated, "fabric: to an address that is nobody's outside".to_owned());
    state.add(RuleBuilder::new(DNAT, 0, untranslated).goto(ROUTE));
    let unchanged = cookie("snat-miss", "");
    state.origin(unchanged, "fabric: from who is known outside".to_owned());
    state.add(RuleBuilder::new(SNAT, 0, unchanged).goto(NEIGHBOUR));
    let tagged = act(action::Action::PopVlan(v1::PopVlan {}));
    state.add(RuleBuilder::new(SNAT, 300, unchanged).tagged().apply_goto(vec![tagged], NEIGHBOUR));
    let known = cookie("hop-known", "");
    state.origin(known, "fabric: by a route whose next hop is known".to_owned());
    let hop = HOP_KNOWN.to_be_bytes();
    state.add(RuleBuilder::new(NEIGHBOUR, 200, known).with_mask(Field::Reg6, hop, hop).goto(DELIVER));
}

/// What the external network sends that is no router's in particular.
fn external_network(state: &mut HostState, network: &Network, link: Link) {
    let received = of_network(state, network, "external", "packets from outside");
    let tag = if link.vlan == 0 { [0, 0] } else { (0x1000 | link.vlan).to_be_bytes() };
    let mask = if link.vlan == 0 { [0x10, 0] } else { [0x1f, 0xff] };
    state.add(
        RuleBuilder::new(CLASSIFY, 100, received)
            .in_port(link.port)
            .with_mask(Field::VlanTci, tag, mask)
            .apply_goto(vec![set(Field::Reg0, network.segment.to_be_bytes())], RESPOND),
    );
    let learn = of_network(state, network, "external-arp", "ARP that tells where somebody is");
    let action = action::Action::LearnNeighbour(v1::LearnNeighbour { port: link.port, vlan: link.vlan.into() });
    state.add(RuleBuilder::new(RESPOND, 150, learn).segment(network.segment).arp().apply(vec![act(action)]));
    let stray = of_network(state, network, "external-stray", "packets that are for nobody here");
    state.add(RuleBuilder::new(L2, 100, stray).segment(network.segment).drop(DropCause::Elsewhere));
}

/// What comes to the router's external side, and where it sends.
fn side(state: &mut HostState, model: &Model, outside: &Outside<'_>, link: Link) {
    let (router, network, mac) = (outside.router, outside.side.network, outside.side.port.mac);
    let address = outside.side.address;
    let enters = of_router(
        state,
        router,
        "outside",
        "enters",
        &format!("what external network {} sends to its MAC", network.name),
    );
    state.add(
        RuleBuilder::new(L2, 200, enters)
            .segment(network.segment)
            .with(Field::EthDst, mac.0)
            .ipv4()
            .apply_goto(vec![set(Field::Reg3, outside.number()), set(Field::Reg5, outside.segment())], DNAT),
    );
    let arrives = || vec![set(Field::Reg3, outside.number()), set(Field::EthDst, mac.0)];
    let announce = |state: &mut HostState, address: Ipv4Addr| {
        physical::take(state, link.port, address);
        state.announce(v1::Announcement {
            port: link.port,
            vlan: link.vlan.into(),
            address: address.octets().to_vec(),
            mac: mac.0.to_vec(),
        });
    };
    let own = of_router(state, router, "outside", "own", &format!("its external address {address}"));
    state.add(arp_answer(own, network, address, mac));
    announce(state, address);
    let to = |address: Ipv4Addr, cookie| {
        RuleBuilder::new(DNAT, 200, cookie)
            .with(Field::Reg5, outside.segment())
            .ipv4()
            .with(Field::Ipv4Dst, address.octets())
    };
    let known = act(action::Action::Ct(v1::ConnectionTrack {
        zone: ROUTER_ZONES + router.number,
        nat: true,
        ..Default::default()
    }));
    state.add(to(address, own).apply_goto([arrives(), vec![known]].concat(), ROUTE));
    for (floating, fixed) in model.floating_ips_behind(router.id) {
        let name = model.floating_ips[floating.id].target.and_then(|target| model.ports.get(target.port));
        let name = name.map_or("", |port| port.name.as_str());
        let cookie = cookie("floating-ip", &floating.id.to_string());
        state.origin(cookie, format!("floating IP {} of port {name} ({})", floating.address, fixed.address));
        state.add(arp_answer(cookie, network, floating.address, mac));
        announce(state, floating.address);
        let destination = fixed.address.octets().to_vec();
        let translate = act(action::Action::Translate(v1::Translate { destination, ..Default::default() }));
        state.add(to(floating.address, cookie).apply_goto([arrives(), vec![translate]].concat(), ROUTE));
    }
    if outside.snat {
        let hidden =
            of_router(state, router, "outside", "hidden", "from outside, to an address that is not known there");
        let rule = RuleBuilder::new(DNAT, 100, hidden).with(Field::Reg3, outside.number()).with(Field::Reg4, [0; 4]);
        state.add(rule.drop(DropCause::Policy));
    }
    let leaves = |priority, cookie| {
        RuleBuilder::new(NEIGHBOUR, priority, cookie)
            .segment(network.segment)
            .with(Field::Reg3, outside.number())
            .ipv4()
    };
    let send = |hop: Option<Ipv4Addr>, by: u32| {
        let neighbour = act(action::Action::Neighbour(v1::Neighbour {
            port: link.port,
            source: address.octets().to_vec(),
            mac: mac.0.to_vec(),
            vlan: link.vlan.into(),
            hop: hop.map_or(Vec::new(), |hop| hop.octets().to_vec()),
        }));
        let mut actions = vec![set(Field::EthSrc, mac.0), neighbour];
        actions.extend(carrier::onto(link.vlan, output(by)));
        actions
    };
    // What came in by the link may go out there again: a VLAN network of the router's on the same physical network. An
    // output to where it came from has to be said so.
    let both = |state: &mut HostState, priority, cookie, prefix: Option<Ipv4Prefix>, hop| {
        let rule = |priority| {
            let rule = leaves(priority, cookie);
            if let Some(prefix) = prefix { rule.within(Field::Ipv4Dst, prefix) } else { rule }
        };
        state.add(rule(priority).apply(send(hop, link.port)));
        state.add(rule(priority + 5).in_port(link.port).apply(send(hop, weft_proto::PORT_IN_PORT)));
    };
    for subnet in model.subnets_of(network.id) {
        let what = format!("to {} (external network {}), whose stations are on the link", subnet.prefix, network.name);
        let direct = of_router(state, router, "outside", &subnet.id.to_string(), &what);
        both(state, 110, direct, Some(subnet.prefix), None);
    }
    let hop = outside.side.subnet.gateway;
    let what = hop.map_or(String::from("out"), |hop| format!("out, by {hop} (external network {})", network.name));
    let onward = of_router(state, router, "outside", "onward", &what);
    both(state, 100, onward, None, hop);
}

/// Answers to echo requests that came from other hosts by a VLAN, whose tag was taken off: an answer goes back as the
/// question is then.
fn echo_in_vlans(state: &mut HostState, model: &Model, outside: &Outside<'_>, host: Uuid) {
    let (router, address) = (outside.router, outside.side.address);
    for network in model.networks_of_router(router.id).into_iter().filter_map(|network| model.networks.get(network)) {
        let Some(Carrier::Physical { port, vlan }) = Carrier::of(state, model, network, host) else { continue };
        if vlan == 0 {
            continue;
        }
        let what = format!("its external address {address}, asked from the VLAN of network {}", network.name);
        let cookie = of_router(state, router, "outside-echo", &network.id.to_string(), &what);
        let request = RuleBuilder::new(ROUTE, 310, cookie)
            .in_port(port)
            .segment(network.segment)
            .with(Field::Reg3, outside.number())
            .ipv4()
            .with(Field::Ipv4Dst, address.octets())
            .with(Field::IpProto, [1])
            .with(Field::IcmpType, [8]);
        state.add(request.apply(carrier::onto(vlan, act(action::Action::IcmpReply(v1::IcmpReply {})))));
    }
}

/// Under which address the router's senders are known outside.
fn snat(state: &mut HostState, model: &Model, outside: &Outside<'_>) {
    let router = outside.router;
    let from = |priority, cookie| RuleBuilder::new(SNAT, priority, cookie).with(Field::Reg4, outside.number()).ipv4();
    for (floating, fixed) in model.floating_ips_behind(router.id) {
        // Its origin stands with the other direction.
        let cookie = cookie("floating-ip", &floating.id.to_string());
        let source = floating.address.octets().to_vec();
        let translate = act(action::Action::Translate(v1::Translate { source, ..Default::default() }));
        let rule = from(200, cookie).with(Field::Ipv4Src, fixed.address.octets());
        state.add(rule.apply_goto(vec![translate], NEIGHBOUR));
    }
    if !outside.snat {
        return;
    }
    let address = outside.side.address;
    let what = format!("source NAT to {address}");
    let hidden = of_router(state, router, "snat", "", &what);
    let translate = act(action::Action::Ct(v1::ConnectionTrack {
        zone: ROUTER_ZONES + router.number,
        commit: true,
        follow_policy: true,
        nat: true,
        source: Some(v1::SourceNat { address: address.octets().to_vec(), first_port: 1024, last_port: 65535 }),
        ..Default::default()
    }));
    state.add(from(100, hidden).apply_goto(vec![translate], NEIGHBOUR));
}
