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
use crate::underlay::{Interface, NextHop};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use weft_proto::v1::{self, port_spec::Kind};
use weft_proto::{UNDERLAY_PORT, underlay_ports};

/// One port.
#[derive(Clone)]
pub(super) struct Port {
    /// As it was asked for, its owner filled in.
    pub spec: v1::PortSpec,
    pub owner: Owner,
    pub slot: PortSlot,
    /// `None`: it has no queues: a tunnel, or a port on an interface of the underlay ([`Ports::below`]).
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
    /// Where the underlay's tunnels end, by the settings; empty: at the first address of each of its interfaces.
    pub underlay_addresses: Vec<Ipv4Addr>,
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
        let mut numbers: HashMap<PortSlot, u32> = self.iter().map(|port| (port.slot, port.spec.number)).collect();
        let shared = self.iter().filter(|port| port.device.is_none());
        numbers.extend(shared.filter_map(|port| Some((self.below(&port.spec)?.slot, port.spec.number))));
        let mut sums: BTreeMap<DropReason, BTreeMap<u32, u64>> = BTreeMap::new();
        for (&(slot, reason), &frames) in counts {
            let number = numbers.get(&slot).copied().unwrap_or(0);
            *sums.entry(reason).or_default().entry(number).or_default() += frames;
        }
        sums
    }

    /// The interfaces of the settings' underlay.
    pub fn underlay_interfaces<'a>(&self, underlay: &'a UnderlayState) -> impl Iterator<Item = &'a Interface> {
        underlay_ports().filter_map(|number| underlay.interface(self.get(number)?.underlay_interface()?))
    }

    /// Where tunnels over the settings' underlay end, in order; of the settings' addresses those that the host has.
    pub fn underlay_locals(&self, underlay: &UnderlayState) -> Vec<Ipv4Addr> {
        if self.underlay_addresses.is_empty() {
            let interfaces = self.underlay_interfaces(underlay);
            return interfaces.filter_map(|interface| interface.addresses.first().copied()).collect();
        }
        // Without its port there is no underlay, whatever the settings say.
        let there = |address: &&Ipv4Addr| self.get(UNDERLAY_PORT).is_some() && underlay.owns(**address);
        self.underlay_addresses.iter().filter(there).copied().collect()
    }

    /// The port of the settings' underlay whose interface this one names too: one device serves both. What it brings
    /// that is no tunnel's comes in by this port, so that the underlay's own number is not seen by rules while it is
    /// there.
    pub fn below(&self, spec: &v1::PortSpec) -> Option<&Port> {
        let Some(Kind::AfXdp(interface)) = &spec.kind else { return None };
        let here = |port: &&Port| match &port.spec.kind {
            Some(Kind::AfXdp(other)) => other.interface == interface.interface && port.configured,
            _ => false,
        };
        (!interface.take_all).then(|| self.iter().find(here)).flatten().filter(|port| port.spec.number != spec.number)
    }

    /// The number by which frames of a port enter and leave: its own, or that of the port on its interface.
    pub fn seen_as(&self, number: u32) -> u32 {
        let on_it = |port: &&Port| {
            port.device.is_none() && self.below(&port.spec).is_some_and(|below| below.spec.number == number)
        };
        self.iter().find(on_it).map_or(number, |port| port.spec.number)
    }

    /// The port whose device a port is: its own, or the one below it.
    fn device_of<'a>(&'a self, port: &'a Port) -> &'a Port {
        match &port.device {
            None => self.below(&port.spec).unwrap_or(port),
            Some(_) => port,
        }
    }

    /// The device ports that a tunnel runs over; empty: there is none, or which of several is not said.
    pub fn underlays_of(&self, tunnel: &TunnelSettings) -> Vec<&Port> {
        match tunnel.underlay_port {
            0 => {
                let real = |port: &&Port| matches!(port.spec.kind, Some(Kind::AfXdp(_))) && port.device.is_some();
                let interfaces: Vec<&Port> = self.iter().filter(real).collect();
                if interfaces.len() == 1 { interfaces } else { Vec::new() }
            }
            UNDERLAY_PORT => underlay_ports().filter_map(|number| self.get(number)).collect(),
            number => self.get(number).filter(|port| port.device.is_some()).into_iter().collect(),
        }
    }

    /// The tunnel's own addresses: the one that was given, or those of what it runs over.
    pub fn local_addresses(&self, tunnel: &TunnelSettings, underlay: &UnderlayState) -> Vec<Ipv4Addr> {
        if let Some(local) = tunnel.local {
            return vec![local];
        }
        let below = self.underlays_of(tunnel);
        if tunnel.underlay_port == UNDERLAY_PORT {
            return self.underlay_locals(underlay);
        }
        let first = |port: &&Port| underlay.interface(port.underlay_interface()?)?.addresses.first().copied();
        below.iter().filter_map(first).collect()
    }

    /// The tunnel that gets the packets meant for this one at an address, if another one of its kind has it too: the
    /// one of the highest number, as in the worker.
    fn rival(&self, own: &Port, tunnel: &TunnelSettings, local: Ipv4Addr, underlay: &UnderlayState) -> Option<&Port> {
        let same = |port: &Port| {
            port.tunnel().is_some_and(|other| {
                other.encapsulation == tunnel.encapsulation && self.local_addresses(&other, underlay).contains(&local)
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
        let shared = self.iter().filter(|port| port.device.is_none());
        let covered: BTreeSet<u32> = shared.filter_map(|port| Some(self.below(&port.spec)?.spec.number)).collect();
        for port in self.iter().filter(|port| !covered.contains(&port.spec.number)) {
            let kind = match port.tunnel() {
                None => {
                    let device = self.device_of(port);
                    PortKind::Device { slot: device.slot, up: Self::is_up(device, underlay) }
                }
                Some(tunnel) => {
                    // Checked when the port was added, and kept while it exists.
                    let underlays: Vec<PortSlot> = self.underlays_of(&tunnel).iter().map(|port| port.slot).collect();
                    if underlays.is_empty() {
                        continue;
                    }
                    let mut locals = self.local_addresses(&tunnel, underlay);
                    locals.retain(|&local| self.rival(port, &tunnel, local, underlay).is_none());
                    PortKind::Tunnel { slot: port.slot, locals, encapsulation: tunnel.encapsulation, underlays }
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
            let locals = self.local_addresses(&tunnel, underlay);
            for below in self.underlays_of(&tunnel) {
                // On each interface, for a kernel answers ARP for any of its addresses on any of them.
                let own = ends.entry(below.spec.number).or_default();
                own.extend(locals.iter().map(|&local| (local, tunnel.encapsulation)));
            }
        }
        let mut addresses: BTreeMap<u32, BTreeSet<Ipv4Addr>> = BTreeMap::new();
        for port in self.iter() {
            let own = addresses.entry(self.device_of(port).spec.number).or_default();
            own.extend(Self::own_addresses(port, underlay));
        }
        for port in self.iter() {
            let Some(device) = &port.device else { continue };
            let ends = ends.get(&port.spec.number).cloned().unwrap_or_default();
            let addresses = addresses.remove(&port.spec.number).unwrap_or_default();
            if let Err(error) = device.filter(&ends, &addresses) {
                tracing::error!(port = port.spec.name, %error, "the filter for what is ours cannot be set");
            }
        }
    }

    /// A port's message. Ports on one interface have its counters in common.
    pub fn status(&self, port: &Port, underlay: &UnderlayState, totals: &Totals) -> v1::PortStatus {
        let below = self.device_of(port);
        let counters = totals.packets.get(&below.slot).copied().unwrap_or_default();
        let of_port = |counts: &Counts| -> u64 {
            counts.iter().filter(|((slot, _), _)| *slot == below.slot).map(|(_, frames)| frames).sum()
        };
        let failure = below.device.as_ref().and_then(|device| device.failure.as_ref());
        let (state, detail) = match port.tunnel() {
            None if failure.is_some() => ("failed", String::new()),
            None => {
                let state = if Self::is_up(below, underlay) { "up" } else { "down" };
                let mut detail = below.device.as_ref().map(|device| device.describe()).unwrap_or_default();
                if below.spec.number != port.spec.number {
                    detail.push_str(", with the underlay");
                }
                (state, detail)
            }
            Some(tunnel) => self.tunnel_status(port, &tunnel, underlay),
        };
        v1::PortStatus {
            spec: Some(port.spec.clone()),
            interface: below.device.as_ref().map(|device| device.interface.clone()).unwrap_or_default(),
            state: failure.map_or_else(|| state.to_owned(), |failure| format!("failed: {failure}")),
            detail,
            received_packets: counters.received_packets,
            received_bytes: counters.received_bytes,
            sent_packets: counters.sent_packets,
            sent_bytes: counters.sent_bytes,
            received_dropped: of_port(&totals.drops) + below.device.as_ref().map_or(0, |device| device.missed()),
            sent_dropped: of_port(&totals.unsent),
        }
    }

    fn tunnel_status(&self, port: &Port, tunnel: &TunnelSettings, underlay: &UnderlayState) -> (&'static str, String) {
        let (below, locals) = (self.underlays_of(tunnel), self.local_addresses(tunnel, underlay));
        if below.is_empty() || locals.is_empty() {
            return ("down", "the underlay has no address yet".to_owned());
        }
        let kind = tunnel.encapsulation;
        let rival = |&local: &Ipv4Addr| Some((local, self.rival(port, tunnel, local, underlay)?));
        let rivals: Vec<_> = locals.iter().filter_map(rival).collect();
        if let Some((local, rival)) = rivals.first()
            && rivals.len() == locals.len()
        {
            return ("down", format!("{local}, {kind} is that of {}: use another", rival.spec.name));
        }
        let all: Vec<String> = locals.iter().map(Ipv4Addr::to_string).collect();
        let over: Vec<&str> = below.iter().map(|port| port.spec.name.as_str()).collect();
        let state = if below.iter().any(|port| Self::is_up(port, underlay)) { "up" } else { "down" };
        (state, format!("{}, {kind}, over {}", all.join(" and "), over.join(" and ")))
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
