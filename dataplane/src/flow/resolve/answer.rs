//! What answers mean to a walk: on which packets they are possible, and where they go.

use super::Walk;
use crate::drop::DropReason;
use crate::flow::effect::TunnelOutput;
use crate::packet::parse::LATER_FRAGMENT;
use crate::topology::PortKind;
use std::net::Ipv4Addr;
use weft_proto::v1::Field;

/// The way to who sent a packet, whatever rules made of it since.
#[derive(Clone, Debug, PartialEq)]
pub enum Back {
    /// Out of the port it came in by.
    Ingress,
    /// Through the tunnel it came out of.
    Tunnel(Box<TunnelOutput>),
    /// There is none now.
    Nowhere(DropReason),
}

impl Walk<'_> {
    pub(super) fn needs_ipv4(&mut self) -> Result<(), DropReason> {
        self.consult(Field::EthType);
        if self.key.eth_type == [0x08, 0x00] { Ok(()) } else { Err(DropReason::BadAction) }
    }

    /// An echo request is to be answered: the program looks at its type, which of a later fragment only `ct`
    /// can know.
    pub(super) fn echo(&mut self) -> Result<(), DropReason> {
        self.needs_ipv4()?;
        self.consult(Field::IpProto);
        self.consult(Field::IpFrag);
        if self.key.ip_proto != 1 {
            return Err(DropReason::BadAction);
        }
        if self.key.ip_frag == LATER_FRAGMENT && !(self.follows_first() && self.key.l4_src == [0, 8]) {
            return Err(DropReason::Consumed);
        }
        Ok(())
    }

    /// Finds the way back, once: it depends on how the packet came, not on what rules have written since.
    pub(super) fn find_back(&mut self) {
        if self.back.is_some() {
            return;
        }
        self.pass_topology(&self.in_port.to_be_bytes());
        let back = match self.view.topology.ports.get(&self.in_port).map(|info| &info.kind) {
            Some(tunnel @ PortKind::Tunnel { .. }) => {
                (self.consulted.tun_src, self.consulted.tun_id) = ([0xff; 4], [0xff; 8]);
                let (remote, id) = (Ipv4Addr::from(self.packet.key.tun_src), self.packet.key.tun_id);
                match self.encapsulation(self.in_port, tunnel, remote, u64::from_be_bytes(id), None) {
                    Ok(output) => Back::Tunnel(Box::new(output)),
                    Err(reason) => Back::Nowhere(reason),
                }
            }
            _ => Back::Ingress,
        };
        self.back = Some(back);
    }
}
