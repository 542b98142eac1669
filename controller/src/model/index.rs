//! The model itself: the objects, and the indexes by which they are found without a search.

use super::{Change, Counters, Host, Kind, Mac, Network, Object, Port, Project, Subnet};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use uuid::Uuid;

/// All objects of the cloud. Changed by [`Model::apply`] alone.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub(super) projects: BTreeMap<Uuid, Project>,
    pub(super) networks: BTreeMap<Uuid, Network>,
    pub(super) subnets: BTreeMap<Uuid, Subnet>,
    pub(super) ports: BTreeMap<Uuid, Port>,
    pub(super) hosts: BTreeMap<Uuid, Host>,
    pub(super) counters: Counters,

    /// By kind, project (nil where names are unique in the cloud) and name.
    pub(super) names: BTreeMap<(Kind, Uuid, String), BTreeSet<Uuid>>,
    pub(super) networks_of_project: BTreeMap<Uuid, BTreeSet<Uuid>>,
    pub(super) network_of_segment: BTreeMap<u32, Uuid>,
    pub(super) subnets_of_network: BTreeMap<Uuid, BTreeSet<Uuid>>,
    pub(super) ports_of_network: BTreeMap<Uuid, BTreeSet<Uuid>>,
    pub(super) ports_of_host: BTreeMap<Uuid, BTreeSet<Uuid>>,
    /// Plugged ports, by network and host.
    pub(super) plugged: BTreeMap<Uuid, BTreeMap<Uuid, BTreeSet<Uuid>>>,
    pub(super) port_of_address: BTreeMap<(Uuid, Ipv4Addr), Uuid>,
    pub(super) port_of_mac: BTreeMap<(Uuid, Mac), Uuid>,
    pub(super) port_of_number: BTreeMap<u32, Uuid>,
    pub(super) port_of_interface: BTreeMap<(Uuid, String, String), Uuid>,
}

fn insert<Key: Ord>(index: &mut BTreeMap<Key, BTreeSet<Uuid>>, key: Key, id: Uuid) {
    index.entry(key).or_default().insert(id);
}

