//! Ports: created, removed.

use super::address::parse_address;
use super::external_gateway::not_external;
use super::lookup::{in_use, limit};
use super::{
    By, Change, Counters, FIRST_RESERVED_PORT, Ipv4Prefix, Mac, Model, Network, Object, Planned, Subnet, record,
};
use crate::limits;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use uuid::Uuid;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// Where an instance meets a network; or a router or a floating IP, see [`Port::device`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Unique in the cloud.
    pub id: Uuid,
    /// Unique in the project.
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
    /// Whether it sends only from its own addresses, and its security groups guard it.
    pub port_security: bool,
    /// Its security groups, ascending.
    pub groups: Vec<Uuid>,
    /// From which it may send besides its own addresses.
    pub pairs: Vec<AddressPair>,
    /// Of the cloud's own, which has just one address and is never plugged; `None`: an instance's.
    pub device: Option<Device>,
}

/// Whose a port is that is no instance's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// A router's in a subnet that is joined to it.
    Interface(Uuid),
    /// A router's in an external network.
    Gateway(Uuid),
    /// A floating IP's, whose address it keeps in the external network.
    FloatingIp(Uuid),
}

impl Device {
    /// As Neutron calls it.
    fn owner(self) -> &'static str {
        match self {
            Self::Interface(_) => "network:router_interface",
            Self::Gateway(_) => "network:router_gateway",
            Self::FloatingIp(_) => "network:floatingip",
        }
    }

    /// The router or floating IP.
    fn id(self) -> Uuid {
        match self {
            Self::Interface(id) | Self::Gateway(id) | Self::FloatingIp(id) => id,
        }
    }

    fn from_record(owner: &str, id: Uuid) -> Result<Self, String> {
        let kinds = [Self::Interface(id), Self::Gateway(id), Self::FloatingIp(id)];
        kinds.into_iter().find(|kind| kind.owner() == owner).ok_or_else(|| format!("{owner:?} is not a device's owner"))
    }
}

impl Port {
    /// The router whose interface it is.
    #[must_use]
    pub fn router(&self) -> Option<Uuid> {
        match self.device {
            Some(Device::Interface(router)) => Some(router),
            _ => None,
        }
    }

    /// Of a router's interface: to which other hosts send, on its network, what the router's gateway host is to route.
    #[must_use]
    pub fn central_mac(&self) -> Mac {
        Mac::generated(Mac::CENTRAL, self.id, 0)
    }

    /// Its address, of a port that has just one.
    #[must_use]
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.addresses.first().map(|fixed| fixed.address)
    }

    /// See [`Port::groups`].
    #[must_use]
    pub fn groups(&self) -> &[Uuid] {
        &self.groups
    }

    /// How many members it adds to its groups' address sets.
    #[must_use]
    pub fn members(&self) -> usize {
        self.addresses.len() + self.pairs.len()
    }
}

/// Addresses that a port may send from besides its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressPair {
    /// The addresses.
    pub prefix: Ipv4Prefix,
    /// From which MAC; `None`: the port's.
    pub mac: Option<Mac>,
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
    /// Its interface's name, never empty; or its socket's path, empty if the switch chooses.
    pub interface: String,
    /// In which network namespace; empty: the switch's own.
    pub netns: String,
    /// The host's underlay address that was asked for.
    pub underlay: Option<Ipv4Addr>,
    /// Into a virtual machine, by a socket, in place of a namespace.
    pub vhost_user: bool,
}

impl Plug {
    /// What it makes on the host.
    pub(super) fn word(&self) -> &'static str {
        if self.vhost_user { "socket" } else { "interface" }
    }

    /// By what a host tells plugs apart. Interfaces' names have no slash.
    pub(super) fn place(&self, number: u32) -> (Uuid, String, String) {
        let interface = if self.interface.is_empty() { format!("/{number}") } else { self.interface.clone() };
        (self.host, self.netns.clone(), interface)
    }
}

