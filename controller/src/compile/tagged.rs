//! Frames that instances tag themselves (802.1Q), on networks that carry them (`vlan_transparent`). What is within a
//! tag is another layer-2 network, of which we know no addresses: it is switched by MAC alone, between ports without
//! port security; no ARP or DHCP is answered there, and no router has a part in it.
//!
//! | table | what | priority |
//! |---|---|---|
//! | port_security | tagged: on to l2 if the network carries it and the port has no port security, else dropped | 200 |
//! | l2 | tagged, from other hosts: to a group, to the ports here that take it; else on to deliver | 390, 380 |
//! | | tagged, from here: to a group, to all that take it; else on to deliver | 370, 365 |
//! | deliver | tagged, to a port with port security: dropped | 410 |

use super::carrier::Carrier;
use super::network::{self, Flood};
use super::pipeline::{DELIVER, L2, PORT_SECURITY};
use super::rule::RuleBuilder;
use super::state::HostState;
use crate::model::{Model, Network, Port};
use uuid::Uuid;
use weft_proto::v1::{DropCause, Field};

/// What a port here may send tagged.
pub(super) fn leave(state: &mut HostState, network: &Network, port: &Port) {
    let what = match (network.vlan_transparent, port.port_security) {
        (false, _) => "tagged frames, which the network does not carry",
        (true, true) => "tagged frames, which only ports without port security may send",
        (true, false) => "tagged frames",
    };
    let tagged = network::of_port(state, network, port, "tagged", what);
    let rule = RuleBuilder::new(PORT_SECURITY, 200, tagged).in_port(port.number).tagged();
    let passes = network.vlan_transparent && !port.port_security;
    state.add(if passes { rule.goto(L2) } else { rule.drop(DropCause::Policy) });
}

/// Where tagged frames go. `open`: the ports without port security.
pub(super) fn compile(
    state: &mut HostState,
    model: &Model,
    (network, host): (&Network, Uuid),
    open: &Flood,
    carrier: Option<Carrier>,
) {
    let tagged = network::of_network(state, network, "tagged", "frames that instances have tagged");
    let l2 = |priority| RuleBuilder::new(L2, priority, tagged).segment(network.segment).tagged();
    if let Some(carrier) = carrier {
        state.add(network::or_drop(l2(390).in_port(carrier.port()).group(), open.here.clone()));
        state.add(l2(380).in_port(carrier.port()).goto(DELIVER));
    }
    state.add(network::or_drop(l2(370).group(), open.actions(network, carrier)));
    state.add(l2(365).goto(DELIVER));
    for port in model.ports_plugged(network.id, host).filter(|port| port.port_security) {
        let guarded = network::of_port(
            state,
            network,
            port,
            "tagged-delivery",
            "tagged frames, which its port security keeps off",
        );
        let to = RuleBuilder::new(DELIVER, 410, guarded).segment(network.segment).with(Field::EthDst, port.mac.0);
        state.add(to.tagged().drop(DropCause::Policy));
    }
}