fn remove<Key: Ord>(index: &mut BTreeMap<Key, BTreeSet<Uuid>>, key: &Key, id: Uuid) {
    if let Some(ids) = index.get_mut(key) {
        ids.remove(&id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}

impl Model {
    /// Makes a change true. The planners have checked it; it cannot fail.
    pub fn apply(&mut self, change: &Change) {
        let (kind, id) = change.subject();
        self.forget(kind, id);
        match change {
            Change::Put(object) => self.learn(object.clone()),
            Change::Remove(..) => {}
        }
    }

    fn forget(&mut self, kind: Kind, id: Uuid) {
        match kind {
            Kind::Counters => {}
            Kind::Project => {
                if let Some(project) = self.projects.remove(&id) {
                    remove(&mut self.names, &(kind, Uuid::nil(), project.name), id);
                }
            }
            Kind::Host => {
                if let Some(host) = self.hosts.remove(&id) {
                    remove(&mut self.names, &(kind, Uuid::nil(), host.name), id);
                }
            }
            Kind::Network => {
                if let Some(network) = self.networks.remove(&id) {
                    remove(&mut self.names, &(kind, network.project, network.name), id);
                    remove(&mut self.networks_of_project, &network.project, id);
                    self.network_of_segment.remove(&network.segment);
                }
            }
            Kind::Subnet => {
                if let Some(subnet) = self.subnets.remove(&id) {
                    remove(&mut self.names, &(kind, subnet.project, subnet.name), id);
                    remove(&mut self.subnets_of_network, &subnet.network, id);
                }
            }
            Kind::Port => {
                if let Some(port) = self.ports.remove(&id) {
                    self.forget_port(&port);
                }
            }
        }
    }

    fn forget_port(&mut self, port: &Port) {
        remove(&mut self.names, &(Kind::Port, port.project, port.name.clone()), port.id);
        remove(&mut self.ports_of_network, &port.network, port.id);
        self.port_of_mac.remove(&(port.network, port.mac));
        self.port_of_number.remove(&port.number);
        for fixed in &port.addresses {
            self.port_of_address.remove(&(fixed.subnet, fixed.address));
        }
        let Some(plug) = &port.plug else { return };
        remove(&mut self.ports_of_host, &plug.host, port.id);
        self.port_of_interface.remove(&(plug.host, plug.netns.clone(), plug.interface.clone()));
        if let Some(hosts) = self.plugged.get_mut(&port.network) {
            remove(hosts, &plug.host, port.id);
            if hosts.is_empty() {
                self.plugged.remove(&port.network);
            }
        }
    }

    fn learn(&mut self, object: Object) {
        let kind = object.kind();
        match object {
            Object::Counters(counters) => self.counters = counters,
            Object::Project(project) => {
                insert(&mut self.names, (kind, Uuid::nil(), project.name.clone()), project.id);
                self.projects.insert(project.id, project);
            }
            Object::Host(host) => {
                insert(&mut self.names, (kind, Uuid::nil(), host.name.clone()), host.id);
                self.hosts.insert(host.id, host);
            }
            Object::Network(network) => {
                insert(&mut self.names, (kind, network.project, network.name.clone()), network.id);
                insert(&mut self.networks_of_project, network.project, network.id);
                self.network_of_segment.insert(network.segment, network.id);
                self.networks.insert(network.id, network);
            }
            Object::Subnet(subnet) => {
                insert(&mut self.names, (kind, subnet.project, subnet.name.clone()), subnet.id);
                insert(&mut self.subnets_of_network, subnet.network, subnet.id);
                self.subnets.insert(subnet.id, subnet);
            }
            Object::Port(port) => self.learn_port(port),
        }
    }

    fn learn_port(&mut self, port: Port) {
        insert(&mut self.names, (Kind::Port, port.project, port.name.clone()), port.id);
        insert(&mut self.ports_of_network, port.network, port.id);
        self.port_of_mac.insert((port.network, port.mac), port.id);
        self.port_of_number.insert(port.number, port.id);
        for fixed in &port.addresses {
            self.port_of_address.insert((fixed.subnet, fixed.address), port.id);
        }
        if let Some(plug) = &port.plug {
            insert(&mut self.ports_of_host, plug.host, port.id);
            self.port_of_interface.insert((plug.host, plug.netns.clone(), plug.interface.clone()), port.id);
            insert(self.plugged.entry(port.network).or_default(), plug.host, port.id);
        }
        self.ports.insert(port.id, port);
    }

    /// All projects, by id.
    pub fn projects(&self) -> impl Iterator<Item = &Project> {
        self.projects.values()
    }

    /// All networks, by id.
    pub fn networks(&self) -> impl Iterator<Item = &Network> {
        self.networks.values()
    }

    /// All subnets, by id.
    pub fn subnets(&self) -> impl Iterator<Item = &Subnet> {
        self.subnets.values()
    }

    /// All ports, by id.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        self.ports.values()
    }

    /// All hosts, by id.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }

    /// The network of this id.
    #[must_use]
    pub fn network_by_id(&self, id: Uuid) -> Option<&Network> {
        self.networks.get(&id)
    }

    /// The subnet of this id.
    #[must_use]
    pub fn subnet_by_id(&self, id: Uuid) -> Option<&Subnet> {
        self.subnets.get(&id)
    }

    /// The port of this id.
    #[must_use]
    pub fn port_by_id(&self, id: Uuid) -> Option<&Port> {
        self.ports.get(&id)
    }

    /// The port of this number.
    #[must_use]
    pub fn port_by_number(&self, number: u32) -> Option<&Port> {
        self.ports.get(self.port_of_number.get(&number)?)
    }

    /// The host of this id.
    #[must_use]
    pub fn host_by_id(&self, id: Uuid) -> Option<&Host> {
        self.hosts.get(&id)
    }

    /// The network's subnets, by id.
    pub fn subnets_of(&self, network: Uuid) -> impl Iterator<Item = &Subnet> {
        self.subnets_of_network.get(&network).into_iter().flatten().filter_map(|id| self.subnets.get(id))
    }

    /// The network's ports, plugged or not, by id.
    pub fn ports_of(&self, network: Uuid) -> impl Iterator<Item = &Port> {
        self.ports_of_network.get(&network).into_iter().flatten().filter_map(|id| self.ports.get(id))
    }

    /// The ports plugged on a host, by id.
    pub fn ports_on(&self, host: Uuid) -> impl Iterator<Item = &Port> {
        self.ports_of_host.get(&host).into_iter().flatten().filter_map(|id| self.ports.get(id))
    }

    /// The hosts on which the network has plugged ports, with these ports, both by id.
    pub fn plugged_of(&self, network: Uuid) -> impl Iterator<Item = (Uuid, impl Iterator<Item = &Port>)> {
        self.plugged
            .get(&network)
            .into_iter()
            .flatten()
            .map(|(&host, ports)| (host, ports.iter().filter_map(|id| self.ports.get(id))))
    }

    /// The networks that have plugged ports on the host.
    #[must_use]
    pub fn networks_on(&self, host: Uuid) -> BTreeSet<Uuid> {
        self.ports_on(host).map(|port| port.network).collect()
    }
}
