//! What the walk of a packet must know about ports and the underlay: an immutable snapshot, replaced
//! whole by the switch when a port or a neighbour changes ([`crate::flow::tables::Tables::set_topology`]).

use crate::drop::DropReason;
use crate::packet::tunnel::Encapsulation;
use crate::port::PortSlot;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// See the module comment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Topology {
    /// Ports by number.
    pub ports: HashMap<u32, PortInfo>,
    /// How the underlay reaches remote tunnel ends.
    pub paths: HashMap<Ipv4Addr, Path>,
}

/// One port.
#[derive(Clone, Debug, PartialEq)]
pub struct PortInfo {
    /// For people.
    pub name: Arc<str>,
    /// What it is.
    pub kind: PortKind,
}

/// Where a packet for a port goes.
#[derive(Clone, Debug, PartialEq)]
pub enum PortKind {
    /// A port with queues of its own.
    Device {
        /// Its slot in every worker.
        slot: PortSlot,
        /// Whether it can send now; otherwise packets for it drop as `PortDown`.
        up: bool,
    },
    /// A tunnel port.
    Tunnel {
        /// Its own slot, for counting only: it has no queues.
        slot: PortSlot,
        /// This host's addresses; none until the underlay has one.
        locals: Vec<Ipv4Addr>,
        /// Of which kind.
        encapsulation: Encapsulation,
        /// The device ports it runs over: any of them may bring packets to any of the addresses.
        underlays: Vec<PortSlot>,
    },
}

impl PortKind {
    /// The slot, whatever the kind.
    #[must_use]
    pub fn slot(&self) -> PortSlot {
        match self {
            Self::Device { slot, .. } | Self::Tunnel { slot, .. } => *slot,
        }
    }
}

/// The way to a remote tunnel end.
#[derive(Clone, Debug, PartialEq)]
pub enum Path {
    /// Known.
    Resolved {
        /// The device port that leads there.
        underlay: PortSlot,
        /// MAC of our interface.
        source_mac: [u8; 6],
        /// MAC of the remote end, or of the router towards it.
        destination_mac: [u8; 6],
        /// The address the host's routes choose; if it is none of the tunnel port's own, the first of these.
        source: Ipv4Addr,
    },
    /// Not usable now: `NoRoute`, `NeighbourUnresolved` or `PortDown`.
    Unusable(DropReason),
}
