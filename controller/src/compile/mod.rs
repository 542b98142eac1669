//! From the model to flow tables, one host at a time: `compile` is a pure function, and everything else
//! here serves it.
//!
//! - [`pipeline`]: the fabric's tables, their names and meanings; and its fixed ports.
//! - [`state`]: what one host should hold, and the bundle between two such states.
//! - [`network`]: the rules of one network on one host. This is where packets' fates are decided.
//! - `carrier`: what leads from one host to others: tunnels, physical networks.
//! - `station`: what routers have to do with stations of physical networks that the model does not know.
//! - `tagged`: frames that instances tag.
//! - [`physical`]: the ports of the physical networks that the host reaches.
//! - `gateway`: the way out of the cloud, towards a router's gateway host and on it.
//! - [`reactive`]: what hosts learn only when they need it.
//! - `router`: the rules of routers, and what one host needs of networks that it has no ports of.
//! - `firewall`: the rules of security groups on one host.
//! - [`rule`]: how rules are written down.
//!
//! Invariants: the same model, with the same subscriptions, gives the same state, to the bit. A host gets ports, rules and addresses of
//! only those networks that have a plugged port on it, and of those that a router joins to them what it takes to send
//! there; the gateway host of a router likewise, of all the router's networks. A host that [`Model::touched`] leaves out does not change
//! (a property test compares it with compiling everything): what a kind of object adds here, it names there.

mod carrier;
mod firewall;
mod gateway;
pub mod network;
pub mod physical;
pub mod pipeline;
pub mod reactive;
mod router;
pub mod rule;
pub mod state;
mod station;
mod tagged;
#[cfg(test)]
mod tests;

pub use state::HostState;

use crate::model::{Model, SegmentType};
use std::collections::BTreeSet;
use uuid::Uuid;

/// What a host should hold. A host that the model does not know holds the bare pipeline. `subscriptions`: the ports of
/// reactive networks that it sends to, or did lately.
#[must_use]
pub fn compile(model: &Model, host: Uuid, subscriptions: &BTreeSet<Uuid>) -> HostState {
    let mut state = HostState::default();
    pipeline::lay(&mut state);
    let networks = model.networks_on(host);
    if let Some(host) = model.hosts.get(host) {
        physical::lay(&mut state, host);
        if !host.underlay.is_empty() {
            pipeline::lay_tunnel(&mut state, pipeline::TUNNEL_PORT);
            // Where there is no GRE network, its packets are the host's own.
            let of_gre = |id: Uuid| model.networks.get(id).is_some_and(|it| it.segment_type == SegmentType::Gre);
            if router::networks(model, &networks, host.id).into_iter().chain(networks.iter().copied()).any(of_gre) {
                pipeline::lay_tunnel(&mut state, pipeline::GRE_PORT);
            }
        }
    }
    let policies = firewall::Policies::of(model, host);
    for &network in &networks {
        network::compile(&mut state, model, (network, host), &policies, subscriptions);
    }
    router::compile(&mut state, model, &networks, host);
    gateway::compile(&mut state, model, host, &networks);
    firewall::compile(&mut state, model, &policies);
    state
}
