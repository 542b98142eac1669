//! The register of ports: which exist, at which slot of the workers, and what the walk of a packet must
//! know of them ([`Topology`]).

use super::open::{Device, TunnelEnd, TunnelSettings};
use super::underlay::UnderlayState;
use crate::drop::DropReason;
use crate::flow::rule::Owner;
use crate::flow::statistics::TableCounts;
use crate::limits::PORTS;
use crate::port::{PortSlot, QueueCounters};
use crate::topology::{Path, PortInfo, PortKind, Topology};
use crate::underlay::NextHop;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use weft_proto::v1::{self, port_spec::Kind};

/// One port.
#[derive(Clone)]
pub(super) struct Port {
    /// As it was asked for, its owner filled in.
    pub spec: v1::PortSpec,
    pub owner: Owner,
    pub slot: PortSlot,
    /// `None`: a tunnel, which has no queues.
    pub device: Option<Arc<Device>>,
    /// It stands in the switch's configuration: bundles neither replace nor remove it.
    pub configured: bool,
}

impl Port {
    /// The name of the interface of the host that this port is; a recording may stand in for one.
    pub fn underlay_interface(&self) -> Option<&str> {
        matches!(self.spec.kind, Some(Kind::AfXdp(_) | Kind::Pcap(_)))
            .then(|| self.device.as_ref().map(|device| device.interface.as_str()))
            .flatten()
            .filter(|name| !name.is_empty())
    }

    fn tunnel(&self) -> Option<TunnelSettings> {
        TunnelSettings::of(&self.spec)
    }
}

/// All ports.
#[derive(Clone, Default)]
pub(super) struct Ports {
    by_number: BTreeMap<u32, Port>,
    used: BTreeSet<PortSlot>,
}

/// Frames by port and reason.
pub(super) type Counts = HashMap<(PortSlot, DropReason), u64>;

/// Sums over all workers. A slot's counts begin at zero with its port; what a port had dropped stands
/// under [`PortSlot::NONE`] once it is gone.
#[derive(Default)]
pub(super) struct Totals {
    /// By ingress port.
    pub drops: Counts,
    /// By output port.
    pub unsent: Counts,
    /// Branches, by ingress port.
    pub branches: Counts,
    pub packets: HashMap<PortSlot, QueueCounters>,
    /// Of each worker.
    pub tables: Vec<(u8, TableCounts)>,
}

impl Ports {
    pub fn iter(&self) -> impl Iterator<Item = &Port> {
        self.by_number.values()
    }

    pub fn get(&self, number: u32) -> Option<&Port> {
        self.by_number.get(&number)
    }

    /// A slot that no port has; `None`: there is none left.
    pub fn reserve(&mut self) -> Option<PortSlot> {
        let free = (0..PORTS).map(PortSlot::new).find(|slot| *slot != PortSlot::NONE && !self.used.contains(slot))?;
        self.used.insert(free);
        Some(free)
    }

    /// Gives a slot back, once no worker has anything of its port.
    pub fn release(&mut self, slot: PortSlot) {
        self.used.remove(&slot);
    }

    pub fn insert(&mut self, port: Port) {
        self.used.insert(port.slot);
        self.by_number.insert(port.spec.number, port);
    }

    /// Takes a port off the register; its slot stays reserved until [`Ports::release`].
    pub fn remove(&mut self, number: u32) -> Option<Port> {
        self.by_number.remove(&number)
    }

    /// Counts by reason and port number; those of ports that are gone under 0.
    pub fn by_reason(&self, counts: &Counts) -> BTreeMap<DropReason, BTreeMap<u32, u64>> {
        let numbers: HashMap<PortSlot, u32> = self.iter().map(|port| (port.slot, port.spec.number)).collect();
        let mut sums: BTreeMap<DropReason, BTreeMap<u32, u64>> = BTreeMap::new();
        for (&(slot, reason), &frames) in counts {
            let number = numbers.get(&slot).copied().unwrap_or(0);
            *sums.entry(reason).or_default().entry(number).or_default() += frames;
        }
        sums
    }

