//! The fabric's pipeline: its tables, and what every host has whatever its instances.
//!
//! A frame enters at `classify`, which writes its network's segment id into `reg0`. Frames of instances
//! pass `port_security`, `respond` and the firewall of the port they come from; frames from the tunnel did so where
//! they came from and go straight to `l2`. What is for a router goes through `route` and `neighbour`, and comes out
//! with another network's segment in `reg0`; all unicast ends in `deliver`. What is delivered here goes with the port's
//! number in `reg1` through that port's firewall to `output`.
//!
//! Registers: `reg0` the segment that the frame is on; `reg1` the destination port, from `deliver` on; `reg2` the policy
//! in force, see `firewall.rs`; `reg3` the router's number, from `l2` on, 0 if no router has the packet. On gateway hosts
//! `reg4` is the number of the router from whose inside the packet came, 0 if from outside, `reg5` the segment of
//! the router's external network. `reg6` says, from `route` on, that it came in from outside (`gateway.rs`), or from a
//! station of a physical network to a router (`station.rs`). The rest is free.

use super::rule::{RuleBuilder, cookie};
use super::state::HostState;
use weft_proto::UNDERLAY_PORT;
use weft_proto::v1::{self, DropCause, Field, port_spec};

/// Tells frames by where they come from: which network is it?
pub const CLASSIFY: u32 = 0;
/// Lets a port send only under its own addresses.
pub const PORT_SECURITY: u32 = 10;
/// Answers ARP and DHCP.
pub const RESPOND: u32 = 20;
/// Looks up the connection of what a guarded port sends.
pub const EGRESS_TRACK: u32 = 30;
/// What may leave a guarded port.
pub const EGRESS_FIREWALL: u32 = 31;
/// Floods; and tells what is for a router from what is for a port.
pub const L2: u32 = 40;
/// Gateway hosts: from addresses that are known outside to those inside.
pub const DNAT: u32 = 45;
/// Where a router sends a packet on.
pub const ROUTE: u32 = 50;
/// Gateway hosts: from addresses inside to those that are known outside.
pub const SNAT: u32 = 60;
/// From the address of the next hop to its MAC.
pub const NEIGHBOUR: u32 = 62;
/// Delivers unicast within a network.
pub const DELIVER: u32 = 65;
/// Looks up the connection of what a guarded port is sent.
pub const INGRESS_TRACK: u32 = 70;
/// What may enter a guarded port.
pub const INGRESS_FIREWALL: u32 = 71;
/// Hands a frame to the port of reg1.
pub const OUTPUT: u32 = 80;

/// Bits of `ct_state`, as `flow.proto` numbers them.
pub(super) mod ct_state {
    pub const NEW: u8 = 0x01;
    pub const INVALID: u8 = 0x10;
}

pub use weft_proto::{GRE_PORT, TUNNEL_PORT};

/// The tables as the switch shows them.
#[must_use]
pub fn tables() -> Vec<v1::TableConfig> {
    let table = |table, name: &str, meaning: &str, partition: Field| v1::TableConfig {
        table,
        name: name.into(),
        meaning: meaning.into(),
        partition: partition.into(),
    };
    vec![
        table(CLASSIFY, "classify", "Which network a frame belongs to: its segment id goes to reg0.", Field::InPort),
        table(PORT_SECURITY, "port_security", "A port sends only from its own MAC and IP addresses.", Field::InPort),
        table(RESPOND, "respond", "ARP and DHCP are answered here, for the whole network.", Field::InPort),
        table(
            EGRESS_TRACK,
            "egress_track",
            "Security groups: the connection of what a port sends is looked up; its policy goes to reg2.",
            Field::InPort,
        ),
        table(EGRESS_FIREWALL, "egress_firewall", "Security groups: what may leave the port.", Field::Reg2),
        table(L2, "l2", "Broadcasts are flooded; what is for a router gets its number in reg3.", Field::Reg0),
        table(
            DNAT,
            "dnat",
            "Gateway hosts: floating IPs, and the router's own address, become addresses inside.",
            Field::Ipv4Dst,
        ),
        table(ROUTE, "route", "The router of reg3 answers, or sends on to the next network: its segment.", Field::Reg3),
        table(
            SNAT,
            "snat",
            "Gateway hosts: what leaves goes under a floating IP, or an address of the router of reg4.",
            Field::Reg4,
        ),
        table(NEIGHBOUR, "neighbour", "Routed: the MAC of who has the address in the network.", Field::Reg0),
        table(
            DELIVER,
            "deliver",
            "Delivery within the network: to ports here, or to the host that has the MAC.",
            Field::Reg0,
        ),
        table(
            INGRESS_TRACK,
            "ingress_track",
            "Security groups: the connection of what the port of reg1 is sent is looked up; its policy goes to reg2.",
            Field::Reg1,
        ),
        table(INGRESS_FIREWALL, "ingress_firewall", "Security groups: what may enter the port of reg1.", Field::Reg2),
        table(OUTPUT, "output", "To the port of reg1.", Field::Reg1),
    ]
}

