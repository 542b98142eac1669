//! The objects of the cloud, as they are stored.

use super::{Ipv4Prefix, Mac};
use std::net::Ipv4Addr;
use uuid::Uuid;

/// A tenant: what names are looked up in, and networks belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// Unique in the cloud.
    pub id: Uuid,
    /// Unique in the cloud.
    pub name: String,
}

/// One layer-2 network, isolated from all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Unique in the cloud.
    pub id: Uuid,
    /// Not necessarily unique.
    pub name: String,
    /// The project it belongs to.
    pub project: Uuid,
    /// The VNI: 1 to 2^24 − 1, unique in the cloud.
    pub segment: u32,
    /// Bytes of an IP packet that an instance may send.
    pub mtu: u32,
}

/// A range of addresses of a network, and what DHCP says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Unique in the cloud.
    pub id: Uuid,
    /// Not necessarily unique.
    pub name: String,
    /// That of the network.
    pub project: Uuid,
    /// The network it belongs to.
    pub network: Uuid,
    /// Does not overlap another subnet of the network.
    pub prefix: Ipv4Prefix,
    /// Offered as the router.
    pub gateway: Option<Ipv4Addr>,
    /// The address DHCP is answered from; `None` if it is not.
    pub dhcp: Option<Ipv4Addr>,
    /// Offered in this order.
    pub dns: Vec<Ipv4Addr>,
    /// Offered in this order.
    pub routes: Vec<HostRoute>,
    /// Seconds.
    pub lease_seconds: u32,
    /// Offered; empty: none.
    pub domain: String,
}

impl Subnet {
    /// The MAC that DHCP is answered from, and that ARP gives for its address.
    #[must_use]
    pub fn dhcp_mac(&self) -> Mac {
        Mac::generated(Mac::DHCP, self.id, 0)
    }
}

/// A route that DHCP offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRoute {
    /// Where to.
    pub destination: Ipv4Prefix,
    /// Through which router, an address of the subnet.
    pub next_hop: Ipv4Addr,
}

/// Where an instance meets a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Unique in the cloud.
    pub id: Uuid,
    /// Not necessarily unique.
    pub name: String,
    /// That of the network.
    pub project: Uuid,
    /// The network it belongs to.
    pub network: Uuid,
    /// Unique in the network.
    pub mac: Mac,
    /// At most one of each subnet.
    pub addresses: Vec<FixedAddress>,
    /// In flow tables: 1 to [`super::FIRST_RESERVED_PORT`] − 1, unique in the cloud.
    pub number: u32,
    /// Where it is, if it is anywhere.
    pub plug: Option<Plug>,
}

/// An address of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedAddress {
    /// The subnet it lies in.
    pub subnet: Uuid,
    /// The address.
    pub address: Ipv4Addr,
}

/// The place of a plugged port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plug {
    /// On which host.
    pub host: Uuid,
    /// Its interface's name, never empty.
    pub interface: String,
    /// In which network namespace; empty: the switch's own.
    pub netns: String,
}

/// A machine that runs a switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Unique in the cloud.
    pub id: Uuid,
    /// Unique in the cloud.
    pub name: String,
    /// Where tunnels to it end, as it reported.
    pub underlay: Option<Ipv4Addr>,
    /// The largest packet its underlay carries, as it reported; 0 until then.
    pub underlay_mtu: u32,
    /// Its switch's version, as it reported.
    pub version: String,
}

/// Where to look for the next number. Numbers are not reused before all have had their turn: a host
/// that was away for long must not take one network's packets for another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Of ports.
    pub next_port: u32,
    /// Of segments.
    pub next_segment: u32,
}

impl Default for Counters {
    fn default() -> Self {
        Self { next_port: 1, next_segment: 1000 }
    }
}

/// The kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A [`Project`].
    Project,
    /// A [`Network`].
    Network,
    /// A [`Subnet`].
    Subnet,
    /// A [`Port`].
    Port,
    /// A [`Host`].
    Host,
    /// The one [`Counters`].
    Counters,
}

impl Kind {
    /// All of them, in the order in which they can be loaded: what is referred to comes first.
    pub const ALL: [Self; 6] = [Self::Counters, Self::Project, Self::Host, Self::Network, Self::Subnet, Self::Port];

    /// The word in keys, codes and sentences.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Network => "network",
            Self::Subnet => "subnet",
            Self::Port => "port",
            Self::Host => "host",
            Self::Counters => "counters",
        }
    }
}

/// Any object.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Object {
    Project(Project),
    Network(Network),
    Subnet(Subnet),
    Port(Port),
    Host(Host),
    Counters(Counters),
}

impl Object {
    /// Which kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Project(_) => Kind::Project,
            Self::Network(_) => Kind::Network,
            Self::Subnet(_) => Kind::Subnet,
            Self::Port(_) => Kind::Port,
            Self::Host(_) => Kind::Host,
            Self::Counters(_) => Kind::Counters,
        }
    }

    /// Its id; nil for the counters.
    #[must_use]
    pub fn id(&self) -> Uuid {
        match self {
            Self::Project(project) => project.id,
            Self::Network(network) => network.id,
            Self::Subnet(subnet) => subnet.id,
            Self::Port(port) => port.id,
            Self::Host(host) => host.id,
            Self::Counters(_) => Uuid::nil(),
        }
    }
}

/// One step from a model to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The object is so from now on, whether it existed or not.
    Put(Object),
    /// It is no more.
    Remove(Kind, Uuid),
}

impl Change {
    /// What it is about.
    #[must_use]
    pub fn subject(&self) -> (Kind, Uuid) {
        match self {
            Self::Put(object) => (object.kind(), object.id()),
            Self::Remove(kind, id) => (*kind, *id),
        }
    }
}