/// By what ports are found.
#[derive(Clone, Debug, Default)]
pub struct PortIndex {
    pub(super) of_network: By<Uuid>,
    pub(super) of_host: By<Uuid>,
    /// Plugged ports, by network and host.
    pub(super) plugged: By<(Uuid, Uuid)>,
    /// By subnet and address.
    pub(super) of_address: By<(Uuid, Ipv4Addr)>,
    /// By network and MAC.
    pub(super) of_mac: By<(Uuid, Mac)>,
    pub(super) of_number: By<u32>,
    /// By host, network namespace and name of the interface.
    pub(super) of_interface: By<(Uuid, String, String)>,
    pub(super) of_group: By<Uuid>,
    /// Routers' interfaces, by router.
    pub(super) of_router: By<Uuid>,
    /// Routers' interfaces, by network.
    pub(super) routing: By<Uuid>,
    /// Routers' ports in external networks, by router.
    pub(super) of_gateway: By<Uuid>,
    /// Plugged ports, by security group and host.
    pub(super) plugged_of_group: By<(Uuid, Uuid)>,
}

impl Object for Port {
    const WORD: &'static str = "port";
    const MOST: usize = limits::PORTS;
    type Record = v1::Port;
    type Index = PortIndex;

    fn id(&self) -> Uuid {
        self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn project(&self) -> Uuid {
        self.project
    }

    fn record(&self) -> v1::Port {
        let fixed = |fixed: &FixedAddress| v1::FixedIp {
            subnet_id: fixed.subnet.to_string(),
            ip_address: fixed.address.to_string(),
        };
        let pair = |pair: &AddressPair| v1::AddressPair {
            ip_address: pair.prefix.to_string(),
            mac_address: record::text(pair.mac),
        };
        let plug = self.plug.as_ref();
        v1::Port {
            id: self.id.to_string(),
            name: self.name.clone(),
            project_id: self.project.to_string(),
            network_id: self.network.to_string(),
            mac_address: self.mac.to_string(),
            fixed_ips: self.addresses.iter().map(fixed).collect(),
            number: self.number,
            host_id: record::text(plug.map(|plug| plug.host)),
            interface: record::text(plug.map(|plug| &plug.interface)),
            netns: record::text(plug.map(|plug| &plug.netns)),
            underlay_address: record::text(plug.and_then(|plug| plug.underlay)),
            port_security_enabled: self.port_security,
            security_groups: self.groups.iter().map(ToString::to_string).collect(),
            allowed_address_pairs: self.pairs.iter().map(pair).collect(),
            device_owner: self.device.map_or("", Device::owner).to_owned(),
            device_id: record::text(self.device.map(Device::id)),
            vhost_user: plug.is_some_and(|plug| plug.vhost_user),
            ..v1::Port::default()
        }
    }

    fn from_record(record: v1::Port) -> Result<Self, String> {
        let fixed = |fixed: &v1::FixedIp| {
            let subnet = record::uuid(&fixed.subnet_id)?;
            Ok(FixedAddress { subnet, address: record::address(&fixed.ip_address)? })
        };
        let pair = |pair: &v1::AddressPair| {
            let mac = record::optional(&pair.mac_address, |text| record::parsed(text, "a MAC"))?;
            Ok(AddressPair { prefix: record::prefix(&pair.ip_address)?, mac })
        };
        let host = record::optional(&record.host_id, record::uuid)?;
        let underlay = record::optional(&record.underlay_address, record::address)?;
        Ok(Self {
            id: record::uuid(&record.id)?,
            name: record.name,
            project: record::uuid(&record.project_id)?,
            network: record::uuid(&record.network_id)?,
            mac: record::parsed(&record.mac_address, "a MAC")?,
            addresses: record::all(&record.fixed_ips, fixed)?,
            number: record.number,
            plug: host.map(|host| Plug {
                host,
                interface: record.interface,
                netns: record.netns,
                vhost_user: record.vhost_user,
                underlay,
            }),
            port_security: record.port_security_enabled,
            groups: record::all(&record.security_groups, |text| record::uuid(text))?,
            pairs: record::all(&record.allowed_address_pairs, pair)?,
            device: record::optional(&record.device_id, record::uuid)?
                .map(|id| Device::from_record(&record.device_owner, id))
                .transpose()?,
        })
    }

    fn index(&self, index: &mut PortIndex, present: bool) {
        index.of_network.set(self.network, self.id, present);
        index.of_mac.set((self.network, self.mac), self.id, present);
        index.of_number.set(self.number, self.id, present);
        for fixed in &self.addresses {
            index.of_address.set((fixed.subnet, fixed.address), self.id, present);
        }
        match self.device {
            Some(Device::Interface(router)) => {
                index.of_router.set(router, self.id, present);
                index.routing.set(self.network, self.id, present);
            }
            Some(Device::Gateway(router)) => index.of_gateway.set(router, self.id, present),
            Some(Device::FloatingIp(_)) | None => {}
        }
        for &group in &self.groups {
            index.of_group.set(group, self.id, present);
            if let Some(plug) = &self.plug {
                index.plugged_of_group.set((group, plug.host), self.id, present);
            }
        }
        if let Some(plug) = &self.plug {
            index.of_host.set(plug.host, self.id, present);
            index.plugged.set((self.network, plug.host), self.id, present);
            index.of_interface.set(plug.place(self.number), self.id, present);
        }
    }

    /// The hosts that send to the network, unless the port is nowhere: then it is in no table, but for a router's,
    /// which is everywhere. And the hosts that hold the address sets of its groups, wherever it is. Whom a port of
    /// the cloud's own in an external network touches, the router or floating IP says.
    fn touches(&self, model: &Model) -> BTreeSet<Uuid> {
        match self.device {
            Some(Device::Gateway(router)) => return model.hosts_of_router(router),
            Some(Device::FloatingIp(floating)) => {
                return model.floating_ips.get(floating).map_or_else(BTreeSet::new, |floating| floating.touches(model));
            }
            Some(Device::Interface(_)) | None => {}
        }
        let present = self.plug.is_some() || self.device.is_some();
        let network = present.then(|| model.hosts_reaching(self.network));
        let sets = self.groups.iter().flat_map(|&group| model.hosts_that_name_group(group));
        network.into_iter().flatten().chain(sets).collect()
    }
}

impl Model {
    /// The network's ports, plugged or not, by id.
    pub fn ports_of(&self, network: Uuid) -> impl Iterator<Item = &Port> {
        self.ports.among(self.ports.index.of_network.of(network))
    }