    /// The device port that a tunnel runs over.
    pub fn underlay_of(&self, tunnel: &TunnelSettings) -> Option<&Port> {
        if tunnel.underlay_port != 0 {
            return self.get(tunnel.underlay_port).filter(|port| port.device.is_some());
        }
        let mut interfaces = self.iter().filter(|port| matches!(port.spec.kind, Some(Kind::AfXdp(_))));
        let only = interfaces.next()?;
        interfaces.next().is_none().then_some(only)
    }

    /// The tunnel's own address: as it was given, or that of the interface it runs over.
    fn local_address(&self, tunnel: &TunnelSettings, underlay: &UnderlayState) -> Option<Ipv4Addr> {
        if tunnel.local.is_some() {
            return tunnel.local;
        }
        underlay.interface(self.underlay_of(tunnel)?.underlay_interface()?)?.addresses.first().copied()
    }

    /// The tunnel that gets the packets meant for this one, if another one of its kind has its address: the
    /// one of the highest number, as in the worker.
    fn rival(&self, own: &Port, tunnel: &TunnelSettings, underlay: &UnderlayState) -> Option<&Port> {
        let local = self.local_address(tunnel, underlay)?;
        let same = |port: &Port| {
            port.tunnel().is_some_and(|other| {
                other.encapsulation == tunnel.encapsulation && self.local_address(&other, underlay) == Some(local)
            })
        };
        self.by_number.range(own.spec.number + 1..).map(|(_, port)| port).rfind(|port| same(port))
    }

    /// Whether a device can send now.
    fn is_up(port: &Port, underlay: &UnderlayState) -> bool {
        if port.device.as_ref().is_some_and(|device| device.failure.is_some() || !device.is_linked()) {
            return false;
        }
        let interface = port.underlay_interface().and_then(|name| underlay.interface(name));
        interface.is_none_or(|interface| interface.up)
    }

    /// The way to a remote tunnel end: usable if it leads through one of our interfaces.
    fn path(&self, hop: &NextHop, underlay: &UnderlayState) -> Path {
        let port = self.iter().find(|port| port.underlay_interface() == Some(hop.interface.as_str()));
        match (port, hop.mac) {
            (None, _) => Path::Unusable(DropReason::NoRoute),
            (Some(port), _) if !Self::is_up(port, underlay) => Path::Unusable(DropReason::PortDown),
            (Some(_), None) => Path::Unusable(DropReason::NeighbourUnresolved),
            (Some(port), Some(mac)) => Path::Resolved {
                underlay: port.slot,
                source_mac: hop.source_mac,
                destination_mac: mac,
                source: hop.source,
            },
        }
    }

    /// What the walk of a packet must know.
    pub fn topology(&self, underlay: &UnderlayState) -> Topology {
        let mut topology = Topology::default();
        for hop in underlay.next_hops.iter() {
            topology.paths.insert(hop.remote, self.path(hop, underlay));
        }
        for port in self.iter() {
            let kind = match port.tunnel() {
                None => PortKind::Device { slot: port.slot, up: Self::is_up(port, underlay) },
                Some(tunnel) => {
                    // Checked when the port was added, and kept while it exists.
                    let Some(below) = self.underlay_of(&tunnel) else { continue };
                    PortKind::Tunnel {
                        slot: port.slot,
                        local: match self.rival(port, &tunnel, underlay) {
                            None => self.local_address(&tunnel, underlay),
                            Some(_) => None,
                        },
                        encapsulation: tunnel.encapsulation,
                        underlay: below.slot,
                    }
                }
            };
            topology.ports.insert(port.spec.number, PortInfo { name: port.spec.name.as_str().into(), kind });
        }
        topology
    }

