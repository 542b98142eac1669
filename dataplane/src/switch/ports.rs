//! The register of ports: which exist, at which slot of the workers, and what the walk of a packet must
//! know of them ([`Topology`]).

use super::open::Device;
use super::underlay::UnderlayState;
use crate::drop::DropReason;
use crate::flow::rule::Owner;
use crate::limits::PORTS;
use crate::port::{PortSlot, QueueCounters};
use crate::topology::{PortInfo, PortKind, Topology};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use weft_proto::v1::{self, port_spec::Kind};

/// The UDP port of VXLAN (RFC 7348).
const VXLAN: u16 = 4789;

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
    /// Of an interface of the host, its name.
    pub fn underlay_interface(&self) -> Option<&str> {
        matches!(self.spec.kind, Some(Kind::AfXdp(_)))
            .then(|| self.device.as_ref().map(|device| device.interface.as_str()))
            .flatten()
    }

    fn tunnel(&self) -> Option<&v1::TunnelPort> {
        if let Some(Kind::Vxlan(tunnel)) = &self.spec.kind { Some(tunnel) } else { None }
    }
}

/// All ports; and the counts of slots, which outlive the ports in them.
#[derive(Clone, Default)]
pub(super) struct Ports {
    by_number: BTreeMap<u32, Port>,
    used: BTreeSet<PortSlot>,
    /// Drops of ports that are gone.
    retired: BTreeMap<DropReason, u64>,
    /// What the workers' counts of a slot were when its port began.
    drops_before: HashMap<(PortSlot, DropReason), u64>,
    packets_before: HashMap<PortSlot, QueueCounters>,
}

/// Sums over all workers.
#[derive(Default)]
pub(super) struct Totals {
    pub drops: HashMap<(PortSlot, DropReason), u64>,
    pub packets: HashMap<PortSlot, QueueCounters>,
}

impl Ports {
    pub fn iter(&self) -> impl Iterator<Item = &Port> {
        self.by_number.values()
    }

    pub fn get(&self, number: u32) -> Option<&Port> {
        self.by_number.get(&number)
    }

    /// A slot that no port has; `None`: there are [`PORTS`] already.
    pub fn reserve(&mut self) -> Option<PortSlot> {
        let free = (0..PORTS).map(PortSlot::new).find(|slot| !self.used.contains(slot))?;
        self.used.insert(free);
        Some(free)
    }

    pub fn release(&mut self, slot: PortSlot) {
        self.used.remove(&slot);
    }

    pub fn insert(&mut self, port: Port) {
        self.used.insert(port.slot);
        self.by_number.insert(port.spec.number, port);
    }

    /// Takes a port off the register; its slot stays reserved until [`Ports::retire`].
    pub fn remove(&mut self, number: u32) -> Option<Port> {
        self.by_number.remove(&number)
    }

    /// Frees the slot of a port that is gone and keeps its drops, from the sums before and after the
    /// workers gave up its queues. Workers may or may not forget a slot's counts; both are right here.
    pub fn retire(&mut self, slot: PortSlot, before: &Totals, after: &Totals) {
        for &reason in DropReason::ALL {
            let place = (slot, reason);
            let base = self.drops_before.get(&place).copied().unwrap_or(0);
            let earlier = before.drops.get(&place).copied().unwrap_or(0);
            let later = after.drops.get(&place).copied().unwrap_or(0);
            let lost = if later >= earlier { later.saturating_sub(base) } else { earlier.saturating_sub(base) + later };
            if lost > 0 {
                *self.retired.entry(reason).or_default() += lost;
            }
            self.drops_before.insert(place, later);
        }
        self.drops_before.retain(|_, count| *count > 0);
        match after.packets.get(&slot) {
            Some(counters) => self.packets_before.insert(slot, *counters),
            None => self.packets_before.remove(&slot),
        };
        self.release(slot);
    }