    /// The ports plugged on a host, by id.
    pub fn ports_on(&self, host: Uuid) -> impl Iterator<Item = &Port> {
        self.ports.among(self.ports.index.of_host.of(host))
    }

    /// The network's ports that are plugged on a host, by id.
    pub fn ports_plugged(&self, network: Uuid, host: Uuid) -> impl Iterator<Item = &Port> {
        self.ports.among(self.ports.index.plugged.of((network, host)))
    }

    /// The hosts on which the network has plugged ports, by id.
    pub fn hosts_of(&self, network: Uuid) -> impl Iterator<Item = Uuid> {
        self.ports.index.plugged.keys((network, Uuid::nil())..=(network, Uuid::max())).map(|(_, host)| *host)
    }

    /// The port that has an address of a subnet.
    #[must_use]
    pub fn port_with(&self, subnet: Uuid, address: Ipv4Addr) -> Option<&Port> {
        self.ports.index.of_address.one((subnet, address)).and_then(|port| self.ports.get(port))
    }

    /// The port that has a MAC address in a network.
    #[must_use]
    pub fn port_of_mac(&self, network: Uuid, mac: Mac) -> Option<&Port> {
        self.ports.index.of_mac.one((network, mac)).and_then(|port| self.ports.get(port))
    }

    /// Plans a port: its MAC is free in the network, its addresses lie in subnets of it and are free.
    pub fn create_port(&self, request: &v1::CreatePortRequest, id: Uuid) -> Planned<Port> {
        let network: &Network = self.find(&request.network, &request.project, "network")?;
        self.admit::<Port>(network.project, &request.name)?;
        not_external(network, "network")?;
        if self.ports_of(network.id).count() >= limits::PORTS_PER_NETWORK {
            return Err(limit("ports in the network", limits::PORTS_PER_NETWORK, "Make another network."));
        }
        let mac = self.choose_mac(&request.mac_address, network.id, id)?;
        let addresses = self.choose_addresses(&request.fixed_ips, network)?;
        let guard = self.choose_guard(request, network.project)?;
        let number = self.choose_number();
        let counters = Counters { next_port: number + 1, ..self.next() };
        let port = Port {
            id,
            name: request.name.clone(),
            project: network.project,
            network: network.id,
            mac,
            addresses,
            number,
            plug: None,
            port_security: guard.port_security,
            groups: guard.groups,
            pairs: guard.pairs,
            device: None,
        };
        self.check_guard(None, &port)?;
        let changes = vec![Change::put(port.clone()), Change::put(counters)];
        Ok((changes, port))
    }

