//! What the kernel knows of the underlay, as the switch uses it: the addresses of its own interfaces
//! and the ways to remote tunnel ends. Whoever watches the kernel calls [`Switch::set_underlay`] with
//! each change; the switch tells it by [`Resolve::want`] which tunnel ends rules send to.

use super::Switch;
use crate::flow::tables::Change;
use crate::topology::Path;
use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use weft_proto::v1;

/// An underlay interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its address; `None` while it has none.
    pub address: Option<Ipv4Addr>,
    /// Bytes, without Ethernet header.
    pub mtu: u32,
    /// Whether it can carry packets.
    pub up: bool,
}

/// A snapshot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UnderlayState {
    /// By the kernel's name of the interface.
    pub links: HashMap<String, Link>,
    /// By remote tunnel end.
    pub paths: HashMap<Ipv4Addr, Path>,
    /// For people.
    pub neighbours: Vec<v1::Neighbour>,
}

/// Who finds ways to remote tunnel ends.
pub trait Resolve: Send + Sync {
    /// From now on, exactly these ends. Does not block.
    fn want(&self, destinations: &BTreeSet<Ipv4Addr>);
}

impl Switch {
    /// Names who resolves tunnel ends; once.
    pub fn set_resolver(&self, resolver: Box<dyn Resolve>) {
        resolver.want(&self.tables.tunnel_destinations());
        if self.resolver.set(resolver).is_err() {
            tracing::error!("a second underlay watcher was started and is not used");
        }
    }

    /// Takes over what the kernel now says. Blocks while workers follow.
    pub fn set_underlay(&self, underlay: UnderlayState) {
        let mut state = self.state();
        if state.underlay == underlay {
            return;
        }
        state.underlay = underlay;
        let topology = state.ports.topology(&state.underlay);
        if *self.tables.topology() != topology {
            let change = Change { topology: Some(topology), ..Change::default() };
            if let Err(fault) = self.tables.commit(change) {
                tracing::error!(%fault, "the underlay's change was refused");
            }
        }
        state.ports.set_tunnel_filters(&state.underlay);
        drop(state);
        self.changed();
    }

    /// Address and MTU of the underlay: of the lowest numbered port that is an interface of the host
    /// and has an address. What the agent tells the controller.
    #[must_use]
    pub fn underlay_address(&self) -> Option<(Ipv4Addr, u32)> {
        let state = self.state();
        let links = state.ports.iter().filter_map(|port| state.underlay.links.get(port.underlay_interface()?));
        links.filter_map(|link| Some((link.address?, link.mtu))).next()
    }

    /// `ListNeighbours`.
    #[must_use]
    pub fn neighbours(&self) -> v1::ListNeighboursReply {
        v1::ListNeighboursReply { neighbours: self.state().underlay.neighbours.clone() }
    }
}
