//! Stations of physical networks that nobody told the controller of, as a router's neighbours: it sends to them, and they
//! to it, on every host that reaches their network.
//!
//! | table | what | priority |
//! |---|---|---|
//! | l2 | from the physical network, to the router's MAC of this host: answers to ARP are learnt from | 330 |
//! | | ARP requests for its address: answered, with that MAC | 330 |
//! | | IPv4: as if a port here had sent it to the router; on to route, or dnat on its gateway host | 330 |
//! | | ARP requests to everybody for its address: answered likewise, by one host of the cloud | 370 |
//! | route | echo requests to its address that came so: answered, from that MAC and with the tag | 320 |
//! | neighbour | to an address of the subnet that no plugged port has: found by ARP; on to deliver | 20 |
//! | deliver | what came so and goes on by the same wire: back there, from that MAC | 310 |
//!
//! On the wire a router has a MAC for each host ([`Mac::of_router_at`]): its own is on every host, and a switch outside would
//! see it move. A host asks under its own one, so what a station answers, or sends to the address it was asked from, comes to
//! that host, which routes it as if it were sent there. A station that asks first is answered by the router's gateway host if
//! it reaches the network, else by the first host that does.

use super::carrier::{self, Carrier};
use super::pipeline::{DELIVER, L2, NEIGHBOUR, ROUTE};
use super::router::{Interface, of_router};
use super::rule::{RuleBuilder, act, output, set};
use super::state::HostState;
use crate::model::{Mac, Model, Network, Router};
use std::net::Ipv4Addr;
use uuid::Uuid;
use weft_proto::v1::{self, Action, Field, action};

/// Of reg6: the packet came from a station of a physical network to a router's MAC.
const FROM_STATION: u32 = 4;

/// Where a router's interface meets the stations of its network, on one host.
#[derive(Clone, Copy)]
pub(super) struct Wire {
    port: u32,
    /// 0: untagged.
    vlan: u16,
    /// The router's there.
    mac: Mac,
}

impl Wire {
    /// `None`: the network is on none, or the host does not reach it.
    pub fn of(state: &HostState, model: &Model, interface: &Interface<'_>, host: Uuid) -> Option<Self> {
        match Carrier::of(state, model, interface.network, host)? {
            Carrier::Physical { port, vlan } => {
                Some(Self { port, vlan, mac: Mac::of_router_at(interface.port.id, host) })
            }
            Carrier::Tunnel(_) => None,
        }
    }

    /// Finds out where on it a next hop is; `None`: the packet's destination.
    pub fn find(self, source: Ipv4Addr, hop: Option<Ipv4Addr>) -> Action {
        act(action::Action::Neighbour(v1::Neighbour {
            port: self.port,
            source: source.octets().to_vec(),
            mac: self.mac.0.to_vec(),
            vlan: self.vlan.into(),
            hop: hop.map_or(Vec::new(), |hop| hop.octets().to_vec()),
        }))
    }
}

/// The host that answers stations that ask everybody for a router's address in a network.
fn answering(model: &Model, router: &Router, network: &Network) -> Option<Uuid> {
    let physical = network.segment_type.physical()?;
    let reaches = |&host: &Uuid| {
        let place = model.hosts.get(host).and_then(|host| host.physical.get(physical));
        place.is_some_and(|place| !place.shared)
    };
    let gateway = model.gateway_host(router.id).filter(reaches);
    gateway.or_else(|| model.hosts_of_router(router.id).into_iter().find(reaches))
}

/// Adds what passes between a router and the stations of one of its networks. `entrance`: what becomes of what is sent to the
/// router here.
pub(super) fn lay(
    state: &mut HostState,
    model: &Model,
    (router, interface, host): (&Router, &Interface<'_>, Uuid),
    wire: Wire,
    (mut enter, next): (Vec<Action>, u32),
) {
    let (network, address, part) = (interface.network, interface.address, interface.port.id.to_string());
    let of = |state: &mut HostState, kind: &str, what: &str| {
        of_router(state, router, kind, &part, &format!("{what} (network {})", network.name))
    };
    let came =
        |table, priority, cookie| RuleBuilder::new(table, priority, cookie).in_port(wire.port).segment(network.segment);
    let to_us = |cookie| came(L2, 330, cookie).with(Field::EthDst, wire.mac.0);
    let learnt = of(state, "station-learnt", "ARP that tells where a station is");
    let learn = v1::LearnNeighbour { port: wire.port, vlan: wire.vlan.into() };
    let answer = to_us(learnt).arp().with(Field::ArpOp, [0, 2]);
    state.add(answer.apply(vec![act(action::Action::LearnNeighbour(learn))]));
    let asked = of(state, "station-arp", &format!("stations' ARP for its address {address}"));
    let reply = carrier::onto(wire.vlan, act(action::Action::ArpReply(v1::ArpReply { mac: wire.mac.0.to_vec() })));
    state.add(to_us(asked).arp_request(address).apply(reply.clone()));
    if answering(model, router, network) == Some(host) {
        state.add(came(L2, 370, asked).group().arp_request(address).apply(reply));
    }
    let enters = of(state, "station-enters", "what stations send to its MAC on this host");
    enter.push(set(Field::EthDst, interface.port.mac.0));
    enter.push(set(Field::Reg6, FROM_STATION.to_be_bytes()));
    state.add(to_us(enters).ipv4().apply_goto(enter, next));
    let echo = of(state, "station-echo", &format!("its address {address}, asked by a station"));
    let request = came(ROUTE, 320, echo)
        .with(Field::Reg3, router.number.to_be_bytes())
        .ipv4()
        .with(Field::Ipv4Dst, address.octets())
        .with(Field::IpProto, [1])
        .with(Field::IcmpType, [8]);
    let pong = carrier::onto(wire.vlan, act(action::Action::IcmpReply(v1::IcmpReply {})));
    state.add(request.apply([vec![set(Field::EthDst, wire.mac.0)], pong].concat()));

    let sought = of(state, "station", "to an address that no plugged port has: a station's, found by ARP");
    let seek = RuleBuilder::new(NEIGHBOUR, 20, sought)
        .segment(network.segment)
        .with(Field::Reg3, router.number.to_be_bytes())
        .ipv4()
        .within(Field::Ipv4Dst, interface.subnet.prefix);
    state.add(seek.apply_goto(vec![wire.find(address, None)], DELIVER));

    // An output to where it came from has to be said so.
    let back = of(state, "station-back", "what stations send through it to where they are themselves");
    let bit = FROM_STATION.to_be_bytes();
    let by =
        [vec![set(Field::EthSrc, wire.mac.0)], carrier::onto(wire.vlan, output(weft_proto::PORT_IN_PORT))].concat();
    let returns = || came(DELIVER, 310, back).with_mask(Field::Reg6, bit, bit);
    state.add(returns().with(Field::EthSrc, interface.port.mac.0).apply(by.clone()));
    state.add(returns().with(Field::EthDst, interface.port.central_mac().0).apply(by));
}
