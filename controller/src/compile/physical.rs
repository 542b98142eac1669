//! The physical networks of one host: for each a port, an interface of the host whose frames are all the switch's; or,
//! if the host shares it, those for the addresses that its rules answer for (`take`).

use super::pipeline::CLASSIFY;
use super::rule::{RuleBuilder, cookie};
use super::state::HostState;
use crate::model::Host;
use std::net::Ipv4Addr;
use weft_proto::v1::{self, DropCause, port_spec};

/// The port that leads from a host to a physical network; `None`: the host does not reach it.
#[must_use]
pub fn port_of(host: &Host, physical: &str) -> Option<v1::PortSpec> {
    let index = host.physical.keys().position(|name| name == physical)?;
    let place = &host.physical[physical];
    Some(v1::PortSpec {
        // The bus lets in at most `weft_proto::PHYSICAL_NETWORKS`.
        number: weft_proto::FIRST_PHYSICAL_PORT + u32::try_from(index).unwrap_or(0),
        name: format!("physical.{physical}").chars().take(64).collect(),
        owner: v1::Owner::Fabric.into(),
        kind: Some(port_spec::Kind::AfXdp(v1::AfXdpPort {
            interface: place.interface.clone(),
            mode: v1::AfXdpMode::Auto.into(),
            take_all: !place.shared,
            ..v1::AfXdpPort::default()
        })),
    })
}

/// Has what is for an address outside taken from an interface that the host shares.
pub(super) fn take(state: &mut HostState, port: u32, address: Ipv4Addr) {
    let kind = state.ports.get_mut(&port).and_then(|port| port.kind.as_mut());
    if let Some(port_spec::Kind::AfXdp(port)) = kind
        && !port.take_all
    {
        port.addresses.push(address.octets().to_vec());
        port.addresses.sort_unstable();
        port.addresses.dedup();
    }
}

/// Lays the ports of all physical networks that the host reaches, whatever is on them.
pub(super) fn lay(state: &mut HostState, host: &Host) {
    for name in host.physical.keys() {
        let Some(port) = port_of(host, name) else { continue };
        let nobody = cookie("physical-unknown", name);
        let text = format!("physical network {name}: frames of VLANs whose network has no port on this host");
        state.origin(nobody, text);
        state.add(RuleBuilder::new(CLASSIFY, 50, nobody).in_port(port.number).drop(DropCause::Elsewhere));
        state.ports.insert(port.number, port);
    }
}
