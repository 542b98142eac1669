//! The fabric's pipeline: its tables, and what every host has whatever its instances.
//!
//! A frame enters at `classify`, which writes its network's segment id into `reg0`. Frames of instances
//! pass `port_security` and `respond`; frames from the tunnel were checked where they came from and go
//! straight to `l2`. The numbers in between are kept for the tables that routers, NAT and security groups
//! bring (30 `egress_firewall`, 50 `route`, 60 `nat`, 70 `ingress_firewall`).

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
/// Delivers within a network.
pub const L2: u32 = 40;

pub use weft_proto::TUNNEL_PORT;

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
        table(L2, "l2", "Delivery within the network: to ports here, or to the host that has the MAC.", Field::Reg0),
    ]
}

/// Lays what every host has. The tunnel's port exists only where there is an underlay for it.
pub(super) fn lay(state: &mut HostState, underlay: bool) {
    state.tables = tables();
    let onward = cookie("respond-miss", "");
    state.origin(onward, "fabric: neither ARP nor DHCP to answer".to_owned());
    state.add(RuleBuilder::new(RESPOND, 0, onward).goto(L2));
    if !underlay {
        return;
    }
    state.ports.insert(
        TUNNEL_PORT,
        v1::PortSpec {
            number: TUNNEL_PORT,
            name: "vxlan".into(),
            owner: v1::Owner::Fabric.into(),
            kind: Some(port_spec::Kind::Vxlan(v1::TunnelPort {
                // Named, so that an interface added by hand does not make it ambiguous.
                underlay_port: UNDERLAY_PORT,
                ..Default::default()
            })),
        },
    );
    let segment = cookie("unknown-segment", "");
    state.origin(segment, "fabric: tunnel packets of networks without a port on this host".to_owned());
    state.add(RuleBuilder::new(CLASSIFY, 50, segment).in_port(TUNNEL_PORT).drop(DropCause::UnknownSegment));
    // RFC 7348, section 6.1: a decapsulated frame with a VLAN tag is discarded.
    let tagged = cookie("tunnel-tagged", "");
    state.origin(tagged, "fabric: tagged frames from the tunnel".to_owned());
    state.add(RuleBuilder::new(CLASSIFY, 110, tagged).in_port(TUNNEL_PORT).tagged().drop(DropCause::Policy));
}
