//! Outputs in a walk: which port, up or not, and what a packet is wrapped in towards a tunnel's other end.

use super::Walk;
use crate::drop::DropReason;
use crate::flow::effect::{Effect, TunnelOutput};
use crate::flow::log::{Passed, TOPOLOGY, partition};
use crate::packet::tunnel::{Header, Way};
use crate::topology::{Path, PortKind};
use std::net::Ipv4Addr;
use weft_proto::PORT_IN_PORT;
use weft_proto::v1::Field;

impl Walk<'_> {
    pub(super) fn pass_topology(&mut self, what: &[u8]) {
        self.pass_partition(partition(what));
    }

    pub(super) fn pass_partition(&mut self, partition: u16) {
        self.topology.push(Passed { table: TOPOLOGY, partition: Some(partition), others: false });
    }

    pub(super) fn output(&mut self, port: u32) {
        let number = if port == PORT_IN_PORT {
            self.in_port
        } else if port == self.in_port {
            self.suppressed = true;
            return;
        } else {
            port
        };
        self.pass_topology(&number.to_be_bytes());
        let effect = match self.view.topology.ports.get(&number).map(|info| &info.kind) {
            None => Err(DropReason::NoSuchPort),
            Some(PortKind::Device { up: false, .. }) => Err(DropReason::PortDown),
            // Every result depends on the ingress port, so its slot may stand in it too.
            Some(PortKind::Device { slot, .. }) => Ok(Effect::Output { port: number, slot: *slot }),
            Some(tunnel @ PortKind::Tunnel { .. }) => {
                self.tunnel(number, tunnel).map(|output| Effect::Tunnel(Box::new(output)))
            }
        };
        self.effects.push(effect.unwrap_or_else(|reason| Effect::Undeliverable { port: number, reason }));
        if self.view.traced.is_some() {
            self.copies.push(self.key);
        }
    }

    pub(super) fn tunnel(&mut self, port: u32, tunnel: &PortKind) -> Result<TunnelOutput, DropReason> {
        if self.written.tun_dst != [0xff; 4] {
            return Err(DropReason::NoTunnelDestination);
        }
        self.consult(Field::TunId);
        let own = (self.written.tun_src == [0xff; 4]).then(|| self.key.tun_src.into());
        self.encapsulation(port, tunnel, self.key.tun_dst.into(), u64::from_be_bytes(self.key.tun_id), own)
    }

    /// What a packet is wrapped in towards a remote end; `own` is our address, if rules choose it.
    pub(super) fn encapsulation(
        &mut self,
        port: u32,
        tunnel: &PortKind,
        destination: Ipv4Addr,
        id: u64,
        own: Option<Ipv4Addr>,
    ) -> Result<TunnelOutput, DropReason> {
        let PortKind::Tunnel { slot, locals, encapsulation, .. } = tunnel else { return Err(DropReason::NoSuchPort) };
        self.pass_topology(&destination.octets());
        let path = self.view.topology.paths.get(&destination);
        let (underlay, source_mac, destination_mac, source) = match path {
            None => return Err(DropReason::NeighbourUnresolved),
            Some(Path::Unusable(reason)) => return Err(*reason),
            Some(Path::Resolved { underlay, source_mac, destination_mac, source }) => {
                (*underlay, *source_mac, *destination_mac, *source)
            }
        };
        let source = own.unwrap_or(match locals.first() {
            Some(first) if !locals.contains(&source) => *first,
            _ => source,
        });
        // Of the outer TOS, ECN is each packet's own (RFC 6040) and DSCP stays 0.
        let header = Header::new(*encapsulation, Way { source_mac, destination_mac, source, destination }, id);
        Ok(TunnelOutput { port, slot: *slot, underlay, source, destination, id, header })
    }
}