    pub(super) fn choose_number(&self) -> u32 {
        let last = FIRST_RESERVED_PORT - 1;
        let next = self.next().next_port;
        let start = if next > last { 1 } else { next.max(1) };
        let taken = &self.ports.index.of_number;
        let free = (start..=last).chain(1..start).find(|&number| taken.one(number).is_none());
        // There are fewer ports than numbers (limits::PORTS).
        free.unwrap_or(last)
    }

    pub(super) fn mac_taken(&self, network: Uuid, mac: Mac) -> bool {
        self.ports.index.of_mac.one((network, mac)).is_some()
            || self.subnets_of(network).any(|subnet| subnet.dhcp_mac() == mac)
            || self.ports.among(self.ports.index.routing.of(network)).any(|port| port.central_mac() == mac)
    }

    pub(super) fn choose_mac(&self, asked: &str, network: Uuid, id: Uuid) -> Result<Mac, Fault> {
        if asked.is_empty() {
            let mut candidates = (0..64).map(|attempt| Mac::generated(Mac::PORTS, id, attempt));
            return candidates.find(|&mac| !self.mac_taken(network, mac)).ok_or_else(|| {
                Fault::invalid("duplicate_mac", "mac_address", "no free MAC was found", "Give one.")
                    .with_status(tonic::Code::ResourceExhausted)
            });
        }
        let mac = Mac::parse(asked, "mac_address")?;
        if self.mac_taken(network, mac) {
            return Err(Fault::invalid(
                "duplicate_mac",
                "mac_address",
                format!("{mac} is taken in network {:?}", self.networks[network].name),
                "Give another, or none to have one chosen.",
            )
            .with_status(tonic::Code::AlreadyExists));
        }
        Ok(mac)
    }

    fn choose_addresses(&self, asked: &[v1::FixedIp], network: &Network) -> Result<Vec<FixedAddress>, Fault> {
        if asked.len() > limits::ADDRESSES_PER_PORT {
            let problem = format!("{} addresses are too many", asked.len());
            let remedy = format!("Give at most {}.", limits::ADDRESSES_PER_PORT);
            return Err(Fault::invalid("too_many", "fixed_ips", problem, remedy));
        }
        if asked.is_empty() {
            // By range: ids are random, and "the first" must mean the same every time.
            let first = self.subnets_of(network.id).min_by_key(|subnet| subnet.prefix);
            return first
                .map(|subnet| self.free_address(subnet, "fixed_ips").map(|address| vec![address]))
                .unwrap_or(Ok(Vec::new()));
        }
        let mut chosen: Vec<FixedAddress> = Vec::new();
        for (index, entry) in asked.iter().enumerate() {
            let place = format!("fixed_ips[{index}]");
            let fixed = self.choose_address(entry, network, &place)?;
            if chosen.iter().any(|other| other.subnet == fixed.subnet) {
                return Err(Fault::invalid(
                    "duplicate_subnet",
                    place,
                    format!("the port would have two addresses of subnet {:?}", self.subnets[fixed.subnet].name),
                    "Give at most one address of each subnet.",
                ));
            }
            chosen.push(fixed);
        }
        Ok(chosen)
    }