    /// Drops by reason and port number; those of ports that are gone under 0.
    pub fn drops(&self, totals: &Totals) -> BTreeMap<DropReason, BTreeMap<u32, u64>> {
        let numbers: HashMap<PortSlot, u32> = self.iter().map(|port| (port.slot, port.spec.number)).collect();
        let mut drops: BTreeMap<DropReason, BTreeMap<u32, u64>> = BTreeMap::new();
        for (&reason, &frames) in &self.retired {
            *drops.entry(reason).or_default().entry(0).or_default() += frames;
        }
        for (&(slot, reason), &frames) in &totals.drops {
            let frames = frames.saturating_sub(self.drops_before.get(&(slot, reason)).copied().unwrap_or(0));
            if frames > 0 {
                let number = numbers.get(&slot).copied().unwrap_or(0);
                *drops.entry(reason).or_default().entry(number).or_default() += frames;
            }
        }
        drops
    }

    /// What passed a port, and how many frames that came in by it were dropped.
    pub fn counters(&self, slot: PortSlot, totals: &Totals) -> (QueueCounters, u64) {
        let base = self.packets_before.get(&slot).copied().unwrap_or_default();
        let now = totals.packets.get(&slot).copied().unwrap_or_default();
        let counters = QueueCounters {
            received_packets: now.received_packets.saturating_sub(base.received_packets),
            received_bytes: now.received_bytes.saturating_sub(base.received_bytes),
            sent_packets: now.sent_packets.saturating_sub(base.sent_packets),
            sent_bytes: now.sent_bytes.saturating_sub(base.sent_bytes),
        };
        let dropped = totals.drops.iter().filter(|((found, _), _)| *found == slot).map(|(place, frames)| {
            frames.saturating_sub(self.drops_before.get(place).copied().unwrap_or(0))
        });
        (counters, dropped.sum())
    }

    /// The device port that a tunnel runs over.
    pub fn underlay_of(&self, tunnel: &v1::TunnelPort) -> Option<&Port> {
        if tunnel.underlay_port != 0 {
            return self.get(tunnel.underlay_port).filter(|port| port.device.is_some());
        }
        let mut interfaces = self.iter().filter(|port| matches!(port.spec.kind, Some(Kind::AfXdp(_))));
        let only = interfaces.next()?;
        interfaces.next().is_none().then_some(only)
    }

    /// The tunnel's own address: as it was given, or that of the interface it runs over.
    fn local_address(&self, tunnel: &v1::TunnelPort, underlay: &UnderlayState) -> Option<Ipv4Addr> {
        if let Ok(octets) = <[u8; 4]>::try_from(tunnel.local_address.as_slice()) {
            return Some(octets.into());
        }
        underlay.links.get(self.underlay_of(tunnel)?.underlay_interface()?)?.address
    }

    /// Whether a device can send now.
    fn is_up(port: &Port, underlay: &UnderlayState) -> bool {
        port.underlay_interface().and_then(|interface| underlay.links.get(interface)).is_none_or(|link| link.up)
    }

    /// What the walk of a packet must know.
    pub fn topology(&self, underlay: &UnderlayState) -> Topology {
        let mut topology = Topology { paths: underlay.paths.clone(), ..Topology::default() };
        for port in self.iter() {
            let kind = match port.tunnel() {
                None => PortKind::Device { slot: port.slot, up: Self::is_up(port, underlay) },
                Some(tunnel) => {
                    // Checked when the port was added, and kept while it exists.
                    let Some(below) = self.underlay_of(tunnel) else { continue };
                    PortKind::Vxlan {
                        slot: port.slot,
                        local: self.local_address(tunnel, underlay),
                        udp_port: udp_port(tunnel),
                        underlay: below.slot,
                    }
                }
            };
            topology.ports.insert(port.spec.number, PortInfo { name: port.spec.name.as_str().into(), kind });
        }
        topology
    }