/// Lays what every host has, whatever its instances.
pub(super) fn lay(state: &mut HostState) {
    state.tables = tables();
    let onward = cookie("respond-miss", "");
    state.origin(onward, "fabric: neither ARP nor DHCP to answer".to_owned());
    state.add(RuleBuilder::new(RESPOND, 0, onward).goto(EGRESS_TRACK));
    let unguarded = cookie("unguarded", "");
    state.origin(unguarded, "fabric: what security groups are not asked about".to_owned());
    state.add(RuleBuilder::new(EGRESS_TRACK, 0, unguarded).goto(L2));
    state.add(RuleBuilder::new(INGRESS_TRACK, 0, unguarded).goto(OUTPUT));
    let known = cookie("connections", "");
    state.origin(known, "fabric: replies, and what belongs to a connection that was let through".to_owned());
    let invalid = cookie("invalid", "");
    state.origin(invalid, "fabric: packets of no connection that can begin none".to_owned());
    for (table, onward) in [(EGRESS_FIREWALL, L2), (INGRESS_FIREWALL, OUTPUT)] {
        let neither = ct_state::NEW | ct_state::INVALID;
        state.add(RuleBuilder::new(table, 300, known).with_mask(Field::CtState, [0], [neither]).goto(onward));
        let bit = [ct_state::INVALID];
        state.add(RuleBuilder::new(table, 200, invalid).with_mask(Field::CtState, bit, bit).drop(DropCause::Policy));
    }
}

/// Lays the port of a kind of tunnel, of a host that has an underlay.
pub(super) fn lay_tunnel(state: &mut HostState, number: u32) {
    // Named, so that an interface added by hand does not make it ambiguous.
    let underlay_port = UNDERLAY_PORT;
    let (name, kind) = if number == GRE_PORT {
        ("gre", port_spec::Kind::Gre(v1::GrePort { underlay_port, ..Default::default() }))
    } else {
        ("vxlan", port_spec::Kind::Vxlan(v1::TunnelPort { underlay_port, ..Default::default() }))
    };
    let owner = v1::Owner::Fabric.into();
    state.ports.insert(number, v1::PortSpec { number, name: name.into(), owner, kind: Some(kind) });
    let segment = cookie("unknown-segment", "");
    state.origin(segment, "fabric: tunnel packets of networks without a port on this host".to_owned());
    state.add(RuleBuilder::new(CLASSIFY, 50, segment).in_port(number).drop(DropCause::UnknownSegment));
    // RFC 7348, section 6.1: a decapsulated frame with a VLAN tag is discarded.
    let tagged = cookie("tunnel-tagged", "");
    state.origin(tagged, "fabric: tagged frames from the tunnel".to_owned());
    state.add(RuleBuilder::new(CLASSIFY, 110, tagged).in_port(number).tagged().drop(DropCause::Policy));
}
