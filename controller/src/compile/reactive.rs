//! Reactive networks: a host that has ports of one is told where ports elsewhere are only when something is first
//! sent there. Ports here, floods and firewalls are as in any network (`network.rs`).
//!
//! | table | what | priority |
//! |---|---|---|
//! | respond | ARP for the address of a port here, or of one the host subscribes to: answered | 200 |
//! | | ARP for what may be an address pair's: on, to everybody | 180 |
//! | | ARP for any other address of its subnets: punted, the switch asks the controller who has it | 150 |
//! | deliver | to the MAC of a port that the host subscribes to: through the tunnel to its host | 200 |
//! | | to any other: punted likewise | 0 |
//!
//! Where a port has no port security, nobody knows what addresses it has: ARP that no rule answers then goes to
//! everybody, as in any network, and hosts learn by MAC alone.
//!
//! A subscription is of a host to a port; which there are, `bus/subscriptions.rs` knows. Here they are given.

use super::network;
use super::pipeline::{DELIVER, EGRESS_TRACK, RESPOND};
use super::rule::{RuleBuilder, act, cookie};
use super::state::HostState;
use crate::model::{Ipv4Prefix, Mac, Model, Network, Port};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use uuid::Uuid;
use weft_proto::v1::{self, Action, Field, action};
use weft_proto::{PUNT_ADDRESS, PUNT_STATION};

/// The cookie of what delivers to a port: its rule's counters say whether a subscription is used.
#[must_use]
pub fn delivery_cookie(port: Uuid) -> u64 {
    cookie("delivery", &port.to_string())
}

/// The port that a host asks for: `in_port` is the host's port that sends there, `target` an address or a MAC. `None`:
/// nobody has it, or there is no way to it.
#[must_use]
pub fn look_up<'a>(model: &'a Model, host: Uuid, in_port: u32, target: &[u8]) -> Option<&'a Port> {
    let asker = model.ports_on(host).find(|port| port.number == in_port)?;
    let network = model.networks.get(asker.network).filter(|network| network.reactive)?;
    let found = if let Ok(address) = <[u8; 4]>::try_from(target) {
        let address = Ipv4Addr::from(address);
        model.subnets_of(network.id).find_map(|subnet| model.port_with(subnet.id, address))?
    } else {
        model.port_of_mac(network.id, Mac(<[u8; 6]>::try_from(target).ok()?))?
    };
    let place = model.hosts.get(found.plug.as_ref()?.host)?;
    (place.id == host || !place.underlay.is_empty()).then_some(found)
}

/// Whether a subscription of a host to a port stands for anything: the port is plugged elsewhere, in a reactive network
/// that has ports on the host.
#[must_use]
pub fn is_of_use(model: &Model, host: Uuid, port: Uuid) -> bool {
    let Some(port) = model.ports.get(port) else { return false };
    port.plug.as_ref().is_some_and(|plug| plug.host != host)
        && model.networks.get(port.network).is_some_and(|network| network.reactive)
        && model.ports_plugged(port.network, host).next().is_some()
}

/// Adds what asks the controller about destinations in a network that the host reaches others of by a tunnel.
pub(super) fn ask(state: &mut HostState, model: &Model, network: &Network) {
    let station = network::of_network(state, network, "ask-station", "to a MAC that the host has to ask for");
    let unknown = RuleBuilder::new(DELIVER, 0, station).segment(network.segment);
    state.add(unknown.apply(vec![punt(PUNT_STATION)]));
    let plugged = || model.ports_of(network.id).filter(|port| port.plug.is_some());
    if plugged().any(|port| !port.port_security) {
        return;
    }
    let asked = |priority, cookie, prefix| {
        let arp = RuleBuilder::new(RESPOND, priority, cookie).segment(network.segment).arp();
        arp.with(Field::ArpOp, [0, 1]).within(Field::ArpTpa, prefix)
    };
    let address = network::of_network(state, network, "ask-address", "ARP for an address that the host has to ask for");
    for subnet in model.subnets_of(network.id) {
        state.add(asked(150, address, subnet.prefix).apply(vec![punt(PUNT_ADDRESS)]));
    }
    let paired = network::of_network(state, network, "ask-pairs", "ARP for what may be an address pair's");
    let pairs: BTreeSet<Ipv4Prefix> = plugged().flat_map(|port| port.pairs.iter().map(|pair| pair.prefix)).collect();
    for prefix in pairs {
        state.add(asked(180, paired, prefix).goto(EGRESS_TRACK));
    }
}

fn punt(reason: u32) -> Action {
    act(action::Action::Punt(v1::Punt { max_length: 0, reason }))
}