    /// Tells each interface of the host which tunnel packets are ours.
    pub fn set_tunnel_filters(&self, underlay: &UnderlayState) {
        let mut ends: BTreeMap<u32, BTreeSet<(Ipv4Addr, u16)>> = BTreeMap::new();
        for tunnel in self.iter().filter_map(Port::tunnel) {
            if let (Some(below), Some(local)) = (self.underlay_of(tunnel), self.local_address(tunnel, underlay)) {
                ends.entry(below.spec.number).or_default().insert((local, udp_port(tunnel)));
            }
        }
        for port in self.iter() {
            let Some(device) = &port.device else { continue };
            let ends = ends.get(&port.spec.number).cloned().unwrap_or_default();
            if let Err(error) = device.filter(&ends) {
                tracing::error!(port = port.spec.name, %error, "the filter for tunnel packets cannot be set");
            }
        }
    }

    /// A port's message.
    pub fn status(&self, port: &Port, underlay: &UnderlayState, totals: &Totals) -> v1::PortStatus {
        let (counters, received_dropped) = self.counters(port.slot, totals);
        let (state, detail) = match port.tunnel() {
            None => {
                let state = if Self::is_up(port, underlay) { "up" } else { "down" };
                (state, port.device.as_ref().map(|device| device.detail.clone()).unwrap_or_default())
            }
            Some(tunnel) => match (self.local_address(tunnel, underlay), self.underlay_of(tunnel)) {
                (Some(local), Some(below)) => {
                    let state = if Self::is_up(below, underlay) { "up" } else { "down" };
                    (state, format!("{local}, UDP port {}, over {}", udp_port(tunnel), below.spec.name))
                }
                _ => ("down", "the underlay has no address yet".to_owned()),
            },
        };
        v1::PortStatus {
            spec: Some(port.spec.clone()),
            interface: port.device.as_ref().map(|device| device.interface.clone()).unwrap_or_default(),
            state: state.to_owned(),
            detail,
            received_packets: counters.received_packets,
            received_bytes: counters.received_bytes,
            sent_packets: counters.sent_packets,
            sent_bytes: counters.sent_bytes,
            received_dropped,
            sent_dropped: 0,
        }
    }
}

fn udp_port(tunnel: &v1::TunnelPort) -> u16 {
    u16::try_from(tunnel.udp_port).ok().filter(|&port| port != 0).unwrap_or(VXLAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(number: u32, slot: PortSlot) -> Port {
        let spec = v1::PortSpec { number, name: format!("port{number}"), ..Default::default() };
        Port { spec, owner: Owner::Manual, slot, device: None, configured: false }
    }

    fn totals(slot: PortSlot, frames: u64) -> Totals {
        Totals { drops: HashMap::from([((slot, DropReason::Spoofed), frames)]), ..Totals::default() }
    }

    fn spoofed(ports: &Ports, totals: &Totals) -> BTreeMap<u32, u64> {
        ports.drops(totals).remove(&DropReason::Spoofed).unwrap_or_default()
    }

    #[test]
    fn drops_of_ports_that_are_gone_stay_under_port_0() {
        for forgets in [false, true] {
            let mut ports = Ports::default();
            let slot = ports.reserve().unwrap();
            ports.insert(port(7, slot));
            assert_eq!(spoofed(&ports, &totals(slot, 5)), BTreeMap::from([(7, 5)]));
            ports.remove(7);
            let after = totals(slot, if forgets { 0 } else { 6 });
            ports.retire(slot, &totals(slot, 5), &after);
            let gone = if forgets { 5 } else { 6 };
            assert_eq!(spoofed(&ports, &after), BTreeMap::from([(0, gone)]));
            // The next port in the slot begins at zero.
            assert_eq!(ports.reserve(), Some(slot));
            ports.insert(port(8, slot));
            let later = totals(slot, after.drops[&(slot, DropReason::Spoofed)] + 2);
            assert_eq!(spoofed(&ports, &later), BTreeMap::from([(0, gone), (8, 2)]));
            assert_eq!(ports.counters(slot, &later).1, 2);
        }
    }

    #[test]
    fn slots_are_reused_only_after_they_were_given_back() {
        let mut ports = Ports::default();
        let all: Vec<PortSlot> = std::iter::from_fn(|| ports.reserve()).collect();
        assert_eq!(all.len(), PORTS);
        ports.release(all[9]);
        assert_eq!((ports.reserve(), ports.reserve()), (Some(all[9]), None));
    }
}
