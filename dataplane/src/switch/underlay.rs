//! What the kernel knows of the underlay, as the switch uses it: the addresses of its own interfaces
//! and the ways to remote tunnel ends. Whoever watches the kernel calls [`Switch::set_underlay`] with
//! each change; the switch tells it by [`Resolve::want`] which tunnel ends rules send to.

use super::Switch;
use crate::flow::tables::Change;
use crate::underlay::{Interface, NextHop, Underlay};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio::sync::watch;
use weft_proto::UNDERLAY_ADDRESSES;
use weft_proto::v1;

/// What the kernel says now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UnderlayState {
    /// The host's interfaces.
    pub interfaces: Arc<Vec<Interface>>,
    /// The ways to the tunnel ends that are wanted.
    pub next_hops: Arc<Vec<NextHop>>,
}

impl UnderlayState {
    pub(super) fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.name == name)
    }

    /// Whether it is an address of the host itself.
    pub(super) fn owns(&self, address: Ipv4Addr) -> bool {
        self.owner(address).is_some()
    }

    fn owner(&self, address: Ipv4Addr) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.addresses.contains(&address))
    }
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
        let interfaces_changed = state.underlay.interfaces != underlay.interfaces;
        state.underlay = underlay;
        let topology = state.ports.topology(&state.underlay);
        let ways_changed = *self.tables.topology() != topology;
        if ways_changed {
            let change = Change { topology: Some(topology), ..Change::default() };
            if let Err(fault) = self.tables.commit(change) {
                tracing::error!(%fault, "the underlay's change was refused");
            }
        }
        if interfaces_changed {
            state.ports.set_tunnel_filters(&state.underlay);
        }
        drop(state);
        // A neighbour that is merely probed again is no news.
        if interfaces_changed || ways_changed {
            self.changed();
        }
    }

    /// The addresses of the settings that tunnels end at, instead of the first one of each interface of the underlay.
    /// Before the underlay is opened.
    pub fn set_underlay_addresses(&self, addresses: Vec<Ipv4Addr>) {
        self.state().ports.underlay_addresses = addresses;
    }

    /// Where tunnels to this host end: what the agent tells the controller. An address of another interface than the
    /// underlay's own (a loopback's) has the smallest of their MTUs, and is up while one of them is.
    #[must_use]
    pub fn underlay_addresses(&self) -> Vec<v1::UnderlayAddress> {
        let state = self.state();
        let ours: Vec<&Interface> = state.ports.underlay_interfaces(&state.underlay).collect();
        let up = |interface: &Interface| interface.up && interface.carrier;
        let told = state.ports.underlay_locals(&state.underlay).into_iter().take(UNDERLAY_ADDRESSES).map(|address| {
            let own = ours.iter().find(|interface| interface.addresses.contains(&address));
            let owner = own.copied().or_else(|| state.underlay.owner(address));
            v1::UnderlayAddress {
                address: address.to_string(),
                interface: owner.map(|interface| interface.name.clone()).unwrap_or_default(),
                mtu: own.map_or_else(|| ours.iter().map(|one| one.mtu).min(), |own| Some(own.mtu)).unwrap_or(0),
                down: !own.map_or_else(|| ours.iter().any(|one| up(one)), |own| up(own)),
            }
        });
        told.collect()
    }

    /// The physical networks of the settings, by name, as the agent tells the controller.
    #[must_use]
    pub fn physical_networks(&self) -> Vec<v1::PhysicalNetwork> {
        let state = self.state();
        let mtu = |interface: &str| state.underlay.interface(interface).map_or(0, |interface| interface.mtu);
        let networks = self.physical.iter().map(|(name, place)| v1::PhysicalNetwork {
            name: name.clone(),
            interface: place.interface.clone(),
            mtu: mtu(&place.interface),
            shared: place.shared,
        });
        networks.collect()
    }

    /// `ListNeighbours`.
    #[must_use]
    pub fn neighbours(&self) -> v1::ListNeighboursReply {
        let state = self.state();
        let neighbours = state.underlay.next_hops.iter().map(|hop| v1::NeighbourState {
            address: hop.remote.octets().to_vec(),
            next_hop: if hop.interface_index == 0 { Vec::new() } else { hop.next_hop.octets().to_vec() },
            mac: hop.mac.map(|mac| mac.to_vec()).unwrap_or_default(),
            interface: hop.interface.clone(),
            state: hop.state.to_owned(),
            ..Default::default()
        });
        let topology = self.tables.topology();
        let own = self.tables.read().neighbours.list();
        let own = own.into_iter().map(|listed| v1::NeighbourState {
            address: listed.hop.address.octets().to_vec(),
            next_hop: listed.hop.address.octets().to_vec(),
            mac: listed.mac.map_or(Vec::new(), |mac| mac.to_vec()),
            interface: topology.ports.get(&listed.hop.port).map_or(String::new(), |info| info.name.to_string()),
            state: listed.state.to_owned(),
            port: listed.hop.port,
            vlan: listed.hop.vlan.into(),
        });
        v1::ListNeighboursReply { neighbours: neighbours.chain(own).collect() }
    }
}

/// Carries what the kernel says to the switch, until the watcher ends.
pub async fn follow_underlay(
    switch: Arc<Switch>,
    mut interfaces: watch::Receiver<Arc<Vec<Interface>>>,
    mut next_hops: watch::Receiver<Arc<Vec<NextHop>>>,
) {
    loop {
        let underlay = UnderlayState {
            interfaces: interfaces.borrow_and_update().clone(),
            next_hops: next_hops.borrow_and_update().clone(),
        };
        let taken = switch.clone();
        if tokio::task::spawn_blocking(move || taken.set_underlay(underlay)).await.is_err() {
            return;
        }
        let changed = tokio::select! {
            changed = interfaces.changed() => changed,
            changed = next_hops.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

impl Resolve for Arc<Underlay> {
    fn want(&self, destinations: &BTreeSet<Ipv4Addr>) {
        Underlay::want(self, destinations.clone());
    }
}