    fn choose_address(&self, entry: &v1::FixedIp, network: &Network, place: &str) -> Result<FixedAddress, Fault> {
        let subnet_field = format!("{place}.subnet_id");
        let address_field = format!("{place}.ip_address");
        let subnet = if entry.subnet_id.is_empty() {
            None
        } else {
            Some(self.find::<Subnet>(&entry.subnet_id, &network.project.to_string(), &subnet_field)?)
        };
        if let Some(subnet) = subnet.filter(|subnet| subnet.network != network.id) {
            return Err(Fault::invalid(
                "subnet_of_other_network",
                subnet_field,
                format!("subnet {:?} does not belong to network {:?}", subnet.name, network.name),
                format!("Choose one that `weft subnet list --network {}` shows.", network.name),
            ));
        }
        if entry.ip_address.is_empty() {
            let subnet = subnet.ok_or_else(|| {
                Fault::invalid("bad_address", place, "the entry is empty", "Give a subnet, an address, or both.")
            })?;
            return self.free_address(subnet, &subnet_field);
        }
        let address = parse_address(&entry.ip_address, &address_field)?;
        let inside = |subnet: &&Subnet| subnet.prefix.is_host(address);
        let Some(subnet) = subnet.or_else(|| self.subnets_of(network.id).find(inside)).filter(inside) else {
            let ranges: Vec<String> = match subnet {
                Some(subnet) => vec![subnet.prefix.to_string()],
                None => self.subnets_of(network.id).map(|subnet| subnet.prefix.to_string()).collect(),
            };
            return Err(Fault::invalid(
                "address_outside_subnet",
                address_field,
                format!("{address} is not a host's address of network {:?}", network.name),
                if ranges.is_empty() {
                    "The network has no subnet: create one first.".to_owned()
                } else {
                    format!("Give an address inside {}, other than its first and last.", ranges.join(" or "))
                },
            ));
        };
        if let Some(owner) = self.address_owner(subnet, address) {
            return Err(Fault::invalid(
                "address_taken",
                address_field,
                format!("{address} belongs to {owner}"),
                "Give another, or none to have one chosen.",
            )
            .with_status(tonic::Code::AlreadyExists));
        }
        Ok(FixedAddress { subnet: subnet.id, address })
    }

    /// Who has the address; a gateway's may be given to the port that is the gateway.
    pub(super) fn address_owner(&self, subnet: &Subnet, address: Ipv4Addr) -> Option<String> {
        if subnet.dhcp == Some(address) {
            return Some(format!("DHCP of subnet {:?}", subnet.name));
        }
        let port = self.port_with(subnet.id, address)?;
        Some(match port.device {
            Some(Device::Interface(router) | Device::Gateway(router)) => {
                format!("router {:?}", self.routers[router].name)
            }
            Some(Device::FloatingIp(_)) => "a floating IP".to_owned(),
            None => format!("port {:?}", port.name),
        })
    }

    /// The first free address of the subnet's pools; not its gateway's.
    pub(super) fn free_address(&self, subnet: &Subnet, field: &str) -> Result<FixedAddress, Fault> {
        let free =
            |address: &Ipv4Addr| subnet.gateway != Some(*address) && self.address_owner(subnet, *address).is_none();
        let address = subnet.offered().find(free).ok_or_else(|| {
            Fault::invalid(
                "no_free_address",
                field,
                format!("subnet {:?} ({}) has no free address", subnet.name, subnet.prefix),
                "Remove ports, gateways and floating IPs that are not used, or create another subnet.",
            )
            .with_status(tonic::Code::ResourceExhausted)
        })?;
        Ok(FixedAddress { subnet: subnet.id, address })
    }

    /// Plans its removal. It must not be plugged.
    pub fn delete_port(&self, named: &str, project: &str) -> Planned<Port> {
        let port: &Port = self.find(named, project, "port")?;
        self.not_of_device(port)?;
        if let Some(floating) = self.floating_ips_of(port.id).next() {
            let remedy = format!("Take it off first: `weft floating-ip unset {}`.", floating.address);
            return Err(in_use(port, "port", &format!("has floating IP {}", floating.address), remedy));
        }
        if let Some(plug) = &port.plug {
            let by = format!("is plugged on host {:?}", self.hosts[plug.host].name);
            let remedy = format!("Unplug it first: `weft port unplug {}`.", port.name);
            return Err(in_use(port, "port", &by, remedy));
        }
        Ok((vec![Change::remove(port)], port.clone()))
    }
}