    /// The addresses that are ours on an interface; never one of the host's own, which it would lose.
    fn own_addresses(port: &Port, underlay: &UnderlayState) -> BTreeSet<Ipv4Addr> {
        let Some(Kind::AfXdp(interface)) = &port.spec.kind else { return BTreeSet::new() };
        let given = interface.addresses.iter().filter_map(|bytes| <[u8; 4]>::try_from(bytes.as_slice()).ok());
        let (hosts, ours): (BTreeSet<_>, BTreeSet<_>) =
            given.map(Ipv4Addr::from).partition(|address| underlay.owns(*address));
        for address in hosts {
            tracing::warn!(port = port.spec.name, %address, "this address is the host's own: it stays with the host");
        }
        ours
    }

    /// Tells each interface of the host which packets are ours.
    pub fn set_tunnel_filters(&self, underlay: &UnderlayState) {
        let mut ends: BTreeMap<u32, BTreeSet<TunnelEnd>> = BTreeMap::new();
        for tunnel in self.iter().filter_map(Port::tunnel) {
            if let (Some(below), Some(local)) = (self.underlay_of(&tunnel), self.local_address(&tunnel, underlay)) {
                ends.entry(below.spec.number).or_default().insert((local, tunnel.encapsulation));
            }
        }
        for port in self.iter() {
            let Some(device) = &port.device else { continue };
            let ends = ends.get(&port.spec.number).cloned().unwrap_or_default();
            if let Err(error) = device.filter(&ends, &Self::own_addresses(port, underlay)) {
                tracing::error!(port = port.spec.name, %error, "the filter for what is ours cannot be set");
            }
        }
    }

    /// A port's message.
    pub fn status(&self, port: &Port, underlay: &UnderlayState, totals: &Totals) -> v1::PortStatus {
        let counters = totals.packets.get(&port.slot).copied().unwrap_or_default();
        let of_port = |counts: &Counts| -> u64 {
            counts.iter().filter(|((slot, _), _)| *slot == port.slot).map(|(_, frames)| frames).sum()
        };
        let failure = port.device.as_ref().and_then(|device| device.failure.as_ref());
        let (state, detail) = match port.tunnel() {
            None if failure.is_some() => ("failed", String::new()),
            None => {
                let state = if Self::is_up(port, underlay) { "up" } else { "down" };
                (state, port.device.as_ref().map(|device| device.describe()).unwrap_or_default())
            }
            Some(tunnel) => match (self.local_address(&tunnel, underlay), self.underlay_of(&tunnel)) {
                (Some(local), Some(_)) if let Some(rival) = self.rival(port, &tunnel, underlay) => {
                    let kind = tunnel.encapsulation;
                    ("down", format!("{local}, {kind} is that of {}: use another", rival.spec.name))
                }
                (Some(local), Some(below)) => {
                    let state = if Self::is_up(below, underlay) { "up" } else { "down" };
                    (state, format!("{local}, {}, over {}", tunnel.encapsulation, below.spec.name))
                }
                _ => ("down", "the underlay has no address yet".to_owned()),
            },
        };
        v1::PortStatus {
            spec: Some(port.spec.clone()),
            interface: port.device.as_ref().map(|device| device.interface.clone()).unwrap_or_default(),
            state: failure.map_or_else(|| state.to_owned(), |failure| format!("failed: {failure}")),
            detail,
            received_packets: counters.received_packets,
            received_bytes: counters.received_bytes,
            sent_packets: counters.sent_packets,
            sent_bytes: counters.sent_bytes,
            received_dropped: of_port(&totals.drops) + port.device.as_ref().map_or(0, |device| device.missed()),
            sent_dropped: of_port(&totals.unsent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_reused_only_after_they_were_given_back() {
        let mut ports = Ports::default();
        let all: Vec<PortSlot> = std::iter::from_fn(|| ports.reserve()).collect();
        assert_eq!(all.len(), PORTS - 1);
        assert!(!all.contains(&PortSlot::NONE));
        ports.release(all[9]);
        assert_eq!((ports.reserve(), ports.reserve()), (Some(all[9]), None));
    }
}
